//! The client's node judges egress, the server's node judges ingress, both read requests, and each records its own end.

use std::time::Duration;

use serde_json::json;
use sluice_testnet::{Outcome, Port, Probe, Protocol, Service};

use crate::client::{curl, ip};
use crate::scene::{LONG, Scene, at};

/// `frontend` asks below `/api/`; `backend` answers reading requests. `plain` takes connections from `frontend` alone, and
/// `closed` may go nowhere.
const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: asks, namespace: shop }
spec:
  podSelector: { matchLabels: { app: frontend } }
  policyTypes: [Egress]
  egress:
  - to: [ { podSelector: { matchLabels: { app: backend } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { path: "/api/.*" } ]
  - to: [ { podSelector: { matchLabels: { app: plain } } } ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: answers, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: GET } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: plain, namespace: shop }
spec:
  podSelector: { matchLabels: { app: plain } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: 9000 }, { protocol: UDP, port: 9000 } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: closed, namespace: shop }
spec: { podSelector: { matchLabels: { app: closed } }, policyTypes: [Egress] }
"#;

const PODS: [(&str, &str, &[&str]); 6] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/stranger", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/closed", "node-1", &["10.1.0.3", "fd00:1::3"]),
    ("shop/backend", "node-2", &["10.2.0.1", "fd00:2::1"]),
    ("shop/plain", "node-2", &["10.2.0.2", "fd00:2::2"]),
    ("shop/open", "node-2", &["10.2.0.3", "fd00:2::3"]),
];

#[test]
fn egress_is_judged_on_one_node_and_ingress_on_the_other() {
    let Some(scene) = Scene::start(&["node-1", "node-2"], &PODS, POLICIES, &[]) else { return };
    let service = |address: &str, backend: &str| Service {
        name: "shop/backend".to_owned(),
        protocol: Protocol::Tcp,
        address: at(address, 8080).parse().unwrap(),
        backends: vec![at(backend, 8080).parse().unwrap()],
    };
    let services = [service("10.96.0.10", "10.2.0.1"), service("fd00:96::10", "fd00:2::1")];
    scene.node("node-1").set_services(&services).unwrap();
    let frontend = scene.pod("shop/frontend");

    for (way, address, client, backend) in [
        ("v4", "10.2.0.1", "10.1.0.1", "10.2.0.1"),
        ("v6", "fd00:2::1", "fd00:1::1", "fd00:2::1"),
        ("service-v4", "10.96.0.10", "10.1.0.1", "10.2.0.1"),
        ("service-v6", "fd00:96::10", "fd00:1::1", "fd00:2::1"),
    ] {
        let url = |path: &str| format!("http://{}{path}", at(address, 8080));

        // Allowed by both: two records, one server that sees the client itself.
        let path = format!("/api/{way}");
        let read = curl(frontend.ns(), &url(&path), &[]);
        assert_eq!((read.status, read.json()["client"].as_str()), (200, Some(client)), "{way}: {read:?}");
        for (node, policy) in [("node-1", "asks"), ("node-2", "answers")] {
            let record = scene.request_record(node, &path);
            assert_eq!(record["verdict"], "allow", "{way}: {record:#}");
            assert_eq!((&record["node"], &record["policy"]["name"]), (&json!(node), &json!(policy)), "{way}: {record:#}");
            assert_eq!((&record["source"]["ip"], &record["source"]["pod"]), (&json!(client), &json!("frontend")), "{way}");
            let destination = json!({ "namespace": "shop", "pod": "backend", "ip": backend, "port": 8080 });
            assert_eq!(record["destination"], destination, "{way}");
        }

        // Denied by the near one: it never leaves the node.
        let path = format!("/admin/{way}");
        let denied = curl(frontend.ns(), &url(&path), &[]);
        assert_eq!(denied.status, 403, "{way}: {denied:?}");
        assert!(denied.body.contains("SluiceNetworkPolicy shop/asks"), "{way}: {denied:?}");
        let record = scene.request_record("node-1", &path);
        assert_eq!((&record["verdict"], &record["direction"]), (&json!("deny"), &json!("egress")), "{record:#}");

        // Denied by the far one: allowed here, answered 403.
        let path = format!("/api/write/{way}");
        let denied = curl(frontend.ns(), &url(&path), &["--request", "POST", "--data", "x"]);
        assert_eq!(denied.status, 403, "{way}: {denied:?}");
        assert!(denied.body.contains("SluiceNetworkPolicy shop/answers"), "{way}: {denied:?}");
        let near = scene.request_record("node-1", &path);
        assert_eq!((&near["verdict"], &near["http"]["status"]), (&json!("allow"), &json!(403)), "{way}: {near:#}");
        let far = scene.request_record("node-2", &path);
        assert_eq!((&far["verdict"], &far["direction"]), (&json!("deny"), &json!("ingress")), "{way}: {far:#}");
        assert_eq!(denied.header("x-sluice-id"), far["id"].as_str(), "{way}: the id is of the one that denied");
        assert!(scene.seen(&path).is_empty(), "{way}");
    }
    let crossed = scene
        .programs
        .records("node-2")
        .into_iter()
        .filter(|record| record["http"]["path"].as_str().is_some_and(|path| path.starts_with("/admin")));
    assert_eq!(crossed.count(), 0, "what the near node denies the far node never hears of");
}

#[test]
fn addresses_and_ports_are_enforced_across_nodes_in_both_families() {
    let Some(scene) = Scene::start(&["node-1", "node-2"], &PODS, POLICIES, &[]) else { return };
    let ports = [Port::tcp(9000), Port::udp(9000), Port::tcp(9001)];
    for server in ["shop/plain", "shop/open"] {
        scene.net.serve_pod(&scene.pod(server), &ports).unwrap();
    }
    // Who, to whom, over which protocol and port, and whether that passes.
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    let rows = [
        ("frontend", "plain", tcp, 9000, true),
        ("frontend", "plain", udp, 9000, true),
        ("frontend", "plain", tcp, 9001, false),
        ("frontend", "open", tcp, 9000, false),
        ("stranger", "plain", tcp, 9000, false),
        ("stranger", "plain", udp, 9000, false),
        ("stranger", "open", tcp, 9001, true),
        ("stranger", "open", udp, 9000, true),
        ("closed", "open", tcp, 9000, false),
        ("closed", "open", udp, 9000, false),
        ("closed", "plain", tcp, 9000, false),
    ];
    let address = |pod: &str, v6: bool| {
        let pod = scene.pod(&format!("shop/{pod}"));
        if v6 { pod.v6() } else { pod.v4() }.expect("pods have both")
    };
    let mut cases = Vec::new();
    for (from, to, protocol, port, passes) in rows {
        for v6 in [false, true] {
            let ns = scene.pod(&format!("shop/{from}")).ns().clone();
            let probe = Probe { from: ns, source: None, to: address(to, v6), port, protocol };
            cases.push((probe, address(from, v6), format!("shop/{to}"), passes));
        }
    }
    let probes: Vec<_> = cases.iter().map(|(probe, ..)| probe.clone()).collect();
    let outcomes = scene.net.probe(&probes, Duration::from_secs(2));
    for ((probe, client, server, passes), outcome) in cases.iter().zip(outcomes) {
        let flow = format!("{client} to {}:{} {:?}", probe.to, probe.port, probe.protocol);
        if !passes {
            assert_eq!(outcome, Outcome::Timeout, "{flow}");
            continue;
        }
        let Outcome::Connected { peer, seen } = &outcome else { panic!("{flow}: {outcome:?}") };
        assert_eq!((peer.as_ref(), seen.map(|s| s.ip())), (Some(server), Some(*client)), "{flow}");
    }
}

#[test]
fn a_pod_of_one_family_meets_one_of_both() {
    let pods: [(&str, &str, &[&str]); 3] = [
        ("shop/frontend", "node-1", &["fd00:1::1"]),
        ("shop/backend", "node-2", &["10.2.0.1", "fd00:2::1"]),
        ("shop/old", "node-1", &["10.1.0.2"]),
    ];
    let Some(scene) = Scene::start(&["node-1", "node-2"], &pods, POLICIES, &[]) else { return };
    let read = curl(scene.pod("shop/frontend").ns(), "http://[fd00:2::1]:8080/api/x", &[]);
    assert_eq!((read.status, read.json()["client"].as_str()), (200, Some("fd00:1::1")), "{read:?}");
    let old = scene.pod("shop/old");
    assert!(old.ns().tcp_connect(None, "10.2.0.1:8080".parse().unwrap(), Duration::from_secs(1)).is_err());
    assert_eq!(old.v4(), Some(ip("10.1.0.2")));
    let denied = curl(scene.pod("shop/frontend").ns(), "http://[fd00:2::1]:8080/", &["--max-time", "20"]);
    assert_eq!(denied.status, 403, "{denied:?} within {LONG:?}");
}
