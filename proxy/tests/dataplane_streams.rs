//! The data path beside plain HTTP/1: tunnels, HTTP/2, streams that can't be judged, and clients that mean harm.

#![expect(clippy::unwrap_used, reason = "what the stage can't do fails the test")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod dataplane_stage;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dataplane_stage::{BACKEND_POLICY, Stage, ask, read_head, read_response, read_until, serve_raw};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2 as client2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const UPGRADE: &str = "GET /api/ws HTTP/1.1\r\nhost: web\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\n";

/// Allows everything from the frontend, so nothing needs to be read.
const OPEN: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: open, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
";

/// Agrees to any upgrade or CONNECT, and then echoes bytes.
async fn tunnel(mut stream: TcpStream) {
    let Some(head) = read_head(&mut stream).await else { return };
    let answer: &[u8] = if head.starts_with("CONNECT") {
        b"HTTP/1.1 200 Connection established\r\n\r\n"
    } else {
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
    };
    stream.write_all(answer).await.unwrap();
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// Refuses to upgrade and goes on serving requests, as some servers do.
async fn no_tunnel(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        let line = head.lines().next().unwrap_or_default();
        let status = if head.starts_with("CONNECT") { "405 Method Not Allowed" } else { "200 OK" };
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{line}", line.len());
        stream.write_all(answer.as_bytes()).await.unwrap();
    }
}

#[tokio::test]
async fn upgrades_and_connect_become_tunnels() {
    for request in [UPGRADE, "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n"] {
        let stage = Stage::new(serve_raw(tunnel).await, BACKEND_POLICY).await;
        let mut client = stage.connect().await;
        // The first bytes of the tunnel come with the request: they wait for the server's word.
        client.write_all(format!("{request}early").as_bytes()).await.unwrap();
        let head = read_until(&mut client, b"\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 101") || head.starts_with("HTTP/1.1 200"), "{head}");
        client.write_all(b"late").await.unwrap();
        client.shutdown().await.unwrap();
        let mut echoed = String::new();
        client.read_to_string(&mut echoed).await.unwrap();
        assert_eq!(echoed, "earlylate");
        let records = stage.records(2).await;
        assert_eq!(records[0]["type"], "request");
        assert_eq!(records[1]["reason"], "NeedsRequest", "{:#}", records[1]);
    }
}

#[tokio::test]
async fn without_the_servers_word_there_is_no_tunnel() {
    for request in [UPGRADE, "CONNECT db:5432 HTTP/1.1\r\nhost: db:5432\r\n\r\n"] {
        let stage = Stage::new(serve_raw(no_tunnel).await, BACKEND_POLICY).await;
        let mut client = stage.connect().await;
        let hidden = "DELETE /secret HTTP/1.1\r\nhost: web\r\n\r\n";
        client.write_all(format!("{request}{hidden}").as_bytes()).await.unwrap();
        assert!(matches!(read_response(&mut client, "GET").await.status, 200 | 405));
        assert_eq!(read_response(&mut client, "GET").await.status, 403, "what follows is judged");
    }
}

#[tokio::test]
async fn another_http_is_no_tunnel() {
    let stage = Stage::new(serve_raw(no_tunnel).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    let request = UPGRADE.replace("websocket", "h2c");
    assert_eq!(ask(&mut client, &request).await.body, "GET /api/ws HTTP/1.1");
}

#[tokio::test]
async fn a_tunnel_is_judged_by_its_request() {
    let stage = Stage::new(serve_raw(tunnel).await, BACKEND_POLICY).await;
    let mut client = stage.connect().await;
    client.write_all(UPGRADE.as_bytes()).await.unwrap();
    read_until(&mut client, b"\r\n\r\n").await;
    stage.policies(&BACKEND_POLICY.replace("\"/api/.*\"", "\"/(api/ws|other)\""));
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x', "still allowed");
    stage.policies(&BACKEND_POLICY.replace("\"/api/.*\"", "\"/other\""));
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

async fn echo2(
    request: Request<Incoming>,
) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().to_string();
    let body = request.into_body().collect().await.unwrap();
    let trailers = body.trailers().cloned();
    let text = format!("{path} {}", body.to_bytes().len());
    let mut frames = vec![Ok(Frame::data(Bytes::from(text)))];
    if let Some(trailers) = trailers {
        frames.push(Ok(Frame::trailers(trailers)));
    }
    Ok(Response::new(BodyExt::boxed(StreamBody::new(tokio_stream::iter(frames)))))
}

async fn serve_http2() -> SocketAddr {
    serve_raw(|stream| async move {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service_fn(echo2)).await;
    })
    .await
}

async fn http2<B>(stage: &Stage) -> client2::SendRequest<B>
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static,
{
    let stream = stage.connect().await;
    let (sender, connection) = client2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn http2_streams_are_judged_one_by_one() {
    let stage = Stage::new(serve_http2().await, BACKEND_POLICY).await;
    let sender = http2(&stage).await;
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..60 {
        let mut sender = sender.clone();
        asked.spawn(async move {
            let path = if n % 3 == 0 { format!("http://web/secret/{n}") } else { format!("http://web/api/x/../{n}") };
            let body = Full::new(Bytes::from(vec![b'x'; n * 1000]));
            let response = sender.send_request(Request::post(path).body(body).unwrap()).await.unwrap();
            let status = response.status();
            let body = response.into_body().collect().await.unwrap().to_bytes();
            (n, status, String::from_utf8(body.to_vec()).unwrap())
        });
    }
    for (n, status, body) in asked.join_all().await {
        if n % 3 == 0 {
            assert_eq!(status, StatusCode::FORBIDDEN);
            assert!(body.contains(&format!("POST /secret/{n}")), "{body}");
        } else {
            assert_eq!((status, body), (StatusCode::OK, format!("http://web/api/{n} {}", n * 1000)));
        }
    }
    let records = stage.records(60).await;
    assert!(records.iter().all(|r| r["http"]["version"] == "2" && r["http"]["status"].is_u64()));
}

#[tokio::test]
async fn http2_obeys_the_newest_table_and_carries_trailers() {
    let stage = Stage::new(serve_http2().await, BACKEND_POLICY).await;
    let mut sender = http2(&stage).await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("1"));
    let frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"hello"))), Ok(Frame::trailers(trailers))];
    let body = StreamBody::new(tokio_stream::iter(frames));
    let request = Request::post("http://web/api/t").body(BodyExt::boxed(body)).unwrap();
    let response = sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
    assert_eq!(response.trailers().unwrap()["x-sum"], "1");
    stage.policies(&BACKEND_POLICY.replace("POST", "PATCH"));
    let request = Request::post("http://web/api/t").body(BodyExt::boxed(Empty::new())).unwrap();
    assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn http2_requests_with_two_readings_are_refused() {
    let stage = Stage::new(serve_http2().await, BACKEND_POLICY).await;
    let mut sender = http2::<Empty<Bytes>>(&stage).await;
    for (uri, host) in [("http://web/api/a", Some("other")), ("http://web/%252e", None)] {
        let mut request = Request::get(uri);
        if let Some(host) = host {
            request = request.header("host", host);
        }
        let response = sender.send_request(request.body(Empty::new()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{uri}");
    }
    let records = stage.records(2).await;
    assert!(records.iter().all(|r| r["reason"] == "MalformedRequest"));
}

async fn echo_bytes(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

#[tokio::test]
async fn streams_that_need_no_judgement_pass_with_their_ends() {
    let stage = Stage::new(serve_raw(echo_bytes).await, OPEN).await;
    let client = stage.connect().await;
    let (mut read, mut write) = client.into_split();
    let sent = vec![b'z'; 8 << 20];
    let expected = sent.len();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut got = Vec::new();
    read.read_to_end(&mut got).await.unwrap();
    writer.await.unwrap();
    assert_eq!(got.len(), expected);
    let records = stage.records(1).await;
    assert_eq!((records[0]["bytesSent"].as_u64(), records[0]["bytesReceived"].as_u64()), (Some(8 << 20), Some(8 << 20)));
    assert_eq!(records[0]["verdict"], "allow");
}

#[tokio::test]
async fn a_server_that_speaks_first_passes_where_nothing_is_read() {
    let server = serve_raw(|mut stream| async move {
        stream.write_all(b"220 hello\r\n").await.unwrap();
        let _ = stream.read_u8().await;
    });
    let stage = Stage::new(server.await, OPEN).await;
    let mut client = stage.connect().await;
    assert_eq!(read_until(&mut client, b"\r\n").await, "220 hello\r\n");
    stage.policies(BACKEND_POLICY);
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "nobody reads in a stream that has begun");
    assert_eq!(stage.records(1).await[0]["reason"], "PolicyChanged");
}

#[tokio::test]
async fn what_is_no_http_is_denied_where_http_is_required() {
    for (settings, bytes, reason) in [
        (&["limits.headSeconds=5"], b"SSH-2.0-x y\r\n".as_slice(), "NotTheProtocol"),
        (&["limits.headSeconds=1"], b"", "HeadTimeout"),
        (&["limits.headSeconds=1"], b"GET / HT", "HeadTimeout"),
    ] {
        let stage = Stage::with(serve_raw(echo_bytes).await, BACKEND_POLICY, settings).await;
        let mut client = stage.connect().await;
        client.write_all(bytes).await.unwrap();
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        let records = stage.records(1).await;
        assert_eq!((records[0]["verdict"].as_str(), records[0]["reason"].as_str()), (Some("deny"), Some(reason)));
    }
}

#[tokio::test]
async fn a_client_that_dribbles_ends_by_time() {
    let stage = Stage::with(serve_raw(no_tunnel).await, BACKEND_POLICY, &["limits.headSeconds=2"]).await;
    let client = stage.connect().await;
    let started = Instant::now();
    let (mut read, mut write) = client.into_split();
    let dribble = tokio::spawn(async move {
        write.write_all(b"GET /api/a HTTP/1.1\r\nhost: web\r\nx: ").await.unwrap();
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            if write.write_all(b"x").await.is_err() {
                return;
            }
        }
    });
    let mut answer = Vec::new();
    let _ = read.read_to_end(&mut answer).await;
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    dribble.abort();
    assert_eq!(stage.records(1).await[0]["reason"], "HeadTimeout");
}

#[tokio::test]
async fn limits_hold_and_others_are_unharmed() {
    let stage = Stage::with(serve_raw(no_tunnel).await, BACKEND_POLICY, &["limits.connectionsPerPod=3"]).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = stage.connect().await;
        assert_eq!(ask(&mut client, "GET /api/a HTTP/1.1\r\nhost: web\r\n\r\n").await.status, 200);
        held.push(client);
    }
    let mut fourth = stage.connect().await;
    assert!(fourth.read_u8().await.is_err());
    assert_eq!(ask(&mut held[0], "GET /api/b HTTP/1.1\r\nhost: web\r\n\r\n").await.status, 200);
    let records = stage.records(5).await;
    assert!(records.iter().any(|r| r["reason"] == "TooManyConnections" && r["verdict"] == "deny"));
}

#[tokio::test]
async fn an_idle_connection_ends() {
    let stage = Stage::with(serve_raw(echo_bytes).await, OPEN, &["limits.idleSeconds=1"]).await;
    let mut client = stage.connect().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x');
    let started = Instant::now();
    assert!(client.read_u8().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(4));
    assert_eq!(stage.records(1).await[0]["reason"], "IdleTimeout");
}

#[tokio::test]
async fn a_body_of_only_the_id() {
    let stage = Stage::with(serve_raw(no_tunnel).await, BACKEND_POLICY, &["denialBody=id", "records.connections=denied"]).await;
    let mut client = stage.connect().await;
    let denied = ask(&mut client, "DELETE /api/a HTTP/1.1\r\nhost: web\r\n\r\n").await;
    assert_eq!(Some(denied.body.trim_end()), denied.header("x-sluice-id"));
    drop(client);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let records = stage.records(1).await;
    assert_eq!(records.len(), 1, "an allowed connection has no record: {records:#?}");
}

#[tokio::test]
async fn many_connections_at_once() {
    let stage = Stage::new(serve_raw(no_tunnel).await, BACKEND_POLICY).await;
    let mut clients = Vec::new();
    for _ in 0..250 {
        clients.push(stage.connect().await);
    }
    for client in &mut clients {
        client.write_all(b"GET /api/a HTTP/1.1\r\nhost: web\r\n\r\n").await.unwrap();
    }
    for client in &mut clients {
        assert_eq!(read_response(client, "GET").await.status, 200);
    }
    drop(clients);
    stage.records(500).await;
    assert_eq!(stage.dataplane.admission.open(), 0);
}
