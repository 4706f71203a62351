//! One flow: the datagrams between a client's port and a server's.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::gate::Shared;
use super::hellos::Hellos;
use super::{IDLE, IDLE_AT_THE_END};
use crate::audit;
use crate::connection::{Dataplane, Ended};
use crate::judge::{self, Ends, Ruling};
use crate::limits::Place;
use crate::records::{Record, RecordType, TlsFacts};
use crate::upstream::datagrams::{Ports, as_pod};
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover};
use sluice_policy::flow::Request;
use sluice_policy::{Decision, Reason, Table};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Names of one flow, whose connections may be several.
const MOST_NAMES: usize = 16;
/// What of an address is remembered beyond its time, as long as a flow goes on.
const MOST_TOLD: usize = 256;
/// Datagrams of a server that are carried in a row.
const IN_A_ROW: usize = 64;
const LONGEST_MESSAGE: usize = 65_535;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST_MESSAGE]);
}

/// By what a flow is judged again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing has passed yet.
    Reading,
    /// It is allowed unread.
    Opaque,
    /// Each of these server names is allowed.
    Names(Vec<Option<String>>),
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) stage: Stage,
    pub(super) hellos: Hellos,
    /// While it is read: the names that are allowed so far.
    pub(super) allowed: Vec<Option<String>>,
    /// What the client was told of the server's address when any of its connections began: they outlive it.
    told: Arc<[Arc<str>]>,
    record: Option<Record>,
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) ends: Ends,
    pub(super) started: Instant,
    pub(super) state: Mutex<State>,
    upstream: OnceLock<UdpSocket>,
    sent: AtomicU64,
    received: AtomicU64,
    /// Microseconds after it began.
    moved: AtomicU64,
    _place: Place,
}

impl Flow {
    /// One that has begun by now, with nothing read of it.
    pub(super) fn new(dataplane: &Dataplane, table: &Table, ends: Ends, place: Place) -> Self {
        let record = Record::new(RecordType::Connection, dataplane.ids.next(), &dataplane.node, table, &ends);
        dataplane.metrics.open_connections.inc();
        Self {
            started: Instant::now(),
            state: Mutex::new(State {
                stage: Stage::Reading,
                hellos: Hellos::default(),
                allowed: Vec::new(),
                told: Arc::clone(&ends.names),
                record: Some(record),
            }),
            ends,
            upstream: OnceLock::new(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            _place: place,
        }
    }

    pub(super) fn client(&self) -> SocketAddr {
        self.ends.client.0
    }

    pub(super) fn server(&self) -> SocketAddr {
        self.ends.original.0
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the way to the server.
    pub(super) fn open(&self, ports: &Ports) -> io::Result<()> {
        let socket = as_pod(ports, self.client())?;
        // What is too long for the way is lost, and the ends of QUIC find that out by themselves.
        if self.client().is_ipv4() {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        } else {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
        }
        socket.connect(&self.server().into())?;
        let _ = self.upstream.set(UdpSocket::from_std(socket.into())?);
        Ok(())
    }

    /// To the server. What can't be sent at once is lost.
    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        self.sent.fetch_add(message.len() as u64, Ordering::Relaxed);
        self.note_moved();
        let Some(upstream) = self.upstream.get() else { return Err(io::ErrorKind::NotConnected.into()) };
        // The runtime would not try before it has heard that there is room, and so lose what a flow begins with.
        SockRef::from(upstream).send(message).map(drop)
    }

    /// Whether the server has sent anything.
    fn is_answered(&self) -> bool {
        self.received.load(Ordering::Relaxed) > 0
    }

    fn note_moved(&self) {
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved.store(micros, Ordering::Relaxed);
    }

    fn last_moved(&self) -> Instant {
        self.started + Duration::from_micros(self.moved.load(Ordering::Relaxed))
    }

    /// Adds an allowed name. False: there are too many.
    fn add_name(state: &mut State, name: Option<String>) -> bool {
        let names = match &mut state.stage {
            Stage::Reading => &mut state.allowed,
            Stage::Names(names) => names,
            Stage::Opaque => return true,
        };
        if names.contains(&name) {
            return true;
        }
        if names.len() >= MOST_NAMES {
            return false;
        }
        names.push(name);
        true
    }

    /// Judges a connection that begins now by the server name that it asks for, and notes the name if it is allowed. `ends` are those of
    /// now.
    pub(super) fn begins(state: &mut State, table: &Table, ends: &Ends, name: &Option<String>) -> Ruling {
        let ruling = judge::rule(table, ends, Some(Request::Tls { server_name: name.as_deref() }));
        if ruling.is_allowed() {
            if !Self::add_name(state, name.clone()) {
                return Ruling::by_proxy(Reason::TooManyConnections);
            }
            let known: Vec<_> = ends.names.iter().filter(|name| !state.told.contains(name)).cloned().collect();
            if !known.is_empty() {
                state.told = state.told.iter().cloned().chain(known).take(MOST_TOLD).collect();
            }
        }
        ruling
    }

    /// The end of the flow, if `table` doesn't allow it any more.
    fn judge_again(&self, table: &Table) -> Option<Ended> {
        let (stage, names) = {
            let state = self.lock();
            (state.stage.clone(), Arc::clone(&state.told))
        };
        let ends = Ends { names, ..self.ends.clone() };
        let denied_by = |request: Request<'_>| {
            let is_allowed = judge::decision(table, &ends, Some(request)) == Decision::Allow;
            (!is_allowed).then(|| judge::rule(table, &ends, Some(request)))
        };
        let of_names = |names: Vec<Option<String>>| {
            names.into_iter().find_map(|name| denied_by(Request::Tls { server_name: name.as_deref() }))
        };
        let mut ruling = match stage {
            Stage::Reading => return None,
            Stage::Opaque => denied_by(Request::Opaque),
            Stage::Names(names) => of_names(names),
        }?;
        ruling.decision = Decision::Deny;
        ruling.reason = Reason::PolicyChanged;
        Some(Ended::Denied(ruling))
    }

    /// Writes down what Audit policies would have made of it, where that is another answer.
    pub(super) fn audit(&self, dataplane: &Dataplane, table: &Table, request: Option<Request<'_>>) {
        let Some((enforced, audit)) = audit::audit(table, &self.ends, request) else { return };
        let Some(mut record) = self.lock().record.clone() else { return };
        record.tls = facts(request);
        record.audited(enforced, &audit);
        dataplane.metrics.audit.found(&record);
        dataplane.records.write(record);
    }

    /// Notes by what it was judged, for its record.
    pub(super) fn judged(&self, ruling: &Ruling, request: Option<Request<'_>>) {
        if let Some(record) = &mut self.lock().record {
            record.decided(ruling);
            record.tls = facts(request);
        }
    }

    /// A record of a denial that is not the flow's own end.
    pub(super) fn denial(&self, dataplane: &Dataplane, table: &Table, ruling: &Ruling, request: Request<'_>) -> Record {
        let mut record = Record::new(RecordType::Connection, dataplane.ids.next(), &dataplane.node, table, &self.ends);
        record.decided(ruling);
        record.tls = facts(Some(request));
        record
    }

    /// Ends it, once. Yields its record, complete.
    pub(super) fn end(&self, dataplane: &Dataplane, ended: &Ended) -> Option<Record> {
        let mut record = self.lock().record.take()?;
        dataplane.metrics.open_connections.dec();
        match ended {
            Ended::Done => {}
            Ended::Denied(ruling) => record.decided(ruling),
            Ended::Failed(reason) => record.reason = *reason,
        }
        record.bytes_sent = Some(self.sent.load(Ordering::Relaxed));
        record.bytes_received = Some(self.received.load(Ordering::Relaxed));
        // Of a flow nobody sees the end. It lasted until nothing moved any more.
        let micros = u32::try_from(self.moved.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        record.duration_ms = Some(f64::from(micros) / 1000.0);
        Some(record)
    }
}

/// What a record tells of it.
pub(super) fn facts(request: Option<Request<'_>>) -> Option<TlsFacts> {
    let Some(Request::Tls { server_name }) = request else { return None };
    Some(TlsFacts { server_name: server_name.map(str::to_owned) })
}

/// Carries what the server sends, and ends the flow when it must end.
pub(super) async fn carry(shared: Arc<Shared>, flow: Arc<Flow>) {
    let Some(upstream) = flow.upstream.get() else { return };
    let drain = &shared.dataplane.drain;
    let mut table = shared.dataplane.table.clone();
    let ended = loop {
        let is_ending = drain.begun.is_cancelled();
        let idle_at = || flow.last_moved() + if is_ending { IDLE_AT_THE_END } else { IDLE };
        tokio::select! {
            biased;
            () = drain.over.cancelled() => break Ended::Failed(Reason::Draining),
            () = drain.handed_over.cancelled() => break Ended::Failed(Reason::Draining),
            changed = table.changed() => {
                if changed.is_err() {
                    // Whoever gave out tables is gone, so this process is ending.
                    break Ended::Failed(Reason::Draining);
                }
                let now = Arc::clone(&table.borrow_and_update());
                if let Some(cut) = flow.judge_again(&now) {
                    break cut;
                }
            }
            () = drain.begun.cancelled(), if !is_ending => {}
            ready = upstream.ready(Interest::READABLE | Interest::ERROR) => {
                let carried = ready.and_then(|ready| match ready.is_error() {
                    true => upstream.try_io(Interest::ERROR, || {
                        Err(upstream.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()))
                    }),
                    false => carry_some(&shared, &flow, upstream),
                });
                match carried {
                    // Whoever says this later, or something else, may be anybody: ends of QUIC don't believe it either.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && !flow.is_answered() => {
                        tracing::debug!(%error, server = %flow.server(), client = %flow.client(), "nobody is there");
                        break Ended::Failed(Reason::UpstreamUnreachable);
                    }
                    Err(_) | Ok(()) => {}
                }
                tokio::task::yield_now().await;
            }
            () = tokio::time::sleep_until(idle_at().into()) => {
                if Instant::now() >= idle_at() {
                    break Ended::Done;
                }
            }
        }
    };
    shared.ended(&flow, &ended);
}

/// An error is one that the network said.
fn carry_some(shared: &Shared, flow: &Flow, upstream: &UdpSocket) -> io::Result<()> {
    SCRATCH.with_borrow_mut(|scratch| {
        for _ in 0..IN_A_ROW {
            let bytes = match upstream.try_recv(scratch) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            flow.received.fetch_add(bytes as u64, Ordering::Relaxed);
            flow.note_moved();
            if shared.answers.send(flow.server(), flow.client(), &scratch[..bytes]).is_err() {
                shared.metrics.unsent.inc();
            }
        }
        Ok(())
    })
}
