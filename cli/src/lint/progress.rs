//! How far it is, on standard error: on a terminal, and only where it takes more than a second.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(1);
const BETWEEN: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// A bar on one line, which is wiped when it ends.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    drawn: Option<Instant>,
    on: bool,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), drawn: None, on: io::stderr().is_terminal() }
    }

    /// `done` of `all` steps of `what`.
    pub(super) fn step(&mut self, what: &str, done: usize, all: usize) {
        let due = self.drawn.map_or(PATIENCE, |drawn| drawn.duration_since(self.begun) + BETWEEN);
        if !self.on || self.begun.elapsed() < due {
            return;
        }
        self.drawn = Some(Instant::now());
        // Nobody is left to tell if standard error is closed.
        let _ = write!(io::stderr(), "\r\x1b[K{}", line(what, done, all));
        let _ = io::stderr().flush();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
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
