//! The requests of an HTTP/1 connection.
//!
//! Heads and framing are read by the same rules as the [`guard`](crate::http::guard)'s. What these refuse, and what may be a tunnel, ends
//! the reading.

use bytes::{Buf, BytesMut};

use super::{Unreadable, judge};
use crate::connection::Conn;
use crate::http::fields::clean_request;
use crate::http::framing::Framing;
use crate::http::head::{self, HeadScanner};

/// How far a connection was read.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The beginning of a head: never more than a head may have.
    head: BytesMut,
    /// An empty line before this head has been left out.
    has_skipped: bool,
    state: State,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Body { framing: Framing, may_tunnel: bool },
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { head: BytesMut::new(), has_skipped: false, state: State::Head(HeadScanner::default()) }
    }

    /// Reads on, and asks the Audit policies about each request whose head is complete.
    pub(crate) fn see(&mut self, conn: &Conn, mut bytes: &[u8]) -> Result<(), Unreadable> {
        loop {
            match &mut self.state {
                State::Body { framing, may_tunnel } if framing.is_done() => {
                    if *may_tunnel {
                        return Err(Unreadable);
                    }
                    self.state = State::Head(HeadScanner::default());
                }
                _ if bytes.is_empty() => return Ok(()),
                State::Body { framing, .. } => bytes = &bytes[framing.advance(bytes).map_err(|_| Unreadable)?..],
                State::Head(_) => bytes = self.see_head(conn, bytes)?,
            }
        }
    }

    /// Takes what may belong to the head, and yields what doesn't.
    fn see_head<'b>(&mut self, conn: &Conn, bytes: &'b [u8]) -> Result<&'b [u8], Unreadable> {
        let State::Head(scanner) = &mut self.state else { return Ok(bytes) };
        let limit = conn.limits().header_bytes as usize;
        let taken = bytes.len().min(limit.saturating_sub(self.head.len()));
        if taken == 0 {
            return Err(Unreadable);
        }
        self.head.extend_from_slice(&bytes[..taken]);
        // As the guard does: one empty line behind a body.
        if self.head.starts_with(b"\r\n") && !self.has_skipped {
            self.has_skipped = true;
            self.head.advance(2);
            *scanner = HeadScanner::default();
        }
        let Some(end) = scanner.scan(&self.head).map_err(|_| Unreadable)? else { return Ok(&bytes[taken..]) };
        let beyond = self.head.len() - end;
        let head = std::mem::take(&mut self.head);
        self.has_skipped = false;
        let checked = head::check(&head[..end], limit).map_err(|_| Unreadable)?;
        let mut parts = head::parts(&head[..end]).ok_or(Unreadable)?;
        let version = parts.version;
        clean_request(&mut parts.headers, version);
        judge(conn, &parts)?;
        self.state = State::Body { framing: checked.framing, may_tunnel: checked.may_tunnel };
        bytes.get(taken - beyond.min(taken)..).ok_or(Unreadable)
    }
}
