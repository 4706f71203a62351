//! The proxies' own account: their flow records.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use sluice_policy::verdict::NamedRule;
use sluice_testnet::wait_until;

/// The parts of a record that the report needs.
#[derive(Debug, Deserialize)]
pub(super) struct Record {
    #[serde(rename = "type")]
    kind: String,
    id: String,
    source: Place,
    destination: Place,
    pub(super) verdict: String,
    pub(super) reason: String,
    pub(super) direction: Option<String>,
    policy: Option<Policy>,
    /// All of several policies that isolate and don't allow.
    #[serde(default)]
    policies: Vec<Policy>,
    http: Option<Http>,
    dns: Option<Dns>,
    /// All of it, as it was written.
    #[serde(skip)]
    pub(super) line: String,
}

#[derive(Debug, Deserialize)]
struct Place {
    namespace: Option<String>,
    pod: Option<String>,
    ip: Option<String>,
    /// Of a destination: the name by which the source was told of it.
    name: Option<String>,
}

/// A policy, and its rule where one decided.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Policy {
    pub(super) kind: String,
    #[serde(default)]
    namespace: String,
    name: String,
    pub(super) rule: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Http {
    method: String,
    path: String,
    host: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Dns {
    name: String,
    #[serde(rename = "type")]
    kind: String,
}

/// What a row leaves a record of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A request by its canonical path; of any host if that is empty.
    Request { method: String, path: String, host: String },
    /// A look-up of a plain name; of any type and at any server if there is no type.
    Lookup { name: String, kind: Option<String> },
}

/// All records of a run so far.
#[derive(Debug)]
pub(super) struct Records {
    all: Vec<Record>,
}

impl Place {
    fn is(&self, end: &str) -> bool {
        let pod = self.namespace.as_deref().zip(self.pod.as_deref());
        pod.is_some_and(|(namespace, pod)| end.split_once('/') == Some((namespace, pod)))
            || [&self.ip, &self.name].into_iter().any(|known| known.as_deref() == Some(end))
    }
}

impl Record {
    /// Who decided: one rule, or every policy that isolates and doesn't allow.
    pub(super) fn deciders(&self) -> Vec<Policy> {
        if self.policies.is_empty() { self.policy.iter().cloned().collect() } else { self.policies.clone() }
    }
}

impl Policy {
    /// `namespace/name`, or the name of a policy of the cluster.
    pub(super) fn full_name(&self) -> String {
        if self.namespace.is_empty() { self.name.clone() } else { format!("{}/{}", self.namespace, self.name) }
    }
}

impl From<&NamedRule> for Policy {
    fn from(rule: &NamedRule) -> Self {
        let NamedRule { kind, namespace, name, rule } = rule;
        Self { kind: (*kind).to_owned(), namespace: namespace.to_string(), name: name.to_string(), rule: rule.clone() }
    }
}

impl std::fmt::Display for Policy {
    /// As `sluice eval` names a rule: `SluiceNetworkPolicy shop/backend ingress[0].http[1]`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, self.full_name())?;
        self.rule.as_ref().map_or(Ok(()), |rule| write!(f, " {rule}"))
    }
}

impl Records {
    /// Reads what has been written. Records follow the answer by a moment: waits until `enough` of them, for a while.
    pub(super) fn read(files: &[PathBuf], enough: impl Fn(&Self) -> bool) -> Self {
        let mut records = Self { all: Vec::new() };
        wait_until(Duration::from_millis(1500), || {
            let lines = files.iter().map(|file| fs::read_to_string(file).unwrap_or_default());
            records.all = lines.flat_map(|text| text.lines().filter_map(parse).collect::<Vec<_>>()).collect();
            enough(&records)
        });
        records
    }

    /// The record that has the id of a denial.
    pub(super) fn of_id(&self, id: &str) -> Option<&Record> {
        self.all.iter().find(|record| record.id == id)
    }

    /// A record, found by who asked whom for what.
    pub(super) fn find(&self, from: &str, to: &str, wanted: &Wanted) -> Option<&Record> {
        self.all.iter().filter(|record| record.source.is(from)).find(|record| match wanted {
            Wanted::Request { method, path, host } => {
                let is_it = |http: &Http| {
                    let of_host = host.is_empty() || http.host.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(host));
                    http.method == *method && http.path == *path && of_host
                };
                record.kind == "request" && record.destination.is(to) && record.http.as_ref().is_some_and(is_it)
            }
            Wanted::Lookup { name, kind } => {
                let at = kind.is_none() || record.destination.is(to);
                let is_it = |dns: &Dns| dns.name == *name && kind.as_ref().is_none_or(|kind| dns.kind == *kind);
                record.kind == "lookup" && at && record.dns.as_ref().is_some_and(is_it)
            }
        })
    }
}

/// Reads a line; one that is only half written yet is no record.
fn parse(line: &str) -> Option<Record> {
    let record: Record = serde_json::from_str(line).ok()?;
    Some(Record { line: line.to_owned(), ..record })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_ups_are_found_by_name_and_type() {
        let line = r#"{"type":"lookup","id":"a2","source":{"namespace":"shop","pod":"web","ip":"10.0.0.1","port":4},"destination":{"namespace":"kube-system","pod":"dns","ip":"10.0.0.2","port":53},"protocol":"UDP","verdict":"deny","reason":"NoRuleMatched","direction":"egress","dns":{"name":"evil.example","type":"A","rcode":"REFUSED"}}"#;
        let records = Records { all: vec![parse(line).unwrap()] };
        for (to, name, kind, expected) in [
            ("kube-system/dns", "evil.example", Some("A"), true),
            ("kube-system/dns", "evil.example", Some("AAAA"), false),
            ("other/dns", "evil.example", Some("A"), false),
            ("kube-system/dns", "good.example", None, false),
            ("evil.example", "evil.example", None, true),
        ] {
            let wanted = Wanted::Lookup { name: name.into(), kind: kind.map(str::to_owned) };
            assert_eq!(records.find("shop/web", to, &wanted).is_some(), expected, "{to} {wanted:?}");
        }
    }

    #[test]
    fn records_are_found_by_what_was_asked() {
        let line = r#"{"time":"2026-11-21T14:00:00.000000Z","type":"request","id":"a1","node":"n","source":{"namespace":"shop","pod":"web","ip":"10.0.0.1","port":4},"destination":{"ip":"203.0.113.1","port":80},"protocol":"TCP","verdict":"deny","reason":"NoRuleMatched","direction":"ingress","policy":{"kind":"NetworkPolicy","namespace":"shop","name":"x","rule":"ingress[0]"},"http":{"version":"1.1","method":"GET","path":"/a","host":"h","status":403}}"#;
        let records = Records { all: vec![parse(line).unwrap()] };
        let request = |path: &str, host: &str| Wanted::Request { method: "GET".into(), path: path.into(), host: host.into() };
        let found = records.find("shop/web", "203.0.113.1", &request("/a", "")).unwrap();
        assert_eq!(found.deciders()[0].to_string(), "NetworkPolicy shop/x ingress[0]");
        assert_eq!(found.line, line);
        assert!(records.find("shop/web", "203.0.113.1", &request("/a", "H")).is_some());
        assert!(records.find("shop/web", "203.0.113.1", &request("/a", "other")).is_none());
        assert!(records.find("shop/web", "203.0.113.1", &request("/b", "")).is_none());
        assert!(records.find("other/web", "203.0.113.1", &request("/a", "")).is_none());
        assert!(records.of_id("a1").is_some());
        assert!(parse("{\"type\":\"requ").is_none());
    }
}
