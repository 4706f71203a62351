//! Settings of `sluice`. They come from the environment, and this is the only module that reads it.

use std::path::PathBuf;

use serde::Serialize;

/// What the environment decides, checked once at start.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings {
    /// Colours on terminals: on unless `NO_COLOR` is set (to anything but nothing) or `TERM` is `dumb`.
    pub colors: bool,
    /// Where a demonstration that is kept up says so: `XDG_RUNTIME_DIR`, else `~/.cache`, and `sluice` below it.
    pub state_dir: PathBuf,
    /// The shell of `sluice demo exec` without a command: `SHELL`, else `/bin/sh`.
    pub shell: PathBuf,
    /// Whether there is a `sudo` on the `PATH`.
    pub sudo: bool,
    /// Whether this program was started through it.
    pub through_sudo: bool,
}

impl Settings {
    pub fn from_environment() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let state_dir = set("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .filter(|dir| dir.is_dir())
            .or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("sluice");
        Self {
            colors: set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb"),
            state_dir,
            shell: set("SHELL").map_or_else(|| PathBuf::from("/bin/sh"), PathBuf::from),
            sudo: set("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("sudo").is_file())),
            through_sudo: set("SUDO_UID").is_some(),
        }
    }
}
