//! Bodies on their way through: never held whole, counted, and a record's last word when they end.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::grpc;
use super::guard::GuardHandle;
use super::head::HeadError;
use super::ledger::{Entry, Ledger};
use super::underway::{Cut, Open, Shared, Waiting};
use crate::config::DenialBody;
use crate::ident::RecordId;

/// A client that waits for `100 Continue` sends its body after some time in any case (RFC 9110 section 10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Lets the body of a request with `Expect: 100-continue` through once the server has asked for it.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
        if let Some(waker) = self.waker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            waker.wake();
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }
}

/// Why a body broke off. Over HTTP/2 what stands behind it names the code of the RST_STREAM.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Read(#[from] hyper::Error),
    #[error("policies have changed and deny the request")]
    Cut(#[source] h2::Error),
}

impl BodyError {
    fn cut() -> Self {
        Self::Cut(h2::Reason::CANCEL.into())
    }
}

/// What is known of a request's body from outside.
#[derive(Debug, Default)]
pub(crate) struct BodyFacts {
    bytes: AtomicU64,
    /// The guard refused its framing.
    refused: OnceLock<HeadError>,
}

impl BodyFacts {
    pub(crate) fn refused(&self) -> Option<HeadError> {
        self.refused.get().copied()
    }
}

/// The body of a request on its way to the server.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Incoming,
    gate: Option<(Arc<Gate>, Pin<Box<Sleep>>)>,
    facts: Arc<BodyFacts>,
    open: Arc<Shared>,
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, gate: Option<Arc<Gate>>, facts: Arc<BodyFacts>, open: Arc<Shared>) -> Self {
        let gate = gate.map(|gate| (gate, Box::pin(tokio::time::sleep(CONTINUE_WAIT))));
        Self { inner, gate, facts, open }
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((gate, wait)) = &mut self.gate else { return Poll::Ready(()) };
        *gate.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        if !gate.is_open() && wait.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        gate.open();
        self.gate = None;
        Poll::Ready(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        ready!(self.poll_gate(cx));
        if self.open.cut().is_some() {
            return Poll::Ready(Some(Err(BodyError::cut())));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            return self.open.poll_cut(Waiting::Request, cx).map(|_| Some(Err(BodyError::cut())));
        };
        match &frame {
            Some(Ok(frame)) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                self.facts.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Some(Err(error)) => {
                if let Some(refused) = refusal(error) {
                    let _ = self.facts.refused.set(refused);
                }
            }
            None => {}
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Read)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// The guard's word in an error that came through hyper.
fn refusal(error: &hyper::Error) -> Option<HeadError> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return io.get_ref().and_then(|inner| inner.downcast_ref::<HeadError>()).copied();
        }
        source = error.source();
    }
    None
}

/// Finishes the record of a request when it is dropped.
#[derive(Debug)]
pub(crate) struct Track {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) guard: Option<GuardHandle>,
    pub(crate) request: Arc<BodyFacts>,
    pub(crate) received: u64,
    /// The request is a call of gRPC.
    pub(crate) is_grpc: bool,
    /// While the request may be cut.
    pub(crate) open: Option<Open>,
    pub(crate) id: RecordId,
    pub(crate) denial_body: DenialBody,
}

impl Track {
    pub(crate) fn note_status(&self, status: StatusCode) {
        self.entry.note(|record| {
            if let Some(http) = &mut record.http {
                http.status = Some(status.as_u16());
            }
        });
    }

    /// The call has this status.
    pub(crate) fn note_call(&self, status: u32) {
        self.entry.note(|record| {
            if let Some(grpc) = &mut record.grpc {
                grpc.status = Some(status);
            }
        });
    }

    /// The call's status, if these are the fields that have it.
    pub(crate) fn note_call_in(&self, fields: &HeaderMap) {
        if self.is_grpc
            && let Some(status) = grpc::status_in(fields)
        {
            self.note_call(status);
        }
    }

    /// The request ends because policies have changed. A call ends with trailers, which tell the client why.
    fn cut(&self, cut: &Cut) -> Result<Frame<Bytes>, BodyError> {
        self.entry.note(|record| record.decided(&cut.ruling));
        if !self.is_grpc {
            return Err(BodyError::cut());
        }
        let denied = grpc::Status::PermissionDenied;
        self.note_call(denied.number());
        let message = match self.denial_body {
            DenialBody::Full => &cut.sentence,
            DenialBody::Id => &self.id.to_string(),
        };
        Ok(Frame::trailers(grpc::end(denied, message)))
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        self.entry.note(|record| {
            record.bytes_sent = Some(self.request.bytes.load(Ordering::Relaxed));
            record.bytes_received = Some(self.received);
        });
        self.ledger.finish(&self.entry);
        if let Some(guard) = &self.guard {
            guard.answered();
        }
    }
}

/// The body of a response on its way to the client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    content: Content,
    track: Track,
}

#[derive(Debug)]
enum Content {
    Server(Incoming),
    Ours(Option<Bytes>),
}

impl ResponseBody {
    pub(crate) fn of_server(body: Incoming, track: Track) -> Self {
        Self { content: Content::Server(body), track }
    }

    pub(crate) fn of_ours(text: String, track: Track) -> Self {
        Self { content: Content::Ours((!text.is_empty()).then(|| text.into())), track }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { content, track } = self.get_mut();
        let body = match content {
            Content::Server(body) => body,
            Content::Ours(text) => {
                let text = text.take();
                track.received += text.as_ref().map_or(0, Bytes::len) as u64;
                return Poll::Ready(text.map(|text| Ok(Frame::data(text))));
            }
        };
        let open = track.open.as_ref().map(Open::shared);
        let mut cut = open.and_then(|open| open.cut());
        if cut.is_none() {
            match Pin::new(body).poll_frame(cx) {
                Poll::Ready(frame) => {
                    if let Some(Ok(frame)) = &frame {
                        track.received += frame.data_ref().map_or(0, Bytes::len) as u64;
                        if let Some(trailers) = frame.trailers_ref() {
                            track.note_call_in(trailers);
                        }
                    }
                    return Poll::Ready(frame.map(|frame| frame.map_err(BodyError::Read)));
                }
                Poll::Pending => {
                    cut = match open.map(|open| open.poll_cut(Waiting::Response, cx)) {
                        Some(Poll::Ready(cut)) => Some(cut),
                        Some(Poll::Pending) | None => return Poll::Pending,
                    };
                }
            }
        }
        let end = cut.map(|cut| track.cut(cut));
        // The server's side ends here.
        *content = Content::Ours(None);
        Poll::Ready(end)
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Server(body) => body.is_end_stream(),
            Content::Ours(text) => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Server(body) => body.size_hint(),
            Content::Ours(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
        }
    }
}
