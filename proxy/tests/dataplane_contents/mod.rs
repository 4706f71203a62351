//! What rules ask of requests beyond method and path, with real sockets: what is judged is what the server gets.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2 as client2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::dataplane_stage::{self, Answer, Stage, ask, read_head, serve_raw};

const CONDITIONS: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - http:
    - { pathType: Prefix, path: /team, headers: [ { name: X-Team, exact: blue } ] }
    - { pathType: Exact, path: /page, query: [ { name: page, regex: "[0-9]+" } ] }
    - { path: /host, host: "api\\.example\\.com" }
    - { path: /quiet, headers: [ { name: x-debug, absent: true } ] }
    - { path: /env, headers: [ { name: x-env, exact: prod, not: true } ] }
"#;

/// An L4 rule that allows everything, and a Deny that looks into it.
const DENY: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: no-admin, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - {}
  - action: Deny
    http:
    - { pathType: Prefix, path: /admin }
    - { headers: [ { name: x-role, exact: admin } ] }
    - { method: POST, headers: [ { name: x-token, absent: true } ] }
"#;

/// Answers each head with 200 and the head itself.
async fn echo(mut stream: TcpStream) {
    while let Some(head) = read_head(&mut stream).await {
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{head}", head.len());
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn get(client: &mut TcpStream, target: &str, fields: &str) -> Answer {
    send(client, "GET", target, fields).await
}

async fn send(client: &mut TcpStream, method: &str, target: &str, fields: &str) -> Answer {
    let host = if fields.to_ascii_lowercase().contains("host:") { "" } else { "host: web\r\n" };
    ask(client, &format!("{method} {target} HTTP/1.1\r\n{host}{fields}\r\n")).await
}

#[tokio::test]
async fn host_headers_query_and_prefix_decide() {
    let stage = Stage::new(serve_raw(echo).await, CONDITIONS).await;
    let mut client = stage.connect().await;
    let rows = [
        ("/team/a", "x-team: blue\r\n", 200),
        ("/team", "X-TEAM:   blue  \r\n", 200),
        ("/team/../team/b", "x-team: blue\r\n", 200),
        ("/teams", "x-team: blue\r\n", 403),
        ("/team/a", "x-team: red\r\n", 403),
        ("/team/a", "", 403),
        ("/page?page=12", "", 200),
        ("/page?p%61ge=1%32", "", 200),
        ("/page?page=12&page=x", "", 403),
        ("/page?page=", "", 403),
        ("/page", "", 403),
        ("/page/?page=12", "", 403),
        ("/host", "Host: API.example.com:8080\r\n", 200),
        ("/host", "Host: api.example.com.\r\n", 200),
        ("/host", "Host: apixexample.com\r\n", 403),
        ("/quiet", "", 200),
        ("/quiet", "x-debug:\r\n", 403),
        ("/env", "x-env: test\r\n", 200),
        ("/env", "x-env: prod\r\n", 403),
    ];
    for (target, fields, status) in rows {
        let answer = get(&mut client, target, fields).await;
        assert_eq!(answer.status, status, "{target} {fields:?}: {}", answer.body);
    }
    drop(client);
    let records = stage.records(rows.len()).await;
    assert_eq!(records[0]["policy"]["rule"], "ingress[0].http[0]");
    assert_eq!(records[6]["policy"]["rule"], "ingress[0].http[1]");
}

#[tokio::test]
async fn a_second_value_smuggles_nothing_past_the_rules() {
    let stage = Stage::new(serve_raw(echo).await, CONDITIONS).await;
    let mut client = stage.connect().await;
    for fields in [
        "x-team: blue\r\nx-team: red\r\n",
        "x-team: red\r\nx-team: blue\r\n",
        "x-team: blue\r\nX-Team: blue, red\r\n",
        "x-team: blue, red\r\n",
        "x-team: blue\r\nx-team:\r\n",
    ] {
        assert_eq!(get(&mut client, "/team", fields).await.status, 403, "{fields:?}");
    }
    for fields in ["x-env: test\r\nx-env: prod\r\n", "x-env: prod, test\r\n", "x-env: \u{e9}\r\nx-env: prod\r\n"] {
        assert_eq!(get(&mut client, "/env", fields).await.status, 403, "{fields:?}");
    }
    let mut latin = b"GET /env HTTP/1.1\r\nhost: web\r\nx-env: ".to_vec();
    latin.extend_from_slice(b"\xe9\r\n\r\n");
    client.write_all(&latin).await.unwrap();
    assert_eq!(dataplane_stage::read_response(&mut client, "GET").await.status, 403, "no text: it may be any value");
}

/// RFC 9110 section 7.6.1: what `Connection` names does not go on, so it must not be judged as if it did.
#[tokio::test]
async fn a_field_that_is_taken_out_on_the_way_is_not_judged() {
    let stage = Stage::new(serve_raw(echo).await, CONDITIONS).await;
    let mut client = stage.connect().await;
    let denied = get(&mut client, "/team", "connection: X-Team\r\nx-team: blue\r\n").await;
    assert_eq!(denied.status, 403, "the server would see no team: {}", denied.body);
    let quiet = get(&mut client, "/quiet", "connection: x-debug\r\nx-debug: 1\r\n").await;
    assert_eq!(quiet.status, 200);
    assert!(!quiet.body.to_ascii_lowercase().contains("x-debug"), "what was judged absent is absent: {}", quiet.body);

    stage.policies(DENY);
    let mut client = stage.connect().await;
    let bare = send(&mut client, "POST", "/", "connection: x-token\r\nx-token: x\r\ncontent-length: 0\r\n").await;
    assert_eq!(bare.status, 403, "the server would see no token: {}", bare.body);
    let whole = send(&mut client, "POST", "/", "x-token: x\r\ncontent-length: 0\r\n").await;
    assert_eq!(whole.status, 200, "{}", whole.body);
}

#[tokio::test]
async fn a_deny_reads_what_an_l4_rule_allows() {
    let stage = Stage::new(serve_raw(echo).await, DENY).await;
    let mut client = stage.connect().await;
    for (target, fields, status) in [
        ("/", "", 200),
        ("/admin", "", 403),
        ("/a/..//admin/x", "", 403),
        ("/administrator", "", 200),
        ("/", "x-role: user\r\nX-Role: admin\r\n", 403),
        ("/", "x-role: user,admin\r\n", 403),
        ("/", "x-role: user\r\n", 200),
    ] {
        let answer = get(&mut client, target, fields).await;
        assert_eq!(answer.status, status, "{target} {fields:?}: {}", answer.body);
    }
    let denied = get(&mut client, "/admin", "").await;
    assert!(denied.body.contains("denied by SluiceNetworkPolicy demo/no-admin ingress[1].http[0]"), "{}", denied.body);

    // What is no HTTP might say anything.
    let mut other = stage.connect().await;
    other.write_all(b"\x16\x03\x01\x00\x05hello, this is not HTTP\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    assert!(other.read_to_end(&mut rest).await.is_err() || rest.is_empty(), "{rest:?}");
}

#[tokio::test]
async fn an_upgrade_keeps_the_headers_that_it_was_judged_by() {
    async fn tunnel(mut stream: TcpStream) {
        if read_head(&mut stream).await.is_some() {
            let agreed = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(agreed).await.unwrap();
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        }
    }
    let stage = Stage::new(serve_raw(tunnel).await, CONDITIONS).await;
    let mut client = stage.connect().await;
    let upgrade = "GET /team HTTP/1.1\r\nhost: web\r\nx-team: blue\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
    client.write_all(upgrade.as_bytes()).await.unwrap();
    dataplane_stage::read_until(&mut client, b"\r\n\r\n").await;
    stage.policies(&CONDITIONS.replace("/quiet", "/silent"));
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x', "the team is still blue");
    stage.policies(&CONDITIONS.replace("exact: blue", "exact: green"));
    assert!(client.read_u8().await.is_err(), "the team isn't green");
}

const GRPC: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: orders, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - grpc:
    - { service: orders.v1.OrderService, method: Get }
    - { service: health.Health, metadata: [ { name: x-team, exact: blue } ] }
"#;

#[tokio::test]
async fn grpc_rules_match_calls_alone() {
    async fn serve(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        Ok(Response::builder().header("x-served", "yes").body(Full::default()).unwrap())
    }
    let server = serve_raw(|stream| async move {
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(stream), service_fn(serve)).await;
    });
    let stage = Stage::new(server.await, GRPC).await;
    let (mut sender, connection) = client2::handshake(TokioExecutor::new(), TokioIo::new(stage.connect().await)).await.unwrap();
    tokio::spawn(connection);
    for (path, content_type, team, served) in [
        ("/orders.v1.OrderService/Get", "application/grpc", "", true),
        ("/orders.v1.OrderService/Get", "application/grpc+proto", "", true),
        ("/orders.v1.OrderService/Put", "application/grpc", "", false),
        ("/orders.v1.OrderService/Get", "application/json", "", false),
        ("/orders.v1.OrderService/Get", "application/grpc-web", "", false),
        ("/health.Health/Check", "application/grpc", "blue", true),
        ("/health.Health/Check", "application/grpc", "red", false),
    ] {
        let request = Request::post(format!("http://web{path}")).header("content-type", content_type).header("x-team", team);
        let response = sender.send_request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(response.headers().contains_key("x-served"), served, "{path} {content_type} {team}");
    }
}
