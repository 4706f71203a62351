//! The whole program on a bridge, with each form of the redirect by name.

use sluice_testnet::{Layout, Options, Port, Probe, Protocol};

use crate::client::{Talk, ip};
use crate::scene::{LONG, READ_AND_PLAIN, SHORT, Scene};

const PODS: [(&str, &str, &[&str]); 4] = [
    ("shop/frontend", "node-1", &["10.1.0.1"]),
    ("shop/backend", "node-1", &["10.1.0.2"]),
    ("shop/plain", "node-1", &["10.1.0.3"]),
    ("shop/stranger", "node-1", &["10.1.0.4"]),
];

const BACKEND: &str = "10.1.0.2:8080";

fn runs_with(form: &str, word: &str) {
    let options = Options { layout: Layout::Bridge { call_iptables: true }, ..Options::default() };
    let set = format!("redirect={form}");
    let Some(scene) = Scene::start_on(options, &["node-1"], &PODS, READ_AND_PLAIN, &["--set", &set]) else { return };
    scene.net.serve_pod(&scene.pod("shop/plain"), &[Port::tcp(9000), Port::udp(9000)]).unwrap();
    let (frontend, stranger) = (scene.pod("shop/frontend"), scene.pod("shop/stranger"));
    let mut kept = Talk::open(frontend.ns(), BACKEND).unwrap();
    assert_eq!(kept.get("/api/read").unwrap().status, 200);
    assert_eq!(kept.ask("POST", "/api/write").unwrap().status, 403, "read by the proxy");
    let passes = |from: &sluice_testnet::Pod, protocol, wait| {
        let probe = Probe { from: from.ns().clone(), source: None, to: ip("10.1.0.3"), port: 9000, protocol };
        scene.net.probe(&[probe], wait)[0].is_connected()
    };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        assert!(passes(&frontend, protocol, LONG) && !passes(&stranger, protocol, SHORT), "{form}: {protocol:?}");
    }
    let filters = scene.node("node-1").ns().exec("tc", &["filter", "show", "dev", frontend.interface(), "ingress"]).unwrap();
    assert!(filters.contains(word), "{form}: {filters}");
}

#[test]
fn classifiers_by_name() {
    runs_with("classifier", "mirred");
}

#[test]
fn bpf_by_name() {
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    let is_first_namespace = users.split_whitespace().eq(["0", "0", "4294967295"]);
    if !(is_first_namespace && nix::unistd::geteuid().is_root()) {
        println!("SKIPPED: `redirect: bpf` takes root outside of user namespaces");
        return;
    }
    runs_with("bpf", "sluice_redirect");
}
