//! What was learned, on disk: for the next process, however this one ends, but not beyond the next boot.
//!
//! Lessons are appended, those of one transaction by one write(2), before their answers go to the pods. There is no fsync: what is in the page cache outlives a
//! SIGKILL, and what a power failure takes is of another boot, in which the pods are new and CLOCK_BOOTTIME begins anew.
//!
//! **What can't be written** is counted, said in the log once, and doesn't hold up the answer: the store and the kernel have it. A
//! process that starts later doesn't, and denies by name until the pods look up again. So a full disk costs what would have been kept over a
//! crash, and nothing else.
//!
//! **What can't be read** is left out. Each record has a checksum; behind a damaged one reading goes on at the next mark, so that a record
//! cut short by a crash or a full disk doesn't hide what was appended after it. What comes back was written, in this boot, for this node.
//!
//! **Two processes** share the file for the time of a planned restart. Each write goes to its end (O_APPEND), under a shared lock, and is
//! whole, so theirs stand one after the other. [`Journal::compact_if_due`] takes the lock for itself, reads what *both* have written, and puts a
//! new file in the place of the old; whoever gets the lock afterwards sees that its file isn't the one of that name any more, and
//! opens the new one. The successor opens it when the other has let go of the kernel, and writes down itself what that learns later. The order of records means nothing: an expiry only moves later, and [`Forgotten`] voids by the moment of learning.
//! A process never replaces the file of another format that it finds after its start: its successor wrote it.
//!
//! **Whose address it was** is not in here. If an address changes hands while no process runs, nobody forgets it: the caller compares the
//! table that it has restored with the first one that it gets, as it does between any two.

mod merge;
mod record;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use self::record::{Mark, Unusable, Writer};
use super::lesson::{Forgotten, Lesson};
use super::metrics::NamesMetrics;
use super::moment::{Moment, Tick};
use crate::state;

/// A file is not written anew below this.
const LEAST_BYTES: u64 = 4 << 20;
/// A file doesn't grow beyond this: a million entries, each in a record of its own, take half of it.
const MOST_BYTES: u64 = 256 << 20;
/// More than any header: a node's name has at most 253 bytes.
const HEADER_BYTES: u64 = 4096;
/// How long an append waits for another process that writes the file anew.
const APPEND_PATIENCE: Duration = Duration::from_millis(100);
/// How long writing the file anew waits for appends of another process.
const COMPACT_PATIENCE: Duration = Duration::from_secs(1);
/// How long until another look whether it has let go.
const STEP: Duration = Duration::from_millis(1);
/// So often is looked whether the file is the one of its name, however long that takes.
const LEAST_ATTEMPTS: usize = 4;
/// A temporary file this old has lost its process.
const ABANDONED: Duration = Duration::from_secs(60);

/// Which boot of the machine this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootId(pub(super) String);

impl BootId {
    pub fn read() -> io::Result<Self> {
        Ok(Self(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned()))
    }
}

/// What a former process has learned, as [`super::Names::restore`] takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub pod: IpAddr,
    pub address: IpAddr,
    pub name: Arc<str>,
    pub expires: Moment,
    pub(super) learned: Moment,
}

/// Why something is not in the journal.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("open {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("{path} is another process's: {why}")]
    Foreign { path: PathBuf, why: String },
    #[error("{path} is held by another process")]
    Busy { path: PathBuf },
    #[error("{path} has reached {MOST_BYTES} bytes")]
    Full { path: PathBuf },
    #[error("write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
}

/// The file of one node.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    path: PathBuf,
    node: Arc<str>,
    boot: BootId,
    metrics: NamesMetrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    file: Option<Opened>,
    /// Its length when it held nothing superfluous.
    base: u64,
    failing: bool,
}

#[derive(Debug)]
struct Opened {
    file: File,
    mark: Mark,
}

/// The file in `dir` that holds what the pods of `node` have learned.
pub fn path(dir: &Path, node: &str) -> PathBuf {
    state::path_of(dir, "names", node)
}

impl Journal {
    /// Opens the journal of `node`, and yields what it holds that isn't over, by pod. What can't be read is logged. If the file can't be
    /// opened at all, each append tries again.
    pub fn open(dir: &Path, node: &str, boot: BootId, metrics: NamesMetrics, now: Moment) -> (Self, Vec<Entry>) {
        let path = path(dir, node);
        let state = Mutex::default();
        let journal = Self { dir: dir.to_owned(), path, node: node.into(), boot, metrics, state };
        journal.remove_abandoned();
        let mut state = journal.lock();
        let entries = match journal.first(&mut state) {
            Ok(bytes) => journal.entries(&bytes, now),
            Err(error) => {
                tracing::warn!("names from before the start are lost, and those to come not kept over a crash: {error}");
                state.failing = true;
                Vec::new()
            }
        };
        drop(state);
        (journal, entries)
    }

    /// Opens the file, or makes it; yields its bytes.
    fn first(&self, state: &mut State) -> Result<Vec<u8>, WriteError> {
        let found = self.open_file()?;
        if let Some(mut file) = found {
            let bytes = self.read(&mut file)?;
            match record::read_header(&bytes, &self.boot, &self.node) {
                Ok((mark, _)) => {
                    state.file = Some(Opened { file, mark });
                    return Ok(bytes);
                }
                Err(Unusable::OtherBoot) => tracing::info!(path = %self.path.display(), "names of a former boot are dropped"),
                Err(why) => tracing::warn!(path = %self.path.display(), "names from before the start are dropped: {why}"),
            }
        }
        state.file = Some(self.replace(|_| {})?);
        Ok(Vec::new())
    }

    fn entries(&self, bytes: &[u8], now: Moment) -> Vec<Entry> {
        let Ok((mark, start)) = record::read_header(bytes, &self.boot, &self.node) else { return Vec::new() };
        let (records, damaged) = record::records(&bytes[start..], mark);
        if damaged > 0 {
            let path = self.path.display();
            tracing::warn!(%path, damaged_bytes = damaged, "part of the names from before the start can't be read");
        }
        merge::merge(&records, now).entries
    }

    /// Writes down what is new in `lesson`, before its answer goes and before it is confirmed. An error is logged when it is the first in a
    /// row, and counted; the answer goes all the same.
    ///
    /// Blocks for one write to the page cache; while the file is written anew for as long as that takes, or, if another process does that,
    /// for a tenth of a second.
    pub fn append(&self, lesson: &Lesson) -> Result<(), WriteError> {
        self.append_all(&[lesson])
    }

    /// [`Self::append`] for several, by one write.
    pub fn append_all(&self, lessons: &[&Lesson]) -> Result<(), WriteError> {
        if lessons.iter().all(|lesson| lesson.is_empty()) {
            return Ok(());
        }
        self.write(lessons.len(), |writer| {
            for lesson in lessons {
                let news = lesson.addresses.iter().flat_map(|learned| {
                    let news = learned.names.iter().filter(|name| name.is_news);
                    news.map(|name| (learned.address, &name.name, Tick::not_before(name.expires)))
                });
                writer.learned(lesson.pod, lesson.at, news);
            }
        })
    }

    /// Writes down that what was known for a pod counts for nothing. Errors as of [`Self::append`].
    pub fn forget(&self, forgotten: Forgotten) -> Result<(), WriteError> {
        self.write(1, |writer| writer.forgotten(forgotten.pod, forgotten.at))
    }

    /// `count`: how many are lost if it fails.
    fn write(&self, count: usize, records: impl Fn(&mut Writer)) -> Result<(), WriteError> {
        let mut state = self.lock();
        let result = self.write_locked(&mut state, records);
        match &result {
            Ok(()) if state.failing => tracing::info!(path = %self.path.display(), "names are kept over a crash again"),
            Err(error) if !state.failing => tracing::warn!("names are not kept over a crash: {error}"),
            _ => {}
        }
        state.failing = result.is_err();
        if result.is_err() {
            self.metrics.journal_failures.inc_by(count as u64);
        }
        result
    }

    fn write_locked(&self, state: &mut State, records: impl Fn(&mut Writer)) -> Result<(), WriteError> {
        let (opened, length) = self.current(state, Hold::Shared)?;
        let mut writer = Writer::new(opened.mark);
        records(&mut writer);
        let bytes = writer.into_bytes();
        let after = length.saturating_add(bytes.len() as u64);
        let result = if after > MOST_BYTES {
            Err(WriteError::Full { path: self.path.clone() })
        } else {
            write_once(&opened.file, &bytes).map_err(|source| self.failed(source))
        };
        let _ = opened.file.unlock();
        self.metrics.journal_bytes.set(i64::try_from(after).unwrap_or(i64::MAX));
        result
    }

    /// Writes the file anew if it has become long and little of it counts. Appends wait for that: for a thread that answers nobody,
    /// and now and then. Returns whether it was written.
    pub fn compact_if_due(&self, now: Moment) -> Result<bool, WriteError> {
        self.compact_beyond(LEAST_BYTES, now)
    }

    fn compact_beyond(&self, least: u64, now: Moment) -> Result<bool, WriteError> {
        let mut state = self.lock();
        let base = state.base;
        let (opened, length) = self.current(&mut state, Hold::Alone)?;
        if length <= least.max(base.saturating_mul(2)) {
            let _ = opened.file.unlock();
            return Ok(false);
        }
        let bytes = self.read(&mut opened.file);
        let replaced = bytes.and_then(|bytes| {
            let start = record::header(opened.mark, &self.boot, &self.node).len();
            let (records, _) = record::records(bytes.get(start..).unwrap_or_default(), opened.mark);
            let merged = merge::merge(&records, now);
            self.replace(|writer| merged.write(writer))
        });
        let _ = opened.file.unlock();
        let replaced = replaced?;
        state.base = replaced.file.metadata().map_err(|source| self.failed(source))?.len();
        self.metrics.journal_bytes.set(i64::try_from(state.base).unwrap_or(i64::MAX));
        state.file = Some(replaced);
        Ok(true)
    }

    /// The file of this name, locked, and its length. It is opened anew if another process has put it there.
    fn current<'a>(&self, state: &'a mut State, hold: Hold) -> Result<(&'a mut Opened, u64), WriteError> {
        let until = Instant::now() + hold.patience();
        for attempt in 1.. {
            let opened = match state.file.take() {
                Some(opened) => opened,
                None => self.attach(state)?,
            };
            if !hold.take(&opened.file, until).map_err(|source| self.failed(source))? {
                state.file = Some(opened);
                return Err(WriteError::Busy { path: self.path.clone() });
            }
            let own = opened.file.metadata().map_err(|source| self.failed(source))?;
            let is_current = match std::fs::metadata(&self.path) {
                Ok(there) => (there.dev(), there.ino()) == (own.dev(), own.ino()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(source) => return Err(self.unopened(source)),
            };
            if is_current {
                return Ok((state.file.insert(opened), own.len()));
            }
            // Another process may write it anew as fast as it is opened here.
            if attempt >= LEAST_ATTEMPTS && Instant::now() >= until {
                break;
            }
        }
        Err(WriteError::Busy { path: self.path.clone() })
    }

    /// Opens the file that is there now, or makes it.
    fn attach(&self, state: &mut State) -> Result<Opened, WriteError> {
        let Some(mut file) = self.open_file()? else { return self.replace(|_| {}) };
        let mut head = Vec::new();
        (&mut file).take(HEADER_BYTES).read_to_end(&mut head).map_err(|source| self.unopened(source))?;
        match record::read_header(&head, &self.boot, &self.node) {
            Ok((mark, _)) => {
                state.base = file.metadata().map_err(|source| self.unopened(source))?.len();
                Ok(Opened { file, mark })
            }
            Err(Unusable::Damaged | Unusable::OtherBoot) => self.replace(|_| {}),
            Err(why @ (Unusable::OtherFormat(_) | Unusable::OtherNode)) => {
                Err(WriteError::Foreign { path: self.path.clone(), why: why.to_string() })
            }
        }
    }

    /// A new file with these records in the place of what is there. A crash at any moment leaves one or the other.
    fn replace(&self, records: impl FnOnce(&mut Writer)) -> Result<Opened, WriteError> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(|source| self.unopened(source))?;
        let mut builder = tempfile::Builder::new();
        let prefix = self.prefix();
        let mut file = builder.prefix(&prefix).append(true).tempfile_in(&self.dir).map_err(|source| self.unopened(source))?;
        let mark = random();
        let mut writer = Writer::new(mark);
        records(&mut writer);
        let mut write = |bytes: &[u8]| file.write_all(bytes).map_err(|source| self.failed(source));
        write(&record::header(mark, &self.boot, &self.node))?;
        write(&writer.into_bytes())?;
        let file = file.persist(&self.path).map_err(|error| self.unopened(error.error))?;
        Ok(Opened { file, mark })
    }

    fn prefix(&self) -> String {
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        format!(".{name}.")
    }

    /// Removes what a process left that was killed while it wrote the file anew.
    fn remove_abandoned(&self) {
        let prefix = self.prefix();
        for file in std::fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let age = || SystemTime::now().duration_since(file.metadata()?.modified()?).map_err(io::Error::other);
            if file.file_name().to_string_lossy().starts_with(&prefix) && age().is_ok_and(|age| age > ABANDONED) {
                let _ = std::fs::remove_file(file.path());
            }
        }
    }

    /// `None`: there is no such file.
    fn open_file(&self) -> Result<Option<File>, WriteError> {
        match OpenOptions::new().read(true).append(true).open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(self.unopened(source)),
        }
    }

    fn read(&self, file: &mut File) -> Result<Vec<u8>, WriteError> {
        let mut bytes = Vec::new();
        let mut read = || {
            file.rewind()?;
            file.take(MOST_BYTES).read_to_end(&mut bytes)
        };
        read().map_err(|source| self.unopened(source))?;
        Ok(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unopened(&self, source: io::Error) -> WriteError {
        WriteError::Open { path: self.path.clone(), source }
    }

    fn failed(&self, source: io::Error) -> WriteError {
        WriteError::Write { path: self.path.clone(), source }
    }
}

/// How a file is locked against the other process. Within this one the state's mutex does.
#[derive(Clone, Copy, Debug)]
enum Hold {
    Shared,
    Alone,
}

impl Hold {
    fn patience(self) -> Duration {
        match self {
            Self::Shared => APPEND_PATIENCE,
            Self::Alone => COMPACT_PATIENCE,
        }
    }

    /// `false`: the other process doesn't let go.
    fn take(self, file: &File, until: Instant) -> io::Result<bool> {
        loop {
            let taken = match self {
                Self::Shared => file.try_lock_shared(),
                Self::Alone => file.try_lock(),
            };
            match taken {
                Ok(()) => return Ok(true),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => return Ok(false),
                Err(TryLockError::WouldBlock) => std::thread::sleep(STEP),
            }
        }
    }
}

/// One write(2). What it leaves over isn't sent after it: another process may have written by then.
fn write_once(mut file: &File, bytes: &[u8]) -> io::Result<()> {
    loop {
        match file.write(bytes) {
            Ok(written) if written == bytes.len() => return Ok(()),
            Ok(written) => {
                let message = format!("{written} of {} bytes", bytes.len());
                return Err(io::Error::new(io::ErrorKind::WriteZero, message));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Eight bytes that nobody can guess: the standard library takes the keys of its hashes from the kernel.
fn random() -> Mark {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id()).to_le_bytes()
}

#[cfg(test)]
mod tests;
