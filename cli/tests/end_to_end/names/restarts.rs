//! What was learned outlives the proxy, and not the pod.

use std::time::Duration;

use sluice_testnet::dns::Zone;
use sluice_testnet::wait_until;

use super::{API, GIT, NODE, SPARE, Stage, to_names};
use crate::client::{Pair, curl, ip};
use crate::scene::{LONG, SHORT, pod_file, pod_manifest};

#[test]
fn names_outlive_a_killed_proxy() {
    let arguments = ["--set", "dns.minTTLSeconds=1"];
    let Some(mut stage) = Stage::start(&to_names(&["api.github.com", "short.example.test"]), &arguments) else { return };
    let zone = |zone: Zone| zone.ttl(12).addresses("short.example.test", &[ip(SPARE[0])]);
    stage.authority.change("example.test", zone).unwrap();
    stage.scene.web.serve(stage.scene.net.outside(), "outside", 80);
    stage.scene.settle();
    let web = stage.scene.pod("shop/web");
    stage.look_up("shop/web", "api.github.com");
    let told = stage.look_up_at("shop/web", "short.example.test");
    let mut flow = Pair::connect(web.ns(), stage.scene.net.outside(), &format!("{}:9500", API[0]));
    stage.scene.programs.kill_proxy(NODE);
    assert!(stage.connects("shop/web", API[0]), "the kernel's sets stay");
    assert!(stage.is_closed("shop/other", API[0]));
    stage.scene.programs.start_proxy(NODE).unwrap();
    stage.scene.programs.wait_ready(NODE, LONG).unwrap();
    assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()), "without a new look-up");
    assert!(stage.is_closed("shop/other", API[0]));
    assert_eq!(flow.passes(LONG), (true, true), "what was open before goes on");
    let get = || curl(web.ns(), "http://api.github.com/again", &["--connect-to", &format!("::{}:80", API[0])]);
    assert_eq!(get().status, 200, "the names are known to the proxy too");
    // A table that comes after the restart judges the flow anew, and writes the sets anew.
    stage.scene.policies(&to_names(&["api.github.com", "short.example.test", "www.example.org"]));
    assert_eq!(flow.passes(LONG), (true, true));
    assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()));
    // What was left of its time.
    stage.assert_closes("shop/web", SPARE[0], &told, Duration::from_secs(12));
    stage.look_up("shop/web", "short.example.test");
    assert!(stage.opens_now("shop/web", (ip(SPARE[0]), GIT).into()), "and look-ups go on");
}

/// Killed at any moment, what a pod was answered is open after the restart.
#[test]
fn what_was_answered_is_open_after_a_kill() {
    let names: Vec<String> = (0..60).map(|n| format!("n{n}.example.test")).collect();
    let rules = super::egress("  - to: [ { fqdns: [ { matchPattern: \"*.example.test\" } ] } ]");
    let Some(mut stage) = Stage::start(&rules, &[]) else { return };
    let addresses: Vec<_> = (0..60).map(|n| ip(&format!("198.51.100.{}", 110 + n))).collect();
    for address in &addresses {
        stage.scene.net.add_outside_address(*address).unwrap();
    }
    let zone = |zone: Zone| names.iter().zip(&addresses).fold(zone, |zone, (name, address)| zone.addresses(name, &[*address]));
    stage.authority.change("example.test", zone).unwrap();
    for round in 0..3 {
        let mut answered = Vec::new();
        for (name, address) in names.iter().zip(&addresses).skip(round * 20).take(20) {
            stage.look_up("shop/web", name);
            answered.push(*address);
        }
        stage.scene.programs.kill_proxy(NODE);
        stage.scene.programs.start_proxy(NODE).unwrap();
        stage.scene.programs.wait_ready(NODE, LONG).unwrap();
        for address in answered {
            assert!(stage.opens_now("shop/web", (address, GIT).into()), "{round}: {address}");
        }
    }
}

#[test]
fn a_pod_that_takes_anothers_address_was_told_nothing() {
    let Some(mut stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    stage.look_up("shop/web", "api.github.com");
    assert!(stage.connects("shop/web", API[0]));
    // Another pod by name, of the same labels that count, at the same address.
    let file = pod_file("shop/web");
    let successor = pod_manifest("shop/web", NODE, &["10.1.0.1", "fd00:1::1"]).replace("name: web,", "name: web-2,");
    stage.scene.apply(&file, &successor);
    assert!(wait_until(LONG, || !stage.opens_now("shop/web", (ip(API[0]), GIT).into())), "it closes");
    assert!(!stage.reaches("shop/web", API[0], sluice_testnet::Protocol::Udp, SHORT));
    let first = stage.scene.manifest_of("shop/web").to_owned();
    // The pod changes while no proxy runs: with the table that is on disk, and without.
    let saved = stage.scene.programs.state_folder(NODE).join("table-node-1");
    for (manifest, is_saved) in [(first, true), (successor, false)] {
        stage.look_up("shop/web", "api.github.com");
        assert!(stage.connects("shop/web", API[0]), "until it asks itself");
        assert!(wait_until(LONG, || saved.exists()));
        std::thread::sleep(Duration::from_secs(2));
        stage.scene.programs.kill_proxy(NODE);
        if !is_saved {
            std::fs::remove_file(&saved).unwrap();
        }
        stage.scene.save(&file, &manifest);
        std::thread::sleep(SHORT);
        stage.scene.programs.start_proxy(NODE).unwrap();
        stage.scene.programs.wait_ready(NODE, LONG).unwrap();
        stage.scene.settle();
        assert!(stage.is_closed("shop/web", API[0]), "changed while no proxy ran, the table saved: {is_saved}");
    }
}
