//! `sluice diff`: what a change of policies or pods opens and closes.
//!
//! Verdicts are compared, not text: of every pair of ends that a changed policy or pod can matter to, on every range of ports
//! that a rule of either version tells apart. What no rule tells apart is asked once ([`crate::reach`]).

mod compare;
mod matters;
mod read;
mod requests;
mod text;

use std::collections::BTreeSet;
use std::io::{self, Write};

use serde::Serialize;
use sluice_policy::verdict::NamedRule;
use sluice_policy::{Direction, Reason};

use crate::args::{DiffArgs, DiffFormat};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::output::{Format, Paint, Progress, complain, write_structured};
use crate::reach::ports::PortSet;
use crate::reach::{EndId, Reach};
use compare::{Comparison, Found, NEW, OLD, Said, Turn};

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
    pub old: Judged,
    pub new: Judged,
    /// Requests that are now allowed, and that no longer are, where both versions read them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requests: Vec<String>,
    #[serde(skip)]
    shown: Shown,
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

/// A policy that says something else than before.
#[derive(Debug, Serialize)]
pub struct PolicyChange {
    pub policy: String,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    /// Whether it judges a pod of a difference. If not, it changes nothing.
    pub effect: bool,
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
    let progress = Progress::on_terminal(settings, "comparing");
    let diff = Diff::of(&old, &new, |done, all| progress.show(done, all));
    progress.clear();
    if !old.is_whole() || !new.is_whole() {
        complain(settings, "not everything could be read: what is said of it is what the nodes would do with it");
    }
    let mut out = io::BufWriter::new(io::stdout().lock());
    match args.output {
        DiffFormat::Text => out.write_all(diff.to_text(Paint::for_terminal(settings, &io::stdout())).as_bytes())?,
        DiffFormat::Markdown => out.write_all(diff.to_markdown().as_bytes())?,
        DiffFormat::Json => write_structured(&mut out, Format::Json, &diff)?,
        DiffFormat::Yaml => write_structured(&mut out, Format::Yaml, &diff)?,
    }
    out.flush()?;
    Ok(match diff.is_empty() {
        _ if !old.is_whole() || !new.is_whole() => 2,
        true => 0,
        false => 1,
    })
}

impl Diff {
    /// Compares two versions that [`Cluster::versions`] made.
    pub fn of(old: &Cluster, new: &Cluster, progress: impl Fn(usize, usize) + Sync) -> Self {
        let reach = Reach::of(vec![old, new]);
        let Comparison { found, touching } = compare::compare(&reach, progress);
        let mut differences: Vec<Difference> = found.iter().map(|found| difference(&reach, found)).collect();
        let rank = |change: &str| ["opens", "changes", "closes"].iter().position(|word| *word == change);
        differences.sort_by(|a, b| (rank(a.change), &a.from, &a.to).cmp(&(rank(b.change), &b.from, &b.to)));
        let count = |word: &str| differences.iter().filter(|d| d.change == word).count();
        let policies = compare::changed_policies(old, new).into_iter().map(|(policy, change)| PolicyChange {
            policy: policy.to_string(),
            change,
            effect: touching.contains(policy),
        });
        let (opens, closes, changes) = (count("opens"), count("closes"), count("changes"));
        let (appear, vanish) = arrivals(&reach);
        Self { opens, closes, changes, policies: policies.collect(), differences, appear, vanish }
    }

    /// Whether every flow is judged as before, and every workload is there.
    pub fn is_empty(&self) -> bool {
        self.differences.is_empty() && self.appear.is_empty() && self.vanish.is_empty()
    }
}

fn difference(reach: &Reach<'_>, found: &Found) -> Difference {
    let delta = &found.delta;
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
        from: ends(reach, &found.from, usize::MAX),
        to: ends(reach, &found.to, usize::MAX),
        on: found.ports.to_string(),
        ports: found.ports.clone(),
        old: judged(OLD),
        new: judged(NEW),
        requests: request_changes(found),
        shown: Shown { from: text::ends(reach, &found.from), to: text::ends(reach, &found.to) },
    }
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
