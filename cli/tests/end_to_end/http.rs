//! Requests through the proxy: judged one by one, passed on whole, answered and recorded as documented.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::Command;

use serde_json::{Value, json};
use sluice_testnet::{Child, wait_until};

use crate::client::{Talk, curl};
use crate::scene::{LONG, Scene};

const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http:
    - { method: GET }
    - { method: "POST|PUT", path: "/up/.*" }
"#;

const PODS: [(&str, &str, &[&str]); 2] =
    [("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]), ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"])];

const BACKEND: &str = "10.1.0.2:8080";

fn start(arguments: &[&str]) -> Option<Scene> {
    Scene::start(&["node-1"], &PODS, POLICIES, arguments)
}

fn talk(scene: &Scene) -> Talk {
    Talk::open(scene.pod("shop/frontend").ns(), BACKEND).unwrap()
}

#[test]
fn each_request_of_a_kept_alive_connection_is_judged_and_recorded() {
    let Some(scene) = start(&[]) else { return };
    let mut talk = talk(&scene);
    let rows = [("GET", "/1", 200), ("DELETE", "/2", 403), ("GET", "/3?q=1", 200), ("POST", "/4", 403), ("GET", "/a/../5", 200)];
    let mut denials = Vec::new();
    for (method, target, status) in rows {
        let answer = talk.ask(method, target).unwrap();
        assert_eq!(answer.status, status, "{method} {target}: {answer:?}");
        if status == 403 {
            denials.push(answer);
        }
    }
    let local = talk.stream.local_addr().unwrap();
    drop(talk);
    assert_eq!(scene.web.connections(), 1, "one connection to the server, too");
    let reached: Vec<_> = scene.web.seen().into_iter().map(|seen| format!("{} {}", seen.method, seen.target)).collect();
    assert_eq!(reached, ["GET /1", "GET /3?q=1", "GET /5"], "forwarded is what was judged");

    let connection = scene.connection_record("node-1", "NeedsRequest");
    let records = scene.programs.records("node-1");
    let requests: Vec<&Value> = records.iter().filter(|record| record["type"] == "request").collect();
    let paths: Vec<_> = requests.iter().map(|record| record["http"]["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/1", "/2", "/3", "/4", "/5"], "in the order of judgement, in the judged form");
    for (record, (method, target, status)) in requests.iter().zip(rows) {
        let denied = status == 403;
        assert_eq!(record["verdict"], if denied { "deny" } else { "allow" }, "{target}");
        assert_eq!(record["reason"], if denied { "NoRuleMatched" } else { "RuleMatched" }, "{target}");
        assert_eq!(record["direction"], if denied { json!("ingress") } else { Value::Null }, "whose denial: {target}");
        assert_eq!((&record["policy"]["kind"], &record["policy"]["name"]), (&json!("SluiceNetworkPolicy"), &json!("backend")));
        assert_eq!(record["policy"]["rule"], if denied { Value::Null } else { json!("ingress[0].http[0]") }, "{target}");
        let http = &record["http"];
        assert_eq!((&http["version"], &http["method"], &http["host"]), (&json!("1.1"), &json!(method), &json!("test")));
        assert_eq!(http["status"], status, "{target}");
        assert_eq!((&record["node"], &record["protocol"]), (&json!("node-1"), &json!("TCP")));
        let source = json!({ "namespace": "shop", "pod": "frontend", "ip": "10.1.0.1", "port": local.port() });
        assert_eq!(record["source"], source, "{target}");
        let destination = json!({ "namespace": "shop", "pod": "backend", "ip": "10.1.0.2", "port": 8080 });
        assert_eq!(record["destination"], destination, "{target}");
        assert_eq!(record["connection"], connection["id"]);
        let time = record["time"].as_str().unwrap();
        assert!(time.len() == 27 && time.ends_with('Z') && time.as_bytes()[19] == b'.', "RFC 3339 with microseconds: {time}");
        assert!(record["durationMs"].as_f64().is_some_and(|ms| ms > 0.0), "{record:#}");
    }
    let ids: BTreeSet<_> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), records.len(), "every record has an id of its own");
    assert!(connection["bytesSent"].as_u64() > Some(100) && connection["bytesReceived"].as_u64() > Some(100), "{connection:#}");

    for (answer, record) in denials.iter().zip([requests[1], requests[3]]) {
        assert_eq!(answer.header("x-sluice-id"), record["id"].as_str());
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        let body = answer.text();
        assert_eq!(body.lines().count(), 1, "{body}");
        for part in ["shop/frontend", "shop/backend", "SluiceNetworkPolicy shop/backend", "NoRuleMatched"] {
            assert!(body.contains(part), "{part} in {body}");
        }
    }
}

#[test]
fn a_denial_can_be_reduced_to_its_id() {
    let Some(scene) = start(&["--set", "denialBody=id"]) else { return };
    let denied = talk(&scene).ask("DELETE", "/secret").unwrap();
    let record = scene.request_record("node-1", "/secret");
    assert_eq!((denied.status, denied.text().trim()), (403, record["id"].as_str().unwrap()));
    assert_eq!(denied.header("x-sluice-id"), record["id"].as_str());
}

#[test]
fn http2_with_prior_knowledge_is_judged_by_stream() {
    let Some(scene) = start(&[]) else { return };
    let frontend = scene.pod("shop/frontend");
    for address in ["10.1.0.2", "[fd00:1::2]"] {
        let url = |path: &str| format!("http://{address}:8080{path}");
        let read = curl(frontend.ns(), &url("/h2"), &["--http2-prior-knowledge"]);
        assert_eq!((read.status, read.version.as_str()), (200, "2"), "{read:?}");
        assert_eq!(read.json()["version"], "HTTP/2.0", "the server hears the same version");
        let denied = curl(frontend.ns(), &url("/h2"), &["--http2-prior-knowledge", "--request", "DELETE"]);
        assert_eq!((denied.status, denied.version.as_str()), (403, "2"), "{denied:?}");
        assert!(denied.header("x-sluice-id").is_some() && denied.body.contains("shop/backend"), "{denied:?}");
    }
    let record = scene.request_record("node-1", "/h2");
    assert_eq!(record["http"]["version"], "2");

    // Many at once on one connection.
    let output = frontend
        .ns()
        .output(Command::new("h2load").args(["-n", "300", "-c", "1", "-m", "50", "http://10.1.0.2:8080/many"]))
        .expect("h2load (nghttp2-client) is installed");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("status codes: 300 2xx, 0 3xx, 0 4xx, 0 5xx"), "{said}");
    let output = frontend
        .ns()
        .output(Command::new("h2load").args([
            "-n",
            "100",
            "-c",
            "1",
            "-m",
            "50",
            "-H",
            ":method: DELETE",
            "http://10.1.0.2:8080/many",
        ]))
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("status codes: 0 2xx, 0 3xx, 100 4xx, 0 5xx"), "{said}");
    assert!(scene.seen("/many").iter().all(|seen| seen.method == "GET"));
    // A stream's trailers come through.
    let output = frontend.ns().output(Command::new("nghttp").args(["-v", "http://10.1.0.2:8080/trailers"])).unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(["one", "two", "x-sum: 42"].iter().all(|part| said.contains(part)), "{said}");
}

/// The limit is on heads, and ends with the first of them.
#[test]
fn a_connection_outlives_the_time_for_its_head() {
    let Some(scene) = start(&["--set", "limits.headSeconds=1"]) else { return };
    let frontend = scene.pod("shop/frontend");
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let slow = curl(frontend.ns(), "http://10.1.0.2:8080/wait?ms=3500", &[version]);
        assert_eq!((slow.exit, slow.status), (0, 200), "{version}: {slow:?}");
    }
    let mut idle = talk(&scene);
    assert_eq!(idle.get("/first").unwrap().status, 200);
    std::thread::sleep(std::time::Duration::from_millis(2500));
    assert_eq!(idle.get("/second").unwrap().status, 200, "nothing of a head has come meanwhile");
}

#[test]
fn an_upgraded_connection_carries_any_bytes() {
    let Some(scene) = start(&[]) else { return };
    let handshake = |path: &str, method: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut socket = talk(&scene);
    socket.send(handshake("/chat", "GET")).unwrap();
    let answer = socket.answer().unwrap();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")), "{answer:?}");
    let blob: Vec<u8> = (0..200_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
    let mut writer = socket.stream.try_clone().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.write_all(&blob).unwrap());
        assert!(socket.exactly(blob.len()).unwrap() == blob, "every byte came back, whatever it looks like");
    });
    // After the upgrade nothing is a request any more.
    socket.send("DELETE /x HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(socket.line().unwrap(), "DELETE /x HTTP/1.1");
    assert_eq!(scene.seen("/chat")[0].header("sec-websocket-version"), Some("13"));
    assert_eq!(scene.request_record("node-1", "/chat")["http"]["status"], 101);

    let mut denied = talk(&scene);
    denied.send(handshake("/chat", "DELETE")).unwrap();
    assert_eq!(denied.answer().unwrap().status, 403);
    assert_eq!(scene.seen("/chat").len(), 1);
}

#[test]
fn chunks_trailers_and_the_wait_for_100_pass() {
    let Some(scene) = start(&[]) else { return };
    let mut talk = talk(&scene);
    talk.send("GET /trailers HTTP/1.1\r\nHost: test\r\nTE: trailers\r\n\r\n").unwrap();
    let answer = talk.answer().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "onetwo"));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "42".to_owned())], "{answer:?}");

    // Chunks in small pieces, with a trailer.
    for piece in [
        "POST /up/chunks HTTP/1.1\r\nHost: te",
        "st\r\nTransfer-Encoding: chunked\r\nTrailer: x-end\r\n\r",
        "\n5\r\nhello\r\n1",
        "0;extension=1\r\n0123456789abcdef\r\n0\r\nx-end: yes\r\n\r\n",
    ] {
        talk.send(piece).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let answer = talk.answer().unwrap();
    let seen: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status, &seen["bytes"]), (200, &json!(21)), "{seen}");
    assert_eq!(seen["trailers"], json!([["x-end", "yes"]]), "{seen}");
    let record = scene.request_record("node-1", "/up/chunks");
    assert_eq!(record["bytesSent"], 21, "{record:#}");

    // The body comes only once the server has asked for it.
    talk.send("POST /up/later HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(talk.answer().unwrap().status, 100);
    talk.send("later").unwrap();
    let answer = talk.answer().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&answer.body).unwrap()["bytes"], 5);
    // Where the answer is a denial, nobody asks for it.
    talk.send("POST /denied HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n").unwrap();
    assert_eq!(talk.answer().unwrap().status, 403);
    let frontend = scene.pod("shop/frontend");
    let sent = curl(frontend.ns(), "http://10.1.0.2:8080/up/curl", &["--header", "Expect: 100-continue", "--data", "0123456789"]);
    assert_eq!(sent.json()["bytes"], 10, "{sent:?}");
}

/// Resident memory of a process, in MiB.
pub(crate) fn resident_mib(child: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a running process has memory");
    let kib: u64 = line.split_whitespace().next().and_then(|number| number.parse().ok()).expect("in kB");
    kib / 1024
}

#[test]
fn a_hundred_megabytes_pass_each_way_in_little_memory() {
    const SIZE: u64 = 100 << 20;
    let Some(mut scene) = start(&[]) else { return };
    let frontend = scene.pod("shop/frontend");
    let before = resident_mib(scene.programs.proxy("node-1").unwrap());
    let mut most = before;
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        // A client that reads nothing for a while: what the server sends must not pile up in the proxy.
        let mut slow = talk(&scene);
        slow.send(format!("GET /bytes?n={SIZE} HTTP/1.1\r\nHost: test\r\n\r\n")).unwrap();

        let url = format!("http://10.1.0.2:8080/bytes?n={SIZE}");
        let facts = ["--output", "/dev/null", "--dump-header", "/dev/null", "--max-time", "120", version];
        let down = curl(frontend.ns(), &url, &facts);
        assert_eq!((down.exit, down.status), (0, 200), "{version}: {down:?}");
        most = most.max(resident_mib(scene.programs.proxy("node-1").unwrap()));

        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::copy(&mut std::io::repeat(b'u').take(SIZE), file.as_file_mut()).unwrap();
        let from = file.path().to_str().unwrap();
        let up = curl(frontend.ns(), "http://10.1.0.2:8080/up/big", &["--max-time", "120", "--upload-file", from, version]);
        let proxy = scene.programs.proxy("node-1").unwrap();
        assert_eq!((up.exit, up.status), (0, 200), "{version}: {up:?}\n{proxy:?}");
        assert_eq!(up.json()["bytes"], SIZE, "{version}: {up:?}");
        most = most.max(resident_mib(scene.programs.proxy("node-1").unwrap()));
    }
    println!("the proxy's memory: {before} MiB before, at most {most} MiB with 100 MiB each way and a client that does not read");
    assert!(most < before + 60, "{before} MiB before, {most} MiB at the most");
    let whole = |record: &Value| record["type"] == "request" && record["bytesReceived"] == SIZE;
    assert!(scene.programs.wait_record("node-1", LONG, whole).is_some(), "the record counts the bytes");
    assert!(wait_until(LONG, || scene.programs.records("node-1").iter().any(|record| record["bytesSent"] == SIZE)));
}
