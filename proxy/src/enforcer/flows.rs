//! A table put in force together with the end of the flows that it forbids.

use std::sync::Arc;

use sluice_policy::Table;

use super::{EnforceError, Enforcer};
use crate::feed::Extent;
use crate::kernel::conntrack::Entry;
use crate::kernel::revoke::{self, Judge, Revoked, Suspects};

/// Flows can begin under the former table until the new one is in force. Looking again finds them; more than this is somebody
/// opening flows faster than they can be found, and the kernel's rules already judge those.
const MOST_PASSES: usize = 3;

/// How the live flows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// Before a transaction, which waits for it. What it misses is found by the other.
    Glance,
    /// Behind a transaction: nothing is missed.
    Whole,
}

/// A table whose rules are in force.
pub(super) struct Unsettled {
    /// Whose flows may have begun under the former rules since they were read.
    pub(super) suspects: Suspects,
    /// How many flows were ended.
    pub(super) ended: usize,
}

impl Enforcer {
    /// One transaction, and the end of the flows that it forbids, as far as they were there before it.
    pub(super) fn put_in_force(&mut self, table: &Table, extent: &Extent) -> Result<Unsettled, EnforceError> {
        let (touched, suspects) = match extent {
            Extent::Whole => (None, Suspects::All),
            Extent::Touched(touched) => (Some(touched), revoke::suspects(table, touched)),
        };
        let revoked = self.revoked(table, &suspects, Reading::Glance)?;
        self.kernel.apply(table, touched, &revoked.tuples)?;
        self.forget(&revoked)?;
        Ok(Unsettled { suspects, ended: revoked.entries.len() })
    }

    /// Ends the flows that the former rules let in meanwhile. Yields how many were ended in all. What fails is tried again with
    /// the next table, or the next look around.
    pub(super) fn settle(&mut self, table: &Table, unsettled: Unsettled) -> Result<usize, EnforceError> {
        let Unsettled { mut suspects, ended } = unsettled;
        if self.unsettled.take().is_some() {
            suspects = Suspects::All;
        }
        let settled = self.end_suspects(table, &suspects);
        if settled.is_err() {
            self.unsettled = Some(suspects);
        }
        settled.map(|late| ended + late)
    }

    fn end_suspects(&mut self, table: &Table, suspects: &Suspects) -> Result<usize, EnforceError> {
        let mut ended = 0;
        if suspects.is_empty() {
            return Ok(ended);
        }
        for _ in 1..MOST_PASSES {
            let revoked = self.revoked(table, suspects, Reading::Whole)?;
            if revoked.entries.is_empty() {
                break;
            }
            self.kernel.apply(table, Some(&sluice_policy::table::Touched::default()), &revoked.tuples)?;
            self.forget(&revoked)?;
            ended += revoked.entries.len();
        }
        Ok(ended)
    }

    fn revoked(&mut self, table: &Table, suspects: &Suspects, reading: Reading) -> Result<Revoked, EnforceError> {
        if suspects.is_empty() {
            return Ok(Revoked::default());
        }
        let names = self.learning.as_ref().map(|learning| Arc::clone(&learning.names));
        let judge = Judge { table, diverted: self.label_bit, names: names.as_deref() };
        let own = revoke::own_addresses().map_err(|error| EnforceError::Conntrack(error.into()))?;
        let is_judged = |entry: &Entry| suspects.contains(entry) && !own.contains(&entry.original.source);
        let ends = |entry: &Entry| is_judged(entry) && revoke::must_end(&judge, entry);
        let entries = match reading {
            Reading::Glance => self.conntrack.glance(ends),
            Reading::Whole => self.conntrack.keep(|entry| ends(&entry).then_some(entry)),
        };
        let entries = entries.map_err(|error| EnforceError::Conntrack(error.into()))?;
        Ok(revoke::judge(&judge, suspects, entries))
    }

    fn forget(&mut self, revoked: &Revoked) -> Result<(), EnforceError> {
        let mut result = Ok(());
        for entry in &revoked.entries {
            if let Err(error) = self.conntrack.delete(entry) {
                result = Err(EnforceError::Conntrack(error.into()));
            }
        }
        result
    }
}
