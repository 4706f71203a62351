//! Bodies on their way through: never held whole, counted, and a record's last word when they end.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::guard::GuardHandle;
use super::head::HeadError;
use super::ledger::{Entry, Ledger};

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
}

impl RequestBody {
    pub(crate) fn new(inner: Incoming, gate: Option<Arc<Gate>>, facts: Arc<BodyFacts>) -> Self {
        let gate = gate.map(|gate| (gate, Box::pin(tokio::time::sleep(CONTINUE_WAIT))));
        Self { inner, gate, facts }
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
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        ready!(self.poll_gate(cx));
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
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
        Poll::Ready(frame)
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
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.content {
            Content::Server(body) => ready!(Pin::new(body).poll_frame(cx)),
            Content::Ours(text) => text.take().map(|text| Ok(Frame::data(text))),
        };
        if let Some(Ok(frame)) = &frame {
            self.track.received += frame.data_ref().map_or(0, Bytes::len) as u64;
        }
        Poll::Ready(frame)
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
