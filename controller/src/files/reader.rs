//! Reads files: small ones at once, a large one on a thread of its own, so that it doesn't hold up the others.

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use sluice_crds::{FileError, FileObjects, Limits};
use sluice_policy::source::Key;

use super::Wake;
use super::claims::Held;
use super::folder::Signature;

/// Up to this size, in bytes, a file is read while the others wait.
const SMALL_BYTES: u64 = 1 << 20;

/// What became of reading a file.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It is not there.
    Gone,
    /// It changed while it was being read.
    StillWritten,
    /// It can't be taken as a whole.
    Refused {
        signature: Option<Signature>,
        lines: Vec<String>,
        /// What the documents that did parse hold.
        readable: Option<Held>,
    },
    Read {
        signature: Signature,
        held: Held,
        /// Objects of which nothing could be understood.
        not_understood: Vec<Key>,
        lines: Vec<String>,
        /// Not one byte.
        empty: bool,
    },
}

/// Reads files within a limit of bytes. At most one large file is read at a time; there is no queue but the caller's.
pub(crate) struct Reader {
    limit_bytes: usize,
    wake: SyncSender<Wake>,
    reading: HashSet<Arc<Path>>,
}

impl Reader {
    pub(crate) fn new(limit_bytes: usize, wake: SyncSender<Wake>) -> Self {
        Self { limit_bytes, wake, reading: HashSet::new() }
    }

    /// The file's contents, or `None`: they follow as [`Wake::Read`], and then [`Reader::finished`] is due.
    pub(crate) fn read(&mut self, file: &Arc<Path>) -> Option<Outcome> {
        let limit_bytes = self.limit_bytes;
        if fs::metadata(file).is_ok_and(|metadata| metadata.len() > SMALL_BYTES) {
            let (path, wake) = (file.clone(), self.wake.clone());
            let thread = std::thread::Builder::new().name("large file".to_owned());
            let spawned = thread.spawn(move || {
                let outcome = read(&path, limit_bytes);
                // The receiver is gone only when the watch has ended.
                let _ = wake.send(Wake::Read(path, outcome));
            });
            if spawned.is_ok() {
                self.reading.insert(file.clone());
                return None;
            }
        }
        Some(read(file, limit_bytes))
    }

    /// Whether this file can't be read now: it is being read, or it is large and another large one is.
    pub(crate) fn is_reading(&self, file: &Path) -> bool {
        self.reading.contains(file) || (self.is_busy() && fs::metadata(file).is_ok_and(|metadata| metadata.len() > SMALL_BYTES))
    }

    pub(crate) fn is_busy(&self) -> bool {
        !self.reading.is_empty()
    }

    pub(crate) fn finished(&mut self, file: &Path) {
        self.reading.remove(file);
    }
}

fn read(file: &Path, limit_bytes: usize) -> Outcome {
    let before = fs::metadata(file).map(|metadata| Signature::of(&metadata));
    let empty = fs::metadata(file).is_ok_and(|metadata| metadata.len() == 0);
    let read = sluice_crds::read_file_within(file, Limits { bytes: limit_bytes, ..Limits::default() });
    let after = fs::metadata(file).map(|metadata| Signature::of(&metadata));
    match (read, before, after) {
        (Err(error), ..) if error.is_not_found() => Outcome::Gone,
        (_, Ok(before), Ok(after)) if before != after => Outcome::StillWritten,
        (Ok(objects), Ok(signature), Ok(_)) => {
            let (held, not_understood, lines) = take_apart(objects);
            Outcome::Read { signature, held, not_understood, lines, empty }
        }
        // It was read, and went away meanwhile or before: the next look finds out.
        (Ok(_), ..) => Outcome::StillWritten,
        (Err(error), _, after) => {
            let lines = error.to_string().lines().map(str::to_owned).collect();
            let readable = match error {
                FileError::Syntax { readable, .. } => Some(take_apart(*readable).0),
                _ => None,
            };
            Outcome::Refused { signature: after.ok(), lines, readable }
        }
    }
}

fn take_apart(file: FileObjects) -> (Held, Vec<Key>, Vec<String>) {
    let lines = file.diagnostics.iter().map(|diagnostic| diagnostic.to_string().replace('\n', " ")).collect();
    let held = file.objects.into_iter().map(|o| (o.object.key(), o.object)).collect();
    (held, file.not_understood, lines)
}
