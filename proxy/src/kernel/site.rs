//! Where the kernel ends a packet, and what it says of it: the words of chains, counters, log lines and records in one place.
//!
//! Each [`Site`] is a chain of its own (see [`denied`](super::denied)), which counts every packet, reports some of them by NFLOG
//! and then drops. The log's prefix names the site, so that a record says why although the rules may have changed since.
//!
//! Reports are rationed. What shares a ration ([`Budget`]) shares a set in the kernel, in which each pod's address, or each
//! interface, has a counter and a limit of its own:
//!
//! | site | counted and limited by | why |
//! |---|---|---|
//! | a policy's denial | the pod's own address, each direction apart | Its source was checked, or it is the destination: one element per local pod. A stranger who knocks at a pod doesn't use up what the pod itself may report. |
//! | all others | the interface by which it came | Their addresses may be forged, a new one in each packet. |

use std::net::IpAddr;

use sluice_policy::{Direction, Reason};

use super::object::Family;

/// What the kernel found of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Site {
    /// No rule of the policies that isolate the pod allows it.
    Isolated(Direction),
    /// A rule denies it.
    Denied(Direction),
    /// It would have to be read, and only TCP can be.
    Unreadable(Direction),
    /// Its source is not behind the interface it came by, or is a local pod's and came from outside.
    Forged,
    /// It says itself which way it wants to go.
    SourceRouted,
    /// It is for the node's loopback and came from outside the node.
    ToLoopback,
    /// It is from or to a pod that the table doesn't know.
    Unknown,
    /// It is for the proxy, and nobody listens there.
    Unheard,
    /// It is a look-up, of a pod that asks more of them than it may.
    Flood,
    /// It is for the proxy, and its flow can't be labelled so.
    Untracked,
    /// Two pods claim one of its addresses.
    Conflict,
    /// Its flow was ended by a change of policies.
    Revoked,
    /// It begins a flow that is allowed. A pod's egress, or else its ingress.
    Passed(Direction),
    /// The same, of a pod that an Audit policy selects: to be judged a second time.
    Audited(Direction),
}

/// Who shares a ration of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Budget {
    /// Denials of a pod in one direction, by its address.
    Pod(Direction),
    /// Everything else that is dropped, by interface.
    Interface,
    /// What a pod was allowed in one direction, by its address.
    Passed(Direction),
    /// The same, for the sake of Audit policies.
    Audited(Direction),
}

/// Whose ration it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    Address(IpAddr),
    Interface(u32),
}

const EGRESS: Direction = Direction::Egress;
const INGRESS: Direction = Direction::Ingress;

impl Site {
    pub const ALL: [Self; 19] = [
        Self::Isolated(EGRESS),
        Self::Isolated(INGRESS),
        Self::Denied(EGRESS),
        Self::Denied(INGRESS),
        Self::Unreadable(EGRESS),
        Self::Unreadable(INGRESS),
        Self::Forged,
        Self::SourceRouted,
        Self::ToLoopback,
        Self::Unknown,
        Self::Unheard,
        Self::Flood,
        Self::Untracked,
        Self::Conflict,
        Self::Revoked,
        Self::Passed(EGRESS),
        Self::Passed(INGRESS),
        Self::Audited(EGRESS),
        Self::Audited(INGRESS),
    ];

    /// Those that drop.
    pub fn denials() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|site| !matches!(site, Self::Passed(_) | Self::Audited(_)))
    }

    /// Why it was dropped; `None`: it was not.
    pub const fn reason(self) -> Option<Reason> {
        Some(match self {
            Self::Isolated(_) => Reason::NoRuleMatched,
            Self::Denied(_) => Reason::DeniedByRule,
            Self::Unreadable(_) => Reason::NotTheProtocol,
            Self::Forged => Reason::ForgedSource,
            Self::SourceRouted => Reason::SourceRouted,
            Self::ToLoopback => Reason::ToLoopback,
            Self::Unknown => Reason::UnknownPod,
            Self::Unheard => Reason::ProxyNotListening,
            Self::Flood => Reason::TooManyConnections,
            Self::Untracked => Reason::NotTracked,
            Self::Conflict => Reason::AddressConflict,
            Self::Revoked => Reason::PolicyChanged,
            Self::Passed(_) | Self::Audited(_) => return None,
        })
    }

    /// Which end's policies decided, where policies did.
    pub const fn direction(self) -> Option<Direction> {
        match self {
            Self::Isolated(direction)
            | Self::Denied(direction)
            | Self::Unreadable(direction)
            | Self::Passed(direction)
            | Self::Audited(direction) => Some(direction),
            _ => None,
        }
    }

    pub const fn budget(self) -> Budget {
        match self {
            Self::Isolated(direction) | Self::Denied(direction) | Self::Unreadable(direction) => Budget::Pod(direction),
            Self::Passed(direction) => Budget::Passed(direction),
            Self::Audited(direction) => Budget::Audited(direction),
            _ => Budget::Interface,
        }
    }

    /// The chain's name without its edition, and the counter's.
    pub(super) fn name(self) -> String {
        let word = match self {
            Self::Isolated(_) => "isolated",
            Self::Denied(_) => "denied",
            Self::Unreadable(_) => "unreadable",
            Self::Forged => "forged_source",
            Self::SourceRouted => "source_routed",
            Self::ToLoopback => "to_loopback",
            Self::Unknown => "unknown_pod",
            Self::Unheard => "not_listening",
            Self::Flood => "too_many_look_ups",
            Self::Untracked => "not_tracked",
            Self::Conflict => "address_conflict",
            Self::Revoked => "revoked_flow",
            Self::Passed(_) => "passed",
            Self::Audited(_) => "audited",
        };
        match self.direction() {
            Some(direction) => format!("{word}_{direction}"),
            None => word.to_owned(),
        }
    }

    /// The prefix of its log lines: `sluice NoRuleMatched egress`.
    pub(super) fn prefix(self) -> String {
        let word = match self {
            Self::Audited(_) => "Audited",
            _ => self.reason().map_or("Allowed", Reason::as_str),
        };
        match self.direction() {
            Some(direction) => format!("sluice {word} {direction}"),
            None => format!("sluice {word}"),
        }
    }

    /// The site whose log line begins so.
    pub(super) fn of_prefix(prefix: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|site| site.prefix().as_bytes() == prefix)
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|site| site.name() == name)
    }
}

impl Budget {
    /// Those of what is dropped.
    pub(super) const DENIALS: [Self; 3] = [Self::Pod(EGRESS), Self::Pod(INGRESS), Self::Interface];
    /// Those of what passes.
    pub(super) const PASSED: [Self; 2] = [Self::Passed(EGRESS), Self::Passed(INGRESS)];
    /// Those of what is judged a second time.
    pub const AUDITED: [Self; 2] = [Self::Audited(EGRESS), Self::Audited(INGRESS)];
    pub const ALL: [Self; 7] = [
        Self::Pod(EGRESS),
        Self::Pod(INGRESS),
        Self::Interface,
        Self::Passed(EGRESS),
        Self::Passed(INGRESS),
        Self::Audited(EGRESS),
        Self::Audited(INGRESS),
    ];

    /// The set of each family; the interfaces' is one for both.
    pub(super) fn sets(self) -> Vec<(Option<Family>, String)> {
        match self {
            Self::Interface => vec![(None, "reported_interfaces".to_owned())],
            _ => Family::BOTH.map(|family| (Some(family), self.set(family))).into(),
        }
    }

    pub(super) fn set(self, family: Family) -> String {
        match self {
            Self::Pod(direction) => format!("reported_{direction}_{}", family.as_str()),
            Self::Passed(direction) => format!("reported_passed_{direction}_{}", family.as_str()),
            Self::Audited(direction) => format!("reported_audited_{direction}_{}", family.as_str()),
            Self::Interface => "reported_interfaces".to_owned(),
        }
    }

    /// Whether a set of this name is any budget's.
    pub(super) fn owns(name: &str) -> bool {
        Self::ALL.into_iter().any(|budget| budget.sets().iter().any(|(_, set)| set == name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_word_is_one_sites_alone() {
        for site in Site::ALL {
            assert_eq!(Site::of_prefix(site.prefix().as_bytes()), Some(site));
            assert_eq!(Site::of_name(&site.name()), Some(site));
            assert!(site.prefix().len() < 128, "what the kernel takes");
        }
        let names: BTreeSet<String> = Site::ALL.into_iter().map(Site::name).collect();
        assert_eq!(names.len(), Site::ALL.len());
        assert_eq!(Site::of_prefix(b"sluice NoRuleMatched"), None);
        assert_eq!(Site::of_prefix(b"\xff"), None);
    }
}
