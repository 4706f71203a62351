//! Flow records: one JSON object a line on standard output, for each connection and each request, and for what the kernel
//! denied.
//!
//! A record is written down by the core that made it and handed to one writer thread through a bounded queue. Traffic never
//! waits for standard output: while the queue is full, records are left out, and the next one that fits says how many.

use std::borrow::Cow;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;
use sluice_policy::verdict::NamedRule;
use sluice_policy::{Reason, Table};

use crate::ident::RecordId;
use crate::judge::Ends;

const MOST_TEXT_BYTES: usize = 2048;
/// Room for most lines: one that grows is copied again and again.
const USUAL_LINE_BYTES: usize = 768;
/// How long the first of some lines waits for others: to wake the writer and to write cost more than a record does.
const GATHERING: Duration = Duration::from_millis(10);
/// Where fewer find a place, they are written at once: a burst would fill it in that time.
const GATHERED_LINES: usize = 1024;

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
    pub ip: String,
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
            ip: ip.to_string(),
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DnsFacts {
    /// In lower case, without a final dot.
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    /// What the client was answered, by the server or by the proxy in its place. Absent if it was answered nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcode: Option<String>,
    /// Those that the name has by the answer: at most 16.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// In seconds: the least of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<u32>,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// RFC 3339 with microseconds: when the connection or the request arrived.
    pub time: String,
    #[serde(rename = "type")]
    pub kind: RecordType,
    pub id: String,
    /// Of a request: the id of its connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<String>,
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
            time: format!("{:.6}", Timestamp::now()),
            kind,
            id: id.to_string(),
            connection: None,
            node: Arc::clone(node),
            source: RecordEnd::new(table, ends.client.0),
            destination: RecordEnd { name: ends.names.first().cloned(), ..RecordEnd::new(table, ends.original.0) },
            protocol: Cow::Owned(ends.protocol.to_string()),
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

/// Takes records without ever waiting.
#[derive(Clone, Debug)]
pub struct RecordSink {
    lines: SyncSender<Vec<u8>>,
    state: Arc<SinkState>,
}

#[derive(Debug, Default)]
struct SinkState {
    /// Left out since the last line that found a place.
    pending: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicUsize,
}

impl RecordSink {
    /// Queues a record, or counts that it was left out.
    pub fn write(&self, mut record: Record) {
        let left_out = self.state.pending.swap(0, Ordering::Relaxed) + record.suppressed.unwrap_or_default();
        record.suppressed = (left_out > 0).then_some(left_out);
        let mut line = Vec::with_capacity(USUAL_LINE_BYTES);
        if serde_json::to_writer(&mut line, &record).is_err() {
            return self.leave_out(left_out);
        }
        line.push(b'\n');
        self.state.queued.fetch_add(1, Ordering::Relaxed);
        match self.lines.try_send(line) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.state.queued.fetch_sub(1, Ordering::Relaxed);
                self.leave_out(left_out);
            }
        }
    }

    fn leave_out(&self, carried: u64) {
        self.state.pending.fetch_add(carried + 1, Ordering::Relaxed);
        self.state.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Records that were left out since the start.
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Lines that wait for the writer.
    pub fn queued(&self) -> usize {
        self.state.queued.load(Ordering::Relaxed)
    }
}

/// The thread that writes the lines.
#[derive(Debug)]
pub struct RecordWriter {
    done: Receiver<()>,
}

impl RecordWriter {
    /// Waits until everything that is queued has been written, once every [`RecordSink`] is gone, but not longer than `limit`:
    /// whoever reads the records may have stopped reading.
    pub fn finish(self, limit: Duration) {
        let _ = self.done.recv_timeout(limit);
    }
}

/// Starts the writer thread: at most `queue_lines` wait for `output`.
pub fn start(queue_lines: usize, output: impl Write + Send + 'static) -> std::io::Result<(RecordSink, RecordWriter)> {
    let (lines, queue) = sync_channel(queue_lines);
    let (finished, done) = sync_channel(1);
    let state = Arc::new(SinkState::default());
    let sink = RecordSink { lines, state: Arc::clone(&state) };
    let gathering = if queue_lines < GATHERED_LINES { Duration::ZERO } else { GATHERING };
    std::thread::Builder::new().name("records".into()).spawn(move || {
        drain_queue(&queue, &state, gathering, output);
        let _ = finished.try_send(());
    })?;
    Ok((sink, RecordWriter { done }))
}

fn drain_queue(queue: &Receiver<Vec<u8>>, state: &SinkState, gathering: Duration, output: impl Write) {
    let mut output = std::io::BufWriter::with_capacity(64 * 1024, output);
    let mut failing = false;
    let mut next = queue.recv().ok();
    while let Some(line) = next {
        state.queued.fetch_sub(1, Ordering::Relaxed);
        let mut written = output.write_all(&line);
        next = match queue.try_recv() {
            Ok(line) => Some(line),
            Err(_) => {
                written = written.and_then(|()| output.flush());
                queue.recv().ok().inspect(|_| std::thread::sleep(gathering))
            }
        };
        match written {
            Ok(()) => failing = false,
            Err(error) => {
                state.dropped.fetch_add(1, Ordering::Relaxed);
                if !failing {
                    tracing::warn!(%error, "records can't be written");
                }
                failing = true;
            }
        }
    }
    let _ = output.flush();
}

#[cfg(test)]
mod tests;
