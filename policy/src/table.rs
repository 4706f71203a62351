//! The node's table: applies changes, and lists what the kernel needs. [`walk`](crate::walk) decides flows with it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::flow::Protocol;
use crate::memo::TableId;
use crate::program::{self, Compiled};
use crate::sharded::Sharded;
use crate::snapshot::{Change, Endpoint, IdentityId, NodeFacts, Policy, PolicyId, Program, ProgramId, Programs, SetId};
use crate::table::pods::LocalPods;
pub(crate) use crate::table::pods::Slot;
use crate::table::whereabouts::Whereabouts;
use crate::verdict::{NamedRule, RuleId};

mod audit;
mod check;
mod pods;
mod whereabouts;

pub use crate::program::{DNS_PORT, Line, LineAction, Lines, MOST_LOOKUP_PORTS, NameSettings, Quic, Reads, Where};
pub(crate) use audit::Audited;
pub use audit::{AuditReads, ReadPorts};

/// Everything a node decides by. Cheap to clone: parts that don't change are shared.
#[derive(Clone, Debug)]
pub struct Table {
    /// What is remembered about it goes by this.
    id: TableId,
    loaded: bool,
    nodes: Arc<FxHashMap<Arc<str>, NodeFacts>>,
    /// The first node's, which is the only one in a node's table.
    node: Arc<NodeFacts>,
    policies: Sharded<PolicyId, Arc<Policy>>,
    sets: Sharded<SetId, Arc<FxHashSet<IdentityId>>>,
    programs: Sharded<ProgramId, ProgramEntry>,
    identities: Sharded<IdentityId, Arc<Identity>>,
    pub(crate) endpoints: Sharded<IpAddr, Slot>,
    pods: LocalPods,
    /// Node addresses, and whose they are.
    pub(crate) node_ips: Arc<FxHashMap<IpAddr, Arc<str>>>,
    whereabouts: Whereabouts,
    /// Whether this is the second table, in which the Audit policies are in force too.
    pub(crate) is_audit: bool,
    /// The second table, if an Audit policy selects a pod that is judged here.
    pub(crate) audit: Option<Arc<Audited>>,
}

#[derive(Clone, Debug)]
struct ProgramEntry {
    program: Program,
    compiled: Arc<Compiled>,
}

/// What the table knows of the pods that answer alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    programs: Programs,
    /// Sorted.
    pub(crate) sets: Vec<SetId>,
    /// Its endpoints' addresses.
    addresses: FxHashSet<IpAddr>,
    /// Whether `PutIdentity` named it: sets and endpoints may speak of identities that only appear as peers.
    declared: bool,
}

/// What a list of changes touched: where the kernel has to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The node's own facts changed.
    pub node: bool,
    /// Addresses that appeared, vanished, or whose endpoint differs.
    pub endpoints: BTreeSet<IpAddr>,
    /// Of `endpoints`, those where no pod was known before.
    pub appeared: BTreeSet<IpAddr>,
    /// Identities whose programs changed.
    pub identities: BTreeSet<IdentityId>,
    /// Sets whose members changed, appeared or vanished.
    pub sets: BTreeSet<SetId>,
    /// Programs whose lines changed, appeared or vanished.
    pub programs: BTreeSet<ProgramId>,
    /// Addresses of pods that an Audit policy selects now and didn't before, or the other way round, or of which it reads other
    /// ports. Nothing that is enforced hangs on these.
    pub audited: BTreeSet<IpAddr>,
}

/// A list of changes that doesn't fit the state it is applied to: the sender and this table disagree, so a new snapshot is due.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("change refers to {what} {id}, which the table doesn't hold, or may not hold")]
pub struct ApplyError {
    pub what: &'static str,
    pub id: String,
}

impl ApplyError {
    fn new(what: &'static str, id: impl ToString) -> Self {
        Self { what, id: id.to_string() }
    }
}

impl Table {
    /// The table before the first snapshot: it denies everything, for `NoSnapshot`.
    pub fn empty() -> Self {
        Self {
            id: TableId::fresh(),
            loaded: false,
            nodes: Arc::default(),
            node: Arc::default(),
            policies: Sharded::new(),
            sets: Sharded::new(),
            programs: Sharded::new(),
            identities: Sharded::new(),
            endpoints: Sharded::new(),
            pods: LocalPods::new(),
            node_ips: Arc::default(),
            whereabouts: Whereabouts::default(),
            is_audit: false,
            audit: None,
        }
    }

    /// The table before the first snapshot, of a node whose configuration says this of names.
    pub fn with(settings: NameSettings) -> Self {
        Self { whereabouts: Whereabouts::of(settings), ..Self::empty() }
    }

    /// The table that `changes` lead to from here, and what differs. `self` stays as it is.
    ///
    /// The first list makes a table loaded, also where it is empty of policies.
    pub fn apply(&self, changes: &[Change]) -> Result<(Self, Touched), ApplyError> {
        let mut table = self.clone();
        table.id = TableId::fresh();
        table.loaded = true;
        let mut touched = Touched::default();
        let mut policies: FxHashSet<PolicyId> = FxHashSet::default();
        let mut programs: FxHashMap<ProgramId, Program> = FxHashMap::default();
        for change in changes {
            match change {
                Change::PutNode(facts) => table.put_node(facts, &mut touched),
                Change::PutPolicy(id, policy) => {
                    if policy.audit && !self.is_audit {
                        // It would be enforced.
                        return Err(ApplyError::new("Audit policy", id));
                    }
                    table.policies.insert(*id, policy.clone());
                    policies.insert(*id);
                }
                Change::DropPolicy(id) => {
                    table.policies.remove(id).ok_or_else(|| ApplyError::new("policy", id))?;
                    policies.insert(*id);
                }
                Change::EditSet { set, add, remove } => table.edit_set(*set, add, remove, &mut touched)?,
                Change::DropSet(set) => table.drop_set(*set, &mut touched)?,
                Change::PutProgram(id, program) => {
                    programs.insert(*id, program.clone());
                    touched.programs.insert(*id);
                }
                Change::DropProgram(id) => {
                    let held = table.programs.remove(id).is_some();
                    let put = programs.remove(id).is_some();
                    if !held && !put {
                        return Err(ApplyError::new("program", id));
                    }
                    touched.programs.insert(*id);
                }
                Change::PutIdentity(id, programs) => {
                    let entry = table.identity_mut(*id);
                    entry.declared = true;
                    entry.programs = *programs;
                    touched.identities.insert(*id);
                }
                Change::DropIdentity(id) => {
                    let entry = table.identities.get(id).filter(|i| i.declared);
                    entry.ok_or_else(|| ApplyError::new("identity", id))?;
                    let entry = table.identity_mut(*id);
                    entry.declared = false;
                    entry.programs = Programs::default();
                    table.forget_if_unused(*id);
                    touched.identities.insert(*id);
                }
                Change::PutEndpoint(ip, endpoint) => table.put_endpoint(*ip, endpoint, &mut touched),
                Change::DropEndpoint(ip) => table.drop_endpoint(*ip, &mut touched)?,
                Change::PutCluster(ranges) => table.whereabouts.put_cluster(ranges),
                Change::PutResolvers(sets) => table.whereabouts.put_resolvers(sets),
                Change::PutNames(names) => table.whereabouts.put_names(names),
                Change::Audit(_) | Change::DropAudit => {}
            }
        }
        table.apply_audit(changes, &mut touched)?;
        table.compile_programs(programs, &policies, &mut touched)?;
        table.check(&touched)?;
        Ok((table, touched))
    }

    fn put_node(&mut self, facts: &NodeFacts, touched: &mut Touched) {
        touched.node = true;
        let nodes = Arc::make_mut(&mut self.nodes);
        nodes.insert(facts.name.clone(), facts.clone());
        let ips = nodes.values().flat_map(|n| n.ips.iter().map(|ip| (*ip, n.name.clone()))).collect();
        self.node_ips = Arc::new(ips);
        self.node = Arc::new(facts.clone());
    }

    fn identity_mut(&mut self, id: IdentityId) -> &mut Identity {
        if self.identities.get(&id).is_none() {
            self.identities.insert(id, Arc::default());
        }
        Arc::make_mut(self.identities.get_mut(&id).expect("the identity was inserted above"))
    }

    fn forget_if_unused(&mut self, id: IdentityId) {
        let unused = |i: &Arc<Identity>| !i.declared && i.sets.is_empty() && i.addresses.is_empty();
        if self.identities.get(&id).is_some_and(unused) {
            self.identities.remove(&id);
        }
    }

    fn edit_set(
        &mut self,
        set: SetId,
        add: &[IdentityId],
        remove: &[IdentityId],
        touched: &mut Touched,
    ) -> Result<(), ApplyError> {
        touched.sets.insert(set);
        let mut members = self.sets.remove(&set).unwrap_or_default();
        let editable = Arc::make_mut(&mut members);
        for identity in remove {
            if !editable.remove(identity) {
                return Err(ApplyError::new("set member", identity));
            }
            self.leave_set(*identity, set);
        }
        for identity in add {
            if editable.insert(*identity) {
                let sets = &mut self.identity_mut(*identity).sets;
                if let Err(place) = sets.binary_search(&set) {
                    sets.insert(place, set);
                }
            }
        }
        self.sets.insert(set, members);
        Ok(())
    }

    fn leave_set(&mut self, identity: IdentityId, set: SetId) {
        let sets = &mut self.identity_mut(identity).sets;
        if let Ok(place) = sets.binary_search(&set) {
            sets.remove(place);
        }
        self.forget_if_unused(identity);
    }

    fn drop_set(&mut self, set: SetId, touched: &mut Touched) -> Result<(), ApplyError> {
        let members = self.sets.remove(&set).ok_or_else(|| ApplyError::new("set", set))?;
        for identity in members.iter() {
            self.leave_set(*identity, set);
        }
        touched.sets.insert(set);
        Ok(())
    }

    fn put_endpoint(&mut self, ip: IpAddr, endpoint: &Arc<Endpoint>, touched: &mut Touched) {
        let before = self.endpoints.insert(ip, Slot::new(endpoint.clone()));
        if let Some(old) = &before {
            self.pods.leave(ip, &old.endpoint);
        }
        self.pods.join(ip, endpoint);
        match before {
            None if touched.endpoints.insert(ip) => {
                touched.appeared.insert(ip);
            }
            Some(old) if old.identity != endpoint.identity => self.leave_identity(ip, old.identity),
            _ => {}
        }
        touched.endpoints.insert(ip);
        self.identity_mut(endpoint.identity).addresses.insert(ip);
    }

    fn drop_endpoint(&mut self, ip: IpAddr, touched: &mut Touched) -> Result<(), ApplyError> {
        touched.endpoints.insert(ip);
        let old = self.endpoints.remove(&ip).ok_or_else(|| ApplyError::new("endpoint", ip))?;
        self.pods.leave(ip, &old.endpoint);
        self.leave_identity(ip, old.identity);
        Ok(())
    }

    fn leave_identity(&mut self, ip: IpAddr, identity: IdentityId) {
        self.identity_mut(identity).addresses.remove(&ip);
        self.forget_if_unused(identity);
    }

    /// Compiles the programs that were put, and those whose policies changed.
    fn compile_programs(
        &mut self,
        mut put: FxHashMap<ProgramId, Program>,
        policies: &FxHashSet<PolicyId>,
        touched: &mut Touched,
    ) -> Result<(), ApplyError> {
        if !policies.is_empty() {
            for (id, entry) in self.programs.iter() {
                if !put.contains_key(id) && entry.program.policies.iter().any(|p| policies.contains(p)) {
                    put.insert(*id, entry.program.clone());
                }
            }
        }
        for (id, program) in put {
            let mut members = Vec::with_capacity(program.policies.len());
            for policy in &program.policies {
                let found = self.policies.get(policy).ok_or_else(|| ApplyError::new("policy", policy))?;
                members.push((*policy, found.clone()));
            }
            members.sort_by_key(|(id, _)| *id);
            members.dedup_by_key(|(id, _)| *id);
            let compiled = Arc::new(program::compile(program.direction, members, self.whereabouts.settings()));
            touched.programs.insert(id);
            self.programs.insert(id, ProgramEntry { program, compiled });
        }
        Ok(())
    }

    /// The list of changes that leads from [`Table::empty`] to this table: what is written to disk.
    pub fn to_changes(&self) -> Vec<Change> {
        let mut changes: Vec<Change> = self.nodes.values().cloned().map(Change::PutNode).collect();
        changes.extend(self.sets.iter().map(|(set, members)| {
            let mut add: Vec<_> = members.iter().copied().collect();
            add.sort_unstable();
            Change::EditSet { set: *set, add, remove: Vec::new() }
        }));
        changes.extend(self.policies.iter().map(|(id, policy)| Change::PutPolicy(*id, policy.clone())));
        changes.extend(self.programs.iter().map(|(id, entry)| Change::PutProgram(*id, entry.program.clone())));
        let declared = self.identities.iter().filter(|(_, identity)| identity.declared);
        changes.extend(declared.map(|(id, identity)| Change::PutIdentity(*id, identity.programs)));
        changes.extend(self.endpoints.iter().map(|(ip, slot)| Change::PutEndpoint(*ip, slot.endpoint.clone())));
        changes.extend(self.whereabouts.to_changes());
        changes.extend(self.audit_changes());
        changes
    }

    pub(crate) fn id(&self) -> TableId {
        self.id
    }

    /// Whether a snapshot has arrived.
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    pub fn node(&self) -> &NodeFacts {
        &self.node
    }

    pub fn endpoint(&self, ip: IpAddr) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(&ip).map(|slot| &slot.endpoint)
    }

    /// All endpoints, local ones and peers, in no particular order.
    pub fn endpoints(&self) -> impl Iterator<Item = (IpAddr, &Arc<Endpoint>)> {
        self.endpoints.iter().map(|(ip, slot)| (*ip, &slot.endpoint))
    }

    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    pub fn policy_count(&self) -> usize {
        self.policies.len()
    }

    /// The programs that judge the pods of an identity.
    pub fn programs(&self, identity: IdentityId) -> Programs {
        self.identities.get(&identity).map(|i| i.programs).unwrap_or_default()
    }

    /// Every program that the table holds.
    pub fn program_ids(&self) -> impl Iterator<Item = ProgramId> {
        self.programs.iter().map(|(id, _)| *id)
    }

    /// The policies of a program, also those that say nothing in it.
    pub fn program(&self, id: ProgramId) -> Option<&Program> {
        self.programs.get(&id).map(|entry| &entry.program)
    }

    pub fn lines(&self, program: ProgramId) -> Option<&Lines> {
        self.compiled(program).map(|compiled| &compiled.lines)
    }

    pub(crate) fn compiled(&self, program: ProgramId) -> Option<&Arc<Compiled>> {
        self.programs.get(&program).map(|entry| &entry.compiled)
    }

    /// Whether any rule of the table can take back what another allows: a Deny, or a Pass to a lower tier. Where none can, a pod that
    /// appears elsewhere only ever adds to what is allowed.
    pub fn takes_back(&self) -> bool {
        self.programs.iter().any(|(_, entry)| entry.compiled.takes_back)
    }

    pub fn policy(&self, id: PolicyId) -> Option<&Arc<Policy>> {
        self.policies.get(&id)
    }

    /// A rule by the name people know it by.
    pub fn named(&self, id: RuleId) -> Option<NamedRule> {
        let policy = self.policies.get(&id.policy)?;
        let rule = policy.rules.get(usize::from(id.rule))?;
        let path = match (id.item, &rule.l7) {
            (Some(item), Some(l7)) => format!("{}.{}", rule.path, l7.item_path(item)),
            _ => rule.path.to_string(),
        };
        Some(NamedRule { rule: Some(path), ..NamedRule::of_policy(&policy.reference) })
    }

    /// Every set that the table holds.
    pub fn set_ids(&self) -> impl Iterator<Item = SetId> {
        self.sets.iter().map(|(id, _)| *id)
    }

    /// The identities in a set, in no particular order.
    pub fn members(&self, set: SetId) -> impl Iterator<Item = IdentityId> {
        self.sets.get(&set).into_iter().flat_map(|members| members.iter().copied())
    }

    /// The sets that an identity is a member of, sorted.
    pub fn sets_of(&self, identity: IdentityId) -> &[SetId] {
        self.identities.get(&identity).map(|i| i.sets.as_slice()).unwrap_or_default()
    }

    /// The addresses of the pods of an identity (both families, without addresses in conflict).
    pub fn addresses_of(&self, identity: IdentityId) -> impl Iterator<Item = IpAddr> {
        let all = self.identities.get(&identity).into_iter().flat_map(|i| i.addresses.iter().copied());
        all.filter(|ip| self.endpoints.get(ip).is_some_and(|endpoint| !endpoint.conflict))
    }

    /// The addresses of the pods in a set (both families, without addresses in conflict), in no particular order.
    pub fn addresses(&self, set: SetId) -> impl Iterator<Item = IpAddr> {
        self.members(set).flat_map(|identity| self.addresses_of(identity))
    }

    /// Where the port `name` of `protocol` is found: address and number for each endpoint that has it.
    pub fn named_ports(&self, protocol: Protocol, name: &str) -> impl Iterator<Item = (IpAddr, u16)> {
        self.endpoints.iter().flat_map(move |(ip, slot)| slot.endpoint.ports_named(protocol, name).map(move |port| (*ip, port)))
    }
}
