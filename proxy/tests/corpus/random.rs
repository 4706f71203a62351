//! Random small worlds, judged by the naive reference: the third judge beside it is the kernel.
//!
//! The worlds, the reference and the way from manifests to the engine are those of `policy/tests/conformance.rs`. A world comes
//! as one state, and some edits of it as a second, so that the kernel gets a delta too.

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use sluice_crds::case::{Case, End, Probe, State};
use sluice_policy::Protocol;
use sluice_policy::verdict::Decision;

use crate::reference::{Answer, Cluster, Contents, Question, judge};
use crate::select::{Job, Seed};
use crate::stage::Layout;
use crate::worlds::{self, Edit};

/// So many connections are tried in one state, spread over all that there are.
const PROBES: usize = 500;

/// `count` worlds that `seed` draws. Their pods are on three nodes.
pub(crate) fn jobs(seed: Seed, count: usize) -> Vec<Job> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.0.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = (worlds::cluster(), vec(worlds::edit(), 1..6));
    (0..count)
        .map(|number| {
            let (cluster, edits) = strategy.new_tree(&mut runner).expect("nothing is refused").current();
            Job { case: case(format!("random/{seed}-{number}"), cluster, edits), layout: Layout::OneNode }
        })
        .collect()
}

fn case(name: String, mut cluster: Cluster, mut edits: Vec<Edit>) -> Case {
    // The nodes of a network are there as long as it is.
    edits.retain(|edit| edit.object()["kind"] != "Node");
    let state = |edits: &[Edit], cluster: &Cluster| State {
        now: None,
        edits: edits.iter().map(crate::engine::lower).collect(),
        probes: probes(cluster),
    };
    let objects: Vec<Edit> = cluster.objects.iter().cloned().map(Edit::Put).collect();
    let first = state(&objects, &cluster);
    cluster.edit(&edits);
    let second = state(&edits, &cluster);
    let (family, title) = ("random".to_owned(), format!("{cluster:?}"));
    Case { name, family, title, tags: Vec::new(), states: vec![first, second], diagnostics: Vec::new() }
}

/// Connections between pods, and between pods and the outside, with what the reference says of each.
fn probes(cluster: &Cluster) -> Vec<Probe> {
    let pods = pods(cluster);
    let outside = worlds::OUTSIDE.map(|text| text.parse::<IpAddr>().expect("an address"));
    let ends = || pods.iter().chain(&outside);
    let mut probes = Vec::new();
    for from in ends() {
        // What a pod sends to itself does not leave it, even where two pods claim its address.
        let meets = |to: &&IpAddr| *to != from && to.is_ipv4() == from.is_ipv4() && (pods.contains(from) || pods.contains(to));
        for to in ends().filter(meets) {
            for protocol in worlds::PROTOCOLS {
                let ports = if protocol == "ICMP" { &[0][..] } else { &worlds::PORTS };
                probes.extend(ports.iter().map(|port| probe(cluster, *from, *to, protocol, *port)));
            }
        }
    }
    let step = probes.len().div_ceil(PROBES).max(1);
    // Odd, so that not always the same port is left out.
    probes.into_iter().step_by(step | 1).collect()
}

fn probe(cluster: &Cluster, from: IpAddr, to: IpAddr, protocol: &'static str, port: u16) -> Probe {
    let answer = judge(cluster, &Question { from, to, protocol, port, icmp: None, contents: Contents::NotRead }).answer();
    let expect = match answer {
        Answer::Allow => Decision::Allow,
        Answer::L7 => Decision::Inspect,
        Answer::Deny => Decision::Deny,
    };
    let end = |ip| End { pod: None, ip };
    let protocol: Protocol = protocol.parse().expect("the engine knows it");
    Probe { from: end(from), to: end(to), port, protocol, icmp: None, contents: None, expect, audit: None }
}

/// The addresses that pods have on the network.
fn pods(cluster: &Cluster) -> Vec<IpAddr> {
    let is_there = |object: &&Value| {
        object["kind"] == "Pod"
            && object["spec"]["hostNetwork"] != true
            && !["Succeeded", "Failed"].iter().any(|phase| object["status"]["phase"] == *phase)
    };
    let ips = |object: &Value| object["status"]["podIPs"].as_array().cloned().unwrap_or_default();
    let mut addresses: Vec<IpAddr> = cluster
        .objects
        .iter()
        .filter(is_there)
        .flat_map(ips)
        .filter_map(|entry| entry["ip"].as_str().and_then(|text| text.parse().ok()))
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}
