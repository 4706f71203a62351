//! A program as chains: its lines in their order, one rule for each combination of peers' set, ports and family. Where many lines
//! with one action stand together, [`bundle`](super::bundle) makes few rules of them.
//!
//! | line | rule's last word |
//! |---|---|
//! | Allow | `return`: the base chain goes on with the other end's judgement |
//! | Inspect | `goto inspect_ingress` (or egress), which labels the flow and returns to the base chain: the other end may still deny it |
//! | Deny | `goto denied_ingress` (or egress) |
//! | the end of a program that isolates | `goto isolated_ingress` (or egress) |
//! | Pass | `goto` the chain with the lower tiers' lines |
//!
//! A chain is entered by `jump` from the base chain alone, and left for another of the same program by `goto` alone, so that a
//! `return` always leads back to the base chain.
//!
//! The first rule closes what conntrack leaves open: it takes up TCP connections in the middle (`nf_conntrack_tcp_loose`), and a
//! SYN/ACK or an ACK that nobody asked for would begin a flow whose other direction is then "a reply". So TCP of an isolated pod
//! begins with a bare SYN, in whichever direction the pod is isolated.

mod ports;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_policy::snapshot::{Peer, ProgramId, SetId};
use sluice_policy::source::{Named, PortMatch, Tier};
use sluice_policy::table::{Line, LineAction, Lines, Quic, Where};
use sluice_policy::verdict::RuleId;
use sluice_policy::{Decision, Direction, Protocol, Table};

use super::bundle::{self, Bundle, BundleId, BundleKind, Group};
use super::expr::{self, Address, Expr};
use super::names::Edition;
use super::object::{Chain, Element, Family, Field, Rule, Set, SetKind, Verdict, octets, ranges};
use super::site::Site;
use super::told;

/// The chains of a program, and the sets that its rules look into beside those of pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rendered {
    /// The first one is where the program begins.
    pub(super) chains: Vec<Chain>,
    pub(super) sets: BTreeMap<String, Auxiliary>,
    /// What the sets of bundles hold.
    pub(super) bundles: Vec<Bundle>,
    /// Rules that count, in the order of chains and rules.
    pub(super) counted: Vec<Counted>,
}

/// What a rule counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Counted {
    /// Which of the program's chains, and which of its rules.
    pub(super) chain: usize,
    pub(super) rule: usize,
    pub(super) action: LineAction,
    /// One of these matched. None: the program isolates, and none matched.
    pub(super) rules: Vec<RuleId>,
}

/// A set that a rule needs and no selector gives. Named by its contents, so equal ones are shared and none is ever changed, but
/// for the pods that come and go behind a named port.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Auxiliary {
    Ports(Vec<(u16, u16)>),
    Addresses(Family, Vec<(IpAddr, IpAddr)>),
    NamedPort {
        protocol: Protocol,
        port: String,
        family: Family,
    },
    /// Goes by its program's name, and its elements come and go.
    Bundle(BundleId, Family),
    /// Pods and the addresses that they were told of these names. Elements come and go by themselves.
    Names(Arc<Named>, Family),
}

impl Auxiliary {
    pub(super) fn set(&self, name: &str) -> Set {
        match self {
            Self::Ports(_) => Set::new(name, &[Field::Port], SetKind::Interval),
            Self::Addresses(family, _) => Set::new(name, &[Field::Address(*family)], SetKind::Interval),
            Self::NamedPort { family, .. } => Set::new(name, &[Field::Address(*family), Field::Port], SetKind::Plain),
            Self::Bundle(id, family) => id.kind.set(name, *family),
            Self::Names(_, family) => told::set(name, *family),
        }
    }

    /// What the set holds for good. A named port's and a bundle's elements come from the endpoints.
    pub(super) fn elements(&self) -> Vec<Element> {
        match self {
            Self::Ports(list) => {
                ranges(list.iter().map(|(first, last)| (first.to_be_bytes().to_vec(), last.to_be_bytes().to_vec())))
            }
            Self::Addresses(_, list) => ranges(list.iter().map(|(first, last)| (octets(*first), octets(*last)))),
            Self::NamedPort { .. } | Self::Bundle(..) | Self::Names(..) => Vec::new(),
        }
    }
}

/// `program` of `table` in `edition`. More than `in_series` lines of one action become a bundle.
pub(super) fn render(table: &Table, program: ProgramId, lines: &Lines, edition: Edition, in_series: usize) -> Rendered {
    let mut writer = Writer {
        table,
        edition,
        direction: lines.direction,
        program,
        checked_ports: lines.checked_ports.clone(),
        quic_ports: lines.quic_ports.clone(),
        quic: lines.quic,
        rendered: Rendered::default(),
        room: bundle::MOST_ELEMENTS,
    };
    writer.begin_part();
    writer.push(Rule::new([expr::state(expr::NEW | expr::INVALID), expr::not_a_bare_syn()], &Verdict::Drop));
    let passes = lines.lines.iter().any(|line| line.action == LineAction::Pass);
    let mut previous: Option<Tier> = None;
    // Look-ups never come here: they are diverted before anything is judged.
    let judged: Vec<Line> = lines.lines.iter().filter(|line| !line.reads.is_lookup()).cloned().collect();
    for run in judged.chunk_by(|a, b| a.action == b.action && same_tier(a.tier, b.tier)) {
        let tier = run[0].tier;
        if passes && previous.is_some_and(|previous| !same_tier(previous, tier)) {
            writer.next_part();
        }
        previous = Some(tier);
        // Which of them matches first makes no difference.
        let (plain, by_name): (Vec<Line>, Vec<Line>) = run.iter().cloned().partition(is_plain);
        if plain.len() > in_series {
            writer.bundle(&plain);
        } else {
            plain.iter().for_each(|line| writer.line(line));
        }
        by_name.iter().for_each(|line| writer.line(line));
    }
    // A Pass in the last tier that has lines still needs somewhere to go: past all of them, to the default.
    if lines.lines.iter().any(|line| line.action == LineAction::Pass && previous.is_some_and(|last| same_tier(last, line.tier))) {
        writer.next_part();
    }
    writer.end(lines);
    writer.rendered
}

/// Whether addresses of the table and ports are all that a line asks.
fn is_plain(line: &Line) -> bool {
    line.place == Where::Anywhere && !line.peers.iter().flatten().any(|peer| matches!(peer, Peer::Names(_) | Peer::Resolvers))
}

/// Whatever the priority.
fn same_tier(a: Tier, b: Tier) -> bool {
    std::mem::discriminant(&a) == std::mem::discriminant(&b)
}

struct Writer<'t> {
    table: &'t Table,
    edition: Edition,
    direction: Direction,
    program: ProgramId,
    /// Where names are checked.
    checked_ports: Arc<[u16]>,
    /// Where QUIC is refused or inspected.
    quic_ports: Arc<[u16]>,
    quic: Quic,
    rendered: Rendered,
    /// For so many more elements of bundles.
    room: usize,
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
        lines.lines.iter().filter(|line| line.place == Where::Elsewhere).for_each(|line| self.refuse_quic(line));
        let mut names = lines.isolated_by.iter().filter_map(|id| self.table.policy(*id)).map(|p| p.reference.to_string());
        let comment = match (names.next(), names.count()) {
            (None, _) => "isolated".to_owned(),
            (Some(one), 0) => format!("isolated by {one}"),
            (Some(one), others) => format!("isolated by {one} and {others} more"),
        };
        self.count(LineAction::Deny, &[]);
        self.push(Rule::new([vec![expr::counter()]], &self.denied(Site::Isolated)).because(comment));
    }

    fn denied(&self, site: fn(Direction) -> Site) -> Verdict {
        super::denied::goto(site(self.direction), self.edition)
    }

    /// Notes what the next rule counts.
    fn count(&mut self, action: LineAction, rules: &[RuleId]) {
        let chain = self.rendered.chains.len() - 1;
        let rule = self.rendered.chains[chain].rules.len();
        self.rendered.counted.push(Counted { chain, rule, action, rules: rules.to_vec() });
    }

    fn line(&mut self, line: &Line) {
        let peers = self.peers(line.peers.as_deref());
        let ports = self.ports_in(line.ports.as_deref(), line.place);
        self.rules(&[line.rule], line.action, &peers, &ports);
    }

    /// A rule for each way in which a line can match.
    fn rules(&mut self, rules: &[RuleId], action: LineAction, peers: &[Alternative], ports: &[Alternative]) {
        let verdict = match action {
            LineAction::Allow => Verdict::Return,
            LineAction::Deny => self.denied(Site::Denied),
            LineAction::Inspect => Verdict::Goto(self.edition.name(&super::base::inspect_of(self.direction))),
            LineAction::Pass => Verdict::Goto(self.following_part()),
        };
        let comment = self.named(rules);
        for peer in peers {
            for port in ports.iter().filter(|port| agree(peer.family, port.family)) {
                let parts = [peer.words.clone(), port.words.clone(), vec![expr::counter()]];
                self.count(action, rules);
                self.push(Rule::new(parts, &verdict).because(comment.clone()));
            }
        }
    }

    fn named(&self, rules: &[RuleId]) -> String {
        let Some(name) = rules.first().and_then(|rule| self.table.named(*rule)) else { return String::new() };
        match rules.len() {
            1 => name.to_string(),
            many => format!("{many} rules, {name} among them"),
        }
    }

    /// Lines of one action, and few rules.
    fn bundle(&mut self, lines: &[Line]) {
        let action = lines[0].action;
        let table = self.table;
        // Counted no further than there is room.
        let size = |set| table.addresses(set).take(bundle::MOST_ELEMENTS + 1).count();
        let mut room = self.room;
        let sorted = bundle::sort(lines, size, &mut room);
        let anyone = [Alternative::anything()];
        let all = |rules: &BTreeSet<RuleId>| rules.iter().copied().collect::<Vec<_>>();
        if !sorted.everyone.anywhere.is_empty() {
            self.rules(&all(&sorted.everyone.anywhere), action, &anyone, &anyone);
        }
        let ports: Vec<PortMatch> = sorted.everyone.ports.into_iter().collect();
        let ports = self.ports(Some(&ports));
        self.rules(&all(&sorted.everyone.rules), action, &anyone, &ports);
        if !sorted.pairs.is_empty() {
            let peers = self.bundled(BundleKind::Pairs, sorted.pairs);
            self.rules(&all(&sorted.pairs_rules), action, &peers, &anyone);
        }
        for (ports, Group { sets, blocks, rules }) in sorted.groups {
            let elements = sets.iter().map(|set| size(*set)).sum::<usize>();
            let left = room.checked_sub(elements).filter(|_| sets.len() > 1);
            let mut peers = blocks;
            if left.is_none() {
                peers.extend(sets.iter().map(|set| Peer::Set(*set)));
            }
            let mut peers = self.peers(Some(&peers));
            if let Some(left) = left {
                room = left;
                let members = sets.into_iter().map(|set| (set, BTreeSet::new())).collect();
                peers.extend(self.bundled(BundleKind::Union, members));
            }
            let ports = self.ports(ports.as_deref());
            self.rules(&all(&rules), action, &peers, &ports);
        }
        self.room = room;
    }

    fn bundled(&mut self, kind: BundleKind, members: BTreeMap<SetId, BTreeSet<bundle::Pair>>) -> Vec<Alternative> {
        let (direction, program) = (self.direction, self.program);
        let number = self.rendered.bundles.iter().filter(|bundle| bundle.id.kind == kind).count();
        let id = BundleId { direction, program, kind, number };
        self.rendered.bundles.push(Bundle { id, members });
        let address = self.peer_address();
        Family::BOTH
            .map(|family| {
                let name = self.edition.bundle(id, family);
                let words = match kind {
                    BundleKind::Pairs => expr::address_protocol_and_port_in(family, address, &name),
                    BundleKind::Union => expr::address_in(family, address, &name, false),
                };
                self.rendered.sets.insert(name, Auxiliary::Bundle(id, family));
                Alternative { family: Some(family), words }
            })
            .into()
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
                Peer::Names(named) => alternatives.extend(Family::BOTH.into_iter().flat_map(|family| {
                    let name = told::set_name(self.edition, named, family, contents);
                    let told = expr::both_addresses_in(family, &name);
                    // A name may lead to a Service, whose address is translated by now.
                    let of_service = named.allow_private.then(|| expr::source_and_asked_in(family, &name));
                    self.rendered.sets.insert(name, Auxiliary::Names(named.clone(), family));
                    [told].into_iter().chain(of_service).map(move |words| Alternative { family: Some(family), words })
                })),
                // Of look-ups alone, which never come here.
                Peer::Resolvers => {}
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
