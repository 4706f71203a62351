//! The node's table on disk, for a start without a controller.
//!
//! It is written after the kernel holds the table, never before, and off the hot path: the newest table wins, one write at a
//! time, with a pause between two. When a table can't be written, the file that is there is removed: the kernel holds newer
//! rules, and a start from the old file would put older ones in their place. So would a start within the pause: the kernel's
//! table says which of the controller's tables it is of, and a file of another one is passed over. So is one that can't be read:
//! the empty table that stands in for it denies, and the kernel's own rules outlive the process until the first table is applied.

use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sluice_feed::UPDATE_LIMIT_BYTES;
use sluice_feed::changes::EncodeError;
use sluice_feed::saved::{self, ReadError};
use sluice_policy::Table;
use sluice_policy::table::ApplyError;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::feed::Held;
use crate::kernel::{Left, Stand};

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);

/// Before another attempt, while the disk refuses.
const RETRY: Duration = Duration::from_secs(10);

/// Why the table on disk is not used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is larger than {UPDATE_LIMIT_BYTES} bytes")]
    TooLarge { path: PathBuf },
    #[error("{path}: {source}")]
    Unreadable { path: PathBuf, source: ReadError },
    #[error("{path} is the table of the node {found:?}, not of {wanted:?}")]
    OtherNode { path: PathBuf, found: String, wanted: String },
    #[error("{path}: {source}")]
    Contradicts { path: PathBuf, source: ApplyError },
    #[error("{path} holds no snapshot")]
    Empty { path: PathBuf },
}

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("write {path}: {source}")]
    Write { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// The file in `dir` that holds the table of `node`.
///
/// A name that isn't one of Kubernetes may share its file with another such name; the name inside the file tells them apart.
pub fn path(dir: &Path, node: &str) -> PathBuf {
    path_of(dir, "table", node)
}

/// The file in `dir` that holds the `what` of `node`.
pub(crate) fn path_of(dir: &Path, what: &str, node: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '_' };
    let name: String = node.chars().map(plain).collect();
    dir.join(format!("{what}-{name}"))
}

/// The table that `node` last held; `None` if none was ever written.
pub fn load(dir: &Path, node: &str, nothing: &Table) -> Result<Option<Held>, LoadError> {
    let path = path(dir, node);
    let bytes = match read(&path) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(LoadError::TooLarge { path }),
        Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(LoadError::Read { path, source }),
    };
    let saved = match saved::read(&bytes) {
        Ok(saved) => saved,
        Err(source) => return Err(LoadError::Unreadable { path, source }),
    };
    if saved.node != node {
        return Err(LoadError::OtherNode { path, found: saved.node, wanted: node.to_owned() });
    }
    let (table, _) = match nothing.apply(&saved.changes) {
        Ok(applied) => applied,
        Err(source) => return Err(LoadError::Contradicts { path, source }),
    };
    if !table.is_loaded() || *table.node().name != *node {
        return Err(LoadError::Empty { path });
    }
    Ok(Some(Held { table: Arc::new(table), epoch: saved.epoch, generation: saved.generation }))
}

/// [`load`], where an error is logged and counts as no table.
pub fn load_or_none(dir: &Path, node: &str, nothing: &Table) -> Option<Held> {
    load(dir, node, nothing).unwrap_or_else(|error| {
        let cause = std::error::Error::source(&error).map(|e| format!(": {e}"));
        let cause = cause.filter(|cause| !error.to_string().contains(cause.as_str())).unwrap_or_default();
        tracing::warn!("saved table ignored: {error}{cause}; until the controller answers, the kernel's rules stay as they are");
        None
    })
}

/// `saved`, unless the rules that a former process left in the kernel are of another table: the file is always written after
/// them, so they are newer. Then the kernel's rules stay as they are, and nothing passes that must be read.
pub fn unless_older(saved: Option<Held>, left: Left) -> Option<Held> {
    let saved = saved?;
    let stand = Stand { epoch: saved.epoch, generation: saved.generation.0 };
    match left {
        Left::Rules(found) if !found.is_some_and(|found| found.is_no_newer_than(stand)) => {
            tracing::warn!(
                saved = stand.generation,
                kernel = found.map(|found| found.generation),
                "the saved table is not known to be as new as the kernel's rules, which stay as they are; L7 is closed until the \
                 controller answers"
            );
            None
        }
        _ => Some(saved),
    }
}

/// `None`: larger than any table can be.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let limit = UPDATE_LIMIT_BYTES as u64 + 1024;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

/// Writes a table so that a crash at any moment leaves the old file or the new one.
pub fn save(dir: &Path, node: &str, held: &Held) -> Result<(), SaveError> {
    let path = path(dir, node);
    let bytes = saved::write(node, held.epoch, held.generation, &held.table.to_changes())?;
    replace(dir, &path, &bytes).map_err(|source| SaveError::Write { path, source })
}

fn replace(dir: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Readable by its owner alone, under a name of its own: two proxies may overlap in a planned restart.
    let mut file = tempfile::Builder::new().prefix(".table-").tempfile_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    // The rename itself is durable only once the directory is.
    std::fs::File::open(dir)?.sync_all()
}

/// Removes the table of `node`. `false`: there was none.
fn remove(dir: &Path, node: &str) -> io::Result<bool> {
    match std::fs::remove_file(path(dir, node)) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Saves the newest table that the kernel holds, until `cancel`; then once more what is not yet saved.
pub async fn keep(dir: PathBuf, node: Arc<str>, held: watch::Receiver<Option<Held>>, cancel: CancellationToken) {
    keep_by(save, dir, node, held, cancel).await;
}

type Save = fn(&Path, &str, &Held) -> Result<(), SaveError>;

/// Saves, or removes the older table that is there. `Err`: why it isn't saved, and what that means for a restart.
fn save_or_remove(save: Save, dir: &Path, node: &str, held: &Held) -> Result<(), String> {
    let Err(error) = save(dir, node, held) else { return Ok(()) };
    let restart = "a restart without a controller would begin";
    Err(match remove(dir, node) {
        Ok(true) => format!("{error}; the older one on disk is removed, and {restart} closed"),
        Ok(false) => format!("{error}; {restart} closed"),
        Err(old) => format!("{error}; the older one on disk can't be removed ({old}), and {restart} with it"),
    })
}

async fn keep_by(save: Save, dir: PathBuf, node: Arc<str>, mut held: watch::Receiver<Option<Held>>, cancel: CancellationToken) {
    let mut failing = false;
    loop {
        let ended = tokio::select! {
            () = cancel.cancelled() => true,
            changed = held.changed() => changed.is_err(),
            () = tokio::time::sleep(RETRY), if failing => false,
        };
        let due = failing || !ended || held.has_changed().unwrap_or(false);
        let newest = due.then(|| held.borrow_and_update().clone()).flatten();
        if let Some(newest) = newest {
            let (dir, node) = (dir.clone(), node.clone());
            let write = move || save_or_remove(save, &dir, &node, &newest);
            let saved = tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.to_string()));
            match &saved {
                Ok(()) if failing => tracing::info!("the table is saved again"),
                Err(error) if !failing => tracing::warn!("the table can't be saved: {error}"),
                _ => {}
            }
            failing = saved.is_err();
        }
        if ended {
            return;
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

#[cfg(test)]
mod tests;
