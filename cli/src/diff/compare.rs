//! The comparison: every pair of ends between which a difference can be, on every range of ports.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sluice_policy::snapshot::{PolicyId, ProgramId, SetId};
use sluice_policy::source::PolicyRef;
use sluice_policy::verdict::{Half, RuleId};
use sluice_policy::{Decision, Direction, Reason, Table};

use super::halves::short;
use super::namespaces;
use super::pairs::{Detail, Entry, Pairs, Share};
use super::requests::Requests;
use crate::cluster::Cluster;
use crate::reach::ports::PortSet;
use crate::reach::{EndId, Reach};

/// The version that is replaced, and the one that replaces it, among [`Reach::versions`].
pub(super) const OLD: usize = 0;
pub(super) const NEW: usize = 1;

/// Differences that are told apart by who decided; of more, nobody reads so much, and namespaces are compared.
const MOST_NAMED: usize = 2_000;

/// Rows that are held before rows of workloads that reach each other are put together, and the ends in all of them.
const MOST_ROWS: usize = 5_000;
const MOST_HELD: usize = 50_000_000;

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
    /// Whether egress and ingress are judged differently.
    pub(super) halves: [bool; 2],
    /// Of each half that is judged differently, by whom: where that is told ([`Detail::Named`]).
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
    /// Pairs of ends that it holds for.
    pub(super) pairs: usize,
    /// Where whole namespaces are compared.
    pub(super) part: Option<Part>,
}

/// How much of what two lists of namespaces could have between them a difference is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Pairs of ends that there are.
    pub(super) of: usize,
    /// One that the difference holds for.
    pub(super) example: (EndId, EndId),
}

/// All differences, and the policies that judge a pod where there is one.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) found: Vec<Found>,
    pub(super) touching: HashSet<PolicyRef>,
}

/// What differs about an end, so that flows from or to it may be judged differently.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Changed {
    pub(super) egress: bool,
    pub(super) ingress: bool,
    /// As a peer: other rules may match it now.
    pub(super) peer: bool,
}

/// Sources by what they have in common: an entry, and the destinations that it holds for.
type Rows<E> = HashMap<(E, Vec<u32>), Vec<EndId>>;

/// Compares the two versions of `reach`; `progress` hears how many of how many sources are done.
pub(super) fn compare(reach: &Reach<'_>, progress: impl Fn(usize, usize) + Sync) -> Comparison {
    let pairs = Pairs::of(reach, changed_ends(reach));
    if let Some(comparison) = by_who_decided(&pairs, &progress) {
        return comparison;
    }
    let shares = pairs.walk(Detail::Decisions, &AtomicBool::new(false), namespaces::take(reach), &progress);
    let touching = touching(reach, &shares);
    Comparison { found: namespaces::merge(reach, shares), touching }
}

/// `None`: too many to be read.
fn by_who_decided(pairs: &Pairs<'_, '_>, progress: &(impl Fn(usize, usize) + Sync)) -> Option<Comparison> {
    let too_many = AtomicBool::new(false);
    let (rows, held) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let take = |taken: &mut Rows<u32>, from: EndId, entry: u32, to: Vec<u32>| {
        let length = to.len();
        let alike = taken.entry((entry, to)).or_default();
        if alike.is_empty() {
            let rows = rows.fetch_add(1, Ordering::Relaxed);
            let held = held.fetch_add(length, Ordering::Relaxed);
            if rows >= MOST_ROWS || held >= MOST_HELD {
                too_many.store(true, Ordering::Relaxed);
            }
        }
        alike.push(from);
    };
    let shares = pairs.walk(Detail::Named, &too_many, take, progress);
    if too_many.into_inner() {
        return None;
    }
    let touching = touching(pairs.reach, &shares);
    let found = merge(pairs.reach, shares);
    (found.len() <= MOST_NAMED).then_some(Comparison { found, touching })
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

pub(super) fn said(reach: &Reach<'_>, half: &Half, end: EndId, version: usize, direction: Direction) -> Said {
    let nobody = matches!(half.reason, Reason::NoRuleMatched | Reason::NotTheProtocol);
    let program = if nobody { reach.program(end, version, direction) } else { None };
    Said { decision: half.decision, reason: half.reason, rule: half.rule, program }
}

/// The policies that judge, in a direction in which something differs, a pod of a difference.
fn touching<A>(reach: &Reach<'_>, shares: &[Share<A>]) -> HashSet<PolicyRef> {
    let mut programs: HashSet<(usize, ProgramId)> = HashSet::new();
    for (direction, place) in [(Direction::Egress, 0), (Direction::Ingress, 1)] {
        for end in (0..reach.end_count()).filter(|end| shares.iter().any(|share| share.touched[place][*end])) {
            let judging = |version| Some((version, reach.program(end, version, direction)?));
            programs.extend([OLD, NEW].into_iter().filter_map(judging));
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
fn merge(reach: &Reach<'_>, shares: Vec<Share<Rows<u32>>>) -> Vec<Found> {
    let mut alike: Rows<Entry> = HashMap::new();
    for share in shares {
        for ((entry, to), mut from) in share.taken {
            alike.entry((share.entries[entry as usize].clone(), to)).or_default().append(&mut from);
        }
    }
    // A workload of one pod has no flow to itself to ask about, so workloads that reach each other differ in just that.
    let mut each_other: Rows<Entry> = HashMap::new();
    let mut found = Vec::new();
    for ((entry, mut to), mut from) in alike {
        let [only] = from[..] else {
            from.sort_unstable();
            found.push(Found::named(reach, entry, from, &to));
            continue;
        };
        if is_alone(reach, only)
            && let Err(place) = to.binary_search(&short(only))
        {
            to.insert(place, short(only));
        }
        each_other.entry((entry, to)).or_default().push(only);
    }
    for ((entry, mut to), mut from) in each_other {
        from.sort_unstable();
        if let [only] = from[..]
            && is_alone(reach, only)
        {
            to.retain(|end| *end != short(only));
        }
        found.push(Found::named(reach, entry, from, &to));
    }
    found.sort_by(|a, b| (&a.from, &a.to, &a.ports).cmp(&(&b.from, &b.to, &b.ports)));
    found
}

/// Whether it is one pod: it has no flow to another of its kind.
pub(super) fn is_alone(reach: &Reach<'_>, end: EndId) -> bool {
    reach.class(end).is_some_and(|class| class.examples.len() < 2)
}

impl Found {
    fn named(reach: &Reach<'_>, (delta, ports): Entry, from: Vec<EndId>, to: &[u32]) -> Self {
        let itself = from.iter().filter(|end| is_alone(reach, **end) && to.binary_search(&short(**end)).is_ok()).count();
        let pairs = from.len() * to.len() - itself;
        Self { delta, ports, from, to: to.iter().map(|end| *end as usize).collect(), pairs, part: None }
    }
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
