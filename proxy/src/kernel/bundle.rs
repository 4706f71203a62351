//! Many lines as few look-ups.
//!
//! A thousand policies that select one pod are a thousand lines of its program, and tried one after the other they cost a new
//! connection most of its time. But lines that stand together and do the same may be tried in any order, or all at once. So where
//! more than [`Config::in_series`](super::Config::in_series) of them do, they become at most a few rules:
//!
//! | lines | one rule |
//! |---|---|
//! | from pods to single ports | `ip saddr . meta l4proto . th dport @ingress_7_pairs0_v4`: whoever may reach which port |
//! | from pods to the same ranges, names, protocols or to everything | `ip saddr @ingress_7_union0_v4 ...` |
//! | from address blocks to the same ports | one set of ranges |
//! | from everyone | one set of ports for each protocol |
//!
//! What stays in series are the different lists of ranges and names, and the different lists of ports of address blocks.
//!
//! The sets hold the addresses of pods, which come and go: [`Index`] finds from a selector's set the bundles that it is part of,
//! so that a pod's change costs what the pod is part of, and a policy's what its peers are.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashMap;
use sluice_policy::snapshot::{Peer, ProgramId, SetId};
use sluice_policy::source::PortMatch;
use sluice_policy::table::Line;
use sluice_policy::verdict::RuleId;
use sluice_policy::{Direction, Protocol};

use super::object::{Family, Field, Key, Set, SetKind, concatenation};

/// The elements of one program's bundles are at most so many when it is written; what is beyond stays in series. Who writes a
/// policy chooses how often the addresses of a selector are held.
pub(super) const MOST_ELEMENTS: usize = 32_768;

/// Protocol and port.
pub(super) type Pair = (Protocol, u16);

/// Which bundle of which program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct BundleId {
    pub(super) direction: Direction,
    pub(super) program: ProgramId,
    pub(super) kind: BundleKind,
    /// Counts the program's bundles of this kind from 0.
    pub(super) number: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum BundleKind {
    /// Address, protocol and port.
    Pairs,
    /// Addresses alone.
    Union,
}

impl BundleKind {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Union => "union",
        }
    }

    pub(super) fn set(self, name: &str, family: Family) -> Set {
        let address = Field::Address(family);
        match self {
            Self::Pairs => Set::new(name, &[address, Field::Protocol, Field::Port], SetKind::Plain),
            Self::Union => Set::new(name, &[address], SetKind::Plain),
        }
    }
}

/// A bundle: of which selectors' sets it holds the addresses, and with which ports. A union has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) id: BundleId,
    pub(super) members: BTreeMap<SetId, BTreeSet<Pair>>,
}

/// What an address of a selector's set has in a bundle.
pub(super) fn keys(id: BundleId, address: &Key, pairs: &BTreeSet<Pair>) -> Vec<Key> {
    match id.kind {
        BundleKind::Union => vec![address.clone()],
        BundleKind::Pairs => pairs
            .iter()
            .map(|(protocol, port)| concatenation([address.as_slice(), &[protocol.number()], &port.to_be_bytes()]))
            .collect(),
    }
}

/// Lines of one action, sorted by how they can be looked up.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    /// From everyone.
    pub(super) everyone: Everyone,
    /// From pods to single ports.
    pub(super) pairs: BTreeMap<SetId, BTreeSet<Pair>>,
    pub(super) pairs_rules: BTreeSet<RuleId>,
    /// All else, by their ports.
    pub(super) groups: BTreeMap<Option<Vec<PortMatch>>, Group>,
}

#[derive(Debug, Default)]
pub(super) struct Everyone {
    /// To every port.
    pub(super) anywhere: BTreeSet<RuleId>,
    pub(super) ports: BTreeSet<PortMatch>,
    pub(super) rules: BTreeSet<RuleId>,
}

/// Lines with the same ports.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) sets: BTreeSet<SetId>,
    pub(super) blocks: Vec<Peer>,
    pub(super) rules: BTreeSet<RuleId>,
}

/// Sorts lines of one action and one tier. Which of them matches first makes no difference.
///
/// `size` says how many addresses a set has, `room` how many elements may be made; what is left of it is yielded too.
pub(super) fn sort(lines: &[Line], size: impl Fn(SetId) -> usize, room: &mut usize) -> Sorted {
    let mut sorted = Sorted::default();
    for line in lines {
        match &line.peers {
            None => sorted.add_for_everyone(line),
            Some(peers) => sorted.add_for_peers(line, peers, &size, room),
        }
    }
    sorted
}

impl Sorted {
    fn add_for_everyone(&mut self, line: &Line) {
        match &line.ports {
            None => drop(self.everyone.anywhere.insert(line.rule)),
            Some(ports) => {
                self.everyone.ports.extend(ports.iter().cloned());
                self.everyone.rules.insert(line.rule);
            }
        }
    }

    fn add_for_peers(&mut self, line: &Line, peers: &[Peer], size: impl Fn(SetId) -> usize, room: &mut usize) {
        let sets = || peers.iter().filter_map(|peer| if let Peer::Set(set) = peer { Some(*set) } else { None });
        let blocks: Vec<Peer> = peers.iter().filter(|peer| matches!(peer, Peer::Block { .. })).cloned().collect();
        let (mut singles, mut rest) = split(line.ports.as_deref());
        let elements = sets().map(&size).sum::<usize>().saturating_mul(singles.len());
        match room.checked_sub(elements) {
            Some(left) => *room = left,
            None => (singles, rest) = (BTreeSet::new(), line.ports.as_deref().map(in_order)),
        }
        for set in sets().filter(|_| !singles.is_empty()) {
            self.pairs.entry(set).or_default().extend(&singles);
            self.pairs_rules.insert(line.rule);
        }
        if sets().next().is_some() && rest.as_ref().is_none_or(|rest| !rest.is_empty()) {
            let group = self.groups.entry(rest).or_default();
            group.sets.extend(sets());
            group.rules.insert(line.rule);
        }
        if !blocks.is_empty() && line.ports.as_ref().is_none_or(|ports| !ports.is_empty()) {
            let group = self.groups.entry(line.ports.as_deref().map(in_order)).or_default();
            group.blocks.extend(blocks);
            group.rules.insert(line.rule);
        }
    }
}

/// Single ports, and what can't be said as one.
fn split(ports: Option<&[PortMatch]>) -> (BTreeSet<Pair>, Option<Vec<PortMatch>>) {
    let Some(ports) = ports else { return (BTreeSet::new(), None) };
    let mut singles = BTreeSet::new();
    let mut rest = Vec::new();
    for port in ports {
        match port {
            PortMatch::Range { protocol, first, last } if first == last && protocol.has_ports() => {
                singles.insert((*protocol, *first));
            }
            _ => rest.push(port.clone()),
        }
    }
    (singles, Some(in_order(&rest)))
}

fn in_order(ports: &[PortMatch]) -> Vec<PortMatch> {
    let ordered: BTreeSet<&PortMatch> = ports.iter().collect();
    ordered.into_iter().cloned().collect()
}

/// The bundles that the addresses of a selector's set are in.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    by_set: FxHashMap<SetId, BTreeMap<BundleId, BTreeSet<Pair>>>,
}

impl Index {
    pub(super) fn of<'a>(bundles: impl IntoIterator<Item = &'a Bundle>) -> Self {
        let mut index = Self::default();
        bundles.into_iter().for_each(|bundle| index.insert(bundle));
        index
    }

    pub(super) fn insert(&mut self, bundle: &Bundle) {
        for (set, pairs) in &bundle.members {
            self.by_set.entry(*set).or_default().insert(bundle.id, pairs.clone());
        }
    }

    pub(super) fn remove(&mut self, bundle: &Bundle) {
        for set in bundle.members.keys() {
            let Some(bundles) = self.by_set.get_mut(set) else { continue };
            bundles.remove(&bundle.id);
            if bundles.is_empty() {
                self.by_set.remove(set);
            }
        }
    }

    /// The bundles that `set` is part of.
    pub(super) fn of_set(&self, set: SetId) -> impl Iterator<Item = (BundleId, &BTreeSet<Pair>)> {
        self.by_set.get(&set).into_iter().flatten().map(|(id, pairs)| (*id, pairs))
    }
}

/// The sets whose part in bundles differs.
pub(super) fn changed_sets(before: &[Bundle], after: &[Bundle]) -> BTreeSet<SetId> {
    let mut changed = BTreeSet::new();
    let of = |bundles: &[Bundle], id: BundleId| bundles.iter().position(|bundle| bundle.id == id);
    for (one, others) in [(before, after), (after, before)] {
        for bundle in one {
            let other = of(others, bundle.id).map(|place| &others[place].members);
            let differs = |set: &SetId, pairs: &BTreeSet<Pair>| other.and_then(|members| members.get(set)) != Some(pairs);
            changed.extend(bundle.members.iter().filter(|(set, pairs)| differs(set, pairs)).map(|(set, _)| *set));
        }
    }
    changed
}
