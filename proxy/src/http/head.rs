//! Whether the head of an HTTP/1 request has exactly one reading.
//!
//! hyper and the server behind us each parse a request on their own. Whatever two parsers could read differently would let
//! a second request hide in the first (request smuggling), so it is refused here, before hyper sees a byte of it. The rules
//! are RFC 9112 without its leniencies:
//!
//! | in the request | RFC 9112 | here |
//! |---|---|---|
//! | `Content-Length` with `Transfer-Encoding` | 6.1: may be refused | refused |
//! | more than one `Content-Length`, or no plain number | 6.3: must or may be refused | refused |
//! | `Transfer-Encoding` other than exactly `chunked`, or in HTTP/1.0 | 6.1, 6.3 | refused |
//! | line folding, CR alone, LF alone, NUL | 2.2, 5.2 | refused |
//! | a space before the colon, a name that is no token | 5.1 | refused |
//! | no `Host` (1.1), two of them, or one that differs from the target | 3.2 | refused |
//! | a target that is not ASCII, or has a fragment | 3.2 | refused |

use http::Uri;

use super::framing::{ChunkScanner, Framing};

/// Most header fields of one request; what hyper takes too.
const MOST_FIELDS: usize = 100;

/// Why a request is refused, in words for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeadError {
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the head of the request is too large")]
    TooLarge,
    #[error("the head of the request didn't arrive in time")]
    Timeout,
}

use HeadError::{Malformed, TooLarge};

/// What the guard has to know about a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) framing: Framing,
    /// The bytes after the request may become a tunnel: they are held back until the server has answered.
    pub(crate) may_tunnel: bool,
}

/// Finds the empty line that ends a head, and checks line ends on the way. Keeps its place between reads.
#[derive(Debug, Default)]
pub(crate) struct HeadScanner {
    at: usize,
    line: usize,
    after_cr: bool,
}

impl HeadScanner {
    /// Looks at what `buf` has beyond the last call. Yields the length of the head once it is complete.
    pub(crate) fn scan(&mut self, buf: &[u8]) -> Result<Option<usize>, HeadError> {
        while let Some(&byte) = buf.get(self.at) {
            self.at += 1;
            match (self.after_cr, byte) {
                (true, b'\n') => {
                    self.after_cr = false;
                    if self.line == 0 {
                        return Ok(Some(self.at));
                    }
                    self.line = 0;
                }
                (true, _) => return Err(Malformed("a CR without LF")),
                (false, b'\r') => self.after_cr = true,
                (false, b'\n') => return Err(Malformed("a line that ends with LF alone")),
                (false, 0) => return Err(Malformed("a NUL byte")),
                (false, _) => self.line += 1,
            }
        }
        Ok(None)
    }
}

/// Checks a complete head, its last empty line included.
pub(crate) fn check(head: &[u8], trailer_limit_bytes: usize) -> Result<Head, HeadError> {
    let mut lines = head.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = RequestLine::parse(lines.next().unwrap_or_default())?;
    let mut fields = Fields::default();
    for line in lines.take_while(|line| !line.is_empty()) {
        fields.add(line)?;
    }
    let framing = fields.framing(&request_line, trailer_limit_bytes)?;
    fields.check_host(&request_line)?;
    Ok(Head { framing, may_tunnel: request_line.is_connect() || fields.upgrade })
}

/// A complete head as hyper would hand it out; `None`: it is not one that passes [`check`].
pub(crate) fn parts(head: &[u8]) -> Option<http::request::Parts> {
    let mut lines = head.split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let line = RequestLine::parse(lines.next()?).ok()?;
    let version = if line.minor == 0 { http::Version::HTTP_10 } else { http::Version::HTTP_11 };
    let mut request = http::Request::builder().method(line.method).uri(line.target).version(version);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = field(line).ok()?;
        request = request.header(name, value);
    }
    Some(request.body(()).ok()?.into_parts().0)
}

struct RequestLine<'a> {
    method: &'a str,
    target: &'a str,
    minor: u8,
}

impl<'a> RequestLine<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, HeadError> {
        let bad = Malformed("a request line that isn't METHOD TARGET HTTP/1.x");
        let line = std::str::from_utf8(line).map_err(|_| Malformed("a request line that isn't ASCII"))?;
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some(version), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(bad);
        };
        let minor = match version {
            "HTTP/1.1" => 1,
            "HTTP/1.0" => 0,
            _ => return Err(bad),
        };
        if !is_token(method.as_bytes()) {
            return Err(bad);
        }
        if target.is_empty() || !target.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Malformed("a target with bytes that aren't printable ASCII"));
        }
        if target.contains('#') {
            return Err(Malformed("a target with a fragment"));
        }
        let line = Self { method, target, minor };
        line.check_form()?;
        Ok(line)
    }

    fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }

    fn check_form(&self) -> Result<(), HeadError> {
        let fits = match (self.method, self.target) {
            ("CONNECT", target) => is_authority(target) && target.contains(':'),
            ("OPTIONS", "*") => true,
            (_, target) => target.starts_with('/') || self.authority().is_some_and(is_authority),
        };
        // The same parser that hyper uses: what it would refuse must not reach it, because it would answer by itself.
        if fits && self.target.parse::<Uri>().is_ok() {
            Ok(())
        } else {
            Err(Malformed("a target that is no path and no http:// address"))
        }
    }

    /// The authority of an absolute-form target.
    fn authority(&self) -> Option<&'a str> {
        let (scheme, rest) = self.target.split_once("://")?;
        if !scheme.eq_ignore_ascii_case("http") {
            return None;
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        Some(&rest[..end])
    }
}

#[derive(Default)]
struct Fields<'a> {
    count: usize,
    length: Option<u64>,
    chunked: bool,
    host: Option<&'a str>,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    fn add(&mut self, line: &'a [u8]) -> Result<(), HeadError> {
        self.count += 1;
        if self.count > MOST_FIELDS {
            return Err(TooLarge);
        }
        let (name, value) = field(line)?;
        if name.eq_ignore_ascii_case(b"content-length") {
            if self.length.is_some() {
                return Err(Malformed("more than one Content-Length"));
            }
            self.length = Some(decimal(value).ok_or(Malformed("a Content-Length that is no number"))?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(Malformed("a Transfer-Encoding other than chunked"));
            }
            self.chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            if self.host.is_some() {
                return Err(Malformed("more than one Host"));
            }
            let host = std::str::from_utf8(value).ok().filter(|host| is_authority(host));
            self.host = Some(host.ok_or(Malformed("a Host that is no host name or address"))?);
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.upgrade = true;
        } else if name.eq_ignore_ascii_case(b"connection") && names_framing(value) {
            return Err(Malformed("a Connection field that names a field of the message itself"));
        }
        Ok(())
    }

    fn framing(&self, line: &RequestLine<'_>, trailer_limit_bytes: usize) -> Result<Framing, HeadError> {
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Malformed("Content-Length with Transfer-Encoding")),
            (None, true) if line.minor == 0 => Err(Malformed("Transfer-Encoding in HTTP/1.0")),
            (Some(_), false) | (None, true) if line.is_connect() => Err(Malformed("CONNECT with a body")),
            (None, true) => Ok(Framing::Chunked(ChunkScanner::new(trailer_limit_bytes))),
            (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
        }
    }

    fn check_host(&self, line: &RequestLine<'_>) -> Result<(), HeadError> {
        let target = if line.is_connect() { Some(line.target) } else { line.authority() };
        match (self.host, target) {
            (None, _) if line.minor == 1 => Err(Malformed("no Host")),
            (Some(host), Some(target)) if !same_authority(host, target, line.is_connect()) => {
                Err(Malformed("a Host that differs from the target"))
            }
            _ => Ok(()),
        }
    }
}

/// Splits a field line (RFC 9112 section 5).
pub(crate) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), HeadError> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Malformed("a folded header line"));
    }
    let colon = line.iter().position(|&b| b == b':').ok_or(Malformed("a header line without colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if !is_token(name) {
        return Err(Malformed("a header name that is no token"));
    }
    if value.iter().any(|&b| (b < 0x20 && b != b'\t') || b == 0x7f) {
        return Err(Malformed("a control character in a header"));
    }
    Ok((name, trim(value)))
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| is_token_byte(b))
}

pub(crate) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Digits and nothing else; no sign, no list.
fn decimal(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    // The top bit stays free: hyper keeps the largest numbers for its own marks.
    text.parse::<u64>().ok().filter(|&n| n <= u64::MAX / 2)
}

/// `host` or `host:port`, without user name.
pub(crate) fn is_authority(text: &str) -> bool {
    let (host, port) = split_port(text);
    let host_fits = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~".contains(&b)),
    };
    host_fits && port.is_none_or(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

/// The host without the port, and the port.
pub(crate) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Whether two authorities name the same host and port. For CONNECT, `Host` often has no port: then the host decides.
pub(crate) fn same_authority(a: &str, b: &str, ignore_absent_port: bool) -> bool {
    let ((host_a, port_a), (host_b, port_b)) = (split_port(a), split_port(b));
    let number = |port: Option<&str>| port.and_then(|p| p.parse::<u16>().ok());
    let ports_agree = match (number(port_a), number(port_b)) {
        (Some(a), Some(b)) => a == b,
        (None, None) => true,
        (None, Some(p)) | (Some(p), None) => ignore_absent_port || p == 80,
    };
    host_a.eq_ignore_ascii_case(host_b) && ports_agree
}

/// Fields that a `Connection` option must not take away from the message (RFC 9110 section 7.6.1).
fn names_framing(connection: &[u8]) -> bool {
    connection.split(|&b| b == b',').map(trim).any(|option| {
        [b"host".as_slice(), b"content-length", b"transfer-encoding", b"expect", b"authorization", b"cookie"]
            .iter()
            .any(|name| option.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests;
