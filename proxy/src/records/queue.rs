//! Lines on their way to the writer's thread.

use std::cell::RefCell;
use std::io::Write;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Record;

/// How long the first of some lines waits for others: to wake the writer and to write cost more than a record does.
const GATHERING: Duration = Duration::from_millis(10);
/// Where fewer find a place, they are written at once: a burst would fill it in that time.
const GATHERED_LINES: usize = 1024;
/// Room that is kept for the next lines.
const KEPT_BYTES: usize = 256 * 1024;

thread_local! {
    /// Where a line is written down before it finds its place.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Takes records without ever waiting for their reader.
#[derive(Clone, Debug)]
pub struct RecordSink {
    held: Arc<Held>,
}

/// The last one that is dropped ends the queue.
#[derive(Debug)]
struct Held(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    most_lines: usize,
    lines: Mutex<Lines>,
    /// There is a first line, or there will be none.
    filled: Condvar,
    /// Left out since the last line that found a place.
    pending: AtomicU64,
    dropped: AtomicU64,
    /// Lines that wait, and those that are being written.
    queued: AtomicUsize,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: usize,
    ended: bool,
}

impl RecordSink {
    /// Queues a record, or counts that it was left out.
    pub fn write(&self, mut record: Record) {
        let queue = &self.held.0;
        let left_out = queue.pending.swap(0, Ordering::Relaxed) + record.suppressed.unwrap_or_default();
        record.suppressed = (left_out > 0).then_some(left_out);
        let is_queued = LINE.with_borrow_mut(|line| {
            line.clear();
            serde_json::to_writer(&mut *line, &record).is_ok() && {
                line.push(b'\n');
                queue.add(line)
            }
        });
        if !is_queued {
            queue.pending.fetch_add(left_out + 1, Ordering::Relaxed);
            queue.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Records that were left out since the start.
    pub fn dropped(&self) -> u64 {
        self.held.0.dropped.load(Ordering::Relaxed)
    }

    /// Lines that wait for the writer, or for standard output.
    pub fn queued(&self) -> usize {
        self.held.0.queued.load(Ordering::Relaxed)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.locked().ended = true;
        self.0.filled.notify_one();
    }
}

impl Queue {
    fn locked(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `false`: there is no place.
    fn add(&self, line: &[u8]) -> bool {
        if self.queued.fetch_add(1, Ordering::Relaxed) >= self.most_lines {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let mut lines = self.locked();
        lines.bytes.extend_from_slice(line);
        lines.count += 1;
        let is_first = lines.count == 1;
        drop(lines);
        if is_first {
            self.filled.notify_one();
        }
        true
    }

    /// All that wait, once some have gathered, in `taken`, and how many; none, and there will be none.
    fn take(&self, taken: &mut Vec<u8>, gathering: Duration) -> usize {
        let mut lines = self.locked();
        while lines.count == 0 && !lines.ended {
            lines = self.filled.wait(lines).unwrap_or_else(PoisonError::into_inner);
        }
        if !gathering.is_zero() && !lines.ended {
            drop(lines);
            std::thread::sleep(gathering);
            lines = self.locked();
        }
        std::mem::swap(&mut lines.bytes, taken);
        std::mem::take(&mut lines.count)
    }
}

/// The thread that writes the lines.
#[derive(Debug)]
pub struct RecordWriter {
    done: Receiver<()>,
}

impl RecordWriter {
    /// Waits until everything that is queued has been written, once every [`RecordSink`] is gone, but not longer than `limit`:
    /// whoever reads the records may have stopped reading.
    pub fn finish(self, limit: Duration) {
        let _ = self.done.recv_timeout(limit);
    }
}

/// Starts the writer thread: at most `queue_lines` wait for `output`.
pub fn start(queue_lines: usize, output: impl Write + Send + 'static) -> std::io::Result<(RecordSink, RecordWriter)> {
    let (finished, done) = sync_channel(1);
    let queue = Arc::new(Queue {
        most_lines: queue_lines,
        lines: Mutex::default(),
        filled: Condvar::new(),
        pending: AtomicU64::new(0),
        dropped: AtomicU64::new(0),
        queued: AtomicUsize::new(0),
    });
    let sink = RecordSink { held: Arc::new(Held(Arc::clone(&queue))) };
    let gathering = if queue_lines < GATHERED_LINES { Duration::ZERO } else { GATHERING };
    std::thread::Builder::new().name("records".into()).spawn(move || {
        write_all(&queue, gathering, output);
        let _ = finished.try_send(());
    })?;
    Ok((sink, RecordWriter { done }))
}

fn write_all(queue: &Queue, gathering: Duration, mut output: impl Write) {
    let (mut failing, mut taken) = (false, Vec::new());
    loop {
        let count = queue.take(&mut taken, gathering);
        if count == 0 {
            return;
        }
        match output.write_all(&taken).and_then(|()| output.flush()) {
            Ok(()) => failing = false,
            Err(error) => {
                queue.dropped.fetch_add(count as u64, Ordering::Relaxed);
                if !failing {
                    tracing::warn!(%error, "records can't be written");
                }
                failing = true;
            }
        }
        queue.queued.fetch_sub(count, Ordering::Relaxed);
        taken.clear();
        taken.shrink_to(KEPT_BYTES);
    }
}
