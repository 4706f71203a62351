//! Connections that only Audit policies want read: every byte goes on as it came, and what would be denied is written down.

#![expect(clippy::unwrap_used, reason = "what the stage can't do fails the test")]

#[expect(dead_code, reason = "each test program uses a part of it")]
mod dataplane_stage;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use dataplane_stage::{BACKEND_POLICY, Stage, serve_raw};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests of the frontend by GET would be allowed, one call, and one server name.
const TRIED: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: tried, namespace: demo }
spec:
  enforcement: Audit
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    http: [ { method: GET } ]
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    grpc: [ { service: orders.v1.OrderService, method: Put } ]
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    tls: { serverNames: [ api.example.com ] }
";

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

async fn stage(server: SocketAddr) -> Stage {
    Stage::audited(server, TRIED, &["limits.headSeconds=1", "limits.headerBytes=1024"]).await
}

/// Sends in portions; the same must come back from the server that echoes.
async fn echoed(client: &mut TcpStream, bytes: &[u8], portion: usize) {
    let mut back = vec![0; bytes.len()];
    let (mut read, mut write) = client.split();
    let sending = async {
        for portion in bytes.chunks(portion) {
            write.write_all(portion).await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    let whole = async { tokio::join!(sending, read.read_exact(&mut back)).1 };
    tokio::time::timeout(Duration::from_secs(10), whole).await.expect("every byte in time").unwrap();
    assert_eq!(back, bytes);
}

fn left_out(stage: &Stage) -> u64 {
    stage.dataplane.metrics.audit.left_out.get()
}

async fn wait_left_out(stage: &Stage, wanted: u64) {
    for _ in 0..500 {
        if left_out(stage) >= wanted {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(left_out(stage), wanted);
}

fn words(record: &Value) -> Value {
    json!(["type", "verdict", "enforced", "wouldBe", "reason"].map(|field| record[field].clone()))
}

/// Bodies of both framings, pipelined, in any portions; the requests among them that would be denied have a record each.
#[tokio::test]
async fn requests_pass_byte_for_byte_and_are_asked_about() {
    let bytes = [
        "GET /one HTTP/1.1\r\nHost: Web\r\nX-ODD:  spaces \r\n\r\n",
        "PUT /a/../two HTTP/1.1\r\nhost: web\r\nContent-Length: 29\r\n\r\nDELETE /body HTTP/1.1\r\nhost: ",
        "GET /three HTTP/1.1\r\nhost: web\r\n\r\n",
        "POST /four?x HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n1b;x\r\nPATCH / HTTP/1.1\r\nhost: x\r\n\r\n0\r\n\r\n",
        "\r\nHEAD /five HTTP/1.0\r\n\r\n",
    ]
    .concat()
    .into_bytes();
    for portion in [1, 7, 100, bytes.len()] {
        let stage = stage(serve_raw(echo).await).await;
        let mut client = stage.connect().await;
        echoed(&mut client, &bytes, portion).await;
        let records = stage.records(3).await;
        let asked: Vec<_> = records.iter().map(|record| (&record["http"]["method"], &record["http"]["path"])).collect();
        let expected = [("PUT", "/two"), ("POST", "/four"), ("HEAD", "/five")].map(|(m, p)| (json!(m), json!(p)));
        assert_eq!(asked, expected.each_ref().map(|(m, p)| (m, p)), "in portions of {portion}");
        for record in &records {
            assert_eq!(words(record), json!(["request", "audit", "allow", "deny", "NoRuleMatched"]), "{record:#}");
            assert_eq!((&record["policy"]["name"], &record["direction"]), (&json!("tried"), &json!("ingress")));
            assert_eq!(record["connection"], records[0]["connection"]);
        }
        assert_eq!(left_out(&stage), 0);
    }
}

/// What ends the reading ends nothing else.
#[tokio::test]
async fn what_has_no_certain_reading_passes_and_is_counted() {
    let long = format!("GET /{} HTTP/1.1\r\nhost: web\r\n\r\nmore", "a".repeat(3000));
    let rows: [(&str, &[u8], usize); 8] = [
        (
            "two lengths",
            b"GET / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nPUT / HTTP/1.1\r\n\r\n",
            0,
        ),
        ("no host", b"PUT / HTTP/1.1\r\n\r\nPUT / HTTP/1.1\r\nhost: web\r\n\r\n", 0),
        ("a head that is too long", long.as_bytes(), 0),
        ("chunks that are none", b"PUT / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 1),
        (
            "a tunnel, perhaps",
            b"PUT / HTTP/1.1\r\nhost: web\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n\x81\x05hello",
            1,
        ),
        ("CONNECT", b"CONNECT web:80 HTTP/1.1\r\nhost: web:80\r\n\r\nPUT / HTTP/1.1\r\nhost: web\r\n\r\n", 1),
        ("fields that are none", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x04\0\0\0\x01\xff", 0),
        ("a frame that is too long", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\x10\0\0\x01\x04\0\0\0\x01", 0),
    ];
    for (what, bytes, records) in rows {
        for portion in [3, bytes.len()] {
            let stage = stage(serve_raw(echo).await).await;
            let mut client = stage.connect().await;
            echoed(&mut client, bytes, portion).await;
            wait_left_out(&stage, 1).await;
            echoed(&mut client, &[b'x'; 100_000], 10_000).await;
            assert_eq!((stage.records(records).await.len(), left_out(&stage)), (records, 1), "{what}");
        }
    }
}

/// A server that reads every body to its end and answers with a long one, in windows of its own, and a client with trailers.
#[tokio::test]
async fn requests_and_calls_over_http2_are_asked_about() {
    const ANSWER: usize = 300_000;
    let serve = |stream: TcpStream| async move {
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(1 << 20).header_table_size(16_384);
        let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    let _ = body.flow_control().release_capacity(data.len());
                }
                let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                answer.send_data(Bytes::from(vec![b'a'; ANSWER]), true).unwrap();
            });
        }
    };
    let stage = stage(serve_raw(serve).await).await;
    let (mut client, connection) = h2::client::handshake(stage.connect().await).await.unwrap();
    tokio::spawn(connection);
    let mut ask = async |method: &str, path: &str, call: bool, body: usize| {
        let mut request = http::Request::builder().method(method).uri(format!("http://web{path}")).header("x-team", "blue");
        if call {
            request = request.header("content-type", "application/grpc+proto");
        }
        client = client.clone().ready().await.unwrap();
        let (response, mut sending) = client.send_request(request.body(()).unwrap(), body == 0).unwrap();
        if body > 0 {
            sending.send_data(Bytes::from(vec![b'b'; body]), false).unwrap();
            let trailers = http::HeaderMap::from_iter([(http::HeaderName::from_static("x-end"), "now".parse().unwrap())]);
            sending.send_trailers(trailers).unwrap();
        }
        let mut body = response.await.unwrap().into_body();
        let mut read = 0;
        while let Some(data) = body.data().await {
            let length = data.unwrap().len();
            read += length;
            body.flow_control().release_capacity(length).unwrap();
        }
        assert_eq!(read, ANSWER, "{method} {path}");
    };
    ask("GET", "/one", false, 0).await;
    ask("POST", "/two", false, 200_000).await;
    ask("POST", "/orders.v1.OrderService/Put", true, 50).await;
    for _ in 0..20 {
        ask("GET", "/three", false, 0).await;
    }
    ask("POST", "/orders.v1.OrderService/Get", true, 50).await;
    ask("DELETE", "/a/../four", false, 0).await;
    let records = stage.records(3).await;
    let asked: Vec<_> = records.iter().map(|record| record["http"]["path"].as_str().unwrap()).collect();
    assert_eq!(asked, ["/two", "/orders.v1.OrderService/Get", "/four"]);
    for record in &records {
        assert_eq!(words(record), json!(["request", "audit", "allow", "deny", "NoRuleMatched"]), "{record:#}");
        assert_eq!(record["http"]["version"], "2");
    }
    assert_eq!(
        (&records[1]["grpc"]["service"], &records[1]["grpc"]["method"]),
        (&json!("orders.v1.OrderService"), &json!("Get"))
    );
    assert_eq!(left_out(&stage), 0);
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let greet = |mut stream: TcpStream| async move {
        stream.write_all(b"220 ready\r\n").await.unwrap();
        echo(stream).await;
    };
    let stage = stage(serve_raw(greet).await).await;
    let mut client = stage.connect().await;
    let begun = tokio::time::Instant::now();
    assert_eq!(dataplane_stage::read_until(&mut client, b"\n").await, "220 ready\r\n");
    assert!(begun.elapsed() < Duration::from_millis(900), "it waits for nothing");
    echoed(&mut client, b"EHLO frontend\r\n", 100).await;
    let records = stage.records(1).await;
    assert_eq!(words(&records[0]), json!(["connection", "audit", "allow", "deny", "NotTheProtocol"]));
    assert_eq!(records[0]["policy"]["name"], "tried");
    assert_eq!(left_out(&stage), 0);
}

/// A client that says nothing is no client of HTTP: that is said once its time is over, and the connection goes on.
#[tokio::test]
async fn silence_passes() {
    let stage = stage(serve_raw(echo).await).await;
    let mut client = stage.connect().await;
    let records = stage.records(1).await;
    assert_eq!(words(&records[0]), json!(["connection", "audit", "allow", "deny", "NotTheProtocol"]));
    echoed(&mut client, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n", 100).await;
    // A server that ends before that, and a client that never spoke.
    let stage =
        Stage::audited(serve_raw(|mut stream| async move { stream.write_all(b"12:00\n").await.unwrap() }).await, TRIED, &[])
            .await;
    let mut client = stage.connect().await;
    assert_eq!(dataplane_stage::read_until(&mut client, b"?").await, "12:00\n");
    drop(client);
    assert_eq!(words(&stage.records(1).await[0])[4], "NotTheProtocol");
}

#[tokio::test]
async fn ends_are_passed_on_as_they_are() {
    // The client's end of sending; the answer comes behind it.
    let answer = |mut stream: TcpStream| async move {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        stream.write_all(&all).await.unwrap();
    };
    let whole = stage(serve_raw(answer).await).await;
    let mut client = whole.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    client.shutdown().await.unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"GET / HTTP/1.1\r\n");
    // The server's reset.
    let reset = |mut stream: TcpStream| async move {
        let _ = stream.read_u8().await;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    };
    let broken = stage(serve_raw(reset).await).await;
    let mut client = broken.connect().await;
    client.write_all(b"x").await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

/// No limit of the proxy's touches what is allowed anyway; what is enforced does, as soon as it says otherwise.
#[tokio::test]
async fn limits_refuse_nobody_and_policies_do() {
    let settings = ["limits.connections=1", "limits.connectionsPerPod=1", "limits.idleSeconds=1"];
    let stage = Stage::audited(serve_raw(echo).await, TRIED, &settings).await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = stage.connect().await;
        echoed(&mut client, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n", 100).await;
        clients.push(client);
    }
    tokio::time::sleep(Duration::from_millis(1600)).await;
    stage.policies("");
    for client in &mut clients {
        echoed(client, b"GET / HTTP/1.1\r\nhost: web\r\n\r\n", 100).await;
    }
    stage.policies(BACKEND_POLICY);
    for client in &mut clients {
        let end = tokio::time::timeout(Duration::from_secs(5), client.read_u8()).await.expect("it is cut");
        assert!(end.is_err());
    }
    drop(clients);
    // What has to be read by now is judged, whichever way it came.
    let mut client = stage.connect().await;
    assert_eq!(dataplane_stage::ask(&mut client, "PUT /api/a HTTP/1.1\r\nhost: web\r\n\r\n").await.status, 403);
    stage.policies(&BACKEND_POLICY.replace("app: frontend", "app: nobody"));
    let mut client = stage.connect().await;
    assert!(client.read_u8().await.is_err(), "denied");
}
