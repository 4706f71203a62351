//! The expressions of nftables' rules (`linux/netfilter/nf_tables.h`), as steps that can be followed.
//!
//! What a register holds after an expression that isn't followed is not known; a condition that isn't followed may hold or not.

use super::super::netlink::{Attributes, attribute};
use super::packet::Field;
use super::ruleset::{Register, Step, Verdict};
use super::xtables;

/// A number in network byte order, as nftables has them.
pub(super) fn number(within: &[u8], wanted: u16) -> Option<u32> {
    Some(u32::from_be_bytes(*attribute(within, wanted)?.first_chunk()?))
}

/// A name, without its final zero.
pub(super) fn name(within: &[u8], wanted: u16) -> Option<String> {
    let value = attribute(within, wanted)?;
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    Some(String::from_utf8_lossy(&value[..end]).into_owned())
}

/// The steps of `NFTA_RULE_EXPRESSIONS`, and the comment that iptables keeps among them.
pub(super) fn steps(expressions: &[u8]) -> (Vec<Step>, Option<String>) {
    const LIST_ELEMENT: u16 = 1;
    const EXPRESSION_NAME: u16 = 1;
    const EXPRESSION_DATA: u16 = 2;
    let mut steps = Vec::new();
    let mut comment = None;
    for (_, expression) in Attributes(expressions).filter(|(kind, _)| *kind == LIST_ELEMENT) {
        let word = name(expression, EXPRESSION_NAME).unwrap_or_default();
        let data = attribute(expression, EXPRESSION_DATA).unwrap_or_default();
        match word.as_str() {
            "match" => {
                let read = xtables::condition(&name(data, 1).unwrap_or_default(), attribute(data, 3).unwrap_or_default());
                match read {
                    xtables::Condition::Comment(text) => comment = Some(text),
                    xtables::Condition::Steps(some) => steps.extend(some),
                }
            }
            "target" => steps.extend(xtables::target(&name(data, 1).unwrap_or_default()).map(Step::Verdict)),
            _ => steps.extend(step(&word, data)),
        }
    }
    (steps, comment)
}

/// `None`: the expression has no say in what becomes of a packet.
fn step(word: &str, data: &[u8]) -> Option<Step> {
    let deny = |word: &str| Some(Step::Verdict(Verdict::Deny(word.to_owned())));
    let unclear = || Some(Step::Perhaps(word.to_owned()));
    match word {
        "immediate" => immediate(data).or_else(unclear),
        "cmp" => compare(data).or_else(unclear),
        "bitwise" => mask(data).or(Some(Step::Forget)),
        "payload" => load(data, |data| Some(payload(number(data, 2)?, number(data, 3)?, number(data, 4)?))),
        "meta" if attribute(data, 1).is_none() => written_mark(data),
        "meta" => load(data, |data| number(data, 2).map(meta)),
        "ct" => load(data, |data| Some(if number(data, 2)? == 0 { Field::State } else { Field::Other })),
        "fib" => load(data, fib),
        "lookup" => look_up(data).or_else(unclear),
        "reject" | "queue" | "synproxy" => deny(word),
        // They take the packet, and no later rule of the chain sees it.
        "nat" | "masq" | "redir" | "fwd" => Some(Step::Verdict(Verdict::Accept)),
        "objref" => named_object(data),
        "counter" | "log" | "notrack" | "last" | "dup" | "flow_offload" => None,
        "byteorder" | "exthdr" | "rt" | "socket" | "numgen" | "hash" | "tunnel" | "osf" | "xfrm" | "inner" => Some(Step::Forget),
        // `range`, `limit`, `quota`, `connlimit`, `dynset`, `tproxy` (which ends the rule where nobody listens), and what is not known.
        _ => unclear(),
    }
}

/// An object of the table by its name, or by a map from what is in a register.
fn named_object(data: &[u8]) -> Option<Step> {
    const COUNTER: u32 = 1;
    const SYNPROXY: u32 = 10;
    /// Helper, tunnel, time-out, security mark, expectation.
    const ACTING: [u32; 5] = [3, 6, 7, 8, 9];
    match number(data, 1) {
        Some(COUNTER) => None,
        Some(kind) if ACTING.contains(&kind) => None,
        Some(SYNPROXY) => Some(Step::Verdict(Verdict::Deny("synproxy".to_owned()))),
        _ => Some(Step::Perhaps("objref".to_owned())),
    }
}

/// Registers of 16 bytes are 1 to 4, those of 4 bytes 8 to 23; both lie in the same memory.
fn register(data: &[u8], wanted: u16) -> Option<Register> {
    match number(data, wanted)? {
        0 => None,
        wide @ 1..=4 => Some((wide - 1) * 4),
        word @ 8..=23 => Some(word - 8),
        _ => None,
    }
}

fn load(data: &[u8], field: impl Fn(&[u8]) -> Option<Field>) -> Option<Step> {
    // Without a destination the expression writes into the packet or its flow, and nothing is to be followed.
    attribute(data, 1)?;
    let read = || Some(Step::Load { to: register(data, 1)?, field: field(data)? });
    read().or(Some(Step::Forget))
}

fn payload(base: u32, offset: u32, length: u32) -> Field {
    match base {
        1 => Field::Network { offset, length },
        2 => Field::Transport { offset, length },
        _ => Field::Other,
    }
}

fn meta(key: u32) -> Field {
    match key {
        3 => Field::Mark,
        4 | 6 | 8 | 22 | 26 => Field::InterfaceIn,
        5 | 7 | 9 | 23 | 27 => Field::InterfaceOut,
        10 => Field::Owner,
        15 => Field::NetworkProtocol,
        16 => Field::TransportProtocol,
        19 => Field::PacketType,
        _ => Field::Other,
    }
}

fn fib(data: &[u8]) -> Option<Field> {
    const TYPE: u32 = 3;
    const BY_MARK: u32 = 4;
    let is_type = number(data, 2)? == TYPE && number(data, 3)? & BY_MARK == 0;
    Some(if is_type { Field::AddressType } else { Field::Other })
}

/// `meta KEY set`: only the mark matters.
fn written_mark(data: &[u8]) -> Option<Step> {
    const MARK: u32 = 3;
    (number(data, 2)? == MARK).then(|| register(data, 3).map_or(Step::Forget, |from| Step::WriteMark { from }))
}

fn immediate(data: &[u8]) -> Option<Step> {
    let value = attribute(data, 2)?;
    if number(data, 1)? == 0 {
        return Some(Step::Verdict(verdict(attribute(value, 2)?)?));
    }
    Some(Step::Set { to: register(data, 1)?, value: attribute(value, 1)?.to_vec() })
}

/// `NFTA_VERDICT_*`.
pub(super) fn verdict(data: &[u8]) -> Option<Verdict> {
    let chain = || name(data, 2);
    Some(match number(data, 1)?.cast_signed() {
        1 => Verdict::Accept,
        -1 | -2 => Verdict::Continue,
        -3 => Verdict::Jump(chain()?),
        -4 => Verdict::Goto(chain()?),
        -5 => Verdict::Return,
        0 => Verdict::Deny("drop".to_owned()),
        code => Verdict::Deny(format!("verdict {code}")),
    })
}

fn compare(data: &[u8]) -> Option<Step> {
    let differs = match number(data, 2)? {
        0 => false,
        1 => true,
        // Less, more: not followed.
        _ => return None,
    };
    Some(Step::Compare { from: register(data, 1)?, differs, value: attribute(attribute(data, 3)?, 1)?.to_vec() })
}

fn mask(data: &[u8]) -> Option<Step> {
    // `NFT_BITWISE_BOOL`, or older kernels' silence; shifts aren't followed.
    if number(data, 6).unwrap_or_default() != 0 {
        return None;
    }
    let value = |wanted| Some(attribute(attribute(data, wanted)?, 1)?.to_vec());
    Some(Step::Mask { from: register(data, 1)?, to: register(data, 2)?, mask: value(4)?, xor: value(5)? })
}

fn look_up(data: &[u8]) -> Option<Step> {
    let (set, from) = (name(data, 1)?, register(data, 2)?);
    match number(data, 3) {
        // The verdict's own register.
        Some(0) => Some(Step::Map { from, map: set }),
        Some(_) => Some(Step::Forget),
        None => Some(Step::Within { from, set, inverted: number(data, 5).unwrap_or_default() & 1 != 0 }),
    }
}

/// The comment of nft's own (`NFTA_RULE_USERDATA`: type, length, text).
pub(super) fn comment(user_data: &[u8]) -> Option<String> {
    let (&[kind, length], text) = user_data.split_first_chunk()?;
    let text = text.get(..usize::from(length))?;
    (kind == 0).then(|| String::from_utf8_lossy(text).trim_end_matches('\0').to_owned())
}
