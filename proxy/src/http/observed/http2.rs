//! The requests of an HTTP/2 connection, gRPC's among them.
//!
//! Fields are compressed by what all fields before them were, so none may be missed, and nobody here answers. So of the client's
//! frames a server of `h2` that talks to nobody gets those alone that carry fields, each block of them as a stream of its own that ends
//! with it:
//!
//! | frame | |
//! |---|---|
//! | HEADERS, and the CONTINUATION behind it | goes on, with a number of its own, END_STREAM and no dependency |
//! | the first SETTINGS, and the first acknowledgement | goes on |
//! | all others | is passed over: windows, bodies, resets and pings are between client and server |
//!
//! Trailers come to be streams without a method, which that server refuses, as it does what is no request.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use ::http::{Method, Response};
use bytes::{Buf, Bytes, BytesMut};
use h2::server::{Builder, Connection, Handshake};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Unreadable, judge};
use crate::connection::Conn;

/// RFC 9113 section 3.4.
const PREFACE_BYTES: usize = 24;
/// RFC 9113 section 4.1.
const FRAME_HEAD_BYTES: usize = 9;

const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;
const PRIORITY: u8 = 0x20;

/// What a client's encoder may be told to remember. One that remembers more is not understood.
const TABLE_BYTES: u32 = 64 * 1024;

/// How far a connection was read.
#[derive(Debug)]
pub(crate) struct Streams {
    frames: Frames,
    wire: Wire,
    server: Server,
}

#[derive(Debug)]
enum Server {
    Greeting(Handshake<Wire, Bytes>),
    Open(Connection<Wire, Bytes>),
}

impl Streams {
    /// `limit_bytes`: of the fields of a request.
    pub(crate) fn new(limit_bytes: u32) -> Self {
        let wire = Wire::default();
        let mut builder = Builder::new();
        builder.max_header_list_size(limit_bytes).max_frame_size(limit_bytes.clamp(1 << 14, (1 << 24) - 1));
        builder.header_table_size(TABLE_BYTES).max_local_error_reset_streams(None);
        let server = Server::Greeting(builder.handshake(wire.clone()));
        Self { frames: Frames::new(limit_bytes as usize), wire, server }
    }

    /// Reads on, and asks the Audit policies about each request whose fields are complete.
    pub(crate) fn see(&mut self, conn: &Conn, bytes: &[u8]) -> Result<(), Unreadable> {
        self.frames.sift(bytes, &mut self.wire.lock())?;
        // Nothing here waits: what the wire holds is read to its end.
        let mut cx = Context::from_waker(Waker::noop());
        if let Server::Greeting(handshake) = &mut self.server {
            match Pin::new(handshake).poll(&mut cx) {
                Poll::Ready(Ok(connection)) => self.server = Server::Open(connection),
                Poll::Ready(Err(_)) => return Err(Unreadable),
                Poll::Pending => return Ok(()),
            }
        }
        let Server::Open(connection) = &mut self.server else { return Ok(()) };
        loop {
            match connection.poll_accept(&mut cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Some(Ok((request, mut answer)))) => {
                    let (parts, _) = request.into_parts();
                    if parts.method == Method::CONNECT {
                        return Err(Unreadable);
                    }
                    judge(conn, &parts)?;
                    answer.send_response(Response::new(()), true).map_err(|_| Unreadable)?;
                }
                Poll::Ready(Some(Err(_)) | None) => return Err(Unreadable),
            }
        }
    }
}

/// Finds the frames that carry fields.
#[derive(Debug)]
struct Frames {
    /// A frame goes on whole, and is kept until it is.
    held: BytesMut,
    state: State,
    limit_bytes: usize,
    /// The number of the last stream that was made.
    stream: u32,
    greeted: bool,
    acknowledged: bool,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Preface,
    Head,
    Frame { bytes: usize },
    Skip { bytes: usize },
}

impl Frames {
    fn new(limit_bytes: usize) -> Self {
        Self { held: BytesMut::new(), state: State::Preface, limit_bytes, stream: 0, greeted: false, acknowledged: false }
    }

    fn sift(&mut self, mut bytes: &[u8], wire: &mut BytesMut) -> Result<(), Unreadable> {
        while !bytes.is_empty() {
            let whole = match self.state {
                State::Preface => PREFACE_BYTES,
                State::Head => FRAME_HEAD_BYTES,
                State::Frame { bytes } => FRAME_HEAD_BYTES + bytes,
                State::Skip { bytes: left } => {
                    let skipped = left.min(bytes.len());
                    bytes = &bytes[skipped..];
                    self.state = if skipped == left { State::Head } else { State::Skip { bytes: left - skipped } };
                    continue;
                }
            };
            let (taken, rest) = bytes.split_at(bytes.len().min(whole.saturating_sub(self.held.len())));
            self.held.extend_from_slice(taken);
            bytes = rest;
            if self.held.len() < whole {
                return Ok(());
            }
            self.state = match self.state {
                State::Head => self.head()?,
                State::Frame { .. } => {
                    self.frame(wire)?;
                    State::Head
                }
                State::Preface | State::Skip { .. } => {
                    wire.extend_from_slice(&self.held.split());
                    State::Head
                }
            };
            // A frame without contents is whole with its head.
            if let State::Frame { bytes: 0 } = self.state {
                self.frame(wire)?;
                self.state = State::Head;
            }
        }
        Ok(())
    }

    /// What is to be done with the frame whose head is held.
    fn head(&mut self) -> Result<State, Unreadable> {
        let [a, b, c, kind, flags, ..] = self.held[..] else { return Err(Unreadable) };
        let bytes = u32::from_be_bytes([0, a, b, c]) as usize;
        let goes_on = match kind {
            HEADERS | CONTINUATION => true,
            SETTINGS if flags & ACK == 0 => !std::mem::replace(&mut self.greeted, true),
            SETTINGS => !std::mem::replace(&mut self.acknowledged, true),
            _ => false,
        };
        if !goes_on {
            self.held.clear();
            return Ok(if bytes == 0 { State::Head } else { State::Skip { bytes } });
        }
        if bytes > self.limit_bytes { Err(Unreadable) } else { Ok(State::Frame { bytes }) }
    }

    /// Hands a frame on.
    fn frame(&mut self, wire: &mut BytesMut) -> Result<(), Unreadable> {
        let kind = self.held[3];
        if kind == HEADERS {
            self.stream = if self.stream == 0 { 1 } else { self.stream + 2 };
            if self.stream > i32::MAX.cast_unsigned() {
                return Err(Unreadable);
            }
            self.held[4] |= END_STREAM;
            let flags = self.held[4];
            let dependency = FRAME_HEAD_BYTES + usize::from(flags & PADDED != 0);
            if flags & PRIORITY != 0 {
                self.held.get_mut(dependency..dependency + 4).ok_or(Unreadable)?.fill(0);
            }
        }
        if kind != SETTINGS {
            self.held[5..FRAME_HEAD_BYTES].copy_from_slice(&self.stream.to_be_bytes());
        }
        wire.extend_from_slice(&self.held.split());
        Ok(())
    }
}

/// What the server without a client reads. What it writes is nobody's.
#[derive(Clone, Debug, Default)]
struct Wire(Arc<Mutex<BytesMut>>);

impl Wire {
    fn lock(&self) -> MutexGuard<'_, BytesMut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut wire = self.lock();
        if wire.is_empty() {
            return Poll::Pending;
        }
        let taken = wire.len().min(out.remaining());
        out.put_slice(&wire[..taken]);
        wire.advance(taken);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
