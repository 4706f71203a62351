//! The second table, in which the Audit policies are in force too. It decides nothing: what is enforced asks the first one alone.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use super::{ApplyError, LineAction, Table, Touched, Where};
use crate::flow::{Direction, Flow, Protocol};
use crate::sharded::Sharded;
use crate::snapshot::{Change, ProgramId};
use crate::source::PortMatch;
use crate::verdict::{Decision, Verdict};

/// The second table, and whom it is about.
#[derive(Clone, Debug)]
pub(crate) struct Audited {
    pub(crate) table: Table,
    /// The pods judged here that an Audit policy selects, by their addresses, and where these policies look into contents.
    pub(crate) addresses: Sharded<IpAddr, Arc<AuditReads>>,
    /// Whether it hangs on other pods what is read of some: on their named ports.
    hangs_on_others: bool,
}

/// The TCP ports at which Audit policies look into contents: of what a pod sends, and of what is sent to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReads {
    pub egress: ReadPorts,
    pub ingress: ReadPorts,
    /// Where the pod's look-ups are judged and learned from: see [`Lines::lookups`](super::Lines).
    pub lookups: BTreeSet<(Protocol, u16)>,
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
        self.audit.iter().flat_map(|audit| audit.addresses.iter().map(|(ip, _)| *ip))
    }

    pub fn is_audited(&self, ip: IpAddr) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.addresses.get(&ip).is_some())
    }

    /// Where Audit policies look into what the pod at `ip` sends or is sent; `None`: none selects it.
    ///
    /// Never too few: a flow that [`hangs_on_contents`](Self::hangs_on_contents) is one of these. Sometimes more, because nothing
    /// is said of the other end.
    pub fn audit_reads(&self, ip: IpAddr) -> Option<&AuditReads> {
        self.audit.as_ref()?.addresses.get(&ip).map(Arc::as_ref)
    }

    /// Whether `flow`, whose contents nobody has read, is allowed by `enforced`, its verdict, and what Audit policies would make of
    /// it hangs on its contents. Look-ups aren't among these: they are read anyway.
    pub fn hangs_on_contents(&self, flow: &Flow<'_>, enforced: &Verdict) -> bool {
        let Some(audited) = self.audit.as_deref().filter(|_| enforced.is_allowed()) else { return false };
        let is_audited = |ip: IpAddr| audited.addresses.get(&ip).is_some();
        (is_audited(flow.source) || is_audited(flow.destination))
            && audited.table.verdict(flow).decision() == Decision::Inspect
            && !self.is_lookup(flow)
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
        let mut seen: Option<BTreeSet<IpAddr>> = None;
        if !list.is_empty() {
            let held = before.as_deref().filter(|_| !begins_anew);
            let from = held.map_or_else(|| self.empty_second(), |held| held.table.clone());
            let (table, of_table) = from.apply(&list)?;
            let held = held.filter(|held| !held.hangs_on_others || of_table.endpoints.is_empty());
            seen = held.map(|_| table.addresses_of_touched(&of_table));
            self.audit = Some(Arc::new(table.audited_since(held.zip(seen.as_ref()))));
        }
        let of = |audit: &Option<Arc<Audited>>, ip: &IpAddr| audit.as_ref().and_then(|audit| audit.addresses.get(ip).cloned());
        let known = [&before, &self.audit].into_iter().flatten().flat_map(|audit| audit.addresses.iter().map(|(ip, _)| *ip));
        let seen = seen.unwrap_or_else(|| known.collect());
        touched.audited = seen.into_iter().filter(|ip| of(&before, ip) != of(&self.audit, ip)).collect();
        Ok(())
    }

    /// The addresses of which something may be read otherwise than before, as long as it hangs on nobody else.
    fn addresses_of_touched(&self, touched: &Touched) -> BTreeSet<IpAddr> {
        let mut addresses = touched.endpoints.clone();
        let of_identity = |id| self.identities.get(id).into_iter().flat_map(|identity| identity.addresses.iter().copied());
        addresses.extend(touched.identities.iter().flat_map(of_identity));
        if !touched.programs.is_empty() {
            let has = |program: Option<ProgramId>| program.is_some_and(|program| touched.programs.contains(&program));
            let judged =
                self.identities.iter().filter(|(_, identity)| has(identity.programs.ingress) || has(identity.programs.egress));
            addresses.extend(judged.flat_map(|(_, identity)| identity.addresses.iter().copied()));
        }
        addresses
    }

    /// The local pods that an Audit policy governs in either direction, and where it reads: looked at are those that `held` names,
    /// where it is known what was before, and else all.
    fn audited_since(self, held: Option<(&Audited, &BTreeSet<IpAddr>)>) -> Audited {
        let mut reader = Reader { table: &self, programs: FxHashMap::default() };
        let mut addresses = Sharded::new();
        let mut hangs_on_others = false;
        match held {
            Some((held, seen)) => {
                addresses = held.addresses.clone();
                hangs_on_others = held.hangs_on_others;
                for ip in seen {
                    match reader.reads(*ip) {
                        Some(reads) => drop(addresses.insert(*ip, Arc::new(reads))),
                        None => drop(addresses.remove(ip)),
                    }
                }
            }
            None => {
                for (ip, _) in self.endpoints.iter() {
                    reader.reads(*ip).map(|reads| addresses.insert(*ip, Arc::new(reads)));
                }
            }
        }
        hangs_on_others |= reader.programs.values().flatten().any(|program| program.hangs_on_others);
        Audited { table: self, addresses, hangs_on_others }
    }

    /// The second table as changes that lead to it from none.
    pub(super) fn audit_changes(&self) -> Vec<Change> {
        let changes = self.audit.iter().flat_map(|audit| audit.table.to_changes());
        changes.map(|change| Change::Audit(Box::new(change))).collect()
    }
}

/// Where the Audit policies of a program look into contents.
#[derive(Default)]
struct ProgramReads<'t> {
    /// Whichever pod it judges.
    ports: ReadPorts,
    /// Names of the judged pod's own ports.
    own: Vec<(Protocol, &'t str)>,
    hangs_on_others: bool,
}

/// Looks at the pods of a second table.
struct Reader<'t> {
    table: &'t Table,
    /// `None`: no Audit policy is in it.
    programs: FxHashMap<ProgramId, Option<ProgramReads<'t>>>,
}

impl<'t> Reader<'t> {
    /// Where Audit policies look into what the pod at `ip` sends or is sent; `None`: none governs it, or it isn't judged here.
    fn reads(&mut self, ip: IpAddr) -> Option<AuditReads> {
        let slot = self.table.endpoints.get(&ip).filter(|slot| slot.local)?;
        let programs = self.table.programs(slot.identity);
        let mut reads = None;
        for direction in Direction::BOTH {
            let Some(id) = programs.get(direction) else { continue };
            let table = self.table;
            let Some(program) = self.programs.entry(id).or_insert_with(|| table.read_for_audit(id, direction)) else { continue };
            let reads: &mut AuditReads = reads.get_or_insert_default();
            let lookups = table.lines(id).map(|lines| &lines.lookups);
            reads.lookups.extend(lookups.into_iter().flatten());
            let ports = match direction {
                Direction::Egress => &mut reads.egress,
                Direction::Ingress => &mut reads.ingress,
            };
            ports.clone_from(&program.ports);
            program.own.iter().for_each(|(protocol, name)| ports.add(slot.endpoint.ports_named(*protocol, name)));
        }
        reads
    }
}

impl Table {
    /// The ports at which a program's lines of Audit policies look into contents; `None`: there is no Audit policy in it.
    ///
    /// Lines of other policies are in the first table too: where one of these is the first that matches, the flow is read anyway.
    fn read_for_audit(&self, id: ProgramId, direction: Direction) -> Option<ProgramReads<'_>> {
        let is_audit = |policy| self.policies.get(policy).is_some_and(|policy| policy.audit);
        let entry = self.programs.get(&id).filter(|entry| entry.program.policies.iter().any(is_audit))?;
        let of_audit = entry.compiled.lines.lines.iter().filter(|line| {
            let is_empty = line.peers.as_ref().is_some_and(|peers| peers.is_empty());
            line.action == LineAction::Inspect && !line.reads.is_lookup() && is_audit(&line.rule.policy) && !is_empty
        });
        let mut seen = FxHashSet::default();
        let mut reads = ProgramReads::default();
        let checked = &entry.compiled.lines.checked_ports;
        let ports = of_audit.flat_map(|line| line.ports.iter().flatten().map(|port| (port, line.place)));
        // Of QUIC nobody reads for audits alone.
        let ports = ports.filter(|(port, _)| matches!(port.protocol(), Protocol::Tcp | Protocol::Icmp));
        for (port, place) in ports.filter(|port| seen.insert(*port)) {
            match port {
                PortMatch::All { .. } if place == Where::Checked => reads.ports.add(checked.iter().copied()),
                PortMatch::Range { first, last, .. } if place == Where::Checked => {
                    reads.ports.add(checked.iter().copied().filter(|port| (*first..=*last).contains(port)));
                }
                PortMatch::All { .. } => reads.ports = ReadPorts::Every,
                PortMatch::Range { first, last, .. } => reads.ports.add(*first..=*last),
                // A message has no contents that anybody reads.
                PortMatch::Icmp(_) => {}
                PortMatch::Named { protocol, name } if direction == Direction::Ingress => reads.own.push((*protocol, name)),
                // The number hangs on the destination, and is taken for that of every other.
                PortMatch::Named { name, .. } => {
                    reads.hangs_on_others = true;
                    reads.ports.add(self.named_ports(Protocol::Tcp, name).map(|(_, port)| port));
                }
            }
        }
        Some(reads)
    }
}
