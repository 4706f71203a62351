//! What one pod's look-ups have taught. Pure: whoever calls holds the lock, the clock and the metrics.
//!
//! Entries are kept with their address, because that is what connections ask for. Each name, and the pod for its names, has a queue in
//! the order of expiry; its keys are brought up to date when they come to the front, as an expiry only ever moves later. So a
//! repeated look-up touches no queue, and whatever expires soonest is found without a search.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use super::lesson::{Learned, LearnedName};
use super::metrics::Bound;
use super::moment::{Moment, Tick};
use super::store::Limits;

/// Addresses of an answer that are compared one by one.
const FEW: usize = 16;

/// The soonest first.
type Queue<T> = BinaryHeap<Reverse<(Tick, T)>>;

/// What is known for one pod. Addresses and names come from strangers: the maps' hashes are keyed.
#[derive(Debug, Default)]
pub(super) struct PodNames {
    addresses: HashMap<IpAddr, Vec<Held>>,
    names: HashMap<Arc<str>, Named>,
    /// Each of `names` once.
    queue: Queue<Arc<str>>,
    entries: usize,
}

/// A name that an address has.
#[derive(Debug)]
struct Held {
    name: Arc<str>,
    expires: Tick,
    /// Until then the kernel has confirmed it.
    told: Tick,
}

/// A name, and where it is held.
#[derive(Debug, Default)]
struct Named {
    /// The latest expiry that any of its addresses ever had.
    last: Tick,
    /// Each of its addresses once.
    queue: Queue<IpAddr>,
}

/// An address that an answer gives to the first so many of its names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fact {
    pub(super) address: IpAddr,
    pub(super) names: usize,
    /// The end of the time that the answer says.
    pub(super) until: Tick,
    /// When it is forgotten: no sooner.
    pub(super) expires: Tick,
}

/// What the kernel holds of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// Not all of it, or not for as long as it says.
    Lacking,
    /// All of it, and hardly longer than it says: the next answer would have to wait.
    Ending,
    /// All of it, or it is on its way there.
    Held,
}

/// One change: when, within which bounds, and what it cost.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    pub(super) now: Moment,
    pub(super) limits: &'a Limits,
    /// What met a bound before its time.
    pub(super) dropped: Vec<(IpAddr, Arc<str>, Bound)>,
    /// How much of an answer found no place.
    pub(super) left_out: Vec<(Bound, usize)>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(now: Moment, limits: &'a Limits) -> Self {
        Self { now, limits, dropped: Vec::new(), left_out: Vec::new() }
    }

    fn leave_out(&mut self, bound: Bound, count: usize) {
        if count > 0 {
            self.left_out.push((bound, count));
        }
    }
}

impl PodNames {
    /// Entries that are held, expired ones included until they are swept.
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// What the kernel holds of what an answer says of `names`: all, of most of what is asked for again.
    pub(super) fn standing(&self, names: &[&str], facts: &[Fact]) -> Standing {
        let of_fact = |fact: &Fact| {
            let list = self.addresses.get(&fact.address).map(Vec::as_slice).unwrap_or_default();
            let of_name = |name: &&str| match list.iter().find(|held| *held.name == **name) {
                Some(held) if held.told < fact.until => Standing::Lacking,
                Some(held) if held.expires == fact.until => Standing::Ending,
                Some(_) => Standing::Held,
                None => Standing::Lacking,
            };
            names[..fact.names.min(names.len())].iter().map(of_name).min().unwrap_or(Standing::Held)
        };
        facts.iter().map(of_fact).min().unwrap_or(Standing::Held)
    }

    /// Takes in what an answer says of `names`, the first of which was asked for.
    ///
    /// Where a bound is met, the one that expires soonest goes, expired ones first, but never one of the same answer for another.
    pub(super) fn learn(&mut self, names: &[&str], facts: &[Fact], turn: &mut Turn<'_>) {
        let reached = facts.iter().map(|fact| fact.names).max().unwrap_or_default().min(names.len());
        let kept = reached.min(turn.limits.names_per_pod);
        turn.leave_out(Bound::NamesPerPod, facts.iter().map(|fact| fact.names.saturating_sub(kept)).sum());
        let names = self.place_for_names(&names[..kept], turn);
        for (index, name) in names.iter().enumerate() {
            let mut wanted = addresses_of(index, facts);
            let most = turn.limits.addresses_per_name;
            turn.leave_out(Bound::AddressesPerName, wanted.len().saturating_sub(most));
            wanted.truncate(most);
            wanted.sort_unstable();
            self.put(name, &names, &wanted, turn);
        }
    }

    /// Has a place for each of `names`, and yields them as they are shared here.
    fn place_for_names(&mut self, names: &[&str], turn: &mut Turn<'_>) -> Vec<Arc<str>> {
        let new = names.iter().filter(|name| !self.names.contains_key(**name)).count();
        let mut aside = Vec::new();
        while self.names.len() + new > turn.limits.names_per_pod {
            let Some((_, name)) = self.pop_name() else { break };
            if names.iter().any(|kept| **kept == *name) {
                aside.push(name);
            } else {
                self.drop_name(&name, Bound::NamesPerPod, turn);
            }
        }
        for name in aside {
            let last = self.names[&name].last;
            self.queue.push(Reverse((last, name)));
        }
        names.iter().map(|name| self.intern(name)).collect()
    }

    fn intern(&mut self, name: &str) -> Arc<str> {
        if let Some((shared, _)) = self.names.get_key_value(name) {
            return Arc::clone(shared);
        }
        let shared: Arc<str> = name.into();
        self.names.insert(Arc::clone(&shared), Named::default());
        self.queue.push(Reverse((Tick::default(), Arc::clone(&shared))));
        shared
    }

    /// Puts the addresses `wanted`, which are sorted, under `name`, one of those of this `answer`.
    fn put(&mut self, name: &Arc<str>, answer: &[Arc<str>], wanted: &[(IpAddr, Tick)], turn: &mut Turn<'_>) {
        let mut new = Vec::new();
        for &(address, expires) in wanted {
            match self.held_mut(address, name) {
                Some(held) => held.expires = held.expires.max(expires),
                None => new.push((address, expires)),
            }
        }
        self.place_at_name(name, new.len(), wanted, turn);
        for (address, expires) in new {
            if self.place_at_address(address, answer, turn) {
                let held = Held { name: Arc::clone(name), expires, told: Tick::default() };
                // Most addresses have one name.
                self.addresses.entry(address).or_insert_with(|| Vec::with_capacity(1)).push(held);
                self.named(name).queue.push(Reverse((expires, address)));
                self.entries += 1;
            } else {
                turn.leave_out(Bound::NamesPerAddress, 1);
            }
        }
        let latest = wanted.iter().map(|(_, expires)| *expires).max().unwrap_or_default();
        let named = self.named(name);
        named.last = named.last.max(latest);
    }

    fn place_at_name(&mut self, name: &Arc<str>, new: usize, wanted: &[(IpAddr, Tick)], turn: &mut Turn<'_>) {
        let mut aside = Vec::new();
        while self.named(name).queue.len() + aside.len() + new > turn.limits.addresses_per_name {
            let Some(Reverse((key, address))) = self.named(name).queue.pop() else { break };
            let expires = self.held_mut(address, name).map_or(key, |held| held.expires);
            if expires > key {
                self.named(name).queue.push(Reverse((expires, address)));
            } else if wanted.binary_search_by_key(&address, |(wanted, _)| *wanted).is_ok() {
                aside.push(Reverse((expires, address)));
            } else {
                self.take_out(address, name, Bound::AddressesPerName, turn);
            }
        }
        self.named(name).queue.extend(aside);
    }

    /// `false`: all places of `address` are taken by names of the same answer.
    fn place_at_address(&mut self, address: IpAddr, answer: &[Arc<str>], turn: &mut Turn<'_>) -> bool {
        let (now, most) = (turn.now, turn.limits.names_per_address);
        let Some(list) = self.addresses.get(&address) else { return most > 0 };
        if list.len() < most {
            return true;
        }
        let mut going: Vec<Arc<str>> =
            list.iter().filter(|held| held.expires.is_over(now)).map(|held| Arc::clone(&held.name)).collect();
        if list.len() - going.len() >= most {
            let others = list.iter().filter(|held| !answer.iter().any(|name| Arc::ptr_eq(name, &held.name)));
            let soonest = others.filter(|held| !held.expires.is_over(now)).min_by_key(|held| (held.expires, &held.name));
            let Some(soonest) = soonest else { return false };
            going.push(Arc::clone(&soonest.name));
        }
        for name in going {
            self.take_out(address, &name, Bound::NamesPerAddress, turn);
            self.named(&name).queue.retain(|Reverse((_, other))| *other != address);
        }
        true
    }

    /// Drops the name that expires soonest, unless all are among `kept`. Returns whether there was one.
    pub(super) fn drop_soonest(&mut self, kept: &[&str], turn: &mut Turn<'_>) -> bool {
        let mut aside = Vec::new();
        let found = loop {
            match self.pop_name() {
                None => break None,
                Some((last, name)) if kept.iter().any(|kept| **kept == *name) => aside.push(Reverse((last, name))),
                Some((_, name)) => break Some(name),
            }
        };
        self.queue.extend(aside);
        if let Some(name) = &found {
            self.drop_name(name, Bound::Total, turn);
        }
        found.is_some()
    }

    /// Takes the name that expires soonest out of the queue.
    fn pop_name(&mut self) -> Option<(Tick, Arc<str>)> {
        loop {
            let Reverse((key, name)) = self.queue.pop()?;
            let last = self.named(&name).last;
            if last == key {
                return Some((last, name));
            }
            self.queue.push(Reverse((last, name)));
        }
    }

    fn drop_name(&mut self, name: &Arc<str>, bound: Bound, turn: &mut Turn<'_>) {
        for Reverse((_, address)) in std::mem::take(&mut self.named(name).queue) {
            self.take_out(address, name, bound, turn);
        }
        self.names.remove(name);
    }

    /// Ends what `address` has of `name`; the name's queue is for the caller.
    fn take_out(&mut self, address: IpAddr, name: &Arc<str>, bound: Bound, turn: &mut Turn<'_>) {
        let Some(list) = self.addresses.get_mut(&address) else { return };
        let Some(at) = list.iter().position(|held| Arc::ptr_eq(&held.name, name)) else { return };
        let held = list.swap_remove(at);
        if list.is_empty() {
            self.addresses.remove(&address);
        }
        self.entries -= 1;
        if !held.expires.is_over(turn.now) {
            turn.dropped.push((address, held.name, bound));
        }
    }

    fn held_mut(&mut self, address: IpAddr, name: &Arc<str>) -> Option<&mut Held> {
        self.addresses.get_mut(&address)?.iter_mut().find(|held| Arc::ptr_eq(&held.name, name))
    }

    fn named(&mut self, name: &Arc<str>) -> &mut Named {
        self.names.get_mut(name).expect("a name is in the map as long as it is in a queue or at an address")
    }

    /// The kernel holds `name` at `address` until then.
    pub(super) fn confirm(&mut self, address: IpAddr, name: &Arc<str>, until: Tick) {
        let list = self.addresses.get_mut(&address);
        if let Some(held) = list.and_then(|list| list.iter_mut().find(|held| held.name == *name)) {
            held.told = held.told.max(until);
        }
    }

    /// Raises the expiries of what is still known.
    pub(super) fn catch_up(&self, learned: &mut Learned) {
        let list = self.addresses.get(&learned.address).map(Vec::as_slice).unwrap_or_default();
        for name in &mut learned.names {
            if let Some(held) = list.iter().find(|held| held.name == name.name) {
                name.expires = name.expires.max(held.expires.moment());
                name.is_news |= held.told < held.expires;
            }
        }
    }

    pub(super) fn names_of(&self, address: IpAddr, now: Moment) -> Vec<Arc<str>> {
        let list = self.addresses.get(&address).map(Vec::as_slice).unwrap_or_default();
        list.iter().filter(|held| !held.expires.is_over(now)).map(|held| Arc::clone(&held.name)).collect()
    }

    /// All the names of `address`, whether there is news among them or not. `None`: there is none.
    pub(super) fn learned(&self, address: IpAddr, now: Moment) -> Option<Learned> {
        let current = self.addresses.get(&address)?.iter().filter(|held| !held.expires.is_over(now));
        let names: Vec<_> = current
            .map(|held| LearnedName {
                name: Arc::clone(&held.name),
                expires: held.expires.moment(),
                is_news: held.told < held.expires,
            })
            .collect();
        (!names.is_empty()).then_some(Learned { address, names })
    }

    /// Whether the kernel lacks a name of `address`, or would close it too early.
    pub(super) fn has_news(&self, address: IpAddr, now: Moment) -> bool {
        let list = self.addresses.get(&address).map(Vec::as_slice).unwrap_or_default();
        list.iter().any(|held| held.told < held.expires && !held.expires.is_over(now))
    }

    /// All addresses, in no order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    /// Drops what has expired, names that have lost all their addresses, and the room that both took.
    pub(super) fn sweep(&mut self, now: Moment) {
        self.addresses.retain(|_, list| {
            list.retain(|held| !held.expires.is_over(now));
            list.shrink_to(list.len() * 2);
            !list.is_empty()
        });
        self.entries = self.addresses.values().map(Vec::len).sum();
        self.names.retain(|name, named| {
            // What isn't over by its key isn't over by its expiry, which is no sooner.
            let is_held = |address: &IpAddr| {
                let list = self.addresses.get(address).map(Vec::as_slice).unwrap_or_default();
                list.iter().any(|held| Arc::ptr_eq(&held.name, name))
            };
            named.queue.retain(|Reverse((key, address))| !key.is_over(now) || is_held(address));
            named.queue.shrink_to(named.queue.len() * 2);
            !named.queue.is_empty()
        });
        self.queue.retain(|Reverse((_, name))| self.names.contains_key(name));
        self.addresses.shrink_to(self.addresses.len() * 2);
        self.names.shrink_to(self.names.len() * 2);
        self.queue.shrink_to(self.queue.len() * 2);
    }
}

/// The addresses that the name at `index` leads to, each once, with its latest expiry, in the order of the answer.
fn addresses_of(index: usize, facts: &[Fact]) -> Vec<(IpAddr, Tick)> {
    let mut wanted: Vec<(IpAddr, Tick)> = Vec::new();
    // Most answers have so few that to look through them is quicker than to make a map.
    let mut place = (facts.len() > FEW).then(HashMap::new);
    for fact in facts.iter().filter(|fact| fact.names > index) {
        let at = match &mut place {
            Some(place) => *place.entry(fact.address).or_insert(wanted.len()),
            None => wanted.iter().position(|(address, _)| *address == fact.address).unwrap_or(wanted.len()),
        };
        match wanted.get_mut(at) {
            Some((_, expires)) => *expires = (*expires).max(fact.expires),
            None => wanted.push((fact.address, fact.expires)),
        }
    }
    wanted
}
