//! What a pod may not say, whatever policies say, because only others have a right to: routers, ends of flows, ends of tunnels.
//!
//! [`base`](super::base) has the reasons in its tables.

use super::base::{ITSELF, neither};
use super::expr::{self, Side};
use super::names::Edition;
use super::object::{Element, Family, Field, Rule, Set, SetKind, Verdict};

const TUNNEL_PORTS: &str = "tunnel_ports";
const TUNNEL_PROTOCOLS: &str = "tunnel_protocols";

/// VXLAN by RFC 7348 and as Linux and flannel have it by default, and Geneve (RFC 8926).
const PORTS: [u16; 3] = [4789, 8472, 6081];
/// IPv4 inside, IPv6 inside, GRE.
const PROTOCOLS: [u8; 3] = [4, 41, 47];

pub(super) fn sets(edition: Edition) -> [(Set, Vec<Element>); 2] {
    let ports = PORTS.map(|port| Element::plain(port.to_be_bytes().to_vec()));
    let protocols = PROTOCOLS.map(|number| Element::plain(vec![number]));
    [
        (Set::new(edition.name(TUNNEL_PORTS), &[Field::Port], SetKind::Plain), ports.into()),
        (Set::new(edition.name(TUNNEL_PROTOCOLS), &[Field::Protocol], SetKind::Plain), protocols.into()),
    ]
}

/// Packets inside packets to the node itself are dropped.
///
/// Those to another node's address can't be told here from a pod's own tunnel to the outside.
pub(super) fn tunnels(edition: Edition) -> [Rule; 2] {
    const UDP: u8 = 17;
    let by_port = expr::destination_port_in(UDP, &edition.name(TUNNEL_PORTS));
    let by_protocol = expr::protocol_in(&edition.name(TUNNEL_PROTOCOLS));
    [by_port, by_protocol]
        .map(|words| Rule::new([words, expr::destination_is_not_unicast()], &Verdict::Drop).because("into a tunnel of the node"))
}

/// ICMP of a pod about a flow that it is no end of, or about none, leaves the chain of flows that were judged: nothing there is
/// its, and it is judged like any packet.
///
/// The pod is an end if it has the address from which the flow's packets come in the direction that the error has: behind
/// any translation the flow's own record of it, which a rule can compare with the packet's source by way of the set of pairs of
/// one address. An interface is a pod's here by name and kind: the set of those seen may be full.
pub(super) fn errors(family: Family, edition: Edition) -> [Rule; 3] {
    let icmp = if family == Family::V4 { expr::ICMP } else { expr::ICMPV6 };
    let of_a_pod = |states| [expr::state(states), expr::protocol(icmp), neither(Side::In, edition)].concat();
    let itself = edition.sets_of(ITSELF, family);
    let about_others = |direction| expr::sender_is_not_the_flows(family, direction, &itself);
    [
        Rule::new([of_a_pod(expr::INVALID)], &Verdict::Return),
        Rule::new([of_a_pod(expr::RELATED), about_others(expr::ORIGINAL)], &Verdict::Return),
        Rule::new([of_a_pod(expr::RELATED), about_others(expr::REPLY)], &Verdict::Return),
    ]
}
