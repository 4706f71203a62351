//! Stands between the client's socket and hyper: hyper sees only requests that have exactly one reading.
//!
//! The guard reads heads raw, checks them ([`head::check`]), follows each body's framing to the next head, and passes on
//! only bytes that it has checked. A request that it refuses is replaced by a stand-in, so that hyper answers it in its
//! turn, after the responses to the requests before it; the service finds the refusal through [`GuardHandle::next`].
//!
//! ```text
//! Head --ok--> Body --end--> Head
//!   |            |             ^
//!   |            +-may tunnel--+--> Held (until the server has answered: resume, or the socket is taken over)
//!   +--refused--> Refused (the stand-in, then silence)
//! ```

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::Framing;
use super::head::{self, HeadError, HeadScanner};

/// What hyper is given in place of a refused request.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: refused.invalid\r\n\r\n";

/// How long the answer to a client that has closed its sending side may still take. Many clients that close mean that they
/// are gone, some are only done sending.
const HALF_CLOSE_GRACE: Duration = Duration::from_secs(2);

/// A read of the socket when no body is being passed on.
const READ_BYTES: usize = 8 * 1024;

/// What the service and the guard tell each other.
#[derive(Clone, Debug, Default)]
pub(crate) struct GuardHandle(Arc<Mutex<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    /// For each head that hyper was given, in order: whether it stands in for a refused request.
    heads: VecDeque<Option<HeadError>>,
    /// Requests whose response is not complete.
    in_flight: usize,
    not_a_tunnel: bool,
    waker: Option<Waker>,
}

impl GuardHandle {
    /// For the next request that hyper hands out: the refusal, if it is a stand-in.
    pub(crate) fn next(&self) -> Option<HeadError> {
        self.lock().heads.pop_front().flatten()
    }

    /// The request that asked for a tunnel didn't get one: what follows it is the next request.
    pub(crate) fn not_a_tunnel(&self) {
        let mut shared = self.lock();
        shared.not_a_tunnel = true;
        shared.wake();
    }

    /// A response is complete.
    pub(crate) fn answered(&self) {
        let mut shared = self.lock();
        shared.in_flight = shared.in_flight.saturating_sub(1);
        shared.wake();
    }

    /// Whether a request waits for its response.
    pub(crate) fn is_busy(&self) -> bool {
        self.lock().in_flight > 0
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// Limits on the head of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeadLimits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
    /// When the first head must be complete.
    pub(crate) first_by: Instant,
}

/// The guarded side of a client's connection.
#[derive(Debug)]
pub(crate) struct Guard<S> {
    inner: S,
    handle: GuardHandle,
    limits: HeadLimits,
    /// Read and not yet passed on. The first `checked` bytes may be.
    buf: BytesMut,
    checked: usize,
    state: State,
    /// An empty line before this head has been left out.
    has_skipped: bool,
    ended: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Body { framing: Framing, may_tunnel: bool },
    Held,
    Refused,
}

impl<S: AsyncRead + Unpin> Guard<S> {
    /// Guards `inner`, of which `read` has been read already.
    pub(crate) fn new(inner: S, read: BytesMut, limits: HeadLimits) -> (Self, GuardHandle) {
        let handle = GuardHandle::default();
        let guard = Self {
            inner,
            handle: handle.clone(),
            limits,
            buf: read,
            checked: 0,
            state: State::Head(HeadScanner::default()),
            has_skipped: false,
            ended: false,
            timer: Some(Box::pin(tokio::time::sleep_until(limits.first_by))),
        };
        (guard, handle)
    }

    /// The socket, and what was read from it beyond the last request.
    pub(crate) fn into_parts(self) -> (S, BytesMut) {
        (self.inner, self.buf)
    }

    /// Moves on until some bytes are checked. `Ready` without any means that there will be no more.
    fn poll_checked(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.checked > 0 {
                return Poll::Ready(Ok(()));
            }
            match &mut self.state {
                State::Refused => return Poll::Pending,
                State::Held => {
                    if self.resumed() {
                        self.state = State::Head(HeadScanner::default());
                        continue;
                    }
                    if self.ended || self.buf.len() >= READ_BYTES {
                        ready!(self.poll_end(cx));
                        return Poll::Ready(Ok(()));
                    }
                    self.remember(cx);
                    ready!(self.poll_fill(cx))?;
                }
                State::Body { framing, may_tunnel } => {
                    if framing.is_done() {
                        self.state = if *may_tunnel { State::Held } else { State::Head(HeadScanner::default()) };
                        continue;
                    }
                    if self.buf.is_empty() {
                        if self.ended {
                            return Poll::Ready(Ok(()));
                        }
                        ready!(self.poll_fill(cx))?;
                        continue;
                    }
                    self.checked = framing.advance(&self.buf).map_err(io::Error::other)?;
                }
                State::Head(_) => {
                    if !ready!(self.poll_head(cx))? {
                        return Poll::Ready(Ok(()));
                    }
                }
            }
        }
    }

    /// Reads on in a head. `false`: the client has ended.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let State::Head(scanner) = &mut self.state else { return Poll::Ready(Ok(true)) };
        // RFC 9112 section 2.2: some old clients send an empty line after a body. It is left out; a second one is no request.
        if self.buf.starts_with(b"\r\n") && !self.has_skipped {
            self.has_skipped = true;
            self.buf.advance(2);
            *scanner = HeadScanner::default();
        }
        let checked = match scanner.scan(&self.buf) {
            Ok(Some(end)) if end > self.limits.bytes => Err(HeadError::TooLarge),
            Ok(Some(end)) => head::check(&self.buf[..end], self.limits.bytes).map(|head| (end, head)),
            Ok(None) if self.buf.len() >= self.limits.bytes => Err(HeadError::TooLarge),
            Ok(None) => return self.poll_more_head(cx),
            Err(error) => Err(error),
        };
        match checked {
            Ok((end, head)) => {
                self.checked = end;
                self.state = State::Body { framing: head.framing, may_tunnel: head.may_tunnel };
                self.timer = None;
                self.has_skipped = false;
                self.note_head(None);
            }
            Err(error) => self.refuse(error),
        }
        Poll::Ready(Ok(true))
    }

    fn poll_more_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.ended {
            ready!(self.poll_end(cx));
            return Poll::Ready(Ok(false));
        }
        // The time counts from the first byte of a head, except for the first head of a connection.
        if self.timer.is_none() && !self.buf.is_empty() {
            self.timer = Some(Box::pin(tokio::time::sleep(self.limits.time)));
        }
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.refuse(HeadError::Timeout);
            return Poll::Ready(Ok(true));
        }
        self.remember(cx);
        ready!(self.poll_fill(cx))?;
        Poll::Ready(Ok(true))
    }

    /// The client has closed its side: it is told to hyper at once if nobody waits for an answer, else after some grace.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.ended {
            // Held, and the buffer is full: nothing more is read until the server has answered.
            self.remember(cx);
            return Poll::Pending;
        }
        if !self.handle.is_busy() {
            return Poll::Ready(());
        }
        self.remember(cx);
        self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(HALF_CLOSE_GRACE))).as_mut().poll(cx)
    }

    fn refuse(&mut self, error: HeadError) {
        self.buf.clear();
        self.buf.extend_from_slice(STAND_IN);
        self.checked = STAND_IN.len();
        self.state = State::Refused;
        self.timer = None;
        self.note_head(Some(error));
    }

    fn note_head(&self, refused: Option<HeadError>) {
        let mut shared = self.handle.lock();
        shared.heads.push_back(refused);
        shared.in_flight += 1;
    }

    fn resumed(&self) -> bool {
        std::mem::take(&mut self.handle.lock().not_a_tunnel)
    }

    fn remember(&self, cx: &Context<'_>) {
        self.handle.lock().waker = Some(cx.waker().clone());
    }

    /// Reads once into the buffer.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = self.buf.len();
        let room = if matches!(self.state, State::Head(_)) {
            READ_BYTES.min(self.limits.bytes.saturating_sub(before)).max(1)
        } else {
            READ_BYTES
        };
        self.buf.resize(before + room, 0);
        let mut target = ReadBuf::new(&mut self.buf[before..]);
        let result = Pin::new(&mut self.inner).poll_read(cx, &mut target);
        let read = target.filled().len();
        self.buf.truncate(before + read);
        ready!(result)?;
        self.ended = read == 0;
        Poll::Ready(Ok(()))
    }

    /// Passes a body on without another copy: what was read beyond its end goes to the buffer.
    fn poll_body(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let State::Body { framing, .. } = &mut self.state else { return Poll::Ready(Ok(())) };
        let before = out.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
        let read = &out.filled()[before..];
        self.ended = read.is_empty();
        let body = framing.advance(read).map_err(io::Error::other)?;
        self.buf.extend_from_slice(&read[body..]);
        out.set_filled(before + body);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let State::Body { framing, .. } = &this.state
            && this.buf.is_empty()
            && !this.ended
            && !framing.is_done()
        {
            return this.poll_body(cx, out);
        }
        ready!(this.poll_checked(cx))?;
        let taken = this.checked.min(out.remaining());
        out.put_slice(&this.buf[..taken]);
        this.buf.advance(taken);
        this.checked -= taken;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
#[cfg(test)]
mod tests;
