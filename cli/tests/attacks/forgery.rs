//! What a pod sends in another's name: as the end of an established flow, as the node, as the outside, with another's MAC, and
//! with addresses that are nobody's.

use std::net::IpAddr;

use sluice_testnet::ReversePath;

use crate::client::Pair;
use crate::packet::{ACK, Ends, PSH, Segment, TCP};
use crate::stage::{Case, Family, SILENCE, Stage, everywhere, segments, with_reverse_path};
use crate::wire::{BROADCAST, Wire, link_local};

/// A connection and an exchange of datagrams from `frontend` to `plain`, both live.
struct Flows {
    stream: Pair,
    /// What the client would send next.
    next: (Ends, Segment),
    datagrams: Ends,
    _sockets: [std::net::UdpSocket; 2],
}

fn flows(stage: &Stage, family: Family) -> Flows {
    let wire = stage.wire("plain");
    let to = stage.ends(("plain", 0), ("plain", 9801), family).to;
    let mut stream = Pair::connect(stage.pod("frontend").ns(), stage.pod("plain").ns(), &to.to_string());
    assert_eq!(stream.passes(crate::scene::LONG), (true, true));
    let of_client = Ends { from: stream.client.local_addr().unwrap(), to };
    // The last acknowledgement of the server says what it expects; the client's last segment, what it has.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let seen = segments(&wire.frames());
    let last = |ends: Ends| seen.iter().rev().find(|(at, _)| *at == ends).map(|(_, segment)| segment.clone()).unwrap();
    let (client, server) = (last(of_client), last(of_client.back()));
    let next =
        Segment { flags: ACK | PSH, sequence: server.acknowledged, acknowledged: client.acknowledged, ..Segment::default() };
    let datagrams = stage.ends(("frontend", 9802), ("plain", 9803), family);
    let sockets =
        [stage.pod("frontend").ns().udp_bind(datagrams.from).unwrap(), stage.pod("plain").ns().udp_bind(datagrams.to).unwrap()];
    for (socket, to) in [(0, datagrams.to), (1, datagrams.from)] {
        sockets[socket].send_to(b"word", to).unwrap();
        sockets[1 - socket].set_read_timeout(Some(crate::scene::LONG)).unwrap();
        sockets[1 - socket].recv(&mut [0; 8]).unwrap();
    }
    Flows { stream, next: (of_client, next), datagrams, _sockets: sockets }
}

/// Segments and datagrams of both ends of live flows; each with the pod it is meant for.
fn of_live_flows(stage: &mut Stage, flows: &Flows) -> Vec<Case<'static>> {
    let (ends, next) = flows.next.clone();
    let from_server =
        Segment { flags: ACK | PSH, sequence: next.acknowledged, acknowledged: next.sequence, ..Segment::default() };
    let mut to_server = Vec::new();
    let mut to_client = Vec::new();
    to_server.push(stage.shot("the client's next segment", |text| {
        vec![ends.packet(TCP, &Segment { text: text.to_vec(), ..next.clone() }.encode(ends))]
    }));
    to_server.push(stage.shot("the client's reset", |text| {
        vec![ends.packet(TCP, &Segment { flags: crate::packet::RST, text: text.to_vec(), ..next.clone() }.encode(ends))]
    }));
    to_client.push(stage.shot("the server's next segment", |text| {
        vec![ends.back().packet(TCP, &Segment { text: text.to_vec(), ..from_server.clone() }.encode(ends.back()))]
    }));
    to_server.push(stage.shot("the client's next datagram", |text| vec![flows.datagrams.datagram(text)]));
    to_client.push(stage.shot("the server's next datagram", |text| vec![flows.datagrams.back().datagram(text)]));
    vec![
        Case { from: "attacker", victim: "plain", shots: to_server },
        Case { from: "attacker", victim: "frontend", shots: to_client },
    ]
}

fn a_neighbours_word_in_a_live_flow(reverse_path: ReversePath) {
    with_reverse_path(reverse_path, |stage| {
        let mut cases = Vec::new();
        let mut live = Vec::new();
        for family in Family::BOTH {
            let flows = flows(stage, family);
            cases.extend(of_live_flows(stage, &flows));
            live.push(flows);
        }
        stage.nothing_arrives(&cases);
        for flows in &mut live {
            assert_eq!(flows.stream.passes(crate::scene::LONG), (true, true), "and the flow is not disturbed");
        }
        stage.disarm();
        stage.all_arrives(&cases);
    });
}

#[test]
fn a_neighbours_word_in_a_live_flow_without_rp_filter() {
    a_neighbours_word_in_a_live_flow(ReversePath::Off);
}

#[test]
fn a_neighbours_word_in_a_live_flow_with_a_loose_rp_filter() {
    a_neighbours_word_in_a_live_flow(ReversePath::Loose);
}

/// Sources that policy lets in, that are everybody's, or that are written in another way.
fn forged_sources(stage: &Stage, family: Family) -> Vec<(String, IpAddr, bool)> {
    let mut sources: Vec<(&str, IpAddr, bool)> = vec![
        ("the allowed pod", stage.address("frontend", family), true),
        ("the victim itself", stage.address("plain", family), true),
        ("the node", stage.node_address(family), false),
        ("the outside", Stage::outside(family), true),
    ];
    let others: &[(&str, &str, bool)] = match family {
        Family::V4 => &[
            ("loopback", "127.0.0.1", false),
            ("the gateway", "169.254.1.1", true),
            ("nobody", "0.0.0.0", false),
            ("everybody", "255.255.255.255", false),
            ("a group", "224.0.0.1", false),
            ("an address of no pod", "10.1.0.99", true),
        ],
        Family::V6 => &[
            ("loopback", "::1", false),
            ("the gateway", "fe80::1", false),
            ("nobody", "::", false),
            ("a group", "ff02::1", false),
            ("a link-local address", "fe80::4", false),
            ("an IPv4 address inside", "::ffff:10.1.0.1", false),
            ("an IPv4-compatible address", "::10.1.0.1", true),
            ("6to4", "2002:a01:1::1", true),
            ("NAT64", "64:ff9b::10.1.0.1", true),
            ("an address of no pod", "fd00:1::99", true),
        ],
    };
    sources.extend(others.iter().map(|(what, address, arrives)| (*what, address.parse().unwrap(), *arrives)));
    sources.into_iter().map(|(what, address, arrives)| (format!("{what} ({address})"), address, arrives)).collect()
}

#[test]
fn a_forged_source_begins_no_flow() {
    with_reverse_path(ReversePath::Off, |stage| {
        let mut cases = Vec::new();
        for family in Family::BOTH {
            for (victim, port) in [("plain", 9000), ("backend", 8080), ("open", 9000), ("isolated", 9000)] {
                let to = stage.address(victim, family);
                let mut shots = Vec::new();
                for (what, source, arrives) in forged_sources(stage, family).into_iter().filter(|(_, source, _)| *source != to) {
                    let ends = Ends::new((source, 9000), (to, port));
                    // On a bridge nobody looks at addresses.
                    let arrives = arrives || stage.has_bridge();
                    shots.push(stage.shot(format!("datagram of {what}"), |text| vec![ends.datagram(text)]).arrives_if(arrives));
                    shots.push(stage.shot(format!("SYN of {what}"), |text| vec![ends.syn(text)]).arrives_if(arrives));
                }
                cases.push(Case { from: "attacker", victim, shots });
            }
        }
        stage.closed(&cases);
    });
}

/// Destinations that mean a pod in another way, and link-local ones.
#[test]
fn a_pod_has_no_other_address() {
    everywhere(|stage| {
        let plain = stage.wire("plain");
        let own: IpAddr = stage.pod("plain").ns().run(|| link_local("eth0")).into();
        let destinations =
            ["::ffff:10.1.0.3", "::10.1.0.3", "2002:a01:3::1", "64:ff9b::10.1.0.3"].map(|text| text.parse().unwrap());
        let source = stage.address("attacker", Family::V6);
        let mut shots = Vec::new();
        for (source, to) in destinations.map(|to| (source, to)).into_iter().chain([
            (source, own),
            ("fe80::4".parse().unwrap(), own),
            ("fe80::4".parse().unwrap(), stage.address("plain", Family::V6)),
        ]) {
            let (gateway, victim) = (stage.gateway_mac("attacker"), plain.mac());
            for mac in [gateway, victim] {
                let ends = Ends::new((source, 9000), (to, 9000));
                // A neighbour on the bridge gets what is sent to its MAC.
                let arrives = stage.has_bridge() && mac == victim;
                shots.push(
                    stage
                        .shot(format!("{source} to {to} by {mac:02x?}"), |text| vec![ends.datagram(text)])
                        .to(mac)
                        .arrives_if(arrives),
                );
            }
        }
        let has_bridge = stage.has_bridge();
        let cases = [Case { from: "attacker", victim: "plain", shots }];
        stage.nothing_arrives(&cases);
        stage.disarm();
        if has_bridge {
            stage.all_arrives(&cases);
        } else {
            // Routed, none of them leads to a pod even so; that the frames are right shows the node, which has a link-local address too.
            let node_end = Wire::open(stage.node().ns(), stage.pod("attacker").interface());
            let arrived = stage.arrived(&cases, SILENCE);
            assert!(arrived.is_empty(), "{arrived:?}");
            assert!(!node_end.frames().is_empty());
        }
    });
}

/// As which pod, by which MAC and to which; where the frame's MACs are the victim's own, the bridge is confused for a while.
#[test]
fn another_mac_makes_no_other_pod() {
    with_reverse_path(ReversePath::Off, |stage| {
        let (mut cases, mut confusing) = (Vec::new(), Vec::new());
        let is_bridged = stage.has_bridge();
        let third = stage.mac("frontend");
        let node = stage.gateway_mac("attacker");
        for family in Family::BOTH {
            for (victim, port) in [("plain", 9000), ("backend", 8080)] {
                let of_victim = stage.mac(victim);
                let (mut shots, mut by_victim) = (Vec::new(), Vec::new());
                for as_frontend in [false, true] {
                    let mut ends = stage.ends(("attacker", 9000), (victim, port), family);
                    if as_frontend {
                        ends.from.set_ip(stage.address("frontend", family));
                    }
                    let mut shot = |what: &str| {
                        let named = if as_frontend { "in the client's name" } else { "in its own name" };
                        stage.shot(format!("{named}, {what}"), |text| vec![ends.datagram(text), ends.syn(text)])
                    };
                    shots.push(shot("to the victim's MAC").to(of_victim).arrives_if(is_bridged));
                    shots.push(shot("to a third pod's MAC").to(third).arrives_if(false));
                    shots.push(shot("to the node's MAC").to(node));
                    shots.push(shot("by a third pod's MAC").by(third));
                    shots.push(shot("by the node's MAC").by(node).arrives_if(!is_bridged));
                    shots.push(shot("by everybody's MAC").by(BROADCAST).arrives_if(!is_bridged));
                    by_victim.push(shot("by the victim's MAC").by(of_victim).arrives_if(!is_bridged));
                }
                cases.push(Case { from: "attacker", victim, shots });
                confusing.push(Case { from: "attacker", victim, shots: by_victim });
            }
        }
        cases.extend(confusing);
        stage.closed(&cases);
    });
}
