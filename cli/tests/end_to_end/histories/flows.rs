//! Connections that live through a history.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use sluice_testnet::Netns;

use crate::client::{Pair, Talk};

/// One end: who, and by which address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At {
    pub(super) who: String,
    pub(super) ip: IpAddr,
}

/// A flow and the sockets at both its ends.
pub(super) struct Flow {
    pub(super) from: At,
    pub(super) to: At,
    pub(super) port: u16,
    pub(super) sockets: Sockets,
    /// In which step it began.
    pub(super) since: usize,
}

pub(super) enum Sockets {
    Tcp(Pair),
    Udp(UdpPair),
    /// A kept-alive connection that the proxy reads.
    Http(Talk),
}

impl Sockets {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "TCP",
            Self::Udp(_) => "UDP",
            Self::Http(_) => "HTTP",
        }
    }
}

/// Two sockets that know each other's address.
pub(super) struct UdpPair {
    client: UdpSocket,
    server: UdpSocket,
    client_at: SocketAddr,
    server_at: SocketAddr,
    /// The next word: an old one that comes late is none.
    turn: u32,
}

impl UdpPair {
    /// One word each way; `None` if the first doesn't arrive.
    pub(super) fn exchange(client: &Netns, source: IpAddr, server: &Netns, to: SocketAddr, wait: Duration) -> Option<Self> {
        let server = server.udp_bind(to).ok()?;
        let client = client.udp_bind(SocketAddr::new(source, 0)).ok()?;
        let client_at = client.local_addr().ok()?;
        let mut pair = Self { client, server, client_at, server_at: to, turn: 0 };
        (pair.passes(wait) == (true, true)).then_some(pair)
    }

    /// Whether a datagram comes through, each way.
    pub(super) fn passes(&mut self, wait: Duration) -> (bool, bool) {
        self.turn += 2;
        let there = datagram_passes(&self.client, &self.server, self.server_at, self.turn, wait);
        let back = datagram_passes(&self.server, &self.client, self.client_at, self.turn + 1, wait);
        (there, back)
    }
}

fn datagram_passes(from: &UdpSocket, to: &UdpSocket, at: SocketAddr, turn: u32, wait: Duration) -> bool {
    let word = turn.to_be_bytes();
    if from.send_to(&word, at).is_err() {
        return false;
    }
    to.set_read_timeout(Some(wait)).unwrap();
    let mut got = [0; 16];
    loop {
        match to.recv_from(&mut got) {
            Ok((4, _)) if got[..4] == word => return true,
            // An earlier one.
            Ok(_) => {}
            Err(_) => return false,
        }
    }
}
