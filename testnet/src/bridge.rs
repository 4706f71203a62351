//! A node's bridge: pods are its ports, and speak to each other on it without the node's routing.
//!
//! A pod's address has no prefix here, so a pod has an on-link route to each address of the other pods of its bridge, and one to
//! the gateway for all else: what a CNI's prefix gives it, for any addresses. It asks for a neighbour by ARP or neighbour
//! discovery, the neighbour itself answers, and the bridge carries frames from port to port.

use std::net::IpAddr;
use std::sync::Mutex;

use crate::net::{ETH0, locked};
use crate::netlink::{Change, LinkIndex, Route};
use crate::netns::Sysctl;
use crate::pod::{GATEWAY_V4, GATEWAY_V6};
use crate::{Error, Netns};

/// Of the locally administered ones; the same in each node, whose bridges never meet.
const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xb1];

#[derive(Debug)]
pub(crate) struct Bridge {
    index: LinkIndex,
    members: Mutex<Vec<Member>>,
}

/// A pod on the bridge.
#[derive(Debug)]
struct Member {
    ns: Netns,
    addresses: Vec<IpAddr>,
}

impl Bridge {
    pub(crate) fn new(node: &Netns, name: &str, index: LinkIndex, call_iptables: bool) -> Result<Self, Error> {
        node.apply(vec![Change::bridge(name, index, MAC), Change::link_up(index)])?;
        node.apply([GATEWAY_V4, GATEWAY_V6].map(|gateway| Change::add_address(index, gateway)).into())?;
        node.apply(Change::ask_patiently(index).into())?;
        let value = if call_iptables { "1" } else { "0" };
        for setting in ["bridge/bridge-nf-call-iptables", "bridge/bridge-nf-call-ip6tables"] {
            // Without the module nothing is called, and there is nothing to turn off.
            let sysctl = if call_iptables { Sysctl::required(setting, value) } else { Sysctl::optional(setting, value) };
            node.set(&sysctl)?;
        }
        Ok(Self { index, members: Mutex::default() })
    }

    pub(crate) fn index(&self) -> LinkIndex {
        self.index
    }

    /// Makes `link` a port, and tells the pod behind it of the others.
    pub(crate) fn join(&self, node: &Netns, link: LinkIndex, pod: &Netns) -> Result<(), Error> {
        node.apply(vec![Change::port_of(link, self.index), Change::hairpin(link)])?;
        let mut members = locked(&self.members);
        let others = members.iter().flat_map(|member| &member.addresses);
        pod.apply(others.map(|address| Change::add_route(&Route::direct(*address, ETH0))).collect())?;
        members.push(Member { ns: pod.clone(), addresses: Vec::new() });
        Ok(())
    }

    pub(crate) fn leave(&self, pod: &Netns) {
        locked(&self.members).retain(|member| !member.ns.is(pod));
    }

    /// Tells the others of a pod's address. `source` is what the node itself sends from.
    pub(crate) fn attach(&self, node: &Netns, source: IpAddr, address: IpAddr, pod: &Netns) -> Result<(), Error> {
        let mut route = Route::direct(address, self.index);
        route.source = Some(source);
        node.apply(vec![Change::add_route(&route)])?;
        for member in locked(&self.members).iter_mut() {
            if member.ns.is(pod) {
                member.addresses.push(address);
            } else {
                member.ns.apply(vec![Change::add_route(&Route::direct(address, ETH0))])?;
            }
        }
        Ok(())
    }

    pub(crate) fn detach(&self, node: &Netns, address: IpAddr, pod: &Netns) -> Result<(), Error> {
        for member in locked(&self.members).iter_mut() {
            if member.ns.is(pod) {
                member.addresses.retain(|held| *held != address);
            } else {
                let route = Route::direct(address, ETH0);
                member.ns.apply(vec![Change::delete_route(&route), Change::forget_neighbour(ETH0, address)])?;
            }
        }
        let route = Route::direct(address, self.index);
        node.apply(vec![Change::delete_route(&route), Change::forget_neighbour(self.index, address)])
    }
}
