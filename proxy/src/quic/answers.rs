//! What the client hears, from the server's address: the server's datagrams, and that it is denied.

use std::io;
use std::net::SocketAddr;

use socket2::Socket;

use super::hellos::Answerable;
use super::keys::{Keys, Side, sealed_bytes};
use crate::dns::service::packet::Datagram;
use crate::dns::service::sender;

/// The raw socket of a family. Nothing waits for it: what the kernel doesn't take at once is lost, as on any way.
#[derive(Debug)]
pub(super) struct Answers {
    socket: Socket,
}

impl Answers {
    pub(super) fn open(is_v4: bool) -> io::Result<Self> {
        Ok(Self { socket: sender::raw(is_v4)? })
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

    fn packet(&self, mut to: SocketAddr, packet: &[u8]) -> io::Result<()> {
        // Of IPv6, the port of a raw socket's peer is a protocol.
        to.set_port(0);
        self.socket.send_to(packet, &to.into()).map(drop)
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
    use super::super::packet::{Packet, Version, first, frames};
    use super::*;

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
