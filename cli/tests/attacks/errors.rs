//! ICMP errors and redirects about flows of others, and what else a router would say.

use std::net::UdpSocket;
use std::time::Duration;

use crate::client::Pair;
use crate::packet::{ACK, Ends, ICMPV6, PSH, Segment, TCP, UDP, addresses, icmp_error, udp};
use crate::scene::{LONG, SHORT};
use crate::stage::{Case, Family, Shot, Stage, everywhere, segments};
use crate::wire::{frame, link_local, packet_of};

/// What of ICMP speaks about another packet: name, type, code and the word behind.
fn kinds(family: Family) -> Vec<(&'static str, u8, u8, u32)> {
    match family {
        Family::V4 => vec![
            ("host unreachable", 3, 1, 0),
            ("port unreachable", 3, 3, 0),
            ("fragmentation needed", 3, 4, 600),
            ("prohibited", 3, 13, 0),
            ("source quench", 4, 0, 0),
            ("redirect", 5, 1, 0x0a01_0004),
            ("time exceeded", 11, 0, 0),
            ("parameter problem", 12, 0, 0),
        ],
        Family::V6 => vec![
            ("no route", 1, 0, 0),
            ("port unreachable", 1, 4, 0),
            ("packet too big", 2, 0, 1280),
            ("time exceeded", 3, 0, 0),
            ("parameter problem", 4, 1, 0),
        ],
    }
}

/// A live exchange of datagrams.
fn exchange(stage: &Stage, ends: Ends, client: &str, server: &str) -> (UdpSocket, UdpSocket) {
    let server = stage.pod(server).ns().udp_bind(ends.to).unwrap();
    let client = stage.pod(client).ns().udp_bind(ends.from).unwrap();
    server.set_read_timeout(Some(LONG)).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    client.connect(ends.to).unwrap();
    server.connect(ends.from).unwrap();
    client.send(b"ping").unwrap();
    server.recv(&mut [0; 8]).unwrap();
    server.send(b"pong").unwrap();
    client.recv(&mut [0; 8]).unwrap();
    (client, server)
}

/// Errors of `by` to the sender of `about`.
fn errors(stage: &mut Stage, by: &str, about: Ends, protocol: u8, family: Family) -> Vec<Shot> {
    let from = stage.address(by, family);
    let mut shots = Vec::new();
    for (what, kind, code, rest) in kinds(family) {
        shots.push(stage.shot(format!("{what} about protocol {protocol}"), |text| {
            let quoted = match protocol {
                UDP => udp(about, text),
                _ => Segment { acknowledged: 1, ..Segment::of(ACK | PSH, text) }.encode(about),
            };
            vec![icmp_error(from, about.from.ip(), kind, code, rest, &about.packet(protocol, &quoted))]
        }));
    }
    shots
}

/// A pod that is no end of the flow says nothing about it to a pod that it may not speak to; the ends themselves do.
#[test]
fn errors_about_flows_of_others_reach_nobody() {
    everywhere(|stage| {
        let mut kept = Vec::new();
        let (mut forged, mut genuine) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            let datagrams = stage.ends(("frontend", 9701), ("plain", 9702), family);
            kept.push(exchange(stage, datagrams, "frontend", "plain"));
            let stream = Pair::connect(
                stage.pod("frontend").ns(),
                stage.pod("plain").ns(),
                &stage.ends(("plain", 0), ("plain", 9703), family).to.to_string(),
            );
            let stream_ends = Ends { from: stream.client.local_addr().unwrap(), to: stream.client.peer_addr().unwrap() };
            // About what plain sent, to plain, which takes nothing of the attacker.
            let mut shots = errors(stage, "attacker", datagrams.back(), UDP, family);
            shots.extend(errors(stage, "attacker", stream_ends.back(), TCP, family));
            forged.push(Case { from: "attacker", victim: "plain", shots });
            // The same of the client itself, which got the packet.
            let mut shots = errors(stage, "frontend", datagrams.back(), UDP, family);
            shots.truncate(2);
            genuine.push(Case { from: "frontend", victim: "plain", shots });
        }
        stage.nothing_arrives(&forged);
        for (_, server) in &kept {
            server.set_read_timeout(Some(SHORT)).unwrap();
            assert_eq!(server.recv(&mut [0; 8]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "no error at the socket");
        }
        stage.all_arrives(&genuine);
        stage.disarm();
        stage.all_arrives(&forged);
    });
}

/// Two pods that may not speak to each other could by errors about a flow that one of them has with somebody else.
#[test]
fn errors_carry_nothing_out_of_an_isolated_pod() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        let mut kept = Vec::new();
        for family in Family::BOTH {
            let datagrams = stage.ends(("frontend", 9711), ("plain", 9712), family);
            kept.push(exchange(stage, datagrams, "frontend", "plain"));
            let shots = errors(stage, "isolated", datagrams, UDP, family);
            cases.push(Case { from: "isolated", victim: "frontend", shots });
        }
        stage.closed(&cases);
    });
}

/// The proxy's connections, as the kernel's sockets see them: an error with the right sequence number, of a neighbour and of an end.
#[test]
fn an_error_of_a_neighbour_does_not_reach_the_proxys_sockets() {
    everywhere(|stage| {
        for family in Family::BOTH {
            let backend = stage.wire("backend");
            let to = stage.ends(("backend", 0), ("backend", 8080), family).to.to_string();
            let mut talk = crate::client::Talk::open(stage.pod("frontend").ns(), &to).unwrap();
            assert_eq!(talk.get("/api/x").unwrap().status, 200);
            std::thread::sleep(Duration::from_millis(100));
            // The last that the proxy sent to the server in the client's name.
            let frontend = stage.address("frontend", family);
            let seen = backend.frames();
            let of_proxy = seen.iter().filter(|frame| {
                addresses(packet_of(frame)).is_some_and(|(from, _, protocol, _)| from == frontend && protocol == TCP)
            });
            let packet = packet_of(of_proxy.last().expect("the proxy speaks to the server")).to_vec();
            let (about, mut segment) = Segment::decode(&packet).unwrap();
            // What is unacknowledged next: an error about it is in the window.
            segment.text = b"next".to_vec();
            segment.sequence = segments(&seen)
                .iter()
                .filter(|(ends, _)| *ends == about.back())
                .map(|(_, s)| s.acknowledged)
                .next_back()
                .unwrap();
            let quoted = about.packet(TCP, &segment.encode(about));
            let (kind, code, mtu) = if family == Family::V4 { (3, 4, 600) } else { (2, 0, 1290) };
            let forged = |from: &str| icmp_error(stage.address(from, family), frontend, kind, code, mtu, &quoted);
            let exception = || {
                let to = stage.address("backend", family).to_string();
                stage.node().ns().exec("ip", &["route", "get", &to]).unwrap().contains("mtu")
            };
            let by = |pod: &str| {
                let wire = stage.wire(pod);
                wire.send(&frame(stage.gateway_mac(pod), wire.mac(), &[], &forged(pod)));
                std::thread::sleep(Duration::from_millis(200));
            };
            for pod in ["attacker", "isolated", "plain"] {
                by(pod);
                assert!(!exception(), "{family:?}: the word of {pod}");
            }
            by("backend");
            assert!(exception(), "{family:?}: the server's own word");
            assert_eq!(talk.get("/api/y").unwrap().status, 200);
        }
    });
}

/// What only a router says, to the node: its next hop and its neighbours stay what they are, even where it listens.
#[test]
fn a_pod_is_nobodys_router() {
    everywhere(|stage| {
        let node = stage.node();
        let interface = if stage.has_bridge() {
            sluice_testnet::Node::BRIDGE.to_owned()
        } else {
            stage.pod("attacker").interface().to_owned()
        };
        for setting in ["accept_ra", "accept_ra_defrtr", "accept_ra_rt_info_max_plen"] {
            let value = if setting == "accept_ra" { "2" } else { "64" };
            let _ = node.ns().sysctl(&format!("ipv6/conf/{interface}/{setting}"), value);
        }
        let wire = stage.wire("attacker");
        let own = stage.pod("attacker").ns().run(|| link_local("eth0")).into();
        // Lifetime 1800 s, with the sender's MAC, and a prefix to route.
        let mut advertisement = vec![134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        advertisement.extend(wire.mac());
        let all_nodes: std::net::IpAddr = "ff02::1".parse().unwrap();
        let packet = router_says(own, all_nodes, advertisement);
        let default_by_pod = || stage.node().ns().exec("ip", &["-6", "route", "show", "default", "proto", "ra"]).unwrap();
        wire.send(&frame([0x33, 0x33, 0, 0, 0, 1], wire.mac(), &[], &packet));
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(default_by_pod(), "", "the node takes a pod for its router");
        stage.disarm();
        wire.send(&frame([0x33, 0x33, 0, 0, 0, 1], wire.mac(), &[], &packet));
        let default_by_pod = || stage.node().ns().exec("ip", &["-6", "route", "show", "default", "proto", "ra"]).unwrap();
        assert!(sluice_testnet::wait_until(LONG, || !default_by_pod().is_empty()), "where nothing is enforced it does");
    });
}

/// A message with hop limit 255, which shows that no router passed it on.
fn router_says(from: std::net::IpAddr, to: std::net::IpAddr, message: Vec<u8>) -> Vec<u8> {
    let about = &message[8..].to_vec();
    let rest = u32::from_be_bytes(*message[4..].first_chunk().unwrap());
    let mut packet = icmp_error(from, to, message[0], message[1], rest, about);
    assert_eq!(packet[6], ICMPV6);
    packet[7] = 255;
    packet
}
