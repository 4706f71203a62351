//! What else the language has, put over the large world: tiers, denials, gRPC, server names, audits, ends in time.
//!
//! | how many | kind | shape |
//! |---|---|---|
//! | 10 | ClusterNetworkPolicy, Admin | a team's namespaces: Pass from its own, Deny from another team's `dev` pods, Accept of monitoring on the port named `metrics` |
//! | 2 | ClusterNetworkPolicy, Baseline | every namespace: Deny from `dev` namespaces; Accept to private networks |
//! | 4 | SluiceClusterNetworkPolicy | pods of a tier: from service accounts; from nodes by label; a Deny of a network |
//! | 1 in each namespace | SluiceNetworkPolicy | ingress of one application: a Deny with `http` by header, an allow with host, query and path prefix |
//! | 1 in each | SluiceNetworkPolicy | ingress of one application: two methods of a gRPC service |
//! | 1 in each | SluiceNetworkPolicy | egress of one application: TLS by two server names |
//! | 1 in each fourth | SluiceNetworkPolicy, Audit | ingress of all pods from the namespace |
//! | 1 in each fourth | SluiceNetworkPolicy, with an end in time | ingress of one application from everywhere |

use std::fmt::Write;

use sluice_crds::{lower_document, read};
use sluice_policy::source::Object;

use super::large_world::Size;

const TEAMS: u32 = 20;

/// The policies, after the objects of the large world.
pub(crate) fn every_kind(size: Size) -> Vec<Object> {
    let mut text = cluster();
    for n in 0..size.namespaces {
        in_namespace(&mut text, n).expect("a String takes everything");
    }
    let manifests = read(&text, "kinds.yaml");
    assert!(manifests.is_whole(), "{:?}", manifests.errors);
    let lowered = manifests.documents.iter().map(lower_document);
    lowered
        .map(|lowered| {
            assert!(lowered.is_valid(), "{:?}", lowered.diagnostics);
            lowered.object.expect("a valid manifest is an object")
        })
        .collect()
}

fn cluster() -> String {
    let mut text = String::new();
    for n in 0..10 {
        let other = (n + 7) % TEAMS;
        write!(
            text,
            r"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {{ name: admin-{n} }}
spec:
  tier: Admin
  priority: {n}
  subject: {{ namespaces: {{ matchLabels: {{ team: t{n} }} }} }}
  ingress:
  - {{ name: own, action: Pass, from: [ {{ namespaces: {{ matchLabels: {{ team: t{n} }} }} }} ] }}
  - name: others
    action: Deny
    from: [ {{ pods: {{ namespaceSelector: {{ matchLabels: {{ team: t{other}, env: dev }} }}, podSelector: {{}} }} }} ]
  - name: monitoring
    action: Accept
    from: [ {{ namespaces: {{ matchLabels: {{ kubernetes.io/metadata.name: kube-system }} }} }} ]
    protocols: [ {{ destinationNamedPort: metrics }} ]
---"
        )
        .expect("a String takes everything");
    }
    text.push_str(
        r#"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: baseline-dev }
spec:
  tier: Baseline
  priority: 10
  subject: { namespaces: {} }
  ingress:
  - { name: dev, action: Deny, from: [ { namespaces: { matchLabels: { env: dev } } } ] }
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: baseline-private }
spec:
  tier: Baseline
  priority: 20
  subject: { namespaces: {} }
  egress:
  - { name: private, action: Accept, to: [ { networks: [ 10.0.0.0/8, "fd00::/8" ] } ] }
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceClusterNetworkPolicy
metadata: { name: data }
spec:
  namespaceSelector: { matchLabels: { env: prod } }
  podSelector: { matchLabels: { tier: data } }
  ingress:
  - from: [ { serviceAccounts: [ default ], namespaceSelector: {} } ]
    ports: [ { port: 5432 } ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceClusterNetworkPolicy
metadata: { name: nodes }
spec:
  namespaceSelector: {}
  podSelector: { matchLabels: { tier: front } }
  ingress:
  - from: [ { nodeSelector: { matchLabels: { node-role.kubernetes.io/ingress: "" } } } ]
    ports: [ { port: 8080 } ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceClusterNetworkPolicy
metadata: { name: nobody-from-there }
spec:
  namespaceSelector: {}
  podSelector: {}
  policyTypes: [ Ingress ]
  ingress:
  - action: Deny
    from: [ { ipBlock: { cidr: 198.51.100.0/24 } } ]
  - {}
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceClusterNetworkPolicy
metadata: { name: metadata-service }
spec:
  namespaceSelector: { matchLabels: { env: dev } }
  podSelector: {}
  policyTypes: [ Egress ]
  egress:
  - action: Deny
    to: [ { ipBlock: { cidr: 169.254.169.254/32 } } ]
  - {}
---"#,
    );
    text
}

fn in_namespace(text: &mut String, n: u32) -> std::fmt::Result {
    let namespace = format!("team-{}-{n}", n % TEAMS);
    let (app, next) = (n % 25, (n + 1) % 25);
    write!(
        text,
        r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: contents, namespace: {namespace} }}
spec:
  podSelector: {{ matchLabels: {{ app: app-{app} }} }}
  ingress:
  - action: Deny
    ports: [ {{ port: 8080 }} ]
    http: [ {{ headers: [ {{ name: x-debug, present: true }} ] }} ]
  - from: [ {{ podSelector: {{ matchLabels: {{ app: app-{next} }} }} }} ]
    ports: [ {{ port: 8080 }} ]
    http:
    - {{ method: GET, path: /api, pathType: Prefix, host: "{namespace}.example", query: [ {{ name: v, exact: "2" }} ] }}
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: calls, namespace: {namespace} }}
spec:
  podSelector: {{ matchLabels: {{ app: app-{next} }} }}
  ingress:
  - ports: [ {{ port: 50051 }} ]
    grpc:
    - {{ service: orderservice.OrderService, method: GetOrder }}
    - {{ service: orderservice.OrderService, method: ListOrders }}
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: names, namespace: {namespace} }}
spec:
  podSelector: {{ matchLabels: {{ app: app-{app} }} }}
  policyTypes: [ Egress ]
  egress:
  - ports: [ {{ port: 443 }} ]
    tls: {{ serverNames: [ api.example.org, "*.example.net" ] }}
---"#
    )?;
    if !n.is_multiple_of(4) {
        return Ok(());
    }
    write!(
        text,
        r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: tried, namespace: {namespace} }}
spec:
  enforcement: Audit
  podSelector: {{}}
  ingress: [ {{ from: [ {{ podSelector: {{}} }} ] }} ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: for-a-while, namespace: {namespace} }}
spec:
  expires: "2099-01-01T00:00:00Z"
  podSelector: {{ matchLabels: {{ app: app-{next} }} }}
  ingress: [ {{ ports: [ {{ port: 9999 }} ] }} ]
---"#
    )
}
