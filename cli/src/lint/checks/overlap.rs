//! Rules and policies that others make useless.

use std::collections::{BTreeSet, HashSet};

use sluice_policy::Direction;
use sluice_policy::source::{Action, NamedPort, Peer, PortMatch, Rule, Tier};

use crate::lint::catalogue::Code;
use crate::lint::cover;
use crate::lint::finding::{Findings, Severity};
use crate::lint::inventory::ClassId;
use crate::lint::near::nearest;
use crate::lint::scene::{Ruled, Scene, Subject};

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    let mut useless = HashSet::new();
    for subject in scene.subjects() {
        for ruled in subject.rules().filter(|ruled| ruled.rule.peers.as_ref().is_none_or(|peers| !peers.is_empty())) {
            if ruled.rule.l7.is_some() && ruled.rule.action == Action::Allow {
                disarmed(scene, subject, ruled, findings);
            }
            if scene.inventory.given {
                port_names(scene, subject, ruled, findings);
            }
            decided_before(scene, subject, ruled, findings);
        }
        if let Some(others) = adds_nothing(scene, subject, &useless) {
            useless.insert(subject.index);
            let message = format!("everything that it allows and closes, {others} allows and closes as well");
            findings.add(Code::AddsNothing, subject.written, "spec", message, "remove it, or keep it for what is to come");
        }
    }
}

/// A rule with an L7 part, and those without that match the same flows.
fn disarmed(scene: &Scene, subject: Subject<'_>, ruled: Ruled<'_>, findings: &mut Findings) {
    let of_class = |class: &ClassId| scene.policies_about(*class).map(|other| other.index);
    let others: BTreeSet<usize> = subject.members.iter().flat_map(of_class).collect();
    for other in others.into_iter().map(|index| scene.subject(index)) {
        if matches!(other.written.policy.tier, Tier::Baseline { .. }) {
            continue;
        }
        let plain = other.allows(ruled.rule.direction).filter(|other| other.rule.l7.is_none());
        let Some(plain) = plain.into_iter().find(|plain| meet(scene, subject, ruled.rule, plain.rule)) else { continue };
        let whole = cover::rule(plain.rule, ruled.rule, &scene.inventory)
            && cover::pods(&other.written.policy.subject, &subject.written.policy.subject, &scene.inventory);
        let (severity, how_far) = if whole { (Severity::Warning, "all") } else { (Severity::Info, "some") };
        let message = format!(
            "{how_far} of what this rule would judge, {} {} allows without reading a request",
            other.written.policy.reference, plain.rule.path
        );
        let fix = format!("take {} away from {}, or narrow its peers or ports", plain.rule.path, other.written.policy.reference);
        let field = format!("{}.{}", ruled.path(), l7_field(subject, ruled));
        findings.add_as(Code::L4DisarmsL7, severity, subject.written, &field, message, fix);
    }
}

/// The name of the rule's L7 part.
fn l7_field(subject: Subject<'_>, ruled: Ruled<'_>) -> &'static str {
    let raw = subject.raw(ruled);
    ["http", "grpc", "tls", "dns"].into_iter().find(|field| raw.is_some_and(|raw| raw.get(field).is_some())).unwrap_or("http")
}

/// Whether two rules of one direction have a flow of the subject's pods in common.
fn meet(scene: &Scene, subject: Subject<'_>, one: &Rule, other: &Rule) -> bool {
    let resolves = |name: &str, first: u16, last: u16| {
        let is_it = |port: &NamedPort| *port.name == *name && (first..=last).contains(&port.port);
        let targets = targets(scene, subject, one).filter(|_| scene.inventory.given);
        targets.is_none_or(|ids| ids.iter().any(|id| scene.inventory.class(*id).ports.iter().any(is_it)))
    };
    let ports_meet = |one: &PortMatch, other: &PortMatch| {
        use PortMatch::{Named, Range};
        cover::ports_meet(one, other)
            && match (one, other) {
                (Named { name, .. }, Range { first, last, .. }) | (Range { first, last, .. }, Named { name, .. }) => {
                    resolves(name, *first, *last)
                }
                _ => true,
            }
    };
    let ports = match (&one.ports, &other.ports) {
        (Some(one), Some(other)) => one.iter().any(|port| other.iter().any(|other| ports_meet(port, other))),
        (Some(some), None) | (None, Some(some)) => !some.is_empty(),
        (None, None) => true,
    };
    let peers = match (&one.peers, &other.peers) {
        (Some(one), Some(other)) => one.iter().any(|peer| other.iter().any(|other| peers_meet(scene, peer, other))),
        (Some(some), None) | (None, Some(some)) => !some.is_empty(),
        (None, None) => true,
    };
    ports && peers
}

/// Whether somebody of today is both.
fn peers_meet(scene: &Scene, one: &Peer, other: &Peer) -> bool {
    match (one, other) {
        (Peer::Pods(_), Peer::Pods(_)) => {
            let (Some(one), Some(other)) = (scene.members(one), scene.members(other)) else { return false };
            one.iter().any(|class| other.binary_search(class).is_ok())
        }
        (pods @ Peer::Pods(_), Peer::Block { cidr, except }) | (Peer::Block { cidr, except }, pods @ Peer::Pods(_)) => {
            let holds = |ip: &std::net::IpAddr| cidr.contains(ip) && !except.iter().any(|hole| hole.contains(ip));
            let ips = |class: &ClassId| scene.inventory.class(*class).ips.iter();
            scene.members(pods).is_some_and(|members| members.iter().flat_map(ips).any(holds))
        }
        (Peer::Block { cidr, .. }, Peer::Block { cidr: other, .. }) => cidr.contains(other) || other.contains(cidr),
        (one, other) => one == other,
    }
}

/// The pods whose ports a rule is about; `None`: not pods alone.
fn targets(scene: &Scene, subject: Subject<'_>, rule: &Rule) -> Option<Vec<ClassId>> {
    match rule.direction {
        Direction::Ingress => Some(subject.members.to_vec()),
        Direction::Egress => {
            let members: Option<Vec<_>> = rule.peers.as_ref()?.iter().map(|peer| scene.members(peer)).collect();
            Some(members?.iter().flat_map(|members| members.iter().copied()).collect())
        }
    }
}

/// Ports by names that no pod has.
fn port_names(scene: &Scene, subject: Subject<'_>, ruled: Ruled<'_>, findings: &mut Findings) {
    let Some(ports) = &ruled.rule.ports else { return };
    if !ports.iter().any(|port| matches!(port, PortMatch::Named { .. })) {
        return;
    }
    let Some(targets) = targets(scene, subject, ruled.rule).filter(|targets| !targets.is_empty()) else { return };
    let known: BTreeSet<&str> = targets.iter().flat_map(|id| &scene.inventory.class(*id).ports).map(|port| &*port.name).collect();
    let unknown = |port: &&PortMatch| match port {
        PortMatch::Named { protocol, name } => {
            let is_it = |port: &NamedPort| port.name == *name && port.protocol == *protocol;
            !targets.iter().any(|id| scene.inventory.class(*id).ports.iter().any(is_it))
        }
        _ => false,
    };
    let unknown: Vec<&PortMatch> = ports.iter().filter(unknown).collect();
    let Some(PortMatch::Named { protocol, name }) = unknown.first() else { return };
    let severity = if unknown.len() == ports.len() { Severity::Warning } else { Severity::Info };
    let message = format!("no pod that the rule leads to calls a {protocol} port {name}");
    let fix = match nearest(name, known.iter().copied()) {
        Some(near) => format!("is {near} meant?"),
        None if known.is_empty() => "give the port by number, or name it in the pods".to_owned(),
        None => format!("known names are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    let field = if ruled.rule.action == Action::Pass || subject.raw(ruled).is_some_and(|raw| raw.get("protocols").is_some()) {
        "protocols"
    } else {
        "ports"
    };
    let path = format!("{}.{field}", ruled.path());
    findings.add_as(Code::RuleNeverMatches, severity, subject.written, &path, message, fix);
}

/// Where a rule stands in the order of judgement.
fn rank(subject: Subject<'_>, rule: &Rule) -> (u8, u16) {
    match (subject.written.policy.tier, rule.action) {
        (Tier::Admin { priority }, _) => (0, priority),
        (Tier::Additive, Action::Deny) => (1, 0),
        (Tier::Additive, Action::Allow | Action::Pass) => (2, 0),
        (Tier::Baseline { priority }, _) => (3, priority),
    }
}

/// A rule whose every flow another one has decided before.
fn decided_before(scene: &Scene, subject: Subject<'_>, ruled: Ruled<'_>, findings: &mut Findings) {
    let (rule, own) = (ruled.rule, &subject.written.policy);
    let Some(first) = subject.members.first() else { return };
    let earlier = |other: Subject<'_>, before: &Ruled<'_>| {
        let same = other.index == subject.index && own.tier != Tier::Additive && before.index < ruled.index;
        before.rule.direction == rule.direction && (same || rank(other, before.rule) < rank(subject, rule))
    };
    let before = || {
        scene
            .policies_about(*first)
            .flat_map(|other| other.rules().map(move |before| (other, before)))
            .filter(|(other, before)| earlier(*other, before))
    };
    // What a Pass leaves out of the Admin tier can't be told by one rule alone.
    let passes = before().any(|(_, before)| before.rule.action == Action::Pass);
    let decides = |other: Subject<'_>, before: &Ruled<'_>| {
        let is_admin = matches!(other.written.policy.tier, Tier::Admin { .. });
        let final_word = match other.written.policy.tier {
            Tier::Additive => before.rule.action == Action::Deny,
            Tier::Admin { .. } | Tier::Baseline { .. } => before.rule.action != Action::Pass,
        };
        let readable = before.rule.peers.as_ref().is_none_or(|peers| !peers.is_empty());
        final_word && readable && !(is_admin && passes) && before.rule.l7.is_none()
    };
    let covering = before().find(|(other, before)| {
        decides(*other, before)
            && cover::rule(before.rule, rule, &scene.inventory)
            && cover::pods(&other.written.policy.subject, &own.subject, &scene.inventory)
    });
    let Some((other, before)) = covering else { return };
    let severity = if before.rule.action == rule.action { Severity::Info } else { Severity::Warning };
    let word = if before.rule.action == Action::Deny { "denied" } else { "accepted" };
    let name = format!("{} {}", other.written.policy.reference, before.rule.path);
    let message = format!("all that this rule matches is {word} before by {name}");
    let fix = format!("remove this rule, or narrow {name}");
    findings.add_as(Code::RuleNeverMatches, severity, subject.written, &ruled.path(), message, fix);
}

/// The policies that make this one useless, if any do.
fn adds_nothing(scene: &Scene, subject: Subject<'_>, useless: &HashSet<usize>) -> Option<String> {
    let own = &subject.written.policy;
    // A rule with an L7 part that others make useless is one of theirs to mend: `disarmed` names it.
    let is_plain = |rule: &Rule| {
        rule.action == Action::Allow && rule.l7.is_none() && rule.peers.as_ref().is_none_or(|peers| !peers.is_empty())
    };
    if own.tier != Tier::Additive || !own.rules.iter().all(is_plain) || !(own.ingress || own.egress) {
        return None;
    }
    // A default that closes is there for what is to come.
    if own.rules.is_empty() && own.subject.pods.is_everything() {
        return None;
    }
    let first = subject.members.first()?;
    let wider = |other: &Subject<'_>| {
        other.index != subject.index
            && other.written.policy.tier == Tier::Additive
            && !useless.contains(&other.index)
            && cover::pods(&other.written.policy.subject, &own.subject, &scene.inventory)
    };
    let others: Vec<Subject<'_>> = scene.policies_about(*first).filter(wider).collect();
    let mut named = BTreeSet::new();
    for direction in Direction::BOTH.into_iter().filter(|direction| subject.governs(*direction)) {
        named.insert(others.iter().find(|other| other.governs(direction))?.written.policy.reference.to_string());
        for ruled in subject.allows(direction) {
            let allows = |other: &&Subject<'_>| {
                let mut rules = other.allows(direction).filter(|given| given.rule.l7.is_none());
                other.governs(direction) && rules.any(|given| cover::rule(given.rule, ruled.rule, &scene.inventory))
            };
            named.insert(others.iter().find(allows)?.written.policy.reference.to_string());
        }
    }
    Some(named.into_iter().collect::<Vec<_>>().join(", "))
}
