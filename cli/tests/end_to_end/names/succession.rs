//! A planned restart: the successor holds the sockets before its predecessor lets go, so nothing is lost, and nothing is refused.

use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluice_testnet::dns::{Kind, Message};
use sluice_testnet::{Child, Netns, wait_until};

use super::race::{Client, Told, address_of, denied_packets, server};
use super::{API, GIT, NODE, SERVER, Stage, egress};
use crate::client::{Pair, Talk, ip};
use crate::scene::{EndOnDrop, LONG, SHORT};

/// `web` and `other` may look up the race's names, and read from `free`.
const RULES: &str = r#"  - to: [ { fqdns: [ { matchPattern: "*.race.test" }, { matchName: api.github.com } ] } ]
  - to: [ { podSelector: { matchLabels: { app: free } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: GET } ]"#;
const RESOLVERS: [&str; 2] =
    ["--set", "dns.resolvers=[{ip: 198.51.100.53}, {namespace: kube-system, podSelector: {matchLabels: {k8s-app: kube-dns}}}]"];
const FREE: &str = "10.1.0.3:8080";
/// Look-ups of the steady client.
const PER_SECOND: u32 = 1000;

/// Ends by itself, with success.
fn assert_gone(former: &mut Child) {
    let status = former.wait(LONG).unwrap_or_else(|| panic!("the former proxy goes on: {former:?}"));
    assert_eq!(status.code(), Some(0), "{former:?}");
}

/// Looks up names by one socket, a thousand a second, half of them new and half repeated, until `done`. Each answer must come, once,
/// though the question is asked but once. Returns how many there were.
fn steady(ns: &Netns, done: &AtomicBool) -> usize {
    let socket = ns.run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    socket.connect((ip(SERVER[0]), 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let number_of = |turn: usize| if turn.is_multiple_of(2) { 30_000 + turn } else { 20_000 + turn % 100 };
    let query = |turn: usize| {
        let name = format!("n{}.race.test", number_of(turn));
        Message::query(u16::try_from(turn).unwrap(), &name, Kind::A).edns(1232)
    };
    let sent = AtomicUsize::new(usize::MAX);
    std::thread::scope(|scope| {
        let answers = scope.spawn(|| {
            let (mut bytes, mut count) = ([0; 1500], 0);
            let mut waits = vec![true; 0];
            while count < sent.load(Ordering::SeqCst) {
                let length = match socket.recv(&mut bytes) {
                    Ok(length) => length,
                    Err(error) => {
                        let lost: Vec<_> = waits.iter().enumerate().filter(|(_, waits)| **waits).map(|(turn, _)| turn).collect();
                        panic!("{count} of {sent:?} answers: {error}; the last was {}; missing before it: {lost:?}", waits.len());
                    }
                };
                let answer = Message::parse(&bytes[..length]).expect("DNS");
                let name = &answer.questions[0].name;
                // The id is the turn, of which there are fewer than 65,536.
                let turn = usize::from(answer.id);
                assert_eq!(*name, format!("n{}.race.test", number_of(turn)));
                assert_eq!(
                    answer.addresses(),
                    [address_of(number_of(turn), Kind::A)],
                    "{:?} {answer:?}",
                    answer.extended_errors()
                );
                waits.resize(waits.len().max(turn + 1), true);
                assert!(std::mem::replace(&mut waits[turn], false), "{name} is answered twice");
                count += 1;
            }
        });
        let began = Instant::now();
        let mut turn = 0;
        while !done.load(Ordering::SeqCst) {
            socket.send(&query(turn).bytes()).unwrap();
            turn += 1;
            let due = Duration::from_secs(1) * u32::try_from(turn).unwrap() / PER_SECOND;
            std::thread::sleep(due.saturating_sub(began.elapsed()));
        }
        sent.store(turn, Ordering::SeqCst);
        // The last answer may have been taken already: one more wakes who waits for the next.
        socket
            .send(&Message::query(u16::try_from(turn).unwrap(), &format!("n{}.race.test", number_of(turn)), Kind::A).bytes())
            .unwrap();
        sent.store(turn + 1, Ordering::SeqCst);
        answers.join().unwrap();
        turn + 1
    })
}

/// Does `work` again and again until `done`, and counts.
fn until(done: &AtomicBool, mut work: impl FnMut(usize)) -> usize {
    let mut turn = 0;
    while !done.load(Ordering::SeqCst) {
        work(turn);
        turn += 1;
    }
    turn
}

#[test]
fn nothing_is_lost_or_refused_while_a_successor_takes_over() {
    let Some(mut stage) = Stage::start(&egress(RULES), &RESOLVERS) else { return };
    let told = Arc::<Told>::default();
    let _server = server(&stage, &told);
    let (web, other) = (stage.scene.pod("shop/web"), stage.scene.pod("shop/other"));
    let node = stage.scene.node(NODE).ns().clone();
    let admin: SocketAddr = "127.0.0.1:15020".parse().unwrap();
    let mut drip = Talk::open(other.ns(), FREE).unwrap();
    drip.send("GET /drip?n=40&ms=100 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = EndOnDrop(&done);
        let look_ups = scope.spawn(|| steady(web.ns(), &done));
        // Each with a connection right behind the answer.
        let races = scope.spawn(|| other.ns().run(|| until(&done, |turn| Client::open(Kind::A).race(turn % 16_000))));
        let requests = scope.spawn(|| {
            until(&done, |_| {
                let answer = Talk::open(other.ns(), FREE).and_then(|mut talk| talk.get("/again"));
                assert_eq!(answer.unwrap().status, 200);
                std::thread::sleep(Duration::from_millis(5));
            })
        });
        let looks = scope.spawn(|| {
            node.run(|| {
                until(&done, |_| {
                    TcpStream::connect(admin).unwrap_or_else(|error| panic!("the admin address: {error}"));
                    std::thread::sleep(Duration::from_millis(5));
                })
            })
        });
        for round in 0..2 {
            std::thread::sleep(Duration::from_millis(700));
            // Asked of one process, and answered when the next one has the kernel.
            let late = scope.spawn({
                let other = &other;
                move || {
                    other.ns().run(|| {
                        let answer = Client::open(Kind::A).ask(&format!("s{round}.race.test"));
                        let address = address_of(round, Kind::A);
                        assert_eq!(answer.addresses(), [address], "{answer:?}");
                        TcpStream::connect_timeout(&(address, GIT).into(), LONG).unwrap();
                    });
                }
            });
            std::thread::sleep(Duration::from_millis(300));
            let mut former = stage.scene.programs.relieve_proxy(NODE).unwrap().expect("one runs");
            former.wait_for_error_line("another sluice-proxy has taken over", LONG).unwrap();
            stage.scene.programs.wait_ready(NODE, LONG).unwrap();
            late.join().unwrap();
            if round == 0 {
                let answer = drip.answer().unwrap();
                assert_eq!((answer.status, answer.text().lines().count()), (200, 40), "what was under way ends as it began");
            }
            assert_gone(&mut former);
        }
        std::thread::sleep(Duration::from_millis(500));
        drop(ended);
        let counts = [look_ups.join().unwrap(), races.join().unwrap(), requests.join().unwrap(), looks.join().unwrap()];
        println!("look-ups at a steady pace, look-ups with connections, requests, looks at the admin address: {counts:?}");
        assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    });
    assert_eq!(denied_packets(&stage), 0, "no SYN came before its address was open");
    let records = stage.scene.programs.records(NODE);
    assert!(records.iter().any(|record| record["type"] == "lookup"), "the last one writes records");
}

#[test]
fn what_the_former_proxy_carries_is_judged_by_each_new_table() {
    let arguments = [&RESOLVERS[..], &["--set", "limits.drainSeconds=30"]].concat();
    let Some(mut stage) = Stage::start(&egress(RULES), &arguments) else { return };
    let other = stage.scene.pod("shop/other");
    let mut drip = Talk::open(other.ns(), FREE).unwrap();
    drip.send("GET /drip?n=100000&ms=50 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(wait_until(LONG, || !stage.scene.seen("/drip").is_empty()), "it has begun");
    stage.look_up("shop/web", "api.github.com");
    let mut flow = Pair::connect(stage.scene.pod("shop/web").ns(), stage.scene.net.outside(), &format!("{}:9500", API[0]));
    let mut former = stage.scene.programs.relieve_proxy(NODE).unwrap().expect("one runs");
    stage.scene.programs.wait_ready(NODE, LONG).unwrap();
    former.wait_for_error_line("another sluice-proxy has taken over", LONG).unwrap();
    assert_eq!(flow.passes(LONG), (true, true), "what was learned is the successor's");
    assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()), "without a new look-up");
    assert!(former.is_running(), "it carries a connection");
    stage.scene.policies(&egress("  - to: [ { fqdns: [ { matchPattern: \"*.race.test\" } ] } ]"));
    assert!(drip.ends_within(LONG), "what the new policies forbid is closed by the process that carries it");
    assert_gone(&mut former);
    assert_eq!(flow.passes(SHORT), (false, false));
    assert!(stage.is_closed("shop/web", API[0]));
}

/// Whoever replaces a proxy by a signal and a start need not wait for its end in between.
#[test]
fn a_successor_may_come_while_the_former_proxy_drains() {
    let Some(mut stage) = Stage::start(&egress(RULES), &RESOLVERS) else { return };
    let other = stage.scene.pod("shop/other");
    let mut drip = Talk::open(other.ns(), FREE).unwrap();
    drip.send("GET /drip?n=40&ms=100 HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    assert!(wait_until(LONG, || !stage.scene.seen("/drip").is_empty()), "it has begun");
    let proxy = stage.scene.programs.proxy(NODE).unwrap();
    proxy.signal(sluice_testnet::Signal::SIGTERM).unwrap();
    proxy.wait_for_error_line("draining", LONG).unwrap();
    let mut former = stage.scene.programs.relieve_proxy(NODE).unwrap().expect("one runs");
    stage.scene.programs.wait_ready(NODE, LONG).unwrap();
    assert_eq!(Talk::open(other.ns(), FREE).and_then(|mut talk| talk.get("/again")).unwrap().status, 200);
    stage.look_up("shop/web", "api.github.com");
    assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()));
    assert!(former.is_running(), "it carries a connection");
    let answer = drip.answer().unwrap();
    assert_eq!((answer.status, answer.text().lines().count()), (200, 40));
    assert_gone(&mut former);
    stage.scene.settle();
    assert!(stage.scene.programs.proxy(NODE).unwrap().is_running());
}

/// In the order in which they can fail: before they have found the other one, before they are ready, and by saying nothing.
#[test]
fn a_successor_that_fails_changes_nothing() {
    let Some(mut stage) = Stage::start(&egress(RULES), &RESOLVERS) else { return };
    let node = stage.scene.node(NODE).ns().clone();
    let state = stage.scene.programs.state_folder(NODE);
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(sluice_testnet::binary("sluice-proxy").unwrap());
        command.args([
            "--controller",
            &format!("unix:{}", stage.scene.programs.socket().display()),
            "--node",
            NODE,
            "--state-dir",
        ]);
        node.output(command.arg(&state).args(arguments)).unwrap()
    };
    for (arguments, why) in [
        (["--set", "limits.drainSeconds=no"], "limits.drainSeconds"),
        (["--admin", "203.0.113.9:15020"], "listen on the admin address 203.0.113.9:15020"),
    ] {
        let output = run(&arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
    let file = state.join(format!("restart-{NODE}"));
    assert!(file.exists(), "where successors knock");
    let mute = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).unwrap();
    mute.connect(&socket2::SockAddr::unix(&file).unwrap()).unwrap();
    drop(mute);
    stage.look_up("shop/web", "api.github.com");
    assert!(stage.connects("shop/web", API[0]));
    assert!(stage.scene.programs.proxy(NODE).unwrap().is_running());
    let mut former = stage.scene.programs.relieve_proxy(NODE).unwrap().expect("one runs");
    assert_gone(&mut former);
    stage.scene.programs.wait_ready(NODE, LONG).unwrap();
    assert!(stage.opens_now("shop/web", (ip(API[0]), GIT).into()));
}

/// A client that asks again and again, as resolver libraries do, has its answer within a second. Machines are busy: of five times, once.
#[test]
fn look_ups_go_on_after_a_kill() {
    let Some(mut stage) = Stage::start(&egress(RULES), &RESOLVERS) else { return };
    let told = Arc::<Told>::default();
    let _server = server(&stage, &told);
    let web = stage.scene.pod("shop/web");
    web.ns().run(|| Client::open(Kind::A).race(1));
    // The table is on disk a second after it is in force.
    let saved = stage.scene.programs.state_folder(NODE).join("table-node-1");
    assert!(wait_until(LONG, || saved.exists()));
    stage.scene.settle();
    std::thread::sleep(Duration::from_secs(2));
    // Without a controller: the table that is on disk must do.
    stage.scene.programs.kill_controller();
    let mut waits = Vec::new();
    for number in 0..5 {
        stage.scene.programs.kill_proxy(NODE);
        let started = Instant::now();
        stage.scene.programs.start_proxy(NODE).unwrap();
        let query = Message::query(7, &format!("n{number}.race.test"), Kind::A).bytes();
        let socket = web.ns().run(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.connect((ip(SERVER[0]), 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut bytes = [0; 1500];
        let answered = wait_until(LONG, || {
            let _ = socket.send(&query);
            let Ok(length) = socket.recv(&mut bytes) else { return false };
            let answer = Message::parse(&bytes[..length]).expect("DNS");
            assert_eq!(answer.addresses(), [address_of(number, Kind::A)], "no other answer comes first: {answer:?}");
            true
        });
        assert!(answered);
        waits.push(started.elapsed());
    }
    println!("from the start of the process to the first answer: {waits:?}");
    assert!(waits.iter().any(|wait| *wait < Duration::from_secs(1)), "{waits:?}");
}
