//! IPv4 options and IPv6 extension headers in front of what a port decides.

use std::net::IpAddr;

use sluice_testnet::Node;

use crate::packet::{DESTINATION, Ends, HOP_BY_HOP, ROUTING, SYN, Segment, TCP, UDP, fragment_header, ipv4, ipv6, udp};
use crate::stage::{Case, Family, Shot, Stage, everywhere};

/// Of datagrams and of SYNs with data.
const PROTOCOLS: [u8; 2] = [UDP, TCP];

fn transport(ends: Ends, protocol: u8, text: &[u8]) -> Vec<u8> {
    match protocol {
        UDP => udp(ends, text),
        _ => Segment::of(SYN, text).encode(ends),
    }
}

/// Options of hop-by-hop or destination headers: padding in one option to 8 bytes times `units`.
fn padded(kind: u8, units: u8) -> (u8, Vec<u8>) {
    let length = usize::from(units) * 8 - 4;
    let mut rest = vec![units - 1, 1, u8::try_from(length).unwrap()];
    rest.resize(3 + length, 0);
    (kind, rest)
}

/// A routing header of this type with `left` segments to go, and one address.
fn routing(kind: u8, left: u8, address: IpAddr) -> (u8, Vec<u8>) {
    let IpAddr::V6(address) = address else { panic!("IPv6") };
    // The word behind: reserved in types 0 and 2, last entry, flags and tag in type 4.
    let mut rest = vec![2, kind, left, 0, 0, 0, 0];
    rest.extend(address.octets());
    (ROUTING, rest)
}

fn header_chains(own: IpAddr) -> Vec<(&'static str, Vec<(u8, Vec<u8>)>)> {
    let hop = || padded(HOP_BY_HOP, 1);
    let destination = || padded(DESTINATION, 1);
    let alert = || (HOP_BY_HOP, vec![0, 5, 2, 0, 0, 1, 0]);
    let whole = || fragment_header(77, 0, false);
    vec![
        ("hop-by-hop options", vec![hop()]),
        ("a router alert", vec![alert()]),
        ("destination options", vec![destination()]),
        ("hop-by-hop and destination options", vec![hop(), destination()]),
        ("destination options twice", vec![destination(), destination()]),
        ("long destination options", vec![padded(DESTINATION, 32)]),
        ("eight destination options", (0..8).map(|_| padded(DESTINATION, 8)).collect()),
        ("a fragment header of a whole packet", vec![whole()]),
        ("options before and behind a fragment header", vec![hop(), whole(), destination()]),
        ("a fragment header twice", vec![whole(), fragment_header(78, 0, false)]),
        ("routing header 0, at its end", vec![routing(0, 0, own)]),
        ("routing header 0", vec![routing(0, 1, own)]),
        ("routing header 2", vec![routing(2, 1, own)]),
        ("a segment routing header", vec![routing(4, 1, own)]),
        ("hop-by-hop options that are not first", vec![destination(), hop()]),
    ]
}

fn with_headers(stage: &mut Stage, ends: Ends) -> Vec<Shot> {
    let mut shots = Vec::new();
    for protocol in PROTOCOLS {
        for (what, headers) in header_chains(ends.to.ip()) {
            let shot = stage.shot(format!("{what}, protocol {protocol}"), |text| {
                let payload = transport(ends, protocol, text);
                vec![ipv6(ends.from.ip(), ends.to.ip(), &headers, protocol, &payload)]
            });
            shots.push(shot);
        }
    }
    shots
}

fn with_options(stage: &mut Stage, ends: Ends) -> Vec<Shot> {
    let IpAddr::V4(own) = ends.to.ip() else { panic!("IPv4") };
    let route = |kind: u8| [&[kind, 7, 4][..], &own.octets(), &[0]].concat();
    let many_ones = vec![1; 40];
    let options = [
        ("record route", true, [&[7, 39, 4][..], &[0; 37]].concat()),
        ("a timestamp", true, [&[68, 36, 5, 0][..], &[0; 32]].concat()),
        ("a router alert", true, vec![148, 4, 0, 0]),
        ("forty bytes of nothing", true, many_ones),
        ("an end at once", true, vec![0; 4]),
        ("an unknown option", true, vec![30, 4, 0, 0]),
        // The node's own `accept_source_route` decides here; it is on.
        ("a loose source route at its end", true, [&route(131)[..2], &[8], &route(131)[3..]].concat()),
        ("an option that is longer than its header", false, vec![7, 39, 4, 0]),
    ];
    let mut shots = Vec::new();
    for protocol in PROTOCOLS {
        for (what, arrives, options) in &options {
            let shot = stage.shot(format!("{what}, protocol {protocol}"), |text| {
                let payload = transport(ends, protocol, text);
                vec![ipv4(ends.from.ip(), ends.to.ip(), protocol, options, &payload)]
            });
            shots.push(shot.arrives_if(*arrives));
        }
    }
    shots
}

fn cases(stage: &mut Stage, family: Family, shots: fn(&mut Stage, Ends) -> Vec<Shot>) -> Vec<Case<'static>> {
    let mut cases = Vec::new();
    for (port, victim, to) in [(9000, "plain", 9000), (9001, "backend", 9000), (9002, "backend", 8080), (9003, "guarded", 9000)] {
        let ends = stage.ends(("attacker", port), (victim, to), family);
        let shots = shots(stage, ends);
        cases.push(Case { from: "attacker", victim, shots });
    }
    cases
}

#[test]
fn ipv6_extension_headers_hide_no_port() {
    everywhere(|stage| {
        let cases = cases(stage, Family::V6, with_headers);
        stage.closed(&cases);
    });
}

#[test]
fn ipv4_options_hide_no_port_and_lead_nowhere() {
    everywhere(|stage| {
        let node = stage.node();
        for interface in ["all", "default", stage.pod("attacker").interface()] {
            node.ns().sysctl(&format!("ipv4/conf/{interface}/accept_source_route"), "1").unwrap();
        }
        let cases = cases(stage, Family::V4, with_options);
        stage.closed(&cases);
    });
}

/// To a policy a packet with an authentication header is of that protocol; its port is the pods' that share the key.
#[test]
fn an_authentication_header_is_no_tcp() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        for (port, victim, to) in [(9000, "plain", 9000), (9001, "backend", 8080), (9002, "backend", 9000)] {
            let ends = stage.ends(("attacker", port), (victim, to), Family::V6);
            let header = vec![4, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut shots = Vec::new();
            for protocol in PROTOCOLS {
                shots.push(stage.shot(format!("protocol {protocol}"), |text| {
                    let payload = transport(ends, protocol, text);
                    vec![ipv6(ends.from.ip(), ends.to.ip(), &[(51, header.clone())], protocol, &payload)]
                }));
            }
            cases.push(Case { from: "attacker", victim, shots });
        }
        stage.closed(&cases);
    });
}

/// The node would send it on to its second segment behind the hook.
#[test]
fn a_segment_route_through_the_node_leads_nowhere() {
    everywhere(|stage| {
        let node = stage.node();
        for interface in ["all", "default", "lo", stage.pod("attacker").interface()] {
            node.ns().sysctl(&format!("ipv6/conf/{interface}/seg6_enabled"), "1").unwrap();
        }
        if stage.has_bridge() {
            node.ns().sysctl(&format!("ipv6/conf/{}/seg6_enabled", Node::BRIDGE), "1").unwrap();
        }
        let ends = stage.ends(("attacker", 9000), ("plain", 9000), Family::V6);
        let at_node = stage.node_address(Family::V6);
        let (IpAddr::V6(victim), IpAddr::V6(first)) = (ends.to.ip(), at_node) else { panic!("IPv6") };
        let shot = stage.shot("a segment route", |text| {
            // Segments are listed from the last to the first.
            let header = [&[4, 4, 1, 1, 0, 0, 0][..], &victim.octets(), &first.octets()].concat();
            vec![ipv6(ends.from.ip(), at_node, &[(ROUTING, header)], UDP, &udp(ends, text))]
        });
        let shot = Shot { to: Some(stage.gateway_mac("attacker")), ..shot };
        stage.closed(&[Case { from: "attacker", victim: "plain", shots: vec![shot] }]);
    });
}
