//! Many queries on one connection.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice_proxy::dns::service::{Fate, Settings};
use sluice_testnet::dns::{Kind, Message, Query, Record, Reply, Stream};
use sluice_testnet::wait_until;

use crate::stage::{AUTHORITY, LIAR, LONG, Scene, WEB, at, ip, right};

const AXFR: Kind = Kind(252);

fn ask(id: u16, name: &str) -> Message {
    Message::query(id, name, Kind::A).edns(1232)
}

fn receive(stream: &mut Stream) -> Message {
    Message::parse(&stream.receive().unwrap()).expect("DNS")
}

/// What comes next, so often.
fn codes(stream: &mut Stream, count: usize) -> BTreeMap<u16, u8> {
    (0..count).map(|_| receive(stream)).map(|message| (message.id, message.rcode)).collect()
}

#[test]
fn many_queries_share_a_connection() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _authority = scene.authority();
    for server in AUTHORITY {
        let mut stream = Stream::open(scene.client.ns(), at(server, 53), LONG).unwrap();
        let names = ["www", "refused", "denied", "search", "unlearned", "none"];
        for round in 0..10 {
            // More at once than may be in flight.
            let queries: Vec<Message> =
                (0..300).map(|id| ask(id, &format!("{}.example.test", names[usize::from(id) % names.len()]))).collect();
            stream.send(&queries).unwrap();
            let codes = codes(&mut stream, queries.len());
            assert_eq!(codes.len(), queries.len(), "round {round}: one answer each");
            for (id, code) in codes {
                assert_eq!(
                    code,
                    [0, 5, 3, 3, 2, 3][usize::from(id) % names.len()],
                    "{}",
                    queries[usize::from(id)].questions[0].name
                );
            }
        }
    }
    assert_eq!(scene.judge.await_fates(6000).len(), 6000);
}

#[test]
fn answers_come_in_whatever_order() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let liar = scene.liar(|query| {
        let reply = Reply::message(&right(query));
        match query.message().unwrap().questions[0].name.split('.').next() {
            Some("late") => vec![reply.after(Duration::from_millis(200))],
            // Of no query that is open.
            Some("lie") => vec![Reply::message(&Message { id: 999, ..right(query) }), reply],
            _ => vec![reply],
        }
    });
    let mut stream = Stream::open(scene.client.ns(), at(LIAR[0], 53), LONG).unwrap();
    stream.send(&[ask(1, "late.test"), ask(2, "slow.test"), ask(3, "lie.test"), ask(4, "refused.test")]).unwrap();
    // The second waits for the test, the first for its server.
    let first: Vec<u16> = (0..3).map(|_| receive(&mut stream).id).collect();
    assert_eq!(first, [4, 3, 1]);
    scene.judge.gate.add_permits(1);
    let last = receive(&mut stream);
    assert_eq!((last.id, last.addresses()), (2, vec![ip(WEB[0])]));
    assert_eq!(scene.metrics.not_believed.get(), 1);
    assert_eq!(liar.queries().len(), 3);
    let from: Vec<_> = liar.queries().iter().map(|query| query.from).collect();
    assert!(from.iter().all(|each| *each == from[0]), "one connection: {from:?}");

    // A client that says no more still gets its answers, and then the end.
    stream.send(&[ask(5, "late.test")]).unwrap();
    stream.finish().unwrap();
    assert_eq!(receive(&mut stream).id, 5);
    assert!(stream.receive().is_err());
}

#[test]
fn a_server_that_closes_is_connected_to_again() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let liar = scene.liar(|query| match query.message().unwrap().questions[0].name.split('.').next() {
        Some("close") => vec![Reply::close().after(Duration::from_millis(50))],
        Some("half") => vec![Reply::raw(vec![0, 50, 1, 2, 3]), Reply::close().after(Duration::from_millis(50))],
        Some("mute") => Vec::new(),
        _ => vec![Reply::message(&right(query))],
    });
    let mut stream = Stream::open(scene.client.ns(), at(LIAR[1], 53), LONG).unwrap();
    stream.send(&[ask(1, "mute.test"), ask(2, "close.test"), ask(3, "right.test")]).unwrap();
    assert_eq!(codes(&mut stream, 3), BTreeMap::from([(1, 2), (2, 2), (3, 0)]));
    stream.send(&[ask(4, "right.test"), ask(5, "half.test")]).unwrap();
    assert_eq!(codes(&mut stream, 2), BTreeMap::from([(4, 0), (5, 2)]));
    stream.send(&[ask(6, "right.test"), ask(7, "refused.test")]).unwrap();
    assert_eq!(codes(&mut stream, 2), BTreeMap::from([(6, 0), (7, 5)]));
    // An id that is in use.
    stream.send(&[ask(8, "mute.test"), ask(8, "mute.test"), ask(8, "right.test")]).unwrap();
    assert_eq!((receive(&mut stream).rcode, receive(&mut stream).rcode), (2, 2));
    // With an answer that it didn't take, its end is a reset.
    stream.send(&[ask(9, "refused.test")]).unwrap();
    scene.judge.await_fates(10);
    drop(stream);
    let fates = scene.judge.await_fates(11);
    assert_eq!(fates[7..], [Fate::IdInUse, Fate::IdInUse, Fate::Refused, Fate::Abandoned]);
    assert_eq!(fates.iter().filter(|fate| **fate == Fate::Unreachable).count(), 3);
    assert_eq!(liar.queries().len(), 7);
}

fn transfer(query: &Query) -> Vec<Reply> {
    let asked = query.message().unwrap();
    let part = |first: u8| {
        (0..100).fold(asked.reply(), |message, i| message.answer(Record::address("x.test", 1, [first, 0, 0, i].into())))
    };
    let mut parts: Vec<Reply> = (0..50).map(|i| Reply::message(&part(i))).collect();
    // The second and all others without their question, as RFC 5936 allows.
    for i in 1..50 {
        parts[usize::from(i)] = Reply::message(&Message { questions: Vec::new(), ..part(i) });
    }
    parts
}

#[test]
fn transfers_are_handed_on_message_by_message() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _liar = scene.liar(transfer);
    let mut stream = Stream::open(scene.client.ns(), at(LIAR[0], 53), LONG).unwrap();
    stream.send(&[Message::query(1, "test", AXFR)]).unwrap();
    for first in 0..50 {
        let message = receive(&mut stream);
        assert_eq!((message.id, message.addresses().len()), (1, 100));
        assert_eq!(message.addresses()[0], ip(&format!("{first}.0.0.0")), "in order");
    }
    drop(stream);
    assert!(matches!(scene.judge.await_fates(1)[..], [Fate::Answered { .. }]));
    assert_eq!(scene.judge.learned(), 0);
}

#[test]
fn idle_connections_end() {
    let settings = Settings { idle: Duration::from_millis(300), ..Settings::default() };
    let Some(scene) = Scene::start(settings) else { return };
    let open = || Stream::open(scene.client.ns(), at(LIAR[0], 53), LONG).unwrap();
    let _nobody = scene.pod("dns/nobody", LIAR);
    let (mut silent, mut begun) = (open(), open());
    begun.send_bytes(&[0, 50, 1]).unwrap();
    assert!(silent.receive().is_err() && begun.receive().is_err());
}

#[test]
fn connections_have_bounds_and_ends() {
    let settings = Settings { connections_per_pod: 2, ..Settings::default() };
    let Some(mut scene) = Scene::start(settings) else { return };
    let _liar = scene.liar(|query| vec![Reply::message(&right(query))]);
    let open = || Stream::open(scene.client.ns(), at(LIAR[0], 53), LONG).unwrap();
    let held = [open(), open()];
    let are_open = |count| wait_until(LONG, || scene.proxy.service.connections() == count);
    assert!(are_open(2));
    assert!(open().receive().is_err(), "no room for a third");
    assert_eq!(scene.metrics.connections_refused.get(), 1);
    drop(held);
    assert!(are_open(0));

    // FORMERR leaves it open; what isn't asked at all ends it.
    let mut stream = open();
    stream.send_bytes(&[0, 13, 0, 8, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 77]).unwrap();
    stream.send(&[ask(9, "right.test")]).unwrap();
    let (malformed, right) = (stream.receive().unwrap(), receive(&mut stream));
    assert_eq!((malformed[3] & 0xf, right.id, right.rcode), (1, 9, 0));
    stream.send(&[Message { is_answer: true, ..ask(1, "right.test") }]).unwrap();
    assert!(stream.receive().is_err());

    // A drain lets what was asked have its answer.
    let mut last = open();
    last.send(&[ask(2, "slow.test")]).unwrap();
    assert!(wait_until(LONG, || scene.judge.learned() == 2));
    scene.proxy.drain.cancel();
    scene.judge.gate.add_permits(1);
    assert_eq!(receive(&mut last).rcode, 0);
    assert!(last.receive().is_err());
    scene.proxy.finish();
    assert_eq!((scene.proxy.service.in_flight(), scene.proxy.service.connections()), (0, 0));
}
