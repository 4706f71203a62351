//! `sluice counters` on a node, and the same numbers as metrics: what each rule has decided in the kernel.

use serde_json::Value;

use crate::client::{curl, curl_in_vain};
use crate::scene::{READ_AND_PLAIN, Scene, at};

fn packets(scene: &Scene, direction: &str, action: &str, policy: &str) -> u64 {
    let sluice = env!("CARGO_BIN_EXE_sluice");
    let printed = scene.node("node-1").ns().exec(sluice, &["counters", "--zero", "-o", "json"]).unwrap();
    let answer: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(answer["node"], "node-1");
    let counters = answer["counters"].as_array().unwrap();
    let is_asked = |counter: &&Value| {
        let by = &counter["by"][0];
        counter["direction"] == direction && counter["action"] == action && by["name"] == policy
    };
    let found: Vec<&Value> = counters.iter().filter(is_asked).collect();
    assert_eq!(found.len(), 1, "{direction} {action} {policy}: {answer:#}");
    found[0]["packets"].as_u64().unwrap()
}

#[test]
fn each_rule_counts_what_it_decides_and_goes_on_after_changes() {
    let pods: [(&str, &str, &[&str]); 4] = [
        ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
        ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
        ("shop/plain", "node-1", &["10.1.0.3", "fd00:1::3"]),
        ("shop/stranger", "node-1", &["10.1.0.4", "fd00:1::4"]),
    ];
    let Some(mut scene) = Scene::start(&["node-1"], &pods, READ_AND_PLAIN, &[]) else { return };
    let (frontend, stranger) = (scene.pod("shop/frontend"), scene.pod("shop/stranger"));
    let ask = |address: &str| assert_eq!(curl(frontend.ns(), &format!("http://{}/api/x", at(address, 8080)), &[]).status, 200);
    for address in ["10.1.0.3", "fd00:1::3", "10.1.0.3"] {
        ask(address);
    }
    ask("10.1.0.2");
    assert_eq!(packets(&scene, "ingress", "allow", "plain"), 3, "one for each connection, both families");
    assert_eq!(packets(&scene, "ingress", "inspect", "backend"), 1);
    assert_eq!(packets(&scene, "ingress", "isolated", "plain"), 0);
    let refused = curl_in_vain(stranger.ns(), &format!("http://{}/", at("10.1.0.3", 8080)));
    assert_eq!(refused.exit, 28, "{refused:?}");
    let isolated = packets(&scene, "ingress", "isolated", "plain");
    assert!(isolated >= 1, "each SYN counts");

    // A second policy for the same pod: its rules are written anew, and so is the kernel's counter.
    let second = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: zz-second, namespace: shop }\n\
                  spec: { podSelector: { matchLabels: { app: plain } }, ingress: [ { ports: [ { port: 9 } ] } ] }\n";
    scene.apply("second.yaml", second);
    ask("10.1.0.3");
    assert_eq!(packets(&scene, "ingress", "allow", "plain"), 4, "what was counted before is not lost");
    assert_eq!(packets(&scene, "ingress", "allow", "zz-second"), 0);
    scene.remove("second.yaml");
    assert_eq!(packets(&scene, "ingress", "allow", "plain"), 4);

    let metrics = scene.programs.admin("node-1", "/metrics").unwrap();
    let line = "sluice_rule_packets_total{direction=\"ingress\",action=\"allow\",rule=\"NetworkPolicy shop/plain ingress[0]\"} 4";
    assert!(metrics.contains(line), "{metrics}");

    let sluice = env!("CARGO_BIN_EXE_sluice");
    let text = scene.node("node-1").ns().exec(sluice, &["counters"]).unwrap();
    let shown: Vec<&str> = text.lines().filter(|line| line.contains("shop/plain ingress[0]")).collect();
    assert_eq!(shown.len(), 1, "{text}");
    assert_eq!(shown[0].split_whitespace().take(3).collect::<Vec<_>>(), ["4", "allow", "ingress"], "{text}");
    let nobody = scene.node("node-1").ns().exec(sluice, &["counters", "--admin", "127.0.0.1:9"]).unwrap_err().to_string();
    assert!(nobody.contains("127.0.0.1:9") && nobody.contains("--admin"), "{nobody}");
    assert_eq!(packets(&scene, "ingress", "isolated", "plain"), isolated);
}
