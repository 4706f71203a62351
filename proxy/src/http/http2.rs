//! An HTTP/2 connection with prior knowledge.
//!
//! h2 checks the framing and the fields (RFC 9113 section 8.2), and bounds what a client can make it hold: streams, resets
//! before a stream was seen (CVE-2023-44487), CONTINUATION frames, the header list. What is left is the same as for HTTP/1.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_policy::Reason;
use tokio_util::sync::CancellationToken;

use super::exchange::{HttpConn, exchange};
use super::ledger::Ledger;
use super::pinned::Pinned;
use super::replay::Replay;
use crate::connection::{Conn, Ended, Stage};
use crate::judge::Ruling;
use crate::socket::Socket;

/// What one stream may send before it is read: the bound on what a slow server makes the proxy hold for it.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same for all streams of a connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Spawns the tasks of one connection: they end with it.
#[derive(Clone, Debug)]
pub(crate) struct Tasks(CancellationToken);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, future: F) {
        let ended = self.0.clone();
        tokio::spawn(async move { ended.run_until_cancelled(future).await });
    }
}

/// Serves the requests of `socket`, of which `read` has been read.
pub(crate) async fn serve_http2(conn: &Arc<Conn>, socket: Socket, read: BytesMut) -> Ended {
    if let Some(cut) = conn.enter(Stage::Http) {
        return cut;
    }
    let ended = CancellationToken::new();
    let _end_tasks = ended.clone().drop_guard();
    let tasks = Tasks(ended);
    let http = Arc::new(HttpConn {
        conn: Arc::clone(conn),
        upstream: Pinned::http2(Arc::clone(conn), tasks.clone()),
        ledger: Ledger::new(conn.dataplane.records.clone()),
        guard: None,
        tunnel: Default::default(),
    });
    let service = {
        let http = Arc::clone(&http);
        service_fn(move |request| exchange(Arc::clone(&http), request))
    };
    let server = http2::Builder::new(tasks)
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .max_concurrent_streams(conn.limits().http2_streams)
        .max_header_list_size(conn.limits().header_bytes)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .serve_connection(TokioIo::new(Replay { read: read.freeze(), socket }), service);
    let mut server = std::pin::pin!(server);

    let mut closing = false;
    let mut first_by = std::pin::pin!(tokio::time::sleep_until(conn.first_head_by()));
    let mut first_is_due = false;
    let mut ledger_tick = tokio::time::interval(Duration::from_secs(1));
    let result = loop {
        tokio::select! {
            biased;
            result = server.as_mut() => break result,
            () = conn.draining(), if !closing => {
                closing = true;
                server.as_mut().graceful_shutdown();
            }
            // What happens while select! waits is seen only after it: its conditions are asked once, before.
            () = first_by.as_mut(), if !first_is_due => {
                first_is_due = true;
                if !conn.has_asked() {
                    conn.reset();
                    return Ended::Denied(Ruling::by_proxy(Reason::HeadTimeout));
                }
            }
            _ = ledger_tick.tick() => {
                if http.ledger.is_waiting() {
                    http.ledger.write_ready();
                }
            }
        }
    };
    match result {
        Ok(()) => Ended::Done,
        Err(error) => {
            tracing::debug!(%error, "HTTP/2 client connection ended");
            Ended::Failed(Reason::Aborted)
        }
    }
}
