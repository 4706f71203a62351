//! The corpus as it is written.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use sluice_policy::label::Labels;
use sluice_policy::source::{NamedPort, Node, Pod, PodRef};
use sluice_policy::verdict::Decision;
use sluice_policy::{IcmpMessage, Protocol};

use super::{Contents, HttpProbe, LookupProbe};

#[derive(Deserialize)]
pub(super) struct Case {
    pub(super) name: String,
    pub(super) family: String,
    pub(super) title: String,
    #[serde(default)]
    pub(super) tags: Vec<String>,
    pub(super) now: Option<String>,
    pub(super) namespaces: Vec<Namespace>,
    #[serde(default)]
    pub(super) pods: Vec<WrittenPod>,
    #[serde(default)]
    pub(super) nodes: Vec<WrittenNode>,
    #[serde(default)]
    pub(super) domains: BTreeMap<String, Vec<IpAddr>>,
    #[serde(default)]
    pub(super) policies: Vec<serde_json::Value>,
    #[serde(default)]
    pub(super) probes: Vec<Probe>,
    #[serde(default)]
    pub(super) tables: Vec<Table>,
    #[serde(default)]
    pub(super) steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Namespace {
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenPod {
    pub(super) ns: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ip: IpAddr,
    #[serde(default)]
    ips: Vec<IpAddr>,
    node: Option<String>,
    #[serde(default, rename = "hostNetwork")]
    host_network: bool,
    phase: Option<String>,
    #[serde(rename = "serviceAccount")]
    service_account: Option<String>,
    #[serde(default)]
    ports: Vec<Port>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Port {
    name: Option<String>,
    port: u16,
    protocol: Protocol,
}

impl WrittenPod {
    pub(super) fn reference(&self) -> PodRef {
        PodRef { namespace: self.ns.as_str().into(), name: self.name.as_str().into() }
    }

    pub(super) fn to_source(&self) -> Pod {
        let ips = if self.ips.is_empty() { vec![self.ip] } else { self.ips.clone() };
        let named = |p: &Port| {
            let name = p.name.as_deref()?.into();
            Some(NamedPort { name, protocol: p.protocol, port: p.port })
        };
        Pod {
            reference: self.reference(),
            labels: labels(&self.labels),
            ips,
            node: self.node.as_deref().map(Arc::from),
            host_network: self.host_network,
            finished: matches!(self.phase.as_deref(), Some("Succeeded" | "Failed")),
            service_account: self.service_account.as_deref().unwrap_or("default").into(),
            ports: self.ports.iter().filter_map(named).collect(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WrittenNode {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    ips: Vec<IpAddr>,
}

impl WrittenNode {
    pub(super) fn to_source(&self) -> Node {
        Node { name: self.name.as_str().into(), labels: labels(&self.labels), ips: self.ips.clone(), pod_cidrs: Vec::new() }
    }
}

pub(super) fn labels(written: &BTreeMap<String, String>) -> Labels {
    written.iter().map(|(k, v)| (Arc::from(k.as_str()), Arc::from(v.as_str()))).collect()
}

/// Unknown fields are let pass: the shared corpus keeps a peer's own expectation beside its own.
#[derive(Deserialize)]
pub(super) struct Probe {
    pub(super) from: End,
    pub(super) to: End,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) icmp: Option<IcmpMessage>,
    http: Option<HttpProbe>,
    tls: Option<Tls>,
    lookup: Option<LookupProbe>,
    #[serde(default)]
    opaque: bool,
    pub(super) expect: Expect,
    pub(super) audit: Option<Expect>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Tls {
    server_name: Option<String>,
}

impl Probe {
    pub(super) fn contents(&self) -> Result<Option<Contents>, String> {
        let http = self.http.clone().map(Contents::Http);
        let tls = self.tls.as_ref().map(|tls| Contents::Tls { server_name: tls.server_name.clone() });
        let lookup = self.lookup.clone().map(Contents::Lookup);
        let mut given = [http, tls, lookup, self.opaque.then_some(Contents::Opaque)].into_iter().flatten();
        match (given.next(), given.next()) {
            (contents, None) => Ok(contents),
            _ => Err("a probe has one of http, tls, lookup and opaque".to_owned()),
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
    L7,
}

impl From<Expect> for Decision {
    fn from(expect: Expect) -> Self {
        match expect {
            Expect::Allow => Self::Allow,
            Expect::Deny => Self::Deny,
            Expect::L7 => Self::Inspect,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) ns: Option<String>,
    pub(super) pod: Option<String>,
    pub(super) ip: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) on: Vec<On>,
    pub(super) order: Vec<String>,
    pub(super) rows: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct On {
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) now: Option<String>,
    pub(super) actions: Vec<Action>,
    #[serde(default)]
    pub(super) probes: Vec<Probe>,
    #[serde(default)]
    pub(super) tables: Vec<Table>,
}

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum Action {
    CreatePolicy {
        policy: serde_json::Value,
    },
    UpdatePolicy {
        policy: serde_json::Value,
    },
    DeletePolicy {
        #[serde(default = "network_policy")]
        kind: String,
        ns: Option<String>,
        name: String,
    },
    CreateNamespace {
        ns: String,
        #[serde(default)]
        labels: BTreeMap<String, String>,
    },
    SetNamespaceLabels {
        ns: String,
        labels: BTreeMap<String, String>,
    },
    DeleteNamespace {
        ns: String,
    },
    CreatePod {
        pod: WrittenPod,
    },
    SetPodLabels {
        ns: String,
        name: String,
        labels: BTreeMap<String, String>,
    },
    DeletePod {
        ns: String,
        name: String,
    },
}

fn network_policy() -> String {
    "NetworkPolicy".to_owned()
}
