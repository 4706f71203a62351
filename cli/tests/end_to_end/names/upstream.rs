//! Resolvers by whichever way pods reach them, and resolvers that are slow, mute, gone or lie.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_testnet::dns::{Kind, Message, Record, Reply, Resolver, ResolverOptions, Scripted, Socket, Transport};
use sluice_testnet::{Net, Protocol, Service};

use super::{API, NODE, RESOLVER, SPARE, Stage, egress, to_names};
use crate::client::ip;
use crate::node_processes::{CACHE, put_node_local_dns};
use crate::scene::LONG;

const SERVER: &str = "198.51.100.53";
const CLUSTER_IP: [&str; 2] = ["10.96.0.10", "fd00:96::10"];

#[test]
fn the_resolver_is_asked_by_its_service() {
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &[]) else { return };
    let services: Vec<Service> = CLUSTER_IP
        .into_iter()
        .zip(RESOLVER)
        .flat_map(|(address, backend)| {
            [Protocol::Udp, Protocol::Tcp].map(|protocol| Service {
                name: "kube-system/dns".to_owned(),
                protocol,
                address: (ip(address), 53).into(),
                backends: vec![(ip(backend), 53).into()],
            })
        })
        .collect();
    stage.scene.node(NODE).set_services(&services).unwrap();
    for server in CLUSTER_IP {
        for (kind, address) in ["A", "AAAA"].into_iter().zip(API) {
            for options in [&[][..], &["+tcp"][..]] {
                let answer = stage.dig("shop/web", server, "api.github.com", kind, options);
                assert_eq!(answer.data(), [address], "{server} {options:?}: {}", answer.text);
                let denied = stage.dig("shop/web", server, "www.example.org", kind, options);
                assert_eq!(denied.status, "REFUSED", "{server} {options:?}: {}", denied.text);
            }
        }
        // One socket for many questions, each of which is judged.
        let mut socket = Socket::open(stage.scene.pod("shop/web").ns(), (ip(server), 53).into()).unwrap();
        for round in 0..20 {
            for (name, rcode) in [("api.github.com", 0), ("www.example.org", 5)] {
                let answer = socket.ask(name, Kind::A, LONG).unwrap().unwrap_or_else(|| panic!("{round}: no answer to {name}"));
                assert_eq!(answer.from, (ip(server), 53).into());
                assert_eq!(answer.message().unwrap().rcode, rcode, "{round}: {name}");
            }
        }
    }
    for address in API {
        assert!(stage.connects("shop/web", address));
    }
}

#[test]
fn the_resolver_may_be_on_the_node() {
    let arguments = ["--set", "dns.resolvers=[{ip: 169.254.20.10}, {ip: 198.18.0.1}]"];
    let Some(stage) = Stage::start(&to_names(&["api.github.com"]), &arguments) else { return };
    let node = stage.scene.node(NODE);
    put_node_local_dns(node.ns());
    let options = ResolverOptions::at(&[Net::OUTSIDE_V4], &["github.com", "example.org"]);
    let _resolver = Resolver::start(node.ns(), &[ip(CACHE), node.addresses()[0]], &options).unwrap();
    for server in [CACHE, "198.18.0.1"] {
        for options in [&[][..], &["+tcp"][..]] {
            for pod in ["shop/web", "shop/free"] {
                let answer = stage.dig(pod, server, "api.github.com", "A", options);
                assert_eq!(answer.data(), [API[0]], "{pod} {server} {options:?}: {}", answer.text);
            }
            let denied = stage.dig("shop/web", server, "www.example.org", "A", options);
            assert_eq!(denied.status, "REFUSED", "{server} {options:?}: {}", denied.text);
        }
    }
    assert!(stage.connects("shop/web", API[0]));
    assert_eq!(stage.dig("shop/web", RESOLVER[0], "api.github.com", "A", &[]).status, "REFUSED", "no longer a resolver");
}

/// `web` may ask this server for anything, and connect to the names below `example.test`.
fn scripted(script: impl FnMut(&sluice_testnet::dns::Query) -> Vec<Reply> + Send + 'static) -> Option<(Scripted, Stage)> {
    let rules = "  - to: [ { fqdns: [ { matchPattern: \"**.example.test\" } ] } ]\n  - to: [ { ipBlock: { cidr: 198.51.100.53/32 } } ]\n    \
                 ports: [ { protocol: UDP, port: 53 }, { protocol: TCP, port: 53 } ]";
    let stage = Stage::start(&egress(rules), &[])?;
    stage.scene.net.add_outside_address(ip(SERVER)).unwrap();
    let server = Scripted::start(stage.scene.net.outside(), &[(ip(SERVER), 53).into()], script).unwrap();
    Some((server, stage))
}

#[test]
fn a_server_that_says_nothing_is_said_so() {
    let script = |query: &sluice_testnet::dns::Query| {
        let asked = query.message().expect("DNS");
        let name = asked.questions[0].name.clone();
        let answer = Reply::message(&asked.reply().answer(Record::address(&name, 60, ip(SPARE[0]))));
        match name.as_str() {
            "mute.example.test" => Vec::new(),
            "slow.example.test" => vec![answer.after(Duration::from_secs(2))],
            "hangs-up.example.test" => vec![Reply::close()],
            _ => vec![answer],
        }
    };
    let Some((server, stage)) = scripted(script) else { return };
    std::thread::scope(|scope| {
        for options in [&[][..], &["+tcp"][..]] {
            let stage = &stage;
            scope.spawn(move || {
                let began = Instant::now();
                let mute = stage.dig("shop/web", SERVER, "mute.example.test", "A", options);
                assert_eq!(mute.status, "SERVFAIL", "{}", mute.text);
                assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
                assert!(
                    mute.extended_errors.iter().any(|(code, text)| *code == 22 && text.contains("didn't answer")),
                    "{}",
                    mute.text
                );
                let slow = stage.dig("shop/web", SERVER, "slow.example.test", "A", options);
                assert_eq!(slow.data(), [SPARE[0]], "{}", slow.text);
                assert!(stage.opens_now("shop/web", (ip(SPARE[0]), super::GIT).into()));
            });
        }
    });
    let hung_up = stage.dig("shop/web", SERVER, "hangs-up.example.test", "A", &["+tcp"]);
    assert_eq!(hung_up.status, "SERVFAIL", "{}", hung_up.text);
    let record = stage.record_of("mute.example.test", |record| record["protocol"] == "UDP");
    let said = (&record["verdict"], &record["reason"], &record["dns"]["rcode"]);
    assert_eq!(said, (&json!("allow"), &json!("NoAnswer"), &json!("SERVFAIL")), "{record:#}");
    drop(server);
    for options in [&[][..], &["+tcp"][..]] {
        let began = Instant::now();
        let gone = stage.dig("shop/web", SERVER, "gone.example.test", "A", options);
        assert_eq!(gone.status, "SERVFAIL", "{}", gone.text);
        assert!(began.elapsed() < Duration::from_secs(5), "a closed port: {:?}", began.elapsed());
    }
}

/// What comes for no question of the pod's is dropped, and the true answer behind it is believed.
#[test]
fn lies_teach_nothing() {
    let script = |query: &sluice_testnet::dns::Query| {
        let asked = query.message().expect("DNS");
        let name = asked.questions[0].name.clone();
        let lie = asked.reply().answer(Record::address(&name, 60, ip(SPARE[1])));
        let truth =
            Reply::message(&asked.reply().answer(Record::address(&name, 60, ip(SPARE[0])))).after(Duration::from_millis(200));
        let lied =
            match name.split('.').next().unwrap_or_default() {
                "id" => Reply::message(&Message { id: asked.id.wrapping_add(1), ..lie }),
                "name" => Reply::message(
                    &Message { id: asked.id, ..Message::query(0, "other.example.test", Kind::A).reply() }
                        .answer(Record::address("other.example.test", 60, ip(SPARE[1]))),
                ),
                "type" => Reply::message(
                    &Message { id: asked.id, ..Message::query(0, &name, Kind::AAAA).reply() }.answer(Record::address(
                        &name,
                        60,
                        ip(SPARE[1]),
                    )),
                ),
                "port" => Reply::message(&lie).from((ip(SERVER), 5353).into()),
                "server" => Reply::message(&lie).from((ip(SPARE[3]), 53).into()),
                // A record of somebody else's name beside the right one.
                "foreign" => {
                    return vec![Reply::message(
                        &asked.reply().answer(Record::address("bank.example.test", 60, ip(SPARE[1]))).answer(Record::address(
                            &name,
                            60,
                            ip(SPARE[0]),
                        )),
                    )];
                }
                "loop" => {
                    return vec![Reply::message(
                        &asked
                            .reply()
                            .answer(Record::alias(&name, 60, "x.example.test"))
                            .answer(Record::alias("x.example.test", 60, &name))
                            .answer(Record::address("y.example.test", 60, ip(SPARE[1]))),
                    )];
                }
                other => panic!("{other}"),
            };
        vec![lied, truth]
    };
    let Some((server, stage)) = scripted(script) else { return };
    let web = stage.scene.pod("shop/web");
    for case in ["id", "name", "type", "port", "server", "foreign"] {
        let mut socket = Socket::open(web.ns(), (ip(SERVER), 53).into()).unwrap();
        let answer = socket.ask(&format!("{case}.example.test"), Kind::A, LONG).unwrap().expect("an answer").message().unwrap();
        assert!(answer.addresses().contains(&ip(SPARE[0])), "{case}: {answer:?}");
        assert!(socket.receive(Duration::from_millis(100)).unwrap().is_none(), "{case}: one answer");
        assert!(stage.connects("shop/web", SPARE[0]), "{case}");
        assert!(stage.is_closed("shop/web", SPARE[1]), "{case}");
    }
    let mut socket = Socket::open(web.ns(), (ip(SERVER), 53).into()).unwrap();
    assert!(socket.ask("loop.example.test", Kind::A, LONG).unwrap().is_some());
    assert!(stage.is_closed("shop/web", SPARE[1]), "a loop");
    assert_eq!(server.troubles(), [""; 0]);
    assert!(
        server.queries().iter().all(|query| query.transport == Transport::Udp && query.from.ip() == ip("10.1.0.1")),
        "as the pod"
    );
}
