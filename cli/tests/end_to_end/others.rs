//! Beside another engine: the real proxy says what it has found, and enforces what goes together with it.

use sluice_testnet::{Netns, wait_until};

use crate::client::{Talk, curl, curl_in_vain};
use crate::scene::{LONG, READ_AND_PLAIN, Scene};

const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/plain", "node-1", &["10.1.0.3", "fd00:1::3"]),
];

const JUDGED: &str = "http://10.1.0.2:8080/api/1";
const UNREAD: &str = "http://10.1.0.3:8080/";

/// Another engine denies the backend's port, as a policy of its own.
fn engine(ns: &Netns) {
    let table =
        "table inet engine {\nchain pods {\ntype filter hook forward priority 0;\ntcp dport 8080 ip daddr 10.1.0.2 drop\n}\n}";
    ns.exec("nft", &[table]).unwrap();
}

#[test]
fn what_another_engine_denies_is_named_and_nothing_is_diverted_past_it() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[]) else { return };
    let (node, frontend) = (scene.node("node-1"), scene.pod("shop/frontend"));
    assert_eq!(curl(frontend.ns(), JUDGED, &[]).status, 200);
    let mut held = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    assert_eq!(held.ask("GET", "/api/held").unwrap().status, 200);

    engine(node.ns());
    let ready = |scene: &Scene| scene.programs.admin("node-1", "/readyz").unwrap_or_default();
    assert!(wait_until(LONG, || ready(&scene).starts_with("HTTP/1.1 503")), "{}", ready(&scene));
    let answer = ready(&scene);
    for word in
        ["OtherEngine: 1 rule", "table inet engine, chain pods, rule handle", "ip daddr 10.1.0.2 drop", "enforcementAlone: true"]
    {
        assert!(answer.contains(word), "{word}: {answer}");
    }
    let metrics = scene.programs.admin("node-1", "/metrics").unwrap();
    assert!(metrics.contains("sluice_other_engine_findings{effect=\"evades\"} 1\n"), "{metrics}");
    assert!(metrics.contains("sluice_path_not_seen 0\n"), "{metrics}");
    let log = scene.programs.proxy("node-1").unwrap().stderr();
    assert_eq!(log.iter().filter(|line| line.contains("OtherEngine: table inet engine, chain pods")).count(), 1, "{log:#?}");
    assert_eq!(curl_in_vain(frontend.ns(), JUDGED).status, 0, "what needs the proxy is denied");
    assert_eq!(curl(frontend.ns(), UNREAD, &[]).status, 200, "addresses and ports are enforced as ever");
    assert_eq!(curl_in_vain(scene.pod("shop/backend").ns(), UNREAD).status, 0);
    assert_eq!(held.ask("GET", "/api/held").unwrap().status, 200, "what the proxy holds goes on");
    assert_eq!(held.ask("DELETE", "/api/held").unwrap().status, 403, "and is judged");

    // A restart finds it before the first table.
    scene.programs.kill_proxy("node-1");
    scene.programs.start_proxy("node-1").unwrap();
    assert!(wait_until(LONG, || ready(&scene).contains("OtherEngine")), "{}", ready(&scene));
    assert_eq!(curl_in_vain(frontend.ns(), JUDGED).status, 0);

    node.ns().exec("nft", &["delete table inet engine"]).unwrap();
    scene.programs.wait_ready("node-1", LONG).unwrap();
    assert_eq!(curl(frontend.ns(), JUDGED, &[]).status, 200);
}

#[test]
fn the_operators_word_is_taken() {
    let arguments = ["--set", "enforcementAlone=true"];
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &arguments) else { return };
    let (node, frontend) = (scene.node("node-1"), scene.pod("shop/frontend"));
    engine(node.ns());
    let told = |scene: &mut Scene| {
        scene.programs.proxy("node-1").unwrap().stderr().iter().any(|line| line.contains("table inet engine"))
    };
    assert!(wait_until(LONG, || told(&mut scene)), "found all the same");
    let ready = |scene: &Scene| scene.programs.admin("node-1", "/readyz").unwrap();
    assert!(wait_until(LONG, || ready(&scene).contains("\r\n\r\nok\nOtherEngine: 1 rule of others")), "{}", ready(&scene));
    assert!(ready(&scene).starts_with("HTTP/1.1 200") && ready(&scene).contains("table inet engine, chain pods"));
    assert_eq!(curl(frontend.ns(), JUDGED, &[]).status, 200, "their rule isn't asked");
}

#[test]
fn a_node_whose_services_are_translated_by_ipvs_is_not_ready() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[]) else { return };
    let (node, frontend) = (scene.node("node-1"), scene.pod("shop/frontend"));
    node.ns().exec("ip", &["link", "add", "kube-ipvs0", "type", "bridge"]).unwrap();
    let ready = |scene: &Scene| scene.programs.admin("node-1", "/readyz").unwrap_or_default();
    assert!(wait_until(LONG, || ready(&scene).contains("PathNotSeen: IPVS")), "{}", ready(&scene));
    assert!(scene.programs.admin("node-1", "/metrics").unwrap().contains("sluice_path_not_seen 1\n"));
    assert_eq!(curl(frontend.ns(), JUDGED, &[]).status, 200, "what comes by is enforced all the same");
    assert_eq!(curl(frontend.ns(), &JUDGED.replace("/api/", "/"), &[]).status, 403);
    node.ns().exec("ip", &["link", "del", "kube-ipvs0"]).unwrap();
    scene.programs.wait_ready("node-1", LONG).unwrap();
}
