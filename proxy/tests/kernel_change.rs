//! Generations: small changes and whole replacements lead to the same table, without a gap and without a trace of the former one.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kernel_stage::{Stage, edits, ip, pod_yaml, possible};
use sluice_policy::Protocol;
use sluice_policy::source::{Key, Object, PodRef, PolicyKind, PolicyRef};
use sluice_policy::world::Edit;
use sluice_proxy::kernel::revoke::Revocation;
use sluice_proxy::kernel::{Config, Kernel};
use sluice_testnet::Protocol::{Tcp, Udp};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n";

fn policy(name: &str, app: &str, spec: &str) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: production}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, {spec}}}\n"
    )
}

/// A policy `many-N` for each of `ports`, from the pods `b` and the pods `c`.
fn many(ports: &[&str]) -> String {
    let spec = |port: &str| {
        format!(
            "ingress: [{{from: [{{podSelector: {{matchLabels: {{app: b}}}}}}, {{podSelector: {{matchLabels: {{app: c}}}}}}], \
             ports: [{{port: {port}}}]}}]"
        )
    };
    let policies = ports.iter().enumerate().map(|(number, port)| policy(&format!("many-{number}"), "a", &spec(port)));
    policies.collect::<Vec<_>>().join("---\n")
}

fn drop_pod(name: &str) -> Edit {
    Edit::Remove(Key::Pod(PodRef { namespace: "production".into(), name: name.into() }))
}

fn drop_policy(name: &str) -> Edit {
    let kind = PolicyKind::NetworkPolicy;
    Edit::Remove(Key::Policy(PolicyRef { kind, namespace: "production".into(), name: name.into() }))
}

/// The table as a set of lines, without order of objects and elements, handles, and the edition's mark.
fn contents(stage: &Stage) -> BTreeSet<String> {
    let json = stage.node.ns().exec("nft", &["-s", "-j", "list", "ruleset"]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut lines = BTreeSet::new();
    let mut places = std::collections::BTreeMap::new();
    for object in json["nftables"].as_array().unwrap() {
        let mut object = object.clone();
        let (kind, body) = object.as_object_mut().unwrap().iter_mut().next().unwrap();
        let kind = kind.clone();
        body.as_object_mut().unwrap().remove("handle");
        if kind == "metainfo" {
            continue;
        }
        // What packets taught is nobody's wish.
        if body.get("name").and_then(|name| name.as_str()).is_some_and(|name| name.starts_with("inside")) {
            body.as_object_mut().unwrap().remove("elem");
        }
        if kind == "counter" {
            body.as_object_mut().unwrap().retain(|key, _| key == "name");
        }
        if let Some(elements) = body.get_mut("elem").and_then(|e| e.as_array_mut()) {
            elements.sort_by_key(ToString::to_string);
        }
        // Rules keep their order within their chain.
        let mut line = body.to_string();
        for letter in 'b'..='z' {
            line = line.replace(&format!("_{letter}\""), "\"");
        }
        let chain = body["chain"].as_str().unwrap_or_default().to_owned();
        let place: &mut usize = places.entry(chain).or_default();
        if kind == "rule" {
            *place += 1;
            line = format!("{place} {line}");
        }
        lines.insert(format!("{kind} {line}"));
    }
    lines
}

#[test]
fn small_changes_lead_where_a_whole_replacement_leads() {
    if possible() {
        small_changes(&Config::default());
    }
}

#[test]
fn small_changes_of_bundles_lead_there_too() {
    if possible() {
        small_changes(&Config { in_series: 0, ..Config::default() });
        small_changes(&Config { in_series: 1, ..Config::default() });
    }
}

fn small_changes(config: &Config) {
    let mut stage = Stage::new(config.clone());
    stage.engine.edit(edits(NAMESPACE));
    stage.apply_whole();
    let pod = |name: &str, app: &str, ips: &[&str]| edits(&pod_yaml("node-1", "production", name, app, ips));
    let away = |name: &str, app: &str, ips: &[&str]| edits(&pod_yaml("node-2", "production", name, app, ips));
    let web =
        "ingress: [{from: [{podSelector: {matchLabels: {app: b}}}], ports: [{port: web}, {port: 90, endPort: 99}, {port: 7}]}]";
    let steps: Vec<(&str, Vec<Edit>)> = vec![
        ("a pod", pod("a", "a", &["10.0.1.1", "fd00:1::1"])),
        ("its policy", edits(&policy("a", "a", web))),
        ("a peer", away("b", "b", &["10.0.2.1", "fd00:2::1"])),
        ("another", pod("b2", "b", &["10.0.1.2"])),
        (
            "egress too",
            edits(&policy(
                "b",
                "b",
                "policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.0.0.0/8]}}]}]",
            )),
        ),
        ("other ports", edits(&policy("a", "a", &web.replace("port: 7", "port: 8")))),
        ("a name less", edits(&policy("a", "a", &web.replace("{port: web}, ", "")))),
        ("a name again", edits(&policy("a", "a", web))),
        ("an address claimed twice", pod("thief", "c", &["10.0.1.2"])),
        ("and given up", vec![drop_pod("thief")]),
        ("other labels", pod("b2", "c", &["10.0.1.2"])),
        ("other address", pod("a", "a", &["10.0.1.7"])),
        ("many policies", edits(&many(&["7", "8", "8000, endPort: 8100"]))),
        ("one of them less", vec![drop_policy("many-1")]),
        ("other ranges", edits(&many(&["7", "8", "8000, endPort: 8200", "web"]))),
        ("a peer that two of them name", away("c", "b", &["10.0.2.2"])),
        ("without ports", edits(&policy("many-2", "a", "ingress: [{from: [{podSelector: {matchLabels: {app: b}}}]}]"))),
        ("none of them", (0..4).map(|number| drop_policy(&format!("many-{number}"))).chain([drop_pod("c")]).collect()),
        ("second policy", edits(&policy("a2", "a", "ingress: [{from: [{namespaceSelector: {}}]}]"))),
        ("no policy", vec![drop_policy("a"), drop_policy("a2")]),
        ("nobody", vec![drop_pod("a"), drop_pod("b"), drop_pod("b2"), drop_policy("b")]),
    ];
    let mut bundles = false;
    for (what, edits) in steps {
        let applied = stage.change_by(edits);
        assert!(!applied.whole && applied.transactions == 1, "{what}: {applied:?}");
        let small = contents(&stage);
        let applied = stage.apply_whole();
        assert!(applied.whole);
        let whole = contents(&stage);
        let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>().join("\n");
        bundles |= small.iter().any(|line| line.contains("_pairs0_v4"));
        assert_eq!(small, whole, "{what}\nsmall only:\n{}\nwhole only:\n{}", only(&small, &whole), only(&whole, &small));
    }
    assert_eq!(bundles, config.in_series < 16, "many lines are bundled, few are not");
}

#[test]
fn a_hand_in_the_table_is_undone_by_the_next_change() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let a = stage.pod("production/a", &["10.0.1.1"]);
    let _b = stage.pod("production/b", &["10.0.1.2"]);
    stage.engine.edit(edits(NAMESPACE));
    stage.engine.edit(edits(&policy("b", "b", "ingress: [{ports: [{port: 80}]}]")));
    stage.apply_whole();
    let rows = [(&a, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.2", 8080, Tcp, false)];
    for harm in [&["flush", "set", "inet", "sluice", "local_v4"][..], &["delete", "table", "inet", "sluice"][..]] {
        stage.expect(&rows);
        stage.node.ns().exec("nft", harm).unwrap();
        // Deletes an element that is not there any more.
        let applied = stage.change_by(vec![drop_pod("b")]);
        assert!(applied.whole, "{applied:?}");
        stage.change(&pod_yaml("node-1", "production", "b", "b", &["10.0.1.2"]));
    }
    stage.expect(&rows);
}

#[test]
fn a_successor_takes_the_table_over_and_cuts_nothing() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let a = stage.pod("production/a", &["10.0.1.1"]);
    let _b = stage.pod("production/b", &["10.0.1.2"]);
    stage.engine.edit(edits(NAMESPACE));
    stage.engine.edit(edits(&policy("b", "b", "ingress: [{ports: [{port: 80}]}]")));
    stage.apply_whole();
    let before = contents(&stage);
    let stream = a.ns().tcp_connect(None, SocketAddr::new(ip("10.0.1.2"), 80), Duration::from_secs(1)).unwrap();
    let mut stream = BufReader::new(stream);
    // The process is gone, the table is not.
    let ns = stage.node.ns().clone();
    stage.kernel = ns.run(|| Kernel::open(Config::default())).unwrap();
    let rows = [(&a, "10.0.1.2", 80, Tcp, true), (&a, "10.0.1.2", 8080, Tcp, false)];
    stage.expect(&rows);
    assert_eq!(contents(&stage), before);
    let applied = stage.apply_whole();
    assert!(applied.whole);
    assert_eq!(contents(&stage), before);
    stage.expect(&rows);
    stream.get_mut().write_all(b"still here\n").unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains("still here"), "{line}");
}

#[test]
fn a_revoked_flow_is_cut_both_ways() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let a = stage.pod("production/a", &["10.0.1.1", "fd00:1::1"]);
    let b = stage.pod("production/b", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(edits(NAMESPACE));
    stage.apply_whole();
    let mut flows = Vec::new();
    for family in 0..2 {
        let at = |pod: &sluice_testnet::Pod, port| SocketAddr::new(pod.addresses()[family], port);
        let client = kernel_stage::packet::listen(a.ns(), at(&a, 4000));
        let server = kernel_stage::packet::listen(b.ns(), at(&b, 4001));
        client.send_to(b"1", at(&b, 4001)).unwrap();
        assert!(kernel_stage::packet::arrived(&server).is_some());
        let revocation =
            Revocation { protocol: Protocol::Udp, source: (at(&a, 0).ip(), 4000), destination: (at(&b, 0).ip(), 4001) };
        // Twice: what is closed already is closed for longer.
        for _ in 0..2 {
            let (table, kernel) = (&stage.engine.table, &mut stage.kernel);
            let touched = Default::default();
            stage.node.ns().run(|| kernel.apply(table, Some(&touched), &[revocation])).unwrap();
        }
        flows.push(((client, at(&a, 4000)), (server, at(&b, 4001))));
    }
    let assert_cut = |how: &str| {
        for ((client, from), (server, to)) in &flows {
            server.send_to(b"2", *from).unwrap();
            client.send_to(b"3", *to).unwrap();
            assert_eq!(kernel_stage::packet::arrived(client), None, "{how}");
            assert_eq!(kernel_stage::packet::arrived(server), None, "{how}");
        }
    };
    assert_cut("by a small change");
    stage.apply_whole();
    assert_cut("after a whole replacement");
    let ns = stage.node.ns().clone();
    stage.kernel = ns.run(|| Kernel::open(Config::default())).unwrap();
    stage.apply_whole();
    assert_cut("by a successor");
    assert!(stage.listing().contains("10.0.1.1 . 4000"), "a whole replacement keeps what is revoked\n{}", stage.listing());
    stage.expect(&[(&a, "10.0.1.2", 53, Udp, true)]);
}

#[test]
fn cleanup_leaves_nothing() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let _a = stage.pod("production/a", &["10.0.1.1"]);
    stage.apply_whole();
    let ns = stage.node.ns();
    assert!(ns.run(Kernel::cleanup).unwrap().table);
    assert_eq!(stage.listing(), "");
    for family in ["-4", "-6"] {
        let rules = ns.exec("ip", &[family, "rule"]).unwrap();
        assert!(!rules.contains("fwmark"), "{rules}");
        let routes = ns.exec("ip", &[family, "route", "show", "table", "all"]).unwrap();
        assert!(!routes.contains("15001"), "{routes}");
    }
    assert!(!ns.run(Kernel::cleanup).unwrap().table);
}

/// 250 local pods, 20,000 peers, and then one pod that comes and goes.
#[test]
fn a_change_of_one_pod_is_quick_in_a_large_world() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let mut world = edits(NAMESPACE);
    let address = |i: usize| format!("10.{}.{}.{}", 2 + i / 62_500, i / 250 % 250, 1 + i % 250);
    // The manifest is read once: this is about the kernel.
    let model = edits(&pod_yaml("node-2", "production", "peer", "peer", &["10.2.0.1"])).remove(0);
    let Edit::Put(Object::Pod(model)) = model else { panic!("a pod") };
    for i in 0..20_000 {
        let mut pod = model.clone();
        pod.reference.name = format!("peer-{i}").into();
        pod.ips = vec![ip(&address(i))];
        world.push(Edit::Put(Object::Pod(pod)));
    }
    for i in 0..250 {
        let app = format!("app-{}", i % 10);
        world.extend(edits(&pod_yaml("node-1", "production", &format!("local-{i}"), &app, &[&format!("10.0.1.{}", i + 1)])));
    }
    for i in 0..10 {
        let spec =
            format!("ingress: [{{from: [{{podSelector: {{matchLabels: {{app: peer}}}}}}], ports: [{{port: {}}}]}}]", 80 + i);
        world.extend(edits(&policy(&format!("p-{i}"), &format!("app-{i}"), &spec)));
    }
    stage.engine.edit(world);
    let whole = stage.apply_whole();
    println!("whole: {whole:?}");
    let mut times = Vec::new();
    for i in 0..300 {
        let edit = match i % 4 {
            0 => edits(&pod_yaml("node-2", "production", "extra", "peer", &["10.99.0.1"])),
            1 => edits(&pod_yaml("node-1", "production", "mine", "app-3", &["10.0.1.254"])),
            2 => vec![drop_pod("extra")],
            _ => vec![drop_pod("mine")],
        };
        let touched = stage.engine.edit(edit);
        let (table, kernel) = (&stage.engine.table, &mut stage.kernel);
        let (applied, took) = stage.node.ns().run(|| {
            let start = Instant::now();
            let applied = kernel.apply(table, Some(&touched), &[]).unwrap();
            (applied, start.elapsed())
        });
        assert!(!applied.whole, "{applied:?}");
        times.push(took);
    }
    times.sort_unstable();
    println!("one pod: p50 {:?}, p99 {:?}, worst {:?}", times[150], times[296], times[299]);
    assert!(times[150] < Duration::from_millis(50), "half of the changes took {:?}", times[150]);
}
