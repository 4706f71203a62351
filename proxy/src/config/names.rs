//! What the configuration says of look-ups and names: `dns` and `nameCheck`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use sluice_feed::wire;
use sluice_policy::table::{self, NameSettings};

use super::{Config, ConfigError};
use crate::dns::{self, service::Settings};
use crate::names::Limits;

/// A year. A longer TTL is a mistake, and so is a setting.
const MOST_SECONDS: u32 = 366 * 86_400;

/// Look-ups, and how long their answers are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Dns {
    /// Where a pod may look up the names of its `fqdns` rules without a further rule: the cluster's resolvers. None: nowhere.
    pub resolvers: Vec<Resolver>,
    /// A shorter TTL counts as this.
    #[serde(rename = "minTTLSeconds")]
    pub min_ttl_seconds: u32,
    /// A longer TTL counts as this. No less than `minTTLSeconds`.
    #[serde(rename = "maxTTLSeconds")]
    pub max_ttl_seconds: u32,
    /// How long an address stays open beyond its TTL, for clients that keep answers too long (as the JVM does).
    pub grace_seconds: u32,
    /// How a look-up that policy denies is answered.
    pub deny_with: DenyWith,
    /// Longest wait for a resolver. Clients give up after five seconds, so it is less: they are to hear why.
    pub upstream_timeout_ms: u32,
    /// Names that are held for one pod. Beyond, the one that expires soonest goes, and its addresses are closed to new connections.
    pub names_per_pod: u32,
    /// Addresses that are held for one name of one pod, also where each answer gives another one. Beyond, the one that expires soonest goes.
    pub addresses_per_name: u32,
    /// Queries by datagram that are taken of one pod. Beyond, the kernel drops them: they would push others' out of the queue.
    pub queries_per_second_per_pod: u32,
}

/// A resolver of the cluster: `{ip}`, or the pods that `{namespace, podSelector}` selects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "ResolverFields", into = "ResolverFields")]
pub enum Resolver {
    Ip(IpAddr),
    Pods { namespace: String, pod_selector: PodSelector },
}

/// Pods by their labels. An empty one selects every pod of its namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PodSelector {
    /// All of these labels, with these values.
    pub match_labels: BTreeMap<String, String>,
}

/// As it is written.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ResolverFields {
    #[serde(skip_serializing_if = "Option::is_none")]
    ip: Option<IpAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_selector: Option<PodSelector>,
}

/// How a look-up that policy denies is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DenyWith {
    /// The server doesn't answer this. Some clients ask the next server then.
    #[default]
    Refused,
    /// There is no such name: for clients that give up on REFUSED before they have tried the rest of their search list.
    #[serde(rename = "NXDOMAIN")]
    NxDomain,
}

/// On which connections the name is checked that they ask for, where a rule allows by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct NameCheck {
    /// TCP ports on which the server name of TLS must be a name that the rule allows.
    pub tls_ports: Vec<u16>,
    /// TCP ports on which the Host of each HTTP request must be one.
    pub http_ports: Vec<u16>,
    /// What becomes of UDP to the ports of TLS.
    pub quic: Quic,
}

/// What becomes of QUIC where names are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quic {
    /// The client hears ICMP admin-prohibited, and falls back to TCP.
    #[default]
    Reject,
    /// The server name in its first packets is judged, and what is allowed goes through the proxy.
    Inspect,
}

impl Default for Dns {
    fn default() -> Self {
        let labels = BTreeMap::from([("k8s-app".to_owned(), "kube-dns".to_owned())]);
        let cluster = Resolver::Pods { namespace: "kube-system".to_owned(), pod_selector: PodSelector { match_labels: labels } };
        Self {
            resolvers: vec![cluster],
            min_ttl_seconds: 30,
            max_ttl_seconds: 86_400,
            grace_seconds: 0,
            deny_with: DenyWith::default(),
            upstream_timeout_ms: 4000,
            names_per_pod: 10_000,
            addresses_per_name: 1_000,
            queries_per_second_per_pod: 10_000,
        }
    }
}

impl Default for NameCheck {
    fn default() -> Self {
        Self { tls_ports: vec![443], http_ports: vec![80], quic: Quic::default() }
    }
}

impl Config {
    /// What the engine must know of names.
    pub fn name_settings(&self) -> NameSettings {
        let ip = |resolver: &Resolver| if let Resolver::Ip(ip) = resolver { Some(*ip) } else { None };
        NameSettings {
            checked_ports: self.name_check.tls_ports.iter().chain(&self.name_check.http_ports).copied().collect(),
            quic_ports: self.name_check.tls_ports.iter().copied().collect(),
            quic: match self.name_check.quic {
                Quic::Reject => table::Quic::Reject,
                Quic::Inspect => table::Quic::Inspect,
            },
            resolvers: self.dns.resolvers.iter().filter_map(ip).collect(),
        }
    }
}

impl TryFrom<ResolverFields> for Resolver {
    type Error = &'static str;

    fn try_from(fields: ResolverFields) -> Result<Self, Self::Error> {
        match fields {
            ResolverFields { ip: Some(ip), namespace: None, pod_selector: None } => Ok(Self::Ip(ip)),
            ResolverFields { ip: None, namespace: Some(namespace), pod_selector: Some(pod_selector) } => {
                Ok(Self::Pods { namespace, pod_selector })
            }
            ResolverFields { ip: Some(_), .. } => Err("dns.resolvers: `ip` stands alone, without `namespace` and `podSelector`"),
            ResolverFields { namespace: Some(_), .. } => Err("dns.resolvers: `namespace` without `podSelector`"),
            ResolverFields { pod_selector: Some(_), .. } => Err("dns.resolvers: `podSelector` without `namespace`"),
            _ => Err("dns.resolvers: neither `ip` nor `namespace` and `podSelector`"),
        }
    }
}

impl From<Resolver> for ResolverFields {
    fn from(resolver: Resolver) -> Self {
        match resolver {
            Resolver::Ip(ip) => Self { ip: Some(ip), ..Self::default() },
            Resolver::Pods { namespace, pod_selector } => {
                Self { ip: None, namespace: Some(namespace), pod_selector: Some(pod_selector) }
            }
        }
    }
}

impl From<DenyWith> for dns::DenyWith {
    fn from(with: DenyWith) -> Self {
        match with {
            DenyWith::Refused => Self::Refused,
            DenyWith::NxDomain => Self::NxDomain,
        }
    }
}

fn refuse(key: &'static str, message: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError::Value { key, message: message.into() })
}

impl Dns {
    /// For the store of names.
    pub fn limits(&self) -> Limits {
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        let count = |count: u32| usize::try_from(count).unwrap_or(usize::MAX);
        Limits {
            min_ttl: seconds(self.min_ttl_seconds),
            max_ttl: seconds(self.max_ttl_seconds),
            grace: seconds(self.grace_seconds),
            names_per_pod: count(self.names_per_pod),
            addresses_per_name: count(self.addresses_per_name),
            ..Limits::default()
        }
    }

    /// The bounds of the service that answers look-ups with so many files: half of them for queries, half for connections, two each.
    pub fn service(&self, files: usize) -> Settings {
        let most = Settings::default();
        Settings {
            upstream_timeout: self.upstream_timeout(),
            in_flight: most.in_flight.min(files / 2).max(1),
            connections: most.connections.min(files / 4).max(1),
            ..most
        }
    }

    /// Those of the resolvers that are pods, for the controller.
    pub fn pods_of_resolvers(&self) -> Vec<wire::Resolvers> {
        let pods = |resolver: &Resolver| match resolver {
            Resolver::Pods { namespace, pod_selector } => Some(wire::Resolvers {
                namespace: namespace.clone(),
                labels: pod_selector.match_labels.clone().into_iter().collect(),
            }),
            Resolver::Ip(_) => None,
        };
        self.resolvers.iter().filter_map(pods).collect()
    }

    pub fn upstream_timeout(&self) -> Duration {
        Duration::from_millis(self.upstream_timeout_ms.into())
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let ranges = [
            ("dns.minTTLSeconds", self.min_ttl_seconds, 0, MOST_SECONDS),
            ("dns.maxTTLSeconds", self.max_ttl_seconds, 1, MOST_SECONDS),
            ("dns.graceSeconds", self.grace_seconds, 0, MOST_SECONDS),
            ("dns.upstreamTimeoutMs", self.upstream_timeout_ms, 1, 4999),
            ("dns.namesPerPod", self.names_per_pod, 1, 1_000_000),
            ("dns.queriesPerSecondPerPod", self.queries_per_second_per_pod, 1, 1_000_000),
            ("dns.addressesPerName", self.addresses_per_name, 1, 100_000),
        ];
        if let Some((key, value, least, most)) =
            ranges.into_iter().find(|(_, value, least, most)| !(least..=most).contains(&value))
        {
            return refuse(key, format!("{value} is not between {least} and {most}"));
        }
        if self.max_ttl_seconds < self.min_ttl_seconds {
            let (most, least) = (self.max_ttl_seconds, self.min_ttl_seconds);
            return refuse("dns.maxTTLSeconds", format!("{most} is less than dns.minTTLSeconds, which is {least}"));
        }
        if self.resolvers.len() > 64 {
            return refuse("dns.resolvers", format!("{} are more than 64", self.resolvers.len()));
        }
        for (index, resolver) in self.resolvers.iter().enumerate() {
            match resolver {
                Resolver::Ip(ip) if ip.is_unspecified() || ip.is_multicast() => {
                    return refuse("dns.resolvers", format!("[{index}].ip: {ip} is no server's address"));
                }
                Resolver::Pods { namespace, .. } if namespace.is_empty() => {
                    return refuse("dns.resolvers", format!("[{index}].namespace is empty"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl NameCheck {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        for (key, ports) in [("nameCheck.tlsPorts", &self.tls_ports), ("nameCheck.httpPorts", &self.http_ports)] {
            if ports.contains(&0) {
                return refuse(key, "0 is no port");
            }
            if ports.len() > 64 {
                return refuse(key, format!("{} are more than 64", ports.len()));
            }
        }
        if let Some(port) = self.tls_ports.iter().find(|port| self.http_ports.contains(port)) {
            return refuse("nameCheck.httpPorts", format!("{port} is one of nameCheck.tlsPorts too"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
