//! Whether what a list of changes refers to is there.

use std::net::IpAddr;

use super::{ApplyError, Table, Touched};
use crate::snapshot::Peer;

impl Table {
    /// What the changes refer to is there: sets of the programs, programs of the identities.
    pub(super) fn check(&self, touched: &Touched) -> Result<(), ApplyError> {
        for id in &touched.programs {
            let Some(entry) = self.programs.get(id) else {
                continue;
            };
            for line in &entry.compiled.lines.lines {
                for peer in line.peers.iter().flatten() {
                    if let Peer::Set(set) = peer
                        && self.sets.get(set).is_none()
                    {
                        return Err(ApplyError::new("set", set));
                    }
                }
            }
        }
        for id in &touched.identities {
            let programs = self.programs(*id);
            for program in [programs.ingress, programs.egress].into_iter().flatten() {
                self.programs.get(&program).ok_or_else(|| ApplyError::new("program", program))?;
            }
        }
        if let Some(set) = self.whereabouts.resolvers().iter().find(|set| self.sets.get(set).is_none()) {
            return Err(ApplyError::new("set", set));
        }
        let local = |ip: &IpAddr| self.endpoints.get(ip).is_some_and(|slot| slot.local);
        for id in &touched.identities {
            let undeclared = self.identities.get(id).filter(|identity| !identity.declared);
            if undeclared.is_some_and(|identity| identity.addresses.iter().any(local)) {
                return Err(ApplyError::new("identity", id));
            }
        }
        // Whoever referred to what was dropped must have let go of it.
        if touched.programs.iter().any(|id| self.programs.get(id).is_none()) {
            for (_, identity) in self.identities.iter() {
                for program in [identity.programs.ingress, identity.programs.egress].into_iter().flatten() {
                    self.programs.get(&program).ok_or_else(|| ApplyError::new("program", program))?;
                }
            }
        }
        if touched.sets.iter().any(|set| self.sets.get(set).is_none()) {
            for (_, entry) in self.programs.iter() {
                if let Some(set) = entry.compiled.sets().find(|set| self.sets.get(set).is_none()) {
                    return Err(ApplyError::new("set", set));
                }
            }
        }
        for ip in &touched.endpoints {
            let Some(endpoint) = self.endpoints.get(ip) else {
                continue;
            };
            let declared = self.identities.get(&endpoint.identity).is_some_and(|i| i.declared);
            if endpoint.local && !declared {
                return Err(ApplyError::new("identity", endpoint.identity));
            }
        }
        Ok(())
    }
}
