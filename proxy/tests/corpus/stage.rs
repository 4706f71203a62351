//! A case's cluster as namespaces: nodes, pods where the case's objects put them, and whatever else has an address outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use sluice_crds::case::{End, State};
use sluice_policy::source::{Key, Node as NodeObject, Object, Pod as PodObject, PodRef, PodSelector};
use sluice_policy::view::Scope;
use sluice_policy::world::{Edit, Effects};
use sluice_policy::{Flow, Table, View, World};
use sluice_proxy::kernel::bridge::{Bridges, Form};
use sluice_proxy::kernel::conntrack::Conntrack;
use sluice_proxy::kernel::routes::{DEFAULT_PRIORITY, PolicyRouting};
use sluice_proxy::kernel::{Config, Kernel, Log};
use sluice_proxy::names::{Limits, Moment, Names, NamesMetrics};
use sluice_testnet::{Net, Netns, Node, Options, Port};

use crate::domains::Domains;
use crate::listener::Listener;
use crate::select;

/// Where the pods are that the case itself puts on no node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All on one: both directions are judged by the same rules.
    OneNode,
    /// In turn on two: egress is judged on one node, ingress on the other.
    TwoNodes,
}

/// A case's cluster in one of its states.
pub(crate) struct Stage {
    net: Net,
    world: World,
    enforced: Vec<Enforced>,
    pods: BTreeMap<PodRef, Placed>,
    /// The Pod objects: one may wait for an address that another has.
    wanted: BTreeMap<PodRef, PodObject>,
    outside: BTreeSet<IpAddr>,
    domains: Domains,
    /// How many pods have been put on a node in turn.
    turn: usize,
}

/// A node with the rules that its table leads to, and a listener where the proxy would be.
pub(crate) struct Enforced {
    pub(crate) node: Node,
    view: View,
    pub(crate) table: Table,
    kernel: Kernel,
    /// What its pods were told.
    names: Arc<Names>,
    /// Where pods are on a bridge.
    bridges: Option<Bridges>,
    _listener: Listener,
}

/// A pod that has its addresses on a node.
struct Placed {
    node: Arc<str>,
    ips: Vec<IpAddr>,
}

/// Who has an address.
pub(crate) struct Holder {
    pub(crate) ns: Netns,
    /// What its servers answer by.
    pub(crate) identity: String,
}

/// What made a stage impossible: the test's own machinery or the kernel's refusal, never a verdict.
pub(crate) type Broken = Box<dyn std::error::Error + Send + Sync>;

impl Stage {
    /// Empty nodes for a case that begins with `state`: those that it names, else as many as `layout` says. `config` is each kernel's.
    pub(crate) fn new(state: &State, layout: Layout, config: Config) -> Result<Self, Broken> {
        let network = select::network();
        let net = Net::with(Options { layout: network, ..Options::default() })?;
        let mut names: BTreeMap<Arc<str>, Vec<IpAddr>> = BTreeMap::new();
        for edit in &state.edits {
            match edit {
                Edit::Put(Object::Node(node)) => names.entry(node.name.clone()).or_default().extend(&node.ips),
                Edit::Put(Object::Pod(pod)) => {
                    if let Some(node) = &pod.node {
                        let addresses = names.entry(node.clone()).or_default();
                        addresses.extend(pod.ips.iter().filter(|_| pod.host_network));
                    }
                }
                _ => {}
            }
        }
        let spare: &[&str] = match layout {
            _ if !names.is_empty() => &[],
            Layout::OneNode => &["node-1"],
            Layout::TwoNodes => &["node-1", "node-2"],
        };
        names.extend(spare.iter().map(|name| (Arc::from(*name), Vec::new())));
        let mut world = World::new();
        world.hold_resolvers(&[PodSelector::kube_dns()]);
        let mut stage = Self {
            net,
            world,
            enforced: Vec::new(),
            pods: BTreeMap::new(),
            wanted: BTreeMap::new(),
            outside: BTreeSet::new(),
            domains: Domains::default(),
            turn: 0,
        };
        for (name, mut addresses) in names {
            addresses.sort_unstable();
            addresses.dedup();
            let node = stage.net.add_node(&name, &addresses)?;
            stage.enforced.push(Enforced::new(node, name, config.clone(), network)?);
        }
        let nodes: Vec<Edit> = stage.enforced.iter().map(Enforced::object).collect();
        stage.apply(nodes)?;
        Ok(stage)
    }

    /// Brings the cluster to the next state: pods, then objects, as one delta to each node's kernel.
    pub(crate) fn enter(&mut self, state: &State) -> Result<(), Broken> {
        let mut edits = state.edits.clone();
        for edit in &mut edits {
            match edit {
                Edit::Put(Object::Pod(pod)) => {
                    self.place(pod)?;
                    self.wanted.insert(pod.reference.clone(), pod.clone());
                }
                Edit::Put(Object::Node(node)) => self.complete(node),
                Edit::Remove(Key::Pod(pod)) => {
                    self.vacate(pod)?;
                    self.wanted.remove(pod);
                }
                _ => {}
            }
        }
        // Whoever had to wait for an address that another has given up.
        for mut pod in self.wanted.values().cloned().collect::<Vec<_>>() {
            self.place(&mut pod)?;
        }
        let are_others = self.domains.follow(&edits);
        self.apply(edits)?;
        if let Some(now) = state.now {
            let effects = self.world.set_time(now);
            self.follow(&effects)?;
        }
        let domains = &self.domains;
        self.enforced.iter_mut().try_for_each(|enforced| enforced.tell(domains, are_others))
    }

    fn apply(&mut self, edits: Vec<Edit>) -> Result<(), Broken> {
        let effects = self.world.apply(edits);
        self.follow(&effects)
    }

    fn follow(&mut self, effects: &Effects) -> Result<(), Broken> {
        for enforced in &mut self.enforced {
            let delta = enforced.view.delta(&self.world, effects);
            enforced.apply(&delta)?;
        }
        Ok(())
    }

    /// Gives a pod its node, and the node the pod.
    fn place(&mut self, pod: &mut PodObject) -> Result<(), Broken> {
        let before = self.pods.get(&pod.reference).map(|placed| placed.node.clone());
        let node = pod.node.clone().or(before).unwrap_or_else(|| {
            self.turn += 1;
            self.enforced[self.turn % self.enforced.len()].node.name().into()
        });
        pod.node = Some(node.clone());
        let mut ips = if pod.host_network || pod.finished { Vec::new() } else { pod.ips.clone() };
        // Of two pods that claim an address the first has it.
        ips.retain(|ip| !self.pods.iter().any(|(other, placed)| *other != pod.reference && placed.ips.contains(ip)));
        if self.pods.get(&pod.reference).is_some_and(|placed| placed.ips == ips && placed.node == node) {
            return Ok(());
        }
        self.vacate(&pod.reference)?;
        for ip in &ips {
            if self.outside.remove(ip) {
                self.net.remove_outside_address(*ip)?;
            }
        }
        if !ips.is_empty() {
            let on = self.net.node(&node).ok_or_else(|| format!("{} is on {node}, which is no node", pod.reference))?;
            self.net.add_pod(&on, &pod.reference.to_string(), &ips)?;
        }
        self.pods.insert(pod.reference.clone(), Placed { node, ips });
        Ok(())
    }

    fn vacate(&mut self, pod: &PodRef) -> Result<(), Broken> {
        let Some(placed) = self.pods.remove(pod).filter(|placed| !placed.ips.is_empty()) else { return Ok(()) };
        self.net.remove_pod(&pod.to_string())?;
        // Its successor's first ports are its own again, and its flows are what the proxy would end.
        for enforced in &self.enforced {
            enforced.forget(&placed.ips)?;
        }
        Ok(())
    }

    /// A Node object has the addresses that its namespace has, the case's among them.
    fn complete(&self, node: &mut NodeObject) {
        if let Some(real) = self.net.node(&node.name) {
            node.ips = real.addresses().to_vec();
        }
    }

    /// Who has the address of `end`. Whoever the case doesn't say is outside, and is given the address.
    pub(crate) fn holder(&mut self, end: &End) -> Result<Holder, Broken> {
        let pod = self.pods.iter().find(|(_, placed)| placed.ips.contains(&end.ip));
        if let Some((reference, _)) = pod {
            let pod = self.net.pod(&reference.to_string()).ok_or_else(|| format!("{reference} is not on the network"))?;
            return Ok(Holder { ns: pod.ns().clone(), identity: pod.name().to_owned() });
        }
        if let Some(enforced) = self.enforced.iter().find(|e| e.node.addresses().contains(&end.ip)) {
            return Ok(Holder { ns: enforced.node.ns().clone(), identity: enforced.node.name().to_owned() });
        }
        let is_new = ![Net::OUTSIDE_V4, Net::OUTSIDE_V6].contains(&end.ip) && self.outside.insert(end.ip);
        if is_new {
            self.net.add_outside_address(end.ip)?;
        }
        Ok(Holder { ns: self.net.outside().clone(), identity: "outside".to_owned() })
    }

    /// Lets `holder` answer at `ports`, and nowhere else.
    pub(crate) fn serve(&self, holder: &Holder, ports: &[Port]) -> Result<(), Broken> {
        Ok(self.net.serve(&holder.ns, &holder.identity, ports)?)
    }

    pub(crate) fn enforced(&self) -> &[Enforced] {
        &self.enforced
    }

    /// Whether `ip` is on the bridge of this node's pods and two pods claim it: what says there whose it is, is dropped.
    pub(crate) fn is_contested_neighbour(&self, on: &Enforced, ip: IpAddr) -> bool {
        let is_there = |placed: &Placed| &*placed.node == on.node.name() && placed.ips.contains(&ip);
        on.bridges.is_some()
            && on.table.endpoint(ip).is_some_and(|endpoint| endpoint.conflict)
            && self.pods.values().any(is_there)
    }

    /// The nodes that a packet passes, in that order: its source's and its destination's, where these are pods.
    pub(crate) fn path(&self, from: IpAddr, to: IpAddr) -> impl Iterator<Item = &Enforced> {
        let node_of = |ip| self.pods.values().find(|placed| placed.ips.contains(&ip)).map(|placed| &placed.node);
        let (first, second) = (node_of(from), node_of(to));
        let second = second.filter(|second| Some(*second) != first);
        let named = |name: &Arc<str>| self.enforced.iter().find(|e| e.node.name() == &**name);
        first.into_iter().chain(second).filter_map(named).collect::<Vec<_>>().into_iter()
    }
}

impl Enforced {
    fn new(node: Node, name: Arc<str>, config: Config, network: sluice_testnet::Layout) -> Result<Self, Broken> {
        // With the rules that report, as a node has them.
        let log = Log { group: 15_001, per_second: NonZeroU32::MIN, passed: true };
        let config = Config { log: Some(log), ..config };
        let routing = PolicyRouting::new(config.mark, config.routing_table, DEFAULT_PRIORITY)?;
        node.ns().run(|| routing.install())?;
        let listener = Listener::start(&node, &config)?;
        let has_bridge = network != sluice_testnet::Layout::Routed;
        let bridges = has_bridge.then(|| node.ns().run(|| Bridges::open(&[], Form::Auto))).transpose()?;
        let mut kernel = node.ns().run(|| Kernel::open(config))?;
        let names = Arc::new(Names::new(Limits::default(), NamesMetrics::default()));
        kernel.remember(Arc::clone(&names));
        let view = View::new(Scope::Node(name)).resolving(vec![PodSelector::kube_dns()]);
        Ok(Self { node, view, table: Table::empty(), kernel, names, bridges, _listener: listener })
    }

    fn object(&self) -> Edit {
        Edit::Put(Object::Node(NodeObject {
            name: self.node.name().into(),
            labels: BTreeMap::new(),
            ips: self.node.addresses().to_vec(),
            pod_cidrs: Vec::new(),
        }))
    }

    fn apply(&mut self, delta: &[sluice_policy::snapshot::Change]) -> Result<(), Broken> {
        let (table, touched) = self.table.apply(delta)?;
        let (kernel, bridges) = (&mut self.kernel, &mut self.bridges);
        self.node.ns().run(|| kernel.apply(&table, Some(&touched), &[]))?;
        if let Some(bridges) = bridges {
            self.node.ns().run(|| bridges.keep(&table, Some(&touched)))?;
        }
        self.table = table;
        Ok(())
    }

    /// Tells the node's pods what DNS says. `anew`: it said something else before.
    fn tell(&mut self, domains: &Domains, anew: bool) -> Result<(), Broken> {
        let (kernel, names) = (&mut self.kernel, &self.names);
        if anew {
            let pods = names.pods();
            for pod in &pods {
                names.forget(*pod, Moment::now());
            }
            self.node.ns().run(|| kernel.forget(&pods))?;
        }
        let lessons = domains.teach(&self.table, names);
        self.node.ns().run(|| kernel.learn(&lessons))?;
        lessons.iter().for_each(|lesson| names.confirm(lesson));
        Ok(())
    }

    /// Asks the node's table about a flow, with the names that its source knows the destination by.
    pub(crate) fn ask<T>(&self, flow: &Flow<'_>, question: impl FnOnce(&Table, &Flow<'_>) -> T) -> T {
        let names = self.names.names_of(flow.source, flow.destination, Moment::now());
        question(&self.table, &Flow { names: &names, ..*flow })
    }

    /// Ends the tracking of the flows that begin or end at `ips`.
    fn forget(&self, ips: &[IpAddr]) -> Result<(), Broken> {
        self.node.ns().run(|| {
            let mut conntrack = Conntrack::open()?;
            for entry in conntrack.dump()? {
                if ips.contains(&entry.original.source) || ips.contains(&entry.reply.source) {
                    conntrack.delete(&entry)?;
                }
            }
            Ok(())
        })
    }

    /// What nft says of the node's rules.
    pub(crate) fn ruleset(&self) -> String {
        self.node.ns().exec("nft", &["list", "ruleset"]).unwrap_or_else(|error| error.to_string())
    }
}
