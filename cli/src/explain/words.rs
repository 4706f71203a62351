//! Rules in words: what each asks for, as its author wrote it.

use std::sync::Arc;

use sluice_policy::http::{Condition, GrpcMatch, HttpMatch, PathMatch, Test};
use sluice_policy::source::{DnsMatch, L7, Namespaces, Peer, PodSelector, Policy, PortMatch, Rule, TlsMatch};
use sluice_policy::{Direction, IcmpMessage, Protocol};

/// `TCP`, `TCP 8080`, `TCP 30000-32767`, `TCP http`.
pub(super) fn port(port: &PortMatch) -> String {
    match port {
        PortMatch::All { protocol } => protocol.to_string(),
        PortMatch::Range { protocol, first, last } if first == last => format!("{protocol} {first}"),
        PortMatch::Range { protocol, first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named { protocol, name } => format!("{protocol} {name}"),
        PortMatch::Icmp(messages) => messages.to_string(),
    }
}

/// All ports of a rule.
pub(super) fn ports(rule: &Rule) -> String {
    match rule.ports.as_deref() {
        None => "any port".to_owned(),
        Some([]) => "no port that could be read".to_owned(),
        Some(ports) => ports.iter().map(port).collect::<Vec<_>>().join(" or "),
    }
}

/// `pods app=web`, `pods app=web in namespaces team=ops`, `10.0.0.0/8 except 10.1.0.0/16`.
pub(super) fn peer(peer: &Peer, home: &str) -> String {
    match peer {
        Peer::Pods(selector) => pods(selector, home),
        Peer::Names(named) => named.patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or "),
        Peer::Nodes(selector) if selector.is_everything() => "all nodes".to_owned(),
        Peer::Nodes(selector) => format!("nodes {selector}"),
        Peer::Block { cidr, except } if except.is_empty() => cidr.to_string(),
        Peer::Block { cidr, except } => {
            let except: Vec<String> = except.iter().map(ToString::to_string).collect();
            format!("{cidr} except {}", except.join(", "))
        }
    }
}

fn pods(selector: &PodSelector, home: &str) -> String {
    let pods = if selector.pods.is_everything() { "all pods".to_owned() } else { format!("pods {}", selector.pods) };
    match &selector.namespaces {
        Namespaces::Named(name) if **name == *home => format!("{pods} of {name}"),
        Namespaces::Named(name) => format!("{pods} of namespace {name}"),
        Namespaces::Matching(namespaces) if namespaces.is_everything() => format!("{pods} of all namespaces"),
        Namespaces::Matching(namespaces) => format!("{pods} of namespaces {namespaces}"),
    }
}

/// All peers of a rule.
pub(super) fn peers(rule: &Rule, policy: &Policy) -> String {
    match rule.peers.as_deref() {
        None => "anyone".to_owned(),
        Some([]) => "nobody that could be read".to_owned(),
        Some(peers) => peers.iter().map(|p| peer(p, &policy.reference.namespace)).collect::<Vec<_>>().join(" or "),
    }
}

/// The requests of a rule; `None` if it asks for none.
pub(super) fn requests(rule: &Rule) -> Option<String> {
    let items: Vec<String> = match rule.l7.as_ref()? {
        L7::Http(items) => items.iter().map(http).collect(),
        L7::Grpc(items) => items.iter().map(grpc).collect(),
        L7::Tls(items) => items.iter().map(tls).collect(),
        L7::Dns(items) => items.iter().map(dns).collect(),
    };
    Some(if items.is_empty() { "no request that could be read".to_owned() } else { items.join(" or ") })
}

/// `GET /api/.* at api\.example\.com with x-team: blue and page ~ [0-9]+ in the query`.
fn http(item: &HttpMatch) -> String {
    let path = item.path.as_ref().map(|path| match path {
        PathMatch::Regex(pattern) => pattern.to_string(),
        PathMatch::Exact(path) => format!("exactly {path}"),
        PathMatch::Prefix(path) => format!("{path} and below"),
    });
    let mut words = match (&item.method, &path) {
        (Some(method), Some(path)) => format!("{method} {path}"),
        (Some(method), None) => format!("{method} of any path"),
        (None, Some(path)) => format!("any method of {path}"),
        (None, None) => "any request".to_owned(),
    };
    if let Some(host) = &item.host {
        words.push_str(&format!(" at {host}"));
    }
    words.push_str(&conditions("with", &item.headers, ""));
    words.push_str(&conditions("with", &item.query, " in the query"));
    words
}

/// `gRPC orders.OrderService/Get with x-team: blue`.
fn grpc(item: &GrpcMatch) -> String {
    let text = |part: &Option<Arc<str>>| part.as_deref().unwrap_or("*").to_owned();
    format!("gRPC {}/{}{}", text(&item.service), text(&item.method), conditions("with", &item.metadata, ""))
}

fn tls(item: &TlsMatch) -> String {
    item.name.as_ref().map_or_else(|| "TLS".to_owned(), |name| format!("TLS for {name}"))
}

fn conditions(before: &str, conditions: &[Condition], place: &str) -> String {
    let condition = |c: &Condition| match (&c.test, c.not) {
        (Test::Exact(text), false) => format!("{}: {text}", c.name),
        (Test::Exact(text), true) => format!("{} other than {text}", c.name),
        (Test::Regex(pattern), false) => format!("{} ~ {pattern}", c.name),
        (Test::Regex(pattern), true) => format!("{} !~ {pattern}", c.name),
        (Test::Present, false) | (Test::Absent, true) => format!("any {}", c.name),
        (Test::Absent, false) | (Test::Present, true) => format!("no {}", c.name),
    };
    if conditions.is_empty() {
        return String::new();
    }
    format!(" {before} {}{place}", and(&conditions.iter().map(condition).collect::<Vec<_>>()))
}

/// What a rule asks for, as a whole: `from pods app=web of shop, TCP 8080, GET /api/.*`.
pub(super) fn rule(rule: &Rule, policy: &Policy) -> String {
    let side = match rule.direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let requests = requests(rule).map(|requests| format!(", {requests}")).unwrap_or_default();
    format!("{side} {}, {}{requests}", peers(rule, policy), ports(rule))
}

/// `8080/tcp`, `icmp`, `icmp type 3 code 4`.
pub(crate) fn destination_port(port: u16, protocol: Protocol, icmp: Option<IcmpMessage>) -> String {
    let name = protocol.to_string().to_lowercase();
    match icmp {
        Some(IcmpMessage { kind, code }) => format!("{name} type {kind} code {code}"),
        None if protocol.has_ports() => format!("{port}/{name}"),
        None => name,
    }
}

/// `the look-up of *.example.org`.
fn dns(item: &DnsMatch) -> String {
    let types: Vec<String> = item.types.iter().map(|number| sluice_crds::type_of_number(*number)).collect();
    let types = if types.is_empty() { String::new() } else { format!(" ({})", types.join(", ")) };
    format!("the look-up of {}{types}", item.name.as_ref().map_or_else(|| "any name".to_owned(), ToString::to_string))
}

/// `a`, `a and b`, `a, b and c`.
pub(super) fn and(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [only] => only.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
