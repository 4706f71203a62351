//! The second table, in which the Audit policies are in force too. It decides nothing: what is enforced asks the first one alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{ApplyError, LineAction, Table, Touched};
use crate::flow::{Direction, Flow, Protocol};
use crate::snapshot::{Change, Endpoint, ProgramId};
use crate::source::PortMatch;
use crate::verdict::{Decision, Verdict};

/// The second table, and whom it is about.
#[derive(Clone, Debug)]
pub(crate) struct Audited {
    pub(crate) table: Table,
    /// The pods judged here that an Audit policy selects, by their addresses, and where these policies look into contents.
    pub(crate) addresses: FxHashMap<IpAddr, AuditReads>,
}

/// The TCP ports at which Audit policies look into contents: of what a pod sends, and of what is sent to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReads {
    pub egress: ReadPorts,
    pub ingress: ReadPorts,
}

/// Ports of TCP, whoever is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPorts {
    Every,
    These(BTreeSet<u16>),
}

/// Ports that are more are all of them: each is an element of a set in the kernel.
const MOST_PORTS: usize = 256;

impl Default for ReadPorts {
    fn default() -> Self {
        Self::These(BTreeSet::new())
    }
}

impl ReadPorts {
    pub fn contains(&self, port: u16) -> bool {
        match self {
            Self::Every => true,
            Self::These(ports) => ports.contains(&port),
        }
    }

    fn add(&mut self, ports: impl IntoIterator<Item = u16>) {
        let Self::These(held) = self else { return };
        for port in ports {
            held.insert(port);
            if held.len() > MOST_PORTS {
                *self = Self::Every;
                return;
            }
        }
    }
}

impl AuditReads {
    pub fn get(&self, direction: Direction) -> &ReadPorts {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

impl Table {
    /// Whether any Audit policy selects a pod that is judged here.
    pub fn has_audit(&self) -> bool {
        self.audited().next().is_some()
    }

    /// The addresses of the pods judged here that an Audit policy selects, in no particular order.
    pub fn audited(&self) -> impl Iterator<Item = IpAddr> {
        self.audit.iter().flat_map(|audit| audit.addresses.keys().copied())
    }

    pub fn is_audited(&self, ip: IpAddr) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.addresses.contains_key(&ip))
    }

    /// Where Audit policies look into what the pod at `ip` sends or is sent; `None`: none selects it.
    ///
    /// Never too few: a flow that [`hangs_on_contents`](Self::hangs_on_contents) is one of these. Sometimes more, because nothing
    /// is said of the other end.
    pub fn audit_reads(&self, ip: IpAddr) -> Option<&AuditReads> {
        self.audit.as_ref()?.addresses.get(&ip)
    }

    /// Whether `flow`, whose contents nobody has read, is allowed by `enforced`, its verdict, and what Audit policies would make of
    /// it hangs on its contents.
    pub fn hangs_on_contents(&self, flow: &Flow<'_>, enforced: &Verdict) -> bool {
        let Some(audited) = self.audit.as_deref().filter(|_| enforced.is_allowed()) else { return false };
        let is_audited = |ip: IpAddr| audited.addresses.contains_key(&ip);
        (is_audited(flow.source) || is_audited(flow.destination)) && audited.table.verdict(flow).decision() == Decision::Inspect
    }

    /// Applies what `changes` say of the second table.
    pub(super) fn apply_audit(&mut self, changes: &[Change], touched: &mut Touched) -> Result<(), ApplyError> {
        let list: Vec<Change> = changes
            .iter()
            .filter_map(|change| match change {
                Change::Audit(change) => Some((**change).clone()),
                _ => None,
            })
            .collect();
        let begins_anew = changes.contains(&Change::DropAudit);
        if list.is_empty() && !begins_anew {
            return Ok(());
        }
        if self.is_audit {
            return Err(ApplyError::new("second table", "of a second table"));
        }
        let before = self.audit.take();
        if !list.is_empty() {
            let from = before.as_ref().filter(|_| !begins_anew).map(|audit| audit.table.clone());
            let from = from.unwrap_or_else(|| Self { is_audit: true, ..Self::empty() });
            let (table, _) = from.apply(&list)?;
            let addresses = table.selected_by_audit();
            self.audit = Some(Arc::new(Audited { table, addresses }));
        }
        let of = |audit: &Option<Arc<Audited>>, ip: &IpAddr| audit.as_ref().and_then(|audit| audit.addresses.get(ip).cloned());
        let known = [&before, &self.audit].into_iter().flatten().flat_map(|audit| audit.addresses.keys());
        touched.audited = known.filter(|ip| of(&before, ip) != of(&self.audit, ip)).copied().collect();
        Ok(())
    }

    /// The local pods that an Audit policy governs in either direction, and where it reads.
    fn selected_by_audit(&self) -> FxHashMap<IpAddr, AuditReads> {
        let is_audit = |policy| self.policies.get(policy).is_some_and(|policy| policy.audit);
        let mut read: FxHashMap<ProgramId, Option<Vec<&PortMatch>>> = FxHashMap::default();
        let mut selected = FxHashMap::default();
        for (ip, slot) in self.endpoints.iter().filter(|(_, slot)| slot.local) {
            let programs = self.programs(slot.identity);
            let mut reads = None;
            for direction in Direction::BOTH {
                let Some(program) = programs.get(direction) else { continue };
                let ports = read.entry(program).or_insert_with(|| {
                    let entry = self.programs.get(&program)?;
                    entry.program.policies.iter().any(is_audit).then(|| self.read_for_audit(program))
                });
                let Some(ports) = ports else { continue };
                let reads: &mut AuditReads = reads.get_or_insert_default();
                let reads = match direction {
                    Direction::Egress => &mut reads.egress,
                    Direction::Ingress => &mut reads.ingress,
                };
                ports.iter().for_each(|port| self.add_ports(reads, port, direction, &slot.endpoint));
            }
            selected.extend(reads.map(|reads| (*ip, reads)));
        }
        selected
    }

    /// The ports at which a program's lines of Audit policies look into contents, each once.
    ///
    /// Lines of other policies are in the first table too: where one of these is the first that matches, the flow is read anyway.
    fn read_for_audit(&self, program: ProgramId) -> Vec<&PortMatch> {
        let lines = self.lines(program).into_iter().flat_map(|lines| &lines.lines);
        let of_audit = lines.filter(|line| {
            let by_audit = self.policy(line.rule.policy).is_some_and(|policy| policy.audit);
            line.action == LineAction::Inspect && by_audit && line.peers.as_ref().is_none_or(|peers| !peers.is_empty())
        });
        let mut seen = FxHashSet::default();
        of_audit.flat_map(|line| line.ports.iter().flatten()).filter(|port| seen.insert(*port)).collect()
    }

    fn add_ports(&self, reads: &mut ReadPorts, port: &PortMatch, direction: Direction, endpoint: &Endpoint) {
        match (port, direction) {
            (PortMatch::All { .. }, _) => *reads = ReadPorts::Every,
            (PortMatch::Range { first, last, .. }, _) => reads.add(*first..=*last),
            // A message has no contents that anybody reads.
            (PortMatch::Icmp(_), _) => {}
            (PortMatch::Named { protocol, name }, Direction::Ingress) => {
                let own = endpoint.ports.iter().filter(|port| port.protocol == *protocol && port.name == *name);
                reads.add(own.map(|port| port.port));
            }
            // The number hangs on the destination, and is taken for that of every other.
            (PortMatch::Named { name, .. }, Direction::Egress) => {
                reads.add(self.named_ports(Protocol::Tcp, name).map(|(_, port)| port));
            }
        }
    }

    /// The second table as changes that lead to it from none.
    pub(super) fn audit_changes(&self) -> Vec<Change> {
        let changes = self.audit.iter().flat_map(|audit| audit.table.to_changes());
        changes.map(|change| Change::Audit(Box::new(change))).collect()
    }
}
