//! The data path with real sockets on loopback: a client, the proxy's connection handling, a server. Who the client is and where
//! it wanted to go is told to the proxy, as TPROXY would.

mod dataplane_contents;
#[expect(dead_code, reason = "each test program uses a part of it")]
mod dataplane_stage;

use std::time::Duration;

use dataplane_stage::{BACKEND_POLICY, Stage, ask, read_response, serve_raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GET: &str = "GET /api/a HTTP/1.1\r\nhost: web\r\n\r\n";
const PUT: &str = "PUT /api/a HTTP/1.1\r\nhost: web\r\n\r\n";

/// Answers each head with 200 and the request line as body.
async fn echo(mut stream: TcpStream) {
    loop {
        let Some(head) = dataplane_stage::read_head(&mut stream).await else { return };
        let line = head.lines().next().unwrap_or_default().to_owned();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn requests_are_judged_one_by_one() {
    let stage = Stage::new(serve_raw(echo).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let allowed = ask(&mut client, GET).await;
    assert_eq!((allowed.status, allowed.body.as_str()), (200, "GET /api/a HTTP/1.1"));
    let denied = ask(&mut client, PUT).await;
    assert_eq!(denied.status, 403);
    assert_eq!(denied.header("content-type"), Some("text/plain"));
    let line = "Sluice denied PUT /api/a from demo/frontend to demo/backend port";
    assert!(denied.body.starts_with(line) && denied.body.ends_with('\n'), "{}", denied.body);
    assert!(denied.body.contains("SluiceNetworkPolicy demo/backend"), "{}", denied.body);
    let again = ask(&mut client, "GET /api/../api//b?q=%2e HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!(again.body, "GET /api/b?q=%2e HTTP/1.1", "what is forwarded is what was judged");
    drop(client);

    let records = stage.records(4).await;
    let words: Vec<_> =
        records.iter().map(|r| (r["type"].as_str(), r["verdict"].as_str(), r["http"]["status"].as_u64())).collect();
    let request = |verdict, status| (Some("request"), Some(verdict), Some(status));
    assert_eq!(words[..3], [request("allow", 200), request("deny", 403), request("allow", 200)]);
    assert_eq!(words[3].0, Some("connection"));
    assert_eq!(records[1]["id"].as_str(), denied.header("x-sluice-id"));
    assert_eq!(records[1]["policy"]["name"], "backend");
    assert_eq!(records[1]["direction"], "ingress");
    assert_eq!(records[1]["source"]["pod"], "frontend");
    assert_eq!(records[2]["http"]["path"], "/api/b");
    assert_eq!(records[3]["id"], records[0]["connection"]);
}

#[tokio::test]
async fn a_denied_client_never_touches_the_server() {
    let touched = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = std::sync::Arc::clone(&touched);
    let server = serve_raw(move |stream| {
        seen.store(true, std::sync::atomic::Ordering::Relaxed);
        echo(stream)
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    assert_eq!(ask(&mut client, PUT).await.status, 403);
    let body = "POST /other HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nhello";
    assert_eq!(ask(&mut client, body).await.status, 403, "a bounded body is drained, and the connection goes on");
    assert_eq!(ask(&mut client, PUT).await.status, 403);
    assert!(!touched.load(std::sync::atomic::Ordering::Relaxed));
}

#[tokio::test]
async fn a_kept_connection_obeys_the_newest_table() {
    let stage = Stage::new(serve_raw(echo).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    assert_eq!(ask(&mut client, GET).await.status, 200);
    stage.policies(&BACKEND_POLICY.replace("method: GET", "method: PUT"));
    assert_eq!(ask(&mut client, GET).await.status, 403);
    assert_eq!(ask(&mut client, PUT).await.status, 200);
}

#[tokio::test]
async fn a_table_that_forbids_the_connection_cuts_it() {
    let stage = Stage::new(
        serve_raw(|mut stream| async move {
            let _ = dataplane_stage::read_head(&mut stream).await;
            tokio::time::sleep(Duration::from_secs(20)).await;
        })
        .await,
        BACKEND_POLICY,
    )
    .await;
    let mut client = stage.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.policies(&BACKEND_POLICY.replace("app: frontend", "app: nobody"));
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let records = stage.records(2).await;
    assert_eq!(records[0]["type"], "request", "judged, and never answered");
    assert_eq!(records[0]["verdict"], "allow");
    assert!(records[0]["http"].get("status").is_none());
    assert_eq!(records[1]["reason"], "PolicyChanged");
    assert_eq!(records[1]["verdict"], "deny");
}

#[tokio::test]
async fn what_can_not_be_read_safely_is_refused() {
    let long = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\n", "a".repeat(1 << 20));
    let fields = format!("GET / HTTP/1.1\r\nhost: web\r\nx: {}\r\n\r\n", "a".repeat(100_000));
    for (request, status, reason) in [
        ("GET / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n", 400, "MalformedRequest"),
        ("GET / HTTP/1.1\r\n\r\n", 400, "MalformedRequest"),
        ("GET /%252e HTTP/1.1\r\nhost: web\r\n\r\n", 400, "MalformedRequest"),
        ("GET / HTTP/1.1\nhost: web\n\n", 400, "MalformedRequest"),
        (&long, 431, "HeadTooLarge"),
        (&fields, 431, "HeadTooLarge"),
    ] {
        let stage = Stage::new(serve_raw(echo).await, BACKEND_POLICY).await;
        let mut client = stage.connect().await;
        let _ = client.write_all(request.as_bytes()).await;
        let answer = read_response(&mut client, "GET").await;
        assert_eq!(answer.status, status, "{:.60}", request);
        assert!(answer.header("x-sluice-id").is_some());
        assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0, "and closed");
        let records = stage.records(2).await;
        assert_eq!((records[0]["type"].as_str(), records[0]["reason"].as_str()), (Some("request"), Some(reason)));
        assert_eq!(records[0]["verdict"], "deny");
    }
}

#[tokio::test]
async fn refusals_come_in_their_turn() {
    let stage = Stage::new(serve_raw(echo).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(format!("{GET}{PUT}GET / HTTP/1.1\r\n\r\n{GET}").as_bytes()).await.unwrap();
    for status in [200, 403, 400] {
        assert_eq!(read_response(&mut client, "GET").await.status, status);
    }
    assert_eq!(client.read(&mut [0]).await.unwrap_or(0), 0, "nothing after the refusal is served");
}

#[tokio::test]
async fn chunked_bodies_and_trailers_go_both_ways() {
    let server = serve_raw(|mut stream| async move {
        let head = dataplane_stage::read_head(&mut stream).await.unwrap();
        let body = dataplane_stage::read_until(&mut stream, b"\r\n\r\n").await;
        assert!(head.to_lowercase().contains("transfer-encoding: chunked"), "{head}");
        assert!(body.contains("hello") && body.contains("x-sum: 1"), "{body}");
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n3\r\nabc\r\n0\r\nx-end: 2\r\n\r\n";
        stream.write_all(answer.as_bytes()).await.unwrap();
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let request = "GET /api/a HTTP/1.1\r\nhost: web\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
        transfer-encoding: chunked\r\n\r\n5;ext=1\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let answer = dataplane_stage::read_until(&mut client, b"x-end: 2\r\n\r\n").await;
    assert!(answer.contains("3\r\nabc\r\n0\r\n"), "{answer}");
}

#[tokio::test]
async fn chunks_that_break_off_the_framing_are_refused() {
    let server = serve_raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let request = "GET /api/a HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(read_response(&mut client, "GET").await.status, 400);
    let records = stage.records(1).await;
    assert_eq!(records[0]["reason"], "MalformedRequest");
}

#[tokio::test]
async fn the_server_is_asked_before_a_body_is() {
    let server = serve_raw(|mut stream| async move {
        let head = dataplane_stage::read_head(&mut stream).await.unwrap();
        assert!(head.contains("100-continue"));
        let early = tokio::time::timeout(Duration::from_millis(200), stream.read_u8()).await;
        assert!(early.is_err(), "no body before it is asked for");
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let mut body = [0; 5];
        stream.read_exact(&mut body).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let head = "GET /api/a HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let go_on = dataplane_stage::read_until(&mut client, b"\r\n\r\n").await;
    assert!(go_on.starts_with("HTTP/1.1 100"), "{go_on}");
    client.write_all(b"hello").await.unwrap();
    assert_eq!(read_response(&mut client, "GET").await.body, "ok");
}

#[tokio::test]
async fn a_denied_body_is_not_asked_for() {
    let stage = Stage::new(serve_raw(echo).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let head = "PUT /api/a HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n";
    let answer = ask(&mut client, head).await;
    assert_eq!((answer.status, answer.header("connection")), (403, Some("close")));
}

#[tokio::test]
async fn responses_without_a_body() {
    let server = serve_raw(|mut stream| async move {
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\netag: \"x\"\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlast",
        ] {
            dataplane_stage::read_head(&mut stream).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(b"HEAD /api/a HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    let head = read_response(&mut client, "HEAD").await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("1000")));
    assert_eq!(ask(&mut client, GET).await.status, 204);
    assert_eq!(ask(&mut client, GET).await.status, 304);
    assert_eq!(ask(&mut client, GET).await.body, "last");
}

#[tokio::test]
async fn big_bodies_pass_and_are_not_held() {
    const BYTES: usize = 32 << 20;
    let server = serve_raw(|mut stream| async move {
        dataplane_stage::read_head(&mut stream).await.unwrap();
        let mut left = BYTES;
        let mut buf = vec![0; 1 << 16];
        while left > 0 {
            let n = stream.read(&mut buf).await.unwrap();
            assert!(n > 0);
            left -= n;
        }
        stream.write_all(format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n").as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; BYTES]).await.unwrap();
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let head = format!("GET /api/big HTTP/1.1\r\nhost: web\r\ncontent-length: {BYTES}\r\n\r\n");
    client.write_all(head.as_bytes()).await.unwrap();
    client.write_all(&vec![b'y'; BYTES]).await.unwrap();
    assert_eq!(read_response(&mut client, "GET").await.body.len(), BYTES);
    drop(client);
    let records = stage.records(1).await;
    assert_eq!(records[0]["bytesSent"], BYTES);
    assert_eq!(records[0]["bytesReceived"], BYTES);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_the_server_up() {
    let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&written);
    let server = serve_raw(move |mut stream| {
        let count = std::sync::Arc::clone(&count);
        async move {
            dataplane_stage::read_head(&mut stream).await.unwrap();
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1073741824\r\n\r\n").await;
            while let Ok(n) = stream.write(&[0; 65536]).await {
                count.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let bytes = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!(bytes < 64 << 20, "{bytes} bytes went into a client that doesn't read");
}

#[tokio::test]
async fn a_server_that_can_not_be_reached() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stage = Stage::new(closed, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    assert_eq!(ask(&mut client, GET).await.status, 502);
    let records = stage.records(1).await;
    assert_eq!((records[0]["reason"].as_str(), records[0]["verdict"].as_str()), (Some("UpstreamUnreachable"), Some("allow")));
}

#[tokio::test]
async fn a_request_is_sent_once() {
    let heads = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = std::sync::Arc::clone(&heads);
    let server = serve_raw(move |mut stream| {
        let count = std::sync::Arc::clone(&count);
        async move {
            if dataplane_stage::read_head(&mut stream).await.is_some() {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        }
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    assert_eq!(ask(&mut client, GET).await.status, 502);
    assert_eq!(heads.load(std::sync::atomic::Ordering::Relaxed), 1, "no hidden retries");
    let records = stage.records(1).await;
    assert_eq!(records[0]["reason"], "Aborted");
}

#[tokio::test]
async fn a_client_that_leaves_gets_its_record() {
    let server = serve_raw(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    drop(client);
    let records = stage.records(2).await;
    assert_eq!((records[0]["type"].as_str(), records[1]["type"].as_str()), (Some("request"), Some("connection")));
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way() {
    let server = serve_raw(|mut stream| async move {
        dataplane_stage::read_head(&mut stream).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let stage = Stage::new(server.await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    stage.dataplane.drain.begun.cancel();
    let answer = read_response(&mut client, "GET").await;
    assert_eq!((answer.body.as_str(), answer.header("connection")), ("late", Some("close")));
    assert_eq!(client.read(&mut [0]).await.unwrap(), 0);
}
