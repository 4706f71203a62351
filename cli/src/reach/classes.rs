//! Pods that no rule tells apart: what holds of one holds of all of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use sluice_policy::snapshot::{IdentityId, Programs};
use sluice_policy::source::{NamedPort, Pod, PodRef};

use super::outside::Outside;
use crate::cluster::Cluster;
use crate::workload::{Workloads, is_selectable};

/// What decides about a pod in one version of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Side {
    pub identity: IdentityId,
    /// Another pod claims one of its addresses.
    pub conflict: bool,
    /// The blocks around its addresses ([`Outside::kind`]), IPv4 and IPv6.
    pub kinds: [Option<u32>; 2],
    /// An index into [`Classes::ports`].
    pub ports: usize,
}

/// Pods of one namespace with equal sides.
#[derive(Debug)]
pub struct Class {
    pub namespace: Arc<str>,
    /// Per version; `None` where its pods are not in it.
    pub sides: Vec<Option<Side>>,
    /// Two of its pods, on different nodes if they can be; or its only one.
    pub examples: Vec<Example>,
    /// By the name that they have in the last version that has them.
    pub pods: Vec<PodRef>,
}

/// A pod's addresses and node, per version.
#[derive(Clone, Debug)]
pub struct Example {
    /// IPv4 and IPv6.
    pub ips: Vec<[Option<IpAddr>; 2]>,
    pub host: Option<Arc<str>>,
}

/// All classes, by namespace, and the workloads that they are parts of.
#[derive(Debug)]
pub struct Classes {
    pub all: Vec<Class>,
    pub workloads: Workloads,
    pub ports: Vec<Arc<[NamedPort]>>,
}

/// One pod, in each version that has it.
type Unit<'c> = Vec<Option<&'c Pod>>;

impl Classes {
    /// The pods of all `versions`. A pod that only one of them has is taken for a pod of the same workload that only another has:
    /// a rollout renames every pod, and changes no workload.
    pub fn of(versions: &[&Cluster], outside: &Outside) -> Self {
        let mut seen = HashSet::new();
        // A pod may have changed its labels: the last version says whose it is.
        let latest = versions.iter().rev().flat_map(|version| version.pods()).filter(|pod| seen.insert(&pod.reference));
        let workloads = Workloads::of(latest);
        let mut classes = Self { all: Vec::new(), workloads, ports: Vec::new() };
        let mut port_numbers: HashMap<Arc<[NamedPort]>, usize> = HashMap::new();
        let mut numbers: HashMap<(Arc<str>, Vec<Option<Side>>), usize> = HashMap::new();
        for unit in units(versions, &classes.workloads) {
            let Some(pod) = unit.iter().rev().flatten().next() else { continue };
            let sides: Vec<Option<Side>> = versions
                .iter()
                .zip(&unit)
                .map(|(version, pod)| pod.and_then(|pod| classes.side(version, pod, outside, &mut port_numbers)))
                .collect();
            let namespace = pod.reference.namespace.clone();
            let number = *numbers.entry((namespace.clone(), sides.clone())).or_insert_with(|| {
                classes.all.push(Class { namespace, sides, examples: Vec::new(), pods: Vec::new() });
                classes.all.len() - 1
            });
            let class = &mut classes.all[number];
            class.pods.push(pod.reference.clone());
            class.exemplify(&unit, pod);
        }
        classes
    }

    fn side(
        &mut self,
        version: &Cluster,
        pod: &Pod,
        outside: &Outside,
        numbers: &mut HashMap<Arc<[NamedPort]>, usize>,
    ) -> Option<Side> {
        let endpoint = version.table().endpoint(*pod.ips.first()?)?;
        let conflict = pod.ips.iter().any(|ip| version.table().endpoint(*ip).is_some_and(|endpoint| endpoint.conflict));
        let ports: Arc<[NamedPort]> = pod.ports.iter().cloned().collect();
        let ports = *numbers.entry(ports.clone()).or_insert_with(|| {
            self.ports.push(ports);
            self.ports.len() - 1
        });
        let kinds = families(pod).map(|ip| ip.map(|ip| outside.kind(ip)));
        Some(Side { identity: endpoint.identity, conflict, kinds, ports })
    }

    /// Some classes in words, a workload each; where not all pods of one are among them, it says how many.
    pub fn describe(&self, classes: impl IntoIterator<Item = usize>) -> Vec<String> {
        let mut counts: BTreeMap<usize, usize> = BTreeMap::new();
        for pod in classes.into_iter().flat_map(|class| &self.all[class].pods) {
            if let Some(workload) = self.workloads.of_pod(pod) {
                *counts.entry(workload).or_default() += 1;
            }
        }
        let name = |(workload, count): (usize, usize)| {
            let workload = &self.workloads.all[workload];
            let all = workload.pods.len();
            if count < all { format!("{} ({count} of {all} pods)", workload.name) } else { workload.name.clone() }
        };
        counts.into_iter().map(name).collect()
    }
}

impl Class {
    pub fn programs(&self, version: &Cluster, number: usize) -> Programs {
        self.sides[number].as_ref().map(|side| version.table().programs(side.identity)).unwrap_or_default()
    }

    fn exemplify(&mut self, unit: &Unit<'_>, pod: &Pod) {
        let elsewhere = |example: &Example| example.host != pod.node;
        let wanted = match self.examples.as_slice() {
            [] | [_] => true,
            // The second may still be exchanged for one that is elsewhere.
            [first, second, ..] => first.host == second.host && elsewhere(first),
        };
        if !wanted {
            return;
        }
        self.examples.truncate(1);
        let ips = unit.iter().map(|pod| pod.map(families).unwrap_or_default()).collect();
        self.examples.push(Example { ips, host: pod.node.clone() });
    }
}

/// The pod's first address of each family.
fn families(pod: &Pod) -> [Option<IpAddr>; 2] {
    [pod.ips.iter().find(|ip| ip.is_ipv4()).copied(), pod.ips.iter().find(|ip| ip.is_ipv6()).copied()]
}

fn units<'c>(versions: &[&'c Cluster], workloads: &Workloads) -> Vec<Unit<'c>> {
    let mut by_name: BTreeMap<&PodRef, Unit<'c>> = BTreeMap::new();
    for (number, version) in versions.iter().enumerate() {
        for pod in version.pods().filter(|pod| is_selectable(pod)) {
            by_name.entry(&pod.reference).or_insert_with(|| vec![None; versions.len()])[number] = Some(pod);
        }
    }
    let (mut whole, mut partial): (Vec<Unit<'c>>, Vec<Unit<'c>>) =
        by_name.into_values().partition(|unit| unit.iter().all(Option::is_some));
    // Per workload, what only the first versions have and what only the last has stand for each other.
    let mut waiting: BTreeMap<Option<usize>, Vec<Unit<'c>>> = BTreeMap::new();
    for unit in partial.drain(..) {
        let workload = unit.iter().flatten().next().and_then(|pod| workloads.of_pod(&pod.reference));
        waiting.entry(workload).or_default().push(unit);
    }
    for units in waiting.into_values() {
        let (gone, come): (Vec<_>, Vec<_>) = units.into_iter().partition(|unit| unit[0].is_some());
        match (gone.as_slice(), come.as_slice()) {
            ([first, ..], [_, ..]) => {
                let old = first[0];
                for (number, mut unit) in come.into_iter().enumerate() {
                    unit[0] = gone.get(number).map_or(old, |unit| unit[0]);
                    whole.push(unit);
                }
            }
            _ => whole.extend(gone.into_iter().chain(come)),
        }
    }
    whole
}
