//! Who sent what to whom: the headers of a packet, of which only the first bytes are there, and which anybody may have made up.

use std::net::{IpAddr, SocketAddr};

use sluice_policy::{IcmpMessage, Protocol};

const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
/// IPv6 headers that say where the next one begins: hop-by-hop, routing, destination options, mobility, HIP, shim6.
const EXTENSIONS: [u8; 6] = [0, 43, 60, 135, 139, 140];
const IPV6_HEADER_BYTES: usize = 40;

/// The ends of a packet and its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Headers {
    /// The port is 0 where the protocol has none, or where it is not in the packet: behind the first fragment.
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub protocol: Protocol,
    /// Of ICMP, where it is in the packet.
    pub icmp: Option<IcmpMessage>,
}

impl Headers {
    /// Reads a packet from its IP header on. `None` where not even the addresses are there.
    pub fn read(packet: &[u8]) -> Option<Self> {
        let (source, destination, number, transport) = match packet.first()? >> 4 {
            4 => ipv4(packet)?,
            6 => ipv6(packet)?,
            _ => return None,
        };
        let protocol = Protocol::from_number(number);
        let port = |at| transport.filter(|_| protocol.has_ports()).and_then(|from| u16_at(packet, from + at)).unwrap_or(0);
        let icmp = transport.filter(|_| protocol == Protocol::Icmp).and_then(|from| u16_at(packet, from)).map(|both| {
            let [kind, code] = both.to_be_bytes();
            IcmpMessage { kind, code }
        });
        let (source, destination) = (SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2)));
        Some(Self { source, destination, protocol, icmp })
    }
}

/// Addresses, protocol, and where its header begins, if it is in this packet.
type Parts = (IpAddr, IpAddr, u8, Option<usize>);

fn ipv4(packet: &[u8]) -> Option<Parts> {
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<4>()?));
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let begins = u16_at(packet, 6)? & 0x1fff == 0;
    let transport = (begins && header_bytes >= 20).then_some(header_bytes);
    Some((address(12)?, address(16)?, *packet.get(9)?, transport))
}

fn ipv6(packet: &[u8]) -> Option<Parts> {
    let address = |at: usize| Some(IpAddr::from(*packet.get(at..)?.first_chunk::<16>()?));
    let (source, destination) = (address(8)?, address(24)?);
    let (mut number, mut at) = (*packet.get(6)?, IPV6_HEADER_BYTES);
    let mut begins = true;
    // Every header is at least 8 bytes long, so this ends with the packet.
    while begins {
        let units = |packet: &[u8]| packet.get(at + 1).map(|units| usize::from(*units));
        let length = match number {
            FRAGMENT => {
                begins = u16_at(packet, at + 2).is_some_and(|offset| offset & 0xfff8 == 0);
                Some(8)
            }
            AUTHENTICATION => units(packet).map(|units| (units + 2) * 4),
            _ if EXTENSIONS.contains(&number) => units(packet).map(|units| (units + 1) * 8),
            _ => return Some((source, destination, number, Some(at))),
        };
        let (Some(length), Some(next)) = (length, packet.get(at)) else { break };
        (number, at) = (*next, at + length);
    }
    Some((source, destination, number, None))
}

fn u16_at(packet: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v4(protocol: u8, options: usize, fragment: u16, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45 + u8::try_from(options / 4).unwrap(), 0, 0, 0, 0, 0];
        packet.extend(fragment.to_be_bytes());
        packet.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        packet.extend(vec![1; options]);
        packet.extend(rest);
        packet
    }

    fn v6(next: u8, rest: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        packet.extend("fd00::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend("fd00::2".parse::<std::net::Ipv6Addr>().unwrap().octets());
        packet.extend(rest);
        packet
    }

    const PORTS: [u8; 4] = [0x10, 0x00, 0x00, 0x50];

    /// Protocol, source port and destination port.
    type Read = (Protocol, u16, u16);

    fn ports(packet: &[u8]) -> Read {
        let headers = Headers::read(packet).expect("addresses are there");
        let (from, to) = if packet[0] >> 4 == 4 { ("10.0.0.1", "10.0.0.2") } else { ("fd00::1", "fd00::2") };
        assert_eq!((headers.source.ip().to_string(), headers.destination.ip().to_string()), (from.into(), to.into()));
        (headers.protocol, headers.source.port(), headers.destination.port())
    }

    #[test]
    fn ports_are_found_behind_whatever_stands_before_them() {
        let extended = |headers: &[&[u8]]| [headers.concat(), PORTS.to_vec()].concat();
        let rows: [(&str, Vec<u8>, Read); 12] = [
            ("tcp", v4(6, 0, 0, &PORTS), (Protocol::Tcp, 4096, 80)),
            ("options", v4(17, 8, 0, &PORTS), (Protocol::Udp, 4096, 80)),
            ("first fragment", v4(132, 0, 0x2000, &PORTS), (Protocol::Sctp, 4096, 80)),
            ("a later fragment", v4(6, 0, 0x2001, &PORTS), (Protocol::Tcp, 0, 0)),
            ("cut before the ports", v4(6, 0, 0, &PORTS[..3]), (Protocol::Tcp, 4096, 0)),
            ("ping", v4(1, 0, 0, &PORTS), (Protocol::Icmp, 0, 0)),
            ("gre", v4(47, 0, 0, &PORTS), (Protocol::Other(47), 0, 0)),
            ("tcp over IPv6", v6(6, &PORTS), (Protocol::Tcp, 4096, 80)),
            (
                "hop-by-hop, destination options",
                v6(0, &extended(&[&[60, 0, 0, 0, 0, 0, 0, 0], &[17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]])),
                (Protocol::Udp, 4096, 80),
            ),
            ("first fragment", v6(44, &extended(&[&[6, 0, 0, 1, 0, 0, 0, 0]])), (Protocol::Tcp, 4096, 80)),
            ("a later fragment", v6(44, &extended(&[&[6, 0, 0, 9, 0, 0, 0, 0]])), (Protocol::Tcp, 0, 0)),
            ("ping over IPv6", v6(58, &PORTS), (Protocol::Icmp, 0, 0)),
        ];
        for (what, packet, wanted) in rows {
            assert_eq!(ports(&packet), wanted, "{what}");
        }
        let message = |packet: &[u8]| Headers::read(packet).expect("addresses are there").icmp.map(|icmp| (icmp.kind, icmp.code));
        assert_eq!(message(&v4(1, 8, 0, &[3, 4, 0, 0])), Some((3, 4)));
        assert_eq!(message(&v6(60, &extended(&[&[58, 0, 0, 0, 0, 0, 0, 0]]))), Some((0x10, 0)));
        assert_eq!([message(&v4(1, 0, 0x2001, &PORTS)), message(&v4(1, 0, 0, &[8])), message(&v4(6, 0, 0, &PORTS))], [None; 3]);
        // A header longer than the packet hides what follows, and is no reason to invent it.
        assert_eq!(ports(&v6(0, &extended(&[&[6, 255, 0, 0, 0, 0, 0, 0]]))).1, 0);
    }

    #[test]
    fn without_addresses_there_is_nothing() {
        let whole = v4(6, 0, 0, &PORTS);
        for cut in 0..20 {
            assert_eq!(Headers::read(&whole[..cut]), None, "{cut}");
        }
        assert_eq!(Headers::read(&[0x70; 64]), None);
        // A header that claims to be shorter than one can be: its ports would be its own fields.
        let mut short = whole;
        short[0] = 0x42;
        assert_eq!(ports(&short), (Protocol::Tcp, 0, 0));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), version in 0_u8..3, next in 0_usize..8) {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = [0x45, 0x60, *first][usize::from(version)];
            }
            if let Some(number) = bytes.get_mut(6).filter(|_| version == 1) {
                *number = [0, 43, 60, FRAGMENT, AUTHENTICATION, 135, 6, 59][next];
            }
            let read = Headers::read(&bytes);
            if version == 0 {
                prop_assert_eq!(read.is_some(), bytes.len() >= 20);
            }
            if version == 1 {
                prop_assert_eq!(read.is_some(), bytes.len() >= 40);
            }
        }
    }
}
