//! Which way round a flow is: opened from both ends at once, and one source port for flows that are judged differently.

use std::net::{IpAddr, SocketAddr};

use sluice_testnet::{Protocol, Service};

use crate::endings::connect;
use crate::packet::{ACK, Ends, SYN, Segment, TCP};
use crate::stage::{Case, Family, Shot, Stage, everywhere};

fn segment(stage: &mut Stage, what: &str, ends: Ends, flags: u8) -> Shot {
    stage.shot(format!("{what} {} -> {}", ends.from, ends.to), |text| {
        vec![ends.packet(TCP, &Segment { acknowledged: 1001, ..Segment::of(flags, text) }.encode(ends))]
    })
}

/// The attacker's SYN never makes the server's packet an answer.
#[test]
fn a_denied_syn_is_no_half_of_a_simultaneous_open() {
    everywhere(|stage| {
        let mut cases = Vec::new();
        let mut by_victim = Vec::new();
        for family in Family::BOTH {
            let ends = stage.ends(("attacker", 5000), ("plain", 9000), family);
            let shots = vec![
                segment(stage, "SYN", ends, SYN),
                segment(stage, "SYN and ACK", ends, SYN | ACK),
                segment(stage, "ACK", ends, ACK),
            ];
            cases.push(Case { from: "attacker", victim: "plain", shots });
            // What answers a SYN that never came.
            let shots = vec![segment(stage, "SYN and ACK", ends.back(), SYN | ACK), segment(stage, "ACK", ends.back(), ACK)];
            by_victim.push(Case { from: "plain", victim: "attacker", shots });
        }
        for _ in 0..2 {
            stage.nothing_arrives(&cases);
            stage.nothing_arrives(&by_victim);
        }
        stage.closed(&cases);
    });
}

fn mixed_up(stage: &mut Stage, port: u16, family: Family) -> [Case<'static>; 2] {
    let ends = stage.ends(("attacker", port), ("backend", 8080), family);
    let answers = [("SYN and ACK", SYN | ACK), ("ACK", ACK)];
    let by_server = answers.map(|(what, flags)| segment(stage, what, ends.back(), flags)).into();
    let by_client = answers.map(|(what, flags)| segment(stage, what, ends, flags)).into();
    [
        Case { from: "backend", victim: "attacker", shots: by_server },
        Case { from: "attacker", victim: "backend", shots: by_client },
    ]
}

/// A server that may open connections to the client sends its SYN on the tuple of one that the proxy reads. The SYN is allowed;
/// nothing of the connection is, in either direction.
#[test]
fn a_server_takes_no_part_in_the_clients_connection_to_the_proxy() {
    everywhere(|stage| {
        let mut kept = Vec::new();
        let (mut cases, mut others) = (Vec::new(), Vec::new());
        for family in Family::BOTH {
            let ends = stage.ends(("attacker", 5001), ("backend", 8080), family);
            kept.push(connect(stage, ends));
            stage.send("backend", &ends.back().syn(b""));
            cases.extend(mixed_up(stage, 5001, family));
            others.extend(mixed_up(stage, 5002, family));
        }
        stage.nothing_arrives(&cases);
        stage.disarm();
        // On other ports: where a socket of the proxy still ends, the kernel forwards none of its packets.
        stage.all_arrives(&others);
    });
}

/// A Service's address and what is behind it.
fn service(name: &str, protocol: Protocol, address: &str, backend: SocketAddr, port: u16) -> Service {
    let address = SocketAddr::new(address.parse().unwrap(), port);
    Service { name: format!("shop/{name}"), protocol, address, backends: vec![backend] }
}

#[test]
fn a_port_that_was_allowed_elsewhere_opens_nothing() {
    everywhere(|stage| {
        let mut services = Vec::new();
        for (family, prefix) in [(Family::V4, "10.96.0."), (Family::V6, "fd00:96::")] {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                for (name, number) in [("open", 1), ("plain", 2)] {
                    let backend = SocketAddr::new(stage.address(name, family), 9000);
                    services.push(service(name, protocol, &format!("{prefix}{number}"), backend, 9000));
                }
            }
            let backend = SocketAddr::new(stage.address("backend", family), 8080);
            services.push(service("backend", Protocol::Tcp, &format!("{prefix}3"), backend, 9000));
        }
        stage.node().set_services(&services).unwrap();
        let (mut allowed, mut denied) = (Vec::new(), Vec::new());
        for (family, prefix) in [(Family::V4, "10.96.0."), (Family::V6, "fd00:96::")] {
            let by_name = |stage: &Stage, victim: &'static str, number: u8, port: u16| {
                let own: IpAddr = stage.address("attacker", family);
                let service: IpAddr = format!("{prefix}{number}").parse().unwrap();
                [stage.ends(("attacker", 5100), (victim, port), family), Ends::new((own, 5100), (service, 9000))]
            };
            for (victim, number, port) in [("open", 1, 9000), ("plain", 2, 9000), ("backend", 3, 8080)] {
                let mut shots = Vec::new();
                for ends in by_name(stage, victim, number, port) {
                    shots.push(stage.shot(format!("SYN to {}", ends.to), |text| vec![ends.syn(text)]));
                    // A Service of one protocol translates that one alone.
                    if victim != "backend" {
                        shots.push(stage.shot(format!("datagram to {}", ends.to), |text| vec![ends.datagram(text)]));
                    }
                }
                let case = Case { from: "attacker", victim, shots };
                if victim == "open" { allowed.push(case) } else { denied.push(case) }
            }
        }
        for _ in 0..2 {
            stage.all_arrives(&allowed);
            stage.nothing_arrives(&denied);
        }
        // The Service that led to the open pod leads to the closed one: what is tracked stays where it is, what is new is judged.
        for service in services.iter_mut().filter(|service| service.name == "shop/open") {
            let family = if service.address.is_ipv4() { Family::V4 } else { Family::V6 };
            service.backends = vec![SocketAddr::new(stage.address("plain", family), 9000)];
        }
        stage.node().set_services(&services).unwrap();
        let mut moved = Vec::new();
        for (family, service) in [(Family::V4, "10.96.0.1"), (Family::V6, "fd00:96::1")] {
            let mut shots = Vec::new();
            for port in [5100, 5101] {
                let ends = Ends::new((stage.address("attacker", family), port), (service.parse().unwrap(), 9000));
                shots.push(stage.shot(format!("SYN from {port}"), |text| vec![ends.syn(text)]));
                let datagram = stage.shot(format!("datagram from {port}"), |text| vec![ends.datagram(text)]);
                shots.push(datagram.arrives_if(port == 5101));
            }
            moved.push(Case { from: "attacker", victim: "plain", shots });
        }
        stage.nothing_arrives(&moved);
        stage.closed(&denied);
    });
}
