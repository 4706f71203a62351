//! Files and folders of manifests.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_policy::source::{Key, Object};
use sluice_policy::world::Edit;

use crate::diagnostic::{Diagnostic, Severity};
use crate::excerpt::{Outline, read_where};
use crate::lower::lower_document;
use crate::manifest::{ManifestError, Manifests, read_within};
use crate::yaml::Limits;

/// What one file holds, as far as it could be read.
#[derive(Clone, Debug, Default)]
pub struct FileObjects {
    /// In the order of the file; a key appears once.
    pub objects: Vec<FileObject>,
    /// Objects of which nothing could be understood (there is a diagnostic): what was understood before should stay in force.
    pub not_understood: Vec<Key>,
    pub diagnostics: Vec<Diagnostic>,
}

/// One object, and where it stands.
#[derive(Clone, Debug)]
pub struct FileObject {
    pub object: Object,
    pub line: u32,
}

/// Why a file as a whole can't be taken: what it held before stays in force.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{}: {bytes} bytes, and the limit is {limit}: split it", path.display())]
    TooLarge { path: PathBuf, bytes: u64, limit: usize },
    #[error("{}:{line}: not UTF-8: save it as UTF-8", path.display())]
    NotUtf8 { path: PathBuf, line: usize },
    /// `readable` is what the documents that did parse hold; it is for those who answer with what there is.
    #[error("{}", list(errors))]
    Syntax { path: PathBuf, errors: Vec<ManifestError>, readable: Box<FileObjects> },
}

fn list(errors: &[ManifestError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

impl FileError {
    pub fn path(&self) -> &Path {
        match self {
            Self::Io { path, .. } | Self::TooLarge { path, .. } | Self::NotUtf8 { path, .. } | Self::Syntax { path, .. } => path,
        }
    }

    /// Whether the file isn't there (any more).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Whether a file of this name is one of manifests: `.yaml`, `.yml` or `.json`, and not hidden.
pub fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|n| n.as_encoded_bytes().starts_with(b"."));
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    !hidden && matches!(extension.as_str(), "yaml" | "yml" | "json")
}

/// Reads and lowers one file, within the default [`Limits`].
pub fn read_file(path: &Path) -> Result<FileObjects, FileError> {
    read_file_within(path, Limits::default())
}

/// The documents of one file, as they were written.
pub fn read_manifests(path: &Path, limits: Limits) -> Result<Manifests, FileError> {
    let text = read_text(path, limits.bytes)?;
    Ok(read_within(&text, &path.to_string_lossy(), limits))
}

/// Reads and lowers one file.
pub fn read_file_within(path: &Path, limits: Limits) -> Result<FileObjects, FileError> {
    objects(path, read_manifests(path, limits)?)
}

/// [`read_file`], without the objects that can be told by their lines and aren't `wanted`.
fn read_excerpt(path: &Path, wanted: impl Fn(Outline<'_>) -> bool) -> Result<FileObjects, FileError> {
    let text = read_text(path, Limits::default().bytes)?;
    objects(path, read_where(&text, &path.to_string_lossy(), Limits::default(), wanted))
}

fn objects(path: &Path, manifests: Manifests) -> Result<FileObjects, FileError> {
    let Manifests { documents, errors } = manifests;
    let mut file = FileObjects::default();
    let mut lines: HashMap<Key, u32> = HashMap::new();
    for document in documents {
        let lowered = lower_document(&document);
        file.diagnostics.extend(lowered.diagnostics);
        let Some(key) = lowered.key else { continue };
        if let Some(first) = lines.insert(key.clone(), document.line) {
            file.diagnostics.push(twice(&key, &document.source, document.line, &format!("line {first}")));
            file.objects.retain(|o| o.object.key() != key);
            file.not_understood.retain(|k| *k != key);
        }
        match lowered.object {
            Some(object) => file.objects.push(FileObject { object, line: document.line }),
            None => file.not_understood.push(key),
        }
    }
    if errors.is_empty() {
        return Ok(file);
    }
    Err(FileError::Syntax { path: path.to_owned(), errors, readable: Box::new(file) })
}

/// The remark on an object that is defined a second time; the later definition counts, as with `kubectl apply`.
fn twice(key: &Key, source: &Arc<str>, line: u32, first: &str) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        source: Some(source.clone()),
        line,
        object: key.to_string().into(),
        field: String::new(),
        message: format!("defined a second time; the first is at {first}, and this one counts"),
        remedy: "remove one of them".to_owned(),
    }
}

fn read_text(path: &Path, limit: usize) -> Result<String, FileError> {
    let io = |source| FileError::Io { path: path.to_owned(), source };
    let file = open(path).map_err(io)?;
    let mut bytes = Vec::new();
    // One byte more than the limit tells a file that is too large, also one that grows while it is read.
    file.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > limit {
        let bytes = fs::metadata(path).map_or(bytes.len() as u64, |m| m.len());
        return Err(FileError::TooLarge { path: path.to_owned(), bytes, limit });
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|b| **b == b'\n').count() + 1;
        FileError::NotUtf8 { path: path.to_owned(), line }
    })
}

/// Opens a regular file. A pipe or device is refused: reading one might never end.
fn open(path: &Path) -> io::Result<File> {
    // Asked before opening, because opening a pipe waits for its writer.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

/// Everything that a list of paths holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In the order of paths and files; a key appears once.
    pub objects: Vec<Object>,
    pub diagnostics: Vec<Diagnostic>,
    /// Files that could not be read as a whole. What could be read of them is among the objects.
    pub unreadable: Vec<FileError>,
    /// How many files were read or tried.
    pub files: usize,
}

impl Loaded {
    /// Whether everything was read and understood: no unreadable file and no error.
    pub fn is_clean(&self) -> bool {
        self.unreadable.is_empty() && self.diagnostics.iter().all(|d| d.severity < Severity::Error)
    }

    /// The objects, as edits of an empty world.
    pub fn into_edits(self) -> impl Iterator<Item = Edit> {
        self.objects.into_iter().map(Edit::Put)
    }
}

/// Reads files, and folders recursively (`*.yaml`, `*.yml`, `*.json`, sorted, none hidden). A file that is named itself is read
/// whatever its name. An object that a later file defines again replaces the earlier one, and is reported.
pub fn load(paths: &[PathBuf]) -> Loaded {
    load_by(paths, read_file)
}

/// [`load`], for a question that isn't about everything: objects that can be told by their lines, and aren't `wanted`, are left out
/// and not checked. Objects that can't be told so are all there.
pub fn load_where(paths: &[PathBuf], wanted: impl Fn(Outline<'_>) -> bool + Sync) -> Loaded {
    load_by(paths, |path| read_excerpt(path, &wanted))
}

fn load_by(paths: &[PathBuf], read: impl Fn(&Path) -> Result<FileObjects, FileError> + Sync) -> Loaded {
    let mut loaded = Loaded::default();
    let mut files = Vec::new();
    for path in paths {
        match files_below(path) {
            Ok(found) => files.extend(found),
            Err(source) => loaded.unreadable.push(FileError::Io { path: path.clone(), source }),
        }
    }
    let mut seen_files = HashSet::new();
    files.retain(|f| seen_files.insert(f.clone()));
    loaded.files = files.len();
    let mut places: HashMap<Key, (usize, String)> = HashMap::new();
    let read = each_file(&files, read);
    for (path, file) in files.iter().zip(read) {
        let file = match file {
            Ok(file) => file,
            Err(mut error) => {
                let readable = match &mut error {
                    FileError::Syntax { readable, .. } => std::mem::take(&mut **readable),
                    _ => FileObjects::default(),
                };
                loaded.unreadable.push(error);
                readable
            }
        };
        loaded.diagnostics.extend(file.diagnostics);
        let source: Arc<str> = path.to_string_lossy().into();
        for FileObject { object, line } in file.objects {
            let key = object.key();
            match places.get(&key) {
                None => {
                    places.insert(key, (loaded.objects.len(), format!("{source}:{line}")));
                    loaded.objects.push(object);
                }
                Some((index, first)) => {
                    loaded.diagnostics.push(twice(&key, &source, line, first));
                    loaded.objects[*index] = object;
                }
            }
        }
    }
    loaded
}

/// What `read` makes of each file, in their order; read by as many threads as there are processors, up to 8.
pub fn each_file<T: Send>(files: &[PathBuf], read: impl Fn(&Path) -> T + Sync) -> Vec<T> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8).min(files.len());
    if threads < 2 {
        return files.iter().map(|file| read(file)).collect();
    }
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::with_capacity(files.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(file) = files.get(number) else { return };
                    let result = read(file);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((number, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_unstable_by_key(|(number, _)| *number);
    results.into_iter().map(|(_, result)| result).collect()
}

/// The manifests in a folder and those below it, sorted by path; a path that is no folder is itself.
///
/// Hidden entries are left out: editors' swap files, and the `..data` folder behind the links of a mounted ConfigMap.
pub fn files_below(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !fs::metadata(path)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    // Links may lead back to a folder that was seen.
    let mut seen = HashSet::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        if !seen.insert(folder.canonicalize()?) {
            continue;
        }
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            match fs::metadata(&path) {
                Ok(metadata) if metadata.is_dir() => folders.push(path),
                Ok(metadata) if metadata.is_file() && is_manifest(&path) => files.push(path),
                // Gone since the folder was listed, a dangling link, or no file: nothing to read.
                Ok(_) | Err(_) => {}
            }
        }
    }
    files.sort();
    Ok(files)
}
