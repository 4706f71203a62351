//! A connection right behind the answer is never lost, and no question reaches a server unjudged.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluice_testnet::dns::{Kind, Message, Query, Question, Record, Reply, Scripted};
use socket2::SockRef;

use super::{GIT, NODE, RESOLVERS, SERVER, Stage, egress};
use crate::client::ip;
use crate::scene::LONG;

/// Each name has an address of its own in each of these, and all are the outside's.
const NETS: [&str; 2] = ["44.0.0.0/8", "2606:44::/32"];
const FIRST: (Ipv4Addr, Ipv6Addr) = (Ipv4Addr::new(44, 7, 0, 0), Ipv6Addr::new(0x2606, 0x44, 0, 0, 0, 0, 0, 0));
/// Every so often the same client asks for what it may not.
const DENIED_EVERY: usize = 10;
const REFUSED: u8 = 5;

pub(super) fn address_of(number: usize, kind: Kind) -> IpAddr {
    match kind {
        Kind::AAAA => Ipv6Addr::from(u128::from(FIRST.1) + number as u128).into(),
        _ => Ipv4Addr::from(u32::from(FIRST.0) + u32::try_from(number).unwrap()).into(),
    }
}

/// What the server did.
#[derive(Default)]
pub(super) struct Told {
    pub(super) allowed: AtomicUsize,
    pub(super) denied: AtomicUsize,
}

/// How long the server takes for `sNUMBER.race.test`.
const SLOW: Duration = Duration::from_millis(1500);

/// Knows every name `nNUMBER.race.test` and `sNUMBER.race.test`, and counts who asks.
pub(super) fn server(stage: &Stage, told: &Arc<Told>) -> Scripted {
    NETS.iter().for_each(|net| stage.lead_outside(net));
    let told = Arc::clone(told);
    let script = move |query: &Query| {
        let asked = query.message().expect("DNS");
        let Question { name, kind } = &asked.questions[0];
        let number = name.strip_prefix(['n', 's']).and_then(|rest| rest.strip_suffix(".race.test")?.parse().ok());
        let Some(number) = number else {
            told.denied.fetch_add(1, Ordering::SeqCst);
            return vec![Reply::message(&asked.reply())];
        };
        told.allowed.fetch_add(1, Ordering::SeqCst);
        let reply = Reply::message(&asked.reply().answer(Record::address(name, 300, address_of(number, *kind))));
        vec![if name.starts_with('s') { reply.after(SLOW) } else { reply }]
    };
    stage.serve_script(script)
}

/// In the pod's namespace.
pub(super) struct Client {
    socket: UdpSocket,
    kind: Kind,
    id: u16,
}

impl Client {
    /// Asks the server by its address of one family for addresses of that family.
    pub(super) fn open(kind: Kind) -> Self {
        let (any, server) = match kind {
            Kind::AAAA => ("[::]:0", ip(SERVER[1])),
            _ => ("0.0.0.0:0", ip(SERVER[0])),
        };
        let socket = UdpSocket::bind(any).unwrap();
        socket.connect((server, 53)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { socket, kind, id: 0 }
    }

    pub(super) fn ask(&mut self, name: &str) -> Message {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&Message::query(self.id, name, self.kind).bytes()).unwrap();
        let mut bytes = [0; 1500];
        let count = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let answer = Message::parse(&bytes[..count]).expect("DNS");
        assert_eq!((answer.id, answer.questions[0].name.as_str()), (self.id, name), "one answer for each question");
        answer
    }

    /// Looks up a name that has one address, and connects to it at once.
    pub(super) fn reach(&mut self, name: &str) -> IpAddr {
        let answer = self.ask(name);
        let [address] = answer.addresses()[..] else { panic!("{name}: {answer:?}") };
        let to = SocketAddr::new(address, GIT);
        let stream = TcpStream::connect_timeout(&to, LONG).unwrap_or_else(|error| panic!("{name}: {to}: {error}"));
        // Nothing is left of it: a hundred thousand of them would fill the node's table of flows.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        address
    }

    /// Reaches a name that nobody asked for before.
    pub(super) fn race(&mut self, number: usize) {
        if (number / QUARTERS.len()).is_multiple_of(DENIED_EVERY) {
            let denied = self.ask(&format!("d{number}.elsewhere.test"));
            assert_eq!((denied.rcode, denied.addresses().len()), (REFUSED, 0));
        }
        assert_eq!(self.reach(&format!("n{number}.race.test")), address_of(number, self.kind));
    }
}

/// Packets of the pod that no rule allowed: a SYN that came before its address was open is one of them, though another follows.
pub(super) fn denied_packets(stage: &Stage) -> u64 {
    let listing = stage.scene.node(NODE).ns().exec("nft", &["list", "table", "inet", "sluice"]).unwrap();
    let rules = listing.lines().filter(|line| line.contains("isolated by SluiceNetworkPolicy shop/outside"));
    let counts =
        rules.map(|line| line.split("counter packets ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok()));
    let counts: Option<Vec<u64>> = counts.collect();
    let counts = counts.filter(|counts| !counts.is_empty()).unwrap_or_else(|| panic!("no counter in\n{listing}"));
    counts.iter().sum()
}

/// A quarter of the look-ups each: of which family, and whether by one socket or by a socket each.
const QUARTERS: [(Kind, bool); 4] = [(Kind::A, true), (Kind::A, false), (Kind::AAAA, true), (Kind::AAAA, false)];

fn race(look_ups: usize) {
    let rules = "  - to: [ { fqdns: [ { matchPattern: \"*.race.test\" } ] } ]";
    let Some(stage) = Stage::start(&egress(rules), &["--set", RESOLVERS]) else { return };
    let told = Arc::<Told>::default();
    let _server = server(&stage, &told);
    let web = stage.scene.pod("shop/web");
    assert_eq!(denied_packets(&stage), 0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let quarter = |(first, (kind, by_one)): (usize, (Kind, bool))| {
            let (ns, numbers) = (web.ns(), (first..look_ups).step_by(QUARTERS.len()));
            scope.spawn(move || {
                ns.run(|| {
                    let mut one = by_one.then(|| Client::open(kind));
                    for number in numbers {
                        match &mut one {
                            Some(one) => one.race(number),
                            None => Client::open(kind).race(number),
                        }
                    }
                });
            })
        };
        let quarters: Vec<_> = QUARTERS.into_iter().enumerate().map(quarter).collect();
        quarters.into_iter().for_each(|quarter| quarter.join().unwrap());
    });
    println!("{look_ups} look-ups and connections in {:?}", began.elapsed());
    assert_eq!(denied_packets(&stage), 0, "no SYN came before its address was open");
    assert_eq!(told.allowed.load(Ordering::SeqCst), look_ups, "each question came once");
    assert_eq!(told.denied.load(Ordering::SeqCst), 0, "none that was denied");
}

#[test]
fn a_connection_behind_the_answer_is_never_lost() {
    race(10_000);
}

#[test]
#[ignore = "long: 100,000 look-ups take minutes"]
fn long_a_hundred_thousand_connections_behind_their_answers() {
    race(100_000);
}
