//! A name may not lead inside, unless the rule says so.

use serde_json::json;
use sluice_testnet::dns::Zone;
use sluice_testnet::{Port, Protocol, Service};

use super::{GIT, RESOLVER, Stage, egress};
use crate::client::{Pair, curl, ip};
use crate::scene::{LONG, SHORT};

const SERVICE: &str = "10.96.0.20";
/// The pod behind it, which no name is given for.
const BACKEND: &str = "10.1.0.3";

/// A port for a connection that is held.
const LIVE: u16 = 9600;

/// What somebody's zone says: the metadata service, the node, a pod, a Service, an address in some other private network.
const INSIDE: [&str; 5] = ["169.254.169.254", "198.18.0.1", "10.1.0.2", SERVICE, "192.168.7.7"];

fn stage(rule: &str) -> Option<Stage> {
    let mut stage = Stage::start(&egress(rule), &[])?;
    for address in ["169.254.169.254", "192.168.7.7"] {
        stage.scene.net.add_outside_address(ip(address)).unwrap();
    }
    let zone = |zone: Zone| {
        let named =
            |zone: Zone, (number, address): (usize, &&str)| zone.addresses(&format!("r{number}.example.test"), &[ip(address)]);
        INSIDE
            .iter()
            .enumerate()
            .fold(zone.ttl(300), named)
            .addresses("both.example.test", &[ip("10.1.0.2"), ip(super::SPARE[0])])
    };
    stage.authority.change("example.test", zone).unwrap();
    let ports = [Port::tcp(GIT), Port::udp(GIT)];
    for pod in ["shop/other", "shop/free"] {
        stage.scene.net.serve_pod(&stage.scene.pod(pod), &ports).unwrap();
    }
    let node = stage.scene.node("node-1");
    assert!(node.addresses().contains(&ip(INSIDE[1])), "{:?}", node.addresses());
    stage.scene.net.serve(node.ns(), "node-1", &ports).unwrap();
    let service = |protocol| Service {
        name: "shop/free".to_owned(),
        protocol,
        address: (ip(SERVICE), GIT).into(),
        backends: vec![(ip(BACKEND), GIT).into()],
    };
    node.set_services(&[service(Protocol::Tcp), service(Protocol::Udp)]).unwrap();
    Some(stage)
}

#[test]
fn a_name_has_no_address_inside() {
    let Some(stage) = stage("  - to: [ { fqdns: [ { matchPattern: \"*.example.test\" } ] } ]") else { return };
    for (number, address) in INSIDE.iter().enumerate() {
        let name = format!("r{number}.example.test");
        let answer = stage.look_up("shop/web", &name);
        assert_eq!(answer.data(), [*address], "what is said is not changed: {}", answer.text);
        assert!(stage.is_closed("shop/web", address), "{address}");
        let record = stage.record_of(&name, |_| true);
        assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!("PrivateAddress")), "{record:#}");
        assert_eq!(record["dns"]["addresses"], json!([address]));
    }
    stage.look_up("shop/web", "both.example.test");
    assert!(stage.connects("shop/web", super::SPARE[0]), "the other address of the same answer");
    assert!(stage.is_closed("shop/web", "10.1.0.2"));
}

#[test]
fn a_rule_may_take_what_is_inside() {
    let rule = "  - to: [ { fqdns: [ { matchPattern: \"*.example.test\" } ], allowPrivate: true } ]";
    let Some(stage) = stage(rule) else { return };
    for (number, address) in INSIDE.iter().enumerate() {
        assert!(stage.is_closed("shop/web", address), "{address}: not asked for");
        let name = format!("r{number}.example.test");
        stage.look_up("shop/web", &name);
        assert!(stage.connects("shop/web", address), "{address}");
        let record = stage.record_of(&name, |_| true);
        assert_eq!(record["reason"], "RuleMatched", "{record:#}");
        assert!(stage.reaches("shop/web", address, Protocol::Udp, LONG), "{address}");
    }
}

/// What the kernel judges is the pod behind the Service, and what DNS said is the Service.
#[test]
fn a_services_address_that_a_name_has_is_open() {
    let rule = "  - to: [ { fqdns: [ { matchName: r3.example.test } ], allowPrivate: true } ]";
    let Some(mut stage) = stage(rule) else { return };
    stage.scene.web.serve(stage.scene.pod("shop/free").ns(), "shop/free", 80);
    let service = |port| Service {
        name: "shop/free".to_owned(),
        protocol: Protocol::Tcp,
        address: (ip(SERVICE), port).into(),
        backends: vec![(ip(BACKEND), port).into()],
    };
    stage.scene.node("node-1").set_services(&[service(GIT), service(80), service(LIVE)]).unwrap();
    assert!(!stage.opens_now("shop/web", (ip(SERVICE), GIT).into()));
    stage.look_up("shop/web", "r3.example.test");
    assert!(stage.opens_now("shop/web", (ip(SERVICE), GIT).into()), "by the Service's address");
    assert!(!stage.opens_now("shop/web", (ip(BACKEND), GIT).into()), "the pod behind it is not what the name said");
    assert_eq!(stage.dig("shop/web", RESOLVER[0], "r2.example.test", "A", &[]).status, "REFUSED");
    let web = stage.scene.pod("shop/web");
    let get = |name: &str, address: &str| {
        curl(web.ns(), &format!("http://{name}/named"), &["--connect-to", &format!("::{address}:80")])
    };
    assert_eq!(get("r3.example.test", SERVICE).status, 200, "where names are checked");
    assert_eq!(get("evil.example", SERVICE).status, 403);
    // A flow to the Service outlives a change of policies, and not its rule.
    let listener = stage.scene.pod("shop/free").ns().tcp_listen((ip(BACKEND), LIVE).into()).unwrap();
    let client = web.ns().tcp_connect(None, (ip(SERVICE), LIVE).into(), LONG).unwrap();
    let mut flow = Pair { client, server: listener.accept().unwrap().0 };
    let more = format!("{rule}\n  - to: [ {{ fqdns: [ {{ matchName: www.example.org }} ] }} ]");
    stage.scene.policies(&egress(&more));
    assert_eq!(flow.passes(LONG), (true, true));
    stage.scene.policies(&egress("  - to: [ { fqdns: [ { matchName: www.example.org } ] } ]"));
    assert_eq!(flow.passes(SHORT), (false, false));
}
