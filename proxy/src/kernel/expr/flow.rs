//! Words about the flow that a packet belongs to, as connection tracking has it.

use super::super::object::Family;
use super::{
    Address, DIFFERENT, EQUAL, Expr, REGISTER, TCP, TRANSPORT, Value, address_at, bitwise, compare, expr, family, load_immediate,
    lookup, payload, protocol, sys, word_register,
};

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_LABELS: u32 = 13;

/// `NF_CT_STATE_*` bits.
pub(in crate::kernel) const INVALID: u32 = 1;
pub(in crate::kernel) const ESTABLISHED: u32 = 2;
pub(in crate::kernel) const RELATED: u32 = 4;
pub(in crate::kernel) const NEW: u32 = 8;

fn ct(key: u32) -> Expr {
    expr("ct", [(sys::NFTNL_EXPR_CT_KEY, Value::U32(key)), (sys::NFTNL_EXPR_CT_DREG, Value::U32(REGISTER))])
}

/// `ct state new,invalid`: any of `states`.
pub(in crate::kernel) fn state(states: u32) -> Vec<Expr> {
    vec![ct(CT_STATE), bitwise(&states.to_ne_bytes(), &[0; 4]), compare(DIFFERENT, &[0; 4])]
}

/// None of `states`.
pub(in crate::kernel) fn not_state(states: u32) -> Vec<Expr> {
    vec![ct(CT_STATE), bitwise(&states.to_ne_bytes(), &[0; 4]), compare(EQUAL, &[0; 4])]
}

/// `IP_CT_DIR_*`
pub(in crate::kernel) const ORIGINAL: u8 = 0;
pub(in crate::kernel) const REPLY: u8 = 1;

/// `ct direction original`
pub(in crate::kernel) fn original_direction() -> Vec<Expr> {
    vec![ct(CT_DIRECTION), compare(EQUAL, &[ORIGINAL])]
}

/// `ct direction reply`
pub(in crate::kernel) fn reply_direction() -> Vec<Expr> {
    vec![ct(CT_DIRECTION), compare(EQUAL, &[REPLY])]
}

/// `ip saddr . ct original ip daddr @set`: the packet's sender, and where it wanted to go before any translation. Without a flow no
/// packet matches.
pub(in crate::kernel) fn source_and_asked_in(of: Family, set: &str) -> Vec<Expr> {
    const CT_DESTINATION_V4: u32 = 20;
    const CT_DESTINATION_V6: u32 = 22;
    let key = if of == Family::V4 { CT_DESTINATION_V4 } else { CT_DESTINATION_V6 };
    let second = word_register(of.address_bytes() / 4);
    let asked = expr(
        "ct",
        [
            (sys::NFTNL_EXPR_CT_KEY, Value::U32(key)),
            (sys::NFTNL_EXPR_CT_DREG, Value::U32(second)),
            (sys::NFTNL_EXPR_CT_DIR, Value::U8(ORIGINAL)),
        ],
    );
    let mut words = family(of);
    words.extend([address_at(of, Address::Source, REGISTER), asked, lookup(set, false)]);
    words
}

/// `ct direction original ct original ip saddr . ip saddr != @set`: the flow's sender in this direction and the packet's make no
/// pair of the set. Without a flow no packet matches.
pub(in crate::kernel) fn sender_is_not_the_flows(of: Family, direction: u8, set: &str) -> Vec<Expr> {
    const CT_SOURCE_V4: u32 = 19;
    const CT_SOURCE_V6: u32 = 21;
    let key = if of == Family::V4 { CT_SOURCE_V4 } else { CT_SOURCE_V6 };
    let flows_sender = expr(
        "ct",
        [
            (sys::NFTNL_EXPR_CT_KEY, Value::U32(key)),
            (sys::NFTNL_EXPR_CT_DREG, Value::U32(REGISTER)),
            (sys::NFTNL_EXPR_CT_DIR, Value::U8(direction)),
        ],
    );
    let mut words = family(of);
    words.extend([ct(CT_DIRECTION), compare(EQUAL, &[direction])]);
    let second = word_register(of.address_bytes() / 4);
    words.extend([flows_sender, address_at(of, Address::Source, second), lookup(set, true)]);
    words
}

/// A conntrack label is a bit in 16 bytes, words in host byte order.
fn label_bits(bit: u8) -> [u8; 16] {
    let mut bytes = [0; 16];
    let word = usize::from(bit / 32) * 4;
    bytes[word..word + 4].copy_from_slice(&(1_u32 << (bit % 32)).to_ne_bytes());
    bytes
}

/// `ct label 111`
pub(in crate::kernel) fn has_label(bit: u8) -> Vec<Expr> {
    vec![ct(CT_LABELS), bitwise(&label_bits(bit), &[0; 16]), compare(DIFFERENT, &[0; 16])]
}

/// The bit is not set; a flow without labels has none.
pub(in crate::kernel) fn lacks_label(bit: u8) -> Vec<Expr> {
    vec![ct(CT_LABELS), bitwise(&label_bits(bit), &[0; 16]), compare(EQUAL, &[0; 16])]
}

/// `ct label set 111`: adds this bit, the others stay.
pub(in crate::kernel) fn set_label(bit: u8) -> Vec<Expr> {
    let set = expr("ct", [(sys::NFTNL_EXPR_CT_KEY, Value::U32(CT_LABELS)), (sys::NFTNL_EXPR_CT_SREG, Value::U32(REGISTER))]);
    vec![load_immediate(REGISTER, &label_bits(bit)), set]
}

/// `tcp flags & (fin | syn | rst | ack) != syn`
pub(in crate::kernel) fn not_a_bare_syn() -> Vec<Expr> {
    begins_by_syn(DIFFERENT)
}

/// `tcp flags & (fin | syn | rst | ack) == syn`
pub(in crate::kernel) fn bare_syn() -> Vec<Expr> {
    begins_by_syn(EQUAL)
}

fn begins_by_syn(operation: u32) -> Vec<Expr> {
    const FIN_SYN_RST_ACK: u8 = 0x17;
    const SYN: u8 = 0x02;
    let mut words = protocol(TCP);
    words.extend([payload(TRANSPORT, 13, 1, REGISTER), bitwise(&[FIN_SYN_RST_ACK], &[0]), compare(operation, &[SYN])]);
    words
}
