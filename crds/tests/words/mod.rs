//! Policies in few words, for the tests that judge row by row.

use std::sync::Arc;

use sluice_crds::Lowered;
use sluice_policy::http::{Condition, PathMatch, Test};
use sluice_policy::source::{Action, L7, Object, Peer, Policy, PortMatch};

use crate::lowering::lowered;

pub(crate) fn policy_of(lowered: Lowered) -> Policy {
    match lowered.object {
        Some(Object::Policy(policy)) => policy,
        other => panic!("a policy: {other:?}, {:?}", lowered.diagnostics),
    }
}

/// A policy in the few words that the rows below need.
pub(crate) fn describe(policy: &Policy) -> String {
    let mut words = format!("{} {}", policy.reference, policy.subject.pods);
    for (isolates, word) in [(policy.ingress, " in"), (policy.egress, " out")] {
        words.push_str(if isolates { word } else { "" });
    }
    words.push_str(if policy.audit { " AUDIT" } else { "" });
    if let Some(expires) = policy.expires {
        words.push_str(&format!(" until {}", sluice_crds::moment_text(expires)));
    }
    for rule in &policy.rules {
        let action = if rule.action == Action::Deny { "DENY " } else { "" };
        let peers = rule.peers.as_ref().map_or("*".to_owned(), |peers| list(peers, peer));
        let ports = rule.ports.as_ref().map_or("*".to_owned(), |ports| list(ports, port));
        words.push_str(&format!("; {action}{} {peers} {ports}", rule.path));
        if let Some(L7::Http(items)) = &rule.l7 {
            let item = |i: &sluice_policy::http::HttpMatch| {
                let text = |t: &Option<Arc<str>>| t.as_deref().unwrap_or("*").to_owned();
                let path = match &i.path {
                    None => "*".to_owned(),
                    Some(PathMatch::Regex(pattern)) => pattern.to_string(),
                    Some(PathMatch::Exact(path)) => format!("={path}"),
                    Some(PathMatch::Prefix(path)) => format!("^{path}"),
                };
                let host = i.host.as_ref().map_or_else(String::new, |host| format!(" host {host}"));
                let more = [("headers", &i.headers), ("query", &i.query)].map(|(name, list)| conditions(name, list)).concat();
                format!("{}:{} {path}{host}{more}", i.index, text(&i.method))
            };
            words.push_str(&format!(" http{}", list(items, item)));
        }
        if let Some(L7::Grpc(items)) = &rule.l7 {
            let item = |i: &sluice_policy::http::GrpcMatch| {
                let text = |t: &Option<Arc<str>>| t.as_deref().unwrap_or("*").to_owned();
                format!("{}:{}/{}{}", i.index, text(&i.service), text(&i.method), conditions("metadata", &i.metadata))
            };
            words.push_str(&format!(" grpc{}", list(items, item)));
        }
        if let Some(L7::Dns(items)) = &rule.l7 {
            let item = |i: &sluice_policy::source::DnsMatch| {
                let types: String = i.types.iter().map(|number| format!("/{number}")).collect();
                format!("{}:{}{types}", i.index, i.name.as_ref().map_or_else(|| "any name".to_owned(), ToString::to_string))
            };
            words.push_str(&format!(" dns{}", list(items, item)));
        }
        if let Some(L7::Tls(items)) = &rule.l7 {
            let item = |i: &sluice_policy::source::TlsMatch| {
                format!("{}:{}", i.index, i.name.as_ref().map_or_else(|| "*".to_owned(), ToString::to_string))
            };
            words.push_str(&format!(" tls{}", list(items, item)));
        }
    }
    words
}

/// ` headers[x=1 !y~a.* +z -w]`.
pub(crate) fn conditions(name: &str, conditions: &[Condition]) -> String {
    if conditions.is_empty() {
        return String::new();
    }
    let condition = |c: &Condition| {
        let not = if c.not { "!" } else { "" };
        match &c.test {
            Test::Exact(text) => format!("{not}{}={text}", c.name),
            Test::Regex(pattern) => format!("{not}{}~{pattern}", c.name),
            Test::Present => format!("{not}+{}", c.name),
            Test::Absent => format!("{not}-{}", c.name),
        }
    };
    format!(" {name}{}", list(conditions, condition))
}

pub(crate) fn list<T>(entries: &[T], word: impl Fn(&T) -> String) -> String {
    format!("[{}]", entries.iter().map(word).collect::<Vec<_>>().join(" "))
}

pub(crate) fn peer(peer: &Peer) -> String {
    match peer {
        Peer::Pods(pods) => match &pods.namespaces {
            sluice_policy::source::Namespaces::Named(name) => format!("{name}/{}", pods.pods),
            sluice_policy::source::Namespaces::Matching(selector) => format!("<{selector}>/{}", pods.pods),
        },
        Peer::Nodes(selector) => format!("nodes<{selector}>"),
        Peer::Names(named) => {
            let private = if named.allow_private { " private" } else { "" };
            let check = if named.name_check { "" } else { " unchecked" };
            format!("names<{}{private}{check}>", list(&named.patterns, ToString::to_string))
        }
        Peer::Block { cidr, except } => format!("{cidr}{}", except.iter().map(|e| format!("-{e}")).collect::<String>()),
    }
}

pub(crate) fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::All { protocol } => format!("{protocol}"),
        PortMatch::Range { protocol, first, last } if first == last => format!("{protocol}:{first}"),
        PortMatch::Range { protocol, first, last } => format!("{protocol}:{first}-{last}"),
        PortMatch::Named { protocol, name } => format!("{protocol}:{name}"),
        PortMatch::Icmp(icmp) => {
            let number = |number: Option<u8>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
            format!("{:?}:{}/{}", icmp.family, number(icmp.kind), number(icmp.code))
        }
    }
}

pub(crate) fn sluice_policy(spec: &str) -> String {
    format!("{{apiVersion: sluice.dev/v1alpha1, kind: SluiceNetworkPolicy, metadata: {{name: p, namespace: ns}}, spec: {spec}}}")
}

/// `spec`, what is understood of it, and the field and beginning of each remark.
pub(crate) type Row = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

pub(crate) fn check(write: fn(&str) -> String, kind: &str, rows: &[Row]) {
    for (spec, want, remarks) in rows {
        let lowered = lowered(&write(spec));
        let got: Vec<(&str, &str)> = lowered.diagnostics.iter().map(|d| (d.field.as_str(), d.message.as_str())).collect();
        let fits = got.len() == remarks.len() && got.iter().zip(*remarks).all(|(g, r)| g.0 == r.0 && g.1.starts_with(r.1));
        assert!(fits, "{spec}: {got:#?}");
        assert_eq!(describe(&policy_of(lowered)), format!("{kind} ns/p {want}"), "{spec}");
    }
}
