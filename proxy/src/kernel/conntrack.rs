//! The kernel's table of live flows: read, and entries deleted from it (ctnetlink).
//!
//! An entry is what conntrack remembers of an exchange: the tuple of its first packet (`original`), and the tuple it expects of
//! the answers (`reply`). The two differ by what NAT did: the server that a flow really goes to is the *source of the replies*.
//!
//! Deleting an entry alone cuts nothing for long: the next packet opens a new one, from either side (see
//! [`revoke`](super::revoke)).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;
use sluice_policy::{IcmpMessage, Protocol};

use super::netlink::{Attributes, Error, Message, Socket, flags};

mod listing;

const GET: u16 = message_type(1);
const DELETE: u16 = message_type(2);

/// `NFNL_SUBSYS_CTNETLINK` is 1 and stands in the upper byte.
const fn message_type(message: u16) -> u16 {
    1 << 8 | message
}

const AF_UNSPEC: u8 = 0;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `struct nfgenmsg`: family, version, resource.
const FIXED_BYTES: usize = 4;

/// `enum ctattr_type` of `linux/netfilter/nfnetlink_conntrack.h`.
mod cta {
    pub(super) const TUPLE_ORIGINAL: u16 = 1;
    pub(super) const TUPLE_REPLY: u16 = 2;
    pub(super) const STATUS: u16 = 3;
    pub(super) const MARK: u16 = 8;
    pub(super) const ID: u16 = 12;
    pub(super) const ZONE: u16 = 18;
    pub(super) const LABELS: u16 = 22;
}

/// `enum ctattr_tuple`, `ctattr_ip` and `ctattr_l4proto`, in that order.
mod tuple {
    pub(super) const IP: u16 = 1;
    pub(super) const PROTO: u16 = 2;
    pub(super) const ZONE: u16 = 3;

    pub(super) const V4_SOURCE: u16 = 1;
    pub(super) const V4_DESTINATION: u16 = 2;
    pub(super) const V6_SOURCE: u16 = 3;
    pub(super) const V6_DESTINATION: u16 = 4;

    pub(super) const NUMBER: u16 = 1;
    pub(super) const SOURCE_PORT: u16 = 2;
    pub(super) const DESTINATION_PORT: u16 = 3;
    pub(super) const ICMP: [u16; 3] = [4, 5, 6];
    pub(super) const ICMPV6: [u16; 3] = [7, 8, 9];
}

/// One flow that the kernel follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub protocol: Protocol,
    /// The first packet's addresses, before any translation.
    pub original: Tuple,
    /// The answers' addresses, before any translation back: their source is the real server.
    pub reply: Tuple,
    /// Conntrack labels, bit n of nft's `ct label n` being bit n here.
    pub labels: u128,
    pub mark: u32,
    /// `IPS_*` of `linux/netfilter/nf_conntrack_common.h`.
    pub status: u32,
    /// Tells this entry from a later one of the same tuple.
    pub id: u32,
    /// The conntrack zone; 0 unless something else on this node uses zones.
    pub zone: u16,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub upper: Upper,
    /// A zone of this direction alone.
    pub zone: Option<u16>,
}

/// What tells flows between two addresses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Upper {
    /// TCP, UDP, SCTP and others that have ports.
    Ports { source: u16, destination: u16 },
    /// Echo and its kind.
    Icmp { id: u16, kind: u8, code: u8 },
    /// Nothing: one flow per protocol and pair of addresses.
    Nothing,
}

impl Tuple {
    /// 0 where the protocol has no ports.
    pub fn source_port(&self) -> u16 {
        if let Upper::Ports { source, .. } = self.upper { source } else { 0 }
    }

    /// 0 where the protocol has no ports.
    pub fn destination_port(&self) -> u16 {
        if let Upper::Ports { destination, .. } = self.upper { destination } else { 0 }
    }
}

impl Entry {
    /// Who opened the flow: address and port.
    pub fn source(&self) -> (IpAddr, u16) {
        (self.original.source, self.original.source_port())
    }

    /// Where it goes after any Service translation: address and port of the real server.
    pub fn destination(&self) -> (IpAddr, u16) {
        (self.reply.source, self.reply.source_port())
    }

    /// Of ICMP: the message that opened the exchange.
    pub fn icmp(&self) -> Option<IcmpMessage> {
        match self.original.upper {
            Upper::Icmp { kind, code, .. } => Some(IcmpMessage { kind, code }),
            Upper::Ports { .. } | Upper::Nothing => None,
        }
    }

    pub fn has_label(&self, bit: u8) -> bool {
        self.labels.checked_shr(u32::from(bit)).is_some_and(|l| l & 1 == 1)
    }
}

/// A way to the conntrack table of one network namespace: the one of the thread that opened it.
#[derive(Debug)]
pub struct Conntrack {
    socket: Socket,
}

impl Conntrack {
    /// Needs CAP_NET_ADMIN over the namespace.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkNetFilter)? })
    }

    /// All entries of both families. For tables that may be large, [`Conntrack::keep`] holds only what is wanted.
    pub fn dump(&mut self) -> Result<Vec<Entry>, Error> {
        self.keep(Some)
    }

    /// What `keep` makes of each entry, in no particular order. An entry may come twice where the kernel's table grows meanwhile.
    pub fn keep<T>(&mut self, mut keep: impl FnMut(Entry) -> Option<T>) -> Result<Vec<T>, Error> {
        let request = Message::new(GET, flags::DUMP, &[AF_UNSPEC, 0, 0, 0]);
        self.socket.dump(request, |_, body| keep(decode(body)?))
    }

    /// The entries that `wanted` takes by their tuples alone, wherever they are found sooner. One may be missing that the kernel
    /// moves at this moment; [`Conntrack::keep`] misses none.
    pub fn glance(&mut self, wanted: impl Fn(&Entry) -> bool) -> Result<Vec<Entry>, Error> {
        let Some(listed) = listing::read() else {
            return self.keep(|entry| wanted(&entry).then_some(entry));
        };
        let mut entries = Vec::new();
        for entry in listed.iter().filter(|entry| wanted(entry)) {
            entries.extend(self.get(entry)?);
        }
        Ok(entries)
    }

    /// The entry with the original tuple of `like`, if it is still there.
    fn get(&mut self, like: &Entry) -> Result<Option<Entry>, Error> {
        match self.socket.answered(naming(GET, like), |_, body| decode(body)) {
            Err(Error::Refused(Errno::ENOENT)) => Ok(None),
            answer => answer,
        }
    }

    /// Deletes exactly this entry. One that has gone meanwhile, or whose tuple is a later flow's, is no error: `false`.
    pub fn delete(&mut self, entry: &Entry) -> Result<bool, Error> {
        match self.socket.acknowledged(deletion(entry)) {
            Ok(()) => Ok(true),
            Err(Error::Refused(Errno::ENOENT)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn deletion(entry: &Entry) -> Message {
    let mut message = naming(DELETE, entry);
    message.put(cta::ID, &entry.id.to_be_bytes());
    message
}

/// A request about the entry with this original tuple.
fn naming(kind: u16, entry: &Entry) -> Message {
    let original = &entry.original;
    let family = if original.source.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut message = Message::new(kind, 0, &[family, 0, 0, 0]);
    message.nest(cta::TUPLE_ORIGINAL, |m| put_tuple(m, entry.protocol, original));
    if entry.zone != 0 {
        message.put(cta::ZONE, &entry.zone.to_be_bytes());
    }
    message
}

fn put_tuple(message: &mut Message, protocol: Protocol, of: &Tuple) {
    message.nest(tuple::IP, |m| match (of.source, of.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            m.put(tuple::V4_SOURCE, &source.octets()).put(tuple::V4_DESTINATION, &destination.octets());
        }
        (source, destination) => {
            m.put(tuple::V6_SOURCE, &v6(source).octets()).put(tuple::V6_DESTINATION, &v6(destination).octets());
        }
    });
    message.nest(tuple::PROTO, |m| {
        let is_v6 = of.source.is_ipv6();
        let number = if protocol == Protocol::Icmp && is_v6 { 58 } else { protocol.number() };
        m.put(tuple::NUMBER, &[number]);
        match of.upper {
            Upper::Ports { source, destination } => {
                m.put(tuple::SOURCE_PORT, &source.to_be_bytes());
                m.put(tuple::DESTINATION_PORT, &destination.to_be_bytes());
            }
            Upper::Icmp { id, kind, code } => {
                let [id_type, kind_type, code_type] = if is_v6 { tuple::ICMPV6 } else { tuple::ICMP };
                m.put(id_type, &id.to_be_bytes()).put(kind_type, &[kind]).put(code_type, &[code]);
            }
            Upper::Nothing => {}
        }
    });
    if let Some(zone) = of.zone {
        message.put(tuple::ZONE, &zone.to_be_bytes());
    }
}

fn v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V6(address) => address,
        IpAddr::V4(address) => address.to_ipv6_mapped(),
    }
}

/// `None`: not an entry that can be understood, such as one whose tuple is cut off.
fn decode(body: &[u8]) -> Option<Entry> {
    let (mut original, mut reply) = (None, None);
    let (mut labels, mut mark, mut status, mut id, mut zone) = (0, 0, 0, 0, 0);
    for (kind, value) in Attributes(body.get(FIXED_BYTES..)?) {
        match kind {
            cta::TUPLE_ORIGINAL => original = decode_tuple(value),
            cta::TUPLE_REPLY => reply = decode_tuple(value),
            cta::STATUS => status = be32(value)?,
            cta::MARK => mark = be32(value)?,
            cta::ID => id = be32(value)?,
            cta::ZONE => zone = be16(value)?,
            cta::LABELS => labels = decode_labels(value),
            _ => {}
        }
    }
    let (number, original) = original?;
    let (_, reply) = reply?;
    Some(Entry { protocol: Protocol::from_number(number), original, reply, labels, mark, status, id, zone })
}

fn decode_tuple(bytes: &[u8]) -> Option<(u8, Tuple)> {
    let (mut addresses, mut proto, mut zone) = (None, None, None);
    for (kind, value) in Attributes(bytes) {
        match kind {
            tuple::IP => addresses = decode_addresses(value),
            tuple::PROTO => proto = decode_proto(value),
            tuple::ZONE => zone = be16(value),
            _ => {}
        }
    }
    let ((source, destination), (number, upper)) = (addresses?, proto?);
    Some((number, Tuple { source, destination, upper, zone }))
}

fn decode_addresses(bytes: &[u8]) -> Option<(IpAddr, IpAddr)> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in Attributes(bytes) {
        match kind {
            tuple::V4_SOURCE => source = decode_v4(value),
            tuple::V4_DESTINATION => destination = decode_v4(value),
            tuple::V6_SOURCE => source = decode_v6(value),
            tuple::V6_DESTINATION => destination = decode_v6(value),
            _ => {}
        }
    }
    Some((source?, destination?))
}

fn decode_v4(value: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*value.first_chunk::<4>()?).into())
}

fn decode_v6(value: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(*value.first_chunk::<16>()?).into())
}

fn decode_proto(bytes: &[u8]) -> Option<(u8, Upper)> {
    let (mut number, mut source, mut destination) = (None, None, None);
    let (mut icmp_id, mut icmp_kind, mut icmp_code) = (None, 0, 0);
    for (kind, value) in Attributes(bytes) {
        match kind {
            tuple::NUMBER => number = value.first().copied(),
            tuple::SOURCE_PORT => source = be16(value),
            tuple::DESTINATION_PORT => destination = be16(value),
            k if k == tuple::ICMP[0] || k == tuple::ICMPV6[0] => icmp_id = be16(value),
            k if k == tuple::ICMP[1] || k == tuple::ICMPV6[1] => icmp_kind = *value.first()?,
            k if k == tuple::ICMP[2] || k == tuple::ICMPV6[2] => icmp_code = *value.first()?,
            _ => {}
        }
    }
    let upper = match (source, destination, icmp_id) {
        (Some(source), Some(destination), _) => Upper::Ports { source, destination },
        (_, _, Some(id)) => Upper::Icmp { id, kind: icmp_kind, code: icmp_code },
        _ => Upper::Nothing,
    };
    Some((number?, upper))
}

/// The kernel sends its bitmap as it lies in memory: machine words in host byte order, the lowest bits first.
fn decode_labels(value: &[u8]) -> u128 {
    value
        .as_chunks::<{ size_of::<usize>() }>()
        .0
        .iter()
        .take(size_of::<u128>() / size_of::<usize>())
        .enumerate()
        .fold(0, |bits, (i, word)| bits | (usize::from_ne_bytes(*word) as u128) << (i * usize::BITS as usize))
}

fn be16(value: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*value.first_chunk()?))
}

fn be32(value: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*value.first_chunk()?))
}

#[cfg(test)]
mod tests;
