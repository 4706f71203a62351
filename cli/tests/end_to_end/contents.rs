//! Rules about hosts, headers and queries, and Deny rules about requests, with curl and the kernel between.

use sluice_testnet::wait_until;

use crate::client::curl;
use crate::scene::{LONG, Scene};

/// The L4 rule lets everybody in; the Deny beside it looks into what comes.
const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - ports: [ { port: 8080 } ]
  - action: Deny
    http:
    - { pathType: Prefix, path: /admin }
    - { query: [ { name: debug, present: true } ] }
    - { headers: [ { name: x-role, exact: admin } ] }
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: frontend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: frontend } }
  policyTypes: [ Egress ]
  egress:
  - http:
    - { host: "10\\.1\\.0\\.2|\\[fd00:1::2\\]", headers: [ { name: x-team, exact: blue } ] }
"#;

const PODS: [(&str, &str, &[&str]); 2] =
    [("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]), ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"])];

#[test]
fn hosts_headers_queries_and_denies_are_in_force() {
    let Some(scene) = Scene::start(&["node-1"], &PODS, POLICIES, &[]) else { return };
    let frontend = scene.pod("shop/frontend");
    for address in ["10.1.0.2", "[fd00:1::2]"] {
        for (path, arguments, status) in [
            ("/", &["--header", "X-Team: blue"][..], 200),
            ("/administrator", &["--header", "X-Team: blue"], 200),
            ("/admin/users", &["--header", "X-Team: blue"], 403),
            ("/?debug=1", &["--header", "X-Team: blue"], 403),
            ("/?d%65bug", &["--header", "X-Team: blue"], 403),
            ("/", &["--header", "X-Team: blue", "--header", "X-Role: user, admin"], 403),
            ("/", &["--header", "X-Team: blue", "--header", "X-Team: red"], 403),
            ("/", &["--header", "X-Team: blue", "--header", "Connection: X-Team"], 403),
            ("/", &["--header", "X-Team: blue", "--header", "Host: other"], 403),
            ("/", &["--header", "X-Team: blue", "--http2-prior-knowledge"], 200),
            ("/admin", &["--header", "X-Team: blue", "--http2-prior-knowledge"], 403),
            ("/", &[], 403),
        ] {
            let got = curl(frontend.ns(), &format!("http://{address}:8080{path}"), arguments);
            assert_eq!(got.status, status, "{address}{path} {arguments:?}: {got:?}");
        }
    }
    let by = |rule: &str| {
        let records = scene.programs.records("node-1");
        records.iter().any(|record| record["verdict"] == "deny" && record["policy"]["rule"] == rule)
    };
    for rule in ["ingress[1].http[0]", "ingress[1].http[1]", "ingress[1].http[2]"] {
        assert!(wait_until(LONG, || by(rule)), "no record of a denial by {rule}");
    }
}
