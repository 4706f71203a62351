//! `metadata`: name, namespace and labels.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use sluice_policy::label::Labels;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, mapping, text};
use crate::syntax;
use crate::value::{Node, Value, quoted};

/// Where an object of a namespaced kind belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    Namespaced,
    Cluster,
}

/// Who an object is.
pub(crate) struct Metadata {
    /// Empty for the cluster kinds.
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// `Err`: some label can't be read, so that nothing can be said about who is selected.
    pub(crate) labels: Reading<Labels>,
}

/// Reads `metadata`. `Err`: nobody can say which object this is.
pub(crate) fn read(object: &Value, scope: Scope, report: &mut Report) -> Reading<Metadata> {
    let root = At::root(object.line);
    let Some(value) = object.get("metadata") else {
        report.error(root.field("metadata", object.line), "missing", "name the object: metadata: { name: ... }");
        return Err(Unreadable);
    };
    let at = root.field("metadata", value.line);
    mapping(value, at, report)?;
    let name = name(value, at, report)?;
    if !syntax::is_subdomain(&name) {
        let message = format!("{} is no name the API server takes", quoted(&name));
        report.error(at.field("name", value.line), message, "use lower-case letters, digits, - and . only");
    }
    let namespace = match (scope, value.get("namespace")) {
        (Scope::Cluster, _) => "".into(),
        (Scope::Namespaced, None) => "default".into(),
        (Scope::Namespaced, Some(ns)) => {
            let at = at.field("namespace", ns.line);
            let ns = text(ns, at, report)?;
            // The API takes an empty namespace for an absent one.
            if ns.is_empty() {
                "default".into()
            } else if syntax::is_dns_label(ns) {
                ns.clone()
            } else {
                let message = format!("{} is no namespace's name", quoted(ns));
                report.error(at, message, "use lower-case letters, digits and - only, at most 63");
                return Err(Unreadable);
            }
        }
    };
    let labels = match value.get("labels") {
        None => Ok(Labels::new()),
        Some(value) => labels(value, at.field("labels", value.line), report),
    };
    Ok(Metadata { namespace, name, labels })
}

fn name(metadata: &Value, at: At<'_>, report: &mut Report) -> Reading<Arc<str>> {
    match metadata.get("name") {
        Some(name) => {
            let at = at.field("name", name.line);
            let name = text(name, at, report)?;
            if name.is_empty() {
                report.error(at, "empty", "name the object");
                return Err(Unreadable);
            }
            Ok(name.clone())
        }
        None => {
            report.error(at.field("name", metadata.line), "missing", "name the object");
            Err(Unreadable)
        }
    }
}

/// The namespace alone, for a policy whose other metadata can't be read. `None`: it can't be told.
pub(crate) fn namespace_of(object: &Value) -> Option<Arc<str>> {
    let Some(metadata) = object.get("metadata") else { return Some("default".into()) };
    match metadata.as_map()?.get("namespace") {
        None => Some("default".into()),
        Some(value) => value.as_arc_str().filter(|n| syntax::is_dns_label(n)).cloned(),
    }
}

/// A stand-in for the name of a policy that has none, so that its subjects can be isolated all the same. The same text
/// gives the same name, and two different policies don't replace each other.
pub(crate) fn stand_in_name(object: &Value) -> Arc<str> {
    let mut hasher = DefaultHasher::new();
    hash(object, &mut hasher);
    format!("unnamed-{:016x}", hasher.finish()).into()
}

fn hash(value: &Value, hasher: &mut DefaultHasher) {
    match &value.node {
        Node::Null => 0u8.hash(hasher),
        Node::Bool(b) => b.hash(hasher),
        Node::Int(n) => n.hash(hasher),
        Node::Float(n) => n.to_bits().hash(hasher),
        Node::String(s) => s.hash(hasher),
        Node::List(items) => items.iter().for_each(|v| hash(v, hasher)),
        Node::Map(map) => map.iter().for_each(|e| {
            e.key.hash(hasher);
            hash(&e.value, hasher);
        }),
    }
}

/// A mapping of labels: an object's own, or a selector's `matchLabels`.
pub(crate) fn labels(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Labels> {
    let mut labels = Labels::new();
    let mut answer = Ok(());
    for entry in mapping(value, at, report)? {
        let here = at.field(&entry.key, entry.line);
        if !syntax::is_label_key(&entry.key) {
            let message = format!("{} is no label's key", quoted(&entry.key));
            report.error(here, message, "write name or prefix.example/name, the name at most 63 characters");
            answer = Err(Unreadable);
        }
        match label_value(&entry.value, here, report) {
            Ok(value) => {
                labels.insert(entry.key.clone(), value);
            }
            Err(Unreadable) => answer = Err(Unreadable),
        }
    }
    answer.map(|()| labels)
}

fn label_value(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Arc<str>> {
    if value.is_null() {
        report.warning(at, "nothing is given, which the API reads as the empty text", "write \"\" if that is meant");
        return Ok("".into());
    }
    let text = text(value, at, report)?;
    check_label_value(text, at, report)?;
    Ok(text.clone())
}

pub(crate) fn check_label_value(text: &str, at: At<'_>, report: &mut Report) -> Reading<()> {
    if syntax::is_label_value(text) {
        return Ok(());
    }
    let message = format!("{} is no label's value", quoted(text));
    report.error(at, message, "use at most 63 letters, digits, -, _ and ., beginning and ending with a letter or digit");
    Err(Unreadable)
}
