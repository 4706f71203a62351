//! Why frames were dropped.

use std::fmt;

/// Why the program dropped a frame. The numbers are those of `enum reason` in `bpf/drops.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum Dropped {
    /// The port has not been [set](crate::Redirect::set), or has been [cleared](crate::Redirect::clear).
    UnknownPort = 0,
    /// It carries a VLAN tag: a single or a double one, 802.1Q or 802.1ad, a priority tag without a VLAN too.
    Vlan = 1,
    /// It ends within a header, or a length contradicts another.
    Malformed = 2,
    /// Neither IPv4 nor IPv6 nor ARP.
    EtherType = 3,
    /// Its source isn't the pod's MAC address.
    SourceMac = 4,
    /// ARP that speaks of somebody else.
    Arp = 5,
    /// Its IP source isn't the pod's. A link-local source too, where it isn't one of the pod's known addresses.
    SourceAddress = 6,
    /// To a multicast group, or to all.
    Multicast = 7,
    /// An IP packet to one station in a frame to many.
    GroupFrame = 8,
    /// A router's advertisement, or a redirect: pods aren't routers.
    RouterMessage = 9,
    /// Neighbour discovery from afar, of somebody else's address, or behind extension headers.
    NeighbourDiscovery = 10,
    /// The kernel refused to rewrite it.
    NotRedirected = 11,
}

impl Dropped {
    /// All of them, by number.
    pub const ALL: [Self; 12] = [
        Self::UnknownPort,
        Self::Vlan,
        Self::Malformed,
        Self::EtherType,
        Self::SourceMac,
        Self::Arp,
        Self::SourceAddress,
        Self::Multicast,
        Self::GroupFrame,
        Self::RouterMessage,
        Self::NeighbourDiscovery,
        Self::NotRedirected,
    ];
}

/// The word that metrics and logs use.
impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}
