//! A large cluster that looks like one: the world of the benches, and of load tests.
//!
//! Every number follows from [`Size`], and every choice from the position of the object, so that two runs measure the same world.
//!
//! A **namespace** carries `team` (one of 20), `env` (prod, staging, dev) and its name. It holds 25 **applications** of equal
//! size; one in five is a StatefulSet.
//!
//! A **pod** carries `app`, `tier` (front, back, data), `version` (blue, green), `pod-template-hash`, and a label whose value no
//! other pod has (`statefulset.kubernetes.io/pod-name` or `instance`): without it all replicas of an application are alike, with
//! it every pod is one of a kind to anyone who compares labels instead of answers. It has the named ports `http` (8080, or 8000
//! for a third of the applications) and `metrics` (9090), one IPv4 address, and every fourth pod an IPv6 address too. One pod in
//! 50 has finished, one in 100 is on the host's network. Pods are spread over the nodes in turn.
//!
//! The **policies** of a namespace repeat in blocks of 50:
//!
//! | of 50 | kind | shape |
//! |---|---|---|
//! | 1 | NetworkPolicy | default deny: ingress; in every fourth namespace egress too |
//! | 1 | NetworkPolicy | egress of one application (in every fourth namespace, of all pods) to the cluster's DNS (pods in `kube-system`), UDP and TCP 53 |
//! | 24 | NetworkPolicy | ingress of one application from another of the namespace, on the named port `http` or on a number |
//! | 10 | NetworkPolicy | ingress of one application from a tier (`In`) of the namespaces of a team (and not of an env: `NotIn`), port range |
//! | 5 | NetworkPolicy | egress of one application to 0.0.0.0/0 `except` private networks, 443 |
//! | 3 | NetworkPolicy | ingress from `namespaceSelector: {}` to `metrics` |
//! | 6 | SluiceNetworkPolicy | ingress of one application on 8080, two `http` items |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use sluice_policy::http::{HttpMatch, PathMatch};
use sluice_policy::label::{Labels, Operator, Requirement, Selector};
use sluice_policy::source::{
    Action, L7, NamedPort, Namespace, Namespaces, Node, Object, Peer, Pod, PodRef, PodSelector, Policy, PolicyKind, PolicyRef,
    PortMatch, Rule, Tier,
};
use sluice_policy::{Direction, Protocol};

const APPS: u32 = 25;
const TEAMS: u32 = 20;
const TIERS: [&str; 3] = ["front", "back", "data"];
const ENVS: [&str; 3] = ["prod", "staging", "dev"];

/// How large a cluster.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) nodes: u32,
    pub(crate) namespaces: u32,
    pub(crate) pods: u32,
    pub(crate) policies: u32,
}

impl Size {
    /// The world of the aims: 10,000 policies, 100,000 pods.
    pub(crate) const LARGE: Self = Self { nodes: 500, namespaces: 200, pods: 100_000, policies: 10_000 };
}

/// All objects of the cluster: namespaces, nodes, pods, then policies.
pub(crate) fn objects(size: Size) -> impl Iterator<Item = Object> {
    let system = Object::Namespace(Namespace {
        name: "kube-system".into(),
        labels: labels(&[("kubernetes.io/metadata.name", "kube-system")]),
    });
    let dns = (0..2).map(|i| Object::Pod(dns_pod(i)));
    std::iter::once(system)
        .chain((0..size.namespaces).map(|n| Object::Namespace(namespace(n))))
        .chain((0..size.nodes).map(|n| Object::Node(node(n))))
        .chain(dns)
        .chain((0..size.pods).map(move |i| Object::Pod(pod(size, i))))
        .chain((0..size.policies).map(move |i| Object::Policy(policy(size, i))))
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| (Arc::from(*k), Arc::from(*v))).collect()
}

fn namespace_name(n: u32) -> Arc<str> {
    format!("team-{}-{n}", n % TEAMS).into()
}

fn namespace(n: u32) -> Namespace {
    let name = namespace_name(n);
    let team = format!("t{}", n % TEAMS);
    let labels =
        labels(&[("kubernetes.io/metadata.name", &name), ("team", &team), ("env", ENVS[(n / TEAMS) as usize % ENVS.len()])]);
    Namespace { name, labels }
}

fn node_name(n: u32) -> Arc<str> {
    format!("node-{n}").into()
}

fn node(n: u32) -> Node {
    Node { name: node_name(n), labels: Labels::new(), ips: vec![Ipv4Addr::from(0xAC10_0000 + n).into()], pod_cidrs: Vec::new() }
}

fn dns_pod(i: u32) -> Pod {
    Pod {
        reference: PodRef { namespace: "kube-system".into(), name: format!("coredns-{i}").into() },
        labels: labels(&[("k8s-app", "kube-dns")]),
        ips: vec![Ipv4Addr::from(0x0AFF_0000 + i).into()],
        node: Some(node_name(i)),
        host_network: false,
        finished: false,
        service_account: "coredns".into(),
        ports: vec![NamedPort { name: "dns".into(), protocol: Protocol::Udp, port: 53 }],
    }
}

/// The IPv4 address of pod `i`.
pub(crate) fn address(i: u32) -> IpAddr {
    Ipv4Addr::from(0x0A00_0000 + i).into()
}

/// Pod `i` of the cluster.
pub(crate) fn pod(size: Size, i: u32) -> Pod {
    let (n, within) = (i % size.namespaces, i / size.namespaces);
    let (app, replica) = (within % APPS, within / APPS);
    let stateful = app % 5 == 0;
    let name = if stateful { format!("app-{app}-{replica}") } else { format!("app-{app}-{i:08x}") };
    let (app_label, hash) = (format!("app-{app}"), format!("{:08x}", app.wrapping_mul(0x9E37_79B1) ^ n));
    let labels = labels(&[
        ("app", &app_label),
        ("tier", TIERS[app as usize % TIERS.len()]),
        ("version", if replica % 4 == 0 { "green" } else { "blue" }),
        ("pod-template-hash", &hash),
        (if stateful { "statefulset.kubernetes.io/pod-name" } else { "instance" }, &name),
    ]);
    let host_network = i % 100 == 99;
    let on = i % size.nodes;
    let mut ips = vec![if host_network { Ipv4Addr::from(0xAC10_0000 + on).into() } else { address(i) }];
    if i.is_multiple_of(4) && !host_network {
        ips.push(Ipv6Addr::from((0xFD00_u128 << 112) + u128::from(i)).into());
    }
    let http = if app % 3 == 0 { 8000 } else { 8080 };
    Pod {
        reference: PodRef { namespace: namespace_name(n), name: name.into() },
        labels,
        ips,
        node: Some(node_name(on)),
        host_network,
        finished: i % 50 == 48,
        service_account: "default".into(),
        ports: vec![
            NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: http },
            NamedPort { name: "metrics".into(), protocol: Protocol::Tcp, port: 9090 },
        ],
    }
}

fn requirement(key: &str, operator: Operator, values: &[&str]) -> Requirement {
    Requirement { key: key.into(), operator, values: values.iter().map(|v| Arc::from(*v)).collect() }
}

fn app(n: u32) -> Selector {
    Selector::new([Requirement::equals("app", &format!("app-{}", n % APPS))])
}

fn tcp(first: u16, last: u16) -> PortMatch {
    PortMatch::Range { protocol: Protocol::Tcp, first, last }
}

fn named(name: &str) -> PortMatch {
    PortMatch::Named { protocol: Protocol::Tcp, name: name.into() }
}

fn allow(direction: Direction, peers: Option<Vec<Peer>>, ports: Option<Vec<PortMatch>>, l7: Option<L7>) -> Rule {
    let path = if direction == Direction::Ingress { "ingress[0]" } else { "egress[0]" };
    Rule { direction, path: path.into(), action: Action::Allow, peers, ports, l7 }
}

/// Policy `i` of the cluster.
pub(crate) fn policy(size: Size, i: u32) -> Policy {
    let (n, within) = (i % size.namespaces, i / size.namespaces);
    let namespace = namespace_name(n);
    let here = |pods| Peer::Pods(PodSelector { namespaces: Namespaces::Named(namespace.clone()), pods });
    let anywhere = |namespaces, pods| Peer::Pods(PodSelector { namespaces: Namespaces::Matching(namespaces), pods });
    let everything = Selector::everything;
    let (shape, turn) = (within % 50, within + within / 50);
    let strict = n.is_multiple_of(4);
    let (subject, rules) = match shape {
        0 => (everything(), Vec::new()),
        1 => {
            let system = Selector::new([Requirement::equals("kubernetes.io/metadata.name", "kube-system")]);
            let dns = anywhere(system, Selector::new([Requirement::equals("k8s-app", "kube-dns")]));
            let ports = [Protocol::Udp, Protocol::Tcp].map(|protocol| PortMatch::Range { protocol, first: 53, last: 53 });
            let subject = if strict { everything() } else { app(turn) };
            (subject, vec![allow(Direction::Egress, Some(vec![dns]), Some(ports.to_vec()), None)])
        }
        2..=25 => {
            let port = if turn.is_multiple_of(2) { named("http") } else { tcp(8080, 8080) };
            (app(turn), vec![allow(Direction::Ingress, Some(vec![here(app(turn + 1))]), Some(vec![port]), None)])
        }
        26..=35 => {
            let team = format!("t{}", (n + turn) % TEAMS);
            let of_team =
                Selector::new([requirement("team", Operator::In, &[&team]), requirement("env", Operator::NotIn, &["dev"])]);
            let tiers = Selector::new([requirement("tier", Operator::In, &["front", "back"])]);
            (app(turn), vec![allow(Direction::Ingress, Some(vec![anywhere(of_team, tiers)]), Some(vec![tcp(8000, 8100)]), None)])
        }
        36..=40 => {
            let net = |text: &str| text.parse().expect("a network in canonical form");
            let except = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.169.254/32"].map(net).to_vec();
            let outside = Peer::Block { cidr: net("0.0.0.0/0"), except };
            (app(turn), vec![allow(Direction::Egress, Some(vec![outside]), Some(vec![tcp(443, 443)]), None)])
        }
        41..=43 => {
            let all = anywhere(everything(), everything());
            (app(turn), vec![allow(Direction::Ingress, Some(vec![all]), Some(vec![named("metrics")]), None)])
        }
        _ => {
            let item = |index, method: &str, path: &str| {
                let (method, path) = (Some(method.into()), Some(PathMatch::Regex(path.into())));
                HttpMatch { index, method, path, ..HttpMatch::default() }
            };
            let l7 = L7::Http(vec![item(0, "GET", "/api/.*"), item(1, "POST", "/api/submit")]);
            (app(turn), vec![allow(Direction::Ingress, Some(vec![here(app(turn + 2))]), Some(vec![tcp(8080, 8080)]), Some(l7))])
        }
    };
    let egress = matches!(shape, 1 | 36..=40) || (shape == 0 && strict);
    Policy {
        reference: PolicyRef {
            kind: if shape > 43 { PolicyKind::SluiceNetworkPolicy } else { PolicyKind::NetworkPolicy },
            namespace: namespace.clone(),
            name: format!("policy-{within}").into(),
        },
        tier: Tier::Additive,
        subject: PodSelector { namespaces: Namespaces::Named(namespace), pods: subject },
        ingress: !egress || shape == 0,
        egress,
        audit: false,
        expires: None,
        rules,
    }
}
