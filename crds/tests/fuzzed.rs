//! What fuzzing manifests has found, and what it began with.

use std::path::Path;

#[path = "../fuzz/body.rs"]
mod body;

#[test]
fn corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/manifests");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 1, "{} holds nothing", folder.display());
    for file in files {
        let data = std::fs::read(&file).unwrap();
        assert!(std::panic::catch_unwind(|| body::manifests(&data)).is_ok(), "{}", file.display());
    }
}
