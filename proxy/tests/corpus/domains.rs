//! What DNS says in a case, told to the pods of a node: each of them has asked for each name.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_policy::Table;
use sluice_policy::source::{Key, Object};
use sluice_policy::world::Edit;
use sluice_proxy::names::{Lesson, Moment, Names};

use crate::answer::answer;

/// Longer than any case takes.
const TTL_SECONDS: u32 = 3600;

/// The addresses of names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Domains(BTreeMap<Arc<str>, Vec<IpAddr>>);

impl Domains {
    /// Follows what `edits` say of names. Whether they say anything.
    pub(crate) fn follow(&mut self, edits: &[Edit]) -> bool {
        let before = self.clone();
        for edit in edits {
            match edit {
                Edit::Put(Object::Name(known)) => drop(self.0.insert(known.name.clone(), known.ips.clone())),
                Edit::Remove(Key::Name(name)) => drop(self.0.remove(name)),
                _ => {}
            }
        }
        *self != before
    }

    /// What the pods of `table`'s node learn of it.
    pub(crate) fn teach(&self, table: &Table, names: &Names) -> Vec<Lesson> {
        let now = Moment::now();
        let mut lessons = Vec::new();
        for (pod, _) in table.endpoints().filter(|(_, endpoint)| endpoint.local) {
            for (name, ips) in &self.0 {
                let ips: Vec<IpAddr> = ips.iter().copied().filter(|ip| ip.is_ipv4() == pod.is_ipv4()).collect();
                if !ips.is_empty() {
                    lessons.push(names.learn(pod, &answer(name, &ips, TTL_SECONDS), now));
                }
            }
        }
        lessons
    }
}
