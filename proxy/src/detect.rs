//! Which protocol a client speaks. One read proves nothing: reading goes on until the bytes are certain, bounded in number
//! and in time.

use bytes::BytesMut;
use sluice_policy::{Decision, Table};
use tokio::sync::watch;
use tokio::time::Instant;

use std::io;
use std::sync::Arc;

use crate::connection::Conn;
use crate::hello::{HANDSHAKE, Hello, HelloScanner};
use crate::http::is_token_byte;
use crate::judge;
use crate::socket::Socket;

/// RFC 9113 section 3.4.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// No method is longer than this.
const LONGEST_METHOD: usize = 32;

/// What the bytes so far say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detected {
    /// HTTP/1.0 or 1.1, well-formed or not: its guard looks closer.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, and the server name in its ClientHello.
    Tls { server_name: Option<String> },
    /// None that rules can be about.
    Other,
    /// Could still become more than one of them.
    Undecided,
}

/// Classifies the first bytes of a connection. More bytes never change an answer but `Undecided`.
///
/// `limit_bytes`: a request line that is longer counts as HTTP/1, so that it gets an answer. A ClientHello that is longer, with
/// the heads of its records, is of no protocol.
pub fn classify(bytes: &[u8], limit_bytes: usize) -> Detected {
    classify_on(&mut HelloScanner::default(), bytes, limit_bytes)
}

/// [`classify`], with what is known of the same bytes already.
pub(crate) fn classify_on(hello: &mut HelloScanner, bytes: &[u8], limit_bytes: usize) -> Detected {
    // The type of TLS's first record is no byte of a method.
    if bytes.first() == Some(&HANDSHAKE) {
        return match hello.scan(bytes, limit_bytes) {
            Hello::Incomplete => Detected::Undecided,
            Hello::Complete { server_name } => Detected::Tls { server_name },
            Hello::Unreadable => Detected::Other,
        };
    }
    let common = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..common] == HTTP2_PREFACE[..common] {
        return if common == HTTP2_PREFACE.len() { Detected::Http2 } else { Detected::Undecided };
    }
    let method = bytes.iter().take(LONGEST_METHOD + 1).take_while(|&&b| is_token_byte(b)).count();
    match bytes.get(method) {
        None => return Detected::Undecided,
        Some(b' ') if (1..=LONGEST_METHOD).contains(&method) => {}
        Some(_) => return Detected::Other,
    }
    let line = &bytes[method + 1..bytes.len().min(limit_bytes)];
    for (at, &byte) in line.iter().enumerate() {
        match byte {
            b'\n' => {
                let line = line[..at].strip_suffix(b"\r").unwrap_or(&line[..at]);
                let version = line.rsplit(|&b| b == b' ').next().unwrap_or_default();
                let is_http = version.len() < line.len() && version.starts_with(b"HTTP/");
                return if is_http { Detected::Http1 } else { Detected::Other };
            }
            b'\r' | b'\t' => {}
            0..0x20 | 0x7f => return Detected::Other,
            _ => {}
        }
    }
    if bytes.len() >= limit_bytes { Detected::Http1 } else { Detected::Undecided }
}

/// What became of the beginning of a connection.
#[derive(Debug)]
pub(crate) enum Beginning {
    /// The protocol is certain, and this was read for it.
    Is(Detected, BytesMut),
    /// A new table allows the connection without a look at its contents.
    NotNeeded(BytesMut),
    /// The time is over, and this had been read.
    TimedOut(BytesMut),
    /// The client ended before anything was certain.
    Ended,
    /// The proxy is ending.
    Draining,
}

/// Reads from `socket` until the protocol is certain.
pub(crate) async fn read_beginning(
    conn: &Conn,
    socket: &Socket,
    table: &mut watch::Receiver<Arc<Table>>,
    deadline: Instant,
) -> Beginning {
    let limit = conn.limits().header_bytes as usize;
    let mut buf = BytesMut::new();
    let mut hello = HelloScanner::default();
    loop {
        tokio::select! {
            biased;
            () = conn.draining() => return Beginning::Draining,
            () = tokio::time::sleep_until(deadline) => return Beginning::TimedOut(buf),
            changed = table.changed() => {
                if changed.is_err() {
                    return Beginning::Draining;
                }
                let now = Arc::clone(&table.borrow_and_update());
                if judge::decision(&now, conn.ends(), None) == Decision::Allow {
                    return Beginning::NotNeeded(buf);
                }
            }
            ready = socket.stream().readable() => {
                if ready.is_err() {
                    return Beginning::Ended;
                }
                match read_some(socket, &mut buf, limit) {
                    Ok(0) => return Beginning::Ended,
                    Ok(read) => socket.leg().add_received(read),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => return Beginning::Ended,
                }
                match classify_on(&mut hello, &buf, limit) {
                    Detected::Undecided => {}
                    certain => return Beginning::Is(certain, buf),
                }
            }
        }
    }
}

fn read_some(socket: &Socket, buf: &mut BytesMut, limit: usize) -> io::Result<usize> {
    buf.reserve(2048.min(limit.saturating_sub(buf.len())).max(1));
    socket.stream().try_read_buf(buf)
}

#[cfg(test)]
mod tests {
    use super::{Detected, HTTP2_PREFACE, classify};

    const LIMIT: usize = 256;

    #[test]
    fn first_bytes() {
        let long = [b"GET /".as_slice(), &[b'a'; 300]].concat();
        let rows: [(&[u8], Detected); 22] = [
            (b"", Detected::Undecided),
            (b"G", Detected::Undecided),
            (b"GET / HT", Detected::Undecided),
            (b"GET / HTTP/1.1\r", Detected::Undecided),
            (b"GET / HTTP/1.1\r\n", Detected::Http1),
            (b"GET / HTTP/1.0\n", Detected::Http1),
            (b"GET / HTTP/2.0\r\n", Detected::Http1),
            (b"GET /\r\n", Detected::Other),
            (b"HTTP/1.1\r\n", Detected::Other),
            (b"EHLO mail.example.org\r\n", Detected::Other),
            (b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", Detected::Other),
            (b"*1\r\n$4\r\nPING\r\n", Detected::Other),
            (b"\x16\x03\x01", Detected::Undecided),
            (b"\x16\x03\x01\0\x05\x02\0\0\0\0", Detected::Other),
            (b"\x15\x03\x01", Detected::Other),
            (b"\r\nGET / HTTP/1.1\r\n", Detected::Other),
            (b" GET / HTTP/1.1\r\n", Detected::Other),
            (b"GET /\0 HTTP/1.1\r\n", Detected::Other),
            (b"PRI * HTTP/2.0\r\n\r\n", Detected::Undecided),
            (HTTP2_PREFACE, Detected::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Detected::Http1),
            (&long, Detected::Http1),
        ];
        for (bytes, expected) in rows {
            assert_eq!(classify(bytes, LIMIT), expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    /// However the bytes arrive, the first certain answer is the answer to all of them.
    #[test]
    fn an_answer_never_changes() {
        let long = [b"GET /".as_slice(), &[b'a'; 300]].concat();
        for whole in [
            b"GET /a/b?c HTTP/1.1\r\nhost: x\r\n\r\n".as_slice(),
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nrest",
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"PROPFIND / HTTP/1.1\r\n",
            b"SSH-2.0-OpenSSH Debian\r\n\r\n",
            b"\x16\x03\x01\0\x01\x01\x16\x03\x01\0\x04\0\0\0\0",
            b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n",
            &long,
        ] {
            let all = classify(whole, LIMIT);
            assert_ne!(all, Detected::Undecided);
            for cut in 0..whole.len() {
                let part = classify(&whole[..cut], LIMIT);
                assert!(part == all || part == Detected::Undecided, "{cut} of {whole:?}: {part:?}");
            }
        }
    }
}
