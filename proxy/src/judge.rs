//! Verdicts with everything that a record or a denial says about them.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ::http::HeaderMap;
use sluice_policy::flow::{Direction, Flow, Protocol, Request};
use sluice_policy::http::{HeaderFields, HttpRequest};
use sluice_policy::verdict::NamedRule;
use sluice_policy::{Decision, Reason, Table, Verdict};

use crate::records::shortened;

/// Where the client wanted to go, before the connection was diverted here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OriginalDst(pub SocketAddr);

/// The address of the pod that opened the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientAddr(pub SocketAddr);

/// Both ends of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    pub client: ClientAddr,
    pub original: OriginalDst,
    /// What they speak over IP: TCP, unless it is QUIC.
    pub protocol: Protocol,
    /// The names that the client was told of the server's address, when the connection began: it outlives them.
    pub names: Arc<[Arc<str>]>,
}

impl Ends {
    /// Of a client that was told nothing.
    pub fn new(client: ClientAddr, original: OriginalDst) -> Self {
        Self { client, original, protocol: Protocol::Tcp, names: Arc::default() }
    }
}

/// What was read of a connection, in a form that outlives the buffer it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JudgedRequest {
    pub method: String,
    /// The canonical path, without the query. Empty for CONNECT.
    pub path: String,
    /// As sent and as it goes on, without the `?`.
    pub query: Option<String>,
    /// In lower case, without the port.
    pub host: String,
    pub is_http2: bool,
    /// Those that go on to the server, once the request is allowed: it is judged again for as long as it goes on.
    pub fields: HeaderMap,
}

/// The header fields of a request as they go on to the server.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded<'a>(pub &'a HeaderMap);

impl HeaderFields for Forwarded<'_> {
    fn each<'a>(&'a self, name: &str, found: &mut dyn FnMut(&'a [u8])) {
        self.0.get_all(name).iter().for_each(|value| found(value.as_bytes()));
    }
}

/// A decision, and who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruling {
    pub decision: Decision,
    pub reason: Reason,
    /// Whose half decided.
    pub direction: Direction,
    /// The rule that decided, or the policies that isolate where none allows.
    pub by: Vec<NamedRule>,
}

impl Ruling {
    /// What `table` decides about `flow` by `verdict`, its own.
    pub fn new(table: &Table, flow: &Flow<'_>, verdict: &Verdict) -> Self {
        let direction = verdict.deciding();
        Self { decision: verdict.decision(), reason: verdict.reason(), direction, by: table.by(flow, verdict, direction) }
    }

    /// A denial that no policy made: a limit, a malformed request.
    pub fn by_proxy(reason: Reason) -> Self {
        Self { decision: Decision::Deny, reason, direction: Direction::Ingress, by: Vec::new() }
    }

    pub fn is_allowed(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// Only the decision: what live connections are asked at every new table.
pub fn decision(table: &Table, ends: &Ends, request: Option<Request<'_>>) -> Decision {
    table.verdict(&flow(ends, request)).decision()
}

/// Whether what Audit policies make of a connection that is allowed unread hangs on its contents.
pub(crate) fn hangs_on_contents(table: &Table, ends: &Ends) -> bool {
    let flow = flow(ends, None);
    table.has_audit() && table.hangs_on_contents(&flow, &table.verdict(&flow))
}

/// The decision with its reason and its rules.
pub fn rule(table: &Table, ends: &Ends, request: Option<Request<'_>>) -> Ruling {
    let flow = flow(ends, request);
    Ruling::new(table, &flow, &table.verdict(&flow))
}

impl JudgedRequest {
    pub fn as_http<'a>(&'a self, fields: &'a Forwarded<'a>) -> HttpRequest<'a> {
        let Self { method, path, query, host, is_http2, .. } = self;
        HttpRequest { method, path, query: query.as_deref(), host, is_http2: *is_http2, fields }
    }
}

pub(crate) fn flow<'a>(ends: &'a Ends, request: Option<Request<'a>>) -> Flow<'a> {
    Flow {
        source: ends.client.0.ip().to_canonical(),
        destination: ends.original.0.ip().to_canonical(),
        protocol: ends.protocol,
        destination_port: ends.original.0.port(),
        icmp: None,
        names: &ends.names,
        request,
    }
}

/// `production/frontend` if the table knows the address, else the address.
pub fn who(table: &Table, ip: IpAddr) -> String {
    match table.endpoint(ip.to_canonical()) {
        Some(endpoint) => endpoint.pod.to_string(),
        None => ip.to_string(),
    }
}

/// One line that says who was denied what, and by which policy and rule. It has no line break and a bounded length, whatever
/// the client sent.
pub fn sentence(table: &Table, ends: &Ends, request: Option<&JudgedRequest>, ruling: &Ruling) -> String {
    let mut line = String::from("Sluice denied ");
    match request {
        Some(request) => {
            let target = if request.path.is_empty() { &request.host } else { &request.path };
            let _ = write!(line, "{} {} ", shortened(&request.method), shortened(target).escape_debug());
        }
        None => line.push_str("a connection "),
    }
    let (client, server) = (ends.client.0.ip(), ends.original.0);
    let asked_for = request.map(|request| &*request.host).filter(|_| table.endpoint(server.ip().to_canonical()).is_none());
    let server_name = match asked_for {
        // By a rule by name it is the name that was denied, not the address.
        Some(host) if !host.is_empty() && host.parse() != Ok(server.ip()) => {
            format!("{} ({})", shortened(host).escape_debug(), server.ip())
        }
        _ => who(table, server.ip()),
    };
    let _ = write!(line, "from {} to {server_name} port {}", who(table, client), server.port());
    line.push_str(&because(ruling));
    line
}

/// `: no egress rule of SluiceNetworkPolicy shop/p allows it (NoRuleMatched)`: the end of a sentence that says what was denied.
pub(crate) fn because(ruling: &Ruling) -> String {
    let names = ruling.by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let why = match (ruling.reason, names.is_empty()) {
        (Reason::NoRuleMatched, false) => format!("no {} rule of {names} allows it", ruling.direction),
        (_, false) => format!("{} by {names} ({})", explained(ruling.reason), ruling.direction),
        (_, true) => explained(ruling.reason).to_owned(),
    };
    format!(": {why} ({})", ruling.reason)
}

/// The reason as the middle of a sentence.
fn explained(reason: Reason) -> &'static str {
    match reason {
        Reason::DeniedByRule => "denied",
        Reason::NoRuleMatched => "no rule allows it",
        Reason::UnknownPod => "an end of it is a pod that is not known yet",
        Reason::AddressConflict => "two pods claim one of its addresses",
        Reason::NoSnapshot => "no policies have arrived yet",
        Reason::NotTheProtocol => "it is not of the protocol that the rules are about",
        Reason::TooManyConnections => "too many connections are open",
        Reason::PolicyChanged => "policies have changed, denied",
        Reason::MalformedRequest => "it can't be read safely",
        _ => "refused",
    }
}
