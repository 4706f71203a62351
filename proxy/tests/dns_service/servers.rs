//! Servers that are late, mute, away, or lie.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sluice_proxy::dns::service::{Fate, Settings};
use sluice_testnet::Net;
use sluice_testnet::dns::{Authority, Kind, Message, Query, Record, Reply, Scripted, Socket, Transport, Zone};

use crate::stage::{AUTHORITY, CLIENT, LIAR, LONG, SHORT, Scene, WEB, at, ip, right};

const SOON: Duration = Duration::from_millis(1500);

fn soon() -> Settings {
    Settings { upstream_timeout: SOON, ..Settings::default() }
}

/// Lies, each of its own kind, and then the truth.
fn lie(query: &Query) -> Vec<Reply> {
    let truth = right(query);
    let name = truth.questions[0].name.clone();
    let lies = Message { answers: vec![Record::address(&name, 60, ip("203.0.113.66"))], ..truth.clone() };
    let mut other_name = lies.clone();
    other_name.questions[0].name = "other.test".to_owned();
    let mut other_kind = lies.clone();
    other_kind.questions[0].kind = Kind::TXT;
    let elsewhere = |address: SocketAddr| Reply::message(&lies).from(address);
    vec![
        Reply::message(&Message { id: lies.id ^ 1, ..lies.clone() }),
        Reply::message(&other_name),
        Reply::message(&other_kind),
        Reply::message(&Message { is_answer: false, ..lies.clone() }),
        Reply::bytes(vec![0; 5]),
        elsewhere(SocketAddr::new(query.to.ip(), 54)),
        elsewhere(at(if query.to.is_ipv4() { "203.0.113.99" } else { "2001:db8::99" }, 53)),
        Reply::message(&truth).after(Duration::from_millis(50)),
    ]
}

#[test]
fn the_truth_comes_through_among_lies() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let liar = scene.liar(lie);
    for server in LIAR {
        let mut socket = Socket::open(scene.client.ns(), at(server, 53)).unwrap();
        for _ in 0..10 {
            let answer = socket.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
            assert_eq!((answer.from, answer.message().unwrap().addresses()), (at(server, 53), vec![ip(WEB[0])]));
        }
        assert_eq!(socket.receive(SHORT).unwrap(), None, "nothing else gets to the client");
    }
    assert_eq!(liar.troubles(), [""; 0], "the lies were told");
    assert_eq!(scene.metrics.not_believed.get(), 100, "five of each: the others never arrive");
    let asked = liar.queries();
    assert!(asked.iter().all(|query| CLIENT.map(ip).contains(&query.from.ip())), "as the pod");
    assert!(asked.iter().all(|query| (10_000..=29_255).contains(&query.from.port())), "by no port that a client has: {asked:?}");
}

/// Answers the name `first` late, all others at once, and twice.
#[test]
fn a_late_answer_is_not_the_next_querys() {
    let Some(scene) = Scene::start(soon()) else { return };
    let liar = scene.liar(|query| {
        let reply = Reply::message(&right(query));
        match query.message().unwrap().questions[0].name.starts_with("late") {
            true => vec![reply.after(SOON + Duration::from_millis(100))],
            false => vec![reply.clone(), reply],
        }
    });
    let socket = Socket::open(scene.client.ns(), at(LIAR[0], 53)).unwrap();
    let ask = |id, name: &str| socket.send(&Message::query(id, name, Kind::A).bytes()).unwrap();
    let answer = || socket.receive(LONG).unwrap().and_then(|answer| answer.message()).unwrap();
    ask(1, "late.test");
    assert_eq!((answer().rcode, scene.judge.await_fates(1)), (2, vec![Fate::TimedOut]));
    for id in 2..40 {
        // One id for all: what is left over of the one before would fit this one but for its name.
        ask(1, &format!("name-{id}.test"));
        assert_eq!(answer().questions[0].name, format!("name-{id}.test"));
    }
    let ports: Vec<u16> = liar.queries().iter().map(|query| query.from.port()).collect();
    assert!(ports[1..].iter().all(|port| *port != ports[0]), "a socket that waits is not used again: {ports:?}");
    let changes = ports[1..].windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!((1..20).contains(&changes), "others are, for a while: {ports:?}");
}

#[test]
fn silence_is_a_failure() {
    let Some(scene) = Scene::start(soon()) else { return };
    let _mute = scene.liar(|_| Vec::new());
    for server in LIAR {
        for options in [&[][..], &["+tcp"]] {
            let start = Instant::now();
            let mute = scene.dig(server, "www.example.test", "A", options);
            assert_eq!((mute.status.as_str(), mute.extended_errors[0].0), ("SERVFAIL", 22), "{}", mute.text);
            assert!(start.elapsed() >= SOON);
        }
    }
    assert!(scene.judge.await_fates(4).iter().all(|fate| *fate == Fate::TimedOut));
}

/// Before the time is over.
#[test]
fn a_closed_port_is_a_failure_at_once() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _nobody = scene.pod("dns/nobody", AUTHORITY);
    for server in AUTHORITY {
        for options in [&[][..], &["+tcp"]] {
            let closed = scene.dig(server, "www.example.test", "A", options);
            assert_eq!((closed.status.as_str(), closed.extended_errors[0].0), ("SERVFAIL", 23), "{}", closed.text);
        }
    }
    assert!(scene.judge.await_fates(4).iter().all(|fate| *fate == Fate::Unreachable));
}

#[test]
fn a_pods_mute_server_is_its_own_trouble() {
    let Some(mut scene) = Scene::start(Settings { in_flight_per_pod: 3, ..Settings::default() }) else { return };
    let mute = scene.liar(|_| Vec::new());
    let _authority = scene.authority();
    let waits = Socket::open(scene.client.ns(), at(LIAR[1], 53)).unwrap();
    for id in 0..4 {
        waits.send(&Message::query(id, "www.example.test", Kind::A).bytes()).unwrap();
    }
    let beyond = waits.receive(LONG).unwrap().and_then(|answer| answer.message()).unwrap();
    assert_eq!((beyond.id, beyond.rcode), (3, 2));
    assert_eq!(scene.judge.await_fates(1), [Fate::TooManyInFlight]);
    // Denials need no place.
    assert_eq!(scene.dig(AUTHORITY[0], "refused.example.test", "A", &[]).status, "REFUSED");
    let mut others = Socket::open(scene.other.ns(), at(AUTHORITY[0], 53)).unwrap();
    for _ in 0..50 {
        let answer = others.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
        assert_eq!(answer.message().unwrap().addresses(), [ip(WEB[0])]);
    }
    // What is in flight when the drain begins has its answer, and nothing else is taken.
    scene.proxy.finish();
    for _ in 0..3 {
        assert_eq!(waits.receive(LONG).unwrap().and_then(|answer| answer.message()).unwrap().rcode, 2);
    }
    assert_eq!((scene.proxy.service.in_flight(), mute.queries().len()), (0, 3));
}

/// A cache on every node, whose connections nobody tracks.
#[test]
fn a_server_on_the_node() {
    const CACHE: &str = "169.254.20.10";
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let node = scene.node.ns();
    node.exec("ip", &["address", "add", "169.254.20.10/32", "dev", "lo"]).unwrap();
    let notrack = "table ip untracked {
        chain in { type filter hook prerouting priority raw; ip daddr 169.254.20.10 notrack; ip saddr 169.254.20.10 notrack; }
        chain out { type filter hook output priority raw; ip daddr 169.254.20.10 notrack; ip saddr 169.254.20.10 notrack; }
    }";
    node.exec("nft", &[notrack]).unwrap();
    let own: Vec<_> = scene.node.addresses().to_vec();
    let addresses: Vec<_> = own.iter().copied().chain([ip(CACHE)]).collect();
    let zone = Zone::new("example.test").addresses("www.example.test", &WEB.map(ip));
    let _authority = Authority::start(node, &addresses, [zone]).unwrap();
    for server in addresses {
        let mut socket = Socket::open(scene.client.ns(), (server, 53).into()).unwrap();
        for _ in 0..5 {
            let answer = socket.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
            assert_eq!((answer.from, answer.message().unwrap().addresses()), ((server, 53).into(), vec![ip(WEB[0])]));
        }
        let by_tcp = scene.dig(&server.to_string(), "www.example.test", "A", &["+tcp"]);
        assert_eq!(by_tcp.data(), [WEB[0]], "{}", by_tcp.text);
    }
    assert_eq!(scene.metrics.not_diverted.get(), 0);
}

/// Whatever sockets are open as the server or as the pod, every query is judged: none reaches the server unread.
#[test]
fn no_query_passes_unjudged() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let liar = scene.liar(|query| vec![Reply::message(&right(query))]);
    for server in LIAR {
        let sockets: Vec<Socket> = [&scene.client, &scene.other]
            .into_iter()
            .flat_map(|pod| (0..4).map(|_| Socket::open(pod.ns(), at(server, 53)).unwrap()).collect::<Vec<_>>())
            .collect();
        for round in 0..25 {
            for socket in &sockets {
                socket.send(&Message::query(round, "www.example.test", Kind::A).bytes()).unwrap();
                socket.send(&Message::query(round, "refused.example.test", Kind::A).bytes()).unwrap();
            }
            for socket in &sockets {
                let codes: Vec<u8> = (0..2).map(|_| socket.receive(LONG).unwrap().unwrap().message().unwrap().rcode).collect();
                assert_eq!(codes.iter().sum::<u8>(), 5, "{codes:?}");
            }
        }
    }
    let queries = liar.queries();
    assert_eq!(queries.len(), 2 * 25 * 8);
    assert!(queries.iter().all(|query| query.message().unwrap().questions[0].name == "www.example.test"));
    assert!(queries.iter().all(|query| query.transport == Transport::Udp));
}

/// Answers find back through the translation of the pod's address, and the server's own errors too.
#[test]
fn a_server_outside_behind_masquerade() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let node = scene.node.ns();
    let masquerade = "table inet nat {
        chain out { type nat hook postrouting priority srcnat; oifname \"eth0\" masquerade; }
    }";
    node.exec("nft", &[masquerade]).unwrap();
    let servers = [Net::OUTSIDE_V4, Net::OUTSIDE_V6].map(|address| SocketAddr::new(address, 53));
    let outside = Scripted::start(scene.net.outside(), &servers, |query| vec![Reply::message(&right(query))]).unwrap();
    for server in servers {
        let mut socket = Socket::open(scene.client.ns(), server).unwrap();
        for _ in 0..5 {
            let answer = socket.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
            assert_eq!((answer.from, answer.message().unwrap().addresses()), (server, vec![ip(WEB[0])]));
        }
        let by_tcp = scene.dig(&server.ip().to_string(), "www.example.test", "A", &["+tcp"]);
        assert_eq!(by_tcp.data(), [WEB[0]], "{}", by_tcp.text);
    }
    let queries = outside.queries();
    assert_eq!(queries.len(), 12);
    assert!(queries.iter().all(|query| scene.node.addresses().contains(&query.from.ip())), "{queries:?}");
    drop(outside);
    for server in servers {
        let closed = scene.dig(&server.ip().to_string(), "www.example.test", "A", &[]);
        assert_eq!(closed.extended_errors[0].0, 23, "{}", closed.text);
    }
}
