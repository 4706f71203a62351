//! Services where pods are meant: policies see the packet after the Service's translation.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use sluice_crds::Value;
use sluice_crds::value::Node;
use sluice_policy::source::{Action, Peer, PortMatch};
use sluice_policy::{Direction, Protocol};

use crate::lint::catalogue::Code;
use crate::lint::finding::Findings;
use crate::lint::inventory::ClassId;
use crate::lint::scene::{Ruled, Scene, Subject};
use crate::lint::service::{Service, Target};

/// Rules about pods of more namespaces than this name no Service by its port.
const MOST_NAMESPACES: usize = 20;

/// A block of more addresses than these is not one that somebody took from a Service.
const NARROW_BITS: u8 = 8;

type Ports<'s> = HashMap<(Arc<str>, Protocol, u16), Vec<(&'s Service, &'s Target)>>;

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    let mut ports = Ports::new();
    let mut addresses: BTreeMap<IpAddr, &Service> = BTreeMap::new();
    for service in &scene.objects.services {
        addresses.extend(service.addresses.iter().map(|ip| (*ip, service)));
        for port in &service.ports {
            let key = (service.namespace.clone(), port.protocol, port.port);
            ports.entry(key).or_default().push((service, &port.target));
        }
    }
    if scene.objects.services.is_empty() {
        return;
    }
    for subject in scene.subjects() {
        for ruled in subject.rules() {
            if scene.inventory.given && ruled.rule.action == Action::Allow {
                ports_of(scene, &ports, subject, ruled, findings);
            }
            for entry in ruled.entries {
                for peer in &entry.peers {
                    let Peer::Block { cidr, .. } = peer else { continue };
                    if cidr.max_prefix_len() - cidr.prefix_len() > NARROW_BITS {
                        continue;
                    }
                    if let Some((ip, service)) = addresses.range(cidr.network()..=cidr.broadcast()).next() {
                        let message = format!("{ip} is the address of the Service {}/{}", service.namespace, service.name);
                        let fix = match &service.selector {
                            Some(pods) => format!("select the Service's pods: {} in namespace {}", pods.pods, service.namespace),
                            None => "name the addresses that the Service leads to".to_owned(),
                        };
                        findings.add(Code::ServiceAddress, subject.written, &format!("{}.ipBlock", entry.path), message, fix);
                    }
                }
            }
        }
    }
}

/// The pods whose ports a rule is about.
fn targets(scene: &Scene, subject: Subject<'_>, ruled: Ruled<'_>) -> Vec<ClassId> {
    match ruled.rule.direction {
        Direction::Ingress => subject.members.to_vec(),
        Direction::Egress => {
            let peers = ruled.rule.peers.iter().flatten();
            let mut all: Vec<ClassId> = peers.filter_map(|peer| scene.members(peer)).flat_map(|m| m.to_vec()).collect();
            all.sort_unstable();
            all.dedup();
            all
        }
    }
}

fn ports_of(scene: &Scene, ports: &Ports<'_>, subject: Subject<'_>, ruled: Ruled<'_>, findings: &mut Findings) {
    let single = |port: &PortMatch| match port {
        PortMatch::Range { protocol, first, last } if first == last => Some((*protocol, *first)),
        _ => None,
    };
    let numbers: Vec<_> = ruled.rule.ports.iter().flatten().filter_map(single).collect();
    if numbers.is_empty() {
        return;
    }
    let targets = targets(scene, subject, ruled);
    let namespaces: HashSet<&Arc<str>> = targets.iter().map(|id| &scene.inventory.class(*id).namespace).collect();
    if namespaces.len() > MOST_NAMESPACES {
        return;
    }
    let listens = |protocol, port| targets.iter().any(|id| scene.inventory.class(*id).containers.contains(&(protocol, port)));
    for (protocol, number) in numbers {
        if listens(protocol, number) {
            continue;
        }
        let found = namespaces.iter().filter_map(|ns| ports.get(&((*ns).clone(), protocol, number))).flatten();
        let about = |service: &Service| {
            let pods = service.selector.as_ref().map(|selector| scene.inventory.select(selector).members);
            pods.is_some_and(|pods| pods.iter().any(|id| targets.binary_search(id).is_ok()))
        };
        let about: Vec<_> = found.filter(|(service, _)| about(service)).collect();
        // Another Service, or the same, may lead to that very port.
        if about.iter().any(|(_, target)| matches!(target, Target::Number(target) if *target == number)) {
            continue;
        }
        let Some((service, target)) = about.first() else { continue };
        let message =
            format!("{number} is the port of the Service {}/{}, whose pods listen on {target}", service.namespace, service.name);
        let path = port_path(subject, ruled, number);
        findings.add(Code::ServicePortForTargetPort, subject.written, &path, message, format!("write port: {target}"));
    }
}

/// Where a rule names a port.
fn port_path(subject: Subject<'_>, ruled: Ruled<'_>, number: u16) -> String {
    let listed = subject.raw(ruled).and_then(|raw| raw.get("ports")).and_then(Value::as_list).unwrap_or_default();
    let is_it = |entry: &Value| entry.get("port").is_some_and(|port| port.node == Node::Int(i64::from(number)));
    match listed.iter().position(is_it) {
        Some(index) => format!("{}.ports[{index}].port", ruled.path()),
        None => ruled.path(),
    }
}
