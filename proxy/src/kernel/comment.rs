//! Comments of rules: the policy's name and the rule's path, in the room that there is.
//!
//! `nft` and the kernel's user data hold 128 bytes with head and end; what is longer is cut in the middle and gets a handle, the
//! hash of the whole, so that two long names stay two names and a tool can find the policy again.

use std::hash::Hasher;

use rustc_hash::FxHasher;

/// What a comment may be long, in bytes: 128 less the note's head, the final zero, and one to spare.
const COMMENT_BYTES: usize = 124;

/// `text`, if it fits; else its beginning, `#` and eight hexadecimal digits, and its end. Quotes and control characters, which a
/// listing could not be read back with, become `?`.
pub(super) fn fit(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() || c == '"' || c == '\\' { '?' } else { c }).collect();
    if clean.len() <= COMMENT_BYTES {
        return clean;
    }
    // The rule's path at the end says more than the middle of a name.
    const TAIL_BYTES: usize = 32;
    let tail = match clean.rfind(' ') {
        Some(at) if clean.len() - at <= TAIL_BYTES => &clean[at..],
        _ => "",
    };
    let handle = handle(text);
    let mut head = COMMENT_BYTES - tail.len() - handle.len() - 1;
    while !clean.is_char_boundary(head) {
        head -= 1;
    }
    format!("{}#{handle}{tail}", &clean[..head])
}

/// Eight hexadecimal digits that stand for `text`.
pub(super) fn handle(text: &str) -> String {
    let mut hasher = FxHasher::default();
    hasher.write(text.as_bytes());
    format!("{:08x}", hasher.finish() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_stays() {
        let text = "NetworkPolicy production/backend ingress[0]";
        assert_eq!(fit(text), text);
    }

    #[test]
    fn what_is_too_long_keeps_its_ends_and_stays_distinct() {
        let name = "n".repeat(253);
        let one = fit(&format!("NetworkPolicy production/{name} ingress[0]"));
        let other = fit(&format!("NetworkPolicy production/{name}x ingress[0]"));
        assert!(one.len() <= COMMENT_BYTES && one.ends_with(" ingress[0]"), "{one}");
        assert!(one.starts_with("NetworkPolicy production/nnn"), "{one}");
        assert_ne!(one, other);
    }

    #[test]
    fn a_cut_never_falls_inside_a_character() {
        for extra in 0..8 {
            let text = format!("{}{}", "x".repeat(extra), "ü".repeat(200));
            assert!(fit(&text).len() <= COMMENT_BYTES);
        }
    }
}
