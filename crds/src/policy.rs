//! NetworkPolicy, SluiceNetworkPolicy and SluiceClusterNetworkPolicy. The second is the first with more to say, and the third is the
//! second for pods of any namespace, so one reader serves all.
//!
//! What can't be read closes, and only where it stands:
//!
//! | what can't be read | what it means |
//! |---|---|
//! | `podSelector` | the whole namespace |
//! | `policyTypes`; `spec` itself, or an unknown field beside it where it is absent; an unknown field of `spec` while `policyTypes` is absent | both directions |
//! | an unknown field of `spec`, `expires` | every allow rule of the policy matches nothing; the rest stands |
//! | `enforcement` | `Enforce` |
//! | a rule, or a field of it that isn't known | an allow matches nothing, a deny all that its readable parts leave open |
//! | `action` | Deny: any word but `Allow` may have been meant so |
//! | one peer, one port, one item of `http`, `grpc` or `tls` | in an allow nothing; the other peers, ports, items stand |
//! | the same of a deny | all that its readable parts leave open |
//! | in our kind, an entry of `ingress` or `egress` that is text, a number or a list; a slip for `action` | Deny, as above |
//! | what is beyond the bounds of [`bounds`](crate::bounds) | as if it could not be read |
//! | of the cluster's kind: `namespaceSelector`, `podSelector`, `spec`, any unknown field of it | the policy is refused, and its last understood version stays in force |

use std::time::SystemTime;

use sluice_policy::Direction;
use sluice_policy::label::Selector;
use sluice_policy::source::{Action, Namespaces, PodSelector, Policy, PolicyKind, PolicyRef, Rule, Tier};

use crate::bounds::{MAX_DIRECTION_RULES, MAX_L7_ITEMS, MAX_RULES, bounded, rules_beyond};
use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list, mapping, only, text};
use crate::rule::{Context, Dialect, may_deny, rule};
use crate::selector::selector;
use crate::time;
use crate::value::{Map, Value, quoted};

/// The fields of the object itself.
pub(crate) const OBJECT_FIELDS: &[&str] = &["apiVersion", "kind", "metadata", "spec", "status"];

/// Reads the policy `object`, which is called `reference`. A namespaced one is always a policy, if only one that isolates; one of the
/// cluster whose subject can't be read is refused.
pub(crate) fn policy(object: &Value, reference: PolicyRef, report: &mut Report) -> Reading<Policy> {
    let root = At::root(object.line);
    let dialect = Dialect::of(reference.kind);
    let empty = Map::default();
    // Whatever `sepc` was to say, a policy with such a field and without `spec` is not the empty one.
    let whole = object.as_map().map_or(Err(Unreadable), |map| only(map, OBJECT_FIELDS, &[], root, report));
    let spec = match object.get("spec") {
        None if whole.is_err() => Err(Unreadable),
        // An absent spec is the empty one: every pod of the namespace, and no ingress rule.
        None => Ok((&empty, object.line)),
        Some(spec) => mapping(spec, root.field("spec", spec.line), report).map(|map| (map, spec.line)),
    };
    let (spec, line) = match spec {
        Ok(read) => read,
        Err(Unreadable) => return isolating(reference),
    };
    let at = root.field("spec", line);
    let known = only(spec, spec_fields(reference.kind), &[], at, report);
    let subject = match reference.kind {
        // The unknown field might have been one of the subject's.
        PolicyKind::SluiceClusterNetworkPolicy => cluster_subject(spec, at, report).and_then(|subject| known.map(|()| subject)),
        _ => Ok(namespace_subject(spec, &reference, at, report)),
    };

    let directions = directions(spec, known, at, report);
    let (ingress, egress) = directions.unwrap_or((true, true));
    let (mut rules, mut items_left) = (Vec::new(), MAX_L7_ITEMS);
    let context = Context { dialect, namespaces: home(&reference) };
    for direction in Direction::BOTH {
        rules_of(direction, spec, &context, &mut items_left, at, &mut rules, report);
    }
    for (direction, isolates) in [(Direction::Ingress, ingress), (Direction::Egress, egress)] {
        let is_deny = |rule: &&Rule| rule.direction == direction && rule.action == Action::Deny;
        if let Some(rule) = rules.iter().find(is_deny).filter(|_| !isolates) {
            let at = at.field(direction.as_str(), spec.get(direction.as_str()).map_or(line, |value| value.line));
            let message = format!("{} denies nothing, because policyTypes leaves out this direction", rule.path);
            report.warning(at, message, "add the direction to policyTypes");
        }
    }
    let expires = expires(spec, at, report);
    if known.is_err() || expires.is_err() {
        // What the unknown field would have said may well have narrowed the rules, or ended them.
        for rule in &mut rules {
            if rule.action == Action::Allow {
                *rule = Rule::unreadable(rule.direction, rule.path.clone(), Action::Allow);
            }
        }
    }
    // Not before everything was read: its author hears of all at once.
    let audit = dialect == Dialect::Sluice && is_audit(spec, at, report);
    let expires = expires.unwrap_or_default();
    Ok(Policy { reference, tier: Tier::Additive, subject: subject?, ingress, egress, audit, expires, rules })
}

fn spec_fields(kind: PolicyKind) -> &'static [&'static str] {
    match kind {
        PolicyKind::NetworkPolicy | PolicyKind::ClusterNetworkPolicy => &["podSelector", "policyTypes", "ingress", "egress"],
        PolicyKind::SluiceNetworkPolicy => &["podSelector", "policyTypes", "ingress", "egress", "enforcement", "expires"],
        PolicyKind::SluiceClusterNetworkPolicy => {
            &["namespaceSelector", "podSelector", "policyTypes", "ingress", "egress", "enforcement", "expires"]
        }
    }
}

/// The namespaces that a peer is in which names none.
pub(crate) fn home(reference: &PolicyRef) -> Namespaces {
    match reference.kind {
        PolicyKind::SluiceClusterNetworkPolicy => Namespaces::Matching(Selector::everything()),
        _ => Namespaces::Named(reference.namespace.clone()),
    }
}

/// An absent `podSelector` is every pod of the namespace, and so is one that can't be read: nobody can say whom of it the policy
/// meant to isolate.
fn namespace_subject(spec: &Map, reference: &PolicyRef, at: At<'_>, report: &mut Report) -> PodSelector {
    let pods = spec.get("podSelector");
    let pods = pods.map(|value| selector(value, at.field("podSelector", value.line), report).unwrap_or_default());
    PodSelector { namespaces: home(reference), pods: pods.unwrap_or_default() }
}

/// At least one of the two selectors: a policy that says nothing of whom it is about would isolate the whole cluster.
fn cluster_subject(spec: &Map, at: At<'_>, report: &mut Report) -> Reading<PodSelector> {
    let mut read = |name: &'static str| spec.get(name).map(|value| selector(value, at.field(name, value.line), report));
    let (namespaces, pods) = (read("namespaceSelector"), read("podSelector"));
    if namespaces.is_none() && pods.is_none() {
        report.error(
            at,
            "whom is it about?",
            "name namespaceSelector, podSelector or both; \"namespaceSelector: {}\" is every namespace",
        );
        return Err(Unreadable);
    }
    let namespaces = Namespaces::Matching(namespaces.transpose()?.unwrap_or_default());
    Ok(PodSelector { namespaces, pods: pods.transpose()?.unwrap_or_default() })
}

/// A policy of which nothing is understood but its name: every pod of its namespace, both directions, and no rule.
fn isolating(reference: PolicyRef) -> Reading<Policy> {
    if reference.kind == PolicyKind::SluiceClusterNetworkPolicy {
        return Err(Unreadable);
    }
    let subject = PodSelector { namespaces: home(&reference), pods: Selector::everything() };
    let (tier, rules) = (Tier::Additive, Vec::new());
    Ok(Policy { reference, tier, subject, ingress: true, egress: true, audit: false, expires: None, rules })
}

/// `policyTypes` after its default: Ingress, and Egress if there are egress rules.
fn directions(spec: &Map, known: Reading<()>, at: At<'_>, report: &mut Report) -> Reading<(bool, bool)> {
    let types = match spec.get("policyTypes") {
        None => &[],
        Some(value) => list(value, at.field("policyTypes", value.line), report)?,
    };
    if types.is_empty() {
        // The unknown field might have been `egress`.
        known?;
        let has_rules = |value: &Value| value.as_list().is_none_or(|l| !l.is_empty());
        return Ok((true, spec.get("egress").is_some_and(has_rules)));
    }
    let here = at.field("policyTypes", types[0].line);
    if types.len() > 2 {
        report.error(here, "more than two entries", "list Ingress, Egress or both");
        return Err(Unreadable);
    }
    let (mut ingress, mut egress, mut answer) = (false, false, Ok(()));
    for (i, value) in types.iter().enumerate() {
        let at = here.index(i, value.line);
        match text(value, at, report).map(|t| &**t) {
            Ok("Ingress") => ingress = true,
            Ok("Egress") => egress = true,
            Ok(other) => {
                report.error(at, format!("{} is no direction", quoted(other)), "write Ingress or Egress");
                answer = Err(Unreadable);
            }
            Err(Unreadable) => answer = Err(Unreadable),
        }
    }
    answer.map(|()| (ingress, egress))
}

/// Reads the rules of one direction; `items_left` says how many L7 items the policy may still have.
fn rules_of(
    direction: Direction,
    spec: &Map,
    context: &Context,
    items_left: &mut usize,
    at: At<'_>,
    rules: &mut Vec<Rule>,
    report: &mut Report,
) {
    let name = direction.as_str();
    let Some(value) = spec.get(name) else { return };
    let at = at.field(name, value.line);
    let Ok(list) = list(value, at, report) else {
        // Nobody can say that there was no deny among them.
        if context.dialect == Dialect::Sluice {
            rules.push(Rule::unreadable(direction, name.into(), Action::Deny));
        }
        return;
    };
    if context.dialect == Dialect::Sluice {
        bounded("rules of a direction", list.len(), MAX_DIRECTION_RULES, at, report);
    }
    for (i, value) in list.iter().enumerate() {
        let at = at.index(i, value.line);
        if rules.len() >= MAX_RULES {
            let may_deny = list[i..].iter().any(|rule| may_deny(rule, context.dialect));
            rules.extend(rules_beyond(direction, i, may_deny, at, report));
            return;
        }
        rules.push(rule(value, direction, i, context, items_left, at, report));
    }
}

/// `enforcement: Audit`.
fn is_audit(spec: &Map, at: At<'_>, report: &mut Report) -> bool {
    let Some(value) = spec.get("enforcement") else { return false };
    let at = at.field("enforcement", value.line);
    match text(value, at, report).map(|t| &**t) {
        Ok("Audit") => true,
        Ok("Enforce") | Err(Unreadable) => false,
        Ok(other) => {
            report.error(at, format!("{} is no enforcement", quoted(other)), "write Enforce or Audit");
            false
        }
    }
}

/// `expires`: the moment from which on the policy is as if absent.
fn expires(spec: &Map, at: At<'_>, report: &mut Report) -> Reading<Option<SystemTime>> {
    match spec.get("expires") {
        None => Ok(None),
        Some(value) => time::moment(value, at.field("expires", value.line), report).map(Some),
    }
}
