//! Real entries, made by real sockets in a namespace of each test's own.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use expect_test::expect;
use sluice_testnet::Netns;
use socket2::{Domain, Socket, Type};

use super::super::netlink::no_namespaces;
use super::*;

/// Conntrack only runs in a namespace where a rule asks for it. Label 5, mark 7.
const FOLLOWED: &str = "table inet t {
    chain out {
        type filter hook output priority 0;
        ct state new ct mark set 7
        ct state new meta l4proto tcp ct label set 5
    }
    chain nat {
        type nat hook output priority -100;
        ip daddr 10.9.9.9 udp dport 53 dnat to 127.0.0.1:5353
    }
}";

fn namespace(name: &str) -> Netns {
    let netns = Netns::new(name).expect("a namespace");
    netns.exec("nft", &[FOLLOWED]).expect("rules that turn conntrack on");
    netns
}

fn tcp(netns: &Netns, address: &str) -> (TcpStream, TcpStream) {
    netns.run(|| {
        let listener = TcpListener::bind(SocketAddr::new(address.parse().unwrap(), 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    })
}

fn find(entries: &[Entry], source: SocketAddr) -> Option<&Entry> {
    entries.iter().find(|e| e.source() == (source.ip(), source.port()))
}

#[test]
fn a_glance_finds_what_a_dump_finds() {
    if no_namespaces() {
        return;
    }
    let netns = namespace("conntrack-glance");
    let mut conntrack = netns.run(Conntrack::open).unwrap();
    let _kept: Vec<_> = ["127.0.0.1", "::1"].map(|address| tcp(&netns, address)).into();
    let _udp = netns.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"x", "10.9.9.9:53").ok();
        socket.send_to(b"x", "127.0.0.1:9").unwrap();
        socket
    });
    netns.exec("ping", &["-c1", "-W1", "127.0.0.1"]).ok();
    let order = |mut entries: Vec<Entry>| {
        entries.sort_by_key(|entry| format!("{:?}", entry.original));
        entries
    };
    let dumped = order(conntrack.dump().unwrap());
    let glanced = order(netns.run(|| conntrack.glance(|_| true)).unwrap());
    assert!(dumped.len() >= 3, "{dumped:?}");
    assert_eq!(glanced, dumped, "labels and ids too");
    let tcp_only = netns.run(|| conntrack.glance(|entry| entry.protocol == Protocol::Tcp)).unwrap();
    assert_eq!(tcp_only.len(), 2);
}

#[test]
fn tcp_of_both_families_is_found_and_deleted() {
    if no_namespaces() {
        return;
    }
    let netns = namespace("conntrack-tcp");
    let mut conntrack = netns.run(Conntrack::open).unwrap();
    for address in ["127.0.0.1", "::1"] {
        let (client, server) = tcp(&netns, address);
        let (from, to) = (client.local_addr().unwrap(), server.local_addr().unwrap());

        let entries = conntrack.dump().unwrap();
        let entry = find(&entries, from).expect("the connection has an entry").clone();
        assert_eq!(entry.protocol, Protocol::Tcp);
        assert_eq!(entry.destination(), (to.ip(), to.port()));
        assert_eq!(entry.original.destination_port(), to.port());
        assert_eq!((entry.labels, entry.mark), (1 << 5, 7));
        assert!(entry.has_label(5) && !entry.has_label(4) && !entry.has_label(127) && !entry.has_label(200));
        assert_ne!(entry.status & 2, 0, "IPS_SEEN_REPLY: the handshake went both ways");

        let mut other = entry.clone();
        other.id ^= 1;
        assert!(!conntrack.delete(&other).unwrap(), "a later flow of the same tuple is left alone");
        assert!(find(&conntrack.dump().unwrap(), from).is_some());
        assert!(conntrack.delete(&entry).unwrap());
        assert!(find(&conntrack.dump().unwrap(), from).is_none());
        assert!(!conntrack.delete(&entry).unwrap(), "what is gone is no error");
    }
}

#[test]
fn the_server_behind_a_translation_is_the_source_of_the_replies() {
    if no_namespaces() {
        return;
    }
    let netns = namespace("conntrack-dnat");
    let mut conntrack = netns.run(Conntrack::open).unwrap();
    netns.exec("ip", &["route", "add", "10.9.9.9", "dev", "lo"]).unwrap();
    let from = netns.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"q", "10.9.9.9:53").unwrap();
        socket.local_addr().unwrap()
    });
    let entries = conntrack.keep(|e| (e.protocol == Protocol::Udp).then_some(e)).unwrap();
    let entry = find(&entries, from).expect("the datagram has an entry");
    assert_eq!(entry.original.destination, "10.9.9.9".parse::<IpAddr>().unwrap());
    assert_eq!(entry.destination(), ("127.0.0.1".parse().unwrap(), 5353));
    assert!(conntrack.delete(entry).unwrap());
}

#[test]
fn echoes_are_found_and_deleted() {
    if no_namespaces() {
        return;
    }
    // Type, code, checksum, id 7, sequence 1. The kernel fills in ICMPv6's checksum, not ICMP's.
    let echoes = [
        ("127.0.0.1", Domain::IPV4, libc::IPPROTO_ICMP, [8_u8, 0, 0xf7, 0xf7, 0, 7, 0, 1]),
        ("::1", Domain::IPV6, libc::IPPROTO_ICMPV6, [128, 0, 0, 0, 0, 7, 0, 1]),
    ];
    let netns = namespace("conntrack-icmp");
    let mut conntrack = netns.run(Conntrack::open).unwrap();
    for (address, domain, protocol, request) in echoes {
        let to = SocketAddr::new(address.parse().unwrap(), 0);
        netns.run(|| {
            let socket = Socket::new(domain, Type::RAW, Some(protocol.into())).unwrap();
            socket.send_to(&request, &to.into()).unwrap();
        });
        let entries = conntrack.keep(|e| (e.protocol == Protocol::Icmp).then_some(e)).unwrap();
        let [entry] = &entries[..] else { panic!("one echo, one entry: {entries:?}") };
        assert_eq!(entry.original.upper, Upper::Icmp { id: 7, kind: request[0], code: 0 });
        assert_eq!((entry.original.source_port(), entry.original.destination_port()), (0, 0));
        assert!(conntrack.delete(entry).unwrap());
        assert_eq!(conntrack.dump().unwrap(), []);
    }
}

#[test]
fn a_large_table_comes_whole_in_many_messages() {
    if no_namespaces() {
        return;
    }
    const FLOWS: u16 = 3000;
    let netns = namespace("conntrack-many");
    let mut conntrack = netns.run(Conntrack::open).unwrap();
    netns.run(|| {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        for port in 10_000..10_000 + FLOWS {
            socket.send_to(b"x", ("127.0.0.1", port)).unwrap_or_default();
            // The refusal of a closed port would fail the next call.
            let _ = socket.take_error();
        }
    });
    let mut ports = conntrack.keep(|e| (e.protocol == Protocol::Udp).then(|| e.destination().1)).unwrap();
    ports.sort_unstable();
    ports.dedup();
    assert!(ports.len() >= usize::from(FLOWS) * 99 / 100, "{} of {FLOWS}", ports.len());
    assert_eq!(conntrack.keep(|e| (e.destination().1 == 10_007).then_some(())).unwrap().len(), 1);
}

#[test]
fn a_namespace_sees_its_own_flows_only() {
    if no_namespaces() {
        return;
    }
    let (one, two) = (namespace("conntrack-one"), namespace("conntrack-two"));
    let mut of_two = two.run(Conntrack::open).unwrap();
    let (client, _server) = tcp(&one, "127.0.0.1");
    assert!(find(&of_two.dump().unwrap(), client.local_addr().unwrap()).is_none());
}

#[test]
fn an_entry_cut_off_anywhere_is_none_or_less() {
    let whole = Entry {
        protocol: Protocol::Tcp,
        original: ports("10.0.0.1", 1234, "10.0.0.2", 80),
        reply: ports("10.0.0.2", 80, "10.0.0.1", 1234),
        labels: 0,
        mark: 0,
        status: 0,
        id: 77,
        zone: 3,
    };
    let mut body = Message::new(0, 0, &[AF_INET, 0, 0, 0]);
    body.nest(cta::TUPLE_ORIGINAL, |m| put_tuple(m, whole.protocol, &whole.original));
    body.nest(cta::TUPLE_REPLY, |m| put_tuple(m, whole.protocol, &whole.reply));
    body.put(cta::ID, &whole.id.to_be_bytes()).put(cta::ZONE, &whole.zone.to_be_bytes());
    let bytes = body.body().to_vec();
    assert_eq!(decode(&bytes), Some(whole.clone()));
    for cut in 0..bytes.len() {
        if let Some(entry) = decode(&bytes[..cut]) {
            assert_eq!((entry.original, entry.reply), (whole.original, whole.reply), "cut at {cut}");
        }
    }
}

#[test]
fn labels_are_words_from_the_lowest() {
    let check = |bytes: &[u8], expected: expect_test::Expect| expected.assert_eq(&format!("{:#x}", decode_labels(bytes)));
    let mut words = Vec::new();
    words.extend_from_slice(&(1_usize << 5).to_ne_bytes());
    words.extend_from_slice(&2_usize.to_ne_bytes());
    check(&words[..size_of::<usize>()], expect!["0x20"]);
    #[cfg(target_pointer_width = "64")]
    check(&words, expect!["0x20000000000000020"]);
    check(&[], expect!["0x0"]);
    check(&[1, 2, 3], expect!["0x0"]);
}

fn ports(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Tuple {
    Tuple {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
        upper: Upper::Ports { source: source_port, destination: destination_port },
        zone: None,
    }
}
