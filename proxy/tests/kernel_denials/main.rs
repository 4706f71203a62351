//! What the kernel denies, as records: real packets, real reports, and sums that come out.

#![expect(clippy::unwrap_used, reason = "a test that can't go on shall say where")]

mod audit;
#[path = "../kernel_stage/mod.rs"]
mod kernel_stage;
mod watch;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::Arc;

use expect_test::expect;
use kernel_stage::packet::forge;
use kernel_stage::{Stage, edits, ip, possible};
use serde_json::{Value, json};
use sluice_proxy::kernel::{Config, Deny, Log};
use sluice_testnet::Protocol::{Icmp, Sctp, Tcp, Udp};
use sluice_testnet::{Netns, Outcome, Pod, wait_until};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use watch::{LONG, Watch};

const PER_SECOND: u32 = 10;

const POLICIES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: {name: production}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: production}
spec:
  podSelector: {matchLabels: {app: backend}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    ports: [{protocol: TCP, port: 8080}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: names, namespace: production}
spec:
  podSelector: {matchLabels: {app: backend}}
  policyTypes: [Ingress]
  ingress:
  - ports: [{protocol: UDP, port: 53}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: shut, namespace: production}
spec:
  podSelector: {matchLabels: {app: shut}}
  policyTypes: [Egress]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: no-metrics, namespace: production}
spec:
  podSelector: {matchLabels: {app: free}}
  egress:
  - to: [{podSelector: {matchLabels: {app: other}}}]
  - action: Deny
    to: [{podSelector: {matchLabels: {app: other}}}]
    ports: [{protocol: TCP, port: 9090}]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: read, namespace: production}
spec:
  podSelector: {matchLabels: {app: read}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: frontend}}}]
    http: [{method: GET}]
"#;

fn log() -> Log {
    Log { group: 15_001, per_second: NonZeroU32::new(PER_SECOND).unwrap(), passed: false }
}

fn config() -> Config {
    Config { log: Some(log()), ..Config::default() }
}

struct Scene {
    stage: Stage,
    watch: Watch,
    frontend: Pod,
    backend: Pod,
    shut: Pod,
    free: Pod,
}

/// Pods of both families, 10.0.1.N and fd00:1::N.
fn pods(stage: &mut Stage) -> [Pod; 4] {
    let mut pod = |name: &str, n: u8| {
        let addresses = [format!("10.0.1.{n}"), format!("fd00:1::{n}")];
        stage.pod(&format!("production/{name}"), &addresses.each_ref().map(String::as_str))
    };
    let known = [pod("frontend", 1), pod("backend", 2), pod("shut", 3), pod("free", 4)];
    pod("other", 5);
    pod("read", 6);
    stage.engine.edit(edits(POLICIES));
    known
}

/// All of them, and somebody who listens.
fn scene(config: Config) -> Scene {
    let mut stage = Stage::new(config.clone());
    let [frontend, backend, shut, free] = pods(&mut stage);
    let watch = Watch::start(stage.node.ns(), &stage.engine.table, config.log.unwrap());
    stage.apply_whole();
    Scene { stage, watch, frontend, backend, shut, free }
}

/// What packets of allowed flows meet, as `nft` lists it.
fn way_of_the_allowed(stage: &Stage) -> String {
    const CHAINS: [&str; 11] = [
        "prerouting",
        "output",
        "forward",
        "arriving",
        "from_pod",
        "first_seen",
        "live",
        "established",
        "judge",
        "inspect",
        "divert",
    ];
    let listing = stage.listing();
    let chains = listing.split("\n\tchain ").skip(1);
    let met: Vec<&str> = chains.filter(|chain| CHAINS.iter().any(|name| chain.starts_with(name))).collect();
    assert!(met.len() > CHAINS.len(), "{listing}");
    met.join("\n")
}

fn by(kind: &str, name: &str, rule: Option<&str>) -> Value {
    let mut by = json!({"kind": kind, "namespace": "production", "name": name});
    if let Some(rule) = rule {
        by["rule"] = rule.into();
    }
    by
}

/// An IP packet's payload of any protocol, as CAP_NET_RAW sends it.
fn send_raw(ns: &Netns, to: IpAddr, protocol: i32, payload: &[u8]) {
    ns.run(|| {
        let to = SocketAddr::new(to, 0);
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(protocol))).unwrap();
        socket.send_to(payload, &SockAddr::from(to)).unwrap();
    });
}

#[test]
fn a_denial_names_policy_rule_direction_and_pods() {
    if !possible() {
        return;
    }
    let Scene { stage, watch, frontend, backend: _, shut, free } = scene(config());
    for (family, prefix) in [(0, "10.0.1."), (1, "fd00:1::")] {
        let at = |n: u8| format!("{prefix}{n}");
        let [front, back, shut_at, free_at, other, read] = [1, 2, 3, 4, 5, 6].map(at);
        let outcomes = stage.probe(&[
            (&frontend, &back, 8080, Tcp),
            (&frontend, &back, 80, Tcp),
            (&frontend, &back, 5353, Udp),
            (&frontend, &back, 132, Sctp),
            (&frontend, &back, 0, Icmp),
            (&shut, &other, 8080, Tcp),
            (&free, &other, 80, Tcp),
            (&free, &other, 9090, Tcp),
            (&frontend, &read, 53, Udp),
        ]);
        let through: Vec<bool> = outcomes.iter().map(Outcome::is_connected).collect();
        assert_eq!(through, [true, false, false, false, false, false, true, false, false], "{outcomes:?}");

        // Isolated by two: both are named, and no one rule.
        for (port, protocol) in [(80, "TCP"), (5353, "UDP"), (132, "SCTP"), (0, "ICMP")] {
            let record = watch.record(&front, port, protocol);
            assert_eq!(record["type"], "connection");
            assert_eq!(
                (&record["verdict"], &record["reason"], &record["direction"]),
                (&json!("deny"), &json!("NoRuleMatched"), &json!("ingress")),
                "{record:#}"
            );
            assert_eq!(
                record["policies"],
                json!([by("NetworkPolicy", "names", None), by("NetworkPolicy", "web", None)]),
                "{record:#}"
            );
            assert_eq!(record["source"]["pod"], "frontend");
            assert_eq!(
                (&record["destination"]["pod"], &record["destination"]["namespace"]),
                (&json!("backend"), &json!("production"))
            );
            assert_eq!(record["destination"]["ip"], back);
            assert_eq!(record["source"]["port"].as_u64().unwrap() > 0, protocol != "ICMP", "{record:#}");
            assert_eq!((&record["node"], record["id"].as_str().unwrap().len()), (&json!("node-1"), 16));
        }
        let record = watch.record(&shut_at, 8080, "TCP");
        assert_eq!((&record["reason"], &record["direction"]), (&json!("NoRuleMatched"), &json!("egress")));
        assert_eq!(record["policy"], by("NetworkPolicy", "shut", None), "{record:#}");
        let record = watch.record(&free_at, 9090, "TCP");
        assert_eq!((&record["reason"], &record["direction"]), (&json!("DeniedByRule"), &json!("egress")));
        assert_eq!(record["policy"], by("SluiceNetworkPolicy", "no-metrics", Some("egress[1]")), "{record:#}");
        // Only TCP can be read: a rule about requests allows nothing else.
        let record = watch.record(&front, 53, "UDP");
        assert_eq!((&record["reason"], &record["direction"]), (&json!("NoRuleMatched"), &json!("ingress")));
        assert_eq!(record["policy"], by("SluiceNetworkPolicy", "read", None), "{record:#}");

        // Another protocol, by its number; a datagram in fragments, with its ports.
        send_raw(frontend.ns(), ip(&back), 47, &[0; 8]);
        let record = watch.record(&front, 0, "47");
        assert_eq!(record["destination"]["pod"], "backend");
        let socket = frontend.ns().udp_bind(SocketAddr::new(frontend.addresses()[family], 0)).unwrap();
        socket.send_to(&[7; 4000], SocketAddr::new(ip(&back), 7007)).unwrap();
        let record = watch.record(&front, 7007, "UDP");
        assert_eq!(record["source"]["port"], socket.local_addr().unwrap().port());
    }
    // What was allowed has no record.
    assert!(watch.records().iter().all(|record| record["verdict"] == "deny"));
    // The counters are read now and then.
    let denials = r#"sluice_kernel_denials_total{reason="NoRuleMatched",direction="ingress"}"#;
    assert!(
        sluice_testnet::wait_until(std::time::Duration::from_secs(10), || watch.metrics().contains(denials)),
        "{}",
        watch.metrics()
    );
    let metrics = watch.metrics();
    assert!(metrics.contains("sluice_kernel_log_listening 1"), "{metrics}");
}

#[test]
fn packets_that_are_dropped_without_a_policy_say_why() {
    if !possible() {
        return;
    }
    let Scene { stage, watch, frontend, shut, .. } = scene(config());
    let stranger = stage.stranger("production/stranger", &["10.0.1.77", "fd00:1::77"]);
    let at = |address: &str, port| SocketAddr::new(ip(address), port);
    let without_policy = |record: &Value| {
        assert_eq!(record["verdict"], "deny");
        assert_eq!((&record["policy"], &record["direction"]), (&Value::Null, &Value::Null), "{record:#}");
    };
    for (index, prefix) in ["10.0.1.", "fd00:1::"].into_iter().enumerate() {
        let pod = |n: u8| format!("{prefix}{n}");
        let number = u16::try_from(index).unwrap();
        // As a neighbour, and as a pod from outside.
        forge(shut.ns(), at(&pod(1), 4000), at(&pod(2), 7001 + number), &[], "forged");
        forge(stage.net.outside(), at(&pod(1), 4000), at(&pod(2), 7003 + number), &[], "forged");
        for port in [7001, 7003] {
            let record = watch.record(&pod(1), port + number, "UDP");
            assert_eq!(record["reason"], "ForgedSource");
            assert_eq!(record["source"]["pod"], Value::Null, "it is not that pod's: {record:#}");
            assert!(record["interface"].as_str().is_some_and(|name| !name.is_empty()), "{record:#}");
            without_policy(&record);
        }
        // From and to a pod that nobody told us of.
        let strange = stranger.addresses()[index].to_string();
        stage.probe(&[(&stranger, &pod(5), 8080, Tcp), (&frontend, &strange, 9090, Tcp)]);
        for record in [watch.record(&strange, 8080, "TCP"), watch.record(&pod(1), 9090, "TCP")] {
            assert_eq!(record["reason"], "UnknownPod");
            without_policy(&record);
        }
        // What has to be read, and nobody reads.
        stage.probe(&[(&frontend, &pod(6), 80, Tcp)]);
        let record = watch.record(&pod(1), 80, "TCP");
        assert_eq!((&record["reason"], &record["destination"]["pod"]), (&json!("ProxyNotListening"), &json!("read")));
        without_policy(&record);
    }
    // Loose source route by way of the node, with room for one address.
    let route = [131, 7, 4, 10, 0, 1, 2, 0];
    forge(frontend.ns(), at("10.0.1.1", 4000), at("10.0.1.5", 7010), &route, "routed");
    without_policy(&watch.with_reason("SourceRouted"));
    assert_eq!(watch.with_reason("SourceRouted")["destination"]["port"], 7010);
}

#[test]
fn a_flood_takes_no_more_than_its_ration_and_is_counted_to_the_last_packet() {
    const PACKETS: u64 = 20_000;
    if !possible() {
        return;
    }
    let Scene { stage, watch, frontend, backend: _, shut, free } = scene(config());
    let started = std::time::Instant::now();
    let socket = shut.ns().udp_bind("10.0.1.3:4444".parse().unwrap()).unwrap();
    for packet in 0..PACKETS {
        if packet == PACKETS / 2 {
            let tried = stage.probe(&[(&free, "10.0.1.5", 9090, Tcp), (&frontend, "10.0.1.2", 80, Tcp)]);
            assert!(tried.iter().all(|outcome| *outcome == Outcome::Timeout), "{tried:?}");
        }
        let port = 10_000 + u16::try_from(packet % 20_000).unwrap();
        // Each a flow of its own: none is another's repetition. A full queue of the device may say so.
        while socket.send_to(b"flood", ("10.0.1.5", port)).is_err() {
            std::thread::yield_now();
        }
    }
    let flooded = started.elapsed();
    // Others were heard in the midst of it.
    for (from, port) in [("10.0.1.4", 9090), ("10.0.1.1", 80)] {
        watch.record(from, port, "TCP");
    }
    assert!(wait_until(LONG, || watch.told("10.0.1.3") == PACKETS), "{} of {PACKETS}", watch.told("10.0.1.3"));
    let seconds = u32::try_from(started.elapsed().as_secs()).unwrap() + 1;
    let records = watch.records().iter().filter(|record| record["source"]["ip"] == "10.0.1.3").count();
    assert!(records <= usize::try_from(PER_SECOND * (seconds + 2)).unwrap() + 2, "{records} in {seconds} s");
    println!("{PACKETS} packets in {flooded:?}: {records} records");
    let metrics = watch.metrics();
    let total = format!("sluice_kernel_denials_total{{reason=\"NoRuleMatched\",direction=\"egress\"}} {PACKETS}");
    assert!(metrics.contains(&total), "{metrics}");

    // Forged sources, each another: by the interface, they are one sender.
    let before = watch.records().len();
    for forged in 0..2_000_u32 {
        let source = IpAddr::from((0x0a01_0000 + forged).to_be_bytes());
        forge(shut.ns(), SocketAddr::new(source, 1), "10.0.1.5:7".parse().unwrap(), &[], "x");
    }
    let told = || -> u64 {
        let records = watch.records();
        let forged = records[before..].iter().filter(|record| record["reason"] == "ForgedSource");
        forged.map(|record| 1 + record["suppressed"].as_u64().unwrap_or_default()).sum()
    };
    assert!(wait_until(LONG, || told() == 2_000), "{} of 2000", told());
    assert!(watch.records().len() - before < 200);
}

#[test]
fn what_is_left_to_say_is_said_at_the_end() {
    if !possible() {
        return;
    }
    let Scene { stage: _stage, watch, frontend: _, backend: _, shut, free: _ } = scene(config());
    let socket = shut.ns().udp_bind("10.0.1.3:4444".parse().unwrap()).unwrap();
    for _ in 0..300 {
        socket.send_to(b"again", "10.0.1.5:53").unwrap();
    }
    let records = watch.finish();
    let told: u64 = records.iter().map(|record| 1 + record["suppressed"].as_u64().unwrap_or_default()).sum();
    assert_eq!((records.len(), told), (2, 300), "{records:#?}");
}

#[test]
fn a_witness_that_is_not_there_changes_no_verdict() {
    if !possible() {
        return;
    }
    // Rejected, because a refusal shows that the last rules are still met.
    let Scene { stage, watch, frontend, backend, .. } = scene(Config { deny: Deny::Reject, ..config() });
    let rows = [(&frontend, "10.0.1.2", 80, Tcp), (&frontend, "10.0.1.2", 5353, Udp)];
    let refused = |when: &str| {
        let outcomes = stage.probe(&rows);
        assert!(matches!(outcomes[..], [Outcome::Refused, Outcome::Unreachable(_) | Outcome::Refused]), "{when}: {outcomes:?}");
    };
    refused("with a witness");
    watch.record("10.0.1.1", 80, "TCP");
    watch.finish();
    refused("without");
    // Far beyond the limit, and then into sets that take nobody any more.
    let socket = frontend.ns().udp_bind("10.0.1.1:4444".parse().unwrap()).unwrap();
    for _ in 0..500 {
        let _ = socket.send_to(b"flood", SocketAddr::new(backend.addresses()[0], 5353));
    }
    refused("beyond the limit");
    let full: Vec<String> = (0..8_192_u32).map(|n| IpAddr::from((0x0b00_0000 + n).to_be_bytes()).to_string()).collect();
    for _ in 0..2 {
        let ns = stage.node.ns();
        ns.exec("nft", &["flush", "set", "inet", "sluice", "reported_ingress_v4"]).unwrap();
        for part in full.chunks(1_000) {
            let elements = format!("{{ {} }}", part.join(", "));
            ns.exec("nft", &["add", "element", "inet", "sluice", "reported_ingress_v4", &elements]).unwrap();
        }
    }
    refused("with a full set");
    let listing = stage.listing();
    assert!(!listing.contains("10.0.1.2 timeout"), "the set was not full");
}

#[test]
fn allowed_flows_meet_no_rule_more_unless_records_of_them_are_wanted() {
    if !possible() {
        return;
    }
    let mut silent = Stage::new(Config::default());
    pods(&mut silent);
    silent.apply_whole();
    let Scene { stage, .. } = scene(config());
    let listing = stage.listing();
    let chain = listing.split("\n\tchain ").find(|chain| chain.starts_with("isolated_egress "));
    expect![[r#"
        isolated_egress {
        		update @reported_egress_v4 { ip saddr timeout 10m counter limit rate 10/second burst 20 packets } log prefix "sluice NoRuleMatched egress" group 15001 snaplen 128 queue-threshold 16
        		update @reported_egress_v6 { ip6 saddr timeout 10m counter limit rate 10/second burst 20 packets } log prefix "sluice NoRuleMatched egress" group 15001 snaplen 128 queue-threshold 16
        		counter name "isolated_egress" drop
        	}
    "#]].assert_eq(chain.unwrap());
    assert_eq!(way_of_the_allowed(&stage), way_of_the_allowed(&silent));
    let scene = scene(Config { log: Some(Log { passed: true, ..log() }), ..Config::default() });
    let with_passed = way_of_the_allowed(&scene.stage);
    assert_eq!(with_passed.matches(" log ").count(), 4, "{with_passed}");

    let Scene { stage, watch, frontend, free, .. } = &scene;
    stage.expect(&[
        (frontend, "10.0.1.2", 8080, Tcp, true),
        (free, "10.0.1.5", 80, Tcp, true),
        (frontend, "10.0.1.2", 80, Tcp, false),
    ]);
    let record = watch.record("10.0.1.1", 8080, "TCP");
    assert_eq!((&record["verdict"], &record["reason"]), (&json!("allow"), &json!("RuleMatched")));
    assert_eq!(record["policy"], by("NetworkPolicy", "web", Some("ingress[0]")), "{record:#}");
    assert_eq!(record["direction"], Value::Null);
    assert_eq!(watch.record("10.0.1.4", 80, "TCP")["policy"]["name"], "no-metrics");
    assert_eq!(watch.record("10.0.1.1", 80, "TCP")["verdict"], "deny");
}

#[test]
fn a_group_that_another_has_is_taken_over_once_it_is_free() {
    if !possible() {
        return;
    }
    let Scene { stage, watch, shut, .. } = scene(config());
    let second = Watch::start(stage.node.ns(), &stage.engine.table, log());
    assert!(second.metrics().contains("sluice_kernel_log_listening 0"));
    let socket = shut.ns().udp_bind("10.0.1.3:4444".parse().unwrap()).unwrap();
    socket.send_to(b"one", "10.0.1.5:53").unwrap();
    watch.record("10.0.1.3", 53, "UDP");
    watch.finish();
    assert!(wait_until(LONG, || second.metrics().contains("sluice_kernel_log_listening 1")));
    socket.send_to(b"two", "10.0.1.5:5353").unwrap();
    second.record("10.0.1.3", 5353, "UDP");
}

#[test]
fn where_the_table_has_changed_since_no_policy_is_named() {
    if !possible() {
        return;
    }
    let Scene { mut stage, watch, shut, .. } = scene(config());
    // The engine has heard that the policy is gone; the kernel has not.
    let gone = edits(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: shut, namespace: production}\n\
                      spec: {podSelector: {matchLabels: {app: nobody}}, policyTypes: [Egress]}\n",
    );
    stage.engine.edit(gone);
    watch.tables.send_replace(Arc::new(stage.engine.table.clone()));
    let outcomes = stage.probe(&[(&shut, "10.0.1.5", 8080, Tcp)]);
    assert_eq!(outcomes, [Outcome::Timeout]);
    let record = watch.record("10.0.1.3", 8080, "TCP");
    assert_eq!((&record["reason"], &record["direction"]), (&json!("NoRuleMatched"), &json!("egress")), "{record:#}");
    assert_eq!((&record["policy"], &record["policies"]), (&Value::Null, &Value::Null));
}
