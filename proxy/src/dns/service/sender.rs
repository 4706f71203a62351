//! Answers leave from the address that was asked, which is no address of ours: by raw sockets.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::errno::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::DnsMetrics;
use super::packet::Datagram;

/// The raw socket of a family: it only sends, headers included. Needs CAP_NET_RAW, and CAP_NET_ADMIN where that isn't enough to be transparent.
#[derive(Debug)]
pub(super) struct Sender {
    /// Its type is what the runtime has for datagrams: it is only waited on, and sent by through [`SockRef`].
    socket: UdpSocket,
    next_fragmented: Arc<AtomicU32>,
    metrics: DnsMetrics,
}

impl Sender {
    pub(super) fn open(is_v4: bool, next_fragmented: &Arc<AtomicU32>, metrics: &DnsMetrics) -> io::Result<Self> {
        let socket = UdpSocket::from_std(raw(is_v4)?.into())?;
        Ok(Self { socket, next_fragmented: Arc::clone(next_fragmented), metrics: metrics.clone() })
    }

    /// Sends at once, if the kernel takes it: for answers that nobody waits to have sent.
    pub(super) fn send_now(&self, from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let sent = Outgoing::new(from, to, message)
            .and_then(|mut outgoing| outgoing.go_on(&SockRef::from(&self.socket), &self.next_fragmented, &self.metrics));
        self.note(from, to, sent);
    }

    pub(super) async fn send(&self, from: SocketAddr, to: SocketAddr, message: &[u8]) {
        let sent = match Outgoing::new(from, to, message) {
            Ok(mut outgoing) => {
                let go_on = || outgoing.go_on(&SockRef::from(&self.socket), &self.next_fragmented, &self.metrics);
                self.socket.async_io(Interest::WRITABLE, go_on).await
            }
            Err(error) => Err(error),
        };
        self.note(from, to, sent);
    }

    fn note(&self, from: SocketAddr, to: SocketAddr, sent: io::Result<()>) {
        if let Err(error) = sent {
            self.metrics.unsent.inc();
            tracing::debug!(%error, %from, %to, "an answer could not be sent");
        }
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
struct Outgoing {
    to: SockAddr,
    datagram: Datagram,
    /// Once it turned out to be too long for one packet: what is still to be sent.
    fragments: Option<std::vec::IntoIter<Vec<u8>>>,
}

impl Outgoing {
    fn new(from: SocketAddr, mut to: SocketAddr, message: &[u8]) -> io::Result<Self> {
        let datagram = Datagram::new(from, to, message).ok_or(io::ErrorKind::InvalidInput)?;
        // Of IPv6, the port of a raw socket's peer is a protocol.
        to.set_port(0);
        Ok(Self { to: to.into(), datagram, fragments: None })
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
