//! The pods' HTTP servers: one small thread per connection, HTTP/1.1 with keep-alive. Calls of gRPC are answered by the order
//! service of the test network.
//!
//! They answer 200 to every request, so that whatever else a client sees was not the server's doing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sluice_testnet::Netns;

/// A server answers so many connections at once; further ones are closed.
const MOST_CONNECTIONS: usize = 256;
/// More of a request's head than this is no request.
const HEAD_LIMIT_BYTES: u64 = 64 << 10;
/// More of a body than this is not read.
const BODY_LIMIT_BYTES: u64 = 1 << 20;
/// How long a connection may stay silent.
const IDLE: Duration = Duration::from_secs(60);

/// Serves HTTP on `port` of every address in `ns`, as `name`, until this process ends.
pub(super) fn serve(ns: &Netns, name: &str, port: u16) -> io::Result<()> {
    let listener = listen(ns, port)?;
    let name: Arc<str> = name.into();
    std::thread::Builder::new().name("http-server".to_owned()).spawn(move || accept(&listener, &name))?;
    Ok(())
}

/// The same for calls.
pub(super) fn serve_calls(ns: &Netns, port: u16) -> io::Result<()> {
    sluice_testnet::orders::serve(listen(ns, port)?)
}

fn listen(ns: &Netns, port: u16) -> io::Result<TcpListener> {
    // A machine without IPv6 has only the other.
    let any = [SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    ns.tcp_listen(any[0]).or_else(|_| ns.tcp_listen(any[1]))
}

fn accept(listener: &TcpListener, name: &Arc<str>) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: wait for some to be closed.
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        if open.fetch_add(1, Ordering::Relaxed) >= MOST_CONNECTIONS {
            open.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (name, mine) = (name.clone(), open.clone());
        let started = std::thread::Builder::new().name("http-connection".to_owned()).spawn(move || {
            // A client that breaks off is no concern of the server's.
            let _ = converse(&stream, &name);
            mine.fetch_sub(1, Ordering::Relaxed);
        });
        if started.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Answers one request after another.
fn converse(stream: &TcpStream, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(head) = Head::read(&mut reader)? {
        io::copy(&mut reader.by_ref().take(head.body_bytes), &mut io::sink())?;
        let body = format!("{name} answers {} {}\n", head.method, head.target);
        let connection = if head.close { "close" } else { "keep-alive" };
        let response = format!(
            "HTTP/1.1 200 OK\r\nserver: {name}\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: {connection}\r\n\r\n",
            body.len(),
        );
        let mut writer = stream;
        writer.write_all(response.as_bytes())?;
        if head.method != "HEAD" {
            writer.write_all(body.as_bytes())?;
        }
        if head.close {
            break;
        }
    }
    Ok(())
}

/// What the server needs to know of a request.
#[derive(Debug, PartialEq, Eq)]
struct Head {
    method: String,
    target: String,
    body_bytes: u64,
    close: bool,
}

impl Head {
    /// The next request's head; `None` at the end of the connection. A body of unknown or great length ends the connection behind
    /// it.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut limited = reader.take(HEAD_LIMIT_BYTES);
        let mut line = String::new();
        if limited.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace();
        let (Some(method), Some(target), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let mut head = Self { method: method.to_owned(), target: target.to_owned(), body_bytes: 0, close: version == "HTTP/1.0" };
        loop {
            let mut line = String::new();
            if limited.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else {
                if line.trim_end().is_empty() {
                    return Ok(Some(head));
                }
                return Err(io::ErrorKind::InvalidData.into());
            };
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("connection", "close") | ("transfer-encoding", _) => head.close = true,
                ("content-length", length) => {
                    let length: u64 = length.parse().map_err(|_| io::ErrorKind::InvalidData)?;
                    head.close |= length > BODY_LIMIT_BYTES;
                    head.body_bytes = length.min(BODY_LIMIT_BYTES);
                }
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_one_after_another() {
        let text = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        let mut reader = &text[..];
        let get = Head { method: "GET".into(), target: "/a".into(), body_bytes: 0, close: false };
        let post = Head { method: "POST".into(), target: "/b".into(), body_bytes: 3, close: true };
        assert_eq!(Head::read(&mut reader).unwrap(), Some(get));
        assert_eq!(Head::read(&mut reader).unwrap(), Some(post));
        assert_eq!(reader, b"abc");
        assert!(Head::read(&mut &b"GET /\r\n"[..]).is_err());
        assert_eq!(Head::read(&mut &b""[..]).unwrap(), None);
    }
}
