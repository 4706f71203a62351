//! The redirection's life at real ports: traffic, changes, successors, the end.

mod stage;

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sluice_ebpf_redirect::{BUILD, BUILT, Dropped, Error, Port, Redirect, is_possible};
use sluice_testnet::{Netns, wait_until};
use stage::frame::{V4, arp, ethernet, udp};
use stage::{Pod, SILENCE, Stage, ip, is_real_root, possible, words};

const SERVER: u16 = 8080;
/// Several segments of the largest kind.
const CHUNK: u32 = 400_000;

/// Two pods whose ports are set.
struct Scene {
    stage: Stage,
    redirect: Redirect,
    pods: [Pod; 2],
}

impl Scene {
    fn new() -> Self {
        let stage = Stage::new("");
        let pods = [stage.pod(2), stage.pod(3)];
        for pod in &pods {
            serve(pod);
        }
        let redirect = stage.node.run(Redirect::open).expect("a redirection");
        let mut scene = Self { stage, redirect, pods };
        for pod in 0..2 {
            scene.set(pod).expect("a port");
        }
        scene
    }

    fn port(&self, pod: usize) -> Port {
        self.stage.port(&self.pods[pod])
    }

    fn set(&mut self, pod: usize) -> Result<(), Error> {
        let port = self.port(pod);
        self.set_to(&port)
    }

    fn set_to(&mut self, port: &Port) -> Result<(), Error> {
        let (node, redirect) = (&self.stage.node, &mut self.redirect);
        node.run(|| redirect.set(port))
    }

    fn clear(&mut self, pod: usize) -> Result<(), Error> {
        let (node, redirect, index) = (&self.stage.node, &mut self.redirect, self.pods[pod].index);
        node.run(|| redirect.clear(index))
    }

    /// What a restarted process does first.
    fn restart(&mut self) {
        self.redirect = self.stage.node.run(Redirect::open).expect("a redirection");
    }

    fn attached(&self) -> Vec<usize> {
        let indices = self.pods.each_ref().map(|pod| pod.index);
        let attached = self.stage.node.run(|| self.redirect.attached(&indices)).expect("an answer");
        (0..2).filter(|pod| attached.contains(&indices[*pod])).collect()
    }

    fn dropped(&self, reason: Dropped) -> u64 {
        self.stage.node.run(|| self.redirect.drops()).expect("counters")[&reason]
    }

    /// That the first pod reaches the second, by IPv4 and by IPv6, or that it doesn't. A neighbour that could not be asked
    /// is asked again after a second only.
    #[track_caller]
    fn expect(&self, through: [bool; 2]) {
        let reaches = |v6| self.pods[0].reaches(SocketAddr::new(self.pods[1].address(v6), SERVER));
        let mut passes = through;
        for (v6, passes) in [false, true].into_iter().zip(&mut passes) {
            *passes = if *passes { wait_until(Duration::from_secs(5), || reaches(v6)) } else { reaches(v6) };
        }
        assert_eq!(passes, through, "IPv4 and IPv6 get through");
    }

    /// What the pods have sent, and what of it was seen: by the IP stack or on the bridge. Once nothing is under way.
    fn balance(&self) -> (u64, u64) {
        let now = || {
            let counters = self.stage.counters();
            (self.pods.iter().map(Pod::sent).sum(), counters["taken"] + counters["bridged"])
        };
        let mut last = now();
        wait_until(Duration::from_secs(3), || {
            std::thread::sleep(Duration::from_millis(50));
            let former = std::mem::replace(&mut last, now());
            former == last
        });
        last
    }
}

/// Answers each connection with what it hears.
fn serve(pod: &Pod) {
    for v6 in [false, true] {
        let listener = pod.ns.tcp_listen(SocketAddr::new(pod.address(v6), SERVER)).expect("a listener");
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let mut back = stream.try_clone().expect("a second handle");
                    let _ = std::io::copy(&mut stream, &mut back).and_then(|_| back.shutdown(Shutdown::Write));
                });
            }
        });
    }
}

/// Sends chunks until `stop` and hears them back; then says how many.
fn talk(ns: &Netns, to: IpAddr, stop: &AtomicBool) -> u64 {
    let mut stream = ns.tcp_connect(None, SocketAddr::new(to, SERVER), Duration::from_secs(10)).expect("a connection");
    let mut back = stream.try_clone().expect("a second handle");
    let chunk: Vec<u8> = (0..CHUNK).map(|n| n.to_le_bytes()[0]).collect();
    std::thread::scope(|threads| {
        let hears = threads.spawn(|| {
            let mut rounds = 0;
            let mut heard = vec![0; chunk.len()];
            while back.read_exact(&mut heard).is_ok() {
                assert!(heard == chunk);
                rounds += 1;
            }
            rounds
        });
        let mut rounds = 0;
        while !stop.load(Ordering::Relaxed) && rounds < 1_000_000 {
            stream.write_all(&chunk).expect("bytes go out");
            rounds += 1;
        }
        stream.shutdown(Shutdown::Write).expect("an end");
        assert_eq!(hears.join().expect("no panic"), rounds, "chunks sent, and heard back");
        rounds
    })
}

/// With and without the bridge's own calls of the IP hooks, and with segments that are larger than any packet (BIG TCP).
#[test]
fn every_packet_between_pods_is_seen_by_the_ip_stack() {
    if !possible() {
        return;
    }
    for (calls, largest) in [("0", "65536"), ("1", "65536"), ("0", "180000")] {
        let scene = Scene::new();
        scene.stage.bridge_calls(calls);
        for pod in &scene.pods {
            pod.ns.exec("ip", &["link", "set", "eth0", "gso_max_size", largest]).expect("larger segments");
        }
        scene.expect([true, true]);
        let before = scene.balance();
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            let [client, server] = &scene.pods;
            let talk_to = |to| {
                threads.spawn({
                    let stop = &stop;
                    move || talk(&client.ns, to, stop)
                })
            };
            let talks = [false, true].map(|v6| talk_to(server.address(v6)));
            std::thread::sleep(Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
            for talk in talks {
                assert!(talk.join().expect("no panic") > 0);
            }
        });
        let after = scene.balance();
        assert!(after.0 - before.0 > 20, "hardly anything was sent");
        assert_eq!(after.0 - before.0, after.1 - before.1, "packets sent and packets seen, {calls} {largest}");
        assert_eq!(scene.stage.counters()["slipped"], 0);
        let drops = scene.stage.node.run(|| scene.redirect.drops()).expect("counters");
        assert_eq!(drops.values().sum::<u64>(), 0, "{drops:?}");
    }
}

#[test]
fn a_pod_keeps_to_its_mac_address_where_it_is_known() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let mut port = scene.port(0);
    port.mac = None;
    scene.set_to(&port).expect("a port");
    scene.pods[0].ns.exec("ip", &["link", "set", "eth0", "address", "02:00:00:00:09:09"]).expect("another MAC address");
    // Nobody tells the others.
    scene.stage.node.exec("ip", &["neigh", "flush", "dev", "cni0"]).expect("flushed");
    scene.pods[1].ns.exec("ip", &["neigh", "flush", "dev", "eth0"]).expect("flushed");
    scene.expect([true, true]);
    scene.set(0).expect("a port");
    scene.expect([false, false]);
    assert!(scene.dropped(Dropped::SourceMac) > 0);
    assert_eq!(scene.stage.counters()["slipped"], 0);
}

#[test]
fn a_port_is_closed_before_it_is_set_and_after_it_is_cleared() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    scene.expect([true, true]);
    scene.clear(0).expect("cleared");
    assert_eq!(scene.attached(), [0, 1], "the filter stays, and drops");
    scene.expect([false, false]);
    let unknown = scene.dropped(Dropped::UnknownPort);
    scene.pods[0].wire().send(&ethernet(
        [0xff; 6],
        scene.pods[0].mac,
        0x0806,
        &arp(1, scene.pods[0].mac, "10.0.1.2", "10.0.1.3"),
    ));
    assert!(wait_until(SILENCE, || scene.dropped(Dropped::UnknownPort) > unknown), "ARP too");
    scene.clear(0).expect("cleared once more");
    scene.set(0).expect("a port");
    scene.expect([true, true]);

    // A successor that hasn't set the port closes it all the same.
    scene.restart();
    scene.expect([true, true]);
    scene.clear(0).expect("cleared");
    assert_eq!(scene.attached(), [0]);
    scene.expect([false, false]);

    // Without any filter the bridge's own rules keep the pod's IP off it.
    let slipped = scene.stage.counters()["slipped"];
    let index = scene.pods[0].index;
    scene.stage.node.run(|| Redirect::remove_all(&[index])).expect("removed");
    scene.expect([false, false]);
    assert!(scene.stage.counters()["slipped"] > slipped);
}

#[test]
fn an_address_is_closed_as_soon_as_it_is_taken_away() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let mut port = scene.port(0);
    port.addresses.remove(&ip("fd00:1::2"));
    scene.set_to(&port).expect("a port");
    let wire = scene.pods[0].wire();
    let before = scene.dropped(Dropped::SourceAddress);
    let packet = stage::frame::v6("fd00:1::2", "fd00:1::3", 17, 64, &udp(1, 2));
    wire.send(&ethernet(scene.pods[1].mac, scene.pods[0].mac, 0x86dd, &packet));
    assert!(wait_until(SILENCE, || scene.dropped(Dropped::SourceAddress) == before + 1));
    scene.expect([true, false]);

    // Another in its place, and then all of them.
    port.addresses = [ip("10.0.1.77"), ip("fd00:1::2")].into();
    scene.set_to(&port).expect("a port");
    scene.expect([false, true]);
    let before = scene.stage.counters()["taken"];
    wire.send(&ethernet(scene.pods[1].mac, scene.pods[0].mac, 0x0800, &V4::new(ip("10.0.1.77"), "10.0.1.3").with(&udp(1, 2))));
    assert!(wait_until(SILENCE, || scene.stage.counters()["taken"] > before));
    port.addresses.clear();
    scene.set_to(&port).expect("a port");
    scene.expect([false, false]);

    // One pod's addresses open nothing at another's port.
    let mut port = scene.port(0);
    port.addresses.insert(ip("10.0.1.3"));
    scene.set_to(&port).expect("a port");
    scene.expect([true, true]);
    let before = scene.dropped(Dropped::SourceAddress);
    let forged = V4::new(ip("10.0.1.2"), "10.0.1.1").with(&udp(1, 2));
    scene.pods[1].wire().send(&ethernet(stage::BRIDGE_MAC, scene.pods[1].mac, 0x0800, &forged));
    assert!(wait_until(SILENCE, || scene.dropped(Dropped::SourceAddress) == before + 1));
}

#[test]
fn a_restart_loses_no_packet() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    scene.expect([true, true]);
    let before = scene.balance();
    let stop = AtomicBool::new(false);
    let client = scene.pods[0].ns.clone();
    let targets = [false, true].map(|v6| scene.pods[1].address(v6));
    let rounds: u64 = std::thread::scope(|threads| {
        let talks = targets.map(|to| {
            let (ns, stop) = (client.clone(), &stop);
            threads.spawn(move || talk(&ns, to, stop))
        });
        for _ in 0..25 {
            // The process ends; nobody is there for a while; then comes the next.
            let indices = scene.pods.each_ref().map(|pod| pod.index);
            scene.restart();
            std::thread::sleep(Duration::from_millis(20));
            let attached = scene.stage.node.run(|| scene.redirect.attached(&indices)).expect("an answer");
            assert!(attached.is_empty(), "what is in force is the former's: {attached:?}");
            for pod in 0..2 {
                scene.set(pod).expect("a port");
            }
            assert_eq!(scene.attached(), [0, 1]);
        }
        stop.store(true, Ordering::Relaxed);
        talks.into_iter().map(|talk| talk.join().expect("no panic")).sum()
    });
    let after = scene.balance();
    println!("{rounds} rounds of {CHUNK} bytes and {} packets across 25 restarts", after.0 - before.0);
    assert!(rounds > 20, "hardly anything was said");
    assert_eq!(after.0 - before.0, after.1 - before.1, "packets sent and packets seen");
    assert_eq!(scene.stage.counters()["slipped"], 0, "no instant without a program");
    for pod in &scene.pods {
        let filters = scene.stage.filters(pod);
        assert_eq!(filters.matches(" name sluice_redirect").count(), 1, "{filters}");
    }
}

#[test]
fn what_is_removed_is_ours_alone() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let [first, second] = scene.pods.each_ref().map(|pod| pod.port.clone());
    let tc = |words: &str| scene.stage.node.exec("tc", &words.split(' ').collect::<Vec<_>>()).expect("tc");
    // Somebody else's filters: of another kind at the first port, and at our own place at the second.
    tc(&format!("filter add dev {first} ingress protocol ip prio 9 u32 match u32 0 0 flowid 1:1"));
    let indices = scene.pods.each_ref().map(|pod| pod.index);
    let node = scene.stage.node.clone();
    let removed = node.run(|| Redirect::remove_all(&[indices[0], indices[1], 4_000_000])).expect("removed");
    assert_eq!(removed, indices.into());
    let at_our_place = format!("filter add dev {second} ingress prio 1 handle 0x510ce protocol all bpf da bytecode");
    let words_of: Vec<&str> = at_our_place.split(' ').chain(["1,6 0 0 0,"]).collect();
    node.exec("tc", &words_of).expect("tc");

    let filters = scene.stage.filters(&scene.pods[0]);
    assert!(filters.contains("u32") && !filters.contains("sluice"), "{filters}");
    assert!(scene.attached().is_empty());
    assert!(node.run(|| Redirect::remove_all(&indices)).expect("nothing to remove").is_empty());
    assert!(scene.stage.filters(&scene.pods[1]).contains("bytecode"));
    for outcome in [scene.set(1), scene.clear(1)] {
        let error = outcome.expect_err("the place is taken");
        assert!(matches!(error, Error::Taken { port, .. } if port == indices[1]), "{}", words(&error));
    }
    scene.set(0).expect("a port");
    assert_eq!(scene.attached(), [0]);
}

#[test]
fn a_filter_of_another_kind_at_our_priority_is_an_error_that_names_the_port() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let [index, _] = scene.pods.each_ref().map(|pod| pod.index);
    let node = scene.stage.node.clone();
    node.run(|| Redirect::remove_all(&[index])).expect("removed");
    let words_of = format!("filter add dev {} ingress protocol ip prio 1 u32 match u32 0 0 flowid 1:1", scene.pods[0].port);
    node.exec("tc", &words_of.split(' ').collect::<Vec<_>>()).expect("tc");
    let text = words(&scene.set(0).expect_err("the priority is taken"));
    assert!(text.starts_with(&format!("tc ingress of interface {index} (index): attach the BPF program: ")), "{text}");
    assert!(scene.attached() == [1]);
}

#[test]
fn ports_that_are_gone() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let gone = scene.pods[0].port.clone();
    scene.stage.node.exec("ip", &["link", "del", &gone]).expect("deleted");
    assert_eq!(scene.attached(), [1]);
    scene.clear(0).expect("freed");
    let text = words(&scene.set(0).expect_err("no such interface"));
    assert!(text.contains(&format!("interface {} (index)", scene.pods[0].index)) && text.contains("No such device"), "{text}");
    scene.clear(0).expect("still nothing");
    scene.set(1).expect("the other port");
}

#[test]
fn what_makes_no_sense_is_refused_and_changes_nothing() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let good = scene.port(0);
    let with = |address: &str| Port { addresses: [ip("10.0.1.2"), ip(address)].into(), ..good.clone() };
    let index = good.index;
    for (port, says) in [
        (with("0.0.0.0"), "0.0.0.0 is nobody's"),
        (with("::"), ":: is nobody's"),
        (with("224.0.0.1"), "224.0.0.1 is a multicast group"),
        (with("ff02::1"), "ff02::1 is a multicast group"),
        (with("127.0.0.1"), "127.0.0.1 is a loopback address"),
        (with("::1"), "::1 is a loopback address"),
        (with("255.255.255.255"), "255.255.255.255 is everybody's"),
        (with("::ffff:10.0.1.2"), "::ffff:10.0.1.2 is an IPv4 address written as IPv6"),
    ] {
        let expected = format!("port {index} (interface index): {says}, so no pod sends from it");
        assert_eq!(words(&scene.set_to(&port).expect_err(says)), expected);
    }
    for port in [
        Port { bridge: 0, ..good.clone() },
        Port { bridge: index, ..good.clone() },
        Port { bridge: u32::MAX, ..good.clone() },
        Port { index: 0, ..good.clone() },
        Port { index: 1 << 31, ..good.clone() },
    ] {
        let error = scene.set_to(&port).expect_err("no such port");
        assert!(matches!(error, Error::Port { port: named, .. } if named == port.index), "{}", words(&error));
    }
    scene.expect([true, true]);

    // From another namespace the same index is another interface.
    let elsewhere = Netns::new("elsewhere").expect("a namespace");
    let redirect = &mut scene.redirect;
    let errors = elsewhere.run(|| [redirect.set(&good), redirect.clear(index), redirect.attached(&[index]).map(drop)]);
    for error in errors {
        assert!(matches!(error, Err(Error::OtherNamespace)), "{error:?}");
    }
    scene.expect([true, true]);
}

/// More addresses than a pod has, and than the map takes: an error, and the port is closed.
#[test]
fn a_port_that_does_not_fit_is_closed() {
    if !possible() {
        return;
    }
    let mut scene = Scene::new();
    let mut port = scene.port(0);
    port.addresses.extend((0..65_536_u32).map(|n| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0b00_0000 + n))));
    let text = words(&scene.set_to(&port).expect_err("too many"));
    assert!(text.contains(&format!("port {}", port.index)) && text.contains("at most 65536"), "{text}");
    scene.expect([false, false]);
    scene.set(0).expect("what was written for it is gone again");
    scene.expect([true, true]);
}

#[test]
fn the_build_says_what_it_is() {
    if BUILT {
        assert!(BUILD.contains("clang"), "{BUILD}");
    } else {
        assert!(BUILD.contains("when Sluice was built"), "{BUILD}");
        let text = Redirect::open().expect_err("not built").to_string();
        assert_eq!(text, format!("built without BPF: {BUILD}"));
        assert!(matches!(is_possible(), Err(Error::NotBuilt)));
        assert!(!is_real_root(), "as root nothing may be skipped (`.ci/setup test` brings what is missing): {text}");
        println!("SKIPPED: {text}");
    }
}

/// In a user namespace the kernel refuses, and the answer says so. As root the test goes there by itself.
#[test]
fn rootless_it_is_impossible_and_says_why() {
    if is_real_root() {
        let own = std::env::current_exe().expect("this program");
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user"]).arg(own).args(["--exact", "rootless_it_is_impossible_and_says_why"]);
        let output = command.output().expect("unshare is part of util-linux");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    } else if BUILT {
        let outcome = is_possible();
        assert!(matches!(outcome, Err(Error::NotPermitted)), "{outcome:?}");
    }
}
