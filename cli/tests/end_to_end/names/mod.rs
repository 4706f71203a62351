//! Egress by name: look-ups are diverted, judged and answered, and what they said is open to the pod that asked, for as long as they said.
//!
//! `web` has the rules of each test. `other` has the same rules and asks for itself; `free` has none. The resolver is unbound in
//! `kube-system/dns`, and who knows the names is nsd outside, where the servers behind the names are too.

mod answers;
mod contents;
mod lifetimes;
mod names_alone;
mod nodes;
mod quic;
mod race;
mod rebinding;
mod restarts;
mod rotation;
mod rules;
mod rust_client;
mod slow_kernel;
mod succession;
mod upstream;

use std::net::SocketAddr;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_testnet::dns::{Authority, DigAnswer, Query, Reply, Resolver, ResolverOptions, Scripted, Zone, dig};
use sluice_testnet::{Net, Port, Probe, Protocol};

use crate::client::ip;
use crate::scene::{LONG, SHORT, Scene};

const NODE: &str = "node-1";
const PODS: [(&str, &str, &[&str]); 4] = [
    ("shop/web", NODE, &["10.1.0.1", "fd00:1::1"]),
    ("shop/other", NODE, &["10.1.0.2", "fd00:1::2"]),
    ("shop/free", NODE, &["10.1.0.3", "fd00:1::3"]),
    ("kube-system/dns", NODE, &RESOLVER),
];
const RESOLVER: [&str; 2] = ["10.1.0.53", "fd00:1::53"];

/// Where `api.github.com` is.
const API: [&str; 2] = ["140.82.112.3", "2606:50c0:8000::153"];
/// Where `www.example.org` is, which shares it with `shop.example.org`.
const WWW: [&str; 2] = ["198.51.100.9", "2001:db8:51::9"];
/// Servers that no name is given for unless a test says so: 198.51.100.101 and on.
const SPARE: [&str; 4] = ["198.51.100.101", "198.51.100.102", "198.51.100.103", "198.51.100.104"];

/// A server outside that does what a test says, and `--set` to make it the resolver.
const SERVER: [&str; 2] = ["198.51.100.53", "2001:db8:51::53"];
const RESOLVERS: &str = "dns.resolvers=[{ip: 198.51.100.53}, {ip: \"2001:db8:51::53\"}]";

/// A port where names are not checked.
const GIT: u16 = 9418;

/// `web` and `other` may reach what is listed, in the words of a rule.
fn egress(rules: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{ name: outside, namespace: shop }}\n\
         spec:\n  podSelector: {{ matchExpressions: [ {{ key: app, operator: In, values: [ web, other ] }} ] }}\n  \
         policyTypes: [ Egress ]\n  egress:\n{rules}\n"
    )
}

/// [`egress`] to these names.
fn to_names(names: &[&str]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("{{ matchName: {name} }}")).collect();
    egress(&format!("  - to: [ {{ fqdns: [ {} ] }} ]", names.join(", ")))
}

fn zones() -> [Zone; 3] {
    [
        Zone::new("github.com").ttl(300).addresses("api.github.com", &API.map(ip)).alias("alias.github.com", "www.example.org"),
        Zone::new("example.org").ttl(300).addresses("www.example.org", &WWW.map(ip)).addresses("shop.example.org", &WWW.map(ip)),
        Zone::new("example.test"),
    ]
}

/// The network of these tests.
struct Stage {
    // Ends before the network does.
    resolver: Resolver,
    authority: Authority,
    scene: Scene,
}

impl Stage {
    fn start(policies: &str, arguments: &[&str]) -> Option<Self> {
        Self::start_with(policies, arguments, |_| ())
    }

    fn start_with(policies: &str, arguments: &[&str], options: impl FnOnce(&mut ResolverOptions)) -> Option<Self> {
        let arguments = [&["--set", "records.connections=proxied"], arguments].concat();
        let scene = Scene::start(&[NODE], &PODS, policies, &arguments)?;
        for address in API.iter().chain(&WWW).chain(&SPARE) {
            scene.net.add_outside_address(ip(address)).unwrap();
        }
        let outside = scene.net.outside();
        scene.net.serve(outside, "outside", &[Port::tcp(GIT), Port::udp(GIT)]).unwrap();
        let authority = Authority::start(outside, &[Net::OUTSIDE_V4], zones()).unwrap();
        let mut resolves = ResolverOptions::at(authority.addresses(), &["github.com", "example.org", "example.test"]);
        options(&mut resolves);
        let dns = scene.pod("kube-system/dns");
        let resolver = Resolver::start(dns.ns(), &RESOLVER.map(ip), &resolves).unwrap();
        Some(Self { resolver, authority, scene })
    }

    /// A server at [`SERVER`] that does what a test says.
    fn serve_script(&self, script: impl FnMut(&Query) -> Vec<Reply> + Send + 'static) -> Scripted {
        SERVER.iter().for_each(|address| self.scene.net.add_outside_address(ip(address)).unwrap());
        Scripted::start(self.scene.net.outside(), &SERVER.map(|address| (ip(address), 53).into()), script).unwrap()
    }

    /// Gives the outside all addresses of a prefix.
    fn lead_outside(&self, net: &str) {
        let (family, via) = if net.contains(':') { ("-6", Net::OUTSIDE_V6) } else { ("-4", Net::OUTSIDE_V4) };
        let routes: [(_, &[&str]); 2] = [
            (self.scene.net.outside(), &["local", net, "dev", "lo"]),
            (self.scene.net.fabric(), &[net, "via", &via.to_string(), "dev", "outside", "onlink"]),
        ];
        for (ns, route) in routes {
            ns.exec("ip", &[&[family, "route", "add"], route].concat()).unwrap();
        }
    }

    /// What the resolver answers to a pod.
    fn dig(&self, pod: &str, server: &str, name: &str, kind: &str, options: &[&str]) -> DigAnswer {
        let options = [&["+time=9"], options].concat();
        dig(self.scene.pod(pod).ns(), (ip(server), 53).into(), name, kind, &options).unwrap().answer()
    }

    /// Looks up the A records of a name, which must be there.
    fn look_up(&self, pod: &str, name: &str) -> DigAnswer {
        let answer = self.dig(pod, RESOLVER[0], name, "A", &[]);
        assert_eq!(answer.status, "NOERROR", "{}", answer.text);
        answer
    }

    /// Whether a connection to the servers' port without checks comes about at once.
    fn connects(&self, pod: &str, address: &str) -> bool {
        self.reaches(pod, address, Protocol::Tcp, LONG)
    }

    /// Whether that fails to come about, and a datagram isn't answered either.
    fn is_closed(&self, pod: &str, address: &str) -> bool {
        let probes = [Protocol::Tcp, Protocol::Udp].map(|protocol| self.probe(pod, address, protocol));
        self.scene.net.probe(&probes, SHORT).iter().all(|outcome| !outcome.is_connected())
    }

    fn reaches(&self, pod: &str, address: &str, protocol: Protocol, wait: Duration) -> bool {
        self.scene.net.probe(&[self.probe(pod, address, protocol)], wait)[0].is_connected()
    }

    fn probe(&self, pod: &str, address: &str, protocol: Protocol) -> Probe {
        Probe { from: self.scene.pod(pod).ns().clone(), source: None, to: ip(address), port: GIT, protocol }
    }

    /// Whether a connection comes about by its first SYN: Linux sends the second one after a second.
    fn opens_now(&self, pod: &str, to: SocketAddr) -> bool {
        self.scene.pod(pod).ns().tcp_connect(None, to, Duration::from_millis(900)).is_ok()
    }

    /// Looks up a name, and returns when: no earlier and no later.
    fn look_up_at(&self, pod: &str, name: &str) -> Range<Instant> {
        let before = Instant::now();
        self.look_up(pod, name);
        before..Instant::now()
    }

    /// Waits until an address that was told then is closed, which must be when its time is over. However slow the machine is, what is
    /// asserted are moments at which it was open for certain, and closed.
    fn assert_closes(&self, pod: &str, address: &str, told: &Range<Instant>, ttl: Duration) {
        // An address is kept for at most a second longer.
        let last = told.end + ttl + Duration::from_millis(1_500);
        loop {
            let began = Instant::now();
            if !self.opens_now(pod, (ip(address), GIT).into()) {
                let after = told.start.elapsed();
                assert!(after >= ttl, "{address} closed {after:?} after it was asked for");
                return;
            }
            assert!(began <= last, "{address} is open {:?} after it was told", told.end.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The record of a look-up that `wanted` takes, once it is written.
    fn record_of(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let is_wanted = |record: &Value| record["type"] == "lookup" && record["dns"]["name"] == name && wanted(record);
        let record = self.scene.programs.wait_record(NODE, LONG, is_wanted);
        record.unwrap_or_else(|| panic!("no such record of {name}: {:#?}", self.scene.programs.records(NODE)))
    }
}
