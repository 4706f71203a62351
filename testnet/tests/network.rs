//! The network itself: who reaches whom, over which way, and that nothing is left of it.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use sluice_testnet::{
    Net, Netns, Node, Options, Outcome, Pod, Port, Probe, Protocol, ReversePath, Service, capability, wait_until,
};

const WAIT: Duration = Duration::from_millis(500);

/// An empty network, or None with the reason printed where there can be none. As root there always can.
fn network() -> Option<Net> {
    if let Err(why) = capability() {
        assert!(!nix::unistd::geteuid().is_root(), "{why}");
        println!("SKIPPED: {why}");
        return None;
    }
    Some(Net::new().expect("a network"))
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn probe(from: &Netns, to: &str, port: Port) -> Probe {
    Probe { from: from.clone(), source: None, to: ip(to), port: port.number, protocol: port.protocol }
}

fn icmp(from: &Netns, to: &str) -> Probe {
    probe(from, to, Port::of(Protocol::Icmp, 0))
}

const PORTS: [Port; 3] = [Port::tcp(80), Port::udp(53), Port::sctp(132)];

/// Every protocol from `from` to `to` is answered by `peer`, which sees `source`.
fn check_reaches(net: &Net, from: &Netns, to: &str, peer: &str, source: &str) {
    let probes: Vec<_> = PORTS.iter().map(|port| probe(from, to, *port)).collect();
    for (probe, outcome) in probes.iter().zip(net.probe(&probes, WAIT)) {
        let Outcome::Connected { peer: who, seen } = &outcome else {
            panic!("{} to {to} {:?}: {outcome:?}", from.name(), probe.protocol);
        };
        assert_eq!(who.as_deref(), Some(peer), "{probe:?}");
        assert_eq!(seen.map(|s| s.ip()), Some(ip(source)), "{probe:?}");
    }
    let outcome = net.probe(&[icmp(from, to)], WAIT).remove(0);
    assert!(outcome.is_connected(), "{} pings {to}: {outcome:?}", from.name());
}

fn two_pods(net: &Net) -> (Node, Pod, Pod) {
    let node = net.add_node("node-1", &[]).expect("a node");
    let pod = |name: &str, v4: &str, v6: &str| {
        let pod = net.add_pod(&node, name, &[ip(v4), ip(v6)]).expect("a pod");
        net.serve_pod(&pod, &PORTS).expect("its servers");
        pod
    };
    let a = pod("production/a", "192.168.1.5", "fd00:1::5");
    let b = pod("production/b", "10.240.0.10", "fd00:2::a");
    (node, a, b)
}

#[test]
fn pods_of_one_node_reach_each_other_and_themselves() {
    let Some(net) = network() else { return };
    let (node, a, b) = two_pods(&net);
    assert_eq!(a.interface(), "veth-a");
    for (from, to, peer, source) in [
        (&a, "10.240.0.10", "production/b", "192.168.1.5"),
        (&a, "fd00:2::a", "production/b", "fd00:1::5"),
        (&b, "192.168.1.5", "production/a", "10.240.0.10"),
        (&b, "10.240.0.10", "production/b", "10.240.0.10"),
        (&b, "fd00:2::a", "production/b", "fd00:2::a"),
    ] {
        check_reaches(&net, from.ns(), to, peer, source);
    }
    check_reaches(&net, node.ns(), "192.168.1.5", "production/a", "198.18.0.1");
    check_reaches(&net, node.ns(), "fd00:1::5", "production/a", "2001:db8:fffe::1");
}

#[test]
fn two_nodes_keep_the_source_under_every_reverse_path_filter() {
    for reverse_path in [ReversePath::Off, ReversePath::Strict, ReversePath::Loose] {
        if network().is_none() {
            return;
        }
        let options = Options { reverse_path, ..Options::default() };
        let net = Net::with(options).unwrap();
        let one = net.add_node("node-1", &[]).unwrap();
        let two = net.add_node("node-2", &[ip("172.18.0.3")]).unwrap();
        assert_eq!(two.addresses(), [ip("172.18.0.3"), ip("2001:db8:fffe::2")]);
        let a = net.add_pod(&one, "x/a", &[ip("10.0.1.1"), ip("fd00:1::1")]).unwrap();
        let b = net.add_pod(&two, "x/b", &[ip("10.0.1.2"), ip("fd00:1::2")]).unwrap();
        net.serve_pod(&a, &PORTS).unwrap();
        net.serve_pod(&b, &PORTS).unwrap();
        net.serve(two.ns(), "node-2", &PORTS).unwrap();
        check_reaches(&net, a.ns(), "10.0.1.2", "x/b", "10.0.1.1");
        check_reaches(&net, b.ns(), "fd00:1::1", "x/a", "fd00:1::2");
        check_reaches(&net, a.ns(), "172.18.0.3", "node-2", "10.0.1.1");
        // The packets do pass the fabric.
        net.fabric().exec("nft", &["add table inet t"]).unwrap();
        let chain = "add chain inet t c { type filter hook forward priority 0; policy drop; }";
        net.fabric().exec("nft", &[chain]).unwrap();
        let outcome = net.probe(&[probe(a.ns(), "10.0.1.2", PORTS[0])], WAIT);
        assert_eq!(outcome, [Outcome::Timeout]);
    }
}

#[test]
fn outside_is_reached_and_reaches_with_any_address() {
    let Some(net) = network() else { return };
    let (_node, a, _b) = two_pods(&net);
    net.serve(net.outside(), "outside", &PORTS).unwrap();
    check_reaches(&net, a.ns(), "203.0.113.10", "outside", "192.168.1.5");
    check_reaches(&net, a.ns(), "2001:db8:ffff::10", "outside", "fd00:1::5");
    net.add_outside_address(ip("169.254.169.254")).unwrap();
    net.add_outside_address(ip("198.51.100.20")).unwrap();
    check_reaches(&net, a.ns(), "169.254.169.254", "outside", "192.168.1.5");
    for source in ["198.51.100.20", "169.254.169.254", "203.0.113.10"] {
        let mut from_outside = probe(net.outside(), "192.168.1.5", PORTS[1]);
        from_outside.source = Some(ip(source));
        let outcome = net.probe(&[from_outside], WAIT).remove(0);
        let Outcome::Connected { peer, seen } = outcome else {
            panic!("{source}: {outcome:?}");
        };
        assert_eq!(peer.as_deref(), Some("production/a"));
        assert_eq!(seen.map(|s| s.ip()), Some(ip(source)));
    }
    net.remove_outside_address(ip("198.51.100.20")).unwrap();
    let outcome = net.probe(&[probe(a.ns(), "198.51.100.20", PORTS[0])], WAIT);
    assert!(matches!(outcome[0], Outcome::Unreachable(_)), "{outcome:?}");
}

#[test]
fn pods_and_addresses_come_and_go() {
    let Some(net) = network() else { return };
    let (node, a, b) = two_pods(&net);
    a.add_address(ip("172.18.0.10")).unwrap();
    check_reaches(&net, b.ns(), "172.18.0.10", "production/a", "10.240.0.10");
    a.remove_address(ip("192.168.1.5")).unwrap();
    check_reaches(&net, a.ns(), "10.240.0.10", "production/b", "172.18.0.10");
    net.remove_pod("production/b").unwrap();
    let gone = net.probe(&[probe(a.ns(), "10.240.0.10", PORTS[0])], WAIT);
    assert!(matches!(gone[0], Outcome::Unreachable(_)), "{gone:?}");
    let again = net.add_pod(&node, "production/b", &[ip("10.240.0.10")]).unwrap();
    assert_eq!(again.interface(), "veth-b");
    net.serve_pod(&again, &PORTS).unwrap();
    check_reaches(&net, a.ns(), "10.240.0.10", "production/b", "172.18.0.10");
    net.remove_node("node-1").unwrap();
    assert!(net.pods().is_empty());
}

#[test]
fn a_service_is_translated_and_refuses_without_backends() {
    let Some(net) = network() else { return };
    let (node, a, b) = two_pods(&net);
    let service = |protocol, address: &str, backends: &[&str]| Service {
        name: "production/b".to_owned(),
        protocol,
        address: address.parse().unwrap(),
        backends: backends.iter().map(|text| text.parse().unwrap()).collect(),
    };
    node.set_services(&[
        service(Protocol::Tcp, "10.96.0.10:8080", &["10.240.0.10:80", "192.168.1.5:80"]),
        service(Protocol::Udp, "10.96.0.10:53", &["10.240.0.10:53"]),
        service(Protocol::Sctp, "10.96.0.10:132", &["10.240.0.10:132"]),
        service(Protocol::Tcp, "[fd96::10]:8080", &["[fd00:2::a]:80"]),
        service(Protocol::Tcp, "10.96.0.11:80", &[]),
    ])
    .unwrap();
    let from_b = vec![probe(b.ns(), "10.96.0.10", Port::tcp(8080)); 6];
    let mut peers: Vec<_> = net.probe(&from_b, WAIT).iter().map(|o| o.peer().unwrap_or("-").to_owned()).collect();
    peers.sort();
    peers.dedup();
    assert_eq!(peers, ["production/a", "production/b"], "b itself by hairpin");
    let others = [
        probe(a.ns(), "10.96.0.10", Port::udp(53)),
        probe(a.ns(), "10.96.0.10", Port::sctp(132)),
        probe(a.ns(), "fd96::10", Port::tcp(8080)),
        probe(b.ns(), "fd96::10", Port::tcp(8080)),
        probe(node.ns(), "fd96::10", Port::tcp(8080)),
    ];
    for (asked, outcome) in others.iter().zip(net.probe(&others, WAIT)) {
        assert_eq!(outcome.peer(), Some("production/b"), "{asked:?}: {outcome:?}");
    }
    let empty = net.probe(&[probe(a.ns(), "10.96.0.11", Port::tcp(80))], WAIT);
    assert!(matches!(empty[0], Outcome::Refused | Outcome::Unreachable(_)), "{empty:?}");
    node.set_services(&[]).unwrap();
    let outcome = net.probe(&from_b[..1], WAIT);
    assert!(matches!(outcome[0], Outcome::Unreachable(_)), "{outcome:?}");
}

#[test]
fn outcomes_tell_dropped_refused_and_rejected_apart() {
    let Some(net) = network() else { return };
    let (node, a, b) = two_pods(&net);
    let ruleset = "table inet test { chain forward { type filter hook forward priority 0;
        tcp dport 81 drop
        udp dport 54 drop
        sctp dport 133 drop
        ip daddr 192.168.1.5 icmp type echo-request drop
        tcp dport 82 reject with tcp reset
        tcp dport 83 reject with icmpx admin-prohibited
        udp dport 55 reject with icmpx admin-prohibited
        }; }";
    node.ns().exec("nft", &[ruleset]).unwrap();
    net.serve_pod(&b, &[PORTS[0], PORTS[1], PORTS[2], Port::tcp(81), Port::udp(54), Port::sctp(133)]).unwrap();
    let all = |to: &'static str| {
        [
            Port::tcp(81),
            Port::udp(54),
            Port::sctp(133),
            Port::tcp(82),
            Port::udp(55),
            Port::tcp(83),
            Port::tcp(84),
            Port::udp(56),
            Port::sctp(134),
        ]
        .map(|port| probe(a.ns(), to, port))
    };
    for to in ["10.240.0.10", "fd00:2::a"] {
        let outcomes = net.probe(&all(to), WAIT);
        assert_eq!(outcomes[..3], [const { Outcome::Timeout }; 3], "dropped");
        assert_eq!(outcomes[3], Outcome::Refused, "reset");
        assert!(matches!(outcomes[4], Outcome::Unreachable(_)), "{outcomes:?}");
        assert!(matches!(outcomes[5], Outcome::Unreachable(_)), "{outcomes:?}");
        assert_eq!(outcomes[6..], [const { Outcome::Refused }; 3], "nobody listens");
    }
    // A pod without any SCTP server answers too, by ICMP.
    net.serve_pod(&b, &[PORTS[0]]).unwrap();
    let without = [probe(a.ns(), "10.240.0.10", PORTS[2]), probe(a.ns(), "fd00:2::a", PORTS[2])];
    assert_eq!(net.probe(&without, WAIT), [const { Outcome::Refused }; 2]);
    let pings = net.probe(&[icmp(b.ns(), "192.168.1.5"), icmp(a.ns(), "10.240.0.10")], WAIT);
    assert_eq!(pings[0], Outcome::Timeout);
    assert!(pings[1].is_connected());
    let mut foreign = probe(a.ns(), "10.240.0.10", PORTS[0]);
    foreign.source = Some(ip("10.9.9.9"));
    assert!(matches!(net.probe(&[foreign], WAIT)[0], Outcome::Error(_)));
}

/// As on a machine under load, where questions for a neighbour are lost among thousands of packets: three of them in a row and more.
#[test]
fn a_neighbour_that_is_slow_to_answer_is_waited_for() {
    let Some(net) = network() else { return };
    let (node, _, backend) = two_pods(&net);
    let late = net.add_pod(&node, "default/late", &[ip("fd00:1::9")]).unwrap();
    let muted =
        "table ip6 mute { chain in { type filter hook prerouting priority raw; icmpv6 type nd-neighbor-solicit drop; }; }";
    node.ns().exec("nft", &[muted]).unwrap();
    net.serve_pod(&backend, &[Port::udp(53)]).unwrap();
    let to = backend.v6().unwrap().to_string();
    let asked = net.probe(&[probe(late.ns(), &to, Port::udp(53))], Duration::from_secs(4));
    assert_eq!(asked, [Outcome::Timeout], "while nobody answers");
    node.ns().exec("nft", &["delete table ip6 mute"]).unwrap();
    let asked = net.probe(&[probe(late.ns(), &to, Port::udp(53))], Duration::from_secs(4));
    assert!(asked[0].is_connected(), "{asked:?}");
}

#[test]
fn thousands_of_probes_cost_one_wait() {
    let Some(net) = network() else { return };
    let start = Instant::now();
    let node = net.add_node("node-1", &[]).unwrap();
    let named: Vec<_> =
        (0..30_u8).map(|i| (format!("production/pod-{i}"), [ip(&format!("10.0.0.{i}")), ip(&format!("fd00::{i:x}"))])).collect();
    let wanted: Vec<_> = named.iter().map(|(name, addresses)| (&node, name.as_str(), addresses.as_slice())).collect();
    let pods = net.add_pods(&wanted).unwrap();
    for pod in &pods {
        net.serve_pod(pod, &PORTS).unwrap();
    }
    println!("1 node, 30 pods, 90 servers: {:?}", start.elapsed());
    let mut probes = Vec::new();
    for (from, to) in pods.iter().flat_map(|from| pods.iter().map(move |to| (from, to))) {
        for address in to.addresses() {
            probes.extend([PORTS[0], PORTS[1]].map(|port| probe(from.ns(), &address.to_string(), port)));
        }
    }
    let start = Instant::now();
    let outcomes = net.probe(&probes, Duration::from_secs(5));
    println!("{} probes: {:?}", probes.len(), start.elapsed());
    for (asked, outcome) in probes.iter().zip(&outcomes) {
        assert!(outcome.is_connected(), "{asked:?}: {outcome:?}");
    }
    let drop = "add table inet t; add chain inet t c { type filter hook forward priority 0; policy drop; }";
    node.ns().exec("nft", &[drop]).unwrap();
    let start = Instant::now();
    let outcomes = net.probe(&probes, WAIT);
    println!("{} probes that are dropped: {:?}", probes.len(), start.elapsed());
    // A pod reaches itself without its node.
    let answered = outcomes.iter().filter(|outcome| outcome.is_connected()).count();
    let dropped = outcomes.iter().filter(|outcome| **outcome == Outcome::Timeout).count();
    assert_eq!((answered, dropped), (30 * 4, 30 * 29 * 4));
}

#[test]
fn programs_run_inside_and_end_with_their_guard() {
    let Some(net) = network() else { return };
    let (_node, a, b) = two_pods(&net);
    let here = a.ns().exec("ip", &["-brief", "address", "show", "dev", "eth0"]).unwrap();
    assert!(here.contains("192.168.1.5/32"), "{here}");
    let error = a.ns().exec("ip", &["link", "show", "dev", "nothing"]).unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
    let mut script = Command::new("sh");
    script.args(["-c", "echo up; echo trouble >&2; sleep 600 & echo $!; wait"]);
    let mut child = a.ns().spawn(script).unwrap();
    child.wait_for_line("up", Duration::from_secs(5)).unwrap();
    child.wait_for_error_line("trouble", Duration::from_secs(5)).unwrap();
    assert!(wait_until(Duration::from_secs(5), || child.stdout().len() == 2));
    assert!(child.is_running());
    let missing = child.wait_for_line("never", Duration::from_millis(20)).unwrap_err();
    assert!(missing.to_string().contains("trouble"), "{missing}");
    let sleeper = child.stdout()[1].clone();
    let runs = |pid: &str| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !status.is_empty() && !status.contains(") Z ")
    };
    let process = child.id().to_string();
    assert!(runs(&process) && runs(&sleeper));
    drop(child);
    assert!(wait_until(Duration::from_secs(5), || !runs(&process) && !runs(&sleeper)));
    // A kept connection: one answer for each line.
    let to: SocketAddr = "10.240.0.10:80".parse().unwrap();
    let mut stream = a.ns().tcp_connect(Some(ip("192.168.1.5")), to, WAIT).unwrap();
    for word in ["one", "two"] {
        use std::io::{BufRead, BufReader, Write};
        writeln!(stream, "{word}").unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("production/b 192.168.1.5:") && line.ends_with(&format!("{word}\n")), "{line}");
    }
    // Another program enters by the path.
    let mut enter = Command::new("nsenter");
    enter.arg(format!("--net={}", b.ns().path().display())).args(["ip", "-o", "address"]);
    let seen = enter.output().unwrap();
    assert!(String::from_utf8_lossy(&seen.stdout).contains("10.240.0.10/32"), "{seen:?}");
}

/// A flow that was allowed once, and is in connection tracking, lends nothing to the probe after it.
#[test]
fn no_probe_rides_on_an_earlier_one() {
    let Some(net) = network() else { return };
    let (node, a, _b) = two_pods(&net);
    let rules = |verdict: &str| {
        let text = format!(
            "table inet t; delete table inet t; table inet t {{ chain c {{ type filter hook forward priority 0;
            ct state established,related accept
            {verdict}
            }}; }}"
        );
        node.ns().exec("nft", &[&text]).expect("a ruleset");
    };
    let mut probes: Vec<_> = PORTS.iter().map(|port| probe(a.ns(), "10.240.0.10", *port)).collect();
    probes.push(icmp(a.ns(), "10.240.0.10"));
    for _ in 0..3 {
        rules("accept");
        assert!(net.probe(&probes, WAIT).iter().all(Outcome::is_connected));
        rules("drop");
        assert_eq!(net.probe(&probes, WAIT), [const { Outcome::Timeout }; 4]);
    }
}
