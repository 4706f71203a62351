//! Protocols, ports and messages of a line, as the words of rules.

use std::collections::{BTreeMap, BTreeSet};

use sluice_policy::source::PortMatch;
use sluice_policy::table::{Line, LineAction, Quic, Where};
use sluice_policy::{IcmpFamily, Protocol};

use super::super::expr;
use super::super::object::{Family, Rule};
use super::super::site::Site;
use super::{Alternative, Auxiliary, Writer, contents, merge};

impl Writer<'_> {
    /// The alternatives for protocol and destination port, where names are checked or aren't.
    pub(super) fn ports_in(&mut self, ports: Option<&[PortMatch]>, place: Where) -> Vec<Alternative> {
        if place == Where::Anywhere {
            return self.ports(ports);
        }
        let both = [Protocol::Tcp, Protocol::Udp].map(|protocol| PortMatch::All { protocol });
        let mut alternatives = Vec::new();
        let mut narrowed: Vec<PortMatch> = Vec::new();
        for port in ports.unwrap_or(&both) {
            let wanted = self.wanted(port.protocol(), place);
            match port {
                PortMatch::All { protocol } => narrowed.extend(within(*protocol, &wanted, (0, u16::MAX))),
                PortMatch::Range { protocol, first, last } => narrowed.extend(within(*protocol, &wanted, (*first, *last))),
                PortMatch::Named { protocol, .. } => {
                    let named = self.ports(Some(std::slice::from_ref(port)));
                    let places = self.ports(Some(&within(*protocol, &wanted, (0, u16::MAX))));
                    for (named, place) in named.iter().flat_map(|named| places.iter().map(move |place| (named, place))) {
                        let words = [named.words.clone(), place.words.clone()].concat();
                        alternatives.push(Alternative { family: named.family, words });
                    }
                }
                PortMatch::Icmp(_) if place == Where::Checked => {}
                PortMatch::Icmp(_) => narrowed.push(port.clone()),
            }
        }
        if ports.is_none() && place != Where::Checked {
            let words = [expr::not_protocol(expr::TCP), expr::not_protocol(expr::UDP)].concat();
            alternatives.push(Alternative { family: None, words });
        }
        alternatives.extend(self.ports(Some(&narrowed)));
        alternatives
    }

    /// The ports of a protocol that are in a place.
    fn wanted(&self, protocol: Protocol, place: Where) -> Vec<(u128, u128)> {
        let checked = || ranges_of(&self.checked_ports);
        let quic = || ranges_of(&self.quic_ports);
        let inspects = self.quic == Quic::Inspect;
        match (place, protocol) {
            (Where::Checked, Protocol::Tcp) => checked(),
            (Where::Checked, Protocol::Udp) if inspects => quic(),
            (Where::Checked, _) => Vec::new(),
            (Where::Unchecked | Where::Elsewhere, Protocol::Tcp) => all_but(&checked()),
            (Where::Unchecked, Protocol::Udp) if inspects => all_but(&quic()),
            (Where::Elsewhere, Protocol::Udp) => all_but(&quic()),
            _ => all_but(&[]),
        }
    }

    /// What a rule that checks names would allow, if it weren't QUIC: the client hears at once that it can't be read, and falls back.
    /// Where QUIC is inspected, another line has taken what can be.
    pub(super) fn refuse_quic(&mut self, line: &Line) {
        // Also where the rule is for TCP alone: clients try QUIC beside TLS, at the same port.
        let quic = ranges_of(&self.quic_ports);
        let every = [PortMatch::All { protocol: Protocol::Udp }];
        // Who reads contents reads them over TCP alone.
        let is_inspected = self.quic == Quic::Inspect && line.action == LineAction::Allow;
        let of_port = |port: &PortMatch| match port {
            port if is_inspected && port.protocol() == Protocol::Udp => Vec::new(),
            PortMatch::All { protocol: Protocol::Udp | Protocol::Tcp } => within(Protocol::Udp, &quic, (0, u16::MAX)),
            PortMatch::Range { protocol: Protocol::Udp | Protocol::Tcp, first, last } => {
                within(Protocol::Udp, &quic, (*first, *last))
            }
            _ => Vec::new(),
        };
        let ports: BTreeSet<PortMatch> = line.ports.as_deref().unwrap_or(&every).iter().flat_map(of_port).collect();
        let ports: Vec<PortMatch> = ports.into_iter().collect();
        if ports.is_empty() {
            return;
        }
        let (peers, ports) = (self.peers(line.peers.as_deref()), self.ports(Some(&ports)));
        let comment = format!("QUIC hides its server name: {}", self.named(&[line.rule]));
        for (peer, port) in peers.iter().flat_map(|peer| ports.iter().map(move |port| (peer, port))) {
            let verdict = self.denied(Site::Unreadable);
            self.push(Rule::new([peer.words.clone(), port.words.clone()], &verdict).because(comment.clone()));
        }
    }

    /// The alternatives for protocol and destination port.
    pub(super) fn ports(&mut self, ports: Option<&[PortMatch]>) -> Vec<Alternative> {
        let Some(ports) = ports else {
            return vec![Alternative::anything()];
        };
        let mut alternatives = Vec::new();
        let mut by_protocol: BTreeMap<Protocol, Vec<(u128, u128)>> = BTreeMap::new();
        for port in ports {
            match port {
                PortMatch::All { protocol } => alternatives.extend(whole_protocol(*protocol)),
                // Only these three have ports; a port of another protocol can't be matched.
                PortMatch::Range { protocol, first, last } if protocol.has_ports() && first <= last => {
                    by_protocol.entry(*protocol).or_default().push((u128::from(*first), u128::from(*last)));
                }
                PortMatch::Range { .. } => {}
                PortMatch::Named { protocol, name } if protocol.has_ports() => {
                    for family in Family::BOTH {
                        let set = self.edition.named_port(*protocol, name, family);
                        let words = expr::destination_and_port_in(family, protocol.number(), &set);
                        let port = name.to_string();
                        self.rendered.sets.insert(set, Auxiliary::NamedPort { protocol: *protocol, port, family });
                        alternatives.push(Alternative { family: Some(family), words });
                    }
                }
                PortMatch::Named { .. } => {}
                PortMatch::Icmp(messages) => {
                    let family = match messages.family {
                        IcmpFamily::V4 => Family::V4,
                        IcmpFamily::V6 => Family::V6,
                    };
                    let words = expr::icmp_message(family, messages.kind, messages.code);
                    alternatives.push(Alternative { family: Some(family), words });
                }
            }
        }
        for (protocol, list) in by_protocol {
            let list: Vec<(u16, u16)> = merge(list).into_iter().map(|(a, b)| (to_port(a), to_port(b))).collect();
            let words = match list.as_slice() {
                [(first, last)] => expr::destination_port(protocol.number(), *first, *last),
                _ => {
                    let name = self.edition.name(&ports_name(&list));
                    self.rendered.sets.insert(name.clone(), Auxiliary::Ports(list));
                    expr::destination_port_in(protocol.number(), &name)
                }
            };
            alternatives.push(Alternative { family: None, words });
        }
        alternatives
    }
}

/// Ports, ascending, as ranges.
fn ranges_of(ports: &[u16]) -> Vec<(u128, u128)> {
    merge(ports.iter().map(|port| (u128::from(*port), u128::from(*port))).collect())
}

/// What of `ports` is wanted, all of them if that is all.
fn within(protocol: Protocol, wanted: &[(u128, u128)], (first, last): (u16, u16)) -> Vec<PortMatch> {
    let (first, last) = (u128::from(first), u128::from(last));
    let common = wanted.iter().map(|(from, to)| (*from.max(&first), *to.min(&last))).filter(|(from, to)| from <= to);
    common
        .map(|range| match range {
            (0, to) if to == u128::from(u16::MAX) => PortMatch::All { protocol },
            (from, to) => PortMatch::Range { protocol, first: to_port(from), last: to_port(to) },
        })
        .collect()
}

/// The ports that are in none of these ranges, which are ascending and don't touch.
fn all_but(ranges: &[(u128, u128)]) -> Vec<(u128, u128)> {
    let mut left = Vec::new();
    let mut from = 0;
    for (first, last) in ranges {
        if *first > from {
            left.push((from, first - 1));
        }
        from = last + 1;
    }
    if from <= u128::from(u16::MAX) {
        left.push((from, u128::from(u16::MAX)));
    }
    left
}

/// ICMP is one protocol to a policy and two numbers on the wire.
fn whole_protocol(protocol: Protocol) -> Vec<Alternative> {
    let numbers = match protocol {
        Protocol::Icmp => vec![expr::ICMP, expr::ICMPV6],
        other => vec![other.number()],
    };
    numbers.into_iter().map(|number| Alternative { family: None, words: expr::protocol(number) }).collect()
}

/// `ports_80_443_8000to8100`; a list too long for a name goes by its hash.
fn ports_name(list: &[(u16, u16)]) -> String {
    let word = |(first, last): &(u16, u16)| if first == last { first.to_string() } else { format!("{first}to{last}") };
    let joined = list.iter().map(word).collect::<Vec<_>>().join("_");
    if joined.len() <= 48 { format!("ports_{joined}") } else { format!("ports_{}", contents(&joined)) }
}

fn to_port(number: u128) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
