//! The engine's L7 parts as messages.

use std::sync::Arc;

use sluice_policy::http::{Condition, GrpcMatch, HttpMatch, PathMatch, Test};
use sluice_policy::source::{DnsMatch, L7, NamePattern, TlsMatch};

use crate::wire;

pub(crate) fn l7(l7: &L7) -> wire::L7 {
    let body = match l7 {
        L7::Http(items) => wire::l7::Body::Http(wire::HttpRules { items: items.iter().map(http_match).collect() }),
        L7::Grpc(items) => wire::l7::Body::Grpc(wire::GrpcRules { items: items.iter().map(grpc_match).collect() }),
        L7::Tls(items) => wire::l7::Body::Tls(wire::TlsRules { items: items.iter().map(tls_match).collect() }),
        L7::Dns(items) => wire::l7::Body::Dns(wire::DnsRules { items: items.iter().map(dns_match).collect() }),
    };
    wire::L7 { body: Some(body) }
}

fn http_match(item: &HttpMatch) -> wire::HttpMatch {
    wire::HttpMatch {
        index: item.index.into(),
        method: owned(&item.method),
        path: item.path.as_ref().map(path_match),
        host: owned(&item.host),
        headers: item.headers.iter().map(condition).collect(),
        query: item.query.iter().map(condition).collect(),
    }
}

fn path_match(path: &PathMatch) -> wire::PathMatch {
    let body = match path {
        PathMatch::Regex(pattern) => wire::path_match::Body::Regex(pattern.to_string()),
        PathMatch::Exact(path) => wire::path_match::Body::Exact(path.to_string()),
        PathMatch::Prefix(path) => wire::path_match::Body::Prefix(path.to_string()),
    };
    wire::PathMatch { body: Some(body) }
}

fn condition(condition: &Condition) -> wire::Condition {
    let test = match &condition.test {
        Test::Exact(text) => wire::condition::Test::Exact(text.to_string()),
        Test::Regex(pattern) => wire::condition::Test::Regex(pattern.to_string()),
        Test::Present => wire::condition::Test::Presence(wire::Presence::Present.into()),
        Test::Absent => wire::condition::Test::Presence(wire::Presence::Absent.into()),
    };
    wire::Condition { name: condition.name.to_string(), test: Some(test), not: condition.not }
}

fn grpc_match(item: &GrpcMatch) -> wire::GrpcMatch {
    wire::GrpcMatch {
        index: item.index.into(),
        service: owned(&item.service),
        method: owned(&item.method),
        metadata: item.metadata.iter().map(condition).collect(),
    }
}

fn tls_match(item: &TlsMatch) -> wire::TlsMatch {
    wire::TlsMatch { index: item.index.into(), name: item.name.as_ref().map(name_pattern) }
}

fn dns_match(item: &DnsMatch) -> wire::DnsMatch {
    wire::DnsMatch {
        index: item.index.into(),
        name: item.name.as_ref().map(name_pattern),
        types: item.types.iter().map(|number| (*number).into()).collect(),
    }
}

pub(crate) fn name_pattern(pattern: &NamePattern) -> wire::NamePattern {
    let body = match pattern {
        NamePattern::Name(name) => wire::name_pattern::Body::Name(name.to_string()),
        NamePattern::Below(name) => wire::name_pattern::Body::Below(name.to_string()),
        NamePattern::Glob(pattern) => wire::name_pattern::Body::Glob(pattern.to_string()),
    };
    wire::NamePattern { body: Some(body) }
}

fn owned(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}
