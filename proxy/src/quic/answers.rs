//! What the client hears, from the server's address: the server's datagrams, and that it is denied.

use std::collections::hash_map::Entry;
use std::io;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use socket2::Socket;

use super::hellos::Answerable;
use super::keys::{Keys, Side, sealed_bytes};
use crate::dns::service::packet::Datagram;
use crate::dns::service::sender;

/// How long a pod's own socket stays that nothing is sent by.
const LANE_TIME: Duration = Duration::from_secs(2);

/// The raw sockets of a family. Nothing waits for them: what the kernel doesn't take at once is lost, as on any way. But what the link of
/// one pod holds up, as a shaper does, takes room in the socket that it was sent by, and costs no other pod anything.
#[derive(Debug)]
pub(super) struct Answers {
    is_v4: bool,
    /// That of all pods.
    socket: Socket,
    /// Those of pods for which there was no room in it, by their addresses, whose port is 0.
    lanes: Mutex<FxHashMap<SocketAddr, Lane>>,
}

#[derive(Debug)]
struct Lane {
    socket: Socket,
    used: Instant,
}

impl Answers {
    pub(super) fn open(is_v4: bool) -> io::Result<Self> {
        Ok(Self { is_v4, socket: sender::raw(is_v4)?, lanes: Mutex::default() })
    }

    /// Sends a datagram in one packet, or not at all: QUIC's must not be cut (RFC 9000 section 14).
    pub(super) fn send(&self, from: SocketAddr, to: SocketAddr, message: &[u8]) -> io::Result<()> {
        let datagram = Datagram::new(from, to, message).ok_or(io::ErrorKind::InvalidInput)?;
        self.packet(to, &datagram.uncut())
    }

    /// Says by ICMP that `message` may not pass.
    pub(super) fn prohibit(&self, client: SocketAddr, server: SocketAddr, message: &[u8]) -> io::Result<()> {
        let datagram = Datagram::new(client, server, message).ok_or(io::ErrorKind::InvalidInput)?;
        self.packet(client, &datagram.prohibited())
    }

    /// Says to an attempt to connect that it is denied, as a server would that has no name for it: many clients heed no ICMP.
    pub(super) fn close(&self, client: SocketAddr, server: SocketAddr, to: &Answerable) -> io::Result<()> {
        let packet = connection_close(to).ok_or(io::ErrorKind::InvalidInput)?;
        self.send(server, client, &packet)
    }

    fn packet(&self, client: SocketAddr, packet: &[u8]) -> io::Result<()> {
        // Of IPv6, the port of a raw socket's peer is a protocol.
        let mut pod = client;
        pod.set_port(0);
        match self.socket.send_to(packet, &pod.into()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.by_lane(pod, packet),
            sent => sent.map(drop),
        }
    }

    fn by_lane(&self, pod: SocketAddr, packet: &[u8]) -> io::Result<()> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let used = Instant::now();
        let lane = match lanes.entry(pod) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(Lane { socket: sender::raw(self.is_v4)?, used }),
        };
        lane.used = used;
        lane.socket.send_to(packet, &pod.into()).map(drop)
    }

    /// Closes the sockets that nothing was sent by for a while.
    pub(super) fn close_old(&self) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, lane| lane.used.elapsed() < LANE_TIME);
    }
}

/// An Initial packet of a server that closes (RFC 9000 section 19.19) for the alert `access_denied` (RFC 9001 section 4.8).
fn connection_close(to: &Answerable) -> Option<Vec<u8>> {
    const REASON: &[u8] = b"denied by Sluice";
    // CONNECTION_CLOSE, 0x0100 plus the alert's 49 as a number of two bytes, and in answer to a frame of CRYPTO.
    let mut payload = vec![0x1c, 0x41, 0x31, 0x06];
    payload.push(u8::try_from(REASON.len()).ok()?);
    payload.extend(REASON);
    // One byte for the packet's number.
    let length = u8::try_from(sealed_bytes(payload.len()) + 1).ok().filter(|length| *length < 64)?;
    let mut header = vec![0xc0 | to.version.initial_bits() << 4];
    header.extend(to.version.number().to_be_bytes());
    for id in [&to.source, &to.destination] {
        header.push(u8::try_from(id.len()).ok()?);
        header.extend(id);
    }
    // No token, the length, the number.
    header.extend([0, length, 0]);
    Keys::of(to.version, &to.destination, Side::Server).seal(&header, &payload)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use sluice_testnet::dns::Socket;
    use sluice_testnet::{Net, Shaper};

    use super::super::packet::{Packet, Version, first, frames};
    use super::*;
    use crate::kernel::no_namespaces;

    #[test]
    fn a_link_that_takes_nothing_costs_no_other_pod_anything() {
        const ANSWERS: usize = 100;
        if no_namespaces() {
            return;
        }
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let net = Net::new().unwrap();
        let node = net.add_node("node-1", &[]).unwrap();
        let slow = net.add_pod(&node, "shop/slow", &[ip("10.0.0.9"), ip("fd00::9")]).unwrap();
        let other = net.add_pod(&node, "shop/other", &[ip("10.0.0.8"), ip("fd00::8")]).unwrap();
        for (server, [to_slow, to_other]) in [("192.0.2.1", ["10.0.0.9", "10.0.0.8"]), ("2001:db8::1", ["fd00::9", "fd00::8"])] {
            let server = SocketAddr::from((ip(server), 443));
            let answers = node.ns().run(|| Answers::open(server.is_ipv4())).unwrap();
            let [of_slow, of_other] = [&slow, &other].map(|pod| Socket::open(pod.ns(), server).unwrap());
            let send = |socket: &Socket, to: &str| {
                let client = (ip(to), socket.port().unwrap()).into();
                node.ns().run(|| answers.send(server, client, &[0; 1200]))
            };
            let received = |socket: &Socket| {
                let datagram = socket.receive(Duration::from_secs(10)).unwrap().expect("an answer");
                assert_eq!((datagram.from, datagram.bytes.len()), (server, 1200));
            };
            // Both ends of each link know each other then.
            for (socket, to) in [(&of_slow, to_slow), (&of_other, to_other)] {
                send(socket, to).unwrap();
                received(socket);
            }
            let _shaper = Shaper::add(&node, &slow, "8kbit").unwrap();
            let sent = (0..10_000).take_while(|_| send(&of_slow, to_slow).is_ok()).count();
            assert!(sent < 10_000, "a pod's own room has an end");
            for _ in 0..ANSWERS {
                send(&of_other, to_other).unwrap();
                received(&of_other);
            }
            assert_eq!(answers.lanes.lock().unwrap().len(), 2);
            std::thread::sleep(LANE_TIME);
            answers.close_old();
            assert_eq!(answers.lanes.lock().unwrap().len(), 0);
        }
    }

    #[test]
    fn a_client_can_read_that_it_is_denied() {
        for version in [Version::V1, Version::V2] {
            let to = Answerable { version, destination: vec![7; 8], source: vec![9; 5] };
            let packet = connection_close(&to).unwrap();
            let (Packet::Initial(initial), []) = first(&packet).unwrap() else { panic!("{packet:02x?}") };
            assert_eq!((initial.version, initial.destination, initial.source), (version, &[9; 5][..], &[7; 8][..]));
            let opened = Keys::of(version, &[7; 8], Side::Server).open(initial.whole, initial.number_at, None).unwrap();
            assert_eq!(opened.number, 0);
            frames(&opened.payload, |_, _| panic!("nothing of a handshake")).unwrap();
            assert!(opened.payload.ends_with(b"denied by Sluice"));
        }
    }
}
