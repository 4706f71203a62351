//! Frames byte by byte.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

pub const BROADCAST: Mac = [0xff; 6];
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const HOP_BY_HOP: u8 = 0;
pub const ROUTING: u8 = 43;
pub const FRAGMENT: u8 = 44;
pub const DESTINATION: u8 = 60;

pub fn mac_text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A frame of Ethernet II, or with a length in place of the type.
pub fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// The same frame with a tag in front of its type.
pub fn tagged(frame: &[u8], kind: u16, vlan: u16) -> Vec<u8> {
    [&frame[..12], &kind.to_be_bytes(), &vlan.to_be_bytes(), &frame[12..]].concat()
}

/// What a test wants to be other than usual in an IPv4 header.
pub struct V4 {
    pub source: Ipv4Addr,
    pub to: Ipv4Addr,
    pub protocol: u8,
    /// Flags and offset as on the wire.
    pub fragment: u16,
    pub options: Vec<u8>,
}

impl V4 {
    pub fn new(source: IpAddr, to: &str) -> Self {
        let IpAddr::V4(source) = source else { panic!("an IPv4 address") };
        Self { source, to: to.parse().expect("an IPv4 address"), protocol: UDP, fragment: 0, options: Vec::new() }
    }

    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut packet = vec![0x40 | u8::try_from(header / 4).expect("short options"), 0];
        packet.extend(u16::try_from(header + payload.len()).expect("a short packet").to_be_bytes());
        packet.extend([0, 7]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.to.octets());
        packet.extend(&self.options);
        // The kernel drops a wrong sum before any hook.
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(payload);
        packet
    }
}

fn checksum(header: &[u8]) -> u16 {
    let mut sum: u32 = header.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

/// A UDP datagram with some bytes and without a checksum.
pub fn udp(from: u16, to: u16) -> Vec<u8> {
    [&from.to_be_bytes()[..], &to.to_be_bytes(), &16_u16.to_be_bytes(), &[0, 0], b"payload."].concat()
}

/// IPv6 with a hop limit.
pub fn v6(source: &str, to: &str, next: u8, hops: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).expect("a short packet").to_be_bytes();
    let address = |text: &str| text.parse::<Ipv6Addr>().expect("an IPv6 address").octets();
    [&[0x60, 0, 0, 0][..], &length, &[next, hops], &address(source), &address(to), payload].concat()
}

/// An extension header of 8 bytes that says nothing: hop-by-hop or destination options.
pub fn padding(next: u8) -> Vec<u8> {
    vec![next, 0, 1, 4, 0, 0, 0, 0]
}

/// A routing header of a type that nobody knows, with nothing left to route.
pub fn routing(next: u8) -> Vec<u8> {
    vec![next, 0, 253, 0, 0, 0, 0, 0]
}

/// A fragment header; `offset` in units of 8 bytes.
pub fn fragment(next: u8, offset: u16, more: bool) -> Vec<u8> {
    let place = (offset << 3 | u16::from(more)).to_be_bytes();
    [&[next, 0][..], &place, &[0, 0, 0, 9]].concat()
}

/// Router solicitation, advertisement and the like: type, and what follows the first 8 bytes.
pub fn icmpv6(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&[kind, 0, 0, 0, 0, 0, 0, 0][..], rest].concat()
}

/// A solicitation (135) or advertisement (136) of `target`.
pub fn neighbour(kind: u8, target: &str, mac: Mac) -> Vec<u8> {
    let target = target.parse::<Ipv6Addr>().expect("an IPv6 address").octets();
    let option = if kind == 135 { 1 } else { 2 };
    let mut message = icmpv6(kind, &[&target[..], &[option, 1], &mac].concat());
    if kind == 136 {
        // Override: learn it.
        message[4] = 0x20;
    }
    message
}

/// ARP for Ethernet and IPv4.
pub fn arp(operation: u16, sender_mac: Mac, sender: &str, target: &str) -> Vec<u8> {
    let address = |text: &str| text.parse::<Ipv4Addr>().expect("an IPv4 address").octets();
    let head = [&[0, 1, 8, 0, 6, 4][..], &operation.to_be_bytes()].concat();
    [&head[..], &sender_mac, &address(sender), &[0; 6], &address(target)].concat()
}
