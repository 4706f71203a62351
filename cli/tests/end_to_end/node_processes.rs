//! Processes of the node itself as servers and as clients of pods: a DNS cache as node-local DNS installs it, with its NOTRACK
//! rules, an API server, probes.

use std::net::{SocketAddr, UdpSocket};

use sluice_testnet::{Netns, Outcome, Pod, Port, Probe, Protocol};

use crate::client::{Talk, curl, ip};
use crate::scene::{LONG, SHORT, Scene};

pub(crate) const CACHE: &str = "169.254.20.10";
const PODS: [(&str, &str, &[&str]); 3] = [
    ("shop/caller", "node-1", &["10.1.0.1", "fd00:1::1"]),
    ("shop/silent", "node-1", &["10.1.0.2", "fd00:1::2"]),
    ("shop/free", "node-1", &["10.1.0.3", "fd00:1::3"]),
];

/// `caller` asks the cache and reads at the node's API; `silent` says nothing to anybody and hears nobody.
fn policies(dns: &str, node: &[std::net::IpAddr]) -> String {
    let blocks: Vec<_> = node
        .iter()
        .map(|address| format!("{{ ipBlock: {{ cidr: \"{address}/{}\" }} }}", if address.is_ipv4() { 32 } else { 128 }))
        .collect();
    format!(
        r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: cache, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: caller }} }}
  policyTypes: [Egress]
  egress: [ {dns} ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: api, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: caller }} }}
  policyTypes: [Egress]
  egress:
  - to: [ {} ]
    ports: [ {{ port: 8080 }} ]
    http: [ {{ method: GET }} ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {{ name: silent, namespace: shop }}
spec: {{ podSelector: {{ matchLabels: {{ app: silent }} }}, policyTypes: [ Ingress, Egress ] }}
"#,
        blocks.join(", ")
    )
}

const DNS: &str = "{ to: [ { ipBlock: { cidr: 169.254.20.10/32 } } ], ports: [ { port: 53 }, { protocol: UDP, port: 53 } ] }";

/// What node-local DNS puts into the node: an address, and rules that keep conntrack out of it both ways.
const NOTRACK: &str = "table ip nodelocaldns {
    chain prerouting { type filter hook prerouting priority raw;
        ip daddr 169.254.20.10 udp dport 53 notrack
        ip daddr 169.254.20.10 tcp dport 53 notrack
    }
    chain output { type filter hook output priority raw;
        ip saddr 169.254.20.10 udp sport 53 notrack
        ip saddr 169.254.20.10 tcp sport 53 notrack
        ip daddr 169.254.20.10 udp dport 53 notrack
        ip daddr 169.254.20.10 tcp dport 53 notrack
    }
}";

/// The address and the rules; what listens there is the caller's business.
pub(crate) fn put_node_local_dns(node: &Netns) {
    node.exec("ip", &["address", "add", &format!("{CACHE}/32"), "dev", "lo"]).unwrap();
    node.exec("nft", &[NOTRACK]).unwrap();
}

fn start() -> Option<Scene> {
    let mut scene = Scene::start(&["node-1"], &PODS, "", &[])?;
    let node = scene.node("node-1");
    put_node_local_dns(node.ns());
    scene.net.serve(node.ns(), "node-1", &[Port::udp(53), Port::tcp(53), Port::udp(54), Port::tcp(54)]).unwrap();
    scene.web.serve(node.ns(), "node-1", 8080);
    scene.policies(&policies(DNS, node.addresses()));
    Some(scene)
}

fn asks(scene: &Scene, pod: &str, protocol: Protocol, port: u16) -> Outcome {
    let probe = Probe { from: scene.pod(pod).ns().clone(), source: None, to: ip(CACHE), port, protocol };
    scene.net.probe(&[probe], SHORT).remove(0)
}

/// A datagram from one socket, and its answer.
fn word(socket: &UdpSocket) -> bool {
    let to: SocketAddr = (ip(CACHE), 53).into();
    socket.send_to(b"?", to).is_ok() && socket.recv_from(&mut [0; 512]).is_ok()
}

#[test]
fn a_dns_cache_on_the_node_is_judged_without_tracking() {
    let Some(mut scene) = start() else { return };
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for (pod, port, passes) in
            [("shop/caller", 53, true), ("shop/caller", 54, false), ("shop/silent", 53, false), ("shop/free", 53, true)]
        {
            let outcome = asks(&scene, pod, protocol, port);
            assert_eq!(outcome.is_connected(), passes, "{pod} {protocol:?} {port}: {outcome:?}");
        }
    }
    // What nothing tracks is judged packet by packet: an open socket obeys at once.
    let socket = scene.pod("shop/caller").ns().udp_bind("0.0.0.0:0".parse().unwrap()).unwrap();
    socket.set_read_timeout(Some(SHORT)).unwrap();
    assert!(word(&socket));
    let mut stream = Talk::open(scene.pod("shop/caller").ns(), &format!("{CACHE}:53")).unwrap();
    let node = scene.node("node-1").addresses().to_vec();
    scene.policies(&policies("", &node));
    assert!(!word(&socket), "a datagram from the port of an answered one");
    let _ = stream.send("x");
    stream.stream.set_read_timeout(Some(SHORT)).unwrap();
    assert!(stream.line().is_err(), "and nothing of the stream");
    scene.policies(&policies(DNS, &node));
    assert!(word(&socket));
}

#[test]
fn what_must_be_read_and_cannot_be_tracked_is_closed() {
    let Some(mut scene) = start() else { return };
    let node = scene.node("node-1").addresses().to_vec();
    let cache = [ip(CACHE)];
    scene.policies(&policies("", &cache).replace("port: 8080", "port: 53"));
    let outcome = asks(&scene, "shop/caller", Protocol::Tcp, 53);
    assert!(!outcome.is_connected(), "{outcome:?}");
    // The node's API server, which is tracked, is read at its own address.
    scene.policies(&policies(DNS, &node));
    for address in node {
        let url = |path: &str| format!("http://{}{path}", SocketAddr::new(address, 8080));
        let caller = scene.pod("shop/caller");
        assert_eq!(curl(caller.ns(), &url("/api"), &[]).status, 200);
        assert_eq!(curl(caller.ns(), &url("/api"), &["--request", "DELETE"]).status, 403);
    }
}

/// The kubelet's probes come from the node, by whichever of its addresses.
#[test]
fn the_node_reaches_its_own_pods_whatever_policies_say() {
    let Some(scene) = start() else { return };
    let node = scene.node("node-1");
    let silent: Pod = scene.pod("shop/silent");
    scene.net.serve_pod(&silent, &[Port::tcp(80), Port::udp(53)]).unwrap();
    let mut probes = Vec::new();
    for (to, sources) in [("10.1.0.2", vec![ip(CACHE), node.addresses()[0]]), ("fd00:1::2", vec![node.addresses()[1]])] {
        for source in sources.into_iter().map(Some).chain([None]) {
            for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 53), (Protocol::Icmp, 0)] {
                probes.push(Probe { from: node.ns().clone(), source, to: ip(to), port, protocol });
            }
        }
    }
    for (probe, outcome) in probes.iter().zip(scene.net.probe(&probes, LONG)) {
        assert!(outcome.is_connected(), "{probe:?}: {outcome:?}");
    }
    assert_eq!(curl(node.ns(), "http://10.1.0.2:8080/healthz", &[]).status, 200);
}
