//! One path for one resource: what is matched, and what is forwarded.
//!
//! Servers differ in how they read `%2e%2e`, `//`, `\` or `;x=1`. A rule for `/public/.*` is worthless if `/public/..%2fadmin`
//! passes it, so every request is brought to one form before it is judged, and that form goes to the server. What could still
//! be read in two ways after one decoding is refused.

use std::borrow::Cow;

/// Why a path can't be brought to one form. The request is answered 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path doesn't begin with /")]
    NotAbsolute,
    #[error("the path has a % that two hexadecimal digits don't follow")]
    BadEscape,
    #[error("the path is encoded twice: a decoded path still hides / \\ . or NUL")]
    EncodedTwice,
    #[error("the path holds a control character")]
    Control,
    #[error("the path is not UTF-8 once it is decoded")]
    NotUtf8,
    #[error("the path holds # or ? unencoded")]
    Delimiter,
}

/// The canonical form of a request's path (`raw` is without the query; `*` stays `*`).
///
/// In this order: `;parameters` of each segment are cut off, escapes are decoded once, `\` becomes `/`, `//` collapses, and
/// `.` and `..` are resolved (never above the root). A trailing `/` stays.
///
/// | raw | canonical |
/// |---|---|
/// | `/a/b` | `/a/b` |
/// | `/a//b/./c/../d` | `/a/b/d` |
/// | `/a/%2e%2e/b`, `/a/..%2fb`, `/a\..\b`, `/a/..;x=1/b` | `/b` |
/// | `/../../etc` | `/etc` |
/// | `/caf%C3%A9` | `/café` |
/// | `/%252e%252e/x` | refused: encoded twice |
pub fn canonical_path(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if raw == "*" {
        return Ok(Cow::Borrowed(raw));
    }
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_canonical(raw) {
        return Ok(Cow::Borrowed(raw));
    }
    let decoded = decode_once(raw)?;
    if hides_structure(&decoded) {
        return Err(PathError::EncodedTwice);
    }
    Ok(Cow::Owned(resolve(&decoded)))
}

/// A canonical path as it is written in a request: what is not plainly allowed in a path (RFC 3986 section 3.3) is encoded.
pub fn encode_path(canonical: &str) -> Cow<'_, str> {
    if canonical.bytes().all(is_plain) {
        return Cow::Borrowed(canonical);
    }
    let mut out = String::with_capacity(canonical.len() + 16);
    for byte in canonical.bytes() {
        if is_plain(byte) {
            out.push(char::from(byte));
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    Cow::Owned(out)
}

/// Bytes that stand for themselves and for nothing else: unreserved, sub-delims without `;`, and `:@/`.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'_' | b'~' | b'.' | b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' | b'/'
        )
}

/// Most requests: only plain bytes, no empty segment and no segment that begins with a dot.
fn is_canonical(raw: &str) -> bool {
    let mut previous = 0;
    raw.bytes().all(|byte| {
        let fine = is_plain(byte) && !(previous == b'/' && matches!(byte, b'/' | b'.'));
        previous = byte;
        fine
    })
}

fn decode_once(raw: &str) -> Result<String, PathError> {
    let mut out = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes();
    let mut in_parameters = false;
    while let Some(byte) = bytes.next() {
        let decoded = match byte {
            b'/' | b'\\' => {
                in_parameters = false;
                b'/'
            }
            b';' => {
                in_parameters = true;
                continue;
            }
            b'#' | b'?' => return Err(PathError::Delimiter),
            b'%' => {
                let digits = bytes.next().and_then(hex).zip(bytes.next().and_then(hex));
                let (high, low) = digits.ok_or(PathError::BadEscape)?;
                match high << 4 | low {
                    b'\\' => b'/',
                    other => other,
                }
            }
            other => other,
        };
        if decoded < 0x20 || decoded == 0x7f {
            return Err(PathError::Control);
        }
        if !in_parameters {
            out.push(decoded);
        }
    }
    String::from_utf8(out).map_err(|_| PathError::NotUtf8)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

/// After one decoding: is there still an escape that a second decoding would turn into structure?
fn hides_structure(decoded: &str) -> bool {
    decoded
        .as_bytes()
        .windows(3)
        .any(|w| w[0] == b'%' && matches!((w[1], w[2] | 0x20), (b'2', b'f' | b'e') | (b'5', b'c')) || w == b"%00")
}

fn resolve(decoded: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut directory = false;
    for segment in decoded.split('/') {
        directory = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            name => segments.push(name),
        }
    }
    let mut out = String::with_capacity(decoded.len());
    for segment in &segments {
        out.push('/');
        out.push_str(segment);
    }
    if directory || segments.is_empty() {
        out.push('/');
    }
    out
}
