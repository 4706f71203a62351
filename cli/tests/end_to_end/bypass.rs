//! There is no way round the proxy, and none into a pod that nobody knows yet.

use std::io::{ErrorKind, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use sluice_testnet::{Net, Netns, Port, Probe, Protocol, bound, wait_until};
use socket2::{Domain, Socket, Type};

use crate::client::{Pair, Talk, curl, ip};
use crate::scene::{LONG, READ_AND_PLAIN, SHORT, Scene, pod_file, pod_manifest};

const PODS: [(&str, &str, &[&str]); 4] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/plain", "node-1", &["10.1.0.3", "fd00:1::3"]),
    ("shop/stranger", "node-1", &["10.1.0.4", "fd00:1::4"]),
];

const BACKEND: &str = "10.1.0.2:8080";

fn start() -> Option<Scene> {
    Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[])
}

/// Nobody answers at this address, at most with a reset.
fn assert_no_answer(ns: &Netns, to: SocketAddr) {
    let Ok(mut stream) = ns.tcp_connect(None, to, SHORT) else { return };
    let mut bytes = [0_u8; 64];
    let _ = std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    match stream.read(&mut bytes) {
        Ok(1..) => panic!("{to} answers {:?}", String::from_utf8_lossy(&bytes)),
        Ok(0) => {}
        Err(error) => assert_ne!(error.kind(), ErrorKind::InvalidInput, "{to}: {error}"),
    }
}

#[test]
fn the_proxys_own_port_answers_nobody() {
    let Some(scene) = start() else { return };
    let node = scene.node("node-1");
    let mut addresses: Vec<IpAddr> = node.addresses().to_vec();
    addresses.extend([ip("127.0.0.1"), ip("10.1.0.2"), ip("fd00:1::2"), ip("10.1.0.3"), ip("10.1.0.99"), ip("169.254.1.1")]);
    for pod in ["shop/frontend", "shop/stranger"] {
        for address in &addresses {
            assert_no_answer(scene.pod(pod).ns(), SocketAddr::new(*address, 15001));
            assert_no_answer(scene.pod(pod).ns(), SocketAddr::new(*address, 15020));
        }
    }
    assert_no_answer(scene.net.outside(), SocketAddr::new(node.addresses()[0], 15001));
    // Who is on the node itself meets the socket, and is turned away, be it while it still asks how the connecting went.
    if let Ok(mut talk) = Talk::open(node.ns(), "127.0.0.1:15001") {
        let _ = talk.send("GET /api/x HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(talk.answer().is_err());
    }
    let record = scene.connection_record("node-1", "NotDiverted");
    assert_eq!(record["verdict"], "deny", "{record:#}");
    assert_eq!(scene.web.connections(), 0);
}

/// A UDP datagram with any source, written from the IP header on.
fn forged_datagram(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(28 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 1, 0, 0, 64, 17, 0, 0]);
    packet.extend(from.0.octets());
    packet.extend(to.0.octets());
    packet.extend(from.1.to_be_bytes());
    packet.extend(to.1.to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    // The header's checksum is the kernel's; UDP over IPv4 needs none.
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

#[test]
fn a_neighbours_forgery_reaches_nobody() {
    let Some(scene) = start() else { return };
    let server = scene.pod("shop/plain").ns().udp_bind("10.1.0.3:9001".parse().unwrap()).unwrap();
    let client = scene.pod("shop/frontend").ns().udp_bind("10.1.0.1:9002".parse().unwrap()).unwrap();
    server.set_read_timeout(Some(SHORT)).unwrap();
    client.set_read_timeout(Some(SHORT)).unwrap();
    client.send_to(b"hello", "10.1.0.3:9001").unwrap();
    let mut bytes = [0_u8; 64];
    assert_eq!(server.recv(&mut bytes).unwrap(), 5, "frontend's own datagram arrives");

    let stranger = scene.pod("shop/stranger");
    let raw = stranger.ns().run(|| Socket::new(Domain::IPV4, Type::RAW, Some(socket2::Protocol::from(255)))).unwrap();
    raw.set_header_included_v4(true).unwrap();
    let (frontend, plain) = (Ipv4Addr::new(10, 1, 0, 1), Ipv4Addr::new(10, 1, 0, 3));
    for (what, from, to) in [
        ("a datagram in the allowed client's name", (frontend, 9002), (plain, 9001)),
        ("a new flow in its name", (frontend, 9003), (plain, 9001)),
        ("an answer in the server's name", (plain, 9001), (frontend, 9002)),
        ("an outside address", (Ipv4Addr::new(203, 0, 113, 10), 53), (frontend, 9002)),
        ("the node's own address", (Ipv4Addr::new(198, 18, 0, 1), 9), (plain, 9001)),
    ] {
        let packet = forged_datagram(from, to, b"forged");
        raw.send_to(&packet, &SocketAddr::new(to.0.into(), 0).into()).unwrap_or_else(|error| panic!("{what}: {error}"));
        for socket in [&server, &client] {
            assert!(socket.recv(&mut bytes).is_err(), "{what} arrived");
        }
    }
    // The way of forging works: what the stranger sends in its own name and may send does arrive.
    let own = forged_datagram((Ipv4Addr::new(10, 1, 0, 4), 9002), (frontend, 9002), b"honest");
    raw.send_to(&own, &SocketAddr::new(frontend.into(), 0).into()).unwrap();
    assert_eq!(client.recv(&mut bytes).unwrap(), 6);
    // And the flow was not disturbed.
    server.send_to(b"reply", "10.1.0.1:9002").unwrap();
    assert_eq!(client.recv(&mut bytes).unwrap(), 5);
}

#[test]
fn the_five_tuple_of_an_ended_connection_is_judged_again() {
    let Some(scene) = start() else { return };
    let frontend = scene.pod("shop/frontend");
    let once = |port: u16| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::new(ip("10.1.0.1"), port).into())?;
        socket.connect_timeout(&BACKEND.parse::<SocketAddr>().unwrap().into(), LONG)?;
        std::io::Result::Ok(TcpStream::from(socket))
    };
    let connect = |port: u16| frontend.ns().run(|| bound(|| once(port))).map(Talk::of);
    // Every other round has a leg to the server, which may still be ending when the next round begins.
    for round in 0..100 {
        let mut talk = connect(40_000).unwrap_or_else(|error| panic!("round {round}: {error}"));
        talk.stream.set_read_timeout(Some(LONG)).unwrap();
        // Ended by a reset, so that the port can be used again at once.
        socket2::SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).unwrap();
        let (target, status) = if round % 2 == 0 { (format!("/api/{round}"), 200) } else { (format!("/admin/{round}"), 403) };
        let answer = talk.get(&target).unwrap_or_else(|error| panic!("round {round}: {error}"));
        assert_eq!(answer.status, status, "round {round}");
    }
    assert!(scene.web.seen().iter().all(|seen| seen.target.starts_with("/api/")), "{:?}", scene.web.seen());
    // The port of a connection that the client closed in order, too.
    let mut talk = connect(50_000).unwrap();
    talk.stream.set_read_timeout(Some(LONG)).unwrap();
    assert_eq!(talk.ask("DELETE", "/x").unwrap().status, 403);
    talk.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(talk.ends_within(LONG));
    drop(talk);
    if let Ok(mut talk) = frontend.ns().run(|| once(50_000)).map(Talk::of) {
        talk.stream.set_read_timeout(Some(LONG)).unwrap();
        assert_eq!(talk.ask("DELETE", "/y").unwrap().status, 403);
    }
    assert!(scene.seen("/x").is_empty() && scene.seen("/y").is_empty());
}

#[test]
fn a_pod_is_closed_until_its_manifest_is_there() {
    let Some(mut scene) = start() else { return };
    let node = scene.node("node-1");
    let newcomer = scene.net.add_pod(&node, "shop/newcomer", &[ip("10.1.0.50"), ip("fd00:1::50")]).unwrap();
    // One whose address is not even of the node's range.
    let foreign = scene.net.add_pod(&node, "shop/foreign", &[ip("172.20.0.5")]).unwrap();
    let all = [Port::tcp(9000), Port::udp(9000)];
    for pod in [&newcomer, &foreign, &scene.pod("shop/stranger")] {
        scene.net.serve_pod(pod, &all).unwrap();
    }
    scene.net.serve(scene.net.outside(), "outside", &all).unwrap();
    let stranger = scene.pod("shop/stranger");
    let mut probes = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut probe =
            |from: &Netns, to: IpAddr| probes.push(Probe { from: from.clone(), source: None, to, port: 9000, protocol });
        for address in ["10.1.0.50", "fd00:1::50", "172.20.0.5"] {
            probe(stranger.ns(), ip(address));
            probe(scene.net.outside(), ip(address));
        }
        for address in ["10.1.0.4", "fd00:1::4"] {
            probe(newcomer.ns(), ip(address));
        }
        probe(newcomer.ns(), Net::OUTSIDE_V4);
        probe(newcomer.ns(), Net::OUTSIDE_V6);
        probe(foreign.ns(), ip("10.1.0.4"));
        probe(foreign.ns(), Net::OUTSIDE_V4);
        probe(stranger.ns(), ip("10.1.0.77"));
    }
    for (probe, outcome) in probes.iter().zip(scene.net.probe(&probes, SHORT)) {
        assert!(!outcome.is_connected(), "{} to {} {:?}: {outcome:?}", probe.from.name(), probe.to, probe.protocol);
    }
    // A SYN that came too early is sent again, and meets the pod's policies.
    let late = std::thread::scope(|scope| {
        let early = scope.spawn(|| stranger.ns().tcp_connect(None, "10.1.0.50:9000".parse().unwrap(), LONG).is_ok());
        std::thread::sleep(Duration::from_millis(300));
        scene.apply(&pod_file("shop/newcomer"), &pod_manifest("shop/newcomer", "node-1", &["10.1.0.50", "fd00:1::50"]));
        scene.apply(&pod_file("shop/foreign"), &pod_manifest("shop/foreign", "node-1", &["172.20.0.5"]));
        early.join().unwrap()
    });
    assert!(late, "the first SYN waits for the manifest instead of failing");
    // All but the address that still nobody has.
    let known: Vec<_> = probes.into_iter().filter(|probe| probe.to != ip("10.1.0.77")).collect();
    for (probe, outcome) in known.iter().zip(scene.net.probe(&known, LONG)) {
        assert!(outcome.is_connected(), "{} to {} {:?}: {outcome:?}", probe.from.name(), probe.to, probe.protocol);
    }
    // Gone from the manifests, it is closed again, its live flows too.
    let mut live = Pair::connect(stranger.ns(), newcomer.ns(), "10.1.0.50:9500");
    assert_eq!(live.passes(LONG), (true, true));
    scene.remove(&pod_file("shop/newcomer"));
    let probe = [Probe { from: stranger.ns().clone(), source: None, to: ip("10.1.0.50"), port: 9000, protocol: Protocol::Tcp }];
    assert!(wait_until(LONG, || !scene.net.probe(&probe, SHORT)[0].is_connected()));
    assert_eq!(live.passes(SHORT), (false, false));
    assert_eq!(curl(scene.pod("shop/frontend").ns(), "http://10.1.0.2:8080/api/x", &[]).status, 200);
}
