//! What is neither TCP nor UDP, what comes in tagged frames, and what is addressed to everybody.

use std::net::IpAddr;

use crate::packet::{Ends, SYN, Segment, udp};
use crate::scene::LONG;
use crate::stage::{Case, Family, SILENCE, Shot, Stage, everywhere, holds};
use crate::wire::{BROADCAST, Mac, SERVICE_VLAN, VLAN, Wire, frame};

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

fn multicast_mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(address) if address.is_multicast() => {
            let [_, b, c, d] = address.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V4(_) => BROADCAST,
        IpAddr::V6(address) => {
            let octets = address.octets();
            [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
        }
    }
}

/// No pod gets them, in frames to everybody or to the node; that they leave the attacker's interface is seen at its other end.
#[test]
fn what_is_addressed_to_everybody_reaches_no_pod() {
    everywhere(|stage| {
        let everybody = [
            "255.255.255.255",
            "10.1.0.255",
            "10.1.255.255",
            "10.0.1.255",
            "224.0.0.1",
            "224.0.0.251",
            "239.1.1.1",
            "ff02::1",
            "ff02::fb",
            "ff05::1",
            "ff0e::1",
            "ff02::1:ff00:3",
            "ff01::1",
        ];
        let pods = ["frontend", "backend", "plain", "open", "isolated", "guarded"];
        let wires = pods.map(|pod| stage.wire(pod));
        let node_end = Wire::open(stage.node().ns(), stage.pod("attacker").interface());
        let attacker = stage.wire("attacker");
        let mut texts = Vec::new();
        for address in everybody {
            let address: IpAddr = address.parse().unwrap();
            let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
            for mac in [multicast_mac(address), BROADCAST, stage.gateway_mac("attacker"), stage.mac("plain")] {
                let text = stage.text();
                let ends = Ends::new((stage.address("attacker", family), 9000), (address, 9000));
                attacker.send(&frame(mac, attacker.mac(), &[], &ends.datagram(&text)));
                texts.push((format!("{address} in a frame to {mac:02x?}"), text));
            }
        }
        // A pod's own address in a frame to everybody: what filters by MAC lets through.
        for victim in ["plain", "backend", "isolated"] {
            for family in Family::BOTH {
                let text = stage.text();
                let ends = stage.ends(("attacker", 9000), (victim, 9000), family);
                attacker.send(&frame(BROADCAST, attacker.mac(), &[], &ends.datagram(&text)));
                texts.push((format!("{victim} in a frame to everybody"), text));
            }
        }
        std::thread::sleep(SILENCE);
        let sent = node_end.frames();
        for (what, text) in &texts {
            assert!(sent.iter().any(|frame| holds(frame, text)), "{what} does not even leave");
        }
        for (pod, wire) in pods.iter().zip(&wires) {
            let got = wire.frames();
            let arrived: Vec<_> = texts.iter().filter(|(_, text)| got.iter().any(|frame| holds(frame, text))).collect();
            assert!(arrived.is_empty(), "{pod} gets {arrived:?}");
        }
        // And the sniffing works: what is allowed arrives.
        let text = stage.text();
        stage.send("attacker", &stage.ends(("attacker", 9000), ("open", 9000), Family::V4).datagram(&text));
        assert!(Stage::arrives(&wires[3], &text, LONG));
    });
}
