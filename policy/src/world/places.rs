//! Peers by place: nodes and names. They are the addresses that these have, so a policy that names one is resolved anew whenever a
//! place changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::World;
use crate::label::Selector;
use crate::snapshot::Peer;
use crate::source::{self, Node};

impl World {
    /// The addresses of the nodes that have these labels.
    pub(super) fn nodes_of(&self, selector: &Selector) -> Vec<Peer> {
        let nodes = self.nodes.values().filter(|node| selector.matches(&node.labels));
        each_address(nodes.flat_map(|node| node.ips.iter().copied()))
    }

    /// The addresses that `may_have` leaves of those that the names are known to have.
    pub(super) fn names_of(&self, patterns: &[source::NamePattern], may_have: impl Fn(IpAddr) -> bool) -> Vec<Peer> {
        let names = self.names.iter().filter(|(name, _)| patterns.iter().any(|pattern| pattern.matches(name)));
        each_address(names.flat_map(|(_, ips)| ips.iter().copied()).filter(|ip| may_have(*ip)))
    }

    /// Whether it is the address of a pod or a node, or of a node's range for pods.
    pub(super) fn is_of_cluster(&self, ip: IpAddr) -> bool {
        let of_node = |node: &Node| node.ips.contains(&ip) || node.pod_cidrs.iter().any(|range| range.contains(&ip));
        self.addresses.contains_key(&ip) || self.nodes.values().any(of_node)
    }

    /// Notes that pods come to these addresses or leave them: a name that has one may not have it now, or may again.
    pub(super) fn claimed(&mut self, ips: &[IpAddr]) {
        if self.names.values().flatten().any(|ip| ips.contains(ip)) {
            self.places += 1;
        }
    }
}

/// Addresses as peers, each once.
fn each_address(ips: impl Iterator<Item = IpAddr>) -> Vec<Peer> {
    let ips: BTreeSet<IpAddr> = ips.collect();
    ips.into_iter().map(|ip| Peer::Block { cidr: ip.into(), except: Vec::new() }).collect()
}
