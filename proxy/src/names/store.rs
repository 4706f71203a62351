//! The names of all pods: shared by the threads that answer look-ups, those that judge connections, and the kernel's.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::journal::Entry;
use super::lesson::{Displaced, Forgotten, Lesson};
use super::metrics::NamesMetrics;
use super::moment::{Moment, Tick};
use super::pod::{Fact, PodNames, Standing, Turn};
use crate::dns::Answer;

/// What is learned is kept for so much longer than its answer says, which is less than a second with what rounding adds. So an answer that comes
/// again within that time says nothing new, and no pod that has its answer later than we finds its addresses closed too early.
const SLACK_TICKS: u32 = 3;

/// How long names are believed, and how many are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A shorter TTL counts as this.
    pub min_ttl: Duration,
    /// A longer TTL counts as this, unless the floor is higher.
    pub max_ttl: Duration,
    /// Beyond the TTL, for clients that keep answers too long.
    pub grace: Duration,
    pub names_per_pod: usize,
    pub addresses_per_name: usize,
    /// Names that share an address, as a pod sees it. Each connection to the address brings all of them along.
    pub names_per_address: usize,
    /// Over all pods, counted as addresses of names. For a moment exceeded by what each thread is learning. The pod with the most loses.
    pub total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            min_ttl: Duration::from_secs(30),
            max_ttl: Duration::from_secs(86_400),
            grace: Duration::ZERO,
            names_per_pod: 10_000,
            addresses_per_name: 1_000,
            names_per_address: 256,
            total: 1_000_000,
        }
    }
}

/// A line of the listing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Known {
    pub pod: IpAddr,
    pub name: Arc<str>,
    pub address: IpAddr,
    /// What is left of its time.
    pub left: Duration,
}

/// What was learned, for all pods. Its methods block for as long as another one works on the same pod: microseconds, or milliseconds while
/// a pod with 100,000 entries is listed or swept.
#[derive(Debug)]
pub struct Names {
    limits: Limits,
    metrics: NamesMetrics,
    /// By the pods' own addresses: no stranger chooses the keys.
    pods: RwLock<FxHashMap<IpAddr, Arc<Shelf>>>,
    entries: AtomicUsize,
    stamps: AtomicU64,
}

/// The place of one pod.
#[derive(Debug)]
struct Shelf {
    /// As many as its names have: read without the lock to find the pod with the most.
    entries: AtomicUsize,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    names: PodNames,
    stamp: u64,
    /// The stamp that it began with: what has an older one was learned for another pod.
    since: u64,
    /// When the last answer was learned.
    latest: Moment,
    /// It is no longer in the map: whoever waited for it must look again.
    gone: bool,
}

impl Names {
    pub fn new(limits: Limits, metrics: NamesMetrics) -> Self {
        Self { limits, metrics, pods: RwLock::default(), entries: AtomicUsize::new(0), stamps: AtomicU64::new(1) }
    }

    /// Learns, for `pod` alone, the addresses of `answer` under each name that leads to them: those of the pod's own family, as it can
    /// connect to no others from this address.
    ///
    /// Returns what the kernel has not confirmed of it. That includes what another look-up has just learned and not yet had
    /// confirmed: whoever gets it tells it too, and waits for its own acknowledgement.
    pub fn learn(&self, pod: IpAddr, answer: &Answer, now: Moment) -> Lesson {
        let facts: Vec<Fact> = answer
            .addresses
            .iter()
            .filter(|address| address.ip.is_ipv4() == pod.is_ipv4())
            .map(|address| self.fact(address.ip, answer.names_of(address).len(), address.ttl_seconds, now))
            .collect();
        if facts.is_empty() {
            return Lesson::nothing(pod, now);
        }
        let names: Vec<&str> = answer.names.iter().map(String::as_str).collect();
        self.learn_facts(pod, &names, &facts, now)
    }

    pub(super) fn fact(&self, address: IpAddr, names: usize, ttl_seconds: u32, now: Moment) -> Fact {
        let ttl = Duration::from_secs(ttl_seconds.into()).min(self.limits.max_ttl).max(self.limits.min_ttl);
        let until = Tick::not_before(now.after(ttl).after(self.limits.grace));
        Fact { address, names, until, expires: until.later(SLACK_TICKS) }
    }

    fn learn_facts(&self, pod: IpAddr, names: &[&str], facts: &[Fact], now: Moment) -> Lesson {
        let mut lesson = Lesson::nothing(pod, now);
        self.with_shelf(pod, |shelf, inner| {
            let standing = inner.names.standing(names, facts);
            if standing == Standing::Held {
                inner.latest = inner.latest.max(now);
                return;
            }
            lesson.prolongs = standing == Standing::Ending;
            self.take_in(shelf, inner, (names, facts), &mut lesson);
            let mut seen = HashSet::new();
            let news = facts.iter().map(|fact| fact.address).filter(|address| inner.names.has_news(*address, now));
            let news = news.filter(|address| facts.len() == 1 || seen.insert(*address));
            lesson.addresses = news.filter_map(|address| inner.names.learned(address, now)).collect();
        });
        self.keep_total(names, &mut lesson);
        lesson
    }

    fn take_in(&self, shelf: &Shelf, inner: &mut Inner, (names, facts): (&[&str], &[Fact]), lesson: &mut Lesson) {
        let mut turn = Turn::new(lesson.at, &self.limits);
        inner.names.learn(names, facts, &mut turn);
        inner.latest = inner.latest.max(lesson.at);
        self.settle(shelf, inner, lesson.pod, turn, &mut lesson.displaced);
        lesson.stamp = inner.stamp;
    }

    /// Runs `work` on the place of `pod`, which is made if there is none.
    fn with_shelf(&self, pod: IpAddr, mut work: impl FnMut(&Shelf, &mut Inner)) {
        loop {
            let found = read(&self.pods).get(&pod).cloned();
            let shelf = found.unwrap_or_else(|| Arc::clone(write(&self.pods).entry(pod).or_insert_with(|| self.shelf())));
            let mut inner = shelf.lock();
            if !inner.gone {
                return work(&shelf, &mut inner);
            }
        }
    }

    fn shelf(&self) -> Arc<Shelf> {
        let stamp = self.stamp();
        let inner = Inner { names: PodNames::default(), stamp, since: stamp, latest: Moment::default(), gone: false };
        Arc::new(Shelf { entries: AtomicUsize::new(0), inner: Mutex::new(inner) })
    }

    fn stamp(&self) -> u64 {
        self.stamps.fetch_add(1, Ordering::Relaxed)
    }

    /// After a change: counts, and voids what is not yet confirmed if something was displaced. The kernel may have taken that out.
    fn settle(&self, shelf: &Shelf, inner: &mut Inner, pod: IpAddr, turn: Turn<'_>, displaced: &mut Vec<Displaced>) {
        self.count(shelf, inner);
        if !turn.dropped.is_empty() {
            inner.stamp = self.stamp();
        }
        for (bound, count) in turn.left_out {
            self.metrics.displaced(bound, count);
        }
        for (address, name, bound) in turn.dropped {
            self.metrics.displaced(bound, 1);
            displaced.push(Displaced { pod, address, name });
        }
    }

    fn count(&self, shelf: &Shelf, inner: &Inner) {
        let after = inner.names.len();
        let before = shelf.entries.swap(after, Ordering::Relaxed);
        let total = match after.checked_sub(before) {
            Some(more) => self.entries.fetch_add(more, Ordering::Relaxed) + more,
            None => self.entries.fetch_sub(before - after, Ordering::Relaxed).saturating_sub(before - after),
        };
        self.metrics.entries.set(i64::try_from(total).unwrap_or(i64::MAX));
    }

    /// Takes from the pods with the most until there is no more than `total`, but not the `names` that were just learned.
    fn keep_total(&self, names: &[&str], lesson: &mut Lesson) {
        let mut spared = false;
        while self.entries.load(Ordering::Relaxed) > self.limits.total {
            let most = {
                let pods = read(&self.pods);
                let others = pods.iter().filter(|(pod, _)| !(spared && **pod == lesson.pod));
                let most = others.max_by_key(|(_, shelf)| shelf.entries.load(Ordering::Relaxed));
                most.map(|(pod, shelf)| (*pod, Arc::clone(shelf)))
            };
            let Some((pod, shelf)) = most else { return };
            let mut inner = shelf.lock();
            if inner.gone {
                continue;
            }
            let is_own = pod == lesson.pod;
            let mut turn = Turn::new(lesson.at, &self.limits);
            let found = inner.names.drop_soonest(if is_own { names } else { &[] }, &mut turn);
            self.settle(&shelf, &mut inner, pod, turn, &mut lesson.displaced);
            match (found, is_own) {
                (true, _) => {}
                (false, true) => spared = true,
                (false, false) => return,
            }
        }
    }

    /// The kernel holds what `lesson` says. Only then does it count as told.
    pub fn confirm(&self, lesson: &Lesson) {
        let Some(shelf) = read(&self.pods).get(&lesson.pod).cloned() else { return };
        let mut inner = shelf.lock();
        if inner.is_void(lesson) {
            return;
        }
        for learned in &lesson.addresses {
            for name in learned.names.iter().filter(|name| name.is_news) {
                inner.names.confirm(learned.address, &name.name, Tick::not_before(name.expires));
            }
        }
    }

    /// Brings a lesson that has waited up to date: told after a later one about the same names, it must not shorten their time.
    ///
    /// `false`: something of its pod was displaced or forgotten since, and may be told no more if nobody waits for it.
    pub fn catch_up(&self, lesson: &mut Lesson) -> bool {
        let Some(shelf) = read(&self.pods).get(&lesson.pod).cloned() else { return false };
        let inner = shelf.lock();
        for learned in &mut lesson.addresses {
            inner.names.catch_up(learned);
        }
        !inner.is_void(lesson)
    }

    /// Whether the pod that `lesson` was learned for has been forgotten since: it must not be told to whoever has its address now.
    pub fn is_forgotten(&self, lesson: &Lesson) -> bool {
        let shelf = read(&self.pods).get(&lesson.pod).cloned();
        shelf.is_none_or(|shelf| lesson.stamp < shelf.lock().since)
    }

    /// The names that `pod` knows `address` by.
    pub fn names_of(&self, pod: IpAddr, address: IpAddr, now: Moment) -> Vec<Arc<str>> {
        let shelf = read(&self.pods).get(&pod).cloned();
        shelf.map(|shelf| shelf.lock().names.names_of(address, now)).unwrap_or_default()
    }

    /// All that `pod` knows, whether the kernel has confirmed it or not: for sets that are filled anew. Can be confirmed.
    ///
    /// For the thread that tells the kernel lessons too: one that it told to the old sets after this would not be in the new ones.
    pub fn of_pod(&self, pod: IpAddr, now: Moment) -> Lesson {
        let mut lesson = Lesson::nothing(pod, now);
        let Some(shelf) = read(&self.pods).get(&pod).cloned() else { return lesson };
        let inner = shelf.lock();
        lesson.stamp = inner.stamp;
        lesson.addresses = inner.names.addresses().filter_map(|address| inner.names.learned(address, now)).collect();
        lesson
    }

    /// The pods of which something was learned, in no order.
    pub fn pods(&self) -> Vec<IpAddr> {
        read(&self.pods).keys().copied().collect()
    }

    /// The listing, by pod, name and address.
    pub fn all(&self, now: Moment) -> Vec<Known> {
        let mut all = Vec::new();
        for pod in self.pods() {
            for learned in self.of_pod(pod, now).addresses {
                let address = learned.address;
                all.extend(learned.names.into_iter().map(|name| Known {
                    pod,
                    name: name.name,
                    address,
                    left: now.until(name.expires),
                }));
            }
        }
        all.sort_unstable();
        all
    }

    /// The pod at this address is gone, or is another one now. The journal must be told, also where nothing was known. The kernel's elements
    /// of the pod are for the caller to take out.
    pub fn forget(&self, pod: IpAddr, now: Moment) -> Forgotten {
        let mut forgotten = Forgotten { pod, at: now };
        let removed = write(&self.pods).remove(&pod);
        if let Some(shelf) = removed {
            let mut inner = shelf.lock();
            // What is still on its way to the journal was learned by then.
            forgotten.at = now.max(inner.latest);
            self.close(&shelf, &mut inner);
        }
        forgotten
    }

    fn close(&self, shelf: &Shelf, inner: &mut Inner) {
        inner.names = PodNames::default();
        inner.gone = true;
        self.count(shelf, inner);
    }

    /// Drops what has expired. Looks at every entry: for once in a minute or so.
    pub fn sweep(&self, now: Moment) {
        let shelves: Vec<_> = read(&self.pods).iter().map(|(pod, shelf)| (*pod, Arc::clone(shelf))).collect();
        for (pod, shelf) in shelves {
            let mut inner = shelf.lock();
            if inner.gone {
                continue;
            }
            inner.names.sweep(now);
            self.count(&shelf, &inner);
            if inner.names.len() > 0 {
                continue;
            }
            drop(inner);
            // Nobody waits here with the map locked: whoever has the place now will use it.
            let mut pods = write(&self.pods);
            if let Ok(mut inner) = shelf.inner.try_lock()
                && inner.names.len() == 0
                && !inner.gone
            {
                self.close(&shelf, &mut inner);
                pods.remove(&pod);
            }
        }
    }

    /// Takes in what a former process wrote down. Nothing of it counts as told, nothing lasts longer than an answer of now could say, and
    /// the bounds hold.
    pub fn restore(&self, entries: &[Entry], now: Moment) {
        let longest = |address| self.fact(address, 1, u32::MAX, now);
        for of_pod in entries.chunk_by(|one, next| one.pod == next.pod) {
            let mut lesson = Lesson::nothing(of_pod[0].pod, now);
            self.with_shelf(lesson.pod, |shelf, inner| {
                for entry in of_pod {
                    let mut fact = longest(entry.address);
                    fact.expires = fact.expires.min(Tick::not_before(entry.expires));
                    if !fact.expires.is_over(now) {
                        self.take_in(shelf, inner, (&[&entry.name], &[fact]), &mut lesson);
                    }
                }
            });
            self.keep_total(&[], &mut lesson);
        }
    }

    #[cfg(test)]
    pub(crate) fn learn_one(&self, pod: IpAddr, name: &str, address: IpAddr, ttl_seconds: u32, now: Moment) -> Lesson {
        self.learn_facts(pod, &[name], &[self.fact(address, 1, ttl_seconds, now)], now)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.load(Ordering::Relaxed)
    }
}

impl Inner {
    /// Whether what `lesson` says may not be so any more.
    fn is_void(&self, lesson: &Lesson) -> bool {
        self.gone || self.stamp != lesson.stamp
    }
}

impl Shelf {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Pods = FxHashMap<IpAddr, Arc<Shelf>>;

fn read(pods: &RwLock<Pods>) -> std::sync::RwLockReadGuard<'_, Pods> {
    pods.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(pods: &RwLock<Pods>) -> std::sync::RwLockWriteGuard<'_, Pods> {
    pods.write().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
