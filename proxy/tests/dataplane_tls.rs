//! TLS on the data path: judged by the name in its hello, carried as it came, denied with an alert; with hellos made here and
//! with those of a real client.

#![expect(clippy::unwrap_used, reason = "what the stage can't do fails the test")]

#[expect(dead_code, reason = "the words of HTTP/1 are for the other tests")]
mod dataplane_stage;

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dataplane_stage::{BACKEND_POLICY, Stage, serve_raw};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The frontend may ask for these names.
const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    tls: { serverNames: [ api.example.com, \"*.example.org\" ] }
";

/// The same, and requests that need no TLS.
const TWO_KINDS: &str = "
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    http: [ { method: GET } ]
";

/// RFC 8446 section 6.2: a fatal alert, `access_denied`.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 49];

/// A ClientHello in records of at most so many bytes.
fn hello(name: Option<&str>, record_bytes: usize) -> Vec<u8> {
    let number = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let vector = |content: &[u8]| [&number(content.len()), content].concat();
    let list = name.map(|name| vector(&[&[0], vector(name.as_bytes()).as_slice()].concat()));
    let extensions = list.map(|list| [&[0, 0], vector(&list).as_slice()].concat()).unwrap_or_default();
    let body = [vec![3, 3], vec![7; 32], vec![0], vector(&[0x13, 1]), vec![1, 0], vector(&extensions)].concat();
    let message = [&[1, 0], number(body.len()).as_slice(), &body].concat();
    message.chunks(record_bytes).flat_map(|fragment| [&[22, 3, 1], vector(fragment).as_slice()].concat()).collect()
}

async fn echo(mut stream: TcpStream) {
    let (mut read, mut write) = stream.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

/// What the client gets for these bytes, sent in portions, and ended by either side.
async fn answer(stage: &Stage, bytes: &[u8], portion: usize) -> Vec<u8> {
    let mut client = stage.connect().await;
    for portion in bytes.chunks(portion) {
        if client.write_all(portion).await.is_err() {
            break;
        }
        if bytes.len() > portion.len() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut got = Vec::new();
    let reading = async { while got.len() < bytes.len() && client.read_buf(&mut got).await.is_ok_and(|read| read > 0) {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), reading).await;
    got
}

#[tokio::test]
async fn names_decide_and_every_byte_goes_on() {
    let stage = Stage::new(serve_raw(echo).await, POLICY).await;
    let rows = [
        (Some("api.example.com"), true),
        (Some("API.example.com."), true),
        (Some("a.b.example.org"), true),
        (Some("example.org"), false),
        (Some("api.example.com.evil.net"), false),
        (None, false),
        (Some("192.0.2.1"), false),
    ];
    let mut count = 0;
    for (name, allowed) in rows {
        for (record_bytes, portion) in [(16_000, 16_000), (16_000, 7), (11, 16_000), (11, 5)] {
            let bytes = [hello(name, record_bytes).as_slice(), b"\x14\x03\x03\0\x01\x01 and what comes with it"].concat();
            let got = answer(&stage, &bytes, portion).await;
            let expected: &[u8] = if allowed { &bytes } else { &ALERT };
            assert!(got == expected, "{name:?} {record_bytes} {portion}: {got:?}");
            count += 1;
            let record = stage.records(count).await.pop().unwrap();
            let reason = if allowed { "NeedsRequest" } else { "NoRuleMatched" };
            assert_eq!((&record["type"], &record["reason"]), (&"connection".into(), &reason.into()), "{record:#}");
            let named = name.filter(|name| !name.starts_with("192")).map(|name| name.to_lowercase());
            let facts = named.map_or(json!({}), |name| json!({ "serverName": name.trim_end_matches('.') }));
            assert_eq!(record["tls"], facts);
        }
    }
}

#[tokio::test]
async fn rules_of_two_kinds_judge_each_its_own() {
    let stage = Stage::new(serve_raw(echo).await, &format!("{POLICY}{}", TWO_KINDS.trim_start_matches('\n'))).await;
    let allowed = hello(Some("api.example.com"), 16_000);
    assert_eq!(answer(&stage, &allowed, 16_000).await, allowed);
    assert_eq!(answer(&stage, &hello(Some("other.example.com"), 16_000), 16_000).await, ALERT);
    let got = answer(&stage, b"PUT / HTTP/1.1\r\nhost: web\r\n\r\n", 1000).await;
    assert!(got.starts_with(b"HTTP/1.1 403"), "{}", String::from_utf8_lossy(&got));
    let stage = Stage::new(serve_raw(echo).await, BACKEND_POLICY).await;
    assert_eq!(answer(&stage, &allowed, 16_000).await, ALERT, "where rules are about HTTP alone");
    let record = stage.records(1).await.remove(0);
    assert_eq!((&record["reason"], &record["tls"]["serverName"]), (&"NotTheProtocol".into(), &"api.example.com".into()));
    let stage = Stage::new(serve_raw(echo).await, POLICY).await;
    assert_eq!(answer(&stage, b"SSH-2.0-x y\r\n", 1000).await, b"", "what is no TLS where rules are about names");
    assert_eq!(stage.records(1).await[0]["reason"], "NotTheProtocol");
    let half = &allowed[..20];
    let stage = Stage::with(serve_raw(echo).await, POLICY, &["limits.headSeconds=1"]).await;
    assert_eq!(answer(&stage, half, 1000).await, b"");
    assert_eq!(stage.records(1).await[0]["reason"], "HeadTimeout");
}

#[tokio::test]
async fn a_live_connection_is_judged_by_its_name_again() {
    let stage = Stage::new(serve_raw(echo).await, POLICY).await;
    let mut client = stage.connect().await;
    let bytes = hello(Some("api.example.com"), 16_000);
    client.write_all(&bytes).await.unwrap();
    client.read_exact(&mut vec![0; bytes.len()]).await.unwrap();
    stage.policies(&POLICY.replace("*.example.org", "*.example.net"));
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x', "still allowed");
    stage.policies(&POLICY.replace("api.example.com", "other.example.com"));
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let record = stage.records(1).await.remove(0);
    assert_eq!((&record["reason"], &record["verdict"]), (&"PolicyChanged".into(), &"deny".into()));
}

/// `openssl s_server`, which answers requests inside TLS. It ends with this.
struct Server {
    child: Child,
    address: SocketAddr,
    _files: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=test", "-keyout", &path("key"), "-out", &path("certificate")])
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("openssl")
            .args(["s_server", "-quiet", "-www", "-accept", &address.to_string()])
            .args(["-key", &path("key"), "-cert", &path("certificate")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let up = || std::net::TcpStream::connect(address).is_ok();
        assert!(
            (0..500).any(|_| up() || {
                std::thread::sleep(Duration::from_millis(20));
                false
            }),
            "openssl s_server listens"
        );
        Self { child, address, _files: files }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What curl says: its exit status, the status of the answer, and its complaint.
async fn curl(stage: &Stage, name: &str, version: &str) -> (i32, String, String) {
    let proxy = stage.address;
    let mut command = tokio::process::Command::new("curl");
    command.args(["-q", "--silent", "--show-error", "--insecure", "--noproxy", "*", "--max-time", "20", "--tls-max", version]);
    command.args(["--output", "/dev/null", "--write-out", "%{http_code}"]);
    command.args(["--connect-to", &format!("::{}:{}", proxy.ip(), proxy.port())]).arg(format!("https://{name}/"));
    let output = command.output().await.expect("curl is installed");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[tokio::test]
async fn a_real_client_passes_and_reads_the_alert() {
    let server = Server::start();
    let stage = Stage::new(server.address, POLICY).await;
    let mut records: Vec<Value> = Vec::new();
    // A name that is an address is never sent.
    let rows = [
        ("api.example.com", true),
        ("deep.down.example.org", true),
        ("example.org", false),
        ("api.example.net", false),
        ("127.0.0.1", false),
    ];
    for (name, allowed) in rows {
        for version in ["1.2", "1.3"] {
            let (exit, status, said) = curl(&stage, name, version).await;
            if allowed {
                assert_eq!((exit, status.as_str()), (0, "200"), "{name} {version}: {said}");
            } else {
                // 35: the handshake failed.
                assert_eq!(exit, 35, "{name} {version}: {said}");
                assert!(said.contains("access denied"), "{said}");
            }
            records = stage.records(records.len() + 1).await;
            let record = records.last().unwrap();
            assert_eq!(record["verdict"], if allowed { "allow" } else { "deny" }, "{record:#}");
            let sent = if name.starts_with("127") { Value::Null } else { name.into() };
            assert_eq!(record["tls"]["serverName"], sent);
        }
    }
}

/// An Audit policy that would deny one of the names.
const AUDIT: &str = "
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: tried, namespace: demo }
spec:
  enforcement: Audit
  podSelector: { matchLabels: { app: backend } }
  ingress: [ { action: Deny, tls: { serverNames: [ api.example.com ] } } ]
";

/// Nothing is enforced: the hello is only looked at.
#[tokio::test]
async fn what_only_an_audit_reads_passes_with_every_name() {
    for (name, portion, reason) in [
        (Some("api.example.com"), 1, None),
        (Some("evil.example.com"), 1000, Some("NoRuleMatched")),
        (None, 5, Some("NoRuleMatched")),
    ] {
        let policy = POLICY.replace("spec:", "spec:\n  enforcement: Audit");
        let stage = Stage::audited(serve_raw(echo).await, &policy, &["records.connections=proxied"]).await;
        let hello = hello(name, 50);
        assert_eq!(answer(&stage, &hello, portion).await, hello, "{name:?} passes");
        let records = stage.records(1 + usize::from(reason.is_some())).await;
        let audits: Vec<&Value> = records.iter().filter(|record| record["verdict"] == "audit").collect();
        assert_eq!(audits.first().and_then(|record| record["reason"].as_str()), reason, "{name:?}: {records:#?}");
        for record in records {
            assert_eq!(record["tls"]["serverName"], json!(name), "{record:#}");
        }
    }
}

#[tokio::test]
async fn audit_policies_are_asked_about_the_name() {
    let stage = Stage::new(serve_raw(echo).await, &format!("{POLICY}{AUDIT}")).await;
    for name in ["api.example.com", "www.example.org"] {
        let hello = hello(Some(name), 1000);
        assert_eq!(answer(&stage, &hello, 1000).await, hello, "{name} passes");
    }
    let records = stage.records(3).await;
    let audits: Vec<&Value> = records.iter().filter(|record| record["verdict"] == "audit").collect();
    assert_eq!(audits.len(), 1, "{records:#?}");
    assert_eq!((&audits[0]["enforced"], &audits[0]["wouldBe"]), (&json!("allow"), &json!("deny")));
    assert_eq!(audits[0]["tls"]["serverName"], "api.example.com");
    assert_eq!(audits[0]["policy"]["rule"], "ingress[0].tls.serverNames[0]");
}
