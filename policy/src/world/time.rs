//! Policies that expire. The world has no clock: it is told what time it is, and holds to that until it is told again.
//!
//! | `expires` | in force |
//! |---|---|
//! | absent, or nobody has told the time | yes |
//! | later than now | yes |
//! | now, or earlier | no: as if absent |
//!
//! A clock may be set back. Then what had expired by a wrong clock is in force again: an isolation that is gone for good, because a
//! clock was wrong for a moment, would be worse than one that comes back.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::{Effects, World};
use crate::source::{Policy, PolicyRef};

impl World {
    /// Says what time it is: policies that expired since are gone, and those that did by a clock that was ahead are back.
    pub fn set_time(&mut self, now: SystemTime) -> Effects {
        let mut effects = self.set_time_here(now);
        effects.audit = self.follow(|audit| audit.set_time_here(now));
        effects
    }

    fn set_time_here(&mut self, now: SystemTime) -> Effects {
        let mut effects = Effects::default();
        let before = self.now.replace(now);
        let turned: BTreeSet<PolicyRef> = self
            .expiries
            .iter()
            .filter(|(expires, _)| before.is_some_and(|before| *expires <= before) != (*expires <= now))
            .map(|(_, policy)| policy.clone())
            .collect();
        if turned.is_empty() {
            return effects;
        }
        for reference in turned {
            let policy = self.written.get(&reference).cloned();
            self.write_policy(reference, policy, &mut effects);
        }
        self.settle(&mut effects);
        effects
    }

    /// When the next policy expires, if time only passes. `None`: none will.
    pub fn next_expiry(&self) -> Option<SystemTime> {
        let later = self.expiries.iter().find(|(expires, _)| self.now.is_none_or(|now| now < *expires));
        later.map(|(expires, _)| *expires)
    }

    /// Whether any policy says when it expires, be it in the past: then the time matters.
    pub fn heeds_time(&self) -> bool {
        !self.expiries.is_empty()
    }

    /// The policies that have expired, and when they did, in the order of their names.
    pub fn expired(&self) -> Vec<(PolicyRef, SystemTime)> {
        let mut expired: Vec<_> = self
            .expiries
            .iter()
            .filter(|(expires, _)| self.now.is_some_and(|now| *expires <= now))
            .map(|(expires, policy)| (policy.clone(), *expires))
            .collect();
        expired.sort();
        expired
    }

    /// A policy as it was written, whether it is in force or not.
    pub fn written(&self, reference: &PolicyRef) -> Option<&Policy> {
        self.written.get(reference).map(|policy| &**policy)
    }

    /// Whether the time of a policy is over, by what the world was told.
    pub fn is_expired(&self, policy: &Policy) -> bool {
        policy.expires.is_some_and(|expires| self.now.is_some_and(|now| expires <= now))
    }
}
