//! What is addressed to everybody, and frames that carry no IP.

use std::net::IpAddr;

use crate::packet::Ends;
use crate::scene::LONG;
use crate::stage::{Family, SILENCE, Stage, everywhere, holds};
use crate::wire::{BROADCAST, Mac, Wire, frame};

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
        // As who has no address yet, and as who gives them out.
        for (from, source, to, port) in [
            ("0.0.0.0", 68, "255.255.255.255", 67),
            ("10.1.0.4", 67, "255.255.255.255", 68),
            ("10.1.0.4", 67, "10.1.0.3", 68),
            ("fe80::4", 546, "ff02::1:2", 547),
            ("fd00:1::4", 547, "ff02::1", 546),
            ("fe80::4", 547, "fd00:1::3", 546),
        ] {
            let ends = Ends::new((from.parse().unwrap(), source), (to.parse().unwrap(), port));
            for mac in [multicast_mac(ends.to.ip()), BROADCAST, stage.mac("plain")] {
                let text = stage.text();
                attacker.send(&frame(mac, attacker.mac(), &[], &ends.datagram(&text)));
                texts.push((format!("{from}:{source} to {to}:{port} in a frame to {mac:02x?}"), text));
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

/// Kinds of frames that aren't IP's, and IP as frames carried it before Ethernet had kinds (RFC 1042).
#[test]
fn frames_of_other_kinds_reach_no_pod() {
    everywhere(|stage| {
        let attacker = stage.wire("attacker");
        let ends = stage.ends(("attacker", 9000), ("plain", 9000), Family::V4);
        let victim = stage.mac("plain");
        let mut frames = Vec::new();
        for (what, before) in [
            ("PPPoE", vec![0x88, 0x64, 0x11, 0, 0, 1, 0, 50, 0, 0x21]),
            ("MPLS", vec![0x88, 0x47, 0, 1, 1, 64]),
            ("an experiment", vec![0x88, 0xb5]),
            ("LLC and SNAP", vec![0, 56, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0]),
            ("MACsec", vec![0x88, 0xe5, 0x2c, 0, 0, 0, 0, 1]),
            ("EAPOL", vec![0x88, 0x8e]),
            ("a bridge's own protocol", vec![0x89, 0x2f]),
        ] {
            for mac in [victim, BROADCAST, [1, 0x80, 0xc2, 0, 0, 0x0f]] {
                let text = stage.text();
                let frame = [&mac[..], &attacker.mac(), &before, &ends.datagram(&text)].concat();
                frames.push((format!("{what} to {mac:02x?}"), text, frame));
            }
        }
        let fire = |watched: [&Wire; 2]| {
            frames.iter().for_each(|(_, _, frame)| attacker.send(frame));
            std::thread::sleep(SILENCE);
            watched.map(|wire| {
                let got = wire.frames();
                let hits = frames.iter().filter(|(_, text, _)| got.iter().any(|frame| holds(frame, text)));
                hits.map(|(what, ..)| what.clone()).collect::<Vec<_>>()
            })
        };
        let plain = stage.wire("plain");
        let node_end = Wire::open(stage.node().ns(), stage.pod("attacker").interface());
        let [at_plain, at_node] = fire([&plain, &node_end]);
        assert_eq!(at_node.len(), frames.len(), "all of them leave");
        assert!(at_plain.is_empty(), "{at_plain:?}");
        stage.disarm();
        let [at_plain, _] = fire([&plain, &node_end]);
        // Routed, the node carries no such frames.
        assert_eq!(stage.has_bridge(), !at_plain.is_empty(), "where nothing is enforced: {at_plain:?}");
    });
}
