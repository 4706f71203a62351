//! TLS through the real programs: `openssl s_server` in a pod, curl in another, and policies that name servers.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sluice_testnet::{Child, Netns, wait_until};

use crate::client::curl;
use crate::scene::{LONG, Scene};

const PODS: [(&str, &str, &[&str]); 2] =
    [("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]), ("shop/api", "node-1", &["10.1.0.2", "fd00:1::2"])];

const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: frontend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: frontend } }
  policyTypes: [Egress]
  egress:
  - to: [ { podSelector: { matchLabels: { app: api } } } ]
    ports: [ { port: 8443 } ]
    tls: { serverNames: [ api.example.com, "*.example.org" ] }
"#;

/// Answers requests inside TLS, at one address of a namespace.
pub(crate) fn serve(ns: &Netns, address: &str, folder: &Path) -> Child {
    let path = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let mut made = Command::new("openssl");
    made.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]);
    made.args(["-subj", "/CN=test", "-keyout", &path("key"), "-out", &path("certificate")]);
    let made = made.output().expect("openssl is installed");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-www", "-accept", address, "-key", &path("key"), "-cert", &path("certificate")]);
    server.stdin(Stdio::null());
    let server = ns.spawn(server).unwrap();
    let own = address.parse().unwrap();
    assert!(wait_until(LONG, || ns.tcp_connect(None, own, LONG).is_ok()), "{server:?}");
    server
}

#[test]
fn server_names_decide() {
    let Some(scene) = Scene::start(&["node-1"], &PODS, POLICIES, &["--set", "records.connections=proxied"]) else { return };
    let files = tempfile::tempdir().unwrap();
    let frontend = scene.pod("shop/frontend");
    let mut count = 0;
    for address in ["10.1.0.2", "[fd00:1::2]"] {
        let _server = serve(scene.pod("shop/api").ns(), &format!("{address}:8443"), files.path());
        let rows = [
            ("api.example.com", true),
            ("API.EXAMPLE.COM", true),
            ("deep.down.example.org", true),
            ("example.org", false),
            ("api.example.com.evil.net", false),
            // An address is never sent as a name.
            (address, false),
        ];
        for (name, allowed) in rows {
            let arguments = ["--insecure", "--connect-to", &format!("::{address}:8443"), "--show-error"];
            let answer = curl(frontend.ns(), &format!("https://{name}:8443/"), &arguments);
            // 35: the handshake failed, at the alert.
            let expected = if allowed { (0, 200) } else { (35, 0) };
            assert_eq!((answer.exit, answer.status), expected, "{name}: {answer:?}");
            count += 1;
            let mut records = Vec::new();
            let written = wait_until(LONG, || {
                records = scene.programs.records("node-1");
                records.retain(|record| record["type"] == "connection");
                records.len() == count
            });
            assert!(written, "{name}: {records:#?}");
            let record = records.last().unwrap();
            let sent = if name == address { Value::Null } else { json!(name.to_lowercase()) };
            assert_eq!((&record["tls"]["serverName"], record["tls"].is_object()), (&sent, true), "{record:#}");
            assert_eq!(record["verdict"], if allowed { "allow" } else { "deny" });
            if !allowed {
                assert_eq!((&record["reason"], &record["direction"]), (&json!("NoRuleMatched"), &json!("egress")));
                assert_eq!(record["policy"]["name"], "frontend");
            }
        }
    }
}
