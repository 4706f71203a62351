//! DNS on the network: that servers, resolvers and clients do what tests of names rely on.

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::{Duration, Instant};

use sluice_testnet::dns::*;
use sluice_testnet::{Errno, Net, Node, Options, Pod, Port, ReversePath, capability};

/// For what must happen: generous, because the machine may be busy with something else.
const LONG: Duration = Duration::from_secs(10);
/// For what must not happen: as long as is looked whether it does.
const SHORT: Duration = Duration::from_millis(300);

const AUTHORITY: [&str; 2] = ["10.0.0.1", "fd00::1"];
const RESOLVER: [&str; 2] = ["10.0.0.2", "fd00::2"];
const WEB: [&str; 2] = ["10.0.0.3", "fd00::3"];

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn at(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

/// Pods of one node, without any server; None with the reason printed where there can be none. As root there always can.
struct Pods {
    net: Net,
    node: Node,
    client: Pod,
}

impl Pods {
    fn start() -> Option<Self> {
        if let Err(why) = capability() {
            assert!(!nix::unistd::geteuid().is_root(), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
        // Nodes that don't look at where a packet comes from: some tests forge it.
        let net = Net::with(Options { reverse_path: ReversePath::Off, ..Options::default() }).expect("a network");
        let node = net.add_node("node-1", &[]).expect("a node");
        let client = net.add_pod(&node, "shop/client", &["10.0.0.9", "fd00::9"].map(ip)).expect("a pod");
        Some(Self { net, node, client })
    }

    fn pod(&self, name: &str, addresses: [&str; 2]) -> Pod {
        self.net.add_pod(&self.node, name, &addresses.map(ip)).expect("a pod")
    }

    fn dig(&self, server: &str, name: &str, kind: &str, options: &[&str]) -> DigAnswer {
        let options = [&["+time=9"], options].concat();
        dig(self.client.ns(), at(server, 53), name, kind, &options).expect("dig").answer()
    }

    fn look_up(&self, client: Client, files: &ResolvConf, lookup: &Lookup) -> Found {
        client.look_up(self.client.ns(), files, lookup).expect("a client")
    }
}

/// The same, with an authority, a resolver that asks it, and a web server.
struct Scene {
    pods: Pods,
    authority: Authority,
    resolver: Resolver,
}

fn zones() -> [Zone; 3] {
    let many: Vec<IpAddr> = (0..120).map(|i| ip(&format!("192.0.2.{i}"))).collect();
    [
        Zone::new("example.test")
            .addresses("www.example.test", &WEB.map(ip))
            .addresses("elsewhere.example.test", &["192.0.2.1", "2001:db8::1"].map(ip))
            .alias("deep.example.test", "deeper.example.test")
            .alias("deeper.example.test", "www.example.test")
            .alias("store.example.test", "bucket.s3.amazonaws.com")
            .addresses("many.example.test", &many)
            .text("text.example.test", "say \"yes\" \\ no")
            .https("www.example.test", 1, "", "alpn=\"h2,h3\" port=8443 ipv4hint=10.0.0.3 ipv6hint=fd00::3")
            .svcb("_dns.example.test", 2, "www.example.test", "alpn=dot")
            .addresses("*.wild.example.test", &[ip("192.0.2.7")])
            .ttl(30)
            .addresses("short.example.test", &[ip("192.0.2.8")]),
        Zone::new("github.com").ttl(60).addresses("api.github.com", &[ip("198.51.100.7")]),
        Zone::new("amazonaws.com").ttl(5).addresses("bucket.s3.amazonaws.com", &["198.51.100.8", "2001:db8::8"].map(ip)),
    ]
}

fn scene() -> Option<Scene> {
    scene_with(|_| ())
}

fn scene_with(options: impl FnOnce(&mut ResolverOptions)) -> Option<Scene> {
    let pods = Pods::start()?;
    let authority = pods.pod("dns/authority", AUTHORITY);
    let authority = Authority::start(authority.ns(), &authority.addresses(), zones()).expect("nsd");
    let mut asked = ResolverOptions::at(&AUTHORITY.map(ip), &["example.test", "github.com", "amazonaws.com"]);
    options(&mut asked);
    let resolver = pods.pod("dns/resolver", RESOLVER);
    let resolver = Resolver::start(resolver.ns(), &resolver.addresses(), &asked).expect("unbound");
    assert_eq!(authority.addresses(), AUTHORITY.map(ip));
    assert_eq!(resolver.addresses(), RESOLVER.map(ip));
    Some(Scene { pods, authority, resolver })
}

#[test]
fn every_client_resolves_by_both_families() {
    let Some(scene) = scene() else { return };
    let pods = &scene.pods;
    for server in RESOLVER {
        let files = ResolvConf::of(ip(server));
        for client in Client::ALL {
            for (family, expected) in [(Family::Any, &WEB[..]), (Family::V4, &WEB[..1]), (Family::V6, &WEB[1..])] {
                let found = pods.look_up(client, &files, &Lookup { family, ..Lookup::of("www.example.test") });
                assert_eq!(found.sorted(), expected, "{client:?} {family:?} at {server}: {found:?}");
            }
            let found = pods.look_up(client, &files, &Lookup::of("none.example.test"));
            assert_eq!(found.error(), Some("EAI_NONAME"), "{client:?} at {server}: {found:?}");
        }
        for (options, by_tcp) in [(&[][..], false), (&["+tcp"][..], true)] {
            for (kind, address) in ["A", "AAAA"].into_iter().zip(WEB) {
                let answer = pods.dig(server, "www.example.test", kind, options);
                assert_eq!((answer.data(), answer.by_tcp), (vec![address], by_tcp), "{}", answer.text);
                assert_eq!(answer.status, "NOERROR");
            }
        }
    }
}

#[test]
fn a_pods_program_has_its_own_files() {
    let Some(scene) = scene() else { return };
    let pods = &scene.pods;
    let cluster = ResolvConf::of_cluster(ip(RESOLVER[0]), "shop");
    let text = "nameserver 10.0.0.2\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n";
    let before = std::fs::read_to_string("/etc/resolv.conf").unwrap();
    let mut cat = cluster.around(Command::new("cat").arg("/etc/resolv.conf"));
    let seen = pods.client.ns().output(&mut cat).unwrap();
    assert_eq!(String::from_utf8_lossy(&seen.stdout), text, "{seen:?}");
    assert_eq!(std::fs::read_to_string("/etc/resolv.conf").unwrap(), before);
    let child = pods.client.ns().spawn(cluster.around(Command::new("cat").arg("/etc/nsswitch.conf"))).unwrap();
    if std::path::Path::new("/etc/nsswitch.conf").exists() {
        child.wait_for_line("hosts: files dns", LONG).unwrap();
    }
    let searched = ResolvConf { search: vec!["github.com".to_owned()], ..ResolvConf::of(ip(RESOLVER[0])) };
    for client in Client::ALL {
        let found = pods.look_up(client, &cluster, &Lookup::of("api.github.com"));
        assert_eq!(found.sorted(), ["198.51.100.7"], "{client:?} past the search list: {found:?}");
        let found = pods.look_up(client, &searched, &Lookup::of("api"));
        assert_eq!(found.sorted(), ["198.51.100.7"], "{client:?} by the search list: {found:?}");
    }
}

#[test]
fn a_client_connects_to_what_it_found() {
    let Some(scene) = scene() else { return };
    let pods = &scene.pods;
    let web = pods.pod("shop/web", WEB);
    pods.net.serve_pod(&web, &[Port::tcp(80)]).unwrap();
    let files = ResolvConf::of(ip(RESOLVER[0]));
    for client in Client::ALL {
        let found = pods.look_up(client, &files, &Lookup::and_connect("www.example.test", 80));
        assert!(found.connected().is_some_and(|address| WEB.map(ip).contains(&address)), "{client:?}: {found:?}");
        let found = pods.look_up(client, &files, &Lookup::and_connect("www.example.test", 81));
        let refused = found.connects.iter().all(|(_, outcome)| *outcome == Err(Errno::ECONNREFUSED));
        assert!(refused && found.connects.len() == 2, "{client:?}: {found:?}");
        let often = Lookup { rounds: 20, family: Family::V4, ..Lookup::and_connect("www.example.test", 80) };
        let rounds = client.look_up_all(pods.client.ns(), &files, &often).unwrap();
        assert_eq!(rounds.len(), 20);
        assert!(rounds.iter().all(|found| found.connected() == Some(ip(WEB[0]))), "{client:?}: {rounds:?}");
    }
}

#[test]
fn chains_wildcards_text_and_service_bindings() {
    let Some(scene) = scene() else { return };
    let pods = &scene.pods;
    let chain = pods.dig(RESOLVER[0], "deep.example.test", "A", &[]);
    assert_eq!(chain.data(), ["deeper.example.test.", "www.example.test.", WEB[0]], "{}", chain.text);
    let across = pods.dig(RESOLVER[1], "store.example.test", "AAAA", &["+tcp"]);
    assert_eq!(across.data(), ["bucket.s3.amazonaws.com.", "2001:db8::8"], "{}", across.text);
    for (name, kind, data) in [
        ("any.wild.example.test", "A", "192.0.2.7"),
        ("text.example.test", "TXT", r#""say \"yes\" \\ no""#),
        ("www.example.test", "HTTPS", r#"1 . alpn="h2,h3" port=8443 ipv4hint=10.0.0.3 ipv6hint=fd00::3"#),
        ("_dns.example.test", "SVCB", r#"2 www.example.test. alpn="dot""#),
    ] {
        for server in [AUTHORITY[0], RESOLVER[0]] {
            let answer = pods.dig(server, name, kind, &[]);
            assert_eq!(answer.data(), [data], "{}", answer.text);
        }
    }
    let count = "add table inet t; add chain inet t c { type filter hook forward priority 0; }; \
                 add rule inet t c oifname eth0 counter";
    pods.node.ns().exec("nft", &[count]).unwrap();
    for (name, status) in
        [("none.example.test", "NXDOMAIN"), ("elsewhere.example.org", "NXDOMAIN"), ("text.example.test", "NOERROR")]
    {
        let answer = pods.dig(RESOLVER[0], name, "A", &[]);
        assert_eq!((answer.status.as_str(), answer.answers.len()), (status, 0), "{}", answer.text);
    }
    let counted = pods.node.ns().exec("nft", &["list ruleset"]).unwrap();
    assert!(counted.contains("packets 0 "), "nobody outside was asked: {counted}");
}

#[test]
fn what_is_large_is_cut_in_datagrams_and_whole_by_tcp() {
    let Some(scene) = scene() else { return };
    let pods = &scene.pods;
    for server in [AUTHORITY[0], RESOLVER[0], RESOLVER[1]] {
        let cut = pods.dig(server, "many.example.test", "A", &["+ignore", "+bufsize=4096"]);
        assert!(cut.is_truncated() && !cut.by_tcp && cut.answers.len() < 120, "{}", cut.text);
        for options in [&["+tcp"][..], &["+noedns"][..]] {
            let whole = pods.dig(server, "many.example.test", "A", options);
            assert!(!whole.is_truncated() && whole.by_tcp, "{}", whole.text);
            assert_eq!(whole.answers.len(), 120);
        }
    }
    let files = ResolvConf::of(ip(RESOLVER[0]));
    assert_eq!(pods.look_up(Client::Glibc, &files, &Lookup::of("many.example.test")).addresses.len(), 120);
    // musl takes 48 addresses at most, and asks by TCP since 1.2.4 only.
    let by_musl = pods.look_up(Client::Musl, &files, &Lookup::of("many.example.test"));
    assert!(by_musl.addresses.len() == 48 || by_musl.error() == Some("EAI_NONAME"), "{by_musl:?}");
}

#[test]
fn the_time_to_live_counts_down_in_the_cache() {
    let Some(scene) = scene_with(|options| options.most_ttl = 100) else { return };
    let pods = &scene.pods;
    let ttl = |server, name| pods.dig(server, name, "A", &[]).answers.last().expect("a record").ttl;
    // A second may pass between an answer and its passing on.
    let fresh = |most: u32| most - 1..=most;
    assert_eq!(ttl(AUTHORITY[0], "www.example.test"), 300);
    assert!(fresh(100).contains(&ttl(RESOLVER[0], "www.example.test")));
    assert!(fresh(30).contains(&ttl(RESOLVER[0], "short.example.test")));
    std::thread::sleep(Duration::from_millis(2100));
    assert!((80..=98).contains(&ttl(RESOLVER[1], "www.example.test")));
    assert!((10..=28).contains(&ttl(RESOLVER[0], "short.example.test")));
    assert_eq!(ttl(AUTHORITY[0], "short.example.test"), 30);
    scene.resolver.forget().unwrap();
    assert!(fresh(100).contains(&ttl(RESOLVER[0], "www.example.test")));
}

#[test]
fn a_name_moves() {
    let Some(Scene { pods, mut authority, resolver }) = scene() else { return };
    let answers = |server| pods.dig(server, "www.example.test", "A", &[]).answers.into_iter().map(|r| r.data).collect::<Vec<_>>();
    assert_eq!(answers(RESOLVER[0]), [WEB[0]]);
    for address in ["192.0.2.50", "192.0.2.51", "192.0.2.52"] {
        let moved = |zone: Zone| zone.without("www.example.test").addresses("www.example.test", &[ip(address)]);
        authority.change("example.test", moved).unwrap();
        assert_eq!(answers(AUTHORITY[0]), [address]);
    }
    assert_eq!(answers(RESOLVER[0]), [WEB[0]], "cached");
    resolver.forget().unwrap();
    assert_eq!(answers(RESOLVER[0]), ["192.0.2.52"]);
    assert_eq!(pods.dig(AUTHORITY[0], "api.github.com", "A", &[]).data(), ["198.51.100.7"], "the others stay");
    assert!(authority.change("example.org", |zone| zone).is_err());
}

#[test]
fn private_addresses_are_left_out_only_if_asked_for() {
    let Some(scene) = scene_with(|options| options.hides_private = true) else { return };
    let pods = &scene.pods;
    assert_eq!(pods.dig(RESOLVER[0], "www.example.test", "A", &[]).data(), [""; 0]);
    assert_eq!(pods.dig(RESOLVER[0], "elsewhere.example.test", "A", &[]).data(), ["192.0.2.1"]);
}

#[test]
fn servers_run_on_nodes_and_outside() {
    let Some(pods) = Pods::start() else { return };
    let cache = "169.254.20.10";
    pods.node.ns().exec("ip", &["address", "add", "169.254.20.10/32", "dev", "lo"]).unwrap();
    let knows = Authority::start(pods.net.outside(), &[Net::OUTSIDE_V4], zones()).unwrap();
    let liar = Scripted::start(pods.net.outside(), &[(Net::OUTSIDE_V6, 53).into()], |query| {
        let asked = query.message().expect("DNS of a resolver");
        let name = &asked.questions[0].name;
        // Resolvers take no other answer for a zone's own.
        let answer = Message { authoritative: true, recursion_available: false, ..asked.reply() };
        vec![Reply::message(&answer.answer(Record::address(name, 60, ip("203.0.113.66"))))]
    });
    let liar = liar.unwrap();
    let mut options = ResolverOptions::at(knows.addresses(), &["example.test"]);
    options.zones.push(("lies.test".to_owned(), vec![Net::OUTSIDE_V6]));
    let _resolver = Resolver::start(pods.node.ns(), &[ip(cache)], &options).unwrap();
    let files = ResolvConf::of(ip(cache));
    let lookup = |name| Lookup { family: Family::V4, ..Lookup::of(name) };
    for client in Client::ALL {
        assert_eq!(pods.look_up(client, &files, &lookup("www.example.test")).sorted(), [WEB[0]]);
        assert_eq!(pods.look_up(client, &files, &lookup("www.lies.test")).sorted(), ["203.0.113.66"]);
    }
    let asked = liar.queries();
    assert!(asked.iter().any(|query| query.transport == Transport::Udp && query.to.ip() == Net::OUTSIDE_V6), "{asked:?}");
}

#[test]
fn one_socket_and_one_stream_ask_for_long() {
    let Some(scene) = scene() else { return };
    let pods = &scene.pods;
    for server in RESOLVER {
        let mut socket = Socket::open(pods.client.ns(), at(server, 53)).unwrap();
        let port = socket.port().unwrap();
        for _ in 0..50 {
            for (kind, address) in [Kind::A, Kind::AAAA].into_iter().zip(WEB) {
                let answer = socket.ask("www.example.test", kind, LONG).unwrap().expect("an answer");
                assert_eq!(answer.from, at(server, 53));
                assert_eq!(answer.message().expect("DNS").addresses(), [ip(address)]);
            }
        }
        assert_eq!(socket.port().unwrap(), port);
        let mut stream = Stream::open(pods.client.ns(), at(server, 53), LONG).unwrap();
        for round in 0..3 {
            let ids = [1, 2, 3].map(|id| id + 10 * round);
            stream.send(&ids.map(|id| Message::query(id, "www.example.test", Kind::A))).unwrap();
            let mut answered: Vec<_> = ids
                .iter()
                .map(|_| {
                    let message = Message::parse(&stream.receive().unwrap()).expect("DNS");
                    assert_eq!(message.addresses(), [ip(WEB[0])]);
                    message.id
                })
                .collect();
            answered.sort_unstable();
            assert_eq!(answered, ids);
        }
    }
}

/// What the scripted server does upon each name.
fn misbehave(query: &Query) -> Vec<Reply> {
    let Some(asked) = query.message() else { return vec![Reply::bytes(b"what?".to_vec())] };
    let name = asked.questions[0].name.clone();
    let right = asked.reply().answer(Record::address(&name, 60, ip("192.0.2.1")));
    let reply = Reply::message(&right);
    match name.split('.').next() {
        Some("right") => vec![reply],
        Some("twice") => vec![reply.clone(), reply.after(Duration::from_millis(20))],
        Some("late") => vec![reply.after(Duration::from_millis(400))],
        Some("id") => vec![Reply::message(&Message { id: right.id.wrapping_add(1), ..right })],
        Some("name") => {
            let mut wrong = right;
            wrong.questions[0].name = "other.test".to_owned();
            vec![Reply::message(&wrong)]
        }
        Some("port") => vec![reply.from(at(AUTHORITY[0], 54))],
        Some("address") => vec![reply.from(at("203.0.113.99", 53))],
        Some("refused") => {
            vec![Reply::message(&Message { rcode: 5, ..asked.reply() }.extended_error(18, "policy shop/names (rule 2)"))]
        }
        Some("cut") => vec![Reply::message(&Message { truncated: query.transport == Transport::Udp, ..right })],
        Some("half") => vec![Reply::raw(vec![0, 50, 1, 2, 3]), Reply::close().after(Duration::from_millis(20))],
        _ => Vec::new(),
    }
}

#[test]
fn a_scripted_server_does_as_it_is_told() {
    let Some(pods) = Pods::start() else { return };
    let server = pods.pod("dns/liar", AUTHORITY);
    let listens = AUTHORITY.map(|address| at(address, 53));
    let scripted = Scripted::start(server.ns(), &listens, misbehave).unwrap();
    let mut socket = Socket::open(pods.client.ns(), listens[0]).unwrap();

    let right = socket.ask("right.test", Kind::A, LONG).unwrap().expect("an answer");
    assert_eq!((right.from, right.message().expect("DNS").addresses()), (listens[0], vec![ip("192.0.2.1")]));
    socket.ask("twice.test", Kind::A, LONG).unwrap().expect("the first");
    assert_eq!(socket.receive(LONG).unwrap().and_then(|second| second.message()).expect("the second").id, 2);
    assert_eq!(socket.ask("mute.test", Kind::A, SHORT).unwrap(), None);
    let start = Instant::now();
    socket.ask("late.test", Kind::A, LONG).unwrap().expect("an answer, once");
    assert!(start.elapsed() >= Duration::from_millis(400));
    for (name, from) in [("port.test", at(AUTHORITY[0], 54)), ("address.test", at("203.0.113.99", 53))] {
        let answer = socket.ask(name, Kind::A, LONG).unwrap().expect("an answer");
        assert_eq!(answer.from, from);
    }
    let name = socket.ask("name.test", Kind::A, LONG).unwrap().expect("an answer");
    assert_eq!(name.message().expect("DNS").questions[0].name, "other.test");
    socket.send(b"?").unwrap();
    assert_eq!(socket.receive(LONG).unwrap().expect("bytes").bytes, b"what?");
    let asked = scripted.queries();
    assert!(asked.iter().all(|query| query.from == at("10.0.0.9", socket.port().unwrap()) && query.to == listens[0]));
    assert_eq!(asked.len(), 8, "{asked:?}");

    // dig believes none of these, and says why where it sees them: its socket takes only what comes from whom it asked.
    std::thread::scope(|scope| {
        for (name, why) in [
            ("id.test", "expected ID"),
            ("name.test", "Question section mismatch"),
            ("port.test", "timed out"),
            ("mute.test", "timed out"),
        ] {
            let (pods, listens) = (&pods, &listens);
            scope.spawn(move || match dig(pods.client.ns(), listens[0], name, "A", &["+time=1"]).unwrap() {
                Dug::Nothing(said) => assert!(said.contains(why), "{name}: {said}"),
                Dug::Answer(answer) => assert!(answer.text.contains(why), "{name}: {}", answer.text),
            });
        }
    });
    let refused = pods.dig(AUTHORITY[1], "refused.test", "A", &[]);
    assert_eq!(refused.status, "REFUSED");
    assert_eq!(refused.extended_errors, [(18, "policy shop/names (rule 2)".to_owned())], "{}", refused.text);
    let refused = socket.ask("refused.test", Kind::A, LONG).unwrap().and_then(|answer| answer.message()).expect("DNS");
    assert_eq!((refused.rcode, refused.extended_errors()), (5, vec![(18, "policy shop/names (rule 2)".to_owned())]));
    assert!(dig(pods.client.ns(), at(AUTHORITY[0], 99), "x.test", "A", &[]).is_ok_and(|dug| matches!(dug, Dug::Nothing(_))));

    let again = pods.dig(AUTHORITY[1], "cut.test", "A", &[]);
    assert_eq!((again.by_tcp, again.data()), (true, vec!["192.0.2.1"]), "{}", again.text);
    let mut stream = Stream::open(pods.client.ns(), listens[1], LONG).unwrap();
    stream.send(&[Message::query(1, "late.test", Kind::A), Message::query(2, "right.test", Kind::A)]).unwrap();
    let ids: Vec<_> = (0..2).map(|_| Message::parse(&stream.receive().unwrap()).expect("DNS").id).collect();
    assert_eq!(ids, [2, 1], "out of order");
    stream.send(&[Message::query(3, "half.test", Kind::A)]).unwrap();
    assert!(stream.receive().is_err());
    let mut stream = Stream::open(pods.client.ns(), listens[0], LONG).unwrap();
    stream.send(&[Message::query(4, "late.test", Kind::A)]).unwrap();
    stream.finish().unwrap();
    assert_eq!(Message::parse(&stream.receive().unwrap()).expect("DNS").id, 4, "to a client that says no more");
    assert!(stream.receive().is_err(), "and then it is closed");
    assert_eq!(scripted.troubles(), [""; 0]);
    drop(scripted);
    assert!(Stream::open(pods.client.ns(), listens[0], LONG).is_err());
}

#[test]
fn somebody_else_answers_in_the_servers_name() {
    let Some(pods) = Pods::start() else { return };
    let server = pods.pod("dns/mute", RESOLVER);
    let attacker = pods.pod("shop/attacker", WEB);
    let _mute = Scripted::start(server.ns(), &RESOLVER.map(|address| at(address, 53)), |_| Vec::new()).unwrap();
    for (place, address) in RESOLVER.into_iter().enumerate() {
        let server = at(address, 53);
        let socket = Socket::open(pods.client.ns(), server).unwrap();
        let to = SocketAddr::new(pods.client.addresses()[place], socket.port().unwrap());
        socket.send(&Message::query(1, "www.example.test", Kind::A).bytes()).unwrap();
        forge(attacker.ns(), server, to, b"forged").unwrap();
        let came = socket.receive(LONG).unwrap().expect("a datagram");
        assert_eq!((came.from, came.bytes.as_slice()), (server, &b"forged"[..]));
    }
}
