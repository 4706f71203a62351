//! Messages as the engine's changes, each field checked.
//!
//! What is absent or unknown is an error where its absence would say something else: a rule without an action, ports of a
//! kind that a newer controller knows. Only what the messages define as optional may be missing.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use sluice_policy::flow::{Direction, IcmpFamily, Protocol};
use sluice_policy::snapshot::{
    Change, Endpoint, IdentityId, NodeFacts, Peer, Policy, PolicyId, Program, ProgramId, Programs, Rule, SetId,
};
use sluice_policy::source::{Action, IcmpMatch, Named, NamedPort, PodRef, PolicyKind, PolicyRef, PortMatch, Tier};

use crate::l7_from_wire::{l7, name_pattern};
use crate::wire;
use crate::wire::change::Body;

/// A field of a message that can't be understood. Nothing of its list of changes is used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("field {0} is missing, or of a kind that this version doesn't know")]
    Missing(&'static str),
    #[error("field {field} has the unknown value {value}")]
    Unknown { field: &'static str, value: i32 },
    #[error("field {field} is {value}, but at most {limit} is possible")]
    OutOfRange { field: &'static str, value: u32, limit: u32 },
    #[error("field {field} has {bytes} bytes, but an address has 4 or 16")]
    Address { field: &'static str, bytes: usize },
    #[error("the range of ports {first}-{last} is empty")]
    EmptyRange { first: u16, last: u16 },
}

impl TryFrom<wire::Change> for Change {
    type Error = FieldError;

    fn try_from(mut change: wire::Change) -> Result<Self, FieldError> {
        if std::mem::take(&mut change.audit) {
            return match Self::try_from(change)? {
                Self::DropAudit => Err(FieldError::Missing("change")),
                change => Ok(Self::Audit(Box::new(change))),
            };
        }
        Ok(match change.body.ok_or(FieldError::Missing("change"))? {
            Body::PutNode(facts) => Self::PutNode(node(facts)?),
            Body::PutPolicy(put) => Self::PutPolicy(PolicyId(put.id), Arc::new(policy(put)?)),
            Body::DropPolicy(id) => Self::DropPolicy(PolicyId(id)),
            Body::EditSet(edit) => Self::EditSet {
                set: SetId(edit.set),
                add: edit.add.into_iter().map(IdentityId).collect(),
                remove: edit.remove.into_iter().map(IdentityId).collect(),
            },
            Body::DropSet(id) => Self::DropSet(SetId(id)),
            Body::PutProgram(put) => Self::PutProgram(
                ProgramId(put.id),
                Program {
                    direction: direction("put_program.direction", put.direction)?,
                    policies: put.policies.into_iter().map(PolicyId).collect(),
                },
            ),
            Body::DropProgram(id) => Self::DropProgram(ProgramId(id)),
            Body::PutIdentity(put) => Self::PutIdentity(
                IdentityId(put.id),
                Programs { ingress: put.ingress.map(ProgramId), egress: put.egress.map(ProgramId) },
            ),
            Body::DropIdentity(id) => Self::DropIdentity(IdentityId(id)),
            Body::PutEndpoint(put) => {
                let ip = address("put_endpoint.address", &put.address)?;
                Self::PutEndpoint(ip, Arc::new(endpoint(put)?))
            }
            Body::DropEndpoint(ip) => Self::DropEndpoint(address("drop_endpoint", &ip)?),
            Body::DropAudit(wire::DropAudit {}) => Self::DropAudit,
            Body::PutCluster(put) => {
                Self::PutCluster(put.ranges.iter().map(|net| cidr("put_cluster.ranges", net)).collect::<Result<_, _>>()?)
            }
            Body::PutResolvers(put) => Self::PutResolvers(put.sets.into_iter().map(SetId).collect()),
        })
    }
}

fn node(facts: wire::NodeFacts) -> Result<NodeFacts, FieldError> {
    Ok(NodeFacts {
        name: facts.name.into(),
        ips: facts.ips.iter().map(|ip| address("put_node.ips", ip)).collect::<Result<_, _>>()?,
        pod_cidrs: facts.pod_cidrs.iter().map(|net| cidr("put_node.pod_cidrs", net)).collect::<Result<_, _>>()?,
    })
}

fn policy(put: wire::PutPolicy) -> Result<Policy, FieldError> {
    let kind = match known("put_policy.kind", put.kind)? {
        wire::PolicyKind::Unspecified => return Err(FieldError::Missing("put_policy.kind")),
        wire::PolicyKind::NetworkPolicy => PolicyKind::NetworkPolicy,
        wire::PolicyKind::ClusterNetworkPolicy => PolicyKind::ClusterNetworkPolicy,
        wire::PolicyKind::SluiceNetworkPolicy => PolicyKind::SluiceNetworkPolicy,
        wire::PolicyKind::SluiceClusterNetworkPolicy => PolicyKind::SluiceClusterNetworkPolicy,
    };
    Ok(Policy {
        reference: PolicyRef { kind, namespace: put.namespace.into(), name: put.name.into() },
        tier: tier(put.tier.ok_or(FieldError::Missing("put_policy.tier"))?)?,
        ingress: put.ingress,
        egress: put.egress,
        audit: put.audit,
        rules: put.rules.into_iter().map(rule).collect::<Result<_, _>>()?,
    })
}

fn tier(tier: wire::Tier) -> Result<Tier, FieldError> {
    let priority = || short("tier.priority", tier.priority);
    match known("tier.kind", tier.kind)? {
        wire::TierKind::Unspecified => Err(FieldError::Missing("tier.kind")),
        wire::TierKind::Admin => Ok(Tier::Admin { priority: priority()? }),
        wire::TierKind::Additive => Ok(Tier::Additive),
        wire::TierKind::Baseline => Ok(Tier::Baseline { priority: priority()? }),
    }
}

fn rule(rule: wire::Rule) -> Result<Rule, FieldError> {
    let action = match known("rule.action", rule.action)? {
        wire::Action::Unspecified => return Err(FieldError::Missing("rule.action")),
        wire::Action::Allow => Action::Allow,
        wire::Action::Deny => Action::Deny,
        wire::Action::Pass => Action::Pass,
    };
    let peers = rule.peers.map(|peers| peers.items.into_iter().map(peer).collect::<Result<_, _>>());
    let ports = rule.ports.map(|ports| ports.items.into_iter().map(port_match).collect::<Result<_, _>>());
    Ok(Rule {
        direction: direction("rule.direction", rule.direction)?,
        path: rule.path.into(),
        action,
        peers: peers.transpose()?,
        ports: ports.transpose()?,
        l7: rule.l7.map(l7).transpose()?,
    })
}

fn peer(peer: wire::Peer) -> Result<Peer, FieldError> {
    match peer.body.ok_or(FieldError::Missing("peer"))? {
        wire::peer::Body::Set(set) => Ok(Peer::Set(SetId(set))),
        wire::peer::Body::Block(block) => Ok(Peer::Block {
            cidr: cidr("block.cidr", &block.cidr.ok_or(FieldError::Missing("block.cidr"))?)?,
            except: block.except.iter().map(|net| cidr("block.except", net)).collect::<Result<_, _>>()?,
        }),
        wire::peer::Body::Names(names) => {
            let patterns = names.patterns.into_iter().map(|name| name_pattern("names.patterns", name));
            let patterns = patterns.collect::<Result<_, _>>()?;
            let named = Named { patterns, allow_private: names.allow_private, name_check: names.name_check };
            Ok(Peer::Names(Arc::new(named)))
        }
    }
}

fn port_match(item: wire::PortMatch) -> Result<PortMatch, FieldError> {
    let protocol = protocol("port_match.protocol", item.protocol)?;
    match item.ports.ok_or(FieldError::Missing("port_match.ports"))? {
        wire::port_match::Ports::All(wire::AllPorts {}) => Ok(PortMatch::All { protocol }),
        wire::port_match::Ports::Name(name) => Ok(PortMatch::Named { protocol, name: name.into() }),
        wire::port_match::Ports::Range(range) => {
            let first = short("port_range.first", range.first)?;
            let last = short("port_range.last", range.last)?;
            if first > last {
                return Err(FieldError::EmptyRange { first, last });
            }
            Ok(PortMatch::Range { protocol, first, last })
        }
        wire::port_match::Ports::Icmp(messages) if protocol == Protocol::Icmp => icmp(messages),
        wire::port_match::Ports::Icmp(_) => {
            Err(FieldError::OutOfRange { field: "port_match.protocol", value: protocol.number().into(), limit: 1 })
        }
    }
}

fn icmp(messages: wire::IcmpMessages) -> Result<PortMatch, FieldError> {
    let family = match known("icmp.family", messages.family)? {
        wire::IcmpFamily::Unspecified => return Err(FieldError::Missing("icmp.family")),
        wire::IcmpFamily::Ipv4 => IcmpFamily::V4,
        wire::IcmpFamily::Ipv6 => IcmpFamily::V6,
    };
    let byte = |field, value: Option<u32>| value.map(|value| octet(field, value)).transpose();
    let (kind, code) = (byte("icmp.type", messages.r#type)?, byte("icmp.code", messages.code)?);
    if kind.is_none() && code.is_some() {
        return Err(FieldError::Missing("icmp.type"));
    }
    Ok(PortMatch::Icmp(IcmpMatch { family, kind, code }))
}

fn endpoint(put: wire::PutEndpoint) -> Result<Endpoint, FieldError> {
    Ok(Endpoint {
        pod: PodRef { namespace: put.namespace.into(), name: put.pod.into() },
        identity: IdentityId(put.identity),
        local: put.local,
        conflict: put.conflict,
        host: None,
        ports: put.ports.into_iter().map(named_port).collect::<Result<_, _>>()?,
    })
}

fn named_port(port: wire::NamedPort) -> Result<NamedPort, FieldError> {
    Ok(NamedPort {
        name: port.name.into(),
        protocol: protocol("named_port.protocol", port.protocol)?,
        port: short("named_port.port", port.port)?,
    })
}

fn direction(field: &'static str, value: i32) -> Result<Direction, FieldError> {
    match known(field, value)? {
        wire::Direction::Unspecified => Err(FieldError::Missing(field)),
        wire::Direction::Ingress => Ok(Direction::Ingress),
        wire::Direction::Egress => Ok(Direction::Egress),
    }
}

pub(crate) fn known<E: TryFrom<i32>>(field: &'static str, value: i32) -> Result<E, FieldError> {
    E::try_from(value).map_err(|_| FieldError::Unknown { field, value })
}

fn protocol(field: &'static str, number: Option<u32>) -> Result<Protocol, FieldError> {
    Ok(Protocol::from_number(octet(field, number.ok_or(FieldError::Missing(field))?)?))
}

fn octet(field: &'static str, value: u32) -> Result<u8, FieldError> {
    u8::try_from(value).map_err(|_| FieldError::OutOfRange { field, value, limit: u8::MAX.into() })
}

pub(crate) fn short(field: &'static str, value: u32) -> Result<u16, FieldError> {
    u16::try_from(value).map_err(|_| FieldError::OutOfRange { field, value, limit: u16::MAX.into() })
}

fn address(field: &'static str, bytes: &[u8]) -> Result<IpAddr, FieldError> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(octets));
    }
    let octets = <[u8; 16]>::try_from(bytes).map_err(|_| FieldError::Address { field, bytes: bytes.len() })?;
    Ok(IpAddr::from(octets))
}

/// In canonical form: bits beyond the prefix mean nothing, and the engine compares blocks by value.
fn cidr(field: &'static str, cidr: &wire::Cidr) -> Result<IpNet, FieldError> {
    let ip = address(field, &cidr.address)?;
    let limit = if ip.is_ipv4() { 32 } else { 128 };
    let out_of_range = FieldError::OutOfRange { field, value: cidr.prefix_length, limit };
    let length = u8::try_from(cidr.prefix_length).map_err(|_| out_of_range.clone())?;
    Ok(IpNet::new(ip, length).map_err(|_| out_of_range)?.trunc())
}
