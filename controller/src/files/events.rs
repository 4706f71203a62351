//! What an event of the file system asks for.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RemoveKind, RenameMode};
use notify::{Event, EventKind};

use super::folder::is_hidden;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// The file is complete, or gone: read it.
    Read(PathBuf),
    /// Somebody has it open and writes: read it when they close it, or fall silent.
    Wait(PathBuf),
    /// Links or folders changed: look at everything.
    Look,
}

/// | event | asks for |
/// |---|---|
/// | a file closed after writing, renamed to its name, linked, removed, its mode changed | read |
/// | a file created or written to | wait: it is half-written until it is closed |
/// | a folder or link of any name (`..data`), what is in hidden folders, an overflow of the queue, an error | look |
/// | a file that is no manifest, an opening, a closing after reading | nothing |
pub(crate) fn asks(event: &notify::Result<Event>, root: &Path) -> Vec<Ask> {
    let Ok(event) = event else { return vec![Ask::Look] };
    if event.need_rescan() {
        return vec![Ask::Look];
    }
    event.paths.iter().filter_map(|path| ask(event.kind, path, root)).collect()
}

fn ask(kind: EventKind, path: &Path, root: &Path) -> Option<Ask> {
    if matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write)) {
        return None;
    }
    if !path.starts_with(root) {
        return None;
    }
    if path == root || matches!(kind, EventKind::Create(CreateKind::Folder) | EventKind::Remove(RemoveKind::Folder)) {
        return Some(Ask::Look);
    }
    let metadata = fs::symlink_metadata(path).ok();
    let is_plain = metadata.as_ref().is_none_or(fs::Metadata::is_file);
    if !is_plain {
        return Some(Ask::Look);
    }
    // A file in a hidden folder counts only under the name of a link to it, which the folder's listing knows.
    let below = path.strip_prefix(root).ok().and_then(Path::parent);
    if below.is_some_and(|folders| folders.iter().any(|folder| is_hidden(Path::new(folder)))) {
        let is_whole = !matches!(kind, EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) | EventKind::Create(_));
        return is_whole.then_some(Ask::Look);
    }
    let is_manifest = sluice_crds::is_manifest(path);
    match kind {
        EventKind::Modify(ModifyKind::Name(RenameMode::From)) if !is_manifest => Some(Ask::Look),
        _ if !is_manifest || is_hidden(path) => None,
        EventKind::Modify(ModifyKind::Data(_) | ModifyKind::Any) => Some(Ask::Wait(path.to_owned())),
        // A hard link appears whole.
        EventKind::Create(_) if metadata.is_some_and(|m| m.nlink() == 1) => Some(Ask::Wait(path.to_owned())),
        _ => Some(Ask::Read(path.to_owned())),
    }
}
