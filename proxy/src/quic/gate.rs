//! Where the datagrams of one family arrive at one core, and what becomes of each.

use std::io;
use std::net::{SocketAddr, UdpSocket as StdSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use sluice_policy::flow::{Protocol, Request};
use sluice_policy::{Decision, Reason, Table};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio_util::task::TaskTracker;

use super::answers::Answers;
use super::flow::{Flow, Stage, State, carry};
use super::hellos::{Answerable, Seen};
use super::packet::Unreadable;
use super::rations::Rations;
use super::refused::{Key, RefusedFlows};
use super::{HELLO_TIME, QuicMetrics};
use crate::config::ConnectionRecords;
use crate::connection::{Dataplane, Ended};
use crate::dns::service::is_diverted;
use crate::dns::service::udp::{Received, receive};
use crate::judge::{self, ClientAddr, Ends, OriginalDst, Ruling};
use crate::names::Moment;
use crate::records::{Record, RecordVerdict};
use crate::upstream::datagrams::Ports;

/// Datagrams that are taken in a row, before the answers of servers have their turn.
const IN_A_ROW: usize = 64;
const LOOK_FOR_OLD: Duration = Duration::from_millis(250);

/// What the gate shares with the flows that it has opened.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dataplane: Arc<Dataplane>,
    pub(super) answers: Answers,
    pub(super) metrics: QuicMetrics,
    ports: Ports,
    flows: Mutex<FxHashMap<Key, Arc<Flow>>>,
    refused: RefusedFlows,
    rations: Rations,
}

#[derive(Debug)]
pub(super) struct Gate {
    shared: Arc<Shared>,
    socket: UdpSocket,
}

/// What is to be done with a datagram of a flow that is there.
enum Fate {
    /// It was dropped, held back, or sent.
    Done,
    /// The flow may begin to pass, by what was read or unread.
    Begin(Ruling, Read),
    Deny(Ruling, Read),
}

/// What was read of a flow.
#[derive(Clone, Debug)]
enum Read {
    /// Nothing, or nothing that any rule reads.
    Nothing,
    Name(Option<String>),
}

impl Read {
    fn request(&self) -> Option<Request<'_>> {
        match self {
            Self::Nothing => None,
            Self::Name(name) => Some(Request::Tls { server_name: name.as_deref() }),
        }
    }
}

impl Gate {
    pub(super) fn open(socket: StdSocket, dataplane: &Arc<Dataplane>, metrics: &QuicMetrics) -> io::Result<Self> {
        let shared = Shared {
            dataplane: Arc::clone(dataplane),
            answers: Answers::open(socket.local_addr()?.is_ipv4())?,
            metrics: metrics.clone(),
            ports: Ports::default(),
            flows: Mutex::default(),
            refused: RefusedFlows::default(),
            rations: Rations::default(),
        };
        Ok(Self { shared: Arc::new(shared), socket: UdpSocket::from_std(socket)? })
    }

    /// Takes datagrams until the drain is over, or has begun and no flow is left. `tasks` gets the flows.
    pub(super) async fn run(self, tasks: TaskTracker) {
        let drain = &self.shared.dataplane.drain;
        let mut look_for_old = tokio::time::interval(LOOK_FOR_OLD);
        loop {
            tokio::select! {
                biased;
                () = drain.over.cancelled() => return self.shared.drop_unread(Duration::ZERO),
                () = drain.handed_over.cancelled() => return self.shared.drop_unread(Duration::ZERO),
                _ = look_for_old.tick() => {
                    self.shared.answers.close_old();
                    let is_ending = drain.begun.is_cancelled();
                    self.shared.drop_unread(if is_ending { Duration::ZERO } else { HELLO_TIME });
                    if is_ending && self.shared.lock().is_empty() {
                        return;
                    }
                },
                ready = self.socket.readable() => if let Err(error) = ready {
                    tracing::error!(%error, "the runtime's poll of the socket for QUIC failed");
                    return;
                },
            }
            for _ in 0..IN_A_ROW {
                match self.socket.try_io(Interest::READABLE, || receive(&self.socket)) {
                    Ok(Some(received)) => self.received(received, &tasks),
                    Ok(None) => drop(self.shared.metrics.not_diverted.inc()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => tracing::debug!(%error, "a datagram could not be read"),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn received(&self, received: Received, tasks: &TaskTracker) {
        let Received { client, server, message } = received;
        let shared = &self.shared;
        // Port 0 takes no answer.
        if !is_diverted(client, server) || client.port() == 0 {
            shared.metrics.not_diverted.inc();
            return;
        }
        let known = shared.lock().get(&(client, server)).map(Arc::clone);
        let flow = match known {
            Some(flow) => flow,
            // What a client sends once more finds whoever comes after this process.
            None if shared.dataplane.drain.begun.is_cancelled() => return,
            None if shared.refused.has((client, server), &message) => return shared.prohibit(client, server, &message),
            None => match shared.begin(client, server) {
                Ok(flow) => flow,
                Err(record) => return shared.refuse(client, server, &message, None, record),
            },
        };
        let table = shared.table();
        match shared.fate(&table, &flow, &message) {
            Fate::Done => {}
            Fate::Begin(ruling, read) => shared.open(&table, &flow, (&ruling, &read), tasks, &message),
            Fate::Deny(ruling, read) => shared.deny(&table, &flow, (&ruling, &read), &message),
        }
    }
}

/// What becomes of a flow in which all that was read was allowed: if it is by this table, too.
fn begin(table: &Table, flow: &Flow, names: &[Option<String>]) -> Fate {
    let rule = |name: &Option<String>| judge::rule(table, &flow.ends, Some(Request::Tls { server_name: name.as_deref() }));
    let rulings: Vec<_> = names.iter().map(|name| (rule(name), Read::Name(name.clone()))).collect();
    let denied = rulings.iter().position(|(ruling, _)| !ruling.is_allowed());
    match rulings.into_iter().nth(denied.unwrap_or(0)) {
        Some((ruling, read)) if denied.is_some() => Fate::Deny(ruling, read),
        Some((ruling, read)) => Fate::Begin(ruling, read),
        None => Fate::Done,
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, FxHashMap<Key, Arc<Flow>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn table(&self) -> Arc<Table> {
        Arc::clone(&self.dataplane.table.borrow())
    }

    /// A new flow, or the record of why there is none.
    fn begin(&self, client: SocketAddr, server: SocketAddr) -> Result<Arc<Flow>, Box<Record>> {
        let table = self.table();
        let ends = self.ends(&table, client, server);
        let Some(place) = self.dataplane.admission.enter(client.ip()) else {
            let kind = crate::records::RecordType::Connection;
            let mut record = Record::new(kind, self.dataplane.ids.next(), &self.dataplane.node, &table, &ends);
            record.decided(&Ruling::by_proxy(Reason::TooManyConnections));
            return Err(Box::new(record));
        };
        let flow = Arc::new(Flow::new(&self.dataplane, &table, ends, place));
        self.lock().insert((client, server), Arc::clone(&flow));
        Ok(flow)
    }

    /// Both ends, with the names that the client is told of the server's address by now.
    fn ends(&self, table: &Table, client: SocketAddr, server: SocketAddr) -> Ends {
        let mut ends = Ends { protocol: Protocol::Udp, ..Ends::new(ClientAddr(client), OriginalDst(server)) };
        if let Some(names) = &self.dataplane.names {
            let (pod, ip) = (client.ip().to_canonical(), server.ip().to_canonical());
            // Nobody tells a socket of datagrams which Service was asked for.
            ends.names = names.of_flow(table, pod, ip, ip, Moment::now()).into();
        }
        ends
    }

    /// Judges a datagram, and sends it on where its flow passes already.
    fn fate(&self, table: &Table, flow: &Flow, message: &[u8]) -> Fate {
        let mut state = flow.lock();
        match state.stage {
            Stage::Opaque => {
                self.send(flow, message);
                return Fate::Done;
            }
            Stage::Names(_) => return self.more(table, flow, &mut state, message),
            Stage::Reading => {}
        }
        let unread = judge::rule(table, &flow.ends, None);
        match unread.decision {
            Decision::Allow => return Fate::Begin(unread, Read::Nothing),
            Decision::Deny => return Fate::Deny(unread, Read::Nothing),
            Decision::Inspect => {}
        }
        let error = match state.hellos.see(message) {
            Ok(Seen { begins: false, .. }) if state.hellos.newest().is_none() => Unreadable::NoInitial,
            Ok(Seen { begins: false, .. }) => {
                state.hellos.hold(message);
                return Fate::Done;
            }
            Ok(Seen { server_names, goes_on, .. }) => {
                for name in server_names {
                    let ruling = Flow::begins(&mut state, table, &flow.ends, &name);
                    if !ruling.is_allowed() {
                        return Fate::Deny(ruling, Read::Name(name));
                    }
                }
                return if goes_on { Fate::Done } else { begin(table, flow, &state.allowed) };
            }
            Err(error) => error,
        };
        tracing::debug!(%error, client = %flow.client(), server = %flow.server(), "a flow can't be read");
        let ruling = judge::rule(table, &flow.ends, Some(Request::Opaque));
        if ruling.is_allowed() { Fate::Begin(ruling, Read::Nothing) } else { Fate::Deny(ruling, Read::Nothing) }
    }

    /// A datagram of a flow that passes by names: it may begin another connection.
    fn more(&self, table: &Table, flow: &Flow, state: &mut State, message: &[u8]) -> Fate {
        let seen = match state.hellos.see(message) {
            Ok(seen) => seen,
            Err(error) => {
                self.metrics.unreadable.inc();
                tracing::debug!(%error, client = %flow.client(), server = %flow.server(), "a datagram can't be read");
                return Fate::Done;
            }
        };
        for name in seen.server_names {
            let ends = self.ends(table, flow.client(), flow.server());
            let ruling = Flow::begins(state, table, &ends, &name);
            if !ruling.is_allowed() {
                let request = Request::Tls { server_name: name.as_deref() };
                let record = flow.denial(&self.dataplane, table, &ruling, request);
                self.dataplane.metrics.connection(record.verdict, record.reason);
                let to = state.hellos.newest();
                state.hellos.forget();
                self.say(flow.client(), record, || {
                    if let Some(to) = to {
                        self.close(flow.client(), flow.server(), &to);
                    }
                });
                return Fate::Done;
            }
        }
        if !seen.goes_on {
            if seen.begins {
                state.hellos.release().iter().for_each(|held| self.send(flow, held));
            }
            self.send(flow, message);
        }
        Fate::Done
    }

    /// Lets a flow pass, from its first datagram on.
    fn open(
        self: &Arc<Self>,
        table: &Table,
        flow: &Arc<Flow>,
        (ruling, read): (&Ruling, &Read),
        tasks: &TaskTracker,
        message: &[u8],
    ) {
        flow.audit(&self.dataplane, table, read.request());
        flow.judged(ruling, read.request());
        if let Err(error) = flow.open(&self.ports) {
            tracing::debug!(%error, client = %flow.client(), server = %flow.server(), "no upstream");
            self.prohibit(flow.client(), flow.server(), message);
            return self.ended(flow, &Ended::Failed(Reason::UpstreamUnreachable));
        }
        let held = {
            let mut state = flow.lock();
            state.stage = match read {
                Read::Name(_) => Stage::Names(std::mem::take(&mut state.allowed)),
                Read::Nothing => Stage::Opaque,
            };
            state.hellos.release()
        };
        held.iter().for_each(|held| self.send(flow, held));
        self.send(flow, message);
        tasks.spawn(carry(Arc::clone(self), Arc::clone(flow)));
    }

    fn deny(&self, table: &Table, flow: &Flow, (ruling, read): (&Ruling, &Read), message: &[u8]) {
        flow.audit(&self.dataplane, table, read.request().or(Some(Request::Opaque)));
        flow.judged(ruling, read.request());
        let to = flow.lock().hellos.newest();
        self.lock().remove(&(flow.client(), flow.server()));
        let Some(record) = flow.end(&self.dataplane, &Ended::Denied(ruling.clone())) else { return };
        self.refuse(flow.client(), flow.server(), message, to.as_ref(), Box::new(record));
    }

    /// Tells the client and the records of a flow that doesn't come about.
    fn refuse(&self, client: SocketAddr, server: SocketAddr, message: &[u8], to: Option<&Answerable>, record: Box<Record>) {
        self.refused.add((client, server), to);
        self.dataplane.metrics.connection(record.verdict, record.reason);
        self.say(client, *record, || {
            if let Some(to) = to {
                self.close(client, server, to);
            }
            if self.answers.prohibit(client, server, message).is_err() {
                self.metrics.unsent.inc();
            }
        });
    }

    fn close(&self, client: SocketAddr, server: SocketAddr, to: &Answerable) {
        if self.answers.close(client, server, to).is_err() {
            self.metrics.unsent.inc();
        }
    }

    /// A datagram of a flow that was refused a moment ago.
    fn prohibit(&self, client: SocketAddr, server: SocketAddr, message: &[u8]) {
        match self.rations.take(client.ip(), Instant::now()) {
            Some(_) => drop(self.answers.prohibit(client, server, message)),
            None => drop(self.metrics.unsaid.inc()),
        }
    }

    /// Writes a denial's record, and says it by `answer`, if this pod has not had its share.
    fn say(&self, client: SocketAddr, mut record: Record, answer: impl FnOnce()) {
        let Some(left_out) = self.rations.take(client.ip(), Instant::now()) else {
            self.metrics.unsaid.inc();
            return;
        };
        record.suppressed = (left_out > 0).then_some(left_out);
        self.dataplane.records.write(record);
        answer();
    }

    fn send(&self, flow: &Flow, message: &[u8]) {
        if flow.send(message).is_err() {
            self.metrics.unsent.inc();
        }
    }

    /// A flow that passed has ended.
    pub(super) fn ended(&self, flow: &Flow, ended: &Ended) {
        self.lock().remove(&(flow.client(), flow.server()));
        let Some(record) = flow.end(&self.dataplane, ended) else { return };
        if matches!(ended, Ended::Denied(_)) {
            return self.refuse(flow.client(), flow.server(), &[], None, Box::new(record));
        }
        if matches!(ended, Ended::Failed(Reason::UpstreamUnreachable)) {
            self.prohibit(flow.client(), flow.server(), &[]);
        }
        self.dataplane.metrics.connection(record.verdict, record.reason);
        if self.dataplane.connection_records != ConnectionRecords::Denied || record.verdict == RecordVerdict::Deny {
            self.dataplane.records.write(record);
        }
    }

    /// Gives up flows whose ClientHello is not whole after so long a time.
    fn drop_unread(&self, after: Duration) {
        let is_late = |flow: &Arc<Flow>| flow.started.elapsed() >= after && flow.lock().stage == Stage::Reading;
        let late: Vec<Arc<Flow>> = self.lock().values().filter(|flow| is_late(flow)).map(Arc::clone).collect();
        let table = self.table();
        for flow in late {
            if after.is_zero() {
                // What the client sends once more finds whoever comes after this process.
                self.lock().remove(&(flow.client(), flow.server()));
                drop(flow.end(&self.dataplane, &Ended::Failed(Reason::Draining)));
                continue;
            }
            let mut ruling = judge::rule(&table, &flow.ends, Some(Request::Opaque));
            if ruling.reason == Reason::NotTheProtocol || ruling.is_allowed() {
                ruling = Ruling { decision: Decision::Deny, reason: Reason::HeadTimeout, ..ruling };
            }
            self.deny(&table, &flow, (&ruling, &Read::Nothing), &[]);
        }
    }
}
