//! Random names, peers by name, and messages of ICMP.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{OUTSIDE, object, one_of, sometimes};

/// What is asked for, and the number of the type.
pub(crate) const LOOKUPS: [(&str, u16); 6] = [
    ("api.example.org", 1),
    ("api.example.org", 16),
    ("a.b.example.org", 28),
    ("example.org", 1),
    ("api.example.org.lan", 1),
    ("x\\.example.org", 1),
];

/// A pod that answers for the cluster's DNS.
pub(super) fn resolver() -> BoxedStrategy<Value> {
    let labels =
        select(vec![json!({"k8s-app": "kube-dns", "app": "b"}), json!({"k8s-app": "kube-dns"}), json!({"k8s-app": "other"})]);
    (labels, select(vec!["k0", "k1"]))
        .prop_map(|(labels, node)| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "kube-system", "name": "dns", "labels": labels},
                "spec": {"nodeName": node}, "status": {"podIPs": [{"ip": "10.0.9.53"}]}})
        })
        .boxed()
}

/// Items of `dns`, sound ones mostly.
pub(super) fn lookups() -> BoxedStrategy<Value> {
    let name = prop_oneof![
        3 => select(vec!["api.example.org", "EXAMPLE.org."]).prop_map(|name| json!({"matchName": name})),
        3 => select(vec!["*.example.org", "**.example.org", "*"]).prop_map(|pattern| json!({"matchPattern": pattern})),
        1 => Just(json!({"matchName": "*"})),
    ];
    let types = prop_oneof![3 => Just(None), 2 => Just(Some(json!(["A"]))), 1 => Just(Some(json!(["A", "AAAA"]))), 1 => Just(Some(json!(["B"])))];
    let item = (name, types).prop_map(|(mut item, types)| {
        if let Some(types) = types {
            item["types"] = types;
        }
        item
    });
    vec(item, 1..3).prop_map(|items| json!({"dns": items})).boxed()
}

const NAMES: [&str; 4] = ["api.example.org", "a.b.example.org", "cdn.example.com", "example.org"];

/// What DNS says of a name: addresses outside, of pods, of nodes.
pub(super) fn known() -> BoxedStrategy<Value> {
    let address = prop_oneof![
        4 => select(OUTSIDE.to_vec()),
        2 => select(vec!["10.0.0.1", "10.2.0.2", "fd00:1::1", "172.18.0.1"]),
    ];
    (select(NAMES.to_vec()), vec(address, 0..3))
        .prop_map(|(name, ips)| json!({"kind": "Name", "metadata": {"name": name}, "ips": ips}))
        .boxed()
}

pub(super) fn peer() -> BoxedStrategy<Value> {
    let entry = prop_oneof![
        3 => select(vec!["api.example.org", "API.example.org.", "cdn.example.com"]).prop_map(|name| json!({"matchName": name})),
        4 => select(vec!["*.example.org", "**.example.org", "*", "c*n.example.*", "*.*.example.org", "*a*.b.example.org"])
            .prop_map(|pattern| json!({"matchPattern": pattern})),
        // Unreadable: no name, a pattern where a name belongs, two of them, ** in the middle.
        1 => select(vec![
            json!({}),
            json!({"matchName": "*.example.org"}),
            json!({"matchName": "a.b", "matchPattern": "*"}),
            json!({"matchPattern": "a.**.org"}),
            json!({"matchName": "10.0.0.1"}),
        ]),
    ];
    let rarely = |values: BoxedStrategy<Value>| prop_oneof![3 => Just(None), 1 => values.prop_map(Some)].boxed();
    let private = prop_oneof![3 => Just(json!(true)), 1 => Just(json!(false)), 1 => Just(json!("yes"))].boxed();
    object(vec![
        ("fqdns", vec(entry, 1..3).prop_map(|names| Some(Value::from(names))).boxed()),
        ("allowPrivate", sometimes(private)),
        ("nameCheck", rarely(one_of(&["Enforce", "AddressOnly", "AddressOnly", "Off"]))),
        ("podSelector", prop_oneof![20 => Just(None), 1 => Just(Some(json!({})))].boxed()),
    ])
}

/// `icmp` of a rule, mostly absent.
pub(super) fn messages() -> BoxedStrategy<Option<Value>> {
    let family =
        prop_oneof![9 => one_of(&["IPv4", "IPv6"]).prop_map(Some), 1 => Just(Some(json!("v4"))), 1 => Just(None)].boxed();
    let kind = select(vec![json!(8), json!(128), json!(3), json!(300)]).boxed();
    let code = select(vec![json!(0), json!(1), json!(4), json!(-1)]).boxed();
    let entry = object(vec![("family", family), ("type", sometimes(kind)), ("code", sometimes(code))]);
    prop_oneof![
        12 => Just(None),
        4 => vec(entry, 1..3).prop_map(|entries| Some(Value::from(entries))),
        1 => Just(Some(json!([]))),
        1 => Just(Some(json!({"family": "IPv4"}))),
        1 => Just(Some(Value::Null)),
    ]
    .boxed()
}
