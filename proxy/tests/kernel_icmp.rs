//! Rules about messages of ICMP, on real packets: what arrives is what the engine lets through, of both families.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod kernel_stage;

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use kernel_stage::{Stage, edits, ip, possible};
use sluice_policy::{Flow, IcmpMessage, Protocol};
use sluice_proxy::kernel::Config;
use sluice_testnet::Pod;
use sluice_testnet::Protocol::{Icmp, Tcp};
use socket2::{Domain, Socket, Type};

const OBJECTS: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: production}\n---\n\
    apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {name: server, namespace: production}\n\
    spec:\n  podSelector: {matchLabels: {app: server}}\n  policyTypes: [Ingress, Egress]\n  ingress:\n  \
    - from: [ {podSelector: {matchLabels: {app: client}}} ]\n    ports: [ {port: 80} ]\n    \
      icmp: [ {family: IPv4, type: 8, code: 0}, {family: IPv4, type: 13}, {family: IPv6, type: 128} ]\n  \
    - from: [ {podSelector: {matchLabels: {app: tracer}}} ]\n    icmp: [ {family: IPv4}, {family: IPv6, type: 139} ]\n";

/// Of which conntrack follows all but the last two of each family.
const MESSAGES: [(&str, [(u8, u8); 6]); 2] = [
    ("10.0.1.2", [(8, 0), (8, 1), (13, 0), (13, 7), (40, 0), (9, 0)]),
    ("fd00:1::2", [(128, 0), (128, 5), (139, 0), (139, 1), (200, 0), (160, 0)]),
];

const ADDRESSES: [(&str, [&str; 2]); 4] = [
    ("client", ["10.0.1.1", "fd00:1::1"]),
    ("server", ["10.0.1.2", "fd00:1::2"]),
    ("tracer", ["10.0.1.3", "fd00:1::3"]),
    ("other", ["10.0.1.4", "fd00:1::4"]),
];

#[test]
fn what_arrives_is_what_the_engine_lets_through() {
    if !possible() {
        return;
    }
    let mut stage = Stage::new(Config::default());
    let pods = ADDRESSES.map(|(name, addresses)| stage.pod(&format!("production/{name}"), &addresses));
    stage.engine.edit(edits(OBJECTS));
    stage.apply_whole();
    let listing = stage.listing();
    assert!(listing.contains("icmp type echo-request") && listing.contains("icmpv6 type echo-request"), "{listing}");
    judge(&stage, &pods, 1);
    let [client, server, tracer, other] = &pods;
    stage.expect(&[
        (client, "10.0.1.2", 0, Icmp, true),
        (client, "fd00:1::2", 0, Icmp, true),
        (client, "10.0.1.2", 80, Tcp, true),
        (client, "10.0.1.2", 8080, Tcp, false),
        (tracer, "10.0.1.2", 0, Icmp, true),
        (tracer, "fd00:1::2", 0, Icmp, false),
        (tracer, "10.0.1.2", 80, Tcp, false),
        (other, "10.0.1.2", 0, Icmp, false),
        // Its egress allows none.
        (server, "10.0.1.1", 0, Icmp, false),
        (client, "10.0.1.4", 0, Icmp, true),
    ]);
    // A small change.
    stage.change(&OBJECTS.replace("type: 8, code: 0", "type: 8, code: 1").replace("type: 128", "type: 139, code: 1"));
    judge(&stage, &pods, 2);
    stage.expect(&[
        (client, "10.0.1.2", 0, Icmp, false),
        (client, "fd00:1::2", 0, Icmp, false),
        (client, "10.0.1.2", 80, Tcp, true),
    ]);
    // Many lines of one action.
    let many: String = (0..30)
        .map(|n| format!("  - icmp: [ {{family: IPv4, type: 40, code: {n}}}, {{family: IPv6, type: {}}} ]\n", 160 + n))
        .collect();
    stage.change(&format!("{OBJECTS}{many}"));
    judge(&stage, &pods, 3);
}

/// Every message from every pod to the server: delivered where the engine allows it, and nowhere else. Each `round` begins exchanges of
/// its own: to end those that go on is the enforcer's.
fn judge(stage: &Stage, pods: &[Pod; 4], round: u8) {
    let server = &pods[1];
    for (family, (to, messages)) in MESSAGES.into_iter().enumerate() {
        let to = ip(to);
        let mut listener = server.ns().run(|| raw(to));
        let mut expected = Vec::new();
        for (place, pod) in pods.iter().enumerate().filter(|(place, _)| *place != 1) {
            let from = ip(ADDRESSES[place].1[family]);
            let sender = pod.ns().run(|| raw(to));
            for (kind, code) in messages {
                let icmp = Some(IcmpMessage { kind, code });
                let flow = Flow {
                    source: from,
                    destination: to,
                    protocol: Protocol::Icmp,
                    destination_port: 0,
                    icmp,
                    names: &[],
                    request: None,
                };
                if stage.engine.table.verdict(&flow).is_allowed() {
                    expected.push((place, kind, code));
                }
                sender.send_to(&message(to, (kind, code), place, round), &SocketAddr::new(to, 0).into()).unwrap();
            }
        }
        assert!(!expected.is_empty(), "{to}: nothing is allowed");
        let mut arrived = heard(&mut listener, to, expected.len());
        arrived.sort_unstable();
        expected.sort_unstable();
        assert_eq!(arrived, expected, "{to}\n{}", stage.listing());
    }
}

fn raw(of: IpAddr) -> Socket {
    let (domain, protocol) = match of {
        IpAddr::V4(_) => (Domain::IPV4, socket2::Protocol::ICMPV4),
        IpAddr::V6(_) => (Domain::IPV6, socket2::Protocol::ICMPV6),
    };
    Socket::new(domain, Type::RAW, Some(protocol)).unwrap()
}

const MARK: &[u8; 6] = b"sluice";

/// Who sent it, and in which round, is in its identifier; who, behind its mark too.
fn message(to: IpAddr, (kind, code): (u8, u8), sender: usize, round: u8) -> Vec<u8> {
    let sender = u8::try_from(sender).unwrap();
    let mut bytes = vec![kind, code, 0, 0, round, sender, 0, 1];
    bytes.extend(MARK);
    bytes.extend([sender, 0]);
    if to.is_ipv4() {
        let sum: u32 = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        bytes[2..4].copy_from_slice(&(!u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()).to_be_bytes());
    }
    bytes
}

/// Sender, type and code of what arrives: at least `count`, and what else comes in a moment behind.
fn heard(listener: &mut Socket, at: IpAddr, count: usize) -> Vec<(usize, u8, u8)> {
    let (mut heard, began) = (Vec::new(), Instant::now());
    loop {
        let wait = if heard.len() < count { Duration::from_secs(5) } else { kernel_stage::SILENCE };
        listener.set_read_timeout(Some(wait.saturating_sub(began.elapsed().min(wait / 2)))).unwrap();
        let mut bytes = [0; 256];
        let Ok(length) = listener.read(&mut bytes) else { return heard };
        // Raw sockets of IPv4 have the header in front.
        let begin = if at.is_ipv4() { usize::from(bytes[0] & 0x0f) * 4 } else { 0 };
        let message = &bytes[begin..length];
        // Its own answers don't come back to it, and neighbours say nothing with our mark.
        if message.get(8..14) == Some(MARK) && ![0, 14, 129, 140].contains(&message[0]) {
            heard.push((usize::from(message[14]), message[0], message[1]));
        }
    }
}
