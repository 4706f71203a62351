//! Services, as far as policies are mistaken about them.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_crds::value::Node;
use sluice_crds::{Document, Value};
use sluice_policy::Protocol;
use sluice_policy::label::{Labels, Requirement, Selector};
use sluice_policy::source::{Namespaces, PodSelector};

#[derive(Debug)]
pub(super) struct Service {
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) labels: Labels,
    /// `None`: it selects no pods.
    pub(super) selector: Option<PodSelector>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) ports: Vec<ServicePort>,
}

#[derive(Debug)]
pub(super) struct ServicePort {
    pub(super) protocol: Protocol,
    pub(super) port: u16,
    /// A number, or the name of a port of the pods.
    pub(super) target: Target,
}

#[derive(Debug)]
pub(super) enum Target {
    Number(u16),
    Name(Arc<str>),
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

impl Service {
    /// Reads a `v1` Service; `None` for other kinds. What is wrong with it is for the reader of manifests to say.
    pub(super) fn read(document: &Document) -> Option<Self> {
        let object = &document.value;
        let text = |value: &Value, field: &str| value.get(field).and_then(Value::as_arc_str).cloned();
        if (text(object, "apiVersion")?, text(object, "kind")?) != ("v1".into(), "Service".into()) {
            return None;
        }
        let metadata = object.get("metadata")?;
        let namespace = text(metadata, "namespace").unwrap_or_else(|| "default".into());
        let spec = object.get("spec");
        let labels = pairs(metadata.get("labels"));
        let selector = pairs(spec.and_then(|spec| spec.get("selector")));
        let requirements = selector.iter().map(|(key, value)| Requirement::equals(key, value));
        let selector = (!selector.is_empty())
            .then(|| PodSelector { namespaces: Namespaces::Named(namespace.clone()), pods: Selector::new(requirements) });
        let one = spec.and_then(|spec| spec.get("clusterIP"));
        let more = spec.and_then(|spec| spec.get("clusterIPs")).and_then(Value::as_list).unwrap_or_default();
        let mut addresses: Vec<IpAddr> = one.into_iter().chain(more).filter_map(|ip| ip.as_str()?.parse().ok()).collect();
        addresses.dedup();
        let ports = spec.and_then(|spec| spec.get("ports")).and_then(Value::as_list).unwrap_or_default();
        let ports = ports.iter().filter_map(port).collect();
        Some(Self { name: text(metadata, "name")?, namespace, labels, selector, addresses, ports })
    }
}

fn port(value: &Value) -> Option<ServicePort> {
    let number = |value: &Value| match value.node {
        Node::Int(number) => u16::try_from(number).ok(),
        _ => None,
    };
    let protocol = match value.get("protocol").and_then(Value::as_str) {
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let port = number(value.get("port")?)?;
    let target = match value.get("targetPort") {
        None => Target::Number(port),
        Some(target) => match target.as_arc_str() {
            Some(name) => Target::Name(name.clone()),
            None => Target::Number(number(target)?),
        },
    };
    Some(ServicePort { protocol, port, target })
}

fn pairs(value: Option<&Value>) -> Labels {
    let map = value.and_then(Value::as_map);
    map.into_iter().flatten().filter_map(|entry| Some((entry.key.clone(), entry.value.as_arc_str()?.clone()))).collect()
}
