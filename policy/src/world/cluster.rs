//! Where the cluster is, and which pods are its resolvers: what nodes must know for rules by name.
//!
//! A name outside of the cluster may not have an address in it. That is a node's, one in a node's range for pods, or a pod's outside
//! of these. Nodes are told of the ranges, not of the pods in them; and of pods outside of them only where their addresses could be
//! taken for some server's on the Internet, as others are closed to names anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::{Effects, World};
use crate::name::is_outside;
use crate::snapshot::{KnownNames, SetId};
use crate::source::PodSelector;

/// What a [`World`] keeps of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    ranges: Arc<[IpNet]>,
    /// Whether `ranges` may have changed.
    is_due: bool,
    /// Pods' addresses that could be taken for a server's on the Internet.
    outside: BTreeSet<IpAddr>,
    /// Those that were asked for, and their sets.
    resolvers: BTreeMap<PodSelector, SetId>,
}

impl World {
    /// The nodes and their ranges for pods, and pods outside of these. Ascending.
    pub(crate) fn cluster(&self) -> &Arc<[IpNet]> {
        &self.cluster.ranges
    }

    /// Notes that pods come to these addresses or leave them.
    pub(super) fn claimed(&mut self, ips: &[IpAddr]) {
        for ip in ips.iter().copied().filter(|ip| is_outside(*ip)) {
            let changed =
                if self.addresses.contains_key(&ip) { self.cluster.outside.insert(ip) } else { self.cluster.outside.remove(&ip) };
            let is_in_range = || self.nodes.values().flat_map(|node| &node.pod_cidrs).any(|range| range.contains(&ip));
            self.cluster.is_due |= changed && !is_in_range();
        }
    }

    pub(super) fn settle_cluster(&mut self, effects: &mut Effects) {
        if !self.cluster.is_due && effects.nodes.is_empty() {
            return;
        }
        self.cluster.is_due = false;
        let of_nodes = self.nodes.values().flat_map(|node| {
            let ips = node.ips.iter().map(|ip| IpNet::from(*ip));
            ips.chain(node.pod_cidrs.iter().map(IpNet::trunc))
        });
        let mut ranges: BTreeSet<IpNet> = of_nodes.collect();
        let within = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip));
        let strays: Vec<IpNet> = self.cluster.outside.iter().filter(|ip| !within(ip)).map(|ip| IpNet::from(*ip)).collect();
        ranges.extend(strays);
        let ranges: Arc<[IpNet]> = ranges.into_iter().collect();
        if self.cluster.ranges != ranges {
            self.cluster.ranges = ranges;
            effects.cluster = true;
        }
    }

    /// From now on a view can be told which pods these selectors match, as resolvers.
    pub fn hold_resolvers(&mut self, selectors: &[PodSelector]) -> Effects {
        let mut effects = self.hold_resolvers_here(selectors);
        effects.audit = self.follow(|audit| audit.hold_resolvers_here(selectors));
        effects
    }

    fn hold_resolvers_here(&mut self, selectors: &[PodSelector]) -> Effects {
        let mut effects = Effects::default();
        for selector in selectors {
            if !self.cluster.resolvers.contains_key(selector) {
                let set = self.intern(selector);
                self.cluster.resolvers.insert(selector.clone(), set);
            }
        }
        self.settle(&mut effects);
        effects
    }

    /// The set of a selector that was held as resolvers.
    pub(crate) fn resolvers(&self, selector: &PodSelector) -> Option<SetId> {
        self.cluster.resolvers.get(selector).copied()
    }

    pub(super) fn put_name(&mut self, name: Arc<str>, ips: Option<Vec<IpAddr>>, effects: &mut Effects) {
        if self.names.get(&name) != ips.as_ref() {
            effects.names = true;
            match ips {
                Some(ips) => self.names.insert(name, ips),
                None => self.names.remove(&name),
            };
        }
    }

    /// What DNS says to everybody, by address.
    pub(crate) fn known_names(&self) -> KnownNames {
        let mut known = KnownNames::new();
        for (name, ips) in &self.names {
            ips.iter().for_each(|ip| known.entry(*ip).or_default().push(name.clone()));
        }
        known
    }
}
