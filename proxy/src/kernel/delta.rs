//! Small changes: what two tables differ in, as one transaction.
//!
//! The kernel's table is a function of the policy table that was applied last (and of the edition's name), so no copy of its
//! elements is kept: what a touched address had is computed from the old table, what it shall have from the new one, and the
//! difference is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use sluice_policy::snapshot::{ProgramId, SetId};
use sluice_policy::table::Touched;
use sluice_policy::{Protocol, Table};

use super::address::{self, Place, Says};
use super::bundle::{self, Bundle, BundleId, Index, Pair};
use super::names::Edition;
use super::object::{Element, Family, Key};
use super::program::{self, Auxiliary, Rendered};
use super::replace::pods_set;
use super::told;
use super::transaction::Transaction;
use crate::names::Names;

/// The state that a change starts from.
pub(super) struct Before<'a> {
    pub(super) table: &'a Table,
    pub(super) programs: &'a BTreeMap<ProgramId, Rendered>,
    pub(super) bundles: &'a Index,
    pub(super) edition: Edition,
    pub(super) in_series: usize,
    /// What pods were told of names.
    pub(super) names: Option<&'a Names>,
}

/// Programs as they are after the change, where they differ; `None`: gone.
pub(super) type Changed = BTreeMap<ProgramId, Option<Rendered>>;

/// What leads from `before` to `table`.
pub(super) fn delta(before: &Before<'_>, table: &Table, touched: &Touched) -> (Transaction, Changed) {
    let edition = before.edition;
    let changed: Changed = touched
        .programs
        .iter()
        .map(|id| (*id, table.lines(*id).map(|lines| program::render(table, *id, lines, edition, before.in_series))))
        .filter(|(id, rendered)| before.programs.get(id) != rendered.as_ref())
        .collect();
    let after = |id: &ProgramId| match changed.get(id) {
        Some(rendered) => rendered.as_ref(),
        None => before.programs.get(id),
    };
    let ids: BTreeSet<&ProgramId> = before.programs.keys().chain(changed.keys()).collect();
    let (sets_before, sets_after) = if changed.is_empty() {
        (BTreeMap::new(), BTreeMap::new())
    } else {
        (auxiliary(before.programs.values()), auxiliary(ids.iter().filter_map(|id| after(id))))
    };

    let mut transaction = Transaction::new();
    for (name, set) in sets_after.iter().filter(|(name, _)| !sets_before.contains_key(*name)) {
        transaction.add_set(&set.set(name));
        transaction.add_elements(name, &set.elements());
    }
    let had: BTreeSet<_> = before.table.set_ids().filter(|set| touched.sets.contains(set)).collect();
    let has: BTreeSet<_> = table.set_ids().filter(|set| touched.sets.contains(set)).collect();
    for set in has.difference(&had) {
        for family in Family::BOTH {
            transaction.add_set(&pods_set(*set, family, edition));
        }
    }
    let names_before: BTreeSet<&str> = changed.keys().filter_map(|id| before.programs.get(id)).flat_map(chain_names).collect();
    let names_after: BTreeSet<&str> = changed.values().flatten().flat_map(chain_names).collect();
    for name in names_after.difference(&names_before) {
        transaction.add_chain(name, None);
    }
    for name in &names_before {
        transaction.flush_chain(name);
    }
    for chain in changed.values().flatten().flat_map(|rendered| &rendered.chains) {
        transaction.add_rules(&chain.name, &chain.rules);
    }
    let named_before = named_ports(before.programs.values());
    let named_after = named_ports(ids.iter().filter_map(|id| after(id)));
    let bundles = Bundles::new(before, &changed);
    let elements = Elements { before, table, named_before, named_after, bundles, had: &had, has: &has, touched };
    let addresses = elements.addresses();
    elements.write(&addresses, &mut transaction);
    if let Some(names) = before.names {
        // What pods were told under former rules counts for those that they have now.
        let wanted = |pod: &IpAddr, program: ProgramId| addresses.contains(pod) || changed.contains_key(&program);
        told::fill(&mut transaction, table, |id| after(&id), names, wanted);
    }
    for name in names_before.difference(&names_after) {
        transaction.delete_chain(name);
    }
    for name in sets_before.keys().filter(|name| !sets_after.contains_key(*name)) {
        transaction.delete_set(name);
    }
    for set in had.difference(&has) {
        for family in Family::BOTH {
            transaction.delete_set(&edition.pods(*set, family));
        }
    }
    (transaction, changed)
}

fn chain_names(rendered: &Rendered) -> impl Iterator<Item = &str> {
    rendered.chains.iter().map(|chain| chain.name.as_str())
}

fn auxiliary<'a>(programs: impl Iterator<Item = &'a Rendered>) -> BTreeMap<&'a String, &'a Auxiliary> {
    programs.flat_map(|rendered| &rendered.sets).collect()
}

/// The named ports that any program asks for.
pub(super) fn named_ports<'a>(programs: impl Iterator<Item = &'a Rendered>) -> BTreeSet<(Protocol, &'a str)> {
    let sets = programs.flat_map(|rendered| rendered.sets.values());
    sets.filter_map(|set| match set {
        Auxiliary::NamedPort { protocol, port, .. } => Some((*protocol, port.as_str())),
        _ => None,
    })
    .collect()
}

/// An element before and after.
#[derive(Default)]
struct Turn {
    before: Option<Says>,
    after: Option<Says>,
}

/// The bundles of programs, before and after.
struct Bundles<'a> {
    before: &'a Index,
    /// Programs whose bundles may differ, and what they have after.
    changed: BTreeSet<ProgramId>,
    after: Index,
    /// Sets whose part in a bundle differs.
    sets: BTreeSet<SetId>,
    gone: BTreeSet<BundleId>,
    new: BTreeSet<BundleId>,
}

impl<'a> Bundles<'a> {
    fn new(before: &Before<'a>, changed: &Changed) -> Self {
        let mut bundles = Self {
            before: before.bundles,
            changed: changed.keys().copied().collect(),
            after: Index::of(changed.values().flatten().flat_map(|rendered| &rendered.bundles)),
            sets: BTreeSet::new(),
            gone: BTreeSet::new(),
            new: BTreeSet::new(),
        };
        for (id, after) in changed {
            let old: &[Bundle] = before.programs.get(id).map_or(&[], |rendered| &rendered.bundles);
            let new: &[Bundle] = after.as_ref().map_or(&[], |rendered| &rendered.bundles);
            bundles.sets.extend(bundle::changed_sets(old, new));
            let ids = |list: &[Bundle]| list.iter().map(|bundle| bundle.id).collect::<BTreeSet<_>>();
            bundles.gone.extend(ids(old).difference(&ids(new)));
            bundles.new.extend(ids(new).difference(&ids(old)));
        }
        bundles
    }

    fn after(&self, set: SetId) -> impl Iterator<Item = (BundleId, &BTreeSet<Pair>)> {
        let kept = self.before.of_set(set).filter(|(id, _)| !self.changed.contains(&id.program));
        kept.chain(self.after.of_set(set))
    }
}

struct Elements<'a> {
    before: &'a Before<'a>,
    table: &'a Table,
    named_before: BTreeSet<(Protocol, &'a str)>,
    named_after: BTreeSet<(Protocol, &'a str)>,
    bundles: Bundles<'a>,
    /// Which of the touched sets exist before and after.
    had: &'a BTreeSet<SetId>,
    has: &'a BTreeSet<SetId>,
    touched: &'a Touched,
}

impl Elements<'_> {
    fn write(&self, addresses: &BTreeSet<IpAddr>, transaction: &mut Transaction) {
        let mut turns: BTreeMap<Place, BTreeMap<Key, Turn>> = BTreeMap::new();
        for ip in addresses {
            address::elements(
                self.before.table,
                *ip,
                |p, n| self.named_before.contains(&(p, n)),
                |set| self.bundles.before.of_set(set),
                |place, key, says| {
                    turns.entry(place).or_default().entry(key).or_default().before = Some(says);
                },
            );
            address::elements(
                self.table,
                *ip,
                |p, n| self.named_after.contains(&(p, n)),
                |set| self.bundles.after(set),
                |place, key, says| {
                    turns.entry(place).or_default().entry(key).or_default().after = Some(says);
                },
            );
        }
        let edition = self.before.edition;
        for (place, turns) in turns {
            let name = place.name(edition);
            let (mut gone, mut new) = (Vec::new(), Vec::new());
            for (key, turn) in turns.into_iter().filter(|(_, turn)| turn.before != turn.after) {
                if turn.before.is_some() {
                    gone.push(Element::plain(key.clone()));
                }
                new.extend(turn.after.map(|says| says.element(key, &place, edition)));
            }
            // A set that vanishes takes its elements along, and one that isn't there yet has none.
            let was = self.exists(&place, self.had, &self.named_before, &self.bundles.new);
            let is = self.exists(&place, self.has, &self.named_after, &self.bundles.gone);
            if was && is {
                transaction.delete_elements(&name, &gone);
            }
            if is {
                transaction.add_elements(&name, &new);
            }
        }
    }

    /// `missing`: the bundles that are not there on this side of the change.
    fn exists(
        &self,
        place: &Place,
        sets: &BTreeSet<SetId>,
        named: &BTreeSet<(Protocol, &str)>,
        missing: &BTreeSet<BundleId>,
    ) -> bool {
        match place {
            Place::Pods(set, _) => !self.touched.sets.contains(set) || sets.contains(set),
            Place::NamedPort(protocol, port, _) => named.contains(&(*protocol, port.as_str())),
            Place::Bundle(id, _) => !missing.contains(id),
            _ => true,
        }
    }

    /// The addresses whose elements may differ.
    fn addresses(&self) -> BTreeSet<IpAddr> {
        let touched = self.touched;
        let mut addresses = &touched.endpoints | &touched.audited;
        for identity in &touched.identities {
            addresses.extend(self.before.table.addresses_of(*identity));
            addresses.extend(self.table.addresses_of(*identity));
        }
        for set in &touched.sets {
            let before: BTreeSet<_> = self.before.table.members(*set).collect();
            let after: BTreeSet<_> = self.table.members(*set).collect();
            for identity in before.symmetric_difference(&after) {
                addresses.extend(self.before.table.addresses_of(*identity));
                addresses.extend(self.table.addresses_of(*identity));
            }
        }
        for set in &self.bundles.sets {
            addresses.extend(self.before.table.addresses(*set));
            addresses.extend(self.table.addresses(*set));
        }
        // A program that begins or ceases to say something of names is that of pods that nobody touched.
        let lookups = |table: &Table, id: &ProgramId| table.lines(*id).map(|lines| lines.lookups.clone()).unwrap_or_default();
        let differs = |id: &&ProgramId| lookups(self.before.table, id) != lookups(self.table, id);
        let programs: BTreeSet<ProgramId> = touched.programs.iter().filter(differs).copied().collect();
        for table in [self.before.table, self.table].into_iter().filter(|_| !programs.is_empty()) {
            let is_judged_by = |program: Option<ProgramId>| program.is_some_and(|program| programs.contains(&program));
            let judged = table.endpoints().filter(|(_, endpoint)| is_judged_by(table.programs(endpoint.identity).egress));
            addresses.extend(judged.map(|(ip, _)| ip));
        }
        // A port that gets its first rule, or loses its last one, is found at endpoints that nobody touched.
        for (protocol, port) in self.named_before.symmetric_difference(&self.named_after) {
            addresses.extend(self.before.table.named_ports(*protocol, port).map(|(ip, _)| ip));
            addresses.extend(self.table.named_ports(*protocol, port).map(|(ip, _)| ip));
        }
        addresses
    }
}
