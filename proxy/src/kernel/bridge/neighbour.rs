//! Who has which link-layer address on a bridge, written down so that no pod can say otherwise.
//!
//! | entry | attack it closes |
//! |---|---|
//! | forwarding table: pod's link-layer address to its port, static and sticky | A frame with another pod's source address would move that entry, and the node's frames to the pod would go to the forger. Nor would redirected frames be learned from, and what isn't learned is flooded to all pods. |
//! | neighbour table of the bridge: pod's address to its link-layer address, permanent | ARP and neighbour advertisements pass. A pod that answers for another's address would be sent what is the other's. |
//!
//! What pods believe of each other doesn't matter: wherever a pod sends its frames, its port's filter takes them to the node, and
//! the node looks here.
//!
//! A pod that has the link-layer address of the bridge, of a port or of a pod that was there before is written down with one that
//! nobody has, at its own port: the node's frames to it go there and nowhere else.

use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::super::netlink::{self, Attributes, Message, Socket, flags, u16_at, u32_at};
use super::super::object::octets;
use super::links::Mac;

const NEW_NEIGHBOUR: u16 = 28;
const DELETE_NEIGHBOUR: u16 = 29;
const GET_NEIGHBOUR: u16 = 30;
const DESTINATION: u16 = 1;
const LINK_ADDRESS: u16 = 2;
const PROTOCOL: u16 = 12;
/// Who made an entry, as in [`rtnl`](super::super::rtnl).
const OURS: u8 = 83;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const AF_BRIDGE: u8 = 7;
/// `NUD_NOARP`: static in a forwarding table.
const STATIC: u16 = 0x40;
const PERMANENT: u16 = 0x80;
/// `NTF_MASTER` and `NTF_STICKY`.
const OF_BRIDGE: u8 = 0x04;
const STICKY: u8 = 0x40;
/// `struct ndmsg`.
const FIXED_BYTES: usize = 12;

/// What both tables together say of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) port: u32,
    pub(super) bridge: u32,
    pub(super) address: IpAddr,
}

/// A socket for both tables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Neighbours {
    socket: Socket,
}

impl Neighbours {
    pub(super) fn open() -> Result<Self, netlink::Error> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkRoute)? })
    }

    /// Frames to `mac` go to `port`, whatever frames say.
    pub(super) fn pin(&mut self, port: u32, mac: Mac) -> Result<(), netlink::Error> {
        let head = fixed(AF_BRIDGE, port, STATIC, OF_BRIDGE | STICKY);
        let mut message = Message::new(NEW_NEIGHBOUR, flags::CREATE | flags::REPLACE, &head);
        message.put(LINK_ADDRESS, &mac.0);
        self.socket.acknowledged(message)
    }

    pub(super) fn unpin(&mut self, port: u32, mac: Mac) -> Result<(), netlink::Error> {
        let mut message = Message::new(DELETE_NEIGHBOUR, 0, &fixed(AF_BRIDGE, port, 0, OF_BRIDGE));
        message.put(LINK_ADDRESS, &mac.0);
        gone_is_done(self.socket.acknowledged(message))
    }

    /// The node finds `address` on `bridge` by `mac`, whatever ARP and neighbour discovery say.
    pub(super) fn settle(&mut self, bridge: u32, address: IpAddr, mac: Mac) -> Result<(), netlink::Error> {
        let head = fixed(family(address), bridge, PERMANENT, 0);
        let mut message = Message::new(NEW_NEIGHBOUR, flags::CREATE | flags::REPLACE, &head);
        message.put(DESTINATION, &octets(address)).put(LINK_ADDRESS, &mac.0).put(PROTOCOL, &[OURS]);
        match self.socket.acknowledged(message) {
            // IPv6 is off on the bridge: then nothing is sent to such an address.
            Err(netlink::Error::Refused(Errno::EINVAL | Errno::EAFNOSUPPORT | Errno::EOPNOTSUPP)) if address.is_ipv6() => Ok(()),
            done => done,
        }
    }

    pub(super) fn unsettle(&mut self, bridge: u32, address: IpAddr) -> Result<(), netlink::Error> {
        let mut message = Message::new(DELETE_NEIGHBOUR, 0, &fixed(family(address), bridge, 0, 0));
        message.put(DESTINATION, &octets(address));
        gone_is_done(self.socket.acknowledged(message))
    }

    /// What a Sluice settled on any interface: interface and address, and the link-layer address.
    pub(super) fn settled(&mut self) -> Result<Vec<(u32, IpAddr, Option<Mac>)>, netlink::Error> {
        let mut all = Vec::new();
        for of in [AF_INET, AF_INET6] {
            let request = Message::new(GET_NEIGHBOUR, flags::DUMP, &fixed(of, 0, 0, 0));
            all.extend(self.socket.dump(request, |kind, body| {
                let attribute = |wanted| Attributes(body.get(FIXED_BYTES..)?).find_map(|(kind, v)| (kind == wanted).then_some(v));
                let is_ours = kind == NEW_NEIGHBOUR && attribute(PROTOCOL)?.first() == Some(&OURS);
                let address = attribute(DESTINATION).filter(|_| is_ours)?;
                let address = match address.len() {
                    4 => IpAddr::from(<[u8; 4]>::try_from(address).ok()?),
                    _ => IpAddr::from(<[u8; 16]>::try_from(address).ok()?),
                };
                let mac = attribute(LINK_ADDRESS).and_then(|mac| mac.try_into().ok()).map(Mac);
                Some((u32_at(body, 4)?, address, mac))
            })?);
        }
        Ok(all)
    }

    /// Whose addresses a Sluice found behind each port, and on which bridge: no pod can change that.
    pub(super) fn written(&mut self) -> Result<Vec<Written>, netlink::Error> {
        let settled = self.settled()?;
        let at = |(port, pinned): (u32, Mac)| {
            let of_it = settled.iter().filter(move |(.., mac)| *mac == Some(pinned));
            of_it.map(move |(bridge, address, _)| Written { port, bridge: *bridge, address: *address })
        };
        Ok(self.pinned()?.into_iter().flat_map(at).collect())
    }

    /// The link-layer addresses that a Sluice pinned to a port: port and address.
    pub(super) fn pinned(&mut self) -> Result<Vec<(u32, Mac)>, netlink::Error> {
        let request = Message::new(GET_NEIGHBOUR, flags::DUMP, &fixed(AF_BRIDGE, 0, 0, 0));
        self.socket.dump(request, |kind, body| {
            let is_ours = kind == NEW_NEIGHBOUR && u16_at(body, 8)? & STATIC != 0 && body.get(10)? & STICKY != 0;
            let mac = Attributes(body.get(FIXED_BYTES..)?).find_map(|(kind, v)| (kind == LINK_ADDRESS).then_some(v))?;
            is_ours.then_some((u32_at(body, 4)?, Mac(mac.try_into().ok()?)))
        })
    }
}

fn fixed(family: u8, index: u32, state: u16, flags: u8) -> [u8; FIXED_BYTES] {
    let mut bytes = [0; FIXED_BYTES];
    bytes[0] = family;
    bytes[4..8].copy_from_slice(&index.to_ne_bytes());
    bytes[8..10].copy_from_slice(&state.to_ne_bytes());
    bytes[10] = flags;
    bytes
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn gone_is_done(done: Result<(), netlink::Error>) -> Result<(), netlink::Error> {
    match done {
        Err(netlink::Error::Refused(Errno::ENOENT | Errno::ENODEV | Errno::ESRCH | Errno::EINVAL)) => Ok(()),
        done => done,
    }
}
