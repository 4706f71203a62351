//! The decision, case by case, and real flows of a namespace that it picks out.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use sluice_policy::IcmpFamily;
use sluice_policy::snapshot::{Change, Endpoint, IdentityId, NodeFacts, Policy, PolicyId, Program, Programs, Rule, SetId};
use sluice_policy::source::{Action, DnsMatch, IcmpMatch, L7, PodRef, PolicyKind, PolicyRef, PortMatch, Tier};
use sluice_policy::table::{NameSettings, Quic};
use sluice_testnet::Netns;

use super::super::conntrack::{Conntrack, Tuple, Upper};
use super::super::netlink::no_namespaces;
use super::*;

const DIVERTED: u8 = 111;
const SERVER: IdentityId = IdentityId(1);
const CLIENT: IdentityId = IdentityId(2);
const STRANGER: IdentityId = IdentityId(3);
const CLIENTS: SetId = SetId(1);
const INGRESS: ProgramId = ProgramId(1);

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn endpoint(address: &str, name: &str, identity: IdentityId, local: bool) -> Change {
    let pod = PodRef { namespace: "n".into(), name: name.into() };
    let endpoint = Endpoint { pod, identity, local, conflict: false, host: None, ports: Arc::new([]) };
    Change::PutEndpoint(ip(address), Arc::new(endpoint))
}

fn policy(ports: Vec<PortMatch>, l7: Option<L7>) -> Change {
    let rule = Rule {
        direction: Direction::Ingress,
        path: "ingress[0]".into(),
        action: Action::Allow,
        peers: Some(vec![Peer::Set(CLIENTS)]),
        ports: Some(ports),
        l7,
    };
    let reference = PolicyRef { kind: PolicyKind::SluiceNetworkPolicy, namespace: "n".into(), name: "server".into() };
    let policy = Policy { reference, tier: Tier::Additive, ingress: true, egress: false, audit: false, rules: vec![rule] };
    Change::PutPolicy(PolicyId(1), Arc::new(policy))
}

fn port(protocol: Protocol, port: u16) -> PortMatch {
    PortMatch::Range { protocol, first: port, last: port }
}

/// A local server that two clients, one of them local, may reach at 80/TCP and 53/UDP; a stranger is local too.
fn base() -> Vec<Change> {
    vec![
        Change::PutNode(NodeFacts {
            name: "here".into(),
            ips: vec![ip("192.0.2.1")],
            pod_cidrs: vec!["10.1.0.0/16".parse().unwrap()],
        }),
        policy(vec![port(Protocol::Tcp, 80), port(Protocol::Udp, 53)], None),
        Change::EditSet { set: CLIENTS, add: vec![CLIENT], remove: vec![] },
        Change::PutProgram(INGRESS, Program { direction: Direction::Ingress, policies: vec![PolicyId(1)] }),
        Change::PutIdentity(SERVER, Programs { ingress: Some(INGRESS), egress: None }),
        Change::PutIdentity(CLIENT, Programs::default()),
        Change::PutIdentity(STRANGER, Programs::default()),
        endpoint("10.1.0.1", "server", SERVER, true),
        endpoint("fd00::1", "server", SERVER, true),
        endpoint("10.1.0.2", "client", CLIENT, true),
        endpoint("10.2.0.2", "far-client", CLIENT, false),
        endpoint("10.1.0.3", "stranger", STRANGER, true),
    ]
}

fn table(changes: &[Change]) -> Table {
    Table::empty().apply(changes).expect("changes that fit").0
}

fn tuple(source: (&str, u16), destination: (&str, u16)) -> Tuple {
    Tuple {
        source: ip(source.0),
        destination: ip(destination.0),
        upper: Upper::Ports { source: source.1, destination: destination.1 },
        zone: None,
    }
}

fn entry(protocol: Protocol, source: (&str, u16), destination: (&str, u16)) -> Entry {
    let (original, reply) = (tuple(source, destination), tuple(destination, source));
    Entry { protocol, original, reply, labels: 0, mark: 0, status: 0, id: 1, zone: 0 }
}

fn tcp(source: (&str, u16), destination: (&str, u16)) -> Entry {
    entry(Protocol::Tcp, source, destination)
}

fn diverted(entry: Entry) -> Entry {
    Entry { labels: 1 << DIVERTED, ..entry }
}

#[test]
fn what_the_table_allows_stays_and_the_rest_ends() {
    let allowing = table(&base());
    let mut changes = base();
    changes.push(policy(vec![port(Protocol::Tcp, 80)], Some(L7::Http(vec![]))));
    let inspecting = table(&changes);
    let mut translated = tcp(("10.1.0.2", 4000), ("10.96.0.1", 443));
    translated.reply = tuple(("10.1.0.1", 80), ("10.1.0.2", 4000));
    let mut denied_behind_service = translated.clone();
    denied_behind_service.reply = tuple(("10.1.0.1", 81), ("10.1.0.2", 4000));

    let check = |table: &Table, what: &str, entry: &Entry, ends: bool| {
        assert_eq!(must_end(&Judge { table, diverted: DIVERTED, names: None }, entry), ends, "{what}: {entry:?}");
    };
    let allowed = tcp(("10.1.0.2", 4000), ("10.1.0.1", 80));
    check(&allowing, "a rule allows it", &allowed, false);
    check(&allowing, "from another node", &tcp(("10.2.0.2", 4000), ("10.1.0.1", 80)), false);
    check(&allowing, "another port", &tcp(("10.1.0.2", 4000), ("10.1.0.1", 81)), true);
    check(&allowing, "another protocol", &entry(Protocol::Udp, ("10.1.0.2", 4000), ("10.1.0.1", 80)), true);
    check(&allowing, "UDP", &entry(Protocol::Udp, ("10.1.0.2", 4000), ("10.1.0.1", 53)), false);
    check(&allowing, "IPv6", &tcp(("2001:db8::1", 4000), ("fd00::1", 80)), true);
    check(&allowing, "nobody selects the stranger", &tcp(("10.1.0.1", 4000), ("10.1.0.3", 80)), false);
    check(&allowing, "an answer is not judged", &tcp(("10.1.0.1", 80), ("10.1.0.3", 4000)), false);
    check(&allowing, "behind a Service, allowed at the server's port", &translated, false);
    check(&allowing, "behind a Service, not allowed", &denied_behind_service, true);
    check(&allowing, "a pod to itself", &tcp(("10.1.0.1", 4000), ("10.1.0.1", 9)), false);
    check(&allowing, "from the node itself", &tcp(("192.0.2.1", 4000), ("10.1.0.1", 9)), false);
    check(&allowing, "no pod's", &tcp(("192.0.2.1", 4000), ("192.0.2.9", 22)), false);
    check(&allowing, "of a pod that has gone", &tcp(("10.1.0.77", 4000), ("198.51.100.1", 80)), true);
    check(&allowing, "an echo", &Entry { protocol: Protocol::Icmp, ..tcp(("10.1.0.3", 0), ("10.1.0.1", 0)) }, true);

    let messages = PortMatch::Icmp(IcmpMatch { family: IcmpFamily::V4, kind: Some(8), code: Some(0) });
    let pinging = table(&[&base()[..], &[policy(vec![messages], None)]].concat());
    let message = |kind, code| {
        let mut entry = Entry { protocol: Protocol::Icmp, ..tcp(("10.1.0.2", 0), ("10.1.0.1", 0)) };
        entry.original.upper = Upper::Icmp { id: 7, kind, code };
        entry
    };
    check(&pinging, "a message that a rule names", &message(8, 0), false);
    check(&pinging, "another code", &message(8, 1), true);
    check(&pinging, "another type", &message(13, 0), true);

    check(&inspecting, "nobody reads it", &allowed, true);
    check(&inspecting, "the proxy reads it", &diverted(allowed.clone()), false);
    check(&inspecting, "the proxy closes it", &diverted(tcp(("10.1.0.3", 4000), ("10.1.0.1", 80))), false);
}

/// Datagrams of the proxy's are look-ups, and stay as long as they are some.
#[test]
fn look_ups_from_before_end_and_so_do_those_that_are_none_any_more() {
    let asks = |names: bool| {
        let dns = L7::Dns(vec![DnsMatch { index: 0, name: None, types: Vec::new() }]);
        let l7 = names.then_some(dns);
        let path = "egress[0]".into();
        let rule = Rule { direction: Direction::Egress, path, action: Action::Allow, peers: None, ports: None, l7 };
        let reference = PolicyRef { kind: PolicyKind::SluiceNetworkPolicy, namespace: "n".into(), name: "client".into() };
        let policy = Policy { reference, tier: Tier::Additive, ingress: false, egress: true, audit: false, rules: vec![rule] };
        table(&[
            Change::PutNode(NodeFacts { name: "here".into(), ..NodeFacts::default() }),
            Change::PutPolicy(PolicyId(1), Arc::new(policy)),
            Change::PutProgram(INGRESS, Program { direction: Direction::Egress, policies: vec![PolicyId(1)] }),
            Change::PutIdentity(CLIENT, Programs { ingress: None, egress: Some(INGRESS) }),
            endpoint("10.1.0.2", "client", CLIENT, true),
        ])
    };
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        let unread = entry(protocol, ("10.1.0.2", 4000), ("10.9.0.9", 53));
        let itself = entry(protocol, ("10.1.0.2", 4000), ("10.1.0.2", 53));
        let read = diverted(unread.clone());
        for (names, entry, ends) in [
            (true, &unread, true),
            (true, &read, false),
            (true, &itself, false),
            (false, &unread, false),
            (false, &read, protocol == Protocol::Udp),
        ] {
            let table = asks(names);
            let judged = judge(&Judge { table: &table, diverted: DIVERTED, names: None }, &Suspects::All, [entry.clone()]);
            assert_eq!(!judged.entries.is_empty(), ends, "{names} {entry:?}");
            assert_eq!(judged.tuples.len(), usize::from(ends && entry == &unread), "{names} {entry:?}");
        }
    }
}

/// Where QUIC is inspected, datagrams of the proxy's may be such too: the proxy closes what is denied.
#[test]
fn quic_that_the_proxy_carries_is_left_to_it() {
    let inspecting = NameSettings { quic: Quic::Inspect, ..NameSettings::default() };
    for (settings, port, ends) in
        [(inspecting.clone(), 443, false), (inspecting, 444, true), (NameSettings::default(), 443, true)]
    {
        let table = Table::with(settings).apply(&base()).expect("changes that fit").0;
        let judge_by = Judge { table: &table, diverted: DIVERTED, names: None };
        let denied = entry(Protocol::Udp, ("10.1.0.3", 4000), ("10.1.0.1", port));
        let judged = judge(&judge_by, &Suspects::All, [diverted(denied.clone())]);
        assert_eq!((judged.entries.len(), judged.tuples.len()), (usize::from(ends), 0), "{port}");
        let unread = judge(&judge_by, &Suspects::All, [denied]);
        assert_eq!((unread.entries.len(), unread.tuples.len()), (1, 1), "{port}");
    }
}

#[test]
fn tuples_come_once_and_only_with_ports() {
    let table = table(&base());
    let echo = Entry { protocol: Protocol::Icmp, ..tcp(("10.1.0.3", 0), ("10.1.0.1", 0)) };
    let cut = tcp(("10.1.0.3", 4000), ("10.1.0.1", 80));
    let entries = [cut.clone(), echo.clone(), tcp(("10.1.0.2", 4000), ("10.1.0.1", 80)), cut.clone()];
    let revoked = judge(&Judge { table: &table, diverted: DIVERTED, names: None }, &Suspects::All, entries);
    assert_eq!(
        revoked.tuples,
        [Revocation { protocol: Protocol::Tcp, source: (ip("10.1.0.3"), 4000), destination: (ip("10.1.0.1"), 80) }]
    );
    assert_eq!(revoked.entries, [cut.clone(), echo, cut.clone()]);
    assert_eq!(
        judge(&Judge { table: &Table::empty(), diverted: DIVERTED, names: None }, &Suspects::All, [cut]),
        Revoked::default(),
        "no table, no judgement"
    );
}

#[test]
fn only_flows_of_what_was_touched_are_judged() {
    let before = table(&base());
    let check = |what: &str, changes: &[Change], expected: Suspects| {
        let (after, touched) = before.apply(changes).expect("changes that fit");
        assert_eq!(suspects(&after, &touched), expected, "{what}: {touched:?}");
    };
    let of = |addresses: &[&str]| Suspects::Of(addresses.iter().map(|a| ip(a)).collect());
    let server = of(&["10.1.0.1", "fd00::1"]);
    check("nothing", &[], of(&[]));
    check("the policy", &[policy(vec![], None)], server.clone());
    check("who the clients are", &[Change::EditSet { set: CLIENTS, add: vec![STRANGER], remove: vec![] }], server);
    check("a set that no program names", &[Change::EditSet { set: SetId(9), add: vec![STRANGER], remove: vec![] }], of(&[]));
    check("a peer's address", &[Change::DropEndpoint(ip("10.2.0.2"))], of(&["10.2.0.2"]));
    let mut node = NodeFacts { name: "here".into(), ..NodeFacts::default() };
    node.ips.push(ip("192.0.2.7"));
    check("the node", &[Change::PutNode(node)], Suspects::All);

    let first = Table::empty().apply(&base()).expect("changes that fit");
    assert!(!suspects(&first.0, &first.1).is_empty(), "the first snapshot judges what it finds");
    let (empty, touched) = Table::empty().apply(&[]).expect("nothing fits");
    assert!(suspects(&empty, &touched).is_empty());
}

#[test]
fn the_nodes_own_addresses_are_those_of_its_interfaces() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("revoke-own").unwrap();
    netns.exec("ip", &["addr", "add", "10.1.0.254/32", "dev", "lo"]).unwrap();
    let own = netns.run(|| own_addresses().unwrap());
    assert_eq!(own, ["127.0.0.1", "::1", "10.1.0.254"].map(ip).into());
}

/// From a socket to the tuple: the entry of a live connection is picked out, and the other is not.
#[test]
fn real_connections_are_told_apart() {
    if no_namespaces() {
        return;
    }
    let netns = Netns::new("revoke").unwrap();
    netns.exec("nft", &["table inet t { chain o { type filter hook output priority 0; ct state new accept; }; }"]).unwrap();
    for address in ["10.1.0.1/32", "10.1.0.2/32", "10.1.0.3/32"] {
        netns.exec("ip", &["addr", "add", address, "dev", "lo"]).unwrap();
    }
    let connect = |from: &str, to: &TcpListener| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::new(ip(from), 0).into()).unwrap();
        socket.connect(&to.local_addr().unwrap().into()).unwrap();
        TcpStream::from(socket)
    };
    let (_listener, client, stranger) = netns.run(|| {
        let listener = TcpListener::bind(("10.1.0.1", 80)).unwrap();
        let (client, stranger) = (connect("10.1.0.2", &listener), connect("10.1.0.3", &listener));
        (listener, client, stranger)
    });
    let mut conntrack = netns.run(Conntrack::open).unwrap();
    let table = table(&base());
    let entries =
        conntrack.keep(|e| must_end(&Judge { table: &table, diverted: DIVERTED, names: None }, &e).then_some(e)).unwrap();
    let revoked = judge(&Judge { table: &table, diverted: DIVERTED, names: None }, &Suspects::All, entries);
    let cut = stranger.local_addr().unwrap();
    assert_eq!(
        revoked.tuples,
        [Revocation { protocol: Protocol::Tcp, source: (cut.ip(), cut.port()), destination: (ip("10.1.0.1"), 80) }]
    );
    for entry in &revoked.entries {
        assert!(conntrack.delete(entry).unwrap());
    }
    let left = conntrack.keep(|e| Some(e.source().1)).unwrap();
    assert_eq!(left, [client.local_addr().unwrap().port()]);
}

#[test]
fn a_pod_that_appears_elsewhere_is_no_suspect_unless_a_rule_takes_back() {
    let appears = [endpoint("10.2.0.9", "another", CLIENT, false)];
    let (plain, touched) = table(&base()).apply(&appears).expect("changes that fit");
    assert!(suspects(&plain, &touched).is_empty());
    let (local, touched) = table(&base()).apply(&[endpoint("10.1.0.9", "another", CLIENT, true)]).expect("changes that fit");
    assert!(!suspects(&local, &touched).is_empty());
    let (changed, touched) =
        table(&base()).apply(&[endpoint("10.2.0.2", "far-client", STRANGER, false)]).expect("changes that fit");
    assert!(!suspects(&changed, &touched).is_empty());
    let mut denying = base();
    denying.push(deny());
    let (denying, touched) = table(&denying).apply(&appears).expect("changes that fit");
    assert!(!suspects(&denying, &touched).is_empty());
}

/// The same policy, with a rule that takes back.
fn deny() -> Change {
    let Change::PutPolicy(id, policy) = policy(vec![port(Protocol::Tcp, 80)], None) else {
        panic!("a policy is put");
    };
    let mut policy = Policy::clone(&policy);
    policy.rules[0].action = sluice_policy::source::Action::Deny;
    Change::PutPolicy(id, Arc::new(policy))
}
