//! Random histories: policies, labels, pods and connections come, change and go, the programs are killed and started, and after
//! each step real packets are held against what the engine says of the state that is in force.
//!
//! | | must hold |
//! |---|---|
//! | what the engine denies, new or begun long ago | passes no more from the moment the controller calls the change programmed on the node |
//! | what it allows | new connections come about, within [`ALLOWED_WITHIN`] but for one in [`MOST_LATE`] (a busy machine); those that were allowed all the time go on |
//! | what must be read | is answered 200 or 403 as the engine says of the request; with the proxy dead, not at all |
//! | while a program is dead | what was in force when it died |
//!
//! A pod without a manifest is one that Sluice doesn't know: closed. `SLUICE_SEED=N` plays a history again,
//! `SLUICE_HISTORY_SECONDS=N` says for how long the long one plays.

mod flows;
mod policies;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sluice_cli::cluster::{Cluster, Names};
use sluice_cli::contents::Contents;
use sluice_cli::flow_line::{End, Question};
use sluice_policy::{Decision, Protocol};
use sluice_testnet::{Layout, Net, Netns, Outcome, Port, Probe, wait_until};

use crate::client::{Pair, Talk};
use crate::given::{history_seconds, layout, seed};
use crate::scene::{LONG, Scene, pod_file};
use flows::{At, Flow, Sockets, UdpPair};
use policies::{APPS, NAMES, TEAMS, policy};

/// How long a probe waits for what is allowed. Nothing that is denied may arrive within it either.
const ALLOWED_WITHIN: Duration = Duration::from_millis(700);
/// For what must not come through an old connection.
const SILENCE: Duration = Duration::from_millis(250);
const PODS: usize = 6;
const MOST_FLOWS: usize = 14;
/// Connections that are tried after a step, of all there are.
const PROBES: usize = 150;
const REQUESTS: usize = 10;
/// One of so many probes may be late.
const MOST_LATE: usize = 500;

struct History {
    scene: Scene,
    rng: Rng,
    /// What each pod's labels are, and whether its manifest is there.
    pods: BTreeMap<String, Option<(usize, usize)>>,
    policies: BTreeMap<&'static str, String>,
    /// The state that the kernel holds, and the pods in it.
    in_force: Cluster,
    known: Vec<String>,
    flows: Vec<Flow>,
    proxy: bool,
    controller: bool,
    /// The proxy was started without a controller: what must be read may stay closed until there is one.
    unsure: bool,
    step: usize,
    told: Vec<String>,
    probes: usize,
    /// Of the probes of what is allowed, those that [`ALLOWED_WITHIN`] was too short for.
    late: usize,
}

fn address(number: usize, v6: bool) -> String {
    if v6 { format!("fd00:1::{}", number + 1) } else { format!("10.1.0.{}", number + 1) }
}

impl History {
    fn begin(seed: u64) -> Option<Self> {
        let addresses: Vec<(String, [String; 2])> =
            (0..PODS).map(|n| (format!("shop/p{n}"), [address(n, false), address(n, true)])).collect();
        let lists: Vec<[&str; 2]> = addresses.iter().map(|(_, [v4, v6])| [v4.as_str(), v6.as_str()]).collect();
        let pods: Vec<(&str, &str, &[&str])> =
            addresses.iter().zip(&lists).map(|((name, _), list)| (name.as_str(), "node-1", list.as_slice())).collect();
        let scene = Scene::start(&["node-1"], &pods, "", &[])?;
        for (name, _) in &addresses {
            scene.net.serve_pod(&scene.pod(name), &[Port::tcp(80), Port::tcp(85), Port::udp(53)]).unwrap();
        }
        scene.net.serve(scene.net.outside(), "outside", &[Port::tcp(80), Port::udp(53)]).unwrap();
        let in_force = Cluster::load(&[scene.manifests()]);
        let mut history = Self {
            scene,
            rng: Rng::with_seed(seed),
            pods: addresses.iter().map(|(name, _)| (name.clone(), Some((0, 0)))).collect(),
            policies: BTreeMap::new(),
            in_force,
            known: Vec::new(),
            flows: Vec::new(),
            proxy: true,
            controller: true,
            unsure: false,
            step: 0,
            told: Vec::new(),
            probes: 0,
            late: 0,
        };
        for name in history.pods.keys().cloned().collect::<Vec<_>>() {
            history.relabel(&name);
        }
        history.settle();
        Some(history)
    }

    fn play(&mut self, until: impl Fn(usize) -> bool) {
        while !until(self.step) {
            self.step += 1;
            let what = self.act();
            self.told.push(format!("{}: {what}", self.step));
            self.settle();
            self.check_flows();
            self.check_probes();
            self.check_requests();
        }
    }

    /// One random change.
    fn act(&mut self) -> String {
        let pod = format!("shop/p{}", self.rng.usize(..PODS));
        match self.rng.u8(..100) {
            0..32 => {
                let name = NAMES[self.rng.usize(..NAMES.len())];
                let text = policy(&mut self.rng, name);
                self.policies.insert(name, text.clone());
                self.save_policies();
                format!("policy {}", text.replace('\n', " "))
            }
            32..42 => {
                let name = NAMES[self.rng.usize(..NAMES.len())];
                self.policies.remove(name);
                self.save_policies();
                format!("no policy {name}")
            }
            42..55 => {
                self.relabel(&pod);
                format!("{pod} has labels {:?}", self.pods[&pod])
            }
            55..62 => {
                if self.pods[&pod].is_some() {
                    self.pods.insert(pod.clone(), None);
                    self.scene.take_away(&pod_file(&pod));
                    format!("{pod} has no manifest")
                } else {
                    self.relabel(&pod);
                    format!("{pod} is back: {:?}", self.pods[&pod])
                }
            }
            62..84 => self.open_flows(),
            84..93 => {
                if self.proxy {
                    self.scene.programs.kill_proxy("node-1");
                    self.flows.retain(|flow| !matches!(flow.sockets, Sockets::Http(_)));
                } else {
                    self.scene.programs.start_proxy("node-1").unwrap();
                    if self.controller {
                        self.scene.programs.wait_ready("node-1", LONG).unwrap();
                    } else {
                        // Not ready where the table on disk is older than the kernel's rules, which stay.
                        assert!(wait_until(LONG, || self.scene.programs.admin("node-1", "/healthz").is_some()));
                    }
                    self.unsure = !self.controller;
                }
                self.proxy = !self.proxy;
                format!("proxy {}", if self.proxy { "started" } else { "killed" })
            }
            _ => {
                if self.controller {
                    self.scene.programs.kill_controller();
                } else {
                    self.scene.programs.start_controller().unwrap();
                }
                self.controller = !self.controller;
                format!("controller {}", if self.controller { "started" } else { "killed" })
            }
        }
    }

    fn relabel(&mut self, pod: &str) {
        let labels = (self.rng.usize(..APPS.len()), self.rng.usize(..TEAMS.len()));
        self.pods.insert(pod.to_owned(), Some(labels));
        let (app, team) = (APPS[labels.0], TEAMS[labels.1]);
        let (_, name) = pod.split_once('/').unwrap();
        let manifest = self.scene.manifest_of(pod).replace(&format!("app: {name}"), &format!("app: {app}, team: {team}"));
        assert!(manifest.contains("team:"), "{manifest}");
        self.scene.save(&pod_file(pod), &manifest);
    }

    fn save_policies(&self) {
        // An empty file passes for one whose writing was cut short, and what it held would stay.
        let text = format!("# all of them\n{}", self.policies.values().cloned().collect::<Vec<_>>().join("---\n"));
        self.scene.save("policies.yaml", &text);
    }

    /// Waits until what was saved is in force; where a program is dead, what was in force stays so.
    fn settle(&mut self) {
        if !(self.proxy && self.controller) {
            return;
        }
        self.scene.settle();
        self.unsure = false;
        self.in_force = Cluster::load(&[self.scene.manifests()]);
        assert!(self.in_force.is_whole(), "{:?}", self.in_force.errors().collect::<Vec<_>>());
        self.known = self.pods.iter().filter(|(_, labels)| labels.is_some()).map(|(name, _)| name.clone()).collect();
    }

    fn decision(&self, from: &At, to: &At, protocol: Protocol, port: u16, target: Option<&str>) -> Decision {
        let unknown = |at: &At| at.who.starts_with("shop/") && !self.known.contains(&at.who);
        if from.who == "node" {
            // On a bridge the port of a pod that isn't known is closed for its answers too.
            let closed = unknown(to) && layout() != Layout::Routed;
            return if closed { Decision::Deny } else { Decision::Allow };
        }
        if unknown(from) || unknown(to) {
            return Decision::Deny;
        }
        let contents = target.map(|target| Contents::Http {
            method: "GET".into(),
            target: target.into(),
            host: to.ip.to_string(),
            headers: Default::default(),
        });
        let question = Question { from: End::Ip(from.ip), to: End::Ip(to.ip), port, protocol, icmp: None, contents };
        self.in_force.verdict(&question, &Names::default()).unwrap().decision()
    }

    fn namespace(&self, at: &At) -> Netns {
        match at.who.as_str() {
            "outside" => self.scene.net.outside().clone(),
            "node" => self.scene.node("node-1").ns().clone(),
            pod => self.scene.pod(pod).ns().clone(),
        }
    }

    fn pod_at(&mut self, v6: bool) -> At {
        let number = self.rng.usize(..PODS);
        At { who: format!("shop/p{number}"), ip: address(number, v6).parse().unwrap() }
    }

    /// Begins a few connections that are allowed.
    fn open_flows(&mut self) -> String {
        let mut opened = String::from("opened");
        for _ in 0..8 {
            let v6 = self.rng.bool();
            let (from, to) = (self.pod_at(v6), self.pod_at(v6));
            let kind = self.rng.u8(..3);
            if from == to || self.flows.len() >= MOST_FLOWS {
                continue;
            }
            let (client, server) = (self.namespace(&from), self.namespace(&to));
            let (port, sockets) = match kind {
                0 if self.decision(&from, &to, Protocol::Tcp, 90, None) == Decision::Allow => {
                    let pair = Pair::connect(&client, &server, &SocketAddr::new(to.ip, 90).to_string());
                    (90, Sockets::Tcp(pair))
                }
                1 => {
                    // One server socket for each flow, so each has a port.
                    let port = self.rng.u16(5_000..6_000);
                    if self.flows.iter().any(|flow| (&flow.to, flow.port) == (&to, port)) {
                        continue;
                    }
                    if self.decision(&from, &to, Protocol::Udp, port, None) != Decision::Allow {
                        continue;
                    }
                    let at = SocketAddr::new(to.ip, port);
                    let pair = UdpPair::exchange(&client, from.ip, &server, at, ALLOWED_WITHIN);
                    (port, Sockets::Udp(pair.unwrap_or_else(|| self.fail(&format!("{from:?} -> {at} UDP is allowed and fails")))))
                }
                2 if self.proxy && !self.unsure && self.decision(&from, &to, Protocol::Tcp, 8080, None) == Decision::Inspect => {
                    let at = SocketAddr::new(to.ip, 8080).to_string();
                    match Talk::open_within(&client, &at, ALLOWED_WITHIN) {
                        Ok(talk) => (8080, Sockets::Http(talk)),
                        Err(error) => self.fail(&format!("{from:?} -> {at} is to be read and fails: {error}")),
                    }
                }
                _ => continue,
            };
            let _ = write!(opened, " {} {}->{}:{port}", sockets.kind(), from.ip, to.ip);
            self.flows.push(Flow { from, to, port, sockets, since: self.step });
        }
        opened
    }

    /// What began long ago: goes on where it is allowed, and passes nothing where it is not.
    fn check_flows(&mut self) {
        let mut kept = Vec::new();
        for mut flow in std::mem::take(&mut self.flows) {
            let udp = matches!(flow.sockets, Sockets::Udp(_));
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let decision = self.decision(&flow.from, &flow.to, protocol, flow.port, None);
            let name = format!(
                "{} {}->{}:{} since step {}, {decision:?}",
                flow.sockets.kind(),
                flow.from.ip,
                flow.to.ip,
                flow.port,
                flow.since
            );
            let wait = if decision == Decision::Allow { LONG } else { SILENCE };
            let goes_on = match &mut flow.sockets {
                Sockets::Tcp(pair) => self.expect_passing(&name, decision, pair.passes(wait)),
                Sockets::Udp(pair) => {
                    let wait = wait.min(ALLOWED_WITHIN);
                    self.expect_passing(&name, decision, pair.passes(wait))
                }
                Sockets::Http(talk) => self.expect_answers(&name, &flow.from, &flow.to, talk),
            };
            if goes_on {
                kept.push(flow);
            }
        }
        self.flows = kept;
    }

    fn expect_passing(&self, name: &str, decision: Decision, passed: (bool, bool)) -> bool {
        let allowed = decision == Decision::Allow;
        if passed != (allowed, allowed) {
            self.fail(&format!("{name}: passes (there, back) {passed:?}"));
        }
        allowed
    }

    /// A kept-alive connection: each request by the state in force; the connection may have ended.
    fn expect_answers(&self, name: &str, from: &At, to: &At, talk: &mut Talk) -> bool {
        for target in ["/a", "/b"] {
            let wanted = self.decision(from, to, Protocol::Tcp, 8080, Some(target));
            let got = talk.get(target).map(|answer| answer.status);
            match (wanted, &got) {
                (Decision::Allow, Ok(200)) | (_, Ok(403))
                    if wanted == Decision::Allow || got.as_ref().is_ok_and(|s| *s == 403) => {}
                // Cut when nothing in it could be allowed any more, or judged anew as something else.
                (_, Err(_)) => return false,
                _ => self.fail(&format!("{name}: GET {target}: {wanted:?}, got {got:?}")),
            }
            if wanted == Decision::Allow && got.is_ok_and(|status| status == 403) {
                self.fail(&format!("{name}: GET {target} is allowed and answered 403"));
            }
        }
        true
    }

    fn ends(&self) -> Vec<At> {
        let mut ends = Vec::new();
        for v6 in [false, true] {
            ends.extend((0..PODS).map(|n| At { who: format!("shop/p{n}"), ip: address(n, v6).parse().unwrap() }));
            let outside = if v6 { Net::OUTSIDE_V6 } else { Net::OUTSIDE_V4 };
            ends.push(At { who: "outside".into(), ip: outside });
            let node = self.scene.node("node-1").addresses().iter().copied().find(|ip| ip.is_ipv6() == v6).unwrap();
            ends.push(At { who: "node".into(), ip: node });
        }
        ends
    }

    /// New connections, a random part of all that there could be, at once.
    fn check_probes(&mut self) {
        let ends = self.ends();
        let is_pod = |at: &At| at.who.starts_with("shop/");
        let mut asked: Vec<(At, At, Protocol, u16)> = Vec::new();
        for from in &ends {
            for to in ends.iter().filter(|to| *to != from && to.ip.is_ipv4() == from.ip.is_ipv4()) {
                if to.who == "node" || !(is_pod(from) || is_pod(to)) {
                    continue;
                }
                asked.extend([(Protocol::Tcp, 80), (Protocol::Tcp, 85), (Protocol::Udp, 53)].map(|(protocol, port)| {
                    let port = if to.who == "outside" && port == 85 { 80 } else { port };
                    (from.clone(), to.clone(), protocol, port)
                }));
            }
        }
        self.rng.shuffle(&mut asked);
        asked.truncate(PROBES);
        let probes: Vec<Probe> = asked
            .iter()
            .map(|(from, to, protocol, port)| Probe {
                from: self.namespace(from),
                source: Some(from.ip),
                to: to.ip,
                port: *port,
                protocol: if *protocol == Protocol::Tcp { sluice_testnet::Protocol::Tcp } else { sluice_testnet::Protocol::Udp },
            })
            .collect();
        let outcomes = self.scene.net.probe(&probes, ALLOWED_WITHIN);
        self.probes += probes.len();
        for (((from, to, protocol, port), probe), mut outcome) in asked.iter().zip(&probes).zip(outcomes) {
            let decision = self.decision(from, to, *protocol, *port, None);
            if decision == Decision::Allow && !outcome.is_connected() {
                // Late is not never: on a busy machine a server may be.
                println!("step {}: late: {from:?} -> {to:?} {protocol:?} {port}: {outcome:?}", self.step);
                self.late += 1;
                outcome = self.scene.net.probe(std::slice::from_ref(probe), LONG).remove(0);
            }
            // Not HTTP: what must be read is denied.
            if outcome.is_connected() != (decision == Decision::Allow) || matches!(outcome, Outcome::Error(_)) {
                self.fail(&format!("{from:?} -> {to:?} {protocol:?} {port}: {decision:?}, but {outcome:?}"));
            }
        }
    }

    /// New connections to the web servers.
    fn check_requests(&mut self) {
        let mut asked = Vec::new();
        for _ in 0..REQUESTS {
            let v6 = self.rng.bool();
            let (from, to) = (self.pod_at(v6), self.pod_at(v6));
            if from != to {
                asked.push((from, to, if self.rng.bool() { "/a" } else { "/b" }));
            }
        }
        let tried: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = asked
                .iter()
                .map(|(from, to, target)| {
                    let (ns, at) = (self.namespace(from), SocketAddr::new(to.ip, 8080).to_string());
                    scope.spawn(move || {
                        let mut talk = Talk::open_within(&ns, &at, ALLOWED_WITHIN).ok()?;
                        talk.stream.set_read_timeout(Some(LONG)).unwrap();
                        talk.get(target).ok().map(|answer| answer.status)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for ((from, to, target), got) in asked.iter().zip(tried) {
            let flow = self.decision(from, to, Protocol::Tcp, 8080, None);
            let request = self.decision(from, to, Protocol::Tcp, 8080, Some(target));
            let wanted = match (flow, request) {
                (Decision::Deny, _) => None,
                (Decision::Allow, _) => Some(200),
                (Decision::Inspect, _) if !self.proxy => None,
                (Decision::Inspect, Decision::Allow) => Some(200),
                (Decision::Inspect, _) => Some(403),
            };
            let closed_for_now = self.unsure && flow == Decision::Inspect && got.is_none();
            if got != wanted && !closed_for_now {
                self.fail(&format!("{from:?} -> {to:?} GET {target}: {flow:?}, {request:?}, wanted {wanted:?}, got {got:?}"));
            }
        }
    }

    fn fail(&self, why: &str) -> ! {
        let recent: Vec<_> = self.told.iter().rev().take(25).rev().cloned().collect();
        let rules = self.scene.node("node-1").ns().exec("nft", &["list", "ruleset"]).unwrap_or_default();
        panic!(
            "step {}: {why}\nknown {:?}, proxy {}, controller {}\n{}\n{:#?}\n{rules}",
            self.step,
            self.known,
            self.proxy,
            self.controller,
            recent.join("\n"),
            self.policies
        );
    }
}

#[test]
fn a_random_history_holds() {
    let Some(mut history) = History::begin(seed()) else { return };
    history.play(|step| step >= 20);
    assert!(history.late * MOST_LATE <= history.probes, "{} of {} probes came late", history.late, history.probes);
}

#[test]
#[ignore = "long: plays for SLUICE_HISTORY_SECONDS, 120 by default"]
fn long_random_histories_hold() {
    let seconds = history_seconds();
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut seed, mut steps, mut histories, mut probes, mut late) = (seed(), 0, 0, 0, 0);
    // Each history begins with an empty network, so that one that fails can be played again.
    while Instant::now() < end {
        let Some(mut history) = History::begin(seed) else { return };
        history.play(|step| step >= 60 || Instant::now() >= end);
        steps += history.step;
        probes += history.probes;
        late += history.late;
        histories += 1;
        seed += 1;
    }
    println!("{histories} histories, {steps} steps, {probes} probes of which {late} were late; the last seed was {}", seed - 1);
    assert!(late * MOST_LATE <= probes, "more than one in {MOST_LATE} was late");
}
