//! What became of each policy that was added, removed or changed, and why it changes nothing where it doesn't.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use sluice_policy::Direction;
use sluice_policy::snapshot::ProgramId;
use sluice_policy::source::{Policy, PolicyRef};

use super::compare::{NEW, OLD};
use crate::cluster::Cluster;
use crate::reach::Reach;

/// A policy that says something else than before.
#[derive(Debug, Serialize)]
pub struct PolicyChange {
    pub policy: String,
    /// `added`, `removed` or `changed`.
    pub change: &'static str,
    /// Whether it judges a pod of a difference.
    pub effect: bool,
    /// If not: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<&'static str>,
}

/// Policies that were added, removed or changed, by what they say and not by how it is written. `touching` are those that judge a
/// pod of a difference.
pub(super) fn policies(reach: &Reach<'_>, touching: &HashSet<PolicyRef>) -> Vec<PolicyChange> {
    let (old, new) = (reach.versions[OLD], reach.versions[NEW]);
    let changed = changed(old, new);
    if changed.is_empty() {
        return Vec::new();
    }
    let selecting = Selecting::of(reach);
    let change = |(policy, change): (&PolicyRef, _)| {
        let effect = touching.contains(policy);
        let note = (!effect).then(|| selecting.note(policy, [old, new]));
        PolicyChange { policy: policy.to_string(), change, effect, note }
    };
    changed.into_iter().map(change).collect()
}

fn changed<'c>(old: &'c Cluster, new: &'c Cluster) -> BTreeMap<&'c PolicyRef, &'static str> {
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

/// The policies that select a workload which is in both versions, and those that select one of one version.
struct Selecting<'r> {
    compared: HashSet<&'r PolicyRef>,
    partial: HashSet<&'r PolicyRef>,
}

impl<'r> Selecting<'r> {
    fn of(reach: &'r Reach<'_>) -> Self {
        // A program judges many workloads: whether any of them is compared.
        let mut programs: HashMap<(usize, ProgramId), bool> = HashMap::new();
        for end in 0..reach.classes.all.len() {
            let compared = reach.classes.all[end].sides.iter().all(Option::is_some);
            for (version, direction) in [OLD, NEW].into_iter().flat_map(|v| Direction::BOTH.map(|direction| (v, direction))) {
                if let Some(program) = reach.program(end, version, direction) {
                    *programs.entry((version, program)).or_default() |= compared;
                }
            }
        }
        let mut selecting = Self { compared: HashSet::new(), partial: HashSet::new() };
        for ((version, program), compared) in programs {
            let table = reach.versions[version].table();
            let ids = table.program(program).into_iter().flat_map(|program| &program.policies);
            let references = ids.filter_map(|id| table.policy(*id)).map(|policy| &policy.reference);
            if compared { selecting.compared.extend(references) } else { selecting.partial.extend(references) }
        }
        selecting
    }

    fn note(&self, policy: &PolicyRef, versions: [&Cluster; 2]) -> &'static str {
        let is_in_force = |version: &&Cluster| version.policy(policy).is_some_and(|policy: &Policy| !policy.audit);
        if !versions.iter().any(is_in_force) {
            return "Audit: changes nothing that is enforced";
        }
        if versions.iter().all(|version| version.policy(policy).is_none() || version.is_expired(policy)) {
            return "expired: changes nothing";
        }
        if self.compared.contains(policy) {
            "changes nothing"
        } else if self.partial.contains(policy) {
            "selects only workloads that one version has: not compared"
        } else {
            "no pod that it selects is in the inventory"
        }
    }
}
