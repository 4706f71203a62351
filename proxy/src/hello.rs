//! The ClientHello that begins a TLS connection (RFC 8446 section 4.1.2), as far as it names a server (RFC 6066 section 3).
//!
//! The name is all that is taken from it, but the whole message is walked: what two parsers could read differently is no
//! ClientHello here, and so is judged as bytes of an unknown protocol.
//!
//! | in the hello | here |
//! |---|---|
//! | one `server_name` with one host name | that name, in lower case, without a final dot |
//! | none, or an address in it, which RFC 6066 forbids and servers pass over | no name |
//! | two of them, two names in one, an empty name, a name with other bytes than host names have | unreadable |
//! | a length that doesn't fit its surroundings, bytes behind the message in its record | unreadable |
//! | Encrypted ClientHello | the outer name, which is the one that is on the wire |

use std::net::IpAddr;

use tokio::io::AsyncWriteExt;

use crate::socket::Socket;

/// RFC 8446 section 5.1: a record of type handshake, of a version that is 3 and something.
pub(crate) const HANDSHAKE: u8 = 22;
const MAJOR_VERSION: u8 = 3;
const MOST_RECORD_BYTES: usize = 1 << 14;
const RECORD_HEAD_BYTES: usize = 5;

const CLIENT_HELLO: u8 = 1;
const MESSAGE_HEAD_BYTES: usize = 4;

/// RFC 6066 section 3.
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;
/// RFC 1035 section 2.3.4, without the length of the root.
const MOST_NAME_BYTES: usize = 253;
const MOST_LABEL_BYTES: usize = 63;

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    Incomplete,
    Complete { server_name: Option<String> },
    Unreadable,
}

/// Joins the message from its records. Keeps its place between reads, so each byte is looked at once.
#[derive(Debug, Default)]
pub(crate) struct HelloScanner {
    /// Where the next record begins.
    at: usize,
    message: Vec<u8>,
}

impl HelloScanner {
    /// Looks at what `bytes` has beyond the last call, and at no more than the first `limit_bytes` of it.
    pub(crate) fn scan(&mut self, bytes: &[u8], limit_bytes: usize) -> Hello {
        let seen = &bytes[..bytes.len().min(limit_bytes)];
        loop {
            match self.next_record(seen) {
                Ok(true) => {}
                Ok(false) if bytes.len() >= limit_bytes => return Hello::Unreadable,
                Ok(false) => return Hello::Incomplete,
                Err(Unreadable) => return Hello::Unreadable,
            }
            match self.complete() {
                Ok(None) => {}
                Ok(Some(server_name)) => return Hello::Complete { server_name },
                Err(Unreadable) => return Hello::Unreadable,
            }
        }
    }

    /// Takes one record, if it is there whole.
    fn next_record(&mut self, seen: &[u8]) -> Result<bool, Unreadable> {
        let record = seen.get(self.at..).unwrap_or_default();
        for (at, expected) in [(0, HANDSHAKE), (1, MAJOR_VERSION)] {
            if record.get(at).is_some_and(|byte| *byte != expected) {
                return Err(Unreadable);
            }
        }
        let Some((head, rest)) = record.split_at_checked(RECORD_HEAD_BYTES) else { return Ok(false) };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if length == 0 || length > MOST_RECORD_BYTES {
            return Err(Unreadable);
        }
        let Some(fragment) = rest.get(..length) else { return Ok(false) };
        self.message.extend_from_slice(fragment);
        self.at += RECORD_HEAD_BYTES + length;
        Ok(true)
    }

    /// The server name, once the message is there whole.
    fn complete(&self) -> Result<Option<Option<String>>, Unreadable> {
        let Some(Message { server_name, rest }) = message(&self.message)? else { return Ok(None) };
        if rest.is_empty() { Ok(Some(server_name)) } else { Err(Unreadable) }
    }
}

/// A whole ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    pub(crate) server_name: Option<String>,
    /// What stands behind it.
    pub(crate) rest: &'a [u8],
}

/// The ClientHello that `bytes` begin with, without any record around it. `None`: it goes on.
pub(crate) fn message(bytes: &[u8]) -> Result<Option<Message<'_>>, Unreadable> {
    if bytes.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
        return Err(Unreadable);
    }
    let Some((head, rest)) = bytes.split_at_checked(MESSAGE_HEAD_BYTES) else { return Ok(None) };
    let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
    let Some((body, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    Ok(Some(Message { server_name: server_name(body)?, rest }))
}

/// The message has no certain reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

/// The name in the body of a ClientHello.
fn server_name(body: &[u8]) -> Result<Option<String>, Unreadable> {
    let mut fields = Fields(body);
    if fields.take(2)?[0] != MAJOR_VERSION {
        return Err(Unreadable);
    }
    fields.take(32)?;
    let session_id = fields.vector8()?;
    let cipher_suites = fields.vector16()?;
    let compressions = fields.vector8()?;
    if session_id.len() > 32 || cipher_suites.is_empty() || cipher_suites.len() % 2 != 0 || compressions.is_empty() {
        return Err(Unreadable);
    }
    // TLS 1.2 and older may end here (RFC 5246 section 7.4.1.2).
    if fields.0.is_empty() {
        return Ok(None);
    }
    let mut extensions = Fields(fields.vector16()?);
    fields.end()?;
    let mut names = None;
    while !extensions.0.is_empty() {
        let kind = extensions.number()?;
        let content = extensions.vector16()?;
        if kind == SERVER_NAME && names.replace(content).is_some() {
            return Err(Unreadable);
        }
    }
    names.map_or(Ok(None), host_name)
}

/// The one name in the extension.
fn host_name(extension: &[u8]) -> Result<Option<String>, Unreadable> {
    let mut fields = Fields(extension);
    let mut names = Fields(fields.vector16()?);
    fields.end()?;
    let kind = names.take(1)?[0];
    let name = names.vector16()?;
    names.end()?;
    if kind != HOST_NAME {
        return Err(Unreadable);
    }
    let name = std::str::from_utf8(name).map_err(|_| Unreadable)?.to_ascii_lowercase();
    let name = name.strip_suffix('.').unwrap_or(&name);
    if name.parse::<IpAddr>().is_ok() {
        return Ok(None);
    }
    let is_label = |label: &str| {
        (1..=MOST_LABEL_BYTES).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if name.len() > MOST_NAME_BYTES || !name.split('.').all(is_label) {
        return Err(Unreadable);
    }
    Ok(Some(name.to_owned()))
}

/// Fields one after another, as TLS writes them: numbers in network byte order, vectors with their length before them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Unreadable)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number(&mut self) -> Result<u16, Unreadable> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn vector8(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.take(1)?[0];
        self.take(length.into())
    }

    fn vector16(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = self.number()?;
        self.take(length.into())
    }

    fn end(self) -> Result<(), Unreadable> {
        if self.0.is_empty() { Ok(()) } else { Err(Unreadable) }
    }
}

/// The fatal alert `access_denied` (RFC 8446 section 6.2), in a record of the version that every client takes.
const ACCESS_DENIED: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// Answers a hello with the alert, and closes so that it arrives.
pub(crate) async fn refuse(mut socket: Socket) {
    if socket.write_all(&ACCESS_DENIED).await.is_ok() {
        socket.linger().await;
    }
}

#[cfg(test)]
mod tests;
