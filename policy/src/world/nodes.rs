//! Nodes as peers: they are no pods, so they have no identity. A rule has them as addresses, and a policy that names nodes is resolved
//! anew whenever one changes.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::World;
use crate::label::Selector;
use crate::snapshot::Peer;

impl World {
    /// The addresses of the nodes that have these labels, each once.
    pub(super) fn nodes_of(&self, selector: &Selector) -> Vec<Peer> {
        let nodes = self.nodes.values().filter(|node| selector.matches(&node.labels));
        let ips: BTreeSet<IpAddr> = nodes.flat_map(|node| node.ips.iter().copied()).collect();
        ips.into_iter().map(|ip| Peer::Block { cidr: ip.into(), except: Vec::new() }).collect()
    }
}
