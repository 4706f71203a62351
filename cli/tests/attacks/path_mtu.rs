//! Paths with a smaller MTU beyond the node: what routers say about it reaches the proxy's sockets, on either leg.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use sluice_testnet::Node;

use crate::client::Talk;
use crate::packet::{ICMP, ICMPV6, addresses};
use crate::scene::at;
use crate::stage::{Family, POLICIES, Stage, everywhere};
use crate::wire::{Wire, packet_of};

const BYTES: usize = 2_000_000;

/// Who downloads: another address than the one that is uploaded to, because what a node learns of a path it keeps for the address.
fn downloader(family: Family) -> IpAddr {
    let text = if family == Family::V4 { "203.0.113.11" } else { "2001:db8:ffff::11" };
    text.parse().unwrap()
}

/// `open` may upload to the outside, and the outside may read from `backend`; both are judged by request.
fn policies() -> String {
    format!(
        r#"{POLICIES}---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: uploads, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: open }} }}
  policyTypes: [ Egress ]
  egress:
  - to: [ {{ ipBlock: {{ cidr: 203.0.113.10/32 }} }}, {{ ipBlock: {{ cidr: "2001:db8:ffff::10/128" }} }} ]
    ports: [ {{ protocol: TCP, port: 8080 }} ]
    http: [ {{ method: POST, path: "/upload" }} ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: downloads, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: backend }} }}
  ingress:
  - from: [ {{ ipBlock: {{ cidr: 203.0.113.11/32 }} }}, {{ ipBlock: {{ cidr: "2001:db8:ffff::11/128" }} }} ]
    ports: [ {{ protocol: TCP, port: 8080 }} ]
    http: [ {{ method: GET, path: "/bytes" }} ]
"#
    )
}

/// Uploads to the outside; whether the server got all of it.
fn upload(stage: &Stage, to: IpAddr, patience: Duration) -> bool {
    let mut talk = Talk::open(stage.pod("open").ns(), &at(&to.to_string(), 8080)).unwrap();
    talk.stream.set_read_timeout(Some(patience)).unwrap();
    talk.stream.set_write_timeout(Some(patience)).unwrap();
    let head = format!("POST /upload HTTP/1.1\r\nHost: test\r\nContent-Length: {BYTES}\r\n\r\n");
    if talk.send(head).is_err() || talk.send(vec![b'x'; BYTES]).is_err() {
        return false;
    }
    let Ok(answer) = talk.answer() else { return false };
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text().contains(&format!("\"bytes\":{BYTES}"))
}

fn download(stage: &Stage, family: Family, patience: Duration) -> bool {
    let from = SocketAddr::new(stage.address("backend", family), 8080);
    let stream = stage.scene.net.outside().tcp_connect(Some(downloader(family)), from, patience).unwrap();
    let mut talk = Talk::of(stream);
    talk.get(&format!("/bytes?n={BYTES}")).is_ok_and(|answer| answer.status == 200 && answer.body.len() == BYTES)
}

/// Who of the proxy's sockets' addresses was told of a smaller MTU.
fn told(uplink: &Wire) -> Vec<IpAddr> {
    let frames = uplink.frames();
    let packets = frames.iter().filter_map(|frame| addresses(packet_of(frame)));
    let too_big =
        packets.filter(|(.., protocol, message)| matches!((*protocol, *message), (ICMP, [3, 4, ..]) | (ICMPV6, [2, ..])));
    too_big.map(|(_, destination, ..)| destination).collect()
}

#[test]
fn a_smaller_mtu_beyond_the_node_is_learned_on_both_legs() {
    const PATIENCE: Duration = Duration::from_secs(20);
    const IN_VAIN: Duration = Duration::from_millis(1500);
    everywhere(|stage| {
        stage.scene.policies(&policies());
        let fabric = stage.scene.net.fabric().clone();
        stage.scene.web.serve(stage.scene.net.outside(), "outside", 8080);
        Family::BOTH.iter().for_each(|family| stage.scene.net.add_outside_address(downloader(*family)).unwrap());
        for family in Family::BOTH {
            assert!(upload(stage, Stage::outside(family), PATIENCE), "{family:?} with the usual MTU");
        }
        fabric.exec("ip", &["link", "set", "dev", "outside", "mtu", "1300"]).unwrap();
        // Where the routers are silent nothing gets through: the path is what it shall be.
        fabric
            .exec("nft", &["add table inet quiet; add chain inet quiet c { type filter hook output priority 0; }; \
                add rule inet quiet c icmp type destination-unreachable drop; add rule inet quiet c icmpv6 type packet-too-big drop"])
            .unwrap();
        for family in Family::BOTH {
            assert!(!upload(stage, Stage::outside(family), IN_VAIN), "{family:?} with silent routers");
            assert!(!download(stage, family, IN_VAIN), "{family:?} with silent routers");
        }
        // Also what was sent in vain is sent again now, and learns it.
        let uplink = Wire::open(stage.node().ns(), Node::UPLINK);
        fabric.exec("nft", &["delete", "table", "inet", "quiet"]).unwrap();
        for family in Family::BOTH {
            assert!(upload(stage, Stage::outside(family), PATIENCE), "{family:?}: the leg to the server");
            assert!(download(stage, family, PATIENCE), "{family:?}: the leg to the client");
        }
        let told = told(&uplink);
        for family in Family::BOTH {
            for socket in ["open", "backend"] {
                assert!(told.contains(&stage.address(socket, family)), "{socket} {family:?}: {told:?}");
            }
        }
    });
}
