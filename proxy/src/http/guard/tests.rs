//! What hyper would be given, for every way in which the bytes can arrive.

use std::time::Duration;

use bytes::BytesMut;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::head::HeadError;
use super::{Guard, HeadLimits, STAND_IN, fuzz};

const LIMIT: usize = 256;

fn limits() -> HeadLimits {
    let time = Duration::from_secs(5);
    HeadLimits { bytes: LIMIT, time, first_by: Instant::now() + time }
}

/// What came through: bytes, refusals in order, and whether reading failed in a body.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    bytes: String,
    heads: Vec<Option<HeadError>>,
    failed: Option<HeadError>,
}

/// Sends `parts` one after the other and reads `read_bytes` at a time, until nothing more comes.
fn run(parts: &[&[u8]], read_bytes: usize) -> Passed {
    let fuzz::Passed { bytes, heads, failed } = fuzz::run(parts, read_bytes, LIMIT);
    Passed { bytes: String::from_utf8(bytes).unwrap(), heads, failed }
}

const TWO: &str = "POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nhost: a\r\n\r\n";
const CHUNKED: &str = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
    5;x=1\r\nhello\r\n00a\r\n0123456789\r\n0\r\nx-sum: 1\r\n\r\nGET /b HTTP/1.1\r\nhost: a\r\n\r\n";

/// Requests, what of them hyper gets, and how often it is told a head.
fn rows() -> Vec<(String, Passed)> {
    let whole =
        |text: &str, heads: usize| (text.to_owned(), Passed { bytes: text.to_owned(), heads: vec![None; heads], failed: None });
    let stand_in = std::str::from_utf8(STAND_IN).unwrap();
    let refused = |good: &str, bad: &str, error: HeadError| {
        let heads = if good.is_empty() { vec![Some(error)] } else { vec![None, Some(error)] };
        (format!("{good}{bad}"), Passed { bytes: format!("{good}{stand_in}"), heads, failed: None })
    };
    let first = "GET /a HTTP/1.1\r\nhost: a\r\n\r\n";
    vec![
        whole(TWO, 2),
        whole(CHUNKED, 2),
        refused("", "GET / HTTP/1.1\r\nx: 1\r\n\r\n", HeadError::Malformed("no Host")),
        refused(first, "GET / HTTP/1.1\r\nhost: a\rb\r\n\r\n", HeadError::Malformed("a CR without LF")),
        refused(
            first,
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\n",
            HeadError::Malformed("Content-Length with Transfer-Encoding"),
        ),
        refused(first, &format!("GET /{} HTTP/1.1\r\n", "a".repeat(LIMIT)), HeadError::TooLarge),
        refused(first, &format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "a".repeat(LIMIT)), HeadError::TooLarge),
        // An empty line after a body is left out.
        (format!("{first}\r\n{first}"), Passed { bytes: format!("{first}{first}"), heads: vec![None, None], failed: None }),
        // Two of them are not, whether they come together or not.
        refused(
            first,
            "\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n",
            HeadError::Malformed("a request line that isn't METHOD TARGET HTTP/1.x"),
        ),
        // What may be a tunnel is held back.
        (
            "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\nGET /hidden HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            Passed { bytes: "CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n".into(), heads: vec![None], failed: None },
        ),
    ]
}

#[test]
fn every_single_split() {
    for (sent, expected) in rows() {
        assert_eq!(run(&[sent.as_bytes()], 4096), expected, "whole: {sent:?}");
        for cut in 1..sent.len() {
            let (a, b) = sent.as_bytes().split_at(cut);
            assert_eq!(run(&[a, b], 4096), expected, "cut at {cut}: {sent:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn any_split_and_any_buffer(row in 0_usize..10, cuts in prop::collection::vec(1_usize..400, 0..12), read_bytes in 1_usize..300) {
        let (sent, expected) = rows().swap_remove(row);
        let mut cuts: Vec<_> = cuts.into_iter().filter(|cut| *cut < sent.len()).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let mut parts = Vec::new();
        let mut rest = sent.as_bytes();
        let mut at = 0;
        for cut in cuts {
            let (part, after) = rest.split_at(cut - at);
            parts.push(part);
            (rest, at) = (after, cut);
        }
        parts.push(rest);
        prop_assert_eq!(run(&parts, read_bytes), expected);
    }
}

#[test]
fn chunks_that_are_not_framed_as_they_must_be() {
    let head = "POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for (body, word) in [
        ("5\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("5\r\nhello0\r\n\r\n", "framed"),
        ("5\r\nhello\n0\r\n\r\n", "framed"),
        (" 5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("5 \r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("0x5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("-5\r\nhello\r\n0\r\n\r\n", "hexadecimal"),
        ("\r\n", "hexadecimal"),
        (";x\r\n", "hexadecimal"),
        ("fffffffffffffffff\r\n", "too long"),
        ("5;a\nb\r\nhello\r\n", "framed"),
        ("5\rhello", "framed"),
        ("0\r\nx: 1\n\r\n", "control"),
        ("0\r\nx : 1\r\n\r\n", "token"),
        ("0\r\ncontent-length: 1\r\n\r\n", "trailer"),
        ("0\r\n folded\r\n\r\n", "folded"),
        ("0\r\n\rx", "framed"),
    ] {
        let sent = format!("{head}{body}");
        for cut in [head.len(), sent.len() - 1, head.len() + 1] {
            let (a, b) = sent.as_bytes().split_at(cut);
            let passed = run(&[a, b], 4096);
            let failed = passed.failed.map(|error| error.to_string()).unwrap_or_default();
            assert!(failed.contains(word), "{body:?}: {failed:?}");
        }
    }
    let long = format!("{head}5;{}\r\nhello\r\n", "x".repeat(300));
    assert!(run(&[long.as_bytes()], 4096).failed.is_some(), "an endless chunk extension");
    let trailers = format!("{head}0\r\n{}", "x: 1\r\n".repeat(100));
    assert_eq!(run(&[trailers.as_bytes()], 4096).failed, Some(HeadError::TooLarge));
}

#[tokio::test(start_paused = true)]
async fn a_head_that_dribbles_in_ends_by_time() {
    let (mut client, server) = tokio::io::duplex(64);
    let (mut guard, handle) = Guard::new(server, BytesMut::new(), limits());
    let started = Instant::now();
    let dribble = tokio::spawn(async move {
        for byte in std::iter::repeat_n(b"G", 60) {
            if client.write_all(byte).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    let mut got = vec![0; STAND_IN.len()];
    guard.read_exact(&mut got).await.unwrap();
    assert_eq!(got, STAND_IN);
    assert_eq!(handle.next(), Some(HeadError::Timeout));
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    dribble.abort();
}

#[tokio::test(start_paused = true)]
async fn what_follows_an_upgrade_waits_for_the_answer() {
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n";
    let next = "GET /next HTTP/1.1\r\nhost: a\r\n\r\n";
    for agreed in [true, false] {
        let (mut client, server) = tokio::io::duplex(4096);
        let (mut guard, handle) = Guard::new(server, BytesMut::new(), limits());
        client.write_all(format!("{upgrade}{next}").as_bytes()).await.unwrap();
        let mut got = vec![0; 4096];
        let n = guard.read(&mut got).await.unwrap();
        assert_eq!(&got[..n], upgrade.as_bytes());
        let more = tokio::time::timeout(Duration::from_secs(1), guard.read(&mut got)).await;
        assert!(more.is_err(), "nothing may come before the answer");
        if agreed {
            assert_eq!(guard.into_parts().1, next.as_bytes());
        } else {
            handle.not_a_tunnel();
            let n = guard.read(&mut got).await.unwrap();
            assert_eq!(&got[..n], next.as_bytes());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_is_given_a_moment() {
    let (mut client, server) = tokio::io::duplex(4096);
    let (mut guard, handle) = Guard::new(server, BytesMut::new(), limits());
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut got = vec![0; 4096];
    assert!(guard.read(&mut got).await.unwrap() > 0);
    client.shutdown().await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_secs(1), guard.read(&mut got)).await;
    assert!(waiting.is_err(), "the answer may still come");
    handle.answered();
    assert_eq!(guard.read(&mut got).await.unwrap(), 0);
}
