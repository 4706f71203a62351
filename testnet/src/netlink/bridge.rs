//! Changes that a bridge takes: the bridge itself, its ports, and what neighbours have learned of each other.

use std::net::IpAddr;

use nix::errno::Errno;

use super::{
    CREATE, Change, EXCLUSIVE, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, LinkIndex, family, kind, link_header, octets,
};

const IFLA_ADDRESS: u16 = 1;
const IFLA_MASTER: u16 = 10;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_INFO_SLAVE_DATA: u16 = 5;
const IFLA_BRPORT_MODE: u16 = 4;
const NDA_DST: u16 = 1;

impl Change {
    /// A bridge with an address of its own, so that it doesn't take another one whenever a port comes or goes.
    pub(crate) fn bridge(name: &str, index: LinkIndex, mac: [u8; 6]) -> Self {
        let mut change = Self::new(format!("add bridge {name}"), kind::NEW_LINK, CREATE | EXCLUSIVE, &link_header(index, 0));
        change.text(IFLA_IFNAME, name);
        change.attribute(IFLA_ADDRESS, &mac);
        change.nested(IFLA_LINKINFO, |info| info.text(IFLA_INFO_KIND, "bridge"));
        change
    }

    /// Makes a link a port of a bridge.
    pub(crate) fn port_of(index: LinkIndex, bridge: LinkIndex) -> Self {
        let what = format!("make link {} a port of {}", index.0, bridge.0);
        let mut change = Self::new(what, kind::NEW_LINK, 0, &link_header(index, 0));
        change.attribute(IFLA_MASTER, &bridge.0.to_ne_bytes());
        change
    }

    /// Lets frames leave a port by which they came: with bridge-nf-call-iptables the bridge itself carries a pod's packet to
    /// a Service back to it. The kubelet asked for this once, and CNI configurations do (`hairpinMode`).
    pub(crate) fn hairpin(index: LinkIndex) -> Self {
        let mut change = Self::new(format!("hairpin of port {}", index.0), kind::NEW_LINK, 0, &link_header(index, 0));
        change.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_SLAVE_KIND, "bridge");
            info.nested(IFLA_INFO_SLAVE_DATA, |port| port.attribute(IFLA_BRPORT_MODE, &[1]));
        });
        change
    }

    /// What was learned of who has `address`, as after the gratuitous ARP of its next holder.
    pub(crate) fn forget_neighbour(index: LinkIndex, address: IpAddr) -> Self {
        let mut header = vec![family(address), 0, 0, 0];
        header.extend_from_slice(&index.0.to_ne_bytes());
        header.extend_from_slice(&[0; 4]);
        let what = format!("forget neighbour {address} of link {}", index.0);
        let mut change = Self::new(what, kind::DEL_NEIGHBOUR, 0, &header);
        change.attribute(NDA_DST, &octets(address));
        change.tolerated = &[Errno::ENOENT, Errno::ENODEV];
        change
    }
}
