//! What the kernel's rules do with real packets, and how `nft` prints them.

mod kernel_stage;

use std::net::{IpAddr, SocketAddr};

use expect_test::expect;
use kernel_stage::packet::{arrived, forge, listen};
use kernel_stage::{Stage, ip, possible};
use sluice_proxy::kernel::{Config, Deny};
use sluice_testnet::Protocol::{Icmp, Sctp, Tcp, Udp};
use sluice_testnet::{Outcome, Pod, Probe};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n";

const BACKEND: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend, namespace: production}
spec:
  podSelector: {matchLabels: {app: backend}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports:
    - {protocol: TCP, port: 8080}
    - {protocol: UDP, port: 53}
    - {protocol: SCTP, port: 132}
";

#[test]
fn what_a_policy_allows_passes_and_the_rest_does_not() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let frontend = stage.pod("production/frontend", &["10.0.1.1", "fd00:1::1"]);
    let _backend = stage.pod("production/backend", &["10.0.1.2", "fd00:1::2"]);
    let other = stage.pod("production/other", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(kernel_stage::edits(NAMESPACE));
    stage.engine.edit(kernel_stage::edits(BACKEND));
    let applied = stage.apply_whole();
    assert!(applied.whole && applied.transactions == 1, "{applied:?}");
    for (to, back) in [("10.0.1.2", "10.0.1.1"), ("fd00:1::2", "fd00:1::1")] {
        stage.expect(&[
            (&frontend, to, 8080, Tcp, true),
            (&frontend, to, 80, Tcp, false),
            (&frontend, to, 53, Udp, true),
            (&frontend, to, 5353, Udp, false),
            (&frontend, to, 132, Sctp, true),
            (&frontend, to, 0, Icmp, false),
            (&other, to, 8080, Tcp, false),
            (&other, to, 53, Udp, false),
            (&other, to, 132, Sctp, false),
            (&other, back, 80, Tcp, true),
            (&other, back, 5353, Udp, true),
            (&other, back, 132, Sctp, true),
            (&other, back, 0, Icmp, true),
        ]);
    }
}

#[test]
fn ports_by_name_and_blocks_with_exceptions() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let client = stage.pod("production/client", &["10.0.1.1", "fd00:1::1"]);
    let excepted = stage.pod("production/excepted", &["10.0.1.9", "fd00:1::9"]);
    let _server = stage.pod("production/server", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(kernel_stage::edits(NAMESPACE));
    // Two blocks of one rule: what one excepts the other lets in, for its own addresses alone.
    stage.engine.edit(kernel_stage::edits(
        "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: server, namespace: production}
spec:
  podSelector: {matchLabels: {app: server}}
  ingress:
  - from:
    - ipBlock: {cidr: 10.0.1.0/24, except: [10.0.1.8/30, 10.0.1.128/25]}
    - ipBlock: {cidr: fd00:1::/64, except: ['fd00:1::8/125']}
    ports:
    - {port: web}
    - {port: dns, protocol: UDP}
    - {port: dns, protocol: TCP}
    - {port: 9000, endPort: 9999}
    - {port: 80, protocol: SCTP}
    - {port: 132, protocol: SCTP}
",
    ));
    stage.apply_whole();
    for to in ["10.0.1.2", "fd00:1::2"] {
        stage.expect(&[
            (&client, to, 8080, Tcp, true),
            (&client, to, 53, Udp, true),
            (&client, to, 9090, Tcp, true),
            (&client, to, 132, Sctp, true),
            (&client, to, 80, Tcp, false),
            (&client, to, 5353, Udp, false),
            (&excepted, to, 8080, Tcp, false),
            (&excepted, to, 53, Udp, false),
            (&excepted, to, 9090, Tcp, false),
            (&excepted, to, 132, Sctp, false),
        ]);
    }
}

/// Frontend may send to backend's port 7777, and nobody else may.
fn guarded() -> (Stage, Pod, Pod, Pod) {
    let mut stage = Stage::new(Config::default());
    let frontend = stage.pod("production/frontend", &["10.0.1.1", "fd00:1::1"]);
    let backend = stage.pod("production/backend", &["10.0.1.2", "fd00:1::2"]);
    let other = stage.pod("production/other", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(kernel_stage::edits(NAMESPACE));
    stage.engine.edit(kernel_stage::edits(&BACKEND.replace("port: 53", "port: 7777")));
    stage.apply_whole();
    (stage, frontend, backend, other)
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

#[test]
fn a_forged_source_gains_nothing() {
    if !possible() {
        return;
    }
    let (stage, frontend, backend, other) = guarded();
    for family in 0..2 {
        let [front, back, wrong] = [&frontend, &backend, &other].map(|pod| pod.addresses()[family]);
        let target = at(back, 7777);
        let inbox = listen(backend.ns(), target);
        forge(frontend.ns(), at(front, 1), target, &[], "genuine");
        assert_eq!(arrived(&inbox).as_deref(), Some("genuine"), "{}", stage.listing());
        forge(other.ns(), at(wrong, 1), target, &[], "denied");
        forge(other.ns(), at(front, 1), target, &[], "as frontend, a live flow");
        forge(other.ns(), at(front, 2), target, &[], "as frontend");
        forge(other.ns(), at(back, 2), target, &[], "as backend itself");
        for node in stage.node.addresses().iter().filter(|ip| ip.is_ipv4() == back.is_ipv4()) {
            forge(other.ns(), at(*node, 2), target, &[], "as the node");
        }
        forge(stage.net.outside(), at(front, 3), target, &[], "as frontend, from outside");
        assert_eq!(arrived(&inbox), None);
        // The node itself always may.
        let node = stage.node.addresses().iter().find(|ip| ip.is_ipv4() == back.is_ipv4()).copied().unwrap();
        forge(stage.node.ns(), at(node, 4), target, &[], "the node");
        assert_eq!(arrived(&inbox).as_deref(), Some("the node"));
    }
    // The same packet does arrive where no rule stops it: the test can fail.
    stage.disarm();
    let inbox = listen(backend.ns(), at(backend.addresses()[1], 7777));
    forge(other.ns(), at(frontend.addresses()[1], 2), at(backend.addresses()[1], 7777), &[], "unguarded");
    assert_eq!(arrived(&inbox).as_deref(), Some("unguarded"));
}

#[test]
fn a_source_route_leads_nowhere() {
    if !possible() {
        return;
    }
    let (stage, frontend, backend, other) = guarded();
    let front = frontend.interface().to_owned();
    for interface in ["all", "default", front.as_str(), other.interface()] {
        stage.node.ns().sysctl(&format!("ipv4/conf/{interface}/accept_source_route"), "1").unwrap();
        stage.node.ns().sysctl(&format!("ipv4/conf/{interface}/rp_filter"), "0").unwrap();
    }
    backend.ns().sysctl("ipv4/conf/all/accept_source_route", "1").unwrap();
    backend.ns().sysctl("ipv4/conf/eth0/accept_source_route", "1").unwrap();
    let target = at(backend.addresses()[0], 7777);
    let inbox = listen(backend.ns(), target);
    let node = stage.node.addresses().iter().find(|ip| ip.is_ipv4()).copied().unwrap();
    let IpAddr::V4(next) = target.ip() else { panic!("IPv4") };
    let send = |kind: u8, text: &str| {
        // Addressed to the node, which is to pass it on to the backend.
        let mut option = vec![kind, 7, 4];
        option.extend(next.octets());
        option.push(0);
        forge(other.ns(), at(other.addresses()[0], 5), at(node, 7777), &option, text);
    };
    send(131, "loose");
    send(137, "strict");
    assert_eq!(arrived(&inbox), None);
    // The same packet does arrive where no rule stops it: the test can fail.
    stage.node.ns().exec("nft", &["delete", "table", "inet", "sluice"]).unwrap();
    send(131, "unguarded");
    assert_eq!(arrived(&inbox).as_deref(), Some("unguarded"));
}

#[test]
fn a_pod_that_is_not_known_yet_is_closed_both_ways() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let known = stage.pod("production/known", &["10.0.1.1", "fd00:1::1"]);
    // One in the node's pod CIDR, one that only its interface gives away.
    let inside = stage.stranger("production/inside", &["10.0.1.9", "fd00:1::9"]);
    let apart = stage.stranger("production/apart", &["10.77.0.9", "fd00:77::9"]);
    stage.apply_whole();
    stage.expect(&[
        (&inside, "10.0.1.1", 80, Tcp, false),
        (&inside, "fd00:1::1", 80, Tcp, false),
        (&apart, "10.0.1.1", 53, Udp, false),
        (&apart, "203.0.113.10", 0, Icmp, false),
        (&known, "10.0.1.9", 80, Tcp, false),
        (&known, "fd00:1::9", 80, Tcp, false),
        (&known, "10.77.0.9", 80, Tcp, false),
        (&known, "fd00:77::9", 53, Udp, false),
        (&known, "203.0.113.10", 0, Icmp, true),
        (&known, "10.0.1.1", 80, Tcp, true),
    ]);
    // The node's probes are answered all the same; of a bridge, whose port nothing but the table opens, they are not.
    let probe = |to| Probe { from: stage.node.ns().clone(), source: None, to: ip(to), port: 80, protocol: Tcp };
    let outcomes = stage.net.probe(&[probe("10.0.1.9"), probe("fd00:77::9")], kernel_stage::SILENCE);
    assert!(outcomes.iter().all(|o| o.is_connected() == stage.bridges.is_none()), "{outcomes:?}");
    stage.change(&kernel_stage::pod_yaml("node-1", "production", "apart", "apart", &["10.77.0.9", "fd00:77::9"]));
    stage.expect(&[(&apart, "10.0.1.1", 80, Tcp, true), (&known, "fd00:77::9", 80, Tcp, true)]);
}

#[test]
fn the_listing_reads_like_the_policy() {
    if !possible() {
        return;
    }
    // The other tables that a bridge brings are not this test's.
    if kernel_stage::layout() != sluice_testnet::Layout::Routed {
        return;
    }
    let (stage, ..) = guarded();
    let listing = stage.listing();
    let from = listing.find("\tchain ingress_").unwrap();
    expect![[r#"
        	chain ingress_1 {
        		ct state invalid,new tcp flags != syn / fin,syn,rst,ack drop
        		ip saddr @pods_2_v4 tcp dport 8080 counter return comment "NetworkPolicy production/backend ingress[0]"
        		ip saddr @pods_2_v4 udp dport 7777 counter return comment "NetworkPolicy production/backend ingress[0]"
        		ip saddr @pods_2_v4 sctp dport 132 counter return comment "NetworkPolicy production/backend ingress[0]"
        		ip6 saddr @pods_2_v6 tcp dport 8080 counter return comment "NetworkPolicy production/backend ingress[0]"
        		ip6 saddr @pods_2_v6 udp dport 7777 counter return comment "NetworkPolicy production/backend ingress[0]"
        		ip6 saddr @pods_2_v6 sctp dport 132 counter return comment "NetworkPolicy production/backend ingress[0]"
        		counter goto isolated_ingress comment "isolated by NetworkPolicy production/backend"
        	}
        }
    "#]]
    .assert_eq(&listing[from..]);
    let upto = listing.find("\tchain divert").unwrap();
    let from = listing.find("\tchain prerouting").unwrap();
    expect![[r#"
        chain prerouting {
        	type filter hook prerouting priority dstnat + 10; policy accept;
        	meta nfproto ipv4 goto arriving_v4
        	goto arriving_v6
        }

        chain output {
        	type route hook output priority mangle; policy accept;
        	ct state new socket transparent 1 ct label set 111
        	ct direction reply ct label 111 socket transparent 0 meta mark set meta mark | 0x00001000
        }

        chain forward {
        	type filter hook forward priority -90; policy accept;
        	meta mark & 0x00001000 == 0x00001000 goto not_listening comment "meant for the proxy"
        	ct label 111 counter drop comment "the proxy's flow"
        	ct state established,related accept
        	icmpv6 type @neighbour_discovery ip6 daddr fe80::/10 accept comment "neighbours on a bridge"
        	icmpv6 type @neighbour_discovery ip6 daddr ff02::/16 accept comment "neighbours on a bridge"
        	icmpv6 type @neighbours ip6 hoplimit != 255 counter drop comment "neighbour discovery that left its link"
        	ip daddr @local_v4 accept
        	ip6 daddr @local_v6 accept
        	oifname != @uplinks meta oifkind != @outside_kinds goto unknown_pod comment "to a pod that is not known yet"
        }

    "#]]
    .assert_eq(&listing[from..upto].replace("\n\t", "\n").replace("\tchain prer", "chain prer"));
    let of_families =
        ["arriving", "from_pod", "live", "judge"].iter().flat_map(|chain| [format!("{chain}_v4"), format!("{chain}_v6")]);
    for chain in of_families.chain(["inspect_egress", "inspect_ingress", "divert"].map(str::to_owned)) {
        assert!(listing.contains(&format!("\tchain {chain} {{")), "{listing}");
    }
}

#[test]
fn denials_can_say_so() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config { deny: Deny::Reject, ..Config::default() });
    let client = stage.pod("production/client", &["10.0.1.1", "fd00:1::1"]);
    let _backend = stage.pod("production/backend", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(kernel_stage::edits(NAMESPACE));
    stage.engine.edit(kernel_stage::edits(BACKEND));
    stage.apply_whole();
    for to in ["10.0.1.2", "fd00:1::2"] {
        let outcomes = stage.probe(&[(&client, to, 8080, Tcp), (&client, to, 53, Udp)]);
        assert!(matches!(outcomes[..], [Outcome::Refused, Outcome::Unreachable(_) | Outcome::Refused]), "{outcomes:?}");
    }
}
