//! Answers leave from the address that was asked, which is no address of ours: by raw sockets.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::DnsMetrics;
use super::packet::Datagram;
use crate::limits::Place;

/// Answers that wait for room in the socket, besides those that hold a place.
const MOST_WAITING: usize = 1024;

/// The raw socket of a family: it only sends, headers included. Needs CAP_NET_RAW, and CAP_NET_ADMIN where that isn't enough to be transparent.
#[derive(Debug)]
pub(super) struct Sender {
    socket: Socket,
    /// What the kernel had no room for, in turn, each with the place of its query.
    waiting: VecDeque<(Outgoing, Option<Place>)>,
    next_fragmented: Arc<AtomicU32>,
    metrics: DnsMetrics,
}

impl Sender {
    pub(super) fn open(is_v4: bool, next_fragmented: &Arc<AtomicU32>, metrics: &DnsMetrics) -> io::Result<Self> {
        Ok(Self {
            socket: raw(is_v4)?,
            waiting: VecDeque::new(),
            next_fragmented: Arc::clone(next_fragmented),
            metrics: metrics.clone(),
        })
    }

    /// Sends, now or [when there is room](Self::go_on): `place` is given back then.
    pub(super) fn send(&mut self, from: SocketAddr, to: SocketAddr, message: &[u8], place: Option<Place>) {
        let Some(mut outgoing) = Outgoing::new(from, to, message) else {
            return self.failed(&io::ErrorKind::InvalidInput.into());
        };
        if !self.waiting.is_empty() {
            return self.wait(outgoing, place);
        }
        match outgoing.go_on(&self.socket, &self.next_fragmented, &self.metrics) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait(outgoing, place),
            Err(error) => self.failed(&error),
        }
    }

    fn wait(&mut self, outgoing: Outgoing, place: Option<Place>) {
        if place.is_none() && self.waiting.len() >= MOST_WAITING {
            return self.failed(&io::ErrorKind::WouldBlock.into());
        }
        self.waiting.push_back((outgoing, place));
    }

    /// Whether something waits until the socket can be written to.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends what waits, as far as there is room.
    pub(super) fn go_on(&mut self) {
        while let Some((outgoing, _)) = self.waiting.front_mut() {
            match outgoing.go_on(&self.socket, &self.next_fragmented, &self.metrics) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => self.failed(&error),
                Ok(()) => {}
            }
            self.waiting.pop_front();
        }
    }

    fn failed(&self, error: &io::Error) {
        self.metrics.unsent.inc();
        tracing::debug!(%error, "an answer could not be sent");
    }
}

impl AsFd for Sender {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
