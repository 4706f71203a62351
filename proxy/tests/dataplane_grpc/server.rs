//! A server of HTTP/2 streams with gRPC's fields, which does what the method of the call says and tells what it saw.
//!
//! | method | what it does |
//! |---|---|
//! | `Get` | reads the call to its end, then answers one message |
//! | `Fail` | trailers-only, status 5 |
//! | `Chat` | every message comes back, until the client ends |
//! | `Watch` | a message every 10 ms, for ever |
//! | `Flood` | messages as fast as the window lets it, for ever |
//! | `Deaf` | reads nothing and answers nothing |
//! | `Reset` | resets the stream with the code in `x-code`, after its head if `x-late` is there |
//! | `Leave` | answers, and the connection takes no more calls (GOAWAY) |

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::dataplane_stage::serve_raw;

/// What the server saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicUsize,
    /// Given to the window by `Flood`.
    pub(crate) flooded: AtomicU64,
}

/// How a call ended that the other side ended, in the words of h2.
pub(crate) type Ends = mpsc::Receiver<String>;

pub(crate) async fn serve() -> (SocketAddr, Arc<Seen>, Ends) {
    let seen = Arc::<Seen>::default();
    let (ends, told) = mpsc::channel(16);
    let shared = Arc::clone(&seen);
    let address = serve_raw(move |stream| converse(stream, Arc::clone(&shared), ends.clone())).await;
    (address, seen, told)
}

async fn converse(stream: TcpStream, seen: Arc<Seen>, ends: mpsc::Sender<String>) {
    seen.connections.fetch_add(1, Ordering::SeqCst);
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        if request.uri().path().ends_with("/Leave") {
            connection.graceful_shutdown();
        }
        tokio::spawn(call(request, respond, Arc::clone(&seen), ends.clone()));
    }
}

async fn call(request: Request<RecvStream>, mut respond: SendResponse<Bytes>, seen: Arc<Seen>, ends: mpsc::Sender<String>) {
    let (parts, mut body) = request.into_parts();
    let method = parts.uri.path().rsplit('/').next().unwrap().to_owned();
    let code = parts.headers.get("x-code").map(|code| code.to_str().unwrap().parse::<u32>().unwrap());
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    if let Some(timeout) = parts.headers.get("grpc-timeout") {
        head.headers_mut().insert("x-timeout-seen", timeout.clone());
    }
    if method == "Fail" {
        head.headers_mut().insert("grpc-status", HeaderValue::from_static("5"));
        respond.send_response(head, true).unwrap();
        return;
    }
    if let Some(code) = code.filter(|_| !parts.headers.contains_key("x-late")) {
        respond.send_reset(Reason::from(code));
        return;
    }
    if method == "Deaf" {
        let reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
        let _ = ends.send(format!("{reason:?}")).await;
        return;
    }
    let mut send = respond.send_response(head, false).unwrap();
    match method.as_str() {
        "Get" | "Leave" => {
            let mut bytes = 0;
            while let Some(Ok(data)) = body.data().await {
                bytes += data.len();
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            send.send_data(Bytes::from(format!("{bytes} bytes")), false).unwrap();
            send.send_trailers(trailers()).unwrap();
        }
        "Chat" => {
            let error = loop {
                match body.data().await {
                    Some(Ok(data)) => {
                        body.flow_control().release_capacity(data.len()).unwrap();
                        if send.send_data(data, false).is_err() {
                            break None;
                        }
                    }
                    Some(Err(error)) => break Some(error),
                    None => {
                        send.send_trailers(trailers()).unwrap();
                        return;
                    }
                }
            };
            let _ = ends.send(format!("{:?}", error.and_then(|error| error.reason()))).await;
        }
        "Watch" => loop {
            tokio::select! {
                reason = std::future::poll_fn(|cx| send.poll_reset(cx)) => {
                    let _ = ends.send(format!("{reason:?}")).await;
                    return;
                }
                () = tokio::time::sleep(Duration::from_millis(10)) => {
                    let _ = send.send_data(Bytes::from_static(b"order"), false);
                }
            }
        },
        "Flood" => flood(&mut send, &seen.flooded).await,
        "Reset" => {
            send.send_data(Bytes::from_static(b"some"), false).unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            send.send_reset(Reason::from(code.unwrap()));
        }
        other => panic!("no method {other}"),
    }
}

/// Fills every window that it is given.
pub(crate) async fn flood(send: &mut SendStream<Bytes>, given: &AtomicU64) {
    loop {
        send.reserve_capacity(64 * 1024);
        let Some(Ok(capacity)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
        given.fetch_add(capacity as u64, Ordering::SeqCst);
        if send.send_data(Bytes::from(vec![b'x'; capacity]), false).is_err() {
            return;
        }
    }
}

/// Everything that trailers may have in gRPC.
pub(crate) fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("grpc-message", HeaderValue::from_static("100%25 done"));
    trailers.append("x-cost", HeaderValue::from_static("1"));
    trailers.append("x-cost", HeaderValue::from_static("2"));
    trailers.insert("grpc-status-details-bin", HeaderValue::from_static("CAUSBG9r"));
    trailers
}
