//! Random ClusterNetworkPolicies: with subjects that can be read, and rules of which some can't.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{PORT_NAMES, PORTS, object, one_of, selector, sometimes, sound_selector};

const NAMES: [&str; 3] = ["g0", "g1", "g2"];

pub(super) fn policy() -> BoxedStrategy<Value> {
    let subject = prop_oneof![
        sound_selector().prop_map(|s| json!({"namespaces": s})),
        (sound_selector(), sound_selector()).prop_map(|(n, p)| json!({"pods": {"namespaceSelector": n, "podSelector": p}})),
        sound_selector().prop_map(|p| json!({"pods": {"podSelector": p}})),
    ];
    let tier = prop_oneof![Just("Admin"), Just("Baseline")];
    // Names differ, so priorities may be equal: they then follow the names.
    let head = (select(NAMES.to_vec()), tier, 0..3_u16, subject);
    (head, object(vec![("ingress", sometimes(rules("from"))), ("egress", sometimes(rules("to")))]))
        .prop_map(|((name, tier, priority, subject), rules)| {
            let mut spec = rules;
            spec["tier"] = json!(tier);
            spec["priority"] = json!(priority);
            spec["subject"] = subject;
            json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
                "metadata": {"name": name}, "spec": spec})
        })
        .boxed()
}

fn rules(peers_field: &'static str) -> BoxedStrategy<Value> {
    let egress = peers_field == "to";
    let action = prop_oneof![4 => Just("Accept"), 4 => Just("Deny"), 3 => Just("Pass"), 1 => Just("Allow")];
    let rule = object(vec![
        ("action", action.prop_map(|word| Some(json!(word))).boxed()),
        (peers_field, vec(peer(egress), 1..3).prop_map(|peers| Some(Value::from(peers))).boxed()),
        ("protocols", sometimes(vec(protocol(), 1..3).prop_map(Value::from).boxed())),
        ("name", sometimes(one_of(&["first", "second"]))),
        ("note", prop_oneof![20 => Just(None), 1 => Just(Some(json!("unknown")))].boxed()),
    ]);
    vec(rule, 1..4).prop_map(Value::from).boxed()
}

fn peer(egress: bool) -> BoxedStrategy<Value> {
    let pods = prop_oneof![
        6 => selector().prop_map(|s| json!({"namespaces": s})),
        6 => (selector(), selector()).prop_map(|(n, p)| json!({"pods": {"namespaceSelector": n, "podSelector": p}})),
        // Unreadable: no kind, two kinds, one that nobody knows.
        1 => Just(json!({})),
        1 => Just(json!({"namespaces": {}, "pods": {"podSelector": {}}})),
        1 => Just(json!({"services": {}})),
    ];
    if !egress {
        return pods.boxed();
    }
    let networks = select(vec![
        json!(["0.0.0.0/0"]),
        json!(["10.0.0.0/16", "203.0.113.0/24"]),
        json!(["10.0.0.1/32"]),
        json!(["::/0"]),
        json!(["fd00:1::/32", "10.1.0.0/31"]),
        json!(["10.0.0.0"]),
        json!([]),
    ]);
    prop_oneof![
        3 => pods,
        1 => networks.prop_map(|networks| json!({"networks": networks})),
        1 => one_of(&["k0", "k1"]).prop_map(|name| json!({"nodes": {"matchLabels": {"name": name}}})),
        1 => Just(json!({"nodes": {}})),
        1 => Just(json!({"domainNames": ["example.org"]})),
    ]
    .boxed()
}

fn protocol() -> BoxedStrategy<Value> {
    let port = prop_oneof![
        4 => select(PORTS.to_vec()).prop_map(|n| json!({"destinationPort": {"number": n}})),
        2 => (select(PORTS.to_vec()), 1..30_u16).prop_map(|(n, width)| json!({"destinationPort": {"range": {"start": n, "end": n + width}}})),
        1 => Just(json!({})),
        // Unreadable: both forms, a range of one, no port at all.
        1 => Just(json!({"destinationPort": {"number": 80, "range": {"start": 80, "end": 81}}})),
        1 => Just(json!({"destinationPort": {"range": {"start": 80, "end": 80}}})),
        1 => Just(json!({"destinationPort": {}})),
    ];
    prop_oneof![
        6 => (select(vec!["tcp", "udp", "sctp"]), port).prop_map(|(protocol, port)| json!({protocol: port})),
        2 => select(PORT_NAMES.to_vec()).prop_map(|name| json!({"destinationNamedPort": name})),
    ]
    .boxed()
}
