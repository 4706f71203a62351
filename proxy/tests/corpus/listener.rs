//! What stands in for the proxy on a node: it accepts what the kernel diverts, and says who asked.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sluice_proxy::dns::service::Sockets;
use sluice_proxy::kernel::Config;
use sluice_testnet::{Node, bound};
use socket2::{Domain, Socket, Type};

use crate::diverted::{Diverted, receive};
use crate::packet::answer_by_hand;

/// How soon a listener that is no longer wanted ends.
const TICK_MS: u8 = 50;
/// A client that is there has sent its line by then.
const PATIENCE: Duration = Duration::from_secs(1);

/// Listens on the proxy's ports of a node, until dropped.
pub(crate) struct Listener {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the listener of a node answers by.
pub(crate) fn identity(node: &str) -> String {
    format!("proxy-of-{node}")
}

/// What the listeners for look-ups answer by.
pub(crate) fn identity_for_lookups(node: &str) -> String {
    format!("dns-of-{node}")
}

impl Listener {
    pub(crate) fn start(node: &Node, config: &Config) -> io::Result<Self> {
        let addresses = [
            SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), config.proxy_port_v4),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), config.proxy_port_v6),
        ];
        let sockets =
            node.ns().run(|| addresses.into_iter().map(|address| bound(|| listen(address))).collect::<io::Result<Vec<_>>>())?;
        let lookups = node.ns().run(|| bound(|| Sockets::bind(config.dns_port).map_err(io::Error::other)))?;
        let (datagrams, streams) = lookups.into_held();
        let streams: Vec<Socket> = streams.into_iter().map(Socket::from).collect();
        let ended = Arc::new(AtomicBool::new(false));
        let (until, identity, for_lookups) = (Arc::clone(&ended), identity(node.name()), identity_for_lookups(node.name()));
        let ns = node.ns().clone();
        let work = move || {
            while !until.load(Ordering::Relaxed) {
                let all = sockets.iter().chain(&streams).map(AsFd::as_fd).chain(datagrams.iter().map(AsFd::as_fd));
                if is_any_ready(all) {
                    accept_ready(&sockets, &identity);
                    accept_ready(&streams, &for_lookups);
                    answer_ready(&datagrams, &for_lookups);
                }
            }
        };
        let thread = std::thread::spawn(move || ns.run(work));
        Ok(Self { ended, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in there has made its probes fail already.
            let _ = thread.join();
        }
    }
}

fn listen(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), None)?;
    // One flag for both families, and IPv6 sockets take IPv4's option too.
    socket.set_ip_transparent_v4(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    Ok(socket)
}

fn is_any_ready<'a>(sockets: impl Iterator<Item = BorrowedFd<'a>>) -> bool {
    let mut polled: Vec<PollFd<'_>> = sockets.map(|socket| PollFd::new(socket, PollFlags::POLLIN)).collect();
    poll(&mut polled, PollTimeout::from(TICK_MS)).is_ok_and(|ready| ready > 0)
}

fn accept_ready(sockets: &[Socket], identity: &str) {
    for socket in sockets {
        while let Ok((client, from)) = socket.accept() {
            let (Some(from), identity) = (from.as_socket(), identity.to_owned()) else { continue };
            // By itself: one that says nothing must not keep the others waiting. A client that has gone meanwhile is not the listener's concern.
            std::thread::spawn(move || answer(&client, from, &identity));
        }
    }
}

/// Answers a line as the servers of the network do.
fn answer(mut client: &Socket, from: SocketAddr, identity: &str) -> io::Result<()> {
    client.set_nonblocking(false)?;
    client.set_read_timeout(Some(PATIENCE))?;
    let mut line = [0; 256];
    let length = client.read(&mut line)?;
    let line = String::from_utf8_lossy(line.get(..length).unwrap_or_default()).into_owned();
    client.write_all(format!("{identity} {from} {}\n", line.trim_end()).as_bytes())
}

fn answer_ready(sockets: &[UdpSocket], identity: &str) {
    for socket in sockets {
        while let Some(Diverted { client, server, text }) = receive(socket) {
            // As above. By hand: on the node itself somebody may hold the address and port that was asked.
            let _ = answer_by_hand(server, client, &format!("{identity} {client} {}\n", text.trim_end()));
        }
    }
}
