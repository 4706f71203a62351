//! Three judges of one corpus: the engine, the naive reference, and what the cases expect. (The fourth, the kernel, judges on a
//! testnet.)
//!
//! The engine gets the cases as `sluice_crds::case` reads them and applies the steps as edits to one world and one table; beside
//! it stands a table compiled afresh from the same state. The reference gets them as manifests, from a reader of its own.

mod corpus;
mod engine;
mod properties;
mod quic;
mod reference;
mod worlds;

use std::path::Path;

use serde_json::{Value, json};
use sluice_crds::case;

use corpus::Probe;
use engine::{Engine, answer, with_flow};
use reference::{Answer, Cluster, Contents, Question, judge};
use worlds::Edit;

/// What was judged, printed at the end of each family.
#[derive(Default)]
struct Count {
    cases: usize,
    states: usize,
    probes: usize,
    failures: Vec<String>,
}

impl Count {
    /// Prints the counts and fails with what went wrong, the first in full.
    fn finish(self, family: &str) {
        let Self { cases, states, probes, failures } = self;
        eprintln!("{family}: {cases} cases, {states} states, {probes} probes");
        assert!(probes > 0, "{family}: nothing was judged");
        let shown = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n\n");
        assert!(failures.is_empty(), "{family}: {} probes failed\n\n{shown}", failures.len());
    }
}

fn family(name: &str) {
    let Some(dir) = corpus::shared() else { return };
    let mut count = Count::default();
    judge_file(&dir.join(format!("{name}.jsonl")), &mut count);
    count.finish(name);
}

/// Judges every case of a file.
fn judge_file(path: &Path, count: &mut Count) {
    let cases = case::read_cases(path).unwrap_or_else(|e| panic!("{e}"));
    let lines = corpus::lines(path);
    assert_eq!(cases.len(), lines.len(), "{}: two readers, two numbers of cases", path.display());
    for (case, line) in cases.iter().zip(&lines) {
        count.cases += 1;
        judge_case(case, &corpus::Case::read(line), count);
    }
}

fn judge_case(case: &case::Case, manifests: &corpus::Case, count: &mut Count) {
    assert_eq!((&case.name, case.states.len()), (&manifests.name, manifests.states.len()));
    let mut kept = Engine::of([], &[]);
    let (mut edits, mut now) = (Vec::new(), None);
    for (turn, (state, same)) in case.states.iter().zip(&manifests.states).enumerate() {
        count.states += 1;
        kept.edit(state.edits.iter().cloned());
        edits.extend(state.edits.iter().cloned());
        let mut fresh = Engine::of(edits.iter().cloned(), &[]);
        now = state.now.or(now);
        for engine in [&mut kept, &mut fresh] {
            now.into_iter().for_each(|now| engine.set_time(now));
        }
        assert_eq!(state.probes.len(), same.probes.len(), "{}: two readers, two numbers of probes", case.name);
        for (probe, read) in state.probes.iter().zip(&same.probes) {
            let ends = (probe.from.ip, probe.to.ip, probe.port, answer(probe.expect));
            assert_eq!(ends, (read.from, read.to, read.port, read.expect), "{}: two readers, two probes", case.name);
            count.probes += 1;
            if let Err(failure) = judge_probe(read, &kept, &fresh, &same.cluster) {
                count.failures.push(format!("{} (state {turn}): {probe}\n{failure}", case.name));
            }
        }
    }
}

/// All judges on one probe.
fn judge_probe(probe: &Probe, kept: &Engine, fresh: &Engine, cluster: &Cluster) -> Result<(), String> {
    let contents = probe.contents();
    let Probe { from, to, port, icmp, .. } = *probe;
    let question = Question { from, to, protocol: &probe.protocol, port, icmp, contents };
    let got = engine::judgement(&kept.everything.table, &question);
    let compiled = engine::judgement(&fresh.everything.table, &question);
    let reference = judge(cluster, &question);
    let audit = |engine: &Engine| engine::audit(&engine.everything.table, &question).map(|(answer, ..)| answer);
    let audits = (audit(kept), audit(fresh), properties::audit_by_reference(cluster, &question).map(|(answer, _)| answer));
    if audits != (probe.audit, probe.audit, probe.audit) {
        return Err(format!("expected of the audit {:?}\ngot, fresh, naive {audits:?}", probe.audit));
    }
    if got.answer() == probe.expect && got == compiled && reference.answer() == probe.expect && engine::agrees(&got, &reference) {
        return Ok(());
    }
    let explanation = with_flow(&question, |flow| format!("{:#?}", kept.everything.table.explain(flow)));
    Err(format!("expected {:?}\ngot      {got:?}\nfresh    {compiled:?}\nnaive    {reference:?}\n{explanation}", probe.expect))
}

#[test]
fn cyclonus() {
    family("cyclonus");
}

#[test]
fn k8s_e2e() {
    family("k8s-e2e");
}

#[test]
fn kube_network_policies() {
    family("kube-network-policies");
}

#[test]
fn network_policy_api() {
    family("network-policy-api");
}

#[test]
fn recipes() {
    family("recipes");
}

#[test]
fn edge() {
    family("edge");
}

#[test]
fn fuzz_np() {
    family("fuzz-np");
}

#[test]
fn fuzz_cnp() {
    family("fuzz-cnp");
}

/// The cases of this project, L7 among them.
#[test]
fn own_cases() {
    let mut count = Count::default();
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases");
    let entries = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.expect("the folder can be read").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    files.sort();
    for file in files {
        judge_file(&file, &mut count);
    }
    count.finish("own cases");
}

/// What the API server would refuse has an error, what it would take has none; and either way the judges agree on what then
/// holds.
#[test]
fn validation() {
    let Some(dir) = corpus::shared() else { return };
    let (mut judged, mut refused) = (0, 0);
    for line in corpus::lines(&dir.join("validation.jsonl")) {
        let policy = &line["policy"];
        judged += 1;
        let lowered = engine::lowered(policy);
        assert_eq!(lowered.is_valid(), line["valid"] == true, "{} ({}): {:?}", line["name"], line["why"], lowered.diagnostics);
        if lowered.object.is_some() {
            agree_on(policy);
        } else {
            assert!(lowered.key.is_some() && policy["kind"] == "ClusterNetworkPolicy", "only a cluster's policy is refused");
            refused += 1;
        }
    }
    eprintln!("validation: {judged} policies, {refused} of them refused");
    assert!(judged > 0, "validation: nothing was judged");
}

/// The engine and the reference on every question about a small cluster in which `policy` is in force.
fn agree_on(policy: &Value) {
    let namespace = |name: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let pod = |namespace: &str, name: &str, ip: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": name, "labels": {"app": name}},
            "spec": {"containers": [{"ports": [{"name": "http", "containerPort": 80}]}]}, "status": {"podIPs": [{"ip": ip}]}})
    };
    let pods = [pod("a", "web", "10.1.0.1"), pod("a", "api", "10.0.0.2"), pod("b", "web", "10.2.0.1")];
    let mut cluster = Cluster::default();
    let objects = [namespace("a"), namespace("b"), policy.clone()].into_iter().chain(pods);
    cluster.edit(&objects.map(Edit::Put).collect::<Vec<_>>());
    let engine = Engine::of_cluster(&cluster, &[]);
    let addresses = worlds::addresses(&cluster);
    for (from, to) in addresses.iter().flat_map(|from| addresses.iter().map(move |to| (*from, *to))) {
        for (protocol, port) in [("TCP", 80), ("TCP", 85), ("TCP", 8080), ("TCP", 65535), ("UDP", 80), ("SCTP", 80), ("ICMP", 0)]
        {
            let question = Question { from, to, protocol, port, icmp: None, contents: Contents::NotRead };
            let (got, expected) = (engine::judgement(&engine.everything.table, &question), judge(&cluster, &question));
            assert!(engine::agrees(&got, &expected), "{policy}\n{question:?}: engine {got:?}, reference {expected:?}");
            assert_ne!(got.answer(), Answer::L7, "a NetworkPolicy never asks for contents");
        }
    }
}
