//! An HTTP/1 connection: guard, hyper, and what comes after hyper (a tunnel, or a close that the client can read to its end).

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::PoisonError;

use bytes::BytesMut;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use sluice_policy::Reason;

use super::exchange::{HttpConn, exchange};
use super::guard::{Guard, HeadLimits};
use super::ledger::Ledger;
use super::pinned::Pinned;
use crate::connection::{Conn, Ended, Stage};
use crate::relay::{Side, relay};
use crate::socket::Socket;

/// Serves the requests of `socket`, of which `read` has been read.
pub(crate) async fn serve_http1(conn: &Arc<Conn>, socket: Socket, read: BytesMut) -> Ended {
    if let Some(cut) = conn.enter(Stage::Http) {
        return cut;
    }
    let limits =
        HeadLimits { bytes: conn.limits().header_bytes as usize, time: conn.head_time(), first_by: conn.first_head_by() };
    let (guard, handle) = Guard::new(socket, read, limits);
    let http = Arc::new(HttpConn {
        conn: Arc::clone(conn),
        upstream: Pinned::http1(Arc::clone(conn)),
        ledger: Ledger::new(conn.dataplane.records.clone()),
        guard: Some(handle.clone()),
        tunnel: Default::default(),
    });
    let service = {
        let http = Arc::clone(&http);
        service_fn(move |request| Box::pin(exchange(Arc::clone(&http), request)))
    };
    let mut server = http1::Builder::new()
        .preserve_header_case(true)
        .auto_date_header(false)
        .max_buf_size(limits.bytes.max(64 * 1024))
        .serve_connection(TokioIo::new(guard), service);

    let mut closing = false;
    let result = loop {
        tokio::select! {
            biased;
            result = poll_fn(|cx| server.poll_without_shutdown(cx)) => break result,
            () = conn.draining(), if !closing => {}
            // The server has closed: the client is told the same way.
            () = http.upstream.gone.cancelled(), if !closing => {}
        }
        closing = true;
        std::pin::Pin::new(&mut server).graceful_shutdown();
    };
    let parts = server.into_parts();
    let (socket, mut rest) = parts.io.into_inner().into_parts();
    let tunnel = http.tunnel.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (result, tunnel) {
        (Ok(()), Some((server, request))) => {
            let Ok(server) = server.await else { return Ended::Failed(Reason::Aborted) };
            if let Some(cut) = conn.enter(Stage::Tunnel(request)) {
                return cut;
            }
            let Some(server) = server_side(server) else { return Ended::Failed(Reason::Aborted) };
            let mut read = BytesMut::from(&parts.read_buf[..]);
            read.unsplit(std::mem::take(&mut rest));
            match relay(Side { socket, read: read.freeze() }, server).await {
                Ok(()) => Ended::Done,
                Err(_) => Ended::Failed(Reason::Aborted),
            }
        }
        (Ok(()), None) => {
            socket.linger().await;
            Ended::Done
        }
        (Err(error), _) => {
            tracing::debug!(%error, "HTTP/1 client connection ended");
            conn.reset();
            Ended::Failed(Reason::Aborted)
        }
    }
}

/// The server's socket, back from hyper.
fn server_side(upgraded: Upgraded) -> Option<Side> {
    let parts = upgraded.downcast::<TokioIo<Socket>>().ok()?;
    Some(Side { socket: parts.io.into_inner(), read: parts.read_buf })
}
