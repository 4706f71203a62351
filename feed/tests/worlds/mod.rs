//! Arbitrary changes, each field free.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use sluice_policy::http::{Condition, GrpcMatch, HttpMatch, PathMatch, Test};
use sluice_policy::snapshot::{
    Change, Endpoint, IdentityId, NodeFacts, Peer, Policy, PolicyId, Program, ProgramId, Programs, Rule, SetId,
};
use sluice_policy::source::{
    Action, DnsMatch, IcmpMatch, L7, NamePattern, Named, NamedPort, PodRef, PolicyKind, PolicyRef, PortMatch, Tier, TlsMatch,
};
use sluice_policy::{Direction, IcmpFamily, Protocol};

pub(crate) fn changes() -> impl Strategy<Value = Vec<Change>> {
    vec(change(), 0..8)
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    let of_audit = first_table_change().prop_map(|change| Change::Audit(Box::new(change)));
    prop_oneof![6 => first_table_change(), 3 => of_audit, 1 => Just(Change::DropAudit)]
}

fn first_table_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        node().prop_map(Change::PutNode),
        (any::<u32>(), policy()).prop_map(|(id, p)| Change::PutPolicy(PolicyId(id), Arc::new(p))),
        any::<u32>().prop_map(|id| Change::DropPolicy(PolicyId(id))),
        (any::<u32>(), identities(), identities()).prop_map(|(id, add, remove)| Change::EditSet { set: SetId(id), add, remove }),
        any::<u32>().prop_map(|id| Change::DropSet(SetId(id))),
        (any::<u32>(), direction(), vec(any::<u32>().prop_map(PolicyId), 0..5))
            .prop_map(|(id, direction, policies)| Change::PutProgram(ProgramId(id), Program { direction, policies })),
        any::<u32>().prop_map(|id| Change::DropProgram(ProgramId(id))),
        (any::<u32>(), option::of(any::<u32>()), option::of(any::<u32>())).prop_map(|(id, ingress, egress)| {
            let programs = Programs { ingress: ingress.map(ProgramId), egress: egress.map(ProgramId) };
            Change::PutIdentity(IdentityId(id), programs)
        }),
        any::<u32>().prop_map(|id| Change::DropIdentity(IdentityId(id))),
        (any::<IpAddr>(), endpoint()).prop_map(|(ip, e)| Change::PutEndpoint(ip, Arc::new(e))),
        any::<IpAddr>().prop_map(Change::DropEndpoint),
        vec(cidr(), 0..4).prop_map(|ranges| Change::PutCluster(ranges.into())),
        vec(any::<u32>().prop_map(SetId), 0..3).prop_map(Change::PutResolvers),
    ]
}

fn identities() -> impl Strategy<Value = Vec<IdentityId>> {
    vec(any::<u32>().prop_map(IdentityId), 0..20)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof!["[a-z0-9.-]{0,12}", "\\PC{0,6}"].prop_map(Arc::from)
}

fn node() -> impl Strategy<Value = NodeFacts> {
    (text(), vec(any::<IpAddr>(), 0..4), vec(cidr(), 0..4)).prop_map(|(name, ips, pod_cidrs)| NodeFacts { name, ips, pod_cidrs })
}

fn cidr() -> impl Strategy<Value = IpNet> {
    (any::<IpAddr>(), any::<u8>()).prop_map(|(ip, length)| {
        let limit = if ip.is_ipv4() { 32 } else { 128 };
        IpNet::new(ip, length % (limit + 1)).expect("within the limit").trunc()
    })
}

fn direction() -> impl Strategy<Value = Direction> {
    prop::sample::select(Direction::BOTH.to_vec())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    any::<u8>().prop_map(Protocol::from_number)
}

fn policy() -> impl Strategy<Value = Policy> {
    let kinds = vec![
        PolicyKind::NetworkPolicy,
        PolicyKind::ClusterNetworkPolicy,
        PolicyKind::SluiceNetworkPolicy,
        PolicyKind::SluiceClusterNetworkPolicy,
    ];
    let reference =
        (prop::sample::select(kinds), text(), text()).prop_map(|(kind, namespace, name)| PolicyRef { kind, namespace, name });
    let tier = prop_oneof![
        any::<u16>().prop_map(|priority| Tier::Admin { priority }),
        Just(Tier::Additive),
        any::<u16>().prop_map(|priority| Tier::Baseline { priority }),
    ];
    (reference, tier, any::<[bool; 3]>(), vec(rule(), 0..4))
        .prop_map(|(reference, tier, [ingress, egress, audit], rules)| Policy { reference, tier, ingress, egress, audit, rules })
}

fn rule() -> impl Strategy<Value = Rule> {
    let peer = prop_oneof![
        any::<u32>().prop_map(|id| Peer::Set(SetId(id))),
        (cidr(), vec(cidr(), 0..3)).prop_map(|(cidr, except)| Peer::Block { cidr, except }),
        (vec(name(), 0..3), any::<[bool; 2]>()).prop_map(|(patterns, [allow_private, name_check])| {
            Peer::Names(Named { patterns, allow_private, name_check }.into())
        }),
    ];
    let ports = prop_oneof![
        protocol().prop_map(|protocol| PortMatch::All { protocol }),
        (protocol(), any::<u16>(), any::<u16>()).prop_map(|(protocol, a, b)| PortMatch::Range {
            protocol,
            first: a.min(b),
            last: a.max(b)
        }),
        (protocol(), text()).prop_map(|(protocol, name)| PortMatch::Named { protocol, name }),
        (any::<bool>(), option::of((any::<u8>(), option::of(any::<u8>())))).prop_map(|(v6, kind)| PortMatch::Icmp(IcmpMatch {
            family: if v6 { IcmpFamily::V6 } else { IcmpFamily::V4 },
            kind: kind.map(|(kind, _)| kind),
            code: kind.and_then(|(_, code)| code),
        })),
    ];
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::Pass]);
    (direction(), text(), action, option::of(vec(peer, 0..3)), option::of(vec(ports, 0..3)), option::of(l7()))
        .prop_map(|(direction, path, action, peers, ports, l7)| Rule { direction, path, action, peers, ports, l7 })
}

fn name() -> impl Strategy<Value = NamePattern> {
    prop_oneof![text().prop_map(NamePattern::Name), text().prop_map(NamePattern::Below), text().prop_map(NamePattern::Glob)]
}

fn l7() -> impl Strategy<Value = L7> {
    let path =
        prop_oneof![text().prop_map(PathMatch::Regex), text().prop_map(PathMatch::Exact), text().prop_map(PathMatch::Prefix),];
    let http = (any::<u16>(), option::of(text()), option::of(path), option::of(text()), conditions(), conditions())
        .prop_map(|(index, method, path, host, headers, query)| HttpMatch { index, method, path, host, headers, query });
    let grpc = (any::<u16>(), option::of(text()), option::of(text()), conditions())
        .prop_map(|(index, service, method, metadata)| GrpcMatch { index, service, method, metadata });
    let tls = (any::<u16>(), option::of(name())).prop_map(|(index, name)| TlsMatch { index, name });
    let dns = (any::<u16>(), option::of(name()), vec(any::<u16>(), 0..3)).prop_map(|(index, name, types)| DnsMatch {
        index,
        name,
        types,
    });
    prop_oneof![
        vec(http, 0..3).prop_map(L7::Http),
        vec(grpc, 0..3).prop_map(L7::Grpc),
        vec(tls, 0..3).prop_map(L7::Tls),
        vec(dns, 0..3).prop_map(L7::Dns)
    ]
}

fn conditions() -> impl Strategy<Value = Vec<Condition>> {
    let test = prop_oneof![text().prop_map(Test::Exact), text().prop_map(Test::Regex), Just(Test::Present), Just(Test::Absent)];
    vec((text(), test, any::<bool>()).prop_map(|(name, test, not)| Condition { name, test, not }), 0..3)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let port = (text(), protocol(), any::<u16>()).prop_map(|(name, protocol, port)| NamedPort { name, protocol, port });
    (text(), text(), any::<u32>(), any::<bool>(), any::<bool>(), vec(port, 0..3)).prop_map(
        |(namespace, name, identity, local, conflict, ports)| Endpoint {
            pod: PodRef { namespace, name },
            identity: IdentityId(identity),
            local,
            conflict,
            host: None,
            ports: ports.into(),
        },
    )
}
