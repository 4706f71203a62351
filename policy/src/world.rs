//! All objects, and the identities and sets that follow from them.
//!
//! Three ideas keep the cost of a change near what it touches:
//!
//! - A **class** is the pods of one namespace with the same labels and service account. Selectors are tried on classes, found by label.
//! - An **identity** is the classes that answer every selector alike. Policies and sets speak of identities, so a new pod of a
//!   known kind changes nothing but its own endpoint.
//! - A **program** is the list of policies that judge an identity in one direction, shared by all identities with that list.
//!
//! [`Effects`] says what a change touched; each node's [`View`](crate::View) makes its delta from that.
//!
//! Audit policies are in force in a second world alone, which is there while there are any: [`audit`]. A policy that has expired is
//! in force in neither: [`time`].

mod audit;
mod classes;
mod cluster;
mod effects;
mod identities;
mod inventory;
mod nodes;
mod selectors;
#[cfg(test)]
mod tests;
mod time;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::flow::Direction;
use crate::label::Labels;
use crate::snapshot::{self, Endpoint, IdentityId, Peer, PolicyId, Program, ProgramId, Programs, SetId};
use crate::source::{self, Key, NamedPort, Node, Object, Pod, PodRef, PodSelector, Policy, PolicyRef};

use classes::{ClassId, Classes};
use cluster::Cluster;
pub use effects::Effects;
use selectors::Selectors;

/// The whole inventory and all policies, with the identities they lead to. Incremental: a change costs what it touches.
#[derive(Clone, Debug, Default)]
pub struct World {
    namespaces: FxHashMap<Arc<str>, Labels>,
    nodes: BTreeMap<Arc<str>, Node>,
    pods: FxHashMap<PodRef, Placed>,
    /// Who claims an address. More than one is a conflict.
    addresses: FxHashMap<IpAddr, Vec<PodRef>>,
    classes: Classes,
    selectors: Selectors,
    identities: FxHashMap<IdentityId, Identity>,
    /// Identities by what they answer: the sorted sets that hold them.
    by_answers: FxHashMap<Arc<[SetId]>, IdentityId>,
    policies: FxHashMap<PolicyId, Compiled>,
    policy_ids: FxHashMap<PolicyRef, PolicyId>,
    /// All policies as they were written, in force or not.
    written: BTreeMap<PolicyRef, Arc<Policy>>,
    /// Those with nodes among their peers.
    by_nodes: BTreeSet<PolicyRef>,
    /// Those that expire, by when they do.
    expiries: BTreeSet<(SystemTime, PolicyRef)>,
    /// Audit policies among those that are written.
    audits: usize,
    /// `None`: nobody said what time it is, and nothing expires.
    now: Option<SystemTime>,
    /// Whether this is the second world.
    is_audit: bool,
    /// The second world, while there are Audit policies.
    audit: Option<Box<World>>,
    /// What DNS says to everybody.
    names: BTreeMap<Arc<str>, Vec<IpAddr>>,
    /// Where the cluster is, and who its resolvers are.
    cluster: Cluster,
    programs: FxHashMap<ProgramId, (Program, usize)>,
    program_ids: FxHashMap<Program, ProgramId>,
    last_identity: u32,
    last_policy: u32,
    last_program: u32,
    /// Pods' nodes that no Node object names (yet), with the number of their pods.
    named_nodes: FxHashMap<Arc<str>, usize>,
}

/// One edit of the inventory or the policies.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Put(Object),
    Remove(Key),
}

/// A pod that has addresses of its own, and its class.
#[derive(Clone, Debug)]
struct Placed {
    pod: Pod,
    ports: Arc<[NamedPort]>,
    /// `None`: never selected (host network), finished, or without an address.
    class: Option<ClassId>,
}

#[derive(Clone, Debug)]
struct Identity {
    answers: Arc<[SetId]>,
    classes: FxHashSet<ClassId>,
    programs: Programs,
}

#[derive(Clone, Debug)]
struct Compiled {
    policy: Arc<snapshot::Policy>,
    subject: SetId,
    /// Sets of the peers, each as often as it is referred to.
    sets: Vec<SetId>,
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `edits`; of several for one key the last holds. Total: an edit that removes what isn't there does nothing.
    pub fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) -> Effects {
        let edits: Vec<Edit> = edits.into_iter().collect();
        let copy = self.audit.as_ref().map(|_| edits.clone());
        let mut effects = self.apply_here(edits);
        effects.audit = self.follow(|audit| audit.apply_here(copy.unwrap_or_default()));
        effects
    }

    /// In this world alone.
    fn apply_here(&mut self, edits: Vec<Edit>) -> Effects {
        let mut effects = Effects::default();
        // Inventory goes first: selectors are then tried on pods that are there, found by label, not pod by pod.
        let mut later = Vec::new();
        for edit in edits {
            match edit {
                Edit::Put(Object::Namespace(namespace)) => self.put_namespace(namespace.name, Some(namespace.labels)),
                Edit::Remove(Key::Namespace(name)) => self.put_namespace(name, None),
                Edit::Put(Object::Node(node)) => self.put_node(node, &mut effects),
                Edit::Remove(Key::Node(name)) => self.remove_node(&name, &mut effects),
                Edit::Put(Object::Name(known)) => self.put_name(known.name, Some(known.ips), &mut effects),
                Edit::Remove(Key::Name(name)) => self.put_name(name, None, &mut effects),
                Edit::Put(Object::Pod(pod)) => self.put_pod(pod, &mut effects),
                Edit::Remove(Key::Pod(pod)) => self.remove_pod(&pod, &mut effects),
                Edit::Put(Object::Policy(policy)) => {
                    later.push((policy.reference.clone(), Some(Arc::new(policy))));
                }
                Edit::Remove(Key::Policy(reference)) => later.push((reference, None)),
            }
        }
        if !effects.nodes.is_empty() {
            // What changes itself comes behind, and holds.
            let mut all: Vec<_> = self.by_nodes.iter().map(|name| (name.clone(), self.written.get(name).cloned())).collect();
            all.append(&mut later);
            later = all;
        }
        for (reference, policy) in later {
            self.write_policy(reference, policy, &mut effects);
        }
        self.settle(&mut effects);
        self.settle_cluster(&mut effects);
        effects
    }

    fn settle(&mut self, effects: &mut Effects) {
        self.settle_identities(effects);
        self.drop_unused_sets(effects);
        self.settle_programs(effects);
    }

    /// The names of all Node objects, and of all nodes that a pod names.
    pub fn nodes(&self) -> Vec<Arc<str>> {
        let names: BTreeSet<_> = self.nodes.keys().chain(self.named_nodes.keys()).cloned().collect();
        names.into_iter().collect()
    }

    pub fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }

    pub fn pod(&self, reference: &PodRef) -> Option<&Pod> {
        self.pods.get(reference).map(|placed| &placed.pod)
    }

    /// All pods, in no particular order.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values().map(|placed| &placed.pod)
    }

    /// The pods that claim an address; several are a conflict.
    pub fn claimants(&self, ip: IpAddr) -> &[PodRef] {
        self.addresses.get(&ip).map(Vec::as_slice).unwrap_or_default()
    }

    /// What a set was made from, for people.
    pub fn selector(&self, set: SetId) -> Option<&PodSelector> {
        self.selectors.get(set)
    }

    pub fn policy_id(&self, reference: &PolicyRef) -> Option<PolicyId> {
        self.policy_ids.get(reference).copied()
    }

    /// How many identities the pods have.
    pub fn identity_count(&self) -> usize {
        self.identities.len()
    }

    /// Policies in force.
    pub fn policy_count(&self) -> usize {
        self.policies.len()
    }

    /// Notes what is written, and puts in force what is in force here and now.
    fn write_policy(&mut self, reference: PolicyRef, policy: Option<Arc<Policy>>, effects: &mut Effects) {
        let old = match &policy {
            Some(policy) => self.written.insert(reference.clone(), policy.clone()),
            None => self.written.remove(&reference),
        };
        if let Some(old) = old {
            self.audits -= usize::from(old.audit);
            if let Some(expires) = old.expires {
                self.expiries.remove(&(expires, reference.clone()));
            }
        }
        self.by_nodes.remove(&reference);
        if let Some(policy) = &policy {
            self.audits += usize::from(policy.audit);
            self.expiries.extend(policy.expires.map(|expires| (expires, reference.clone())));
            let is_nodes = |peer: &source::Peer| matches!(peer, source::Peer::Nodes(_));
            if policy.rules.iter().flat_map(|rule| rule.peers.iter().flatten()).any(is_nodes) {
                self.by_nodes.insert(reference.clone());
            }
        }
        match policy.filter(|policy| self.is_in_force(policy)) {
            Some(policy) => self.put_policy(&policy, effects),
            None => self.remove_policy(&reference, effects),
        }
    }

    fn is_in_force(&self, policy: &Policy) -> bool {
        (self.is_audit || !policy.audit) && !self.is_expired(policy)
    }

    fn put_policy(&mut self, policy: &Policy, effects: &mut Effects) {
        let subject = self.intern(&policy.subject);
        let mut sets = Vec::new();
        let rules = policy.rules.iter().map(|rule| self.resolve(rule, &mut sets)).collect();
        let compiled = Arc::new(snapshot::Policy {
            reference: policy.reference.clone(),
            tier: policy.tier,
            ingress: policy.ingress,
            egress: policy.egress,
            audit: policy.audit,
            rules,
        });
        let id = self.policy_ids.get(&policy.reference).copied().unwrap_or_else(|| {
            self.last_policy += 1;
            PolicyId(self.last_policy)
        });
        let old = self.policies.insert(id, Compiled { policy: compiled.clone(), subject, sets });
        self.policy_ids.insert(policy.reference.clone(), id);
        if old.as_ref().is_none_or(|old| old.policy != compiled) {
            effects.policies.insert(id);
        }
        let directions = |p: &snapshot::Policy| (p.ingress, p.egress);
        if old.as_ref().is_none_or(|old| old.subject != subject || directions(&old.policy) != directions(&compiled)) {
            self.selectors.subjects_mut(subject).insert(id);
            effects.subjects.insert(subject);
        }
        if let Some(old) = old {
            self.release(id, &old, old.subject != subject, effects);
        }
    }

    fn remove_policy(&mut self, reference: &PolicyRef, effects: &mut Effects) {
        let Some(id) = self.policy_ids.remove(reference) else { return };
        let Some(old) = self.policies.remove(&id) else { return };
        effects.policies.insert(id);
        self.release(id, &old, true, effects);
    }

    /// Lets go of what an old version of policy `id` referred to.
    fn release(&mut self, id: PolicyId, old: &Compiled, subject_left: bool, effects: &mut Effects) {
        if subject_left {
            self.selectors.subjects_mut(old.subject).remove(&id);
            effects.subjects.insert(old.subject);
        }
        for set in old.sets.iter().chain([&old.subject]) {
            self.selectors.release(*set);
        }
    }

    fn resolve(&mut self, rule: &source::Rule, sets: &mut Vec<SetId>) -> snapshot::Rule {
        let peers = rule.peers.as_ref().map(|peers| {
            let mut resolved = Vec::with_capacity(peers.len());
            for peer in peers {
                match peer {
                    source::Peer::Pods(selector) => {
                        let set = self.intern(selector);
                        sets.push(set);
                        resolved.push(Peer::Set(set));
                    }
                    source::Peer::Block { cidr, except } => {
                        resolved.push(Peer::Block { cidr: cidr.trunc(), except: except.clone() });
                    }
                    source::Peer::Nodes(selector) => resolved.extend(self.nodes_of(selector)),
                    source::Peer::Names(named) => resolved.push(Peer::Names(Arc::new(named.clone()))),
                }
            }
            resolved
        });
        snapshot::Rule {
            direction: rule.direction,
            path: rule.path.clone(),
            action: rule.action,
            peers,
            ports: rule.ports.clone(),
            l7: rule.l7.clone(),
        }
    }

    /// The set of a selector, with one more reference to it.
    fn intern(&mut self, selector: &PodSelector) -> SetId {
        if let Some(set) = self.selectors.hold(selector) {
            return set;
        }
        let namespaces = &self.namespaces;
        self.selectors.add(selector.clone(), &mut self.classes, &self.identities, |name| {
            let implied = || Labels::from([("kubernetes.io/metadata.name".into(), name.clone())]);
            namespaces.get(name).cloned().unwrap_or_else(implied)
        })
    }

    /// The programs that judge pods with these answers.
    fn programs_of(&mut self, answers: &[SetId]) -> Programs {
        let mut ingress = Vec::new();
        let mut egress = Vec::new();
        for set in answers {
            for id in self.selectors.subjects(*set) {
                let Some(compiled) = self.policies.get(id) else { continue };
                if compiled.policy.ingress {
                    ingress.push(*id);
                }
                if compiled.policy.egress {
                    egress.push(*id);
                }
            }
        }
        Programs { ingress: self.hold_program(Direction::Ingress, ingress), egress: self.hold_program(Direction::Egress, egress) }
    }

    fn hold_program(&mut self, direction: Direction, mut policies: Vec<PolicyId>) -> Option<ProgramId> {
        if policies.is_empty() {
            return None;
        }
        policies.sort_unstable();
        let program = Program { direction, policies };
        let id = match self.program_ids.get(&program) {
            Some(id) => *id,
            None => {
                self.last_program += 1;
                let id = ProgramId(self.last_program);
                self.program_ids.insert(program.clone(), id);
                self.programs.insert(id, (program, 0));
                id
            }
        };
        self.programs.get_mut(&id).expect("the program was found or made above").1 += 1;
        Some(id)
    }

    fn release_programs(&mut self, programs: Programs) {
        for id in [programs.ingress, programs.egress].into_iter().flatten() {
            let Some((program, holders)) = self.programs.get_mut(&id) else { continue };
            *holders -= 1;
            if *holders == 0 {
                self.program_ids.remove(program);
                self.programs.remove(&id);
            }
        }
    }

    /// Gives every identity whose answers or policies changed its programs.
    fn settle_programs(&mut self, effects: &mut Effects) {
        let mut due = std::mem::take(&mut effects.reprogram);
        for set in std::mem::take(&mut effects.subjects) {
            due.extend(self.selectors.members(set));
        }
        for id in due {
            let Some(identity) = self.identities.get(&id) else { continue };
            let (answers, before) = (identity.answers.clone(), identity.programs);
            let after = self.programs_of(&answers);
            self.release_programs(before);
            if before != after {
                effects.identities.insert(id);
                self.identities.get_mut(&id).expect("the identity was found above").programs = after;
            }
        }
    }

    pub(crate) fn program(&self, id: ProgramId) -> Option<&Program> {
        self.programs.get(&id).map(|(program, _)| program)
    }

    pub(crate) fn policy(&self, id: PolicyId) -> Option<&Arc<snapshot::Policy>> {
        self.policies.get(&id).map(|compiled| &compiled.policy)
    }

    pub(crate) fn programs(&self, identity: IdentityId) -> Programs {
        self.identities.get(&identity).map(|i| i.programs).unwrap_or_default()
    }

    pub(crate) fn members(&self, set: SetId) -> impl Iterator<Item = IdentityId> {
        self.selectors.members(set)
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.keys().copied()
    }

    pub(crate) fn addresses_of(&self, identity: IdentityId) -> impl Iterator<Item = IpAddr> {
        let classes = self.identities.get(&identity).into_iter().flat_map(|i| i.classes.iter());
        let pods = classes.flat_map(|class| self.classes.pods(*class));
        pods.flat_map(|pod| self.pods.get(pod).into_iter().flat_map(|placed| placed.pod.ips.iter().copied()))
    }

    /// The endpoint at an address, and whether `node` (or any, for `None`) has a pod there.
    pub(crate) fn endpoint(&self, ip: IpAddr, node: Option<&Arc<str>>) -> Option<Endpoint> {
        let claimants = self.addresses.get(&ip)?;
        let placed = |reference| self.pods.get(reference);
        let first = claimants.first().and_then(placed)?;
        let class = first.class?;
        let local = node.is_none_or(|node| claimants.iter().filter_map(placed).any(|p| p.pod.node.as_ref() == Some(node)));
        Some(Endpoint {
            pod: first.pod.reference.clone(),
            identity: self.classes.identity(class)?,
            local,
            conflict: claimants.len() > 1,
            host: if node.is_none() { first.pod.node.clone() } else { None },
            ports: first.ports.clone(),
        })
    }
}
