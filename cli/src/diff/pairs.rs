//! The walk over all pairs of ends between which a difference can be.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustc_hash::FxHashMap;
use sluice_policy::{Decision, Direction};

use super::compare::{Changed, Delta, NEW, OLD};
use super::halves::{Arrivals, Families, Group, Halves, Profile, Stretch, short};
use super::requests::Requests;
use crate::reach::ports::{PortRange, PortSet};
use crate::reach::{EndId, Reach};

/// What a difference says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// Who decided, before and after.
    Named,
    /// The decisions alone.
    Decisions,
}

/// A difference without its ends.
pub(super) type Entry = (Delta, PortSet);

/// What one thread found: its entries by number, and what it made of them.
pub(super) struct Share<A> {
    pub(super) entries: Vec<Entry>,
    pub(super) taken: A,
    /// Ends whose egress or ingress is judged otherwise somewhere.
    pub(super) touched: [Vec<bool>; 2],
}

/// The pairs to go over.
pub(super) struct Pairs<'r, 'c> {
    pub(super) reach: &'r Reach<'c>,
    pub(super) changed: Vec<Changed>,
    /// Ends that both versions have.
    everyone: Vec<EndId>,
    /// Of them, those to which flows of unchanged sources can be judged otherwise.
    asked: Vec<EndId>,
    halves: Halves<'r, 'c>,
    arrivals: Arrivals,
    /// Sources that are judged alike.
    sources: Vec<Vec<EndId>>,
}

impl<'r, 'c> Pairs<'r, 'c> {
    pub(super) fn of(reach: &'r Reach<'c>, changed: Vec<Changed>) -> Self {
        let stays = |end: &EndId| reach.class(*end).is_none_or(|class| class.sides.iter().all(Option::is_some));
        let everyone: Vec<EndId> = (0..changed.len()).filter(stays).collect();
        let asked: Vec<EndId> = everyone.iter().copied().filter(|end| changed[*end].ingress || changed[*end].peer).collect();
        let reaches_all = |end: &EndId| changed[*end].egress || changed[*end].peer;
        // Where a source's own egress is as it was, only destinations that changed can make a difference.
        let sources: Vec<EndId> = everyone.iter().copied().filter(|end| !asked.is_empty() || reaches_all(end)).collect();
        let halves = Halves::of(reach);
        let arrivals = halves.arrivals(if sources.iter().any(reaches_all) { &everyone } else { &asked });
        let sources = halves.grouped(&sources, Direction::Egress);
        Self { reach, changed, everyone, asked, halves, arrivals, sources }
    }

    /// Gives `take` each source with an entry and the destinations that it holds for, in order, until `give_up` is set.
    pub(super) fn walk<A: Default + Send>(
        &self,
        detail: Detail,
        give_up: &AtomicBool,
        take: impl Fn(&mut A, EndId, u32, Vec<u32>) + Sync,
        progress: impl Fn(usize, usize) + Sync,
    ) -> Vec<Share<A>> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let all: usize = self.sources.iter().map(Vec::len).sum();
        let shares = Mutex::new(Vec::new());
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    let mut entries = Entries::new(detail);
                    let mut taken = A::default();
                    let mut touched = [OLD, NEW].map(|_| vec![false; self.changed.len()]);
                    while let Some(sources) = self.sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let Some(first) = sources.first() else { continue };
                        let group = self.halves.group(*first, Direction::Egress);
                        for from in sources {
                            if give_up.load(Ordering::Relaxed) {
                                break;
                            }
                            for (entry, to) in self.row(*from, &group, &mut entries) {
                                let halves = entries.all[entry as usize].0.halves;
                                touched[0][*from] |= halves[0];
                                if halves[1] {
                                    to.iter().for_each(|to| touched[1][*to as usize] = true);
                                }
                                take(&mut taken, *from, entry, to);
                            }
                            progress(done.fetch_add(1, Ordering::Relaxed) + 1, all);
                        }
                    }
                    let share = Share { entries: entries.all, taken, touched };
                    shares.lock().unwrap_or_else(PoisonError::into_inner).push(share);
                });
            }
        });
        shares.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of one source: the destinations of each entry.
    fn row(&self, from: EndId, group: &Group, entries: &mut Entries) -> Vec<(u32, Vec<u32>)> {
        let mut row: Vec<(u32, Vec<u32>)> = Vec::new();
        let mut place_of: FxHashMap<u32, usize> = FxHashMap::default();
        let source = self.changed[from];
        let is_part = self.reach.part(from).is_some();
        let column = self.halves.column(&self.arrivals, from);
        let mut last: Option<((u32, u32), Vec<usize>)> = None;
        for &to in if source.egress || source.peer { &self.everyone } else { &self.asked } {
            if is_part && self.reach.part(to).is_some() {
                continue;
            }
            let egress = || group.profile(&self.halves, from, to);
            let ingress = || {
                let class = column[self.arrivals.group_of[to] as usize];
                self.arrivals.profile(&self.halves, class, from, to)
            };
            let may_differ = [source.egress || self.changed[to].peer, self.changed[to].ingress || source.peer];
            // The half that can't differ is only worked out where the other does.
            let halves = match may_differ {
                [true, true] => egress().zip(ingress()).filter(|(egress, ingress)| egress.differs || ingress.differs),
                [true, false] => egress().filter(|egress| egress.differs).and_then(|egress| Some((egress, ingress()?))),
                [false, true] => ingress().filter(|ingress| ingress.differs).and_then(|ingress| Some((egress()?, ingress))),
                [false, false] => None,
            };
            let Some((egress, ingress)) = halves else { continue };
            let pair = entries.key(egress, ingress);
            let places = match &last {
                Some((known, places)) if *known == pair => places,
                _ => {
                    let place = |entry: &u32| {
                        *place_of.entry(*entry).or_insert_with(|| {
                            row.push((*entry, Vec::new()));
                            row.len() - 1
                        })
                    };
                    let places = entries.of(pair, egress, ingress).iter().map(place).collect();
                    &last.insert((pair, places)).1
                }
            };
            for place in places {
                row[*place].1.push(short(to));
            }
        }
        row
    }
}

/// The entries that one thread met.
struct Entries {
    detail: Detail,
    all: Vec<Entry>,
    numbers: HashMap<Entry, u32>,
    /// By the profiles of both halves.
    of_pair: FxHashMap<(u32, u32), Rc<[u32]>>,
    /// Whether there is any entry, by the decisions of both halves.
    any: FxHashMap<(u32, u32), bool>,
}

/// Pairs of profiles that a thread remembers; beyond, it begins anew.
const MOST_PAIRS: usize = 1 << 18;

impl Entries {
    fn new(detail: Detail) -> Self {
        let (numbers, of_pair, any) = (HashMap::new(), FxHashMap::default(), FxHashMap::default());
        Self { detail, all: Vec::new(), numbers, of_pair, any }
    }

    fn key(&self, egress: &Profile, ingress: &Profile) -> (u32, u32) {
        match self.detail {
            Detail::Named => (egress.id, ingress.id),
            Detail::Decisions => (egress.decisions, ingress.decisions),
        }
    }

    fn of(&mut self, pair: (u32, u32), egress: &Profile, ingress: &Profile) -> Rc<[u32]> {
        let any = self.any.entry((egress.decisions, ingress.decisions)).or_insert_with(|| {
            // Most pairs of halves that differ make no difference together: nothing more is remembered of them.
            !combine(&egress.families, &ingress.families, Detail::Decisions).is_empty()
        });
        if !*any {
            return Rc::default();
        }
        if let Some(known) = self.of_pair.get(&pair) {
            return known.clone();
        }
        let found = combine(&egress.families, &ingress.families, self.detail);
        let numbered: Rc<[u32]> = found.into_iter().map(|entry| self.number(entry)).collect();
        if self.of_pair.len() >= MOST_PAIRS {
            self.of_pair.clear();
        }
        self.of_pair.insert(pair, numbered.clone());
        numbered
    }

    fn number(&mut self, entry: Entry) -> u32 {
        if let Some(known) = self.numbers.get(&entry) {
            return *known;
        }
        let number = short(self.all.len());
        self.all.push(entry.clone());
        self.numbers.insert(entry, number);
        number
    }
}

/// The differences between two ends, from both their halves.
pub(super) fn combine(egress: &Families, ingress: &Families, detail: Detail) -> Vec<Entry> {
    let mut deltas: Vec<(Delta, Vec<PortRange>)> = Vec::new();
    for (egress, ingress) in egress.iter().zip(ingress) {
        let (Some(egress), Some(ingress)) = (egress, ingress) else { continue };
        for (range, egress, ingress) in overlaps(egress, ingress) {
            let Some(delta) = delta(egress, ingress, detail) else { continue };
            match deltas.iter_mut().find(|(known, _)| *known == delta) {
                Some((_, ranges)) => ranges.push(range),
                None => deltas.push((delta, vec![range])),
            }
        }
    }
    deltas.into_iter().map(|(delta, ranges)| (delta, ranges.into_iter().collect())).collect()
}

fn delta(egress: &Stretch, ingress: &Stretch, detail: Detail) -> Option<Delta> {
    let decision = |version: usize| egress.decisions[version].max(ingress.decisions[version]);
    let (old, new) = (decision(OLD), decision(NEW));
    let reads = old == Decision::Inspect && new == Decision::Inspect;
    if old == new && !reads {
        return None;
    }
    let requests = reads.then(|| {
        [egress, ingress].map(|half| {
            // A half that reads nothing allows everything: a denial would leave nothing to read.
            let read = |version: usize| match &half.requests[version] {
                Some(requests) => Requests::clone(requests),
                None => Requests { others: true, ..Requests::default() },
            };
            (read(OLD), read(NEW))
        })
    });
    if requests.as_ref().is_some_and(|halves| halves.iter().all(|(old, new)| old == new)) {
        return None;
    }
    let differs = |half: &Stretch, place: usize| {
        let other = requests.as_ref().is_some_and(|halves| halves[place].0 != halves[place].1);
        half.decisions[OLD] != half.decisions[NEW] || other
    };
    let halves = [differs(egress, 0), differs(ingress, 1)];
    let told = |half: &Stretch, place: usize| half.said.filter(|_| halves[place] && detail == Detail::Named);
    Some(Delta { old, new, halves, egress: told(egress, 0), ingress: told(ingress, 1), requests })
}

/// Where a stretch of one half meets one of the other: both are every port, in the order of the ports.
fn overlaps<'s>(one: &'s [Stretch], other: &'s [Stretch]) -> Vec<(PortRange, &'s Stretch, &'s Stretch)> {
    let (mut a, mut b) = (0, 0);
    let mut both = Vec::new();
    while let (Some(left), Some(right)) = (one.get(a), other.get(b)) {
        let (first, last) = (left.range.first.max(right.range.first), left.range.last.min(right.range.last));
        if left.range.protocol == right.range.protocol && first <= last {
            both.push((PortRange { protocol: left.range.protocol, first, last }, left, right));
        }
        let end = |stretch: &Stretch| (stretch.range.protocol, stretch.range.last);
        match end(left).cmp(&end(right)) {
            std::cmp::Ordering::Less => a += 1,
            std::cmp::Ordering::Greater => b += 1,
            std::cmp::Ordering::Equal => (a, b) = (a + 1, b + 1),
        }
    }
    both
}
