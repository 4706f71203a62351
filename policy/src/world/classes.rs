//! Classes: the pods of one namespace with the same labels and service account.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::label::{Labels, Operator, SERVICE_ACCOUNT, Selector};
use crate::snapshot::{IdentityId, SetId};
use crate::source::{Pod, PodRef};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ClassId(u32);

#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) namespace: Arc<str>,
    pub(super) labels: Arc<Labels>,
    pub(super) pods: FxHashSet<PodRef>,
    /// `None` from its appearance until the edit is settled.
    pub(super) identity: Option<IdentityId>,
}

/// All classes, found by labels or namespace; and those whose answers differ from their identity's until the edit is settled.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes {
    last: u32,
    all: FxHashMap<ClassId, Class>,
    by_labels: FxHashMap<(Arc<str>, Arc<Labels>), ClassId>,
    by_namespace: FxHashMap<Arc<str>, InNamespace>,
    /// The new answers, sorted, of classes that must be settled.
    pub(super) pending: FxHashMap<ClassId, Vec<SetId>>,
    /// Classes that lost their last pod.
    pub(super) emptied: FxHashSet<ClassId>,
}

/// The classes of one namespace.
#[derive(Clone, Debug, Default)]
struct InNamespace {
    all: FxHashSet<ClassId>,
    /// Those that carry a label, by key and value.
    labelled: FxHashMap<Arc<str>, FxHashMap<Arc<str>, FxHashSet<ClassId>>>,
}

impl InNamespace {
    fn insert(&mut self, id: ClassId, labels: &Labels) {
        self.all.insert(id);
        for (key, value) in labels {
            self.labelled.entry(key.clone()).or_default().entry(value.clone()).or_default().insert(id);
        }
    }

    fn remove(&mut self, id: ClassId, labels: &Labels) {
        self.all.remove(&id);
        for (key, value) in labels {
            let Some(values) = self.labelled.get_mut(key) else { continue };
            if let Some(classes) = values.get_mut(value) {
                classes.remove(&id);
                if classes.is_empty() {
                    values.remove(value);
                }
            }
            if values.is_empty() {
                self.labelled.remove(key);
            }
        }
    }

    /// Classes among which are all that match: those with the rarest label that the selector asks for, or all.
    fn candidates(&self, selector: &Selector) -> Vec<&FxHashSet<ClassId>> {
        let (mut best, mut size) = (vec![&self.all], self.all.len());
        for requirement in selector.requirements.iter().filter(|r| r.operator == Operator::In) {
            let values = self.labelled.get(&requirement.key);
            let labelled: Vec<_> = requirement.values.iter().filter_map(|v| values?.get(v)).collect();
            let this: usize = labelled.iter().map(|classes| classes.len()).sum();
            if this < size {
                (best, size) = (labelled, this);
            }
        }
        best
    }
}

impl Classes {
    /// Adds a pod to its class; also says whether the class is new.
    pub(super) fn enter(&mut self, pod: &Pod) -> (ClassId, bool) {
        let mut labels = pod.labels.clone();
        labels.insert(SERVICE_ACCOUNT.into(), pod.service_account.clone());
        let (namespace, pod, labels) = (&pod.reference.namespace, &pod.reference, Arc::new(labels));
        if let Some(id) = self.by_labels.get(&(namespace.clone(), labels.clone())) {
            self.all.get_mut(id).expect("a class is in all its indexes").pods.insert(pod.clone());
            self.emptied.remove(id);
            return (*id, false);
        }
        self.last += 1;
        let id = ClassId(self.last);
        self.by_namespace.entry(namespace.clone()).or_default().insert(id, &labels);
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
            classes.remove(id, &class.labels);
            if classes.all.is_empty() {
                self.by_namespace.remove(&class.namespace);
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
        self.by_namespace.get(namespace).into_iter().flat_map(|classes| classes.all.iter().copied())
    }

    /// The classes in `namespaces` whose labels match.
    pub(super) fn matching(&self, namespaces: &FxHashSet<Arc<str>>, selector: &Selector) -> Vec<ClassId> {
        let within = namespaces.iter().filter_map(|name| self.by_namespace.get(name));
        let candidates = within.flat_map(|classes| classes.candidates(selector)).flatten().copied();
        candidates.filter(|id| selector.matches(&self.get(*id).labels)).collect()
    }
}
