//! What clients see, by datagrams mostly.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluice_proxy::dns::service::{Fate, Settings, Transport};
use sluice_testnet::dns::{Client, Kind, Lookup, Message, Reply, ResolvConf, Socket, Stream};
use sluice_testnet::{Protocol, Service, wait_until};

use crate::stage::{AUTHORITY, CLIENT, LIAR, LONG, SHORT, Scene, WEB, at, ip, large, right};

#[test]
fn answers_come_by_both_transports_and_families() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    let mut fates = 0;
    for server in AUTHORITY {
        for (options, by_tcp) in [(&[][..], false), (&["+tcp"][..], true)] {
            for (kind, address) in [("A", WEB[0]), ("AAAA", WEB[1])] {
                let answer = scene.dig(server, "WwW.example.test", kind, options);
                assert_eq!((answer.data(), answer.by_tcp), (vec![address], by_tcp), "{}", answer.text);
                assert_eq!(answer.answers[0].name, "WwW.example.test.", "the case is the client's");
            }
            let refused = scene.dig(server, "refused.example.test", "A", options);
            assert_eq!(refused.status, "REFUSED");
            assert_eq!(refused.extended_errors, [(18, "policy shop/names".to_owned())], "{}", refused.text);
            assert_eq!(scene.dig(server, "denied.example.test", "A", options).status, "NXDOMAIN");
            assert_eq!(scene.dig(server, "search.example.test", "A", options).status, "NXDOMAIN");
            let unlearned = scene.dig(server, "unlearned.example.test", "A", options);
            assert_eq!((unlearned.status.as_str(), unlearned.answers.len()), ("SERVFAIL", 0), "{}", unlearned.text);
            assert_eq!(scene.dig(server, "none.example.test", "A", options).status, "NXDOMAIN");
            assert_eq!(scene.dig(server, "text.example.test", "TXT", options).data(), ["\"nothing\""]);
            fates += 8;
        }
    }
    let seen = scene.judge.await_fates(fates);
    assert_eq!(seen.len(), fates, "one each: {seen:?}");
    assert_eq!(seen.iter().filter(|fate| matches!(fate, Fate::NotLearned { .. })).count(), 4);
    assert_eq!(scene.judge.learned(), 12, "of those that have addresses");
    for (asked, server) in scene.judge.asked().iter().zip(AUTHORITY.map(|server| [server; 16]).concat()) {
        assert_eq!(asked.server, at(server, 53));
        assert!(CLIENT.map(ip).contains(&asked.client.ip()));
    }
    assert_eq!(scene.judge.asked().iter().filter(|asked| asked.transport == Transport::Tcp).count(), 16);
    assert_eq!(scene.proxy.service.in_flight(), 0);
}

#[test]
fn programs_resolve() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    for server in AUTHORITY {
        let files = ResolvConf::of(ip(server));
        for client in Client::ALL {
            // glibc asks for A and AAAA at once from one socket.
            let found = client.look_up(scene.client.ns(), &files, &Lookup::of("www.example.test")).unwrap();
            assert_eq!(found.sorted(), WEB, "{client:?} at {server}: {found:?}");
        }
        let found = Client::Glibc.look_up(scene.client.ns(), &files, &Lookup::of("many.example.test")).unwrap();
        assert_eq!(found.addresses.len(), 120, "truncated, and then by TCP");
    }
}

#[test]
fn one_socket_asks_thousands_of_questions() {
    const WINDOW: u16 = 128;
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    for server in AUTHORITY {
        let socket = Socket::open(scene.client.ns(), at(server, 53)).unwrap();
        for round in 0..20 {
            let ids: BTreeSet<u16> = (0..WINDOW).map(|id| round * WINDOW + id).collect();
            for id in &ids {
                let kind = if id % 2 == 0 { Kind::A } else { Kind::AAAA };
                socket.send(&Message::query(*id, "www.example.test", kind).bytes()).unwrap();
            }
            let mut answered = BTreeSet::new();
            for _ in &ids {
                let answer = socket.receive(LONG).unwrap().expect("every question has its answer");
                assert_eq!(answer.from, at(server, 53));
                let message = answer.message().expect("DNS");
                assert_eq!(message.addresses(), [ip(WEB[usize::from(message.id % 2)])], "{message:?}");
                answered.insert(message.id);
            }
            assert_eq!(answered, ids);
        }
        assert_eq!(socket.receive(Duration::from_millis(1)).unwrap(), None, "and no second");
    }
    assert_eq!(scene.metrics.unsent.get(), 0);
}

#[test]
fn large_answers_come_whole() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let liar = scene.liar(large);
    let service = |family: usize, address: &str| Service {
        name: "dns/large".to_owned(),
        protocol: Protocol::Udp,
        address: at(address, 53),
        backends: vec![at(LIAR[family], 53)],
    };
    scene.node.set_services(&[service(0, "10.96.0.10"), service(1, "fd00:96::10")]).unwrap();
    for server in LIAR.into_iter().chain(["10.96.0.10", "fd00:96::10"]) {
        let socket = Socket::open(scene.client.ns(), at(server, 53)).unwrap();
        for id in 0..5 {
            socket.send(&Message::query(id, "large.example.test", Kind::A).edns(8192).bytes()).unwrap();
            let answer = socket.receive(LONG).unwrap().expect("an answer");
            assert_eq!(answer.from, at(server, 53));
            assert!(answer.bytes.len() > 4000, "{}", answer.bytes.len());
            let message = answer.message().expect("DNS");
            assert_eq!((message.id, message.addresses().len()), (id, 130));
        }
    }
    assert_eq!(liar.troubles(), [""; 0]);
    assert_eq!((scene.metrics.fragmented.get(), scene.metrics.unsent.get()), (20, 0));
}

#[test]
fn truncated_answers_are_handed_on() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    for server in AUTHORITY {
        let cut = scene.dig(server, "many.example.test", "A", &["+ignore", "+bufsize=512"]);
        assert!(cut.is_truncated(), "{}", cut.text);
        let whole = scene.dig(server, "many.example.test", "A", &["+bufsize=512"]);
        assert!(whole.by_tcp && whole.answers.len() == 120, "{}", whole.text);
    }
    assert_eq!(scene.judge.learned(), 2, "the whole ones");
}

#[test]
fn an_answer_leaves_when_it_is_learned() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    let socket = Socket::open(scene.client.ns(), at(AUTHORITY[0], 53)).unwrap();
    socket.send(&Message::query(1, "slow.example.test", Kind::A).bytes()).unwrap();
    assert!(wait_until(LONG, || scene.judge.learned() == 1));
    assert_eq!(socket.receive(SHORT).unwrap(), None);
    // Others don't wait for it, of the same socket neither.
    socket.send(&Message::query(2, "www.example.test", Kind::A).bytes()).unwrap();
    assert_eq!(socket.receive(LONG).unwrap().and_then(|answer| answer.message()).unwrap().id, 2);
    scene.judge.gate.add_permits(1);
    let answer = socket.receive(LONG).unwrap().and_then(|answer| answer.message()).unwrap();
    assert_eq!((answer.id, answer.addresses()), (1, vec![ip(WEB[0])]));
    let fates = scene.judge.await_fates(2);
    assert!(matches!(&fates[1], Fate::Answered { learned, .. } if *learned >= SHORT), "{fates:?}");
}

#[test]
fn a_query_that_breaks_takes_no_other_along() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    let mut socket = Socket::open(scene.client.ns(), at(AUTHORITY[0], 53)).unwrap();
    for _ in 0..5 {
        assert_eq!(socket.ask("breaks.example.test", Kind::A, SHORT).unwrap(), None, "nothing is said of it");
        let answer = socket.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
        assert_eq!(answer.message().unwrap().addresses(), [ip(WEB[0])]);
    }
    assert!(wait_until(LONG, || scene.proxy.service.in_flight() == 0), "its place is given back");
}

#[test]
fn what_is_never_learned_is_a_failure_in_time() {
    let settings = Settings { answer_within: Duration::from_millis(600), ..Settings::default() };
    let Some(scene) = Scene::start(settings) else { return };
    let _authority = scene.authority();
    let failed = scene.dig(AUTHORITY[1], "slow.example.test", "A", &[]);
    assert_eq!(failed.status, "SERVFAIL", "{}", failed.text);
    assert_eq!(failed.extended_errors[0].0, 23);
}

#[test]
fn a_service_in_front_of_the_server() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    let service = |protocol, address: &str, backend: &str| Service {
        name: "dns/cluster".to_owned(),
        protocol,
        address: at(address, 53),
        backends: vec![at(backend, 53)],
    };
    let both = [("10.96.0.10", AUTHORITY[0]), ("fd00:96::10", AUTHORITY[1])];
    let all = both.iter().flat_map(|(front, back)| [Protocol::Udp, Protocol::Tcp].map(|protocol| service(protocol, front, back)));
    scene.node.set_services(&all.collect::<Vec<_>>()).unwrap();
    for (front, _) in both {
        for options in [&[][..], &["+tcp"]] {
            let answer = scene.dig(front, "www.example.test", "A", options);
            assert_eq!(answer.data(), [WEB[0]], "{}", answer.text);
        }
        // By one socket, which takes only what comes from whom it asked.
        let mut socket = Socket::open(scene.client.ns(), at(front, 53)).unwrap();
        for _ in 0..50 {
            let answer = socket.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
            assert_eq!(answer.from, at(front, 53));
        }
    }
    assert!(scene.judge.asked().iter().all(|asked| AUTHORITY.map(|server| at(server, 53)).contains(&asked.server)));
}

#[test]
fn what_is_no_query_is_not_forwarded() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let liar = scene.liar(|query| vec![Reply::message(&right(query))]);
    for server in LIAR {
        let socket = Socket::open(scene.client.ns(), at(server, 53)).unwrap();
        let response = Message { is_answer: true, ..Message::query(7, "www.example.test", Kind::A) };
        for silent in [vec![], vec![1, 2, 3], response.bytes()] {
            socket.send(&silent).unwrap();
        }
        let cut = &Message::query(8, "www.example.test", Kind::A).bytes()[..20];
        socket.send(cut).unwrap();
        let answer = socket.receive(LONG).unwrap().expect("an answer");
        assert_eq!((answer.from, answer.bytes.len()), (at(server, 53), 12));
        assert_eq!((answer.bytes[..2].to_vec(), answer.bytes[3] & 0xf), (vec![0, 8], 1), "FORMERR");
        assert_eq!(socket.receive(SHORT).unwrap(), None);
    }
    // To the door itself: nobody answers, and nobody is asked.
    scene.node.ns().run(|| {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let query = Message::query(9, "www.example.test", Kind::A).bytes();
        socket.send_to(&query, "127.0.0.1:15053").unwrap();
    });
    let mut stream = Stream::open(scene.node.ns(), at("::1", 15_053), LONG).unwrap();
    assert!(stream.receive().is_err());
    assert!(wait_until(LONG, || scene.metrics.not_diverted.get() == 2));
    assert_eq!(scene.metrics.malformed.get(), 8);
    assert_eq!((scene.judge.fates().len(), liar.queries().len()), (0, 0));
}

/// As while a successor takes the kernel over: what one pod asks at its own pace would be more than it may have in flight.
#[test]
fn what_can_not_be_learned_for_now_waits_at_the_sockets() {
    const QUERIES: u16 = 800;
    let Some(mut scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    let most = Settings::default().in_flight_per_pod;
    assert!(usize::from(QUERIES) > most);
    // At its beginning, for two seconds, the proxy takes little at a time anyway.
    std::thread::sleep(Duration::from_millis(2_500));
    scene.judge.is_late.store(true, Ordering::SeqCst);
    let asks = Socket::open(scene.client.ns(), at(AUTHORITY[0], 53)).unwrap();
    for id in 0..QUERIES {
        asks.send(&Message::query(id, "slow.example.test", Kind::A).bytes()).unwrap();
        std::thread::sleep(Duration::from_micros(200));
    }
    assert!(wait_until(LONG, || scene.proxy.service.in_flight() >= most / 2));
    std::thread::sleep(SHORT);
    assert_eq!(scene.judge.fates(), [], "none is refused");
    scene.judge.is_late.store(false, Ordering::SeqCst);
    scene.judge.gate.add_permits(QUERIES.into());
    let fates = scene.judge.await_fates(QUERIES.into());
    assert!(fates.iter().all(|fate| matches!(fate, Fate::Answered { .. })), "{fates:?}");
    scene.proxy.finish();
}

#[test]
fn what_waits_at_the_sockets_is_the_successors() {
    let Some(mut scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    let server = at(AUTHORITY[0], 53);
    let mut asks = Socket::open(scene.client.ns(), server).unwrap();
    asks.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
    scene.proxy.finish();
    // Nobody reads.
    for id in 100..110 {
        asks.send(&Message::query(id, "www.example.test", Kind::A).bytes()).unwrap();
    }
    let mut stream = Stream::open(scene.client.ns(), server, LONG).unwrap();
    stream.send(&[Message::query(1, "www.example.test", Kind::A)]).unwrap();
    assert_eq!(asks.receive(SHORT).unwrap(), None);
    let _successor = scene.proxy.successor();
    let answered: BTreeSet<u16> =
        (0..10).map(|_| asks.receive(LONG).unwrap().expect("an answer").message().unwrap().id).collect();
    assert_eq!(answered, (100..110).collect());
    assert_eq!(Message::parse(&stream.receive().unwrap()).unwrap().addresses(), [ip(WEB[0])]);
}
