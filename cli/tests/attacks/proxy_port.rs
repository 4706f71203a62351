//! The proxy's own port, by any address, and the mark by which packets are led to it.

use std::net::IpAddr;
use std::time::Duration;

use sluice_testnet::Signal;
use socket2::{Domain, Protocol, Socket, Type};

use crate::packet::{ACK, Ends, SYN};
use crate::scene::{LONG, SHORT};
use crate::stage::{Family, SILENCE, Stage, everywhere, holds, segments};
use crate::wire::{Wire, frame};

const PORTS: [u16; 2] = [15_001, 15_020];

/// Who answers a SYN to one of the proxy's ports at these addresses, sent to the node.
fn answering(stage: &Stage, addresses: &[IpAddr], first_port: u16) -> Vec<(IpAddr, u16)> {
    let wire = stage.wire("attacker");
    let mut tried = Vec::new();
    for (number, (address, port)) in (0..).zip(addresses.iter().flat_map(|address| PORTS.map(|port| (*address, port)))) {
        let family = if address.is_ipv4() { Family::V4 } else { Family::V6 };
        let ends = Ends::new((stage.address("attacker", family), first_port + number), (address, port));
        wire.send(&frame(stage.gateway_mac("attacker"), wire.mac(), &[], &ends.syn(b"")));
        tried.push(ends);
    }
    std::thread::sleep(SILENCE);
    let answers = segments(&wire.frames());
    let taken = |ends: &Ends| answers.iter().any(|(at, segment)| *at == ends.back() && segment.flags & (SYN | ACK) == SYN | ACK);
    tried.iter().filter(|ends| taken(ends)).map(|ends| (ends.to.ip(), ends.to.port())).collect()
}

#[test]
fn the_proxys_port_is_at_no_address() {
    everywhere(|stage| {
        let node = stage.node();
        for interface in ["all", "default", stage.pod("attacker").interface()] {
            node.ns().sysctl(&format!("ipv4/conf/{interface}/route_localnet"), "1").unwrap();
            node.ns().sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0").unwrap();
        }
        let mut addresses: Vec<IpAddr> = node.addresses().to_vec();
        for pod in ["frontend", "backend", "plain", "open", "isolated", "guarded"] {
            addresses.extend(stage.pod(pod).addresses());
        }
        let others = [
            "127.0.0.1",
            "127.1.2.3",
            "169.254.1.1",
            "0.0.0.0",
            "10.1.0.99",
            "255.255.255.255",
            "::1",
            "fe80::1",
            "::ffff:127.0.0.1",
            "fd00:1::99",
            "::",
        ];
        addresses.extend(others.map(|text| text.parse::<IpAddr>().unwrap()));
        let answers = answering(stage, &addresses, 30_000);
        assert!(answers.is_empty(), "{answers:?}");
        // Where a pod listens there and may be reached, the same SYN is answered.
        let open = stage.pod("open");
        let listeners =
            [Family::V4, Family::V6].map(|family| open.ns().tcp_listen((stage.address("open", family), 15_001).into()).unwrap());
        assert_eq!(
            answering(stage, &open.addresses(), 31_000),
            open.addresses().iter().map(|ip| (*ip, 15_001)).collect::<Vec<_>>()
        );
        drop(listeners);
        // And without the rules the proxy's own socket answers: it sleeps, so that it can't write them again.
        stage.scene.programs.proxy("node-1").unwrap().signal(Signal::SIGSTOP).unwrap();
        node.ns().exec("nft", &["delete", "table", "inet", "sluice"]).unwrap();
        let answers = answering(stage, &["127.0.0.1".parse().unwrap()], 32_000);
        assert_eq!(answers.iter().map(|(_, port)| *port).collect::<Vec<_>>(), PORTS);
    });
}

/// The mark of the default configuration.
const MARK: &str = "0x1000";

/// Rules of somebody else that count a pod's packets with the mark, and perhaps give it to all of them.
fn observer(stage: &Stage, name: &str, rule: &str) {
    let interfaces = format!("{{ {}, {} }}", stage.pod("attacker").interface(), sluice_testnet::Node::BRIDGE);
    let rules = format!(
        "add table inet {name}; add chain inet {name} c {{ type filter hook prerouting priority -300; }}; \
         add rule inet {name} c iifname {interfaces} {rule}"
    );
    stage.node().ns().exec("nft", &[&rules]).unwrap();
}

fn counted(stage: &Stage, name: &str) -> u64 {
    let text = stage.node().ns().exec("nft", &["list", "table", "inet", name]).unwrap();
    let mut words = text.split_whitespace().skip_while(|word| *word != "packets");
    words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no counter in {text}"))
}

/// A datagram and a connection with a request that is denied, from sockets with this mark.
fn marked_traffic(stage: &Stage, text: &[u8], mark: u32) {
    for family in Family::BOTH {
        let attacker = stage.pod("attacker");
        let domain = if family == Family::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let datagrams = attacker.ns().run(|| Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))).unwrap();
        datagrams.set_mark(mark).unwrap();
        for victim in ["plain", "open"] {
            let to = stage.ends(("attacker", 0), (victim, 9000), family).to;
            datagrams.send_to(text, &to.into()).unwrap();
        }
        let stream = attacker.ns().run(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP))).unwrap();
        stream.set_mark(mark).unwrap();
        let to = stage.ends(("attacker", 0), ("backend", 8080), family).to;
        if stream.connect_timeout(&to.into(), SHORT).is_ok() {
            let _ = stream.send(b"GET /admin HTTP/1.1\r\nHost: a\r\n\r\n");
        }
    }
}

fn assert_denied(stage: &Stage, wires: &[(&str, Wire)], text: &[u8], what: &str) {
    std::thread::sleep(SILENCE);
    for (pod, wire) in wires {
        let frames = wire.frames();
        assert!(!frames.iter().any(|frame| holds(frame, text) || holds(frame, b"/admin")), "{what}: {pod}");
    }
    assert!(stage.scene.seen("/admin").is_empty(), "{what}");
}

fn closed_pods(stage: &Stage) -> [(&'static str, Wire); 2] {
    ["plain", "backend"].map(|pod| (pod, stage.wire(pod)))
}

#[test]
fn the_proxys_mark_opens_nothing() {
    everywhere(|stage| {
        observer(stage, "before", &format!("meta mark and {MARK} == {MARK} counter"));
        let text = stage.text();
        let open = stage.wire("open");
        let watched = closed_pods(stage);
        marked_traffic(stage, &text, 0x1000);
        assert!(Stage::arrives(&open, &text, LONG), "what is allowed arrives");
        assert_denied(stage, &watched, &text, "a pod's own mark");
        assert_eq!(counted(stage, "before"), 0, "the mark of a pod's socket does not leave its namespace");
        // An interface or a rule that does give it to the pod's packets.
        observer(stage, "giving", &format!("counter meta mark set meta mark or {MARK}"));
        let text = stage.text();
        let watched = closed_pods(stage);
        open.frames();
        marked_traffic(stage, &text, 0);
        assert_denied(stage, &watched, &text, "a mark that the node gave");
        assert!(counted(stage, "giving") > 0);
        assert!(!Stage::arrives(&open, &text, Duration::ZERO), "a packet with the mark is the proxy's or nobody's");
        // The same with the routing rule gone, as a network manager leaves it: for some moments it isn't even the proxy's.
        let text = stage.text();
        let watched = closed_pods(stage);
        for family in ["-4", "-6"] {
            stage.node().ns().exec("ip", &[family, "rule", "del", "priority", "100"]).unwrap();
        }
        marked_traffic(stage, &text, 0);
        assert_denied(stage, &watched, &text, "a mark without its routing rule");
    });
}
