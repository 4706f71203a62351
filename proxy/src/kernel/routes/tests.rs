//! The rules as the kernel has them, and packets that take them: a pod behind a veth, TPROXY by nft, a listener on loopback.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sluice_testnet::Netns;
use socket2::{Domain, Socket, Type};

use super::super::netlink::no_namespaces;
use super::*;

const MARK: Mark = Mark { value: 0x0400_0000, mask: 0x0400_0000 };
const TABLE: u32 = 1074;

fn routing() -> PolicyRouting {
    PolicyRouting::new(MARK, TABLE, DEFAULT_PRIORITY).unwrap()
}

fn listing(netns: &Netns) -> String {
    let mut text = String::new();
    for family in ["-4", "-6"] {
        text += &netns.exec("ip", &["-d", family, "rule"]).unwrap();
        text += &netns.exec("ip", &["-d", family, "route", "show", "table", "all"]).unwrap();
    }
    text.lines().map(|l| l.trim_end().to_owned() + "\n").collect()
}

#[test]
fn installing_twice_is_installing_once_and_removal_leaves_nothing() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("routes-idempotent").unwrap();
    let before = listing(&netns);
    netns.run(|| {
        assert!(!routing().is_installed().unwrap());
        routing().install().unwrap();
        assert!(routing().is_installed().unwrap());
    });
    let installed = listing(&netns);
    assert_eq!(installed.matches("100:\tfrom all fwmark 0x4000000/0x4000000 lookup 1074").count(), 2, "{installed}");
    assert_eq!(installed.matches("local default dev lo table 1074 proto 83 scope").count(), 2, "{installed}");
    netns.run(|| routing().install().unwrap());
    assert_eq!(listing(&netns), installed);
    netns.run(|| {
        remove().unwrap();
        remove().unwrap();
        assert!(!routing().is_installed().unwrap());
    });
    assert_eq!(listing(&netns), before);
}

#[test]
fn leftovers_of_another_configuration_are_replaced_and_others_rules_stay() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("routes-leftovers").unwrap();
    for family in ["-4", "-6"] {
        let ip = |line: &str| {
            let mut arguments = vec![family];
            arguments.extend(line.split(' '));
            netns.exec("ip", &arguments).unwrap();
        };
        ip("rule add priority 77 fwmark 0x100/0x100 lookup 99 protocol 83");
        ip("rule add priority 100 fwmark 0x4000000/0x4000000 iif lo lookup 1074 protocol 83");
        ip("route add blackhole default table 1074 protocol 83");
        ip("route add local default dev lo table 99 protocol 83");
        ip("rule add priority 500 fwmark 0x200/0xf00 lookup 2004");
        ip("route add local default dev lo table 2004");
    }
    netns.run(|| {
        assert!(!routing().is_installed().unwrap());
        routing().install().unwrap();
        assert!(routing().is_installed().unwrap());
        assert_eq!(routing().obstacles().unwrap(), []);
    });
    let text = listing(&netns);
    assert!(!text.contains("lookup 99") && !text.contains("table 99") && !text.contains("blackhole"), "{text}");
    assert!(!text.contains("iif lo"), "{text}");
    netns.run(|| remove().unwrap());
    let text = listing(&netns);
    assert!(!text.contains("1074"), "{text}");
    assert_eq!(text.matches("fwmark 0x200/0xf00 lookup 2004").count(), 2, "{text}");
    assert_eq!(text.matches("local default dev lo table 2004").count(), 2, "{text}");
}

/// So that [`PolicyRouting::is_installed`] needs to read no table, however large.
#[test]
fn one_look_up_finds_the_route() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("routes-look-up").unwrap();
    netns.run(|| {
        let leads_here =
            |family| Routing::open().unwrap().route_of(family, MARK).unwrap().is_some_and(|r| routing().is_route(&r));
        assert_eq!(Family::BOTH.map(leads_here), [false, false]);
        routing().install().unwrap();
        assert_eq!(Family::BOTH.map(leads_here), [true, true]);
    });
}

#[test]
fn what_was_lost_is_seen_and_repaired() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("routes-lost").unwrap();
    netns.run(|| routing().install().unwrap());
    for line in ["-6 rule del priority 100", "-4 route flush table 1074"] {
        netns.exec("ip", &line.split(' ').collect::<Vec<_>>()).unwrap();
        netns.run(|| {
            assert!(!routing().is_installed().unwrap(), "after ip {line}");
            routing().install().unwrap();
            assert!(routing().is_installed().unwrap());
        });
    }
}

#[test]
fn what_cannot_work_is_refused_with_what_to_do() {
    if no_namespaces() {
        return;
    }
    let check = |made: Result<PolicyRouting, Error>, says: &str| {
        let error = made.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(PolicyRouting::new(Mark { value: 0, mask: 1 }, TABLE, 100), "`mark`");
    check(PolicyRouting::new(Mark { value: 0x300, mask: 0x100 }, TABLE, 100), "outside its mask");
    check(PolicyRouting::new(MARK, 254, 100), "routing table 254 is the kernel's own");
    check(PolicyRouting::new(MARK, TABLE, 32766), "32766");

    let netns = Netns::new("routes-refused").unwrap();
    netns.exec("ip", &["route", "add", "blackhole", "192.0.2.0/24", "table", "1074"]).unwrap();
    let error = netns.run(|| routing().install()).unwrap_err().to_string();
    assert!(error.contains("table 1074 already holds V4 routes"), "{error}");
    netns.exec("ip", &["route", "flush", "table", "1074"]).unwrap();
    netns.exec("ip", &["link", "set", "lo", "down"]).unwrap();
    let error = netns.run(|| routing().install()).unwrap_err();
    assert!(matches!(error, Error::LoopbackDown), "{error:?}");
}

#[test]
fn obstacles_are_named() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("routes-obstacles").unwrap();
    netns.exec("ip", &["rule", "add", "priority", "9", "fwmark", "0x4000000/0xff000000", "lookup", "55"]).unwrap();
    netns.sysctl("ipv4/conf/all/src_valid_mark", "1").unwrap();
    let found = netns.run(|| routing().obstacles().unwrap());
    let taken = Obstacle::MarkTaken { family: Family::V4, priority: 9, mark: Mark { mask: 0xff00_0000, ..MARK }, table: 55 };
    assert_eq!(found, [taken, Obstacle::SourceValidMark { interface: "all".to_owned() }]);

    let netns = Netns::new("routes-no-ipv6").unwrap();
    netns.sysctl("ipv6/conf/all/disable_ipv6", "1").unwrap();
    netns.run(|| {
        routing().install().unwrap();
        assert!(routing().is_installed().unwrap());
        assert_eq!(routing().obstacles().unwrap(), [Obstacle::NoIpv6]);
        remove().unwrap();
    });
}

/// What the kernel's part of Sluice does about a new flow that needs the proxy, and no more.
const DIVERT: &str = "table inet t {
    chain pre {
        type filter hook prerouting priority -90;
        socket transparent 1 socket wildcard 0 meta mark set 0x04000000 accept
        meta nfproto ipv4 iifname pod meta l4proto tcp tproxy ip to 127.0.0.1:15001 meta mark set 0x04000000 accept
        meta nfproto ipv6 iifname pod meta l4proto tcp tproxy ip6 to [::1]:15001 meta mark set 0x04000000 accept
    }
}";

/// A node with a pod behind a routed veth, and a listener on loopback that diverted connections are answered by. `ip_forward`
/// stays 0.
fn node_with_pod() -> (Netns, Netns) {
    let (node, pod) = (Netns::new("routes-node").unwrap(), Netns::new("routes-pod").unwrap());
    let ip = |netns: &Netns, line: &str| {
        netns.exec("ip", &line.split(' ').collect::<Vec<_>>()).unwrap_or_else(|e| panic!("ip {line}: {e}"));
    };
    let inside = pod.path();
    let inside = inside.to_str().unwrap();
    ip(&node, &format!("link add pod type veth peer name eth0 netns {inside}"));
    ip(&node, "link set pod up");
    ip(&pod, "link set eth0 up");
    ip(&node, "addr add 169.254.1.1/32 dev pod");
    ip(&node, "addr add fe80::1/64 dev pod nodad");
    ip(&node, "route add 10.1.0.5/32 dev pod");
    ip(&node, "route add fd00::5/128 dev pod");
    ip(&pod, "addr add 10.1.0.5/32 dev eth0");
    ip(&pod, "addr add fd00::5/128 dev eth0 nodad");
    ip(&pod, "route add 169.254.1.1 dev eth0");
    ip(&pod, "route add default via 169.254.1.1");
    ip(&pod, "route add default via fe80::1 dev eth0");
    node.exec("nft", &[DIVERT]).unwrap();
    (node, pod)
}

fn listener(node: &Netns, address: &str) -> Socket {
    let address: SocketAddr = address.parse().unwrap();
    node.run(|| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        // One flag for both families, and IPv6 sockets take IPv4's option too.
        socket.set_ip_transparent_v4(true).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(16).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        socket
    })
}

/// Whether a connection of the pod to an address that nobody has reaches the listener with its destination intact.
fn is_diverted(pod: &Netns, listener: &Socket, to: &str) -> bool {
    let to: SocketAddr = to.parse().unwrap();
    pod.run(|| {
        let Ok(mut client) = TcpStream::connect_timeout(&to, Duration::from_millis(700)) else { return false };
        client.write_all(b"hello").unwrap();
        let (mut accepted, from) = listener.accept().unwrap();
        assert_eq!(accepted.local_addr().unwrap().as_socket(), Some(to), "the original destination");
        assert_eq!(from.as_socket(), Some(client.local_addr().unwrap()));
        let mut heard = [0; 5];
        accepted.read_exact(&mut heard).unwrap();
        heard == *b"hello"
    })
}

#[test]
fn diverted_connections_arrive_under_every_rp_filter() {
    if no_namespaces() {
        return;
    }
    let (node, pod) = node_with_pod();
    let v4 = listener(&node, "127.0.0.1:15001");
    let v6 = listener(&node, "[::1]:15001");
    assert!(!is_diverted(&pod, &v4, "192.0.2.1:80"), "without the rule the mark alone delivers nothing");
    assert!(!is_diverted(&pod, &v6, "[2001:db8::1]:80"));
    node.run(|| routing().install().unwrap());
    for value in ["0", "1", "2"] {
        for interface in ["all", "default", "pod", "lo"] {
            node.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), value).unwrap();
        }
        assert!(is_diverted(&pod, &v4, "192.0.2.1:80"), "rp_filter {value}");
        assert!(is_diverted(&pod, &v6, "[2001:db8::1]:80"), "rp_filter {value}");
    }
    let set = |path: &str| node.run(|| std::fs::read_to_string(format!("{SYSCTLS}/{path}")).unwrap());
    assert_eq!(set("ipv4/conf/pod/route_localnet").trim(), "0", "not needed");
    assert_eq!(set("ipv4/conf/all/forwarding").trim(), "0", "not needed");
}

/// Why [`Obstacle::SourceValidMark`] is one, and that it closes and doesn't open.
#[test]
fn src_valid_mark_drops_diverted_ipv4_packets() {
    if no_namespaces() {
        return;
    }
    let (node, pod) = node_with_pod();
    let v4 = listener(&node, "127.0.0.1:15001");
    let v6 = listener(&node, "[::1]:15001");
    node.run(|| routing().install().unwrap());
    for rp_filter in ["0", "1", "2"] {
        for interface in ["all", "pod"] {
            node.sysctl(&format!("ipv4/conf/{interface}/rp_filter"), rp_filter).unwrap();
        }
        node.sysctl("ipv4/conf/pod/src_valid_mark", "1").unwrap();
        assert!(!is_diverted(&pod, &v4, "192.0.2.1:80"), "rp_filter {rp_filter}");
        assert!(is_diverted(&pod, &v6, "[2001:db8::1]:80"), "IPv6 has no such check");
        node.sysctl("ipv4/conf/pod/src_valid_mark", "0").unwrap();
        assert!(is_diverted(&pod, &v4, "192.0.2.1:80"), "rp_filter {rp_filter}");
    }
}
