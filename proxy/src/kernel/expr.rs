//! The words of a rule: what is loaded into a register, compared, looked up, set.
//!
//! An [`Expr`] is plain data, the name of a kernel expression and its attributes; [`transaction`](super::transaction) makes the
//! libnftnl object of it. So the expressions that the crate `nftnl` lacks (tproxy, fib, extension headers, set labels) cost no
//! line of unsafe code each. The sequences are those that `nft` itself writes for the same words: only then can it read them
//! back.
//!
//! Registers: 1 to 4 hold 16 bytes each; 8 to 23 are the same memory in steps of 4 bytes, for keys of several fields.

use std::net::IpAddr;

use nftnl::nftnl_sys as sys;

use super::object::{Family, Verdict};

mod flow;
pub(super) mod frame;

pub(super) use flow::{
    ESTABLISHED, INVALID, NEW, ORIGINAL, RELATED, REPLY, bare_syn, has_label, lacks_label, not_a_bare_syn, not_state,
    original_direction, reply_direction, sender_is_not_the_flows, set_label, source_and_asked_in, state,
};

/// One expression of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Expr {
    /// The kernel's name for it: `payload`, `cmp`, ...
    pub(super) name: &'static str,
    pub(super) attributes: Vec<(u32, Value)>,
}

/// An attribute's value, in the width libnftnl expects it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Value {
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Text(String),
    Bytes(Vec<u8>),
    /// What each element of a set carries.
    Inner(Vec<Expr>),
}

/// `NFPROTO_*` and IANA protocol numbers.
pub(super) const TCP: u8 = 6;
pub(super) const ICMP: u8 = 1;
pub(super) const ICMPV6: u8 = 58;
pub(super) const UDP: u8 = 17;

pub(super) const REGISTER: u32 = 1;
const SECOND: u32 = 2;

const META_MARK: u32 = 3;
pub(super) const META_IIF: u32 = 4;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const META_IIFKIND: u32 = 26;
const META_OIFKIND: u32 = 27;

const NETWORK: u32 = 1;
const TRANSPORT: u32 = 2;

const EQUAL: u32 = 0;
const DIFFERENT: u32 = 1;
const AT_MOST: u32 = 3;
const AT_LEAST: u32 = 5;

pub(super) fn expr(name: &'static str, attributes: impl IntoIterator<Item = (u32, Value)>) -> Expr {
    Expr { name, attributes: attributes.into_iter().collect() }
}

pub(super) fn meta(key: u32) -> Expr {
    expr("meta", [(sys::NFTNL_EXPR_META_KEY, Value::U32(key)), (sys::NFTNL_EXPR_META_DREG, Value::U32(REGISTER))])
}

fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expr {
    expr(
        "payload",
        [
            (sys::NFTNL_EXPR_PAYLOAD_DREG, Value::U32(register)),
            (sys::NFTNL_EXPR_PAYLOAD_BASE, Value::U32(base)),
            (sys::NFTNL_EXPR_PAYLOAD_OFFSET, Value::U32(offset)),
            (sys::NFTNL_EXPR_PAYLOAD_LEN, Value::U32(length)),
        ],
    )
}

fn compare(operation: u32, data: &[u8]) -> Expr {
    expr(
        "cmp",
        [
            (sys::NFTNL_EXPR_CMP_SREG, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_CMP_OP, Value::U32(operation)),
            (sys::NFTNL_EXPR_CMP_DATA, Value::Bytes(data.to_vec())),
        ],
    )
}

/// `register & mask ^ xor`.
fn bitwise(mask: &[u8], xor: &[u8]) -> Expr {
    let length = u32::try_from(mask.len()).expect("a register holds 16 bytes");
    expr(
        "bitwise",
        [
            (sys::NFTNL_EXPR_BITWISE_SREG, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_BITWISE_DREG, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_BITWISE_LEN, Value::U32(length)),
            (sys::NFTNL_EXPR_BITWISE_MASK, Value::Bytes(mask.to_vec())),
            (sys::NFTNL_EXPR_BITWISE_XOR, Value::Bytes(xor.to_vec())),
        ],
    )
}

fn load_immediate(register: u32, data: &[u8]) -> Expr {
    expr("immediate", [(sys::NFTNL_EXPR_IMM_DREG, Value::U32(register)), (sys::NFTNL_EXPR_IMM_DATA, Value::Bytes(data.to_vec()))])
}

/// The last word of a rule.
pub(super) fn verdict(verdict: &Verdict) -> Expr {
    let mut attributes =
        vec![(sys::NFTNL_EXPR_IMM_DREG, Value::U32(0)), (sys::NFTNL_EXPR_IMM_VERDICT, Value::U32(verdict.code()))];
    if let Some(chain) = verdict.chain() {
        attributes.push((sys::NFTNL_EXPR_IMM_CHAIN, Value::Text(chain.to_owned())));
    }
    expr("immediate", attributes)
}

pub(super) fn counter() -> Expr {
    expr("counter", [])
}

/// The loaded key is (or is not) in the set.
fn lookup(set: &str, inverted: bool) -> Expr {
    let mut attributes =
        vec![(sys::NFTNL_EXPR_LOOKUP_SREG, Value::U32(REGISTER)), (sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(set.to_owned()))];
    if inverted {
        attributes.push((sys::NFTNL_EXPR_LOOKUP_FLAGS, Value::U32(1)));
    }
    expr("lookup", attributes)
}

fn lookup_verdict(map: &str) -> Expr {
    expr(
        "lookup",
        [
            (sys::NFTNL_EXPR_LOOKUP_SREG, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_LOOKUP_SET, Value::Text(map.to_owned())),
            (sys::NFTNL_EXPR_LOOKUP_DREG, Value::U32(0)),
        ],
    )
}

/// `meta nfproto ipv4`: the packet's family.
pub(super) fn family(family: Family) -> Vec<Expr> {
    vec![meta(META_NFPROTO), compare(EQUAL, &[family.number()])]
}

/// `meta l4proto tcp`
pub(super) fn protocol(number: u8) -> Vec<Expr> {
    vec![meta(META_L4PROTO), compare(EQUAL, &[number])]
}

/// `meta l4proto != tcp`
pub(super) fn not_protocol(number: u8) -> Vec<Expr> {
    vec![meta(META_L4PROTO), compare(DIFFERENT, &[number])]
}

/// `meta l4proto @set`
pub(super) fn protocol_in(set: &str) -> Vec<Expr> {
    vec![meta(META_L4PROTO), lookup(set, false)]
}

/// Which address of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Address {
    Source,
    Destination,
}

pub(super) fn address_at(family: Family, address: Address, register: u32) -> Expr {
    let offset = match (family, address) {
        (Family::V4, Address::Source) => 12,
        (Family::V4, Address::Destination) => 16,
        (Family::V6, Address::Source) => 8,
        (Family::V6, Address::Destination) => 24,
    };
    payload(NETWORK, offset, family.address_bytes(), register)
}

/// `ip daddr @set`, or `ip daddr != @set`. The family is matched by the same words.
pub(super) fn address_in(of: Family, address: Address, set: &str, inverted: bool) -> Vec<Expr> {
    let mut words = family(of);
    words.extend([address_at(of, address, REGISTER), lookup(set, inverted)]);
    words
}

/// As [`address_in`] for a second set, in a rule whose family is already matched.
pub(super) fn address_also_in(of: Family, address: Address, set: &str, inverted: bool) -> Vec<Expr> {
    vec![address_at(of, address, REGISTER), lookup(set, inverted)]
}

/// `ip saddr vmap @map`
pub(super) fn address_verdict(of: Family, address: Address, map: &str) -> Vec<Expr> {
    let mut words = family(of);
    words.extend([address_at(of, address, REGISTER), lookup_verdict(map)]);
    words
}

/// `ip6 saddr ::`, `ip saddr 10.0.0.1`
pub(super) fn address_is(address: Address, ip: IpAddr) -> Vec<Expr> {
    let of = Family::of(ip);
    let mut words = family(of);
    words.extend([address_at(of, address, REGISTER), compare(EQUAL, &super::object::octets(ip))]);
    words
}

/// `ip daddr 127.0.0.0/8`, `ip6 daddr ff02::/16`: the first bytes of the destination, at byte borders as `nft` writes it.
pub(super) fn destination_begins(of: Family, prefix: &[u8]) -> Vec<Expr> {
    let offset = if of == Family::V4 { 16 } else { 24 };
    let length = u32::try_from(prefix.len()).expect("an address has at most 16 bytes");
    vec![payload(NETWORK, offset, length, REGISTER), compare(EQUAL, prefix)]
}

/// `ip6 daddr fe80::/10`, whose border is inside a byte.
pub(super) fn destination_is_link_local() -> Vec<Expr> {
    let mut mask = [0; 16];
    mask[..2].copy_from_slice(&[0xff, 0xc0]);
    let mut prefix = [0; 16];
    prefix[..2].copy_from_slice(&[0xfe, 0x80]);
    vec![address_at(Family::V6, Address::Destination, REGISTER), bitwise(&mask, &[0; 16]), compare(EQUAL, &prefix)]
}

/// `ip saddr . ip daddr @set`
pub(super) fn both_addresses_in(of: Family, set: &str) -> Vec<Expr> {
    let second = word_register(of.address_bytes() / 4);
    let mut words = family(of);
    words.extend([address_at(of, Address::Source, REGISTER), address_at(of, Address::Destination, second), lookup(set, false)]);
    words
}

/// The register of the 4-byte word `word` of a key. One that begins a 16-byte register is called by that register's name, as
/// `nft` writes it and as it expects to read it.
const fn word_register(word: u32) -> u32 {
    if word.is_multiple_of(4) { 1 + word / 4 } else { 8 + word }
}

/// `meta l4proto . ip saddr . th sport . ip daddr . th dport @set`
pub(super) fn whole_tuple_in(of: Family, set: &str) -> Vec<Expr> {
    let address_words = of.address_bytes() / 4;
    let source_port = 1 + address_words;
    let destination = source_port + 1;
    let destination_port = destination + address_words;
    let mut words = family(of);
    words.extend([
        meta(META_L4PROTO),
        address_at(of, Address::Source, word_register(1)),
        payload(TRANSPORT, 0, 2, word_register(source_port)),
        address_at(of, Address::Destination, word_register(destination)),
        payload(TRANSPORT, 2, 2, word_register(destination_port)),
        lookup(set, false),
    ]);
    words
}

/// `tcp dport 80`, `tcp dport 8000-8100`
pub(super) fn destination_port(protocol_number: u8, first: u16, last: u16) -> Vec<Expr> {
    let mut words = protocol(protocol_number);
    words.push(payload(TRANSPORT, 2, 2, REGISTER));
    if first == last {
        words.push(compare(EQUAL, &first.to_be_bytes()));
    } else {
        words.extend([compare(AT_LEAST, &first.to_be_bytes()), compare(AT_MOST, &last.to_be_bytes())]);
    }
    words
}

/// `tcp dport @set`
pub(super) fn destination_port_in(protocol_number: u8, set: &str) -> Vec<Expr> {
    let mut words = protocol(protocol_number);
    words.extend([payload(TRANSPORT, 2, 2, REGISTER), lookup(set, false)]);
    words
}

/// `ip daddr . tcp dport @set`
pub(super) fn destination_and_port_in(of: Family, protocol_number: u8, set: &str) -> Vec<Expr> {
    address_and_port_in(of, Address::Destination, protocol_number, set)
}

/// `ip saddr . tcp dport @set`
pub(super) fn address_and_port_in(of: Family, address: Address, protocol_number: u8, set: &str) -> Vec<Expr> {
    let second = word_register(of.address_bytes() / 4);
    let mut words = family(of);
    words.extend(protocol(protocol_number));
    words.extend([address_at(of, address, REGISTER), payload(TRANSPORT, 2, 2, second), lookup(set, false)]);
    words
}

/// `ip saddr . meta l4proto . th dport @set`
pub(super) fn address_protocol_and_port_in(of: Family, address: Address, set: &str) -> Vec<Expr> {
    let words_before = of.address_bytes() / 4;
    let load_protocol = expr(
        "meta",
        [
            (sys::NFTNL_EXPR_META_KEY, Value::U32(META_L4PROTO)),
            (sys::NFTNL_EXPR_META_DREG, Value::U32(word_register(words_before))),
        ],
    );
    let mut words = family(of);
    words.extend([
        address_at(of, address, REGISTER),
        load_protocol,
        payload(TRANSPORT, 2, 2, word_register(words_before + 1)),
        lookup(set, false),
    ]);
    words
}

/// `meta nfproto ipv4 icmp type 8 icmp code 0`, `meta nfproto ipv6 icmpv6 type 128`
pub(super) fn icmp_message(of: Family, kind: Option<u8>, code: Option<u8>) -> Vec<Expr> {
    let mut words = family(of);
    words.extend(protocol(if of == Family::V4 { ICMP } else { ICMPV6 }));
    for (offset, wanted) in (0..).zip([kind, code]) {
        if let Some(wanted) = wanted {
            words.extend([payload(TRANSPORT, offset, 1, REGISTER), compare(EQUAL, &[wanted])]);
        }
    }
    words
}

/// `icmpv6 type @set`
pub(super) fn icmpv6_type_in(set: &str) -> Vec<Expr> {
    let mut words = protocol(ICMPV6);
    words.extend([payload(TRANSPORT, 0, 1, REGISTER), lookup(set, false)]);
    words
}

/// `ip6 hoplimit != 255`
pub(super) fn was_routed() -> Vec<Expr> {
    vec![payload(NETWORK, 7, 1, REGISTER), compare(DIFFERENT, &[255])]
}

/// `meta mark set meta mark & ~mask | value`: changes the bits of `mask` alone.
pub(super) fn set_mark(value: u32, mask: u32) -> Vec<Expr> {
    let set =
        expr("meta", [(sys::NFTNL_EXPR_META_KEY, Value::U32(META_MARK)), (sys::NFTNL_EXPR_META_SREG, Value::U32(REGISTER))]);
    vec![meta(META_MARK), bitwise(&(!mask).to_ne_bytes(), &value.to_ne_bytes()), set]
}

/// `meta mark & mask == value`
pub(super) fn has_mark(value: u32, mask: u32) -> Vec<Expr> {
    vec![meta(META_MARK), bitwise(&mask.to_ne_bytes(), &[0; 4]), compare(EQUAL, &value.to_ne_bytes())]
}

/// `socket transparent 1`
pub(super) fn socket_transparent(transparent: bool) -> Vec<Expr> {
    socket(0, u8::from(transparent))
}

/// `socket wildcard 0`: bound to an address of its own.
pub(super) fn socket_not_wildcard() -> Vec<Expr> {
    socket(2, 0)
}

fn socket(key: u32, wanted: u8) -> Vec<Expr> {
    let load =
        expr("socket", [(sys::NFTNL_EXPR_SOCKET_KEY, Value::U32(key)), (sys::NFTNL_EXPR_SOCKET_DREG, Value::U32(REGISTER))]);
    vec![load, compare(EQUAL, &[wanted])]
}

/// `tproxy ip to ADDRESS:PORT`. Ends the rule's evaluation where no transparent socket listens there.
pub(super) fn tproxy(to: IpAddr, port: u16) -> Vec<Expr> {
    let go = expr(
        "tproxy",
        [
            (sys::NFTNL_EXPR_TPROXY_FAMILY, Value::U32(u32::from(Family::of(to).number()))),
            (sys::NFTNL_EXPR_TPROXY_REG_ADDR, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_TPROXY_REG_PORT, Value::U32(SECOND)),
        ],
    );
    vec![load_immediate(REGISTER, &super::object::octets(to)), load_immediate(SECOND, &port.to_be_bytes()), go]
}

/// `fib saddr . iif oif missing`: the route back to the source doesn't lead out of the interface the packet came in by.
pub(super) fn source_not_behind_its_interface() -> Vec<Expr> {
    const SOURCE: u32 = 1;
    const IIF: u32 = 8;
    const PRESENT: u32 = 32;
    const OIF: u32 = 1;
    vec![fib(OIF, SOURCE | IIF | PRESENT), compare(EQUAL, &[0; 4])]
}

/// `fib daddr type local`, or `!= local`: an address of the node itself.
pub(super) fn destination_is_local(wanted: bool) -> Vec<Expr> {
    const DESTINATION: u32 = 2;
    const TYPE: u32 = 3;
    const LOCAL: u32 = 2;
    let operation = if wanted { EQUAL } else { DIFFERENT };
    vec![fib(TYPE, DESTINATION), compare(operation, &LOCAL.to_ne_bytes())]
}

/// `fib daddr type != unicast`: of the node itself, of a group, of everybody, or of nobody.
pub(super) fn destination_is_not_unicast() -> Vec<Expr> {
    const DESTINATION: u32 = 2;
    const TYPE: u32 = 3;
    const UNICAST: u32 = 1;
    vec![fib(TYPE, DESTINATION), compare(DIFFERENT, &UNICAST.to_ne_bytes())]
}

fn fib(result: u32, flags: u32) -> Expr {
    expr(
        "fib",
        [
            (sys::NFTNL_EXPR_FIB_RESULT, Value::U32(result)),
            (sys::NFTNL_EXPR_FIB_FLAGS, Value::U32(flags)),
            (sys::NFTNL_EXPR_FIB_DREG, Value::U32(REGISTER)),
        ],
    )
}

/// `ip option lsrr exists`: `kind` 131 (loose) or 137 (strict).
pub(super) fn ip_option(kind: u8) -> Vec<Expr> {
    const IPV4_OPTION: u32 = 2;
    let mut words = family(Family::V4);
    words.extend(extension(IPV4_OPTION, kind));
    words
}

/// `exthdr rt exists`
pub(super) fn routing_header() -> Vec<Expr> {
    let mut words = family(Family::V6);
    words.extend(extension(IPV6_HEADER, ROUTING));
    words
}

/// `exthdr frag exists`: what defragmentation leaves of fragments inside a packet that was itself one.
pub(super) fn fragment_header() -> Vec<Expr> {
    let mut words = family(Family::V6);
    words.extend(extension(IPV6_HEADER, FRAGMENT));
    words
}

/// `@nh,0,8 != 0x45`, in a chain of IPv4: its header is longer than 20 bytes.
pub(super) fn has_options() -> Vec<Expr> {
    vec![payload(NETWORK, 0, 1, REGISTER), compare(DIFFERENT, &[VERSION_4_WITHOUT_OPTIONS])]
}

const VERSION_4_WITHOUT_OPTIONS: u8 = 0x45;
const IPV6_HEADER: u32 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;

fn extension(operation: u32, kind: u8) -> Vec<Expr> {
    const PRESENT: u32 = 1;
    let load = expr(
        "exthdr",
        [
            (sys::NFTNL_EXPR_EXTHDR_DREG, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_EXTHDR_TYPE, Value::U8(kind)),
            (sys::NFTNL_EXPR_EXTHDR_OFFSET, Value::U32(0)),
            (sys::NFTNL_EXPR_EXTHDR_LEN, Value::U32(1)),
            (sys::NFTNL_EXPR_EXTHDR_OP, Value::U32(operation)),
            (sys::NFTNL_EXPR_EXTHDR_FLAGS, Value::U32(PRESENT)),
        ],
    );
    vec![load, compare(EQUAL, &[1])]
}

/// Whether the packet came in by, or is about to leave by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    In,
    Out,
}

/// `iifname != @uplinks meta iifkind != @outside_kinds`: an interface that has a kind, and neither its name nor its kind is
/// listed.
///
/// An interface without a kind (a physical one, the loopback) ends the evaluation of the rule, so it never matches.
pub(super) fn interface_is_neither(side: Side, names: &str, kinds: &str) -> Vec<Expr> {
    let (name, kind) = match side {
        Side::In => (META_IIFNAME, META_IIFKIND),
        Side::Out => (META_OIFNAME, META_OIFKIND),
    };
    vec![meta(name), lookup(names, true), meta(kind), lookup(kinds, true)]
}

/// `meta iif @set`
pub(super) fn interface_in(set: &str) -> Vec<Expr> {
    vec![meta(META_IIF), lookup(set, false)]
}

/// `iifname "lo"`
pub(super) fn from_loopback() -> Vec<Expr> {
    vec![meta(META_IIFNAME), compare(EQUAL, &super::object::interface_key("lo"))]
}
