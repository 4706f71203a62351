//! A pod: a namespace at the end of a veth, which the node routes to or has on its bridge.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex};

use crate::bridge::Bridge;
use crate::net::{ETH0, locked};
use crate::netlink::{Change, LinkIndex, Route};
use crate::{Error, Netns, Node};

/// The pod's next hop: an address that nobody has, for which the node answers ARP (proxy_arp), or that its bridge has.
pub(crate) const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
/// The pod's next hop for IPv6: the node's end of the veth, or the bridge.
pub(crate) const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// A pod of the network. Clones are the same pod.
#[derive(Clone, Debug)]
pub struct Pod {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    ns: Netns,
    node: Node,
    link: LinkIndex,
    interface: String,
    addresses: Mutex<Vec<IpAddr>>,
}

impl Pod {
    /// Makes a pod that works once it has settled.
    pub(crate) fn new(node: &Node, name: &str, addresses: &[IpAddr]) -> Result<Self, Error> {
        let ns = Netns::new(name)?;
        let (link, interface) = node.fresh_interface(name);
        node.ns().apply(vec![Change::veth(&interface, link, "eth0", ETH0, ns.fd())])?;
        ns.apply(vec![
            Change::link_up(ETH0),
            Change::add_route(&Route::direct(GATEWAY_V4, ETH0)),
            Change::add_route(&Route::via(None, GATEWAY_V4, ETH0)),
            Change::add_route(&Route::via(None, GATEWAY_V6, ETH0)),
        ])?;
        ns.apply(Change::ask_patiently(ETH0).into())?;
        match node.bridge() {
            None => {
                let gateway = Change::add_address(link, GATEWAY_V6);
                node.ns().apply(vec![Change::link_up(link), Change::no_proxy_delay(link), gateway])?;
                node.ns().apply(Change::ask_patiently(link).into())?;
            }
            Some(bridge) => {
                bridge.join(node.ns(), link, &ns)?;
                node.ns().apply(vec![Change::link_up(link)])?;
            }
        }
        let pod = Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                ns,
                node: node.clone(),
                link,
                interface,
                addresses: Mutex::default(),
            }),
        };
        for address in addresses {
            pod.attach(*address)?;
        }
        Ok(pod)
    }

    /// Waits until the pod's links and addresses work.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let (node, link) = (self.inner.node.ns(), self.inner.link);
        self.inner.ns.await_running(ETH0)?;
        node.await_running(link)?;
        let gateway = self.inner.node.bridge().map_or(link, Bridge::index);
        node.await_running(gateway)?;
        node.await_addresses(gateway, &[GATEWAY_V6])?;
        self.inner.ns.await_addresses(ETH0, &self.addresses())
    }

    /// `namespace/name`.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The pod's namespace.
    pub fn ns(&self) -> &Netns {
        &self.inner.ns
    }

    /// The node that the pod is on.
    pub fn node(&self) -> &Node {
        &self.inner.node
    }

    /// The node's end of the pod's veth, perhaps a port of the bridge, such as `veth-frontend`.
    pub fn interface(&self) -> &str {
        &self.inner.interface
    }

    /// The pod's addresses, in the order they were given.
    pub fn addresses(&self) -> Vec<IpAddr> {
        locked(&self.inner.addresses).clone()
    }

    /// The first IPv4 address.
    pub fn v4(&self) -> Option<IpAddr> {
        self.addresses().into_iter().find(IpAddr::is_ipv4)
    }

    /// The first IPv6 address.
    pub fn v6(&self) -> Option<IpAddr> {
        self.addresses().into_iter().find(IpAddr::is_ipv6)
    }

    /// Gives the pod one more address, reachable from everywhere.
    pub fn add_address(&self, address: IpAddr) -> Result<(), Error> {
        self.attach(address)?;
        self.inner.ns.await_addresses(ETH0, &[address])
    }

    fn attach(&self, address: IpAddr) -> Result<(), Error> {
        self.inner.ns.apply(vec![Change::add_address(ETH0, address)])?;
        self.inner.node.attach_address(address, self.inner.link, &self.inner.ns)?;
        locked(&self.inner.addresses).push(address);
        Ok(())
    }

    /// Takes an address away from the pod.
    pub fn remove_address(&self, address: IpAddr) -> Result<(), Error> {
        locked(&self.inner.addresses).retain(|held| *held != address);
        self.inner.node.detach_address(address, self.inner.link, &self.inner.ns)?;
        self.inner.ns.apply(vec![Change::delete_address(ETH0, address)])
    }

    pub(crate) fn detach(&self) -> Result<(), Error> {
        for address in self.addresses() {
            self.remove_address(address)?;
        }
        if let Some(bridge) = self.inner.node.bridge() {
            bridge.leave(&self.inner.ns);
        }
        self.inner.node.release_interface(&self.inner.interface);
        self.inner.node.ns().apply(vec![Change::delete_link(self.inner.link)])
    }
}
