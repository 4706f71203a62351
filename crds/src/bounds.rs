//! How much one policy may ask of a node.
//!
//! Whoever may write a policy in one namespace must not be able to hold up the nodes for everyone. What goes beyond a bound
//! can't be put in force, so it is treated as what can't be read: an allow matches nothing, a deny what its other parts leave
//! open.

use std::collections::HashSet;

use sluice_policy::source::{Action, Peer, PortMatch, Rule};
use sluice_policy::{Direction, Protocol};

use crate::diagnostic::{At, Report};

/// Rules of one policy, both directions together. (A `RuleId` numbers them in 16 bits.)
pub(crate) const MAX_RULES: usize = 2_000;

/// Items of `http`, `grpc`, `tls` and `dns` in one policy, all rules together, and the conditions in them.
pub(crate) const MAX_L7_ITEMS: usize = 2_000;

/// Conditions of one list: `headers`, `query` or `metadata`.
pub(crate) const MAX_CONDITIONS: usize = 50;

/// The name of a header field, of a parameter, of a gRPC service.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// What `exact` is compared with.
pub(crate) const MAX_EXACT_BYTES: usize = 4_096;

/// Rules of one direction of a policy of ours. This bound and those that follow let the API server tell beforehand what checking costs.
pub(crate) const MAX_DIRECTION_RULES: usize = 500;

/// Peers of one rule of ours.
pub(crate) const MAX_PEERS: usize = 2_000;

/// Names of one peer of ours.
pub(crate) const MAX_NAMES: usize = 200;

/// Ports of one rule of ours, and its messages of ICMP.
pub(crate) const MAX_PORTS: usize = 500;

/// Items of one rule's L7 part; their number is in every verdict, in 16 bits.
pub(crate) const MAX_RULE_ITEMS: usize = 1_000;

/// Selector peers times named ports and messages of ICMP of one rule: each pair is a rule of the kernel, while blocks and numbered ports share one
/// set for all.
const MAX_PAIRS: usize = 1_000;

/// Leaves out what is said twice, which changes nothing in a list that is an OR.
pub(crate) fn distinct(ports: Vec<PortMatch>) -> Vec<PortMatch> {
    let mut seen = HashSet::with_capacity(ports.len());
    ports.into_iter().filter(|port| seen.insert(port.clone())).collect()
}

/// `rule` as it is, or what is left of it where it pairs more selectors with names of ports than a node should carry.
pub(crate) fn within_pairs(mut rule: Rule, at: At<'_>, report: &mut Report) -> Rule {
    // Everyone is one alternative in the kernel, and so are all the blocks together.
    let selectors = rule.peers.iter().flatten().filter(|peer| matches!(peer, Peer::Pods(_))).count().max(1);
    let alone = |port: &&PortMatch| matches!(port, PortMatch::Named { .. } | PortMatch::Icmp(_));
    let names = rule.ports.iter().flatten().filter(alone).count();
    if selectors.saturating_mul(names) <= MAX_PAIRS {
        return rule;
    }
    let message =
        format!("more than {MAX_PAIRS} pairs of a peer and a named port, or a message of ICMP: {selectors} times {names}");
    report.error(at, message, "split the rule, or give ports by number and messages by family");
    if rule.action == Action::Allow {
        return Rule::unreadable(rule.direction, rule.path, Action::Allow);
    }
    let unnamed = |port| match port {
        PortMatch::Named { protocol, .. } => PortMatch::All { protocol },
        PortMatch::Icmp(_) => PortMatch::All { protocol: Protocol::Icmp },
        port => port,
    };
    rule.ports = rule.ports.map(|ports| distinct(ports.into_iter().map(unnamed).collect()));
    rule
}

/// Says that a list is longer than the API server takes. Nothing is lost by reading on.
pub(crate) fn bounded(what: &str, count: usize, most: usize, at: At<'_>, report: &mut Report) {
    if count > most {
        report.error(at, format!("{count} {what}: the API takes {most}"), "write a second one");
    }
}

/// What stands for all the rules from number `index` on that are too many; `may_deny`: whether one of them may be a deny.
pub(crate) fn rules_beyond(direction: Direction, index: usize, may_deny: bool, at: At<'_>, report: &mut Report) -> Option<Rule> {
    report.error(at, format!("more than {MAX_RULES} rules in one policy"), "split the policy");
    may_deny.then(|| Rule::unreadable(direction, format!("{direction}[{index}]").into(), Action::Deny))
}
