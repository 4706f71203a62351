//! Manifests of the scenarios.

use std::net::IpAddr;

/// A pod, as `kubectl get -o yaml` prints the parts that matter.
pub(crate) fn pod(namespace: &str, name: &str, app: &str, node: &str, ip: IpAddr) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {app}, pod-index: \"{name}\" }} }}\n\
         spec: {{ nodeName: {node}, containers: [ {{ name: main, ports: [ {{ name: http, containerPort: 8080 }} ] }} ] }}\n\
         status: {{ phase: Running, podIPs: [ {{ ip: \"{ip}\" }} ] }}\n"
    )
}

pub(crate) fn namespace(name: &str) -> String {
    format!("---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}\n")
}

pub(crate) fn node(name: &str, ips: &[IpAddr]) -> String {
    let addresses: Vec<String> = ips.iter().map(|ip| format!("{{ type: InternalIP, address: \"{ip}\" }}")).collect();
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\nstatus: {{ addresses: [ {} ] }}\n",
        addresses.join(", ")
    )
}

/// `subject` takes TCP 8080 from `peer`, both by their `app`.
pub(crate) fn allow(namespace: &str, name: &str, subject: &str, peer: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: {subject} }} }}\n  policyTypes: [Ingress]\n  ingress:\n  \
         - from: [ {{ podSelector: {{ matchLabels: {{ app: {peer} }} }} }} ]\n    ports: [ {{ port: 8080 }} ]\n"
    )
}

/// `subject` takes TCP 8080 from every pod of every namespace.
pub(crate) fn allow_everyone(namespace: &str, name: &str, subject: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: {subject} }} }}\n  policyTypes: [Ingress]\n  ingress:\n  \
         - from: [ {{ namespaceSelector: {{}} }} ]\n    ports: [ {{ port: 8080 }} ]\n"
    )
}

/// The cluster's resolver, by the label that it has everywhere.
pub(crate) fn resolver(name: &str, node: &str, ip: IpAddr) -> String {
    pod("kube-system", name, "dns", node, ip).replace("app: dns,", "app: dns, k8s-app: kube-dns,")
}

/// `subject` may look up the names of a pattern, and reach what they lead to.
pub(crate) fn to_names(namespace: &str, name: &str, subject: &str, pattern: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: {subject} }} }}\n  policyTypes: [ Egress ]\n  egress:\n  \
         - to: [ {{ fqdns: [ {{ matchPattern: \"{pattern}\" }} ] }} ]\n"
    )
}
