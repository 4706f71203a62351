//! SIGKILL at any instruction of an update leaves the old generation in force or the new one: never a mixture, never nothing.
//!
//! Every policy of the node allows one port, and each generation another one. So whatever the kernel holds after a kill, all
//! programs must name one port, of a generation that is no older than the last one found.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use sluice_testnet::{Port, Probe, Protocol, wait_until};

use crate::client::ip;
use crate::given::seed;
use crate::scene::{LONG, SHORT, Scene};

/// Pods that exist in the manifests alone, each with a policy of its own.
const PODS: u16 = 40;
const FIRST_PORT: u16 = 10_000;
/// An update or a start takes some tens of milliseconds with the whole way from the file: kills fall within as long from the beginning, at first.
const UPDATE: Duration = Duration::from_millis(60);
const START: Duration = Duration::from_millis(90);
/// Packets are asked too after so many kills: a denied one costs its silence.
const PACKETS_EVERY: usize = 25;

/// The policies of a generation: each pod takes one port, from everyone but for the first, who takes it from `app: client`.
fn policies(generation: u16) -> String {
    let port = FIRST_PORT + generation;
    let mut text = String::new();
    for number in 0..PODS {
        let from = if number == 0 { "from: [ { podSelector: { matchLabels: { app: client } } } ], " } else { "" };
        let _ = writeln!(
            text,
            "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: p{number}, namespace: shop }}\n\
             spec: {{ podSelector: {{ matchLabels: {{ app: p{number} }} }}, ingress: [ {{ {from}ports: [ {{ port: {port} }} ] }} ] }}"
        );
    }
    text
}

/// Pods `p1` and on.
fn shadows() -> String {
    (1..PODS)
        .map(|number| crate::scene::pod_manifest(&format!("shop/p{number}"), "node-1", &[&format!("10.1.1.{number}")]))
        .collect()
}

/// What the rules in force say, read from the kernel's own listing.
fn generation_in_force(scene: &Scene) -> u16 {
    let listing = scene.node("node-1").ns().exec("nft", &["list", "table", "inet", "sluice"]).unwrap();
    let base = section(&listing, "chain prerouting");
    let entry =
        base.lines().find_map(|line| line.trim().split_once("goto arriving_v4")).unwrap_or_else(|| panic!("open:\n{base}"));
    let edition = entry.1.trim();
    let dispatch = section(&listing, &format!("map ingress_v4{edition} "));
    let jumps: BTreeSet<&str> =
        dispatch.split("jump ").skip(1).filter_map(|rest| rest.split([',', ' ', '}', '\n']).next()).collect();
    let programs: Vec<&str> = jumps.into_iter().filter(|chain| chain.starts_with("ingress_")).collect();
    assert!(programs.len() >= usize::from(PODS), "each pod is judged: {programs:?}\n{dispatch}");
    let mut ports = BTreeSet::new();
    for program in &programs {
        let rules = section(&listing, &format!("chain {program} "));
        // The pod that tells whether a change has settled has a policy of its own.
        if rules.contains("marker/") {
            continue;
        }
        let port = rules.split("tcp dport ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse::<u16>().ok());
        ports.insert(port.unwrap_or_else(|| panic!("{program} allows nothing, or everything:\n{rules}")));
        assert!(rules.contains("isolated by"), "{program} denies the rest:\n{rules}");
    }
    assert_eq!(ports.len(), 1, "a mixture of generations: {ports:?}\n{listing}");
    ports.pop_first().expect("one") - FIRST_PORT
}

/// From the line that begins with `head` to the brace that closes it.
fn section<'l>(listing: &'l str, head: &str) -> &'l str {
    let head = format!("\t{head}");
    let start = listing.find(&head).unwrap_or_else(|| panic!("no {head:?} in\n{listing}"));
    let end = listing[start..].find("\n\t}").map_or(listing.len(), |length| start + length);
    &listing[start..end]
}

fn assert_packets_agree(scene: &Scene, generation: u16) {
    let client = scene.pod("shop/client").ns().clone();
    let probe = |port| Probe { from: client.clone(), source: None, to: ip("10.1.0.2"), port, protocol: Protocol::Tcp };
    let ports = [FIRST_PORT + generation, FIRST_PORT + generation + 1, FIRST_PORT + generation - 1];
    scene.net.serve_pod(&scene.pod("shop/p0"), &ports.map(Port::tcp)).unwrap();
    let passed: Vec<bool> = scene.net.probe(&ports.map(probe), SHORT).iter().map(sluice_testnet::Outcome::is_connected).collect();
    assert_eq!(passed, [true, false, false], "generation {generation}");
}

/// A small generator: the moments must only be spread, and the same for the same seed.
struct Moments(u64);

impl Moments {
    fn new(seed: u64) -> Self {
        // Never 0, of which nothing else comes; and far from those of the seeds beside it.
        let mut moments = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        moments.within(Duration::ZERO);
        moments
    }

    fn within(&mut self, most: Duration) -> Duration {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        most.mul_f64((self.0 >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

fn killed(times: usize) {
    let pods: [(&str, &str, &[&str]); 2] = [("shop/client", "node-1", &["10.1.0.1"]), ("shop/p0", "node-1", &["10.1.0.2"])];
    let first = policies(1) + &shadows();
    let Some(mut scene) = Scene::start(&["node-1"], &pods, &first, &[]) else { return };
    let mut moments = Moments::new(seed());
    let (mut saved, mut found) = (1, generation_in_force(&scene));
    let mut windows = [UPDATE, START];
    let mut left = [[0; 2]; 2];
    for kill in 0..times {
        // In the middle of an update, or of a start, which writes everything anew.
        let at_start = kill % 2;
        if at_start == 0 {
            assert!(wait_until(LONG, || generation_in_force(&scene) == saved), "kill {kill}: {saved} is never put in force");
            found = saved;
        }
        saved += 1;
        let text = policies(saved) + &shadows();
        scene.save("policies.yaml", &text);
        if at_start == 1 {
            scene.programs.start_proxy("node-1").unwrap();
        }
        std::thread::sleep(moments.within(windows[at_start]));
        let log = scene.programs.proxy("node-1").map(|proxy| proxy.stderr().join("\n")).unwrap_or_default();
        scene.programs.kill_proxy("node-1");
        let now = generation_in_force(&scene);
        assert!((found..=saved).contains(&now), "kill {kill}: {now} after {found}, {saved} was saved last\n{log}");
        found = now;
        // However busy the machine is, half of the kills come before the switch and half behind it.
        let is_new = now == saved;
        windows[at_start] = windows[at_start].mul_f64(if is_new { 0.9 } else { 1.1 });
        left[at_start][usize::from(is_new)] += 1;
        if kill % PACKETS_EVERY == 0 {
            assert_packets_agree(&scene, now);
        }
        if at_start == 1 {
            scene.programs.start_proxy("node-1").unwrap();
            scene.programs.wait_ready("node-1", LONG).unwrap();
        }
    }
    println!("{times} kills; [old, new] generation left in force by updates and starts: {left:?}; within {windows:?}");
    assert!(left.concat().iter().all(|count| *count > 0), "the moments were spread over the switch: {left:?}");
    if times % 2 == 1 {
        scene.programs.start_proxy("node-1").unwrap();
    }
    scene.settle();
    assert_eq!(generation_in_force(&scene), saved);
}

#[test]
fn a_kill_leaves_one_generation_in_force() {
    killed(40);
}

#[test]
#[ignore = "long: 1,000 kills take minutes"]
fn long_a_thousand_kills_leave_one_generation_in_force_each() {
    killed(1_000);
}
