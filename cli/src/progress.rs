//! How far it is, on standard error: on a terminal, and only where it takes more than a second.

use std::io::{self, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::config::Settings;

const PATIENCE: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// A bar on one line, which is wiped when it ends. Many threads may move it.
#[derive(Debug)]
pub struct Progress {
    begun: Instant,
    /// When it was last drawn; `None` where nobody looks.
    drawn: Option<Mutex<Option<Instant>>>,
}

impl Progress {
    pub fn on_terminal(settings: &Settings) -> Self {
        let looked_at = settings.colors && io::stderr().is_terminal();
        Self { begun: Instant::now(), drawn: looked_at.then(Mutex::default) }
    }

    /// One that nobody looks at.
    pub fn hidden() -> Self {
        Self { begun: Instant::now(), drawn: None }
    }

    /// `done` of `all` steps of `what`.
    pub fn step(&self, what: &str, done: usize, all: usize) {
        // Whoever finds another thread drawing has nothing to add.
        let Some(Ok(mut drawn)) = self.drawn.as_ref().map(Mutex::try_lock) else { return };
        let due = drawn.map_or(PATIENCE, |drawn| drawn.duration_since(self.begun) + BETWEEN);
        if self.begun.elapsed() < due {
            return;
        }
        *drawn = Some(Instant::now());
        // Nobody is left to tell if standard error is closed.
        let _ = write!(io::stderr(), "\r\x1b[K{}", line(what, done, all));
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let drawn = self.drawn.take().and_then(|drawn| drawn.into_inner().ok().flatten());
        if drawn.is_some() {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(what: &str, done: usize, all: usize) -> String {
    let full = (done * WIDTH).checked_div(all).unwrap_or(0).min(WIDTH);
    format!("[{}{}] {what} {done} of {all}", "#".repeat(full), " ".repeat(WIDTH - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_fills() {
        assert_eq!(line("reading", 0, 4), "[                              ] reading 0 of 4");
        assert_eq!(line("reading", 2, 4), "[###############               ] reading 2 of 4");
        assert_eq!(line("reading", 4, 4), "[##############################] reading 4 of 4");
        assert_eq!(line("reading", 0, 0), "[                              ] reading 0 of 0");
    }
}
