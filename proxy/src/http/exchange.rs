//! One request: read, judged by the newest table, and answered here or by the server.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use ::http::request::Parts;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::body::{Body, Incoming};
use hyper::upgrade::OnUpgrade;
use sluice_policy::flow::Request as FlowRequest;
use sluice_policy::{Reason, Table};

use super::answer::{After, Code, denied, denied_by, drain_body, of_head_error, refused};
use super::body::{BodyFacts, Gate, RequestBody, ResponseBody, Track};
use super::fields::{clean_request, clean_response};
use super::grpc;
use super::guard::GuardHandle;
use super::ledger::Ledger;
use super::pinned::{ForwardError, Pinned};
use super::target::read_target;
use super::underway::{Cut, Shared, Waiting};
use crate::connection::Conn;
use crate::ident::RecordId;
use crate::judge::{self, Forwarded, JudgedRequest, Ruling};
use crate::records::{GrpcFacts, HttpFacts, Record, RecordType, shortened};

/// What the requests of one client connection share.
#[derive(Debug)]
pub(crate) struct HttpConn {
    pub(crate) conn: Arc<Conn>,
    pub(crate) upstream: Pinned,
    pub(crate) ledger: Arc<Ledger>,
    /// HTTP/1 only.
    pub(crate) guard: Option<GuardHandle>,
    /// The server agreed to a tunnel: it begins once its response has been written.
    pub(crate) tunnel: Mutex<Option<(OnUpgrade, JudgedRequest)>>,
}

/// A request that was judged and may go on.
struct Allowed {
    open: Arc<Shared>,
    forwarded: Uri,
    id: RecordId,
    track: Track,
}

/// Answers one request. Never fails: a failure is an answer too.
pub(crate) async fn exchange(http: Arc<HttpConn>, request: Request<Incoming>) -> Result<Response<ResponseBody>, Infallible> {
    http.conn.asks();
    let (mut parts, body) = request.into_parts();
    let version = parts.version;
    // The same question as the guard's, which holds back what follows such a request.
    let may_tunnel = parts.method == Method::CONNECT || parts.headers.contains_key(header::UPGRADE);
    // Before it is judged: a client could name any field in `Connection`, have it judged, and have it taken out.
    let upgrade = version != Version::HTTP_2 && clean_request(&mut parts.headers, version);
    let mut response = match http.admit(&parts) {
        Ok(Ok(allowed)) => http.forward(parts, body, allowed, upgrade).await,
        Ok(Err(denial)) => {
            let after = drain_body(&parts, body).await;
            let Denial { table, request, ruling, id, track } = denial;
            denied(&http.conn, &table, &request, &ruling, &id.to_string(), after, track)
        }
        Err(response) => *response,
    };
    *response.version_mut() = version;
    if version == Version::HTTP_2 {
        response.headers_mut().remove(header::CONNECTION);
    }
    if may_tunnel
        && !http.has_tunnel()
        && let Some(guard) = &http.guard
    {
        guard.not_a_tunnel();
    }
    Ok(response)
}

/// The record of a request that was read.
pub(crate) fn record_of(conn: &Conn, table: &Table, id: RecordId, parts: &Parts, request: &JudgedRequest) -> Record {
    let mut record = bare_record(conn, table, id, parts);
    if record.grpc.is_some() {
        record.grpc = Some(grpc::facts(&request.path));
    }
    if let Some(facts) = &mut record.http {
        facts.method = Some(shortened(&request.method).into_owned());
        facts.path = Some(shortened(&request.path).into_owned());
        facts.host = Some(shortened(&request.host).into_owned());
    }
    record
}

fn bare_record(conn: &Conn, table: &Table, id: RecordId, parts: &Parts) -> Record {
    let mut record = Record::new(RecordType::Request, id, &conn.dataplane.node, table, conn.ends());
    record.connection = Some(conn.id);
    let version = match parts.version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    record.http = Some(HttpFacts { version, ..HttpFacts::default() });
    record.grpc = grpc::is_call(parts.version, &parts.headers).then(GrpcFacts::default);
    record
}

struct Denial {
    table: Arc<Table>,
    request: JudgedRequest,
    ruling: Ruling,
    id: RecordId,
    track: Track,
}

impl HttpConn {
    fn has_tunnel(&self) -> bool {
        self.tunnel.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Reads and judges a request. `Err`: it can't be read safely, and this is the answer.
    fn admit(&self, parts: &Parts) -> Result<Result<Allowed, Denial>, Box<Response<ResponseBody>>> {
        let id = self.conn.dataplane.ids.next();
        if let Some(error) = self.guard.as_ref().and_then(GuardHandle::next) {
            let (status, reason) = of_head_error(error);
            return Err(Box::new(self.refuse(parts, id, status, reason, &error.to_string())));
        }
        let malformed = |why: &str| {
            let status = StatusCode::BAD_REQUEST;
            Box::new(self.refuse(parts, id, status, Reason::MalformedRequest, why))
        };
        if parts.version == Version::HTTP_2 && parts.method == Method::CONNECT {
            return Err(malformed("CONNECT over HTTP/2 is not supported"));
        }
        let (mut request, forwarded) = read_target(parts).map_err(|error| malformed(&error.to_string()))?;

        let table = self.conn.table();
        let fields = Forwarded(&parts.headers);
        let http = request.as_http(&fields);
        let ruling = judge::rule(&table, self.conn.ends(), Some(FlowRequest::Http(&http)));
        let record = record_of(&self.conn, &table, id, parts, &request);
        self.conn.audit(&table, Some(FlowRequest::Http(&http)), || record.clone());
        let mut track = self.judged(record, id, &ruling);
        if !ruling.is_allowed() {
            return Ok(Err(Denial { table, request, ruling, id, track }));
        }
        request.fields = parts.headers.clone();
        let open = track.open.insert(self.conn.underway().open(request)).shared().clone();
        // One that arrived since the judgement has judged what was under way before this.
        open.judge_again(&self.conn.table(), self.conn.ends());
        Ok(Ok(Allowed { open, forwarded, id, track }))
    }

    fn refuse(&self, parts: &Parts, id: RecordId, status: StatusCode, reason: Reason, why: &str) -> Response<ResponseBody> {
        let record = bare_record(&self.conn, &self.conn.table(), id, parts);
        let track = self.judged(record, id, &Ruling::by_proxy(reason));
        refused(&self.conn, status.into(), why, reason, &id.to_string(), track)
    }

    fn judged(&self, mut record: Record, id: RecordId, ruling: &Ruling) -> Track {
        record.decided(ruling);
        self.conn.dataplane.metrics.request(record.verdict, record.reason);
        let is_grpc = record.grpc.is_some();
        Track {
            ledger: Arc::clone(&self.ledger),
            entry: self.ledger.open(record),
            guard: self.guard.clone(),
            request: Arc::default(),
            received: 0,
            is_grpc,
            open: None,
            id,
            denial_body: self.conn.dataplane.denial_body,
        }
    }

    /// Sends an allowed request to the server, and its response back.
    async fn forward(&self, mut parts: Parts, body: Incoming, allowed: Allowed, upgrade: bool) -> Response<ResponseBody> {
        let Allowed { open, forwarded, id, track } = allowed;
        let connect = parts.method == Method::CONNECT;
        let is_http2 = parts.version == Version::HTTP_2;
        parts.uri = forwarded;

        let expects = !is_http2 && parts.headers.contains_key(header::EXPECT) && !body.is_end_stream();
        let gate = expects.then(Arc::<Gate>::default);
        let facts = Arc::clone(&track.request);
        let body = RequestBody::new(body, gate.clone(), Arc::clone(&facts), Arc::clone(&open));
        let mut outgoing = Request::from_parts(parts, body);
        if let Some(gate) = gate.clone() {
            hyper::ext::on_informational(&mut outgoing, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    gate.open();
                }
            });
        }
        let cut = std::future::poll_fn(|cx| open.poll_cut(Waiting::Response, cx).map(Cut::clone));
        let mut response = tokio::select! {
            biased;
            cut = cut => return self.cut(&cut, id, track).await,
            sent = self.upstream.send(outgoing) => match sent {
                Ok(response) => response,
                Err(error) => return self.failed(&error, &facts, id, track),
            },
        };
        self.conn.dataplane.metrics.responded(track.entry.started().elapsed());
        track.note_status(response.status());
        track.note_call_in(response.headers());
        let tunnels = response.status() == StatusCode::SWITCHING_PROTOCOLS || (connect && response.status().is_success());
        if tunnels {
            if !(upgrade || connect) {
                self.upstream.disconnect().await;
                let reason = Reason::UpstreamMalformed;
                track.entry.note(|record| record.reason = reason);
                let why = "the server switched to a protocol that nobody asked for";
                return refused(&self.conn, StatusCode::BAD_GATEWAY.into(), why, reason, &id.to_string(), track);
            }
            let on_upgrade = hyper::upgrade::on(&mut response);
            *self.tunnel.lock().unwrap_or_else(PoisonError::into_inner) = Some((on_upgrade, open.request.clone()));
        }
        let (mut head, body) = response.into_parts();
        if !is_http2 {
            clean_response(&mut head.headers, head.status);
        }
        if gate.is_some_and(|gate| !gate.is_open()) {
            // Answered without the body: neither connection can be used for another request.
            self.upstream.gone.cancel();
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Response::from_parts(head, ResponseBody::of_server(body, track))
    }

    /// The answer where policies have changed before the server gave one.
    async fn cut(&self, cut: &Cut, id: RecordId, track: Track) -> Response<ResponseBody> {
        if self.guard.is_some() {
            // The server's answer may still come on this connection: it is nobody's.
            self.upstream.disconnect().await;
        }
        track.entry.note(|record| record.decided(&cut.ruling));
        denied_by(&self.conn, &cut.sentence, &id.to_string(), After::Close, track)
    }

    /// The answer where the server gave none.
    fn failed(&self, error: &ForwardError, facts: &BodyFacts, id: RecordId, track: Track) -> Response<ResponseBody> {
        tracing::debug!(error = %crate::error_chain(error), "request not answered");
        if let Some(refusal) = facts.refused() {
            let (status, reason) = of_head_error(refusal);
            track.entry.note(|record| record.decided(&Ruling::by_proxy(reason)));
            return refused(&self.conn, status.into(), &refusal.to_string(), reason, &id.to_string(), track);
        }
        let (reason, why) = match error {
            ForwardError::Dial(_) => (Reason::UpstreamUnreachable, "the server can't be reached"),
            ForwardError::Exchange(error) if error.is_parse() => (Reason::UpstreamMalformed, "the server's answer can't be read"),
            ForwardError::Handshake(_) | ForwardError::Exchange(_) => {
                (Reason::Aborted, "the server ended the connection without an answer")
            }
        };
        track.entry.note(|record| record.reason = reason);
        let mut code = Code::from(StatusCode::BAD_GATEWAY);
        if let Some(reset) = error.reset() {
            code.grpc = grpc::Status::of_reset(reset);
        }
        refused(&self.conn, code, why, reason, &id.to_string(), track)
    }
}
