//! Five-tuples that were judged once: of answered datagrams, of connections that ended or whose proxy died, of revoked flows.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use sluice_testnet::bound;
use socket2::{Domain, Socket, Type};

use crate::client::{Pair, Talk};
use crate::packet::{ACK, Ends, FIN, PSH, RST, SYN, Segment, TCP};
use crate::scene::{LONG, SHORT};
use crate::stage::{Case, Family, POLICIES, Shot, Stage, everywhere, segments};
use crate::wire::Wire;

/// The same, with `plain` closed to everyone, or read.
fn plain_closed() -> String {
    POLICIES.replace(
        "  podSelector: { matchLabels: { app: plain } }\n  ingress:\n  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]",
        "  podSelector: { matchLabels: { app: plain } }\n  ingress: []",
    )
}

fn plain_read() -> String {
    POLICIES.replace(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: plain, namespace: shop }\nspec:\n  podSelector: \
         { matchLabels: { app: plain } }\n  ingress:\n  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]",
        "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: { name: plain, namespace: shop }\nspec:\n  podSelector: \
         { matchLabels: { app: plain } }\n  ingress:\n  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]\n    \
         http: [ { method: GET } ]",
    )
}

/// A segment of every kind that might take a connection up again.
fn any_segment(stage: &mut Stage, ends: Ends, next: (u32, u32)) -> Vec<Shot> {
    let kinds = [("data", ACK | PSH), ("SYN", SYN), ("SYN and ACK", SYN | ACK), ("FIN", FIN | ACK), ("RST", RST)];
    let shots = kinds.map(|(what, flags)| {
        stage.shot(format!("{what} on {} -> {}", ends.from, ends.to), |text| {
            let segment = Segment { flags, sequence: next.0, acknowledged: next.1, text: text.to_vec(), ..Segment::default() };
            vec![ends.packet(TCP, &segment.encode(ends))]
        })
    });
    shots.into()
}

/// What `ends.from` would send next, by what passed on its own wire: sequence number and acknowledgement.
fn next_of(wire: &Wire, ends: Ends) -> (u32, u32) {
    let seen = segments(&wire.frames());
    let acknowledged = |ends| seen.iter().rev().find(|(at, s)| *at == ends && s.flags & ACK != 0).map(|(_, s)| s.acknowledged);
    (acknowledged(ends.back()).unwrap_or(1), acknowledged(ends).unwrap_or(1))
}

/// A live connection and a live exchange of datagrams, and what each end would send next.
struct Live {
    _stream: Pair,
    _datagrams: [std::net::UdpSocket; 2],
    by_client: Vec<Shot>,
    by_server: Vec<Shot>,
}

fn live(stage: &mut Stage, family: Family) -> Live {
    let wire = stage.wire("plain");
    let to = stage.ends(("plain", 0), ("plain", 8080 + 1), family).to;
    let mut stream = Pair::connect(stage.pod("frontend").ns(), stage.pod("plain").ns(), &to.to_string());
    assert_eq!(stream.passes(LONG), (true, true));
    std::thread::sleep(Duration::from_millis(100));
    let ends = Ends { from: stream.client.local_addr().unwrap(), to };
    let next = next_of(&wire, ends);
    let datagrams = stage.ends(("frontend", 9811), ("plain", 9812), family);
    let sockets =
        [stage.pod("frontend").ns().udp_bind(datagrams.from).unwrap(), stage.pod("plain").ns().udp_bind(datagrams.to).unwrap()];
    for (socket, to) in [(0, datagrams.to), (1, datagrams.from)] {
        sockets[socket].send_to(b"word", to).unwrap();
        sockets[1 - socket].set_read_timeout(Some(LONG)).unwrap();
        sockets[1 - socket].recv(&mut [0; 8]).unwrap();
    }
    // The datagrams first, and of the segments the data: what ends a connection comes after it.
    let mut by_client = vec![stage.shot("a second datagram", |text| vec![datagrams.datagram(text)])];
    by_client.extend(any_segment(stage, ends, next));
    let mut by_server = vec![stage.shot("the server's datagram", |text| vec![datagrams.back().datagram(text)])];
    by_server.extend(any_segment(stage, ends.back(), (next.1, next.0)));
    Live { _stream: stream, _datagrams: sockets, by_client, by_server }
}

/// `policies` forbid, or want read, what was let pass; the server speaks first, then the client.
fn revoked(stage: &mut Stage, policies: &str) {
    let mut kept = Vec::new();
    let (mut servers, mut clients) = (Vec::new(), Vec::new());
    for family in Family::BOTH {
        let Live { _stream, _datagrams, by_client, by_server } = live(stage, family);
        kept.push((_stream, _datagrams));
        servers.push(Case { from: "plain", victim: "frontend", shots: by_server });
        clients.push(Case { from: "frontend", victim: "plain", shots: by_client });
    }
    // The datagrams do arrive before; segments would disturb the connection.
    for cases in [&mut servers, &mut clients] {
        let before: Vec<Case<'_>> = cases
            .iter_mut()
            .map(|case| Case { from: case.from, victim: case.victim, shots: vec![case.shots.remove(0)] })
            .collect();
        stage.all_arrives(&before);
        before.into_iter().zip(cases.iter_mut()).for_each(|(mut before, case)| case.shots.append(&mut before.shots));
    }
    stage.scene.policies(policies);
    stage.nothing_arrives(&servers);
    stage.nothing_arrives(&clients);
    stage.nothing_arrives(&servers);
    stage.disarm();
    stage.all_arrives(&servers);
    stage.all_arrives(&clients);
}

#[test]
fn neither_end_goes_on_after_a_denial() {
    everywhere(|stage| revoked(stage, &plain_closed()));
}

#[test]
fn neither_end_goes_on_unread_when_it_is_to_be_read() {
    assert_ne!(plain_read(), POLICIES);
    assert_ne!(plain_closed(), POLICIES);
    everywhere(|stage| revoked(stage, &plain_read()));
}

/// While policies change to and fro, datagrams from a port that was answered: none arrives once a denial holds.
#[test]
fn a_stream_of_datagrams_ends_with_the_policy() {
    everywhere(|stage| {
        for family in Family::BOTH {
            for port in [9821, 9823, 9825] {
                let ends = stage.ends(("frontend", port), ("plain", 9822), family);
                let wire = stage.wire("plain");
                let (during, behind) = (stage.text(), stage.text());
                let done = std::sync::atomic::AtomicBool::new(false);
                std::thread::scope(|scope| {
                    let sender = stage.wire("frontend");
                    let to = stage.next_hop("frontend", ends.to.ip());
                    let frame = crate::wire::frame(to, sender.mac(), &[], &ends.datagram(&during));
                    let done = &done;
                    scope.spawn(move || {
                        while !done.load(std::sync::atomic::Ordering::SeqCst) {
                            sender.send(&frame);
                            std::thread::sleep(Duration::from_millis(1));
                        }
                    });
                    let arrives = Stage::arrives(&wire, &during, LONG);
                    stage.scene.policies(&plain_closed());
                    done.store(true, std::sync::atomic::Ordering::SeqCst);
                    assert!(arrives, "before the change");
                });
                std::thread::sleep(Duration::from_millis(50));
                wire.frames();
                stage.send("frontend", &ends.datagram(&behind));
                assert!(!Stage::arrives(&wire, &behind, SHORT), "{family:?}");
                stage.scene.policies(POLICIES);
            }
        }
    });
}

/// The attacker's connection from a port of its choice.
pub(crate) fn connect(stage: &Stage, ends: Ends) -> TcpStream {
    let connect = || {
        let socket = Socket::new(Domain::for_address(ends.to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&ends.from.into())?;
        socket.connect_timeout(&ends.to.into(), LONG)?;
        std::io::Result::Ok(TcpStream::from(socket))
    };
    let stream = stage.pod("attacker").ns().run(|| bound(connect)).unwrap();
    stream.set_read_timeout(Some(LONG)).unwrap();
    stream
}

/// Connections to what is read: one whose request was denied, one with a leg to the server, one that said nothing.
fn proxied(stage: &Stage, family: Family, first_port: u16) -> Vec<(Talk, Ends, (u32, u32))> {
    let requests = [Some(("/admin", 403)), Some(("/api/x", 200)), None];
    let wire = stage.wire("attacker");
    let mut talks = Vec::new();
    for (number, request) in (0..).zip(requests) {
        let ends = stage.ends(("attacker", first_port + number), ("backend", 8080), family);
        let mut talk = Talk::of(connect(stage, ends));
        if let Some((path, status)) = request {
            assert_eq!(talk.get(path).unwrap().status, status);
        }
        std::thread::sleep(Duration::from_millis(50));
        talks.push((talk, ends, next_of(&wire, ends)));
    }
    talks
}

fn on_the_tuples(stage: &mut Stage, tuples: &[(Ends, (u32, u32))]) -> Vec<Case<'static>> {
    let shots = tuples.iter().flat_map(|(ends, next)| any_segment(stage, *ends, *next)).collect();
    vec![Case { from: "attacker", victim: "backend", shots }]
}

/// The same from other ports: where a socket of the proxy still ends, the kernel forwards none of its packets.
fn on_other_tuples(stage: &mut Stage, tuples: &[(Ends, (u32, u32))]) -> Vec<Case<'static>> {
    let mut others = tuples.to_vec();
    others.iter_mut().for_each(|(ends, _)| ends.from.set_port(ends.from.port() + 500));
    on_the_tuples(stage, &others)
}

/// The proxy ends each connection by itself; its sockets wait for the client's FIN (which never comes) one second long.
#[test]
fn the_tuple_of_a_connection_that_the_proxy_closed_stays_closed() {
    everywhere(|stage| {
        stage.node().ns().sysctl("ipv4/tcp_fin_timeout", "1").unwrap();
        let mut kept = Vec::new();
        let mut tuples = Vec::new();
        for (family, port) in Family::BOTH.into_iter().zip([41_000, 42_000]) {
            let wire = stage.wire("attacker");
            for (mut talk, ends, _) in proxied(stage, family, port) {
                // What can't be read is answered by 400 and the end.
                talk.send("GET / nonsense\r\n\r\n").unwrap();
                assert!(talk.ends_within(LONG), "the proxy closes");
                tuples.push((ends, next_of(&wire, ends)));
                kept.push(talk);
            }
        }
        let within = on_the_tuples(stage, &tuples);
        stage.nothing_arrives(&within);
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(600));
            let later = on_the_tuples(stage, &tuples);
            stage.nothing_arrives(&later);
        }
        // The client's own ends go, and the tuples with all that is tracked of them are tried once more.
        drop(kept);
        std::thread::sleep(Duration::from_millis(1500));
        let last = on_the_tuples(stage, &tuples);
        stage.nothing_arrives(&last);
        stage.disarm();
        let others = on_other_tuples(stage, &tuples);
        stage.all_arrives(&others);
    });
}

#[test]
fn the_tuple_of_a_connection_whose_proxy_died_stays_closed() {
    everywhere(|stage| {
        stage.node().ns().sysctl("ipv4/tcp_fin_timeout", "1").unwrap();
        let mut kept = Vec::new();
        let mut tuples = Vec::new();
        for (family, port) in Family::BOTH.into_iter().zip([43_000, 44_000]) {
            for (talk, ends, next) in proxied(stage, family, port) {
                tuples.push((ends, next));
                kept.push(talk);
            }
        }
        stage.scene.programs.kill_proxy("node-1");
        for pause in [0, 1500, 1500] {
            std::thread::sleep(Duration::from_millis(pause));
            let cases = on_the_tuples(stage, &tuples);
            stage.nothing_arrives(&cases);
        }
        stage.scene.programs.start_proxy("node-1").unwrap();
        stage.scene.programs.wait_ready("node-1", LONG).unwrap();
        let cases = on_the_tuples(stage, &tuples);
        stage.nothing_arrives(&cases);
        drop(kept);
        // A new connection from such a port is read like the first.
        let (from, to): (SocketAddr, SocketAddr) = (tuples[0].0.from, tuples[0].0.to);
        let anew = sluice_testnet::wait_until(LONG, || {
            let socket = stage.pod("attacker").ns().run(|| Socket::new(Domain::IPV4, Type::STREAM, None)).unwrap();
            socket.set_reuse_address(true).unwrap();
            if socket.bind(&from.into()).is_err() || socket.connect_timeout(&to.into(), SHORT).is_err() {
                return false;
            }
            let stream: TcpStream = socket.into();
            stream.set_read_timeout(Some(LONG)).unwrap();
            Talk::of(stream).get("/admin").is_ok_and(|answer| answer.status == 403)
        });
        assert!(anew);
        stage.nothing_arrives(&cases);
        stage.disarm();
        let others = on_other_tuples(stage, &tuples);
        stage.all_arrives(&others);
    });
}

/// While a connection lives, what else comes from its port: the proxy's socket gets it, and its own leg to the server is not that.
#[test]
fn a_second_syn_on_a_live_connection_reaches_no_server() {
    everywhere(|stage| {
        let (mut tuples, mut kept) = (Vec::new(), Vec::new());
        for (family, port) in Family::BOTH.into_iter().zip([45_000, 46_000]) {
            for (talk, ends, next) in proxied(stage, family, port) {
                tuples.push((ends, next));
                kept.push(talk);
            }
        }
        let mut cases = on_the_tuples(stage, &tuples);
        // In the stream, data is the proxy's to read, and a request that is not allowed.
        cases[0].shots.retain(|shot| !shot.what.starts_with("data"));
        stage.nothing_arrives(&cases);
        stage.disarm();
        let others = on_other_tuples(stage, &tuples);
        stage.all_arrives(&others);
    });
}
