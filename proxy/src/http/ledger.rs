//! The request records of one connection, written in the order of their judgement.
//!
//! Over HTTP/2 requests end in any order. A record waits for those before it, but not for long: a request that goes on while a
//! later one has been finished for [`PATIENCE`] gets its record with what is known by then, and so does the first of
//! [`MOST_WAITING`] when another request comes.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::records::{Record, RecordSink};

const PATIENCE: Duration = Duration::from_secs(2);

/// Records that wait at a time, each of some KiB. Beside one long request, a client can make thousands of short ones within
/// [`PATIENCE`].
const MOST_WAITING: usize = 1024;

/// The records of one connection that are not written yet.
#[derive(Debug)]
pub(crate) struct Ledger {
    sink: RecordSink,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// In the order of judgement, numbered without a gap.
    entries: VecDeque<Arc<Entry>>,
    /// The number of the next entry.
    next: u64,
    /// What finished behind the front, and when, oldest first. What has been written since may still stand here.
    finished: VecDeque<(u64, Instant)>,
}

/// One request's record, while it grows.
#[derive(Debug)]
pub(crate) struct Entry {
    number: u64,
    started: Instant,
    state: Mutex<EntryState>,
}

#[derive(Debug)]
struct EntryState {
    /// `None` once it is written.
    record: Option<Record>,
    finished: bool,
}

impl Ledger {
    pub(crate) fn new(sink: RecordSink) -> Arc<Self> {
        Arc::new(Self { sink, waiting: Mutex::default() })
    }

    /// A request has been judged.
    pub(crate) fn open(&self, record: Record) -> Arc<Entry> {
        let mut waiting = self.waiting();
        let state = Mutex::new(EntryState { record: Some(record), finished: false });
        let entry = Arc::new(Entry { number: waiting.next, started: Instant::now(), state });
        waiting.next += 1;
        waiting.entries.push_back(Arc::clone(&entry));
        self.write(&mut waiting);
        entry
    }

    /// Nothing will be added to `entry` any more.
    pub(crate) fn finish(&self, entry: &Entry) {
        let mut waiting = self.waiting();
        let mut state = entry.state();
        state.finished = true;
        if let Some(record) = &mut state.record {
            record.lasted(entry.started);
            waiting.finished.push_back((entry.number, Instant::now()));
        }
        drop(state);
        self.write(&mut waiting);
    }

    /// Writes what needn't wait any longer.
    pub(crate) fn write_ready(&self) {
        self.write(&mut self.waiting());
    }

    /// Each entry is looked at as often as it is written or finished, and the front once more.
    fn write(&self, waiting: &mut Waiting) {
        while let Some(front) = waiting.entries.front() {
            let finished = front.state().finished;
            if !finished && waiting.entries.len() <= MOST_WAITING && !waiting.is_overdue() {
                return;
            }
            if let Some(front) = waiting.entries.pop_front()
                && let Some(record) = front.state().record.take()
            {
                self.sink.write(record);
            }
        }
        waiting.finished.clear();
    }

    /// Whether some record waits for another.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting().entries.len() > 1
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    /// Whether something behind the front has waited for long enough.
    fn is_overdue(&mut self) -> bool {
        let first = self.next - self.entries.len() as u64;
        while self.finished.pop_front_if(|(number, _)| *number < first).is_some() {}
        self.finished.front().is_some_and(|(_, at)| at.elapsed() > PATIENCE)
    }
}

impl Drop for Ledger {
    /// The connection has ended: what is still open is written as it is.
    fn drop(&mut self) {
        for entry in self.waiting().entries.drain(..) {
            if let Some(record) = entry.state().record.take() {
                self.sink.write(record);
            }
        }
    }
}

impl Entry {
    /// Adds to the record, if it isn't written yet.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Record)) {
        if let Some(record) = &mut self.state().record {
            change(record);
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    fn state(&self) -> MutexGuard<'_, EntryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
