//! Flow records: one JSON object a line on standard output, for each connection and each request, and for what the kernel
//! denied.
//!
//! A record is written down by the core that made it and [queued](queue) for one writer thread. Traffic never waits for standard
//! output: while the queue is full, records are left out, and the next one that fits says how many.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use sluice_policy::verdict::NamedRule;
use sluice_policy::{Protocol, Reason, Table};

use crate::dns::{self, Rcode};
use crate::ident::RecordId;
use crate::judge::Ends;
pub use queue::{RecordSink, RecordWriter, start};
pub use stamp::Stamp;

mod queue;
mod stamp;

const MOST_TEXT_BYTES: usize = 2048;

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordType {
    Connection,
    Request,
    Lookup,
}

/// Whether the flow passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecordVerdict {
    Allow,
    Deny,
    /// Neither: the record says what Audit policies would have made of it, and stands beside the flow's own.
    Audit,
}

impl RecordVerdict {
    pub(crate) fn of(decision: sluice_policy::Decision) -> Self {
        if decision == sluice_policy::Decision::Deny { Self::Deny } else { Self::Allow }
    }

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        }
    }
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RecordEnd {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    pub ip: IpAddr,
    pub port: u16,
    /// Of a destination: the name by which the source was told of it. Of several, any one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Arc<str>>,
}

impl RecordEnd {
    /// The end at `address`, with the pod's name if the table knows it.
    pub fn new(table: &Table, address: SocketAddr) -> Self {
        let ip = address.ip().to_canonical();
        let pod = table.endpoint(ip).map(|endpoint| &endpoint.pod);
        Self {
            namespace: pod.map(|pod| Arc::clone(&pod.namespace)),
            pod: pod.map(|pod| Arc::clone(&pod.name)),
            ip,
            port: address.port(),
            name: None,
        }
    }
}

/// What a client sent, as records and answers repeat it: at most 2 KiB, with `…` in the place of what is left out.
///
/// A head may be many times as long, and thousands of records may wait for their reader.
pub fn shortened(text: &str) -> Cow<'_, str> {
    let kept = &text[..text.floor_char_boundary(MOST_TEXT_BYTES)];
    if kept.len() == text.len() { Cow::Borrowed(text) } else { Cow::Owned(format!("{kept}…")) }
}

/// What was read of an HTTP request, and how it was answered. Texts are [`shortened`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct HttpFacts {
    /// `1.0`, `1.1` or `2`.
    pub version: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The judged form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// What the client was answered, by the server or by the proxy in its place. Absent if it was answered nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
}

/// What was read of a gRPC call, and its end. Texts are [`shortened`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GrpcFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// `grpc-status`, from the server or from the proxy in its place. Absent if the call broke off without.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u32>,
}

/// What was read of a TLS connection.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsFacts {
    /// In lower case. Absent if the client named none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
}

/// What was asked of DNS, and answered. Texts are [`shortened`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DnsFacts {
    /// In lower case, without a final dot.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: dns::RecordType,
    /// What the client was answered, by the server or by the proxy in its place. Absent if it was answered nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcode: Option<Rcode>,
    /// Those that the name has by the answer: at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// In seconds: the least of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// When the connection or the request arrived.
    pub time: Stamp,
    #[serde(rename = "type")]
    pub kind: RecordType,
    pub id: RecordId,
    /// Of a request: the id of its connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<RecordId>,
    pub node: Arc<str>,
    pub source: RecordEnd,
    pub destination: RecordEnd,
    /// `TCP`, `UDP`, `SCTP`, `ICMP` (for both families), or another protocol's number.
    pub protocol: Cow<'static, str>,
    pub verdict: RecordVerdict,
    /// Of an audit: what became of the flow, and what would have with the Audit policies in force. The reason, direction and
    /// policy are those of the second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enforced: Option<RecordVerdict>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_be: Option<RecordVerdict>,
    pub reason: Reason,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<NamedRule>,
    /// All of them, where several isolate and none allows.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<NamedRule>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<HttpFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grpc: Option<GrpcFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<DnsFacts>,
    /// By which interface of the node a packet came that the kernel dropped for no policy's sake.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// From the source to the destination: the whole connection, or the request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_sent: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_received: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// How many records were left out before this one: because they found no place in the queue, or, where the kernel denied, of
    /// packets of the same pod beyond those that are reported.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
}

impl Record {
    /// A record with what every record has.
    pub fn new(kind: RecordType, id: RecordId, node: &Arc<str>, table: &Table, ends: &Ends) -> Self {
        Self {
            time: Stamp::now(),
            kind,
            id,
            connection: None,
            node: Arc::clone(node),
            source: RecordEnd::new(table, ends.client.0),
            destination: RecordEnd { name: ends.names.first().cloned(), ..RecordEnd::new(table, ends.original.0) },
            protocol: word(ends.protocol),
            verdict: RecordVerdict::Allow,
            enforced: None,
            would_be: None,
            reason: Reason::NeedsRequest,
            direction: None,
            policy: None,
            policies: Vec::new(),
            http: None,
            grpc: None,
            tls: None,
            dns: None,
            interface: None,
            bytes_sent: None,
            bytes_received: None,
            duration_ms: None,
            suppressed: None,
        }
    }

    /// Notes what was decided and by whom. `direction` says whose denial it was, so an allowed flow has none.
    pub fn decided(&mut self, ruling: &crate::judge::Ruling) {
        let denied = ruling.decision == sluice_policy::Decision::Deny;
        self.verdict = RecordVerdict::of(ruling.decision);
        self.reason = ruling.reason;
        self.policy = ruling.by.first().cloned();
        self.policies = if ruling.by.len() > 1 { ruling.by.clone() } else { Vec::new() };
        self.direction = (denied && !ruling.by.is_empty()).then(|| ruling.direction.as_str());
    }

    pub fn lasted(&mut self, since: Instant) {
        let micros = u32::try_from(since.elapsed().as_micros()).unwrap_or(u32::MAX);
        self.duration_ms = Some(f64::from(micros) / 1000.0);
    }
}

/// `TCP`, `UDP`, `SCTP`, `ICMP`, or the protocol's number.
fn word(protocol: Protocol) -> Cow<'static, str> {
    match protocol {
        Protocol::Tcp => "TCP".into(),
        Protocol::Udp => "UDP".into(),
        Protocol::Sctp => "SCTP".into(),
        Protocol::Icmp => "ICMP".into(),
        Protocol::Other(number) => number.to_string().into(),
    }
}

#[cfg(test)]
mod tests;
