//! Packets as a pod with CAP_NET_RAW can write them, from the IP header on, with every checksum right.

use std::net::{IpAddr, SocketAddr};

pub(crate) const ICMP: u8 = 1;
pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
pub(crate) const ICMPV6: u8 = 58;
/// IPv6 headers before the transport's.
pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION: u8 = 60;

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const URG: u8 = 32;

/// Source and destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ends {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
}

impl Ends {
    pub(crate) fn new(from: (IpAddr, u16), to: (IpAddr, u16)) -> Self {
        Self { from: from.into(), to: to.into() }
    }

    /// The other way round.
    pub(crate) fn back(self) -> Self {
        Self { from: self.to, to: self.from }
    }

    /// A packet with this transport header and payload.
    pub(crate) fn packet(self, protocol: u8, transport: &[u8]) -> Vec<u8> {
        ip(self.from.ip(), self.to.ip(), protocol, transport)
    }

    /// A datagram, whole.
    pub(crate) fn datagram(self, text: &[u8]) -> Vec<u8> {
        self.packet(UDP, &udp(self, text))
    }

    /// A bare SYN with data, whole.
    pub(crate) fn syn(self, text: &[u8]) -> Vec<u8> {
        self.packet(TCP, &Segment::of(SYN, text).encode(self))
    }
}

/// A packet without options or extension headers.
pub(crate) fn ip(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match from {
        IpAddr::V4(_) => ipv4(from, to, protocol, &[], payload),
        IpAddr::V6(_) => ipv6(from, to, &[], protocol, payload),
    }
}

/// An IPv4 packet with these options, a multiple of 4 bytes.
pub(crate) fn ipv4(from: IpAddr, to: IpAddr, protocol: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
    ipv4_piece(from, to, protocol, options, (7, 0), payload)
}

/// A packet or fragment; `piece` is the identification, and the word of flags and offset.
fn ipv4_piece(from: IpAddr, to: IpAddr, protocol: u8, options: &[u8], piece: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header / 4).unwrap(), 0];
    packet.extend(u16::try_from(header + payload.len()).unwrap().to_be_bytes());
    packet.extend(piece.0.to_be_bytes());
    packet.extend(piece.1.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(options);
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend(payload);
    packet
}

/// An IPv6 packet with these extension headers: of each its number, and its bytes after the first (`next header`).
pub(crate) fn ipv6(from: IpAddr, to: IpAddr, headers: &[(u8, Vec<u8>)], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    let following = headers.iter().skip(1).map(|(kind, _)| *kind).chain([protocol]);
    for ((_, rest), next) in headers.iter().zip(following) {
        body.push(next);
        body.extend(rest);
    }
    body.extend(payload);
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    packet.extend([headers.first().map_or(protocol, |(kind, _)| *kind), 64]);
    packet.extend(octets(from));
    packet.extend(octets(to));
    packet.extend(body);
    packet
}

/// A fragment header: `offset` in bytes, a multiple of 8.
pub(crate) fn fragment_header(identification: u32, offset: usize, more: bool) -> (u8, Vec<u8>) {
    let mut rest = vec![0];
    rest.extend((u16::try_from(offset).unwrap() | u16::from(more)).to_be_bytes());
    rest.extend(identification.to_be_bytes());
    (FRAGMENT, rest)
}

/// A fragment of either family that carries `bytes` of the payload, from `offset` on.
pub(crate) fn fragment(ends: Ends, protocol: u8, identification: u16, offset: usize, more: bool, bytes: &[u8]) -> Vec<u8> {
    let (from, to) = (ends.from.ip(), ends.to.ip());
    if from.is_ipv4() {
        let word = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
        return ipv4_piece(from, to, protocol, &[], (identification, word), bytes);
    }
    ipv6(from, to, &[fragment_header(u32::from(identification), offset, more)], protocol, bytes)
}

/// A datagram without its IP header.
pub(crate) fn udp(ends: Ends, text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + text.len()).unwrap().to_be_bytes();
    let mut segment = Vec::new();
    segment.extend(ends.from.port().to_be_bytes());
    segment.extend(ends.to.port().to_be_bytes());
    segment.extend(length);
    segment.extend([0, 0]);
    segment.extend(text);
    summed(ends, UDP, segment, 6)
}

/// A TCP segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Segment {
    pub(crate) flags: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledged: u32,
    /// A multiple of 4 bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) text: Vec<u8>,
}

impl Segment {
    pub(crate) fn of(flags: u8, text: &[u8]) -> Self {
        Self { flags, sequence: 1000, text: text.to_vec(), ..Self::default() }
    }

    pub(crate) fn encode(&self, ends: Ends) -> Vec<u8> {
        let header = u8::try_from(5 + self.options.len() / 4).unwrap();
        let mut segment = Vec::new();
        segment.extend(ends.from.port().to_be_bytes());
        segment.extend(ends.to.port().to_be_bytes());
        segment.extend(self.sequence.to_be_bytes());
        segment.extend(self.acknowledged.to_be_bytes());
        segment.extend([header << 4, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        segment.extend(&self.options);
        segment.extend(&self.text);
        summed(ends, TCP, segment, 16)
    }

    /// The segment in a whole IP packet without options or extension headers, with its ends.
    pub(crate) fn decode(packet: &[u8]) -> Option<(Ends, Self)> {
        let (from, to, protocol, transport) = addresses(packet)?;
        let port = |at: usize| Some(u16::from_be_bytes(*transport.get(at..)?.first_chunk()?));
        let word = |at: usize| Some(u32::from_be_bytes(*transport.get(at..)?.first_chunk()?));
        if protocol != TCP {
            return None;
        }
        let header = usize::from(*transport.get(12)? >> 4) * 4;
        let segment = Self {
            flags: *transport.get(13)?,
            sequence: word(4)?,
            acknowledged: word(8)?,
            options: transport.get(20..header)?.to_vec(),
            text: transport.get(header..)?.to_vec(),
        };
        Some((Ends::new((from, port(0)?), (to, port(2)?)), segment))
    }
}

/// Source, destination, protocol and what follows the IP header.
pub(crate) fn addresses(packet: &[u8]) -> Option<(IpAddr, IpAddr, u8, &[u8])> {
    let v4 = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let v6 = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    match packet.first()? >> 4 {
        4 => {
            let length = usize::from(u16::from_be_bytes(*packet.get(2..)?.first_chunk()?));
            let header = usize::from(packet[0] & 15) * 4;
            Some((v4(12)?, v4(16)?, *packet.get(9)?, packet.get(header..length)?))
        }
        6 => Some((v6(8)?, v6(24)?, *packet.get(6)?, packet.get(40..)?)),
        _ => None,
    }
}

/// An ICMP or ICMPv6 error that quotes `about`; `rest` is the word behind the checksum (for "too big" the MTU).
pub(crate) fn icmp_error(from: IpAddr, to: IpAddr, kind: u8, code: u8, rest: u32, about: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, code, 0, 0];
    message.extend(rest.to_be_bytes());
    message.extend(about);
    let ends = Ends::new((from, 0), (to, 0));
    if from.is_ipv4() {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        return ends.packet(ICMP, &message);
    }
    ends.packet(ICMPV6, &summed(ends, ICMPV6, message, 2))
}

/// Puts the checksum over addresses, protocol and `segment` at `place`.
fn summed(ends: Ends, protocol: u8, mut segment: Vec<u8>, place: usize) -> Vec<u8> {
    let length = u16::try_from(segment.len()).unwrap().to_be_bytes();
    let pseudo = [octets(ends.from.ip()), octets(ends.to.ip()), vec![0, protocol], length.to_vec(), segment.clone()].concat();
    // Zero would say that there is none.
    let sum = if checksum(&pseudo) == 0 { 0xffff } else { checksum(&pseudo) };
    segment[place..place + 2].copy_from_slice(&sum.to_be_bytes());
    segment
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
