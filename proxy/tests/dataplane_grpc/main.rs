//! gRPC on the data path, down to the frames: denials that a client can read, streams of every kind, and what a new table does to
//! calls that go on.

#![expect(clippy::unwrap_used, reason = "what the stage can't do fails the test")]

#[path = "../dataplane_stage/mod.rs"]
#[expect(dead_code, reason = "the words of HTTP/1 are for the other tests")]
mod dataplane_stage;
mod server;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dataplane_stage::Stage;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use server::{Ends, flood, serve, trailers};

/// The frontend may call all methods of the server but `Delete`.
const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    grpc:
    - { service: orders.Orders, method: Get }
    - { service: orders.Orders, method: Fail }
    - { service: orders.Orders, method: Chat }
    - { service: orders.Orders, method: Watch }
    - { service: orders.Orders, method: Flood }
    - { service: orders.Orders, method: Deaf }
    - { service: orders.Orders, method: Reset }
    - { service: orders.Orders, method: Leave }
";

/// What is left when the methods that stream are taken away.
fn without_streams() -> String {
    ["Chat", "Watch", "Deaf"].iter().fold(POLICY.to_owned(), |policy, method| policy.replace(method, "Nothing"))
}

struct Client(SendRequest<Bytes>);

/// One call: what the client sends and gets.
struct Call {
    send: SendStream<Bytes>,
    response: ResponseFuture,
}

impl Client {
    async fn connect(stage: &Stage) -> Self {
        let (sender, connection) = h2::client::handshake(stage.connect().await).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    async fn begin(&self, method: &str, fields: &[(&str, &str)], over: bool) -> Call {
        let mut request = Request::post(format!("http://orders/orders.Orders/{method}"));
        request = request.header("content-type", "application/grpc+proto").header("te", "trailers");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut sender = self.0.clone().ready().await.unwrap();
        let (response, send) = sender.send_request(request.body(()).unwrap(), over).unwrap();
        Call { send, response }
    }

    /// A call without a message, and the head of its answer.
    async fn ask(&self, method: &str, fields: &[(&str, &str)]) -> Response<RecvStream> {
        soon(self.begin(method, fields, true).await.response).await.unwrap()
    }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("within 10 s")
}

async fn message(body: &mut RecvStream) -> String {
    let data = soon(body.data()).await.unwrap().unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    String::from_utf8(data.to_vec()).unwrap()
}

/// What is left of an answer: its messages in one, and its trailers.
async fn rest(mut body: RecvStream) -> (String, Option<HeaderMap>) {
    let mut text = String::new();
    while let Some(data) = soon(body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        text.push_str(std::str::from_utf8(&data).unwrap());
    }
    (text, soon(body.trailers()).await.unwrap())
}

fn field<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name).map(|value| value.to_str().unwrap())
}

async fn start() -> (Stage, Client, Ends) {
    let (address, _, ends) = serve().await;
    let stage = Stage::new(address, POLICY).await;
    let client = Client::connect(&stage).await;
    (stage, client, ends)
}

const DENIED: &str = "Sluice denied POST /orders.Orders/Delete from demo/frontend to demo/backend port PORT: no ingress rule of \
                      SluiceNetworkPolicy demo/backend allows it (NoRuleMatched)";

#[tokio::test]
async fn a_denial_is_trailers_only() {
    let (address, seen, _ends) = serve().await;
    let stage = Stage::new(address, POLICY).await;
    let client = Client::connect(&stage).await;
    let sentence = DENIED.replace("PORT", &address.port().to_string());
    for over in [true, false] {
        let Call { mut send, response } = client.begin("Delete", &[], over).await;
        if !over {
            // A client that streams need not have ended.
            send.send_data(Bytes::from_static(b"first"), false).unwrap();
        }
        let response = soon(response).await.unwrap();
        let head = response.headers();
        assert_eq!(response.status(), 200);
        assert_eq!(field(head, "content-type"), Some("application/grpc"));
        assert_eq!((field(head, "grpc-status"), field(head, "grpc-message")), (Some("7"), Some(sentence.as_str())));
        assert!(response.body().is_end_stream(), "the head ends the stream");
        let id = field(head, "x-sluice-id").unwrap().to_owned();
        let records = stage.records(if over { 1 } else { 2 }).await;
        let record = records.last().unwrap();
        assert_eq!(record["id"], id.as_str());
        assert_eq!((record["verdict"].as_str(), record["reason"].as_str()), (Some("deny"), Some("NoRuleMatched")));
        assert_eq!(record["grpc"], serde_json::json!({ "service": "orders.Orders", "method": "Delete", "status": 7 }));
        assert_eq!((&record["http"]["path"], &record["http"]["status"]), (&"/orders.Orders/Delete".into(), &200.into()));
    }
    assert_eq!(seen.connections.load(Ordering::SeqCst), 0, "a client that is denied never touches the server");
    // The connection goes on.
    assert_eq!(client.ask("Get", &[]).await.status(), 200);
}

/// Neither a library's reading of frames nor its joining of them stands between.
#[tokio::test]
async fn the_denial_is_one_frame_on_the_wire() {
    let (address, _, _ends) = serve().await;
    let stage = Stage::new(address, POLICY).await;
    let mut stream = stage.connect().await;
    // RFC 7541 section 6.2.2 and 6.1: literals without indexing, `:method: POST` and `:scheme: http` from the static table.
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(":path", "/orders.Orders/Delete"), (":authority", "orders"), ("content-type", "application/grpc")] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    stream.write_all(&[0, 0, u8::try_from(block.len()).unwrap(), 1, 0x4, 0, 0, 0, 1]).await.unwrap();
    stream.write_all(&block).await.unwrap();
    let mut of_stream = Vec::new();
    while of_stream.iter().all(|(kind, _)| *kind != 1) {
        of_stream.extend(frame(&mut stream).await);
    }
    // The client hasn't ended its side: it is told that nobody reads on.
    of_stream.extend(frame(&mut stream).await);
    assert_eq!(
        of_stream,
        [(1, vec![0x5]), (3, vec![0, 0, 0, 0])],
        "HEADERS with END_STREAM and END_HEADERS; RST_STREAM(NO_ERROR)"
    );
}

/// The next frame, if it belongs to stream 1: its kind, and its flags (HEADERS) or its contents (others).
async fn frame(stream: &mut tokio::net::TcpStream) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    soon(stream.read_exact(&mut head)).await.unwrap();
    let mut content = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut content).await.unwrap();
    (head[8] == 1).then(|| (head[3], if head[3] == 1 { vec![head[4]] } else { content }))
}

#[tokio::test]
async fn a_message_of_only_the_id() {
    let (address, _, _ends) = serve().await;
    let stage = Stage::with(address, POLICY, &["denialBody=id"]).await;
    let client = Client::connect(&stage).await;
    let denied = client.ask("Delete", &[]).await;
    assert_eq!(field(denied.headers(), "grpc-message"), field(denied.headers(), "x-sluice-id"));
    let Call { response, .. } = client.begin("Watch", &[], true).await;
    let body = soon(response).await.unwrap().into_body();
    stage.policies(&without_streams());
    let (_, trailers) = rest(body).await;
    let record = stage.records(2).await.remove(1);
    assert_eq!(field(&trailers.unwrap(), "grpc-message"), record["id"].as_str());
}

#[tokio::test]
async fn only_calls_are_answered_as_calls() {
    let (stage, client, _ends) = start().await;
    for (content, status) in [("application/grpc-web", 403), ("application/json", 403), ("application/grpc; x=y", 200)] {
        let mut sender = client.0.clone().ready().await.unwrap();
        let request = Request::post("http://orders/orders.Orders/Delete").header("content-type", content).body(()).unwrap();
        let response = soon(sender.send_request(request, true).unwrap().0).await.unwrap();
        assert_eq!(response.status(), status, "{content}");
        assert_eq!(response.headers().contains_key("grpc-status"), status == 200, "{content}");
    }
    let records = stage.records(3).await;
    assert!(records[0]["grpc"].is_null() && records[2]["grpc"]["status"] == 7);
    // What isn't a call no rule about calls allows.
    for (content, status) in [("application/json", 403), ("application/grpc", 200)] {
        let mut sender = client.0.clone().ready().await.unwrap();
        let request = Request::post("http://orders/orders.Orders/Get").header("content-type", content).body(()).unwrap();
        assert_eq!(soon(sender.send_request(request, true).unwrap().0).await.unwrap().status(), status, "{content}");
    }
}

#[tokio::test]
async fn other_refusals_can_be_read_too() {
    let nobody: SocketAddr = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let stage = Stage::new(nobody, POLICY).await;
    let client = Client::connect(&stage).await;
    let response = client.ask("Get", &[]).await;
    assert_eq!((response.status().as_u16(), field(response.headers(), "grpc-status")), (200, Some("14")));
    let message = field(response.headers(), "grpc-message").unwrap();
    assert_eq!(message, "Sluice refused the request: the server can't be reached (UpstreamUnreachable)");
    let response = client.ask("Get", &[("host", "other")]).await;
    assert_eq!(field(response.headers(), "grpc-status"), Some("13"), "a call with two readings");
    let records = stage.records(2).await;
    assert_eq!(records[0]["grpc"]["status"], 14);
    assert_eq!((&records[1]["reason"], &records[1]["grpc"]["status"]), (&"MalformedRequest".into(), &13.into()));
}

#[tokio::test]
async fn trailers_fields_and_deadlines_pass_unchanged() {
    let (stage, client, _ends) = start().await;
    let Call { mut send, response } = client.begin("Get", &[("grpc-timeout", "5S")], false).await;
    for _ in 0..3 {
        send.send_data(Bytes::from_static(b"order"), false).unwrap();
    }
    send.send_data(Bytes::new(), true).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(field(response.headers(), "x-timeout-seen"), Some("5S"));
    assert_eq!(rest(response.into_body()).await, ("15 bytes".to_owned(), Some(trailers())));
    let failed = client.ask("Fail", &[]).await;
    assert!(failed.body().is_end_stream(), "trailers-only stays trailers-only");
    assert_eq!(field(failed.headers(), "grpc-status"), Some("5"));
    let records = stage.records(2).await;
    assert_eq!(records[0]["grpc"], serde_json::json!({ "service": "orders.Orders", "method": "Get", "status": 0 }));
    assert_eq!((&records[0]["verdict"], &records[0]["bytesSent"]), (&"allow".into(), &15.into()));
    assert_eq!((&records[1]["verdict"], &records[1]["grpc"]["status"]), (&"allow".into(), &5.into()));
}

#[tokio::test]
async fn messages_go_to_and_fro_in_one_call() {
    let (_stage, client, _ends) = start().await;
    let Call { mut send, response } = client.begin("Chat", &[], false).await;
    let mut body = soon(response).await.unwrap().into_body();
    for n in 0..50 {
        send.send_data(Bytes::from(format!("message {n}")), false).unwrap();
        assert_eq!(message(&mut body).await, format!("message {n}"), "each before the next is sent");
    }
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(rest(body).await, (String::new(), Some(trailers())));
}

#[tokio::test]
async fn a_client_that_cancels_ends_the_servers_stream() {
    let (stage, client, mut ends) = start().await;
    for (method, over) in [("Watch", true), ("Chat", false), ("Deaf", true), ("Deaf", false)] {
        let Call { mut send, response } = client.begin(method, &[], over).await;
        let mut body = None;
        if method == "Deaf" {
            tokio::time::sleep(Duration::from_millis(100)).await;
        } else {
            body = Some(soon(response).await.unwrap().into_body());
        }
        send.send_reset(Reason::CANCEL);
        let end = soon(ends.recv()).await.unwrap();
        assert!(end.contains("CANCEL"), "{method} {over}: {end}");
        drop(body);
    }
    let records = stage.records(4).await;
    assert!(records.iter().all(|record| record["verdict"] == "allow" && record["grpc"]["status"].is_null()), "{records:#?}");
    assert_eq!(client.ask("Get", &[]).await.status(), 200, "the connection goes on");
}

#[tokio::test]
async fn a_server_that_resets_is_heard() {
    let (stage, client, _ends) = start().await;
    for (code, status) in [(2, "13"), (7, "14"), (8, "1"), (11, "8")] {
        let code = code.to_string();
        let early = client.ask("Reset", &[("x-code", &code)]).await;
        assert_eq!((early.status().as_u16(), field(early.headers(), "grpc-status")), (200, Some(status)), "code {code}");
        let late = client.ask("Reset", &[("x-code", &code), ("x-late", "")]).await;
        let mut body = late.into_body();
        assert_eq!(message(&mut body).await, "some");
        let error = soon(body.data()).await.unwrap().unwrap_err();
        assert_eq!(
            error.reason().map(|reason| u32::from(reason).to_string()),
            Some(code),
            "the server's code reaches the client"
        );
    }
    let records = stage.records(8).await;
    assert!(records.iter().all(|record| record["verdict"] == "allow"));
}

/// What is between a sender and a reader that doesn't read: windows, sockets' buffers on loopback, and not a stream without end.
const MOST_BETWEEN: u64 = 2 << 20;

#[tokio::test]
async fn a_slow_reader_holds_the_sender_back() {
    let (address, seen, _ends) = serve().await;
    let stage = Stage::new(address, POLICY).await;
    let client = Client::connect(&stage).await;
    let response = client.ask("Flood", &[]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let given = seen.flooded.load(Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(seen.flooded.load(Ordering::SeqCst), given, "the server waits");
    assert!(given < MOST_BETWEEN, "{given} bytes are under way");
    let mut body = response.into_body();
    let mut read = 0;
    while read < 8 << 20 {
        read += message(&mut body).await.len();
    }

    let Call { mut send, response: _response } = client.begin("Deaf", &[], false).await;
    let sent = AtomicU64::new(0);
    let _ = tokio::time::timeout(Duration::from_secs(1), flood(&mut send, &sent)).await;
    let given = sent.load(Ordering::SeqCst);
    assert!(given < MOST_BETWEEN, "{given} bytes are under way");
    assert_eq!(client.ask("Get", &[]).await.status(), 200, "one stream doesn't hold up the others");
}

#[tokio::test]
async fn a_server_that_goes_away_finishes_its_calls_and_the_next_finds_another_connection() {
    let (address, seen, _ends) = serve().await;
    let stage = Stage::new(address, POLICY).await;
    let client = Client::connect(&stage).await;
    let Call { mut send, response } = client.begin("Chat", &[], false).await;
    let mut chat = soon(response).await.unwrap().into_body();
    let (_, trailers) = rest(client.ask("Leave", &[]).await.into_body()).await;
    assert_eq!(field(&trailers.unwrap(), "grpc-status"), Some("0"));
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (text, _) = rest(client.ask("Get", &[]).await.into_body()).await;
    assert_eq!(text, "0 bytes");
    assert_eq!(seen.connections.load(Ordering::SeqCst), 2);
    send.send_data(Bytes::from_static(b"still"), true).unwrap();
    assert_eq!(message(&mut chat).await, "still");
}

#[tokio::test]
async fn a_kept_connection_obeys_and_open_calls_end_with_trailers() {
    let (stage, client, mut ends) = start().await;
    let watch = client.ask("Watch", &[]).await;
    let mut body = watch.into_body();
    assert_eq!(message(&mut body).await, "order");
    let mut chat = client.begin("Chat", &[], false).await;
    let mut chat_body = soon(chat.response).await.unwrap().into_body();
    chat.send.send_data(Bytes::from_static(b"hello"), false).unwrap();
    assert_eq!(message(&mut chat_body).await, "hello");
    let waiting = client.begin("Deaf", &[], false).await;
    tokio::time::sleep(Duration::from_millis(100)).await;

    stage.policies(&POLICY.replace("Leave", "More"));
    assert!(message(&mut body).await.starts_with("order"), "what is still allowed goes on");
    stage.policies(&without_streams());
    for body in [body, chat_body] {
        let (_, trailers) = rest(body).await;
        let trailers = trailers.expect("trailers");
        assert_eq!(field(&trailers, "grpc-status"), Some("7"));
        let message = field(&trailers, "grpc-message").unwrap();
        assert!(message.contains("policies have changed, denied by SluiceNetworkPolicy demo/backend"), "{message}");
    }
    let response = soon(waiting.response).await.unwrap();
    assert_eq!(field(response.headers(), "grpc-status"), Some("7"), "its answer had not begun");
    for _ in 0..3 {
        let end = soon(ends.recv()).await.unwrap();
        assert!(end.contains("CANCEL"), "the server's streams end too: {end}");
    }
    assert_eq!(field(client.ask("Watch", &[]).await.headers(), "grpc-status"), Some("7"), "the next call is denied");
    assert_eq!(rest(client.ask("Get", &[]).await.into_body()).await.0, "0 bytes", "and the connection lives");
    let records = stage.records(5).await;
    for record in &records[..3] {
        let said = (&record["verdict"], &record["reason"], &record["grpc"]["status"], &record["policy"]["name"]);
        assert_eq!(said, (&"deny".into(), &"PolicyChanged".into(), &7.into(), &"backend".into()));
    }
}

/// Requests of HTTP/2 that are no calls have no trailers that would tell.
#[tokio::test]
async fn another_request_breaks_off_with_its_stream_alone() {
    let (address, _, mut ends) = serve().await;
    let policy = |paths: &str| {
        let rules = POLICY.split_once("    grpc:").unwrap().0;
        format!("{rules}    http: [ {{ path: \"/orders.Orders/{paths}\" }} ]\n")
    };
    let stage = Stage::new(address, &policy("(Watch|Get)")).await;
    let client = Client::connect(&stage).await;
    let mut sender = client.0.clone().ready().await.unwrap();
    let request = Request::post("http://orders/orders.Orders/Watch").body(()).unwrap();
    let mut body = soon(sender.send_request(request, true).unwrap().0).await.unwrap().into_body();
    assert_eq!(message(&mut body).await, "order");
    stage.policies(&policy("Get"));
    let error = loop {
        match soon(body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("it looks complete"),
        }
    };
    assert_eq!(error.reason(), Some(Reason::CANCEL));
    assert!(soon(ends.recv()).await.unwrap().contains("CANCEL"));
    assert_eq!(rest(client.ask("Get", &[]).await.into_body()).await.0, "0 bytes");
    let record = stage.records(1).await.remove(0);
    assert_eq!((&record["reason"], &record["verdict"]), (&"PolicyChanged".into(), &"deny".into()));
}

#[tokio::test]
async fn calls_side_by_side_are_judged_one_by_one() {
    let (stage, client, _ends) = start().await;
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..90 {
        let client = Client(client.0.clone());
        asked.spawn(async move {
            let method = if n % 3 == 0 { "Delete" } else { "Get" };
            let response = client.ask(method, &[]).await;
            let denied = field(response.headers(), "grpc-status") == Some("7");
            assert_eq!(denied, n % 3 == 0, "{n}");
            if !denied {
                assert_eq!(rest(response.into_body()).await, ("0 bytes".to_owned(), Some(trailers())));
            }
        });
    }
    asked.join_all().await;
    let records = stage.records(90).await;
    assert_eq!(records.iter().filter(|record| record["grpc"]["status"] == 7).count(), 30);
    assert_eq!(records.iter().filter(|record| record["grpc"]["status"] == 0).count(), 60);
}
