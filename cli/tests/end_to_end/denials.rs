//! What the kernel denies is told by the proxy, on its standard output.

use std::net::SocketAddr;

use serde_json::{Value, json};
use sluice_testnet::{Signal, wait_until};

use crate::client::{Talk, curl, curl_in_vain, ip};
use crate::scene::{LONG, READ_AND_PLAIN, Scene};

const PODS: [(&str, &str, &[&str]); 4] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/plain", "node-1", &["10.1.0.3", "fd00:1::3"]),
    ("shop/stranger", "node-1", &["10.1.0.4", "fd00:1::4"]),
];

/// `plain` may send nothing at all.
const SHUT: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: shut, namespace: shop }
spec: { podSelector: { matchLabels: { app: plain } }, policyTypes: [Egress] }
";

fn told(records: &[Value], source: &str) -> u64 {
    let of_source = records.iter().filter(|record| record["source"]["ip"] == source && record["verdict"] == "deny");
    of_source.map(|record| 1 + record["suppressed"].as_u64().unwrap_or_default()).sum()
}

#[test]
fn a_client_that_waits_in_vain_finds_out_why() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[]) else { return };
    scene.apply("shut.yaml", SHUT);
    let frontend = scene.pod("shop/frontend");
    for (url, server, client) in
        [("http://10.1.0.3:8080/", "10.1.0.3", "10.1.0.4"), ("http://[fd00:1::3]:8080/", "fd00:1::3", "fd00:1::4")]
    {
        assert_ne!(curl_in_vain(scene.pod("shop/stranger").ns(), url).exit, 0);
        let wanted = |record: &Value| record["destination"]["ip"] == server && record["source"]["ip"] == client;
        let record = scene.programs.wait_record("node-1", LONG, wanted).expect("a record");
        let by = json!({"kind": "NetworkPolicy", "namespace": "shop", "name": "plain"});
        assert_eq!(
            (&record["type"], &record["verdict"], &record["reason"], &record["direction"], &record["policy"]),
            (&json!("connection"), &json!("deny"), &json!("NoRuleMatched"), &json!("ingress"), &by),
            "{record:#}"
        );
        assert_eq!((&record["source"]["pod"], &record["destination"]["pod"]), (&json!("stranger"), &json!("plain")));
        assert_eq!((&record["destination"]["port"], &record["protocol"]), (&json!(8080), &json!("TCP")));
    }
    // In the other direction, by the policy that came later.
    assert_ne!(curl_in_vain(scene.pod("shop/plain").ns(), "http://10.1.0.1:8080/").exit, 0);
    let wanted = |record: &Value| record["source"]["ip"] == "10.1.0.3";
    let record = scene.programs.wait_record("node-1", LONG, wanted).expect("a record");
    assert_eq!((&record["direction"], &record["policy"]["name"]), (&json!("egress"), &json!("shut")), "{record:#}");

    // What passes is as it was, and the metric counts every packet.
    assert_eq!(curl(frontend.ns(), "http://10.1.0.2:8080/api/x", &[]).status, 200);
    let metrics = scene.programs.admin("node-1", "/metrics").unwrap();
    assert!(metrics.contains("sluice_kernel_log_listening 1"), "{metrics}");
    let counted = r#"sluice_kernel_denials_total{reason="NoRuleMatched",direction="egress"} "#;
    assert!(wait_until(LONG, || {
        let metrics = scene.programs.admin("node-1", "/metrics").unwrap_or_default();
        metrics.lines().any(|line| line.strip_prefix(counted).is_some_and(|count| count != "0"))
    }));
}

#[test]
fn the_end_of_the_proxy_leaves_nothing_untold() {
    const PACKETS: u64 = 400;
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[]) else { return };
    let stranger = scene.pod("shop/stranger");
    let socket = stranger.ns().udp_bind(SocketAddr::new(ip("10.1.0.4"), 4444)).unwrap();
    for _ in 0..PACKETS {
        socket.send_to(b"?", "10.1.0.3:53").unwrap();
    }
    let proxy = scene.programs.proxy("node-1").unwrap();
    proxy.signal(Signal::SIGTERM).unwrap();
    assert_eq!(proxy.wait(LONG).expect("it ends").code(), Some(0));
    let all = || told(&scene.programs.records("node-1"), "10.1.0.4") == PACKETS;
    assert!(wait_until(LONG, all), "{:#?}", scene.programs.records("node-1"));
}

#[test]
fn a_flow_that_a_new_policy_ended_says_so() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[]) else { return };
    let mut talk = Talk::open(scene.pod("shop/frontend").ns(), "10.1.0.3:8080").unwrap();
    assert_eq!(talk.get("/before").unwrap().status, 200);
    scene.policies(&READ_AND_PLAIN.replace("frontend", "nobody"));
    talk.send("GET /after HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let record = scene.connection_record("node-1", "PolicyChanged");
    assert_eq!((&record["verdict"], &record["source"]["pod"]), (&json!("deny"), &json!("frontend")), "{record:#}");
    assert_eq!(record["destination"]["port"], 8080);
}
