//! What the table's chains, sets and maps are called.
//!
//! A whole replacement builds the new state beside the old one and then switches, so the two need different names: all but the
//! base chains and the revoked tuples carry an [`Edition`]. The first has no mark, the next one `_b`, and with each whole
//! replacement they take turns.

use sluice_policy::snapshot::{ProgramId, SetId};
use sluice_policy::{Direction, Protocol};

use super::bundle::BundleId;
use super::object::Family;
use super::site::Budget;

/// Which of the states that lie side by side in the table during a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edition(u8);

impl Edition {
    pub(super) const FIRST: Self = Self(0);

    /// The first edition that none of `names` belongs to. `None`: each has remains, and one of them may be in force.
    pub(super) fn unused<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Option<Self> {
        (0..26).map(Self).find(|edition| !names.clone().any(|name| edition.owns(name)))
    }

    /// Whether `name` is one that this edition gives.
    pub(super) fn owns(self, name: &str) -> bool {
        !is_permanent(name) && Self::of(name) == self
    }

    fn of(name: &str) -> Self {
        match name.as_bytes() {
            [.., b'_', letter @ b'b'..=b'z'] => Self(letter - b'a'),
            _ => Self::FIRST,
        }
    }

    /// `name` in this edition.
    pub(super) fn name(self, name: &str) -> String {
        match self.0 {
            0 => name.to_owned(),
            number => format!("{name}_{}", char::from(b'a' + number)),
        }
    }

    pub(super) fn sets_of(self, base: &str, family: Family) -> String {
        self.name(&format!("{base}_{}", family.as_str()))
    }

    /// The addresses of the pods that a selector matches.
    pub(super) fn pods(self, set: SetId, family: Family) -> String {
        self.sets_of(&format!("pods_{set}"), family)
    }

    /// The chain of a program. `part` counts from 0: a program with rules that pass to a lower tier has several.
    pub(super) fn program(self, direction: Direction, program: ProgramId, part: usize) -> String {
        match part {
            0 => self.name(&format!("{direction}_{program}")),
            _ => self.name(&format!("{direction}_{program}_tier{}", part + 1)),
        }
    }

    /// The set of a bundle.
    pub(super) fn bundle(self, id: BundleId, family: Family) -> String {
        let BundleId { direction, program, kind, number } = id;
        self.sets_of(&format!("{direction}_{program}_{}{number}", kind.as_str()), family)
    }

    /// Which chain judges a pod in this direction.
    pub(super) fn dispatch(self, direction: Direction, family: Family) -> String {
        self.sets_of(direction.as_str(), family)
    }

    /// Where a named port is found.
    pub(super) fn named_port(self, protocol: Protocol, port: &str, family: Family) -> String {
        // Names of ports are letters, digits and hyphens (RFC 6335), of which nft's names don't take the hyphen. A name that is
        // none gets its handle.
        let readable: String = port.chars().map(|c| if c == '-' { '_' } else { c }).collect();
        let plain = readable.len() <= 32 && readable.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        // What was changed could be another port's name: `a-b` and `a_b`.
        let name =
            if plain && readable == port { readable } else { format!("{}_{}", letters(&readable), super::comment::handle(port)) };
        self.sets_of(&format!("port_{}_{name}", protocol_word(protocol)), family)
    }
}

fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(16).collect()
}

/// `tcp`, `udp`, `sctp`, or the protocol's number.
pub(super) fn protocol_word(protocol: Protocol) -> String {
    match protocol {
        Protocol::Tcp => "tcp".to_owned(),
        Protocol::Udp => "udp".to_owned(),
        Protocol::Sctp => "sctp".to_owned(),
        other => format!("proto{}", other.number()),
    }
}

pub(super) const PREROUTING: &str = "prerouting";
pub(super) const OUTPUT: &str = "output";
pub(super) const FORWARD: &str = "forward";
/// The set whose one element says which of the controller's tables is in force.
pub(super) const STAND: &str = "stand";
/// The sets of revoked tuples outlive whole replacements.
pub(super) const REVOKED: &str = "revoked";

pub(super) fn revoked(family: Family) -> String {
    format!("{REVOKED}_{}", family.as_str())
}

/// Names that every edition shares.
pub(super) fn is_permanent(name: &str) -> bool {
    [PREROUTING, OUTPUT, FORWARD, STAND].contains(&name) || Family::BOTH.iter().any(|f| name == revoked(*f)) || Budget::owns(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn editions_take_turns() {
        let first = ["local_v4", "egress_7", "prerouting", "revoked_v4"];
        assert_eq!(Edition::unused([].into_iter()), Some(Edition::FIRST));
        let unused = |names: &[&str]| Edition::unused(names.iter().copied()).map(|edition| edition.name("local_v4"));
        assert_eq!(unused(&first).as_deref(), Some("local_v4_b"));
        assert_eq!(unused(&["local_v4_b", "prerouting"]).as_deref(), Some("local_v4"));
        assert_eq!(unused(&["local_v4_b", "local_v4"]).as_deref(), Some("local_v4_c"));
        let all: Vec<String> = (0..26).map(|number| Edition(number).name("local_v4")).collect();
        assert_eq!(Edition::unused(all.iter().map(String::as_str)), None, "no edition with remains is taken for a free one");
    }

    #[test]
    fn names_of_ports_stay_apart() {
        let name = |port: &str| Edition::FIRST.named_port(Protocol::Tcp, port, Family::V4);
        assert_eq!(name("http"), "port_tcp_http_v4");
        assert_ne!(name("a-b"), name("a_b"));
        assert_ne!(name("\u{1}\""), name("\u{2}\""));
        assert!(name("\"; drop").chars().all(|c| c.is_ascii_alphanumeric() || c == '_'));
    }
}
