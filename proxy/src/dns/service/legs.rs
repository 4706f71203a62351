//! Queries by datagram to the server, from the pod's own address.
//!
//! Each query has a socket for itself, connected to the server: nobody else's datagrams arrive, and a closed port is known at once. Its
//! port is drawn at random, and who guesses at answers must guess it too (RFC 5452 section 4.5). A socket is used for some queries and
//! some seconds, by one query at a time, since drawing a port for each costs three system calls more.

use std::cell::RefCell;
use std::io::{self, Read as _};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustc_hash::FxHashMap;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use super::{Asked, DnsMetrics, Fate};
use crate::dns::{Answer, believe};
use crate::upstream::datagrams::{Ports, as_pod, of_the_node};
use crate::upstream::is_of_this_node;

/// How often and for how long a socket is used.
const MOST_USES: u32 = 32;
const MOST_AGE: Duration = Duration::from_secs(5);
/// Sockets that wait for the next query of one pod to one server, and of all.
const MOST_IDLE_OF_ROUTE: usize = 64;
const MOST_IDLE: usize = 512;
const LONGEST_MESSAGE: usize = 65_535;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST_MESSAGE]);
}

/// Who asks whom: the pod's address, with the link that a link-local one is of and no port, and the server.
type Route = (SocketAddr, SocketAddr);

/// The sockets of one core.
#[derive(Debug)]
pub(super) struct Legs {
    idle: Mutex<Idle>,
    ports: Ports,
    metrics: DnsMetrics,
}

#[derive(Debug, Default)]
struct Idle {
    legs: FxHashMap<Route, Vec<Leg>>,
    count: usize,
}

#[derive(Debug)]
struct Leg {
    socket: UdpSocket,
    opened: Instant,
    uses: u32,
}

impl Legs {
    pub(super) fn new(metrics: &DnsMetrics) -> Self {
        Self { idle: Mutex::default(), ports: Ports::default(), metrics: metrics.clone() }
    }

    /// The first answer that can be believed, until `deadline`; or what became of the query.
    pub(super) async fn ask(&self, asked: &Asked, message: &[u8], deadline: Instant) -> Result<(Vec<u8>, Answer), Fate> {
        let mut pod = asked.client;
        pod.set_port(0);
        let route = (pod, asked.server);
        let leg = match self.take(&route) {
            Some(leg) => leg,
            None => self.open(asked.client, asked.server).map_err(|error| unreachable(asked, &error))?,
        };
        let exchange = async {
            leg.socket.send(message).await?;
            loop {
                let response = leg.receive().await?;
                match believe(&asked.query, &response) {
                    Ok(answer) => return Ok((response, answer)),
                    Err(error) => {
                        self.metrics.not_believed.inc();
                        tracing::debug!(%error, server = %asked.server, client = %asked.client, "an answer is not believed");
                    }
                }
            }
        };
        // A socket that failed, or whose answer may still come, is not used again.
        match timeout_at(deadline, exchange).await {
            Ok(Ok(answered)) => {
                self.give_back(route, leg);
                Ok(answered)
            }
            Ok(Err(error)) => Err(unreachable(asked, &error)),
            Err(_) => Err(Fate::TimedOut),
        }
    }

    fn take(&self, route: &Route) -> Option<Leg> {
        loop {
            let leg = {
                let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
                let leg = idle.legs.get_mut(route)?.pop();
                match leg {
                    Some(_) => idle.count -= 1,
                    None => drop(idle.legs.remove(route)),
                }
                leg?
            };
            // What came meanwhile was sent by who had time to guess.
            if leg.opened.elapsed() < MOST_AGE && leg.clear().is_ok() {
                return Some(leg);
            }
        }
    }

    fn give_back(&self, route: Route, mut leg: Leg) {
        leg.uses += 1;
        if leg.uses >= MOST_USES || leg.opened.elapsed() >= MOST_AGE {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.count >= MOST_IDLE {
            return;
        }
        let of_route = idle.legs.entry(route).or_default();
        if of_route.len() < MOST_IDLE_OF_ROUTE {
            of_route.push(leg);
            idle.count += 1;
        }
    }

    /// Closes what waits for too long. To be called every few seconds.
    pub(super) fn close_old(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.legs.retain(|_, of_route| {
            of_route.retain(|leg| leg.opened.elapsed() < MOST_AGE);
            !of_route.is_empty()
        });
        idle.count = idle.legs.values().map(Vec::len).sum();
    }

    fn open(&self, client: SocketAddr, server: SocketAddr) -> io::Result<Leg> {
        let socket = if is_of_this_node(server.ip()) { of_the_node(server)? } else { as_pod(&self.ports, client)? };
        socket.connect(&server.into())?;
        let leg = Leg { socket: UdpSocket::from_std(socket.into())?, opened: Instant::now(), uses: 0 };
        // Until it was connected, it took what anybody sent.
        leg.clear()?;
        Ok(leg)
    }
}

fn unreachable(asked: &Asked, error: &io::Error) -> Fate {
    tracing::debug!(%error, server = %asked.server, client = %asked.client, "a server can't be asked");
    Fate::Unreachable
}

impl Leg {
    async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            // A closed port is an error and nothing to read, for which alone the runtime would not wake.
            let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            let received = if ready.is_error() {
                let error = || Err(self.socket.take_error()?.unwrap_or_else(|| io::ErrorKind::WouldBlock.into()));
                self.socket.try_io(Interest::ERROR, error)
            } else {
                SCRATCH.with_borrow_mut(|scratch| {
                    let count = self.socket.try_recv(scratch)?;
                    Ok(scratch[..count].to_vec())
                })
            };
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    /// Drops what waits. An error: the socket has one, or more waits than a server sends.
    fn clear(&self) -> io::Result<()> {
        const MOST_WAITING: usize = 64;
        let socket = SockRef::from(&self.socket);
        for _ in 0..MOST_WAITING {
            match (&*socket).read(&mut [0; 1]) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::Other.into())
    }
}
