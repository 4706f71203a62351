//! The second world, in which the Audit policies are in force beside all others.
//!
//! It is another [`World`] of the same objects, with identities, sets and programs of its own. So an Audit policy is in the first one
//! in no form at all: what is enforced is what would be without it, down to the numbers. The price is paid while there are Audit
//! policies, and by nobody else: everything is held twice.

use std::sync::Arc;

use super::effects::AuditEffects;
use super::{Edit, Effects, World};
use crate::source::{KnownName, Namespace, Object};

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
                let mut audit = Self { is_audit: true, now: self.now, ..Self::default() };
                audit.apply_here(self.objects().map(Edit::Put).collect());
                self.audit = Some(Box::new(audit));
                AuditEffects::Begun
            }
        }
    }

    /// All objects as they were put.
    fn objects(&self) -> impl Iterator<Item = Object> {
        let namespaces = self.namespaces.iter().map(|(name, labels)| Namespace { name: name.clone(), labels: labels.clone() });
        let names = self.names.iter().map(|(name, ips)| KnownName { name: name.clone(), ips: ips.clone() });
        let policies = self.written.values().map(|policy| Object::Policy(Arc::unwrap_or_clone(policy.clone())));
        namespaces
            .map(Object::Namespace)
            .chain(self.nodes.values().cloned().map(Object::Node))
            .chain(names.map(Object::Name))
            .chain(self.pods.values().map(|placed| Object::Pod(placed.pod.clone())))
            .chain(policies)
    }
}
