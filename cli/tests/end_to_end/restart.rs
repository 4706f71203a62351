//! Nothing that happens to the programs opens what was closed, and L4 does without them.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sluice_testnet::{Netns, Port, Probe, Protocol, wait_until};

use crate::client::{Pair, Talk, curl, ip};
use crate::scene::{EndOnDrop, LONG, READ_AND_PLAIN, SHORT, Scene};

/// The same, with `plain` closed to everyone.
fn plain_closed() -> String {
    let closed = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: plain, namespace: shop }
spec: { podSelector: { matchLabels: { app: plain } }, ingress: [] }
";
    READ_AND_PLAIN.split("---").next().expect("a first policy").to_owned() + "---" + closed
}

const PODS: [(&str, &str, &[&str]); 4] = [
    ("shop/frontend", "node-1", &["10.1.0.1"]),
    ("shop/backend", "node-1", &["10.1.0.2"]),
    ("shop/plain", "node-1", &["10.1.0.3"]),
    ("shop/stranger", "node-1", &["10.1.0.4"]),
];

const BACKEND: &str = "10.1.0.2:8080";

fn start() -> Option<Scene> {
    let scene = Scene::start(&["node-1"], &PODS, READ_AND_PLAIN, &[])?;
    scene.net.serve_pod(&scene.pod("shop/plain"), &[Port::tcp(9000), Port::udp(9000)]).unwrap();
    Some(scene)
}

fn passes(scene: &Scene, from: &str, protocol: Protocol, wait: Duration) -> bool {
    let from = scene.pod(from).ns().clone();
    let probe = Probe { from, source: None, to: ip("10.1.0.3"), port: 9000, protocol };
    scene.net.probe(&[probe], wait)[0].is_connected()
}

fn assert_l4_in_force(scene: &Scene, when: &str) {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        assert!(passes(scene, "shop/frontend", protocol, LONG), "{when}: allowed {protocol:?} passes");
        assert!(!passes(scene, "shop/stranger", protocol, SHORT), "{when}: denied {protocol:?} does not");
    }
}

/// Tries again and again to reach what is closed, until `done`; counts the connections that came about.
fn knock(ns: &Netns, done: &AtomicBool, opened: &AtomicUsize) {
    while !done.load(Ordering::SeqCst) {
        for port in [8080, 9000] {
            let to = (if port == 8080 { ip("10.1.0.2") } else { ip("10.1.0.3") }, port);
            if ns.tcp_connect(None, to.into(), Duration::from_millis(30)).is_ok() {
                opened.fetch_add(1, Ordering::SeqCst);
            }
        }
    }
}

#[test]
fn a_killed_proxy_leaves_l4_in_force_and_l7_closed() {
    let Some(mut scene) = start() else { return };
    let (frontend, plain) = (scene.pod("shop/frontend"), scene.pod("shop/plain"));
    let stranger = scene.pod("shop/stranger");
    let mut plain_flow = Pair::connect(frontend.ns(), plain.ns(), "10.1.0.3:9500");
    let mut kept = Talk::open(frontend.ns(), BACKEND).unwrap();
    assert_eq!(kept.get("/api/before").unwrap().status, 200);
    assert_eq!(plain_flow.passes(LONG), (true, true));

    let (done, opened) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| knock(stranger.ns(), &done, &opened));
        // Ends the knocking also where an assertion fails: the scope waits for its threads.
        let ended = EndOnDrop(&done);

        scene.programs.kill_proxy("node-1");
        assert!(kept.ends_within(LONG), "an L7 connection dies with the proxy");
        assert_l4_in_force(&scene, "without a proxy");
        assert_eq!(plain_flow.passes(LONG), (true, true), "an established L4 connection goes on");

        let at_servers = scene.web.connections();
        if let Ok(mut talk) = Talk::open_within(frontend.ns(), BACKEND, SHORT) {
            let _ = talk.send("GET /api/during HTTP/1.1\r\nHost: test\r\n\r\n");
            talk.stream.set_read_timeout(Some(SHORT)).unwrap();
            assert!(talk.answer().is_err(), "no byte comes from the server");
        }
        assert_eq!(scene.web.connections(), at_servers, "nothing reaches the server");
        assert!(scene.seen("/api/during").is_empty());

        scene.programs.start_proxy("node-1").unwrap();
        scene.programs.wait_ready("node-1", LONG).unwrap();
        let again = curl(frontend.ns(), "http://10.1.0.2:8080/api/again", &[]);
        assert_eq!(again.status, 200, "{again:?}");
        assert_eq!(curl(frontend.ns(), "http://10.1.0.2:8080/admin", &[]).status, 403);
        assert_eq!(plain_flow.passes(LONG), (true, true), "it was never cut");
        assert_l4_in_force(&scene, "after the restart");
        drop(ended);
    });
    assert_eq!(opened.load(Ordering::SeqCst), 0, "connections that were never allowed came about");
}

#[test]
fn a_killed_controller_changes_nothing_until_it_is_back() {
    let Some(mut scene) = start() else { return };
    let frontend = scene.pod("shop/frontend");
    let mut kept = Talk::open(frontend.ns(), BACKEND).unwrap();
    assert_eq!(kept.get("/api/before").unwrap().status, 200);
    let mut plain_flow = Pair::connect(frontend.ns(), scene.pod("shop/plain").ns(), "10.1.0.3:9500");

    scene.programs.kill_controller();
    let closing = plain_closed();
    scene.save("policies.yaml", &closing);
    std::thread::sleep(SHORT);
    assert_l4_in_force(&scene, "without a controller");
    assert_eq!(kept.get("/api/without").unwrap().status, 200);
    assert_eq!(kept.get("/admin").unwrap().status, 403);
    assert_eq!(plain_flow.passes(LONG), (true, true));

    scene.programs.start_controller().unwrap();
    let closed = wait_until(LONG, || !passes(&scene, "shop/frontend", Protocol::Tcp, SHORT));
    assert!(closed, "what was saved while the controller was dead is in force after its restart");
    assert_eq!(plain_flow.passes(SHORT), (false, false), "and the flow that it forbids is cut");
    assert_eq!(kept.get("/api/after").unwrap().status, 200, "what it does not concern goes on");
}

#[test]
fn a_proxy_without_a_controller_begins_with_the_table_it_had() {
    let Some(mut scene) = start() else { return };
    scene.settle();
    // The table is written to disk after the kernel holds it, at most once a second.
    std::thread::sleep(Duration::from_secs(3));
    scene.programs.kill_controller();
    scene.programs.kill_proxy("node-1");
    scene.programs.start_proxy("node-1").unwrap();
    scene.programs.wait_ready("node-1", LONG).unwrap();
    let frontend = scene.pod("shop/frontend");
    assert_eq!(curl(frontend.ns(), "http://10.1.0.2:8080/api/x", &[]).status, 200);
    assert_eq!(curl(frontend.ns(), "http://10.1.0.2:8080/admin", &[]).status, 403);
    assert_l4_in_force(&scene, "from the saved table");
}

/// The table on disk may be a moment older than the kernel's rules, and a proxy may die in that moment.
#[test]
fn a_saved_table_older_than_the_rules_takes_nothing_back() {
    let Some(mut scene) = start() else { return };
    scene.settle();
    let saved = scene.programs.state_folder("node-1").join("table-node-1");
    assert!(wait_until(LONG, || saved.exists()), "the table is saved");
    let older = std::fs::read(&saved).unwrap();
    scene.policies(&plain_closed());
    assert!(wait_until(LONG, || std::fs::read(&saved).is_ok_and(|now| now != older)), "the newer one is saved");
    scene.programs.kill_controller();
    scene.programs.kill_proxy("node-1");
    std::fs::write(&saved, older).unwrap();
    scene.programs.start_proxy("node-1").unwrap();
    std::thread::sleep(Duration::from_secs(1));
    for pod in ["shop/frontend", "shop/stranger"] {
        assert!(!passes(&scene, pod, Protocol::Tcp, SHORT), "{pod}: what the newest policy denied stays denied");
    }
    let frontend = scene.pod("shop/frontend");
    assert_eq!(crate::client::curl_in_vain(frontend.ns(), "http://10.1.0.2:8080/api/x").status, 0, "what must be read is closed");
    scene.programs.start_controller().unwrap();
    scene.programs.wait_ready("node-1", LONG).unwrap();
    assert_eq!(curl(frontend.ns(), "http://10.1.0.2:8080/api/x", &[]).status, 200);
    assert!(!passes(&scene, "shop/frontend", Protocol::Tcp, SHORT), "and denied it is by the controller's table");
}
