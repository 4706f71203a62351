//! The configuration: a YAML file, `--set key=value` over it, and the command line.
//!
//! Unknown keys are refused: a setting that does nothing is worse than an error. What the rest of the proxy gets is checked.

mod args;
mod names;

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::kernel::bridge;

pub use args::{Args, Command};
pub use names::{DenyWith, Dns, NameCheck, PodSelector, Quic, Resolver};

/// Why a configuration is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Unreadable { path: String, source: std::io::Error },
    #[error("{path}: {message}")]
    File { path: String, message: String },
    #[error("--set {setting}: {message}")]
    Set { setting: String, message: String },
    #[error("{key}: {message}")]
    Value { key: &'static str, message: String },
}

/// The proxy's configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Port on the loopback addresses to which the kernel diverts connections. To the next one go those that only Audit policies want
    /// read.
    pub port: u16,
    /// Threads that carry connections. 0: one per core.
    pub workers: usize,
    /// Interfaces that lead off this node, by name. Others without an address of the node belong to pods.
    pub uplinks: Vec<String>,
    /// What the kernel does with what it denies.
    pub deny: Deny,
    /// What the body of a 403 says.
    pub denial_body: DenialBody,
    /// Sluice alone decides about this node's pods: connections are handed to the proxy although rules of others are never asked
    /// about them then, or would stop them. `/readyz` names such rules while this is false, and nothing is diverted.
    pub enforcement_alone: bool,
    /// The bits of the packet mark that Sluice uses. At least one; others are never touched.
    pub mark: u32,
    /// The routing table that brings diverted packets to the proxy.
    pub routing_table: u32,
    /// The NFLOG group by which the kernel's rules report what they deny. Nobody else may listen to it in this network namespace.
    pub nflog_group: u16,
    /// The priority of the routing rule that leads to this table: before whatever else routes pods' addresses.
    pub rule_priority: u32,
    /// Where our chain stands among those of `prerouting`: behind the translation of Services (-100), before filters (0).
    pub hook_priority: i32,
    /// How pods' frames are taken off a bridge.
    pub redirect: Redirect,
    pub records: Records,
    pub limits: Limits,
    pub dns: Dns,
    pub name_check: NameCheck,
}

/// What the kernel does with what it denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Deny {
    /// The client hears nothing and runs into its time-out.
    #[default]
    Drop,
    /// The client hears RST, or ICMP admin-prohibited.
    Reject,
}

/// How pods' frames are taken off a bridge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// By BPF where the kernel lets this process load it and the program was built with it, else by classifiers. The log says which.
    #[default]
    Auto,
    /// By the kernel's packet classifiers (cls_u32, act_mirred), which need no privilege beyond the network namespace's.
    Classifier,
    /// By a BPF program, which checks more. Where it isn't possible the proxy doesn't start: it takes root outside of user
    /// namespaces, or CAP_BPF.
    Bpf,
}

impl From<Redirect> for bridge::Form {
    fn from(redirect: Redirect) -> Self {
        match redirect {
            Redirect::Auto => Self::Auto,
            Redirect::Classifier => Self::Classifier,
            Redirect::Bpf => Self::Bpf,
        }
    }
}

/// What the body of a 403 says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenialBody {
    /// Who was denied what, by which policy and rule.
    #[default]
    Full,
    /// Only the request id, which the record has too.
    Id,
}

/// Which records are written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Records {
    pub connections: ConnectionRecords,
    /// Of what the kernel denies without the proxy: records per second of one pod and direction, and twice as many at once after
    /// a time without any. What is left out is counted. 0: no records of it.
    pub kernel_per_second: u32,
    /// Lines that may wait for a reader of standard output. Beyond, records are left out and counted.
    pub queue_lines: usize,
}

/// Which connections get a record. Requests always do, and so does what the kernel denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConnectionRecords {
    /// Those that were denied or cut.
    Denied,
    /// Those that went through the proxy.
    #[default]
    Proxied,
    /// Those that the kernel allows without the proxy too, as far as `kernelPerSecond` goes.
    All,
}

/// Bounds on what clients can make the proxy hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Open connections in all. Fewer if the process may not open two files for each.
    pub connections: usize,
    /// Open connections from one source address. At most half of all where the process may hold fewer than `connections`.
    pub connections_per_pod: usize,
    /// Largest head of a request: request line and header fields.
    pub header_bytes: u32,
    /// Longest time until the head of a request is complete, from the connection or, later on, from its first byte.
    pub head_seconds: u32,
    /// A connection on which nothing moves in either direction for so long is closed.
    pub idle_seconds: u32,
    /// Longest time to connect to a server.
    pub connect_seconds: u32,
    /// Concurrent requests on one HTTP/2 connection.
    pub http2_streams: u32,
    /// How long connections may go on after SIGTERM.
    pub drain_seconds: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            port: 15001,
            workers: 0,
            uplinks: Vec::new(),
            deny: Deny::default(),
            denial_body: DenialBody::default(),
            enforcement_alone: false,
            mark: crate::kernel::Mark::default().value,
            routing_table: 15001,
            nflog_group: 15001,
            rule_priority: crate::kernel::routes::DEFAULT_PRIORITY,
            hook_priority: crate::kernel::DEFAULT_HOOK_PRIORITY,
            redirect: Redirect::default(),
            records: Records::default(),
            limits: Limits::default(),
            dns: Dns::default(),
            name_check: NameCheck::default(),
        }
    }
}

impl Default for Records {
    fn default() -> Self {
        Self { connections: ConnectionRecords::default(), kernel_per_second: 10, queue_lines: 8192 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 50_000,
            connections_per_pod: 2_000,
            header_bytes: 64 * 1024,
            head_seconds: 10,
            idle_seconds: 3600,
            connect_seconds: 10,
            http2_streams: 128,
            drain_seconds: 30,
        }
    }
}

impl Limits {
    /// Lowers `connections` to `most` if they are more. One pod may hold half of them then, so that it doesn't take every
    /// place. Returns whether anything was lowered.
    pub fn hold_at_most(&mut self, most: usize) -> bool {
        if self.connections <= most {
            return false;
        }
        self.connections = most;
        self.connections_per_pod = self.connections_per_pod.min((most / 2).max(1));
        true
    }
}

impl Config {
    /// Where flows arrive that only Audit policies want read.
    pub fn audit_port(&self) -> u16 {
        self.port.saturating_add(1)
    }

    /// Where look-ups arrive, over UDP and TCP.
    pub fn dns_port(&self) -> u16 {
        self.port.saturating_add(2)
    }

    /// Where the datagrams of QUIC arrive. None: it is not inspected.
    pub fn quic_port(&self) -> Option<u16> {
        (self.name_check.quic == Quic::Inspect).then(|| self.port.saturating_add(3))
    }

    /// Reads `file` if one is given, puts `settings` (`key=value`, with dots between the parts of a key) over it, and checks.
    pub fn load(file: Option<&Path>, settings: &[String]) -> Result<Self, ConfigError> {
        let mut config = match file {
            Some(path) => Self::read(path)?,
            None => Self::default(),
        };
        for setting in settings {
            config = config.with(setting)?;
        }
        config.check()?;
        Ok(config)
    }

    fn read(path: &Path) -> Result<Self, ConfigError> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { path: place.clone(), source })?;
        Self::parse(&text, &place)
    }

    fn parse(text: &str, place: &str) -> Result<Self, ConfigError> {
        if text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim().starts_with('#')) {
            return Ok(Self::default());
        }
        let failed = |error: serde_saphyr::Error| ConfigError::File { path: place.to_owned(), message: error.to_string() };
        serde_saphyr::from_str(text).map_err(failed)
    }

    /// The configuration with one key replaced.
    fn with(&self, setting: &str) -> Result<Self, ConfigError> {
        let failed = |message: String| ConfigError::Set { setting: setting.to_owned(), message };
        let (key, value) = setting.split_once('=').ok_or_else(|| failed("has no `=`".into()))?;
        let value: Value = serde_saphyr::from_str(value).map_err(|error| failed(error.to_string()))?;
        let mut whole = serde_json::to_value(self).map_err(|error| failed(error.to_string()))?;
        let mut place = &mut whole;
        for part in key.split('.') {
            let Value::Object(map) = place else {
                return Err(failed("there is nothing below this key".into()));
            };
            place = map.entry(part).or_insert(Value::Null);
        }
        *place = value;
        serde_json::from_value(whole).map_err(|error| failed(error.to_string()))
    }

    fn check(&self) -> Result<(), ConfigError> {
        let positive: [(&'static str, u64); 12] = [
            ("port", u64::from(self.port)),
            ("mark", u64::from(self.mark)),
            ("routingTable", u64::from(self.routing_table)),
            ("records.queueLines", self.records.queue_lines as u64),
            ("limits.connections", self.limits.connections as u64),
            ("limits.connectionsPerPod", self.limits.connections_per_pod as u64),
            ("limits.headSeconds", u64::from(self.limits.head_seconds)),
            ("limits.idleSeconds", u64::from(self.limits.idle_seconds)),
            ("limits.connectSeconds", u64::from(self.limits.connect_seconds)),
            ("limits.http2Streams", u64::from(self.limits.http2_streams)),
            ("limits.drainSeconds", u64::from(self.limits.drain_seconds)),
            ("limits.headerBytes", u64::from(self.limits.header_bytes)),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::Value { key, message: "must be more than 0".into() });
        }
        let at_most: [(&'static str, u64, u64); 6] = [
            ("port", u64::from(self.port), u64::from(u16::MAX - if self.name_check.quic == Quic::Inspect { 3 } else { 1 })),
            ("records.kernelPerSecond", u64::from(self.records.kernel_per_second), 10_000),
            ("workers", self.workers as u64, 1024),
            ("records.queueLines", self.records.queue_lines as u64, 1 << 20),
            ("limits.headerBytes", u64::from(self.limits.header_bytes), 1 << 20),
            ("limits.http2Streams", u64::from(self.limits.http2_streams), 10_000),
        ];
        if let Some((key, _, most)) = at_most.into_iter().find(|(_, value, most)| value > most) {
            return Err(ConfigError::Value { key, message: format!("must be at most {most}") });
        }
        if self.limits.header_bytes < 1024 {
            let message = "must be at least 1024".into();
            return Err(ConfigError::Value { key: "limits.headerBytes", message });
        }
        // 253, 254 and 255 are the kernel's own tables: default, main and local.
        if (253..=255).contains(&self.routing_table) {
            let message = format!("{} is one of the kernel's own tables", self.routing_table);
            return Err(ConfigError::Value { key: "routingTable", message });
        }
        // 32766 is the main table's, which knows the way to every pod.
        if !(1..32766).contains(&self.rule_priority) {
            let message = format!("{} is not between 1 and 32765, before the main table", self.rule_priority);
            return Err(ConfigError::Value { key: "rulePriority", message });
        }
        if !(-99..=-1).contains(&self.hook_priority) {
            let why = "behind the translation of Services (-100), before filters (0)";
            let message = format!("{} is not between -99 and -1: {why}", self.hook_priority);
            return Err(ConfigError::Value { key: "hookPriority", message });
        }
        if self.redirect == Redirect::Bpf && !sluice_ebpf_redirect::BUILT {
            let why = sluice_ebpf_redirect::BUILD;
            let message = format!("this program was built without BPF ({why}); use `auto` or `classifier`");
            return Err(ConfigError::Value { key: "redirect", message });
        }
        // IFNAMSIZ counts the final NUL.
        if let Some(name) = self.uplinks.iter().find(|name| name.is_empty() || name.len() > 15) {
            let message = format!("{name:?} is no interface name: 1 to 15 bytes");
            return Err(ConfigError::Value { key: "uplinks", message });
        }
        self.dns.check()?;
        self.name_check.check()
    }
}

#[cfg(test)]
mod tests;
