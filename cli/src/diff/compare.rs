//! The comparison: every pair of ends between which a difference can be, on every range of ports.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sluice_policy::snapshot::{PolicyId, ProgramId, SetId};
use sluice_policy::source::PolicyRef;
use sluice_policy::verdict::{Half, RuleId};
use sluice_policy::{Decision, Direction, Reason, Table};

use super::matters::{HalfOf, memberships};
use super::requests::{self, Requests};
use crate::cluster::Cluster;
use crate::reach::ports::{PortRange, PortSet};
use crate::reach::{EndId, Ranges, Reach, flow};

/// The version that is replaced, and the one that replaces it, among [`Reach::versions`].
pub(super) const OLD: usize = 0;
pub(super) const NEW: usize = 1;

/// Half a verdict, and who is behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Said {
    pub(super) decision: Decision,
    pub(super) reason: Reason,
    pub(super) rule: Option<RuleId>,
    /// The program without a rule that allows.
    pub(super) program: Option<ProgramId>,
}

/// What became of a half: before and after.
pub(super) type Turn = (Said, Said);

/// How flows are judged in the two versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Delta {
    pub(super) old: Decision,
    pub(super) new: Decision,
    /// Each half that is judged differently.
    pub(super) egress: Option<Turn>,
    pub(super) ingress: Option<Turn>,
    /// Where both versions read requests: what of them was and is allowed, egress and ingress.
    pub(super) requests: Option<[(Requests, Requests); 2]>,
}

/// A difference, between each of `from` and each of `to` (but for a pod and itself).
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) delta: Delta,
    pub(super) ports: PortSet,
    pub(super) from: Vec<EndId>,
    pub(super) to: Vec<EndId>,
}

/// All differences, and the policies that judge a pod where there is one.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) found: Vec<Found>,
    pub(super) touching: HashSet<PolicyRef>,
}

/// What differs about an end, so that flows from or to it may be judged differently.
#[derive(Clone, Copy, Debug, Default)]
struct Changed {
    egress: bool,
    ingress: bool,
    /// As a peer: other rules may match it now.
    peer: bool,
}

/// Of one source: the destinations of each difference.
type Row = HashMap<(Delta, PortSet), Vec<EndId>>;

/// Compares the two versions of `reach`; `progress` hears how many of how many sources are done.
pub(super) fn compare(reach: &Reach<'_>, progress: impl Fn(usize, usize) + Sync) -> Comparison {
    let changed = changed_ends(reach);
    let everyone: Vec<EndId> = (0..changed.len()).filter(|end| stays(reach, *end)).collect();
    let asked: Vec<EndId> = everyone.iter().copied().filter(|end| changed[*end].ingress || changed[*end].peer).collect();
    // Where a source's own egress is as it was, only destinations that changed can make a difference.
    let sources: Vec<EndId> =
        everyone.iter().copied().filter(|end| !asked.is_empty() || changed[*end].egress || changed[*end].peer).collect();
    let members = memberships(reach);
    let ingress: HashMap<EndId, HalfOf> = everyone
        .iter()
        .filter(|end| changed[**end].ingress)
        .map(|end| (*end, HalfOf::new(reach, *end, Direction::Ingress)))
        .collect();
    let matters = |from: EndId, to: EndId, egress: Option<&HalfOf>| {
        changed[from].peer
            || changed[to].peer
            || egress.is_some_and(|half| half.matters(reach, to, &members))
            || ingress.get(&to).is_some_and(|half| half.matters(reach, from, &members))
    };
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(EndId, Row)>> = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut ranges = Ranges::default();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(from) = sources.get(number) else { return };
                    let all = changed[*from].egress || changed[*from].peer;
                    let egress = changed[*from].egress.then(|| HalfOf::new(reach, *from, Direction::Egress));
                    let to = if all { &everyone } else { &asked };
                    let to: Vec<EndId> = to.iter().copied().filter(|to| matters(*from, *to, egress.as_ref())).collect();
                    let row = row(reach, *from, &to, &mut ranges);
                    if !row.is_empty() {
                        rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push((*from, row));
                    }
                    progress(number + 1, sources.len());
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    rows.sort_by_key(|(from, _)| *from);
    let touching = touching(reach, &rows);
    Comparison { found: merge(reach, rows), touching }
}

/// Whether both versions have the end: what only one has is said by itself.
fn stays(reach: &Reach<'_>, end: EndId) -> bool {
    reach.class(end).is_none_or(|class| class.sides.iter().all(Option::is_some))
}

fn changed_ends(reach: &Reach<'_>) -> Vec<Changed> {
    let (old, new) = (reach.versions[OLD], reach.versions[NEW]);
    let sets = |version: &Cluster| version.table().set_ids().collect::<HashSet<SetId>>();
    let common: HashSet<SetId> = sets(old).intersection(&sets(new)).copied().collect();
    let mut programs: HashMap<(ProgramId, ProgramId), bool> = HashMap::new();
    let mut differs = |end, direction| match (reach.program(end, OLD, direction), reach.program(end, NEW, direction)) {
        (None, None) => false,
        (Some(a), Some(b)) => *programs.entry((a, b)).or_insert_with(|| !is_same(old, a, new, b)),
        _ => true,
    };
    (0..reach.end_count())
        .map(|end| {
            let (Some(before), Some(after)) = (reach.side(end, OLD), reach.side(end, NEW)) else { return Changed::default() };
            let member = |version: &Cluster, identity| -> Vec<SetId> {
                version.table().sets_of(identity).iter().copied().filter(|set| common.contains(set)).collect()
            };
            let peer = before.conflict != after.conflict
                || before.kinds != after.kinds
                || before.ports != after.ports
                // The number may stay while the answers change.
                || member(old, before.identity) != member(new, after.identity);
            Changed { egress: differs(end, Direction::Egress), ingress: differs(end, Direction::Ingress), peer }
        })
        .collect()
}

/// Whether two programs have the same lines: the same policies, none of them changed.
fn is_same(old: &Cluster, a: ProgramId, new: &Cluster, b: ProgramId) -> bool {
    let (old, new) = (old.table(), new.table());
    let (before, after) = (policies(old, a), policies(new, b));
    old.lines(a) == new.lines(b) && before == after && before.iter().all(|id| old.policy(*id) == new.policy(*id))
}

fn row(reach: &Reach<'_>, from: EndId, destinations: &[EndId], known: &mut Ranges) -> Row {
    let mut row = Row::new();
    // One version at a time: each remembers how the flows between two kinds of pods are judged.
    let mut asked = Vec::new();
    for &to in destinations.iter().filter(|to| reach.part(from).is_none() || reach.part(**to).is_none()) {
        let addresses = reach.addresses(from, to);
        if !addresses.is_empty() {
            let ranges = reach.ranges(from, to, known);
            let first = &addresses[0];
            let before: Vec<_> = ranges.iter().map(|range| reach.verdict(OLD, first[OLD], range)).collect();
            asked.push((to, addresses, ranges, before));
        }
    }
    for (to, addresses, ranges, before) in asked {
        let mut deltas: Vec<(Delta, Vec<PortRange>)> = Vec::new();
        for (family, ips) in addresses.iter().enumerate() {
            for (place, range) in ranges.iter().enumerate() {
                let old = if family == 0 { before[place] } else { reach.verdict(OLD, ips[OLD], range) };
                let new = reach.verdict(NEW, ips[NEW], range);
                let reads = old.decision() == Decision::Inspect && new.decision() == Decision::Inspect;
                if old.decision() == new.decision() && !reads {
                    continue;
                }
                let requests = reads.then(|| {
                    [Direction::Egress, Direction::Ingress].map(|direction| {
                        let read = |version: usize| requests::of(reach.versions[version], &flow(ips[version], range), direction);
                        (read(OLD), read(NEW))
                    })
                });
                if requests.as_ref().is_some_and(|halves| halves.iter().all(|(old, new)| old == new)) {
                    continue;
                }
                let turn = |direction: Direction| {
                    let end = if direction == Direction::Egress { from } else { to };
                    let say = |half: &Half, version| said(reach, half, end, version, direction);
                    (say(old.half(direction), OLD), say(new.half(direction), NEW))
                };
                let told = |direction: Direction, place: usize| {
                    let (was, is) = turn(direction);
                    let other = requests.as_ref().is_some_and(|halves| halves[place].0 != halves[place].1);
                    (was.decision != is.decision || other).then_some((was, is))
                };
                let (egress, ingress) = (told(Direction::Egress, 0), told(Direction::Ingress, 1));
                let delta = Delta { old: old.decision(), new: new.decision(), egress, ingress, requests };
                match deltas.iter_mut().find(|(known, _)| *known == delta) {
                    Some((_, ranges)) => ranges.push(*range),
                    None => deltas.push((delta, vec![*range])),
                }
            }
        }
        for (delta, ranges) in deltas {
            row.entry((delta, ranges.into_iter().collect())).or_default().push(to);
        }
    }
    row
}

fn said(reach: &Reach<'_>, half: &Half, end: EndId, version: usize, direction: Direction) -> Said {
    let nobody = matches!(half.reason, Reason::NoRuleMatched | Reason::NotTheProtocol);
    let program = if nobody { reach.program(end, version, direction) } else { None };
    Said { decision: half.decision, reason: half.reason, rule: half.rule, program }
}

/// The policies that judge, in a direction in which something differs, a pod of a difference.
fn touching(reach: &Reach<'_>, rows: &[(EndId, Row)]) -> HashSet<PolicyRef> {
    let mut programs: HashSet<(usize, ProgramId)> = HashSet::new();
    let mut take = |end: EndId, direction| {
        programs.extend([OLD, NEW].into_iter().filter_map(|version| Some((version, reach.program(end, version, direction)?))));
    };
    for (from, row) in rows {
        for ((delta, _), to) in row {
            if delta.egress.is_some() {
                take(*from, Direction::Egress);
            }
            if delta.ingress.is_some() {
                to.iter().for_each(|to| take(*to, Direction::Ingress));
            }
        }
    }
    let of_program = |(version, id): (usize, ProgramId)| {
        let table = reach.versions[version].table();
        let ids: HashSet<PolicyId> = policies(table, id).into_iter().collect();
        ids.into_iter().filter_map(|id| table.policy(id)).map(|policy| policy.reference.clone()).collect::<Vec<_>>()
    };
    programs.into_iter().flat_map(of_program).collect()
}

/// The policies of a program that say anything in its direction.
fn policies(table: &Table, program: ProgramId) -> BTreeSet<PolicyId> {
    let lines = table.lines(program);
    let all = lines
        .into_iter()
        .flat_map(|lines| lines.lines.iter().map(|line| line.rule.policy).chain(lines.isolated_by.iter().copied()));
    all.collect()
}

/// Puts sources with equal rows together.
fn merge(reach: &Reach<'_>, rows: Vec<(EndId, Row)>) -> Vec<Found> {
    let mut alike: HashMap<(Delta, PortSet, Vec<EndId>), Vec<EndId>> = HashMap::new();
    for (from, row) in rows {
        for ((delta, ports), to) in row {
            alike.entry((delta, ports, to)).or_default().push(from);
        }
    }
    // A workload of one pod has no flow to itself to ask about, so workloads that reach each other differ in just that.
    let mut each_other: HashMap<(Delta, PortSet, Vec<EndId>), Vec<EndId>> = HashMap::new();
    let mut found = Vec::new();
    for ((delta, ports, mut to), from) in alike {
        let [only] = from[..] else {
            found.push(Found { delta, ports, from, to });
            continue;
        };
        let alone = reach.class(only).is_some_and(|class| class.examples.len() < 2);
        if alone && let Err(place) = to.binary_search(&only) {
            to.insert(place, only);
        }
        each_other.entry((delta, ports, to)).or_default().push(only);
    }
    for ((delta, ports, mut to), from) in each_other {
        if let [only] = from[..]
            && reach.class(only).is_some_and(|class| class.examples.len() < 2)
        {
            to.retain(|end| *end != only);
        }
        found.push(Found { delta, ports, from, to });
    }
    found.sort_by(|a, b| (&a.from, &a.to, &a.ports).cmp(&(&b.from, &b.to, &b.ports)));
    found
}

/// Policies that were added, removed or changed, by what they say and not by how it is written.
pub(super) fn changed_policies<'c>(old: &'c Cluster, new: &'c Cluster) -> BTreeMap<&'c PolicyRef, &'static str> {
    let mut changes = BTreeMap::new();
    for policy in old.policies() {
        match new.policy(&policy.reference) {
            None => drop(changes.insert(&policy.reference, "removed")),
            Some(other) if other != policy => drop(changes.insert(&policy.reference, "changed")),
            Some(_) => {}
        }
    }
    let added = new.policies().filter(|policy| old.policy(&policy.reference).is_none());
    changes.extend(added.map(|policy| (&policy.reference, "added")));
    changes
}

impl Delta {
    /// `opens`, `closes`, or `changes` where some requests come in and others go.
    pub(super) fn change(&self) -> &'static str {
        match self.old.cmp(&self.new) {
            std::cmp::Ordering::Greater => "opens",
            std::cmp::Ordering::Less => "closes",
            std::cmp::Ordering::Equal => {
                let halves = || self.requests.iter().flatten();
                let opens = halves().any(|(old, new)| new.allows_beyond(old));
                let closes = halves().any(|(old, new)| old.allows_beyond(new));
                match (opens, closes) {
                    (true, false) => "opens",
                    (false, true) => "closes",
                    _ => "changes",
                }
            }
        }
    }
}
