//! A rule of somebody else's in words, as far as it can be said: enough to find it.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::packet::Field;
use super::ruleset::{Rule, Step, TableFamily, Test, Verdict};

/// The longest that is said of a rule.
const LONGEST: usize = 160;

/// What the rule asks for and does; `…` stands for what can't be said.
pub(super) fn rule(rule: &Rule, family: TableFamily) -> String {
    let mut text = rule.text.clone().unwrap_or_else(|| words(&rule.steps, family).join(" "));
    if let Some(comment) = rule.comment.as_ref().filter(|comment| rule.text.is_none() && !comment.is_empty()) {
        text.push_str(&format!(" comment {comment:?}"));
    }
    // What others write into comments must not end the line or hide it.
    let printable: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if printable.chars().count() <= LONGEST {
        return printable;
    }
    printable.chars().take(LONGEST - 1).chain(['…']).collect()
}

fn words(steps: &[Step], family: TableFamily) -> Vec<String> {
    let mut said = Vec::new();
    let mut loaded: Option<Field> = None;
    let mut mask: Option<&[u8]> = None;
    for step in steps {
        match step {
            Step::Load { field, .. } => (loaded, mask) = (Some(*field), None),
            Step::Mask { mask: bits, .. } => mask = Some(bits),
            Step::Set { .. } => (loaded, mask) = (None, None),
            Step::Forget => (loaded, mask) = (Some(Field::Other), None),
            Step::Compare { differs, value, .. } => {
                let field = loaded.unwrap_or(Field::Other);
                // Which protocol a table's packets are goes without saying.
                if field != Field::NetworkProtocol {
                    said.push(comparison(field, *differs, value, mask, family));
                }
            }
            Step::Within { set, inverted, .. } => {
                let field = field(loaded.unwrap_or(Field::Other), family);
                let set = if set.starts_with("__") { "{ … }".to_owned() } else { format!("@{set}") };
                said.push(format!("{field} {}{set}", if *inverted { "!= " } else { "" }));
            }
            Step::Map { map, .. } => {
                let field = field(loaded.unwrap_or(Field::Other), family);
                let map = if map.starts_with("__") { "{ … }".to_owned() } else { format!("@{map}") };
                said.push(format!("{field} vmap {map}"));
            }
            Step::Test(test) => said.push(self::test(test)),
            Step::Perhaps(name) => said.push(format!("{name} …")),
            Step::WriteMark { .. } => said.push("meta mark set …".to_owned()),
            Step::Verdict(verdict) => said.push(match verdict {
                Verdict::Accept => "accept".to_owned(),
                Verdict::Deny(way) => way.clone(),
                Verdict::Jump(chain) => format!("jump {chain}"),
                Verdict::Goto(chain) => format!("goto {chain}"),
                Verdict::Return => "return".to_owned(),
                Verdict::Continue => "continue".to_owned(),
            }),
        }
    }
    said
}

fn field(field: Field, family: TableFamily) -> String {
    match field {
        Field::Network { offset: 12, .. } if family != TableFamily::Ip6 => "ip saddr".to_owned(),
        Field::Network { offset: 16, .. } if family != TableFamily::Ip6 => "ip daddr".to_owned(),
        Field::Network { offset: 8, .. } => "ip6 saddr".to_owned(),
        Field::Network { offset: 24, .. } => "ip6 daddr".to_owned(),
        Field::Transport { offset: 0, .. } => "sport".to_owned(),
        Field::Transport { offset: 2, .. } => "dport".to_owned(),
        Field::Transport { offset: 13, .. } => "tcp flags".to_owned(),
        Field::State => "ct state".to_owned(),
        Field::Mark => "meta mark".to_owned(),
        Field::InterfaceIn => "iif".to_owned(),
        Field::InterfaceOut => "oif".to_owned(),
        Field::TransportProtocol => "l4proto".to_owned(),
        Field::NetworkProtocol => "nfproto".to_owned(),
        Field::PacketType => "pkttype".to_owned(),
        Field::AddressType => "fib type".to_owned(),
        Field::Owner => "skuid".to_owned(),
        Field::Network { .. } | Field::Transport { .. } | Field::Other => "…".to_owned(),
    }
}

fn comparison(of: Field, differs: bool, value: &[u8], mask: Option<&[u8]>, family: TableFamily) -> String {
    let name = field(of, family);
    let not = if differs { "!= " } else { "" };
    match of {
        Field::State => {
            // `ct state established,related` asks whether one of the bits is set: unequal to none.
            let asked = mask.filter(|_| value.iter().all(|byte| *byte == 0)).unwrap_or(value);
            let asks_for_none = mask.is_some_and(|_| !differs);
            format!("{name} {}{}", if asks_for_none { "!= " } else { "" }, states(asked))
        }
        // A name or its beginning, rather than a number.
        Field::InterfaceIn | Field::InterfaceOut if value.len() > 4 || value.iter().all(u8::is_ascii_graphic) => {
            let end = value.iter().position(|byte| *byte == 0);
            let text = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned();
            format!("{name} {not}{text}{}", if end.is_none() { "*" } else { "" })
        }
        Field::Network { .. } if name != "…" => format!("{name} {not}{}", address(value, mask)),
        Field::Transport { offset: 0 | 2, length: 2 } => format!("{name} {not}{}", big_endian(value)),
        Field::TransportProtocol => format!("{name} {not}{}", protocol(value)),
        _ => format!("{name} {not}{}", hexadecimal(value)),
    }
}

fn states(value: &[u8]) -> String {
    const NAMES: [(u32, &str); 5] = [(1, "invalid"), (2, "established"), (4, "related"), (8, "new"), (64, "untracked")];
    let bits = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect();
    names.join(",")
}

fn address(value: &[u8], mask: Option<&[u8]>) -> String {
    let prefix = |whole: usize| {
        let bits = mask.map_or(value.len() * 8, |mask| mask.iter().map(|byte| byte.count_ones() as usize).sum());
        if bits == whole * 8 { String::new() } else { format!("/{bits}") }
    };
    if value.len() <= 4 {
        let mut octets = [0; 4];
        octets[..value.len()].copy_from_slice(value);
        return format!("{}{}", Ipv4Addr::from(octets), prefix(4));
    }
    let mut octets = [0; 16];
    let length = value.len().min(16);
    octets[..length].copy_from_slice(&value[..length]);
    format!("{}{}", Ipv6Addr::from(octets), prefix(16))
}

fn protocol(value: &[u8]) -> String {
    match value {
        [1] => "icmp".to_owned(),
        [6] => "tcp".to_owned(),
        [17] => "udp".to_owned(),
        [58] => "icmpv6".to_owned(),
        [132] => "sctp".to_owned(),
        other => big_endian(other),
    }
}

fn big_endian(value: &[u8]) -> String {
    value.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte)).to_string()
}

fn hexadecimal(value: &[u8]) -> String {
    value.iter().take(16).fold("0x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

fn test(test: &Test) -> String {
    let not = |inverted: bool| if inverted { "!= " } else { "" };
    match test {
        Test::State { bits, inverted } => format!("ct state {}{}", not(*inverted), states(&bits.to_ne_bytes())),
        Test::Flags { mask, value, inverted } => format!("tcp flags {}{value:#x}/{mask:#x}", not(*inverted)),
        Test::Protocol { number, inverted } => format!("l4proto {}{}", not(*inverted), protocol(&[*number])),
        Test::AddressType { types, inverted } => format!("addrtype {}{types:#x}", not(*inverted)),
        Test::PacketType { number, inverted } => format!("pkttype {}{number}", not(*inverted)),
        Test::Address { is_source, value, mask, inverted } => {
            format!("{} {}{}", if *is_source { "saddr" } else { "daddr" }, not(*inverted), address(value, Some(mask)))
        }
    }
}
