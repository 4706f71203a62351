//! Worlds that change: what deltas lead to is what a fresh compilation gives, on every node.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;
use sluice_policy::snapshot::SetId;
use sluice_policy::{Decision, Direction, Reason, Table};

use super::{agree, for_all, questions};
use crate::engine::{self, Engine};
use crate::reference::{Cluster, Contents, Question};
use crate::worlds::{self, Edit};

const NODES: [&str; 3] = ["k0", "k1", "k2"];

fn history() -> impl Strategy<Value = (Cluster, Vec<Vec<Edit>>)> {
    (worlds::cluster(), vec(vec(worlds::edit(), 1..4), 1..6))
}

#[test]
fn deltas_lead_where_a_fresh_compilation_does() {
    for_all(4, 48, history(), |(mut cluster, batches)| {
        let mut engine = Engine::of_cluster(&cluster, &NODES);
        for (turn, batch) in batches.iter().enumerate() {
            cluster.edit(batch);
            engine.edit(batch.iter().map(engine::lower));
            let fresh = Engine::of_cluster(&cluster, &NODES);
            for (i, question) in questions(&cluster).iter().enumerate() {
                same(&engine.everything.table, &fresh.everything.table, question)?;
                for (kept, new) in engine.nodes.iter().zip(&fresh.nodes) {
                    same(&kept.table, &new.table, question)?;
                    halves_agree(&kept.table, &engine.everything.table, question)?;
                }
                // The naive judge is slow: it sees another part of the questions in each turn.
                if i % 11 == turn {
                    agree(&engine, &cluster, question)?;
                }
            }
        }
        Ok(())
    });
}

/// Found by the property above: no set names the pods that an egress rule without peers reaches, and the port's number is theirs.
#[test]
fn a_node_knows_the_named_ports_that_its_pods_may_reach_anywhere() {
    let pod = |namespace: &str, ip: &str, node: &str, ports: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": namespace, "name": "p"},
            "spec": {"nodeName": node, "containers": [{"ports": ports}]}, "status": {"podIPs": [{"ip": ip}]}})
    };
    let server = pod("far", "10.0.0.1", "k1", json!([{"name": "http", "containerPort": 8000}]));
    let policy = |to: serde_json::Value| {
        json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"namespace": "near", "name": "out"},
            "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": to, "ports": [{"port": "http"}]}]}})
    };
    let mut engine = Engine::of([], &["k0"]);
    engine.edit([pod("near", "10.0.0.0", "k0", json!([])), server.clone()].map(Edit::Put).iter().map(engine::lower));
    let asked = |engine: &Engine| {
        let ends = ("10.0.0.0".parse().expect("an address"), "10.0.0.1".parse().expect("an address"));
        let question =
            Question { from: ends.0, to: ends.1, protocol: "TCP", port: 8000, icmp: None, contents: Contents::NotRead };
        engine::ask(&engine.nodes[0].table, &question).egress.decision
    };
    let moved = pod("far", "10.0.0.1", "k1", json!([{"name": "http", "containerPort": 8001}]));
    let rows = [
        ("to everyone", Edit::Put(policy(json!([]))), Decision::Allow),
        ("to a block", Edit::Put(policy(json!([{"ipBlock": {"cidr": "10.0.0.0/8"}}]))), Decision::Allow),
        ("the server's port has another number", Edit::Put(moved), Decision::Deny),
        ("and its first one again", Edit::Put(server), Decision::Allow),
        ("to nobody's namespace", Edit::Put(policy(json!([{"podSelector": {}}]))), Decision::Deny),
        ("no policy", Edit::Remove(policy(json!([]))), Decision::Allow),
    ];
    for (row, edit, expected) in rows {
        engine.edit([engine::lower(&edit)]);
        assert_eq!(asked(&engine), expected, "{row}");
    }
}

/// Two tables of one scope give one answer, for one reason, and name the same policies.
fn same(kept: &Table, fresh: &Table, question: &Question<'_>) -> Result<(), TestCaseError> {
    let (one, two) = (engine::ask(kept, question), engine::ask(fresh, question));
    let key = |v: &sluice_policy::Verdict| (v.egress.decision, v.egress.reason, v.ingress.decision, v.ingress.reason);
    prop_assert!(key(&one) == key(&two), "{:?}: by deltas {:?}, fresh {:?}", question, one, two);
    Ok(())
}

/// What a node judges of its own pods is what the table of everything says of them.
fn halves_agree(node: &Table, everything: &Table, question: &Question<'_>) -> Result<(), TestCaseError> {
    let (here, there) = (engine::ask(node, question), engine::ask(everything, question));
    for (direction, subject) in [(Direction::Egress, question.from), (Direction::Ingress, question.to)] {
        match node.endpoint(subject) {
            // An address of the node's range is a pod's, even if the node doesn't know whose yet.
            None if node.node().pod_cidrs.iter().any(|range| range.contains(&subject)) => {
                prop_assert!(here.decision() == Decision::Deny, "{:?}: {:?}, though {} is unknown", question, here, subject);
                continue;
            }
            Some(endpoint) if endpoint.local => {}
            _ => continue,
        }
        let (here, there) = (here.half(direction), there.half(direction));
        // Of two distant pods that claim one address the node need not know: their own nodes deny it.
        if there.reason == Reason::AddressConflict && !node.endpoint(subject).is_some_and(|endpoint| endpoint.conflict) {
            continue;
        }
        prop_assert!(
            (here.decision, here.reason) == (there.decision, there.reason),
            "{:?}, {}: node {} says {:?}, the table of everything {:?}",
            question,
            direction,
            node.node().name,
            here,
            there
        );
    }
    Ok(())
}

#[test]
fn every_pod_is_local_to_its_node_and_to_no_other() {
    for_all(5, 48, history(), |(mut cluster, batches)| {
        let mut engine = Engine::of_cluster(&cluster, &NODES);
        for batch in batches {
            cluster.edit(&batch);
            engine.edit(batch.iter().map(engine::lower));
            for (ip, endpoint) in engine.everything.table.endpoints().filter(|(_, endpoint)| !endpoint.conflict) {
                let locals = engine.nodes.iter().map(|node| node.table.endpoint(ip).is_some_and(|e| e.local));
                let on = endpoint.host.as_deref();
                let expected = NODES.iter().map(|name| on == Some(name));
                prop_assert!(locals.clone().eq(expected.clone()), "{} of {} is on {:?}", ip, endpoint.pod, on);
            }
            for node in &engine.nodes {
                let mut disputed = node.table.endpoints().filter(|(_, endpoint)| endpoint.conflict);
                let asking = disputed.find(|(ip, _)| node.table.lookups(*ip).next().is_some());
                prop_assert!(asking.is_none(), "what comes from an address that two pods claim goes nowhere: {:?}", asking);
            }
        }
        Ok(())
    });
}

#[test]
fn an_identity_keeps_its_number_and_its_meaning() {
    for_all(6, 48, history(), |(mut cluster, batches)| {
        let mut engine = Engine::of_cluster(&cluster, &NODES);
        let mut meanings = BTreeMap::new();
        for batch in batches {
            let only_pods = batch.iter().all(|edit| edit.object()["kind"] == "Pod");
            let touched: Vec<String> = batch
                .iter()
                .map(|edit| worlds::key(edit.object()))
                .map(|(_, namespace, name)| format!("{namespace}/{name}"))
                .collect();
            let numbers = |table: &Table| -> BTreeMap<_, _> {
                table.endpoints().map(|(ip, e)| ((ip, e.pod.to_string()), e.identity)).collect()
            };
            let before: Vec<_> = engine.nodes.iter().chain([&engine.everything]).map(|r| numbers(&r.table)).collect();
            if !only_pods {
                // New selectors split identities, and change what their members answer.
                meanings.clear();
            }
            cluster.edit(&batch);
            engine.edit(batch.iter().map(engine::lower));
            let after = engine.nodes.iter().chain([&engine.everything]).map(|r| numbers(&r.table));
            for (before, after) in before.iter().zip(after) {
                for ((ip, pod), number) in before.iter().filter(|((_, pod), _)| only_pods && !touched.contains(pod)) {
                    let now = after.get(&(*ip, pod.clone()));
                    prop_assert!(now.is_none_or(|now| now == number), "{}: {} before, {:?} after", pod, number, now);
                }
            }
            let table = &engine.everything.table;
            let all: BTreeSet<SetId> = table.set_ids().collect();
            for (_, endpoint) in table.endpoints() {
                let sets: BTreeSet<SetId> = table.sets_of(endpoint.identity).iter().copied().collect();
                if let Some((known, meant)) = meanings.insert(endpoint.identity, (all.clone(), sets.clone())) {
                    // The table knows only the sets that some program names, so what it knew both times is compared.
                    let (now, then): (BTreeSet<_>, BTreeSet<_>) = (&sets & &known, &meant & &all);
                    prop_assert!(now == then, "identity {}: {:?}, then {:?}", endpoint.identity, meant, sets);
                }
            }
        }
        Ok(())
    });
}
