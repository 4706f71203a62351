//! Reads along on a connection that is allowed unread, for the sake of Audit policies alone.
//!
//! The observer is shown what the client has sent, once it is on its way to the server: it holds nothing back, changes nothing and
//! answers nothing, and what it can't read it leaves. It keeps at most one head, `limits.headerBytes`.
//!
//! | the client sends | |
//! |---|---|
//! | HTTP | each request is asked about, to the first that can't be read or may open a tunnel |
//! | TLS | the connection is asked about, by its server name |
//! | anything else, or nothing within `limits.headSeconds` | the connection is asked about, as what no rule reads |
//!
//! Where nothing, or nothing more, is asked although the audit hangs on it, that is counted: `sluice_audit_left_out_total`.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use sluice_policy::flow::Request;

use crate::connection::Conn;
use crate::detect::{Detected, classify_on};
use crate::hello::HelloScanner;
use crate::http::{Requests, Streams, Unreadable};

#[derive(Debug)]
pub(crate) struct Observer {
    conn: Arc<Conn>,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Beginning {
        read: BytesMut,
        hello: HelloScanner,
    },
    Http1(Requests),
    Http2(Box<Streams>),
    /// There is nothing more to ask.
    Over,
}

impl Observer {
    pub(crate) fn new(conn: &Arc<Conn>) -> Self {
        let state = State::Beginning { read: BytesMut::new(), hello: HelloScanner::default() };
        Self { conn: Arc::clone(conn), state: Mutex::new(state) }
    }

    /// Is shown what the client has sent.
    pub(crate) fn see(&self, bytes: &[u8]) {
        let mut state = self.lock();
        let next = match &mut *state {
            State::Beginning { read, hello } => self.begin(read, hello, bytes),
            State::Http1(requests) => requests.see(&self.conn, bytes).err().map(|Unreadable| self.leave_out()),
            State::Http2(streams) => streams.see(&self.conn, bytes).err().map(|Unreadable| self.leave_out()),
            State::Over => None,
        };
        if let Some(next) = next {
            *state = next;
        }
    }

    fn begin(&self, read: &mut BytesMut, hello: &mut HelloScanner, bytes: &[u8]) -> Option<State> {
        let limit = self.conn.limits().header_bytes as usize;
        let (first, rest) = bytes.split_at(bytes.len().min(limit.saturating_sub(read.len())));
        read.extend_from_slice(first);
        Some(match classify_on(hello, read, limit) {
            Detected::Undecided => return None,
            Detected::Http1 => {
                let mut requests = Requests::new();
                match requests.see(&self.conn, read).and_then(|()| requests.see(&self.conn, rest)) {
                    Ok(()) => State::Http1(requests),
                    Err(Unreadable) => self.leave_out(),
                }
            }
            Detected::Http2 => {
                let mut streams = Box::new(Streams::new(self.conn.limits().header_bytes));
                match streams.see(&self.conn, read).and_then(|()| streams.see(&self.conn, rest)) {
                    Ok(()) => State::Http2(streams),
                    Err(Unreadable) => self.leave_out(),
                }
            }
            Detected::Tls { server_name } => {
                self.conn.audit_tls(server_name);
                State::Over
            }
            Detected::Other => self.opaque(),
        })
    }

    /// Waits until a connection must have shown what it is.
    pub(crate) async fn watch(&self) -> Infallible {
        tokio::time::sleep_until(self.conn.first_head_by()).await;
        self.is_nothing();
        std::future::pending().await
    }

    /// The connection has ended.
    pub(crate) fn end(&self) {
        if self.conn.has_moved() {
            self.is_nothing();
        }
    }

    /// What has shown nothing until now is of no protocol that rules are about.
    fn is_nothing(&self) {
        let mut state = self.lock();
        if matches!(*state, State::Beginning { .. }) {
            *state = self.opaque();
        }
    }

    fn opaque(&self) -> State {
        self.conn.audit_whole(&self.conn.table(), Some(Request::Opaque));
        State::Over
    }

    fn leave_out(&self) -> State {
        self.conn.dataplane.metrics.audit.left_out.inc();
        State::Over
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
