//! The kernel's rules are written from `Table::lines`: read as their documentation says, line by line, they give the verdict.

use std::net::IpAddr;

use proptest::prelude::*;
use sluice_policy::name::is_outside;
use sluice_policy::snapshot::{Endpoint, Peer};
use sluice_policy::source::PortMatch;
use sluice_policy::table::{Line, LineAction, Lines, Where};
use sluice_policy::{Decision, Direction, Flow, Protocol, Reason, Table};

use super::{for_all, questions};
use crate::engine::{Engine, with_flow};
use crate::worlds;

#[test]
fn the_first_line_that_matches_is_the_verdict() {
    for_all(7, 48, worlds::cluster(), |cluster| {
        let engine = Engine::of_cluster(&cluster, &["k0", "k1"]);
        for reader in engine.nodes.iter().chain([&engine.everything]) {
            for question in questions(&cluster) {
                with_flow(&question, |flow| check(&reader.table, flow))?;
            }
        }
        Ok(())
    });
}

fn check(table: &Table, flow: &Flow<'_>) -> Result<(), TestCaseError> {
    let verdict = table.verdict(flow);
    for (direction, subject, peer) in
        [(Direction::Egress, flow.source, flow.destination), (Direction::Ingress, flow.destination, flow.source)]
    {
        let half = verdict.half(direction);
        // These come before any program.
        if [Reason::SamePod, Reason::FromOwnNode, Reason::AddressConflict, Reason::UnknownPod].contains(&half.reason) {
            continue;
        }
        let Some(endpoint) = table.endpoint(subject).filter(|endpoint| endpoint.local) else { continue };
        let decision = match table.programs(endpoint.identity).get(direction) {
            None => Decision::Allow,
            Some(program) => {
                let lines = table.lines(program).ok_or_else(|| TestCaseError::fail(format!("no program {program}")))?;
                prop_assert!(lines.direction == direction);
                read(table, lines, flow, peer)
            }
        };
        prop_assert!(decision == half.decision, "{:?}, {}: lines {:?}, verdict {:?}", flow, direction, decision, half);
    }
    Ok(())
}

fn read(table: &Table, lines: &Lines, flow: &Flow<'_>, peer: IpAddr) -> Decision {
    let mut passed = None;
    for line in lines.lines.iter().filter(|line| matches(table, line, flow, peer)) {
        if passed == Some(line.tier) {
            continue;
        }
        match line.action {
            LineAction::Allow => return Decision::Allow,
            LineAction::Deny => return Decision::Deny,
            LineAction::Inspect => return Decision::Inspect,
            LineAction::Pass => passed = Some(line.tier),
        }
    }
    lines.default
}

fn matches(table: &Table, line: &Line, flow: &Flow<'_>, peer: IpAddr) -> bool {
    let of_peer = |entry: &Peer| match entry {
        Peer::Set(set) => {
            let by_address = table.addresses(*set).any(|ip| ip == peer);
            let by_identity = table
                .endpoint(peer)
                .is_some_and(|e: &std::sync::Arc<Endpoint>| !e.conflict && table.sets_of(e.identity).contains(set));
            assert_eq!(by_address, by_identity, "set {set} and {peer}: its addresses, and the peer's identity");
            by_address
        }
        Peer::Block { cidr, except } => cidr.contains(&peer) && !except.iter().any(|hole| hole.contains(&peer)),
        Peer::Names(named) => {
            let may_have = named.allow_private || (is_outside(peer) && !table.is_of_cluster(peer));
            may_have && table.known_names(peer).iter().any(|name| named.matches(name))
        }
        Peer::Resolvers => table.is_resolver(peer),
    };
    let is_checked = flow.protocol == Protocol::Tcp && [80, 443].contains(&flow.destination_port);
    let in_place = match line.place {
        Where::Anywhere => true,
        Where::Checked => is_checked,
        Where::Unchecked => !is_checked,
        Where::Elsewhere => !(is_checked || flow.protocol == Protocol::Udp && flow.destination_port == 443),
    };
    let of_port = |entry: &PortMatch| match entry {
        PortMatch::All { protocol } => *protocol == flow.protocol,
        PortMatch::Range { protocol, first, last } => {
            *protocol == flow.protocol && (*first..=*last).contains(&flow.destination_port)
        }
        PortMatch::Icmp(wanted) => flow.icmp().is_some_and(|(family, message)| wanted.matches(family, message)),
        PortMatch::Named { protocol, name } => {
            *protocol == flow.protocol
                && table.named_ports(*protocol, name).any(|(ip, port)| ip == flow.destination && port == flow.destination_port)
        }
    };
    in_place
        && line.peers.as_ref().is_none_or(|peers| peers.iter().any(of_peer))
        && line.ports.as_ref().is_none_or(|ports| ports.iter().any(of_port))
}
