//! Sockets for datagrams to servers, from the pod's own address.
//!
//! Their ports are drawn at random: who guesses at answers must guess the port too (RFC 5452 section 4.5).

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Protocol, Socket, Type};

/// Ports that no client has by itself (`ip_local_port_range`), that are not privileged, and that are no NodePorts.
const FIRST_PORT: u16 = 10_000;
const PORTS: u16 = 19_256;
/// Ports that are tried. Each pod has all of them for itself, so even the second is rarely needed.
const MOST_DRAWN: usize = 16;

/// A socket that speaks as the pod, from a port that none of its own sockets has.
pub(crate) fn as_pod(ports: &Ports, client: SocketAddr) -> io::Result<Socket> {
    let socket = datagrams(client)?;
    match client.ip() {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true)?,
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true)?,
    }
    let mut address = client;
    let mut drawn = 0;
    loop {
        address.set_port(ports.draw());
        drawn += 1;
        match socket.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && drawn < MOST_DRAWN => {}
            bound => return bound.map(|()| socket),
        }
    }
}

/// For a server on this node: its answers leave by OUTPUT, and a socket that speaks as the pod would not see them where connections are
/// not tracked (node-local DNS).
pub(crate) fn of_the_node(server: SocketAddr) -> io::Result<Socket> {
    let socket = datagrams(server)?;
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    Ok(socket)
}

fn datagrams(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Ports that nobody outside can foresee: a keyed function of a counter, whose key the operating system drew.
#[derive(Debug, Default)]
pub(crate) struct Ports {
    key: RandomState,
    drawn: AtomicU64,
}

impl Ports {
    fn draw(&self) -> u16 {
        let number = self.key.hash_one(self.drawn.fetch_add(1, Ordering::Relaxed)) % u64::from(PORTS);
        FIRST_PORT + u16::try_from(number).expect("it is less than `PORTS`")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ports_are_drawn_from_all_of_their_range() {
        let ports = Ports::default();
        let drawn: HashSet<u16> = (0..400_000).map(|_| ports.draw()).collect();
        assert!(drawn.iter().all(|port| (10_000..=29_255).contains(port)));
        // Each is left out with a chance of less than one in a billion.
        assert!(drawn.len() > 19_200, "{}", drawn.len());
    }
}
