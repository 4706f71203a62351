//! What follows when others' rules don't go together with the proxy: with the real enforcer, real rules and real connections.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kernel_stage::proxy::{accept, listen};
use kernel_stage::{Stage, edits, ip, possible};
use prometheus_client::registry::Registry;
use sluice_policy::Table;
use sluice_policy::snapshot::Generation;
use sluice_proxy::config::Config;
use sluice_proxy::enforcer::{Enforcer, Inputs, KernelState, Unready, kernel_config};
use sluice_proxy::feed::{Extent, Handover};
use sluice_proxy::metrics::Metrics;
use sluice_testnet::Protocol::Tcp;
use sluice_testnet::{Netns, Pod, wait_until};
use tokio::sync::{mpsc, oneshot, watch};

/// `b` takes requests at 8080 that the proxy must read, and connections at 80.
const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n---\n\
    apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {name: b, namespace: production}\n\
    spec:\n  podSelector: {matchLabels: {app: b}}\n  ingress:\n  - ports: [{protocol: TCP, port: 80}]\n  \
    - ports: [{protocol: TCP, port: 8080}]\n    http: [{method: GET}]\n";

/// The wait for what must happen; the machine may be busy with something else.
const LONG: Duration = Duration::from_secs(15);

const FORWARD_DROP: &str =
    "table inet engine { chain pods { type filter hook forward priority 0; tcp dport 8080 drop comment \"theirs\"; } }";

struct Running {
    handovers: Option<mpsc::Sender<Handover>>,
    state: watch::Receiver<KernelState>,
    registry: Registry,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(stage: &Stage, config: &Config) -> Self {
        let ns = stage.node.ns().clone();
        let (handovers, to_apply) = mpsc::channel(1);
        let (tables, _) = watch::channel(Arc::new(Table::empty()));
        let (shown, state) = watch::channel(KernelState::Waiting);
        let mut registry = Registry::default();
        let metrics = Metrics::new(&mut registry);
        let config = config.clone();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let enforcer = Enforcer::open(&config, tables, shown, metrics).unwrap();
            runtime.block_on(enforcer.run(Inputs::tables(to_apply)));
        };
        let thread = std::thread::spawn(move || ns.run(work));
        Self { handovers: Some(handovers), state, registry, thread: Some(thread) }
    }

    fn hand_over(&self, table: &Table) {
        let (done, is_done) = oneshot::channel();
        let table = Arc::new(table.clone());
        let handover = Handover { table, extent: Extent::Whole, epoch: 1, generation: Generation(1), done };
        self.handovers.as_ref().unwrap().blocking_send(handover).unwrap();
        is_done.blocking_recv().unwrap().unwrap();
    }

    fn is_in_force(&self) -> bool {
        matches!(*self.state.borrow(), KernelState::InForce | KernelState::InForceBeside(_))
    }

    /// What is wrong, by this word.
    fn trouble(&self, word: Unready) -> Option<String> {
        match &*self.state.borrow() {
            KernelState::Failing(troubles) => troubles.iter().find(|t| t.word == word).map(ToString::to_string),
            _ => None,
        }
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text.lines().any(|found| found == line)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handovers.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Scene {
    stage: Stage,
    running: Running,
    a: Pod,
    proxy: TcpListener,
}

fn scene(settings: &[&str], before: impl FnOnce(&Netns)) -> Option<Scene> {
    if !possible() {
        return None;
    }
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    let config = Config::load(None, &settings).unwrap();
    let mut stage = Stage::new(kernel_config(&config));
    // The stage's own routing, of which nothing may be left.
    stage.node.ns().run(sluice_proxy::kernel::routes::remove).unwrap();
    let a = stage.pod("production/a", &["10.0.1.1"]);
    let _b = stage.pod("production/b", &["10.0.1.2"]);
    stage.engine.edit(edits(OBJECTS));
    before(stage.node.ns());
    let proxy = listen(stage.node.ns(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    let running = Running::start(&stage, &config);
    running.hand_over(&stage.engine.table);
    Some(Scene { stage, running, a, proxy })
}

impl Scene {
    /// A connection of `a` to what must be read, with both its ends, if the proxy gets it.
    fn proxied(&self) -> Option<(TcpStream, TcpStream)> {
        let to = SocketAddr::new(ip("10.0.1.2"), 8080);
        let client = self.a.ns().tcp_connect(None, to, Duration::from_millis(500)).ok()?;
        if let Some(taken) = accept(&self.proxy, None) {
            assert_eq!(taken.local_addr().unwrap(), to);
            return Some((client, taken));
        }
        panic!("connected, and not to the proxy\n{}", self.stage.listing());
    }

    /// What addresses and ports decide is in force.
    fn expect_ports(&self) {
        self.stage.expect(&[(&self.a, "10.0.1.2", 80, Tcp, true), (&self.a, "10.0.1.2", 9090, Tcp, false)]);
    }

    fn nft(&self, text: &str) {
        nft(self.stage.node.ns(), text);
    }
}

/// nft 1.0.6 wants a line of its own for what closes a chain.
fn nft(ns: &Netns, text: &str) {
    ns.exec("nft", &[&text.replace("; }", ";\n}\n").replace("} }", "}\n}\n")]).unwrap();
}

fn talk(client: &mut TcpStream, proxy: &mut TcpStream) {
    for stream in [&*client, &*proxy] {
        stream.set_read_timeout(Some(LONG)).unwrap();
    }
    client.write_all(b"ping").unwrap();
    let mut word = [0; 4];
    proxy.read_exact(&mut word).unwrap();
    proxy.write_all(b"pong\n").unwrap();
    let mut line = String::new();
    BufReader::new(client).read_line(&mut line).unwrap();
    assert_eq!(line, "pong\n");
}

#[test]
fn nothing_is_diverted_while_a_rule_would_be_evaded() {
    let Some(scene) = scene(&[], |ns| nft(ns, FORWARD_DROP)) else { return };
    assert!(wait_until(LONG, || *scene.running.state.borrow() != KernelState::Waiting));
    let why = scene.running.trouble(Unready::OtherEngine).expect("from the first table on");
    for word in
        ["OtherEngine: 1 rule", "table inet engine, chain pods, rule handle", "theirs", "enforcementAlone", "pass it unasked"]
    {
        assert!(why.contains(word), "{word}: {why}");
    }
    assert!(scene.running.metric("sluice_other_engine_findings{effect=\"evades\"} 1"));
    assert!(scene.proxied().is_none(), "needs the proxy: denied");
    scene.expect_ports();

    scene.nft("delete table inet engine");
    assert!(wait_until(LONG, || scene.running.is_in_force()), "{:?}", scene.running.state);
    let (mut client, mut taken) = scene.proxied().expect("diverted, now that nothing is in the way");
    assert!(scene.running.metric("sluice_other_engine_findings{effect=\"evades\"} 0"));
    talk(&mut client, &mut taken);

    scene.nft(FORWARD_DROP);
    assert!(wait_until(LONG, || scene.running.trouble(Unready::OtherEngine).is_some()));
    assert!(scene.proxied().is_none(), "and not any more");
    talk(&mut client, &mut taken);
    scene.expect_ports();
}

#[test]
fn the_operators_word_makes_rules_of_others_evaded() {
    let Some(scene) = scene(&["enforcementAlone=true"], |ns| nft(ns, FORWARD_DROP)) else { return };
    assert!(wait_until(LONG, || scene.running.is_in_force()), "{:?}", scene.running.state);
    assert!(scene.running.metric("sluice_other_engine_findings{effect=\"evades\"} 1"), "counted all the same");
    let (mut client, mut taken) = scene.proxied().expect("their rule at port 8080 is never asked: that is why it is a finding");
    talk(&mut client, &mut taken);
    scene.expect_ports();
}

#[test]
fn a_host_firewall_that_would_cut_is_found() {
    let firewall = "table inet host { chain input { type filter hook input priority 0; policy drop; ct state established,related accept; iif lo accept; } }";
    let Some(scene) = scene(&["enforcementAlone=true"], |ns| nft(ns, firewall)) else { return };
    assert!(scene.running.metric("sluice_other_engine_findings{effect=\"cuts\"} 1"));
    assert!(scene.proxied().is_none(), "it cuts: that is why it is a finding");
    scene.expect_ports();
    // What drops invalid packets alone, as most firewalls do, cuts nothing, and is none.
    scene.nft("flush ruleset");
    scene.nft("table inet host { chain input { type filter hook input priority 0; ct state invalid drop; } chain output { type filter hook output priority 0; ct state invalid drop; } }");
    assert!(wait_until(LONG, || scene.running.metric("sluice_other_engine_findings{effect=\"cuts\"} 0")));
    assert!(wait_until(LONG, || scene.running.is_in_force() && scene.stage.listing().contains("table inet sluice")));
    let (mut client, mut taken) = scene.proxied().expect("diverted");
    talk(&mut client, &mut taken);
}

#[test]
fn who_takes_the_mark_away_opens_no_way_round_the_proxy() {
    let marks = "table ip marks { chain late { type filter hook prerouting priority 0; meta mark set 0x5; } }";
    let Some(scene) = scene(&["enforcementAlone=true"], |ns| nft(ns, marks)) else { return };
    assert!(scene.running.metric("sluice_other_engine_findings{effect=\"cuts\"} 1"));
    // Port 8080 of the pod answers whoever reaches it.
    assert!(scene.proxied().is_none(), "neither the proxy nor the server is reached");
    scene.expect_ports();
    scene.nft("delete table ip marks");
    let (mut client, mut taken) = scene.proxied().expect("diverted");
    talk(&mut client, &mut taken);
}

#[test]
fn mark_table_and_priorities_of_the_configuration_are_used() {
    let settings = ["mark=0x40", "routingTable=77", "rulePriority=50", "hookPriority=-42"];
    let Some(scene) = scene(&settings, |_| {}) else { return };
    assert!(wait_until(LONG, || scene.running.is_in_force()), "{:?}", scene.running.state);
    let ns = scene.stage.node.ns();
    let rules = ns.exec("ip", &["-4", "rule"]).unwrap();
    assert!(rules.lines().any(|line| line.starts_with("50:") && line.contains("fwmark 0x40/0x40 lookup 77")), "{rules}");
    assert!(!rules.contains("0x1000"), "{rules}");
    assert!(ns.exec("ip", &["-6", "route", "show", "table", "77"]).unwrap().contains("local default dev lo"));
    let listing = scene.stage.listing();
    assert!(listing.contains("hook prerouting priority -42") && !listing.contains("0x00001000"), "{listing}");
    let (mut client, mut taken) = scene.proxied().expect("diverted");
    talk(&mut client, &mut taken);
    scene.expect_ports();
}

#[test]
fn a_chain_of_a_former_configuration_is_hung_elsewhere_without_a_gap() {
    let Some(mut scene) = scene(&[], |_| {}) else { return };
    let (mut client, mut taken) = scene.proxied().expect("diverted");
    talk(&mut client, &mut taken);
    for (priority, shown) in [(-42, "-42"), (-90, "dstnat + 10")] {
        let config = Config::load(None, &[format!("hookPriority={priority}")]).unwrap();
        scene.running = Running::start(&scene.stage, &config);
        scene.running.hand_over(&scene.stage.engine.table);
        let listing = scene.stage.listing();
        assert!(listing.contains(&format!("hook prerouting priority {shown};")), "{listing}");
        let (_, inet) = listing.split_once("table inet sluice {").expect("the table is there");
        let inet = inet.split("\ntable ").next().unwrap_or(inet);
        assert_eq!(inet.matches("hook prerouting").count(), 1, "{listing}");
        talk(&mut client, &mut taken);
        let (mut another, mut also_taken) = scene.proxied().expect("diverted");
        talk(&mut another, &mut also_taken);
        scene.expect_ports();
    }
}
