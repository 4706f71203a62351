//! Look-ups of pods that have rules by name, with real packets: all of them come to what listens for them, and none to a server.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use kernel_stage::diverted::{Diverted, receive};
use kernel_stage::packet::{answer_by_hand, arrived, listen};
use kernel_stage::proxy::{accept, expect_taken};
use kernel_stage::{BRIDGES, SILENCE, Stage, edits, possible};
use sluice_proxy::dns::service::Sockets;
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::bridge::Form;
use sluice_testnet::{Layout, Net, Netns, Pod, bound};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: x}\n---\n";

/// Whatever the verdict about the flow: `dns` may be asked for names alone, and everything else is open.
const BY_NAME: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: names, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - to: [{fqdns: [{matchName: api.example.com}]}]
  - {}
";

/// Of a kind that no test sends as: with it in force, the base chains are those that divert.
const OF_OTHERS: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: others, namespace: x}
spec:
  podSelector: {matchLabels: {app: dns}}
  policyTypes: [Egress]
  egress:
  - dns: [{matchPattern: \"*\"}]
  - {}
";

const UNTRACKED: &str = "table inet others {
    chain prerouting { type filter hook prerouting priority raw; notrack; }
    chain output { type filter hook output priority raw; notrack; }
}";

struct Scene {
    stage: Stage,
    web: Pod,
    other: Pod,
    dns: Pod,
}

fn scene(layout: Layout, policies: &str) -> Scene {
    scene_of(layout, policies, Config::default())
}

fn scene_of(layout: Layout, policies: &str, config: Config) -> Scene {
    let mut stage = Stage::laid_out(layout, Form::Auto, config);
    let mut pods = [("x/web", 1), ("x/other", 2), ("x/dns", 3)].map(|(name, last)| {
        let (v4, v6) = (format!("10.0.1.{last}"), format!("fd00:1::{last}"));
        let pod = stage.pod(name, &[&v4, &v6]);
        // Their servers would answer; here it is seen what arrives.
        stage.net.serve_pod(&pod, &[]).unwrap();
        Some(pod)
    });
    let [web, other, dns] = [0, 1, 2].map(|place| pods[place].take().unwrap());
    stage.engine.edit(edits(&format!("{NAMESPACE}{policies}")));
    stage.apply_whole();
    Scene { stage, web, other, dns }
}

/// The node's listeners for look-ups.
struct Listeners {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl Listeners {
    fn start(stage: &Stage) -> Self {
        let bind = || Sockets::bind(Config::default().dns_port).map_err(std::io::Error::other);
        let (udp, tcp) = stage.node.ns().run(|| bound(bind)).unwrap().into_held();
        Self { udp, tcp }
    }

    /// The next datagram of the family, if one comes.
    fn datagram(&self, like: IpAddr) -> Option<Diverted> {
        let until = Instant::now() + SILENCE;
        loop {
            let found = receive(&self.udp[usize::from(like.is_ipv6())]);
            if found.is_some() || Instant::now() > until {
                return found;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn connection(&self, like: IpAddr) -> Option<TcpStream> {
        accept(&self.tcp[usize::from(like.is_ipv6())], Some(SILENCE))
    }

    /// All that waits in vain.
    fn expect_nothing(&self) {
        assert_eq!(self.udp.iter().find_map(receive), None);
        assert!(self.tcp.iter().all(|listener| listener.accept().is_err()));
    }
}

/// A server of names that says what arrives.
struct Server {
    at: SocketAddr,
    udp: UdpSocket,
    tcp: TcpListener,
}

fn serve(ns: &Netns, ip: IpAddr) -> Server {
    let at = SocketAddr::new(ip, 53);
    let tcp = ns.run(|| bound(|| TcpListener::bind(at))).unwrap();
    tcp.set_nonblocking(true).unwrap();
    Server { at, udp: listen(ns, at), tcp }
}

impl Server {
    fn expect_nothing(&self, stage: &Stage) {
        assert_eq!(arrived(&self.udp), None, "{}\n{}", self.at, stage.listing());
        assert!(self.tcp.accept().is_err(), "{}\n{}", self.at, stage.listing());
    }
}

fn own(pod: &Pod, like: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(pod.addresses()[usize::from(like.is_ipv6())], port)
}

fn client(pod: &Pod, like: IpAddr, port: u16) -> UdpSocket {
    listen(pod.ns(), own(pod, like, port))
}

fn connect(pod: &Pod, to: SocketAddr) -> std::io::Result<TcpStream> {
    pod.ns().tcp_connect(Some(own(pod, to.ip(), 0).ip()), to, SILENCE)
}

/// Two datagrams of one port and a connection, to each of `servers`: they come to the listeners, and to nobody else.
fn expect_diverted(stage: &Stage, from: &Pod, servers: &[Server], port: u16) {
    let listeners = Listeners::start(stage);
    for server in servers {
        let to = server.at;
        let asking = client(from, to.ip(), port);
        for text in ["one", "two"] {
            asking.send_to(text.as_bytes(), to).unwrap();
            let came = listeners.datagram(to.ip());
            let due = Diverted { client: asking.local_addr().unwrap(), server: to, text: text.to_owned() };
            assert_eq!(came, Some(due), "{}", stage.listing());
        }
        let stream = connect(from, to).unwrap_or_else(|e| panic!("{to} {e}\n{}", stage.listing()));
        let taken = listeners.connection(to.ip()).unwrap_or_else(|| panic!("{to}\n{}", stage.listing()));
        expect_taken(&stream, &taken, to);
        server.expect_nothing(stage);
    }
    listeners.expect_nothing();
}

/// Of a pod that has no such rules: to the server.
fn expect_past(stage: &Stage, from: &Pod, servers: &[Server], port: u16) {
    for server in servers {
        client(from, server.at.ip(), port).send_to(b"past", server.at).unwrap();
        assert_eq!(arrived(&server.udp).as_deref(), Some("past"), "{}\n{}", server.at, stage.listing());
        connect(from, server.at).unwrap_or_else(|e| panic!("{} {e}\n{}", server.at, stage.listing()));
        assert!(server.tcp.accept().is_ok());
    }
}

fn servers(scene: &Scene) -> Vec<Server> {
    let inside = scene.dns.addresses().into_iter().map(|ip| serve(scene.dns.ns(), ip));
    inside.chain([Net::OUTSIDE_V4, Net::OUTSIDE_V6].map(|ip| serve(scene.stage.net.outside(), ip))).collect()
}

#[test]
fn every_look_up_comes_to_its_listener_tracked_or_not() {
    if !possible() {
        return;
    }
    for layout in [Layout::Routed, BRIDGES[0], BRIDGES[1]] {
        let scene = scene(layout, BY_NAME);
        let servers = servers(&scene);
        let Scene { stage, web, other, .. } = &scene;
        expect_diverted(stage, web, &servers, 4000);
        expect_past(stage, other, &servers, 4000);
        stage.node.ns().exec("nft", &[UNTRACKED]).unwrap();
        expect_diverted(stage, web, &servers, 4001);
        expect_past(stage, other, &servers, 4001);
        stage.node.ns().exec("nft", &["delete", "table", "inet", "others"]).unwrap();
    }
}

/// An answer of the proxy's makes no flow of it by which the server could reach the pod, past what the pod may receive.
#[test]
fn a_server_that_was_never_asked_has_nothing_to_answer() {
    if !possible() {
        return;
    }
    for policies in ["", OF_OTHERS] {
        let mut scene = scene(kernel_stage::layout(), policies);
        let servers = servers(&scene);
        let ports = || (4000..).zip(&servers);
        let asking: Vec<_> = ports().map(|(port, server)| client(&scene.web, server.at.ip(), port)).collect();
        // In the second round the flows are older than the policy.
        let is_older = !policies.is_empty();
        if is_older {
            for (server, asking) in servers.iter().zip(&asking) {
                asking.send_to(b"before", server.at).unwrap();
                assert!(arrived(&server.udp).is_some());
            }
        }
        scene.stage.change(&BY_NAME.replace("[Egress]", "[Egress, Ingress]"));
        let listeners = Listeners::start(&scene.stage);
        for (server, asking) in servers.iter().zip(&asking) {
            asking.send_to(b"asked", server.at).unwrap();
            let Diverted { client, server: at, .. } = listeners.datagram(server.at.ip()).unwrap();
            scene.stage.node.ns().run(|| answer_by_hand(at, client, "refused")).unwrap();
            assert_eq!(arrived(asking).as_deref(), Some("refused"), "{}", scene.stage.listing());
            server.udp.send_to(b"pushed", client).unwrap();
            assert_eq!(arrived(asking), None, "{at}\n{}", scene.stage.listing());
        }
    }
}

#[test]
fn a_pod_that_asks_too_much_is_not_heard_for_a_while_and_others_are() {
    if !possible() {
        return;
    }
    // Half as many at once.
    let config = Config { look_ups_per_second: NonZeroU32::new(20), ..Config::default() };
    let scene = scene_of(kernel_stage::layout(), &format!("{BY_NAME}---{OF_OTHERS}"), config);
    let servers = servers(&scene);
    let Scene { stage, web, dns, .. } = &scene;
    let listeners = Listeners::start(stage);
    for server in servers.iter().filter(|server| server.at.ip() != own(dns, server.at.ip(), 0).ip()) {
        let to = server.at;
        let flooding = client(web, to.ip(), 4000);
        let began = Instant::now();
        for _ in 0..1000 {
            flooding.send_to(b"flood", to).unwrap();
        }
        let took = began.elapsed();
        client(dns, to.ip(), 4000).send_to(b"other", to).unwrap();
        let (mut heard, mut other) = (0, false);
        while let Some(came) = listeners.datagram(to.ip()) {
            heard += usize::from(came.text == "flood");
            other |= came.text == "other";
        }
        assert!(other, "the other pod is heard\n{}", stage.listing());
        // However long it took, which should be some milliseconds.
        let most = 11 + 20 * (took.as_millis() as usize).div_ceil(1000);
        assert!((10..=most).contains(&heard), "{heard} of 1000 in {took:?}\n{}", stage.listing());
        server.expect_nothing(stage);
        // And heard again.
        std::thread::sleep(Duration::from_millis(200));
        flooding.send_to(b"again", to).unwrap();
        assert_eq!(listeners.datagram(to.ip()).map(|came| came.text).as_deref(), Some("again"));
    }
    assert!(stage.listing().contains("more look-ups than one pod may ask"));
}

#[test]
fn where_nobody_listens_nothing_is_asked() {
    if !possible() {
        return;
    }
    let scene = scene(kernel_stage::layout(), BY_NAME);
    let servers = servers(&scene);
    let Scene { stage, web, other, .. } = &scene;
    for server in &servers {
        client(web, server.at.ip(), 4000).send_to(b"lost", server.at).unwrap();
        assert!(connect(web, server.at).is_err());
        server.expect_nothing(stage);
    }
    expect_past(stage, other, &servers, 4000);
    let listing = stage.listing();
    for words in
        ["look-ups are judged", "set lookups_v4", "10.0.1.1 . tcp . 53", "fd00:1::1 . udp . 53", "chain lookups_divert_v6"]
    {
        assert!(listing.contains(words), "{words}\n{listing}");
    }
    assert!(!listing.contains("10.0.1.2 . tcp"), "{listing}");
}

/// What conntrack takes for an answered flow is asked by the proxy from the policy on, and a connection goes no further.
#[test]
fn a_flow_from_before_the_policy_is_no_way_past() {
    if !possible() {
        return;
    }
    // The base chains change with the first such policy of a node, and stay with others.
    for policies in ["", OF_OTHERS] {
        let mut scene = scene(kernel_stage::layout(), policies);
        let servers = servers(&scene);
        let asking: Vec<_> = (4000..).zip(&servers).map(|(port, server)| client(&scene.web, server.at.ip(), port)).collect();
        let mut streams = Vec::new();
        for (server, asking) in servers.iter().zip(&asking) {
            asking.send_to(b"before", server.at).unwrap();
            assert_eq!(arrived(&server.udp).as_deref(), Some("before"));
            server.udp.send_to(b"answer", asking.local_addr().unwrap()).unwrap();
            assert_eq!(arrived(asking).as_deref(), Some("answer"));
            let stream = connect(&scene.web, server.at).unwrap();
            let (taken, _) = server.tcp.accept().unwrap();
            taken.set_read_timeout(Some(SILENCE)).unwrap();
            taken.set_nonblocking(false).unwrap();
            streams.push((stream, taken));
        }
        let applied = scene.stage.change(BY_NAME);
        assert_eq!(applied.whole, policies.is_empty());
        let listeners = Listeners::start(&scene.stage);
        for ((server, asking), (stream, taken)) in servers.iter().zip(&asking).zip(&mut streams) {
            asking.send_to(b"after", server.at).unwrap();
            let came = listeners.datagram(server.at.ip()).map(|came| (came.server, came.text));
            assert_eq!(came, Some((server.at, "after".to_owned())), "{}", scene.stage.listing());
            let _ = stream.write_all(b"unread");
            assert!(taken.read(&mut [0; 16]).is_err(), "{}", scene.stage.listing());
            server.expect_nothing(&scene.stage);
        }
        drop(listeners);
        // And back again, with the policy's end.
        if policies.is_empty() {
            scene.stage.change(&BY_NAME.replace("fqdns: [{matchName: api.example.com}]", "ipBlock: {cidr: 0.0.0.0/0}"));
            expect_past(&scene.stage, &scene.web, &servers, 4100);
        }
    }
}

/// The port that a `dns` rule names beside 53, and no other.
#[test]
fn ports_of_dns_rules_follow_small_changes() {
    const AT: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: names, namespace: x}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Egress]
  egress:
  - {ports: [{protocol: UDP, port: PORT}], dns: [{matchPattern: \"*\"}]}
  - {}
";
    if !possible() {
        return;
    }
    let mut scene = scene(kernel_stage::layout(), &AT.replace("PORT", "5353"));
    let server = own(&scene.dns, Net::OUTSIDE_V4, 0).ip();
    let ports = [53_u16, 5353, 5354, 5355].map(|port| listen(scene.dns.ns(), SocketAddr::new(server, port)));
    for (from, named, read) in
        [(4000, "5353", [true, true, false, false]), (4001, "5354, endPort: 5355", [true, false, true, true])]
    {
        if named != "5353" {
            assert!(!scene.stage.change(&AT.replace("PORT", named)).whole);
        }
        let listeners = Listeners::start(&scene.stage);
        for (socket, read) in ports.iter().zip(read) {
            let to = socket.local_addr().unwrap();
            client(&scene.web, to.ip(), from).send_to(b"asked", to).unwrap();
            if read {
                assert_eq!(listeners.datagram(to.ip()).map(|came| came.server), Some(to), "{}", scene.stage.listing());
            }
            assert_eq!(arrived(socket).is_some(), !read, "{named} {to}\n{}", scene.stage.listing());
        }
        listeners.expect_nothing();
    }
}

const SERVICE: &str = "table ip services {
    chain prerouting { type nat hook prerouting priority -100; ip daddr 10.96.0.10 dnat to 10.0.1.1; }
    chain postrouting { type nat hook postrouting priority 100; ip saddr 10.0.1.1 ip daddr 10.0.1.1 masquerade; }
}";

#[test]
fn a_pod_asks_itself_unread_and_gains_nothing_by_it() {
    if !possible() {
        return;
    }
    let scene = scene(kernel_stage::layout(), BY_NAME);
    let listeners = Listeners::start(&scene.stage);
    // Its own port 53, by a Service: the packet leaves the pod and comes back.
    let ns = scene.stage.node.ns();
    ns.exec("nft", &[SERVICE]).unwrap();
    let at = own(&scene.web, Net::OUTSIDE_V4, 53);
    let server = listen(scene.web.ns(), at);
    let virtual_ip = SocketAddr::new("10.96.0.10".parse().unwrap(), 53);
    client(&scene.web, at.ip(), 4000).send_to(b"self", virtual_ip).unwrap();
    assert_eq!(arrived(&server).as_deref(), Some("self"), "{}", scene.stage.listing());
    listeners.expect_nothing();
}
