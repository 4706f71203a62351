//! A connection right behind the answer is never lost, and no question reaches a server unjudged.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluice_testnet::dns::{Kind, Message, Query, Record, Reply, Scripted};
use socket2::SockRef;

use super::{GIT, NODE, Stage, egress};
use crate::client::ip;
use crate::scene::LONG;

pub(super) const SERVER: &str = "198.51.100.53";
/// Each name has an address of its own in here; all are the outside's.
const NET: [u8; 2] = [44, 7];
/// Every so often the same client asks for what it may not.
const DENIED_EVERY: usize = 10;
const REFUSED: u8 = 5;

pub(super) fn address_of(number: usize) -> Ipv4Addr {
    let [.., c, d] = (number % 65_536).to_be_bytes();
    let second = NET[1] + u8::try_from(number / 65_536).expect("few nets of 65,536 are needed");
    Ipv4Addr::new(NET[0], second, c, d)
}

/// What the server did.
#[derive(Default)]
pub(super) struct Told {
    pub(super) allowed: AtomicUsize,
    pub(super) denied: AtomicUsize,
}

/// How long the server takes for `sNUMBER.race.test`.
pub(super) const SLOW: Duration = Duration::from_millis(1500);

/// Knows every name `nNUMBER.race.test` and `sNUMBER.race.test`, and counts who asks.
pub(super) fn server(stage: &Stage, told: &Arc<Told>) -> Scripted {
    stage.scene.net.add_outside_address(ip(SERVER)).unwrap();
    let outside = stage.scene.net.outside();
    let net = format!("{}.0.0.0/8", NET[0]);
    outside.exec("ip", &["route", "add", "local", &net, "dev", "lo"]).unwrap();
    let via = sluice_testnet::Net::OUTSIDE_V4.to_string();
    stage.scene.net.fabric().exec("ip", &["route", "add", &net, "via", &via, "dev", "outside", "onlink"]).unwrap();
    let told = Arc::clone(told);
    let script = move |query: &Query| {
        let asked = query.message().expect("DNS");
        let name = &asked.questions[0].name;
        let number = name.strip_prefix(['n', 's']).and_then(|rest| rest.strip_suffix(".race.test")?.parse().ok());
        let Some(number) = number else {
            told.denied.fetch_add(1, Ordering::SeqCst);
            return vec![Reply::message(&asked.reply())];
        };
        told.allowed.fetch_add(1, Ordering::SeqCst);
        let reply = Reply::message(&asked.reply().answer(Record::address(name, 300, address_of(number).into())));
        vec![if name.starts_with('s') { reply.after(SLOW) } else { reply }]
    };
    Scripted::start(outside, &[(ip(SERVER), 53).into()], script).unwrap()
}

/// In the pod's namespace.
pub(super) struct Client {
    socket: UdpSocket,
    id: u16,
}

impl Client {
    pub(super) fn open() -> Self {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((ip(SERVER), 53)).unwrap();
        socket.set_read_timeout(Some(LONG)).unwrap();
        Self { socket, id: 0 }
    }

    pub(super) fn ask(&mut self, name: &str) -> Message {
        self.id = self.id.wrapping_add(1);
        self.socket.send(&Message::query(self.id, name, Kind::A).bytes()).unwrap();
        let mut bytes = [0; 1500];
        let count = self.socket.recv(&mut bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let answer = Message::parse(&bytes[..count]).expect("DNS");
        assert_eq!((answer.id, answer.questions[0].name.as_str()), (self.id, name), "one answer for each question");
        answer
    }

    /// Looks up a name that nobody asked for before, and connects to what it has.
    pub(super) fn race(&mut self, number: usize) {
        if number.is_multiple_of(DENIED_EVERY) {
            let denied = self.ask(&format!("d{number}.elsewhere.test"));
            assert_eq!((denied.rcode, denied.addresses().len()), (REFUSED, 0));
        }
        let answer = self.ask(&format!("n{number}.race.test"));
        let address = IpAddr::V4(address_of(number));
        assert_eq!(answer.addresses(), [address], "{answer:?}");
        let to = SocketAddr::new(address, GIT);
        let stream = TcpStream::connect_timeout(&to, LONG).unwrap_or_else(|error| panic!("{number}: {to}: {error}"));
        // Nothing is left of it: a hundred thousand of them would fill the node's table of flows.
        SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
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

/// Half of the look-ups by one socket, the others by a socket each.
fn race(look_ups: usize) {
    let rules = "  - to: [ { fqdns: [ { matchPattern: \"*.race.test\" } ] } ]";
    let Some(stage) = Stage::start(&egress(rules), &["--set", "dns.resolvers=[{ip: 198.51.100.53}]"]) else { return };
    let told = Arc::<Told>::default();
    let _server = server(&stage, &told);
    let web = stage.scene.pod("shop/web");
    assert_eq!(denied_packets(&stage), 0);
    let began = Instant::now();
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            web.ns().run(|| {
                let mut client = Client::open();
                (0..look_ups).step_by(2).for_each(|number| client.race(number));
            });
        });
        let each = [1, 3].map(|first| {
            let ns = web.ns();
            scope.spawn(move || ns.run(|| (first..look_ups).step_by(4).for_each(|number| Client::open().race(number))))
        });
        one.join().unwrap();
        for each in each {
            each.join().unwrap();
        }
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
