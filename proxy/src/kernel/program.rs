//! A program as chains: its lines in their order, one rule for each combination of peers' set, ports and family.
//!
//! | line | rule's last word |
//! |---|---|
//! | Allow | `return`: the base chain goes on with the other end's judgement |
//! | Inspect | `goto inspect`, which labels the flow and returns to the base chain: the other end may still deny it |
//! | Deny, and the end of a program that isolates | `goto denied` |
//! | Pass | `goto` the chain with the lower tiers' lines |
//!
//! A chain is entered by `jump` from the base chain alone, and left for another of the same program by `goto` alone, so that a
//! `return` always leads back to the base chain.
//!
//! The first rule closes what conntrack leaves open: it takes up TCP connections in the middle (`nf_conntrack_tcp_loose`), and a
//! SYN/ACK or an ACK that nobody asked for would begin a flow whose other direction is then "a reply". So TCP of an isolated pod
//! begins with a bare SYN, in whichever direction the pod is isolated.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_policy::snapshot::{Peer, ProgramId};
use sluice_policy::source::{PortMatch, Tier};
use sluice_policy::table::{Line, LineAction, Lines};
use sluice_policy::{Decision, Direction, Protocol, Table};

use super::expr::{self, Address, Expr};
use super::names::Edition;
use super::object::{Chain, Element, Family, Field, Rule, Set, SetKind, Verdict, octets, ranges};

/// The chains of a program, and the sets that its rules look into beside those of pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rendered {
    /// The first one is where the program begins.
    pub(super) chains: Vec<Chain>,
    pub(super) sets: BTreeMap<String, Auxiliary>,
}

/// A set that a rule needs and no selector gives. Named by its contents, so equal ones are shared and none is ever changed, but
/// for the pods that come and go behind a named port.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Auxiliary {
    Ports(Vec<(u16, u16)>),
    Addresses(Family, Vec<(IpAddr, IpAddr)>),
    NamedPort { protocol: Protocol, port: String, family: Family },
}

impl Auxiliary {
    pub(super) fn set(&self, name: &str) -> Set {
        match self {
            Self::Ports(_) => Set::new(name, &[Field::Port], SetKind::Interval),
            Self::Addresses(family, _) => Set::new(name, &[Field::Address(*family)], SetKind::Interval),
            Self::NamedPort { family, .. } => Set::new(name, &[Field::Address(*family), Field::Port], SetKind::Plain),
        }
    }

    /// What the set holds for good. A named port's elements come from the endpoints.
    pub(super) fn elements(&self) -> Vec<Element> {
        match self {
            Self::Ports(list) => {
                ranges(list.iter().map(|(first, last)| (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec())))
            }
            Self::Addresses(_, list) => ranges(list.iter().map(|(first, last)| (octets(*first), octets(*last)))),
            Self::NamedPort { .. } => Vec::new(),
        }
    }
}

/// `program` of `table` in `edition`.
pub(super) fn render(table: &Table, program: ProgramId, lines: &Lines, edition: Edition) -> Rendered {
    let mut writer = Writer { table, edition, direction: lines.direction, program, rendered: Rendered::default() };
    writer.begin_part();
    writer.push(Rule::new([expr::state(expr::NEW | expr::INVALID), expr::not_a_bare_syn()], &Verdict::Drop));
    let passes = lines.lines.iter().any(|line| line.action == LineAction::Pass);
    let mut previous: Option<Tier> = None;
    for line in &lines.lines {
        let new_tier = previous.is_some_and(|tier| std::mem::discriminant(&tier) != std::mem::discriminant(&line.tier));
        if passes && new_tier {
            writer.next_part();
        }
        previous = Some(line.tier);
        writer.line(line);
    }
    // A Pass in the last tier that has lines still needs somewhere to go: past all of them, to the default.
    if passes && lines.lines.last().is_some_and(|line| line.action == LineAction::Pass || is_admin(line.tier)) {
        writer.next_part();
    }
    writer.end(lines);
    writer.rendered
}

fn is_admin(tier: Tier) -> bool {
    matches!(tier, Tier::Admin { .. })
}

struct Writer<'t> {
    table: &'t Table,
    edition: Edition,
    direction: Direction,
    program: ProgramId,
    rendered: Rendered,
}

impl Writer<'_> {
    fn begin_part(&mut self) {
        let name = self.edition.program(self.direction, self.program, self.rendered.chains.len());
        self.rendered.chains.push(Chain { name, rules: Vec::new() });
    }

    fn next_part(&mut self) {
        self.push(Rule::new([], &Verdict::Goto(self.following_part())));
        self.begin_part();
    }

    fn following_part(&self) -> String {
        self.edition.program(self.direction, self.program, self.rendered.chains.len())
    }

    fn push(&mut self, rule: Rule) {
        let chain = self.rendered.chains.last_mut().expect("a part was begun before its rules");
        chain.rules.push(rule);
    }

    fn end(&mut self, lines: &Lines) {
        if lines.default != Decision::Deny {
            return;
        }
        let mut names = lines.isolated_by.iter().filter_map(|id| self.table.policy(*id)).map(|p| p.reference.to_string());
        let comment = match (names.next(), names.count()) {
            (None, _) => "isolated".to_owned(),
            (Some(one), 0) => format!("isolated by {one}"),
            (Some(one), others) => format!("isolated by {one} and {others} more"),
        };
        self.push(Rule::new([vec![expr::counter()]], &self.denied()).because(comment));
    }

    fn denied(&self) -> Verdict {
        Verdict::Goto(self.edition.name(super::base::DENIED))
    }

    fn line(&mut self, line: &Line) {
        let verdict = match line.action {
            LineAction::Allow => Verdict::Return,
            LineAction::Deny => self.denied(),
            LineAction::Inspect => Verdict::Goto(self.edition.name(super::base::INSPECT)),
            LineAction::Pass => Verdict::Goto(self.following_part()),
        };
        let comment = self.table.named(line.rule).map(|rule| rule.to_string()).unwrap_or_default();
        let peers = self.peers(line.peers.as_deref());
        let ports = self.ports(line.ports.as_deref());
        for peer in &peers {
            for port in ports.iter().filter(|port| agree(peer.family, port.family)) {
                let mut parts = vec![peer.words.clone(), port.words.clone()];
                // A denial is counted where it happens; an allow costs nothing more.
                if line.action == LineAction::Deny {
                    parts.push(vec![expr::counter()]);
                }
                self.push(Rule::new(parts, &verdict).because(comment.clone()));
            }
        }
    }

    fn peer_address(&self) -> Address {
        match self.direction {
            Direction::Egress => Address::Destination,
            Direction::Ingress => Address::Source,
        }
    }

    /// The alternatives for the other end's address.
    fn peers(&mut self, peers: Option<&[Peer]>) -> Vec<Alternative> {
        let Some(peers) = peers else {
            return vec![Alternative::anything()];
        };
        let address = self.peer_address();
        let mut alternatives = Vec::new();
        let mut blocks: [Vec<(u128, u128)>; 2] = Default::default();
        for peer in peers {
            match peer {
                Peer::Set(set) => alternatives.extend(Family::BOTH.map(|family| Alternative {
                    family: Some(family),
                    words: expr::address_in(family, address, &self.edition.pods(*set, family), false),
                })),
                Peer::Block { cidr, except } => blocks[usize::from(cidr.addr().is_ipv6())].extend(carve(cidr, except)),
            }
        }
        for (family, ranges) in Family::BOTH.into_iter().zip(blocks) {
            if ranges.is_empty() {
                continue;
            }
            let list: Vec<_> = merge(ranges).into_iter().map(|(a, b)| (to_ip(family, a), to_ip(family, b))).collect();
            let name = self.edition.sets_of(&block_name(&list), family);
            let words = expr::address_in(family, address, &name, false);
            self.rendered.sets.insert(name, Auxiliary::Addresses(family, list));
            alternatives.push(Alternative { family: Some(family), words });
        }
        alternatives
    }

    /// The alternatives for protocol and destination port.
    fn ports(&mut self, ports: Option<&[PortMatch]>) -> Vec<Alternative> {
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

/// One way in which a rule can match. Without a family it says nothing about addresses.
struct Alternative {
    family: Option<Family>,
    words: Vec<Expr>,
}

impl Alternative {
    fn anything() -> Self {
        Self { family: None, words: Vec::new() }
    }
}

fn agree(a: Option<Family>, b: Option<Family>) -> bool {
    a.is_none() || b.is_none() || a == b
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

/// `block_10.9.0.0-10.9.255.255`, with `_` for the colons of IPv6; a list too long for a name goes by its hash.
fn block_name(list: &[(IpAddr, IpAddr)]) -> String {
    let joined = list.iter().map(|(first, last)| format!("{first}-{last}")).collect::<Vec<_>>().join("/").replace(':', "_");
    if joined.len() <= 80 { format!("block_{joined}") } else { format!("block_{}", contents(&joined)) }
}

/// A name for contents that are too long to be one. Two lists with one name would let one policy's author choose another's ports,
/// so the hash must not be foreseeable: its keys are drawn at the process's start.
fn contents(text: &str) -> String {
    use std::hash::{BuildHasher, RandomState};
    use std::sync::OnceLock;
    static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
    let keys = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
    let [one, other] = keys;
    format!("{:08x}{:016x}", one.hash_one(text) >> 32, other.hash_one(text))
}

/// `cidr` without the parts that `except` names, as ascending ranges.
fn carve(cidr: &IpNet, except: &[IpNet]) -> Vec<(u128, u128)> {
    let (mut from, end) = bounds(cidr);
    let mut holes: Vec<_> = except.iter().filter(|hole| cidr.contains(*hole) || hole.contains(cidr)).map(bounds).collect();
    holes.sort_unstable();
    let mut left = Vec::new();
    for (first, last) in holes {
        if first > from {
            left.push((from, (first - 1).min(end)));
        }
        if last >= end {
            return left;
        }
        from = from.max(last + 1);
    }
    left.push((from, end));
    left
}

fn bounds(net: &IpNet) -> (u128, u128) {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(ip.to_bits()),
        IpAddr::V6(ip) => ip.to_bits(),
    };
    (number(net.network()), number(net.broadcast()))
}

/// Ascending ranges that neither overlap nor touch.
fn merge(mut list: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    list.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in list {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

fn to_ip(family: Family, number: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(u32::try_from(number).unwrap_or(u32::MAX).into()),
        Family::V6 => IpAddr::V6(number.into()),
    }
}

fn to_port(number: u128) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}
