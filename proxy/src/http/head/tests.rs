//! Requests that two parsers could read differently, one a row.

use super::super::framing::Framing;
use super::{Head, HeadError, HeadScanner, check};

fn read(text: &str) -> Result<Option<Head>, HeadError> {
    match HeadScanner::default().scan(text.as_bytes())? {
        Some(end) => check(&text.as_bytes()[..end], 1024).map(Some),
        None => Ok(None),
    }
}

#[test]
fn refused() {
    for (text, word) in [
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", "with Transfer-Encoding"),
        ("GET / HTTP/1.1\r\nhost: a\r\nContent-Length: 5\r\ncontent-length: 6\r\n\r\n", "more than one Content-Length"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5, 5\r\n\r\n", "no number"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: +5\r\n\r\n", "no number"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 0x5\r\n\r\n", "no number"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: \r\n\r\n", "no number"),
        ("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551615\r\n\r\n", "no number"),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n", "other than chunked"),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: identity\r\n\r\n", "other than chunked"),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: \x0bchunked\r\n\r\n", "control"),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n", "other than chunked"),
        ("GET / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n", "in HTTP/1.0"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n", "folded"),
        ("GET / HTTP/1.1\r\n host: a\r\n\r\n", "folded"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: 1\rY: 2\r\n\r\n", "CR without LF"),
        ("GET / HTTP/1.1\r\nhost: a\nx: 2\r\n\r\n", "LF alone"),
        ("GET / HTTP/1.1\nhost: a\n\n", "LF alone"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", "NUL"),
        ("GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding : chunked\r\n\r\n", "no token"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx y: 1\r\n\r\n", "no token"),
        ("GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n", "no token"),
        ("GET / HTTP/1.1\r\nhost: a\r\nnonsense\r\n\r\n", "without colon"),
        ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", "more than one Host"),
        ("GET / HTTP/1.1\r\nx: 1\r\n\r\n", "no Host"),
        ("GET / HTTP/1.1\r\nhost: \r\n\r\n", "a Host that is no"),
        ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", "a Host that is no"),
        ("GET / HTTP/1.1\r\nhost: a@b\r\n\r\n", "a Host that is no"),
        ("GET / HTTP/1.1\r\nhost: a,b\r\n\r\n", "a Host that is no"),
        ("GET / HTTP/1.1\r\nhost: a:99999\r\n\r\n", "a Host that is no"),
        ("GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", "differs"),
        ("GET http://a:81/ HTTP/1.1\r\nhost: a\r\n\r\n", "differs"),
        ("GET http://a@b/ HTTP/1.1\r\nhost: b\r\n\r\n", "no path"),
        ("GET https://a/ HTTP/1.1\r\nhost: a\r\n\r\n", "no path"),
        ("GET a/b HTTP/1.1\r\nhost: a\r\n\r\n", "no path"),
        ("GET * HTTP/1.1\r\nhost: a\r\n\r\n", "no path"),
        ("GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n", "fragment"),
        ("GET /é HTTP/1.1\r\nhost: a\r\n\r\n", "printable"),
        ("GET /<a> HTTP/1.1\r\nhost: a\r\n\r\n", "no path"),
        ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", "request line"),
        ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", "request line"),
        ("GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", "request line"),
        ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", "request line"),
        ("GET / http/1.1\r\nhost: a\r\n\r\n", "request line"),
        ("G(T / HTTP/1.1\r\nhost: a\r\n\r\n", "request line"),
        ("CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n", "no path"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: b\r\n\r\n", "differs"),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\n", "CONNECT with a body"),
        ("GET / HTTP/1.1\r\nhost: a\r\nconnection: close, content-length\r\ncontent-length: 1\r\n\r\n", "Connection"),
    ] {
        let error = read(text).map(|_| "taken").unwrap_err().to_string();
        assert!(error.contains(word), "{text:?}: {error}");
    }
}

#[test]
fn taken() {
    for (text, length, may_tunnel) in [
        ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", 0, false),
        ("GET /a?b=%20&c HTTP/1.1\r\nHost:a:80\r\nx:\t1 \r\n\r\n", 0, false),
        ("GET / HTTP/1.0\r\n\r\n", 0, false),
        ("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 007\r\n\r\n", 7, false),
        ("GET http://A/ HTTP/1.1\r\nhost: a:80\r\n\r\n", 0, false),
        ("OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", 0, false),
        ("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n", 0, true),
        ("CONNECT a:443 HTTP/1.1\r\nhost: a\r\n\r\n", 0, true),
        ("GET / HTTP/1.1\r\nhost: a\r\nx: caf\u{e9}\r\n\r\n", 0, false),
    ] {
        let head = read(text).unwrap().unwrap();
        assert_eq!(head, Head { framing: Framing::Length(length), may_tunnel }, "{text:?}");
    }
    let chunked = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: Chunked\r\n\r\n";
    assert!(matches!(read(chunked).unwrap().unwrap().framing, Framing::Chunked(_)));
    assert_eq!(read("GET / HTTP/1.1\r\nhost: a\r\n\r").unwrap(), None);
}

#[test]
fn too_many_fields_are_too_large() {
    let text = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(100));
    assert_eq!(read(&text), Err(HeadError::TooLarge));
}
