//! A node: a namespace with an uplink to the fabric, a veth for each of its pods, and in one layout a bridge for these.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::bridge::Bridge;
use crate::net::{ETH0, Fabric, locked};
use crate::netlink::{Change, LinkIndex, Route};
use crate::netns::Sysctl;
use crate::{Error, Layout, Netns, Options, Service, service};

/// The longest name that an interface can have (IFNAMSIZ without its zero byte).
const INTERFACE_NAME: usize = 15;

/// A node of the network. Clones are the same node.
#[derive(Clone, Debug)]
pub struct Node {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    ns: Netns,
    addresses: Vec<IpAddr>,
    fabric: Arc<Fabric>,
    link: LinkIndex,
    bridge: Option<Bridge>,
    next_index: AtomicU32,
    interfaces: Mutex<BTreeSet<String>>,
}

impl Node {
    /// The interface that leads out of the node.
    pub const UPLINK: &'static str = "eth0";
    /// The bridge whose ports lead to the pods, in [`Layout::Bridge`].
    pub const BRIDGE: &'static str = "cni0";

    pub(crate) fn new(fabric: &Arc<Fabric>, name: &str, addresses: &[IpAddr], options: Options) -> Result<Self, Error> {
        let reverse_path = options.reverse_path.value();
        let ns = Netns::with_sysctls(
            name,
            &[
                Sysctl::required("ipv4/ip_forward", "1"),
                Sysctl::required("ipv6/conf/all/forwarding", "1"),
                Sysctl::required("ipv6/conf/default/forwarding", "1"),
                Sysctl::required("ipv4/conf/all/rp_filter", reverse_path),
                Sysctl::required("ipv4/conf/default/rp_filter", reverse_path),
            ],
        )?;
        let mut all = addresses.to_vec();
        for spare in fabric.fresh_node_addresses() {
            if !addresses.iter().any(|a| a.is_ipv4() == spare.is_ipv4()) {
                all.push(spare);
            }
        }
        let link = fabric.fresh_link();
        fabric.join(link, &interface_name("to-", name, &BTreeSet::new()), &ns)?;
        let bridge_index = LinkIndex(ETH0.0 + 1);
        let bridge = match options.layout {
            Layout::Routed => {
                // Interfaces made from here on are pods' and answer ARP for 169.254.1.1; the uplink answers for itself alone.
                ns.sysctl("ipv4/conf/default/proxy_arp", "1")?;
                None
            }
            Layout::Bridge { call_iptables } => Some(Bridge::new(&ns, Self::BRIDGE, bridge_index, call_iptables)?),
        };
        ns.add_addresses(ETH0, &all)?;
        let to_node = all.iter().map(|a| Route::direct(*a, link));
        fabric.router.apply(to_node.map(|route| Change::add_route(&route)).collect())?;
        Ok(Self {
            inner: Arc::new(Inner {
                name: name.to_owned(),
                ns,
                addresses: all,
                fabric: Arc::clone(fabric),
                link,
                bridge,
                next_index: AtomicU32::new(bridge_index.0 + 1),
                interfaces: Mutex::default(),
            }),
        })
    }

    /// The node's name.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// The node's namespace: where its proxy runs, and its hostNetwork pods.
    pub fn ns(&self) -> &Netns {
        &self.inner.ns
    }

    /// The node's own addresses, of both families.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.inner.addresses
    }

    /// Puts these Services in force as kube-proxy does, in tables `ip kube-proxy` and `ip6 kube-proxy` of the node;
    /// those of an earlier call that are not listed end.
    pub fn set_services(&self, services: &[Service]) -> Result<(), Error> {
        service::apply(&self.inner.ns, services)
    }

    /// The bridge that pods are ports of, in that layout.
    pub(crate) fn bridge(&self) -> Option<&Bridge> {
        self.inner.bridge.as_ref()
    }

    /// Routes `address` to `pod` behind `link`, here and in the fabric.
    pub(crate) fn attach_address(&self, address: IpAddr, link: LinkIndex, pod: &Netns) -> Result<(), Error> {
        match &self.inner.bridge {
            None => self.inner.ns.apply(vec![Change::add_route(&Route::direct(address, link))])?,
            Some(bridge) => bridge.attach(&self.inner.ns, self.address_like(address), address, pod)?,
        }
        let route = self.route_from_fabric(address);
        self.inner.fabric.router.apply(vec![Change::add_route(&route)])
    }

    pub(crate) fn detach_address(&self, address: IpAddr, link: LinkIndex, pod: &Netns) -> Result<(), Error> {
        let route = self.route_from_fabric(address);
        self.inner.fabric.router.apply(vec![Change::delete_route(&route)])?;
        match &self.inner.bridge {
            None => self.inner.ns.apply(vec![Change::delete_route(&Route::direct(address, link))]),
            Some(bridge) => bridge.detach(&self.inner.ns, address, pod),
        }
    }

    fn route_from_fabric(&self, pod: IpAddr) -> Route {
        Route::via(Some(pod), self.address_like(pod), self.inner.link)
    }

    /// The node's first address of the same family.
    fn address_like(&self, address: IpAddr) -> IpAddr {
        let of_family = |a: &&IpAddr| a.is_ipv4() == address.is_ipv4();
        *self.inner.addresses.iter().find(of_family).expect("a node has an address of each family")
    }

    /// A free index and a readable name for the veth of a pod.
    pub(crate) fn fresh_interface(&self, pod: &str) -> (LinkIndex, String) {
        let mut taken = locked(&self.inner.interfaces);
        let short = pod.rsplit('/').next().unwrap_or(pod);
        let name = interface_name("veth-", short, &taken);
        taken.insert(name.clone());
        let index = self.inner.next_index.fetch_add(1, Ordering::Relaxed);
        (LinkIndex(index), name)
    }

    pub(crate) fn release_interface(&self, name: &str) {
        locked(&self.inner.interfaces).remove(name);
    }

    pub(crate) fn detach(&self) -> Result<(), Error> {
        self.inner.fabric.router.apply(vec![Change::delete_link(self.inner.link)])
    }
}

/// `prefix` and `name`, cut to what an interface name can hold, and with a number where that is taken.
fn interface_name(prefix: &str, name: &str, taken: &BTreeSet<String>) -> String {
    let usable = |c: char| if c.is_ascii_graphic() && c != '/' && c != ':' { c } else { '-' };
    let whole: String = prefix.chars().chain(name.chars().map(usable)).collect();
    let cut = |room: usize| whole.chars().take(room).collect::<String>();
    let plain = cut(INTERFACE_NAME);
    if !taken.contains(&plain) {
        return plain;
    }
    (1_u32..)
        .map(|number| {
            let suffix = format!("-{number}");
            cut(INTERFACE_NAME - suffix.len()) + &suffix
        })
        .find(|candidate| !taken.contains(candidate))
        .expect("there are more numbers than pods on a node")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_readable_short_and_distinct() {
        let mut taken = BTreeSet::new();
        for (pod, expected) in [
            ("frontend", "veth-frontend"),
            ("backend-7d9f8c", "veth-backend-7d"),
            ("backend-7d9f8d", "veth-backend--1"),
            ("backend-7d9f8e", "veth-backend--2"),
            ("ü:x", "veth---x"),
        ] {
            let name = interface_name("veth-", pod, &taken);
            assert_eq!(name, expected, "{pod}");
            assert!(name.len() <= INTERFACE_NAME);
            taken.insert(name);
        }
    }
}
