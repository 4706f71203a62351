//! What a pod on a bridge can do with frames of its own making: nothing.

mod kernel_stage;

use std::net::{IpAddr, SocketAddr};

use kernel_stage::frame::{self, DOT1AD, DOT1Q, Ear, Mac, TO_ALL, Tag, datagram, icmpv6, ip_frame};
use kernel_stage::packet::{arrived, listen};
use kernel_stage::{SILENCE, Stage, bridges, edits, ip, possible};
use sluice_proxy::kernel::Config;
use sluice_proxy::kernel::bridge::Form;
use sluice_testnet::Protocol::{Tcp, Udp};
use sluice_testnet::{Layout, Net, Node, Pod};

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
  ingress: [{from: [{podSelector: {matchLabels: {app: frontend}}}]}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: thief, namespace: x}
spec:
  podSelector: {matchLabels: {app: thief}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {app: frontend}}}]}]
";

/// Backend takes what frontend sends. The thief may send to frontend, and to nobody else.
struct Scene {
    stage: Stage,
    frontend: Pod,
    backend: Pod,
    thief: Pod,
}

fn scene(layout: Layout, form: Form) -> Scene {
    let mut stage = Stage::laid_out(layout, form, Config::default());
    let frontend = stage.pod("x/frontend", &["10.0.1.1", "fd00:1::1"]);
    let backend = stage.pod("x/backend", &["10.0.1.2", "fd00:1::2"]);
    let thief = stage.pod("x/thief", &["10.0.1.3", "fd00:1::3"]);
    stage.engine.edit(edits(POLICIES));
    stage.apply_whole();
    Scene { stage, frontend, backend, thief }
}

fn mac(pod: &Pod) -> Mac {
    frame::mac(pod.ns(), "eth0")
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

/// The tags that a frame may carry, none first.
const TAGS: [&[Tag]; 6] =
    [&[], &[(DOT1Q, 0)], &[(DOT1Q, 5)], &[(DOT1Q, 0), (DOT1Q, 0)], &[(DOT1AD, 0)], &[(DOT1AD, 5), (DOT1Q, 6)]];

/// UDP to backend in every way that a frame can be addressed and tagged, each with a text of its own.
fn frames(scene: &Scene) -> Vec<(String, Vec<u8>)> {
    let Scene { stage, frontend, backend, thief } = scene;
    let bridge = frame::mac(stage.node.ns(), Node::BRIDGE);
    let mut frames = Vec::new();
    for family in 0..2 {
        let to = at(backend.addresses()[family], 5353);
        let sources = [("own address", thief), ("frontend's address", frontend), ("backend's own address", backend)];
        for (whose, source) in sources {
            let link_sources = [("own", mac(thief)), ("frontend's", mac(frontend)), ("the bridge's", bridge)];
            for (whose_mac, link_source) in link_sources {
                for (to_whom, destination) in [("backend", mac(backend)), ("the bridge", bridge), ("all", TO_ALL)] {
                    for tags in TAGS {
                        let text = format!("{whose}, {whose_mac} link address, to {to_whom}, tags {tags:?}, to {}", to.ip());
                        let packet = datagram(at(source.addresses()[family], 1), to, &text);
                        frames.push((text, ip_frame(destination, link_source, tags, &packet)));
                    }
                }
            }
        }
    }
    frames
}

fn count(heard: &[Vec<u8>], texts: &[(String, Vec<u8>)]) -> Vec<String> {
    let is_heard = |text: &str| heard.iter().any(|frame| frame.windows(text.len()).any(|window| window == text.as_bytes()));
    texts.iter().map(|(text, _)| text).filter(|text| is_heard(text)).cloned().collect()
}

#[test]
fn no_frame_of_a_pods_own_making_gets_past_its_policy() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let scene = scene(layout, form);
        let Scene { stage, frontend, backend, thief } = &scene;
        let frames = frames(&scene);
        let ears = [Ear::new(backend.ns()), Ear::new(frontend.ns())];
        for (_, bytes) in &frames {
            frame::send(thief.ns(), bytes);
        }
        for (ear, whose) in ears.iter().zip(["backend", "frontend"]) {
            let passed = count(&ear.heard(SILENCE), &frames);
            assert!(passed.is_empty(), "{layout:?} {form:?}: {} of {} reach {whose}: {passed:#?}", passed.len(), frames.len());
        }
        // What was forged has moved nothing: each still gets what is his.
        stage.expect(&[
            (frontend, "10.0.1.2", 5353, Udp, true),
            (frontend, "fd00:1::2", 80, Tcp, true),
            (thief, "10.0.1.1", 80, Tcp, true),
            (thief, "10.0.1.2", 80, Tcp, false),
            (thief, "fd00:1::2", 80, Tcp, false),
        ]);
        // Where nothing stops them, a third is heard, of every kind: the test can fail. What is sent to the bridge, or from its own
        // link address, goes no further by the bridge's own rules.
        stage.unguard();
        let qdisc = ["qdisc", "del", "dev", thief.interface(), "clsact"];
        stage.node.ns().exec("tc", &qdisc).unwrap();
        let ear = Ear::new(backend.ns());
        for (_, bytes) in &frames {
            frame::send(thief.ns(), bytes);
        }
        let passed = count(&ear.heard(SILENCE), &frames);
        assert!(passed.len() > frames.len() / 4, "{layout:?} {form:?}: only {} of {} pass unguarded", passed.len(), frames.len());
        let tagged = passed.iter().any(|text| text.contains("tags [(34984, 5), (33024, 6)]"));
        assert!(tagged, "{layout:?} {form:?}: {passed:#?}");
    }
}

#[test]
fn what_is_not_ip_and_what_is_for_many_stays_with_the_node() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { backend, thief, frontend, .. } = &scene(layout, form);
        let link_local: IpAddr = ip("fe80::3");
        let all_nodes = ip("ff02::1");
        let text = |number: u8| format!("this is frame {number} of the thief's");
        let multicast_mac: Mac = [0x33, 0x33, 0, 0, 0, 1];
        // A router's advertisement and a redirect, with the text where options would be.
        let of_router = |number: u8, kind: u8| {
            let message = [&[kind, 0, 0, 0][..], &[0; 12], text(number).as_bytes()].concat();
            icmpv6(link_local, all_nodes, 58, &[], &message)
        };
        let frames: Vec<(String, Vec<u8>)> = [
            (1, frame::frame(mac(backend), mac(thief), &[], 0x88b5, text(1).as_bytes())),
            (2, frame::frame(TO_ALL, mac(thief), &[], 0x88b5, text(2).as_bytes())),
            (
                3,
                ip_frame(
                    [1, 0, 0x5e, 0, 0, 0xfb],
                    mac(thief),
                    &[],
                    &datagram(at(ip("10.0.1.3"), 1), at(ip("224.0.0.251"), 5353), &text(3)),
                ),
            ),
            (
                4,
                ip_frame(
                    [0x33, 0x33, 0, 0, 0, 0xfb],
                    mac(thief),
                    &[],
                    &datagram(at(ip("fd00:1::3"), 1), at(ip("ff02::fb"), 5353), &text(4)),
                ),
            ),
            (5, ip_frame(TO_ALL, mac(thief), &[], &datagram(at(ip("10.0.1.3"), 1), at(ip("255.255.255.255"), 5353), &text(5)))),
            (6, ip_frame(multicast_mac, mac(thief), &[], &of_router(6, 134))),
            (7, ip_frame(mac(backend), mac(thief), &[], &of_router(7, 134))),
            (8, ip_frame(mac(backend), mac(thief), &[], &of_router(8, 137))),
            // A server's answer to a client of DHCP, and a client's question to another pod.
            (9, ip_frame(TO_ALL, mac(thief), &[], &datagram(at(ip("10.0.1.3"), 67), at(ip("255.255.255.255"), 68), &text(9)))),
            (
                10,
                ip_frame(
                    mac(backend),
                    mac(thief),
                    &[],
                    &datagram(at(ip("0.0.0.0"), 68), at(ip("255.255.255.255"), 67), &text(10)),
                ),
            ),
            // From its link-local address.
            (11, ip_frame(mac(backend), mac(thief), &[], &datagram(at(link_local, 1), at(ip("fd00:1::2"), 5353), &text(11)))),
        ]
        .map(|(number, bytes)| (text(number), bytes))
        .into();
        let ears = [Ear::new(backend.ns()), Ear::new(frontend.ns())];
        for (_, bytes) in &frames {
            frame::send(thief.ns(), bytes);
        }
        for ear in &ears {
            let passed = count(&ear.heard(SILENCE), &frames);
            assert!(passed.is_empty(), "{layout:?} {form:?}: {passed:#?}");
        }
    }
}

#[test]
fn who_answers_for_anothers_address_gets_nothing_of_it() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let scene = scene(layout, form);
        let Scene { stage, frontend, backend, thief } = &scene;
        let (v4, v6) = (ip("10.0.1.2"), ip("fd00:1::2"));
        let lies = [
            frame::arp(2, mac(thief), v4, mac(frontend), ip("10.0.1.1"), TO_ALL),
            frame::arp(1, mac(thief), v4, [0; 6], ip("10.0.1.1"), TO_ALL),
            frame::arp(2, mac(thief), v4, frame::mac(stage.node.ns(), Node::BRIDGE), ip("169.254.1.1"), TO_ALL),
            // And for the gateway's.
            frame::arp(2, mac(thief), ip("169.254.1.1"), mac(frontend), ip("10.0.1.1"), mac(frontend)),
        ];
        let advertise = |to: IpAddr| {
            let IpAddr::V6(target) = v6 else { panic!("an IPv6 address") };
            // Override, and the thief's link-layer address.
            let message = [&[136, 0, 0, 0, 0x20, 0, 0, 0][..], &target.octets(), &[2, 1], &mac(thief)].concat();
            icmpv6(v6, to, 58, &[], &message)
        };
        let lies = lies.into_iter().chain([ip_frame([0x33, 0x33, 0, 0, 0, 1], mac(thief), &[], &advertise(ip("ff02::1")))]);
        let lies: Vec<Vec<u8>> = lies.collect();
        let stolen = Ear::new(thief.ns());
        for _ in 0..3 {
            lies.iter().for_each(|lie| frame::send(thief.ns(), lie));
            stage.expect(&[(frontend, "10.0.1.2", 80, Tcp, true), (frontend, "fd00:1::2", 80, Tcp, true)]);
        }
        // Frontend may well believe it: that changes nothing.
        let inbox = listen(backend.ns(), at(v4, 7777));
        let packet = datagram(at(ip("10.0.1.1"), 1), at(v4, 7777), "sent to the thief's link address");
        frame::send(frontend.ns(), &ip_frame(mac(thief), mac(frontend), &[], &packet));
        assert_eq!(arrived(&inbox).as_deref(), Some("sent to the thief's link address"), "{layout:?} {form:?}");
        // Nor does the node believe it.
        let from_node = stage.node.ns().udp_bind(at(stage.node.addresses()[0], 0)).unwrap();
        lies.iter().for_each(|lie| frame::send(thief.ns(), lie));
        from_node.send_to(b"from the node", at(v4, 7777)).unwrap();
        assert_eq!(arrived(&inbox).as_deref(), Some("from the node"), "{layout:?} {form:?}");
        let heard = stolen.heard(SILENCE);
        for text in ["sent to the thief's link address", "from the node", "x/backend"] {
            assert!(count(&heard, &[(text.to_owned(), Vec::new())]).is_empty(), "{layout:?} {form:?}: the thief hears: {text}");
        }
    }
}

/// Neighbour discovery stays on the bridge by its place in the packet. Behind an extension header it is a packet like any other.
#[test]
fn neighbour_discovery_is_no_way_out() {
    if !possible() {
        return;
    }
    for (layout, form) in bridges() {
        let Scene { stage, thief, backend, .. } = &scene(layout, form);
        let outside = Net::OUTSIDE_V6;
        let ear = Ear::new(stage.net.outside());
        let bridge = frame::mac(stage.node.ns(), Node::BRIDGE);
        // Destination options: six bytes of padding.
        let padding = [58, 0, 1, 4, 0, 0, 0, 0];
        let texts = ["a solicitation to outside", "one behind an extension header"];
        for (text, first, extensions) in [(texts[0], 58, &[][..]), (texts[1], 60, &padding[..])] {
            let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16], text.as_bytes()].concat();
            let packet = icmpv6(ip("fd00:1::3"), outside, first, extensions, &message);
            frame::send(thief.ns(), &ip_frame(bridge, mac(thief), &[], &packet));
        }
        let heard = ear.heard(SILENCE);
        let passed = count(&heard, &texts.map(|text| (text.to_owned(), Vec::new())));
        assert!(passed.is_empty(), "{layout:?} {form:?}: {passed:?}");
        // Nor by way of the node to a pod that the thief may not speak to.
        let ear = Ear::new(backend.ns());
        let text = "a solicitation that was routed";
        let message = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &[0; 16], text.as_bytes()].concat();
        frame::send(thief.ns(), &ip_frame(bridge, mac(thief), &[], &icmpv6(ip("fd00:1::3"), ip("fd00:1::2"), 58, &[], &message)));
        assert!(!ear.hears(text.as_bytes(), SILENCE), "{layout:?} {form:?}");
    }
}
