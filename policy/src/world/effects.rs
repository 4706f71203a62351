//! What a change of the world touched.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::snapshot::{IdentityId, PolicyId, SetId};

/// What a list of edits touched in the [`World`](super::World): what each node's [`View`](crate::View) must look at again.
#[derive(Debug, Default)]
pub struct Effects {
    /// Node objects that changed, appeared or vanished.
    pub(crate) nodes: BTreeSet<Arc<str>>,
    /// Policies that changed, appeared or vanished.
    pub(crate) policies: BTreeSet<PolicyId>,
    pub(crate) sets: FxHashMap<SetId, SetEdit>,
    /// Identities whose programs changed.
    pub(crate) identities: BTreeSet<IdentityId>,
    /// Addresses whose endpoint may differ.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The cluster is elsewhere.
    pub(crate) cluster: bool,
    /// What DNS says to everybody changed.
    pub(crate) names: bool,
    /// What became of the second world.
    pub(super) audit: AuditEffects,
    /// For the settling at the end of an edit: sets whose policies changed, and identities whose answers did.
    pub(super) subjects: FxHashSet<SetId>,
    pub(super) reprogram: FxHashSet<IdentityId>,
}

/// What an edit did to the world in which Audit policies are in force too.
#[derive(Debug, Default)]
pub(super) enum AuditEffects {
    /// There was none, and there is none.
    #[default]
    None,
    /// The first Audit policy appeared, or the last one vanished.
    Begun,
    Ended,
    Changed(Box<Effects>),
}

/// The net change of a set's members.
#[derive(Debug, Default)]
pub(crate) struct SetEdit {
    pub(crate) add: BTreeSet<IdentityId>,
    pub(crate) remove: BTreeSet<IdentityId>,
}

impl Effects {
    /// Nothing that any node could have to hear of.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
            && self.policies.is_empty()
            && self.sets.is_empty()
            && self.identities.is_empty()
            && self.addresses.is_empty()
            && !self.cluster
            && !self.names
            && match &self.audit {
                AuditEffects::None => true,
                AuditEffects::Begun | AuditEffects::Ended => false,
                AuditEffects::Changed(effects) => effects.is_empty(),
            }
    }

    /// The effects in the second world, if it was there before and still is.
    pub(crate) fn audit(&self) -> Option<&Self> {
        match &self.audit {
            AuditEffects::Changed(effects) => Some(effects),
            AuditEffects::None | AuditEffects::Begun | AuditEffects::Ended => None,
        }
    }

    pub(super) fn joined(&mut self, set: SetId, identity: IdentityId) {
        let edit = self.sets.entry(set).or_default();
        if !edit.remove.remove(&identity) {
            edit.add.insert(identity);
        }
    }

    pub(super) fn left(&mut self, set: SetId, identity: IdentityId) {
        let edit = self.sets.entry(set).or_default();
        if !edit.add.remove(&identity) {
            edit.remove.insert(identity);
        }
    }
}
