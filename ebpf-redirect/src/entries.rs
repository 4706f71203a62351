//! Keys and values of the program's maps, as `bpf/ports.h` and `bpf/addresses.h` lay them out. The same sizes are asserted
//! there, and the maps of a loaded program are asked for theirs.

use std::net::IpAddr;

use crate::{Error, Port};

/// `struct port`.
pub(crate) const PORT: usize = 20;
/// `struct address`.
pub(crate) const ADDRESS: usize = 24;
/// A counter of `drops`.
pub(crate) const COUNT: usize = 8;

/// Refuses what can't be meant: a source that no pod has would open more than it says.
pub(crate) fn check(port: &Port) -> Result<(), Error> {
    let wrong = |what| Err(Error::Port { port: port.index, what });
    if [port.index, port.bridge].iter().any(|index| *index == 0 || i32::try_from(*index).is_err()) {
        return wrong("an interface index is a positive number below 2^31");
    }
    if port.index == port.bridge {
        return wrong("a port is not its own bridge");
    }
    for address in &port.addresses {
        let reason = match address {
            _ if address.is_unspecified() => "is nobody's",
            _ if address.is_multicast() => "is a multicast group",
            _ if address.is_loopback() => "is a loopback address",
            IpAddr::V4(address) if address.is_broadcast() => "is everybody's",
            IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => "is an IPv4 address written as IPv6",
            _ => continue,
        };
        return Err(Error::Address { port: port.index, address: *address, reason });
    }
    Ok(())
}

/// The value of a port. Numbers are in the machine's order, as the program reads them.
pub(crate) fn port(port: &Port) -> [u8; PORT] {
    let mut value = [0; PORT];
    value[0..4].copy_from_slice(&port.bridge.to_ne_bytes());
    value[4..10].copy_from_slice(&port.bridge_mac);
    if let Some(mac) = port.mac {
        value[10..16].copy_from_slice(&mac);
        value[16] = 1;
    }
    value
}

/// The key of an address at a port.
pub(crate) fn address(port: u32, address: IpAddr) -> [u8; ADDRESS] {
    let mut key = [0; ADDRESS];
    key[0..4].copy_from_slice(&port.to_ne_bytes());
    match address {
        IpAddr::V4(address) => {
            key[4..8].copy_from_slice(&4_u32.to_ne_bytes());
            key[8..12].copy_from_slice(&address.octets());
        }
        IpAddr::V6(address) => {
            key[4..8].copy_from_slice(&6_u32.to_ne_bytes());
            key[8..24].copy_from_slice(&address.octets());
        }
    }
    key
}
