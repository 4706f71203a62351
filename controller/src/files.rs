//! A folder of manifests, watched: what each file holds, and the edits that follow when it changes.
//!
//! What a file held stays in force until a new state of it has been read as a whole. A file is read when its writer closes it or
//! renames it into place; one that is held open is read once its writer has been silent for a while; one that is gone, after a
//! short grace, because some editors move the old file away before they write the new one. Event queues overflow, and some file
//! systems tell nothing: so the folder is also looked through every few seconds.
//!
//! | state of a file | what it held |
//! |---|---|
//! | not YAML, too large, unreadable, empty (0 bytes), no folder any more | stays, and the file is reported |
//! | an object in it that can't be understood at all | of that object: stays |
//! | gone | goes |

mod claims;
mod events;
mod folder;
mod reader;
mod reports;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use sluice_policy::world::Edit;

use claims::Claims;
use events::Ask;
use folder::Signature;
use reader::{Outcome, Reader};
use reports::Reports;

/// After the first event of a burst, how long its other events may still come.
const SETTLE: Duration = Duration::from_millis(2);
/// How long a burst without an end is gathered.
const SETTLE_LIMIT: Duration = Duration::from_millis(20);
/// How long a writer that keeps the file open must be silent.
const WRITER_SILENCE: Duration = Duration::from_millis(500);
/// How long a file must be gone.
const GONE: Duration = Duration::from_millis(40);
/// When new folders are looked through once more: their first files may be older than the watch.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Between two looks without an event.
const LOOK: Duration = Duration::from_secs(5);
/// Events that may wait; of more than that nothing is lost but their names.
const EVENTS: usize = 4096;

/// What to watch.
#[derive(Clone, Debug)]
pub struct FilesConfig {
    pub folder: PathBuf,
    /// Of one file, in bytes.
    pub file_limit_bytes: usize,
}

/// Why a folder can't be watched.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    #[error("give a folder of manifests: --files {}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
    #[error("--files {}: is no folder: give the folder that holds the manifests", folder.display())]
    NotAFolder { folder: PathBuf },
    #[error("--files {} can't be watched", folder.display())]
    Watch { folder: PathBuf, source: notify::Error },
}

/// What changed in the folder.
#[derive(Debug, Default)]
pub struct Batch {
    pub edits: Vec<Edit>,
    /// Files that could not be read as a whole ever since the start: nobody knows what they held before it.
    pub never_read: usize,
    /// All that is wrong now, if it differs from the batch before.
    pub problems: Option<Vec<String>>,
    pub files: usize,
    pub objects: usize,
    /// When the first event of the batch came.
    pub since: Option<Instant>,
}

/// Why the thread wakes.
enum Wake {
    Event(notify::Result<notify::Event>),
    Read(Arc<Path>, Outcome),
    Stop,
}

/// A folder that is being watched. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    wake: SyncSender<Wake>,
    stop: Arc<AtomicBool>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // If the queue is full the thread wakes anyway.
        let _ = self.wake.try_send(Wake::Stop);
    }
}

/// Watches a folder from a thread of its own. `deliver` gets a first batch with all that the folder holds, then one for each
/// change; the watch ends when it returns false.
pub fn watch(config: FilesConfig, deliver: impl FnMut(Batch) -> bool + Send + 'static) -> Result<Watch, FilesError> {
    let folder = config.folder.clone();
    let unusable = |source| FilesError::Folder { folder: folder.clone(), source };
    if !std::fs::metadata(&folder).map_err(unusable)?.is_dir() {
        return Err(FilesError::NotAFolder { folder });
    }
    std::fs::read_dir(&folder).map_err(unusable)?;
    // Absolute, but with its links: one that is pointed elsewhere is a change.
    let root = std::path::absolute(&folder).map_err(unusable)?;

    let (wake, wakes) = sync_channel(EVENTS);
    let overflow = Arc::new(AtomicBool::new(false));
    let (events, overflowed) = (wake.clone(), overflow.clone());
    let watcher = notify::recommended_watcher(move |event| {
        if events.try_send(Wake::Event(event)).is_err() {
            overflowed.store(true, Ordering::Relaxed);
        }
    });
    let watched = watcher.and_then(|mut watcher| {
        watcher.watch(&root, RecursiveMode::Recursive)?;
        Ok(watcher)
    });
    let watcher = watched.map_err(|source| FilesError::Watch { folder: folder.clone(), source })?;
    let stop = Arc::new(AtomicBool::new(false));
    let files = Files {
        root_identity: identity(&root),
        root,
        watcher,
        reader: Reader::new(config.file_limit_bytes, wake.clone()),
        known: HashMap::new(),
        due: HashMap::new(),
        claims: Claims::default(),
        reports: Reports::default(),
        look_at: Instant::now(),
        look_again: None,
        since: None,
    };
    let stopped = stop.clone();
    let thread = std::thread::Builder::new().name("files".to_owned());
    thread.spawn(move || files.run(&wakes, &overflow, &stopped, deliver)).map_err(unusable)?;
    Ok(Watch { wake, stop })
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What is known of a file.
#[derive(Debug, Default)]
struct Known {
    /// Of the state that was last read, or tried.
    signature: Option<Signature>,
    /// Whether any state of it was ever read as a whole.
    understood: bool,
}

struct Files {
    root: PathBuf,
    /// Of the folder that is being watched.
    root_identity: Option<(u64, u64)>,
    watcher: RecommendedWatcher,
    reader: Reader,
    known: HashMap<Arc<Path>, Known>,
    /// Files to be read, and when.
    due: HashMap<Arc<Path>, Instant>,
    claims: Claims,
    reports: Reports,
    look_at: Instant,
    look_again: Option<Instant>,
    since: Option<Instant>,
}

impl Files {
    fn run(mut self, wakes: &Receiver<Wake>, overflow: &AtomicBool, stop: &AtomicBool, mut deliver: impl FnMut(Batch) -> bool) {
        self.look();
        for at in self.due.values_mut() {
            *at = Instant::now();
        }
        let mut edits = self.read_due();
        let mut begun = false;
        loop {
            // The first batch is the whole folder: half of its policies would open what the others close.
            let due = if begun { !edits.is_empty() || self.reports.is_changed() } else { !self.reader.is_busy() };
            begun |= due;
            if due && !deliver(self.batch(std::mem::take(&mut edits))) {
                return;
            }
            match wakes.recv_timeout(self.next_wake().saturating_duration_since(Instant::now())) {
                Ok(wake) => {
                    let mut next = Some(wake);
                    let limit = Instant::now() + SETTLE_LIMIT;
                    while let Some(wake) = next {
                        // What was read last need not wait for more: its burst has had its time before the reading.
                        let is_event = matches!(wake, Wake::Event(_));
                        edits.extend(self.note(wake));
                        let now = Instant::now();
                        let wait = if is_event || self.reader.is_busy() { SETTLE } else { Duration::ZERO };
                        next = if now < limit { wakes.recv_timeout(wait.min(limit - now)).ok() } else { None };
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let now = Instant::now();
            let again = self.look_again.take_if(|at| *at <= now).is_some();
            if overflow.swap(false, Ordering::Relaxed) || again || self.look_at <= now {
                self.look();
            }
            edits.extend(self.read_due());
        }
    }

    fn batch(&mut self, edits: Vec<Edit>) -> Batch {
        Batch {
            edits,
            never_read: self.known.values().filter(|known| !known.understood).count(),
            problems: self.reports.take_changes(),
            files: self.known.len(),
            objects: self.claims.objects(),
            since: self.since.take(),
        }
    }

    fn next_wake(&self) -> Instant {
        let read = self.due.iter().filter(|(file, _)| !self.reader.is_reading(file)).map(|(_, at)| *at).min();
        [Some(self.look_at), self.look_again, read].into_iter().flatten().min().unwrap_or(self.look_at)
    }

    fn note(&mut self, wake: Wake) -> Vec<Edit> {
        match wake {
            Wake::Stop => {}
            Wake::Read(file, outcome) => {
                self.reader.finished(&file);
                return self.take(&file, outcome);
            }
            Wake::Event(event) => {
                if let Err(error) = &event {
                    let line = format!("{}: not all of it is watched: {error}; changes may take seconds", self.root.display());
                    self.reports.set("watch", vec![line]);
                }
                for ask in events::asks(&event, &self.root) {
                    let now = Instant::now();
                    self.since.get_or_insert(now);
                    match ask {
                        Ask::Read(path) if self.known.contains_key(&*path) => {
                            let at = if path.exists() { now } else { now + GONE };
                            self.due.insert(path.into(), at);
                        }
                        // New. Looking through a folder of thousands of files for one of them would take milliseconds.
                        Ask::Read(path) if path.parent() == Some(&self.root) && path.is_file() => {
                            let file: Arc<Path> = path.into();
                            self.known.entry(file.clone()).or_default();
                            self.due.insert(file, now);
                        }
                        // New, or known by another name: a folder below the root may be reached in two ways.
                        Ask::Read(path) => {
                            self.due.remove(&*path);
                            self.look_at = now;
                        }
                        Ask::Wait(path) => {
                            self.due.insert(path.into(), now + WRITER_SILENCE);
                        }
                        Ask::Look => {
                            self.look_at = now;
                            self.look_again = Some(now + LOOK_AGAIN);
                        }
                    }
                }
            }
        }
        Vec::new()
    }

    /// Looks through the folder for what no event told.
    fn look(&mut self) {
        let started = Instant::now();
        self.follow_root();
        let root = self.root.display().to_string();
        match folder::list(&self.root) {
            Err(error) => {
                let line = format!("{root}: {error}: what its files held stays in force until the folder can be read again");
                self.reports.set(&root, vec![line]);
            }
            Ok(listing) => {
                let unreadable = listing.unreadable.iter();
                let lines = unreadable.map(|(path, error)| format!("{}: {error}: what its files held stays", path.display()));
                self.reports.set(&root, lines.collect());
                for (file, signature) in &listing.files {
                    let known = self.known.entry(file.clone()).or_default().signature;
                    if known != Some(*signature) && !self.due.contains_key(file) {
                        // A known file that is being written to right now has an event under way that says so.
                        let settled = known.is_none_or(|known| !known.is_same_file(signature));
                        let delay = if settled { Duration::ZERO } else { LOOK_AGAIN };
                        self.due.insert(file.clone(), started + delay);
                    }
                }
                for file in self.known.keys().filter(|file| !listing.files.contains_key(*file) && listing.covers(file)) {
                    self.due.entry(file.clone()).or_insert(started + GONE);
                }
            }
        }
        // A huge folder is looked through less often: at most one hundredth of the time goes into it.
        self.look_at = Instant::now() + LOOK.max(started.elapsed() * 100);
    }

    /// Watches the folder that the path leads to now, if it is another one: made anew, or behind a link that was pointed
    /// elsewhere.
    fn follow_root(&mut self) {
        let now = identity(&self.root);
        if now.is_none() || now == self.root_identity {
            return;
        }
        // It may be gone already, with its watch.
        let _ = self.watcher.unwatch(&self.root);
        if self.watcher.watch(&self.root, RecursiveMode::Recursive).is_ok() {
            self.root_identity = now;
        }
    }

    fn read_due(&mut self) -> Vec<Edit> {
        let now = Instant::now();
        let mut due: Vec<_> = self.due.iter().filter(|(_, at)| **at <= now).map(|(file, _)| file.clone()).collect();
        due.sort();
        let mut edits = Vec::new();
        for file in due {
            if self.reader.is_reading(&file) {
                continue;
            }
            self.due.remove(&file);
            if !self.known.contains_key(&file) {
                self.look_at = now;
            } else if let Some(outcome) = self.reader.read(&file) {
                edits.extend(self.take(&file, outcome));
            }
        }
        edits
    }

    fn take(&mut self, file: &Arc<Path>, outcome: Outcome) -> Vec<Edit> {
        let name = file.display().to_string();
        let edits = match outcome {
            Outcome::Gone if self.root.is_dir() => {
                self.known.remove(file);
                self.reports.set(&name, Vec::new());
                self.claims.replace(file, None)
            }
            // The folder itself is gone: a disk that was unmounted says nothing about policies.
            Outcome::Gone => {
                self.look_at = Instant::now();
                Vec::new()
            }
            Outcome::StillWritten => {
                self.due.entry(file.clone()).or_insert(Instant::now() + WRITER_SILENCE / 10);
                Vec::new()
            }
            Outcome::Refused { signature, lines, readable } => {
                let known = self.known.entry(file.clone()).or_default();
                known.signature = signature;
                let lines = lines.into_iter().map(|line| format!("{line}; what the file held before stays in force"));
                self.reports.set(&name, lines.collect());
                match readable {
                    // Nothing of it was ever in force: the documents that can be read are better than none.
                    Some(readable) if !known.understood && self.claims.held(file).is_none() => {
                        self.claims.replace(file, Some(readable))
                    }
                    _ => Vec::new(),
                }
            }
            Outcome::Read { signature, mut held, not_understood, lines, empty } => {
                let known = self.known.entry(file.clone()).or_default();
                known.signature = Some(signature);
                if empty && self.claims.held(file).is_some() {
                    let line = format!(
                        "{name}: empty, as a file is whose writing was cut short; what it held before stays in force: delete the file to take its objects away"
                    );
                    self.reports.set(&name, vec![line]);
                    return Vec::new();
                }
                known.understood = true;
                self.reports.set(&name, lines);
                if let Some(before) = self.claims.held(file) {
                    for key in not_understood {
                        if let Some(object) = before.get(&key) {
                            held.insert(key, object.clone());
                        }
                    }
                }
                self.claims.replace(file, Some(held))
            }
        };
        self.reports.set("duplicates", self.claims.duplicates());
        edits
    }
}
