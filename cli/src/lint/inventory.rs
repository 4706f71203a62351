//! Who is there, as classes: pods of one namespace that no selector of these manifests tells apart.
//!
//! Pods differ in labels that nobody asks for (a template's hash, an instance's name). Labels are therefore compared only by the
//! keys that some selector names, so that a class is about as large as a workload, and selectors are tried on classes.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use sluice_policy::Protocol;
use sluice_policy::label::{Labels, Operator, SERVICE_ACCOUNT, Selector};
use sluice_policy::source::{NamedPort, Namespaces, Peer, Pod, PodRef, PodSelector};

use super::read::{Inhabitant, Objects};

/// The number of a class.
pub(super) type ClassId = u32;

/// Classes, ascending.
pub(super) type Members = Rc<[ClassId]>;

/// Pods that no selector tells apart.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) namespace: Arc<str>,
    /// By the keys that matter.
    labels: Labels,
    /// One of them.
    pub(super) example: PodRef,
    pub(super) ips: Vec<IpAddr>,
    /// How many they are.
    pub(super) pods: usize,
    pub(super) ports: Vec<NamedPort>,
    pub(super) containers: Vec<(Protocol, u16)>,
    /// Whether it answers questions of DNS.
    pub(super) resolver: bool,
    kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    /// Selectors match it.
    Own,
    /// In the node's network: never selected.
    Host,
    /// No longer, or a job that will come again.
    Finished,
}

impl Class {
    /// The pod that stands for all of them, at these addresses.
    pub(super) fn pod(&self, ips: Vec<IpAddr>) -> Pod {
        let service_account = self.labels.get(SERVICE_ACCOUNT).cloned().unwrap_or_else(|| "default".into());
        Pod {
            reference: self.example.clone(),
            labels: self.labels.clone(),
            ips,
            node: None,
            host_network: false,
            finished: false,
            service_account,
            ports: self.ports.clone(),
        }
    }
}

/// Whom a selector matches.
#[derive(Clone, Debug)]
pub(super) struct Selected {
    pub(super) members: Members,
    /// A pod in the node's network that would match.
    pub(super) host: Option<ClassId>,
    /// Whether a pod that has finished would match.
    pub(super) finished: bool,
}

/// All classes, found by namespace and label.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) classes: Vec<Class>,
    /// Whether there are pods, and the classes not just made up from the subjects of policies.
    pub(super) given: bool,
    pub(super) namespaces: BTreeMap<Arc<str>, Labels>,
    within: HashMap<Arc<str>, Within>,
    selected: RefCell<HashMap<PodSelector, Selected>>,
    matching: RefCell<HashMap<Selector, Rc<[Arc<str>]>>>,
}

/// The classes of one namespace.
#[derive(Debug, Default)]
struct Within {
    all: Vec<ClassId>,
    labelled: HashMap<Arc<str>, HashMap<Arc<str>, Vec<ClassId>>>,
    /// All labels of all pods, whether somebody asks for them or not.
    known: BTreeMap<Arc<str>, BTreeSet<Arc<str>>>,
}

/// How many values of one key are kept for suggestions: a key with more is one that tells pods apart.
const MAX_VALUES: usize = 1_000;

impl Inventory {
    /// Groups the pods; where there are none, one is made up for each subject.
    pub(super) fn new(objects: &Objects) -> Self {
        let mut inventory = Self { given: !objects.pods.is_empty(), namespaces: objects.namespaces.clone(), ..Self::default() };
        let keys = keys(objects);
        let mut found = HashMap::new();
        for inhabitant in &objects.pods {
            inventory.enter(inhabitant, &keys, &mut found);
        }
        if !inventory.given {
            for policy in &objects.policies {
                if let Some(pod) = imagined(&policy.policy.subject) {
                    inventory.enter(&Inhabitant { pod, containers: Vec::new() }, &keys, &mut found);
                }
            }
        }
        for policy in &objects.policies {
            inventory.name(&policy.policy.reference.namespace);
        }
        inventory
    }

    /// A namespace has a label before anybody defines it.
    fn name(&mut self, namespace: &Arc<str>) {
        if !namespace.is_empty() && !self.namespaces.contains_key(namespace) {
            let implied = Labels::from([("kubernetes.io/metadata.name".into(), namespace.clone())]);
            self.namespaces.insert(namespace.clone(), implied);
        }
    }

    fn enter(&mut self, inhabitant: &Inhabitant, keys: &HashSet<Arc<str>>, found: &mut HashMap<Alike, ClassId>) {
        let pod = &inhabitant.pod;
        let namespace = pod.reference.namespace.clone();
        self.name(&namespace);
        let within = self.within.entry(namespace.clone()).or_default();
        for (key, value) in &pod.labels {
            let values = within.known.entry(key.clone()).or_default();
            if values.len() < MAX_VALUES {
                values.insert(value.clone());
            }
        }
        let account = [(Arc::from(SERVICE_ACCOUNT), pod.service_account.clone())];
        let labels = pod.labels.iter().map(|(key, value)| (key.clone(), value.clone())).chain(account);
        let labels: Labels = labels.filter(|(key, _)| keys.contains(key)).collect();
        let kind = match pod {
            Pod { finished: true, .. } => Kind::Finished,
            Pod { host_network: true, .. } => Kind::Host,
            _ => Kind::Own,
        };
        let resolver = is_resolver(inhabitant);
        let alike =
            Alike { namespace, labels, ports: pod.ports.clone(), containers: inhabitant.containers.clone(), resolver, kind };
        if let Some(id) = found.get(&alike) {
            let class = &mut self.classes[*id as usize];
            class.pods += 1;
            if class.ips.is_empty() && !pod.ips.is_empty() {
                (class.ips, class.example) = (pod.ips.clone(), pod.reference.clone());
            }
            return;
        }
        let id = ClassId::try_from(self.classes.len()).expect("fewer pods than 32 bits can count");
        within.all.push(id);
        for (key, value) in &alike.labels {
            within.labelled.entry(key.clone()).or_default().entry(value.clone()).or_default().push(id);
        }
        self.classes.push(Class {
            namespace: alike.namespace.clone(),
            labels: alike.labels.clone(),
            example: pod.reference.clone(),
            ips: pod.ips.clone(),
            pods: 1,
            ports: pod.ports.clone(),
            containers: inhabitant.containers.clone(),
            resolver,
            kind,
        });
        found.insert(alike, id);
    }

    pub(super) fn class(&self, id: ClassId) -> &Class {
        &self.classes[id as usize]
    }

    /// The classes that take part in the network with an address of their own.
    pub(super) fn own(&self) -> impl Iterator<Item = ClassId> {
        (0..).zip(&self.classes).filter(|(_, class)| class.kind == Kind::Own).map(|(id, _)| id)
    }

    /// The namespaces that a selector matches.
    pub(super) fn namespaces_of(&self, namespaces: &Namespaces) -> Rc<[Arc<str>]> {
        let selector = match namespaces {
            Namespaces::Named(name) => return Rc::from([name.clone()]),
            Namespaces::Matching(selector) => selector,
        };
        if let Some(known) = self.matching.borrow().get(selector) {
            return known.clone();
        }
        let matching = self.namespaces.iter().filter(|(_, labels)| selector.matches(labels));
        let names: Rc<[Arc<str>]> = matching.map(|(name, _)| name.clone()).collect();
        self.matching.borrow_mut().insert(selector.clone(), names.clone());
        names
    }

    /// Whom a selector matches.
    pub(super) fn select(&self, selector: &PodSelector) -> Selected {
        if let Some(known) = self.selected.borrow().get(selector) {
            return known.clone();
        }
        let (mut own, mut host, mut finished) = (Vec::new(), None, false);
        for namespace in self.namespaces_of(&selector.namespaces).iter() {
            let Some(within) = self.within.get(namespace) else { continue };
            for id in within.candidates(&selector.pods) {
                let class = self.class(id);
                if selector.pods.matches(&class.labels) {
                    match class.kind {
                        Kind::Own => own.push(id),
                        Kind::Host => host = Some(id),
                        Kind::Finished => finished = true,
                    }
                }
            }
        }
        own.sort_unstable();
        let selected = Selected { members: own.into(), host, finished };
        self.selected.borrow_mut().insert(selector.clone(), selected.clone());
        selected
    }

    /// Whether a namespace has any pods.
    pub(super) fn is_inhabited(&self, namespace: &str) -> bool {
        self.within.contains_key(namespace)
    }

    /// The labels of a namespace's pods, each key with its values.
    pub(super) fn known_labels(&self, namespace: &str) -> Option<&BTreeMap<Arc<str>, BTreeSet<Arc<str>>>> {
        self.within.get(namespace).map(|within| &within.known)
    }

    /// `shop/web`, or `shop/web-1 and 2 alike`.
    pub(super) fn title(&self, id: ClassId) -> String {
        let class = self.class(id);
        match class.pods {
            1 => class.example.to_string(),
            pods => format!("{} and {} alike", class.example, pods - 1),
        }
    }
}

impl Within {
    /// Classes among which are all that match: those with the rarest label that the selector asks for, or all.
    fn candidates(&self, selector: &Selector) -> Vec<ClassId> {
        let mut best: Option<Vec<&Vec<ClassId>>> = None;
        let size = |lists: &[&Vec<ClassId>]| lists.iter().map(|list| list.len()).sum::<usize>();
        for requirement in selector.requirements.iter().filter(|r| r.operator == Operator::In) {
            let values = self.labelled.get(&requirement.key);
            let lists: Vec<_> = requirement.values.iter().filter_map(|value| values?.get(value)).collect();
            if best.as_ref().is_none_or(|best| size(&lists) < size(best)) {
                best = Some(lists);
            }
        }
        best.map_or_else(|| self.all.clone(), |lists| lists.into_iter().flatten().copied().collect())
    }
}

/// What pods of one class have in common.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    namespace: Arc<str>,
    labels: Labels,
    ports: Vec<NamedPort>,
    containers: Vec<(Protocol, u16)>,
    resolver: bool,
    kind: Kind,
}

/// Whether a pod looks like one of the cluster's DNS, or listens where such a one does.
fn is_resolver(inhabitant: &Inhabitant) -> bool {
    const LABELS: [(&str, &str); 4] = [
        ("k8s-app", "kube-dns"),
        ("k8s-app", "coredns"),
        ("app.kubernetes.io/name", "coredns"),
        ("dns.operator.openshift.io/daemonset-dns", "default"),
    ];
    let labels = &inhabitant.pod.labels;
    let listens = inhabitant.containers.contains(&(Protocol::Udp, 53));
    listens || LABELS.iter().any(|(key, value)| labels.get(*key).is_some_and(|given| **given == **value))
}

/// The keys of labels that selectors of pods ask for.
fn keys(objects: &Objects) -> HashSet<Arc<str>> {
    let policies = objects.policies.iter().map(|written| &written.policy);
    let peers = policies.clone().flat_map(|p| &p.rules).flat_map(|rule| rule.peers.iter().flatten()).filter_map(pods_of);
    let services = objects.services.iter().filter_map(|service| service.selector.as_ref());
    let selectors = policies.map(|p| &p.subject).chain(peers).chain(services);
    selectors.flat_map(|selector| &selector.pods.requirements).map(|requirement| requirement.key.clone()).collect()
}

fn pods_of(peer: &Peer) -> Option<&PodSelector> {
    match peer {
        Peer::Pods(selector) => Some(selector),
        _ => None,
    }
}

/// A pod that a selector of one namespace would match.
fn imagined(selector: &PodSelector) -> Option<Pod> {
    let Namespaces::Named(namespace) = &selector.namespaces else { return None };
    let mut labels = Labels::new();
    for requirement in &selector.pods.requirements {
        match requirement.operator {
            Operator::In => drop(labels.insert(requirement.key.clone(), requirement.values.first()?.clone())),
            Operator::Exists => drop(labels.insert(requirement.key.clone(), "".into())),
            Operator::NotIn | Operator::DoesNotExist => {}
        }
    }
    let name = format!("({})", selector.pods).into();
    Some(Pod {
        reference: PodRef { namespace: namespace.clone(), name },
        labels,
        ips: Vec::new(),
        node: None,
        host_network: false,
        finished: false,
        service_account: "default".into(),
        ports: Vec::new(),
    })
}
