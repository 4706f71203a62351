//! A whole test network: nodes joined by a fabric, their pods, and a host outside.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::echo::Echo;
use crate::netlink::{Change, LinkIndex, Route};
use crate::netns::Sysctl;
use crate::probe::{Outcome, Probe};
use crate::{Error, Netns, Node, Pod, Port, probe};

/// How pods are joined to their node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// A veth per pod, with a route to each of the pod's addresses; the node is the pod's next hop.
    #[default]
    Routed,
    /// The veths are ports of a bridge, on which the node's pods speak to each other; to all else the node is their gateway.
    Bridge {
        /// `net.bridge.bridge-nf-call-iptables` and its like for IPv6: whether what stays on the bridge passes the IP hooks too.
        call_iptables: bool,
    },
}

/// `rp_filter` of the nodes: whether a packet is dropped that did not come from where its source is routed to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReversePath {
    /// Not looked at (Debian's default).
    Off,
    /// Through the very interface of the route back (what Calico asks for).
    #[default]
    Strict,
    /// Through any interface (systemd's default).
    Loose,
}

impl ReversePath {
    pub(crate) fn value(self) -> &'static str {
        match self {
            Self::Off => "0",
            Self::Strict => "1",
            Self::Loose => "2",
        }
    }
}

/// What can be chosen about a network.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// How pods are joined to their node.
    pub layout: Layout,
    /// `rp_filter` of the nodes.
    pub reverse_path: ReversePath,
}

/// A network of namespaces. When it is dropped, its servers stop; its namespaces go when the last [`Netns`], [`Pod`]
/// or [`Node`] of it does, at the latest with this process.
#[derive(Debug)]
pub struct Net {
    fabric: Arc<Fabric>,
    options: Options,
    nodes: Mutex<BTreeMap<String, Node>>,
    pods: Mutex<BTreeMap<String, Pod>>,
    echo: Echo,
}

/// The router between the nodes and the outside.
#[derive(Debug)]
pub(crate) struct Fabric {
    pub(crate) router: Netns,
    outside: Netns,
    next_index: AtomicU32,
    next_node: AtomicU32,
}

/// The fabric's own end of every link, as next hop.
pub(crate) const FABRIC_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 2, 1));
pub(crate) const FABRIC_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

const TO_OUTSIDE: LinkIndex = LinkIndex(2);
/// The index of `eth0` in pods, nodes and the outside.
pub(crate) const ETH0: LinkIndex = LinkIndex(2);

impl Net {
    /// The addresses that the host outside has from the start.
    pub const OUTSIDE_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10));
    /// See [`Net::OUTSIDE_V4`].
    pub const OUTSIDE_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10));

    /// An empty network with the usual options: a fabric and a host outside, no node.
    pub fn new() -> Result<Self, Error> {
        Self::with(Options::default())
    }

    /// An empty network.
    pub fn with(options: Options) -> Result<Self, Error> {
        let net = Self {
            fabric: Arc::new(Fabric::new()?),
            options,
            nodes: Mutex::default(),
            pods: Mutex::default(),
            echo: Echo::start()?,
        };
        net.add_outside_address(Self::OUTSIDE_V4)?;
        net.add_outside_address(Self::OUTSIDE_V6)?;
        Ok(net)
    }

    /// Adds a node. A family for which `addresses` has none gets one of 198.18.0.0/15 or 2001:db8:fffe::/64.
    pub fn add_node(&self, name: &str, addresses: &[IpAddr]) -> Result<Node, Error> {
        let mut nodes = locked(&self.nodes);
        if nodes.contains_key(name) {
            return Err(Error::Exists { kind: "node", name: name.to_owned() });
        }
        let node = Node::new(&self.fabric, name, addresses, self.options)?;
        nodes.insert(name.to_owned(), node.clone());
        Ok(node)
    }

    /// Removes a node and its pods.
    pub fn remove_node(&self, name: &str) -> Result<(), Error> {
        let Some(node) = locked(&self.nodes).remove(name) else {
            return Err(Error::Unknown { kind: "node", name: name.to_owned() });
        };
        for pod in self.pods() {
            if pod.node().ns().is(node.ns()) {
                self.remove_pod(pod.name())?;
            }
        }
        self.echo.serve(node.ns(), "", &[])?;
        node.detach()
    }

    /// Adds a pod to a node, with any addresses: the first of a family is the one it sends from. `name` is
    /// `namespace/name`.
    pub fn add_pod(&self, node: &Node, name: &str, addresses: &[IpAddr]) -> Result<Pod, Error> {
        let pod = self.make_pod(node, name, addresses)?;
        pod.settle()?;
        Ok(pod)
    }

    /// Adds many pods, each as by [`Net::add_pod`], with one wait for the kernel's workers and not one per pod.
    pub fn add_pods(&self, pods: &[(&Node, &str, &[IpAddr])]) -> Result<Vec<Pod>, Error> {
        let made = pods.iter().map(|(node, name, addresses)| self.make_pod(node, name, addresses));
        let made = made.collect::<Result<Vec<_>, _>>()?;
        made.iter().try_for_each(Pod::settle)?;
        Ok(made)
    }

    fn make_pod(&self, node: &Node, name: &str, addresses: &[IpAddr]) -> Result<Pod, Error> {
        let mut pods = locked(&self.pods);
        if pods.contains_key(name) {
            return Err(Error::Exists { kind: "pod", name: name.to_owned() });
        }
        let pod = Pod::new(node, name, addresses)?;
        pods.insert(name.to_owned(), pod.clone());
        Ok(pod)
    }

    /// Removes a pod: its interface, its routes, its servers.
    pub fn remove_pod(&self, name: &str) -> Result<(), Error> {
        let Some(pod) = locked(&self.pods).remove(name) else {
            return Err(Error::Unknown { kind: "pod", name: name.to_owned() });
        };
        self.echo.serve(pod.ns(), "", &[])?;
        pod.detach()
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<Node> {
        locked(&self.nodes).get(name).cloned()
    }

    /// The pod of that name (`namespace/name`).
    pub fn pod(&self, name: &str) -> Option<Pod> {
        locked(&self.pods).get(name).cloned()
    }

    /// All pods, by name.
    pub fn pods(&self) -> Vec<Pod> {
        locked(&self.pods).values().cloned().collect()
    }

    /// The host outside of all nodes.
    pub fn outside(&self) -> &Netns {
        &self.fabric.outside
    }

    /// The router between nodes and outside: the place to look at or to disturb what leaves a node.
    pub fn fabric(&self) -> &Netns {
        &self.fabric.router
    }

    /// Gives the host outside one more address, such as 169.254.169.254. Nodes send there what no route of theirs takes.
    pub fn add_outside_address(&self, address: IpAddr) -> Result<(), Error> {
        self.fabric.outside.add_addresses(ETH0, &[address])?;
        let route = Route::direct(address, TO_OUTSIDE);
        self.fabric.router.apply(vec![Change::add_route(&route)])
    }

    /// Takes an address away from the host outside.
    pub fn remove_outside_address(&self, address: IpAddr) -> Result<(), Error> {
        let route = Route::direct(address, TO_OUTSIDE);
        self.fabric.router.apply(vec![Change::delete_route(&route)])?;
        self.fabric.outside.apply(vec![Change::delete_address(ETH0, address)])
    }

    /// Lets servers answer in `ns` at exactly these ports, on every address: what was served there before and is not
    /// listed ends. Each answers `IDENTITY CLIENT:PORT LINE` to every line (TCP) or datagram (UDP), and INIT-ACK to SCTP.
    pub fn serve(&self, ns: &Netns, identity: &str, ports: &[Port]) -> Result<(), Error> {
        self.echo.serve(ns, identity, ports)
    }

    /// [`Net::serve`] in a pod, which answers by its name.
    pub fn serve_pod(&self, pod: &Pod, ports: &[Port]) -> Result<(), Error> {
        self.serve(pod.ns(), pod.name(), ports)
    }

    /// Runs all `probes` at once; see [`probe::probe`].
    pub fn probe(&self, probes: &[Probe], wait: Duration) -> Vec<Outcome> {
        probe::probe(probes, wait)
    }
}

impl Fabric {
    fn new() -> Result<Self, Error> {
        let router = Netns::with_sysctls(
            "fabric",
            &[
                Sysctl::required("ipv4/ip_forward", "1"),
                Sysctl::required("ipv4/conf/all/rp_filter", "0"),
                Sysctl::required("ipv4/conf/default/rp_filter", "0"),
                Sysctl::required("ipv6/conf/all/forwarding", "1"),
            ],
        )?;
        let outside = Netns::with_sysctls(
            "outside",
            &[Sysctl::required("ipv4/conf/all/rp_filter", "0"), Sysctl::required("ipv4/conf/default/rp_filter", "0")],
        )?;
        let fabric = Self { router, outside, next_index: AtomicU32::new(TO_OUTSIDE.0 + 1), next_node: AtomicU32::new(1) };
        fabric.join(TO_OUTSIDE, "outside", &fabric.outside)?;
        Ok(fabric)
    }

    /// Links `ns` to the fabric: `eth0` there with default routes, `name` here.
    pub(crate) fn join(&self, index: LinkIndex, name: &str, ns: &Netns) -> Result<(), Error> {
        self.router.apply(vec![Change::veth(name, index, "eth0", ETH0, ns.fd()), Change::link_up(index)])?;
        self.router.add_addresses(index, &[FABRIC_V4, FABRIC_V6])?;
        ns.apply(vec![
            Change::link_up(ETH0),
            Change::add_route(&Route::direct(FABRIC_V4, ETH0)),
            Change::add_route(&Route::via(None, FABRIC_V4, ETH0)),
            Change::add_route(&Route::via(None, FABRIC_V6, ETH0)),
        ])?;
        self.router.apply(Change::ask_patiently(index).into())?;
        ns.apply(Change::ask_patiently(ETH0).into())?;
        ns.await_running(ETH0)?;
        self.router.await_running(index)
    }

    pub(crate) fn fresh_link(&self) -> LinkIndex {
        LinkIndex(self.next_index.fetch_add(1, Ordering::Relaxed))
    }

    /// Addresses for a node that was given none.
    pub(crate) fn fresh_node_addresses(&self) -> [IpAddr; 2] {
        let number = self.next_node.fetch_add(1, Ordering::Relaxed);
        let v4 = u32::from(Ipv4Addr::new(198, 18, 0, 0)) + number;
        let v6 = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0xfffe, 0, 0, 0, 0, 0)) + u128::from(number);
        [Ipv4Addr::from(v4).into(), Ipv6Addr::from(v6).into()]
    }
}

/// What a panicking test left behind is still whole: every change to these maps is a single insert or removal.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
