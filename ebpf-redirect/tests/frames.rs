//! Every kind of frame that a pod can send, by hand: what becomes of it, and which counter says so.

mod stage;

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use sluice_ebpf_redirect::Dropped::{self, *};
use sluice_ebpf_redirect::Redirect;
use stage::frame::*;
use stage::{BRIDGE_MAC, Pod, Stage, Wire, ip, possible};

/// So many of each, so that a stray packet isn't taken for one.
const COPIES: u64 = 3;

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Received by the bridge: the inet hook sees it.
    Taken,
    /// On the bridge, for its own rules.
    Bridged,
    Gone(Dropped),
}
use Fate::{Bridged, Gone, Taken};

impl fmt::Debug for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Taken => f.write_str("taken"),
            Bridged => f.write_str("bridged"),
            Gone(reason) => write!(f, "dropped: {reason}"),
        }
    }
}

type Row = (&'static str, Vec<u8>, Fate);

/// A node, a pod to attack, a pod that attacks and whose own stack is silent.
struct Scene {
    stage: Stage,
    redirect: Redirect,
    victim: Pod,
    mallory: Pod,
    wire: Wire,
}

/// The attacker is 10.0.1.4 and fd00:1::4, its victim 3 in place of 4, the node 1.
const OWN: Mac = [2, 0, 0, 0, 2, 4];
const VICTIM: Mac = [2, 0, 0, 0, 2, 3];
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const ARP: u16 = 0x0806;

impl Scene {
    fn new() -> Self {
        let stage = Stage::new("ether saddr 02:00:00:00:02:04");
        let (victim, mallory) = (stage.pod(3), stage.mute(4));
        let mut redirect = stage.node.run(Redirect::open).expect("a redirection");
        stage.node.run(|| [&victim, &mallory].map(|pod| redirect.set(&stage.port(pod)).expect("a port")));
        let wire = mallory.wire();
        let scene = Self { stage, redirect, victim, mallory, wire };
        // The victim's own stack finishes what it sends when it starts.
        scene.settled();
        scene
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        let mut counts = self.stage.counters();
        let drops = self.stage.node.run(|| self.redirect.drops()).expect("counters");
        counts.extend(drops.into_iter().map(|(reason, count)| (format!("dropped: {reason}"), count)));
        counts
    }

    fn settled(&self) -> BTreeMap<String, u64> {
        let mut before = self.counts();
        for _ in 0..50 {
            std::thread::sleep(Duration::from_millis(20));
            let now = self.counts();
            if now == before {
                break;
            }
            before = now;
        }
        before
    }

    /// Sends each row and compares what became of it with what shall.
    fn judge(&self, rows: &[Row]) {
        let mut wrong = Vec::new();
        for (name, frame, fate) in rows {
            let before = self.counts();
            for _ in 0..COPIES {
                self.wire.send(frame);
            }
            let mut seen = BTreeMap::new();
            sluice_testnet::wait_until(Duration::from_secs(1), || {
                seen = self.counts();
                seen.retain(|counter, count| {
                    *count -= before[counter];
                    *count != 0
                });
                seen.values().sum::<u64>() >= COPIES
            });
            if seen != BTreeMap::from([(format!("{fate:?}"), COPIES)]) {
                wrong.push(format!("{name}: wanted {fate:?}, but {seen:?}"));
            }
        }
        assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    }
}

fn v4(packet: Vec<u8>) -> Vec<u8> {
    ethernet(VICTIM, OWN, IPV4, &packet)
}

fn v6_frame(packet: Vec<u8>) -> Vec<u8> {
    ethernet(VICTIM, OWN, IPV6, &packet)
}

/// UDP from the attacker's own address to the victim's.
fn honest() -> V4 {
    V4::new(ip("10.0.1.4"), "10.0.1.3")
}

fn honest_v6(next: u8, payload: &[u8]) -> Vec<u8> {
    v6("fd00:1::4", "fd00:1::3", next, 64, payload)
}

/// With `change` applied to a frame.
fn but(mut frame: Vec<u8>, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    change(&mut frame);
    frame
}

#[test]
fn ethernet_frames() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let packet = honest().with(&udp(4000, 5000));
    let plain = v4(packet.clone());
    let six = v6_frame(honest_v6(UDP, &udp(4000, 5000)));
    let multicast: Mac = [1, 0, 0x5e, 0, 0, 1];
    scene.judge(&[
        ("to the victim's MAC", plain.clone(), Taken),
        ("to the bridge's MAC", ethernet(BRIDGE_MAC, OWN, IPV4, &packet), Taken),
        ("to nobody's MAC", ethernet([2, 9, 9, 9, 9, 9], OWN, IPV4, &packet), Taken),
        ("IPv6 to the victim's MAC", six.clone(), Taken),
        ("padded to Ethernet's least length", but(plain.clone(), |frame| frame.resize(60, 0)), Taken),
        ("from the victim's MAC", ethernet(VICTIM, VICTIM, IPV4, &packet), Gone(SourceMac)),
        ("from the bridge's MAC", ethernet(VICTIM, BRIDGE_MAC, IPV4, &packet), Gone(SourceMac)),
        ("IPv6 from the victim's MAC", but(six.clone(), |frame| frame[11] = 3), Gone(SourceMac)),
        ("ARP from another MAC", ethernet(BROADCAST, VICTIM, ARP, &arp(1, VICTIM, "10.0.1.4", "10.0.1.3")), Gone(SourceMac)),
        ("priority tag, VLAN 0", tagged(&plain, 0x8100, 0), Gone(Vlan)),
        ("priority 7, VLAN 0", tagged(&plain, 0x8100, 0xe000), Gone(Vlan)),
        ("VLAN 5", tagged(&plain, 0x8100, 5), Gone(Vlan)),
        ("two tags", tagged(&tagged(&plain, 0x8100, 5), 0x8100, 6), Gone(Vlan)),
        ("two tags, VLAN 0 both", tagged(&tagged(&plain, 0x8100, 0), 0x8100, 0), Gone(Vlan)),
        ("802.1ad", tagged(&plain, 0x88a8, 5), Gone(Vlan)),
        ("802.1ad around 802.1Q", tagged(&tagged(&plain, 0x8100, 5), 0x88a8, 6), Gone(Vlan)),
        ("802.1ad, VLAN 0", tagged(&plain, 0x88a8, 0), Gone(Vlan)),
        ("IPv6, VLAN 0", tagged(&six, 0x8100, 0), Gone(Vlan)),
        ("ARP, VLAN 0", tagged(&ethernet(BROADCAST, OWN, ARP, &arp(1, OWN, "10.0.1.4", "10.0.1.3")), 0x8100, 0), Gone(Vlan)),
        ("to one station, in a broadcast frame", ethernet(BROADCAST, OWN, IPV4, &packet), Gone(GroupFrame)),
        ("to one station, in a multicast frame", ethernet(multicast, OWN, IPV4, &packet), Gone(GroupFrame)),
        ("IPv6 to one station, in a broadcast frame", but(six, |frame| frame[..6].fill(0xff)), Gone(GroupFrame)),
        ("LLDP", ethernet([1, 0x80, 0xc2, 0, 0, 0xe], OWN, 0x88cc, &[0; 46]), Gone(EtherType)),
        (
            "spanning tree",
            ethernet([1, 0x80, 0xc2, 0, 0, 0], OWN, 38, &[&[0x42, 0x42, 3][..], &[0; 35]].concat()),
            Gone(EtherType),
        ),
        ("IPX by length", ethernet(VICTIM, OWN, 40, &[0xff; 40]), Gone(EtherType)),
        ("MPLS", ethernet(VICTIM, OWN, 0x8847, &[&[0, 0, 0x11, 64][..], &packet].concat()), Gone(EtherType)),
        ("PPPoE", ethernet(VICTIM, OWN, 0x8864, &packet), Gone(EtherType)),
        ("no payload at all", ethernet(VICTIM, OWN, IPV4, &[]), Gone(Malformed)),
    ]);
    assert_eq!(scene.stage.counters()["slipped"], 0);
}

#[test]
fn ipv4_packets() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let data = udp(4000, 5000);
    let dhcp = udp(68, 67);
    let nobody = |to| V4::new(ip("0.0.0.0"), to);
    let to_all = |packet: Vec<u8>| ethernet(BROADCAST, OWN, IPV4, &packet);
    let source_route = vec![131, 7, 4, 10, 0, 1, 3, 0];
    let plain = v4(honest().with(&data));
    scene.judge(&[
        ("own source", plain.clone(), Taken),
        ("to the node", v4(V4::new(ip("10.0.1.4"), "10.0.1.1").with(&data)), Taken),
        ("to the world", v4(V4::new(ip("10.0.1.4"), "192.0.2.1").with(&data)), Taken),
        ("SCTP", v4(V4 { protocol: 132, ..honest() }.with(&[0; 12])), Taken),
        ("GRE", v4(V4 { protocol: 47, ..honest() }.with(&[0; 12])), Taken),
        ("a source route is the node's to judge", v4(V4 { options: source_route, ..honest() }.with(&data)), Taken),
        ("first fragment without ports", v4(V4 { fragment: 0x2000, ..honest() }.with(&data[..8])), Taken),
        ("later fragment", v4(V4 { fragment: 2, ..honest() }.with(&data)), Taken),
        ("the victim's source", v4(V4::new(ip("10.0.1.3"), "10.0.1.1").with(&data)), Gone(SourceAddress)),
        ("the node's source", v4(V4::new(ip("10.0.1.1"), "10.0.1.3").with(&data)), Gone(SourceAddress)),
        ("nobody's source", v4(nobody("10.0.1.3").with(&data)), Gone(SourceAddress)),
        ("the loopback's source", v4(V4::new(ip("127.0.0.1"), "10.0.1.3").with(&data)), Gone(SourceAddress)),
        ("forged later fragment", v4(V4 { fragment: 2, ..V4::new(ip("10.0.1.3"), "10.0.1.1") }.with(&data)), Gone(SourceAddress)),
        ("multicast", v4(V4::new(ip("10.0.1.4"), "224.0.0.251").with(&data)), Gone(Multicast)),
        ("multicast, highest group", v4(V4::new(ip("10.0.1.4"), "239.255.255.255").with(&data)), Gone(Multicast)),
        ("forged multicast", v4(V4::new(ip("10.0.1.3"), "224.0.0.251").with(&data)), Gone(SourceAddress)),
        ("to all", to_all(V4::new(ip("10.0.1.4"), "255.255.255.255").with(&data)), Gone(Multicast)),
        ("to all of the subnet", to_all(V4::new(ip("10.0.1.4"), "10.0.1.255").with(&data)), Gone(GroupFrame)),
        ("DHCP discovery", to_all(nobody("255.255.255.255").with(&dhcp)), Bridged),
        ("DHCP rebinding", to_all(V4::new(ip("10.0.1.4"), "255.255.255.255").with(&dhcp)), Bridged),
        ("DHCP as the victim", to_all(V4::new(ip("10.0.1.3"), "255.255.255.255").with(&dhcp)), Gone(SourceAddress)),
        ("DHCP to one station", v4(nobody("10.0.1.3").with(&dhcp)), Gone(SourceAddress)),
        ("DHCP renewal at the server", v4(V4::new(ip("10.0.1.4"), "10.0.1.1").with(&dhcp)), Taken),
        ("DHCP as a server", to_all(nobody("255.255.255.255").with(&udp(67, 68))), Gone(SourceAddress)),
        ("DHCP to another port", to_all(nobody("255.255.255.255").with(&udp(68, 5000))), Gone(SourceAddress)),
        ("DHCP by TCP", to_all(V4 { protocol: 6, ..nobody("255.255.255.255") }.with(&dhcp)), Gone(SourceAddress)),
        ("DHCP, first fragment", to_all(V4 { fragment: 0x2000, ..nobody("255.255.255.255") }.with(&dhcp)), Gone(SourceAddress)),
        ("DHCP, later fragment", to_all(V4 { fragment: 1, ..nobody("255.255.255.255") }.with(&dhcp)), Gone(SourceAddress)),
        ("DHCP without ports", to_all(nobody("255.255.255.255").with(&dhcp[..4])), Gone(SourceAddress)),
        ("half a header", plain[..24].to_vec(), Gone(Malformed)),
        ("a header less a byte", plain[..33].to_vec(), Gone(Malformed)),
        ("longer than its frame", plain[..plain.len() - 1].to_vec(), Gone(Malformed)),
        ("header of 16 bytes", but(plain.clone(), |frame| frame[14] = 0x44), Gone(Malformed)),
        ("header longer than the packet", but(plain.clone(), |frame| frame[14] = 0x4f), Gone(Malformed)),
        ("length below the header's", but(plain.clone(), |frame| frame[17] = 19), Gone(Malformed)),
        ("length 0 without segments", but(plain.clone(), |frame| frame[16..18].fill(0)), Gone(Malformed)),
        ("version 6 by type 4", but(plain.clone(), |frame| frame[14] = 0x65), Gone(Malformed)),
        ("IPv4 by IPv6's type", but(plain, |frame| frame[12..14].copy_from_slice(&[0x86, 0xdd])), Gone(Malformed)),
    ]);
    assert_eq!(scene.stage.counters()["slipped"], 0);
    assert!(scene.mallory.index != scene.victim.index);
}

#[test]
fn arp_packets() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let frame = |packet: Vec<u8>| ethernet(BROADCAST, OWN, ARP, &packet);
    let own = arp(1, OWN, "10.0.1.4", "10.0.1.3");
    scene.judge(&[
        ("who has the victim", frame(own.clone()), Bridged),
        ("probe", frame(arp(1, OWN, "0.0.0.0", "10.0.1.4")), Bridged),
        ("gratuitous", frame(arp(1, OWN, "10.0.1.4", "10.0.1.4")), Bridged),
        ("answer", ethernet(VICTIM, OWN, ARP, &arp(2, OWN, "10.0.1.4", "10.0.1.3")), Bridged),
        ("claims the node's address", frame(arp(2, OWN, "10.0.1.1", "10.0.1.3")), Gone(Arp)),
        ("asks in the node's name", frame(arp(1, OWN, "10.0.1.1", "10.0.1.3")), Gone(Arp)),
        ("claims the victim's address", frame(arp(2, OWN, "10.0.1.3", "10.0.1.1")), Gone(Arp)),
        ("says its address is at another MAC", frame(arp(2, VICTIM, "10.0.1.4", "10.0.1.1")), Gone(Arp)),
        ("another operation", frame(arp(9, OWN, "10.0.1.4", "10.0.1.1")), Gone(Arp)),
        ("cut off", frame(own[..27].to_vec()), Gone(Malformed)),
        ("of another hardware", frame(but(own.clone(), |packet| packet[1] = 6)), Gone(Malformed)),
        ("of IPv6", frame(but(own.clone(), |packet| packet[2..4].copy_from_slice(&[0x86, 0xdd]))), Gone(Malformed)),
        ("with longer MAC addresses", frame(but(own.clone(), |packet| packet[4] = 8)), Gone(Malformed)),
        ("with longer addresses", frame(but(own, |packet| packet[5] = 16)), Gone(Malformed)),
    ]);
    assert_eq!(scene.stage.counters()["slipped"], 0);
}

#[test]
fn ipv6_packets() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let data = udp(4000, 5000);
    let own = |next, payload: &[u8]| v6_frame(honest_v6(next, payload));
    let local = |to: &str, next, payload: &[u8]| v6_frame(v6("fe80::4", to, next, 1, payload));
    let plain = own(UDP, &data);
    let behind = |headers: &[Vec<u8>], payload: &[u8]| [headers.concat(), payload.to_vec()].concat();
    let advertisement = neighbour(136, "fd00:1::3", OWN);
    let dhcp = udp(546, 547);
    scene.judge(&[
        ("own source", plain.clone(), Taken),
        ("the victim's source", v6_frame(v6("fd00:1::3", "fd00:1::1", UDP, 64, &data)), Gone(SourceAddress)),
        ("nobody's source", v6_frame(v6("::", "fd00:1::3", UDP, 64, &data)), Gone(SourceAddress)),
        ("a link-local source", local("fd00:1::3", UDP, &data), Gone(SourceAddress)),
        ("the loopback's source", v6_frame(v6("::1", "fd00:1::3", UDP, 64, &data)), Gone(SourceAddress)),
        ("its IPv4 address in IPv6", v6_frame(v6("::ffff:10.0.1.4", "fd00:1::3", UDP, 64, &data)), Gone(SourceAddress)),
        ("multicast", own_to("ff02::fb", &data), Gone(Multicast)),
        ("multicast, link-local", local("ff02::fb", UDP, &data), Gone(Multicast)),
        ("multicast, forged", v6_frame(v6("fd00:1::3", "ff02::fb", UDP, 64, &data)), Gone(SourceAddress)),
        ("DHCPv6", local("ff02::1:2", UDP, &dhcp), Bridged),
        ("DHCPv6, another port", local("ff02::1:2", UDP, &udp(546, 5000)), Gone(Multicast)),
        ("DHCPv6, another group", local("ff02::1:3", UDP, &dhcp), Gone(Multicast)),
        ("DHCPv6, cut off", local("ff02::1:2", UDP, &dhcp[..4]), Gone(Multicast)),
        ("DHCPv6, a fragment", local("ff02::1:2", FRAGMENT, &behind(&[fragment(UDP, 0, true)], &dhcp)), Gone(Multicast)),
        ("DHCPv6 from nobody", v6_frame(v6("::", "ff02::1:2", UDP, 1, &dhcp)), Gone(SourceAddress)),
        ("destination options", own(DESTINATION, &behind(&[padding(UDP)], &data)), Taken),
        (
            "three kinds of header",
            own(HOP_BY_HOP, &behind(&[padding(ROUTING), routing(DESTINATION), padding(UDP)], &data)),
            Taken,
        ),
        ("eight headers", own(DESTINATION, &behind(&[vec![padding(60); 7].concat(), padding(UDP)], &data)), Taken),
        ("nine headers", own(DESTINATION, &behind(&[vec![padding(60); 8].concat(), padding(UDP)], &data)), Gone(Malformed)),
        ("forged, behind a header", forged_behind(&behind(&[padding(UDP)], &data)), Gone(SourceAddress)),
        ("first fragment", own(FRAGMENT, &behind(&[fragment(UDP, 0, true)], &data)), Taken),
        ("later fragment", own(FRAGMENT, &behind(&[fragment(UDP, 2, false)], &data)), Taken),
        ("no next header", own(59, &[]), Taken),
        ("ESP", own(50, &[0; 16]), Taken),
        ("a header that is cut off", own(DESTINATION, &padding(UDP)[..6]), Gone(Malformed)),
        ("a header longer than the packet", own(DESTINATION, &[UDP, 9, 1, 4, 0, 0, 0, 0]), Gone(Malformed)),
        ("echo", own(ICMPV6, &icmpv6(128, b"ping")), Taken),
        ("packet too big", own(ICMPV6, &icmpv6(2, &[0; 40])), Taken),
        ("ICMPv6 without a type", own(ICMPV6, &[]), Gone(Malformed)),
        ("advertisement behind options", own(DESTINATION, &behind(&[padding(ICMPV6)], &advertisement)), Gone(NeighbourDiscovery)),
        (
            "advertisement in a fragment",
            own(FRAGMENT, &behind(&[fragment(ICMPV6, 0, true)], &advertisement)),
            Gone(NeighbourDiscovery),
        ),
        (
            "redirect behind hop-by-hop",
            own(HOP_BY_HOP, &behind(&[padding(ICMPV6)], &icmpv6(137, &[0; 32]))),
            Gone(NeighbourDiscovery),
        ),
        ("type cut off behind options", own(DESTINATION, &padding(ICMPV6)), Gone(Malformed)),
        ("half a header", plain[..34].to_vec(), Gone(Malformed)),
        ("a header less a byte", plain[..53].to_vec(), Gone(Malformed)),
        ("longer than its frame", plain[..plain.len() - 1].to_vec(), Gone(Malformed)),
        ("version 4 by type 6", but(plain.clone(), |frame| frame[14] = 0x45), Gone(Malformed)),
        ("IPv6 by IPv4's type", but(plain, |frame| frame[12..14].copy_from_slice(&[8, 0])), Gone(Malformed)),
    ]);
    assert_eq!(scene.stage.counters()["slipped"], 0);
}

fn own_to(to: &str, payload: &[u8]) -> Vec<u8> {
    v6_frame(v6("fd00:1::4", to, UDP, 64, payload))
}

fn forged_behind(payload: &[u8]) -> Vec<u8> {
    v6_frame(v6("fd00:1::3", "fd00:1::1", DESTINATION, 64, payload))
}

#[test]
fn neighbour_discovery() {
    if !possible() {
        return;
    }
    let scene = Scene::new();
    let message = |source: &str, to: &str, hops, payload: &[u8]| v6_frame(v6(source, to, ICMPV6, hops, payload));
    let asks = neighbour(135, "fd00:1::3", OWN);
    let answers = neighbour(136, "fd00:1::4", OWN);
    let solicits = icmpv6(133, &[]);
    let report = icmpv6(143, &[0; 20]);
    let listener =
        |source: &str, kind| v6_frame(v6(source, "ff02::16", HOP_BY_HOP, 1, &[padding(ICMPV6), icmpv6(kind, &[0; 20])].concat()));
    let advertises = icmpv6(134, &[0; 8]);
    scene.judge(&[
        ("solicitation", message("fd00:1::4", "ff02::1:ff00:3", 255, &asks), Bridged),
        ("solicitation from a link-local address", message("fe80::4", "ff02::1:ff00:3", 255, &asks), Bridged),
        ("whether an address is taken", message("::", "ff02::1:ff00:4", 255, &neighbour(135, "fd00:1::4", OWN)[..24]), Bridged),
        ("solicitation as the victim", message("fd00:1::3", "ff02::1:ff00:1", 255, &asks), Gone(SourceAddress)),
        ("solicitation as the node", message("fd00:1::1", "ff02::1:ff00:3", 255, &asks), Gone(SourceAddress)),
        ("solicitation from afar", message("fd00:1::4", "ff02::1:ff00:3", 254, &asks), Gone(NeighbourDiscovery)),
        ("solicitation without a target", message("fd00:1::4", "ff02::1:ff00:3", 255, &asks[..16]), Gone(NeighbourDiscovery)),
        ("advertisement", message("fd00:1::4", "fd00:1::3", 255, &answers), Bridged),
        ("advertisement from a link-local address", message("fe80::4", "fd00:1::3", 255, &answers), Bridged),
        ("of its link-local address", message("fe80::4", "fe80::3", 255, &neighbour(136, "fe80::4", OWN)), Bridged),
        (
            "of the victim's address",
            message("fd00:1::4", "fd00:1::1", 255, &neighbour(136, "fd00:1::3", OWN)),
            Gone(NeighbourDiscovery),
        ),
        (
            "of the node's address",
            message("fe80::4", "ff02::1", 255, &neighbour(136, "fd00:1::1", OWN)),
            Gone(NeighbourDiscovery),
        ),
        ("advertisement as the victim", message("fd00:1::3", "fd00:1::1", 255, &answers), Gone(SourceAddress)),
        ("advertisement from nobody", message("::", "ff02::1", 255, &answers), Gone(SourceAddress)),
        ("advertisement from afar", message("fd00:1::4", "fd00:1::3", 64, &answers), Gone(NeighbourDiscovery)),
        ("router solicitation", message("fe80::4", "ff02::2", 255, &solicits), Bridged),
        ("router solicitation from nobody", message("::", "ff02::2", 255, &solicits), Bridged),
        ("router solicitation from afar", message("fe80::4", "ff02::2", 1, &solicits), Gone(NeighbourDiscovery)),
        ("router advertisement", message("fe80::4", "ff02::1", 255, &advertises), Gone(RouterMessage)),
        ("router advertisement to one station", message("fe80::4", "fd00:1::3", 255, &advertises), Gone(RouterMessage)),
        ("redirect", message("fe80::4", "fd00:1::3", 255, &icmpv6(137, &[0; 32])), Gone(RouterMessage)),
        ("membership report", listener("fe80::4", 143), Bridged),
        ("membership report from nobody", listener("::", 143), Bridged),
        ("report of the first version", listener("fe80::4", 131), Bridged),
        ("leaves a group", listener("fe80::4", 132), Bridged),
        ("membership report as the victim", listener("fd00:1::3", 143), Gone(SourceAddress)),
        ("router advertisement behind hop-by-hop", listener("fe80::4", 134), Gone(Multicast)),
        ("membership report without hop-by-hop", message("fe80::4", "ff02::16", 1, &report), Gone(Multicast)),
    ]);
    assert_eq!(scene.stage.counters()["slipped"], 0);
}
