//! `sluice explain`: one flow in a sentence, and as a walk through tiers, policies and rules.

mod nearest;
mod text;
mod words;

use serde::Serialize;
use sluice_policy::source::{L7, Policy, PolicyRef, Rule, Tier};
use sluice_policy::table::Reads;
use sluice_policy::verdict::{Half, NamedRule};
use sluice_policy::walk::{Miss, Outcome, Step};
use sluice_policy::{Decision, Direction, Explanation, Flow, Reason};

use crate::args::ExplainArgs;
use crate::cluster::{AuditAnswer, By, Cluster, Names};
use crate::config::Settings;
use crate::contents::Contents;
use crate::flow_line::Question;
use crate::output::print;
pub use nearest::Nearest;
pub(crate) use words::destination_port;

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Explained {
    pub sentence: String,
    pub verdict: &'static str,
    pub reason: Reason,
    pub from: Party,
    pub to: Party,
    /// `8080/tcp`
    pub port: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    pub egress: Walk,
    pub ingress: Walk,
    /// What it would be with the Audit policies in force, where that is another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditAnswer>,
}

/// One end of the flow.
#[derive(Debug, Serialize)]
pub struct Party {
    /// `namespace/name`, if it is a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    pub ip: std::net::IpAddr,
}

/// One direction: what decided, and everything that was looked at on the way.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Walk {
    pub verdict: &'static str,
    pub reason: Reason,
    pub by: By,
    /// The policies that isolate the pod in this direction.
    pub isolated_by: Vec<NamedRule>,
    /// Where no rule allows: the one that came nearest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<Nearest>,
    pub steps: Vec<Looked>,
}

/// A rule that was looked at.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Looked {
    pub tier: &'static str,
    pub rule: NamedRule,
    /// What the rule asks for.
    pub asks: String,
    /// `matched`, `missed` or `notReached`.
    pub outcome: &'static str,
    /// Why it did or didn't match.
    pub because: String,
}

/// Explains one flow; returns the exit status.
pub fn run(args: &ExplainArgs, settings: &Settings) -> anyhow::Result<u8> {
    let mut question = Question::from_text(&args.from, &args.to, &args.port, args.http.as_deref())?;
    if let Some(lookup) = &args.dns {
        question.contents = Some(Contents::from_lookup(lookup)?);
    }
    if let Some(contents) = &mut question.contents {
        args.header.iter().try_for_each(|field| contents.add_header(field))?;
    }
    let mut names = match &args.names {
        Some(path) => Names::read(path)?,
        None => Names::default(),
    };
    names.stand_in_for(&question.to);
    let cluster = Cluster::load_for(&args.manifests.paths, &names, args.manifests.time(), &question);
    cluster.report(settings);
    let explained = Explained::of(&cluster, &question, &names)?;
    print(settings, &explained, |paint| Ok(args.output.form(|| explained.to_text(paint))))?;
    Ok(match explained.verdict {
        _ if !cluster.is_whole() => 2,
        "deny" => 1,
        _ => 0,
    })
}

impl Explained {
    /// Asks the engine, and puts its answer in words.
    pub fn of(cluster: &Cluster, question: &Question, names: &Names) -> anyhow::Result<Self> {
        Ok(cluster.asked(question, names, |flow, verdict| {
            let mut explanation = cluster.table().explain(flow);
            // A request that can't be read never reaches the engine: its verdict is the cluster's.
            explanation.verdict = verdict;
            let party = |ip| Party { pod: cluster.pod_at(ip).map(ToString::to_string), ip };
            let walk = |direction| walk(cluster, flow, &explanation, direction);
            let mut explained = Self {
                sentence: String::new(),
                verdict: verdict.decision().as_str(),
                reason: verdict.reason(),
                from: party(flow.source),
                to: party(flow.destination),
                port: words::destination_port(flow.destination_port, flow.protocol, flow.icmp),
                request: question.contents.as_ref().map(ToString::to_string),
                egress: walk(Direction::Egress),
                ingress: walk(Direction::Ingress),
                audit: AuditAnswer::of(cluster.table(), flow, &verdict),
            };
            explained.sentence = explained.to_sentence();
            explained
        })?)
    }

    fn walk(&self, direction: Direction) -> &Walk {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

fn walk(cluster: &Cluster, flow: &Flow<'_>, explanation: &Explanation, direction: Direction) -> Walk {
    let half: &Half = explanation.verdict.half(direction);
    let (by, steps, judged) = match direction {
        Direction::Egress => (&explanation.egress_by, &explanation.egress, flow.source),
        Direction::Ingress => (&explanation.ingress_by, &explanation.ingress, flow.destination),
    };
    let table = cluster.table();
    let program = table.endpoint(judged).and_then(|e| table.programs(e.identity).get(direction));
    let isolated_by = program.and_then(|program| table.lines(program)).map_or(&[][..], |lines| &lines.isolated_by);
    let isolated_by = isolated_by.iter().filter_map(|id| table.policy(*id));
    // Where no program was asked (a pod and itself, the node and its pods), isolation plays no part.
    let asked = !matches!(half.reason, Reason::SamePod | Reason::FromOwnNode | Reason::AddressConflict | Reason::NotOurPod);
    Walk {
        verdict: half.decision.as_str(),
        reason: half.reason,
        by: by.clone().into(),
        isolated_by: isolated_by.filter(|_| asked).map(|policy| NamedRule::of_policy(&policy.reference)).collect(),
        nearest: match half.reason {
            Reason::NoRuleMatched | Reason::NotTheProtocol => nearest::nearest(cluster, flow, steps, direction),
            _ => None,
        },
        steps: of_rules(steps).into_iter().map(|step| looked(cluster, flow, step, half)).collect(),
    }
}

/// Each rule once: where it matched, or else came furthest.
fn of_rules(steps: &[Step]) -> Vec<&Step> {
    let far = |step: &Step| match step.outcome {
        Outcome::NotReached => 0,
        Outcome::Missed(Miss::Peer) => 1,
        Outcome::Missed(Miss::Port) => 2,
        Outcome::Missed(Miss::Request) => 3,
        Outcome::Matched { .. } => 4,
    };
    let is_best = |(place, step): &(usize, &Step)| {
        let others = steps.iter().enumerate().filter(|(other, another)| other != place && another.id == step.id);
        others.into_iter().all(|(other, another)| far(another) < far(step) || (far(another) == far(step) && other > *place))
    };
    steps.iter().enumerate().filter(is_best).map(|(_, step)| step).collect()
}

fn looked(cluster: &Cluster, flow: &Flow<'_>, step: &Step, half: &Half) -> Looked {
    let written = cluster.table().policy(step.id.policy).and_then(|policy| written(cluster, &policy.reference, step));
    let (outcome, because) = match step.outcome {
        Outcome::Matched { item } => {
            ("matched", matched(item, half, &step.reads, written.and_then(|(_, rule)| rule.l7.as_ref())))
        }
        Outcome::Missed(miss) => {
            ("missed", written.map_or_else(String::new, |(policy, rule)| missed(flow, miss, &step.reads, policy, rule)))
        }
        Outcome::NotReached => ("notReached", "it was decided before".to_owned()),
    };
    Looked {
        tier: tier(step.tier),
        rule: step.rule.clone(),
        asks: written.map_or_else(String::new, |(policy, rule)| words::rule(rule, policy)),
        outcome,
        because,
    }
}

/// The rule as its author wrote it: selectors, not the sets that they became.
fn written<'c>(cluster: &'c Cluster, reference: &PolicyRef, step: &Step) -> Option<(&'c Policy, &'c Rule)> {
    let policy = cluster.policy(reference)?;
    let path = step.rule.rule.as_deref()?;
    policy.rules.iter().find(|rule| *rule.path == *path).map(|rule| (policy, rule))
}

fn matched(item: Option<u16>, half: &Half, reads: &Reads, l7: Option<&L7>) -> String {
    match (reads, half.decision) {
        (Reads::NamesAsked(_), Decision::Inspect) => {
            return "the port is that of look-ups; the name that is asked for decides".to_owned();
        }
        (Reads::NamesAsked(_), _) => return "its names may be looked up at the cluster's resolvers".to_owned(),
        (Reads::Name(_), Decision::Inspect) => return "peer and port match; the server name or Host decides".to_owned(),
        (Reads::Name(_), _) => return "peer and port match, and so does the server name or Host".to_owned(),
        _ => {}
    }
    match (item.zip(l7), half.decision) {
        (Some((item, l7)), _) => format!("peer and port match, and the request matches {}", l7.item_path(item)),
        (None, Decision::Deny) if l7.is_some() => "peer and port match, and the contents are not what it can read".to_owned(),
        (None, Decision::Inspect) => "peer and port match; the request decides".to_owned(),
        (None, _) => "peer and port match".to_owned(),
    }
}

fn missed(flow: &Flow<'_>, miss: Miss, reads: &Reads, policy: &Policy, rule: &Rule) -> String {
    match miss {
        Miss::Request if matches!(reads, Reads::NamesAsked(_)) => {
            format!("the name that is asked for is not {}", words::peers(rule, policy))
        }
        Miss::Request if matches!(reads, Reads::Name(_)) => {
            format!("the server name or Host is not {}", words::peers(rule, policy))
        }
        Miss::Peer => format!("the other end is not among {}", words::peers(rule, policy)),
        Miss::Port => {
            let port = words::destination_port(flow.destination_port, flow.protocol, flow.icmp);
            let named = rule.ports.iter().flatten().any(|p| matches!(p, sluice_policy::source::PortMatch::Named { .. }));
            let hint = if named { " there" } else { "" };
            format!("{port} is not {}{hint}", words::ports(rule))
        }
        Miss::Request => {
            let asked = words::requests(rule).unwrap_or_default();
            format!("the request is not {asked}")
        }
    }
}

/// The requests that a rule asks for; `None` if it asks for none.
pub(crate) fn requests_in_words(rule: &Rule) -> Option<String> {
    words::requests(rule)
}

fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Admin { .. } => "admin",
        Tier::Additive => "additive",
        Tier::Baseline { .. } => "baseline",
    }
}
