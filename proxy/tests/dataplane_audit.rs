//! What Audit policies would change of connections and requests that the proxy judges: written down, and nothing else.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod dataplane_stage;

use dataplane_stage::{BACKEND_POLICY, Stage, ask, serve_raw};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const GET: &str = "GET /api/a HTTP/1.1\r\nhost: web\r\n\r\n";
const PUT: &str = "PUT /api/a HTTP/1.1\r\nhost: web\r\n\r\n";

/// An Audit policy of the backend with this rule for ingress.
fn audit(rule: &str) -> String {
    format!(
        "---\napiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{ name: tried, namespace: demo }}\n\
         spec:\n  enforcement: Audit\n  podSelector: {{ matchLabels: {{ app: backend }} }}\n  ingress: [ {rule} ]\n"
    )
}

/// Answers each head with 204.
async fn nod(mut stream: TcpStream) {
    while dataplane_stage::read_head(&mut stream).await.is_some() {
        if stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.is_err() {
            return;
        }
    }
}

fn words(record: &Value) -> [Value; 5] {
    ["type", "verdict", "enforced", "wouldBe", "reason"].map(|field| record[field].clone())
}

#[tokio::test]
async fn what_would_be_denied_passes_and_is_written_down() {
    let stage = Stage::new(serve_raw(nod).await, &format!("{BACKEND_POLICY}{}", audit("{ action: Deny }"))).await;
    let mut client = stage.connect().await;
    assert_eq!(ask(&mut client, GET).await.status, 204);
    assert_eq!(ask(&mut client, PUT).await.status, 403, "what is enforced is enforced");
    drop(client);
    let records = stage.records(4).await;
    let audits: Vec<&Value> = records.iter().filter(|record| record["verdict"] == "audit").collect();
    assert_eq!(audits.len(), 1, "what is denied anyway is no difference: {records:#?}");
    assert_eq!(words(audits[0]), ["request", "audit", "allow", "deny", "DeniedByRule"].map(Value::from));
    assert_eq!(audits[0]["direction"], "ingress");
    let by = json!({"kind": "SluiceNetworkPolicy", "namespace": "demo", "name": "tried", "rule": "ingress[0]"});
    assert_eq!(audits[0]["policy"], by);
    assert_eq!(audits[0]["http"]["path"], "/api/a");
    let own = records.iter().find(|record| record["verdict"] == "allow" && record["type"] == "request");
    assert_eq!(own.map(|record| &record["id"]), Some(&audits[0]["id"]), "beside the request's own record");
}

#[tokio::test]
async fn what_would_be_allowed_is_denied_and_written_down() {
    let stage = Stage::new(serve_raw(nod).await, &format!("{BACKEND_POLICY}{}", audit("{}"))).await;
    let mut client = stage.connect().await;
    assert_eq!(ask(&mut client, GET).await.status, 204);
    assert_eq!(ask(&mut client, PUT).await.status, 403);
    drop(client);
    let records = stage.records(4).await;
    let audits: Vec<&Value> = records.iter().filter(|record| record["verdict"] == "audit").collect();
    assert_eq!(audits.len(), 1, "{records:#?}");
    assert_eq!(words(audits[0]), ["request", "audit", "deny", "allow", "RuleMatched"].map(Value::from));
    assert_eq!(audits[0]["http"]["method"], "PUT");
    let denials = records.iter().filter(|record| record["verdict"] == "deny" && record["type"] == "request").count();
    assert_eq!(denials, 1, "the denial has its own record");
}

#[tokio::test]
async fn a_connection_that_nobody_reads_is_audited_once() {
    let echo = |mut stream: TcpStream| async move {
        let mut byte = [0];
        if stream.read_exact(&mut byte).await.is_ok() {
            let _ = stream.write_all(&byte).await;
        }
    };
    let stage =
        Stage::new(serve_raw(echo).await, &audit("{ from: [ { podSelector: { matchLabels: { app: nobody } } } ] }")).await;
    let mut client = stage.connect().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(client.read_u8().await.unwrap(), b'x', "it passes");
    drop(client);
    let records = stage.records(1).await;
    assert_eq!(words(&records[0]), ["connection", "audit", "allow", "deny", "NoRuleMatched"].map(Value::from));
    assert_eq!(records[0]["policy"]["name"], "tried");
}
