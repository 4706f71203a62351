//! What pods were told of names, with real packets: open to whoever was told, and to nobody else, until its time.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use kernel_stage::answer::answer;
use kernel_stage::proxy::{accept, listen};
use kernel_stage::running::Running;
use kernel_stage::{SILENCE, Stage, edits, ip, pod_yaml, possible};
use sluice_policy::source::{Key, PodRef};
use sluice_policy::world::Edit;
use sluice_proxy::enforcer::Learning;
use sluice_proxy::feed::Extent;
use sluice_proxy::kernel::{Config, Kernel};
use sluice_proxy::names::{BootId, Journal, Lesson, Limits, Moment, Names, NamesMetrics};
use sluice_testnet::Protocol::{self, Tcp, Udp};
use sluice_testnet::{Net, Outcome, Pod, Port, wait_until};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\n";
/// Longer than a test takes.
const LONG: u32 = 600;
/// The name of the address may be known so much longer than it was said: the timers of the kernel.
const LATE: Duration = Duration::from_millis(200);
const ELSEWHERE: [&str; 2] = ["198.51.100.7", "2001:db8:7::7"];

fn policy(name: &str, app: &str, egress: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{name: {name}, namespace: x}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [Egress], egress: [{egress}]}}\n"
    )
}

fn to_name(name: &str, rest: &str) -> String {
    format!("{{to: [{{fqdns: [{{matchName: {name}}}]{rest}}}]}}")
}

const ADDRESS_ONLY: &str = ", nameCheck: AddressOnly";

/// Two pods of one kind, and servers outside.
struct Scene {
    stage: Stage,
    names: Arc<Names>,
    web: Pod,
    like: Pod,
}

fn scene(policies: &str) -> Scene {
    scene_within(policies, Limits::default())
}

fn scene_within(policies: &str, limits: Limits) -> Scene {
    scene_on(policies, limits, Config::default())
}

fn scene_on(policies: &str, limits: Limits, config: Config) -> Scene {
    let mut stage = Stage::new(config);
    let limits = Limits { min_ttl: Duration::from_secs(1), ..limits };
    let names = Arc::new(Names::new(limits, NamesMetrics::default()));
    stage.kernel.remember(Arc::clone(&names));
    let web = stage.pod("x/web", &["10.0.1.1", "fd00:1::1"]);
    let like = stage.stranger("x/like", &["10.0.1.2", "fd00:1::2"]);
    stage.engine.edit(edits(&pod_yaml("node-1", "x", "like", "web", &["10.0.1.2", "fd00:1::2"])));
    for address in ELSEWHERE.into_iter().chain(["10.50.0.1"]) {
        stage.net.add_outside_address(ip(address)).unwrap();
    }
    let ports = [Port::tcp(22), Port::tcp(80), Port::tcp(443), Port::tcp(8443), Port::udp(443), Port::udp(5353)];
    stage.net.serve(stage.net.outside(), "x/outside", &ports).unwrap();
    stage.engine.edit(edits(&format!("{NAMESPACE}{policies}")));
    stage.apply_whole();
    Scene { stage, names, web, like }
}

impl Scene {
    /// The pod at `pod` is told of a name; until when.
    fn tell(&mut self, pod: &str, name: &str, addresses: &[&str], ttl_seconds: u32) -> Moment {
        self.tell_at(Moment::now(), pod, name, addresses, ttl_seconds)
    }

    fn tell_at(&mut self, now: Moment, pod: &str, name: &str, addresses: &[&str], ttl_seconds: u32) -> Moment {
        let addresses: Vec<IpAddr> = addresses.iter().map(|address| ip(address)).collect();
        let lesson = self.names.learn(ip(pod), &answer(name, &addresses, ttl_seconds), now);
        assert!(!lesson.is_empty());
        let kernel = &mut self.stage.kernel;
        self.stage.node.ns().run(|| kernel.learn(std::slice::from_ref(&lesson))).unwrap();
        self.names.confirm(&lesson);
        let all = lesson.addresses.iter().flat_map(|learned| &learned.names);
        all.filter(|known| *known.name == *name).map(|known| known.expires).max().unwrap()
    }

    /// Of an address of each family, at one time: they end together.
    fn tell_both(&mut self, name: &str, ttl_seconds: u32) -> Moment {
        let ([v4, v6], now) = ([Net::OUTSIDE_V4, Net::OUTSIDE_V6].map(|ip| ip.to_string()), Moment::now());
        let expires = self.tell_at(now, "10.0.1.1", name, &[&v4], ttl_seconds);
        assert_eq!(self.tell_at(now, "fd00:1::1", name, &[&v6], ttl_seconds), expires);
        expires
    }

    fn forget(&mut self, pods: &[&str]) {
        let pods: Vec<IpAddr> = pods.iter().map(|pod| ip(pod)).collect();
        for pod in &pods {
            self.names.forget(*pod, Moment::now());
        }
        let kernel = &mut self.stage.kernel;
        self.stage.node.ns().run(|| kernel.forget(&pods)).unwrap();
    }

    fn expect_at(&self, from: &Pod, to: &[IpAddr], rows: &[(u16, Protocol, bool)]) {
        let addresses: Vec<String> = to.iter().map(ToString::to_string).collect();
        let rows: Vec<_> = addresses
            .iter()
            .flat_map(|to| rows.iter().map(move |(port, protocol, through)| (from, to.as_str(), *port, *protocol, *through)))
            .collect();
        self.stage.expect(&rows);
    }

    /// Tries until it is over: open before, closed after.
    fn is_open_until(&self, to: &[IpAddr], expires: Moment) {
        let addresses: Vec<String> = to.iter().map(ToString::to_string).collect();
        let rows: Vec<_> = addresses
            .iter()
            .flat_map(|to| [(Tcp, 443), (Udp, 5353)].map(|(p, port)| (&self.web, to.as_str(), port, p)))
            .collect();
        loop {
            let began = Moment::now();
            let outcomes = self.stage.probe(&rows);
            let ended = Moment::now();
            let is_over = began > expires.after(LATE);
            for (row, outcome) in rows.iter().zip(&outcomes) {
                let what =
                    format!("{} {:?} {outcome:?}, {:?} left\n{}", row.1, row.3, ended.until(expires), self.stage.listing());
                assert!(ended >= expires || outcome.is_connected(), "closed too early: {what}");
                assert!(!is_over || !outcome.is_connected(), "not closed: {what}");
            }
            if is_over {
                return;
            }
        }
    }

    fn expect_no_harm(&mut self) {
        let kernel = &mut self.stage.kernel;
        assert_eq!(self.stage.node.ns().run(|| kernel.harm()).unwrap(), None);
    }
}

fn outside() -> [IpAddr; 2] {
    [Net::OUTSIDE_V4, Net::OUTSIDE_V6]
}

fn elsewhere() -> [IpAddr; 2] {
    ELSEWHERE.map(ip)
}

fn connect(from: &Pod, to: SocketAddr) -> std::io::Result<TcpStream> {
    from.ns().tcp_connect(Some(from.addresses()[usize::from(to.is_ipv6())]), to, SILENCE)
}

fn is_answered(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 128];
    stream.write_all(b"hello\n").is_ok() && stream.read(&mut answer).is_ok_and(|length| answer[..length].starts_with(b"x/"))
}

#[test]
fn what_a_pod_was_told_is_open_to_it_alone_until_its_time() {
    if !possible() {
        return;
    }
    let mut scene = scene(&policy("names", "web", &to_name("api.example.com", ADDRESS_ONLY)));
    let (web, like) = (scene.web.clone(), scene.like.clone());
    let closed = [(443, Tcp, false), (5353, Udp, false)];
    let open = [(443, Tcp, true), (5353, Udp, true)];
    scene.expect_at(&web, &outside(), &closed);
    scene.expect_no_harm();
    scene.tell_both("other.example.com", LONG);
    scene.expect_at(&web, &outside(), &closed);
    scene.expect_no_harm();
    let expires = scene.tell_both("api.example.com", 4);
    scene.expect_no_harm();
    let mut streams = outside().map(|to| connect(&web, SocketAddr::new(to, 443)).unwrap());
    let datagrams = outside().map(|to| {
        let own = web.addresses()[usize::from(to.is_ipv6())];
        (kernel_stage::packet::listen(web.ns(), SocketAddr::new(own, 4000)), SocketAddr::new(to, 5353))
    });
    let is_echoed = || {
        datagrams.iter().all(|(socket, to)| {
            socket.send_to(b"hello\n", to).unwrap();
            kernel_stage::packet::arrived(socket).is_some()
        })
    };
    assert!(is_echoed());
    scene.expect_at(&like, &outside(), &closed);
    scene.expect_at(&web, &elsewhere(), &closed);
    scene.is_open_until(&outside(), expires);
    assert!(streams.iter_mut().all(is_answered) && is_echoed(), "what has begun outlives the time");
    scene.expect_no_harm();

    // Told again, whatever the kernel still has of the former time.
    scene.tell_both("api.example.com", LONG);
    scene.expect_at(&web, &outside(), &open);
    scene.expect_at(&like, &outside(), &closed);
}

#[test]
fn an_address_that_is_told_again_is_open_for_longer() {
    told_again(Config::default());
}

/// As before Linux 6.12.
#[test]
fn so_it_is_where_the_kernel_extends_no_element() {
    told_again(Config { extends: false, ..Config::default() });
}

fn told_again(config: Config) {
    if !possible() {
        return;
    }
    let policy = policy("names", "web", &to_name("api.example.com", ADDRESS_ONLY));
    let mut scene = scene_on(&policy, Limits::default(), config);
    let first = scene.tell_both("api.example.com", 2);
    let mut last = first;
    // The same time from later on, and from later on again.
    while Moment::now() < first {
        std::thread::sleep(Duration::from_millis(900));
        let ([v4, v6], now) = (outside().map(|ip| ip.to_string()), Moment::now());
        for (pod, address) in [("10.0.1.1", v4), ("fd00:1::1", v6)] {
            let lesson = scene.names.learn(ip(pod), &answer("api.example.com", &[ip(&address)], 2), now);
            let kernel = &mut scene.stage.kernel;
            scene.stage.node.ns().run(|| kernel.learn(std::slice::from_ref(&lesson))).unwrap();
            last = lesson.addresses.iter().flat_map(|l| &l.names).map(|n| n.expires).max().unwrap_or(last).max(last);
        }
    }
    assert!(last > first);
    scene.is_open_until(&outside(), last);
}

#[test]
fn what_gives_way_to_other_addresses_is_closed() {
    if !possible() {
        return;
    }
    let rule = format!("{{to: [{{fqdns: [{{matchPattern: \"*.example.com\"}}]{ADDRESS_ONLY}}}]}}");
    let limits = Limits { addresses_per_name: 1, ..Limits::default() };
    let mut scene = scene_within(&policy("names", "web", &rule), limits);
    let web = scene.web.clone();
    let (open, closed) = ([(443, Tcp, true), (5353, Udp, true)], [(443, Tcp, false), (5353, Udp, false)]);
    let [first, second] = [outside()[0], elsewhere()[0]];
    let tell = |scene: &mut Scene, name: &str, address: IpAddr, ttl_seconds| {
        scene.tell("10.0.1.1", name, &[&address.to_string()], ttl_seconds);
    };
    tell(&mut scene, "a.example.com", first, LONG);
    scene.expect_at(&web, &[first], &open);
    tell(&mut scene, "a.example.com", second, LONG);
    scene.expect_at(&web, &[first], &closed);
    scene.expect_at(&web, &[second], &open);
    // Another name of the rule keeps it.
    tell(&mut scene, "b.example.com", second, LONG);
    tell(&mut scene, "a.example.com", first, LONG);
    scene.expect_at(&web, &[first, second], &open);
    scene.expect_no_harm();
    // In one transaction: gone, and there again.
    let lessons = [second, first].map(|address| {
        let answer = answer("a.example.com", &[address], LONG);
        scene.names.learn(ip("10.0.1.1"), &answer, Moment::now())
    });
    assert_eq!(lessons.each_ref().map(|lesson| lesson.displaced.len()), [1; 2]);
    let kernel = &mut scene.stage.kernel;
    scene.stage.node.ns().run(|| kernel.learn(&lessons)).unwrap();
    scene.expect_at(&web, &[first, second], &open);
    scene.expect_no_harm();
    // What is gone already, as its time is over, is no reason to refuse what comes.
    let listing = scene.stage.listing();
    for set in listing.lines().filter_map(|line| line.trim().strip_prefix("set names_")?.strip_suffix(" {")) {
        scene.stage.node.ns().exec("nft", &["flush", "set", "inet", "sluice", &format!("names_{set}")]).unwrap();
    }
    scene.expect_at(&web, &[first, second], &closed);
    tell(&mut scene, "a.example.com", second, LONG);
    scene.expect_at(&web, &[second], &open);
    scene.expect_at(&web, &[first], &closed);
}

#[test]
fn names_are_checked_by_the_proxy_on_their_ports_alone() {
    if !possible() {
        return;
    }
    let mut scene = scene(&policy("names", "web", &to_name("api.example.com", "")));
    let web = scene.web.clone();
    let listeners = outside().map(|to| listen(scene.stage.node.ns(), to));
    let taken = |to: IpAddr, port| {
        let client = connect(&web, SocketAddr::new(to, port)).ok()?;
        accept(&listeners[usize::from(to.is_ipv6())], None).map(|taken| (client, taken))
    };
    for to in outside() {
        assert!(taken(to, 443).is_none() && taken(to, 80).is_none(), "nobody was told yet");
    }
    scene.tell_both("api.example.com", LONG);
    for to in outside() {
        assert!(taken(to, 443).is_some() && taken(to, 80).is_some(), "{}", scene.stage.listing());
        assert!(taken(to, 8443).is_none());
    }
    let unread = [(8443, Tcp, true), (22, Tcp, true), (5353, Udp, true)];
    scene.expect_at(&web, &outside(), &unread);
    scene.expect_at(&web, &elsewhere(), &unread.map(|(port, protocol, _)| (port, protocol, false)));
    // QUIC hides its server name. Where the name's address is, the client hears that at once; elsewhere nothing is said.
    let quic = |to: [IpAddr; 2]| {
        let to = to.map(|ip| ip.to_string());
        scene.stage.probe(&[(&web, to[0].as_str(), 443, Udp), (&web, to[1].as_str(), 443, Udp)])
    };
    let refused = quic(outside());
    assert!(refused.iter().all(|outcome| matches!(outcome, Outcome::Unreachable(_) | Outcome::Refused)), "{refused:?}");
    let silent = quic(elsewhere());
    assert!(silent.iter().all(|outcome| *outcome == Outcome::Timeout), "{silent:?}");
}

#[test]
fn a_name_that_is_denied_is_looked_for_at_every_address_where_names_are_checked() {
    if !possible() {
        return;
    }
    let denied = to_name("api.example.com", "").replacen('{', "{action: Deny, ", 1);
    let mut scene = scene(&policy("names", "web", &format!("{denied}, {{}}")));
    let web = scene.web.clone();
    let listeners = outside().map(|to| listen(scene.stage.node.ns(), to));
    scene.expect_at(&web, &outside(), &[(22, Tcp, true), (443, Udp, true)]);
    scene.tell_both("api.example.com", LONG);
    for to in outside().into_iter().chain(elsewhere()) {
        let _client = connect(&web, SocketAddr::new(to, 443)).unwrap_or_else(|e| panic!("{to} {e}\n{}", scene.stage.listing()));
        assert!(accept(&listeners[usize::from(to.is_ipv6())], None).is_some(), "{to} is read");
    }
    scene.expect_at(&web, &outside(), &[(22, Tcp, false), (443, Udp, false)]);
    scene.expect_at(&web, &elsewhere(), &[(22, Tcp, true), (443, Udp, true)]);
}

#[test]
fn an_address_of_the_inside_is_open_where_the_rule_says_so() {
    if !possible() {
        return;
    }
    let rule = |port, more: &str| {
        to_name("api.example.com", &format!("{ADDRESS_ONLY}{more}")).replacen('{', &format!("{{ports: [{{port: {port}}}], "), 1)
    };
    let mut scene = scene(&policy("names", "web", &format!("{}, {}", rule(22, ""), rule(80, ", allowPrivate: true"))));
    let web = scene.web.clone();
    scene.tell("10.0.1.1", "api.example.com", &["10.50.0.1", "203.0.113.10", "10.0.1.2"], LONG);
    scene.stage.expect(&[
        (&web, "10.50.0.1", 22, Tcp, false),
        (&web, "10.50.0.1", 80, Tcp, true),
        (&web, "10.0.1.2", 80, Tcp, true),
        (&web, "203.0.113.10", 22, Tcp, true),
        (&web, "203.0.113.10", 80, Tcp, true),
    ]);
}

/// Small changes find what pods were told before, and so does whatever replaces everything.
#[test]
fn what_pods_were_told_counts_for_the_rules_that_come() {
    if !possible() {
        return;
    }
    // Another kind of pod has such rules from the beginning, so that the base chains stay.
    let others = policy("others", "other", &to_name("b.example.com", ADDRESS_ONLY));
    let other = pod_yaml("node-1", "x", "other", "other", &["10.0.1.3"]);
    let mut scene = scene(&format!("{others}---\n{}{other}", policy("names", "web", "{ports: [{port: 1}]}")));
    let web = scene.web.clone();
    let expect = |scene: &Scene, a: bool, b: bool| {
        scene.expect_at(&web, &outside(), &[(443, Tcp, a), (5353, Udp, a)]);
        scene.expect_at(&web, &elsewhere(), &[(443, Tcp, b), (5353, Udp, b)]);
    };
    scene.tell_both("a.example.com", LONG);
    scene.tell("10.0.1.1", "b.example.com", &ELSEWHERE[..1], LONG);
    scene.tell("fd00:1::1", "b.example.com", &ELSEWHERE[1..], LONG);
    expect(&scene, false, false);
    let change = |scene: &mut Scene, manifests: &str| assert!(!scene.stage.change(manifests).whole);
    change(&mut scene, &policy("names", "web", &to_name("a.example.com", ADDRESS_ONLY)));
    expect(&scene, true, false);
    scene.expect_no_harm();
    change(&mut scene, &policy("names", "web", &to_name("b.example.com", ADDRESS_ONLY)));
    expect(&scene, false, true);
    change(&mut scene, &policy("names", "web", &to_name("a.example.com", ADDRESS_ONLY)));
    expect(&scene, true, false);
    // The pod becomes one of the other kind, and one of its own again.
    let yaml = |app| pod_yaml("node-1", "x", "web", app, &["10.0.1.1", "fd00:1::1"]);
    change(&mut scene, &yaml("other"));
    expect(&scene, false, true);
    scene.expect_at(&scene.like.clone(), &elsewhere(), &[(443, Tcp, false)]);
    change(&mut scene, &yaml("web"));
    expect(&scene, true, false);
    for _ in 0..2 {
        assert!(scene.stage.apply_whole().whole);
        expect(&scene, true, false);
        scene.expect_no_harm();
    }
    // A successor remembers what its predecessor wrote down.
    let ns = scene.stage.node.ns().clone();
    scene.stage.kernel = ns.run(|| Kernel::open(Config::default())).unwrap();
    scene.stage.kernel.remember(Arc::clone(&scene.names));
    expect(&scene, true, false);
    scene.stage.apply_whole();
    expect(&scene, true, false);
    scene.expect_at(&scene.like.clone(), &outside(), &[(443, Tcp, false)]);
    let listing = scene.stage.listing();
    assert!(listing.contains("names_a_example_com_") && !listing.contains("names_c"), "{listing}");
}

#[test]
fn who_comes_to_the_address_of_a_pod_was_told_nothing() {
    if !possible() {
        return;
    }
    let mut scene = scene(&policy("names", "web", &to_name("api.example.com", ADDRESS_ONLY)));
    let (web, like) = (scene.web.clone(), scene.like.clone());
    scene.tell_both("api.example.com", LONG);
    scene.tell("10.0.1.2", "api.example.com", &["203.0.113.10"], LONG);
    scene.expect_at(&web, &outside(), &[(443, Tcp, true)]);
    scene.forget(&["10.0.1.1", "fd00:1::1"]);
    scene.expect_no_harm();
    assert!(!scene.stage.change_by(next_instead_of_web()).whole);
    scene.expect_at(&web, &outside(), &[(443, Tcp, false), (5353, Udp, false)]);
    scene.expect_at(&like, &outside()[..1], &[(443, Tcp, true)]);
    scene.stage.apply_whole();
    scene.expect_at(&web, &outside(), &[(443, Tcp, false), (5353, Udp, false)]);
    scene.expect_at(&like, &outside()[..1], &[(443, Tcp, true)]);
}

fn next_instead_of_web() -> Vec<Edit> {
    let web = PodRef { namespace: "x".into(), name: "web".into() };
    let next = edits(&pod_yaml("node-1", "x", "next", "web", &["10.0.1.1", "fd00:1::1"]));
    std::iter::once(Edit::Remove(Key::Pod(web))).chain(next).collect()
}

/// The same by way of the proxy's thread for the kernel, which forgets by itself, in the journal too.
#[test]
fn the_enforcer_forgets_pods_that_go() {
    if !possible() {
        return;
    }
    let mut scene = scene(&policy("names", "web", &to_name("api.example.com", ADDRESS_ONLY)));
    let dir = tempfile::tempdir().unwrap();
    let open = || Journal::open(dir.path(), "node-1", BootId::read().unwrap(), NamesMetrics::default(), Moment::now());
    let running = Running::learning(&scene.stage, Learning::new(Arc::clone(&scene.names), open().0, None));
    running.hand_over(&scene.stage.engine.table, Extent::Whole);
    let (web, like) = (scene.web.clone(), scene.like.clone());
    let learn = |scene: &Scene, pod: &str, to: IpAddr| -> Lesson {
        scene.names.learn(ip(pod), &answer("api.example.com", &[to], LONG), Moment::now())
    };
    let [v4, v6] = outside();
    for (pod, to) in [("10.0.1.1", v4), ("fd00:1::1", v6), ("10.0.1.2", v4)] {
        running.learn(learn(&scene, pod, to)).unwrap();
    }
    scene.expect_at(&web, &outside(), &[(443, Tcp, true)]);
    scene.expect_at(&like, &[v4], &[(443, Tcp, true)]);
    // Learned for the pod that goes, and on its way meanwhile.
    let late = learn(&scene, "10.0.1.1", elsewhere()[0]);
    let touched = scene.stage.engine.edit(next_instead_of_web());
    running.hand_over(&scene.stage.engine.table, Extent::Touched(touched));
    assert!(running.learn(late).is_err());
    scene.expect_at(&web, &outside(), &[(443, Tcp, false), (5353, Udp, false)]);
    scene.expect_at(&web, &elsewhere(), &[(443, Tcp, false)]);
    scene.expect_at(&like, &[v4], &[(443, Tcp, true)]);
    assert_eq!(scene.names.pods(), [ip("10.0.1.2")]);
    running.learn(learn(&scene, "10.0.1.1", v4)).unwrap();
    scene.expect_at(&web, &[v4], &[(443, Tcp, true)]);
    drop(running);
    let kept: Vec<(IpAddr, IpAddr)> = open().1.iter().map(|entry| (entry.pod, entry.address)).collect();
    assert_eq!(kept, [(ip("10.0.1.1"), v4), (ip("10.0.1.2"), v4)]);
}

/// An answer that comes again when the kernel holds just what it says leaves at once, and the kernel and the journal have more before the next.
#[test]
fn the_enforcer_prolongs_what_is_asked_for_again() {
    if !possible() {
        return;
    }
    const TTL_SECONDS: u32 = 2;
    let scene = scene(&policy("names", "web", &to_name("api.example.com", ADDRESS_ONLY)));
    let dir = tempfile::tempdir().unwrap();
    let open = |now| Journal::open(dir.path(), "node-1", BootId::read().unwrap(), NamesMetrics::default(), now);
    let running = Running::learning(&scene.stage, Learning::new(Arc::clone(&scene.names), open(Moment::now()).0, None));
    running.hand_over(&scene.stage.engine.table, Extent::Whole);
    let [to, _] = outside();
    let say = |now| scene.names.learn(ip("10.0.1.1"), &answer("api.example.com", &[to], TTL_SECONDS), now);
    let expires = |lesson: &Lesson| lesson.addresses[0].names[0].expires;
    let ttl = Duration::from_secs(TTL_SECONDS.into());
    let first = say(Moment::now());
    assert!(!first.prolongs);
    let just_as_long = expires(&first).before(ttl);
    running.learn(first).unwrap();
    let again = say(just_as_long);
    assert!(again.prolongs && !again.is_empty());
    let prolonged = expires(&again);
    running.prolong(again);
    let longer = just_as_long.after(Duration::from_millis(100));
    // Otherwise this one would be news that waits.
    let is_told = || scene.names.of_pod(ip("10.0.1.1"), Moment::now()).addresses.iter().all(|it| !it.names[0].is_news);
    assert!(wait_until(Duration::from_secs(2), is_told));
    assert!(say(longer).is_empty());
    // Overtaken by one that somebody waits for, it must not take that one's time back.
    let overtaken = say(prolonged.before(ttl));
    let awaited = say(prolonged.before(ttl).after(Duration::from_secs(1)));
    assert!(overtaken.prolongs && !awaited.prolongs);
    let last = expires(&awaited);
    running.learn(awaited).unwrap();
    running.prolong(overtaken);
    scene.is_open_until(&[to], last);
    drop(running);
    let kept: Vec<Moment> = open(Moment::default()).1.iter().map(|entry| entry.expires).collect();
    assert_eq!(kept, [last]);
}
