//! The second table, in which the Audit policies are in force too. It decides nothing: what is enforced asks the first one alone.

use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::FxHashSet;

use super::{ApplyError, Table, Touched};
use crate::flow::Direction;
use crate::snapshot::Change;

/// The second table, and whom it is about.
#[derive(Clone, Debug)]
pub(crate) struct Audited {
    pub(crate) table: Table,
    /// The pods judged here that an Audit policy selects, by their addresses.
    pub(crate) addresses: FxHashSet<IpAddr>,
}

impl Table {
    /// Whether any Audit policy selects a pod that is judged here.
    pub fn has_audit(&self) -> bool {
        self.audited().next().is_some()
    }

    /// The addresses of the pods judged here that an Audit policy selects, in no particular order.
    pub fn audited(&self) -> impl Iterator<Item = IpAddr> {
        self.audit.iter().flat_map(|audit| audit.addresses.iter().copied())
    }

    pub fn is_audited(&self, ip: IpAddr) -> bool {
        self.audit.as_ref().is_some_and(|audit| audit.addresses.contains(&ip))
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
        let none = FxHashSet::default();
        let addresses =
            |audit: &Option<Arc<Audited>>| audit.as_ref().map_or_else(|| none.clone(), |audit| audit.addresses.clone());
        touched.audited = addresses(&before).symmetric_difference(&addresses(&self.audit)).copied().collect();
        Ok(())
    }

    /// The local pods that an Audit policy governs in either direction.
    fn selected_by_audit(&self) -> FxHashSet<IpAddr> {
        let is_audit = |policy| self.policies.get(policy).is_some_and(|policy| policy.audit);
        let by_audit = |program| self.programs.get(&program).is_some_and(|entry| entry.program.policies.iter().any(is_audit));
        let local = self.endpoints.iter().filter(|(_, slot)| slot.local);
        let selected = local.filter(|(_, slot)| {
            let programs = self.programs(slot.identity);
            Direction::BOTH.into_iter().filter_map(|direction| programs.get(direction)).any(by_audit)
        });
        selected.map(|(ip, _)| *ip).collect()
    }

    /// The second table as changes that lead to it from none.
    pub(super) fn audit_changes(&self) -> Vec<Change> {
        let changes = self.audit.iter().flat_map(|audit| audit.table.to_changes());
        changes.map(|change| Change::Audit(Box::new(change))).collect()
    }
}
