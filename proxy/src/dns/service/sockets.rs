//! Where diverted queries arrive: of each family one socket for datagrams and one listener, on loopback.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::intercept::{ListenError, both_families, on_loopback};

/// Connections that the kernel completes before they are accepted.
pub(super) const BACKLOG: i32 = 1024;
/// What waits while a core is busy: some thousand queries, each of which the kernel counts with its own overhead.
const WAITING_BYTES: usize = 4 << 20;

/// The sockets of one core. IPv6 is left out where this namespace has none.
#[derive(Debug)]
pub struct Sockets {
    pub(super) udp: Vec<UdpSocket>,
    pub(super) tcp: Vec<TcpListener>,
}

impl Sockets {
    /// Binds `port` of loopback beside the sockets of the other cores. All of them must be bound before the first runs: one that joins
    /// later takes over what waits for others. Needs CAP_NET_ADMIN.
    pub fn bind(port: u16) -> Result<Self, ListenError> {
        Self::adopt(port, Vec::new(), Vec::new())
    }

    /// Takes those among `udp` and `tcp` that [`Self::bind`] made at this port, in whatever process, and binds what is missing.
    pub fn adopt(port: u16, udp: Vec<UdpSocket>, tcp: Vec<TcpListener>) -> Result<Self, ListenError> {
        let udp = both_families(port, udp, UdpSocket::local_addr, receiver)?;
        Ok(Self { udp, tcp: on_loopback(port, BACKLOG, tcp)? })
    }

    /// The same sockets once more: for a successor, to whom belongs what still waits there when this process stops to read.
    pub fn try_clone(&self) -> io::Result<Self> {
        let udp = self.udp.iter().map(UdpSocket::try_clone).collect::<io::Result<_>>()?;
        let tcp = self.tcp.iter().map(TcpListener::try_clone).collect::<io::Result<_>>()?;
        Ok(Self { udp, tcp })
    }

    /// For handing them over.
    pub fn into_held(self) -> (Vec<UdpSocket>, Vec<TcpListener>) {
        (self.udp, self.tcp)
    }
}

/// Where diverted datagrams arrive, each with where it was to go.
pub(crate) fn receiver(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    match address {
        SocketAddr::V4(_) => {
            socket.set_ip_transparent_v4(true)?;
            setsockopt(&socket, sockopt::Ipv4OrigDstAddr, &true)?;
        }
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
            setsockopt(&socket, sockopt::Ipv6OrigDstAddr, &true)?;
        }
    }
    socket.set_reuse_port(true)?;
    // Beyond the host's limit only with CAP_NET_ADMIN outside user namespaces.
    if setsockopt(&socket, sockopt::RcvBufForce, &WAITING_BYTES).is_err() {
        socket.set_recv_buffer_size(WAITING_BYTES)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
