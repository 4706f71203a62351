use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::names::{Lesson, Limits, Moment, Names, NamesMetrics};

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

fn sockets() -> Sockets {
    let listener = || TcpListener::bind(LOOPBACK).unwrap();
    Sockets {
        connections: vec![listener(), listener()],
        lookups: vec![UdpSocket::bind(LOOPBACK).unwrap()],
        lookups_by_tcp: vec![listener()],
        quic: vec![UdpSocket::bind(LOOPBACK).unwrap()],
        admin: Some(listener()),
    }
}

/// A process that waits for successors, and those that are ready.
fn waiting(dir: &TempDir) -> (Arc<Mutex<Sockets>>, mpsc::Receiver<Channel>) {
    let sockets = Arc::new(Mutex::new(sockets()));
    let (successors, ready) = mpsc::channel(1);
    offer(&place(dir), Arc::clone(&sockets), successors).unwrap();
    (sockets, ready)
}

fn place(dir: &TempDir) -> PathBuf {
    path(dir.path(), "node-1")
}

#[test]
fn where_nobody_waits_there_is_nobody() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Predecessor::find(&place(&dir)).unwrap().is_none());
    drop(channel::Door::open_at(&place(&dir)).unwrap());
    assert!(Predecessor::find(&place(&dir)).unwrap().is_none(), "who waited there was killed");
    let (_sockets, _ready) = waiting(&dir);
    assert!(Predecessor::find(&place(&dir)).unwrap().is_some(), "the next one takes the place");
}

#[test]
fn sockets_are_the_same_for_both() {
    let dir = tempfile::tempdir().unwrap();
    let (own, mut ready) = waiting(&dir);
    let (predecessor, sockets) = Predecessor::find(&place(&dir)).unwrap().unwrap();
    let own = std::mem::take(&mut *own.lock().unwrap());
    let address = |listener: &TcpListener| listener.local_addr().unwrap();
    let each = |sockets: &Sockets| {
        let listeners = sockets.connections.iter().chain(&sockets.lookups_by_tcp).chain(&sockets.admin).map(address);
        let lookups = sockets.lookups.iter().chain(&sockets.quic).map(|socket| socket.local_addr().unwrap());
        listeners.chain(lookups).collect::<Vec<_>>()
    };
    assert_eq!(each(&own), each(&sockets));
    // What came to the one is there for the other, which lives longer.
    let (listener, lookups) = (address(&own.connections[1]), own.lookups[0].local_addr().unwrap());
    let _waits = TcpStream::connect(listener).unwrap();
    UdpSocket::bind(LOOPBACK).unwrap().send_to(b"asked", lookups).unwrap();
    drop(own);
    assert!(sockets.connections[1].accept().is_ok());
    assert_eq!(sockets.lookups[0].recv(&mut [0; 9]).unwrap(), 5);
    std::thread::scope(|scope| {
        let relieved = scope.spawn(|| predecessor.relieve());
        ready.blocking_recv().unwrap().release().unwrap();
        assert!(relieved.join().unwrap().is_ok());
    });
}

#[test]
fn who_fails_or_talks_nonsense_is_not_a_successor() {
    let dir = tempfile::tempdir().unwrap();
    let (_sockets, mut ready) = waiting(&dir);
    drop(Predecessor::find(&place(&dir)).unwrap());
    let confused = Channel::connect(&place(&dir)).unwrap().unwrap();
    confused.send(&Message::Released, None).unwrap();
    let hostile = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
    hostile.connect(&socket2::SockAddr::unix(place(&dir)).unwrap()).unwrap();
    hostile.send(&[b'{'; 4096]).unwrap();
    let (predecessor, _) = Predecessor::find(&place(&dir)).unwrap().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| predecessor.relieve());
        let first = ready.blocking_recv().expect("the one that is ready");
        first.release().unwrap();
    });
    assert!(ready.try_recv().is_err(), "and no other");
}

#[test]
fn a_predecessor_that_makes_no_sense_is_not_relieved() {
    let dir = tempfile::tempdir().unwrap();
    let door = channel::Door::open_at(&place(&dir)).unwrap();
    let answer = |said: &[Message]| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let channel = door.accept().unwrap();
                said.iter().for_each(|message| channel.send(message, None).unwrap());
                let _ = channel.receive(Some(Duration::from_secs(5)));
            });
            Predecessor::find(&place(&dir)).map(drop).unwrap_err().to_string()
        })
    };
    let newer = answer(&[Message::Offer { format: 9, sockets: 0 }]);
    assert_eq!(newer, "it hands over in format 9, and this version understands 1: end it first");
    let without = answer(&[Message::Offer { format: 1, sockets: 1 }, Message::Socket(Kind::Admin)]);
    assert_eq!(without, "the other process says something else than it should");
    assert_eq!(answer(&[Message::Ready]), without);
}

#[test]
fn what_is_learned_late_is_the_successors() {
    let dir = tempfile::tempdir().unwrap();
    let (_sockets, mut ready) = waiting(&dir);
    let (predecessor, _) = Predecessor::find(&place(&dir)).unwrap().unwrap();
    let pod = sluice_policy::source::PodRef { namespace: "shop".into(), name: "web".into() };
    let (web, address) = ("10.1.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
    let (late, mut inherited) = mpsc::channel(1);
    std::thread::scope(|scope| {
        let relieved = scope.spawn(|| predecessor.relieve());
        let channel = ready.blocking_recv().unwrap();
        channel.release().unwrap();
        relieved.join().unwrap().unwrap().listen(late).unwrap();
        let now = Moment::now();
        let lesson = move |name: &str| -> Lesson {
            let names = Names::new(Limits::default(), NamesMetrics::default());
            names.learn_one(web, name, address, 300, now)
        };
        let teach = scope.spawn(move || {
            [channel.teach(Late::new(&lesson("a.test"), &pod)), channel.teach(Late::new(&lesson("b.test"), &pod))]
        });
        for answer in [Ok(()), Err("no room".to_owned())] {
            let Inherited { late, done } = inherited.blocking_recv().unwrap();
            assert_eq!((late.pod, late.addresses().collect::<Vec<_>>()), (web, vec![address]));
            let other =
                |namespace: &str, name: &str| sluice_policy::source::PodRef { namespace: namespace.into(), name: name.into() };
            assert!(
                late.is_of(&other("shop", "web")) && !late.is_of(&other("shop", "web-2")) && !late.is_of(&other("bank", "web"))
            );
            let names = Names::new(Limits::default(), NamesMetrics::default());
            names.restore(&late.entries(), now);
            let known = names.all(now);
            assert_eq!(known.len(), 1);
            assert!(known[0].left > Duration::from_secs(299), "{known:?}");
            done.send(answer).unwrap();
        }
        assert_eq!(teach.join().unwrap(), [Ok(()), Err("no room".to_owned())]);
    });
    // The former process has ended, and the thread that listened to it with it.
    assert!(inherited.blocking_recv().is_none());
}
