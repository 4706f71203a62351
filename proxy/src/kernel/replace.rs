//! Whole replacement: the new state is built beside the old one, then one small transaction switches.
//!
//! A transaction is bounded by the socket's send buffer, and a large world doesn't fit into it. So there are three lists of
//! messages:
//!
//! 1. **fill**: sets, elements and chains of a new [`Edition`], to which nothing leads yet; in as many transactions as needed;
//! 2. **switch**: the base chains' rules, which from then on lead to the new edition; one transaction, small whatever the world
//!    is;
//! 3. **sweep**: what of the old edition is left.
//!
//! If all three fit, they are one transaction. An error before the switch leaves the old generation in force, and what was filled
//! in until then is swept at once. Where that fails too, or the process ends, the next replacement sweeps it: it asks the kernel
//! for all names first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use sluice_policy::Table;
use sluice_policy::snapshot::{ProgramId, SetId};

use super::address::{self, Place};
use super::base;
use super::bundle::Index;
use super::config::Config;
use super::denied;
use super::held::Held;
use super::names::{self, Edition};
use super::object::{Element, Family, Field, Set, SetKind, interface_key, octets, ranges};
use super::program::{self, Auxiliary, Rendered};
use super::transaction::{BaseHook, Transaction};

/// The three lists, and what the table then holds.
pub(super) struct Replacement {
    pub(super) fill: Transaction,
    pub(super) switch: Transaction,
    pub(super) sweep: Transaction,
    pub(super) programs: BTreeMap<ProgramId, Rendered>,
    pub(super) bundles: Index,
}

/// What leads from `held`, whatever it is, to `table`. `cutting`: there are revoked tuples, or there may be.
pub(super) fn replacement(
    config: &Config,
    table: &Table,
    uplinks: &BTreeSet<String>,
    held: &Held,
    edition: Edition,
    cutting: bool,
) -> Replacement {
    let programs: BTreeMap<ProgramId, Rendered> = table
        .program_ids()
        .filter_map(|id| Some((id, program::render(table, id, table.lines(id)?, edition, config.in_series))))
        .collect();
    let mut fill = Transaction::new();
    fill.add_table();
    let is_elsewhere = |name: &str, hook: &BaseHook| held.priorities.get(name).is_some_and(|held| *held != hook.priority);
    let (moved, others): (Vec<_>, Vec<_>) = base::hooks(config).into_iter().partition(|(name, hook)| is_elsewhere(name, hook));
    for (name, hook) in others {
        fill.add_chain(name, Some(hook));
    }
    for family in Family::BOTH {
        fill.add_set(&base::revoked_set(family));
    }
    fill.add_set(&base::stand_set());
    for counter in denied::counters() {
        fill.add_counter(&counter);
    }
    for set in denied::sets(config) {
        fill.add_set(&set);
    }
    let index = Index::of(programs.values().flat_map(|rendered| &rendered.bundles));
    let contents = elements_by_place(table, &programs, &index, edition);
    fill_sets(&mut fill, table, uplinks, &programs, &contents, edition);
    let chains = base::chains(config, edition, cutting);
    let program_chains = || programs.values().flat_map(|rendered| &rendered.chains);
    for chain in chains.iter().chain(program_chains()) {
        fill.add_chain(&chain.name, None);
    }
    for chain in program_chains() {
        fill.add_rules(&chain.name, &chain.rules);
    }
    // Verdicts name chains, so maps are filled once these exist.
    for (place, elements) in contents.iter().filter(|(place, _)| matches!(place, Place::Dispatch(..))) {
        fill.add_elements(&place.name(edition), elements);
    }
    for chain in &chains {
        fill.add_rules(&chain.name, &chain.rules);
    }

    let mut switch = Transaction::new();
    // A chain can't be hung elsewhere: one of another configuration is replaced.
    for (name, hook) in moved {
        switch.flush_chain(name);
        switch.delete_chain(name);
        switch.add_chain(name, Some(hook));
    }
    for chain in base::switch(config, edition) {
        switch.flush_chain(&chain.name);
        switch.add_rules(&chain.name, &chain.rules);
    }
    Replacement { fill, switch, sweep: sweep(held, |name| !edition.owns(name)), programs, bundles: index }
}

fn fill_sets(
    fill: &mut Transaction,
    table: &Table,
    uplinks: &BTreeSet<String>,
    programs: &BTreeMap<ProgramId, Rendered>,
    contents: &BTreeMap<Place, Vec<Element>>,
    edition: Edition,
) {
    let cidrs = pod_cidrs(table, edition);
    let names: Vec<Element> = uplinks.iter().map(|name| Element::plain(interface_key(name))).collect();
    for (set, elements) in base::sets(edition) {
        fill.add_set(&set);
        fill.add_elements(&set.name, &elements);
        if set.name == edition.name(base::UPLINKS) {
            fill.add_elements(&set.name, &names);
        }
        if let Some(elements) = cidrs.get(&set.name) {
            fill.add_elements(&set.name, elements);
        }
    }
    let mut auxiliary: BTreeMap<&String, &Auxiliary> = BTreeMap::new();
    for rendered in programs.values() {
        auxiliary.extend(&rendered.sets);
    }
    for (name, set) in auxiliary {
        fill.add_set(&set.set(name));
        fill.add_elements(name, &set.elements());
    }
    for set in table.set_ids() {
        for family in Family::BOTH {
            fill.add_set(&pods_set(set, family, edition));
        }
    }
    for (place, elements) in contents.iter().filter(|(place, _)| !matches!(place, Place::Dispatch(..))) {
        fill.add_elements(&place.name(edition), elements);
    }
}

/// The set of the pods that a selector matches.
pub(super) fn pods_set(set: SetId, family: Family, edition: Edition) -> Set {
    Set::new(edition.pods(set, family), &[Field::Address(family)], SetKind::Plain)
}

fn elements_by_place(
    table: &Table,
    programs: &BTreeMap<ProgramId, Rendered>,
    index: &Index,
    edition: Edition,
) -> BTreeMap<Place, Vec<Element>> {
    let named = super::delta::named_ports(programs.values());
    let known: BTreeSet<SetId> = table.set_ids().collect();
    let mut contents: BTreeMap<Place, Vec<Element>> = BTreeMap::new();
    for (ip, _) in table.endpoints() {
        address::elements(
            table,
            ip,
            |protocol, port| named.contains(&(protocol, port)),
            |set| index.of_set(set),
            |place, key, says| {
                if matches!(&place, Place::Pods(set, _) if !known.contains(set)) {
                    return;
                }
                let element = says.element(key, &place, edition);
                contents.entry(place).or_default().push(element);
            },
        );
    }
    for elements in contents.values_mut() {
        elements.sort_unstable();
        elements.dedup();
    }
    contents
}

/// The elements of the sets of the node's pod CIDRs, by the set's name.
fn pod_cidrs(table: &Table, edition: Edition) -> BTreeMap<String, Vec<Element>> {
    let mut by_family: BTreeMap<Family, Vec<IpNet>> = BTreeMap::new();
    for net in &table.node().pod_cidrs {
        by_family.entry(Family::of(net.addr())).or_default().push(net.trunc());
    }
    by_family
        .into_iter()
        .map(|(family, nets)| {
            // Nets that touch stay two ranges: an end and a beginning at one key.
            let bounds = |net: &IpNet| -> (IpAddr, IpAddr) { (net.network(), net.broadcast()) };
            let nets = IpNet::aggregate(&nets);
            let elements = ranges(nets.iter().map(bounds).map(|(first, last)| (octets(first), octets(last))));
            (edition.sets_of(base::POD_CIDRS, family), elements)
        })
        .collect()
}

/// Removes of what is not permanent all that `is_old`: rules first, then what they used. Nothing in force may lead there.
pub(super) fn sweep(held: &Held, is_old: impl Fn(&str) -> bool) -> Transaction {
    let mut sweep = Transaction::new();
    let old = |name: &&String| !names::is_permanent(name) && is_old(name);
    for chain in held.chains.iter().filter(old) {
        sweep.flush_chain(chain);
    }
    for set in held.sets.iter().filter(old) {
        sweep.delete_set(set);
    }
    for chain in held.chains.iter().filter(old) {
        sweep.delete_chain(chain);
    }
    sweep
}
