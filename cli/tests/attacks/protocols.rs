//! What is neither TCP nor UDP, and what comes in tagged frames.

use crate::packet::{Ends, SYN, Segment, icmp_error, udp};
use crate::stage::{Case, Family, Shot, Stage, everywhere};
use crate::wire::{SERVICE_VLAN, VLAN};

/// Numbers of IP protocols, some of which carry packets inside.
const PROTOCOLS: [(u8, &str); 12] = [
    (2, "IGMP"),
    (4, "IPv4 inside"),
    (33, "DCCP"),
    (41, "IPv6 inside"),
    (47, "GRE"),
    (50, "ESP"),
    (94, "IPIP"),
    (103, "PIM"),
    (112, "VRRP"),
    (132, "SCTP"),
    (136, "UDP-Lite"),
    (253, "one that nobody has"),
];

/// As each protocol would carry it, as far as a firewall looks: ports of a denied service first, or a whole packet inside.
fn carried(protocol: u8, ends: Ends, text: &[u8]) -> Vec<u8> {
    match protocol {
        4 | 41 | 94 => ends.datagram(text),
        47 => [
            &[0, 0, if ends.from.is_ipv4() { 8 } else { 0x86 }, if ends.from.is_ipv4() { 0 } else { 0xdd }][..],
            &ends.datagram(text),
        ]
        .concat(),
        // An INIT chunk whose cookie is the text.
        132 => [&[0x23, 0x28, 0x23, 0x28, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 40][..], &[0; 16], text].concat(),
        _ => udp(ends, text),
    }
}

fn of_all_protocols(stage: &mut Stage, from: &'static str, victim: &'static str) -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for family in Family::BOTH {
        let ends = stage.ends((from, 9000), (victim, 9000), family);
        let shots = PROTOCOLS
            .map(|(protocol, name)| stage.shot(name, |text| vec![ends.packet(protocol, &carried(protocol, ends, text))]));
        cases.push(Case { from, victim, shots: shots.into() });
    }
    cases
}

#[test]
fn no_protocol_leaves_or_enters_an_isolated_pod() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for (from, victim) in [("attacker", "isolated"), ("isolated", "open"), ("attacker", "plain"), ("attacker", "backend")] {
            cases.extend(of_all_protocols(stage, from, victim));
        }
        stage.closed(&cases);
    });
}

/// Datagrams and SYNs in frames with these tags.
fn tagged(stage: &mut Stage, ends: Ends) -> Vec<Shot> {
    let is_bridged = stage.has_bridge();
    let tags: [(&str, &[(u16, u16)], bool); 7] = [
        ("priority tag", &[(VLAN, 0)], true),
        ("priority tag with a priority", &[(VLAN, 5 << 13)], true),
        ("service priority tag", &[(SERVICE_VLAN, 0)], true),
        ("VLAN 5", &[(VLAN, 5)], is_bridged),
        ("service VLAN 5", &[(SERVICE_VLAN, 5)], is_bridged),
        ("priority tag twice", &[(VLAN, 0), (VLAN, 0)], true),
        ("priority tag in a service VLAN", &[(SERVICE_VLAN, 5), (VLAN, 0)], is_bridged),
    ];
    let mut shots = Vec::new();
    for (what, tags, arrives) in tags {
        let datagram = stage.shot(format!("datagram, {what}"), |text| vec![ends.datagram(text)]);
        let syn = stage
            .shot(format!("SYN, {what}"), |text| vec![ends.packet(crate::packet::TCP, &Segment::of(SYN, text).encode(ends))]);
        shots.extend([datagram, syn].map(|shot| shot.tagged(tags).arrives_if(arrives)));
    }
    shots
}

/// The kernel takes a priority tag off before IP sees the packet; a frame of a VLAN that the node has no interface for is nobody's.
#[test]
fn tagged_frames_are_judged_or_nobodys() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for family in Family::BOTH {
            for (from, victim, to) in [("attacker", "plain", 9000), ("attacker", "backend", 8080), ("isolated", "open", 9000)] {
                let ends = stage.ends((from, 9000), (victim, to), family);
                let shots = tagged(stage, ends);
                cases.push(Case { from, victim, shots });
            }
        }
        stage.closed(&cases);
    });
}

/// Of IPv6: what is a header before another, and what the next hop itself reads.
const IPV6_HEADERS: [u8; 9] = [0, 43, 44, 51, 59, 60, 135, 139, 140];

/// Every number that a packet can name, TCP and UDP among them.
#[test]
fn every_protocol_number_is_closed_to_an_isolated_pod() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for family in Family::BOTH {
            for (from, victim) in [("attacker", "isolated"), ("isolated", "open")] {
                let ends = stage.ends((from, 9000), (victim, 9000), family);
                let mut shots = Vec::new();
                for protocol in 0..=u8::MAX {
                    let arrives = family == Family::V4 || !IPV6_HEADERS.contains(&protocol);
                    let shot = stage.shot(format!("{family:?} {protocol}"), |text| vec![ends.packet(protocol, &udp(ends, text))]);
                    shots.push(shot.arrives_if(arrives));
                }
                cases.push(Case { from, victim, shots });
            }
        }
        stage.closed(&cases);
    });
}

/// Every type of ICMP but what neighbours say to each other (of IPv6, 130 to 137 and 143), which a bridge carries.
#[test]
fn every_icmp_type_is_closed_to_an_isolated_pod() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for family in Family::BOTH {
            for (from, victim) in [("attacker", "isolated"), ("isolated", "open")] {
                let [own, to] = [from, victim].map(|pod| stage.address(pod, family));
                let mut shots = Vec::new();
                for kind in 0..=u8::MAX {
                    let is_neighbours = family == Family::V6 && matches!(kind, 130..=137 | 143);
                    if is_neighbours && stage.has_bridge() {
                        continue;
                    }
                    shots.push(stage.shot(format!("{family:?} type {kind}"), |text| vec![icmp_error(own, to, kind, 0, 1, text)]));
                }
                cases.push(Case { from, victim, shots });
            }
        }
        stage.closed(&cases);
    });
}
