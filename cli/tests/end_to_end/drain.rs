//! The end of a proxy on purpose, and taking Sluice off a node.

use std::process::Command;
use std::time::{Duration, Instant};

use sluice_testnet::{Port, Signal, binary, wait_until};

use crate::client::{Answer, Talk, curl, ip};
use crate::scene::{LONG, SHORT, Scene};

const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: GET } ]
"#;

const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/backend", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/stranger", "node-1", &["10.1.0.3", "fd00:1::3"]),
];

#[test]
fn what_is_under_way_ends_before_the_proxy_does() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, POLICIES, &[]) else { return };
    let frontend = scene.pod("shop/frontend");
    let mut slow = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    slow.send("GET /drip?n=30&ms=100 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let mut idle = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    assert_eq!(idle.get("/idle").unwrap().status, 200);
    assert!(wait_until(LONG, || !scene.seen("/drip").is_empty()), "the slow answer has begun");

    let connected = Instant::now();
    let mut young = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    let mut half = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    half.send("GET /half HTTP/1.1\r\nHo").unwrap();
    // To these the kernel has said yes, and the proxy has not.
    let proxy = scene.programs.proxy("node-1").unwrap();
    proxy.signal(Signal::SIGSTOP).unwrap();
    let waiting: Vec<Talk> = (0..20).map(|_| Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap()).collect();
    proxy.signal(Signal::SIGTERM).unwrap();
    proxy.signal(Signal::SIGCONT).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut answers = vec![young.get("/young"), half.send("st: test\r\n\r\n").and_then(|()| half.answer())];
    answers.extend(waiting.into_iter().map(|mut waiting| waiting.get("/waiting")));
    if connected.elapsed() < Duration::from_millis(900) {
        let is_heard = |answer: &std::io::Result<_>| answer.as_ref().is_ok_and(|answer: &Answer| answer.status == 200);
        assert!(answers.iter().all(is_heard), "who has just connected is heard: {answers:?}");
    } else {
        println!("NOT JUDGED: whether who has just connected is heard; this machine took {:?} for it", connected.elapsed());
    }
    assert!(idle.ends_within(Duration::from_secs(2)), "an idle connection is not waited for");
    let answer = slow.answer().unwrap();
    let drops = answer.text().lines().count();
    assert_eq!((answer.status, drops), (200, 30), "the slow answer is whole");
    let proxy = scene.programs.proxy("node-1").unwrap();
    let status = proxy.wait(LONG).expect("it ends");
    assert_eq!(status.code(), Some(0), "{proxy:?}");
    let record = scene.request_record("node-1", "/drip");
    assert_eq!((record["http"]["status"].as_u64(), record["verdict"].as_str()), (Some(200), Some("allow")), "{record:#}");

    // It left its rules: closed stays closed, and L7 waits for the next proxy.
    assert!(scene.pod("shop/stranger").ns().tcp_connect(None, (ip("10.1.0.2"), 8080).into(), SHORT).is_err());
    assert!(scene.node("node-1").ns().exec("nft", &["list", "table", "inet", "sluice"]).is_ok());
    scene.programs.start_proxy("node-1").unwrap();
    scene.programs.wait_ready("node-1", LONG).unwrap();
    assert_eq!(curl(frontend.ns(), "http://10.1.0.2:8080/again", &[]).status, 200);
}

#[test]
fn the_drain_has_an_end() {
    let arguments = ["--set", "limits.drainSeconds=1"];
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, POLICIES, &arguments) else { return };
    let mut endless = Talk::open(scene.pod("shop/frontend").ns(), "10.1.0.2:8080").unwrap();
    endless.send("GET /drip?n=100000&ms=100 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(wait_until(LONG, || !scene.seen("/drip").is_empty()));
    let proxy = scene.programs.proxy("node-1").unwrap();
    proxy.signal(Signal::SIGTERM).unwrap();
    assert_eq!(proxy.wait(LONG).and_then(|status| status.code()), Some(0), "{proxy:?}");
    assert!(endless.ends_within(LONG));
    let record = scene.connection_record("node-1", "Draining");
    assert_eq!(record["verdict"], "deny", "{record:#}");
}

#[test]
fn cleanup_leaves_nothing_of_sluice() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, POLICIES, &[]) else { return };
    let node = scene.node("node-1");
    let look = || -> Vec<String> {
        let says = |program: &str, arguments: &[&str]| node.ns().exec(program, arguments).unwrap();
        vec![
            says("nft", &["list", "ruleset"]),
            says("ip", &["-4", "rule"]),
            says("ip", &["-6", "rule"]),
            // The node's own routes lie in `main` and `local`, and come with the network.
            other_tables(&says("ip", &["-4", "route", "show", "table", "all"])),
            other_tables(&says("ip", &["-6", "route", "show", "table", "all"])),
        ]
    };
    let with_sluice = look();
    assert!(with_sluice[0].contains("table inet sluice") && with_sluice[0].contains("backend"), "{}", with_sluice[0]);
    // Without Sluice there are `local`, `main` and, for IPv4, `default`.
    for (place, own) in [(1, 3), (2, 2)] {
        assert!(with_sluice[place].lines().count() > own, "a rule of Sluice: {}", with_sluice[place]);
    }
    assert!(!with_sluice[3].is_empty() && !with_sluice[4].is_empty(), "{with_sluice:?}");

    scene.programs.kill_proxy("node-1");
    let proxy = binary("sluice-proxy").unwrap();
    let cleanup = || node.ns().output(Command::new(&proxy).arg("cleanup")).unwrap();
    let output = cleanup();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let after = look();
    assert_eq!(after[0], "", "no table");
    for (place, own) in [(1, 3), (2, 2)] {
        assert_eq!(after[place].lines().count(), own, "the kernel's own rules alone: {}", after[place]);
    }
    assert_eq!((after[3].as_str(), after[4].as_str()), ("", ""), "no routes in other tables");
    assert!(cleanup().status.success(), "and once more, with nothing to do");

    scene.net.serve_pod(&scene.pod("shop/frontend"), &[Port::tcp(9000)]).unwrap();
    let free = curl(scene.pod("shop/stranger").ns(), "http://10.1.0.2:8080/free", &[]);
    assert_eq!(free.status, 200, "nothing is enforced any more: {free:?}");
}

fn other_tables(routes: &str) -> String {
    let named = |line: &&str| line.contains(" table ") && !line.contains(" table local");
    routes.lines().filter(named).collect::<Vec<_>>().join("\n")
}
