//! Pods whose links take answers slowly or not at all, as behind the shaper of a CNI plugin. What waits there counts against the socket
//! that it was sent by.

use std::time::Duration;

use sluice_proxy::dns::service::Settings;
use sluice_testnet::dns::{Kind, Message, Socket};
use sluice_testnet::{Shaper, wait_until};

use crate::stage::{AUTHORITY, LIAR, LONG, SHORT, Scene, WEB, at, ip, large};

/// More than the socket of one family at one core takes, whichever of both cores they come to.
const SOCKETS: u16 = 12;
const REFUSED: u16 = 30;
/// So few that those of one socket find room in it before they are read.
const LARGE: u16 = 12;

impl Scene {
    /// The client asks `server` from each of these sockets, and its link takes next to nothing.
    fn ask_behind_a_shaper(&self, server: &str) -> (Shaper, Vec<Socket>) {
        // Both ends of the link know each other by then, and nothing else is on its way.
        let mut first = Socket::open(self.client.ns(), at(server, 53)).unwrap();
        let before = self.judge.fates().len() + 1;
        first.ask("refused.example.test", Kind::A, LONG).unwrap().expect("an answer");
        self.judge.await_fates(before);
        let shaper = Shaper::add(&self.node, &self.client, "8kbit").unwrap();
        let mut sockets = Vec::new();
        for number in 1..=SOCKETS {
            let socket = Socket::open(self.client.ns(), at(server, 53)).unwrap();
            for id in 0..REFUSED + LARGE {
                let name = if id < REFUSED { "refused.example.test" } else { "large.example.test" };
                socket.send(&Message::query(id, name, Kind::A).edns(8192).bytes()).unwrap();
            }
            self.judge.await_fates(before + usize::from(number * (REFUSED + LARGE)));
            sockets.push(socket);
        }
        assert!(self.proxy.service.in_flight() > 0, "what waits for room holds its place");
        (shaper, sockets)
    }
}

#[test]
fn answers_wait_for_a_slow_link_and_come_whole() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _liar = scene.liar(large);
    for server in LIAR {
        let (shaper, sockets) = scene.ask_behind_a_shaper(server);
        shaper.change("100mbit").unwrap();
        for socket in &sockets {
            let mut answered = Vec::new();
            for _ in 0..REFUSED + LARGE {
                let answer = socket.receive(LONG).unwrap().expect("every question has its answer");
                assert_eq!(answer.from, at(server, 53));
                let message = answer.message().expect("DNS");
                let expected = if message.id < REFUSED { (5, 0) } else { (0, 130) };
                assert_eq!((message.rcode, message.addresses().len()), expected);
                answered.push(message.id);
            }
            answered.sort_unstable();
            assert!(answered.into_iter().eq(0..REFUSED + LARGE));
            assert_eq!(socket.receive(Duration::from_millis(1)).unwrap(), None, "and no second");
        }
        assert!(wait_until(LONG, || scene.proxy.service.in_flight() == 0), "places are given back");
        assert_eq!(scene.metrics.unsent.get(), 0);
    }
}

#[test]
fn a_link_that_takes_nothing_holds_up_no_other_pod() {
    let Some(scene) = Scene::start(Settings::default()) else { return };
    let _liar = scene.liar(large);
    let _authority = scene.authority();
    for (family, server) in LIAR.into_iter().enumerate() {
        let (shaper, stuck) = scene.ask_behind_a_shaper(server);
        // From as many ports, so that both cores are met.
        for _ in 0..SOCKETS {
            let mut socket = Socket::open(scene.other.ns(), at(AUTHORITY[family], 53)).unwrap();
            let answer = socket.ask("www.example.test", Kind::A, LONG).unwrap().expect("an answer");
            assert_eq!(answer.message().unwrap().addresses(), [ip(WEB[0])]);
            assert!(socket.ask("refused.example.test", Kind::A, LONG).unwrap().is_some());
        }
        assert!(stuck.iter().any(|socket| socket.receive(SHORT).unwrap().is_none()), "its own still wait");
        drop(shaper);
        assert!(wait_until(LONG, || scene.proxy.service.in_flight() == 0), "places are given back");
    }
    assert_eq!(scene.metrics.unsent.get(), 0);
}

#[test]
fn what_waits_for_too_long_is_given_up() {
    let Some(mut scene) = Scene::start(Settings::default()) else { return };
    let _liar = scene.liar(large);
    let (_shaper, _sockets) = scene.ask_behind_a_shaper(LIAR[0]);
    assert!(wait_until(LONG * 2, || scene.proxy.service.in_flight() == 0), "places are given back");
    assert!(scene.metrics.unsent.get() > 0 && scene.metrics.lanes.get() > 0);
    // Although the link is what it was.
    scene.proxy.finish();
}
