//! A pod that claims the link-layer neighbourhood: other pods' addresses and the gateway's, by ARP and neighbour discovery, and
//! their MACs.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use sluice_testnet::wait_until;

use crate::packet::{Ends, icmp_error};
use crate::scene::LONG;
use crate::stage::{Family, Stage, everywhere, holds};
use crate::wire::{BROADCAST, Mac, frame, link_local};

const REQUEST: u16 = 1;
const REPLY: u16 = 2;

/// "`address` is at `mac`", in an ARP packet to `to`.
fn arp(operation: u16, address: IpAddr, mac: Mac, to: Mac) -> Vec<u8> {
    let IpAddr::V4(address) = address else { panic!("IPv4") };
    let mut packet = [&to[..], &mac, &[8, 6, 0, 1, 8, 0, 6, 4]].concat();
    packet.extend(operation.to_be_bytes());
    packet.extend(mac);
    packet.extend(address.octets());
    packet.extend(if operation == REPLY { to } else { [0; 6] });
    packet.extend(address.octets());
    packet
}

/// The same by neighbour advertisement, solicited and to override, of the sender `from`.
fn advertisement(address: IpAddr, mac: Mac, from: IpAddr, to: IpAddr, to_mac: Mac) -> Vec<u8> {
    let IpAddr::V6(address) = address else { panic!("IPv6") };
    let target = [&address.octets()[..], &[2, 1], &mac].concat();
    let mut packet = icmp_error(from, to, 136, 0, 0x6000_0000, &target);
    packet[7] = 255;
    frame(to_mac, mac, &[], &packet)
}

/// All ways to claim these addresses.
fn claims(stage: &Stage, own: Ipv6Addr, addresses: &[IpAddr]) -> Vec<Vec<u8>> {
    let (mac, node) = (stage.mac("attacker"), stage.gateway_mac("attacker"));
    let everybody: IpAddr = "ff02::1".parse().unwrap();
    let gateway: IpAddr = "fe80::1".parse().unwrap();
    let mut frames = Vec::new();
    for address in addresses {
        match address {
            IpAddr::V4(_) => {
                for to in [node, BROADCAST] {
                    frames.extend([arp(REPLY, *address, mac, to), arp(REQUEST, *address, mac, to)]);
                }
            }
            IpAddr::V6(_) => {
                for from in [IpAddr::from(own), *address] {
                    frames.push(advertisement(*address, mac, from, everybody, [0x33, 0x33, 0, 0, 0, 1]));
                    frames.push(advertisement(*address, mac, from, gateway, node));
                }
            }
        }
    }
    frames
}

/// Whether anything that `frontend` sends to `plain`, and `plain` to `frontend` and to the outside, comes by the attacker while it
/// claims to be all of them; and whether the first does arrive at `plain` in the end.
fn overhears(stage: &mut Stage) -> (Vec<String>, bool) {
    let own = stage.pod("attacker").ns().run(|| link_local("eth0"));
    let mut addresses: Vec<IpAddr> = ["169.254.1.1", "fe80::1"].map(|text| text.parse().unwrap()).into();
    addresses.extend(["plain", "frontend"].iter().flat_map(|pod| stage.pod(pod).addresses()));
    let claims = claims(stage, own, &addresses);
    let attacker = stage.wire("attacker");
    let stolen = ["plain", "frontend"].map(|pod| stage.mac(pod));
    let mut overheard = Vec::new();
    let mut texts = Vec::new();
    let plain = stage.wire("plain");
    // A neighbour's entry is believed for a second at least (`locktime`), whatever is claimed meanwhile.
    let end = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < end {
        claims.iter().for_each(|claim| attacker.send(claim));
        for mac in stolen {
            let ends = stage.ends(("attacker", 9000), ("open", 9000), Family::V4);
            attacker.send(&frame(BROADCAST, mac, &[], &ends.datagram(b"")));
        }
        for family in Family::BOTH {
            for (from, to) in [("frontend", "plain"), ("plain", "frontend"), ("plain", "outside")] {
                let address = if to == "outside" { Stage::outside(family) } else { stage.address(to, family) };
                let ends = Ends::new((stage.address(from, family), 9001), (address, 9002));
                let text = stage.text();
                // By the pod's own stack, which has heard the claims.
                let socket = stage.pod(from).ns().udp_bind((ends.from.ip(), 0).into()).unwrap();
                socket.send_to(&text, ends.to).unwrap();
                texts.push((format!("{family:?} {from} -> {to}"), text));
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let seen = attacker.frames();
    for (what, text) in &texts {
        if seen.iter().any(|frame| holds(frame, text)) && !overheard.contains(what) {
            overheard.push(what.clone());
        }
    }
    let arrives = Family::BOTH.iter().all(|family| {
        let to = (stage.address("plain", *family), 9002);
        wait_until(LONG, || {
            let text = stage.text();
            let socket = stage.pod("frontend").ns().udp_bind((stage.address("frontend", *family), 0).into()).unwrap();
            socket.send_to(&text, to).is_ok() && Stage::arrives(&plain, &text, Duration::from_millis(200))
        })
    });
    (overheard, arrives)
}

#[test]
fn claims_to_anothers_address_or_mac_overhear_nothing() {
    everywhere(|stage| {
        let (overheard, arrives) = overhears(stage);
        assert!(overheard.is_empty() && arrives, "{:?}: {overheard:?}, arrives {arrives}", stage.layout);
        stage.disarm();
        let (overheard, _) = overhears(stage);
        // With a route to each pod nobody asks who is there.
        assert_eq!(stage.has_bridge(), !overheard.is_empty(), "where nothing is enforced: {overheard:?}");
    });
}
