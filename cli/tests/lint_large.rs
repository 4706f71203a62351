//! How long `sluice lint` takes over a large cluster. It is printed, and held against nothing.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};
use sluice_policy::label::{Operator, Selector};
use sluice_policy::source::{L7, Namespaces, Object, Peer, PodSelector, Policy, PortMatch, Rule};

#[path = "../../policy/benches/large_world/mod.rs"]
mod large_world;

fn labels(labels: &sluice_policy::label::Labels) -> Value {
    labels.iter().map(|(key, value)| (key.to_string(), json!(&**value))).collect::<serde_json::Map<_, _>>().into()
}

fn selector(selector: &Selector) -> Value {
    let expression = |r: &sluice_policy::label::Requirement| {
        let operator = match r.operator {
            Operator::In => "In",
            Operator::NotIn => "NotIn",
            Operator::Exists => "Exists",
            Operator::DoesNotExist => "DoesNotExist",
        };
        json!({ "key": &*r.key, "operator": operator, "values": r.values.iter().map(|v| &**v).collect::<Vec<_>>() })
    };
    json!({ "matchExpressions": selector.requirements.iter().map(expression).collect::<Vec<_>>() })
}

fn peer(peer: &Peer) -> Value {
    match peer {
        Peer::Pods(PodSelector { namespaces: Namespaces::Named(_), pods }) => json!({ "podSelector": selector(pods) }),
        Peer::Pods(PodSelector { namespaces: Namespaces::Matching(namespaces), pods }) => {
            json!({ "namespaceSelector": selector(namespaces), "podSelector": selector(pods) })
        }
        Peer::Block { cidr, except } => json!({ "ipBlock": { "cidr": cidr, "except": except } }),
        other => panic!("the generator makes no {other:?}"),
    }
}

fn port(port: &PortMatch) -> Value {
    match port {
        PortMatch::All { protocol } => json!({ "protocol": protocol }),
        PortMatch::Range { protocol, first, last } => json!({ "protocol": protocol, "port": first, "endPort": last }),
        other @ PortMatch::Icmp(_) => panic!("the generator makes no {other:?}"),
        PortMatch::Named { protocol, name } => json!({ "protocol": protocol, "port": &**name }),
    }
}

fn rule(rule: &Rule) -> Value {
    let mut written = json!({});
    if let Some(peers) = &rule.peers {
        let field = if rule.path.starts_with("ingress") { "from" } else { "to" };
        written[field] = peers.iter().map(peer).collect();
    }
    if let Some(ports) = &rule.ports {
        written["ports"] = ports.iter().map(port).collect();
    }
    if let Some(L7::Http(_)) = &rule.l7 {
        written["http"] = json!([{ "method": "GET", "path": "/api/.*" }, { "method": "POST", "path": "/api/submit" }]);
    }
    written
}

fn policy(policy: &Policy) -> Value {
    let kind = policy.reference.kind.as_str();
    let api = if kind == "NetworkPolicy" { "networking.k8s.io/v1" } else { "sluice.dev/v1alpha1" };
    let rules = |direction: &str| -> Vec<Value> {
        policy.rules.iter().filter(|rule| rule.path.starts_with(direction)).map(self::rule).collect()
    };
    let types: Vec<&str> =
        [("Ingress", policy.ingress), ("Egress", policy.egress)].into_iter().filter(|t| t.1).map(|t| t.0).collect();
    let mut spec = json!({ "podSelector": selector(&policy.subject.pods), "policyTypes": types });
    for direction in ["ingress", "egress"] {
        let rules = rules(direction);
        if !rules.is_empty() {
            spec[direction] = rules.into();
        }
    }
    let metadata = json!({ "name": &*policy.reference.name, "namespace": &*policy.reference.namespace });
    json!({ "apiVersion": api, "kind": kind, "metadata": metadata, "spec": spec })
}

fn manifest(object: &Object) -> Value {
    match object {
        Object::Namespace(namespace) => {
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": &*namespace.name, "labels": labels(&namespace.labels) } })
        }
        Object::Node(node) => json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": &*node.name } }),
        Object::Pod(pod) => {
            let ports: Vec<Value> =
                pod.ports.iter().map(|p| json!({ "name": &*p.name, "containerPort": p.port, "protocol": p.protocol })).collect();
            let ips: Vec<Value> = pod.ips.iter().map(|ip| json!({ "ip": ip })).collect();
            json!({
                "apiVersion": "v1", "kind": "Pod",
                "metadata": { "name": &*pod.reference.name, "namespace": &*pod.reference.namespace, "labels": labels(&pod.labels) },
                "spec": { "nodeName": pod.node.as_deref(), "hostNetwork": pod.host_network, "containers": [ { "name": "main", "ports": ports } ] },
                "status": { "phase": if pod.finished { "Succeeded" } else { "Running" }, "podIPs": ips },
            })
        }
        Object::Policy(policy) => self::policy(policy),
        Object::Name(_) => panic!("the generator makes no names"),
    }
}

/// `cargo test --release -p sluice --test lint_large -- --ignored --nocapture`
#[test]
#[ignore = "writes 100,000 pods to the disk: a measurement"]
fn a_large_cluster() {
    let size = large_world::Size::LARGE;
    let folder = tempfile::tempdir().unwrap();
    let mut file = None;
    for (i, object) in large_world::objects(size).enumerate() {
        if i % 10_000 == 0 {
            file = Some(BufWriter::new(File::create(folder.path().join(format!("objects-{i:06}.yaml"))).unwrap()));
        }
        writeln!(file.as_mut().unwrap(), "---\n{}", manifest(&object)).unwrap();
    }
    drop(file);
    let begun = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(["lint", "-o", "json", "--fail-on", "error", "-f"])
        .arg(folder.path())
        .output()
        .unwrap();
    let took = begun.elapsed();
    assert!(output.status.success(), "{} {}", output.status, String::from_utf8_lossy(&output.stderr));
    let linted: Value = serde_json::from_slice(&output.stdout).unwrap();
    println!("{:.1} s: {}", took.as_secs_f64(), linted["summary"]);
    assert_eq!(linted["summary"]["policies"], size.policies);
    assert_eq!(linted["summary"]["pods"], size.pods + 2);
}
