//! Where diverted connections arrive.
//!
//! TPROXY gives a packet to a socket that listens on loopback, and leaves its addresses alone. So an accepted socket's local
//! address is where the client wanted to go. Each core has its own listeners (SO_REUSEPORT), and a connection stays on the
//! core that accepted it.
//!
//! What only Audit policies want read comes to a port of its own, at which is listened while there is room ([`audited`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::connection::{Dataplane, handle_connection};
use crate::judge::OriginalDst;

mod audited;

/// Connections that the kernel completes before they are accepted.
const BACKLOG: i32 = 4096;

const SHORTEST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// Why there is nowhere for connections to arrive.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for diverted connections (needs CAP_NET_ADMIN, and the port to be free)")]
pub struct ListenError {
    pub address: SocketAddr,
    #[source]
    pub source: io::Error,
}

/// The listeners of one core: 127.0.0.1 and, where this namespace has IPv6, ::1.
#[derive(Debug)]
pub struct Listeners {
    /// Where Audit policies' connections arrive.
    audit_port: u16,
    held: Vec<StdListener>,
}

impl Listeners {
    /// Takes the listeners of `port` among `held`, of whatever process, and binds what is missing beside those of the other cores. At
    /// `audit_port` nobody listens yet.
    pub fn bind(port: u16, audit_port: u16, held: Vec<StdListener>) -> Result<Self, ListenError> {
        let held = on_loopback(port, BACKLOG, held)?;
        if !held.iter().any(|listener| listener.local_addr().is_ok_and(|address| address.is_ipv6())) {
            tracing::warn!("no IPv6 on loopback: IPv6 flows that need the proxy are closed");
        }
        Ok(Self { audit_port, held })
    }

    /// The same listeners once more, for a successor.
    pub fn try_clone(&self) -> io::Result<Vec<StdListener>> {
        self.held.iter().map(StdListener::try_clone).collect()
    }
}

/// A listener of each family that this namespace has: those of `held` that listen there, and new ones.
pub(crate) fn on_loopback(port: u16, backlog: i32, held: Vec<StdListener>) -> Result<Vec<StdListener>, ListenError> {
    both_families(port, held, StdListener::local_addr, |address| listen(address, backlog))
}

/// Sockets of `port` on loopback, IPv4's first: those of `held`, and what `open` makes where there are none. IPv6 may be absent.
pub(crate) fn both_families<S>(
    port: u16,
    held: Vec<S>,
    address_of: impl Fn(&S) -> io::Result<SocketAddr>,
    open: impl Fn(SocketAddr) -> io::Result<S>,
) -> Result<Vec<S>, ListenError> {
    let mut held: Vec<(SocketAddr, S)> =
        held.into_iter().filter_map(|socket| Some((address_of(&socket).ok()?, socket))).collect();
    let mut sockets = Vec::new();
    for ip in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
        let address = SocketAddr::new(ip, port);
        let (there, others) = held.into_iter().partition::<Vec<_>, _>(|(at, _)| *at == address);
        held = others;
        if !there.is_empty() {
            sockets.extend(there.into_iter().map(|(_, socket)| socket));
            continue;
        }
        match open(address) {
            Ok(socket) => sockets.push(socket),
            Err(error) if address.is_ipv6() && is_absent(&error) => {}
            Err(source) => return Err(ListenError { address, source }),
        }
    }
    Ok(sockets)
}

fn is_absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn listen(address: SocketAddr, backlog: i32) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    match address {
        SocketAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        SocketAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_ip_transparent_v6(true)?;
        }
    }
    socket.set_reuse_port(true)?;
    // A predecessor's connections in TIME_WAIT hold the port.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(backlog)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Carries the connections that arrive at one core, until the drain begins and those that are open have ended.
pub async fn run(listeners: Listeners, dataplane: Arc<Dataplane>) -> io::Result<()> {
    let connections = TaskTracker::new();
    let mut loops = tokio::task::JoinSet::new();
    for listener in listeners.held {
        let listener = TcpListener::from_std(listener)?;
        let (dataplane, connections) = (Arc::clone(&dataplane), connections.clone());
        loops.spawn(async move {
            let each = |stream, client, original| {
                connections.spawn(handle_connection(Arc::clone(&dataplane), stream, client, original));
            };
            let drain = &dataplane.drain;
            accept_each(&listener, &drain.begun, &dataplane.metrics.accept_backoffs, each).await;
            if !drain.handed_over.is_cancelled() {
                close(listener, BACKLOG, each);
            }
        });
    }
    loops.spawn(audited::accept_loop(listeners.audit_port, Arc::clone(&dataplane), connections.clone()));
    loops.join_all().await;
    connections.close();
    connections.wait().await;
    Ok(())
}

/// The only accept loop but [`audited`]'s: for both families, every core, and the DNS proxy. `each` gets a connection with its client
/// and where that wanted to go, and must not wait. Ends with `end`.
pub(crate) async fn accept_each(
    listener: &TcpListener,
    end: &CancellationToken,
    backoffs: &Counter,
    each: impl Fn(TcpStream, SocketAddr, OriginalDst),
) {
    let mut backoff = SHORTEST_BACKOFF;
    loop {
        let accepted = tokio::select! {
            biased;
            () = end.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, client) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_one_connections(&error) => continue,
            Err(error) => {
                // No file descriptors or no memory: what is open will end and give some back. Trying at once would only burn
                // the core that has to end it.
                backoffs.inc();
                if backoff == SHORTEST_BACKOFF {
                    tracing::warn!(%error, "no new connections for a moment");
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(LONGEST_BACKOFF);
                continue;
            }
        };
        backoff = SHORTEST_BACKOFF;
        let Ok(original) = stream.local_addr() else { continue };
        each(stream, client, OriginalDst(original));
    }
}

/// Closes a listener. Who waits at it, at most `most` of them, gets in first: they hold their connections for open, and the kernel resets
/// them with the last of a listener. What connects at that very moment is lost then.
pub(crate) fn close(listener: TcpListener, most: i32, each: impl Fn(TcpStream, SocketAddr, OriginalDst)) {
    if let Err(error) = let_in(listener, most, each) {
        tracing::warn!(%error, "connections that waited to be accepted are reset");
    }
}

/// By the kernel's own word for who waits: the runtime may not have heard of them yet.
fn let_in(listener: TcpListener, most: i32, each: impl Fn(TcpStream, SocketAddr, OriginalDst)) -> io::Result<()> {
    let listener = listener.into_std()?;
    for _ in 0..most {
        let (stream, client) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if is_one_connections(&error) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        let Ok(original) = stream.local_addr() else { continue };
        each(TcpStream::from_std(stream)?, client, OriginalDst(original));
    }
    Ok(())
}

/// Errors of accept(2) that are about the connection and not about the listener.
fn is_one_connections(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, PermissionDenied};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | PermissionDenied)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::TcpStream as StdStream;

    use super::*;

    #[tokio::test]
    async fn who_waits_at_a_door_gets_in_before_it_closes() {
        for (most, within) in [(BACKLOG, 100), (10, 10)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let end = CancellationToken::new();
            end.cancel();
            let clients: Vec<StdStream> = (0..100).map(|_| StdStream::connect(address).unwrap()).collect();
            let let_in = RefCell::new(Vec::new());
            let each = |stream, client, original| let_in.borrow_mut().push((stream, client, original));
            accept_each(&listener, &end, &Counter::default(), each).await;
            assert!(let_in.borrow().is_empty(), "from the end on nobody is waited for");
            close(listener, most, each);
            let let_in = let_in.into_inner();
            assert_eq!(let_in.len(), within);
            assert!(let_in.iter().all(|(.., original)| original.0 == address));
            let of_each = |(_, client, _): &(TcpStream, SocketAddr, OriginalDst)| *client;
            let ours: Vec<SocketAddr> = clients.iter().take(within).map(|client| client.local_addr().unwrap()).collect();
            assert_eq!(let_in.iter().map(of_each).collect::<Vec<_>>(), ours, "in their turn");
            assert!(StdStream::connect(address).is_err(), "it is closed");
        }
    }
}
