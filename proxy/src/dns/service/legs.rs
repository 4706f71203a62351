//! Queries by datagram to the server, from the pod's own address.
//!
//! Each query has a socket for itself, connected to the server: nobody else's datagrams arrive, and a closed port is known at once. Its
//! port is drawn at random, and who guesses at answers must guess it too (RFC 5452 section 4.5). A socket is used for some queries and
//! some seconds, by one query at a time, since drawing a port for each costs three system calls more. What arrives while nobody asks is
//! dropped: it was sent by who had time to guess.

use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use rustc_hash::FxHashMap;
use slab::Slab;
use socket2::Socket;
use tokio::time::Instant;

use super::{Asked, DnsMetrics};
use crate::dns::{Answer, believe};
use crate::limits::Place;
use crate::upstream::datagrams::{Ports, as_pod, of_the_node};
use crate::upstream::is_of_this_node;

/// How often and for how long a socket is used.
const MOST_USES: u32 = 32;
const MOST_AGE: Duration = Duration::from_secs(5);
/// Sockets that wait for the next query of one pod to one server, and of all.
const MOST_IDLE_OF_ROUTE: usize = 64;
const MOST_IDLE: usize = 512;
/// Answers that are read in a row for one query, before others have their turn.
const IN_A_ROW: usize = 16;

/// Who asks whom: the pod's address, with the link that a link-local one is of and no port, and the server.
type Route = (SocketAddr, SocketAddr);

/// The sockets of one core.
#[derive(Debug)]
pub(super) struct Legs {
    legs: Slab<Leg>,
    idle: FxHashMap<Route, Vec<usize>>,
    idle_count: usize,
    waiting_count: usize,
    /// What says in [`Epoll`] which of them is ready: its number, and this more.
    first_token: u64,
    ports: Ports,
    metrics: DnsMetrics,
}

#[derive(Debug)]
struct Leg {
    socket: Socket,
    route: Route,
    opened: Instant,
    uses: u32,
    waiting: Option<Waiting>,
}

/// A query that waits for its server.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) asked: Asked,
    /// The family's door that it came in by.
    pub(super) door: usize,
    pub(super) place: Place,
}

/// What came of a query.
#[derive(Debug)]
pub(super) enum Came {
    /// The first answer that can be believed.
    Answered(Waiting, Vec<u8>, Answer),
    /// The server's end is closed, or the way there.
    Unreachable(Waiting),
}

impl Legs {
    pub(super) fn new(first_token: u64, metrics: &DnsMetrics) -> Self {
        Self {
            legs: Slab::new(),
            idle: FxHashMap::default(),
            idle_count: 0,
            waiting_count: 0,
            first_token,
            ports: Ports::default(),
            metrics: metrics.clone(),
        }
    }

    /// Whether a query waits for its server.
    pub(super) const fn is_waiting(&self) -> bool {
        self.waiting_count > 0
    }

    /// Sends a query. It is given back if its server can't be asked.
    pub(super) fn ask(&mut self, epoll: &Epoll, waiting: Waiting, message: &[u8]) -> Option<Waiting> {
        match self.send(epoll, &waiting.asked, message) {
            Ok(number) => {
                self.legs[number].waiting = Some(waiting);
                self.waiting_count += 1;
                None
            }
            Err(error) => {
                unreachable(&waiting.asked, &error);
                Some(waiting)
            }
        }
    }

    fn send(&mut self, epoll: &Epoll, asked: &Asked, message: &[u8]) -> io::Result<usize> {
        let mut pod = asked.client;
        pod.set_port(0);
        let route = (pod, asked.server);
        while let Some(number) = self.take(&route, asked.began) {
            // An error that waits there is of the query before.
            if self.legs[number].socket.send(message).is_ok() {
                return Ok(number);
            }
            self.legs.remove(number);
        }
        let number = self.open(epoll, route, asked)?;
        let sent = self.legs[number].socket.send(message);
        if sent.is_err() {
            self.legs.remove(number);
        }
        sent.map(|_| number)
    }

    fn open(&mut self, epoll: &Epoll, route: Route, asked: &Asked) -> io::Result<usize> {
        let (client, server) = (asked.client, asked.server);
        let socket = if is_of_this_node(server.ip()) { of_the_node(server)? } else { as_pod(&self.ports, client)? };
        socket.connect(&server.into())?;
        // Until it was connected, it took what anybody sent.
        clear(&socket)?;
        let entry = self.legs.vacant_entry();
        let number = entry.key();
        epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, self.first_token + number as u64))?;
        entry.insert(Leg { socket, route, opened: asked.began, uses: 0, waiting: None });
        Ok(number)
    }

    fn take(&mut self, route: &Route, now: Instant) -> Option<usize> {
        loop {
            let number = self.idle.get_mut(route)?.pop();
            let Some(number) = number else {
                self.idle.remove(route);
                return None;
            };
            self.idle_count -= 1;
            if now.saturating_duration_since(self.legs[number].opened) < MOST_AGE {
                return Some(number);
            }
            self.legs.remove(number);
        }
    }

    fn give_back(&mut self, number: usize, now: Instant) {
        let leg = &mut self.legs[number];
        leg.uses += 1;
        let is_old = leg.uses >= MOST_USES || now.saturating_duration_since(leg.opened) >= MOST_AGE;
        if !is_old && self.idle_count < MOST_IDLE {
            let of_route = self.idle.entry(leg.route).or_default();
            if of_route.len() < MOST_IDLE_OF_ROUTE {
                of_route.push(number);
                self.idle_count += 1;
                return;
            }
        }
        self.legs.remove(number);
    }

    /// Something is to be read at a socket.
    pub(super) fn ready(&mut self, number: usize, scratch: &mut [u8], now: Instant) -> Option<Came> {
        for _ in 0..IN_A_ROW {
            // It may have been closed by an event before this one.
            let leg = self.legs.get_mut(number)?;
            let Some(waiting) = &leg.waiting else {
                if clear(&leg.socket).is_err() {
                    self.close_idle(number);
                }
                return None;
            };
            match (&leg.socket).read(scratch) {
                Ok(count) => match believe(&waiting.asked.query, &scratch[..count]) {
                    Ok(answer) => {
                        let waiting = self.take_waiting(number)?;
                        self.give_back(number, now);
                        return Some(Came::Answered(waiting, scratch[..count].to_vec(), answer));
                    }
                    Err(error) => {
                        self.metrics.not_believed.inc();
                        let Asked { client, server, .. } = waiting.asked;
                        tracing::debug!(%error, %server, %client, "an answer is not believed");
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => {
                    unreachable(&waiting.asked, &error);
                    return self.give_up(number).map(Came::Unreachable);
                }
            }
        }
        None
    }

    fn take_waiting(&mut self, number: usize) -> Option<Waiting> {
        let waiting = self.legs.get_mut(number)?.waiting.take()?;
        self.waiting_count -= 1;
        Some(waiting)
    }

    fn close_idle(&mut self, number: usize) {
        let leg = self.legs.remove(number);
        if let Some(of_route) = self.idle.get_mut(&leg.route) {
            let before = of_route.len();
            of_route.retain(|idle| *idle != number);
            self.idle_count -= before - of_route.len();
        }
    }

    /// The numbers of the sockets whose queries have waited for `most`, and when the next one's will have.
    pub(super) fn late(&self, now: Instant, most: Duration) -> (Vec<usize>, Option<Instant>) {
        let dues = || self.legs.iter().filter_map(|(number, leg)| Some((number, leg.waiting.as_ref()?.asked.began + most)));
        let late = dues().filter(|(_, due)| *due <= now).map(|(number, _)| number).collect();
        (late, dues().map(|(_, due)| due).filter(|due| *due > now).min())
    }

    /// Ends the wait of a query, whose answer may still come: its socket is not used again.
    pub(super) fn give_up(&mut self, number: usize) -> Option<Waiting> {
        let waiting = self.take_waiting(number)?;
        self.legs.remove(number);
        Some(waiting)
    }

    /// Closes what waits for too long. To be called every few seconds.
    pub(super) fn close_old(&mut self, now: Instant) {
        let Self { legs, idle, .. } = self;
        legs.retain(|_, leg| leg.waiting.is_some() || now.saturating_duration_since(leg.opened) < MOST_AGE);
        idle.retain(|_, of_route| {
            of_route.retain(|number| legs.get(*number).is_some_and(|leg| leg.waiting.is_none()));
            !of_route.is_empty()
        });
        self.idle_count = idle.values().map(Vec::len).sum();
    }
}

fn unreachable(asked: &Asked, error: &io::Error) {
    tracing::debug!(%error, server = %asked.server, client = %asked.client, "a server can't be asked");
}

/// Drops what waits. An error: the socket has one, or more waits than a server sends.
fn clear(mut socket: &Socket) -> io::Result<()> {
    const MOST_WAITING: usize = 64;
    for _ in 0..MOST_WAITING {
        match socket.read(&mut [0; 1]) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::Other.into())
}
