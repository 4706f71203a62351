//! `sluice diff`: what a change of policies or pods opens and closes.
//!
//! Verdicts are compared, not text: of every pair of ends that a changed policy or pod can matter to, on every range of ports
//! that a rule of either version tells apart. What no rule tells apart is asked once ([`crate::reach`]), and halves of flows that
//! no rule tells apart once for all of their pairs ([`halves`]).

mod compare;
mod effect;
mod halves;
mod namespaces;
mod pairs;
mod read;
mod requests;
mod text;

use std::cmp::Reverse;
use std::collections::BTreeSet;

use serde::Serialize;
use sluice_policy::verdict::NamedRule;
use sluice_policy::{Direction, Reason};

use crate::args::{DiffArgs, DiffFormat};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::output::{Form, complain, print};
use crate::progress::Progress;
use crate::reach::ports::PortSet;
use crate::reach::{EndId, Reach};
use compare::{Comparison, Found, NEW, OLD, Said, Turn};
use effect::PolicyChange;

/// What differs between two versions of a cluster.
#[derive(Debug, Serialize)]
pub struct Diff {
    pub opens: usize,
    pub closes: usize,
    /// Requests that come in where others go.
    pub changes: usize,
    /// What opens first, because that is the dangerous part.
    pub differences: Vec<Difference>,
    pub policies: Vec<PolicyChange>,
    /// Workloads that only one version has. Flows from and to them are not compared.
    pub appear: Vec<Arrival>,
    pub vanish: Vec<String>,
    /// What the lists above leave out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub more: Option<More>,
}

/// What there is beyond the lists that are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct More {
    pub opens: Rest,
    pub changes: Rest,
    pub closes: Rest,
    pub policies: usize,
    pub appear: usize,
    pub vanish: usize,
}

/// Differences that are not shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rest {
    pub differences: usize,
    /// Pairs of workloads that they hold for.
    pub pairs: usize,
}

/// Flows from each of `from` to each of `to` that are judged otherwise.
#[derive(Debug, Serialize)]
pub struct Difference {
    /// `opens`, `closes` or `changes`.
    pub change: &'static str,
    pub from: Vec<String>,
    pub to: Vec<String>,
    /// The ports in words: `TCP 80, 443`.
    pub on: String,
    pub ports: PortSet,
    /// Pairs of workloads that it holds for, and of how many. Fewer than all only where namespaces are compared.
    pub pairs: usize,
    pub of: usize,
    /// Where namespaces are compared: the pair that `old` and `new` say who decided of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub example: Option<Example>,
    pub old: Judged,
    pub new: Judged,
    /// Requests that are now allowed, and that no longer are, where both versions read them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<String>,
    #[serde(skip)]
    shown: Shown,
}

/// Two workloads between which there is a difference.
#[derive(Debug, Serialize)]
pub struct Example {
    pub from: String,
    pub to: String,
}

/// The ends as people want to read them: a whole namespace in a few words.
#[derive(Debug, Default)]
struct Shown {
    from: String,
    to: String,
}

/// A verdict, and who is behind those of its halves that differ.
#[derive(Debug, Serialize)]
pub struct Judged {
    pub verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress: Option<Decided>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Decided>,
}

/// Who decided one half.
#[derive(Debug, Serialize)]
pub struct Decided {
    pub verdict: &'static str,
    pub reason: Reason,
    pub by: Vec<NamedRule>,
}

/// A workload that is new.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Arrival {
    pub workload: String,
    /// Who isolates its pods; nobody: it is open in this direction.
    pub ingress_isolated_by: Vec<NamedRule>,
    pub egress_isolated_by: Vec<NamedRule>,
}

/// Compares and prints; returns the exit status.
pub fn run(args: &DiffArgs, settings: &Settings) -> anyhow::Result<u8> {
    let (old, new) = read::versions(args, settings)?;
    old.report(settings);
    new.report_beyond(&old, settings);
    let progress = Progress::on_terminal(settings);
    let most = if args.most == 0 { usize::MAX } else { args.most };
    let diff = Diff::of(&old, &new, most, |done, all| progress.step("workloads compared:", done, all));
    drop(progress);
    if !old.is_whole() || !new.is_whole() {
        complain(settings, "not everything could be read: what is said of it is what the nodes would do with it");
    }
    print(settings, &diff, |paint| {
        Ok(match args.output {
            DiffFormat::Text => Form::Text(diff.to_text(paint)),
            DiffFormat::Markdown => Form::Text(diff.to_markdown()),
            DiffFormat::Json => Form::Json,
            DiffFormat::Yaml => Form::Yaml,
        })
    })?;
    let status = match diff.is_empty() {
        _ if !old.is_whole() || !new.is_whole() => 2,
        true => 0,
        false => 1,
    };
    // The process ends: to take two large clusters apart first is half a second for nothing.
    std::mem::forget((old, new));
    Ok(status)
}

impl Diff {
    /// Compares two versions that [`Cluster::versions`] made. Each list holds the `most` that weigh most, and [`More`] tells of the
    /// rest: of differences, between most pairs of workloads.
    pub fn of(old: &Cluster, new: &Cluster, most: usize, progress: impl Fn(usize, usize) + Sync) -> Self {
        let reach = Reach::of(vec![old, new]);
        let Comparison { found, touching } = compare::compare(&reach, progress);
        let mut more = More::default();
        let mut differences = Vec::new();
        let mut counts = [0; 3];
        let rests = [&mut more.opens, &mut more.changes, &mut more.closes];
        for ((word, rest), count) in ["opens", "changes", "closes"].into_iter().zip(rests).zip(&mut counts) {
            let mut found: Vec<&Found> = found.iter().filter(|found| found.delta.change() == word).collect();
            *count = found.len();
            if found.len() > most {
                found.sort_by_key(|found| (Reverse(found.pairs), &found.from, &found.to, &found.ports));
                let left_out = found.split_off(most);
                *rest = Rest { differences: left_out.len(), pairs: left_out.iter().map(|found| found.pairs).sum() };
                differences.extend(found.into_iter().map(|found| difference(&reach, found)));
                continue;
            }
            let mut all: Vec<Difference> = found.into_iter().map(|found| difference(&reach, found)).collect();
            all.sort_by(|a, b| (&a.from, &a.to).cmp(&(&b.from, &b.to)));
            differences.append(&mut all);
        }
        let mut policies = effect::policies(&reach, &touching);
        if policies.len() > most {
            policies.sort_by_key(|policy| !policy.effect);
        }
        let (mut appear, mut vanish) = arrivals(&reach);
        more.policies = cut(&mut policies, most);
        more.appear = cut(&mut appear, most);
        more.vanish = cut(&mut vanish, most);
        let [opens, changes, closes] = counts;
        let more = (more != More::default()).then_some(more);
        Self { opens, closes, changes, differences, policies, appear, vanish, more }
    }

    /// Whether every flow is judged as before, and every workload is there.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.appear.is_empty() && self.vanish.is_empty()
    }
}

/// Leaves `most` of a list; returns how many are left out.
fn cut<T>(list: &mut Vec<T>, most: usize) -> usize {
    let more = list.len().saturating_sub(most);
    list.truncate(most);
    more
}

fn difference(reach: &Reach<'_>, found: &Found) -> Difference {
    let delta = &found.part.map_or_else(|| found.delta.clone(), |part| namespaces::named(reach, &found.delta, part.example));
    let judged = |version: usize| {
        let pick = |turn: Turn| if version == OLD { turn.0 } else { turn.1 };
        let decided = |turn: Option<Turn>| turn.map(|turn| decided(reach, pick(turn), version));
        Judged {
            verdict: if version == OLD { delta.old } else { delta.new }.as_str(),
            egress: decided(delta.egress),
            ingress: decided(delta.ingress),
        }
    };
    Difference {
        change: delta.change(),
        from: all_ends(reach, &found.from, found),
        to: all_ends(reach, &found.to, found),
        on: found.ports.to_string(),
        ports: found.ports.clone(),
        pairs: found.pairs,
        of: found.part.map_or(found.pairs, |part| part.of),
        example: found.part.map(|part| Example { from: one_end(reach, part.example.0), to: one_end(reach, part.example.1) }),
        old: judged(OLD),
        new: judged(NEW),
        requests: request_changes(found),
        shown: Shown { from: text::ends(reach, &found.from, found), to: text::ends(reach, &found.to, found) },
    }
}

/// Workloads by name, or namespaces where these are compared.
fn all_ends(reach: &Reach<'_>, of: &[EndId], found: &Found) -> Vec<String> {
    match found.part {
        None => ends(reach, of, usize::MAX),
        Some(part) => text::namespaces(reach, of, part.of == found.pairs),
    }
}

fn one_end(reach: &Reach<'_>, end: EndId) -> String {
    ends(reach, &[end], usize::MAX).join(", ")
}

/// Workloads, then what is outside; of many blocks of addresses, `most`.
fn ends(reach: &Reach<'_>, ends: &[EndId], most: usize) -> Vec<String> {
    let classes = reach.classes.all.len();
    let (pods, parts): (Vec<EndId>, Vec<EndId>) = ends.iter().partition(|end| **end < classes);
    let mut names = reach.classes.describe(pods);
    let parts: Vec<usize> = parts.into_iter().map(|end| end - classes).collect();
    if !parts.is_empty() {
        names.push(reach.outside.describe(&parts, most));
    }
    names
}

fn decided(reach: &Reach<'_>, said: Said, version: usize) -> Decided {
    let table = reach.versions[version].table();
    let isolating = |program| {
        let lines = table.lines(program);
        let ids = lines.into_iter().flat_map(|lines| lines.isolated_by.iter());
        ids.filter_map(|id| table.policy(*id)).map(|policy| NamedRule::of_policy(&policy.reference)).collect()
    };
    let by = match (said.rule, said.program) {
        (Some(rule), _) => table.named(rule).into_iter().collect(),
        (None, Some(program)) => isolating(program),
        (None, None) => Vec::new(),
    };
    Decided { verdict: said.decision.as_str(), reason: said.reason, by }
}

fn request_changes(found: &Found) -> Vec<String> {
    let mut changes = BTreeSet::new();
    for (old, new) in found.delta.requests.iter().flatten() {
        let words = [
            ("now allowed", new.allowed.difference(&old.allowed)),
            ("no longer allowed", old.allowed.difference(&new.allowed)),
            ("now denied", new.denied.difference(&old.denied)),
            ("no longer denied", old.denied.difference(&new.denied)),
        ];
        for (word, requests) in words {
            changes.extend(requests.map(|request| format!("{word}: {request}")));
        }
        match (old.others, new.others) {
            (false, true) => drop(changes.insert("now allowed: every other request".to_owned())),
            (true, false) => drop(changes.insert("no longer allowed: every other request".to_owned())),
            _ => {}
        }
    }
    changes.into_iter().collect()
}

fn arrivals(reach: &Reach<'_>) -> (Vec<Arrival>, Vec<String>) {
    let only = |version: usize| {
        let classes = reach.classes.all.iter().enumerate();
        classes.filter(move |(_, class)| class.sides[version].is_some() && class.sides[1 - version].is_none())
    };
    let table = reach.versions[NEW].table();
    let isolated_by = |end: EndId, direction| {
        let lines = reach.program(end, NEW, direction).and_then(|program| table.lines(program));
        let ids = lines.into_iter().flat_map(|lines| lines.isolated_by.iter());
        ids.filter_map(|id| table.policy(*id)).map(|policy| NamedRule::of_policy(&policy.reference)).collect()
    };
    let mut appear = Vec::new();
    for (end, _) in only(NEW) {
        appear.extend(reach.classes.describe([end]).into_iter().map(|workload| Arrival {
            workload,
            ingress_isolated_by: isolated_by(end, Direction::Ingress),
            egress_isolated_by: isolated_by(end, Direction::Egress),
        }));
    }
    (appear, reach.classes.describe(only(OLD).map(|(end, _)| end)))
}
