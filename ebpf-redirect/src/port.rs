//! What a bridge port is, for the program.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// A bridge port with a pod behind it, and what the pod may send there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's interface index, in the node's namespace.
    pub index: u32,
    /// The pod's MAC address. `None`: it may use any, and change it.
    pub mac: Option<[u8; 6]>,
    /// The bridge's interface index.
    pub bridge: u32,
    /// The bridge's own MAC address. A bridge whose address isn't fixed changes it with its ports: then the port must be set
    /// again, and until then its frames are dropped by the node's IP stack.
    pub bridge_mac: [u8; 6],
    /// The addresses from which the pod may send. Without any, only ARP probes, neighbour discovery and DHCP pass.
    pub addresses: BTreeSet<IpAddr>,
}
