//! The leg to the server: from the pod's own address to where the pod wanted to go.
//!
//! To a pod, the client's own port is tried first. With any free port, the search for one slows to a halt once some ten
//! thousand connections between one pod and one server have ended within a minute (measured: 505 connections/s).
//!
//! To all others it is a port that no client's leg has. With the client's own, this leg has the five-tuple of the client's leg,
//! and so its conntrack entry, which is not new any more: rules of `nat` chains are asked for new ones alone, so nothing would
//! masquerade the pod's address, and no answer would find back. Nor may it be the port of another of the pod's connections, and
//! the kernel's choice of a free one doesn't know of those. So each of the usual ports has its counterpart below them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::TcpSocket;

use crate::judge::Ends;
use crate::socket::{Leg, Socket};

pub(crate) mod datagrams;

/// How servers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialer {
    /// From the client's address, which isn't this host's: what enforcement does. Needs CAP_NET_ADMIN.
    Transparent,
    /// From this host's address. For tests and measurements on loopback.
    Plain,
}

/// The port that the leg to the server comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourcePort {
    /// The client's own if it is free: where no translation of the pod's address is due.
    Clients,
    /// Another: the leg is a new flow to the kernel, and is translated like any.
    Another,
}

/// Why there is no leg to the server.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error("no socket as {client} to {server}")]
    Socket { client: SocketAddr, server: SocketAddr, source: io::Error },
    #[error("connect to {server} as {client}")]
    Connect { client: SocketAddr, server: SocketAddr, source: io::Error },
    #[error("{server} didn't answer within {limit:?}")]
    Timeout { server: SocketAddr, limit: Duration },
}

impl Dialer {
    /// Connects to the original destination. A [`Dialer::Plain`] has no choice of port.
    pub async fn connect(self, ends: &Ends, port: SourcePort, leg: &Arc<Leg>, limit: Duration) -> Result<Socket, DialError> {
        let (client, server) = (ends.client.0, ends.original.0);
        let connecting = async {
            match self {
                Self::Plain => dial(plain(server), server).await,
                Self::Transparent => {
                    // A server on the node itself would see the tuple that the client's leg has here, which takes its packets.
                    let first = match port {
                        SourcePort::Clients if !is_of_this_node(server.ip()) => client.port(),
                        SourcePort::Clients | SourcePort::Another => counterpart(client.port()).unwrap_or(0),
                    };
                    match dial(transparent(SocketAddr::new(client.ip(), first)), server).await {
                        // The port is held by another connection of this pod: any other port will do.
                        Err(error) if first != 0 && is_taken(&error) => {
                            dial(transparent(SocketAddr::new(client.ip(), 0)), server).await
                        }
                        result => result,
                    }
                }
            }
        };
        let stream = match tokio::time::timeout(limit, connecting).await {
            Err(_) => return Err(DialError::Timeout { server, limit }),
            Ok(Err(Failed::Socket(source))) => return Err(DialError::Socket { client, server, source }),
            Ok(Err(Failed::Connect(source))) => {
                return Err(DialError::Connect { client, server, source });
            }
            Ok(Ok(stream)) => stream,
        };
        Ok(Socket::new(stream, Arc::clone(leg)))
    }
}

enum Failed {
    Socket(io::Error),
    Connect(io::Error),
}

async fn dial(socket: io::Result<TcpSocket>, server: SocketAddr) -> Result<tokio::net::TcpStream, Failed> {
    socket.map_err(Failed::Socket)?.connect(server).await.map_err(Failed::Connect)
}

fn is_taken(failed: &Failed) -> bool {
    let (Failed::Socket(error) | Failed::Connect(error)) = failed;
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// Whether the address is one of this namespace's: only those can be bound, unless `ip_nonlocal_bind` is set, and then it costs
/// the search for a port.
pub(crate) fn is_of_this_node(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
}

/// The port that stands for a client's. None for a port that Linux doesn't choose by itself (`ip_local_port_range`).
fn counterpart(client: u16) -> Option<u16> {
    // From 1024 to 29255: neither privileged, nor of a NodePort, nor itself one that clients have.
    (32_768..=60_999).contains(&client).then(|| client - 32_768 + 1024)
}

fn plain(server: SocketAddr) -> io::Result<TcpSocket> {
    if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

/// A socket that speaks as `client`. Port 0: any, chosen when it connects and not before, so that only the four-tuple must be
/// free (IP_BIND_ADDRESS_NO_PORT).
fn transparent(client: SocketAddr) -> io::Result<TcpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(client), Type::STREAM, Some(Protocol::TCP))?;
    match client.ip() {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    // Another connection of this pod from the same port to another server holds the address too.
    socket.set_reuse_address(true)?;
    if client.port() == 0 {
        setsockopt(&socket, sockopt::IpBindAddressNoPort, &true)?;
    }
    socket.bind(&SockAddr::from(client))?;
    socket.set_nonblocking(true)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::counterpart;

    #[test]
    fn counterparts_are_apart_from_clients_and_from_each_other() {
        assert_eq!((counterpart(32_768), counterpart(60_999)), (Some(1024), Some(29_255)));
        for port in [0, 80, 1024, 32_767, 61_000, u16::MAX] {
            assert_eq!(counterpart(port), None, "{port}");
        }
        assert!((0..=u16::MAX).filter_map(counterpart).all(|port| counterpart(port).is_none() && port < 30_000));
    }
}
