//! Answers leave from the address that was asked, which is no address of ours: by raw sockets.
//!
//! ```text
//! answer -> the socket of all -----------------> the pod
//!              | no room
//!              `-> a lane, a socket of this pod's -> the pod
//!                    | no room
//!                    `-> waits behind the pod's other answers
//! ```
//!
//! What the link of a pod holds up, as a shaper does, or the kernel until the pod says where it is, takes room in the socket that it was
//! sent by. So one pod can fill that of all, but no other waits for it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustc_hash::FxHashMap;
use slab::Slab;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::time::Instant;

use super::DnsMetrics;
use super::packet::Datagram;
use crate::limits::Place;

/// Answers of one pod that wait for room, besides those that hold a place.
const MOST_WAITING: usize = 512;
/// Who has waited for so long has asked again, or given up.
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// Lanes that are looked at together.
const EVENTS: usize = 16;

/// The raw sockets of a family: they only send, headers included. Need CAP_NET_RAW, and CAP_NET_ADMIN where that isn't enough to be
/// transparent.
#[derive(Debug)]
pub(super) struct Sender {
    is_v4: bool,
    /// That of all pods without a lane.
    socket: Socket,
    lanes: Slab<Lane>,
    /// By the pod's address, whose port is 0.
    lane_of: FxHashMap<SocketAddr, usize>,
    /// Is ready when a lane in which something waits has room.
    room: Epoll,
    next_fragmented: Arc<AtomicU32>,
    metrics: DnsMetrics,
}

/// The socket of a pod for which the one of all had no room.
#[derive(Debug)]
struct Lane {
    pod: SocketAddr,
    socket: Socket,
    /// In turn.
    waiting: VecDeque<Waiting>,
    /// Since the last look for old ones.
    is_used: bool,
}

/// An answer for which the kernel had no room, and the place of its query.
#[derive(Debug)]
struct Waiting {
    outgoing: Outgoing,
    _place: Option<Place>,
    since: Instant,
}

impl Sender {
    pub(super) fn open(is_v4: bool, next_fragmented: &Arc<AtomicU32>, metrics: &DnsMetrics) -> io::Result<Self> {
        Ok(Self {
            is_v4,
            socket: raw(is_v4)?,
            lanes: Slab::new(),
            lane_of: FxHashMap::default(),
            room: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            next_fragmented: Arc::clone(next_fragmented),
            metrics: metrics.clone(),
        })
    }

    /// Sends, now or [when there is room](Self::go_on): `place` is given back then.
    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8], place: Option<Place>) {
        if let Err(error) = self.try_send(from, to, message, place) {
            failed(&self.metrics, to, &error);
        }
    }

    fn try_send(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8], place: Option<Place>) -> io::Result<()> {
        let mut outgoing = Outgoing::new(from, to, message).ok_or(io::ErrorKind::InvalidInput)?;
        let mut pod = to;
        pod.set_port(0);
        let number = match self.lane_of.get(&pod) {
            Some(number) => *number,
            None => match outgoing.go_on(&self.socket, &self.next_fragmented, &self.metrics) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.open_lane(pod)?,
                sent => return sent,
            },
        };
        let lane = &mut self.lanes[number];
        lane.is_used = true;
        if lane.waiting.is_empty() {
            match outgoing.go_on(&lane.socket, &self.next_fragmented, &self.metrics) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return sent,
            }
            self.room.add(&lane.socket, EpollEvent::new(EpollFlags::EPOLLOUT, number as u64))?;
        } else if place.is_none() && lane.waiting.len() >= MOST_WAITING {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        lane.waiting.push_back(Waiting { outgoing, _place: place, since: Instant::now() });
        Ok(())
    }

    fn open_lane(&mut self, pod: SocketAddr) -> io::Result<usize> {
        let socket = raw(self.is_v4)?;
        self.metrics.lanes.inc();
        let number = self.lanes.insert(Lane { pod, socket, waiting: VecDeque::new(), is_used: true });
        self.lane_of.insert(pod, number);
        Ok(number)
    }

    /// Whether something waits until its socket can be written to.
    pub(super) fn is_waiting(&self) -> bool {
        self.lanes.iter().any(|(_, lane)| !lane.waiting.is_empty())
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn go_on(&mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = self.room.wait(&mut events, EpollTimeout::ZERO).unwrap_or_else(|error| {
            tracing::debug!(%error, "sockets of the DNS proxy can't be waited for");
            0
        });
        for event in &events[..count] {
            let number = usize::try_from(event.data()).unwrap_or(usize::MAX);
            let Some(lane) = self.lanes.get_mut(number) else { continue };
            while let Some(Waiting { outgoing, .. }) = lane.waiting.front_mut() {
                match outgoing.go_on(&lane.socket, &self.next_fragmented, &self.metrics) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => failed(&self.metrics, lane.pod, &error),
                    Ok(()) => {}
                }
                lane.waiting.pop_front();
            }
            rest(&self.room, lane);
        }
    }

    /// Gives up what has waited for too long, and closes the lanes that nothing came to since this was called last.
    pub(super) fn close_old(&mut self, now: Instant) {
        let Self { lanes, lane_of, room, metrics, .. } = self;
        lanes.retain(|_, lane| {
            let is_late = |waiting: &mut Waiting| now.saturating_duration_since(waiting.since) > LONGEST_WAIT;
            while lane.waiting.pop_front_if(is_late).is_some() {
                failed(metrics, lane.pod, &io::ErrorKind::TimedOut.into());
                rest(room, lane);
            }
            let stays = std::mem::take(&mut lane.is_used) || !lane.waiting.is_empty();
            if !stays {
                lane_of.remove(&lane.pod);
            }
            stays
        });
    }
}

/// The lane is waited for no more if nothing waits in it.
fn rest(room: &Epoll, lane: &Lane) {
    if lane.waiting.is_empty()
        && let Err(error) = room.delete(&lane.socket)
    {
        tracing::debug!(%error, "a socket of the DNS proxy is waited for in vain");
    }
}

fn failed(metrics: &DnsMetrics, to: SocketAddr, error: &io::Error) {
    metrics.unsent.inc();
    tracing::debug!(%error, pod = %to.ip(), "an answer could not be sent");
}

impl AsFd for Sender {
    /// Is readable when something that waits can go on.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.room.0.as_fd()
    }
}

/// A socket for whole packets, from whatever address.
pub(crate) fn raw(is_v4: bool) -> io::Result<Socket> {
    let domain = if is_v4 { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))?;
    socket.set_nonblocking(true)?;
    // What others say in a flow that is the proxy's, the kernel's rules turn back.
    if is_v4 {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    Ok(socket)
}

/// A datagram on its way out.
#[derive(Debug)]
struct Outgoing {
    to: SockAddr,
    datagram: Datagram,
    /// Once it turned out to be too long for one packet: what is still to be sent.
    fragments: Option<std::vec::IntoIter<Vec<u8>>>,
}

impl Outgoing {
    fn new(from: SocketAddr, mut to: SocketAddr, message: &[u8]) -> Option<Self> {
        let datagram = Datagram::new(from, to, message)?;
        // Of IPv6, the port of a raw socket's peer is a protocol.
        to.set_port(0);
        Some(Self { to: to.into(), datagram, fragments: None })
    }

    /// Sends what is left. May be called again after `WouldBlock`.
    fn go_on(&mut self, socket: &Socket, next_fragmented: &AtomicU32, metrics: &DnsMetrics) -> io::Result<()> {
        if self.fragments.is_none() {
            match socket.send_to(&self.datagram.whole(), &self.to) {
                Err(error) if error.raw_os_error() == Some(Errno::EMSGSIZE as i32) => {
                    metrics.fragmented.inc();
                    // The kernel gives each packet of IPv4 with id 0 an id of its own.
                    let id = next_fragmented.fetch_add(1, Ordering::Relaxed) % u32::from(u16::MAX) + 1;
                    self.fragments = Some(self.datagram.fragments(id).collect::<Vec<_>>().into_iter());
                }
                sent => return sent.map(drop),
            }
        }
        let Some(fragments) = &mut self.fragments else { return Ok(()) };
        while let Some(fragment) = fragments.as_slice().first() {
            socket.send_to(fragment, &self.to)?;
            fragments.next();
        }
        Ok(())
    }
}
