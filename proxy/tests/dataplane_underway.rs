//! Requests of HTTP/1 under way when a new table denies them. Those of HTTP/2 are in `dataplane_grpc`.

#![expect(clippy::unwrap_used, reason = "what the stage can't do fails the test")]

#[expect(dead_code, reason = "not every word is needed")]
mod dataplane_stage;

use std::time::Duration;

use dataplane_stage::{BACKEND_POLICY, Stage, ask, read_head, read_until, serve_raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Drips for ever, in a body that only the end of the connection ends; says nothing at all to `/api/mute`.
async fn endless(mut stream: TcpStream) {
    let Some(head) = read_head(&mut stream).await else { return };
    if head.starts_with("GET /api/mute") {
        let _ = stream.read_u8().await;
        return;
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    while stream.write_all(b"drip").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What is left allowed.
fn narrowed() -> String {
    BACKEND_POLICY.replace("\"/api/.*\"", "\"/api/other\"")
}

#[tokio::test]
async fn a_response_that_has_begun_breaks_off() {
    let stage = Stage::new(serve_raw(endless).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(b"GET /api/drip HTTP/1.0\r\nhost: web\r\n\r\n").await.unwrap();
    assert!(read_until(&mut client, b"\r\n\r\n").await.starts_with("HTTP/1.0 200"));
    read_until(&mut client, b"dripdrip").await;
    stage.policies(&BACKEND_POLICY.replace("POST", "PATCH"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    read_until(&mut client, b"dripdrip").await;
    stage.policies(&narrowed());
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut rest)).await.expect("an end");
    // Not a FIN: the body would look complete.
    assert_eq!(ended.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let record = stage.records(1).await.remove(0);
    assert_eq!((&record["verdict"], &record["reason"]), (&"deny".into(), &"PolicyChanged".into()), "{record:#}");
    assert_eq!((&record["http"]["status"], &record["policy"]["name"]), (&200.into(), &"backend".into()));
}

#[tokio::test]
async fn a_request_without_an_answer_is_denied() {
    let stage = Stage::new(serve_raw(endless).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let asked = ask(&mut client, "GET /api/mute HTTP/1.1\r\nhost: web\r\n\r\n");
    let change = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stage.policies(&narrowed());
    };
    let (answer, ()) = tokio::join!(asked, change);
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
    assert!(answer.body.contains("policies have changed, denied by SluiceNetworkPolicy demo/backend"), "{}", answer.body);
    let record = stage.records(1).await.remove(0);
    assert_eq!((&record["reason"], &record["http"]["status"]), (&"PolicyChanged".into(), &403.into()));
    assert_eq!(answer.header("x-sluice-id"), record["id"].as_str());
}
