//! Questions about tables, ours above all: the messages of `linux/netfilter/nf_tables.h`, and how their answers are read.

use super::netlink::{self, Message, flags};
use super::transaction::TABLE;

pub(super) const NEW_TABLE: u16 = message_type(0);
pub(super) const GET_TABLE: u16 = message_type(1);
pub(super) const NEW_CHAIN: u16 = message_type(3);
pub(super) const GET_CHAIN: u16 = message_type(4);
pub(super) const NEW_RULE: u16 = message_type(6);
pub(super) const GET_RULE: u16 = message_type(7);
pub(super) const NEW_SET: u16 = message_type(9);
pub(super) const GET_SET: u16 = message_type(10);
pub(super) const NEW_ELEMENTS: u16 = message_type(12);
pub(super) const GET_ELEMENTS: u16 = message_type(13);
pub(super) const NEW_GENERATION: u16 = message_type(15);
pub(super) const GET_GENERATION: u16 = message_type(16);
pub(super) const NEW_OBJECT: u16 = message_type(18);
pub(super) const GET_OBJECT: u16 = message_type(19);
pub(super) const NFPROTO_INET: u8 = 1;
/// `struct nfgenmsg`.
pub(super) const FIXED_BYTES: usize = 4;

/// `NFNL_SUBSYS_NFTABLES` is 10 and stands in the upper byte.
const fn message_type(message: u16) -> u16 {
    10 << 8 | message
}

/// A request for one object.
pub(super) fn request(kind: u16) -> Message {
    Message::new(kind, 0, &[NFPROTO_INET, 0, 0, 0])
}

/// A request for all objects of a kind.
pub(super) fn dump(kind: u16) -> Message {
    dump_in(NFPROTO_INET, kind)
}

/// A request for all objects of a kind in the tables of a family.
pub(super) fn dump_in(family: u8, kind: u16) -> Message {
    Message::new(kind, flags::DUMP, &[family, 0, 0, 0])
}

/// A request for what is in our table of a family: in the chain or the set `within`, or all of it. `table` and `name` are the
/// attributes that say so.
pub(super) fn dump_of(family: u8, kind: u16, table: u16, name: u16, within: Option<&str>) -> Message {
    let mut request = dump_in(family, kind);
    request.put(table, &zero_ended(TABLE));
    if let Some(within) = within {
        request.put(name, &zero_ended(within));
    }
    request
}

/// Whether an answer is about our family.
pub(super) fn is_inet(body: &[u8]) -> bool {
    body.first() == Some(&NFPROTO_INET)
}

/// An attribute of an answer.
pub(super) fn attribute(body: &[u8], wanted: u16) -> Option<&[u8]> {
    netlink::attribute(body.get(FIXED_BYTES..)?, wanted)
}

/// A number of 64 bits, which nftables says in network order.
pub(super) fn number(value: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*value.first_chunk()?))
}

pub(super) fn is_text(value: &[u8], text: &str) -> bool {
    without_zero(value) == text.as_bytes()
}

pub(super) fn text(value: &[u8]) -> Option<String> {
    String::from_utf8(without_zero(value).to_vec()).ok()
}

fn without_zero(value: &[u8]) -> &[u8] {
    value.strip_suffix(&[0]).unwrap_or(value)
}

fn zero_ended(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}
