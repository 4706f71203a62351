//! Pods on a bridge, with real packets: what is judged, what goes to the proxy, and what a bridge goes on to carry.

mod kernel_stage;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use kernel_stage::frame::{self, Ear, TO_ALL};
use kernel_stage::proxy::{accept, expect_taken, listen};
use kernel_stage::{SILENCE, Stage, bridges, edits, ip, possible};
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::bridge::Form;
use sluice_testnet::Protocol::{Icmp, Tcp, Udp};
use sluice_testnet::{Layout, Net, Netns, Node, Pod, Port, Probe, Protocol, Service};
use socket2::{Domain, Socket, Type};

const POLICIES: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: x}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: backend, namespace: x}
spec:
  podSelector: {matchLabels: {app: backend}}
  policyTypes: [Ingress]
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{protocol: TCP, port: 8080}, {protocol: UDP, port: 53}]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: web, namespace: x}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{protocol: TCP, port: 80}]
    http: [{method: GET}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: other, namespace: x}
spec:
  podSelector: {matchLabels: {app: other}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: frontend}}}]}]
";

struct Scene {
    stage: Stage,
    frontend: Pod,
    backend: Pod,
    other: Pod,
}

fn scene(layout: Layout, form: Form) -> Scene {
    let mut stage = Stage::laid_out(layout, form, Config::default());
    let frontend = stage.pod("x/frontend", &["10.0.1.1", "fd00:1::1"]);
    let backend = stage.pod("x/backend", &["10.0.1.2", "fd00:1::2"]);
    let other = stage.pod("x/other", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(edits(POLICIES));
    stage.apply_whole();
    Scene { stage, frontend, backend, other }
}

#[test]
fn what_a_policy_allows_passes_and_the_rest_does_not() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { stage, frontend, backend, other } = scene(layout, form);
        assert_eq!(stage.bridges.as_ref().unwrap().standing().bound, 3);
        stage.net.serve(stage.net.outside(), "outside", &[Port::tcp(80)]).unwrap();
        for (to, back, outside) in [("10.0.1.2", "10.0.1.1", Net::OUTSIDE_V4), ("fd00:1::2", "fd00:1::1", Net::OUTSIDE_V6)] {
            let outside = outside.to_string();
            stage.expect(&[
                (&frontend, to, 8080, Tcp, true),
                (&frontend, to, 9090, Tcp, false),
                (&frontend, to, 53, Udp, true),
                (&frontend, to, 5353, Udp, false),
                (&frontend, to, 0, Icmp, false),
                (&other, to, 8080, Tcp, false),
                (&other, to, 53, Udp, false),
                (&other, back, 9090, Tcp, true),
                (&other, &outside, 80, Tcp, false),
                (&backend, &outside, 80, Tcp, true),
                (&backend, back, 80, Tcp, true),
                (&backend, to, 9090, Tcp, true),
            ]);
            // The node always reaches its pods; from outside the policy holds.
            let probe = |from: &Netns| Probe { from: from.clone(), source: None, to: ip(to), port: 8080, protocol: Tcp };
            let outcomes = stage.net.probe(&[probe(stage.node.ns()), probe(stage.net.outside())], SILENCE);
            assert!(outcomes[0].is_connected() && !outcomes[1].is_connected(), "{layout:?} {form:?}: {outcomes:?}");
        }
    }
}

#[test]
fn what_has_to_be_read_reaches_the_proxy_with_both_addresses() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { stage, frontend, backend, .. } = scene(layout, form);
        let ns = stage.node.ns();
        for family in 0..2 {
            let (from, to) = (frontend.addresses()[family], SocketAddr::new(backend.addresses()[family], 80));
            assert!(frontend.ns().tcp_connect(Some(from), to, SILENCE).is_err(), "nobody listens: closed");
            let listener = listen(ns, to.ip());
            let client = frontend.ns().tcp_connect(Some(from), to, SILENCE).unwrap();
            let taken = accept(&listener, Some(SILENCE)).expect("the proxy gets the connection");
            expect_taken(&client, &taken, to);
            // And its own leg to the server comes from the pod's address.
            let mut upstream: TcpStream = ns.run(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
                socket.set_ip_transparent_v4(true).unwrap();
                socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
                socket.connect_timeout(&to.into(), SILENCE).unwrap();
                socket.into()
            });
            upstream.set_read_timeout(Some(SILENCE)).unwrap();
            upstream.write_all(b"hello\n").unwrap();
            let mut answer = [0; 128];
            let length = upstream.read(&mut answer).unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            assert!(answer.starts_with("x/backend") && answer.contains(&from.to_string()), "{answer}");
        }
    }
}

#[test]
fn services_lead_to_neighbours_and_back_to_the_pod_itself() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { stage, frontend, backend, other } = scene(layout, form);
        let service = |protocol, address: &str, backend: &str| Service {
            name: "x/backend".to_owned(),
            protocol,
            address: address.parse().unwrap(),
            backends: vec![backend.parse().unwrap()],
        };
        stage
            .node
            .set_services(&[
                service(Protocol::Tcp, "10.96.0.10:80", "10.0.1.2:8080"),
                service(Protocol::Tcp, "[fd96::10]:80", "[fd00:1::2]:8080"),
                service(Protocol::Udp, "10.96.0.10:53", "10.0.1.2:53"),
            ])
            .unwrap();
        stage.expect(&[
            (&frontend, "10.96.0.10", 80, Tcp, true),
            (&frontend, "fd96::10", 80, Tcp, true),
            (&frontend, "10.96.0.10", 53, Udp, true),
            (&other, "10.96.0.10", 80, Tcp, false),
            (&other, "fd96::10", 80, Tcp, false),
            // Itself, which no policy forbids.
            (&backend, "10.96.0.10", 80, Tcp, true),
            (&backend, "fd96::10", 80, Tcp, true),
        ]);
    }
}

#[test]
fn arp_and_neighbour_discovery_go_on() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { stage, frontend, backend, .. } = scene(layout, form);
        for pod in [&frontend, &backend] {
            pod.ns().exec("ip", &["neighbour", "flush", "all"]).unwrap();
        }
        stage.net.serve(stage.net.outside(), "outside", &[Port::tcp(80)]).unwrap();
        let outside = [Net::OUTSIDE_V4, Net::OUTSIDE_V6].map(|address| address.to_string());
        stage.expect(&[
            (&frontend, "10.0.1.2", 8080, Tcp, true),
            (&frontend, "fd00:1::2", 8080, Tcp, true),
            (&backend, &outside[0], 80, Tcp, true),
            (&backend, &outside[1], 80, Tcp, true),
        ]);
        let gateways = backend.ns().exec("ip", &["neighbour"]).unwrap();
        for gateway in ["169.254.1.1", "fe80::1"] {
            let line = gateways.lines().find(|line| line.starts_with(gateway));
            assert!(line.is_some_and(|line| line.contains("lladdr")), "{layout:?} {form:?} {gateway}: {gateways}");
        }
        let learned = frontend.ns().exec("ip", &["neighbour"]).unwrap();
        for address in ["10.0.1.2", "fd00:1::2"] {
            let line = learned.lines().find(|line| line.starts_with(address));
            assert!(line.is_some_and(|line| line.contains("lladdr")), "{layout:?} {form:?} {address}: {learned}");
        }
        // A neighbour that is asked again, by unicast, answers.
        for address in ["10.0.1.2", "fd00:1::2"] {
            frontend.ns().exec("ip", &["neighbour", "change", address, "dev", "eth0", "nud", "probe"]).unwrap();
        }
        let answered = sluice_testnet::wait_until(Duration::from_secs(3), || {
            let now = frontend.ns().exec("ip", &["neighbour", "show", "nud", "reachable"]).unwrap();
            ["10.0.1.2", "fd00:1::2"].iter().all(|address| now.lines().any(|line| line.starts_with(address)))
        });
        assert!(answered, "{layout:?} {form:?}: {}", frontend.ns().exec("ip", &["neighbour"]).unwrap());
    }
}

#[test]
fn dhcp_reaches_the_node_and_no_other_pod() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { stage, frontend, backend, .. } = scene(layout, form);
        let text = "a discovery of a server";
        let mac = frame::mac(frontend.ns(), "eth0");
        for (from, to, destination) in
            [("0.0.0.0:68", "255.255.255.255:67", TO_ALL), ("[fe80::1234]:546", "[ff02::1:2]:547", [0x33, 0x33, 0, 1, 0, 2])]
        {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let server = stage.node.ns().run(|| {
                let socket = Socket::new(Domain::for_address(to), Type::DGRAM, None).unwrap();
                if let IpAddr::V6(group) = to.ip() {
                    let bridge = nix::net::if_::if_nametoindex(Node::BRIDGE).unwrap();
                    socket.join_multicast_v6(&group, bridge).unwrap();
                }
                let any: SocketAddr = if to.is_ipv4() { "0.0.0.0:67" } else { "[::]:547" }.parse().unwrap();
                socket.bind(&any.into()).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
                std::net::UdpSocket::from(socket)
            });
            let ear = Ear::new(backend.ns());
            frame::send(frontend.ns(), &frame::ip_frame(destination, mac, &[], &frame::datagram(from, to, text)));
            assert_eq!(
                kernel_stage::packet::arrived(&server).as_deref(),
                Some(text),
                "{layout:?} {form:?} {to}: {}",
                stage.listing()
            );
            assert!(!ear.hears(text.as_bytes(), SILENCE), "{layout:?} {form:?} {to}: another pod hears it");
        }
    }
}

/// A bridge of containers that aren't pods: nothing of it is stopped, whatever the policies say.
#[test]
fn a_bridge_that_is_not_the_pods_is_left_alone() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { mut stage, frontend, .. } = scene(layout, form);
        let ns = stage.node.ns().clone();
        ns.exec("ip", &["link", "add", "docker0", "type", "bridge"]).unwrap();
        ns.exec("ip", &["address", "add", "172.17.0.1/16", "dev", "docker0"]).unwrap();
        ns.exec("ip", &["link", "set", "docker0", "up"]).unwrap();
        let containers = ["1", "2"].map(|number| {
            let container = Netns::new("container").unwrap();
            let (here, address) = (format!("docker{number}-in"), format!("172.17.0.1{number}/16"));
            let path = container.path().display().to_string();
            ns.exec("ip", &["link", "add", &here, "type", "veth", "peer", "name", "eth0", "netns", &path]).unwrap();
            ns.exec("ip", &["link", "set", &here, "master", "docker0", "up"]).unwrap();
            container.exec("ip", &["address", "add", &address, "dev", "eth0"]).unwrap();
            container.exec("ip", &["link", "set", "eth0", "up"]).unwrap();
            container.exec("ip", &["route", "add", "default", "via", "172.17.0.1"]).unwrap();
            container
        });
        stage.net.serve(&containers[1], "container", &[Port::tcp(80)]).unwrap();
        stage.net.serve(&ns, "node", &[Port::tcp(80)]).unwrap();
        let probe = |to: &str| Probe { from: containers[0].clone(), source: None, to: ip(to), port: 80, protocol: Tcp };
        let through = sluice_testnet::wait_until(Duration::from_secs(5), || {
            stage.tick();
            stage.follow_foreign();
            let outcomes = stage.net.probe(&[probe("172.17.0.12"), probe("172.17.0.1")], SILENCE);
            outcomes.iter().all(sluice_testnet::Outcome::is_connected)
        });
        assert!(through, "{layout:?} {form:?}: {}", stage.listing());
        stage.expect(&[(&frontend, "10.0.1.2", 8080, Tcp, true), (&frontend, "10.0.1.2", 9090, Tcp, false)]);
    }
}
