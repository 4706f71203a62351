//! The cases about names once more, where the server name of QUIC is looked at.

use std::net::IpAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::corpus::{self, Case};
use crate::engine::{self, Engine};
use crate::reference::{Answer, Cluster, Contents, Question, judge, read};
use crate::worlds::{self, Edit};

/// Names that cases have rules about, and one that none has.
const NAMES: [&str; 3] = ["api.github.com", "www.example.org", "140.82.112.3"];

fn named_addresses(cluster: &Cluster) -> Vec<IpAddr> {
    let names = cluster.objects.iter().filter(|object| object["kind"] == "Name");
    names.flat_map(|name| name["ips"].as_array().into_iter().flatten()).filter_map(read::address).collect()
}

#[test]
fn engine_and_reference_agree_where_quic_is_inspected() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/names.jsonl");
    let (mut judged, mut hanging) = (0, 0);
    for case in corpus::lines(&path).iter().map(Case::read) {
        for state in &case.states {
            let cluster = Cluster { inspects_quic: true, ..state.cluster.clone() };
            let engine = Engine::of_cluster(&cluster, &[]);
            let to = [worlds::addresses(&cluster), named_addresses(&cluster)].concat();
            for (from, to) in worlds::addresses(&cluster).iter().flat_map(|from| to.iter().map(move |to| (*from, *to))) {
                let read = NAMES.iter().map(|name| Contents::Tls(Some(name)));
                let contents = read.chain([Contents::NotRead, Contents::Other, Contents::Tls(None)]);
                for (contents, port) in contents.flat_map(|contents| [443, 444].map(|port| (contents, port))) {
                    let question = Question { from, to, protocol: "UDP", port, icmp: None, contents };
                    let (got, expected) = (engine::judgement(&engine.everything.table, &question), judge(&cluster, &question));
                    let name = &case.name;
                    assert!(engine::agrees(&got, &expected), "{name}\n{question:?}: engine {got:?}, reference {expected:?}");
                    judged += 1;
                    hanging += usize::from(got.answer() == Answer::L7);
                }
            }
        }
    }
    eprintln!("{judged} questions about QUIC, {hanging} of them hang on the server name");
    assert!(hanging > 20);
}

/// The table of docs/names.md, row by row.
#[test]
fn what_is_allowed_by_its_server_name() {
    let rule = |peer: Value| json!({"to": [peer]});
    let egress = json!([
        rule(json!({"fqdns": [{"matchName": "api.example.com"}]})),
        {"to": [{"fqdns": [{"matchName": "tcp.example.com"}]}], "ports": [{"protocol": "TCP", "port": 443}]},
        {"to": [{"fqdns": [{"matchName": "http.example.com"}]}], "http": [{"method": "GET"}]},
        rule(json!({"fqdns": [{"matchName": "any.example.com"}], "nameCheck": "AddressOnly"})),
        rule(json!({"ipBlock": {"cidr": "198.51.100.5/32"}})),
    ]);
    let denying = json!([{"action": "Deny", "to": [{"fqdns": [{"matchName": "api.example.com"}]}]}, {}]);
    let name =
        |number: u8, name: &str| json!({"kind": "Name", "metadata": {"name": name}, "ips": [format!("198.51.100.{number}")]});
    let table = |egress: &Value, inspects_quic: bool| {
        let policy = json!({"apiVersion": "sluice.dev/v1alpha1", "kind": "SluiceNetworkPolicy",
            "metadata": {"name": "p", "namespace": "a"}, "spec": {"podSelector": {}, "policyTypes": ["Egress"], "egress": egress}});
        let objects = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}}),
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "a", "name": "web"},
                "spec": {"containers": []}, "status": {"podIPs": [{"ip": "10.1.0.1"}]}}),
            name(1, "api.example.com"),
            name(2, "tcp.example.com"),
            name(3, "http.example.com"),
            name(4, "any.example.com"),
            policy,
        ];
        let mut cluster = Cluster { inspects_quic, ..Cluster::default() };
        cluster.edit(&objects.map(Edit::Put));
        Engine::of_cluster(&cluster, &[])
    };
    let (api, other, none) = (Contents::Tls(Some("api.example.com")), Contents::Tls(Some("x.test")), Contents::Tls(None));
    let (inspecting, denying, rejecting) = (table(&egress, true), table(&denying, true), table(&egress, false));
    use Answer::{Allow, Deny, L7};
    for (engine, to, contents, expected) in [
        (&inspecting, 1, Contents::NotRead, L7),
        (&inspecting, 1, api, Allow),
        (&inspecting, 1, other, Deny),
        (&inspecting, 1, none, Deny),
        (&inspecting, 1, Contents::Other, Deny),
        // Of another's address, of TCP alone, by its requests.
        (&inspecting, 2, api, Deny),
        (&inspecting, 2, Contents::NotRead, Deny),
        (&inspecting, 3, Contents::NotRead, Deny),
        (&inspecting, 4, Contents::NotRead, Allow),
        (&inspecting, 5, Contents::NotRead, Allow),
        (&denying, 5, Contents::NotRead, L7),
        (&denying, 5, api, Deny),
        (&denying, 1, other, Allow),
        (&denying, 5, Contents::Other, Deny),
        (&rejecting, 1, Contents::NotRead, Deny),
        (&rejecting, 1, api, Deny),
    ] {
        let to = IpAddr::from([198, 51, 100, to]);
        let from = IpAddr::from([10, 1, 0, 1]);
        let question = Question { from, to, protocol: "UDP", port: 443, icmp: None, contents };
        let got = engine::judgement(&engine.everything.table, &question);
        assert_eq!(got.answer(), expected, "{question:?}: {got:?}");
    }
}
