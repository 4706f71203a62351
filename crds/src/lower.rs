//! One object as it was written, lowered to what the engine knows.

use sluice_policy::source::{Key, Object, PodRef, PolicyKind, PolicyRef};

use crate::diagnostic::{At, Diagnostic, Report};
use crate::field::{Reading, Unreadable};
use crate::manifest::{Document, describe};
use crate::metadata::{self, Metadata, Scope};
use crate::value::{Value, quoted};
use crate::{cluster_policy, inventory, pod, policy};

/// What became of one object.
#[derive(Clone, Debug, Default)]
pub struct Lowered {
    /// What was understood. `None` with a `key`: nothing, and what was understood of that object before should stay in force.
    /// `None` without a `key`: nothing to do with policy, or nobody can say which object it is (then there is an error).
    pub object: Option<Object>,
    pub key: Option<Key>,
    pub diagnostics: Vec<Diagnostic>,
}

impl Lowered {
    /// Whether the API server would accept the object, as far as fields that we read are concerned: no error was found.
    pub fn is_valid(&self) -> bool {
        self.diagnostics.iter().all(|d| d.severity < crate::Severity::Error)
    }
}

/// Lowers a document; its diagnostics name the document's file.
pub fn lower_document(document: &Document) -> Lowered {
    let mut lowered = lower(&document.value);
    for diagnostic in &mut lowered.diagnostics {
        diagnostic.source = Some(document.source.clone());
    }
    lowered
}

/// Lowers one object. Total: anything at all gives an answer.
pub fn lower(object: &Value) -> Lowered {
    let mut report = Report::default();
    let lowered = match kind_of(object, &mut report) {
        Ok(Some(kind)) => lower_kind(object, kind, &mut report),
        Ok(None) | Err(Unreadable) => Lowered::default(),
    };
    Lowered { diagnostics: report.finish(|| describe(object).into()), ..lowered }
}

#[derive(Clone, Copy)]
enum Kind {
    Namespace,
    Pod,
    Node,
    Service,
    NetworkPolicy,
    SluiceNetworkPolicy,
    /// Of the cluster: Kubernetes' or ours.
    ClusterPolicy(PolicyKind),
}

/// Which kind this is; `Ok(None)`: none of those that matter here.
fn kind_of(object: &Value, report: &mut Report) -> Reading<Option<Kind>> {
    let root = At::root(object.line);
    if object.as_map().is_none() {
        let message = format!("{} where an object belongs", object.describe());
        report.error(root, message, "write a mapping with apiVersion and kind");
        return Err(Unreadable);
    }
    let mut required = |name: &'static str| match object.get(name) {
        Some(value) => crate::field::text(value, root.field(name, value.line), report).map(|s| &**s),
        None => {
            report.error(root.field(name, object.line), "missing", "every object has apiVersion and kind");
            Err(Unreadable)
        }
    };
    let (api_version, kind) = (required("apiVersion")?, required("kind")?);
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    let (known, want) = match (group, kind) {
        ("", "Namespace") => (Kind::Namespace, "v1"),
        ("", "Pod") => (Kind::Pod, "v1"),
        ("", "Node") => (Kind::Node, "v1"),
        ("", "Service") => (Kind::Service, "v1"),
        ("networking.k8s.io" | "extensions" | "", "NetworkPolicy") => (Kind::NetworkPolicy, "networking.k8s.io/v1"),
        ("sluice.dev" | "", "SluiceNetworkPolicy") => (Kind::SluiceNetworkPolicy, "sluice.dev/v1alpha1"),
        ("sluice.dev" | "", "SluiceClusterNetworkPolicy") => {
            (Kind::ClusterPolicy(PolicyKind::SluiceClusterNetworkPolicy), "sluice.dev/v1alpha1")
        }
        ("policy.networking.k8s.io", "ClusterNetworkPolicy") => {
            (Kind::ClusterPolicy(PolicyKind::ClusterNetworkPolicy), "policy.networking.k8s.io/v1alpha2")
        }
        ("sluice.dev", other) => {
            let message = format!("{} is no kind of sluice.dev", quoted(other));
            report.error(root.field("kind", object.line), message, "write SluiceNetworkPolicy or SluiceClusterNetworkPolicy");
            return Err(Unreadable);
        }
        _ => return Ok(None),
    };
    // Read all the same: a policy that no cluster would take must not be one that isolates nobody unnoticed.
    if api_version != want {
        let message = format!("{} of {kind} is not known", quoted(api_version));
        report.error(root.field("apiVersion", object.line), message, format!("write {want}"));
    }
    Ok(Some(known))
}

fn lower_kind(object: &Value, kind: Kind, report: &mut Report) -> Lowered {
    let scope = match kind {
        Kind::Namespace | Kind::Node | Kind::ClusterPolicy(_) => Scope::Cluster,
        _ => Scope::Namespaced,
    };
    let metadata = metadata::read(object, scope, report);
    match kind {
        Kind::NetworkPolicy => lower_policy(object, PolicyKind::NetworkPolicy, metadata, report),
        Kind::SluiceNetworkPolicy => lower_policy(object, PolicyKind::SluiceNetworkPolicy, metadata, report),
        Kind::ClusterPolicy(kind) => match metadata {
            Ok(metadata) => lower_cluster_policy(object, kind, metadata, report),
            Err(Unreadable) => Lowered::default(),
        },
        Kind::Service => {
            inventory::check_service(object, report);
            Lowered::default()
        }
        Kind::Namespace | Kind::Pod | Kind::Node => match metadata {
            Ok(metadata) => lower_inventory(object, kind, metadata, report),
            Err(Unreadable) => Lowered::default(),
        },
    }
}

fn lower_inventory(object: &Value, kind: Kind, metadata: Metadata, report: &mut Report) -> Lowered {
    let name = metadata.name.clone();
    let (key, object) = match kind {
        Kind::Namespace => (Key::Namespace(name), inventory::namespace(metadata).map(Object::Namespace)),
        Kind::Node => (Key::Node(name), Ok(Object::Node(inventory::node(object, metadata, report)))),
        _ => {
            let key = Key::Pod(PodRef { namespace: metadata.namespace.clone(), name });
            (key, pod::pod(object, metadata, report).map(Object::Pod))
        }
    };
    Lowered { object: object.ok(), key: Some(key), diagnostics: Vec::new() }
}

/// A policy whose name can't be read isolates its subjects all the same, under a name made from its text. One whose namespace
/// can't be read is refused: nobody can say whom it isolates.
fn lower_policy(object: &Value, kind: PolicyKind, metadata: Reading<Metadata>, report: &mut Report) -> Lowered {
    let reference = match metadata {
        Ok(m) => PolicyRef { kind, namespace: m.namespace, name: m.name },
        Err(Unreadable) => match metadata::namespace_of(object) {
            Some(namespace) => PolicyRef { kind, namespace, name: metadata::stand_in_name(object) },
            None => return Lowered::default(),
        },
    };
    let key = Some(Key::Policy(reference.clone()));
    let policy = policy::policy(object, reference, report).ok();
    Lowered { object: policy.map(Object::Policy), key, diagnostics: Vec::new() }
}

/// A cluster policy that can't be read is refused: nobody can say whom it would close.
fn lower_cluster_policy(object: &Value, kind: PolicyKind, metadata: Metadata, report: &mut Report) -> Lowered {
    let reference = PolicyRef { kind, namespace: "".into(), name: metadata.name };
    let key = Some(Key::Policy(reference.clone()));
    let policy = match kind {
        PolicyKind::ClusterNetworkPolicy => cluster_policy::cluster_policy(object, reference, report),
        _ => policy::policy(object, reference, report),
    };
    let policy = policy.ok();
    if policy.is_none() {
        let at = At::root(object.line);
        report.error(
            at,
            "the policy is refused",
            "mend it; its last version that could be read stays in force, if there was one",
        );
    }
    Lowered { object: policy.map(Object::Policy), key, diagnostics: Vec::new() }
}
