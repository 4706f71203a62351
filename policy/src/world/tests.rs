use std::sync::Arc;

use super::*;
use crate::flow::{Flow, Protocol};
use crate::label::{Requirement, Selector};
use crate::source::{Action, Namespaces, PolicyKind, Rule, Tier};
use crate::table::Table;
use crate::verdict::Decision;
use crate::view::{Scope, View};

fn pod(name: &str, ip: &str, node: &str, labels: &[(&str, &str)]) -> Edit {
    Edit::Put(Object::Pod(Pod {
        reference: reference(name),
        labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
        ips: vec![ip.parse().unwrap()],
        node: Some(node.into()),
        host_network: false,
        finished: false,
        service_account: "default".into(),
        ports: Vec::new(),
    }))
}

fn reference(name: &str) -> PodRef {
    PodRef { namespace: "n".into(), name: name.into() }
}

fn app(value: &str) -> PodSelector {
    PodSelector { namespaces: Namespaces::Named("n".into()), pods: Selector::new([Requirement::equals("app", value)]) }
}

fn policy_ref(name: &str) -> PolicyRef {
    PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "n".into(), name: name.into() }
}

/// `subject` takes connections from `from` alone.
fn allow(name: &str, subject: &str, from: &str) -> Edit {
    let rule = Rule {
        direction: Direction::Ingress,
        path: "ingress[0]".into(),
        action: Action::Allow,
        peers: Some(vec![source::Peer::Pods(app(from))]),
        ports: None,
        l7: None,
    };
    Edit::Put(Object::Policy(Policy {
        reference: policy_ref(name),
        tier: Tier::Additive,
        subject: app(subject),
        ingress: true,
        egress: false,
        audit: false,
        expires: None,
        rules: vec![rule],
    }))
}

fn decide(table: &Table, from: &str, to: &str) -> Decision {
    let flow = Flow {
        source: from.parse().unwrap(),
        destination: to.parse().unwrap(),
        protocol: Protocol::Tcp,
        destination_port: 80,
        icmp: None,
        names: &[],
        request: None,
    };
    table.verdict(&flow).decision()
}

#[test]
fn a_new_pod_of_a_known_kind_is_one_line() {
    let mut world = World::new();
    world.apply([
        allow("p", "web", "front"),
        pod("web", "10.0.0.1", "a", &[("app", "web")]),
        pod("f1", "10.0.0.2", "b", &[("app", "front"), ("i", "1")]),
    ]);
    let mut view = View::new(Scope::Node("a".into()));
    let (table, _) = Table::empty().apply(&view.snapshot(&world)).unwrap();
    assert_eq!(decide(&table, "10.0.0.2", "10.0.0.1"), Decision::Allow);
    assert_eq!(decide(&table, "10.0.0.3", "10.0.0.1"), Decision::Deny);
    let effects = world.apply([pod("f2", "10.0.0.3", "b", &[("app", "front"), ("i", "2")])]);
    let changes = view.delta(&world, &effects);
    assert!(matches!(changes.as_slice(), [snapshot::Change::PutEndpoint(..)]), "{changes:?}");
    let (table, _) = table.apply(&changes).unwrap();
    assert_eq!(decide(&table, "10.0.0.3", "10.0.0.1"), Decision::Allow);
}

#[test]
fn a_node_hears_only_of_what_its_policies_name() {
    let mut world = World::new();
    world.apply([
        allow("p", "web", "front"),
        pod("web", "10.0.0.1", "a", &[("app", "web")]),
        pod("other", "10.0.0.9", "b", &[("app", "other")]),
    ]);
    let mut view = View::new(Scope::Node("b".into()));
    let (table, _) = Table::empty().apply(&view.snapshot(&world)).unwrap();
    assert_eq!((table.policy_count(), table.endpoint_count()), (0, 1));
    let effects = world.apply([pod("f", "10.0.0.2", "c", &[("app", "front")])]);
    assert_eq!(view.delta(&world, &effects), []);
}

#[test]
fn a_split_gives_the_smaller_part_a_new_number() {
    let mut world = World::new();
    world.apply((0..5).map(|n| {
        pod(&format!("p{n}"), &format!("10.0.0.{n}"), "a", &[("app", if n == 0 { "web" } else { "x" }), ("i", &n.to_string())])
    }));
    let identity = |world: &World, n: u8| world.endpoint(format!("10.0.0.{n}").parse().unwrap(), None).unwrap().identity;
    let before = identity(&world, 1);
    assert_eq!(identity(&world, 0), before);
    world.apply([allow("p", "web", "x")]);
    assert_ne!(identity(&world, 0), before);
    assert!((1..5).all(|n| identity(&world, n) == before));
}

#[test]
fn what_is_removed_leaves_nothing_behind() {
    let mut world = World::new();
    let mut view = View::new(Scope::Node("a".into()));
    let (empty, _) = Table::empty().apply(&view.snapshot(&world)).unwrap();
    let steps = [
        pod("web", "10.0.0.1", "a", &[("app", "web")]),
        allow("p", "web", "front"),
        pod("front", "10.0.0.2", "b", &[("app", "front")]),
        allow("q", "web", "other"),
        allow("p", "web", "other"),
        Edit::Remove(Key::Policy(policy_ref("p"))),
        Edit::Remove(Key::Pod(reference("web"))),
        Edit::Remove(Key::Policy(policy_ref("q"))),
        Edit::Remove(Key::Pod(reference("front"))),
    ];
    let mut table = empty.clone();
    for step in steps {
        let effects = world.apply([step]);
        table = table.apply(&view.delta(&world, &effects)).unwrap().0;
        let fresh = Table::empty().apply(&View::new(Scope::Node("a".into())).snapshot(&world)).unwrap().0;
        assert_eq!(sorted(&table), sorted(&fresh));
    }
    assert_eq!(sorted(&table), sorted(&empty));
    assert!(world.identities.is_empty() && world.programs.is_empty() && world.by_answers.is_empty());
}

fn sorted(table: &Table) -> Vec<String> {
    let mut all: Vec<_> = table.to_changes().iter().map(|c| format!("{c:?}")).collect();
    all.sort();
    all
}

#[test]
fn two_live_pods_with_one_address_are_closed() {
    let mut world = World::new();
    world.apply([pod("a", "10.0.0.1", "a", &[]), pod("b", "10.0.0.1", "a", &[]), pod("c", "10.0.0.2", "a", &[])]);
    let mut view = View::new(Scope::Everything);
    let (table, _) = Table::empty().apply(&view.snapshot(&world)).unwrap();
    assert_eq!(decide(&table, "10.0.0.2", "10.0.0.1"), Decision::Deny);
    assert_eq!(decide(&table, "10.0.0.1", "10.0.0.2"), Decision::Deny);
    let effects = world.apply([Edit::Remove(Key::Pod(PodRef { namespace: "n".into(), name: Arc::from("a") }))]);
    let (table, _) = table.apply(&view.delta(&world, &effects)).unwrap();
    assert_eq!(decide(&table, "10.0.0.2", "10.0.0.1"), Decision::Allow);
}

#[test]
fn a_name_has_no_address_of_the_cluster_as_long_as_it_is_one() {
    let known = |ips: &[&str]| {
        let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
        Edit::Put(Object::Name(source::KnownName { name: "a.example".into(), ips }))
    };
    let node = |ips: &[&str], ranges: &[&str]| {
        Edit::Put(Object::Node(Node {
            name: "a".into(),
            labels: Labels::new(),
            ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
            pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        }))
    };
    let peer = |allow_private| {
        let patterns = vec![source::NamePattern::glob("a.example")];
        source::Peer::Names(source::Named { patterns, allow_private, name_check: false })
    };
    let policy = |action, peer| {
        let rule = Rule {
            direction: Direction::Egress,
            action,
            peers: Some(vec![peer]),
            path: "egress[0]".into(),
            ports: None,
            l7: None,
        };
        Edit::Put(Object::Policy(Policy {
            reference: policy_ref("p"),
            tier: Tier::Additive,
            subject: app("web"),
            ingress: false,
            egress: true,
            audit: false,
            expires: None,
            rules: vec![rule],
        }))
    };
    let mut world = World::new();
    let mut view = View::new(Scope::Everything);
    let (mut table, _) = Table::empty().apply(&view.snapshot(&world)).unwrap();
    const NAMED: [&str; 3] = ["203.0.113.1", "203.0.113.2", "203.0.113.70"];
    let mut check = |edits: Vec<Edit>, what: &str, expected: [bool; 3]| {
        let effects = world.apply(edits);
        table = table.apply(&view.delta(&world, &effects)).unwrap().0;
        let allowed = NAMED.map(|ip| decide(&table, "10.0.0.1", ip) == Decision::Allow);
        assert_eq!(allowed, expected, "{what}");
    };
    let web = pod("web", "10.0.0.1", "a", &[("app", "web")]);
    check(vec![web, policy(Action::Allow, peer(false))], "nobody has looked the name up", [false; 3]);
    check(vec![known(&NAMED)], "it has three addresses", [true; 3]);
    check(vec![pod("other", "203.0.113.1", "b", &[])], "a pod comes to one", [false, true, true]);
    check(vec![node(&["203.0.113.2"], &["203.0.113.64/26"])], "a node has one, and a range around another", [false; 3]);
    check(vec![policy(Action::Allow, peer(true))], "the rule says so", [true; 3]);
    check(vec![policy(Action::Allow, peer(false)), node(&[], &[])], "the node has none any more", [false, true, true]);
    check(vec![Edit::Remove(Key::Pod(reference("other")))], "the pod goes", [true; 3]);
    check(vec![known(&NAMED[..1])], "the name has one alone", [true, false, false]);
}
