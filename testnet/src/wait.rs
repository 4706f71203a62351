//! Waiting for something to become true, and finding the programs of this workspace.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::Error;

/// Asks every few milliseconds until `holds` says yes (true) or `timeout` is over (false).
pub fn wait_until(timeout: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A program of this workspace, as it lies next to the running one or, for a test in `deps/`, one folder above.
pub fn binary(name: &str) -> Result<PathBuf, Error> {
    let missing = |looked: String| Error::NotBuilt { name: name.to_owned(), looked };
    let own = std::env::current_exe().map_err(|error| missing(error.to_string()))?;
    let folders: Vec<_> = own.ancestors().skip(1).take(2).collect();
    folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| missing(format!("{} and its parent", folders[0].display())))
}
