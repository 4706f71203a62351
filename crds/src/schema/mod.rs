//! The CustomResourceDefinitions of our kinds, as `crds/*.yaml` has them (`crdgen` writes them).
//!
//! The API server checks by these schemas what it can check in bounded time, with the messages that the reader of files has; the
//! reader looks closer, and what it finds wrong the policy's status says.

mod build;
mod l7;
mod rule;
mod selector;
mod status;

use serde_json::{Value, json};

use crate::bounds::MAX_DIRECTION_RULES;
use build::Schema;

/// A CustomResourceDefinition and the file it stands in.
#[derive(Clone, Debug)]
pub struct Definition {
    /// Below `crds/`: `sluice.dev_sluicenetworkpolicies.yaml`.
    pub file: String,
    pub object: Value,
}

impl Definition {
    /// As it stands in its file.
    pub fn yaml(&self) -> String {
        let yaml = serde_saphyr::to_string(&self.object).expect("a tree of texts, numbers and lists can be written");
        format!("# Written by crdgen. Change crds/src/schema instead.\n{yaml}")
    }
}

/// Both of our kinds.
pub fn definitions() -> [Definition; 2] {
    [
        definition(&Kind {
            kind: "SluiceNetworkPolicy",
            plural: "sluicenetworkpolicies",
            short: "snp",
            scope: "Namespaced",
            description: "What pods of one namespace may receive and send: a NetworkPolicy with more to say.",
            spec: namespaced_spec(),
        }),
        definition(&Kind {
            kind: "SluiceClusterNetworkPolicy",
            plural: "sluiceclusternetworkpolicies",
            short: "scnp",
            scope: "Cluster",
            description: "What pods of any namespace may receive and send.",
            spec: cluster_spec(),
        }),
    ]
}

struct Kind {
    kind: &'static str,
    plural: &'static str,
    short: &'static str,
    scope: &'static str,
    description: &'static str,
    spec: Schema,
}

fn definition(kind: &Kind) -> Definition {
    let schema = Schema::object(
        kind.description,
        [
            ("apiVersion", Schema::text("sluice.dev/v1alpha1")),
            ("kind", Schema::text(kind.kind)),
            ("metadata", Schema::known_object()),
            ("spec", kind.spec.clone()),
            ("status", status::status()),
        ],
    );
    let schema = match kind.scope {
        // What an absent spec would be about, nobody can say.
        "Cluster" => schema.required(&["spec"]),
        _ => schema,
    };
    let column = |name: &str, description: &str, path: &str, kind: &str| json!({ "name": name, "description": description, "jsonPath": path, "type": kind });
    let object = json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.sluice.dev", kind.plural) },
        "spec": {
            "group": "sluice.dev",
            "names": {
                "kind": kind.kind,
                "listKind": format!("{}List", kind.kind),
                "plural": kind.plural,
                "singular": kind.kind.to_lowercase(),
                "shortNames": [kind.short],
                "categories": ["sluice"],
            },
            "scope": kind.scope,
            "versions": [{
                "name": "v1alpha1",
                "served": true,
                "storage": true,
                "additionalPrinterColumns": [
                    column("Enforcement", "Enforce or Audit", ".spec.enforcement", "string"),
                    column("Programmed", "Nodes that have the policy in force, of those that need it", ".status.programmed", "string"),
                    column("Age", "Since when there is the object", ".metadata.creationTimestamp", "date"),
                ],
                "schema": { "openAPIV3Schema": schema.done() },
                "subresources": { "status": {} },
            }],
        },
    });
    Definition { file: format!("sluice.dev_{}.yaml", kind.plural), object }
}

fn namespaced_spec() -> Schema {
    let pods = selector::selector("Whom the policy is about: pods of its namespace. Absent or {}: all of them.");
    spec("SluiceNetworkPolicy", vec![("podSelector", pods)])
}

fn cluster_spec() -> Schema {
    let namespaces = selector::selector(
        "Whom the policy is about: pods of these namespaces. {}: all of them. Absent: all, by podSelector alone.",
    );
    let pods = selector::selector("Whom the policy is about: pods with these labels. Absent: all of the namespaces.");
    spec("SluiceClusterNetworkPolicy", vec![("namespaceSelector", namespaces), ("podSelector", pods)])
        .rule("has(self.namespaceSelector) || has(self.podSelector)", "whom is it about?")
}

fn spec(kind: &str, subject: Vec<build::Property>) -> Schema {
    let types = Schema::word("Ingress or Egress.", &["Ingress", "Egress"]);
    let context = if kind == "SluiceNetworkPolicy" { rule::Home::Namespace } else { rule::Home::Cluster };
    let mut fields = subject;
    fields.extend([
        (
            "policyTypes",
            Schema::list(
                "The directions in which the policy isolates: what no rule of any policy allows is denied. Absent: Ingress, and Egress if there are \
                 egress rules.",
                2,
                types,
            )
            .set(),
        ),
        (
            "enforcement",
            Schema::word(
                "Enforce, or Audit: such a policy neither allows nor isolates, and where it would have changed a verdict the flow's record says so.",
                &["Enforce", "Audit"],
            )
            .default("Enforce"),
        ),
        (
            "expires",
            Schema::text("The time after which the policy is as if absent (RFC 3339), like 2027-01-31T00:00:00Z.").with("format", "date-time"),
        ),
        (
            "ingress",
            Schema::list("What the pods may receive. Rules with action Deny are judged before all others.", MAX_DIRECTION_RULES, rule::ingress(context)).atomic(),
        ),
        (
            "egress",
            Schema::list("What the pods may send. Rules with action Deny are judged before all others.", MAX_DIRECTION_RULES, rule::egress(context)).atomic(),
        ),
    ]);
    Schema::object("What is allowed and denied, and to whom.", fields).keeps_unknown()
}
