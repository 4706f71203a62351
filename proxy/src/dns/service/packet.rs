//! Datagrams with headers written here, so that an answer leaves from an address that no socket of ours has.
//!
//! A UDP socket with a server's address, even one that only sends, is found by TPROXY and by nftables' `socket`, and takes the
//! questions of other pods to that server. A raw socket is found by nobody.

use std::net::{IpAddr, SocketAddr};

const ICMP: u8 = 1;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// RFC 8200 section 4.5.
const FRAGMENT: u8 = 44;
const HOPS: u8 = 64;
const UDP_HEADER_BYTES: usize = 8;
const ICMP_HEADER_BYTES: usize = 8;
/// RFC 1812 section 4.3.2.3.
const LONGEST_ERROR_V4: usize = 576;
const IPV4_HEADER_BYTES: usize = 20;
const IPV6_HEADER_BYTES: usize = 40;
const FRAGMENT_HEADER_BYTES: usize = 8;
/// What every path of IPv6 takes (RFC 8200 section 5), and in practice every path of IPv4.
const FRAGMENT_BYTES: usize = 1280;
/// Fragments begin at multiples of it.
const FRAGMENT_UNIT: usize = 8;
/// IPv4: more fragments follow.
const MORE_V4: u16 = 0x2000;
const DO_NOT_FRAGMENT_V4: u16 = 0x4000;
/// IPv6: more fragments follow.
const MORE_V6: u16 = 1;

/// A datagram of UDP between two addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    from: IpAddr,
    to: IpAddr,
    /// The header of UDP and what it carries.
    segment: Vec<u8>,
}

impl Datagram {
    /// `None`: the addresses are of two families, or the message is longer than a datagram can be.
    pub(crate) fn new(from: SocketAddr, to: SocketAddr, message: &[u8]) -> Option<Self> {
        let bytes = u16::try_from(UDP_HEADER_BYTES + message.len()).ok()?;
        // In IPv4 the length that is written holds the header of IP too.
        if from.is_ipv4() != to.is_ipv4() || (from.is_ipv4() && bytes > u16::MAX - 20) {
            return None;
        }
        let mut segment = Vec::with_capacity(usize::from(bytes));
        for field in [from.port(), to.port(), bytes, 0] {
            segment.extend(field.to_be_bytes());
        }
        segment.extend(message);
        let checksum = match checksum(pseudo_header(UDP, from.ip(), to.ip(), bytes), &segment) {
            // Zero says that there is none (RFC 768).
            0 => u16::MAX,
            checksum => checksum,
        };
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
        Some(Self { from: from.ip(), to: to.ip(), segment })
    }

    /// In one packet.
    pub(crate) fn whole(&self) -> Vec<u8> {
        match (self.from, self.to) {
            // The kernel gives it an id.
            (IpAddr::V4(_), _) => self.ipv4(0, 0, &self.segment),
            (IpAddr::V6(_), _) => self.ipv6(UDP, &[], &self.segment),
        }
    }

    /// In one packet that nobody on the way may cut.
    pub(crate) fn uncut(&self) -> Vec<u8> {
        match (self.from, self.to) {
            (IpAddr::V4(_), _) => self.ipv4(0, DO_NOT_FRAGMENT_V4, &self.segment),
            (IpAddr::V6(_), _) => self.whole(),
        }
    }

    /// In packets of at most 1280 bytes. `id`: which of them belong together, of IPv4 its lower half.
    pub(super) fn fragments(&self, id: u32) -> impl Iterator<Item = Vec<u8>> {
        let headers_bytes = if self.from.is_ipv4() { IPV4_HEADER_BYTES } else { IPV6_HEADER_BYTES + FRAGMENT_HEADER_BYTES };
        let piece_bytes = (FRAGMENT_BYTES - headers_bytes) / FRAGMENT_UNIT * FRAGMENT_UNIT;
        let last = self.segment.len().saturating_sub(1) / piece_bytes;
        self.segment.chunks(piece_bytes).enumerate().map(move |(index, piece)| {
            let at = u16::try_from(index * piece_bytes).expect("a datagram is shorter than 65,536 bytes");
            let more = index < last;
            if self.from.is_ipv4() {
                let [_, _, high, low] = id.to_be_bytes();
                return self.ipv4(u16::from_be_bytes([high, low]), (at / 8) | if more { MORE_V4 } else { 0 }, piece);
            }
            let mut header = vec![UDP, 0];
            // Its three lower bits are flags, and eight bytes its unit: so the offset in bytes stands in its place as it is.
            header.extend((at | if more { MORE_V6 } else { 0 }).to_be_bytes());
            header.extend(id.to_be_bytes());
            self.ipv6(FRAGMENT, &header, piece)
        })
    }

    fn ipv4(&self, id: u16, fragment: u16, piece: &[u8]) -> Vec<u8> {
        ipv4(UDP, (self.from, self.to), (id, fragment), piece)
    }

    /// The error of ICMP by which `to` would say to `from` that this may not pass, "administratively prohibited": RFC 1812 section
    /// 5.2.7.1, RFC 4443 section 3.1. It quotes as much as fits into what every path takes.
    pub(crate) fn prohibited(&self) -> Vec<u8> {
        let back = (self.to, self.from);
        let mut quoted = self.whole();
        let mut message = match self.from {
            IpAddr::V4(_) => {
                quoted.truncate(LONGEST_ERROR_V4 - IPV4_HEADER_BYTES - ICMP_HEADER_BYTES);
                vec![3, 13, 0, 0, 0, 0, 0, 0]
            }
            IpAddr::V6(_) => {
                quoted.truncate(FRAGMENT_BYTES - IPV6_HEADER_BYTES - ICMP_HEADER_BYTES);
                vec![1, 1, 0, 0, 0, 0, 0, 0]
            }
        };
        message.extend(quoted);
        let pseudo = match self.from {
            IpAddr::V4(_) => 0,
            IpAddr::V6(_) => pseudo_header(ICMPV6, back.0, back.1, length(message.len())),
        };
        let checksum = checksum(pseudo, &message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        match self.from {
            IpAddr::V4(_) => ipv4(ICMP, back, (0, 0), &message),
            IpAddr::V6(_) => ipv6(ICMPV6, back, &[], &message),
        }
    }

    fn ipv6(&self, next: u8, extension: &[u8], piece: &[u8]) -> Vec<u8> {
        ipv6(next, (self.from, self.to), extension, piece)
    }
}

/// A packet of IPv4. Without `DF` in `fragment`, who is on the way may cut it.
fn ipv4(protocol: u8, (from, to): (IpAddr, IpAddr), (id, fragment): (u16, u16), piece: &[u8]) -> Vec<u8> {
    let length = length(IPV4_HEADER_BYTES + piece.len());
    let mut packet = Vec::with_capacity(usize::from(length));
    packet.extend([0x45, 0]);
    for field in [length, id, fragment] {
        packet.extend(field.to_be_bytes());
    }
    packet.extend([HOPS, protocol, 0, 0]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    let checksum = checksum(0, &packet);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(piece);
    packet
}

fn ipv6(next: u8, (from, to): (IpAddr, IpAddr), extension: &[u8], piece: &[u8]) -> Vec<u8> {
    let length = length(extension.len() + piece.len());
    let mut packet = Vec::with_capacity(IPV6_HEADER_BYTES + usize::from(length));
    packet.extend([0x60, 0, 0, 0]);
    packet.extend(length.to_be_bytes());
    packet.extend([next, HOPS]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(extension);
    packet.extend(piece);
    packet
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a datagram was made of no more than fit")
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What the checksums of UDP and ICMPv6 cover beside the segment: RFC 768, and RFC 8200 section 8.1. The lengths of both fit into one word.
fn pseudo_header(protocol: u8, from: IpAddr, to: IpAddr, bytes: u16) -> u64 {
    sum(&octets(from)) + sum(&octets(to)) + u64::from(protocol) + u64::from(bytes)
}

fn sum(bytes: &[u8]) -> u64 {
    let (words, odd) = bytes.as_chunks::<2>();
    let last = odd.first().map_or(0, |byte| u64::from(*byte) << 8);
    words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>() + last
}

/// The Internet's (RFC 1071).
fn checksum(begun: u64, bytes: &[u8]) -> u16 {
    let mut sum = begun + sum(bytes);
    while sum > u64::from(u16::MAX) {
        sum = (sum & u64::from(u16::MAX)) + (sum >> 16);
    }
    !u16::try_from(sum).expect("it was folded")
}

#[cfg(test)]
mod tests;
