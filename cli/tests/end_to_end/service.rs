//! A Service's address: policies are about the pods behind it, and the server sees the client's own address.

use serde_json::json;
use sluice_testnet::{Protocol, Service};

use crate::client::{curl, curl_in_vain};
use crate::scene::{Scene, at};

/// `backend` is reached by `frontend` alone, and only to read below `/api/`; `plain` by `frontend` alone, whatever it says.
const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: readers, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: GET, path: "/api/.*" } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: plain, namespace: shop }
spec:
  podSelector: { matchLabels: { app: plain } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: http } ]
"#;

#[test]
fn a_service_address_is_judged_as_the_pod_behind_it() {
    let pods: [(&str, &str, &[&str]); 4] = [
        ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
        ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
        ("shop/plain", "node-1", &["10.1.0.3", "fd00:1::3"]),
        ("shop/stranger", "node-1", &["10.1.0.4", "fd00:1::4"]),
    ];
    let Some(scene) = Scene::start(&["node-1"], &pods, POLICIES, &[]) else { return };
    let service = |name: &str, address: &str, backend: &str| Service {
        name: name.to_owned(),
        protocol: Protocol::Tcp,
        address: at(address, 80).parse().unwrap(),
        backends: vec![at(backend, 8080).parse().unwrap()],
    };
    let services = [
        service("shop/backend", "10.96.0.10", "10.1.0.2"),
        service("shop/backend", "fd00:96::10", "fd00:1::2"),
        service("shop/plain", "10.96.0.11", "10.1.0.3"),
        service("shop/plain", "fd00:96::11", "fd00:1::3"),
    ];
    scene.node("node-1").set_services(&services).unwrap();
    let (frontend, stranger) = (scene.pod("shop/frontend"), scene.pod("shop/stranger"));

    for (number, client, backend, judged, plain) in
        [(4, "10.1.0.1", "10.1.0.2", "10.96.0.10", "10.96.0.11"), (6, "fd00:1::1", "fd00:1::2", "fd00:96::10", "fd00:96::11")]
    {
        let url = |address: &str, path: &str| format!("http://{}{path}", at(address, 80));

        let read = curl(frontend.ns(), &url(judged, &format!("/api/{number}")), &[]);
        assert_eq!((read.status, read.json()["client"].as_str()), (200, Some(client)), "{read:?}");
        let record = scene.request_record("node-1", &format!("/api/{number}"));
        assert_eq!(record["verdict"], "allow", "{record:#}");
        let destination = json!({ "namespace": "shop", "pod": "backend", "ip": backend, "port": 8080 });
        assert_eq!(record["destination"], destination, "the backend, not the Service");
        assert_eq!((&record["source"]["ip"], &record["source"]["pod"]), (&json!(client), &json!("frontend")));

        let path = format!("/admin/{number}");
        let denied = curl(frontend.ns(), &url(judged, &path), &[]);
        assert_eq!(denied.status, 403, "{denied:?}");
        assert!(denied.body.contains("SluiceNetworkPolicy shop/readers"), "{denied:?}");
        assert!(scene.seen(&path).is_empty(), "the server never saw it");
        let record = scene.request_record("node-1", &path);
        assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!("NoRuleMatched")), "{record:#}");
        assert_eq!(record["destination"], destination);

        let through = curl(frontend.ns(), &url(plain, "/plain"), &[]);
        assert_eq!((through.status, through.json()["client"].as_str()), (200, Some(client)), "{through:?}");
        for address in [judged, plain] {
            let refused = curl_in_vain(stranger.ns(), &url(address, "/stranger"));
            assert_eq!((refused.status, refused.exit), (0, 28), "{address}: {refused:?}");
        }
    }
    assert!(scene.seen("/stranger").is_empty());
    assert_eq!(scene.seen("/plain").len(), 2);
}
