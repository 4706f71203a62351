//! Queries by connection: many on one, answered in whatever order (RFC 7766 section 6.2.1.1).
//!
//! One task has both legs. The leg to the server is opened by the first query that is allowed, and again by the next one after the
//! server has closed it. Nothing is read from a side while what it would add to has no room, so a connection holds no more than its
//! open queries and two buffers.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustc_hash::FxHashMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{Asked, Fate, Judge, Service, Settings, Transport, is_diverted, said};
use crate::dns::{Answer, Frames, Query, RecordType, believe, frame, unreadable};
use crate::judge::{ClientAddr, Ends, OriginalDst};
use crate::limits::Place;
use crate::socket::{Leg, Socket};
use crate::upstream::{DialError, Dialer, SourcePort, is_of_this_node};

const LONGEST_MESSAGE: usize = 65_535;
const READ_BYTES: usize = 16 << 10;
/// Answers that wait for the client to take them, before more is read. One message may go beyond.
const MOST_QUEUED: usize = 128 << 10;

/// From the drain on a connection lasts until its client is quiet for this long. To end it at once would lose what is on its way.
const QUIET: Duration = Duration::from_millis(500);

/// Serves one client's connection to its end.
pub(super) async fn serve<J: Judge>(
    service: Arc<Service<J>>,
    stream: TcpStream,
    client: SocketAddr,
    server: OriginalDst,
    drain: CancellationToken,
) {
    if !is_diverted(client, server.0) {
        service.metrics.not_diverted.inc();
        return;
    }
    let Some(_place) = service.connections.enter(client.ip()) else {
        service.metrics.connections_refused.inc();
        return;
    };
    let mut socket = Socket::new(stream, Arc::new(Leg::default()));
    let ends = Ends::new(ClientAddr(client), server);
    let is_whole = Conversation::new(service, ends).run(&mut socket, &drain).await;
    if is_whole {
        socket.linger().await;
    }
}

/// What is known of a connection between two events.
struct Conversation<J> {
    service: Arc<Service<J>>,
    ends: Ends,
    /// No more is read from the client.
    ended: bool,
    draining: bool,
    frames: Frames,
    /// What was read and isn't looked at yet.
    unread: BytesMut,
    /// What waits to be written.
    to_client: BytesMut,
    to_server: BytesMut,
    open: FxHashMap<u16, Open>,
    learning: JoinSet<Learned>,
    /// Of the answers that are learned.
    learning_bytes: usize,
    /// When the client last asked, or took an answer.
    active: Instant,
    server: Server,
}

/// A query that the server has, by its id.
struct Open {
    asked: Asked,
    until: Instant,
    /// Of a transfer, whose messages end with the connection or by time (RFC 5936 section 2.2): its first answer, once it is there.
    transferred: Option<Fate>,
    place: Place,
}

/// A query that was learned from, or couldn't be.
struct Learned {
    asked: Asked,
    response: Vec<u8>,
    fate: Fate,
}

/// The leg to the server.
enum Server {
    Closed,
    Connecting(JoinSet<Result<Socket, DialError>>),
    Connected(Socket, Frames),
}

enum Event {
    FromClient(io::Result<usize>),
    FromServer(io::Result<usize>),
    ToClient(io::Result<usize>),
    ToServer(io::Result<usize>),
    Connected(Result<Socket, DialError>),
    Learned(Box<Learned>),
    Time,
    Drain,
}

impl<J: Judge> Conversation<J> {
    fn new(service: Arc<Service<J>>, ends: Ends) -> Self {
        Self {
            service,
            ends,
            ended: false,
            draining: false,
            frames: Frames::new(LONGEST_MESSAGE),
            unread: BytesMut::new(),
            to_client: BytesMut::new(),
            to_server: BytesMut::new(),
            open: FxHashMap::default(),
            learning: JoinSet::new(),
            learning_bytes: 0,
            active: Instant::now(),
            server: Server::Closed,
        }
    }

    /// Whether the client is still there at the end.
    async fn run(mut self, client: &mut Socket, drain: &CancellationToken) -> bool {
        let mut from_server = vec![0; READ_BYTES];
        let is_whole = loop {
            self.take_queries();
            let is_done = self.ended && self.open.is_empty() && self.learning.is_empty() && self.to_client.is_empty();
            if is_done || self.is_idle() {
                break true;
            }
            match self.next(client, &mut from_server, drain).await {
                // What was read last waits until there is room; then comes the end.
                Event::FromClient(Ok(0)) => self.end(),
                Event::Drain => self.draining = true,
                Event::FromClient(Ok(_)) => {}
                Event::FromClient(Err(_)) | Event::ToClient(Err(_) | Ok(0)) => break false,
                Event::ToClient(Ok(_)) => self.active = Instant::now(),
                Event::FromServer(Ok(count @ 1..)) => self.take_answers(&from_server[..count]),
                Event::FromServer(_) | Event::ToServer(Err(_)) => self.lose_server(&Fate::Unreachable),
                Event::ToServer(Ok(_)) => {}
                Event::Connected(Ok(socket)) => self.server = Server::Connected(socket, Frames::new(LONGEST_MESSAGE)),
                Event::Connected(Err(error)) => {
                    tracing::debug!(error = crate::error_chain(&error), "a server can't be asked");
                    let fate = if matches!(error, DialError::Timeout { .. }) { Fate::TimedOut } else { Fate::Unreachable };
                    self.lose_server(&fate);
                }
                Event::Learned(learned) => self.tell(*learned),
                Event::Time => self.give_up_late(),
            }
        };
        self.leave().await;
        is_whole
    }

    async fn next(&mut self, client: &mut Socket, from_server: &mut [u8], drain: &CancellationToken) -> Event {
        let until = self.next_time();
        let has_room = self.to_client.len() + self.learning_bytes < MOST_QUEUED;
        let (mut client_reads, mut client_writes) = client.split();
        let (mut connecting, mut server_reads, mut server_writes) = (None, None, None);
        match &mut self.server {
            Server::Closed => {}
            Server::Connecting(tasks) => connecting = Some(tasks),
            Server::Connected(socket, _) => {
                let (reads, writes) = socket.split();
                (server_reads, server_writes) = (Some(reads), Some(writes));
            }
        }
        if self.unread.is_empty() {
            self.unread.reserve(READ_BYTES);
        }
        let may_read = !self.ended && has_room && self.unread.is_empty() && self.to_server.len() < MOST_QUEUED;
        tokio::select! {
            written = client_writes.write_buf(&mut self.to_client), if !self.to_client.is_empty() => Event::ToClient(written),
            written = write(server_writes.as_mut(), &mut self.to_server) => Event::ToServer(written),
            read = read(server_reads.as_mut(), from_server), if has_room => Event::FromServer(read),
            read = client_reads.read_buf(&mut self.unread), if may_read => Event::FromClient(read),
            connected = connected(connecting) => Event::Connected(connected),
            Some(learned) = self.learning.join_next(), if !self.learning.is_empty() => match learned {
                Ok(learned) => Event::Learned(Box::new(learned)),
                // It panicked, and with it went the query; its client waits in vain, but not for others.
                Err(_) => Event::Time,
            },
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => Event::Time,
            () = drain.cancelled(), if !self.draining => Event::Drain,
        }
    }

    /// Judges what was read, as long as there is room for answers and open queries.
    fn take_queries(&mut self) {
        let most = self.service.settings.in_flight_per_connection;
        while self.to_client.len() < MOST_QUEUED && self.open.len() + self.learning.len() < most {
            let mut rest = &self.unread[..];
            let next = self.frames.next(&mut rest);
            let taken = self.unread.len() - rest.len();
            self.unread.advance(taken);
            // No length is too much for 65,535 bytes.
            let Ok(Some(message)) = next else { return };
            self.active = Instant::now();
            self.query(&message);
        }
    }

    fn query(&mut self, message: &[u8]) {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(_) => {
                self.service.metrics.malformed.inc();
                return match unreadable(message) {
                    Some(answer) => self.say(&answer),
                    // Less than a header, or a response: whoever sends such doesn't ask.
                    None => self.end(),
                };
            }
        };
        let (client, server) = (self.ends.client.0, self.ends.original.0);
        let asked = Asked { client, server, transport: Transport::Tcp, query, began: Instant::now() };
        if let Some((answer, fate)) = self.service.denied(&asked) {
            self.say(&answer);
            return self.service.judge.seen(&asked, &fate);
        }
        if self.open.contains_key(&asked.query.id) {
            return self.fail(&asked, &Fate::IdInUse);
        }
        let Some(place) = self.service.in_flight.enter(client.ip()) else {
            return self.fail(&asked, &Fate::TooManyInFlight);
        };
        // It came in a frame, so it fits into one.
        let Ok(framed) = frame(message) else { return };
        self.to_server.extend_from_slice(&framed);
        let until = asked.began + self.service.settings.upstream_timeout;
        self.open.insert(asked.query.id, Open { asked, until, transferred: None, place });
        if matches!(self.server, Server::Closed) {
            let (ends, limit) = (self.ends.clone(), self.service.settings.upstream_timeout);
            let mut connecting = JoinSet::new();
            connecting.spawn(async move {
                let dialer = if is_of_this_node(ends.original.0.ip()) { Dialer::Plain } else { Dialer::Transparent };
                dialer.connect(&ends, SourcePort::Another, &Arc::new(Leg::default()), limit).await
            });
            self.server = Server::Connecting(connecting);
        }
    }

    fn take_answers(&mut self, mut read: &[u8]) {
        loop {
            let Server::Connected(_, frames) = &mut self.server else { return };
            let Ok(Some(response)) = frames.next(&mut read) else { return };
            self.answer(response);
        }
    }

    fn answer(&mut self, response: Vec<u8>) {
        let id = response.first_chunk().map(|id| u16::from_be_bytes(*id));
        let open = id.and_then(|id| self.open.get_mut(&id));
        let believed = open.and_then(|open| Some((believe(&open.asked.query, &response).ok()?, open)));
        let Some((answer, open)) = believed else {
            self.service.metrics.not_believed.inc();
            return;
        };
        if is_transfer(&open.asked.query) {
            let Settings { idle, upstream_timeout, .. } = self.service.settings;
            open.until = Instant::now() + if self.ended { upstream_timeout } else { idle };
            let upstream = open.asked.began.elapsed();
            open.transferred.get_or_insert(Fate::Answered { answer, upstream, learned: Duration::ZERO });
            return self.say(&response);
        }
        let Some(open) = id.and_then(|id| self.open.remove(&id)) else { return };
        self.learn(open, answer, response);
    }

    fn learn(&mut self, Open { asked, place, .. }: Open, answer: Answer, response: Vec<u8>) {
        let service = Arc::clone(&self.service);
        self.learning_bytes += response.len();
        self.learning.spawn(async move {
            let fate = service.learn(&asked, answer).await;
            drop(place);
            Learned { asked, response, fate }
        });
    }

    fn tell(&mut self, Learned { asked, response, fate }: Learned) {
        self.learning_bytes -= response.len();
        match said(&asked.query, &fate) {
            Some(failure) => self.say(&failure),
            None => self.say(&response),
        }
        self.service.judge.seen(&asked, &fate);
    }

    fn fail(&mut self, asked: &Asked, fate: &Fate) {
        if let Some(failure) = said(&asked.query, fate) {
            self.say(&failure);
        }
        self.service.judge.seen(asked, fate);
    }

    fn say(&mut self, message: &[u8]) {
        match frame(message) {
            Ok(framed) => self.to_client.extend_from_slice(&framed),
            Err(_) => {
                self.service.metrics.unsent.inc();
            }
        }
    }

    /// Nothing is read from the client any more. That a transfer is over is not to be known, so it gets less time to go on.
    fn end(&mut self) {
        self.ended = true;
        let soon = Instant::now() + self.service.settings.upstream_timeout;
        self.open.values_mut().for_each(|open| open.until = open.until.min(soon));
    }

    /// The server is gone: what it has, it won't answer.
    fn lose_server(&mut self, fate: &Fate) {
        self.server = Server::Closed;
        self.to_server.clear();
        for (_, open) in std::mem::take(&mut self.open) {
            self.give_up(open, fate);
        }
    }

    fn give_up_late(&mut self) {
        let now = Instant::now();
        let late: Vec<u16> = self.open.iter().filter(|(_, open)| open.until <= now).map(|(id, _)| *id).collect();
        let was_late = !late.is_empty();
        for open in late.into_iter().filter_map(|id| self.open.remove(&id)).collect::<Vec<_>>() {
            self.give_up(open, &Fate::TimedOut);
        }
        // Perhaps it is this connection that is dead: the next query tries another.
        if was_late && self.open.is_empty() {
            self.lose_server(&Fate::TimedOut);
        }
    }

    fn give_up(&mut self, open: Open, fate: &Fate) {
        match open.transferred {
            None => self.fail(&open.asked, fate),
            // What the client has of it is all that there is, which only the end of the connection can say.
            Some(transferred) => {
                self.ended = true;
                self.service.judge.seen(&open.asked, &transferred);
            }
        }
    }

    /// Only the server or the kernel is waited for, and that has its own bounds.
    fn is_waiting(&self) -> bool {
        self.to_client.is_empty() && !(self.open.is_empty() && self.learning.is_empty())
    }

    fn is_idle(&self) -> bool {
        !self.is_waiting() && self.active.elapsed() >= self.patience()
    }

    fn patience(&self) -> Duration {
        let idle = self.service.settings.idle;
        if self.draining { idle.min(QUIET) } else { idle }
    }

    fn next_time(&self) -> Option<Instant> {
        let idle = (!self.is_waiting()).then(|| self.active + self.patience());
        self.open.values().map(|open| open.until).chain(idle).min()
    }

    /// Sees to it that the judge hears of every query.
    async fn leave(mut self) {
        for open in self.open.into_values() {
            let fate = open.transferred.unwrap_or(Fate::Abandoned);
            self.service.judge.seen(&open.asked, &fate);
        }
        while let Some(learned) = self.learning.join_next().await {
            if let Ok(Learned { asked, .. }) = learned {
                self.service.judge.seen(&asked, &Fate::Abandoned);
            }
        }
    }
}

/// An answer of many messages, which are handed on as long as they come.
fn is_transfer(query: &Query) -> bool {
    matches!(query.record_type, RecordType::AXFR | RecordType::IXFR)
}

async fn read(half: Option<&mut ReadHalf<'_>>, into: &mut [u8]) -> io::Result<usize> {
    match half {
        Some(half) => half.read(into).await,
        None => pending().await,
    }
}

async fn write(half: Option<&mut WriteHalf<'_>>, from: &mut BytesMut) -> io::Result<usize> {
    match half {
        Some(half) if !from.is_empty() => half.write_buf(from).await,
        _ => pending().await,
    }
}

async fn connected(connecting: Option<&mut JoinSet<Result<Socket, DialError>>>) -> Result<Socket, DialError> {
    let Some(tasks) = connecting else { return pending().await };
    match tasks.join_next().await {
        Some(Ok(connected)) => connected,
        // It is polled to its end once, and nothing in it panics.
        Some(Err(_)) | None => pending().await,
    }
}
