//! Packets inside packets to the node: a tunnel's end there would take a pod's for another node's, and what is inside for a
//! pod's of that node.

use std::net::IpAddr;

use sluice_testnet::Node;

use crate::packet::{Ends, UDP, udp};
use crate::stage::{Case, Family, POLICIES, Stage, everywhere};
use crate::wire::{Mac, frame, link_address};

const NUMBER: u8 = 42;

/// `plain` also takes what a pod of another node sends.
fn policies() -> String {
    POLICIES.replace(
        "  podSelector: { matchLabels: { app: plain } }\n  ingress:\n",
        "  podSelector: { matchLabels: { app: plain } }\n  ingress:\n  - from: [ { ipBlock: { cidr: 10.9.0.0/16 } } ]\n",
    )
}

/// An end of a VXLAN tunnel, as flannel makes it; its MAC.
fn tunnel(node: &Node, address: IpAddr, port: u16) -> Mac {
    let (address, port) = (address.to_string(), port.to_string());
    let add = ["link", "add", "flannel.1", "type", "vxlan", "id", "42", "local", &address, "dstport", &port, "nolearning"];
    node.ns().exec("ip", &add).unwrap();
    node.ns().exec("ip", &["link", "set", "flannel.1", "up"]).unwrap();
    node.ns().exec("ip", &["route", "add", "10.9.0.0/16", "dev", "flannel.1"]).unwrap();
    node.ns().run(|| link_address("flannel.1").addr().unwrap())
}

/// A frame in a datagram to the tunnel's end (RFC 7348).
fn inside(outer: Ends, frame: &[u8]) -> Vec<u8> {
    let header = [8, 0, 0, 0, 0, 0, NUMBER, 0];
    outer.packet(UDP, &udp(outer, &[&header[..], frame].concat()))
}

#[test]
fn a_pod_is_no_end_of_the_nodes_tunnel() {
    everywhere(|stage| {
        stage.scene.policies(&policies());
        for (family, port) in [(Family::V4, 8472), (Family::V6, 4789)] {
            let node_address = stage.node_address(family);
            let mac = tunnel(&stage.node(), node_address, port);
            let ends = Ends::new(("10.9.0.5".parse().unwrap(), 9000), (stage.address("plain", Family::V4), 9000));
            let outer = Ends::new((stage.address("attacker", family), 9000), (node_address, port));
            let shot = stage.shot("as a pod of another node", |text| {
                vec![inside(outer, &frame(mac, [2, 0, 0, 0, 0, 9], &[], &ends.datagram(text)))]
            });
            let case = [Case { from: "attacker", victim: "plain", shots: vec![shot.to(stage.gateway_mac("attacker"))] }];
            stage.nothing_arrives(&case);
            // What another node sends does arrive: from outside, to the same address.
            let peer = Ends::new((Stage::outside(family), 9000), (node_address, port));
            let text = stage.text();
            let plain = stage.wire("plain");
            let socket = stage.scene.net.outside().udp_bind(peer.from).unwrap();
            let payload =
                [&[8, 0, 0, 0, 0, 0, NUMBER, 0][..], &frame(mac, [2, 0, 0, 0, 0, 9], &[], &ends.datagram(&text))].concat();
            socket.send_to(&payload, peer.to).unwrap();
            assert!(Stage::arrives(&plain, &text, crate::scene::LONG), "{family:?}: of another node");
            stage.node().ns().exec("ip", &["link", "delete", "flannel.1"]).unwrap();
        }
        let mac = tunnel(&stage.node(), stage.node_address(Family::V4), 8472);
        let ends = Ends::new(("10.9.0.5".parse().unwrap(), 9000), (stage.address("plain", Family::V4), 9000));
        let outer = Ends::new((stage.address("attacker", Family::V4), 9000), (stage.node_address(Family::V4), 8472));
        let shot = stage.shot("as a pod of another node", |text| {
            vec![inside(outer, &frame(mac, [2, 0, 0, 0, 0, 9], &[], &ends.datagram(text)))]
        });
        stage.disarm();
        stage.all_arrives(&[Case { from: "attacker", victim: "plain", shots: vec![shot.to(stage.gateway_mac("attacker"))] }]);
    });
}
