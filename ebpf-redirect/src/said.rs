//! What libbpf has to say of a call that failed. By itself it would write it to standard error.

use std::cell::RefCell;
use std::sync::Once;

use libbpf_rs::{PrintLevel, set_print};

/// The end of a verifier's log says why; the rest is long.
const MOST_BYTES: usize = 2048;

thread_local! {
    static WARNINGS: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A call of libbpf that failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The system's error number, where there is one.
    pub(crate) errno: Option<i32>,
    /// The error, and what libbpf warned of meanwhile.
    pub(crate) said: String,
}

/// Calls libbpf with its warnings kept. They come on the calling thread.
pub(crate) fn listening<T>(work: impl FnOnce() -> libbpf_rs::Result<T>) -> Result<T, Failure> {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        set_print(Some((PrintLevel::Warn, remember)));
    });
    WARNINGS.take();
    let outcome = work();
    let warnings = WARNINGS.take();
    outcome.map_err(|error| {
        let error = format!("{error:#}");
        let errno = errno(&error);
        let said = warnings.split_whitespace().collect::<Vec<_>>().join(" ");
        Failure { errno, said: if said.is_empty() { error } else { format!("{error} ({said})") } }
    })
}

fn remember(_level: PrintLevel, text: String) {
    WARNINGS.with_borrow_mut(|warnings| {
        warnings.push_str(&text);
        let surplus = warnings.len().saturating_sub(MOST_BYTES);
        let cut = (surplus..warnings.len()).find(|at| warnings.is_char_boundary(*at)).unwrap_or(0);
        warnings.drain(..cut);
    });
}

/// The number in "(os error 2)". The error's type keeps it to itself, and its kinds don't tell EPERM, which is about this
/// process, from EACCES, which is about the program.
fn errno(error: &str) -> Option<i32> {
    let (_, behind) = error.rsplit_once("(os error ")?;
    behind.split_once(')')?.0.parse().ok()
}
