//! Pods: labels, addresses, node, phase and named ports.

use std::net::IpAddr;
use std::sync::Arc;

use sluice_policy::source::{NamedPort, Pod, PodRef};

use crate::address::address;
use crate::diagnostic::{At, Report};
use crate::field::{Reading, list, mapping, text, truth};
use crate::metadata::Metadata;
use crate::port;
use crate::value::Value;

/// Reads a Pod. `Err` where its labels, its network or its phase can't be read: nobody could say which policies select it.
/// Then what was known of it stays, or its address is that of an unknown pod, which is closed.
pub(crate) fn pod(object: &Value, metadata: Metadata, report: &mut Report) -> Reading<Pod> {
    let root = At::root(object.line);
    let labels = metadata.labels?;
    let (mut host_network, mut node, mut service_account, mut ports) = (false, None, None, Vec::new());
    if let Some(spec) = object.get("spec") {
        let at = root.field("spec", spec.line);
        mapping(spec, at, report)?;
        if let Some(value) = spec.get("hostNetwork") {
            host_network = truth(value, at.field("hostNetwork", value.line), report)?;
        }
        if let Some(value) = spec.get("nodeName") {
            let name = text(value, at.field("nodeName", value.line), report)?;
            node = Some(name.clone()).filter(|n| !n.is_empty());
        }
        if let Some(value) = spec.get("serviceAccountName").or_else(|| spec.get("serviceAccount")) {
            let name = text(value, at.field("serviceAccountName", value.line), report)?;
            service_account = Some(name.clone()).filter(|n| !n.is_empty());
        }
        for (list_name, all) in [("containers", true), ("initContainers", false)] {
            named_ports(spec, list_name, all, at, &mut ports, report);
        }
    }
    let (mut ips, mut finished) = (Vec::new(), false);
    if let Some(status) = object.get("status") {
        let at = root.field("status", status.line);
        mapping(status, at, report)?;
        if let Some(value) = status.get("phase") {
            finished = matches!(&**text(value, at.field("phase", value.line), report)?, "Succeeded" | "Failed");
        }
        ips = addresses(status, at, report);
    }
    Ok(Pod {
        reference: PodRef { namespace: metadata.namespace, name: metadata.name },
        labels,
        ips,
        node,
        host_network,
        finished,
        service_account: service_account.unwrap_or_else(|| "default".into()),
        ports,
    })
}

/// `podIPs`, and `podIP` where it is the only one. An address that can't be read is left out.
fn addresses(status: &Value, at: At<'_>, report: &mut Report) -> Vec<IpAddr> {
    let mut ips: Vec<IpAddr> = Vec::new();
    let mut take = |value: &Value, at: At<'_>, report: &mut Report| {
        // The API writes "" while there is no address yet.
        if value.as_str() != Some("")
            && let Ok(ip) = address(value, at, report)
            && !ips.contains(&ip)
        {
            ips.push(ip);
        }
    };
    if let Some(value) = status.get("podIP") {
        take(value, at.field("podIP", value.line), report);
    }
    if let Some(value) = status.get("podIPs") {
        let at = at.field("podIPs", value.line);
        for (i, entry) in list(value, at, report).unwrap_or_default().iter().enumerate() {
            let at = at.index(i, entry.line);
            match entry.get("ip") {
                Some(value) => take(value, at.field("ip", value.line), report),
                None => report.error(at, "an entry without ip", "write - ip: 10.0.0.1"),
            }
        }
    }
    ips
}

/// The ports that have a name. Of the init containers only sidecars (`restartPolicy: Always`) run beside the pod's own.
/// Of two ports of the same name and protocol the first counts, as for the API.
fn named_ports(spec: &Value, list_name: &str, all: bool, at: At<'_>, ports: &mut Vec<NamedPort>, report: &mut Report) {
    let Some(value) = spec.get(list_name) else { return };
    let at = at.field(list_name, value.line);
    for (i, container) in list(value, at, report).unwrap_or_default().iter().enumerate() {
        if !all && container.get("restartPolicy").and_then(Value::as_str) != Some("Always") {
            continue;
        }
        let Some(value) = container.get("ports") else { continue };
        let at = at.index(i, container.line);
        let at = at.field("ports", value.line);
        for (i, entry) in list(value, at, report).unwrap_or_default().iter().enumerate() {
            if let Ok(Some(port)) = named_port(entry, at.index(i, entry.line), report)
                && !ports.iter().any(|p| p.name == port.name && p.protocol == port.protocol)
            {
                ports.push(port);
            }
        }
    }
}

fn named_port(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Option<NamedPort>> {
    let map = mapping(value, at, report)?;
    let Some(name) = map.get("name").filter(|n| n.as_str() != Some("")) else { return Ok(None) };
    let name: Arc<str> = port::name(name, at.field("name", name.line), report)?;
    let protocol = port::protocol(map, at, report)?;
    match map.get("containerPort") {
        Some(value) => {
            let port = port::number(value, at.field("containerPort", value.line), report)?;
            Ok(Some(NamedPort { name, protocol, port }))
        }
        None => {
            report.error(at.field("containerPort", value.line), "missing", "write a number from 1 to 65535");
            Ok(None)
        }
    }
}
