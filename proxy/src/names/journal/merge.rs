//! What the records of a journal come to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Entry;
use super::record::{Record, Writer};
use crate::names::moment::{Moment, Tick};

/// So long after a pod was forgotten, what was learned for it before may still be on its way to the file.
const IN_FLIGHT: Duration = Duration::from_secs(600);

/// All that still counts.
#[derive(Debug)]
pub(super) struct Merged {
    /// By pod, then by the moment of learning.
    pub(super) entries: Vec<Entry>,
    /// What was forgotten a short while ago.
    forgotten: Vec<(IpAddr, Moment)>,
}

/// The order of `records` makes no difference.
pub(super) fn merge(records: &[Record], now: Moment) -> Merged {
    let mut forgotten: HashMap<IpAddr, Moment> = HashMap::new();
    for record in records {
        if let Record::Forgotten { pod, at } = record {
            let until = forgotten.entry(*pod).or_default();
            *until = (*until).max(*at);
        }
    }
    let mut latest: HashMap<(IpAddr, IpAddr, &Arc<str>), (Tick, Moment)> = HashMap::new();
    for record in records {
        let Record::Learned { pod, at, entries } = record else { continue };
        if forgotten.get(pod).is_some_and(|until| at <= until) {
            continue;
        }
        for (address, name, until) in entries.iter().filter(|(_, _, until)| !until.is_over(now)) {
            let (expires, learned) = latest.entry((*pod, *address, name)).or_insert((*until, *at));
            *expires = (*expires).max(*until);
            // The earlier: whatever is yet to come of a pod that was forgotten in between takes all of it.
            *learned = (*learned).min(*at);
        }
    }
    let entry = |((pod, address, name), (expires, learned)): ((IpAddr, IpAddr, &Arc<str>), (Tick, Moment))| Entry {
        pod,
        address,
        name: Arc::clone(name),
        expires: expires.moment(),
        learned,
    };
    let mut entries: Vec<Entry> = latest.into_iter().map(entry).collect();
    entries.sort_unstable_by(|a, b| (a.pod, a.learned, &a.name, a.address).cmp(&(b.pod, b.learned, &b.name, b.address)));
    let mut forgotten: Vec<_> = forgotten.into_iter().filter(|(_, at)| at.after(IN_FLIGHT) > now).collect();
    forgotten.sort_unstable();
    Merged { entries, forgotten }
}

impl Merged {
    pub(super) fn write(&self, writer: &mut Writer) {
        for (pod, at) in &self.forgotten {
            writer.forgotten(*pod, *at);
        }
        for together in self.entries.chunk_by(|a, b| (a.pod, a.learned) == (b.pod, b.learned)) {
            let entries = together.iter().map(|entry| (entry.address, &entry.name, Tick::not_before(entry.expires)));
            writer.learned(together[0].pod, together[0].learned, entries);
        }
    }
}
