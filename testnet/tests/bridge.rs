//! Pods on a bridge: they speak to each other on it, and to all else by way of their node.

use std::net::IpAddr;
use std::time::Duration;

use sluice_testnet::{Layout, Net, Netns, Node, Options, Outcome, Pod, Port, Probe, Protocol, Service, capability};

const WAIT: Duration = Duration::from_millis(500);
const PORTS: [Port; 3] = [Port::tcp(80), Port::udp(53), Port::sctp(132)];
const LAYOUTS: [Layout; 2] = [Layout::Bridge { call_iptables: false }, Layout::Bridge { call_iptables: true }];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Two pods of one bridge, with addresses that no prefix has in common.
fn scene(layout: Layout) -> Option<(Net, Node, Pod, Pod)> {
    if let Err(why) = capability() {
        assert!(!nix::unistd::geteuid().is_root(), "{why}");
        println!("SKIPPED: {why}");
        return None;
    }
    let net = Net::with(Options { layout, ..Options::default() }).expect("a network");
    let node = net.add_node("node-1", &[]).expect("a node");
    let pods = [("x/a", ["192.168.1.5", "fd00:1::5"]), ("x/b", ["10.240.0.10", "fd00:2::a"])].map(|(name, addresses)| {
        let pod = net.add_pod(&node, name, &addresses.map(ip)).expect("a pod");
        net.serve_pod(&pod, &PORTS).expect("its servers");
        pod
    });
    net.serve(net.outside(), "outside", &PORTS).expect("servers outside");
    net.serve(node.ns(), "node-1", &PORTS).expect("servers on the node");
    let [a, b] = pods;
    Some((net, node, a, b))
}

fn probe(from: &Netns, to: &str, port: Port) -> Probe {
    Probe { from: from.clone(), source: None, to: ip(to), port: port.number, protocol: port.protocol }
}

fn check_reaches(net: &Net, from: &Netns, to: &str, peer: &str, source: &str) {
    let probes: Vec<_> = PORTS.iter().map(|port| probe(from, to, *port)).collect();
    for (probe, outcome) in probes.iter().zip(net.probe(&probes, WAIT)) {
        let Outcome::Connected { peer: who, seen } = &outcome else {
            panic!("{} to {to} {:?}: {outcome:?}", from.name(), probe.protocol);
        };
        assert_eq!((who.as_deref(), seen.map(|s| s.ip())), (Some(peer), Some(ip(source))), "{probe:?}");
    }
}

#[test]
fn pods_of_one_bridge_speak_on_the_link() {
    for layout in LAYOUTS {
        let Some((net, node, a, b)) = scene(layout) else { return };
        check_reaches(&net, a.ns(), "10.240.0.10", "x/b", "192.168.1.5");
        check_reaches(&net, a.ns(), "fd00:2::a", "x/b", "fd00:1::5");
        // Each knows the other by its own link-layer address, and the node routed nothing.
        let learned = a.ns().exec("ip", &["neighbour"]).expect("neighbours");
        for to in ["10.240.0.10", "fd00:2::a"] {
            let line = learned.lines().find(|line| line.starts_with(to)).unwrap_or_else(|| panic!("{to}: {learned}"));
            let link = b.ns().exec("ip", &["-o", "link", "show", "eth0"]).expect("a link");
            let own = link.split_whitespace().skip_while(|word| *word != "link/ether").nth(1).expect("an address");
            assert!(line.contains(own), "{line}, {own}");
        }
        let drop = "add table inet t; add chain inet t c { type filter hook prerouting priority 0; policy drop; }";
        node.ns().exec("nft", &[drop]).expect("a ruleset");
        let outcomes = net.probe(&[probe(a.ns(), "10.240.0.10", PORTS[0]), probe(a.ns(), "fd00:2::a", PORTS[0])], WAIT);
        let through = layout == Layout::Bridge { call_iptables: false };
        assert!(outcomes.iter().all(|outcome| outcome.is_connected() == through), "{layout:?}: {outcomes:?}");
    }
}

#[test]
fn all_else_goes_by_way_of_the_node() {
    for layout in LAYOUTS {
        let Some((net, node, a, _b)) = scene(layout) else { return };
        check_reaches(&net, a.ns(), "203.0.113.10", "outside", "192.168.1.5");
        check_reaches(&net, a.ns(), "2001:db8:ffff::10", "outside", "fd00:1::5");
        check_reaches(&net, net.outside(), "fd00:2::a", "x/b", "2001:db8:ffff::10");
        check_reaches(&net, a.ns(), "198.18.0.1", "node-1", "192.168.1.5");
        check_reaches(&net, node.ns(), "192.168.1.5", "x/a", "198.18.0.1");
        check_reaches(&net, node.ns(), "fd00:1::5", "x/a", "2001:db8:fffe::1");
        let other = net.add_node("node-2", &[]).expect("a second node");
        let c = net.add_pod(&other, "x/c", &[ip("10.240.0.11"), ip("fd00:2::b")]).expect("a pod on it");
        net.serve_pod(&c, &PORTS).expect("its servers");
        check_reaches(&net, a.ns(), "10.240.0.11", "x/c", "192.168.1.5");
        check_reaches(&net, c.ns(), "fd00:1::5", "x/a", "fd00:2::b");
    }
}

#[test]
fn pods_and_addresses_come_and_go() {
    for layout in LAYOUTS {
        let Some((net, node, a, b)) = scene(layout) else { return };
        a.add_address(ip("172.18.0.10")).expect("one more address");
        check_reaches(&net, b.ns(), "172.18.0.10", "x/a", "10.240.0.10");
        a.remove_address(ip("192.168.1.5")).expect("one less");
        check_reaches(&net, a.ns(), "10.240.0.10", "x/b", "172.18.0.10");
        net.remove_pod("x/b").expect("the pod goes");
        let gone = net.probe(&[probe(a.ns(), "10.240.0.10", PORTS[0])], WAIT);
        assert!(matches!(gone[0], Outcome::Unreachable(_)), "{gone:?}");
        // Its successor has the address and another interface.
        let again = net.add_pod(&node, "x/b", &[ip("10.240.0.10")]).expect("it comes back");
        net.serve_pod(&again, &PORTS).expect("its servers");
        check_reaches(&net, a.ns(), "10.240.0.10", "x/b", "172.18.0.10");
        net.remove_node("node-1").expect("the node goes");
        assert!(net.pods().is_empty());
    }
}

/// With bridge-nf-call-iptables 0 the answer of a neighbour never meets the translation: kube-proxy's own requirement.
#[test]
fn services_work_as_kube_proxy_says() {
    for layout in LAYOUTS {
        let Some((net, node, a, b)) = scene(layout) else { return };
        let service = |protocol, address: &str, backend: &str| Service {
            name: "x/b".to_owned(),
            protocol,
            address: address.parse().expect("an address"),
            backends: vec![backend.parse().expect("an address")],
        };
        node.set_services(&[
            service(Protocol::Tcp, "10.96.0.10:8080", "10.240.0.10:80"),
            service(Protocol::Tcp, "[fd96::10]:8080", "[fd00:2::a]:80"),
        ])
        .expect("services");
        let port = Port::tcp(8080);
        let hairpin = [probe(b.ns(), "10.96.0.10", port), probe(b.ns(), "fd96::10", port), probe(node.ns(), "10.96.0.10", port)];
        for outcome in net.probe(&hairpin, WAIT) {
            assert_eq!(outcome.peer(), Some("x/b"), "{layout:?}: {outcome:?}");
        }
        let neighbour = net.probe(&[probe(a.ns(), "10.96.0.10", port), probe(a.ns(), "fd96::10", port)], WAIT);
        let wanted = (layout == Layout::Bridge { call_iptables: true }).then_some("x/b");
        assert!(neighbour.iter().all(|outcome| outcome.peer() == wanted), "{layout:?}: {neighbour:?}");
    }
}
