//! The life of one diverted connection, from accept to record.
//!
//! ```text
//! admit -> judge --deny-----------------------------------> RST
//!            |---allow-----------------> opaque relay ----> record     (observed, where Audit policies look into contents)
//!            `---inspect--> detect --other, judged again--> opaque relay or RST
//!                             |--TLS, judged by its server name--> opaque relay or alert
//!                             `--HTTP/1, HTTP/2--> a verdict per request
//! ```
//!
//! Beside it, [`watch_over`] judges the connection again at every new table, and ends it when nothing moves or the drain time
//! is over.

use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use sluice_policy::flow::Request;
use sluice_policy::{Decision, Reason, Table};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::audit;
use crate::config::{Config, ConnectionRecords, DenialBody, Limits};
use crate::detect::{Beginning, Detected, read_beginning};
use crate::hello;
use crate::http::{self, Underway};
use crate::ident::{Ids, RecordId};
use crate::judge::{self, ClientAddr, Ends, Forwarded, JudgedRequest, OriginalDst, Ruling};
use crate::limits::Admission;
use crate::metrics::Metrics;
use crate::names::{Moment, Names};
use crate::observe::Observer;
use crate::records::{Record, RecordSink, RecordType, RecordVerdict, TlsFacts};
use crate::relay::{Seen, Side, relay_seen};
use crate::socket::{Leg, Socket, asked_for};
use crate::upstream::{DialError, Dialer, SourcePort};

/// The steps of the end of the process.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    /// Nothing new is begun; what is under way is finished.
    pub begun: CancellationToken,
    /// Everything ends now.
    pub over: CancellationToken,
    /// What arrives at the sockets is a successor's.
    pub handed_over: CancellationToken,
}

/// What all connections of a proxy share.
#[derive(Debug)]
pub struct Dataplane {
    pub node: Arc<str>,
    pub limits: Limits,
    pub denial_body: DenialBody,
    pub connection_records: ConnectionRecords,
    pub table: watch::Receiver<Arc<Table>>,
    pub records: RecordSink,
    pub metrics: Metrics,
    pub admission: Arc<Admission>,
    pub drain: Drain,
    pub dialer: Dialer,
    pub ids: Ids,
    /// What pods were told of names. None: nobody's look-ups are known.
    pub names: Option<Arc<Names>>,
}

impl Dataplane {
    pub fn new(
        node: &str,
        config: &Config,
        table: watch::Receiver<Arc<Table>>,
        records: RecordSink,
        metrics: Metrics,
        dialer: Dialer,
    ) -> Self {
        Self {
            node: node.into(),
            limits: config.limits.clone(),
            denial_body: config.denial_body,
            connection_records: config.records.connections,
            table,
            records,
            metrics,
            admission: Admission::new(config.limits.connections, config.limits.connections_per_pod),
            drain: Drain::default(),
            dialer,
            ids: Ids::default(),
            names: None,
        }
    }
}

mod ends;

use ends::watch_over;

/// By what a live connection is judged again.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// Nothing passes yet.
    Detecting,
    /// Each request is judged by itself; the connection ends when no request could be allowed any more.
    Http,
    /// Nothing in it can be judged.
    Opaque,
    /// The same, and it came for the sake of Audit policies alone: no limit but its ends' own.
    Offered,
    /// Nothing in it can be judged beyond this server name.
    Tls(Option<String>),
    /// A tunnel that this request opened.
    Tunnel(JudgedRequest),
}

/// How a connection ended.
#[derive(Clone, Debug)]
pub(crate) enum Ended {
    /// As its ends wished.
    Done,
    /// It was denied or cut.
    Denied(Ruling),
    /// It was allowed, and something else ended it.
    Failed(Reason),
}

/// One connection, as its parts share it.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) dataplane: Arc<Dataplane>,
    pub(crate) id: RecordId,
    ends: Ends,
    started: Instant,
    pub(crate) client: Arc<Leg>,
    pub(crate) server: Arc<Leg>,
    stage: Mutex<Stage>,
    underway: Arc<Underway>,
    tls: OnceLock<TlsFacts>,
    /// A request has begun.
    asked: AtomicBool,
}

/// Why the kernel diverted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// Rules that are enforced want it read.
    Enforced,
    /// Audit policies alone do.
    Audited,
}

/// Carries one connection to its end. `original` is where the client wanted to go.
pub async fn handle_connection(dataplane: Arc<Dataplane>, stream: TcpStream, client: SocketAddr, original: OriginalDst) {
    handle(dataplane, stream, client, original, Why::Enforced).await;
}

/// [`handle_connection`] of one that came for the sake of Audit policies alone. As long as the newest table allows it unread, no limit
/// refuses it and nothing ends it but its ends, the end of the process, or another table.
pub async fn handle_audited(dataplane: Arc<Dataplane>, stream: TcpStream, client: SocketAddr, original: OriginalDst) {
    handle(dataplane, stream, client, original, Why::Audited).await;
}

async fn handle(dataplane: Arc<Dataplane>, stream: TcpStream, client: SocketAddr, original: OriginalDst, why: Why) {
    let ends = Ends { names: names(&dataplane, &stream, client, original).into(), ..Ends::new(ClientAddr(client), original) };
    let conn = Arc::new(Conn {
        id: dataplane.ids.next(),
        ends: ends.clone(),
        started: Instant::now(),
        client: Arc::default(),
        server: Arc::default(),
        stage: Mutex::new(Stage::Detecting),
        underway: Arc::default(),
        tls: OnceLock::new(),
        asked: AtomicBool::new(false),
        dataplane,
    });
    let mut table = conn.dataplane.table.clone();
    let first = Arc::clone(&table.borrow_and_update());
    let mut record = Record::new(RecordType::Connection, conn.id, &conn.dataplane.node, &first, &ends);
    let socket = Socket::new(stream, Arc::clone(&conn.client));

    let refused = |reason| Ended::Denied(Ruling::by_proxy(reason));
    let admission = &conn.dataplane.admission;
    let is_passing = why == Why::Audited && judge::decision(&first, &ends, None) == Decision::Allow;
    let place = || if is_passing { Some(admission.hold()) } else { admission.enter(client.ip()) };
    let (ruling, ended) = if original.0.ip().is_loopback() && conn.dataplane.dialer == Dialer::Transparent {
        (None, refused(Reason::NotDiverted))
    } else if let Some(_place) = place() {
        let open = &conn.dataplane.metrics.open_connections;
        open.inc();
        let ruling = judge::rule(&first, &ends, None);
        // What is read is audited by what is read.
        if ruling.decision != Decision::Inspect {
            conn.audit_whole(&first, None);
        }
        drop(first);
        let ended = tokio::select! {
            biased;
            ended = watch_over(&conn, table.clone()) => ended,
            ended = serve(&conn, socket, table, &ruling, is_passing) => ended,
        };
        open.dec();
        (Some(ruling), ended)
    } else {
        conn.client.reset_on_close();
        drop(socket);
        (None, refused(Reason::TooManyConnections))
    };
    if matches!(ended, Ended::Denied(_)) {
        conn.reset();
    }
    if let Some(ruling) = &ruling {
        record.decided(ruling);
    }
    conn.write_record(record, &ended);
}

/// The names that the client was told of where it goes.
fn names(dataplane: &Dataplane, stream: &TcpStream, client: SocketAddr, OriginalDst(original): OriginalDst) -> Vec<Arc<str>> {
    let Some(names) = &dataplane.names else { return Vec::new() };
    let (pod, server) = (client.ip().to_canonical(), original.ip().to_canonical());
    let asked = asked_for(stream).unwrap_or(server);
    names.of_flow(&dataplane.table.borrow(), pod, asked, server, Moment::now())
}

async fn serve(
    conn: &Arc<Conn>,
    socket: Socket,
    mut table: watch::Receiver<Arc<Table>>,
    ruling: &Ruling,
    is_passing: bool,
) -> Ended {
    let beginning = match ruling.decision {
        Decision::Deny => {
            conn.reset();
            return Ended::Denied(ruling.clone());
        }
        Decision::Allow => {
            let stage = if is_passing { Stage::Offered } else { Stage::Opaque };
            if judge::hangs_on_contents(&conn.table(), &conn.ends) {
                return observed(conn, socket, stage).await;
            }
            return unread(conn, socket, BytesMut::new(), stage).await;
        }
        Decision::Inspect => {
            let deadline = conn.first_head_by();
            read_beginning(conn, &socket, &mut table, deadline).await
        }
    };
    match beginning {
        Beginning::Is(Detected::Http1, read) => http::serve_http1(conn, socket, read).await,
        Beginning::Is(Detected::Http2, read) => http::serve_http2(conn, socket, read).await,
        Beginning::Is(Detected::Tls { server_name }, read) => tls(conn, socket, read, server_name).await,
        Beginning::Is(Detected::Other | Detected::Undecided, read) => not_http(conn, socket, read, Reason::NotTheProtocol).await,
        // A server that speaks first can't be told from a client that is slow.
        Beginning::TimedOut(read) => not_http(conn, socket, read, Reason::HeadTimeout).await,
        Beginning::NotNeeded(read) => {
            conn.audit_whole(&conn.table(), None);
            unread(conn, socket, read, Stage::Opaque).await
        }
        Beginning::Ended => Ended::Failed(Reason::Aborted),
        Beginning::Draining => {
            conn.reset();
            Ended::Denied(Ruling::by_proxy(Reason::Draining))
        }
    }
}

/// What can't be read as HTTP passes only where no rule about requests is in its way.
async fn not_http(conn: &Arc<Conn>, socket: Socket, read: BytesMut, reason: Reason) -> Ended {
    let table = conn.table();
    let mut ruling = judge::rule(&table, &conn.ends, Some(Request::Opaque));
    conn.audit_whole(&table, Some(Request::Opaque));
    if ruling.is_allowed() {
        return unread(conn, socket, read, Stage::Opaque).await;
    }
    conn.reset();
    if ruling.reason == Reason::NotTheProtocol {
        ruling.reason = reason;
    }
    Ended::Denied(ruling)
}

/// TLS passes by the name that the client asks for. What follows the hello is nobody's to read.
async fn tls(conn: &Arc<Conn>, socket: Socket, read: BytesMut, server_name: Option<String>) -> Ended {
    let _ = conn.tls.set(TlsFacts { server_name: server_name.clone() });
    let request = Request::Tls { server_name: server_name.as_deref() };
    let table = conn.table();
    conn.audit_whole(&table, Some(request));
    let ruling = judge::rule(&table, &conn.ends, Some(request));
    if ruling.is_allowed() {
        return unread(conn, socket, read, Stage::Tls(server_name)).await;
    }
    hello::refuse(socket).await;
    Ended::Denied(ruling)
}

/// Carries what is allowed unread, and lets Audit policies look on.
async fn observed(conn: &Arc<Conn>, socket: Socket, stage: Stage) -> Ended {
    let observer = Observer::new(conn);
    let seen = |bytes: &[u8]| observer.see(bytes);
    let ended = tokio::select! {
        biased;
        ended = unread_but(conn, socket, BytesMut::new(), stage, &seen) => ended,
        never = observer.watch() => match never {},
    };
    observer.end();
    ended
}

/// Carries what needs no further judgement; `stage` says by what it is judged again.
async fn unread(conn: &Arc<Conn>, socket: Socket, read: BytesMut, stage: Stage) -> Ended {
    unread_but(conn, socket, read, stage, &|_| {}).await
}

/// [`unread`] but by `seen`.
async fn unread_but(conn: &Arc<Conn>, socket: Socket, read: BytesMut, stage: Stage, seen: &Seen<'_>) -> Ended {
    if let Some(cut) = conn.enter(stage) {
        return cut;
    }
    let server = match conn.dial().await {
        Ok(server) => server,
        Err(error) => {
            tracing::debug!(%error, source = ?std::error::Error::source(&error), "no upstream");
            conn.reset();
            return Ended::Failed(Reason::UpstreamUnreachable);
        }
    };
    let client = Side { socket, read: read.freeze() };
    match relay_seen(client, Side::new(server), seen).await {
        Ok(()) => Ended::Done,
        Err(_) => Ended::Failed(Reason::Aborted),
    }
}

/// Between pods no address is translated. On the way to any other server the pod's may have to be.
fn source_port(table: &Table, server: OriginalDst) -> SourcePort {
    match table.endpoint(server.0.ip().to_canonical()) {
        Some(_) => SourcePort::Clients,
        None => SourcePort::Another,
    }
}

impl Conn {
    pub(crate) fn ends(&self) -> &Ends {
        &self.ends
    }

    /// The requests that were allowed and go on.
    pub(crate) fn underway(&self) -> &Arc<Underway> {
        &self.underway
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.dataplane.limits
    }

    /// The newest table.
    pub(crate) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.dataplane.table.borrow())
    }

    /// Writes down what Audit policies would have made of what `record` is about, where that is another answer.
    pub(crate) fn audit(&self, table: &Table, request: Option<Request<'_>>, record: impl FnOnce() -> Record) {
        let Some((enforced, audit)) = audit::audit(table, &self.ends, request) else { return };
        let mut record = record();
        record.audited(enforced, &audit);
        self.dataplane.metrics.audit.found(&record);
        self.dataplane.records.write(record);
    }

    /// [`Self::audit`] of the connection by its server name.
    pub(crate) fn audit_tls(&self, server_name: Option<String>) {
        let _ = self.tls.set(TlsFacts { server_name: server_name.clone() });
        self.audit_whole(&self.table(), Some(Request::Tls { server_name: server_name.as_deref() }));
    }

    /// [`Self::audit`] of the connection as a whole.
    pub(crate) fn audit_whole(&self, table: &Table, request: Option<Request<'_>>) {
        self.audit(table, request, || {
            let mut record = Record::new(RecordType::Connection, self.id, &self.dataplane.node, table, &self.ends);
            record.tls = self.tls.get().cloned();
            record
        });
    }

    /// Opens the leg to the server.
    pub(crate) async fn dial(&self) -> Result<Socket, DialError> {
        let started = Instant::now();
        let limit = Duration::from_secs(self.limits().connect_seconds.into());
        let port = source_port(&self.table(), self.ends.original);
        let socket = self.dataplane.dialer.connect(&self.ends, port, &self.server, limit).await?;
        self.dataplane.metrics.connected(started.elapsed());
        Ok(socket)
    }

    /// When the first head of the connection must be complete.
    pub(crate) fn first_head_by(&self) -> tokio::time::Instant {
        tokio::time::Instant::from_std(self.started) + self.head_time()
    }

    pub(crate) fn head_time(&self) -> Duration {
        Duration::from_secs(self.limits().head_seconds.into())
    }

    /// Both legs end with RST from now on.
    pub(crate) fn reset(&self) {
        self.client.reset_on_close();
        self.server.reset_on_close();
    }

    /// The connection is in `stage` from now on. The newest table has its say: one that arrived since the last judgement has
    /// judged the stage before.
    pub(crate) fn enter(&self, stage: Stage) -> Option<Ended> {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.judge_again(&self.table())
    }

    /// The end of the connection, if `table` doesn't allow it any more.
    fn judge_again(&self, table: &Table) -> Option<Ended> {
        let stage = self.stage.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (request, fits): (_, fn(Decision) -> bool) = match &stage {
            Stage::Detecting | Stage::Http => (None, |d| d != Decision::Deny),
            Stage::Opaque | Stage::Offered => (Some(Request::Opaque), |d| d == Decision::Allow),
            Stage::Tls(name) => (Some(Request::Tls { server_name: name.as_deref() }), |d| d == Decision::Allow),
            Stage::Tunnel(_) => (None, |d| d == Decision::Allow),
        };
        let fields;
        let http = match &stage {
            Stage::Tunnel(request) => {
                fields = Forwarded(&request.fields);
                Some(request.as_http(&fields))
            }
            _ => None,
        };
        let request = http.as_ref().map(Request::Http).or(request);
        if fits(judge::decision(table, &self.ends, request)) {
            return None;
        }
        self.reset();
        let mut ruling = judge::rule(table, &self.ends, request);
        ruling.decision = Decision::Deny;
        ruling.reason = Reason::PolicyChanged;
        Some(Ended::Denied(ruling))
    }

    fn is_http(&self) -> bool {
        matches!(*self.stage.lock().unwrap_or_else(PoisonError::into_inner), Stage::Http)
    }

    fn is_offered(&self) -> bool {
        matches!(*self.stage.lock().unwrap_or_else(PoisonError::into_inner), Stage::Offered)
    }

    /// Whether any byte has come from either end.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved() > 0
    }

    /// Changes whenever a byte moves.
    fn moved(&self) -> u64 {
        [&self.client, &self.server].iter().fold(0, |sum: u64, leg| sum.wrapping_add(leg.received()).wrapping_add(leg.sent()))
    }

    fn write_record(&self, mut record: Record, ended: &Ended) {
        match ended {
            Ended::Done => {}
            Ended::Denied(ruling) => record.decided(ruling),
            Ended::Failed(reason) => record.reason = *reason,
        }
        let dataplane = &self.dataplane;
        dataplane.metrics.connection(record.verdict, record.reason);
        if dataplane.connection_records == ConnectionRecords::Denied && record.verdict != RecordVerdict::Deny {
            return;
        }
        record.tls = self.tls.get().cloned();
        record.bytes_sent = Some(self.client.received());
        record.bytes_received = Some(self.client.sent());
        record.lasted(self.started);
        tracing::debug!(id = %record.id, reason = %record.reason, "connection ended");
        dataplane.records.write(record);
    }
}
