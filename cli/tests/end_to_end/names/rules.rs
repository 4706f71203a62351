//! Rules about look-ups themselves, rules beside them, denials by name, and the cluster administrator's names.

use serde_json::json;
use sluice_testnet::Protocol;
use sluice_testnet::dns::{Authority, Zone};

use super::{API, RESOLVER, SPARE, Stage, WWW, egress, zones};
use crate::client::ip;
use crate::scene::SHORT;

/// Another server than the cluster's.
const SERVER: &str = "198.51.100.53";

fn with_server(stage: &Stage) -> Authority {
    stage.scene.net.add_outside_address(ip(SERVER)).unwrap();
    Authority::start(stage.scene.net.outside(), &[ip(SERVER)], zones()).unwrap()
}

#[test]
fn look_ups_are_allowed_by_name_and_type_at_a_server() {
    let rules = r#"  - to: [ { ipBlock: { cidr: 198.51.100.53/32 } } ]
    ports: [ { protocol: UDP, port: 53 }, { protocol: TCP, port: 53 } ]
    dns: [ { matchName: api.github.com, types: [ A ] }, { matchPattern: "*.example.org" } ]"#;
    let Some(stage) = Stage::start(&egress(rules), &[]) else { return };
    let _server = with_server(&stage);
    let status =
        |server: &str, name: &str, kind: &str, options: &[&str]| stage.dig("shop/web", server, name, kind, options).status;
    for options in [&[][..], &["+tcp"][..]] {
        for (name, kind, expected) in [
            ("api.github.com", "A", "NOERROR"),
            ("API.GitHub.com.", "A", "NOERROR"),
            ("api.github.com", "AAAA", "REFUSED"),
            ("www.example.org", "AAAA", "NOERROR"),
            ("www.example.org", "TXT", "NOERROR"),
            ("a.b.example.org", "A", "REFUSED"),
            ("example.org", "A", "REFUSED"),
        ] {
            assert_eq!(status(SERVER, name, kind, options), expected, "{name} {kind} {options:?}");
            assert_eq!(status(RESOLVER[0], name, kind, options), "REFUSED", "{name} {kind} {options:?} elsewhere");
        }
    }
    assert!(stage.is_closed("shop/web", API[0]), "to ask is not to connect");
    let record = stage.record_of("www.example.org", |record| record["dns"]["type"] == "AAAA" && record["verdict"] == "allow");
    assert_eq!(record["policy"]["rule"], "egress[0].dns[1]", "{record:#}");
}

#[test]
fn what_a_plain_rule_lets_ask_is_learned_from() {
    let rules = "  - to: [ { fqdns: [ { matchName: www.example.org } ] } ]\n  - to: [ { ipBlock: { cidr: 198.51.100.53/32 } } ]\n    \
                 ports: [ { protocol: UDP, port: 53 } ]";
    let Some(stage) = Stage::start(&egress(rules), &[]) else { return };
    let _server = with_server(&stage);
    let elsewhere = stage.dig("shop/web", SERVER, "api.github.com", "A", &[]);
    assert_eq!(elsewhere.data(), [API[0]], "any name may be asked for there: {}", elsewhere.text);
    assert!(stage.is_closed("shop/web", API[0]), "it is no name of a rule");
    assert!(stage.is_closed("shop/web", WWW[0]));
    assert_eq!(stage.dig("shop/web", SERVER, "www.example.org", "A", &[]).data(), [WWW[0]]);
    assert!(stage.connects("shop/web", WWW[0]), "learned there");
    assert_eq!(stage.dig("shop/web", SERVER, "www.example.org", "A", &["+tcp"]).status, "REFUSED", "the rule is of UDP");
    assert_eq!(stage.dig("shop/web", RESOLVER[0], "api.github.com", "A", &[]).status, "REFUSED");
}

#[test]
fn a_denied_name_is_neither_found_nor_reached() {
    let rules = "  - action: Deny\n    to: [ { fqdns: [ { matchName: www.example.org } ] } ]\n  - {}";
    let Some(stage) = Stage::start(&egress(rules), &[]) else { return };
    let _server = with_server(&stage);
    for server in [RESOLVER[0], RESOLVER[1], SERVER] {
        let denied = stage.dig("shop/web", server, "www.example.org", "A", &[]);
        assert_eq!(denied.status, "REFUSED", "{}", denied.text);
        assert!(denied.extended_errors[0].1.contains("shop/outside"), "{}", denied.text);
        assert_eq!(stage.dig("shop/web", server, "api.github.com", "A", &["+tcp"]).data(), [API[0]]);
    }
    let record = stage.record_of("www.example.org", |_| true);
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("deny"), &json!("DeniedByRule")), "{record:#}");
    assert!(stage.connects("shop/web", API[0]) && stage.connects("shop/web", SPARE[0]), "all else is allowed");
    // By another name for the same address it is learned, and shared with what is denied by name alone.
    stage.look_up("shop/web", "shop.example.org");
    assert!(stage.connects("shop/web", WWW[0]));
}

#[test]
fn a_denied_name_that_was_found_earlier_is_closed() {
    let before = egress("  - to: [ { fqdns: [ { matchPattern: \"*.example.org\" } ] } ]");
    let Some(mut stage) = Stage::start(&before, &[]) else { return };
    stage.look_up("shop/web", "www.example.org");
    assert!(stage.connects("shop/web", WWW[0]));
    let rules = "  - action: Deny\n    to: [ { fqdns: [ { matchName: www.example.org } ] } ]\n  - {}";
    stage.scene.policies(&egress(rules));
    assert!(stage.is_closed("shop/web", WWW[0]), "it was learned, and is denied");
    assert!(stage.connects("shop/web", SPARE[0]));
}

const ADMIN: &str = r#"
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: { name: names }
spec:
  tier: Admin
  priority: 10
  subject: { pods: { namespaceSelector: { matchLabels: { kubernetes.io/metadata.name: shop } }, podSelector: { matchLabels: { app: web } } } }
  egress:
  - name: allowed
    action: Accept
    to: [ { domainNames: [ "*.github.com", "inside.example.test" ] } ]
  - name: resolvers
    action: Accept
    to: [ { namespaces: { matchLabels: { kubernetes.io/metadata.name: kube-system } } } ]
  - name: rest
    action: Deny
    to: [ { networks: [ "0.0.0.0/0", "::/0" ] } ]
"#;

#[test]
fn the_administrators_names_lead_wherever_dns_says() {
    let Some(mut stage) = Stage::start(ADMIN, &[]) else { return };
    let zone = |zone: Zone| zone.addresses("inside.example.test", &[ip("10.1.0.3")]);
    stage.authority.change("example.test", zone).unwrap();
    stage.scene.net.serve_pod(&stage.scene.pod("shop/free"), &[sluice_testnet::Port::tcp(super::GIT)]).unwrap();
    assert!(stage.is_closed("shop/web", API[0]));
    assert_eq!(stage.look_up("shop/web", "api.github.com").data(), [API[0]]);
    assert!(stage.connects("shop/web", API[0]));
    assert_eq!(stage.look_up("shop/web", "www.example.org").data(), [WWW[0]], "the resolvers are allowed as pods");
    assert!(stage.is_closed("shop/web", WWW[0]), "no name of the policy");
    assert!(!stage.reaches("shop/web", "10.1.0.3", Protocol::Tcp, SHORT));
    stage.look_up("shop/web", "inside.example.test");
    assert!(stage.connects("shop/web", "10.1.0.3"), "the API says nothing of private addresses");
}
