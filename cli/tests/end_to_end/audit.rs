//! An Audit policy with `http` alone, on a pod that nothing else is said about: everything passes, with the proxy and without, and what
//! would not is written down.

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use sluice_testnet::wait_until;

use crate::client::{Talk, curl};
use crate::scene::{LONG, SHORT, Scene, at};

const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/plain", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/backend", "node-1", &["10.1.0.3", "fd00:1::3"]),
];

const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: tried, namespace: shop }
spec:
  enforcement: Audit
  podSelector: { matchLabels: { app: plain } }
  ingress:
  - ports: [ { port: 8080 }, { port: 2525 } ]
    http: [ { method: GET, path: "/api/.*" } ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - http: [ { method: GET } ]
"#;

/// A mail server as far as its first words go: it speaks before the client does.
fn serve_mail(scene: &Scene, address: &str) {
    let own: SocketAddr = at(address, 2525).parse().unwrap();
    let listener = scene.pod("shop/plain").ns().tcp_listen(own).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.write_all(b"220 plain ready\r\n");
            let mut talk = Talk::of(stream);
            while talk.line().is_ok_and(|line| talk.send(format!("250 {}\r\n", line.trim_end())).is_ok()) {}
        }
    });
}

fn talk_mail(scene: &Scene, address: &str) -> std::io::Result<()> {
    let mut talk = Talk::open_within(scene.pod("shop/frontend").ns(), &at(address, 2525), SHORT)?;
    talk.stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    assert_eq!(talk.line()?.trim_end(), "220 plain ready");
    talk.send("EHLO frontend\r\n")?;
    assert_eq!(talk.line()?.trim_end(), "250 EHLO frontend");
    Ok(())
}

/// Until the proxy listens for what is offered, it passes unread.
fn wait_for_reader(scene: &Scene) {
    let begun = scene.programs.records("node-1").len();
    let is_read = || {
        let ask = curl(scene.pod("shop/frontend").ns(), "http://10.1.0.2:8080/again", &["--request", "DELETE"]);
        assert_eq!(ask.status, 200);
        scene.programs.records("node-1").iter().skip(begun).any(|record| record["http"]["path"] == "/again")
    };
    assert!(wait_until(LONG, is_read), "the proxy reads along: {:#?}", scene.programs.records("node-1"));
}

#[test]
fn what_an_audit_reads_passes_with_the_proxy_and_without() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, POLICIES, &[]) else { return };
    let frontend = scene.pod("shop/frontend");
    let ask = |address: &str, path: &str, method: &str| {
        curl(frontend.ns(), &format!("http://{}{path}", at(address, 8080)), &["--request", method]).status
    };
    wait_for_reader(&scene);
    for address in ["10.1.0.2", "fd00:1::2"] {
        serve_mail(&scene, address);
        let [allowed, denied] = ["/api/a", "/admin"].map(|path| format!("{path}/{}", address.replace(':', "-")));
        assert_eq!((ask(address, &allowed, "GET"), ask(address, &denied, "DELETE")), (200, 200));
        let record = scene.request_record("node-1", &denied);
        let words = ["type", "verdict", "enforced", "wouldBe", "reason", "direction"].map(|field| record[field].clone());
        assert_eq!(json!(words), json!(["request", "audit", "allow", "deny", "NoRuleMatched", "ingress"]), "{record:#}");
        let policy = json!({ "kind": "SluiceNetworkPolicy", "namespace": "shop", "name": "tried" });
        assert_eq!((&record["policy"], &record["http"]["method"]), (&policy, &json!("DELETE")));
        assert_eq!(record["source"]["pod"], "frontend", "{record:#}");
        // The server sees the pod, and what it sent.
        let seen = scene.seen(&denied);
        assert_eq!(seen.len(), 1);

        talk_mail(&scene, address).unwrap();
        let of_mail = |record: &serde_json::Value| {
            record["verdict"] == "audit" && record["destination"]["port"] == 2525 && record["destination"]["ip"] == address
        };
        let record = scene.programs.wait_record("node-1", LONG, of_mail).expect("mail is no HTTP");
        let words = ["type", "enforced", "wouldBe", "reason"].map(|field| record[field].clone());
        assert_eq!(json!(words), json!(["connection", "allow", "deny", "NotTheProtocol"]), "{record:#}");
    }
    let records = scene.programs.records("node-1");
    assert!(records.iter().all(|record| record["verdict"] != "deny"), "{records:#?}");
    let audits = records.iter().filter(|record| record["verdict"] == "audit" && record["http"]["path"] != "/again");
    assert_eq!(audits.count(), 4, "what would be allowed too has no record: {records:#?}");

    // Nobody listens: what is enforced is closed, what is audited passes.
    scene.programs.kill_proxy("node-1");
    for address in ["10.1.0.2", "fd00:1::2"] {
        assert_eq!(ask(address, "/without", "DELETE"), 200);
        talk_mail(&scene, address).unwrap();
    }
    for address in ["10.1.0.3", "fd00:1::3"] {
        let to = at(address, 8080).parse().unwrap();
        assert!(frontend.ns().tcp_connect(None, to, SHORT).is_err(), "{address} has to be read");
    }
    scene.programs.start_proxy("node-1").unwrap();
    scene.programs.wait_ready("node-1", LONG).unwrap();
    assert_eq!(ask("10.1.0.3", "/read", "GET"), 200);
    wait_for_reader(&scene);
}

/// What is enforced in the middle of a connection that an audit has taken ends it; an audit that ends doesn't.
#[test]
fn a_connection_that_was_taken_obeys_what_is_enforced_later() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, POLICIES, &[]) else { return };
    let frontend = scene.pod("shop/frontend");
    for address in ["10.1.0.2", "fd00:1::2"] {
        scene.policies(POLICIES);
        wait_for_reader(&scene);
        let mut talk = Talk::open(frontend.ns(), &at(address, 8080)).unwrap();
        assert_eq!(talk.get("/one").unwrap().status, 200);
        scene.policies("");
        assert_eq!(talk.get("/two").unwrap().status, 200, "the audit has ended");
        scene.policies(&POLICIES.replace("enforcement: Audit", "enforcement: Enforce").replace("port: 8080", "port: 9999"));
        assert!(talk.ends_within(LONG), "it is denied now");
        assert!(frontend.ns().tcp_connect(None, at(address, 8080).parse().unwrap(), SHORT).is_err());
    }
}
