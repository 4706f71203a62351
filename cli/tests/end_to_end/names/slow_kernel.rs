//! A kernel that takes its time: an answer waits for it, and never leaves before.
//!
//! To the pods it is all the same whether the kernel or the thread that speaks to it is slow. So that thread of the proxy is held, as a
//! debugger does it, and no other.

use std::fs;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde_json::json;
use sluice_testnet::dns::{Kind, Message, Query, Record, Reply, Scripted, Socket, Stream};
use sluice_testnet::wait_until;

use super::{GIT, NODE, RESOLVER, RESOLVERS, SERVER, SPARE, Stage, egress};
use crate::client::{Pair, ip};
use crate::scene::{LONG, SHORT};

/// Less than the proxy waits for its kernel.
const SOON: Duration = Duration::from_secs(3);
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
/// Info-code *Network Error* of RFC 8914.
const NETWORK_ERROR: u16 = 23;

/// A thread that doesn't go on before this is dropped.
struct Held {
    release: Option<SyncSender<()>>,
    /// The one that holds it: what was begun by a thread is ended by the same.
    holder: Option<JoinHandle<()>>,
}

impl Held {
    /// The thread of a node's proxy that speaks to the kernel. None where tracing is forbidden, with the reason printed.
    fn kernel_thread(stage: &mut Stage) -> Option<Self> {
        let proxy = stage.scene.programs.proxy(NODE).unwrap().id();
        let tasks = fs::read_dir(format!("/proc/{proxy}/task")).unwrap().map(|task| task.unwrap().path());
        let mut named = tasks.filter(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "kernel"));
        let task = named.next().expect("a thread `kernel`");
        let thread = Pid::from_raw(task.file_name().unwrap().to_str().unwrap().parse().unwrap());
        let (release, released) = sync_channel(1);
        let (tell, told) = sync_channel(1);
        let holder = std::thread::spawn(move || {
            let begun = ptrace::seize(thread, ptrace::Options::empty()).and_then(|()| ptrace::interrupt(thread));
            let stopped = begun.and_then(|()| waitpid(thread, Some(WaitPidFlag::__WALL)));
            let is_held = matches!(stopped, Ok(WaitStatus::PtraceEvent(..)));
            tell.send(stopped).unwrap();
            if is_held {
                // Either way it is to go on.
                let _ = released.recv();
                ptrace::detach(thread, None).unwrap();
            }
        });
        let held = Self { release: Some(release), holder: Some(holder) };
        match told.recv().unwrap() {
            Ok(WaitStatus::PtraceEvent(..)) => Some(held),
            Err(Errno::EPERM) => {
                println!("SKIPPED: this machine lets nobody trace");
                None
            }
            other => panic!("{other:?}"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release = None;
        if let Some(holder) = self.holder.take() {
            let _ = holder.join();
        }
    }
}

/// Knows `*.slow.test`, but `none.slow.test`.
fn answer(query: &Query) -> Vec<Reply> {
    let asked = query.message().expect("DNS");
    let name = asked.questions[0].name.clone();
    let place = name.bytes().find(u8::is_ascii_digit).unwrap_or(b'0') - b'0';
    let address = ip(SPARE[usize::from(place) % SPARE.len()]);
    vec![Reply::message(&match name.as_str() {
        "none.slow.test" => Message { rcode: NXDOMAIN, ..asked.reply() },
        _ => asked.reply().answer(Record::address(&name, 300, address)),
    })]
}

fn is_asked(server: &Scripted, name: &str) -> bool {
    let queries = server.queries();
    queries.iter().filter_map(Query::message).any(|message| message.questions[0].name == name)
}

/// Two questions at once, by each transport; their answers are waited for later.
struct Questions {
    socket: Socket,
    stream: Stream,
    names: [String; 2],
    began: Instant,
}

impl Questions {
    const ID: u16 = 7;

    /// Returns when the server has been asked, and so has answered.
    fn ask(stage: &Stage, server: &Scripted, names: [String; 2]) -> Self {
        let (web, at) = (stage.scene.pod("shop/web"), (ip(SERVER[0]), 53).into());
        let socket = Socket::open(web.ns(), at).unwrap();
        // Its time is that of each try to read.
        let mut stream = Stream::open(web.ns(), at, SHORT).unwrap();
        let began = Instant::now();
        let query = |name: &str| Message::query(Self::ID, name, Kind::A).edns(1232);
        socket.send(&query(&names[0]).bytes()).unwrap();
        stream.send(&[query(&names[1])]).unwrap();
        assert!(wait_until(LONG, || names.iter().all(|name| is_asked(server, name))), "{names:?}: {:?}", server.troubles());
        Self { socket, stream, names, began }
    }

    /// Whether there is no answer for a while.
    fn are_open(&mut self) -> bool {
        self.socket.receive(SHORT).unwrap().is_none() && self.stream.receive().is_err()
    }

    fn answers(&mut self) -> [Message; 2] {
        let datagram = self.socket.receive(LONG).unwrap().expect("an answer by UDP").message();
        let mut streamed = None;
        wait_until(LONG, || {
            streamed = self.stream.receive().ok();
            streamed.is_some()
        });
        [datagram, streamed.and_then(|bytes| Message::parse(&bytes))].map(|answer| answer.expect("DNS"))
    }
}

fn stage() -> Option<(Scripted, Stage)> {
    let rules = "  - to: [ { fqdns: [ { matchPattern: \"*.slow.test\" } ] } ]";
    let stage = Stage::start(&egress(rules), &["--set", RESOLVERS])?;
    let server = stage.serve_script(answer);
    Some((server, stage))
}

#[test]
fn an_answer_waits_for_the_kernel() {
    let Some((server, mut stage)) = stage() else { return };
    let addresses = [ip(SPARE[0]), ip(SPARE[1])];
    // A machine that is slow itself gets another try: with other names, of the same addresses, that is.
    for round in ["a", "b", "c", "d", "e"] {
        let Some(held) = Held::kernel_thread(&mut stage) else { return };
        let mut questions = Questions::ask(&stage, &server, [format!("{round}0.slow.test"), format!("{round}1.slow.test")]);
        let are_open = questions.are_open();
        let reached =
            addresses.map(|address| stage.reaches("shop/web", &address.to_string(), sluice_testnet::Protocol::Tcp, SHORT));
        let was_soon = questions.began.elapsed() < SOON;
        drop(held);
        let answers = questions.answers();
        if !was_soon || answers.iter().any(|answer| answer.rcode == SERVFAIL) {
            println!("{:?}: too slow a machine to say anything by {:?}", questions.began.elapsed(), questions.names);
            continue;
        }
        assert!(are_open, "no answer leaves before the kernel holds its address");
        assert_eq!(reached, [false; 2]);
        for (answer, address) in answers.iter().zip(addresses) {
            assert_eq!((answer.rcode, answer.addresses()), (0, vec![address]));
            assert!(stage.opens_now("shop/web", (address, GIT).into()), "{address}");
        }
        for name in &questions.names {
            let record = stage.record_of(name, |_| true);
            let said = (&record["verdict"], &record["reason"], &record["dns"]["rcode"]);
            assert_eq!(said, (&json!("allow"), &json!("RuleMatched"), &json!("NOERROR")), "{record:#}");
        }
        return;
    }
    println!("SKIPPED: this machine was too slow");
}

#[test]
fn a_kernel_that_is_too_slow_is_said_so_and_holds_up_nothing_else() {
    let Some((server, mut stage)) = stage() else { return };
    let (web, outside) = (stage.scene.pod("shop/web"), stage.scene.net.outside().clone());
    // One that was allowed by name, and one of a pod without such rules.
    let mut socket = Socket::open(web.ns(), (ip(SERVER[0]), 53).into()).unwrap();
    let known = socket.ask("a2.slow.test", Kind::A, LONG).unwrap().expect("an answer").message().unwrap();
    assert_eq!(known.addresses(), [ip(SPARE[2])]);
    let mut flow = Pair::connect(web.ns(), &outside, &format!("{}:9500", SPARE[2]));
    let mut others = Pair::connect(stage.scene.pod("shop/free").ns(), &outside, &format!("{}:9501", SPARE[3]));

    let Some(held) = Held::kernel_thread(&mut stage) else { return };
    let mut questions = Questions::ask(&stage, &server, ["a0.slow.test".to_owned(), "a1.slow.test".to_owned()]);
    // What needs no kernel is answered meanwhile.
    for options in [&[][..], &["+tcp"][..]] {
        let status = |server: &str, name: &str| stage.dig("shop/web", server, name, "A", options).status;
        assert_eq!(status(SERVER[0], "none.slow.test"), "NXDOMAIN", "{options:?}");
        assert_eq!(status(SERVER[0], "www.example.org"), "REFUSED", "{options:?}");
        assert_eq!(status(RESOLVER[0], "b0.slow.test"), "REFUSED", "{options:?}: no resolver here");
        assert_eq!(status(SERVER[1], "a0.slow.test.shop.svc.cluster.local"), "NXDOMAIN", "{options:?}");
    }
    assert_eq!((flow.passes(LONG), others.passes(LONG)), ((true, true), (true, true)));
    assert!(stage.opens_now("shop/web", (ip(SPARE[2]), GIT).into()), "what was learned before stays open");
    assert!(stage.opens_now("shop/free", (ip(SPARE[3]), GIT).into()));
    for answer in questions.answers() {
        assert_eq!((answer.rcode, answer.addresses().len()), (SERVFAIL, 0), "{answer:?}");
        let errors = answer.extended_errors();
        assert!(errors.iter().any(|(code, text)| *code == NETWORK_ERROR && text.contains("could not be opened")), "{errors:?}");
    }
    assert!(stage.is_closed("shop/web", SPARE[0]) && stage.is_closed("shop/web", SPARE[1]));
    for name in &questions.names {
        let record = stage.record_of(name, |_| true);
        let said = (&record["verdict"], &record["reason"], &record["dns"]["rcode"]);
        assert_eq!(said, (&json!("deny"), &json!("NotLearned"), &json!("SERVFAIL")), "{record:#}");
    }
    drop(held);
    assert!(
        stage.is_closed("shop/web", SPARE[0]) && stage.is_closed("shop/web", SPARE[1]),
        "what the pod wasn't told stays closed"
    );
    let again = socket.ask("a0.slow.test", Kind::A, LONG).unwrap().expect("an answer").message().unwrap();
    assert_eq!((again.rcode, again.addresses()), (0, vec![ip(SPARE[0])]));
    assert!(stage.opens_now("shop/web", (ip(SPARE[0]), GIT).into()));
    assert_eq!((flow.passes(LONG), others.passes(LONG)), ((true, true), (true, true)));
}
