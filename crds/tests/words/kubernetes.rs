//! Policies of Kubernetes, by their spec.

pub(crate) fn network_policy(spec: &str) -> String {
    format!("{{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {{name: p, namespace: ns}}, spec: {spec}}}")
}
