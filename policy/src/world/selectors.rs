//! Selectors, the sets they stand for, and who is in them.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::Identity;
use super::classes::{ClassId, Classes};
use crate::label::Labels;
use crate::snapshot::{IdentityId, PolicyId, SetId};
use crate::source::{Namespaces, PodSelector};

#[derive(Clone, Debug)]
struct Set {
    selector: PodSelector,
    holders: usize,
    members: FxHashSet<IdentityId>,
    /// Policies whose subject this is.
    subjects: BTreeSet<PolicyId>,
}

/// Every distinct selector is one set, as subject and as peer.
#[derive(Clone, Debug, Default)]
pub(super) struct Selectors {
    last: u32,
    sets: FxHashMap<SetId, Set>,
    ids: FxHashMap<PodSelector, SetId>,
    of_namespace: FxHashMap<Arc<str>, FxHashSet<SetId>>,
    of_matching: FxHashSet<SetId>,
    /// Sets that nothing refers to any more.
    pub(super) unused: FxHashSet<SetId>,
}

impl Selectors {
    /// One more reference to the set of `selector`, if there is one.
    pub(super) fn hold(&mut self, selector: &PodSelector) -> Option<SetId> {
        let id = *self.ids.get(selector)?;
        self.sets.get_mut(&id)?.holders += 1;
        self.unused.remove(&id);
        Some(id)
    }

    /// A new set with one reference. Its members' answers become pending.
    pub(super) fn add(
        &mut self,
        selector: PodSelector,
        classes: &mut Classes,
        identities: &FxHashMap<IdentityId, Identity>,
        labels_of: impl Fn(&Arc<str>) -> Labels,
    ) -> SetId {
        self.last += 1;
        let id = SetId(self.last);
        let namespaces: FxHashSet<Arc<str>> = match &selector.namespaces {
            Namespaces::Named(name) => {
                self.of_namespace.entry(name.clone()).or_default().insert(id);
                FxHashSet::from_iter([name.clone()])
            }
            Namespaces::Matching(namespaces) => {
                self.of_matching.insert(id);
                classes.namespaces().filter(|name| namespaces.matches(&labels_of(name))).cloned().collect()
            }
        };
        for class in classes.matching(&namespaces, &selector.pods) {
            // The newest set has the largest number, so pushing keeps the answers sorted.
            pending(classes, identities, class).push(id);
        }
        self.ids.insert(selector.clone(), id);
        self.sets.insert(id, Set { selector, holders: 1, members: FxHashSet::default(), subjects: BTreeSet::new() });
        id
    }

    pub(super) fn release(&mut self, id: SetId) {
        let set = self.sets.get_mut(&id).expect("a set is there while it is referred to");
        set.holders -= 1;
        if set.holders == 0 {
            self.unused.insert(id);
        }
    }

    /// Forgets a set and gives its last members.
    pub(super) fn remove(&mut self, id: SetId) -> FxHashSet<IdentityId> {
        let set = self.sets.remove(&id).expect("an unused set is still there");
        self.ids.remove(&set.selector);
        match &set.selector.namespaces {
            Namespaces::Named(name) => {
                if let Some(sets) = self.of_namespace.get_mut(name) {
                    sets.remove(&id);
                    if sets.is_empty() {
                        self.of_namespace.remove(name);
                    }
                }
            }
            Namespaces::Matching(_) => {
                self.of_matching.remove(&id);
            }
        }
        set.members
    }

    /// Which sets a new class is in.
    pub(super) fn class_appeared(&self, id: ClassId, namespace_labels: &Labels, classes: &mut Classes) {
        let answers = self.answers(id, namespace_labels, classes);
        classes.pending.insert(id, answers);
    }

    fn answers(&self, id: ClassId, namespace_labels: &Labels, classes: &Classes) -> Vec<SetId> {
        let class = classes.get(id);
        let named = self.of_namespace.get(&class.namespace).into_iter().flatten();
        let mut answers: Vec<SetId> = named
            .chain(&self.of_matching)
            .copied()
            .filter(|set| {
                self.sets.get(set).is_some_and(|set| {
                    let namespace_matches = match &set.selector.namespaces {
                        Namespaces::Named(_) => true,
                        Namespaces::Matching(selector) => selector.matches(namespace_labels),
                    };
                    namespace_matches && set.selector.pods.matches(&class.labels)
                })
            })
            .collect();
        answers.sort_unstable();
        answers
    }

    /// Which sets the classes of a namespace are in, now that its labels are others.
    pub(super) fn namespace_changed(
        &self,
        name: &Arc<str>,
        labels: &Labels,
        classes: &mut Classes,
        identities: &FxHashMap<IdentityId, Identity>,
    ) {
        let in_namespace: Vec<ClassId> = classes.in_namespace(name).collect();
        for id in in_namespace {
            let answers = self.answers(id, labels, classes);
            let known = classes.identity(id).and_then(|identity| identities.get(&identity));
            if known.is_none_or(|identity| *identity.answers != *answers) || classes.pending.contains_key(&id) {
                classes.pending.insert(id, answers);
            }
        }
    }

    pub(super) fn get(&self, id: SetId) -> Option<&PodSelector> {
        self.sets.get(&id).map(|set| &set.selector)
    }

    pub(super) fn members(&self, id: SetId) -> impl Iterator<Item = IdentityId> {
        self.sets.get(&id).into_iter().flat_map(|set| set.members.iter().copied())
    }

    pub(super) fn members_mut(&mut self, id: SetId) -> &mut FxHashSet<IdentityId> {
        &mut self.sets.get_mut(&id).expect("answers name sets that are there").members
    }

    pub(super) fn subjects(&self, id: SetId) -> impl Iterator<Item = &PolicyId> {
        self.sets.get(&id).into_iter().flat_map(|set| set.subjects.iter())
    }

    pub(super) fn subjects_mut(&mut self, id: SetId) -> &mut BTreeSet<PolicyId> {
        &mut self.sets.get_mut(&id).expect("a policy's subject is referred to by it").subjects
    }
}

/// The answers of a class that are to be settled, begun with those it has.
fn pending<'c>(classes: &'c mut Classes, identities: &FxHashMap<IdentityId, Identity>, class: ClassId) -> &'c mut Vec<SetId> {
    let identity = classes.identity(class);
    classes.pending.entry(class).or_insert_with(|| {
        identity.and_then(|identity| identities.get(&identity)).map(|identity| identity.answers.to_vec()).unwrap_or_default()
    })
}
