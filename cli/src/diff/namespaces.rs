//! Differences between whole namespaces: what is said where there are more between workloads than anybody reads.

use std::collections::{BTreeMap, HashMap};

use rustc_hash::FxHashMap;
use sluice_policy::Direction;

use super::compare::{Delta, Found, Part, is_alone};
use super::halves;
use super::pairs::{Detail, Entry, Share, combine};
use crate::reach::{EndId, Reach};

/// A namespace, by its place among all of them; behind them, the outside.
type Place = u32;

/// Pairs of workloads of two namespaces between which there is a difference.
#[derive(Clone, Copy, Debug)]
pub(super) struct Block {
    pairs: usize,
    example: (EndId, EndId),
}

/// What there is between one namespace and others.
struct Row {
    to: Vec<Place>,
    pairs: usize,
    part: Part,
}

/// Namespaces with their rows, by whether these are of all pairs, and where they lead.
type Alike = BTreeMap<(bool, Vec<Place>), Vec<(Place, Row)>>;

/// By entry, and the places of both ends.
pub(super) type Blocks = FxHashMap<(u32, Place, Place), Block>;

/// Ends by namespace.
struct Places {
    of_end: Vec<Place>,
    ends: Vec<Vec<EndId>>,
    /// Per place, the ends that are one pod.
    alone: Vec<usize>,
    outside: Place,
}

impl Places {
    fn of(reach: &Reach<'_>) -> Self {
        let mut numbers: BTreeMap<&str, Place> =
            reach.classes.all.iter().map(|class| (&*class.namespace, Place::default())).collect();
        for (next, place) in (0..).zip(numbers.values_mut()) {
            *place = next;
        }
        let outside = Place::try_from(numbers.len()).expect("there are fewer namespaces than 2^32");
        let place = |end| reach.class(end).map_or(outside, |class| numbers[&*class.namespace]);
        let of_end: Vec<Place> = (0..reach.end_count()).map(place).collect();
        let mut places = Self { ends: vec![Vec::new(); numbers.len() + 1], alone: vec![0; numbers.len() + 1], of_end, outside };
        let spoken = [0, 1].map(|family| {
            let mut sides = reach.classes.all.iter().flat_map(|class| class.sides.iter().flatten());
            sides.any(|side| side.kinds[family].is_some())
        });
        let stays = |end: &EndId| match (reach.class(*end), reach.part(*end)) {
            (Some(class), _) => class.sides.iter().all(Option::is_some),
            // Nobody has flows to addresses of a family that no pod has.
            (_, Some(part)) => spoken[usize::from(part.representative.is_ipv6())],
            (None, None) => false,
        };
        for end in (0..reach.end_count()).filter(stays) {
            let place = places.of_end[end] as usize;
            places.ends[place].push(end);
            places.alone[place] += usize::from(is_alone(reach, end));
        }
        places
    }

    /// Pairs of ends that there are.
    fn pairs(&self, from: Place, to: Place) -> usize {
        if from == self.outside && to == self.outside {
            return 0;
        }
        let all = self.ends[from as usize].len() * self.ends[to as usize].len();
        if from == to { all - self.alone[from as usize] } else { all }
    }

    fn all_ends(&self, places: &[Place]) -> Vec<EndId> {
        places.iter().flat_map(|place| self.ends[*place as usize].iter().copied()).collect()
    }
}

/// What [`Pairs::walk`](super::pairs::Pairs::walk) hands its finds to.
pub(super) fn take(reach: &Reach<'_>) -> impl Fn(&mut Blocks, EndId, u32, Vec<u32>) + Sync {
    let places = Places::of(reach).of_end;
    move |blocks, from, entry, to| {
        for run in to.chunk_by(|a, b| places[*a as usize] == places[*b as usize]) {
            let first = run[0] as usize;
            let block = blocks.entry((entry, places[from], places[first]));
            block.or_insert(Block { pairs: 0, example: (from, first) }).pairs += run.len();
        }
    }
}

/// Namespaces with differences towards the same namespaces are put together: those that have one between all workloads, and those
/// that have one between some.
pub(super) fn merge(reach: &Reach<'_>, shares: Vec<Share<Blocks>>) -> Vec<Found> {
    let places = Places::of(reach);
    let mut entries: HashMap<Entry, BTreeMap<(Place, Place), Block>> = HashMap::new();
    for share in shares {
        for ((entry, from, to), block) in share.taken {
            let blocks = entries.entry(share.entries[entry as usize].clone()).or_default();
            let merged = blocks.entry((from, to)).or_insert(Block { pairs: 0, ..block });
            merged.pairs += block.pairs;
            merged.example = merged.example.min(block.example);
        }
    }
    let mut found = Vec::new();
    for ((delta, ports), blocks) in entries {
        // Per source, the namespaces of which it is all pairs, and those of which it is some.
        let mut rows: BTreeMap<(Place, bool), Row> = BTreeMap::new();
        for ((from, to), Block { pairs, example }) in blocks {
            let of = places.pairs(from, to);
            let row = rows.entry((from, pairs == of)).or_insert(Row { to: Vec::new(), pairs: 0, part: Part { of: 0, example } });
            row.to.push(to);
            row.pairs += pairs;
            row.part.of += of;
        }
        let mut alike = Alike::new();
        for ((from, whole), mut row) in rows {
            alike.entry((whole, std::mem::take(&mut row.to))).or_default().push((from, row));
        }
        for ((_, to), rows) in alike {
            let Some((_, Row { part: Part { example, .. }, .. })) = rows.first() else { continue };
            let part = Part { of: rows.iter().map(|(_, row)| row.part.of).sum(), example: *example };
            let from: Vec<Place> = rows.iter().map(|(from, _)| *from).collect();
            found.push(Found {
                delta: delta.clone(),
                ports: ports.clone(),
                from: places.all_ends(&from),
                to: places.all_ends(&to),
                pairs: rows.iter().map(|(_, row)| row.pairs).sum(),
                part: Some(part),
            });
        }
    }
    found
}

/// The difference with who decided it between two of its ends.
pub(super) fn named(reach: &Reach<'_>, delta: &Delta, (from, to): (EndId, EndId)) -> Delta {
    let families = [Direction::Egress, Direction::Ingress].map(|direction| halves::families(reach, from, to, direction));
    let [egress, ingress] = &families;
    let is_it = |named: &Delta| Delta { egress: None, ingress: None, ..named.clone() } == *delta;
    let found = combine(egress, ingress, Detail::Named).into_iter().map(|(named, _)| named).find(is_it);
    found.unwrap_or_else(|| delta.clone())
}
