//! The lines that a rule becomes. Most rules are one; those by name are several:
//!
//! | rule | line | decides |
//! |---|---|---|
//! | allow, with peers by name | those peers, where names aren't checked | as the rule: allow, or by contents |
//! | | those that are checked, on checked ports | by the server name or Host, and by contents if the rule has them |
//! | | the same, on the ports of QUIC, where it is inspected | by the server name; nothing where the rule has contents |
//! | | the resolvers, port 53 | by the look-up: the rule's names may be asked for |
//! | deny, with peers by name | those peers, where names aren't checked | as the rule |
//! | | everyone, on checked ports, and on those of QUIC where it is inspected | by the server name or Host, wherever the connection goes |
//! | | everyone, port 53 | by the look-up: the rule's names may not be asked for |
//! | either, with `dns` | its peers, on ports that are few | by the look-up |
//! | deny, with `dns` | its peers, on the other ports | as the rule |
//!
//! All that contents decide is spoken over TCP alone, but look-ups and the server names of QUIC.

use std::sync::Arc;

use super::{Line, LineAction, NameSettings, Quic, Reads, Where};
use crate::flow::{Direction, Protocol};
use crate::snapshot::{Peer, PolicyId, Rule};
use crate::source::{Action, L7, Named, PortMatch, Tier};
use crate::verdict::RuleId;

/// Where look-ups are asked, over UDP and TCP (RFC 1035 section 4.2).
pub const DNS_PORT: u16 = 53;

/// In one range of ports: of each pod, each is an element of a set in the kernel.
pub const MOST_LOOKUP_PORTS: u16 = 16;

/// Makes the lines of one rule, each with whether it reads anything.
pub(super) struct Maker<'a> {
    pub(super) settings: &'a NameSettings,
    pub(super) policy: PolicyId,
    pub(super) tier: Tier,
    pub(super) number: u16,
}

impl Maker<'_> {
    pub(super) fn lines(&self, rule: &Rule) -> Vec<Line> {
        let mut lines = Vec::new();
        let Some(contents) = contents(rule) else { return lines };
        let (named, others) = by_name(rule.peers.as_deref());
        if let Contents::Read(Reads::LookUp) = contents {
            let to =
                |ports| Line { ports: Some(ports), ..self.line(rule, rule.peers.clone(), Where::Anywhere, contents.clone()) };
            let (asked, beyond) = lookup_ports(rule.ports.as_deref());
            let is_deny = rule.action == Action::Deny;
            if is_deny && (!beyond.is_empty() || rule.ports.is_none()) {
                let ports = rule.ports.is_some().then_some(beyond);
                lines.push(Line { ports, action: LineAction::Deny, reads: Reads::Nothing, ..to(Vec::new()) });
            }
            lines.push(to(asked));
        } else if rule.peers.is_none() || others.as_ref().is_some_and(|others| !others.is_empty()) || named.is_empty() {
            lines.push(self.line(rule, others, Where::Anywhere, contents.clone()));
        }
        if named.is_empty() || rule.direction == Direction::Ingress || matches!(contents, Contents::Read(Reads::LookUp)) {
            return lines;
        }
        let is_checked = |named: &Arc<Named>| named.name_check && !self.settings.checked_ports.is_empty();
        let (checked, unchecked): (Vec<_>, Vec<_>) = named.iter().cloned().partition(is_checked);
        let peers = |named: &[Arc<Named>]| Some(named.iter().cloned().map(Peer::Names).collect());
        if !unchecked.is_empty() {
            lines.push(self.line(rule, peers(&unchecked), Where::Anywhere, contents.clone()));
        }
        if !checked.is_empty() {
            let elsewhere = if rule.action == Action::Deny { Where::Unchecked } else { Where::Elsewhere };
            lines.push(self.line(rule, peers(&checked), elsewhere, contents.clone()));
            let to = if rule.action == Action::Deny { None } else { peers(&checked) };
            let reads = match &contents {
                Contents::No => Reads::Name(checked.into()),
                Contents::Read(_) => Reads::NameAndContents(checked.into()),
            };
            lines.push(self.line(rule, to, Where::Checked, Contents::Read(reads)));
        }
        if rule.action != Action::Pass {
            let to = if rule.action == Action::Deny { None } else { Some(vec![Peer::Resolvers]) };
            let asked = Contents::Read(Reads::NamesAsked(named.into()));
            let ports = [Protocol::Udp, Protocol::Tcp].map(|protocol| one_port(protocol, DNS_PORT));
            lines.push(Line { ports: Some(ports.into()), ..self.line(rule, to, Where::Anywhere, asked) });
        }
        lines
    }

    fn line(&self, rule: &Rule, peers: Option<Vec<Peer>>, place: Where, contents: Contents) -> Line {
        let action = match (&contents, rule.action) {
            (Contents::Read(_), _) => LineAction::Inspect,
            (Contents::No, Action::Allow) => LineAction::Allow,
            (Contents::No, Action::Deny) => LineAction::Deny,
            (Contents::No, Action::Pass) => LineAction::Pass,
        };
        let ports = match &contents {
            Contents::Read(Reads::LookUp | Reads::NamesAsked(_)) | Contents::No => rule.ports.clone(),
            Contents::Read(Reads::Name(_)) if self.settings.quic == Quic::Inspect => {
                Some(only(&[Protocol::Tcp, Protocol::Udp], rule.ports.as_deref()))
            }
            Contents::Read(_) => Some(only(&[Protocol::Tcp], rule.ports.as_deref())),
        };
        let reads = match contents {
            Contents::No => Reads::Nothing,
            Contents::Read(reads) => reads,
        };
        let id = RuleId { policy: self.policy, rule: self.number, item: None };
        Line { rule: id, tier: self.tier, peers, ports, place, action, reads }
    }
}

/// What a rule asks beyond addresses and ports.
#[derive(Clone)]
enum Contents {
    No,
    Read(Reads),
}

/// `None`: the rule can't match. An L7 part none of whose items could be read allows nothing, and its flow need not be read.
fn contents(rule: &Rule) -> Option<Contents> {
    // Look-ups are judged where they are asked.
    let is_unread = |l7: &L7| l7.is_empty() || matches!(l7, L7::Dns(_)) && rule.direction == Direction::Ingress;
    match (&rule.l7, rule.action) {
        (None, _) => Some(Contents::No),
        (Some(l7), Action::Deny) if is_unread(l7) => Some(Contents::No),
        (Some(l7), _) if is_unread(l7) => None,
        (Some(L7::Dns(_)), _) => Some(Contents::Read(Reads::LookUp)),
        (Some(_), _) => Some(Contents::Read(Reads::Contents)),
    }
}

/// The ports of a `dns` rule at which look-ups are diverted and judged, and the others: there, nobody reads.
fn lookup_ports(ports: Option<&[PortMatch]>) -> (Vec<PortMatch>, Vec<PortMatch>) {
    let Some(ports) = ports else { return ([Protocol::Udp, Protocol::Tcp].map(|p| one_port(p, DNS_PORT)).into(), Vec::new()) };
    ports.iter().cloned().partition(|port| match port {
        PortMatch::Range { protocol: Protocol::Udp | Protocol::Tcp, first, last } => {
            last.checked_sub(*first).is_some_and(|more| more < MOST_LOOKUP_PORTS)
        }
        _ => false,
    })
}

/// The peers by name, and the others.
fn by_name(peers: Option<&[Peer]>) -> (Vec<Arc<Named>>, Option<Vec<Peer>>) {
    let Some(peers) = peers else { return (Vec::new(), None) };
    let mut named = Vec::new();
    let mut others = Vec::new();
    for peer in peers {
        match peer {
            Peer::Names(names) => named.push(names.clone()),
            other => others.push(other.clone()),
        }
    }
    (named, Some(others))
}

fn only(protocols: &[Protocol], ports: Option<&[PortMatch]>) -> Vec<PortMatch> {
    match ports {
        None => protocols.iter().map(|protocol| PortMatch::All { protocol: *protocol }).collect(),
        Some(ports) => ports.iter().filter(|port| protocols.contains(&port.protocol())).cloned().collect(),
    }
}

fn one_port(protocol: Protocol, port: u16) -> PortMatch {
    PortMatch::Range { protocol, first: port, last: port }
}
