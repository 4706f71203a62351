//! The folder as it is on disk: which manifests there are, and what tells one state of a file from another.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Two states of a file with equal signatures have the same contents, but for writes within one tick of the file system's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Signature {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    pub(crate) fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }
}

/// Folders within each other that are looked into.
const DEPTH: usize = 32;

/// What is in the folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: BTreeMap<Arc<Path>, Signature>,
    /// Folders below the root that could not be read: what is known of the files in them stays.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
}

impl Listing {
    /// Whether the absence of `file` here means that it is gone.
    pub(crate) fn covers(&self, file: &Path) -> bool {
        !self.unreadable.iter().any(|(folder, _)| file.starts_with(folder))
    }
}

/// Lists the manifests below `root`. Links are followed; hidden entries are left out: editors' swap files, and what is behind
/// the links of a mounted ConfigMap. An error means that `root` itself can't be read.
pub(crate) fn list(root: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    // Links may lead back to a folder that was seen.
    let mut seen = HashSet::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        let entries = match read_folder(&folder, &mut seen) {
            Ok(entries) => entries,
            Err(error) if folder == root => return Err(error),
            // Gone since it was found: so are its files.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => {
                listing.unreadable.push((folder, error));
                continue;
            }
        };
        for path in entries {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if metadata.is_dir() {
                if depth < DEPTH {
                    folders.push((path, depth + 1));
                } else {
                    let error = io::Error::other(format!("more than {DEPTH} folders within each other"));
                    listing.unreadable.push((path, error));
                }
            } else if metadata.is_file() && sluice_crds::is_manifest(&path) {
                listing.files.insert(path.into(), Signature::of(&metadata));
            }
        }
    }
    Ok(listing)
}

fn read_folder(folder: &Path, seen: &mut HashSet<(u64, u64)>) -> io::Result<Vec<PathBuf>> {
    let metadata = fs::metadata(folder)?;
    if !seen.insert((metadata.dev(), metadata.ino())) {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if !is_hidden(Path::new(&entry.file_name())) {
            entries.push(entry.path());
        }
    }
    Ok(entries)
}

/// Whether the last component begins with a dot.
pub(crate) fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}
