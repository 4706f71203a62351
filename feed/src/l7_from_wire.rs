//! Messages as the engine's L7 parts, each field checked.

use sluice_policy::http::{Condition, GrpcMatch, HttpMatch, PathMatch, Test};
use sluice_policy::source::{DnsMatch, L7, NamePattern, TlsMatch};

use crate::FieldError;
use crate::from_wire::{known, short};
use crate::wire;

pub(crate) fn l7(l7: wire::L7) -> Result<L7, FieldError> {
    Ok(match l7.body.ok_or(FieldError::Missing("rule.l7"))? {
        wire::l7::Body::Http(rules) => L7::Http(rules.items.into_iter().map(http_match).collect::<Result<_, _>>()?),
        wire::l7::Body::Grpc(rules) => L7::Grpc(rules.items.into_iter().map(grpc_match).collect::<Result<_, _>>()?),
        wire::l7::Body::Tls(rules) => L7::Tls(rules.items.into_iter().map(tls_match).collect::<Result<_, _>>()?),
        wire::l7::Body::Dns(rules) => L7::Dns(rules.items.into_iter().map(dns_match).collect::<Result<_, _>>()?),
    })
}

fn http_match(item: wire::HttpMatch) -> Result<HttpMatch, FieldError> {
    Ok(HttpMatch {
        index: short("http_match.index", item.index)?,
        method: item.method.map(Into::into),
        path: item.path.map(path_match).transpose()?,
        host: item.host.map(Into::into),
        headers: item.headers.into_iter().map(condition).collect::<Result<_, _>>()?,
        query: item.query.into_iter().map(condition).collect::<Result<_, _>>()?,
    })
}

fn path_match(path: wire::PathMatch) -> Result<PathMatch, FieldError> {
    Ok(match path.body.ok_or(FieldError::Missing("http_match.path"))? {
        wire::path_match::Body::Regex(pattern) => PathMatch::Regex(pattern.into()),
        wire::path_match::Body::Exact(path) => PathMatch::Exact(path.into()),
        wire::path_match::Body::Prefix(path) => PathMatch::Prefix(path.into()),
    })
}

fn condition(condition: wire::Condition) -> Result<Condition, FieldError> {
    let test = match condition.test.ok_or(FieldError::Missing("condition.test"))? {
        wire::condition::Test::Exact(text) => Test::Exact(text.into()),
        wire::condition::Test::Regex(pattern) => Test::Regex(pattern.into()),
        wire::condition::Test::Presence(presence) => match known("condition.presence", presence)? {
            wire::Presence::Unspecified => return Err(FieldError::Missing("condition.presence")),
            wire::Presence::Present => Test::Present,
            wire::Presence::Absent => Test::Absent,
        },
    };
    Ok(Condition { name: condition.name.into(), test, not: condition.not })
}

fn grpc_match(item: wire::GrpcMatch) -> Result<GrpcMatch, FieldError> {
    Ok(GrpcMatch {
        index: short("grpc_match.index", item.index)?,
        service: item.service.map(Into::into),
        method: item.method.map(Into::into),
        metadata: item.metadata.into_iter().map(condition).collect::<Result<_, _>>()?,
    })
}

fn tls_match(item: wire::TlsMatch) -> Result<TlsMatch, FieldError> {
    let pattern = |name| name_pattern("tls_match.name", name);
    Ok(TlsMatch { index: short("tls_match.index", item.index)?, name: item.name.map(pattern).transpose()? })
}

fn dns_match(item: wire::DnsMatch) -> Result<DnsMatch, FieldError> {
    let pattern = |name| name_pattern("dns_match.name", name);
    Ok(DnsMatch {
        index: short("dns_match.index", item.index)?,
        name: item.name.map(pattern).transpose()?,
        types: item.types.into_iter().map(|number| short("dns_match.types", number)).collect::<Result<_, _>>()?,
    })
}

pub(crate) fn name_pattern(field: &'static str, name: wire::NamePattern) -> Result<NamePattern, FieldError> {
    Ok(match name.body.ok_or(FieldError::Missing(field))? {
        wire::name_pattern::Body::Name(name) => NamePattern::Name(name.into()),
        wire::name_pattern::Body::Below(name) => NamePattern::Below(name.into()),
        wire::name_pattern::Body::Glob(pattern) => NamePattern::Glob(pattern.into()),
    })
}
