//! Clients that are slow, greedy or ambiguous: an answer with a reason, bounded memory, and nothing to others.

use std::io::Write;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use sluice_testnet::wait_until;

use crate::client::{Talk, curl};
use crate::http::resident_mib;
use crate::scene::{LONG, Scene};

const POLICIES: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: {} } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: "GET|POST", path: "/.*" } ]
"#;

const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/hostile", "node-1", &["10.1.0.1"]),
    ("shop/backend", "node-1", &["10.1.0.2"]),
    ("shop/honest", "node-1", &["10.1.0.3"]),
];

const BACKEND: &str = "10.1.0.2:8080";

fn start(arguments: &[&str]) -> Option<Scene> {
    Scene::start(&["node-1"], &PODS, POLICIES, arguments)
}

fn hostile(scene: &Scene) -> Talk {
    Talk::open(scene.pod("shop/hostile").ns(), BACKEND).unwrap()
}

/// An honest pod's request, and how long it took.
fn honest_request(scene: &Scene) -> Duration {
    let started = Instant::now();
    let answer = curl(scene.pod("shop/honest").ns(), "http://10.1.0.2:8080/honest", &[]);
    assert_eq!(answer.status, 200, "{answer:?}");
    started.elapsed()
}

#[test]
fn a_byte_a_second_is_cut_by_the_time_for_the_head() {
    let Some(scene) = start(&["--set", "limits.headSeconds=3"]) else { return };
    let mut kept = Talk::open(scene.pod("shop/honest").ns(), BACKEND).unwrap();
    let mut slow = hostile(&scene);
    let mut silent = hostile(&scene);
    // One that is past its first request, and then slow.
    let mut later = hostile(&scene);
    assert_eq!(later.get("/first").unwrap().status, 200);
    later.send("G").unwrap();
    let started = Instant::now();
    let mut cut = None;
    for byte in b"GET /a-slow-head HTTP/1.1\r\nHost: a".iter().cycle().take(20) {
        if slow.send([*byte]).is_err() || slow.ends_within(Duration::from_millis(900)) {
            cut = Some(started.elapsed());
            break;
        }
        assert_eq!(kept.get("/honest").unwrap().status, 200, "others go on meanwhile");
        std::thread::sleep(Duration::from_millis(100));
    }
    let cut = cut.expect("a byte a second is not waited for");
    assert!(cut < Duration::from_secs(12), "cut after {cut:?}");
    assert!(silent.ends_within(LONG), "who says nothing is not waited for either");
    assert!(later.ends_within(LONG), "nor who is slow later on");
    let wanted = |record: &serde_json::Value| record["reason"] == "HeadTimeout" && record["source"]["pod"] == "hostile";
    assert!(scene.programs.wait_record("node-1", LONG, wanted).is_some(), "{:#?}", scene.programs.records("node-1"));
    assert!(scene.seen("/a-slow-head").is_empty());
    println!("cut after {cut:?}; the limit is 3 s");
}

#[test]
fn a_request_line_of_a_megabyte_is_answered_and_the_connection_ends() {
    let Some(mut scene) = start(&[]) else { return };
    let before = resident_mib(scene.programs.proxy("node-1").unwrap());
    for (what, start, filling) in [
        ("request line", "GET /", "a"),
        ("header", "GET / HTTP/1.1\r\nHost: x\r\nx-long: ", "b"),
        ("headers", "GET / HTTP/1.1\r\n", "x: y\r\n"),
    ] {
        let mut talk = hostile(&scene);
        let mut writer = talk.stream.try_clone().unwrap();
        let bytes = filling.repeat((1 << 20) / filling.len());
        let status = std::thread::scope(|scope| {
            scope.spawn(move || {
                // The proxy need not read it all.
                let _ = writer.write_all(start.as_bytes()).and_then(|()| writer.write_all(bytes.as_bytes()));
            });
            talk.answer().map(|answer| answer.status)
        });
        match status {
            Ok(status) => assert!([400, 414, 431].contains(&status), "{what}: {status}"),
            Err(error) => println!("{what}: the connection ended before the answer was read: {error}"),
        }
        assert!(talk.ends_within(LONG), "{what}");
    }
    let too_large = |record: &serde_json::Value| record["reason"] == "HeadTooLarge" && record["verdict"] == "deny";
    assert!(scene.programs.wait_record("node-1", LONG, too_large).is_some(), "{:#?}", scene.programs.records("node-1"));
    assert_eq!(scene.web.connections(), 0, "the server never heard of it");
    honest_request(&scene);
    let after = resident_mib(scene.programs.proxy("node-1").unwrap());
    assert!(after < before + 20, "{before} MiB before, {after} MiB after");
}

#[test]
fn what_two_parsers_could_read_differently_never_reaches_the_server() {
    let Some(scene) = start(&[]) else { return };
    let rows: [(&str, &str); 19] = [
        ("CL with TE", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE with CL", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n"),
        ("two CL", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!"),
        ("CL list", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5, 6\r\n\r\nhello!"),
        ("CL with sign", "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nhello"),
        ("TE chunked twice", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n"),
        ("TE not chunked last", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"),
        ("TE in HTTP/1.0", "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        ("TE with vertical tab", "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"),
        ("duplicate Host", "GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
        ("no Host", "GET /x HTTP/1.1\r\n\r\n"),
        ("obs-fold", "GET /x HTTP/1.1\r\nHost: a\r\nx-a: b\r\n c: d\r\n\r\n"),
        ("fold after the request line", "GET /x HTTP/1.1\r\n Host: b\r\nHost: a\r\n\r\n"),
        ("bare CR in a value", "GET /x HTTP/1.1\r\nHost: a\r\nx-a: b\rc: d\r\n\r\n"),
        ("space before the colon", "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length : 5\r\n\r\nhello"),
        ("NUL in a value", "GET /x HTTP/1.1\r\nHost: a\r\nx-a: b\0c\r\n\r\n"),
        ("absolute-form against Host", "GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("a slash that hides", "GET /a%252fx HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("two spaces", "GET  /x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ];
    for (what, bytes) in rows {
        let mut talk = hostile(&scene);
        talk.send(bytes).unwrap();
        let answer = talk.answer().unwrap_or_else(|error| panic!("{what}: no answer: {error}"));
        assert_eq!(answer.status, 400, "{what}: {}", answer.text());
        // What follows on the connection is not a request any more.
        let _ = talk.send("GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(talk.ends_within(LONG), "{what}: the connection ends");
    }
    // What is certainly no HTTP gets no answer of HTTP.
    for bytes in [
        "GET /x HTTP/1.1\rHost: b\r\nHost: a\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01\x00",
        "GET\t/x HTTP/1.1\r\n\r\n",
        "\r\n\r\n\r\n:",
    ] {
        let mut talk = hostile(&scene);
        talk.send(bytes).unwrap();
        assert!(talk.ends_within(LONG), "{bytes:?}");
    }
    assert_eq!(scene.connection_record("node-1", "NotTheProtocol")["verdict"], "deny");
    assert_eq!(scene.web.connections(), 0, "nothing reached the server: {:?}", scene.web.seen());
    let malformed = || scene.programs.records("node-1").into_iter().filter(|r| r["reason"] == "MalformedRequest").count();
    assert!(wait_until(LONG, || malformed() >= rows.len()), "{} of {} are recorded", malformed(), rows.len());
    honest_request(&scene);
}

#[test]
fn a_smuggled_second_request_is_a_request_like_another() {
    let Some(scene) = start(&[]) else { return };
    let mut talk = hostile(&scene);
    // Within a body it is a body; behind it, it is judged.
    let inner = "DELETE /inner HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = format!("POST /outer HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{inner}{inner}", inner.len());
    talk.send(text).unwrap();
    assert_eq!(talk.answer().unwrap().status, 200);
    assert_eq!(talk.answer().unwrap().status, 403);
    let reached: Vec<_> = scene.web.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(reached, ["/outer"]);
}

/// More connections than a pod may have: the rest is refused, with a reason, and other pods notice nothing.
fn many_connections(count: usize, arguments: &[&str], allowed: usize) {
    let Some(mut scene) = start(arguments) else { return };
    let before = resident_mib(scene.programs.proxy("node-1").unwrap());
    let quiet = honest_request(&scene);
    let ns = scene.pod("shop/hostile").ns().clone();
    let held: Vec<TcpStream> = (0..count)
        .filter_map(|_| {
            let mut stream = ns.tcp_connect(None, BACKEND.parse().unwrap(), LONG).ok()?;
            stream.write_all(b"GET /held HT").ok()?;
            Some(stream)
        })
        .collect();
    let busy = honest_request(&scene);
    let refused = || {
        let records = scene.programs.records("node-1");
        let too_many = |record: &&serde_json::Value| {
            record["reason"] == "TooManyConnections" && record["verdict"] == "deny" && record["source"]["pod"] == "hostile"
        };
        records.iter().filter(too_many).count()
    };
    assert!(wait_until(LONG, || refused() >= count - allowed), "{} of {} are refused with a reason", refused(), count - allowed);
    assert_eq!(refused(), count - allowed);
    let proxy = scene.programs.proxy("node-1").unwrap();
    let most = resident_mib(proxy);
    println!(
        "{count} connections ({} came about, {allowed} may be held): memory {before} -> {most} MiB; another pod's request {quiet:?} -> {busy:?}",
        held.len()
    );
    assert!(most < before + 20 + allowed as u64 / 50, "{most} MiB for {allowed} connections");
    drop(held);
    let again = wait_until(LONG, || curl(&ns, "http://10.1.0.2:8080/again", &[]).status == 200);
    assert!(again, "once they are gone the pod may connect again");
}

#[test]
fn connections_by_the_thousand_meet_the_pods_limit_with_a_reason() {
    many_connections(3_500, &["--set", "limits.connectionsPerPod=3000", "--set", "limits.headSeconds=300"], 3_000);
}

/// A frame of HTTP/2: type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

#[test]
fn http2_against_its_rules_ends_its_connection_alone() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    /// `:method GET`, `:scheme http`, `:path /` of the static table, and `:authority a`.
    const HEADERS: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let Some(mut scene) = start(&[]) else { return };
    let before = resident_mib(scene.programs.proxy("node-1").unwrap());
    let settings = frame(4, 0, 0, &[]);
    // Requests that are taken back at once, by the thousand (CVE-2023-44487).
    let resets = (0..20_000_u32).flat_map(|n| {
        let stream = 2 * n + 1;
        [frame(1, 5, stream, HEADERS), frame(3, 0, stream, &8_u32.to_be_bytes())].concat()
    });
    // A header block that never ends (CVE-2024-27316).
    let endless = (0..2_000).flat_map(|n| frame(if n == 0 { 1 } else { 9 }, 0, 1, &[0x40, 1, b'x', 1, b'y'].repeat(100)));
    let rows: [(&str, Vec<u8>); 5] = [
        ("garbage", (0..100_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect()),
        ("resets", [settings.clone(), resets.collect()].concat()),
        ("an endless header block", [settings.clone(), endless.collect()].concat()),
        ("an even stream", [settings.clone(), frame(1, 5, 2, HEADERS)].concat()),
        ("a frame of 16 MiB", [settings, frame(0, 0, 1, &vec![0; (1 << 24) - 1])].concat()),
    ];
    for (what, bytes) in rows {
        let mut talk = hostile(&scene);
        let mut writer = talk.stream.try_clone().unwrap();
        let ended = std::thread::scope(|scope| {
            scope.spawn(move || {
                let _ = writer.write_all(PREFACE).and_then(|()| writer.write_all(&bytes));
            });
            talk.ends_within(LONG)
        });
        assert!(ended, "{what}: the connection goes on");
        honest_request(&scene);
    }
    let after = resident_mib(scene.programs.proxy("node-1").unwrap());
    println!("memory {before} MiB before, {after} MiB after");
    assert!(after < before + 40, "{before} MiB before, {after} MiB after");
}

#[test]
fn garbage_on_the_controllers_socket_disturbs_no_node() {
    let Some(mut scene) = start(&[]) else { return };
    let before = resident_mib(scene.programs.controller().unwrap());
    let garbage: Vec<u8> = (0..1_000_000_u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let mut held = Vec::new();
    for round in 0..50 {
        let mut stream = UnixStream::connect(scene.programs.socket()).unwrap();
        stream.set_write_timeout(Some(LONG)).unwrap();
        let _ = match round % 4 {
            0 => stream.write_all(&garbage),
            1 => stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| stream.write_all(&garbage)),
            2 => stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
            _ => Ok(()),
        };
        held.push(stream);
    }
    scene.policies(&POLICIES.replace("/.*", "/only"));
    let ns = scene.pod("shop/honest").ns().clone();
    assert_eq!(curl(&ns, "http://10.1.0.2:8080/only", &[]).status, 200);
    assert_eq!(curl(&ns, "http://10.1.0.2:8080/else", &[]).status, 403);
    let after = resident_mib(scene.programs.controller().unwrap());
    assert!(after < before + 50, "{before} MiB before, {after} MiB after");
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let Some(scene) = start(&["--set", "limits.headSeconds=2"]) else { return };
    // Half-closed right away, half-closed in the middle of a head, reset in the middle of a body.
    for round in 0..60 {
        let mut talk = hostile(&scene);
        match round % 3 {
            0 => talk.stream.shutdown(std::net::Shutdown::Write).unwrap(),
            1 => {
                talk.send("GET /half HTTP/1.1\r\nHo").unwrap();
                talk.stream.shutdown(std::net::Shutdown::Write).unwrap();
            }
            _ => {
                talk.send("POST /half HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nbegin").unwrap();
                socket2::SockRef::from(&talk.stream).set_linger(Some(Duration::ZERO)).unwrap();
            }
        }
    }
    // A client that has sent all it has to say and closed its half still gets its answer.
    let mut half = hostile(&scene);
    half.send("GET /wait?ms=300 HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    half.stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(half.answer().unwrap().status, 200);
    drop(half);
    honest_request(&scene);
    let open = || {
        let metrics = scene.programs.admin("node-1", "/metrics").unwrap_or_default();
        let line = metrics.lines().find_map(|line| line.strip_prefix("sluice_open_connections ").map(str::to_owned));
        line.and_then(|number| number.trim().parse::<u64>().ok())
    };
    assert!(wait_until(LONG, || open() == Some(0)), "open connections: {:?}", open());
}
