//! Which requests a flow may carry, as the rules that read it say.
//!
//! Patterns are compared as they are written: two that match the same requests in other words are a difference.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice_policy::snapshot::{Peer, SetId};
use sluice_policy::source::{Action, L7, Rule, Tier};
use sluice_policy::table::{Line, LineAction};
use sluice_policy::{Direction, Flow};

use crate::cluster::Cluster;
use crate::explain::requests_in_words;

/// What the rules of one half say about requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Requests {
    pub(super) allowed: BTreeSet<String>,
    pub(super) denied: BTreeSet<String>,
    /// Whether a request that none of these names is allowed.
    pub(super) others: bool,
}

impl Requests {
    /// Whether something may pass here that may not by `other`.
    pub(super) fn allows_beyond(&self, other: &Self) -> bool {
        let more = !other.others && (self.others || !self.allowed.is_subset(&other.allowed));
        more || !self.denied.is_superset(&other.denied)
    }
}

/// What `flow`, for which no request is given, may carry by the rules of one direction.
pub(super) fn of(version: &Cluster, flow: &Flow<'_>, direction: Direction) -> Requests {
    let table = version.table();
    let (judged, peer) = match direction {
        Direction::Egress => (flow.source, flow.destination),
        Direction::Ingress => (flow.destination, flow.source),
    };
    let mut requests = Requests::default();
    let program = table.endpoint(judged).and_then(|endpoint| table.programs(endpoint.identity).get(direction));
    let Some(lines) = program.and_then(|program| table.lines(program)) else {
        return Requests { others: true, ..requests };
    };
    let sets = table.endpoint(peer).map(|endpoint| table.sets_of(endpoint.identity)).unwrap_or_default();
    let destination = table.endpoint(flow.destination).map(|endpoint| &**endpoint);
    let matching = lines.lines.iter().filter(|line| peer_matches(line, sets, peer) && lines.ports_match(line, flow, destination));
    let mut passed = false;
    for line in matching {
        if passed && matches!(line.tier, Tier::Admin { .. }) {
            continue;
        }
        match line.action {
            LineAction::Inspect => {
                let policy = table.policy(line.rule.policy).and_then(|policy| {
                    let rule = policy.rules.get(usize::from(line.rule.rule))?;
                    let written = version.policy(&policy.reference)?;
                    written.rules.iter().find(|other| other.path == rule.path)
                });
                let Some(rule) = policy else { continue };
                let into = if rule.action == Action::Deny { &mut requests.denied } else { &mut requests.allowed };
                into.extend(each(rule));
            }
            LineAction::Allow => return Requests { others: true, ..requests },
            LineAction::Deny => return requests,
            LineAction::Pass => passed = true,
        }
    }
    Requests { others: lines.default == sluice_policy::Decision::Allow, ..requests }
}

fn peer_matches(line: &Line, sets: &[SetId], address: IpAddr) -> bool {
    line.peers.as_ref().is_none_or(|peers| {
        peers.iter().any(|peer| match peer {
            Peer::Set(set) => sets.binary_search(set).is_ok(),
            Peer::Block { cidr, except } => cidr.contains(&address) && !except.iter().any(|net| net.contains(&address)),
            // What names have is learned, and look-ups are no requests of connections.
            Peer::Names(_) | Peer::Resolvers => false,
        })
    })
}

/// The requests of a rule, each by itself.
fn each(rule: &Rule) -> Vec<String> {
    let parts: Vec<L7> = match &rule.l7 {
        None => Vec::new(),
        Some(L7::Http(items)) => items.iter().map(|item| L7::Http(vec![item.clone()])).collect(),
        Some(L7::Grpc(items)) => items.iter().map(|item| L7::Grpc(vec![item.clone()])).collect(),
        Some(L7::Tls(items)) => items.iter().map(|item| L7::Tls(vec![item.clone()])).collect(),
        Some(L7::Dns(items)) => items.iter().map(|item| L7::Dns(vec![item.clone()])).collect(),
    };
    let rules = parts.into_iter().map(|l7| Rule { l7: Some(l7), ..rule.clone() });
    rules.filter_map(|rule| requests_in_words(&rule)).collect()
}
