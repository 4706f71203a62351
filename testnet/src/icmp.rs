//! ICMP echo, both families, on raw sockets.

use std::net::IpAddr;

/// An echo request, whole for IPv4; the kernel fills in the checksum of ICMPv6.
pub(crate) fn request(to: IpAddr, identifier: u16) -> Vec<u8> {
    let kind = if to.is_ipv4() { 8 } else { 128 };
    let mut bytes = vec![kind, 0, 0, 0];
    bytes.extend_from_slice(&identifier.to_be_bytes());
    bytes.extend_from_slice(&1_u16.to_be_bytes());
    bytes.extend_from_slice(b"sluice-testnet\0\0");
    if to.is_ipv4() {
        let sum = checksum(&bytes);
        bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    bytes
}

/// Whether `bytes` (without an IP header) is the answer to the request with this identifier.
pub(crate) fn is_reply(from: IpAddr, identifier: u16, bytes: &[u8]) -> bool {
    let kind = if from.is_ipv4() { 0 } else { 129 };
    bytes.first() == Some(&kind) && bytes.get(4..6) == Some(identifier.to_be_bytes().as_slice())
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks_exact(2);
    let mut sum: u32 = words.map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to sixteen bits")
}
