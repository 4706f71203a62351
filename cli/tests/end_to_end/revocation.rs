//! A policy that forbids what is live ends it: in the kernel, in the middle of HTTP, in a tunnel.

use std::net::UdpSocket;
use std::time::Duration;

use sluice_testnet::Pod;

use crate::client::{Pair, Talk};
use crate::scene::{LONG, SHORT, Scene};

const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/frontend", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/server", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/bystander", "node-1", &["10.1.0.3", "fd00:1::3"]),
];

/// `server` takes everything of `frontend` and `bystander`.
const OPEN: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: server, namespace: shop }
spec:
  podSelector: { matchLabels: { app: server } }
  ingress:
  - from: [ { podSelector: {} } ]
"#;

/// `server` takes nothing but what `bystander` sends.
const CLOSED: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: server, namespace: shop }
spec:
  podSelector: { matchLabels: { app: server } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: bystander } } } ]
"#;

/// `server` takes requests of `frontend` that `http` matches, and everything of `bystander`.
fn requests(http: &str) -> String {
    format!(
        r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: server, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: server }} }}
  ingress:
  - from: [ {{ podSelector: {{ matchLabels: {{ app: bystander }} }} }} ]
  - from: [ {{ podSelector: {{ matchLabels: {{ app: frontend }} }} }} ]
    http: [ {http} ]
"#
    )
}

/// Two datagram sockets that have exchanged a word.
struct Datagrams {
    client: UdpSocket,
    server: UdpSocket,
}

impl Datagrams {
    fn exchange(client: &Pod, server: &Pod, client_at: &str, server_at: &str) -> Self {
        let server = server.ns().udp_bind(server_at.parse().unwrap()).unwrap();
        let client = client.ns().udp_bind(client_at.parse().unwrap()).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        client.send(b"first").unwrap();
        server.set_read_timeout(Some(LONG)).unwrap();
        let (_, from) = server.recv_from(&mut [0; 16]).unwrap();
        server.connect(from).unwrap();
        let mut exchange = Self { client, server };
        assert_eq!(exchange.passes(LONG), (true, true));
        exchange
    }

    fn passes(&mut self, wait: Duration) -> (bool, bool) {
        let word = |from: &UdpSocket, to: &UdpSocket| {
            to.set_read_timeout(Some(wait)).unwrap();
            from.send(b"word").is_ok() && to.recv(&mut [0; 16]).is_ok()
        };
        (word(&self.client, &self.server), word(&self.server, &self.client))
    }
}

#[test]
fn live_tcp_and_udp_flows_stop_in_both_directions() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, OPEN, &[]) else { return };
    let (frontend, server) = (scene.pod("shop/frontend"), scene.pod("shop/server"));
    let bystander = scene.pod("shop/bystander");
    let mut streams = [
        Pair::connect(frontend.ns(), server.ns(), "10.1.0.2:9000"),
        Pair::connect(frontend.ns(), server.ns(), "[fd00:1::2]:9000"),
    ];
    let mut datagrams = [
        Datagrams::exchange(&frontend, &server, "10.1.0.1:0", "10.1.0.2:9001"),
        Datagrams::exchange(&frontend, &server, "[fd00:1::1]:0", "[fd00:1::2]:9001"),
    ];
    let mut others = Pair::connect(bystander.ns(), server.ns(), "10.1.0.2:9002");
    for stream in &mut streams {
        assert_eq!(stream.passes(LONG), (true, true));
    }

    scene.policies(CLOSED);
    for (family, (stream, datagram)) in ["IPv4", "IPv6"].iter().zip(streams.iter_mut().zip(&mut datagrams)) {
        // The server's side first: its packet must not open a reversed flow.
        let (back, forth) =
            (Pair { client: stream.server.try_clone().unwrap(), server: stream.client.try_clone().unwrap() }, stream);
        let mut back = back;
        assert_eq!(back.passes(SHORT), (false, false), "{family} TCP, the server's word first");
        assert_eq!(forth.passes(SHORT), (false, false), "{family} TCP");
        let mut back = Datagrams { client: datagram.server.try_clone().unwrap(), server: datagram.client.try_clone().unwrap() };
        assert_eq!(back.passes(SHORT), (false, false), "{family} UDP, the server's word first");
        assert_eq!(datagram.passes(SHORT), (false, false), "{family} UDP");
    }
    assert_eq!(others.passes(LONG), (true, true), "the bystander's flow goes on");
}

#[test]
fn a_kept_alive_connection_obeys_at_its_next_request_and_ends_when_nothing_is_left() {
    let any = requests(r#"{ path: "/a" }, { path: "/b" }"#);
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, &any, &[]) else { return };
    let frontend = scene.pod("shop/frontend");
    let mut kept = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    let mut held = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    assert_eq!(kept.get("/a").unwrap().status, 200);
    assert_eq!(held.get("/a").unwrap().status, 200);

    scene.policies(&requests(r#"{ path: "/b" }"#));
    let denied = kept.get("/a").unwrap();
    assert_eq!(denied.status, 403, "{denied:?}");
    assert_eq!(kept.get("/b").unwrap().status, 200, "the connection goes on with what is allowed");

    scene.policies(CLOSED);
    assert!(held.ends_within(LONG), "no request could be allowed any more");
    assert!(kept.ends_within(LONG));
    let record = scene.connection_record("node-1", "PolicyChanged");
    assert_eq!((record["verdict"].as_str(), record["source"]["pod"].as_str()), (Some("deny"), Some("frontend")), "{record:#}");
}

#[test]
fn a_tunnel_ends_with_the_request_that_opened_it() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, &requests(r#"{ path: "/socket" }, { path: "/b" }"#), &[]) else {
        return;
    };
    let frontend = scene.pod("shop/frontend");
    let mut tunnel = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    tunnel.send("GET /socket HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
    assert_eq!(tunnel.answer().unwrap().status, 101);
    tunnel.send("through").unwrap();
    assert_eq!(tunnel.exactly(7).unwrap(), b"through");

    // Something else changes: the tunnel stays.
    scene.policies(&requests(r#"{ path: "/socket" }, { path: "/c" }"#));
    tunnel.send("still").unwrap();
    assert_eq!(tunnel.exactly(5).unwrap(), b"still");

    scene.policies(&requests(r#"{ path: "/c" }"#));
    assert!(tunnel.ends_within(LONG), "the request would not be allowed any more");
    let record = scene.connection_record("node-1", "PolicyChanged");
    assert_eq!(record["verdict"], "deny", "{record:#}");
}

#[test]
fn a_flow_that_must_be_read_from_now_on_ends() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, OPEN, &[]) else { return };
    let (frontend, server) = (scene.pod("shop/frontend"), scene.pod("shop/server"));
    let mut stream = Pair::connect(frontend.ns(), server.ns(), "10.1.0.2:9000");
    let mut others = Pair::connect(scene.pod("shop/bystander").ns(), server.ns(), "10.1.0.2:9002");
    let mut unread = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    assert_eq!(unread.get("/anything").unwrap().status, 200);

    scene.policies(&requests(r#"{ path: "/a" }"#));
    assert_eq!(stream.passes(SHORT), (false, false), "it was never read");
    unread.stream.set_read_timeout(Some(SHORT)).unwrap();
    let smuggled = unread.get("/smuggled");
    assert!(smuggled.is_err(), "{smuggled:?}");
    assert!(scene.seen("/smuggled").is_empty());
    assert_eq!(others.passes(LONG), (true, true), "the bystander's flow goes on");

    let mut anew = Talk::open(frontend.ns(), "10.1.0.2:8080").unwrap();
    assert_eq!(anew.get("/a").unwrap().status, 200);
    assert_eq!(anew.get("/smuggled").unwrap().status, 403);
}

#[test]
fn a_flow_that_was_read_goes_on_when_it_need_not_be_any_more() {
    let Some(mut scene) = Scene::start(&["node-1"], &PODS, &requests(r#"{ path: "/a" }"#), &[]) else { return };
    let mut kept = Talk::open(scene.pod("shop/frontend").ns(), "10.1.0.2:8080").unwrap();
    assert_eq!(kept.get("/a").unwrap().status, 200);
    assert_eq!(kept.get("/other").unwrap().status, 403);
    scene.policies(OPEN);
    assert_eq!(kept.get("/other").unwrap().status, 200);
}
