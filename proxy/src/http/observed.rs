//! The requests of an HTTP/1 connection as a bystander reads them: they have gone on already, and whatever is said of them only
//! becomes an audit's record.
//!
//! Heads and framing are read by the same rules as the [`guard`](super::guard)'s. What these refuse, and what may be a tunnel, ends
//! the reading.

use bytes::{Buf, BytesMut};
use sluice_policy::flow::Request as FlowRequest;

use super::exchange::record_of;
use super::fields::clean_request;
use super::framing::Framing;
use super::head::{self, HeadScanner};
use super::target::read_target;
use crate::connection::Conn;
use crate::judge::Forwarded;

/// The rest of a connection has no certain reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// How far a connection was read.
#[derive(Debug)]
pub(crate) struct Requests {
    /// The beginning of a head: never more than a head may have.
    head: BytesMut,
    state: State,
}

#[derive(Debug)]
enum State {
    Head(HeadScanner),
    Body { framing: Framing, may_tunnel: bool },
}

impl Requests {
    pub(crate) fn new() -> Self {
        Self { head: BytesMut::new(), state: State::Head(HeadScanner::default()) }
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
        // As the guard does: an empty line behind a body.
        if self.head.starts_with(b"\r\n") {
            self.head.advance(2);
            *scanner = HeadScanner::default();
        }
        let Some(end) = scanner.scan(&self.head).map_err(|_| Unreadable)? else { return Ok(&bytes[taken..]) };
        let beyond = self.head.len() - end;
        let head = std::mem::take(&mut self.head);
        let checked = head::check(&head[..end], limit).map_err(|_| Unreadable)?;
        judge(conn, &head[..end])?;
        self.state = State::Body { framing: checked.framing, may_tunnel: checked.may_tunnel };
        bytes.get(taken - beyond.min(taken)..).ok_or(Unreadable)
    }
}

/// What Audit policies make of the request with this head, in the form in which it would be judged.
fn judge(conn: &Conn, head: &[u8]) -> Result<(), Unreadable> {
    let mut parts = head::parts(head).ok_or(Unreadable)?;
    let version = parts.version;
    clean_request(&mut parts.headers, version);
    let (request, _) = read_target(&parts).map_err(|_| Unreadable)?;
    let table = conn.table();
    let fields = Forwarded(&parts.headers);
    let http = request.as_http(&fields);
    let record = || record_of(conn, &table, conn.dataplane.ids.next(), &parts, &request);
    conn.audit(&table, Some(FlowRequest::Http(&http)), record);
    Ok(())
}
