//! Flows whose contents decide: how they reach the proxy's listener, and that nothing leads round it.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use kernel_stage::proxy::{accept, expect_taken, listen, listen_for_audits, transparent};
use kernel_stage::{Stage, edits, ip, possible};
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::conntrack::Conntrack;
use sluice_testnet::Protocol::{Icmp, Tcp, Udp};
use sluice_testnet::{Netns, Pod};
use socket2::{Domain, Socket, Type};

const WAIT: Duration = Duration::from_millis(500);

const POLICIES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: production}
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: backend, namespace: production}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{protocol: TCP, port: 8080}]
    http: [{method: GET}]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: frontend, namespace: production}
spec:
  podSelector: {matchLabels: {app: frontend}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {app: backend}}}]
  - ports: [{protocol: TCP, port: 10250}]
    http: [{method: GET}]
  - to: [{podSelector: {matchLabels: {app: deaf}}}]
    http: [{method: GET}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deaf, namespace: production}
spec:
  podSelector: {matchLabels: {app: deaf}}
";

struct Scene {
    stage: Stage,
    frontend: Pod,
    backend: Pod,
    deaf: Pod,
}

fn scene() -> Scene {
    let mut stage = Stage::new(Config::default());
    let frontend = stage.pod("production/frontend", &["10.0.1.1", "fd00:1::1"]);
    let backend = stage.pod("production/backend", &["10.0.1.2", "fd00:1::2"]);
    let deaf = stage.pod("production/deaf", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(edits(POLICIES));
    stage.apply_whole();
    Scene { stage, frontend, backend, deaf }
}

/// A connection from `source`; port 0 leaves the port to the kernel.
fn connect(ns: &Netns, source: SocketAddr, to: SocketAddr, as_proxy: bool) -> std::io::Result<TcpStream> {
    ns.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        if as_proxy {
            transparent(&socket);
        }
        socket.bind(&source.into())?;
        socket.connect_timeout(&to.into(), WAIT)?;
        let stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(WAIT))?;
        Ok(stream)
    })
}

fn labelled(ns: &Netns, client: SocketAddr) -> bool {
    let entries = ns.run(|| Conntrack::open().unwrap().dump().unwrap());
    entries.iter().any(|e| e.source() == (client.ip(), client.port()) && e.has_label(Config::default().label_bit))
}

#[test]
fn a_flow_to_inspect_reaches_the_listener_with_its_destination() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, .. } = scene();
    let ns = stage.node.ns();
    for (from, to) in [("10.0.1.1", "10.0.1.2"), ("fd00:1::1", "fd00:1::2")] {
        let (from, to) = (SocketAddr::new(ip(from), 0), SocketAddr::new(ip(to), 8080));
        // Nobody listens: closed.
        assert!(connect(frontend.ns(), from, to, false).is_err());
        let listener = listen(ns, to.ip());
        let client = connect(frontend.ns(), from, to, false).unwrap_or_else(|e| panic!("{e}\n{}", stage.listing()));
        let taken = accept(&listener, Some(WAIT)).expect("the proxy gets the connection");
        expect_taken(&client, &taken, to);
        let five_tuple = client.local_addr().unwrap();
        assert!(labelled(ns, five_tuple));
        // The proxy ends; the five-tuple stays closed, for new packets and for a new connection on it.
        drop((taken, listener));
        drop(client);
        assert!(connect(frontend.ns(), five_tuple, to, false).is_err(), "the tuple of an ended connection is open");
        assert!(labelled(ns, five_tuple) || !entry_exists(ns, five_tuple));
    }
}

/// A Deny that looks into requests needs them read, whatever a rule without contents allows, in either direction.
#[test]
fn a_deny_with_http_diverts_what_an_l4_rule_allows() {
    const DENIES: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: backend, namespace: production}
spec:
  podSelector: {matchLabels: {app: DENIED}}
  policyTypes: [TYPE]
  DIRECTION:
  - {}
  - {action: Deny, ports: [{port: 8080}], http: [{path: /admin}]}
";
    if !possible() {
        return;
    }
    for (direction, policy_type, denied) in [("ingress", "Ingress", "backend"), ("egress", "Egress", "frontend")] {
        let mut stage = Stage::new(Config::default());
        let frontend = stage.pod("production/frontend", &["10.0.1.1", "fd00:1::1"]);
        let _backend = stage.pod("production/backend", &["10.0.1.2", "fd00:1::2"]);
        let policy = DENIES.replace("DENIED", denied).replace("TYPE", policy_type).replace("DIRECTION", direction);
        stage.engine.edit(edits(&policy));
        stage.apply_whole();
        for (from, to) in [("10.0.1.1", "10.0.1.2"), ("fd00:1::1", "fd00:1::2")] {
            let source = SocketAddr::new(ip(from), 0);
            let (read, unread) = (SocketAddr::new(ip(to), 8080), SocketAddr::new(ip(to), 9090));
            assert!(connect(frontend.ns(), source, read, false).is_err(), "{direction}: open while nobody reads");
            let listener = listen(stage.node.ns(), read.ip());
            let client = connect(frontend.ns(), source, read, false).unwrap_or_else(|e| panic!("{e}\n{}", stage.listing()));
            let taken = accept(&listener, Some(WAIT)).unwrap_or_else(|| panic!("{direction}: not diverted\n{}", stage.listing()));
            assert_eq!(taken.local_addr().unwrap(), read);
            drop(client);
            let past = connect(frontend.ns(), source, unread, false);
            assert!(past.is_ok(), "{direction}: the other port needs no reading\n{}", stage.listing());
            assert!(accept(&listener, Some(WAIT)).is_none(), "{direction}: the other port was diverted");
        }
    }
}

fn entry_exists(ns: &Netns, client: SocketAddr) -> bool {
    let entries = ns.run(|| Conntrack::open().unwrap().dump().unwrap());
    entries.iter().any(|e| e.source() == (client.ip(), client.port()))
}

#[test]
fn a_denial_at_the_other_end_beats_inspection_and_other_protocols_are_not_diverted() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, deaf, .. } = scene();
    let listener = listen(stage.node.ns(), ip("10.0.1.3"));
    let to = SocketAddr::new(deaf.addresses()[0], 8080);
    assert!(connect(frontend.ns(), SocketAddr::new(ip("10.0.1.1"), 0), to, false).is_err());
    assert!(accept(&listener, Some(WAIT)).is_none(), "the proxy got a connection that the destination denies");
    stage.expect(&[
        (&frontend, "10.0.1.3", 53, Udp, false),
        (&frontend, "10.0.1.2", 53, Udp, false),
        (&frontend, "10.0.1.2", 0, Icmp, false),
        (&frontend, "10.0.1.2", 80, Tcp, false),
    ]);
}

#[test]
fn the_proxys_port_is_nobodys_door() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, .. } = scene();
    let ns = stage.node.ns();
    ns.sysctl("ipv4/conf/all/route_localnet", "1").unwrap();
    let (v4, v6) = (ip("10.0.1.1"), ip("fd00:1::1"));
    let listeners = [listen(ns, v4), listen(ns, v6), listen_for_audits(ns, v4), listen_for_audits(ns, v6)];
    frontend.ns().sysctl("ipv4/conf/all/route_localnet", "1").unwrap();
    frontend.ns().exec("ip", &["route", "flush", "table", "local", "127.0.0.0/8"]).ok();
    let mut targets: Vec<IpAddr> = stage.node.addresses().to_vec();
    targets.extend([ip("203.0.113.10"), ip("2001:db8:ffff::10"), ip("10.0.1.2"), ip("10.0.1.99")]);
    for target in targets {
        let source = if target.is_ipv4() { "10.0.1.1" } else { "fd00:1::1" };
        for port in [15001, 15002] {
            let to = SocketAddr::new(target, port);
            assert!(connect(frontend.ns(), SocketAddr::new(ip(source), 0), to, false).is_err(), "{to}");
        }
    }
    assert!(listeners.iter().all(|l| accept(l, Some(WAIT)).is_none()));
}

#[test]
fn the_upstream_leg_reaches_a_pod_and_its_tuple_is_no_way_round() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, backend, .. } = scene();
    let ns = stage.node.ns();
    for family in 0..2 {
        let to = SocketAddr::new(backend.addresses()[family], 8080);
        let from = SocketAddr::new(frontend.addresses()[family], 0);
        let mut upstream = connect(ns, from, to, true).unwrap_or_else(|e| panic!("{e}\n{}", stage.listing()));
        upstream.write_all(b"hello\n").unwrap();
        let mut answer = [0; 64];
        assert!(upstream.read(&mut answer).unwrap() > 0);
        let tuple = upstream.local_addr().unwrap();
        assert!(labelled(ns, tuple), "{}", stage.listing());
        // The client takes the port for itself: live or ended, what it sends never reaches the server.
        assert!(connect(frontend.ns(), tuple, to, false).is_err());
        drop(upstream);
        assert!(connect(frontend.ns(), tuple, to, false).is_err());
    }
}

#[test]
fn answers_of_a_server_on_the_node_come_back_to_the_proxy() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, .. } = scene();
    let ns = stage.node.ns();
    for node in stage.node.addresses() {
        let server = ns.tcp_listen(SocketAddr::new(*node, 10250)).unwrap();
        let from = SocketAddr::new(frontend.addresses()[usize::from(node.is_ipv6())], 0);
        let mut upstream =
            connect(ns, from, server.local_addr().unwrap(), true).unwrap_or_else(|e| panic!("{node}: {e}\n{}", stage.listing()));
        let (mut taken, peer) = server.accept().unwrap();
        assert_eq!(peer.ip(), from.ip());
        taken.write_all(b"hello").unwrap();
        let mut word = [0; 5];
        upstream.read_exact(&mut word).unwrap();
        // And the client leg to the same server goes to the proxy.
        let listener = listen(ns, *node);
        let client = connect(frontend.ns(), from, server.local_addr().unwrap(), false).unwrap();
        let proxied = accept(&listener, Some(WAIT)).expect("diverted");
        assert_eq!(proxied.local_addr().unwrap(), server.local_addr().unwrap());
        drop(client);
    }
}

/// `conntrack -F`, a table under pressure, or a pod that ends the tracking of a flow and not the flow.
fn forget_all(ns: &Netns) {
    ns.run(|| {
        let mut conntrack = Conntrack::open().unwrap();
        for entry in conntrack.dump().unwrap() {
            conntrack.delete(&entry).unwrap();
        }
    });
}

fn say(from: &mut TcpStream, to: &mut TcpStream, word: &[u8; 4], when: &str) {
    from.write_all(word).unwrap();
    let mut heard = [0; 4];
    to.read_exact(&mut heard).unwrap_or_else(|error| panic!("{when}: {error}"));
    assert_eq!(&heard, word, "{when}");
}

#[test]
fn a_flow_whose_tracking_begins_anew_stays_the_proxys() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, backend, .. } = scene();
    let ns = stage.node.ns();
    for family in 0..2 {
        let from = SocketAddr::new(frontend.addresses()[family], 0);
        let to = SocketAddr::new(backend.addresses()[family], 8080);
        let listener = listen(ns, to.ip());
        let mut client = connect(frontend.ns(), from, to, false).unwrap();
        let mut taken = accept(&listener, Some(WAIT)).unwrap();
        let tuple = client.local_addr().unwrap();
        // Taken up again by the client's packet, and answered by the proxy: the next one is that of an established flow.
        forget_all(ns);
        say(&mut client, &mut taken, b"one ", "behind the deletion");
        say(&mut taken, &mut client, b"two ", "the answer");
        say(&mut client, &mut taken, b"more", "once established");
        assert!(labelled(ns, tuple), "{}", stage.listing());
        drop((client, taken, listener));
        assert!(connect(frontend.ns(), tuple, to, false).is_err(), "the tuple leads to the server");
    }
}

#[test]
fn an_upstream_leg_whose_tracking_begins_anew_stays_the_proxys() {
    if !possible() {
        return;
    }
    let Scene { stage, frontend, backend, .. } = scene();
    let ns = stage.node.ns();
    for family in 0..2 {
        let from = SocketAddr::new(frontend.addresses()[family], 0);
        let to = SocketAddr::new(backend.addresses()[family], 10250);
        let server = backend.ns().tcp_listen(to).unwrap();
        // Anew by the proxy's packet, then by the server's.
        for by_server in [false, true] {
            let mut upstream = connect(ns, from, to, true).unwrap();
            let (mut served, _) = server.accept().unwrap();
            served.set_read_timeout(Some(WAIT)).unwrap();
            forget_all(ns);
            if !by_server {
                say(&mut upstream, &mut served, b"one ", "behind the deletion");
            }
            for word in [b"two ", b"more"] {
                say(&mut served, &mut upstream, word, "the answer");
                say(&mut upstream, &mut served, word, "the next request");
            }
            let mut entries = ns.run(|| Conntrack::open().unwrap().dump().unwrap());
            // A bridge reports its own multicast groups.
            entries.retain(|entry| entry.protocol == sluice_policy::Protocol::Tcp);
            let label = Config::default().label_bit;
            assert!(!entries.is_empty() && entries.iter().all(|e| e.has_label(label)), "by the server {by_server}: {entries:?}");
        }
    }
}
