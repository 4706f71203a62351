//! Namespaces, nodes and Services. (Pods have a file of their own.)

use std::net::IpAddr;

use ipnet::IpNet;
use sluice_policy::label::Labels;
use sluice_policy::source::{Namespace, Node};

use crate::address::{address, block};
use crate::diagnostic::{At, Report};
use crate::field::{Reading, list, mapping, text};
use crate::metadata::Metadata;
use crate::port;
use crate::value::Value;

/// The label that the API server puts on every namespace.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

pub(crate) fn namespace(metadata: Metadata) -> Reading<Namespace> {
    let name = metadata.name;
    let mut labels = metadata.labels?;
    labels.insert(NAME_LABEL.into(), name.clone());
    Ok(Namespace { name, labels })
}

/// Reads a Node. An address that can't be read is left out: the node then reaches its pods by its others only.
pub(crate) fn node(object: &Value, metadata: Metadata, report: &mut Report) -> Node {
    // Nodes are selected by nothing yet, so unreadable labels (reported) cost nothing else.
    let labels = metadata.labels.unwrap_or_else(|_| Labels::new());
    Node { name: metadata.name, labels, ips: node_addresses(object, report), pod_cidrs: pod_cidrs(object, report) }
}

fn node_addresses(object: &Value, report: &mut Report) -> Vec<IpAddr> {
    let mut ips = Vec::new();
    let Some(value) = object.get("status").and_then(|s| s.get("addresses")) else { return ips };
    let (root, line) = (At::root(object.line), value.line);
    let status = root.field("status", line);
    let at = status.field("addresses", line);
    let Ok(entries) = list(value, at, report) else { return ips };
    for (i, entry) in entries.iter().enumerate() {
        let at = at.index(i, entry.line);
        let kind = entry.get("type").and_then(Value::as_str);
        if !matches!(kind, Some("InternalIP" | "ExternalIP")) {
            continue;
        }
        let Some(value) = entry.get("address") else { continue };
        if let Ok(ip) = address(value, at.field("address", value.line), report)
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    }
    ips
}

fn pod_cidrs(object: &Value, report: &mut Report) -> Vec<IpNet> {
    let mut cidrs = Vec::new();
    let Some(spec) = object.get("spec") else { return cidrs };
    let root = At::root(object.line);
    let at = root.field("spec", spec.line);
    let mut take = |value: &Value, at: At<'_>, report: &mut Report| {
        if let Ok(cidr) = block(value, at, report)
            && !cidrs.contains(&cidr)
        {
            cidrs.push(cidr);
        }
    };
    if let Some(value) = spec.get("podCIDR") {
        take(value, at.field("podCIDR", value.line), report);
    }
    if let Some(value) = spec.get("podCIDRs") {
        let at = at.field("podCIDRs", value.line);
        for (i, value) in list(value, at, report).unwrap_or_default().iter().enumerate() {
            take(value, at.index(i, value.line), report);
        }
    }
    cidrs
}

/// Checks a Service. Policies never name one (translation comes first), so nothing is made of it.
pub(crate) fn check_service(object: &Value, report: &mut Report) {
    let Some(spec) = object.get("spec") else { return };
    let root = At::root(object.line);
    let at = root.field("spec", spec.line);
    if mapping(spec, at, report).is_err() {
        return;
    }
    if let Some(value) = spec.get("clusterIP")
        && !matches!(value.as_str(), Some("None" | ""))
    {
        // A fault is reported and has no further consequence.
        let _ = address(value, at.field("clusterIP", value.line), report);
    }
    let Some(value) = spec.get("ports") else { return };
    let at = at.field("ports", value.line);
    for (i, entry) in list(value, at, report).unwrap_or_default().iter().enumerate() {
        let at = at.index(i, entry.line);
        let Ok(map) = mapping(entry, at, report) else { continue };
        let _ = port::protocol(map, at, report);
        match map.get("port") {
            Some(value) => {
                let _ = port::number(value, at.field("port", value.line), report);
            }
            None => report.error(at.field("port", entry.line), "missing", "write a number from 1 to 65535"),
        }
        if let Some(value) = map.get("name") {
            let _ = text(value, at.field("name", value.line), report);
        }
    }
}
