//! Which of the reported packets get a record, and how many were left out.
//!
//! The kernel counts every packet of a pod and reports some. So nobody has to count what was lost where: of a pod
//!
//! ```text
//! left out = packets that the kernel counted - records written - what records have said was left out
//! ```
//!
//! That holds for what the kernel's limit kept back, for reports that a full buffer lost and for repetitions, and sums up exactly.
//! A reading of the counters may be ahead of the reports that are still on their way, so it counts one round later ([`settle`]).
//!
//! [`settle`]: Ledger::settle

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::packet::Headers;
use crate::kernel::tally::Tally;
use crate::kernel::{Budget, Site, Subject};

/// A client that hears nothing tries again after 1, 2 and 4 seconds: all that is one record.
const ONE_RECORD_FOR: Duration = Duration::from_secs(10);
/// How long a number of packets that were left out waits for another record to say it.
const WAIT_FOR_RECORD: Duration = Duration::from_secs(7);
/// Of how many flows it is remembered that they were recorded. Beyond, repetitions get records of their own.
const MOST_FLOWS: usize = 4096;
/// Of how many pods and interfaces accounts are kept: more than the kernel keeps.
const MOST_ACCOUNTS: usize = 65_536;

/// A record that is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) site: Site,
    pub(super) subject: Subject,
    pub(super) headers: Headers,
    /// Packets before this one, of the same pod, that no record was written of.
    pub(super) left_out: u64,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    /// By the last reading, and by the one before it.
    counted: u64,
    settled: u64,
    /// In records, or said to be left out.
    told: u64,
    /// Told since the last reading.
    fresh: u64,
    last: Option<(Site, Headers)>,
    owing_since: Option<Instant>,
    /// When the kernel forgets what it counted.
    expires: Instant,
}

impl Account {
    fn new(expires: Instant) -> Self {
        Self { counted: 0, settled: 0, told: 0, fresh: 0, last: None, owing_since: None, expires }
    }

    fn owes(&self) -> u64 {
        self.settled.saturating_sub(self.told)
    }

    fn tell(&mut self, packets: u64) {
        self.told += packets;
        self.fresh += packets;
        self.owing_since = None;
    }

    /// A reading. The kernel forgets a pod some time after its last packet and then begins at zero, and so it does when somebody
    /// removes the table.
    fn read(&mut self, packets: u64, now: Instant) {
        let began_anew = packets < self.counted || (packets == self.counted && self.expires < now);
        if began_anew {
            (self.told, self.settled) = (self.fresh, 0);
        }
        (self.counted, self.fresh) = (packets, 0);
    }
}

/// What has been told of whom.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    accounts: HashMap<(Budget, Subject), Account>,
    recorded: HashMap<(Site, Headers), Instant>,
}

impl Ledger {
    /// What the kernel had counted before anybody listened: it is nobody's to tell.
    pub(super) fn begin(&mut self, budget: Budget, tallies: &[Tally], now: Instant) {
        for tally in tallies {
            let mut account = Account::new(now + tally.expires);
            (account.counted, account.settled, account.told) = (tally.packets, tally.packets, tally.packets);
            self.accounts.insert((budget, tally.subject), account);
        }
    }

    /// A packet was reported. `None`: it belongs to a record that has been written.
    pub(super) fn report(&mut self, subject: Subject, site: Site, headers: Headers, now: Instant) -> Option<Entry> {
        let key = (site.budget(), subject);
        if self.accounts.len() >= MOST_ACCOUNTS && !self.accounts.contains_key(&key) {
            return None;
        }
        let account = self.accounts.entry(key).or_insert_with(|| Account::new(now + Duration::from_secs(600)));
        account.last = Some((site, headers));
        if self.recorded.get(&(site, headers)).is_some_and(|at| now.duration_since(*at) < ONE_RECORD_FOR) {
            return None;
        }
        let left_out = account.owes();
        account.tell(1 + left_out);
        self.remember(site, headers, now);
        Some(Entry { site, subject, headers, left_out })
    }

    fn remember(&mut self, site: Site, headers: Headers, now: Instant) {
        if self.recorded.len() < MOST_FLOWS || self.recorded.contains_key(&(site, headers)) {
            self.recorded.insert((site, headers), now);
        }
    }

    /// What was read last counts from now on: the reports of those packets have arrived, or never will.
    pub(super) fn settle(&mut self) {
        for account in self.accounts.values_mut() {
            account.settled = account.counted;
        }
    }

    /// What the kernel has counted.
    pub(super) fn read(&mut self, budget: Budget, tallies: &[Tally], now: Instant) {
        for tally in tallies {
            let expires = now + tally.expires;
            let account = self.accounts.entry((budget, tally.subject)).or_insert_with(|| Account::new(expires));
            account.read(tally.packets, now);
            account.expires = expires;
        }
    }

    /// Records for those of whom packets were left out and nothing followed that could say so: the last flow that was seen of
    /// them once more. At the end of the process all of them are due.
    pub(super) fn due(&mut self, now: Instant, is_end: bool) -> Vec<Entry> {
        let mut due = Vec::new();
        for ((_, subject), account) in &mut self.accounts {
            let owes = account.owes();
            let Some((site, headers)) = account.last.filter(|_| owes > 0) else { continue };
            let since = *account.owing_since.get_or_insert(now);
            if is_end || now.duration_since(since) >= WAIT_FOR_RECORD {
                // The record stands for one of them itself.
                due.push(Entry { site, subject: *subject, headers, left_out: owes - 1 });
                account.tell(owes);
            }
        }
        for Entry { site, headers, .. } in &due {
            self.remember(*site, *headers, now);
        }
        due
    }

    /// Forgets what is over.
    pub(super) fn forget(&mut self, now: Instant) {
        self.recorded.retain(|_, at| now.duration_since(*at) < ONE_RECORD_FOR);
        self.accounts.retain(|_, account| account.expires > now || account.owes() > 0 || account.settled != account.counted);
    }
}

#[cfg(test)]
mod tests;
