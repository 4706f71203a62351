//! The second world, in which the Audit policies are in force beside all others.
//!
//! It begins as a copy of the first, and from then on has identities, sets and programs of its own. So an Audit policy is in the first one
//! in no form at all: what is enforced is what would be without it, down to the numbers. The price is paid while there are Audit
//! policies, and by nobody else: everything is held twice.

use super::effects::AuditEffects;
use super::{Effects, World};

impl World {
    /// The world in which the Audit policies are in force too; `None`: there are none.
    pub(crate) fn audit(&self) -> Option<&Self> {
        self.audit.as_deref()
    }

    /// Brings the second world to where this one is, by `change` if it was there before.
    pub(super) fn follow(&mut self, change: impl FnOnce(&mut Self) -> Effects) -> AuditEffects {
        if self.audits == 0 {
            return if self.audit.take().is_some() { AuditEffects::Ended } else { AuditEffects::None };
        }
        match &mut self.audit {
            Some(audit) => AuditEffects::Changed(Box::new(change(audit))),
            None => {
                let mut audit = Self { is_audit: true, ..self.clone() };
                let audits = self.written.iter().filter(|(_, policy)| policy.audit);
                let mut effects = Effects::default();
                audits.for_each(|(name, policy)| audit.write_policy(name.clone(), Some(policy.clone()), &mut effects));
                audit.settle(&mut effects);
                self.audit = Some(Box::new(audit));
                AuditEffects::Begun
            }
        }
    }
}
