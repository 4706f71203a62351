//! What wakes a core's thread beside its sockets.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Wake;

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Rung by others, heard by one thread.
#[derive(Debug)]
pub(super) struct Bell {
    event: EventFd,
    rung: Mutex<Rung>,
}

/// What the bell was rung for.
#[derive(Debug, Default)]
pub(super) struct Rung {
    /// Which of those that learn can go on.
    pub(super) learned: Vec<usize>,
    /// Nothing is taken any more; it ends when all that was read has its answer.
    pub(super) drain: bool,
    /// It ends at once.
    pub(super) end: bool,
}

impl Rung {
    const fn is_nothing(&self) -> bool {
        self.learned.is_empty() && !self.drain && !self.end
    }
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self { event, rung: Mutex::default() })
    }

    pub(super) fn drain(&self) {
        self.ring(|rung| rung.drain = true);
    }

    pub(super) fn end(&self) {
        self.ring(|rung| rung.end = true);
    }

    /// All that it was rung for since this was called last.
    pub(super) fn heard(&self) -> Rung {
        // Read before the list is taken: who rings between the two rings once too often, not once too little.
        let _ = self.event.read();
        std::mem::take(&mut self.locked())
    }

    /// One write, however many ring before they are heard.
    fn ring(&self, what: impl FnOnce(&mut Rung)) {
        let mut rung = self.locked();
        let is_first = rung.is_nothing();
        what(&mut rung);
        drop(rung);
        if is_first {
            // Full, it is heard all the same.
            let _ = self.event.write(1);
        }
    }

    fn locked(&self) -> MutexGuard<'_, Rung> {
        self.rung.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}

/// Rings when the learning of this number can go on.
pub(super) struct Waiter {
    pub(super) number: usize,
    pub(super) bell: Arc<Bell>,
}

impl Wake for Waiter {
    fn wake(self: Arc<Self>) {
        self.bell.ring(|rung| rung.learned.push(self.number));
    }
}
