//! What can be seen of a policy by itself: directions, empty lists, rules without conditions, misleading names.

use sluice_crds::Value;
use sluice_policy::Direction;
use sluice_policy::source::{Action, Peer, PolicyKind};

use crate::lint::catalogue::Code;
use crate::lint::finding::Findings;
use crate::lint::scene::{Scene, Subject};

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    for subject in scene.subjects() {
        if subject.written.policy.reference.kind != PolicyKind::ClusterNetworkPolicy {
            directions(subject, findings);
            empty_lists(subject, findings);
            everything(subject, findings);
        }
        name(subject, findings);
    }
}

/// Rules of a direction that the policy doesn't govern.
fn directions(subject: Subject<'_>, findings: &mut Findings) {
    let Some(spec) = subject.written.value.get("spec") else { return };
    let types = spec.get("policyTypes").and_then(Value::as_list).unwrap_or_default();
    let has_egress = spec.get("egress").and_then(Value::as_list).is_some_and(|rules| !rules.is_empty());
    if types.is_empty() && has_egress && spec.get("ingress").is_none() && subject.governs(Direction::Ingress) {
        let message = "without policyTypes the policy closes ingress as well, and no rule opens it".to_owned();
        let fix = "write policyTypes: [Egress] if ingress is to stay as it is, [Ingress, Egress] if it is to be closed";
        findings.add(Code::IngressClosedUnsaid, subject.written, "spec.egress", message, fix);
    }
    for direction in Direction::BOTH {
        let Some(rules) = spec.get(direction.as_str()).and_then(Value::as_list) else { continue };
        if subject.governs(direction) {
            continue;
        }
        let name = if direction == Direction::Ingress { "Ingress" } else { "Egress" };
        let written = if rules.is_empty() { "an empty list".to_owned() } else { format!("{} of rules", rules.len()) };
        let message = if types.is_empty() {
            format!("{direction} is {written} and policyTypes is absent: nobody is isolated in {direction}")
        } else {
            format!("{direction} is {written} and policyTypes leaves out {name}: nobody is isolated in {direction}")
        };
        let fix = format!("add {name} to policyTypes to close {direction}, or take the field away");
        findings.add(Code::DirectionNotInPolicyTypes, subject.written, &format!("spec.{direction}"), message, fix);
    }
}

/// Empty lists that say everyone.
fn empty_lists(subject: Subject<'_>, findings: &mut Findings) {
    for ruled in subject.rules().filter(|ruled| ruled.rule.action == Action::Allow) {
        let Some(raw) = subject.raw(ruled) else { continue };
        for (field, whom) in [(ruled.peers_field(), "everyone"), ("ports", "every port")] {
            if raw.get(field).and_then(Value::as_list).is_some_and(<[_]>::is_empty) {
                let path = format!("{}.{field}", ruled.path());
                let message = format!("{field}: [] is {whom}, as if it weren't there");
                findings.add(
                    Code::EmptyListIsEveryone,
                    subject.written,
                    &path,
                    message,
                    format!("leave {field} out if that is meant"),
                );
            }
        }
    }
}

fn everything(subject: Subject<'_>, findings: &mut Findings) {
    for ruled in subject.rules() {
        let rule = ruled.rule;
        if rule.action == Action::Allow && rule.peers.is_none() && rule.ports.is_none() && rule.l7.is_none() {
            let whom = if rule.direction == Direction::Ingress { "from everyone" } else { "to everyone" };
            let message = format!("the rule allows everything {whom}, whatever other policies say");
            let fix = format!("name {} or ports", ruled.peers_field());
            findings.add(Code::AllowsEverything, subject.written, &ruled.path(), message, fix);
        }
    }
}

/// A NetworkPolicy that is called a denial and opens something.
fn name(subject: Subject<'_>, findings: &mut Findings) {
    let reference = &subject.written.policy.reference;
    let words = ["deny", "block", "restrict", "forbid"];
    if reference.kind != PolicyKind::NetworkPolicy || !reference.name.split(['-', '.']).any(|word| words.contains(&word)) {
        return;
    }
    let is_pods = |peer: &Peer| matches!(peer, Peer::Pods(_));
    let mut rules = subject.rules().filter(|ruled| subject.governs(ruled.rule.direction));
    let Some(opening) = rules.find(|ruled| ruled.rule.peers.iter().flatten().any(is_pods)) else { return };
    let message = format!("it is called {}, and what it says is that {} is allowed", reference.name, opening.rule.path);
    let fix = "name it by what it allows; to deny, write no rule, or a Deny rule of a SluiceNetworkPolicy";
    findings.add(Code::NamedDenyButAllows, subject.written, &opening.path(), message, fix);
}
