//! Random small clusters, as manifests: few names, few labels, few addresses, so that policies, pods and questions meet.
//!
//! Everything is drawn from the small vocabularies below. Absent, null and empty variants of a field are drawn as often as
//! filled ones, and a few parts are such that nobody can read them.

pub(crate) mod l7;
pub(crate) mod names;
mod tiers;

use std::net::IpAddr;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::Union;
use serde_json::{Value, json};

use crate::reference::Cluster;

const NAMESPACES: [&str; 4] = ["n0", "n1", "n2", "n3"];
const NODES: [&str; 3] = ["k0", "k1", "k2"];
const PODS: [&str; 3] = ["p0", "p1", "p2"];
const LABELS: [(&str, [&str; 3]); 2] = [("app", ["web", "api", ""]), ("tier", ["front", "back", "data"])];
const PORT_NAMES: [&str; 2] = ["http", "dns"];
pub(crate) const PORTS: [u16; 4] = [53, 80, 81, 8080];
pub(crate) const PROTOCOLS: [&str; 4] = ["TCP", "UDP", "SCTP", "ICMP"];
/// Messages of ICMP that are asked about. The first is an echo request.
pub(crate) const MESSAGES: [Option<(u8, u8)>; 4] = [None, Some((8, 1)), Some((128, 0)), Some((3, 4))];
pub(crate) const OUTSIDE: [&str; 3] = ["203.0.113.9", "169.254.169.254", "2001:db8::9"];
pub(crate) const SERVER_NAMES: [Option<&str>; 4] = [Some("api.example.org"), Some("EXAMPLE.org."), Some(""), None];
/// When policies expire, and it may be.
pub(crate) const TIMES: [&str; 2] = ["2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z"];

/// One change of a cluster: an object comes or is replaced, or goes (only kind, namespace and name count).
#[derive(Clone)]
pub(crate) enum Edit {
    Put(Value),
    Remove(Value),
}

/// In JSON, as one would write it into a case.
impl std::fmt::Debug for Edit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Put(object) => write!(f, "put {object}"),
            Self::Remove(object) => write!(f, "remove {:?}", key(object)),
        }
    }
}

impl Edit {
    pub(crate) fn object(&self) -> &Value {
        let (Self::Put(object) | Self::Remove(object)) = self;
        object
    }
}

/// What identifies an object.
pub(crate) fn key(object: &Value) -> (String, String, String) {
    let kind = object["kind"].as_str().unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let namespace = match kind {
        "Namespace" | "Node" | "Name" | "ClusterNetworkPolicy" | "SluiceClusterNetworkPolicy" => "",
        _ => crate::reference::read::namespace(object),
    };
    (kind.to_owned(), namespace.to_owned(), name.to_owned())
}

impl Cluster {
    /// The cluster in which `edits` were made in their order.
    pub(crate) fn edit(&mut self, edits: &[Edit]) {
        for edit in edits {
            self.objects.retain(|held| key(held) != key(edit.object()));
            if let Edit::Put(object) = edit {
                self.objects.push(object.clone());
            }
        }
    }
}

/// Every address that questions are asked about: pods', finished ones' too, nodes', and some that are nobody's.
pub(crate) fn addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let mut texts: Vec<&str> = OUTSIDE.to_vec();
    for object in &cluster.objects {
        texts.extend(object["status"]["podIPs"].as_array().into_iter().flatten().filter_map(|e| e["ip"].as_str()));
        let of_node = object["status"]["addresses"].as_array().into_iter().flatten();
        texts.extend(of_node.filter_map(|e| e["address"].as_str()));
    }
    let mut addresses: Vec<IpAddr> = texts.into_iter().filter_map(|text| text.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// A field that may be absent, null or `empty`, or is drawn from `filled`.
fn optional(empty: Value, filled: BoxedStrategy<Value>) -> BoxedStrategy<Option<Value>> {
    prop_oneof![2 => Just(None), 1 => Just(Some(Value::Null)), 1 => Just(Some(empty)), 6 => filled.prop_map(Some)].boxed()
}

/// An object of the fields that are given.
fn object(fields: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = fields.into_iter().unzip();
    values
        .prop_map(move |values| names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect())
        .boxed()
}

fn one_of(values: &[&'static str]) -> BoxedStrategy<Value> {
    select(values.to_vec()).prop_map(Value::from).boxed()
}

fn always(strategy: BoxedStrategy<Value>) -> BoxedStrategy<Option<Value>> {
    strategy.prop_map(Some).boxed()
}

fn sometimes(strategy: BoxedStrategy<Value>) -> BoxedStrategy<Option<Value>> {
    prop_oneof![Just(None), strategy.prop_map(Some)].boxed()
}

fn labels() -> BoxedStrategy<Value> {
    object(LABELS.iter().map(|(key, values)| (*key, sometimes(one_of(values)))).collect())
}

fn expression() -> BoxedStrategy<Value> {
    let of_key = LABELS.iter().map(|(key, values)| {
        let values = vec(select(values.to_vec()), 1..3);
        prop_oneof![
            values.clone().prop_map(|v| json!({"operator": "In", "values": v})),
            values.clone().prop_map(|v| json!({"operator": "NotIn", "values": v})),
            Just(json!({"operator": "Exists"})),
            Just(json!({"operator": "DoesNotExist", "values": []})),
        ]
        .prop_map(move |mut expression| {
            expression["key"] = json!(key);
            expression
        })
    });
    Union::new(of_key).boxed()
}

/// A label selector, rarely one that can't be read.
fn selector() -> BoxedStrategy<Value> {
    prop_oneof![
        15 => sound_selector(),
        1 => Just(json!({"matchExpressions": [{"key": "app", "operator": "In"}]})),
    ]
    .boxed()
}

fn sound_selector() -> BoxedStrategy<Value> {
    let sound = object(vec![
        ("matchLabels", optional(json!({}), labels())),
        ("matchExpressions", optional(json!([]), vec(expression(), 1..3).prop_map(Value::from).boxed())),
    ]);
    prop_oneof![1 => Just(json!({})), 4 => sound].boxed()
}

fn block() -> BoxedStrategy<Value> {
    prop_oneof![
        Just(json!({"cidr": "0.0.0.0/0"})),
        Just(json!({"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8", "203.0.113.0/24"]})),
        Just(json!({"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]})),
        Just(json!({"cidr": "10.1.0.9/16", "except": null})),
        Just(json!({"cidr": "10.0.0.0/15", "except": ["10.1.0.0/31", "10.0.0.1/32"]})),
        Just(json!({"cidr": "10.0.0.1/32", "except": []})),
        Just(json!({"cidr": "172.18.0.0/16"})),
        Just(json!({"cidr": "::/0", "except": ["fd00::/16"]})),
        Just(json!({"cidr": "fd00:1::/32"})),
        Just(json!({"cidr": "fd00::/16", "except": ["fd00:1::1/128"]})),
        // Unreadable: a hole outside the block, no network at all.
        Just(json!({"cidr": "10.0.0.0/16", "except": ["10.1.0.0/16"]})),
        Just(json!({"cidr": "10.0.0.0"})),
    ]
    .boxed()
}

fn peer(ours: bool, by_name: bool) -> BoxedStrategy<Value> {
    if ours && by_name {
        return prop_oneof![6 => peer(ours, false), 1 => names::peer()].boxed();
    }
    if !ours {
        return common_peer();
    }
    let accounts = vec(one_of(&["reader", "default", "writer"]), 1..3).prop_map(Value::from).boxed();
    let by_account = object(vec![
        ("serviceAccounts", always(accounts)),
        ("namespaceSelector", sometimes(selector())),
        ("podSelector", sometimes(selector())),
    ]);
    prop_oneof![
        10 => common_peer(),
        3 => by_account,
        1 => one_of(&NODES[..2]).prop_map(|name| json!({"nodeSelector": {"matchLabels": {"name": name}}})),
        1 => Just(json!({"nodeSelector": {}})),
        // Unreadable: nobody's name, two things that stand alone.
        1 => Just(json!({"serviceAccounts": []})),
        1 => Just(json!({"nodeSelector": {}, "podSelector": {}})),
    ]
    .boxed()
}

fn common_peer() -> BoxedStrategy<Value> {
    prop_oneof![
        4 => selector().prop_map(|s| json!({"podSelector": s})),
        3 => selector().prop_map(|s| json!({"namespaceSelector": s})),
        3 => (selector(), selector()).prop_map(|(p, n)| json!({"podSelector": p, "namespaceSelector": n})),
        1 => select(NAMESPACES.to_vec()).prop_map(
            |name| json!({"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": name}}})
        ),
        4 => block().prop_map(|b| json!({"ipBlock": b})),
        1 => Just(json!({})),
    ]
    .boxed()
}

fn port() -> BoxedStrategy<Value> {
    let number = prop_oneof![
        4 => select(PORTS.to_vec()).prop_map(|n| json!({"port": n})),
        2 => select(PORT_NAMES.to_vec()).prop_map(|n| json!({"port": n})),
        1 => (select(PORTS.to_vec()), 0..30_u16).prop_map(|(n, width)| json!({"port": n, "endPort": n + width})),
        1 => Just(json!({})),
        1 => Just(json!({"port": null, "endPort": null})),
        // Unreadable: an empty range, a port that doesn't exist.
        1 => Just(json!({"port": 81, "endPort": 80})),
        1 => Just(json!({"port": 0})),
    ];
    (number, optional(json!("TCP"), one_of(&PROTOCOLS[..3])))
        .prop_map(|(mut port, protocol)| {
            if let Some(protocol) = protocol {
                port["protocol"] = protocol;
            }
            port
        })
        .boxed()
}

fn rules(peers_field: &'static str, ours: bool) -> BoxedStrategy<Value> {
    let list = |entry: BoxedStrategy<Value>| optional(json!([]), vec(entry, 1..3).prop_map(Value::from).boxed());
    let mut fields = vec![(peers_field, list(peer(ours, peers_field == "to"))), ("ports", list(port()))];
    if ours {
        fields.push(("icmp", names::messages()));
        fields.push((
            "action",
            prop_oneof![6 => Just(None), 1 => Just(Some(json!("Allow"))), 2 => Just(Some(json!("Deny")))].boxed(),
        ));
    }
    let rule = match ours {
        false => object(fields),
        true => {
            let rarely_both = prop_oneof![9 => Just(false), 1 => Just(true)];
            (object(fields), l7::part(), rarely_both).prop_map(|(rule, part, both)| with_contents(rule, part, both)).boxed()
        }
    };
    vec(rule, 1..3).prop_map(Value::from).boxed()
}

/// A rule with what it says of contents. Beside `icmp` nobody can read that, so there are `both` where it is asked for alone.
fn with_contents(mut rule: Value, part: Value, both: bool) -> Value {
    let has_part = part.as_object().is_some_and(|part| !part.is_empty());
    if let Some(rule) = rule.as_object_mut().filter(|_| has_part && !both) {
        rule.remove("icmp");
    }
    l7::joined(rule, part)
}

fn policy() -> BoxedStrategy<Value> {
    let of_kind = |kind: &'static str, version: &'static str, names: [&'static str; 3]| {
        let (ours, clusters) = (kind != "NetworkPolicy", kind == "SluiceClusterNetworkPolicy");
        let mut fields = vec![
            ("policyTypes", optional(json!([]), types())),
            ("ingress", optional(json!([]), rules("from", ours))),
            ("egress", optional(json!([]), rules("to", ours))),
        ];
        if clusters {
            // Readable: one that is refused would be no edit.
            fields.push(("podSelector", always(sound_selector())));
            fields.push(("namespaceSelector", sometimes(sound_selector())));
        } else {
            fields.push(("podSelector", always(selector())));
            fields.push(("engress", prop_oneof![15 => Just(None), 1 => Just(Some(json!([{}])))].boxed()));
        }
        if ours {
            let mode = prop_oneof![8 => Just(None), 1 => Just(Some(json!("Enforce"))), 1 => Just(Some(json!("Audit")))];
            fields.push(("enforcement", mode.boxed()));
            // The last can't be read.
            let times = one_of(&[TIMES[0], TIMES[1], "tomorrow"]);
            fields.push(("expires", prop_oneof![9 => Just(None), 2 => times.prop_map(Some)].boxed()));
        }
        let spec = object(fields);
        (select(NAMESPACES.to_vec()), select(names.to_vec()), spec).prop_map(move |(namespace, name, spec)| {
            let metadata = match kind {
                "SluiceClusterNetworkPolicy" => json!({"name": name}),
                _ => json!({"namespace": namespace, "name": name}),
            };
            json!({"apiVersion": version, "kind": kind, "metadata": metadata, "spec": spec})
        })
    };
    prop_oneof![
        of_kind("NetworkPolicy", "networking.k8s.io/v1", ["a", "b", "c"]),
        of_kind("SluiceNetworkPolicy", "sluice.dev/v1alpha1", ["a", "b", "s"]),
        of_kind("SluiceClusterNetworkPolicy", "sluice.dev/v1alpha1", ["a", "b", "s"]),
        tiers::policy(),
    ]
    .boxed()
}

fn types() -> BoxedStrategy<Value> {
    prop_oneof![
        3 => Just(json!(["Ingress"])),
        3 => Just(json!(["Egress"])),
        3 => Just(json!(["Egress", "Ingress"])),
        1 => Just(json!(["Both"])),
    ]
    .boxed()
}

fn namespace() -> BoxedStrategy<Value> {
    (select(NAMESPACES.to_vec()), labels())
        .prop_map(|(name, labels)| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}))
        .boxed()
}

fn node(index: usize) -> Value {
    // One node says which addresses its pods get; 10.2.0.0/30 isn't its own, so that its range and its pods differ.
    let cidrs: &[&str] = if index == 1 { &["10.2.0.0/30", "fd00:2::/64"] } else { &[] };
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODES[index], "labels": {"name": NODES[index]}}, "spec": {"podCIDRs": cidrs}, "status": {"addresses": [
        {"type": "InternalIP", "address": format!("172.18.0.{index}")},
        {"type": "InternalIP", "address": format!("fd01::{index}")},
        {"type": "Hostname", "address": NODES[index]},
    ]}})
}

/// A pod. Its address follows from its names, but now and then it takes that of its neighbour, as after a restart.
fn pod() -> BoxedStrategy<Value> {
    let place = (0..NAMESPACES.len(), 0..PODS.len(), 0..NODES.len());
    let kind = prop_oneof![
        12 => Just("Running"), 2 => Just("Pending"), 2 => Just("Succeeded"), 1 => Just("Failed"), 2 => Just("host")];
    let neighbour = prop_oneof![12 => Just(0), 1 => Just(1_usize)];
    let stacks =
        prop_oneof![5 => Just((true, false)), 4 => Just((true, true)), 1 => Just((false, true)), 1 => Just((false, false))];
    let named = (select(PORT_NAMES.to_vec()), select(PORTS.to_vec()), select(PROTOCOLS[..3].to_vec()));
    let account = select(vec!["default", "reader", "writer"]);
    (place, labels(), kind, neighbour, stacks, vec(named, 0..3), account)
        .prop_map(|((namespace, name, node), labels, kind, neighbour, stacks, mut named, account)| {
            // Within a pod, names of ports are unique (Kubernetes validates that per container).
            named.sort_by_key(|(name, ..)| *name);
            named.dedup_by_key(|(name, ..)| *name);
            let ports: Vec<_> = named
                .into_iter()
                .map(|(name, port, protocol)| json!({"name": name, "containerPort": port, "protocol": protocol}))
                .collect();
            let (v4, v6) = match kind {
                "host" => (format!("172.18.0.{node}"), format!("fd01::{node}")),
                _ => {
                    let last = (name + neighbour) % PODS.len();
                    (format!("10.{namespace}.0.{last}"), format!("fd00:{namespace}::{last}"))
                }
            };
            let ips = [stacks.0.then_some(v4), stacks.1.then_some(v6)];
            let ips: Vec<_> = ips.into_iter().flatten().map(|ip| json!({"ip": ip})).collect();
            json!({"apiVersion": "v1", "kind": "Pod",
                "metadata": {"namespace": NAMESPACES[namespace], "name": PODS[name], "labels": labels},
                "spec": {"nodeName": NODES[node], "hostNetwork": kind == "host", "serviceAccountName": account,
                    "containers": [{"name": "main", "ports": ports}]},
                "status": {"phase": if kind == "host" { "Running" } else { kind }, "podIPs": ips}})
        })
        .boxed()
}

/// A cluster: three nodes, two to four namespaces, pods and policies.
pub(crate) fn cluster() -> BoxedStrategy<Cluster> {
    (vec(namespace(), 2..6), vec(pod(), 3..9), vec(policy(), 0..9), vec(names::known(), 0..4), vec(names::resolver(), 0..2))
        .prop_map(|(namespaces, pods, policies, known, resolvers)| {
            let mut cluster = Cluster { objects: (0..NODES.len()).map(node).collect(), ..Cluster::default() };
            let objects = known.into_iter().chain(namespaces).chain(pods).chain(resolvers).chain(policies);
            cluster.edit(&objects.map(Edit::Put).collect::<Vec<_>>());
            cluster
        })
        .boxed()
}

/// One edit of anything, removals included, of things that exist or not.
pub(crate) fn edit() -> BoxedStrategy<Edit> {
    let object =
        || prop_oneof![1 => namespace(), 4 => pod(), 4 => policy(), 1 => (0..NODES.len()).prop_map(node), 1 => names::known()];
    prop_oneof![3 => object().prop_map(Edit::Put), 1 => object().prop_map(Edit::Remove)].boxed()
}
