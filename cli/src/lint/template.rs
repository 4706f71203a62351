//! Pods that don't exist yet: the templates of Deployments and the like. And the ports that containers declare.

use std::sync::Arc;

use sluice_crds::Value;
use sluice_crds::value::Node;
use sluice_policy::Protocol;
use sluice_policy::label::Labels;
use sluice_policy::source::{NamedPort, Pod, PodRef};

/// The pod that a workload would make, without an address; `None` for other kinds, and for one that can't be read.
pub(super) fn pod(object: &Value) -> Option<Pod> {
    let template = template(object)?;
    let metadata = object.get("metadata")?;
    let name = metadata.get("name")?.as_arc_str()?.clone();
    let namespace = metadata.get("namespace").and_then(Value::as_arc_str).cloned().unwrap_or_else(|| "default".into());
    let mut labels = Labels::new();
    if let Some(map) = template.get("metadata").and_then(|m| m.get("labels")).and_then(Value::as_map) {
        for entry in map {
            labels.insert(entry.key.clone(), entry.value.as_arc_str()?.clone());
        }
    }
    let spec = template.get("spec");
    let text = |field: &str| spec.and_then(|spec| spec.get(field)).and_then(Value::as_arc_str).cloned();
    Some(Pod {
        reference: PodRef { namespace, name },
        labels,
        ips: Vec::new(),
        node: None,
        host_network: spec.and_then(|s| s.get("hostNetwork")).is_some_and(|v| v.node == Node::Bool(true)),
        finished: false,
        service_account: text("serviceAccountName").unwrap_or_else(|| "default".into()),
        ports: declared(object).filter_map(|(name, protocol, port)| Some(NamedPort { name: name?, protocol, port })).collect(),
    })
}

/// The pod template of a Deployment, StatefulSet, DaemonSet, ReplicaSet, Job or CronJob.
fn template(object: &Value) -> Option<&Value> {
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    let spec = object.get("spec")?;
    match (text("apiVersion")?, text("kind")?) {
        ("apps/v1", "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet") | ("batch/v1", "Job") => spec.get("template"),
        ("batch/v1", "CronJob") => spec.get("jobTemplate")?.get("spec")?.get("template"),
        _ => None,
    }
}

/// The ports that the containers of a Pod, or of a workload's template, declare.
pub(super) fn container_ports(object: &Value) -> Vec<(Protocol, u16)> {
    let mut ports: Vec<_> = declared(object).map(|(_, protocol, port)| (protocol, port)).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn declared(object: &Value) -> impl Iterator<Item = (Option<Arc<str>>, Protocol, u16)> {
    let spec = template(object).unwrap_or(object).get("spec");
    let containers = ["containers", "initContainers"].into_iter().filter_map(move |list| spec?.get(list)?.as_list()).flatten();
    let ports = containers.filter_map(|container| container.get("ports")?.as_list()).flatten();
    ports.filter_map(|port| {
        let Node::Int(number) = port.get("containerPort")?.node else { return None };
        let protocol = match port.get("protocol").and_then(Value::as_str) {
            Some("UDP") => Protocol::Udp,
            Some("SCTP") => Protocol::Sctp,
            _ => Protocol::Tcp,
        };
        Some((port.get("name").and_then(Value::as_arc_str).cloned(), protocol, u16::try_from(number).ok()?))
    })
}
