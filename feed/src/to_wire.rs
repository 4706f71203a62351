//! The engine's changes as messages. Nothing can fail here; how large a change may be is for [`changes`](crate::changes) to say.

use std::net::IpAddr;

use ipnet::IpNet;
use sluice_policy::flow::{Direction, IcmpFamily, Protocol};
use sluice_policy::snapshot::{Change, Endpoint, IdentityId, NodeFacts, Peer, Policy, PolicyId, Program, Rule};
use sluice_policy::source::{Action, NamedPort, PolicyKind, PortMatch, Tier};

use crate::l7_to_wire::{l7, name_pattern};
use crate::wire;
use crate::wire::change::Body;

impl From<&Change> for wire::Change {
    fn from(change: &Change) -> Self {
        let body = match change {
            Change::PutNode(facts) => Body::PutNode(node(facts)),
            Change::PutPolicy(id, put) => Body::PutPolicy(policy(*id, put)),
            Change::DropPolicy(id) => Body::DropPolicy(id.0),
            Change::EditSet { set, add, remove } => {
                Body::EditSet(wire::EditSet { set: set.0, add: numbers(add), remove: numbers(remove) })
            }
            Change::DropSet(id) => Body::DropSet(id.0),
            Change::PutProgram(id, put) => Body::PutProgram(program(id.0, put)),
            Change::DropProgram(id) => Body::DropProgram(id.0),
            Change::PutIdentity(id, programs) => Body::PutIdentity(wire::PutIdentity {
                id: id.0,
                ingress: programs.ingress.map(|p| p.0),
                egress: programs.egress.map(|p| p.0),
            }),
            Change::DropIdentity(id) => Body::DropIdentity(id.0),
            Change::PutEndpoint(ip, put) => Body::PutEndpoint(endpoint(*ip, put)),
            Change::DropEndpoint(ip) => Body::DropEndpoint(address(*ip)),
            Change::DropAudit => Body::DropAudit(wire::DropAudit {}),
            Change::PutCluster(ranges) => Body::PutCluster(wire::Cluster { ranges: ranges.iter().map(cidr).collect() }),
            Change::PutResolvers(sets) => Body::PutResolvers(wire::ResolverSets { sets: sets.iter().map(|set| set.0).collect() }),
            // Nobody sends it: a node learns names by itself. Without a body it is refused.
            Change::PutNames(_) => return Self { body: None, audit: false },
            Change::Audit(change) => return Self { audit: true, ..Self::from(&**change) },
        };
        Self { body: Some(body), audit: false }
    }
}

fn node(facts: &NodeFacts) -> wire::NodeFacts {
    wire::NodeFacts {
        name: facts.name.to_string(),
        ips: facts.ips.iter().copied().map(address).collect(),
        pod_cidrs: facts.pod_cidrs.iter().map(cidr).collect(),
    }
}

fn policy(id: PolicyId, policy: &Policy) -> wire::PutPolicy {
    let kind = match policy.reference.kind {
        PolicyKind::NetworkPolicy => wire::PolicyKind::NetworkPolicy,
        PolicyKind::ClusterNetworkPolicy => wire::PolicyKind::ClusterNetworkPolicy,
        PolicyKind::SluiceNetworkPolicy => wire::PolicyKind::SluiceNetworkPolicy,
        PolicyKind::SluiceClusterNetworkPolicy => wire::PolicyKind::SluiceClusterNetworkPolicy,
    };
    let (tier, priority) = match policy.tier {
        Tier::Admin { priority } => (wire::TierKind::Admin, priority),
        Tier::Additive => (wire::TierKind::Additive, 0),
        Tier::Baseline { priority } => (wire::TierKind::Baseline, priority),
    };
    wire::PutPolicy {
        id: id.0,
        kind: kind.into(),
        namespace: policy.reference.namespace.to_string(),
        name: policy.reference.name.to_string(),
        tier: Some(wire::Tier { kind: tier.into(), priority: priority.into() }),
        ingress: policy.ingress,
        egress: policy.egress,
        audit: policy.audit,
        rules: policy.rules.iter().map(rule).collect(),
    }
}

fn rule(rule: &Rule) -> wire::Rule {
    let action = match rule.action {
        Action::Allow => wire::Action::Allow,
        Action::Deny => wire::Action::Deny,
        Action::Pass => wire::Action::Pass,
    };
    wire::Rule {
        direction: direction(rule.direction).into(),
        path: rule.path.to_string(),
        action: action.into(),
        peers: rule.peers.as_ref().map(|peers| wire::Peers { items: peers.iter().map(peer).collect() }),
        ports: rule.ports.as_ref().map(|ports| wire::Ports { items: ports.iter().map(port_match).collect() }),
        l7: rule.l7.as_ref().map(l7),
    }
}

fn peer(peer: &Peer) -> wire::Peer {
    let body = match peer {
        Peer::Set(set) => wire::peer::Body::Set(set.0),
        Peer::Block { cidr: block, except } => {
            wire::peer::Body::Block(wire::Block { cidr: Some(cidr(block)), except: except.iter().map(cidr).collect() })
        }
        Peer::Names(named) => wire::peer::Body::Names(wire::Names {
            patterns: named.patterns.iter().map(name_pattern).collect(),
            allow_private: named.allow_private,
            name_check: named.name_check,
        }),
        // No policy has it.
        Peer::Resolvers => return wire::Peer { body: None },
    };
    wire::Peer { body: Some(body) }
}

fn port_match(ports: &PortMatch) -> wire::PortMatch {
    let protocol = ports.protocol();
    let ports = match ports {
        PortMatch::All { .. } => wire::port_match::Ports::All(wire::AllPorts {}),
        PortMatch::Range { first, last, .. } => {
            wire::port_match::Ports::Range(wire::PortRange { first: (*first).into(), last: (*last).into() })
        }
        PortMatch::Named { name, .. } => wire::port_match::Ports::Name(name.to_string()),
        PortMatch::Icmp(messages) => {
            let family = match messages.family {
                IcmpFamily::V4 => wire::IcmpFamily::Ipv4,
                IcmpFamily::V6 => wire::IcmpFamily::Ipv6,
            };
            wire::port_match::Ports::Icmp(wire::IcmpMessages {
                family: family.into(),
                r#type: messages.kind.map(Into::into),
                code: messages.code.map(Into::into),
            })
        }
    };
    wire::PortMatch { protocol: Some(number(protocol)), ports: Some(ports) }
}

fn program(id: u32, program: &Program) -> wire::PutProgram {
    wire::PutProgram {
        id,
        direction: direction(program.direction).into(),
        policies: program.policies.iter().map(|p| p.0).collect(),
    }
}

fn endpoint(ip: IpAddr, endpoint: &Endpoint) -> wire::PutEndpoint {
    wire::PutEndpoint {
        address: address(ip),
        namespace: endpoint.pod.namespace.to_string(),
        pod: endpoint.pod.name.to_string(),
        identity: endpoint.identity.0,
        local: endpoint.local,
        conflict: endpoint.conflict,
        ports: endpoint.ports.iter().map(named_port).collect(),
    }
}

fn named_port(port: &NamedPort) -> wire::NamedPort {
    wire::NamedPort { name: port.name.to_string(), protocol: Some(number(port.protocol)), port: port.port.into() }
}

fn direction(direction: Direction) -> wire::Direction {
    match direction {
        Direction::Ingress => wire::Direction::Ingress,
        Direction::Egress => wire::Direction::Egress,
    }
}

fn number(protocol: Protocol) -> u32 {
    protocol.number().into()
}

fn numbers(identities: &[IdentityId]) -> Vec<u32> {
    identities.iter().map(|id| id.0).collect()
}

fn address(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn cidr(net: &IpNet) -> wire::Cidr {
    wire::Cidr { address: address(net.addr()), prefix_length: net.prefix_len().into() }
}
