//! Flows with an end that is no pod, or the same pod: outside, the node itself, a pod and itself.

use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_testnet::{Net, Netns, Node, Protocol, Service};

use crate::client::{curl, curl_in_vain, ip};
use crate::scene::{Scene, at};

/// `guarded` answers reading requests from outside alone; `caller` reads outside and at the node, and nowhere else.
fn policies(node: &[std::net::IpAddr]) -> String {
    let node: Vec<_> = node
        .iter()
        .map(|address| format!("{{ ipBlock: {{ cidr: \"{address}/{}\" }} }}", if address.is_ipv4() { 32 } else { 128 }))
        .collect();
    format!(
        r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: guarded, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: guarded }} }}
  ingress:
  - from: [ {{ ipBlock: {{ cidr: 203.0.113.0/24 }} }}, {{ ipBlock: {{ cidr: "2001:db8:ffff::/64" }} }} ]
    ports: [ {{ protocol: TCP, port: 8080 }} ]
    http: [ {{ method: GET }} ]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: caller, namespace: shop }}
spec:
  podSelector: {{ matchLabels: {{ app: caller }} }}
  policyTypes: [Egress]
  egress:
  - to: [ {{ ipBlock: {{ cidr: 203.0.113.0/24 }} }}, {{ ipBlock: {{ cidr: "2001:db8:ffff::/64" }} }}, {} ]
    ports: [ {{ protocol: TCP, port: 8080 }} ]
    http: [ {{ method: GET }} ]
"#,
        node.join(", ")
    )
}

const PODS: [(&str, &str, &[&str]); 2] =
    [("shop/guarded", "node-1", &["10.1.0.1", "fd00:1::1"]), ("shop/caller", "node-1", &["10.1.0.2", "fd00:1::2"])];

fn start() -> Option<Scene> {
    let mut scene = Scene::start(&["node-1"], &PODS, "", &[])?;
    let node = scene.node("node-1");
    scene.web.serve(scene.net.outside(), "outside", 8080);
    scene.web.serve(node.ns(), "node-1", 8080);
    scene.policies(&policies(node.addresses()));
    Some(scene)
}

fn url(address: &str, path: &str) -> String {
    format!("http://{}{path}", at(address, 8080))
}

/// GET passes and shows `client` to the server; DELETE is answered 403 and never arrives.
fn check_judged(scene: &Scene, from: &Netns, to: &str, client: &str, what: &str) -> Value {
    let read = curl(from, &url(to, &format!("/read/{what}")), &[]);
    assert_eq!(read.status, 200, "{what}: {read:?}\n{:?}", scene.programs.records("node-1"));
    assert_eq!(read.json()["client"], client, "{what}");
    let path = format!("/delete/{what}");
    let denied = curl(from, &url(to, &path), &["--request", "DELETE"]);
    assert_eq!(denied.status, 403, "{what}: {denied:?}");
    assert!(scene.seen(&path).is_empty(), "{what}");
    scene.request_record("node-1", &path)
}

#[test]
fn requests_from_outside_are_judged() {
    let Some(scene) = start() else { return };
    for (to, outside) in [("10.1.0.1", Net::OUTSIDE_V4), ("fd00:1::1", Net::OUTSIDE_V6)] {
        let outside = outside.to_string();
        let record = check_judged(&scene, scene.net.outside(), to, &outside, &format!("from-{outside}"));
        assert_eq!((&record["source"]["ip"], &record["source"]["pod"]), (&json!(outside), &Value::Null), "{record:#}");
        assert_eq!(record["direction"], "ingress");
        // A pod is no outside address.
        assert_eq!(curl_in_vain(scene.pod("shop/caller").ns(), &url(to, "/pod")).status, 0);
    }
    // Nor is another address outside.
    scene.net.add_outside_address(ip("192.0.2.77")).unwrap();
    let refused = scene.net.outside().tcp_connect(Some(ip("192.0.2.77")), "10.1.0.1:8080".parse().unwrap(), crate::scene::SHORT);
    assert!(refused.is_err(), "{refused:?}");
}

#[test]
fn requests_to_outside_and_to_the_node_are_judged() {
    let Some(scene) = start() else { return };
    let caller = scene.pod("shop/caller");
    let node = scene.node("node-1").addresses().to_vec();
    for (to, client) in
        [(Net::OUTSIDE_V4, "10.1.0.2"), (Net::OUTSIDE_V6, "fd00:1::2"), (node[0], "10.1.0.2"), (node[1], "fd00:1::2")]
    {
        let to = to.to_string();
        let record = check_judged(&scene, caller.ns(), &to, client, &format!("to-{to}"));
        assert_eq!((&record["destination"]["ip"], &record["direction"]), (&json!(to), &json!("egress")), "{record:#}");
    }
    // Other addresses outside stay closed: above all the one that hands out credentials.
    scene.net.add_outside_address(ip("169.254.169.254")).unwrap();
    assert_eq!(curl_in_vain(caller.ns(), "http://169.254.169.254:8080/latest/meta-data").status, 0);
    assert!(scene.seen("/latest/meta-data").is_empty());
}

/// As most clusters do for what leaves them: the outside sees the node and can't answer a pod.
fn masquerade(node: &Node) {
    for (family, pods) in [("ip", "10.1.0.0/16"), ("ip6", "fd00:1::/64")] {
        let uplink = Node::UPLINK;
        let rules = format!(
            "table {family} masquerading {{ chain postrouting {{ type nat hook postrouting priority srcnat; \
             {family} saddr {pods} oifname {uplink} masquerade; }}; }}"
        );
        node.ns().exec("nft", &[&rules]).unwrap();
    }
}

#[test]
fn requests_to_outside_are_judged_and_masqueraded() {
    let Some(scene) = start() else { return };
    let (node, caller) = (scene.node("node-1"), scene.pod("shop/caller"));
    masquerade(&node);
    for (to, of_family) in [(Net::OUTSIDE_V4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool), (Net::OUTSIDE_V6, IpAddr::is_ipv6)] {
        let client = node.addresses().iter().find(|address| of_family(address)).unwrap().to_string();
        let to = to.to_string();
        let record = check_judged(&scene, caller.ns(), &to, &client, &format!("masqueraded-{to}"));
        assert_eq!((&record["source"]["pod"], &record["direction"]), (&json!("caller"), &json!("egress")), "{record:#}");
    }
    // From outside nothing is masqueraded, and the pod's answers go out by the proxy.
    let outside = Net::OUTSIDE_V4.to_string();
    check_judged(&scene, scene.net.outside(), "10.1.0.1", &outside, "from-outside");
}

#[test]
fn a_pod_reaches_itself_and_is_reached_by_its_node_whatever_policies_say() {
    let Some(scene) = start() else { return };
    let (guarded, node) = (scene.pod("shop/guarded"), scene.node("node-1"));
    let service = |address: &str, backend: &str| Service {
        name: "shop/guarded".to_owned(),
        protocol: Protocol::Tcp,
        address: at(address, 8080).parse().unwrap(),
        backends: vec![at(backend, 8080).parse().unwrap()],
    };
    node.set_services(&[service("10.96.0.10", "10.1.0.1"), service("fd00:96::10", "fd00:1::1")]).unwrap();
    for to in ["10.1.0.1", "fd00:1::1", "10.96.0.10", "fd00:96::10"] {
        for (who, ns) in [("itself", guarded.ns()), ("its node", node.ns())] {
            let answer = curl(ns, &url(to, "/own"), &["--request", "DELETE"]);
            assert_eq!(answer.status, 200, "{who} by {to}: {answer:?}");
        }
    }
    assert_eq!(scene.seen("/own").len(), 8);
}
