//! What the checks look at: policies with their places and members, the inventory, and the engine.

use std::cell::OnceCell;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sluice_crds::{Value, peers_of_rule};
use sluice_policy::source::{Action, IcmpMatch, Namespace, Object, Peer, PodSelector, Rule};
use sluice_policy::view::Scope;
use sluice_policy::world::Edit;
use sluice_policy::{Decision, Direction, Flow, IcmpMessage, Protocol, Table, View, World};

use super::inventory::{ClassId, Inventory, Members};
use super::read::{Objects, Written};

/// Everything that was read, put in order.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) objects: Objects,
    pub(super) inventory: Inventory,
    /// Whom each policy is about, and what its rules say: in the order of the policies that were read.
    places: Vec<Place>,
    /// The policies about each class.
    about: Vec<Vec<u32>>,
    table: OnceCell<Judge>,
}

#[derive(Debug)]
struct Place {
    subject: Members,
    /// In the order of the policy's rules.
    entries: Vec<Vec<Entry>>,
}

/// An entry of `from` or `to`.
#[derive(Debug)]
pub(super) struct Entry {
    /// `spec.ingress[0].from[1]`.
    pub(super) path: String,
    /// Empty where it can't be read.
    pub(super) peers: Vec<Peer>,
}

/// The engine, with one pod for each class.
#[derive(Debug)]
struct Judge {
    table: Table,
    /// Where each class is found; those that take no part in the network have none.
    addresses: Vec<Vec<IpAddr>>,
}

/// A policy, for the checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject<'s> {
    pub(super) index: usize,
    pub(super) written: &'s Written,
    pub(super) members: &'s Members,
    entries: &'s [Vec<Entry>],
}

/// A rule, for the checks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ruled<'s> {
    pub(super) index: usize,
    pub(super) rule: &'s Rule,
    pub(super) entries: &'s [Entry],
}

impl Ruled<'_> {
    /// `spec.ingress[0]`.
    pub(super) fn path(&self) -> String {
        format!("spec.{}", self.rule.path)
    }

    /// `from` or `to`.
    pub(super) const fn peers_field(&self) -> &'static str {
        match self.rule.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        }
    }
}

impl<'s> Subject<'s> {
    pub(super) fn rules(self) -> impl Iterator<Item = Ruled<'s>> {
        self.written.policy.rules.iter().zip(self.entries).enumerate().map(|(index, (rule, entries))| Ruled {
            index,
            rule,
            entries,
        })
    }

    /// The rules that allow in one direction.
    pub(super) fn allows(self, direction: Direction) -> impl Iterator<Item = Ruled<'s>> {
        self.rules().filter(move |ruled| ruled.rule.direction == direction && ruled.rule.action == Action::Allow)
    }

    /// Whether the policy has a say in this direction.
    pub(super) fn governs(self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.written.policy.ingress,
            Direction::Egress => self.written.policy.egress,
        }
    }

    /// A rule as it was written.
    pub(super) fn raw(self, ruled: Ruled<'_>) -> Option<&'s Value> {
        raw_rule(self.written, ruled.rule)
    }
}

fn raw_rule<'w>(written: &'w Written, rule: &Rule) -> Option<&'w Value> {
    let index = rule.path.split_once('[')?.1.strip_suffix(']')?;
    written.value.get("spec")?.get(rule.direction.as_str())?.as_list()?.get(index.parse::<usize>().ok()?)
}

impl Scene {
    pub(super) fn new(objects: Objects) -> Self {
        let inventory = Inventory::new(&objects);
        let mut about = vec![Vec::new(); inventory.classes.len()];
        let mut places = Vec::with_capacity(objects.policies.len());
        for (index, written) in (0..).zip(&objects.policies) {
            let subject = inventory.select(&written.policy.subject).members;
            for class in subject.iter() {
                about[*class as usize].push(index);
            }
            places.push(Place { subject, entries: written.policy.rules.iter().map(|rule| entries(written, rule)).collect() });
        }
        Self { objects, inventory, places, about, table: OnceCell::new() }
    }

    pub(super) fn subjects(&self) -> impl Iterator<Item = Subject<'_>> {
        (0..self.places.len()).map(|index| self.subject(index))
    }

    pub(super) fn subject(&self, index: usize) -> Subject<'_> {
        let place = &self.places[index];
        Subject { index, written: &self.objects.policies[index], members: &place.subject, entries: &place.entries }
    }

    /// The policies about a class.
    pub(super) fn policies_about(&self, class: ClassId) -> impl Iterator<Item = Subject<'_>> {
        self.about[class as usize].iter().map(|index| self.subject(*index as usize))
    }

    /// The classes that a peer names.
    pub(super) fn members(&self, peer: &Peer) -> Option<Members> {
        match peer {
            Peer::Pods(selector) => Some(self.inventory.select(selector).members),
            _ => None,
        }
    }

    /// Where the engine knows a class. Empty where it takes no part in the network.
    pub(super) fn addresses(&self, class: ClassId) -> &[IpAddr] {
        &self.judge().addresses[class as usize]
    }

    /// Whether the engine lets such a flow through one of its ends, or would look at its request.
    pub(super) fn passes(
        &self,
        direction: Direction,
        source: IpAddr,
        destination: IpAddr,
        protocol: Protocol,
        port: u16,
    ) -> bool {
        let flow = Flow { source, destination, protocol, destination_port: port, icmp: None, names: &[], request: None };
        self.judge().table.verdict(&flow).half(direction).decision != Decision::Deny
    }

    /// The same for one of these messages of ICMP.
    pub(super) fn passes_message(&self, direction: Direction, source: IpAddr, destination: IpAddr, wanted: &IcmpMatch) -> bool {
        let kind = wanted.kind.unwrap_or(wanted.family.echo_request());
        let icmp = Some(IcmpMessage { kind, code: wanted.code.unwrap_or(0) });
        let flow = Flow { source, destination, protocol: Protocol::Icmp, destination_port: 0, icmp, names: &[], request: None };
        self.judge().table.verdict(&flow).half(direction).decision != Decision::Deny
    }

    fn judge(&self) -> &Judge {
        self.table.get_or_init(|| Judge::new(&self.objects, &self.inventory))
    }
}

fn entries(written: &Written, rule: &Rule) -> Vec<Entry> {
    let Some(raw) = raw_rule(written, rule) else { return Vec::new() };
    let field = if rule.direction == Direction::Ingress { "from" } else { "to" };
    let peers = peers_of_rule(raw, &written.policy.reference, rule.direction);
    let entry = |(i, peers)| Entry { path: format!("spec.{}.{field}[{i}]", rule.path), peers };
    peers.into_iter().enumerate().map(entry).collect()
}

impl Judge {
    fn new(objects: &Objects, inventory: &Inventory) -> Self {
        let mut taken = HashSet::new();
        let mut addresses = vec![Vec::new(); inventory.classes.len()];
        let mut edits = Vec::new();
        for (name, labels) in &inventory.namespaces {
            edits.push(Edit::Put(Object::Namespace(Namespace { name: name.clone(), labels: labels.clone() })));
        }
        edits.extend(objects.nodes.iter().map(|node| Edit::Put(Object::Node(node.clone()))));
        for id in inventory.own() {
            let class = inventory.class(id);
            let mut ips: Vec<IpAddr> = class.ips.iter().copied().filter(|ip| taken.insert(*ip)).collect();
            if ips.is_empty() {
                ips = vec![spare(id, &mut taken)];
            }
            addresses[id as usize] = ips.clone();
            edits.push(Edit::Put(Object::Pod(class.pod(ips))));
        }
        edits.extend(objects.policies.iter().map(|written| Edit::Put(Object::Policy(written.policy.clone()))));
        let mut world = World::new();
        world.hold_resolvers(&[PodSelector::kube_dns()]);
        world.apply(edits);
        let changes = View::new(Scope::Everything).resolving(vec![PodSelector::kube_dns()]).snapshot(&world);
        let (table, _) = Table::empty().apply(&changes).expect("a snapshot refers to nothing but itself");
        Self { table, addresses }
    }
}

/// An address for a pod that has none yet: of the block that most clusters take their pods' from.
fn spare(id: ClassId, taken: &mut HashSet<IpAddr>) -> IpAddr {
    let mut number = Ipv4Addr::new(10, 128, 0, 0).to_bits() + id;
    loop {
        let ip = IpAddr::from(Ipv4Addr::from_bits(number));
        if taken.insert(ip) {
            return ip;
        }
        number += 1;
    }
}

/// `pods app=web of shop`: a peer in a few words.
pub(super) fn name_of(policy: &Arc<str>, peer: &Peer) -> String {
    use sluice_policy::source::Namespaces;
    match peer {
        Peer::Pods(selector) => {
            let pods = if selector.pods.is_everything() { "all pods".to_owned() } else { format!("pods {}", selector.pods) };
            match &selector.namespaces {
                Namespaces::Named(name) if name == policy => pods,
                Namespaces::Named(name) => format!("{pods} of {name}"),
                Namespaces::Matching(namespaces) if namespaces.is_everything() => format!("{pods} of all namespaces"),
                Namespaces::Matching(namespaces) => format!("{pods} of namespaces {namespaces}"),
            }
        }
        Peer::Block { cidr, .. } => cidr.to_string(),
        Peer::Nodes(selector) => format!("nodes {selector}"),
        Peer::Names(named) => named.patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}
