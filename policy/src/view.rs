//! What one node has been told, and what it has to be told next.
//!
//! A node is told of its own pods, the programs that judge them, the policies in those programs, the sets which those policies
//! name, and the endpoints in those sets (of an egress rule that opens a port by name towards everyone or a block: all that have
//! such a port, and of each in the node's own address ranges, where an address that nobody has is closed). Each of these is counted by how often the step before refers to it; what is referred to for the first time is
//! sent, and what nothing refers to any more is dropped.

use std::collections::{BTreeSet, VecDeque};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::flow::{Direction, Protocol};
use crate::snapshot::{Change, Endpoint, IdentityId, NodeFacts, Peer, Policy, PolicyId, ProgramId, Programs, SetId};
use crate::source::{NamedPort, PodSelector, PortMatch};
use crate::world::{Effects, World};

mod audit;

use audit::Followed;

/// The part of the world that one node knows.
#[derive(Debug)]
pub struct View {
    scope: Scope,
    /// Which pods are resolvers, to this node.
    resolvers: Vec<PodSelector>,
    /// False until the first snapshot.
    begun: bool,
    endpoints: FxHashMap<IpAddr, Arc<Endpoint>>,
    /// Identities of local endpoints: how many, and the programs that the node was told.
    identities: FxHashMap<IdentityId, (usize, Programs)>,
    /// A program never changes, so it is kept as it was sent.
    programs: FxHashMap<ProgramId, (usize, Arc<[PolicyId]>)>,
    policies: FxHashMap<PolicyId, (usize, Arc<Policy>)>,
    sets: Counts<SetId>,
    /// Identities in the sets that the node knows.
    peers: Counts<IdentityId>,
    /// Ports by name that egress rules open towards everyone or a block: whose they are, no set says.
    names: Counts<(Protocol, Arc<str>)>,
    /// Where the node takes each address for one of its pods, unless it is told of another's.
    ranges: Vec<IpNet>,
    /// What lost a reference in this round; looked at when all new references are counted, so that nothing is dropped and sent
    /// again.
    released: VecDeque<Released>,
    /// Addresses whose endpoint the node may have to hear of.
    due: BTreeSet<IpAddr>,
    /// The same of the second world, while there is one.
    audit: Option<Box<Followed>>,
}

/// Which pods are local to a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods of one node; of the others only those that its policies name.
    Node(Arc<str>),
    /// Every pod: for `sluice eval` and its kind, which judge both ends.
    Everything,
}

#[derive(Debug)]
enum Released {
    Identity(IdentityId),
    Program(ProgramId),
    Policy(PolicyId),
    Set(SetId),
    Peer(IdentityId),
}

/// How often something is referred to.
#[derive(Debug)]
struct Counts<K>(FxHashMap<K, usize>);

impl<K: Hash + Eq> Counts<K> {
    /// Whether this is the first reference.
    fn add(&mut self, key: K) -> bool {
        let count = self.0.entry(key).or_insert(0);
        *count += 1;
        *count == 1
    }

    /// Whether this was the last reference.
    fn subtract(&mut self, key: &K) -> bool {
        let count = self.0.get_mut(key).expect("what is released was counted");
        *count -= 1;
        if *count == 0 {
            self.0.remove(key);
            return true;
        }
        false
    }

    fn contains(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }
}

impl View {
    /// A node that has been told nothing.
    pub fn new(scope: Scope) -> Self {
        Self {
            scope,
            resolvers: Vec::new(),
            begun: false,
            endpoints: FxHashMap::default(),
            identities: FxHashMap::default(),
            programs: FxHashMap::default(),
            policies: FxHashMap::default(),
            sets: Counts(FxHashMap::default()),
            peers: Counts(FxHashMap::default()),
            names: Counts(FxHashMap::default()),
            ranges: Vec::new(),
            released: VecDeque::new(),
            due: BTreeSet::new(),
            audit: None,
        }
    }

    /// The same, to which the pods of these selectors are the cluster's resolvers. The world must have been told of them
    /// ([`World::hold_resolvers`]).
    pub fn resolving(self, resolvers: Vec<PodSelector>) -> Self {
        Self { resolvers, ..self }
    }

    /// The whole snapshot, as if the node had been told nothing; the view then stands at `world`.
    pub fn snapshot(&mut self, world: &World) -> Vec<Change> {
        *self = Self::new(self.scope.clone()).resolving(std::mem::take(&mut self.resolvers));
        self.begun = true;
        let mut changes = Vec::new();
        if !world.cluster().is_empty() {
            changes.push(Change::PutCluster(world.cluster().clone()));
        }
        let resolvers: Vec<SetId> = self.resolvers.iter().filter_map(|selector| world.resolvers(selector)).collect();
        for set in &resolvers {
            self.add_set(*set, world, &mut changes);
        }
        if !resolvers.is_empty() {
            changes.push(Change::PutResolvers(resolvers));
        }
        if !world.known_names().is_empty() {
            self.tell_names(world, &mut changes);
        }
        match &self.scope {
            Scope::Node(name) => {
                let facts = world.node_facts(name);
                self.ranges.clone_from(&facts.pod_cidrs);
                changes.push(Change::PutNode(facts));
            }
            Scope::Everything => {
                for name in world.nodes() {
                    changes.push(Change::PutNode(self.facts_of_everything(world, &name)));
                }
            }
        }
        self.due = world.addresses().collect();
        self.settle(world, &mut changes);
        self.follow_audit(world, None, &mut changes);
        changes
    }

    /// What has changed for this node by `effects`, which led to `world`. Empty if nothing.
    ///
    /// Every edit's effects must be given, in order. A view that has told nothing answers with the whole snapshot.
    pub fn delta(&mut self, world: &World, effects: &Effects) -> Vec<Change> {
        if !self.begun {
            return self.snapshot(world);
        }
        let mut changes = Vec::new();
        if effects.cluster {
            changes.push(Change::PutCluster(world.cluster().clone()));
        }
        if effects.names {
            self.tell_names(world, &mut changes);
        }
        for name in &effects.nodes {
            match &self.scope {
                Scope::Node(own) if own == name => {
                    let facts = world.node_facts(name);
                    let before = std::mem::replace(&mut self.ranges, facts.pod_cidrs.clone());
                    if before != self.ranges {
                        let in_range = |ip: &IpAddr| before.iter().chain(&self.ranges).any(|net| net.contains(ip));
                        self.due.extend(world.addresses().filter(in_range));
                    }
                    changes.push(Change::PutNode(facts));
                }
                Scope::Node(_) => {}
                Scope::Everything => changes.push(Change::PutNode(self.facts_of_everything(world, name))),
            }
        }
        // Members first: whoever is told of a set below is told of its members of now.
        for (set, edit) in &effects.sets {
            if !self.sets.contains(set) || (edit.add.is_empty() && edit.remove.is_empty()) {
                continue;
            }
            changes.push(Change::EditSet {
                set: *set,
                add: edit.add.iter().copied().collect(),
                remove: edit.remove.iter().copied().collect(),
            });
            for identity in &edit.add {
                self.add_peer(*identity, world);
            }
            self.released.extend(edit.remove.iter().copied().map(Released::Peer));
        }
        for id in &effects.policies {
            self.change_policy(*id, world, &mut changes);
        }
        for id in &effects.identities {
            self.change_programs(*id, world, &mut changes);
        }
        self.due.extend(effects.addresses.iter().copied());
        self.settle(world, &mut changes);
        self.follow_audit(world, effects.audit(), &mut changes);
        changes
    }

    /// To a table of everything what DNS says to everybody. A node's pods are told each for itself.
    fn tell_names(&self, world: &World, changes: &mut Vec<Change>) {
        let names = world.known_names();
        if self.scope == Scope::Everything {
            changes.push(Change::PutNames(Arc::new(names)));
        }
    }

    /// In a table of everything an address range says nothing: whatever no pod has is outside.
    fn facts_of_everything(&self, world: &World, name: &Arc<str>) -> NodeFacts {
        NodeFacts { pod_cidrs: Vec::new(), ..world.node_facts(name) }
    }

    fn change_policy(&mut self, id: PolicyId, world: &World, changes: &mut Vec<Change>) {
        let Some((_, told)) = self.policies.get(&id) else { return };
        // A policy that is gone leaves the programs too, and is dropped with the last of them.
        let Some(policy) = world.policy(id) else { return };
        if told == policy {
            return;
        }
        let old = told.clone();
        changes.push(Change::PutPolicy(id, policy.clone()));
        for set in sets_of(policy) {
            self.add_set(set, world, changes);
        }
        self.add_names(policy, world);
        self.released.extend(sets_of(&old).map(Released::Set));
        self.release_names(&old, world);
        self.policies.get_mut(&id).expect("the policy was found above").1 = policy.clone();
    }

    fn change_programs(&mut self, id: IdentityId, world: &World, changes: &mut Vec<Change>) {
        let Some((_, told)) = self.identities.get(&id) else { return };
        let (old, new) = (*told, world.programs(id));
        if old == new {
            return;
        }
        changes.push(Change::PutIdentity(id, new));
        self.identities.get_mut(&id).expect("the identity was found above").1 = new;
        self.add_programs(new, world, changes);
        self.release_programs(old);
    }

    fn add_programs(&mut self, programs: Programs, world: &World, changes: &mut Vec<Change>) {
        for id in [programs.ingress, programs.egress].into_iter().flatten() {
            if let Some((count, _)) = self.programs.get_mut(&id) {
                *count += 1;
                continue;
            }
            let program = world.program(id).expect("an identity's programs are there");
            changes.push(Change::PutProgram(id, program.clone()));
            self.programs.insert(id, (1, program.policies.as_slice().into()));
            for policy in &program.policies {
                self.add_policy(*policy, world, changes);
            }
        }
    }

    fn release_programs(&mut self, programs: Programs) {
        self.released.extend([programs.ingress, programs.egress].into_iter().flatten().map(Released::Program));
    }

    fn add_policy(&mut self, id: PolicyId, world: &World, changes: &mut Vec<Change>) {
        if let Some((count, _)) = self.policies.get_mut(&id) {
            *count += 1;
            return;
        }
        let policy = world.policy(id).expect("a program's policies are there").clone();
        changes.push(Change::PutPolicy(id, policy.clone()));
        for set in sets_of(&policy) {
            self.add_set(set, world, changes);
        }
        self.add_names(&policy, world);
        self.policies.insert(id, (1, policy));
    }

    fn add_names(&mut self, policy: &Policy, world: &World) {
        for name in open_names(policy) {
            if self.names.add(name.clone()) {
                self.due.extend(addresses_with(&name, world));
            }
        }
    }

    fn release_names(&mut self, policy: &Policy, world: &World) {
        for name in open_names(policy) {
            if self.names.subtract(&name) {
                self.due.extend(addresses_with(&name, world));
            }
        }
    }

    fn add_set(&mut self, set: SetId, world: &World, changes: &mut Vec<Change>) {
        if !self.sets.add(set) {
            return;
        }
        let mut add: Vec<IdentityId> = world.members(set).collect();
        add.sort_unstable();
        for identity in &add {
            self.add_peer(*identity, world);
        }
        changes.push(Change::EditSet { set, add, remove: Vec::new() });
    }

    fn add_peer(&mut self, identity: IdentityId, world: &World) {
        if self.peers.add(identity) {
            self.due.extend(world.addresses_of(identity));
        }
    }

    /// Brings endpoints in line and drops what lost its last reference, until nothing more follows.
    fn settle(&mut self, world: &World, changes: &mut Vec<Change>) {
        loop {
            while let Some(ip) = self.due.pop_first() {
                self.settle_endpoint(ip, world, changes);
            }
            let Some(released) = self.released.pop_front() else { return };
            self.release(released, world, changes);
        }
    }

    fn settle_endpoint(&mut self, ip: IpAddr, world: &World, changes: &mut Vec<Change>) {
        let node = match &self.scope {
            Scope::Node(name) => Some(name),
            Scope::Everything => None,
        };
        let wanted = world.endpoint(ip, node).filter(|endpoint| {
            let named = |port: &NamedPort| self.names.contains(&(port.protocol, port.name.clone()));
            endpoint.local
                || self.peers.contains(&endpoint.identity)
                || endpoint.ports.iter().any(named)
                || self.ranges.iter().any(|net| net.contains(&ip))
        });
        let told = self.endpoints.get(&ip).cloned();
        if told.as_deref() == wanted.as_ref() {
            return;
        }
        if let Some(wanted) = wanted {
            let endpoint = Arc::new(wanted);
            changes.push(Change::PutEndpoint(ip, endpoint.clone()));
            if endpoint.local {
                self.add_identity(endpoint.identity, world, changes);
            }
            self.endpoints.insert(ip, endpoint);
        } else {
            changes.push(Change::DropEndpoint(ip));
            self.endpoints.remove(&ip);
        }
        if let Some(told) = told.filter(|told| told.local) {
            self.released.push_back(Released::Identity(told.identity));
        }
    }

    fn add_identity(&mut self, id: IdentityId, world: &World, changes: &mut Vec<Change>) {
        if let Some((count, _)) = self.identities.get_mut(&id) {
            *count += 1;
            return;
        }
        let programs = world.programs(id);
        changes.push(Change::PutIdentity(id, programs));
        self.identities.insert(id, (1, programs));
        self.add_programs(programs, world, changes);
    }

    fn release(&mut self, released: Released, world: &World, changes: &mut Vec<Change>) {
        match released {
            Released::Identity(id) => {
                let (count, programs) = self.identities.get_mut(&id).expect("what is released was counted");
                *count -= 1;
                if *count == 0 {
                    let programs = *programs;
                    self.identities.remove(&id);
                    changes.push(Change::DropIdentity(id));
                    self.release_programs(programs);
                }
            }
            Released::Program(id) => {
                let (count, _) = self.programs.get_mut(&id).expect("what is released was counted");
                *count -= 1;
                if *count == 0
                    && let Some((_, policies)) = self.programs.remove(&id)
                {
                    changes.push(Change::DropProgram(id));
                    self.released.extend(policies.iter().copied().map(Released::Policy));
                }
            }
            Released::Policy(id) => {
                let (count, _) = self.policies.get_mut(&id).expect("what is released was counted");
                *count -= 1;
                if *count == 0
                    && let Some((_, policy)) = self.policies.remove(&id)
                {
                    changes.push(Change::DropPolicy(id));
                    self.release_names(&policy, world);
                    self.released.extend(sets_of(&policy).map(Released::Set));
                }
            }
            Released::Set(set) => {
                if self.sets.subtract(&set) {
                    changes.push(Change::DropSet(set));
                    // The node was told of the members of now: edits of known sets went first.
                    self.released.extend(world.members(set).map(Released::Peer));
                }
            }
            Released::Peer(id) => {
                if self.peers.subtract(&id) {
                    self.due.extend(world.addresses_of(id));
                }
            }
        }
    }
}

fn sets_of(policy: &Policy) -> impl Iterator<Item = SetId> {
    policy.rules.iter().flat_map(|rule| rule.peers.iter().flatten()).filter_map(|peer| match peer {
        Peer::Set(set) => Some(*set),
        Peer::Block { .. } | Peer::Names(_) | Peer::Resolvers => None,
    })
}

/// The names of ports that the egress rules of a policy open towards destinations which no set describes.
fn open_names(policy: &Policy) -> impl Iterator<Item = (Protocol, Arc<str>)> {
    let beyond_sets = |peers: &Vec<Peer>| peers.iter().any(|peer| !matches!(peer, Peer::Set(_)));
    let open = policy
        .rules
        .iter()
        .filter(move |rule| rule.direction == Direction::Egress && rule.peers.as_ref().is_none_or(beyond_sets));
    open.flat_map(|rule| rule.ports.iter().flatten()).filter_map(|port| match port {
        PortMatch::Named { protocol, name } => Some((*protocol, name.clone())),
        _ => None,
    })
}

fn addresses_with<'w>((protocol, name): &(Protocol, Arc<str>), world: &'w World) -> impl Iterator<Item = IpAddr> + 'w {
    let (protocol, name) = (*protocol, name.clone());
    let has = move |port: &NamedPort| port.protocol == protocol && port.name == name;
    world.addresses().filter(move |ip| world.endpoint(*ip, None).is_some_and(|endpoint| endpoint.ports.iter().any(&has)))
}
