//! Halves of flows, each worked out once for all pairs of ends that no rule tells apart.
//!
//! A half is judged by one end's programs, and of the other end only the sets and blocks count that these name. So ends that are
//! judged alike form a group, a group tells its peers apart into classes, and the engine is asked once for a group and a class,
//! when it is first wanted. Of millions of pairs of workloads a look-up remains each.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustc_hash::FxHashMap;
use sluice_policy::snapshot::{IdentityId, Peer, ProgramId, SetId};
use sluice_policy::source::PortMatch;
use sluice_policy::{Decision, Direction};

use super::compare::{NEW, OLD, Said, said};
use super::requests::{self, Requests};
use crate::reach::ports::PortRange;
use crate::reach::{EndId, Reach, flow};

/// How one half is judged in both versions, on every port.
#[derive(Debug)]
pub(super) struct Profile {
    /// Equal: what can be said about differences is equal.
    pub(super) id: u32,
    /// Equal: the decisions are equal, whoever took them.
    pub(super) decisions: u32,
    pub(super) differs: bool,
    pub(super) families: Families,
}

/// IPv4 and IPv6, where both ends have such addresses in both versions.
pub(super) type Families = [Option<Vec<Stretch>>; 2];

/// Ports on which a half is judged in one way. All stretches of a profile are every port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stretch {
    pub(super) range: PortRange,
    pub(super) decisions: [Decision; 2],
    /// Where a version reads: what it lets in.
    pub(super) requests: [Option<Arc<Requests>>; 2],
    /// Who decided; told where the half differs.
    pub(super) said: Option<(Said, Said)>,
}

impl Stretch {
    fn differs(&self) -> bool {
        self.decisions[OLD] != self.decisions[NEW] || self.requests[OLD] != self.requests[NEW]
    }
}

/// Ends that are judged alike, and the classes that they tell their peers apart into.
#[derive(Debug)]
pub(super) struct Group {
    /// Per class, once it was asked for.
    profiles: Vec<OnceLock<Arc<Profile>>>,
    /// Per end: its class.
    classes: Vec<u32>,
}

/// The groups of ends that are judged for what comes in, so stored that the classes of one peer are found for all of them.
#[derive(Debug)]
pub(super) struct Arrivals {
    /// Per end: the group that it is judged with.
    pub(super) group_of: Vec<u32>,
    profiles: Vec<Vec<OnceLock<Arc<Profile>>>>,
    /// Per group: how it tells ends apart that no set holds, and the class of most of each such kind.
    usual: Vec<(usize, Vec<u32>)>,
    /// Per end: the groups for which it is of another class.
    unusual: Vec<Vec<(u32, u32)>>,
}

/// What both directions share.
#[derive(Debug)]
pub(super) struct Halves<'r, 'c> {
    reach: &'r Reach<'c>,
    /// Per version.
    members: [FxHashMap<SetId, Vec<u32>>; 2],
    /// Per end, what a program can know of it besides sets, by what it asks for ([`Asks`]).
    kinds: [Vec<u32>; 4],
    profiles: Mutex<Interned>,
}

/// Profiles by number.
#[derive(Debug, Default)]
struct Interned(HashMap<Families, u32>);

/// What the lines of two programs ask of a peer.
#[derive(Debug, Default)]
struct Asks {
    sets: [Vec<SetId>; 2],
    blocks: bool,
    named_ports: bool,
}

/// What decides about all halves of an end besides its peers.
#[derive(PartialEq, Eq, Hash)]
struct GroupKey {
    programs: [Option<ProgramId>; 2],
    families: [[bool; 2]; 2],
    conflict: [bool; 2],
    ports: Option<[usize; 2]>,
    /// The node that all its pods are on, where somebody asks about that node.
    host: Option<Arc<str>>,
    part: bool,
}

#[derive(PartialEq, Eq, Hash)]
enum KindKey {
    /// Outside, apart from all others.
    Part(EndId),
    /// Outside, where no line names a block: IPv4 or not.
    Outside(bool),
    Pods {
        kinds: [[Option<u32>; 2]; 2],
        families: [[bool; 2]; 2],
        conflict: [bool; 2],
        ports: Option<[usize; 2]>,
    },
    /// In one version alone.
    Partial,
}

impl Asks {
    fn of(reach: &Reach<'_>, programs: [Option<ProgramId>; 2]) -> Self {
        let mut asks = Self::default();
        for version in [OLD, NEW] {
            let lines = programs[version].and_then(|program| reach.versions[version].table().lines(program));
            for line in lines.into_iter().flat_map(|lines| &lines.lines) {
                asks.named_ports |= line.ports.iter().flatten().any(|port| matches!(port, PortMatch::Named { .. }));
                for peer in line.peers.iter().flatten() {
                    match peer {
                        Peer::Set(set) => asks.sets[version].push(*set),
                        Peer::Block { .. } => asks.blocks = true,
                        Peer::Resolvers => asks.sets[version].extend(reach.versions[version].table().resolvers()),
                        // What names have is learned.
                        Peer::Names(_) => {}
                    }
                }
            }
            asks.sets[version].sort_unstable();
            asks.sets[version].dedup();
        }
        asks
    }

    /// Into [`Halves::kinds`].
    fn place(&self, direction: Direction) -> usize {
        usize::from(self.blocks) + 2 * usize::from(self.named_ports && direction == Direction::Egress)
    }
}

impl<'r, 'c> Halves<'r, 'c> {
    pub(super) fn of(reach: &'r Reach<'c>) -> Self {
        let members = [OLD, NEW].map(|version| {
            let mut ends_of: FxHashMap<IdentityId, Vec<u32>> = FxHashMap::default();
            for end in 0..reach.end_count() {
                if let Some(side) = reach.side(end, version) {
                    ends_of.entry(side.identity).or_default().push(short(end));
                }
            }
            let table = reach.versions[version].table();
            let ends = |set| table.members(set).filter_map(|identity| ends_of.get(&identity)).flatten().copied().collect();
            table.set_ids().map(|set| (set, ends(set))).collect()
        });
        let kinds = [0, 1, 2, 3].map(|place| {
            let mut numbers = HashMap::new();
            let ends = 0..reach.end_count();
            ends.map(|end| number(&mut numbers, kind_of(reach, end, place & 1 != 0, place & 2 != 0))).collect()
        });
        Self { reach, members, kinds, profiles: Mutex::default() }
    }

    /// The ends of `among`, those that are judged alike together.
    pub(super) fn grouped(&self, among: &[EndId], direction: Direction) -> Vec<Vec<EndId>> {
        let mut numbers = HashMap::new();
        let mut groups: Vec<Vec<EndId>> = Vec::new();
        for end in among {
            let group = number(&mut numbers, self.group_key(*end, direction)) as usize;
            if group == groups.len() {
                groups.push(Vec::new());
            }
            groups[group].push(*end);
        }
        groups
    }

    fn group_key(&self, end: EndId, direction: Direction) -> GroupKey {
        let reach = self.reach;
        let programs = [OLD, NEW].map(|version| reach.program(end, version, direction));
        let part = reach.part(end);
        let sides = [OLD, NEW].map(|version| reach.side(end, version));
        let named = direction == Direction::Ingress && Asks::of(reach, programs).named_ports;
        let ports = || sides.map(|side| side.map_or(usize::MAX, |side| side.ports));
        let only_host = |examples: &[crate::reach::classes::Example]| {
            let host = examples.first()?.host.clone()?;
            let everywhere = examples.iter().all(|example| example.host.as_ref() == Some(&host));
            let asked = reach.outside.parts.iter().any(|part| part.node.as_ref() == Some(&host));
            (everywhere && asked).then_some(host)
        };
        let host = reach.class(end).filter(|_| direction == Direction::Ingress).and_then(|class| only_host(&class.examples));
        GroupKey {
            programs,
            families: match part {
                Some(part) => [[part.representative.is_ipv4(), part.representative.is_ipv6()]; 2],
                None => sides.map(|side| side.map_or([false; 2], |side| side.kinds.map(|kind| kind.is_some()))),
            },
            conflict: sides.map(|side| side.is_some_and(|side| side.conflict)),
            ports: named.then(ports),
            host,
            part: part.is_some(),
        }
    }

    /// The group of `end`, which is one of it.
    pub(super) fn group(&self, end: EndId, direction: Direction) -> Group {
        let asks = Asks::of(self.reach, [OLD, NEW].map(|version| self.reach.program(end, version, direction)));
        let kinds = &self.kinds[asks.place(direction)];
        let mut held: Vec<(u32, u32)> = Vec::new();
        for (number, (version, set)) in (0_u32..).zip([OLD, NEW].iter().flat_map(|v| asks.sets[*v].iter().map(|set| (*v, set)))) {
            held.extend(self.members[version].get(set).into_iter().flatten().map(|end| (*end, number)));
        }
        held.sort_unstable();
        let mut numbers: FxHashMap<(u32, Vec<u32>), u32> = FxHashMap::default();
        let mut classes = vec![u32::MAX; kinds.len()];
        for run in held.chunk_by(|a, b| a.0 == b.0) {
            let end = run[0].0 as usize;
            let sets: Vec<u32> = run.iter().map(|(_, set)| *set).collect();
            let next = short(numbers.len());
            classes[end] = *numbers.entry((kinds[end], sets)).or_insert(next);
        }
        let mut without: FxHashMap<u32, u32> = FxHashMap::default();
        for (class, kind) in classes.iter_mut().zip(kinds).filter(|(class, _)| **class == u32::MAX) {
            let next = short(numbers.len() + without.len());
            *class = *without.entry(*kind).or_insert(next);
        }
        let count = numbers.len() + without.len();
        Group { profiles: std::iter::repeat_with(OnceLock::new).take(count).collect(), classes }
    }

    /// The groups of `among` for what comes in.
    pub(super) fn arrivals(&self, among: &[EndId]) -> Arrivals {
        let groups = self.grouped(among, Direction::Ingress);
        let mut arrivals = Arrivals {
            group_of: vec![u32::MAX; self.reach.end_count()],
            profiles: Vec::with_capacity(groups.len()),
            usual: Vec::with_capacity(groups.len()),
            unusual: vec![Vec::new(); self.reach.end_count()],
        };
        for (number, ends) in (0_u32..).zip(groups) {
            let Some(first) = ends.first() else { continue };
            let asks = Asks::of(self.reach, [OLD, NEW].map(|v| self.reach.program(*first, v, Direction::Ingress)));
            let place = asks.place(Direction::Ingress);
            let group = self.group(*first, Direction::Ingress);
            let kinds = &self.kinds[place];
            let most = most_common(kinds, &group.classes);
            for (end, class) in group.classes.iter().enumerate().filter(|(end, class)| most[kinds[*end] as usize] != **class) {
                arrivals.unusual[end].push((number, *class));
            }
            arrivals.usual.push((place, most));
            arrivals.profiles.push(group.profiles);
            ends.into_iter().for_each(|end| arrivals.group_of[end] = number);
        }
        arrivals
    }

    /// For each group of `arrivals`, the class of `peer`.
    pub(super) fn column(&self, arrivals: &Arrivals, peer: EndId) -> Vec<u32> {
        let mut column: Vec<u32> = arrivals.usual.iter().map(|(place, most)| most[self.kinds[*place][peer] as usize]).collect();
        for (group, class) in &arrivals.unusual[peer] {
            column[*group as usize] = *class;
        }
        column
    }

    fn profile(&self, from: EndId, to: EndId, direction: Direction) -> Option<Arc<Profile>> {
        let families = families(self.reach, from, to, direction);
        if families.iter().all(Option::is_none) {
            return None;
        }
        let differs = families.iter().flatten().flatten().any(Stretch::differs);
        let bare = families.clone().map(|stretches| {
            stretches.map(|stretches| joined(stretches.into_iter().map(|stretch| Stretch { said: None, ..stretch })))
        });
        let mut known = self.profiles.lock().unwrap_or_else(PoisonError::into_inner);
        let decisions = number(&mut known.0, bare);
        let id = number(&mut known.0, families.clone());
        Some(Arc::new(Profile { id, decisions, differs, families }))
    }
}

/// One half of the flows from one end to another, by IPv4 and IPv6 where both ends have such addresses in both versions.
pub(super) fn families(reach: &Reach<'_>, from: EndId, to: EndId, direction: Direction) -> Families {
    [0, 1].map(|family| {
        let ips = reach.addresses_of_family(from, to, family)?;
        let ranges = reach.ranges_of_half(from, to, direction);
        let judged = if direction == Direction::Egress { from } else { to };
        let both: [Vec<Said>; 2] = [OLD, NEW].map(|version| {
            let half = |range| *reach.verdict(version, ips[version], range).half(direction);
            ranges.iter().map(|range| said(reach, &half(range), judged, version, direction)).collect()
        });
        let stretch = |(place, range): (usize, &PortRange)| {
            let said = [both[OLD][place], both[NEW][place]];
            let decisions = said.map(|said| said.decision);
            let requests = [OLD, NEW].map(|version| {
                let read = || requests::of(reach.versions[version], &flow(ips[version], range), direction);
                (decisions[version] == Decision::Inspect).then(|| Arc::new(read()))
            });
            let mut stretch = Stretch { range: *range, decisions, requests, said: None };
            stretch.said = stretch.differs().then_some((said[OLD], said[NEW]));
            stretch
        };
        Some(joined(ranges.iter().enumerate().map(stretch)))
    })
}

impl Group {
    pub(super) fn class(&self, peer: EndId) -> usize {
        self.classes[peer] as usize
    }

    pub(super) fn profile(&self, halves: &Halves<'_, '_>, from: EndId, to: EndId) -> Option<&Arc<Profile>> {
        known(&self.profiles[self.class(to)], || halves.profile(from, to, Direction::Egress))
    }
}

impl Arrivals {
    /// `class` is that of `from` in the group of `to`.
    pub(super) fn profile(&self, halves: &Halves<'_, '_>, class: u32, from: EndId, to: EndId) -> Option<&Arc<Profile>> {
        let cell = &self.profiles[self.group_of[to] as usize][class as usize];
        known(cell, || halves.profile(from, to, Direction::Ingress))
    }
}

/// A pair without flows says nothing about others of its kind, so it is not remembered.
fn known(cell: &OnceLock<Arc<Profile>>, ask: impl FnOnce() -> Option<Arc<Profile>>) -> Option<&Arc<Profile>> {
    if let Some(known) = cell.get() {
        return Some(known);
    }
    let asked = ask()?;
    Some(cell.get_or_init(|| asked))
}

fn kind_of(reach: &Reach<'_>, end: EndId, blocks: bool, named_ports: bool) -> KindKey {
    if let Some(part) = reach.part(end) {
        let apart = blocks || part.node.is_some();
        return if apart { KindKey::Part(end) } else { KindKey::Outside(part.representative.is_ipv4()) };
    }
    let (Some(old), Some(new)) = (reach.side(end, OLD), reach.side(end, NEW)) else { return KindKey::Partial };
    let sides = [old, new];
    KindKey::Pods {
        kinds: sides.map(|side| if blocks { side.kinds } else { [None; 2] }),
        families: sides.map(|side| side.kinds.map(|kind| kind.is_some())),
        conflict: sides.map(|side| side.conflict),
        ports: named_ports.then(|| sides.map(|side| side.ports)),
    }
}

/// Per kind of end, the class that most ends of this kind are of.
fn most_common(kinds: &[u32], classes: &[u32]) -> Vec<u32> {
    let mut counts: FxHashMap<(u32, u32), usize> = FxHashMap::default();
    for (kind, class) in kinds.iter().zip(classes) {
        *counts.entry((*kind, *class)).or_default() += 1;
    }
    let count = kinds.iter().max().map_or(0, |last| *last as usize + 1);
    let mut most: Vec<(usize, u32)> = vec![(0, 0); count];
    for ((kind, class), count) in counts {
        most[kind as usize] = most[kind as usize].max((count, class));
    }
    most.into_iter().map(|(_, class)| class).collect()
}

/// Neighbours that say the same as one.
fn joined(stretches: impl Iterator<Item = Stretch>) -> Vec<Stretch> {
    let mut joined: Vec<Stretch> = Vec::new();
    for stretch in stretches {
        match joined.last_mut() {
            Some(last)
                if last.range.protocol == stretch.range.protocol
                    && last.range.last.checked_add(1) == Some(stretch.range.first)
                    && (Stretch { range: last.range, ..stretch.clone() }) == *last =>
            {
                last.range.last = stretch.range.last;
            }
            _ => joined.push(stretch),
        }
    }
    joined
}

/// The number of `key`, the next one if it is new.
fn number<K: Hash + Eq>(numbers: &mut HashMap<K, u32>, key: K) -> u32 {
    let next = short(numbers.len());
    *numbers.entry(key).or_insert(next)
}

/// Ends are numbered in 32 bits where millions of them are held.
pub(super) fn short(end: EndId) -> u32 {
    u32::try_from(end).expect("there are fewer ends than 2^32")
}
