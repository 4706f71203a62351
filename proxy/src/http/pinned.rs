//! The connection to the server that belongs to one client connection, in the same version of HTTP.
//!
//! It is opened when the first request is allowed, so a client that is denied never touches the server. There are no retries: a
//! request is sent again only if not a byte of it was written, because the server had closed an idle connection.

use std::sync::Arc;

use ::http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::body::RequestBody;
use super::http2::Tasks;
use crate::connection::Conn;
use crate::upstream::DialError;

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    #[error("no connection to the server")]
    Dial(#[from] DialError),
    #[error("no HTTP connection to the server")]
    Handshake(#[source] hyper::Error),
    #[error("no response from the server")]
    Exchange(#[source] hyper::Error),
}

impl ForwardError {
    /// With which code the server reset the request's stream, if it did.
    pub(crate) fn reset(&self) -> Option<h2::Reason> {
        let mut error: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(this) = error {
            if let Some(h2) = this.downcast_ref::<h2::Error>() {
                return h2.reason().filter(|_| h2.is_reset() && h2.is_remote());
            }
            error = this.source();
        }
        None
    }
}

/// The client connection's own upstream.
#[derive(Debug)]
pub(crate) struct Pinned {
    conn: Arc<Conn>,
    version: Version,
    /// The server's connection has ended.
    pub(crate) gone: CancellationToken,
}

#[derive(Debug)]
enum Version {
    One(Mutex<Option<Http1>>),
    Two(Mutex<Option<Http2>>, Tasks),
}

type Http1 = (http1::SendRequest<RequestBody>, AbortOnDropHandle<()>);
type Http2 = (http2::SendRequest<RequestBody>, AbortOnDropHandle<()>);
type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl Pinned {
    pub(crate) fn http1(conn: Arc<Conn>) -> Self {
        Self { conn, version: Version::One(Mutex::default()), gone: CancellationToken::new() }
    }

    pub(crate) fn http2(conn: Arc<Conn>, tasks: Tasks) -> Self {
        Self { conn, version: Version::Two(Mutex::default(), tasks), gone: CancellationToken::new() }
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>, ForwardError> {
        let unsent = match self.try_send(request).await? {
            Ok(response) => return Ok(response),
            Err(mut failed) => match failed.take_message() {
                Some(unsent) => unsent,
                None => return Err(ForwardError::Exchange(failed.into_error())),
            },
        };
        self.disconnect().await;
        self.try_send(unsent).await?.map_err(|failed| ForwardError::Exchange(failed.into_error()))
    }

    /// Gives the connection up: it can't carry another request.
    pub(crate) async fn disconnect(&self) {
        match &self.version {
            Version::One(slot) => drop(slot.lock().await.take()),
            Version::Two(slot, _) => drop(slot.lock().await.take()),
        }
    }

    async fn try_send(&self, request: Request<RequestBody>) -> Result<Sent, ForwardError> {
        match &self.version {
            Version::One(slot) => {
                let mut slot = slot.lock().await;
                let usable = match &mut *slot {
                    Some((sender, _)) => sender.ready().await.is_ok(),
                    None => false,
                };
                let (sender, _) = match &mut *slot {
                    Some(connected) if usable => connected,
                    slot => slot.insert(self.connect_http1().await?),
                };
                Ok(sender.try_send_request(request).await)
            }
            Version::Two(slot, tasks) => {
                let mut slot = slot.lock().await;
                let mut sender = match &*slot {
                    Some((sender, _)) if !sender.is_closed() => sender.clone(),
                    _ => {
                        let connected = self.connect_http2(tasks).await?;
                        let sender = connected.0.clone();
                        *slot = Some(connected);
                        sender
                    }
                };
                drop(slot);
                if sender.ready().await.is_err() {
                    // It ended this moment. Sending says so, and gives the request back.
                    tracing::debug!("HTTP/2 upstream ended");
                }
                Ok(sender.try_send_request(request).await)
            }
        }
    }

    async fn connect_http1(&self) -> Result<Http1, ForwardError> {
        let socket = self.conn.dial().await?;
        let (sender, connection) = ::hyper::client::conn::http1::Builder::new()
            .preserve_header_case(true)
            .max_header_size(self.conn.limits().header_bytes as usize)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(ForwardError::Handshake)?;
        let gone = self.gone.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "HTTP/1 upstream ended");
            }
            gone.cancel();
        });
        Ok((sender, AbortOnDropHandle::new(task)))
    }

    async fn connect_http2(&self, tasks: &Tasks) -> Result<Http2, ForwardError> {
        let socket = self.conn.dial().await?;
        let (sender, connection) = http2::Builder::new(tasks.clone())
            .timer(TokioTimer::new())
            .max_header_list_size(self.conn.limits().header_bytes)
            .initial_stream_window_size(super::http2::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(super::http2::CONNECTION_WINDOW_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(ForwardError::Handshake)?;
        let task = tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "HTTP/2 upstream ended");
            }
        });
        Ok((sender, AbortOnDropHandle::new(task)))
    }
}
