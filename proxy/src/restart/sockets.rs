//! What changes hands: the sockets at which pods' traffic arrives, and the admin address.

use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

/// What a socket is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Connections,
    Lookups,
    LookupsByTcp,
    Quic,
    Admin,
}

/// Each of them is the same socket for both processes, with one queue.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where diverted connections arrive.
    pub connections: Vec<TcpListener>,
    /// Where look-ups do, by datagram.
    pub lookups: Vec<UdpSocket>,
    /// And by connection.
    pub lookups_by_tcp: Vec<TcpListener>,
    /// Where the datagrams of QUIC do.
    pub quic: Vec<UdpSocket>,
    pub admin: Option<TcpListener>,
}

impl Sockets {
    /// Traffic is for the sockets that are left, if any: what knocks here finds nobody, instead of waiting in vain.
    pub fn close_doors(&mut self) {
        let admin = self.admin.take();
        *self = Self { admin, ..Self::default() };
    }

    pub(super) fn each(&self) -> Vec<(Kind, BorrowedFd<'_>)> {
        let connections = self.connections.iter().map(|socket| (Kind::Connections, socket.as_fd()));
        let lookups = self.lookups.iter().map(|socket| (Kind::Lookups, socket.as_fd()));
        let by_tcp = self.lookups_by_tcp.iter().map(|socket| (Kind::LookupsByTcp, socket.as_fd()));
        let quic = self.quic.iter().map(|socket| (Kind::Quic, socket.as_fd()));
        let admin = self.admin.iter().map(|socket| (Kind::Admin, socket.as_fd()));
        connections.chain(lookups).chain(by_tcp).chain(quic).chain(admin).collect()
    }

    pub(super) fn take(&mut self, kind: Kind, socket: OwnedFd) {
        match kind {
            Kind::Connections => self.connections.push(socket.into()),
            Kind::Lookups => self.lookups.push(socket.into()),
            Kind::LookupsByTcp => self.lookups_by_tcp.push(socket.into()),
            Kind::Quic => self.quic.push(socket.into()),
            Kind::Admin => self.admin = Some(socket.into()),
        }
    }
}

/// Deals what was handed over out to `cores`, each family by itself: where there are as many as before, each gets one of each.
pub fn deal<S>(sockets: Vec<S>, cores: usize, is_v4: impl Fn(&S) -> bool) -> Vec<Vec<S>> {
    let mut hands: Vec<Vec<S>> = (0..cores).map(|_| Vec::new()).collect();
    let (v4, v6): (Vec<S>, Vec<S>) = sockets.into_iter().partition(is_v4);
    for family in [v4, v6] {
        for (place, socket) in family.into_iter().enumerate() {
            hands[place % cores].push(socket);
        }
    }
    hands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_core_gets_its_share_of_each_family() {
        let hands = deal(vec![4, 6, 4, 6, 4, 6], 2, |family| *family == 4);
        assert_eq!(hands, [vec![4, 4, 6, 6], vec![4, 6]]);
        assert_eq!(deal(vec![4, 6], 3, |family| *family == 4), [vec![4, 6], vec![], vec![]], "the others open their own");
        assert!(deal(Vec::<i32>::new(), 2, |_| true).iter().all(Vec::is_empty));
    }
}
