//! A node whose pods' questions come to the DNS proxy, with servers for them, and a judge that does as names say.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use prometheus_client::registry::Registry;
use sluice_proxy::dns::service::{Asked, DnsMetrics, Fate, Judge, NotLearned, Ruling, Service, Settings, Sockets};
use sluice_proxy::dns::{Answer, DenyWith};
use sluice_testnet::dns::{Authority, DigAnswer, Message, Query, Record, Reply, Scripted, Zone, dig};
use sluice_testnet::{Net, Netns, Node, Options, Pod, ReversePath, wait_until};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// For what must happen: generous, because the machine may be busy with something else.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// For what must not happen: as long as is looked whether it does.
pub(crate) const SHORT: Duration = Duration::from_millis(300);

pub(crate) const AUTHORITY: [&str; 2] = ["10.0.0.1", "fd00::1"];
pub(crate) const LIAR: [&str; 2] = ["10.0.0.4", "fd00::4"];
pub(crate) const CLIENT: [&str; 2] = ["10.0.0.9", "fd00::9"];
pub(crate) const OTHER: [&str; 2] = ["10.0.0.8", "fd00::8"];
pub(crate) const WEB: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

const PORT: u16 = 15_053;
const WORKERS: usize = 2;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    (ip(address), port).into()
}

/// `refused.` is refused, `denied.` denied by NXDOMAIN, `search.` has a suffix, `breaks.` breaks what judges it; `unlearned.` can't be
/// learned, `slow.` is learned once the test lets it.
#[derive(Debug)]
pub(crate) struct ByName {
    seen: Mutex<Vec<(Asked, Fate)>>,
    learned: Mutex<Vec<Answer>>,
    pub(crate) gate: Semaphore,
    /// Nothing is learned for now.
    pub(crate) is_late: AtomicBool,
}

impl Judge for ByName {
    fn judge(&self, asked: &Asked) -> Ruling {
        let refuse = |with| Ruling::Refuse { with, text: "policy shop/names".to_owned() };
        match asked.query.name.split('.').next() {
            Some("refused") => refuse(DenyWith::Refused),
            Some("denied") => refuse(DenyWith::NxDomain),
            Some("search") => Ruling::NoSuchName,
            Some("breaks") => panic!("what nobody foresaw, as the test wants it"),
            _ => Ruling::Forward,
        }
    }

    async fn learn(&self, asked: &Asked, answer: &Answer) -> Result<(), NotLearned> {
        self.learned.lock().unwrap().push(answer.clone());
        match asked.query.name.split('.').next() {
            Some("unlearned") => Err(NotLearned::NoRoom),
            Some("slow") => {
                self.gate.acquire().await.unwrap().forget();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn learns_later(&self) -> bool {
        self.is_late.load(Ordering::SeqCst)
    }

    fn seen(&self, asked: &Asked, fate: &Fate) {
        self.seen.lock().unwrap().push((asked.clone(), fate.clone()));
    }
}

impl ByName {
    pub(crate) fn fates(&self) -> Vec<Fate> {
        self.seen.lock().unwrap().iter().map(|(_, fate)| fate.clone()).collect()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.seen.lock().unwrap().iter().map(|(asked, _)| asked.clone()).collect()
    }

    pub(crate) fn learned(&self) -> usize {
        self.learned.lock().unwrap().len()
    }

    /// Once so many queries have ended.
    pub(crate) fn await_fates(&self, count: usize) -> Vec<Fate> {
        let is_enough = wait_until(LONG, || self.fates().len() >= count);
        assert!(is_enough, "{} of {count}, the last {:?}", self.fates().len(), self.fates().last());
        self.fates()
    }
}

/// The node's DNS proxy, on two threads.
pub(crate) struct Proxy {
    pub(crate) service: Arc<Service<ByName>>,
    pub(crate) drain: CancellationToken,
    ns: Netns,
    workers: Vec<JoinHandle<()>>,
    /// The sockets once more. What comes while nobody reads them waits in them, but nobody is refused.
    spare: Vec<Sockets>,
}

impl Proxy {
    fn start(ns: &Netns, service: Arc<Service<ByName>>) -> Self {
        let sockets: Vec<_> = (0..WORKERS).map(|_| ns.run(|| Sockets::bind(PORT)).unwrap()).collect();
        let spare = sockets.iter().map(|sockets| sockets.try_clone().unwrap()).collect();
        Self::with(ns, service, sockets, spare)
    }

    fn with(ns: &Netns, service: Arc<Service<ByName>>, sockets: Vec<Sockets>, spare: Vec<Sockets>) -> Self {
        let drain = CancellationToken::new();
        let start = |sockets: Sockets| {
            let (ns, service, drain) = (ns.clone(), Arc::clone(&service), drain.clone());
            std::thread::spawn(move || {
                ns.run(|| {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(service.run(sockets, drain)).unwrap();
                });
            })
        };
        let workers = sockets.into_iter().map(start).collect();
        Self { ns: ns.clone(), service, drain, workers, spare }
    }

    /// Another on the sockets of this one.
    pub(crate) fn successor(&mut self) -> Self {
        let held = std::mem::take(&mut self.spare).into_iter().map(Sockets::into_held);
        let sockets = held.map(|(udp, tcp)| Sockets::adopt(PORT, udp, tcp).unwrap()).collect();
        Self::with(&self.ns, Arc::clone(&self.service), sockets, Vec::new())
    }

    /// Ends when what is in flight has ended.
    pub(crate) fn finish(&mut self) {
        self.drain.cancel();
        for worker in self.workers.drain(..) {
            let ended = worker.join();
            assert!(ended.is_ok() || std::thread::panicking(), "a worker panicked");
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.finish();
    }
}

pub(crate) struct Scene {
    pub(crate) proxy: Proxy,
    pub(crate) judge: Arc<ByName>,
    pub(crate) metrics: DnsMetrics,
    pub(crate) net: Net,
    pub(crate) node: Node,
    pub(crate) client: Pod,
    pub(crate) other: Pod,
}

impl Scene {
    /// None with the reason printed where there can be no namespaces.
    pub(crate) fn start(settings: Settings) -> Option<Self> {
        if let Err(why) = sluice_testnet::capability() {
            assert!(!nix::unistd::geteuid().is_root(), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
        // Some servers answer from where they aren't.
        let net = Net::with(Options { reverse_path: ReversePath::Off, ..Options::default() }).unwrap();
        let node = net.add_node("node-1", &[]).unwrap();
        let client = net.add_pod(&node, "shop/client", &CLIENT.map(ip)).unwrap();
        let other = net.add_pod(&node, "shop/other", &OTHER.map(ip)).unwrap();
        divert(node.ns(), &[&client, &other]);
        let judge = Arc::new(ByName {
            seen: Mutex::default(),
            learned: Mutex::default(),
            gate: Semaphore::new(0),
            is_late: AtomicBool::new(false),
        });
        let metrics = DnsMetrics::new(&mut Registry::default());
        let proxy = Proxy::start(node.ns(), Service::new(Arc::clone(&judge), settings, metrics.clone()));
        Some(Self { proxy, judge, metrics, net, node, client, other })
    }

    pub(crate) fn pod(&self, name: &str, addresses: [&str; 2]) -> Pod {
        self.net.add_pod(&self.node, name, &addresses.map(ip)).unwrap()
    }

    pub(crate) fn authority(&self) -> Authority {
        let pod = self.pod("dns/authority", AUTHORITY);
        Authority::start(pod.ns(), &pod.addresses(), [zone()]).unwrap()
    }

    pub(crate) fn liar(&self, script: impl FnMut(&Query) -> Vec<Reply> + Send + 'static) -> Scripted {
        let pod = self.pod("dns/liar", LIAR);
        Scripted::start(pod.ns(), &LIAR.map(|address| at(address, 53)), script).unwrap()
    }

    pub(crate) fn dig(&self, server: &str, name: &str, kind: &str, options: &[&str]) -> DigAnswer {
        let options = [&["+time=9"], options].concat();
        dig(self.client.ns(), at(server, 53), name, kind, &options).unwrap().answer()
    }
}

/// A name that has this address, whatever type is asked for.
pub(crate) fn right(query: &Query) -> Message {
    let asked = query.message().expect("DNS");
    let name = asked.questions[0].name.clone();
    asked.reply().answer(Record::address(&name, 60, ip(WEB[0])))
}

/// 4,000 bytes and more: 130 addresses.
pub(crate) fn large(query: &Query) -> Vec<Reply> {
    let asked = query.message().expect("DNS");
    let name = asked.questions[0].name.clone();
    let record = |i: u16| Record::address(&name, 60, ip(&format!("192.0.{}.{}", i / 256, i % 256)));
    vec![Reply::message(&(0..130).fold(asked.reply(), |message, i| message.answer(record(i))))]
}

fn zone() -> Zone {
    let many: Vec<IpAddr> = (0..120).map(|i| ip(&format!("192.0.2.{i}"))).collect();
    let zone = Zone::new("example.test").addresses("many.example.test", &many).text("text.example.test", "nothing");
    ["www", "refused", "denied", "search", "unlearned", "slow"]
        .iter()
        .fold(zone, |zone, name| zone.addresses(&format!("{name}.example.test"), &WEB.map(ip)))
}

/// What the node's own rules do: what speaks to a socket of the proxy's goes there, and queries of pods go to its door, all of them.
fn divert(ns: &Netns, pods: &[&Pod]) {
    let interfaces: Vec<String> = pods.iter().map(|pod| format!("\"{}\"", pod.interface())).collect();
    let interfaces = interfaces.join(", ");
    let mut rules = String::from("socket transparent 1 socket wildcard 0 meta mark set 0x100 accept\n");
    for protocol in ["udp", "tcp"] {
        for (family, to) in [("ipv4", "ip to 127.0.0.1"), ("ipv6", "ip6 to [::1]")] {
            rules += &format!(
                "iifname {{ {interfaces} }} meta nfproto {family} {protocol} dport 53 tproxy {to}:{PORT} meta mark set 0x100 accept\n"
            );
        }
    }
    let head = "type filter hook prerouting priority -90; policy accept;";
    let table = format!("table inet divert {{\n chain c {{\n {head}\n {rules} }}\n}}");
    ns.exec("nft", &[&table]).unwrap();
    for family in ["-4", "-6"] {
        ns.exec("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "100"]).unwrap();
        ns.exec("ip", &[family, "rule", "add", "priority", "100", "fwmark", "0x100", "lookup", "100"]).unwrap();
    }
}
