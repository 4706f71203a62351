//! Somebody else's rules, reduced to what decides whether a packet is denied.

use std::collections::BTreeMap;

use super::packet::{Field, Hook};

/// The tables of others, as one list of chains.
#[derive(Clone, Debug, Default)]
pub(super) struct Ruleset {
    pub(super) chains: Vec<Chain>,
    /// By family, table and name.
    pub(super) sets: BTreeMap<(TableName, String), Elements>,
}

/// A table's family and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct TableName {
    pub(super) family: TableFamily,
    pub(super) name: String,
    /// Not of nftables: read from `iptables-legacy-save`.
    pub(super) is_legacy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum TableFamily {
    Ip,
    Ip6,
    Inet,
    Bridge,
    Netdev,
    Other(u8),
}

impl TableFamily {
    /// `NFPROTO_*`.
    pub(super) fn of(number: u8) -> Self {
        match number {
            1 => Self::Inet,
            2 => Self::Ip,
            5 => Self::Netdev,
            7 => Self::Bridge,
            10 => Self::Ip6,
            other => Self::Other(other),
        }
    }

    pub(super) fn number(self) -> u8 {
        match self {
            Self::Inet => 1,
            Self::Ip => 2,
            Self::Netdev => 5,
            Self::Bridge => 7,
            Self::Ip6 => 10,
            Self::Other(number) => number,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ip => "ip",
            Self::Ip6 => "ip6",
            Self::Inet => "inet",
            Self::Bridge => "bridge",
            Self::Netdev => "netdev",
            Self::Other(_) => "other",
        }
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.is_legacy, self.family) {
            (true, TableFamily::Ip6) => write!(f, "ip6tables-legacy table {}", self.name),
            (true, _) => write!(f, "iptables-legacy table {}", self.name),
            (false, family) => write!(f, "table {} {}", family.as_str(), self.name),
        }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) table: TableName,
    pub(super) name: String,
    pub(super) base: Option<Base>,
    pub(super) rules: Vec<Rule>,
}

/// How a chain hangs in the stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) hook: Hook,
    pub(super) priority: i32,
    pub(super) drops: bool,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Rule {
    pub(super) handle: Option<u64>,
    pub(super) comment: Option<String>,
    pub(super) steps: Vec<Step>,
    /// As it was written, where that is known.
    pub(super) text: Option<String>,
}

/// A register, by its first 32-bit word.
pub(super) type Register = u32;

/// One word of a rule. All must hold, then the last ones act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Load {
        to: Register,
        field: Field,
    },
    Set {
        to: Register,
        value: Vec<u8>,
    },
    Mask {
        from: Register,
        to: Register,
        mask: Vec<u8>,
        xor: Vec<u8>,
    },
    /// Something that isn't followed is written into registers.
    Forget,
    Compare {
        from: Register,
        differs: bool,
        value: Vec<u8>,
    },
    /// `from` is in a set, or isn't.
    Within {
        from: Register,
        set: String,
        inverted: bool,
    },
    /// The verdict that a map has for `from`.
    Map {
        from: Register,
        map: String,
    },
    Test(Test),
    /// A condition that isn't followed, by its name.
    Perhaps(String),
    WriteMark {
        from: Register,
    },
    Verdict(Verdict),
}

/// A condition of xtables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Test {
    State {
        bits: u32,
        inverted: bool,
    },
    Flags {
        mask: u8,
        value: u8,
        inverted: bool,
    },
    Protocol {
        number: u8,
        inverted: bool,
    },
    /// `1 << RTN_*` of what the address may be.
    AddressType {
        types: u32,
        inverted: bool,
    },
    /// `PACKET_*`.
    PacketType {
        number: u8,
        inverted: bool,
    },
    Address {
        is_source: bool,
        value: Vec<u8>,
        mask: Vec<u8>,
        inverted: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Accept,
    /// In the words of the rule: `drop`, `reject`, `queue`, ...
    Deny(String),
    Jump(String),
    Goto(String),
    Return,
    Continue,
}

/// What a set or a map holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// Keys stand for ranges, or are of a form that isn't followed.
    pub(super) is_vague: bool,
    pub(super) elements: Vec<(Vec<u8>, Option<Verdict>)>,
    /// There is an element for whatever no other stands for; in a map with what is to be done then.
    pub(super) otherwise: Option<Option<Verdict>>,
}
