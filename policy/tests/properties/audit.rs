//! Audit policies and policies that expire: what they change, and above all what they don't.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;
use sluice_policy::snapshot::Change;
use sluice_policy::table::ReadPorts;

use super::{contents, for_all, questions};
use crate::engine::{self, Engine};
use crate::reference::{Answer, Cluster, Contents, Judgement, Question, judge};
use crate::worlds::{self, Edit, TIMES};

const NODES: [&str; 3] = ["k0", "k1", "k2"];

/// What the naive judge says that Audit policies would change.
pub(crate) fn by_reference(cluster: &Cluster, question: &Question<'_>) -> Option<(Answer, Judgement)> {
    if !cluster.objects.iter().any(is_audit) {
        return None;
    }
    let enforced = judge(cluster, question).answer();
    let audited = judge(&Cluster { audits: true, ..cluster.clone() }, question);
    let answer = audited.answer();
    (answer != enforced && answer != Answer::L7).then_some((answer, audited))
}

/// A cluster, and what happens to it: edits, and what time it is after them.
fn history() -> impl Strategy<Value = (Cluster, Vec<(Vec<Edit>, &'static str)>)> {
    let time = select(vec![TIMES[0], TIMES[1], "2025-06-01T00:00:00Z", "2026-06-01T00:00:00Z"]);
    (worlds::cluster(), vec((vec(worlds::edit(), 0..4), time), 1..6))
}

fn moment(written: &str) -> std::time::SystemTime {
    sluice_crds::parse_moment(written).expect("the tests write times that can be read")
}

fn is_audit(object: &serde_json::Value) -> bool {
    object["kind"] != "NetworkPolicy" && object["spec"]["enforcement"] == "Audit"
}

/// A list in an order of its own, without what is told of the second table.
fn first_table(list: &[Change]) -> Vec<String> {
    let is_of_second = |change: &&Change| matches!(change, Change::Audit(_) | Change::DropAudit);
    let mut lines: Vec<String> = list.iter().filter(|change| !is_of_second(change)).map(sorted).collect();
    lines.sort();
    lines
}

fn sorted(change: &Change) -> String {
    match change {
        Change::EditSet { set, add, remove } => {
            let (mut add, mut remove) = (add.clone(), remove.clone());
            add.sort_unstable();
            remove.sort_unstable();
            format!("{:?}", Change::EditSet { set: *set, add, remove })
        }
        change => format!("{change:?}"),
    }
}

/// Down to the numbers of identities, sets and programs, on every node and at every step: what the kernel's rules are written from
/// is the same with the Audit policies and without.
#[test]
fn without_the_audit_policies_every_table_is_the_same() {
    for_all(8, 32, history(), |(cluster, turns)| {
        let without = Cluster { objects: cluster.objects.iter().filter(|o| !is_audit(o)).cloned().collect(), ..cluster.clone() };
        let (mut with, mut bare) = (Engine::of_cluster(&cluster, &NODES), Engine::of_cluster(&without, &NODES));
        for (batch, now) in &turns {
            with.edit(batch.iter().map(engine::lower));
            bare.edit(batch.iter().map(|edit| match edit {
                Edit::Put(object) if is_audit(object) => engine::lower(&Edit::Remove(object.clone())),
                edit => engine::lower(edit),
            }));
            for engine in [&mut with, &mut bare] {
                engine.set_time(moment(now));
            }
            for (with, bare) in with.nodes.iter().chain([&with.everything]).zip(bare.nodes.iter().chain([&bare.everything])) {
                prop_assert!(!bare.table.has_audit());
                let (one, two) = (first_table(&with.table.to_changes()), first_table(&bare.table.to_changes()));
                prop_assert!(one == two, "with Audit policies {:#?}\nwithout {:#?}", one, two);
            }
        }
        Ok(())
    });
}

#[test]
fn the_second_verdict_is_the_references() {
    for_all(9, 24, history(), |(mut cluster, turns)| {
        let mut engine = Engine::of_cluster(&cluster, &NODES);
        for (turn, (batch, now)) in turns.iter().enumerate() {
            cluster.edit(batch);
            engine.edit(batch.iter().map(engine::lower));
            cluster.now = Some((*now).to_owned());
            engine.set_time(moment(now));
            for (i, question) in questions(&cluster).iter().enumerate().filter(|(i, _)| i % 7 == turn) {
                // Of other protocols nothing can be read but that it is nothing known.
                let can_be = |contents: &Contents<'_>| {
                    question.protocol == "TCP" || matches!(contents, Contents::NotRead | Contents::Other)
                };
                for contents in contents().chain([Contents::NotRead]).skip(i % 3).filter(can_be) {
                    check(&engine, &cluster, &Question { contents, ..*question })?;
                }
            }
        }
        Ok(())
    });
}

fn check(engine: &Engine, cluster: &Cluster, question: &Question<'_>) -> Result<(), TestCaseError> {
    let table = &engine.everything.table;
    let (got, expected) = (engine::audit(table, question), by_reference(cluster, question));
    prop_assert!(
        got.as_ref().map(|(answer, ..)| *answer) == expected.as_ref().map(|(answer, _)| *answer),
        "{:?}: engine {:?}, reference {:?}",
        question,
        got,
        expected
    );
    let (Some((_, direction, by)), Some((_, second))) = (got, expected) else { return Ok(()) };
    let half = match direction {
        sluice_policy::Direction::Egress => &second.egress,
        sluice_policy::Direction::Ingress => &second.ingress,
    };
    let named = if half.all { by == half.causes } else { by.len() == 1 && by.is_subset(&half.causes) };
    prop_assert!(named && !by.is_empty(), "{:?}: by {:?}, reference {:?}", question, by, half);
    // What differs is an Audit policy's doing, and nobody else's.
    for name in &by {
        let policy = cluster.objects.iter().filter(|object| is_audit(object)).find(|object| {
            let (kind, namespace, own) = worlds::key(object);
            let title = if namespace.is_empty() { format!("{kind} {own}") } else { format!("{kind} {namespace}/{own}") };
            *name == title || name.starts_with(&format!("{title} "))
        });
        prop_assert!(policy.is_some(), "{:?}: {} is no Audit policy", question, name);
    }
    Ok(())
}

/// What a node is told to read covers what its second verdict hangs on, and the naive judge agrees about what that is. Nothing but
/// what is allowed unread is ever among it.
#[test]
fn what_audits_hang_on_is_read_and_nothing_that_is_enforced() {
    let seen = std::cell::Cell::new(0_u32);
    for_all(14, 24, history(), |(mut cluster, turns)| {
        let mut engine = Engine::of_cluster(&cluster, &NODES);
        for (batch, now) in &turns {
            cluster.edit(batch);
            engine.edit(batch.iter().map(engine::lower));
            cluster.now = Some((*now).to_owned());
            engine.set_time(moment(now));
            let second = Cluster { audits: true, ..cluster.clone() };
            let everything = &engine.everything.table;
            for question in &questions(&cluster) {
                for table in engine.nodes.iter().map(|node| &node.table).chain([everything]) {
                    if engine::hangs(table, question) {
                        seen.set(seen.get() + 1);
                        prop_assert_eq!(engine::answer(engine::ask(table, question).decision()), Answer::Allow);
                        prop_assert!(engine::is_read(table, question), "{:?}: nobody reads it", question);
                    }
                }
                // Contents are read in TCP alone, and look-ups in any case.
                let naive = question.protocol == "TCP"
                    && !engine::with_flow(question, |flow| everything.is_lookup(flow))
                    && judge(&cluster, question).answer() == Answer::Allow
                    && judge(&second, question).answer() == Answer::L7;
                prop_assert!(engine::hangs(everything, question) == naive, "{:?}: the reference says {}", question, naive);
            }
        }
        Ok(())
    });
    assert!(seen.get() > 100, "the worlds hold such flows: {}", seen.get());
}

#[test]
fn deltas_of_the_second_table_lead_where_a_fresh_compilation_does() {
    for_all(10, 16, history(), |(mut cluster, turns)| {
        let mut engine = Engine::of_cluster(&cluster, &NODES);
        for (batch, now) in &turns {
            cluster.edit(batch);
            engine.edit(batch.iter().map(engine::lower));
            cluster.now = Some((*now).to_owned());
            engine.set_time(moment(now));
            let fresh = Engine::of_cluster(&cluster, &NODES);
            for (kept, new) in engine.nodes.iter().chain([&engine.everything]).zip(fresh.nodes.iter().chain([&fresh.everything]))
            {
                let audited = |table: &sluice_policy::Table| table.audited().collect::<std::collections::BTreeSet<_>>();
                prop_assert!(audited(&kept.table) == audited(&new.table), "whom Audit policies select");
                for ip in audited(&kept.table) {
                    prop_assert_eq!(kept.table.audit_reads(ip), new.table.audit_reads(ip), "where they read of {}", ip);
                }
                for question in questions(&cluster) {
                    let (one, two) = (engine::audit(&kept.table, &question), engine::audit(&new.table, &question));
                    prop_assert!(one == two, "{:?}: by deltas {:?}, fresh {:?}", question, one, two);
                    let (one, two) = (engine::ask(&kept.table, &question), engine::ask(&new.table, &question));
                    prop_assert!(one.decision() == two.decision(), "{:?}: by deltas {:?}, fresh {:?}", question, one, two);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn at_every_time_the_engine_and_the_reference_agree() {
    for_all(11, 24, history(), |(mut cluster, turns)| {
        let mut engine = Engine::of_cluster(&cluster, &[]);
        for (turn, (batch, now)) in turns.iter().enumerate() {
            cluster.edit(batch);
            engine.edit(batch.iter().map(engine::lower));
            cluster.now = Some((*now).to_owned());
            engine.set_time(moment(now));
            for question in questions(&cluster).iter().skip(turn).step_by(5) {
                super::agree(&engine, &cluster, question)?;
            }
        }
        Ok(())
    });
}

/// What is read of a pod hangs on itself, on the policies that govern it and, for named ports of egress, on everybody else.
#[test]
fn where_audits_read_follows_pods_and_policies() {
    let pod = |name: &str, ip: &str, app: &str, port: Option<u16>| {
        let ports: Vec<_> = port.into_iter().map(|port| json!({ "name": "web", "containerPort": port })).collect();
        json!({ "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "shop", "labels": { "app": app } },
            "spec": { "nodeName": "k0", "containers": [{ "name": "c", "ports": ports }] },
            "status": { "phase": "Running", "podIPs": [{ "ip": ip }] } })
    };
    let policy = |direction: &str, port: serde_json::Value| {
        json!({ "apiVersion": "sluice.dev/v1alpha1", "kind": "SluiceNetworkPolicy",
            "metadata": { "name": "reads", "namespace": "shop" },
            "spec": { "podSelector": { "matchLabels": { "app": "client" } }, "enforcement": "Audit", "policyTypes": ["Ingress", "Egress"],
                direction: [{ "ports": [{ "port": port }], "http": [{ "method": "GET" }] }] } })
    };
    let other_policy = json!({ "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": { "name": "open", "namespace": "shop" }, "spec": { "podSelector": {}, "ingress": [{}] } });
    let (client, server) = ("10.0.0.1", "10.0.0.2");
    // An edit, and then the ports read of what the client sends and is sent; `None`: no audit.
    let turns = [
        (Edit::Put(pod("client", client, "client", None)), None),
        (Edit::Put(policy("egress", json!("web"))), Some((vec![], vec![]))),
        (Edit::Put(pod("server", server, "server", Some(8081))), Some((vec![8081], vec![]))),
        (Edit::Put(pod("server", server, "server", Some(8082))), Some((vec![8082], vec![]))),
        (Edit::Put(other_policy.clone()), Some((vec![8082], vec![]))),
        (Edit::Put(policy("ingress", json!("web"))), Some((vec![], vec![]))),
        (Edit::Put(pod("client", client, "client", Some(9090))), Some((vec![], vec![9090]))),
        (Edit::Put(policy("ingress", json!(7070))), Some((vec![], vec![7070]))),
        (Edit::Put(policy("ingress", json!(7071))), Some((vec![], vec![7071]))),
        (Edit::Remove(other_policy), Some((vec![], vec![7071]))),
        (Edit::Put(pod("client", client, "server", None)), None),
        (Edit::Put(pod("server", server, "client", None)), None),
        (Edit::Put(pod("client", client, "client", None)), Some((vec![], vec![7071]))),
        (Edit::Remove(pod("client", client, "client", None)), None),
    ];
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "shop" } });
    let mut engine = Engine::of([engine::lower(&Edit::Put(namespace))], &NODES[..1]);
    for (number, (edit, want)) in turns.iter().enumerate() {
        engine.edit([engine::lower(edit)]);
        for reader in engine.nodes.iter().chain([&engine.everything]) {
            let reads = reader.table.audit_reads(client.parse().expect("an address"));
            let ports = |ports: &ReadPorts| match ports {
                ReadPorts::Every => panic!("no policy here reads every port"),
                ReadPorts::These(ports) => ports.iter().copied().collect::<Vec<_>>(),
            };
            let got = reads.map(|reads| (ports(&reads.egress), ports(&reads.ingress)));
            assert_eq!(got, *want, "after turn {number}, {edit:?}");
        }
    }
}
