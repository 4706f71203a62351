//! What a table consists of, as plain data: sets and their elements, rules, verdicts.

use std::net::IpAddr;

use super::expr::Expr;

/// IPv4 or IPv6. Sets hold addresses of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    pub(super) const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// `NFPROTO_IPV4` or `NFPROTO_IPV6`.
    pub(super) const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }

    pub(super) const fn address_bytes(self) -> u32 {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// As in the names of sets.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::V4 => "v4",
            Self::V6 => "v6",
        }
    }
}

/// What happens to a packet, or where its judgement goes on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Verdict {
    Accept,
    Drop,
    /// Back to the rule after the jump.
    Return,
    /// On with the next rule: for maps.
    Continue,
    Jump(String),
    /// As a jump, but a later return skips this chain.
    Goto(String),
}

impl Verdict {
    /// `NF_*` and `NFT_*`, as the kernel's unsigned attribute carries them.
    pub(super) const fn code(&self) -> u32 {
        const fn negative(n: i32) -> u32 {
            n.cast_unsigned()
        }
        match self {
            Self::Drop => 0,
            Self::Accept => 1,
            Self::Continue => negative(-1),
            Self::Jump(_) => negative(-3),
            Self::Goto(_) => negative(-4),
            Self::Return => negative(-5),
        }
    }

    pub(super) fn chain(&self) -> Option<&str> {
        match self {
            Self::Jump(chain) | Self::Goto(chain) => Some(chain),
            _ => None,
        }
    }
}

/// One rule: all words must match, then the last ones act.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) words: Vec<Expr>,
    pub(super) comment: Option<String>,
}

impl Rule {
    pub(super) fn new(parts: impl IntoIterator<Item = Vec<Expr>>, verdict: &Verdict) -> Self {
        let mut words: Vec<Expr> = parts.into_iter().flatten().collect();
        words.push(super::expr::verdict(verdict));
        Self { words, comment: None }
    }

    /// A rule that acts by its words and leads on to the next.
    pub(super) fn acting(parts: impl IntoIterator<Item = Vec<Expr>>) -> Self {
        Self { words: parts.into_iter().flatten().collect(), comment: None }
    }

    pub(super) fn because(mut self, comment: impl Into<String>) -> Self {
        self.comment = Some(super::comment::fit(&comment.into()));
        self
    }
}

/// A chain and its rules. `hook` makes it a base chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: String,
    pub(super) rules: Vec<Rule>,
}

/// The field types of a set's key, by `nft`'s numbers (its `enum datatypes`): they are what makes a listing readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Field {
    Address(Family),
    Protocol,
    Port,
    Icmpv6Type,
    /// An interface by its name.
    Interface,
    /// An interface by its number, which no other gets by itself as long as the namespace lives.
    InterfaceIndex,
    /// A number of 32 bits; nft has no type for plain ones that may stand in a key of several fields.
    Number,
}

impl Field {
    const fn number(self) -> u32 {
        match self {
            Self::Address(Family::V4) => 7,
            Self::Address(Family::V6) => 8,
            Self::Protocol => 12,
            Self::Port => 13,
            Self::Number => 19,
            Self::InterfaceIndex => 20,
            Self::Icmpv6Type => 29,
            Self::Interface => 41,
        }
    }

    const fn bytes(self) -> u32 {
        match self {
            Self::Address(family) => family.address_bytes(),
            Self::Protocol | Self::Icmpv6Type => 1,
            Self::Port => 2,
            Self::InterfaceIndex | Self::Number => 4,
            Self::Interface => 16,
        }
    }
}

/// A set or verdict map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) key: Vec<Field>,
    pub(super) kind: SetKind,
    pub(super) comment: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetKind {
    Plain,
    /// Keys are borders of ranges.
    Interval,
    /// Elements vanish by themselves.
    Timed,
    /// Rules add elements.
    Learned,
    /// Rules add elements with a counter and a limit, which vanish by themselves.
    Rationed,
    /// Key to verdict.
    Verdicts,
}

impl Set {
    pub(super) fn new(name: impl Into<String>, key: &[Field], kind: SetKind) -> Self {
        Self { name: name.into(), key: key.to_vec(), kind, comment: None }
    }

    /// Concatenated types are their numbers, six bits each.
    pub(super) fn key_type(&self) -> u32 {
        self.key.iter().fold(0, |number, field| number << 6 | field.number())
    }

    /// Fields of a concatenation fill whole 4-byte words.
    pub(super) fn key_bytes(&self) -> u32 {
        match self.key.as_slice() {
            [one] => one.bytes(),
            many => many.iter().map(|field| field.bytes().next_multiple_of(4)).sum(),
        }
    }

    /// The notes that `nft` keeps for itself beside a set (`NFTNL_UDATA_SET_*`): type, length, value. Without the byte order it
    /// prints keys the wrong way round; verdicts have none (1.0.6 aborts where one is noted).
    pub(super) fn user_data(&self) -> Vec<u8> {
        const KEY_BYTE_ORDER: u8 = 0;
        const MERGE_ELEMENTS: u8 = 2;
        const COMMENT: u8 = 7;
        const HOST: u32 = 1;
        const NETWORK: u32 = 2;
        let order = if matches!(self.key[..], [Field::Interface | Field::InterfaceIndex]) { HOST } else { NETWORK };
        let mut notes = Vec::new();
        let mut note = |kind: u8, value: &[u8]| {
            let length = u8::try_from(value.len()).expect("notes are short");
            notes.extend([kind, length]);
            notes.extend_from_slice(value);
        };
        note(KEY_BYTE_ORDER, &order.to_ne_bytes());
        if self.kind == SetKind::Interval {
            note(MERGE_ELEMENTS, &0_u32.to_ne_bytes());
        }
        if let Some(comment) = &self.comment {
            let mut text = comment.clone().into_bytes();
            text.push(0);
            note(COMMENT, &text);
        }
        notes
    }
}

/// An element's key, as the kernel holds it.
pub(super) type Key = Vec<u8>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Element {
    pub(super) key: Key,
    pub(super) verdict: Option<Verdict>,
    /// The first key behind a range.
    pub(super) ends_range: bool,
    /// Milliseconds it stays in a timed set.
    pub(super) timeout_ms: Option<u64>,
}

impl Element {
    pub(super) fn plain(key: Key) -> Self {
        Self { key, verdict: None, ends_range: false, timeout_ms: None }
    }

    pub(super) fn verdict(key: Key, verdict: Verdict) -> Self {
        Self { verdict: Some(verdict), ..Self::plain(key) }
    }
}

/// The bytes of an address, in network order.
pub(super) fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// An interface's name as the kernel compares it: 16 bytes, the rest zero. A longer name can't be an interface's and is cut.
pub(super) fn interface_key(name: &str) -> Key {
    let mut key: Key = name.bytes().take(15).collect();
    key.resize(16, 0);
    key
}

/// A key of several fields, each filled up to whole words.
pub(super) fn concatenation<const N: usize>(fields: [&[u8]; N]) -> Key {
    let mut key = Key::new();
    for field in fields {
        key.extend_from_slice(field);
        key.resize(key.len().next_multiple_of(4), 0);
    }
    key
}

/// The elements of an interval set: ascending ranges, both ends included, that don't touch.
///
/// As `nft` writes it: where the first range doesn't begin at zero, the zero key ends a range that isn't there; a range that
/// reaches the last key of all has no end.
pub(super) fn ranges(ranges: impl IntoIterator<Item = (Key, Key)>) -> Vec<Element> {
    let mut elements = Vec::new();
    for (first, last) in ranges {
        if elements.is_empty() && first.iter().any(|byte| *byte != 0) {
            elements.push(Element { ends_range: true, ..Element::plain(vec![0; first.len()]) });
        }
        elements.push(Element::plain(first));
        if let Some(behind) = successor(last) {
            elements.push(Element { ends_range: true, ..Element::plain(behind) });
        }
    }
    elements
}

/// The next key; `None` behind the last.
fn successor(mut key: Key) -> Option<Key> {
    for byte in key.iter_mut().rev() {
        *byte = byte.wrapping_add(1);
        if *byte != 0 {
            return Some(key);
        }
    }
    None
}
