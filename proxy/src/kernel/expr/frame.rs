//! Words about frames: for the tables of families bridge and netdev, and about interfaces that are bridges.

use super::super::object::{Family, interface_key};
use super::{
    Address, EQUAL, Expr, META_IIFKIND, META_IIFNAME, META_OIFNAME, NETWORK, REGISTER, Side, TRANSPORT, UDP, Value, address_at,
    bitwise, compare, expr, load_immediate, lookup, meta, payload, protocol, sys,
};

const META_PKTTYPE: u32 = 19;
const LINK: u32 = 0;
/// `PACKET_HOST` and `PACKET_OTHERHOST`.
const TO_US: u8 = 0;
const TO_OTHERS: u8 = 3;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kernel) enum EtherType {
    Arp,
    Ip(Family),
}

/// `ether type arp`. A frame with a VLAN tag has another type, also where the tag was taken off it: nftables reads it as it was
/// on the wire.
pub(in crate::kernel) fn ether_type(wanted: EtherType) -> Vec<Expr> {
    let number: u16 = match wanted {
        EtherType::Arp => 0x0806,
        EtherType::Ip(Family::V4) => 0x0800,
        EtherType::Ip(Family::V6) => 0x86dd,
    };
    vec![payload(LINK, 12, 2, REGISTER), compare(EQUAL, &number.to_be_bytes())]
}

/// `iifname @set`: in a bridge's hooks, the port.
pub(in crate::kernel) fn port_in(side: Side, set: &str) -> Vec<Expr> {
    let key = match side {
        Side::In => META_IIFNAME,
        Side::Out => META_OIFNAME,
    };
    vec![meta(key), lookup(set, false)]
}

/// `ip saddr 0.0.0.0 ip daddr 255.255.255.255 udp sport 68 udp dport 67`: a client that has no address asks for one.
pub(in crate::kernel) fn dhcp_v4() -> Vec<Expr> {
    let mut words = vec![
        address_at(Family::V4, Address::Source, REGISTER),
        compare(EQUAL, &[0; 4]),
        address_at(Family::V4, Address::Destination, REGISTER),
        compare(EQUAL, &[0xff; 4]),
    ];
    words.extend(udp_ports(68, 67));
    words
}

/// `ip6 saddr fe80::/10 ip6 daddr ff02::1:2 udp sport 546 udp dport 547`
pub(in crate::kernel) fn dhcp_v6() -> Vec<Expr> {
    const ALL_SERVERS_AND_RELAYS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2];
    let mut mask = [0; 16];
    mask[..2].copy_from_slice(&[0xff, 0xc0]);
    let mut link_local = [0; 16];
    link_local[..2].copy_from_slice(&[0xfe, 0x80]);
    let mut words = vec![
        payload(NETWORK, 8, 16, REGISTER),
        bitwise(&mask, &[0; 16]),
        compare(EQUAL, &link_local),
        address_at(Family::V6, Address::Destination, REGISTER),
        compare(EQUAL, &ALL_SERVERS_AND_RELAYS),
    ];
    words.extend(udp_ports(546, 547));
    words
}

fn udp_ports(source: u16, destination: u16) -> Vec<Expr> {
    let ports = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    let mut words = protocol(UDP);
    words.extend([payload(TRANSPORT, 0, 4, REGISTER), compare(EQUAL, &ports)]);
    words
}

/// `meta pkttype other meta pkttype set host`: a frame to another's link-layer address is taken in.
pub(in crate::kernel) fn take_in() -> Vec<Expr> {
    let set =
        expr("meta", [(sys::NFTNL_EXPR_META_KEY, Value::U32(META_PKTTYPE)), (sys::NFTNL_EXPR_META_SREG, Value::U32(REGISTER))]);
    vec![meta(META_PKTTYPE), compare(EQUAL, &[TO_OTHERS]), load_immediate(REGISTER, &[TO_US]), set]
}

/// `meta iifkind "bridge"`
pub(in crate::kernel) fn from_bridge() -> Vec<Expr> {
    vec![meta(META_IIFKIND), compare(EQUAL, &interface_key("bridge"))]
}
