//! Connections that one end allows and the other doesn't.

use std::net::IpAddr;

use sluice_policy::source::{Namespaces, Peer, PodSelector, PortMatch};
use sluice_policy::{Direction, IcmpFamily, Protocol};

use crate::lint::catalogue::Code;
use crate::lint::finding::{Findings, Severity};
use crate::lint::inventory::{ClassId, Members};
use crate::lint::scene::{Entry, Ruled, Scene, Subject, name_of};

/// Above this many pairs of classes a rule names nobody in particular.
const MOST_PAIRS: usize = 4_096;

const WITH_PORTS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    if !scene.inventory.given {
        return;
    }
    for subject in scene.subjects() {
        for direction in Direction::BOTH {
            for ruled in subject.allows(direction).filter(|_| subject.governs(direction)) {
                for entry in ruled.entries {
                    if let [peer @ Peer::Pods(selector)] = entry.peers.as_slice()
                        && is_explicit(selector)
                        && let Some(members) = scene.members(peer)
                    {
                        Sides { scene, subject, ruled, entry, peer, members }.check(findings);
                    }
                }
            }
        }
    }
}

/// Whether the selector names somebody: not all pods of everywhere, or of the own namespace.
fn is_explicit(selector: &PodSelector) -> bool {
    let everywhere = match &selector.namespaces {
        Namespaces::Named(_) => true,
        Namespaces::Matching(namespaces) => namespaces.is_everything(),
    };
    !(everywhere && selector.pods.is_everything())
}

/// One rule, and one peer of it.
struct Sides<'s> {
    scene: &'s Scene,
    subject: Subject<'s>,
    ruled: Ruled<'s>,
    entry: &'s Entry,
    peer: &'s Peer,
    members: Members,
}

impl Sides<'_> {
    fn check(&self, findings: &mut Findings) {
        let other = other(self.ruled.rule.direction);
        let is_governed = |class: ClassId| self.scene.policies_about(class).any(|subject| subject.governs(other));
        // Where nobody has said anything about a peer, it is open.
        let governed = self.members.iter().all(|class| is_governed(*class));
        if self.members.is_empty() || !governed || self.subject.members.len() * self.members.len() > MOST_PAIRS {
            return;
        }
        let pairs: Vec<(ClassId, ClassId)> = self
            .subject
            .members
            .iter()
            .flat_map(|own| self.members.iter().map(|peer| (*own, *peer)))
            .filter(|(own, peer)| own != peer)
            .collect();
        let Some(example) = pairs.iter().find(|pair| self.addresses(**pair).is_some()).copied() else { return };
        let all = vec![None];
        let ports: Vec<Option<&PortMatch>> = match &self.ruled.rule.ports {
            None => all,
            Some(ports) => ports.iter().map(Some).collect(),
        };
        let is_closed = |port: &Option<&PortMatch>| !pairs.iter().any(|pair| self.passes(*pair, *port, other));
        let closed: Vec<_> = ports.iter().copied().filter(is_closed).collect();
        if closed.is_empty() {
            return;
        }
        let severity = if closed.len() == ports.len() { Severity::Warning } else { Severity::Info };
        self.report(example, &closed, severity, findings);
    }

    fn report(&self, example: (ClassId, ClassId), closed: &[Option<&PortMatch>], severity: Severity, findings: &mut Findings) {
        let direction = self.ruled.rule.direction;
        let other = other(direction);
        let inventory = &self.scene.inventory;
        let (own, peer) = (inventory.title(example.0), inventory.title(example.1));
        let ports: Vec<String> = closed.iter().map(|port| port.map_or_else(|| "any port".to_owned(), words)).collect();
        let ports = ports.join(", ");
        let by: Vec<String> = self
            .scene
            .policies_about(example.1)
            .filter(|subject| subject.governs(other))
            .map(|subject| subject.written.policy.reference.to_string())
            .take(3)
            .collect();
        let home = &self.subject.written.policy.reference.namespace;
        let named = name_of(home, self.peer);
        let (message, verb) = match direction {
            Direction::Ingress => (
                format!(
                    "{named} may come in on {ports}, but {other} of {peer} lets nothing out to {own} there ({})",
                    by.join(", ")
                ),
                "to",
            ),
            Direction::Egress => (
                format!("{ports} is open to {named}, but {other} of {peer} lets nothing in from {own} there ({})", by.join(", ")),
                "from",
            ),
        };
        let fix = format!("allow {ports} {verb} {own} in {other} of {peer} too, or take this peer away");
        findings.add_as(Code::OneSided, severity, self.subject.written, &self.entry.path, message, fix);
    }

    /// The source's and the destination's address, of one family.
    fn addresses(&self, (own, peer): (ClassId, ClassId)) -> Option<(IpAddr, IpAddr)> {
        let (source, destination) = match self.ruled.rule.direction {
            Direction::Egress => (own, peer),
            Direction::Ingress => (peer, own),
        };
        self.scene.addresses(source).iter().find_map(|source| {
            let same = self.scene.addresses(destination).iter().find(|ip| ip.is_ipv4() == source.is_ipv4());
            same.map(|destination| (*source, *destination))
        })
    }

    /// Whether the other end lets anything through on this port.
    fn passes(&self, pair: (ClassId, ClassId), port: Option<&PortMatch>, other: Direction) -> bool {
        // Without a common family there is no path at all, whatever the policies say.
        let Some((source, destination)) = self.addresses(pair) else { return false };
        let destination_class = if self.ruled.rule.direction == Direction::Egress { pair.1 } else { pair.0 };
        let named = &self.scene.inventory.class(destination_class).ports;
        let passes = |protocol, port| self.scene.passes(other, source, destination, protocol, port);
        match port {
            None => {
                let anything = |protocol| self.edges(pair.1, other, protocol, 1, u16::MAX).any(|port| passes(protocol, port));
                WITH_PORTS.into_iter().any(anything) || self.scene.passes(other, source, destination, Protocol::Icmp, 0)
            }
            Some(PortMatch::All { protocol }) => {
                self.edges(pair.1, other, *protocol, 1, u16::MAX).any(|port| passes(*protocol, port))
            }
            Some(PortMatch::Range { protocol, first, last }) => {
                self.edges(pair.1, other, *protocol, *first, *last).any(|port| passes(*protocol, port))
            }
            // Those of the other family have no path here.
            Some(PortMatch::Icmp(messages)) => {
                messages.family != IcmpFamily::of(source) || self.scene.passes_message(other, source, destination, messages)
            }
            Some(PortMatch::Named { protocol, name }) => {
                let found = named.iter().find(|port| port.name == *name && port.protocol == *protocol);
                found.is_none_or(|found| passes(*protocol, found.port))
            }
        }
    }

    /// Ports of `first..=last` where the verdict of the other end may change: between two of them it is the same.
    fn edges(&self, peer: ClassId, other: Direction, protocol: Protocol, first: u16, last: u16) -> impl Iterator<Item = u16> {
        let rules = self.scene.policies_about(peer).flat_map(|subject| subject.rules());
        let ports = rules.filter(|ruled| ruled.rule.direction == other).flat_map(|ruled| ruled.rule.ports.iter().flatten());
        let mut edges = vec![first];
        for port in ports {
            match port {
                PortMatch::Range { protocol: p, first, last } if *p == protocol => edges.extend([*first, last.saturating_add(1)]),
                PortMatch::Named { protocol: p, name } if *p == protocol => {
                    let classes = self.subject.members.iter().chain(self.members.iter());
                    let ports = classes.flat_map(|id| &self.scene.inventory.class(*id).ports);
                    let numbers = ports.filter(|port| port.name == *name).map(|port| port.port);
                    edges.extend(numbers.flat_map(|number| [number, number.saturating_add(1)]));
                }
                _ => {}
            }
        }
        edges.sort_unstable();
        edges.dedup();
        edges.into_iter().filter(move |edge| (first..=last).contains(edge))
    }
}

const fn other(direction: Direction) -> Direction {
    match direction {
        Direction::Ingress => Direction::Egress,
        Direction::Egress => Direction::Ingress,
    }
}

/// `TCP 8080`, `TCP http`, `TCP 8000-8100`.
fn words(port: &PortMatch) -> String {
    match port {
        PortMatch::All { protocol } => format!("every {protocol} port"),
        PortMatch::Range { protocol, first, last } if first == last => format!("{protocol} {first}"),
        PortMatch::Range { protocol, first, last } => format!("{protocol} {first}-{last}"),
        PortMatch::Named { protocol, name } => format!("{protocol} {name}"),
        PortMatch::Icmp(messages) => messages.to_string(),
    }
}
