//! Classes: the pods of one namespace with the same labels.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::label::{Labels, Operator, Selector};
use crate::snapshot::{IdentityId, SetId};
use crate::source::PodRef;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ClassId(u32);

#[derive(Debug)]
pub(super) struct Class {
    pub(super) namespace: Arc<str>,
    pub(super) labels: Arc<Labels>,
    pub(super) pods: FxHashSet<PodRef>,
    /// `None` from its appearance until the edit is settled.
    pub(super) identity: Option<IdentityId>,
}

/// All classes, found by labels or namespace; and those whose answers differ from their identity's until the edit is settled.
#[derive(Debug, Default)]
pub(super) struct Classes {
    last: u32,
    all: FxHashMap<ClassId, Class>,
    by_labels: FxHashMap<(Arc<str>, Arc<Labels>), ClassId>,
    by_namespace: FxHashMap<Arc<str>, FxHashSet<ClassId>>,
    /// Classes that carry a label, by key and value.
    postings: FxHashMap<Arc<str>, FxHashMap<Arc<str>, FxHashSet<ClassId>>>,
    /// The new answers, sorted, of classes that must be settled.
    pub(super) pending: FxHashMap<ClassId, Vec<SetId>>,
    /// Classes that lost their last pod.
    pub(super) emptied: FxHashSet<ClassId>,
}

impl Classes {
    /// Adds a pod to its class; also says whether the class is new.
    pub(super) fn enter(&mut self, namespace: &Arc<str>, labels: &Labels, pod: &PodRef) -> (ClassId, bool) {
        let labels = Arc::new(labels.clone());
        if let Some(id) = self.by_labels.get(&(namespace.clone(), labels.clone())) {
            self.all.get_mut(id).expect("a class is in all its indexes").pods.insert(pod.clone());
            self.emptied.remove(id);
            return (*id, false);
        }
        self.last += 1;
        let id = ClassId(self.last);
        for (key, value) in labels.iter() {
            self.postings.entry(key.clone()).or_default().entry(value.clone()).or_default().insert(id);
        }
        self.by_namespace.entry(namespace.clone()).or_default().insert(id);
        self.by_labels.insert((namespace.clone(), labels.clone()), id);
        let pods = FxHashSet::from_iter([pod.clone()]);
        self.all.insert(id, Class { namespace: namespace.clone(), labels, pods, identity: None });
        self.pending.insert(id, Vec::new());
        (id, true)
    }

    /// Takes a pod out of its class. The class itself goes when the edit is settled, if no pod has come by then.
    pub(super) fn leave(&mut self, id: ClassId, pod: &PodRef) {
        let class = self.all.get_mut(&id).expect("a pod's class is there while the pod is");
        class.pods.remove(pod);
        if class.pods.is_empty() {
            self.emptied.insert(id);
        }
    }

    /// Removes a class that has no pods.
    pub(super) fn remove(&mut self, id: ClassId) -> Option<Class> {
        let class = self.all.remove(&id)?;
        self.pending.remove(&id);
        self.by_labels.remove(&(class.namespace.clone(), class.labels.clone()));
        if let Some(classes) = self.by_namespace.get_mut(&class.namespace) {
            classes.remove(&id);
            if classes.is_empty() {
                self.by_namespace.remove(&class.namespace);
            }
        }
        for (key, value) in class.labels.iter() {
            let Some(values) = self.postings.get_mut(key) else { continue };
            if let Some(classes) = values.get_mut(value) {
                classes.remove(&id);
                if classes.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.postings.remove(key);
            }
        }
        Some(class)
    }

    pub(super) fn get(&self, id: ClassId) -> &Class {
        self.all.get(&id).expect("a class number leads to a class until it is removed")
    }

    pub(super) fn identity(&self, id: ClassId) -> Option<IdentityId> {
        self.all.get(&id).and_then(|class| class.identity)
    }

    pub(super) fn set_identity(&mut self, id: ClassId, identity: IdentityId) {
        self.all.get_mut(&id).expect("a class number leads to a class until it is removed").identity = Some(identity);
    }

    pub(super) fn pods(&self, id: ClassId) -> impl Iterator<Item = &PodRef> {
        self.all.get(&id).into_iter().flat_map(|class| class.pods.iter())
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_namespace.keys()
    }

    pub(super) fn in_namespace(&self, namespace: &Arc<str>) -> impl Iterator<Item = ClassId> {
        self.by_namespace.get(namespace).into_iter().flat_map(|classes| classes.iter().copied())
    }

    /// The classes in `namespaces` whose labels match: by the rarest label that the selector asks for, or all of the namespaces.
    pub(super) fn matching(&self, namespaces: &FxHashSet<Arc<str>>, selector: &Selector) -> Vec<ClassId> {
        let in_namespaces = || namespaces.iter().filter_map(|name| self.by_namespace.get(name));
        let mut best: Vec<&FxHashSet<ClassId>> = in_namespaces().collect();
        let mut size: usize = best.iter().map(|classes| classes.len()).sum();
        for requirement in selector.requirements.iter().filter(|r| r.operator == Operator::In) {
            let values = self.postings.get(&requirement.key);
            let postings: Vec<_> = requirement.values.iter().filter_map(|v| values?.get(v)).collect();
            let this: usize = postings.iter().map(|classes| classes.len()).sum();
            if this < size {
                (best, size) = (postings, this);
            }
        }
        let candidates = best.into_iter().flat_map(|classes| classes.iter().copied());
        candidates
            .filter(|id| {
                let class = self.get(*id);
                namespaces.contains(&class.namespace) && selector.matches(&class.labels)
            })
            .collect()
    }
}
