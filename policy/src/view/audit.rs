//! What a node is told of the second world: nothing, unless an Audit policy selects one of its pods.

use super::View;
use crate::snapshot::Change;
use crate::world::{Effects, World};

/// The node's part of the second world.
#[derive(Debug)]
pub(super) struct Followed {
    view: View,
    /// Whether the node holds the second table.
    told: bool,
}

impl View {
    /// Brings the node's second table to where `world` is. `effects` led to the second world of now, if there was one before.
    pub(super) fn follow_audit(&mut self, world: &World, effects: Option<&Effects>, changes: &mut Vec<Change>) {
        let followed = self.audit.take();
        let told = followed.as_ref().is_some_and(|followed| followed.told);
        let Some(world) = world.audit() else {
            changes.extend(told.then_some(Change::DropAudit));
            return;
        };
        let (mut view, mut list, mut is_whole) = match (followed, effects) {
            (Some(mut followed), Some(effects)) => {
                let list = followed.view.delta(world, effects);
                (followed.view, list, false)
            }
            _ => {
                let mut view = Self::new(self.scope.clone()).resolving(self.resolvers.clone());
                let list = view.snapshot(world);
                (view, list, true)
            }
        };
        let is_audited = view.policies.values().any(|(_, policy)| policy.audit);
        if is_audited && !told && !is_whole {
            (list, is_whole) = (view.snapshot(world), true);
        }
        if told && (is_whole || !is_audited) {
            changes.push(Change::DropAudit);
        }
        if is_audited {
            changes.extend(list.into_iter().map(|change| Change::Audit(Box::new(change))));
        }
        self.audit = Some(Box::new(Followed { view, told: is_audited }));
    }
}
