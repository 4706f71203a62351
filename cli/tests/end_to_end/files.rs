//! The folder: a saved file is in force at once, however it is saved and whatever else it holds.

use std::fs;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use sluice_testnet::{Netns, Port};

use crate::client::{Talk, ip};
use crate::scene::{LONG, SHORT, Scene};

const PODS: [(&str, &str, &[&str]); 2] = [("shop/client", "node-1", &["10.1.0.1"]), ("shop/server", "node-1", &["10.1.0.2"])];

/// A policy that opens one port of `server` to `client`.
fn opens(name: &str, port: u16) -> String {
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\nspec:\n  \
         podSelector: {{ matchLabels: {{ app: server }} }}\n  ingress:\n  - from: [ {{ podSelector: {{ matchLabels: \
         {{ app: client }} }} }} ]\n    ports: [ {{ protocol: TCP, port: {port} }} ]\n"
    )
}

/// Whether a connection comes about; a denied one is refused at once (`deny: reject`).
fn opened(ns: &Netns, port: u16) -> bool {
    match ns.tcp_connect(None, (ip("10.1.0.2"), port).into(), LONG) {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => false,
        Err(error) => panic!("neither opened nor refused: {error}"),
    }
}

/// How long after `saved` the port is as wanted.
///
/// A handshake that the change finds half done is cut, and its next SYNs are dropped: another connection says how it is.
fn in_force_after(saved: Instant, ns: &Netns, port: u16, wanted: bool) -> Duration {
    let deadline = saved + LONG;
    let is_as_wanted = || match ns.tcp_connect(None, (ip("10.1.0.2"), port).into(), SHORT) {
        Ok(_) => wanted,
        Err(error) => !wanted && error.kind() == ErrorKind::ConnectionRefused,
    };
    while !is_as_wanted() {
        assert!(Instant::now() < deadline, "port {port} is not {} after {LONG:?}", if wanted { "open" } else { "closed" });
    }
    saved.elapsed()
}

fn start() -> Option<(Scene, Netns)> {
    let scene = Scene::start(&["node-1"], &PODS, &opens("first", 9000), &["--set", "deny=reject"])?;
    let ports: Vec<Port> = (9000..9010).map(Port::tcp).collect();
    scene.net.serve_pod(&scene.pod("shop/server"), &ports).unwrap();
    let client = scene.pod("shop/client").ns().clone();
    assert!(opened(&client, 9000) && !opened(&client, 9001));
    Some((scene, client))
}

/// The promise is 100 ms on a machine that has time; here it is a second, because the machine may be building something.
#[test]
fn a_saved_file_is_in_force_at_once() {
    let Some((scene, client)) = start() else { return };
    let mut kernel = Vec::new();
    for round in 0..10 {
        let saved = scene.save("toggle.yaml", &opens("toggle", if round % 2 == 0 { 9001 } else { 9002 }));
        kernel.push(in_force_after(saved, &client, 9001, round % 2 == 0));
    }
    let rule = |method: &str| {
        opens("toggle", 8080)
            .replace("networking.k8s.io/v1", "sluice.dev/v1alpha1")
            .replace("NetworkPolicy", "SluiceNetworkPolicy")
            + &format!("    http: [ {{ method: {method} }} ]\n")
    };
    let saved = scene.save("toggle.yaml", &rule("POST"));
    in_force_after(saved, &client, 8080, true);
    let mut kept = Talk::open(&client, "10.1.0.2:8080").unwrap();
    let mut requests = Vec::new();
    for round in 0..10 {
        let (method, wanted) = if round % 2 == 0 { ("GET", 200) } else { ("POST", 403) };
        let saved = scene.save("toggle.yaml", &rule(method));
        loop {
            let answer = kept.get("/").unwrap();
            // What the change finds under way ends with its connection.
            if answer.header("connection").is_some_and(|value| value == "close") {
                kept = Talk::open(&client, "10.1.0.2:8080").unwrap();
            }
            if answer.status == wanted {
                break;
            }
            assert!(saved.elapsed() < LONG, "{method} is not in force");
        }
        requests.push(saved.elapsed());
    }
    for (what, mut figures) in [("the kernel", kernel), ("requests", requests)] {
        figures.sort();
        let (median, worst) = (figures[figures.len() / 2], figures[figures.len() - 1]);
        println!("from renaming the file to its effect on {what}: median {median:?}, worst {worst:?} of {}", figures.len());
        assert!(median < Duration::from_secs(1), "{what}: {figures:?}");
    }
}

#[test]
fn files_are_written_renamed_and_deleted_in_every_way() {
    let Some((mut scene, client)) = start() else { return };
    let folder = scene.manifests();
    let path = |name: &str| folder.join(name);
    let check = |open: &[u16]| {
        for port in 9000..9010 {
            assert_eq!(opened(&client, port), open.contains(&port), "port {port}; open should be {open:?}");
        }
    };

    // Written in place.
    fs::write(path("second.yaml"), opens("second", 9001)).unwrap();
    in_force_after(Instant::now(), &client, 9001, true);
    // Renamed: nothing changes.
    fs::rename(path("second.yaml"), path("renamed.yml")).unwrap();
    scene.settle();
    check(&[9000, 9001]);
    // Several documents, in a folder below.
    fs::create_dir(path("below")).unwrap();
    let text = [opens("third", 9002), opens("fourth", 9003)].join("---\n");
    fs::write(path("below/both.yaml"), text).unwrap();
    in_force_after(Instant::now(), &client, 9003, true);
    scene.settle();
    check(&[9000, 9001, 9002, 9003]);
    // One of them is taken out.
    scene.apply("more.yaml", &opens("fifth", 9004));
    fs::write(path("below/both.yaml"), opens("fourth", 9003)).unwrap();
    in_force_after(Instant::now(), &client, 9002, false);
    // Away: the file, and a name that isn't a manifest's.
    fs::rename(path("more.yaml"), path("more.yaml.bak")).unwrap();
    in_force_after(Instant::now(), &client, 9004, false);
    fs::remove_file(path("renamed.yml")).unwrap();
    in_force_after(Instant::now(), &client, 9001, false);
    scene.settle();
    check(&[9000, 9003]);
    // The folder below as a whole.
    fs::remove_dir_all(path("below")).unwrap();
    in_force_after(Instant::now(), &client, 9003, false);
    // An object that moves to another file in two steps is never missing.
    fs::write(path("moved.yaml"), opens("first", 9000)).unwrap();
    scene.settle();
    scene.remove("policies.yaml");
    check(&[9000]);
}

#[test]
fn lists_are_read_as_kubectl_prints_them() {
    let Some((mut scene, client)) = start() else { return };
    let item = |name: &str, port: u16| {
        let mut lines = opens(name, port).lines().map(|line| format!("  {line}\n")).collect::<String>();
        lines.replace_range(0..1, "-");
        lines
    };
    let list = format!(
        "apiVersion: v1\nkind: List\nmetadata: {{ resourceVersion: \"\" }}\nitems:\n{}{}",
        item("a", 9005),
        item("b", 9006)
    );
    scene.apply("list.yaml", &list);
    assert!(opened(&client, 9005) && opened(&client, 9006));
    let json = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicyList", "items": [{
            "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": { "name": "c", "namespace": "shop", "uid": "5f0c", "creationTimestamp": "2026-01-01T00:00:00Z" },
            "spec": { "podSelector": {}, "ingress": [{ "ports": [{ "port": 9007, "protocol": "TCP" }] }], "policyTypes": ["Ingress"] },
        }],
    });
    scene.apply("list.json", &json.to_string());
    assert!(opened(&client, 9007));
    scene.apply("list.yaml", "apiVersion: v1\nkind: List\nitems: []\n");
    assert!(!opened(&client, 9005) && !opened(&client, 9006) && opened(&client, 9007));
}
