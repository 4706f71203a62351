//! The request records of one connection, written in the order of their judgement.
//!
//! Over HTTP/2 requests end in any order. A record waits for those before it, but not for long: a request that goes on while a
//! later one has been finished for [`PATIENCE`] gets its record with what is known by then.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::records::{Record, RecordSink};

const PATIENCE: Duration = Duration::from_secs(2);

/// The records of one connection that are not written yet.
#[derive(Debug)]
pub(crate) struct Ledger {
    sink: RecordSink,
    entries: Mutex<VecDeque<Arc<Entry>>>,
}

/// One request's record, while it grows.
#[derive(Debug)]
pub(crate) struct Entry {
    started: Instant,
    state: Mutex<EntryState>,
}

#[derive(Debug)]
struct EntryState {
    /// `None` once it is written.
    record: Option<Record>,
    finished: Option<Instant>,
}

impl Ledger {
    pub(crate) fn new(sink: RecordSink) -> Arc<Self> {
        Arc::new(Self { sink, entries: Mutex::default() })
    }

    /// A request has been judged.
    pub(crate) fn open(&self, record: Record) -> Arc<Entry> {
        let entry =
            Arc::new(Entry { started: Instant::now(), state: Mutex::new(EntryState { record: Some(record), finished: None }) });
        self.entries().push_back(Arc::clone(&entry));
        self.write_ready();
        entry
    }

    /// Nothing will be added to `entry` any more.
    pub(crate) fn finish(&self, entry: &Entry) {
        let mut state = entry.state();
        state.finished = Some(Instant::now());
        if let Some(record) = &mut state.record {
            record.lasted(entry.started);
        }
        drop(state);
        self.write_ready();
    }

    /// Writes what needn't wait any longer.
    pub(crate) fn write_ready(&self) {
        let mut entries = self.entries();
        while let Some(front) = entries.front() {
            let finished = front.state().finished.is_some();
            let overdue = || entries.iter().skip(1).any(|later| later.state().finished.is_some_and(|at| at.elapsed() > PATIENCE));
            if !finished && !overdue() {
                return;
            }
            let record = front.state().record.take();
            entries.pop_front();
            if let Some(record) = record {
                self.sink.write(record);
            }
        }
    }

    /// Whether some record waits for another.
    pub(crate) fn is_waiting(&self) -> bool {
        self.entries().len() > 1
    }

    fn entries(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ledger {
    /// The connection has ended: what is still open is written as it is.
    fn drop(&mut self) {
        for entry in self.entries().drain(..) {
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
