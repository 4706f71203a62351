//! The node's interfaces, and what the pods' namespaces behind them hold, as the kernel itself says.
//!
//! For a veth the kernel gives the number of its other end and a handle of the namespace that this is in, and by that handle it
//! answers what addresses are there. So a port is told whose it is without a packet: ARP, which a pod can forge, has no say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::super::netlink::{self, Attributes, Message, Socket, flags, u32_at};

/// `linux/rtnetlink.h`, `linux/if_link.h`, `linux/if_addr.h`.
const NEW_LINK: u16 = 16;
const GET_LINK: u16 = 18;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const NEW_ROUTE: u16 = 24;
const GET_ROUTE: u16 = 26;

const LINK_ADDRESS: u16 = 1;
const LINK_NAME: u16 = 3;
const LINK_PEER: u16 = 5;
const LINK_MASTER: u16 = 10;
const LINK_INFO: u16 = 18;
const LINK_EXTENT: u16 = 29;
const LINK_PEER_NAMESPACE: u16 = 37;
const LINK_TARGET_NAMESPACE: u16 = 46;
const INFO_KIND: u16 = 1;
/// `RTEXT_FILTER_SKIP_STATS`: counters of all CPUs would be most of the answer.
const WITHOUT_COUNTERS: u32 = 8;

const ADDRESS: u16 = 1;
const ADDRESS_LOCAL: u16 = 2;
const ADDRESS_TARGET_NAMESPACE: u16 = 10;

const ROUTE_DESTINATION: u16 = 1;
const ROUTE_OUT_INTERFACE: u16 = 4;
const ROUTE_GATEWAY: u16 = 5;
const ROUTE_GATEWAY_OF_OTHER_FAMILY: u16 = 18;
const ROUTE_UNICAST: u8 = 1;

/// `struct ifinfomsg`, `struct ifaddrmsg`, `struct rtmsg`.
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A link-layer address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Mac(pub [u8; 6]);

/// The other end of a veth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// The kernel's handle of the namespace that the end is in.
    pub(super) namespace: u32,
    /// Its number there.
    pub(super) index: u32,
}

/// One interface of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `bridge`, ...; physical ones have none.
    pub(super) kind: Option<String>,
    pub(super) mac: Option<Mac>,
    /// Of what it is a port.
    pub(super) master: Option<u32>,
    pub(super) peer: Option<Peer>,
}

impl Link {
    pub(super) fn is_bridge(&self) -> bool {
        self.kind.as_deref() == Some("bridge")
    }

    /// From the body of a message about a link.
    pub(super) fn decode(body: &[u8]) -> Option<Self> {
        let mut link = Self { index: u32_at(body, 4)?, name: String::new(), kind: None, mac: None, master: None, peer: None };
        let (mut index, mut namespace) = (None, None);
        for (kind, value) in Attributes(body.get(LINK_BYTES..)?) {
            match kind {
                LINK_NAME => link.name = text(value)?,
                LINK_ADDRESS => link.mac = value.try_into().ok().map(Mac),
                LINK_MASTER => link.master = u32_at(value, 0),
                LINK_PEER => index = u32_at(value, 0),
                LINK_PEER_NAMESPACE => namespace = u32_at(value, 0),
                LINK_INFO => {
                    link.kind = Attributes(value).find_map(|(kind, value)| (kind == INFO_KIND).then(|| text(value))?);
                }
                _ => {}
            }
        }
        // Of other kinds it is what they stand on, and says nothing of what is behind them.
        if link.kind.as_deref() == Some("veth") {
            link.peer = index.zip(namespace).map(|(index, namespace)| Peer { namespace, index });
        }
        Some(link)
    }
}

fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(value.strip_suffix(&[0]).unwrap_or(value).to_vec()).ok()
}

/// A socket for questions, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Looker {
    socket: Socket,
}

impl Looker {
    pub(super) fn open() -> Result<Self, netlink::Error> {
        Ok(Self { socket: Socket::open_strict(SockProtocol::NetlinkRoute)? })
    }

    /// All interfaces of the namespace.
    pub(super) fn links(&mut self) -> Result<Vec<Link>, netlink::Error> {
        let mut request = Message::new(GET_LINK, flags::DUMP, &[0; LINK_BYTES]);
        request.put(LINK_EXTENT, &WITHOUT_COUNTERS.to_ne_bytes());
        self.socket.dump(request, |kind, body| if kind == NEW_LINK { Link::decode(body) } else { None })
    }

    /// The node's own addresses, and the number of the interface that has each.
    pub(super) fn addresses(&mut self) -> Result<Vec<(u32, IpAddr)>, netlink::Error> {
        self.addresses_of(0, None)
    }

    /// The addresses on the other end of a veth. None where its namespace is gone.
    pub(super) fn addresses_at(&mut self, peer: Peer) -> Result<Vec<IpAddr>, netlink::Error> {
        let found = gone_is_none(self.addresses_of(peer.index, Some(peer.namespace)))?;
        Ok(found.into_iter().flatten().filter(|(index, _)| *index == peer.index).map(|(_, address)| address).collect())
    }

    fn addresses_of(&mut self, index: u32, namespace: Option<u32>) -> Result<Vec<(u32, IpAddr)>, netlink::Error> {
        let mut all = Vec::new();
        for family in [AF_INET, AF_INET6] {
            let mut fixed = [0; ADDRESS_BYTES];
            fixed[0] = family;
            fixed[4..].copy_from_slice(&index.to_ne_bytes());
            let mut request = Message::new(GET_ADDRESS, flags::DUMP, &fixed);
            if let Some(namespace) = namespace {
                request.put(ADDRESS_TARGET_NAMESPACE, &namespace.to_ne_bytes());
            }
            all.extend(self.socket.dump(request, |kind, body| if kind == NEW_ADDRESS { decode_address(body) } else { None })?);
        }
        Ok(all)
    }

    /// The link-layer address of the other end of a veth. None where it is gone, or has none of that kind.
    pub(super) fn mac_at(&mut self, peer: Peer) -> Result<Option<Mac>, netlink::Error> {
        let mut fixed = [0; LINK_BYTES];
        fixed[4..8].copy_from_slice(&peer.index.to_ne_bytes());
        let mut request = Message::new(GET_LINK, 0, &fixed);
        request.put(LINK_EXTENT, &WITHOUT_COUNTERS.to_ne_bytes());
        request.put(LINK_TARGET_NAMESPACE, &peer.namespace.to_ne_bytes());
        let found = self.socket.answered(request, |kind, body| if kind == NEW_LINK { Link::decode(body) } else { None });
        Ok(gone_is_none(found)?.flatten().and_then(|link| link.mac))
    }

    /// The interface on whose link the node finds `address`. None where it goes by way of a gateway, or nowhere.
    pub(super) fn link_to(&mut self, address: IpAddr) -> Result<Option<u32>, netlink::Error> {
        let mut fixed = [0; ROUTE_BYTES];
        let octets = super::super::object::octets(address);
        (fixed[0], fixed[1]) = if address.is_ipv4() { (AF_INET, 32) } else { (AF_INET6, 128) };
        let mut request = Message::new(GET_ROUTE, 0, &fixed);
        request.put(ROUTE_DESTINATION, &octets);
        let found = self.socket.answered(request, |kind, body| {
            if kind != NEW_ROUTE || *body.get(7)? != ROUTE_UNICAST {
                return None;
            }
            let attribute = |wanted| Attributes(body.get(ROUTE_BYTES..)?).find_map(|(kind, v)| (kind == wanted).then_some(v));
            let gateways = [ROUTE_GATEWAY, ROUTE_GATEWAY_OF_OTHER_FAMILY];
            if gateways.into_iter().any(|gateway| attribute(gateway).is_some()) {
                return None;
            }
            u32_at(attribute(ROUTE_OUT_INTERFACE)?, 0)
        });
        match found {
            Err(netlink::Error::Refused(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)) => Ok(None),
            found => found,
        }
    }
}

/// The namespace or interface may go between two questions.
fn gone_is_none<T>(found: Result<T, netlink::Error>) -> Result<Option<T>, netlink::Error> {
    match found {
        Err(netlink::Error::Refused(Errno::ENODEV | Errno::EINVAL | Errno::ENOENT | Errno::ESRCH | Errno::EACCES)) => Ok(None),
        found => found.map(Some),
    }
}

fn decode_address(body: &[u8]) -> Option<(u32, IpAddr)> {
    let index = u32_at(body, 4)?;
    let attributes = || Attributes(body.get(ADDRESS_BYTES..).unwrap_or_default());
    // On a point-to-point link the other attribute is the far end's.
    let value = |wanted| attributes().find_map(|(kind, value)| (kind == wanted).then_some(value));
    let octets = value(ADDRESS_LOCAL).or_else(|| value(ADDRESS))?;
    let address = match *body.first()? {
        AF_INET => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?)),
        _ => return None,
    };
    Some((index, address))
}
