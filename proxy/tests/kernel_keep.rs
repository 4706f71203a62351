//! The enforcer at work on a node where others change things too: what it put in force stays, or comes back.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use kernel_stage::{Stage, edits, ip, possible};
use prometheus_client::registry::Registry;
use sluice_policy::Table;
use sluice_policy::snapshot::Generation;
use sluice_proxy::config::Config;
use sluice_proxy::enforcer::{Enforcer, Inputs, KernelState};
use sluice_proxy::feed::{Extent, Handover};
use sluice_proxy::kernel;
use sluice_proxy::metrics::Metrics;
use sluice_testnet::Protocol::Tcp;
use sluice_testnet::{Pod, wait_until};
use tokio::sync::{mpsc, oneshot, watch};

const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n---\n\
    apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: b, namespace: production}\n\
    spec: {podSelector: {matchLabels: {app: b}}, ingress: [{ports: [{port: 80}]}]}\n";

/// The wait for what must happen; the machine may be busy with something else.
const LONG: Duration = Duration::from_secs(10);

/// An enforcer in the stage's node.
struct Running {
    handovers: Option<mpsc::Sender<Handover>>,
    state: watch::Receiver<KernelState>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn start(stage: &Stage) -> Self {
        let ns = stage.node.ns().clone();
        let (handovers, to_apply) = mpsc::channel(1);
        let (tables, _) = watch::channel(Arc::new(Table::empty()));
        let (shown, state) = watch::channel(KernelState::Waiting);
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let metrics = Metrics::new(&mut Registry::default());
            let enforcer = Enforcer::open(&Config::default(), tables, shown, metrics).unwrap();
            runtime.block_on(enforcer.run(Inputs::tables(to_apply)));
        };
        let thread = std::thread::spawn(move || ns.run(work));
        Self { handovers: Some(handovers), state, thread: Some(thread) }
    }

    fn hand_over(&self, table: &Table, extent: Extent) {
        let (done, is_done) = oneshot::channel();
        let handover = Handover { table: Arc::new(table.clone()), extent, epoch: 1, generation: Generation(1), done };
        self.handovers.as_ref().unwrap().blocking_send(handover).unwrap();
        is_done.blocking_recv().unwrap().unwrap();
    }

    fn is_in_force(&self) -> bool {
        *self.state.borrow() == KernelState::InForce
    }

    fn failure(&self) -> Option<String> {
        match &*self.state.borrow() {
            KernelState::Failing(troubles) => Some(troubles.iter().map(ToString::to_string).collect()),
            _ => None,
        }
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

/// Pods `a` and `b`, of which `b` takes connections at port 80 alone, and an enforcer that has been told so.
fn begin() -> Option<(Stage, Running, Pod)> {
    if !possible() {
        return None;
    }
    let mut stage = Stage::new(kernel::Config::default());
    let a = stage.pod("production/a", &["10.0.1.1"]);
    let _b = stage.pod("production/b", &["10.0.1.2"]);
    stage.engine.edit(edits(OBJECTS));
    let running = Running::start(&stage);
    running.hand_over(&stage.engine.table, Extent::Whole);
    stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.2", 8080, Tcp, false)]);
    Some((stage, running, a))
}

fn is_there(stage: &Stage) -> bool {
    stage.listing().contains("to a pod that is not known yet")
}

#[test]
fn a_flushed_ruleset_comes_back_and_what_began_meanwhile_ends() {
    let Some((stage, running, a)) = begin() else { return };
    for harm in [&["flush", "ruleset"][..], &["flush", "table", "inet", "sluice"][..]] {
        stage.node.ns().exec("nft", harm).unwrap();
        let intruder = a.ns().tcp_connect(None, SocketAddr::new(ip("10.0.1.2"), 8080), Duration::from_millis(300));
        assert!(wait_until(LONG, || is_there(&stage) && running.is_in_force()), "{harm:?}: {}", stage.listing());
        stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.2", 8080, Tcp, false)]);
        // The rules may have been back before it: then it did not connect.
        if let Ok(mut stream) = intruder {
            println!("{harm:?}: a forbidden connection came about meanwhile");
            stream.set_read_timeout(Some(kernel_stage::SILENCE)).unwrap();
            stream.write_all(b"still here\n").unwrap();
            let mut line = String::new();
            assert!(BufReader::new(stream).read_line(&mut line).is_err(), "{harm:?}: it goes on: {line}");
        }
    }
}

#[test]
fn it_is_failing_until_the_rules_are_back() {
    let Some((stage, running, a)) = begin() else { return };
    let ns = stage.node.ns();
    // What the foreign table holds by our names makes ours impossible.
    let foreign = "flush ruleset; add table inet sluice; add set inet sluice revoked_v4 { type ipv4_addr; }";
    ns.exec("nft", &[foreign]).unwrap();
    assert!(wait_until(LONG, || running.failure().is_some()), "nobody is told");
    let why = running.failure().unwrap();
    assert!(why.contains("somebody else") && why.contains("inet sluice"), "{why}");
    std::thread::sleep(Duration::from_secs(2));
    assert!(running.failure().is_some(), "it is not called repaired while it isn't");
    ns.exec("nft", &["delete", "table", "inet", "sluice"]).unwrap();
    assert!(wait_until(LONG, || running.is_in_force()), "{:?}", running.failure());
    stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.2", 8080, Tcp, false)]);
}

#[test]
fn many_tables_put_off_no_look() {
    let Some((stage, running, a)) = begin() else { return };
    let ns = stage.node.ns();
    let mark_rule = |lines: &str| lines.lines().any(|line| line.contains("fwmark"));
    assert!(mark_rule(&ns.exec("ip", &["-4", "rule"]).unwrap()));
    ns.exec("ip", &["-4", "rule", "del", "pref", "100"]).unwrap();
    ns.exec("nft", &["flush", "ruleset"]).unwrap();
    let repaired = wait_until(LONG, || {
        running.hand_over(&stage.engine.table, Extent::Touched(Default::default()));
        is_there(&stage) && mark_rule(&ns.exec("ip", &["-4", "rule"]).unwrap())
    });
    assert!(repaired, "{}\n{}", ns.exec("ip", &["-4", "rule"]).unwrap(), stage.listing());
    stage.expect(&[(&a, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.2", 8080, Tcp, false)]);
}
