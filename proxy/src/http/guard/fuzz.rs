//! Any bytes through the guard, and through hyper behind it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use super::super::head::HeadError;
use super::{Guard, GuardHandle, HeadLimits};

const LIMIT: usize = 1024;

/// What came through: bytes, refusals in order, and whether reading failed in a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) bytes: Vec<u8>,
    pub(super) heads: Vec<Option<HeadError>>,
    pub(super) failed: Option<HeadError>,
}

/// The first byte says how the rest is cut. However it is, the same comes through; and hyper finds no more requests in it than
/// the guard has seen heads.
pub fn fuzz_guard(data: &[u8]) {
    let Some((cut, sent)) = data.split_first() else { return };
    let whole = run(&[sent], 4096, LIMIT);
    let parts: Vec<_> = sent.chunks(usize::from(*cut).max(1)).collect();
    let pieces = run(&parts, usize::from(*cut).max(1), LIMIT);
    assert_eq!((&whole.heads, whole.failed), (&pieces.heads, pieces.failed));
    // Of a body that turns out to be none, what is passed on depends on what was read with it.
    if whole.failed.is_none() {
        assert_eq!(whole.bytes, pieces.bytes);
    } else {
        let common = whole.bytes.len().min(pieces.bytes.len());
        assert_eq!(whole.bytes[..common], pieces.bytes[..common]);
    }
    let seen = requests(&pieces.bytes);
    assert!(seen <= whole.heads.len(), "hyper sees {seen} requests where the guard saw {:?}", whole.heads);
}

/// Sends `parts` one after the other and reads `read_bytes` at a time, until nothing more comes.
pub(super) fn run(parts: &[&[u8]], read_bytes: usize, limit_bytes: usize) -> Passed {
    runtime().block_on(pass(parts, read_bytes, limit_bytes))
}

async fn pass(parts: &[&[u8]], read_bytes: usize, limit_bytes: usize) -> Passed {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    let time = Duration::from_secs(3600);
    let limits = HeadLimits { bytes: limit_bytes, time, first_by: Instant::now() + time };
    let (mut guard, handle) = Guard::new(server, BytesMut::new(), limits);
    let mut passed = Passed { bytes: Vec::new(), heads: Vec::new(), failed: None };
    let mut buf = vec![0; read_bytes];
    let mut parts = parts.iter();
    loop {
        match tokio::time::timeout(Duration::from_millis(1), guard.read(&mut buf)).await {
            Ok(Ok(0)) => break,
            Ok(Ok(n)) => passed.bytes.extend_from_slice(&buf[..n]),
            Ok(Err(error)) => {
                passed.failed = error.get_ref().and_then(|e| e.downcast_ref()).copied();
                break;
            }
            Err(_) => match parts.next() {
                Some(part) => client.write_all(part).await.expect("there is room"),
                None => break,
            },
        }
    }
    passed.heads = heads(&handle);
    passed
}

fn heads(handle: &GuardHandle) -> Vec<Option<HeadError>> {
    handle.lock().heads.drain(..).collect()
}

/// How many requests hyper reads in `bytes`.
fn requests(bytes: &[u8]) -> usize {
    let seen = Arc::new(AtomicUsize::new(0));
    runtime().block_on(async {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        client.write_all(bytes).await.expect("there is room");
        client.shutdown().await.expect("it is open");
        let service = service_fn(|request: http::Request<Incoming>| {
            seen.fetch_add(1, Ordering::Relaxed);
            async {
                // A body that breaks off is no other request.
                drop(request.into_body().collect().await);
                Ok::<_, Infallible>(http::Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut served = std::pin::pin!(http1::Builder::new().serve_connection(TokioIo::new(server), service));
        let drained = async {
            let mut answers = Vec::new();
            drop(client.read_to_end(&mut answers).await);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            _ = &mut served => {}
            () = drained => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
    });
    seen.load(Ordering::Relaxed)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}
