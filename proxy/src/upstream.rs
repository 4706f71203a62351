//! The leg to the server: from the pod's own address to where the pod wanted to go.
//!
//! The client's own port is tried first. With any free port, the search for one slows to a halt once some ten thousand
//! connections between one pod and one server have ended within a minute (measured: 505 connections/s).

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, Type};
use tokio::net::TcpSocket;

use crate::judge::Ends;
use crate::socket::{Leg, Socket};

/// How servers are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialer {
    /// From the client's address, which isn't this host's: what enforcement does. Needs CAP_NET_ADMIN.
    Transparent,
    /// From this host's address. For tests and measurements on loopback.
    Plain,
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
    /// Connects to the original destination.
    pub async fn connect(self, ends: &Ends, leg: &Arc<Leg>, limit: Duration) -> Result<Socket, DialError> {
        let (client, server) = (ends.client.0, ends.original.0);
        let connecting = async {
            match self {
                Self::Plain => dial(plain(server), server).await,
                Self::Transparent => {
                    let any_port = SocketAddr::new(client.ip(), 0);
                    // A server on the node itself would see the tuple that the client's leg has here, which takes its packets.
                    if is_of_this_node(server.ip()) {
                        return dial(transparent(any_port), server).await;
                    }
                    match dial(transparent(client), server).await {
                        // The port is held by another connection of this pod: any other port will do.
                        Err(error) if is_taken(&error) => dial(transparent(any_port), server).await,
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
fn is_of_this_node(address: IpAddr) -> bool {
    std::net::UdpSocket::bind((address, 0)).is_ok()
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
