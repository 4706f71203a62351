//! What libbpf has to say of a call that failed. By itself it would write it to standard error.
//!
//! The callback is our own, not that of libbpf-rs: that one ends the process where a text isn't UTF-8. What libbpf 1.1 takes for
//! the kernel's message to a refused netlink request may be any bytes.

#![expect(unsafe_code, reason = "a callback of C, with the arguments of a printf")]

use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::mem;
use std::sync::Once;

use libbpf_rs::libbpf_sys::{LIBBPF_WARN, libbpf_print_fn_t, libbpf_print_level, libbpf_set_print};

/// The end of a verifier's log says why; the rest is long.
const MOST_BYTES: usize = 2048;

/// What is formatted of one text: a verifier's log at its usual level is smaller.
const MOST_FORMATTED: usize = 1 << 16;

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
        // SAFETY: the callback has libbpf's signature but for the name of the last type, which differs between architectures and
        // is a pointer in each.
        unsafe {
            let callback: *const () = remember as *const ();
            libbpf_set_print(mem::transmute::<*const (), libbpf_print_fn_t>(callback));
        }
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

unsafe extern "C" {
    /// As stdio.h has it; where Sluice runs, a `va_list` that is an argument is a pointer.
    fn vsnprintf(into: *mut c_char, size: usize, format: *const c_char, arguments: *mut c_void) -> c_int;
}

/// Called by libbpf. Whatever the text, it must not panic: C can't be unwound.
extern "C" fn remember(level: libbpf_print_level, format: *const c_char, arguments: *mut c_void) -> c_int {
    if level != LIBBPF_WARN {
        return 0;
    }
    let mut text = vec![0_u8; MOST_FORMATTED];
    // SAFETY: `text` has as many bytes as it says; format and arguments come from libbpf as vprintf wants them.
    let length = unsafe { vsnprintf(text.as_mut_ptr().cast(), text.len(), format, arguments) };
    // The length is that of the whole text, of which the buffer holds what fits, and a zero.
    text.truncate(usize::try_from(length).unwrap_or(0).min(MOST_FORMATTED - 1));
    keep(&String::from_utf8_lossy(&text));
    0
}

fn keep(text: &str) {
    WARNINGS.with_borrow_mut(|warnings| {
        warnings.push_str(text);
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

#[cfg(test)]
mod tests {
    use std::ffi::CStr;
    use std::ptr;

    use libbpf_rs::libbpf_sys::bpf_object__open_file;

    use super::*;

    fn warned_of(path: &CStr) -> String {
        let failure = listening(|| {
            // SAFETY: the path ends in a zero; no options are given.
            let object = unsafe { bpf_object__open_file(path.as_ptr(), ptr::null()) };
            assert!(object.is_null(), "there is no such file");
            Err::<(), _>(std::io::Error::from_raw_os_error(libc::ENOENT).into())
        });
        failure.expect_err("it fails").said
    }

    #[test]
    fn a_text_of_any_bytes_is_kept() {
        let said = warned_of(c"/no/such/\xff\xfe\x80.o");
        assert!(said.contains("failed to open /no/such/\u{fffd}\u{fffd}\u{fffd}.o"), "{said}");
    }

    #[test]
    fn of_a_long_text_the_end_is_kept() {
        let path = std::ffi::CString::new(format!("/{}", "\u{e4}".repeat(100_000))).expect("it has no zero");
        let said = warned_of(&path);
        assert!(said.len() < MOST_BYTES + 100, "{} bytes", said.len());
        assert!(said.contains("\u{e4}\u{e4}"), "{said}");
    }

    #[test]
    fn an_error_says_its_number() {
        assert_eq!(errno("attach: File exists (os error 17)"), Some(17));
        assert_eq!(errno("no number"), None);
    }
}
