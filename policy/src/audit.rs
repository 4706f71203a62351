//! What the Audit policies would change: a second verdict beside the one that is enforced.
//!
//! | enforced | with the Audit policies | an audit says |
//! |---|---|---|
//! | allow | deny | it would be denied: by a Deny rule of an Audit policy, or because one isolates and none allows |
//! | deny | allow | it would be allowed, by a rule of an Audit policy |
//! | `l7` | allow or deny | the same: no request could change that answer |
//! | allow or deny | `l7` | nothing: it hangs on what nobody has read |
//! | as the other | | nothing |
//!
//! What differs is always an Audit policy's doing, and its rule is named. The second verdict comes from a table of its own
//! ([`Change::Audit`](crate::snapshot::Change)): an Audit policy is nowhere in the one that decides.

use std::net::IpAddr;

use crate::flow::{Direction, Flow};
use crate::reason::Reason;
use crate::table::Table;
use crate::verdict::{Decision, NamedRule, Verdict};

/// A second verdict that differs from the first.
#[derive(Clone, Debug, PartialEq)]
pub struct Audit {
    pub verdict: Verdict,
    /// Whose half differs and decides.
    pub direction: Direction,
    pub egress_by: Vec<NamedRule>,
    pub ingress_by: Vec<NamedRule>,
}

impl Audit {
    pub fn decision(&self) -> Decision {
        self.verdict.decision()
    }

    pub fn reason(&self) -> Reason {
        self.verdict.half(self.direction).reason
    }

    /// Who decides, in the half that differs: a rule of an Audit policy, or the Audit policies that isolate.
    pub fn by(&self) -> &[NamedRule] {
        match self.direction {
            Direction::Egress => &self.egress_by,
            Direction::Ingress => &self.ingress_by,
        }
    }
}

impl Table {
    /// What `flow` would be answered with the Audit policies in force, where that is another answer than `enforced`, its verdict.
    /// Costs nothing where none selects a pod that is judged here, and two look-ups where none selects these.
    pub fn audit(&self, flow: &Flow<'_>, enforced: &Verdict) -> Option<Audit> {
        let audited = self.audit.as_deref()?;
        let is_audited = |ip: IpAddr| audited.addresses.get(&ip).is_some();
        if !is_audited(flow.source) && !is_audited(flow.destination) {
            return None;
        }
        let table = &audited.table;
        let verdict = table.verdict(flow);
        if verdict.decision() == enforced.decision() || verdict.decision() == Decision::Inspect {
            return None;
        }
        // Where it is denied, the half that denies; where it is allowed, the half that doesn't any more.
        let differs = |direction: &Direction| {
            let (now, then) = (enforced.half(*direction).decision, verdict.half(*direction).decision);
            now != then && (then == Decision::Deny || verdict.decision() == Decision::Allow)
        };
        let direction = [Direction::Egress, Direction::Ingress].into_iter().find(differs)?;
        let by = |direction| table.by(flow, &verdict, direction);
        Some(Audit { verdict, direction, egress_by: by(Direction::Egress), ingress_by: by(Direction::Ingress) })
    }
}
