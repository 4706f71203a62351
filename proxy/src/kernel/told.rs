//! What pods were told of names, as the kernel holds it: for each peer by name a timed set of pairs, the pod and an address that one
//! of the names has for it.
//!
//! The sets belong to the rules, and go by what they say; their elements come from the pods' look-ups, and go by themselves. A set that
//! appears is filled from what is remembered, in the transaction that it appears in. What a pod was told is forgotten when the pod
//! goes: whoever has its address next was told nothing.
//!
//! What lost its place to others goes from the sets as well: with the lesson that took its place, unless another name keeps it there.
//!
//! An element is added again with the time that it then has. Linux extends it since 6.12; before, it is taken out and put in, in one
//! transaction ([`extends`](super::Config::extends)).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_policy::Table;
use sluice_policy::snapshot::ProgramId;
use sluice_policy::source::Named;

use super::names::Edition;
use super::object::{Element, Family, Field, Key, Set, SetKind, concatenation, octets};
use super::program::{Auxiliary, Rendered};
use super::transaction::Transaction;
use super::{Error, Installed, Kernel};
use crate::names::{Displaced, Lesson, Moment, Names};

/// The time of what is added only to be deleted by the same transaction: any that outlasts it.
const ADDED_MS: u64 = 60_000;

/// The pairs of one peer by name.
pub(super) fn set(name: &str, family: Family) -> Set {
    let address = Field::Address(family);
    Set::new(name, &[address, address], SetKind::Timed)
}

/// What a set of such pairs goes by: `names_api_github_com_`, and what tells it from all others.
pub(super) fn set_name(edition: Edition, named: &Named, family: Family, contents: impl Fn(&str) -> String) -> String {
    let first = named.patterns.first().map(ToString::to_string).unwrap_or_default();
    let readable: String =
        first.chars().filter(char::is_ascii).take(32).map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    let patterns: Vec<String> = named.patterns.iter().map(|pattern| format!("{pattern:?}")).collect();
    let private = if named.allow_private { "private" } else { "" };
    edition.sets_of(&format!("names_{readable}_{}", contents(&format!("{private} {}", patterns.join(" ")))), family)
}

impl Kernel {
    /// From now on sets are filled from what is remembered here.
    pub fn remember(&mut self, names: Arc<Names>) {
        self.names_told = Some(names);
    }

    /// Tells the kernel what pods have learned, all in one transaction; what none of their rules names is left out. Ok: it holds it.
    ///
    /// On an error nothing of it is held for certain. Before the first table nothing is: the first one brings what is remembered.
    pub fn learn(&mut self, lessons: &[Lesson]) -> Result<(), Error> {
        let Some(installed) = &mut self.installed else { return Ok(()) };
        let now = Moment::now();
        let mut transaction = Transaction::new();
        let mut sets: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
        let mut displaced: BTreeMap<&str, BTreeSet<Key>> = BTreeMap::new();
        for lesson in lessons {
            if let Some(rendered) = installed.judges(lesson.pod) {
                for (name, element) in elements(&installed.table, rendered, lesson, now) {
                    sets.entry(name).or_default().push(element);
                }
            }
            for gone in &lesson.displaced {
                let (Some(rendered), Some(names)) = (installed.judges(gone.pod), &self.names_told) else { continue };
                let kept = names.names_of(gone.pod, gone.address, now);
                for (name, key) in keys(rendered, gone, &kept) {
                    // What isn't there, as its time may be over by now, can't be deleted: so it is added first.
                    sets.entry(name).or_default().push(Element { timeout_ms: Some(ADDED_MS), ..Element::plain(key.clone()) });
                    displaced.entry(name).or_default().insert(key);
                }
            }
        }
        for (name, mut elements) in sets {
            // Of two lessons about one address the later one lasts longer.
            elements.sort_by(|a, b| (&a.key, b.timeout_ms).cmp(&(&b.key, a.timeout_ms)));
            elements.dedup_by(|later, first| later.key == first.key);
            transaction.add_elements(name, &elements);
            if !self.config.extends {
                // What isn't there can't be deleted. Here it is, with the time that it had.
                let keys: Vec<Element> = elements.iter().map(|element| Element::plain(element.key.clone())).collect();
                transaction.delete_elements(name, &keys);
                transaction.add_elements(name, &elements);
            }
        }
        for (name, keys) in displaced {
            transaction.delete_elements(name, &keys.into_iter().map(Element::plain).collect::<Vec<_>>());
        }
        let messages = transaction.into_messages();
        if messages.is_empty() {
            return Ok(());
        }
        self.channel.commit(&messages)?;
        installed.seen = installed.seen.map(|seen| seen.wrapping_add(1));
        Ok(())
    }

    /// Takes out what the pods at these addresses were told, and fills the sets anew with what is remembered of all others. Where
    /// that doesn't work or is too much at once, the next change does it, by replacing everything.
    pub fn forget(&mut self, pods: &[IpAddr]) -> Result<(), Error> {
        let (Some(installed), Some(names)) = (&mut self.installed, self.names_told.clone()) else { return Ok(()) };
        if pods.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::new();
        let sets = installed.sets_of_names();
        for name in sets.keys() {
            transaction.flush_set(name);
        }
        fill(&mut transaction, &installed.table, |id| installed.programs.get(&id), &names, |_, _| true);
        let messages = transaction.into_messages();
        if messages.is_empty() {
            return Ok(());
        }
        if messages.len() > self.channel.limit_bytes() {
            installed.is_certain = false;
            return Ok(());
        }
        self.channel.commit(&messages).inspect_err(|_| installed.is_certain = false)?;
        installed.seen = installed.seen.map(|seen| seen.wrapping_add(1));
        Ok(())
    }
}

impl Installed {
    /// What judges what the pod at this address sends.
    fn judges(&self, pod: IpAddr) -> Option<&Rendered> {
        self.programs.get(&program_of(&self.table, pod)?)
    }

    /// All sets of names, by what they go by.
    fn sets_of_names(&self) -> BTreeMap<&str, Family> {
        let all = self.programs.values().flat_map(|rendered| &rendered.sets);
        all.filter_map(|(name, set)| match set {
            Auxiliary::Names(_, family) => Some((name.as_str(), *family)),
            _ => None,
        })
        .collect()
    }
}

/// Fills sets with what is remembered of the pods that are wanted, judged by these programs.
pub(super) fn fill<'p>(
    transaction: &mut Transaction,
    table: &Table,
    rendered: impl Fn(ProgramId) -> Option<&'p Rendered>,
    names: &Names,
    wanted: impl Fn(&IpAddr, ProgramId) -> bool,
) {
    let now = Moment::now();
    let mut sets: BTreeMap<&str, Vec<Element>> = BTreeMap::new();
    for pod in names.pods() {
        let Some(program) = program_of(table, pod).filter(|program| wanted(&pod, *program)) else { continue };
        let Some(rendered) = rendered(program) else { continue };
        for (name, element) in elements(table, rendered, &names.of_pod(pod, now), now) {
            sets.entry(name).or_default().push(element);
        }
    }
    for (name, elements) in sets {
        transaction.add_elements(name, &elements);
    }
}

/// What judges what the pod at this address sends.
fn program_of(table: &Table, pod: IpAddr) -> Option<ProgramId> {
    let endpoint = table.endpoint(pod).filter(|endpoint| endpoint.local && !endpoint.conflict)?;
    table.programs(endpoint.identity).egress
}

/// What a lesson puts into which sets of its pod's program.
fn elements<'p>(table: &Table, rendered: &'p Rendered, lesson: &Lesson, now: Moment) -> Vec<(&'p str, Element)> {
    let family = Family::of(lesson.pod);
    let mut found = Vec::new();
    for (name, set) in &rendered.sets {
        let Auxiliary::Names(named, of) = set else { continue };
        for learned in lesson.addresses.iter().filter(|learned| *of == family && Family::of(learned.address) == family) {
            if !table.may_have(named, learned.address) {
                continue;
            }
            let last = learned.names.iter().filter(|known| named.matches(&known.name)).map(|known| known.expires).max();
            let left = last.map(|last| now.until(last)).filter(|left| *left > Duration::ZERO);
            found.extend(left.map(|left| {
                let key = concatenation([octets(lesson.pod).as_slice(), &octets(learned.address)]);
                // Rounded up, so that the kernel never closes first.
                let timeout_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).saturating_add(1);
                (name.as_str(), Element { timeout_ms: Some(timeout_ms), ..Element::plain(key) })
            }));
        }
    }
    found
}

/// Where the pair of what was displaced is in the sets of its pod's program, unless one of the names `kept` keeps it there.
fn keys<'p>(rendered: &'p Rendered, gone: &Displaced, kept: &[Arc<str>]) -> Vec<(&'p str, Key)> {
    let family = Family::of(gone.pod);
    let held_by = |named: &Named| named.matches(&gone.name) && !kept.iter().any(|name| named.matches(name));
    let sets =
        rendered.sets.iter().filter(|(_, set)| matches!(set, Auxiliary::Names(named, of) if *of == family && held_by(named)));
    let key = || concatenation([octets(gone.pod).as_slice(), &octets(gone.address)]);
    sets.filter(|_| Family::of(gone.address) == family).map(|(name, _)| (name.as_str(), key())).collect()
}
