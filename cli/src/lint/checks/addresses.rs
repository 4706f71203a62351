//! Addresses that are somebody else's than the author thought: pods', and the metadata service's.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use sluice_policy::source::{Action, Peer, PodRef, PortMatch};
use sluice_policy::{Direction, Protocol};

use crate::lint::catalogue::Code;
use crate::lint::cover;
use crate::lint::finding::{Findings, Severity};
use crate::lint::scene::{Entry, Ruled, Scene, Subject};

/// Where clouds tell a node its credentials. (The second is Amazon's over IPv6.)
const METADATA: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];
const METADATA_PORT: PortMatch = PortMatch::Range { protocol: Protocol::Tcp, first: 80, last: 80 };

/// A block of more addresses than these names no single pods.
const NARROW_BITS: u8 = 8;

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    let own = scene.objects.pods.iter().map(|inhabitant| &inhabitant.pod).filter(|pod| !pod.host_network && !pod.finished);
    let pods: BTreeMap<IpAddr, &PodRef> = own.flat_map(|pod| pod.ips.iter().map(|ip| (*ip, &pod.reference))).collect();
    let ranges: Vec<IpNet> = scene.objects.nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
    let ranges = IpNet::aggregate(&ranges);
    for subject in scene.subjects() {
        for ruled in subject.rules().filter(|ruled| ruled.rule.action == Action::Allow) {
            for entry in ruled.entries {
                pods_in(&pods, &ranges, subject, entry, findings);
            }
            if ruled.rule.direction == Direction::Egress {
                metadata(scene, subject, ruled, findings);
            }
        }
    }
}

fn pods_in(pods: &BTreeMap<IpAddr, &PodRef>, ranges: &[IpNet], subject: Subject<'_>, entry: &Entry, findings: &mut Findings) {
    for peer in &entry.peers {
        let Peer::Block { cidr, except } = peer else { continue };
        if cidr.prefix_len() == 0 {
            continue;
        }
        let is_carved = |ip: &IpAddr| except.iter().any(|hole| hole.contains(ip));
        let mut inside = pods.range(cidr.network()..=cidr.broadcast()).filter(|(ip, _)| !is_carved(ip));
        let pod = inside.next();
        let range = ranges.iter().find(|range| range.contains(cidr) || cidr.contains(*range));
        let range = range.filter(|range| !except.iter().any(|hole| hole.contains(*range)));
        let narrow = cidr.max_prefix_len() - cidr.prefix_len() <= NARROW_BITS;
        let is_named = range.is_some_and(|range| range.contains(cidr)) || (narrow && pod.is_some());
        let what = match (pod, range) {
            (Some((ip, pod)), _) => format!("{cidr} holds {ip}, the address of pod {pod}"),
            (None, Some(range)) => format!("{cidr} holds addresses of the nodes' pods ({range})"),
            (None, None) => continue,
        };
        let (severity, fix) = if is_named {
            (Severity::Warning, "select the pods by their labels")
        } else {
            (Severity::Info, "if pods are not meant, carve their addresses out with except")
        };
        findings.add_as(Code::PodAddressInBlock, severity, subject.written, &entry.path, what, fix);
    }
}

fn metadata(scene: &Scene, subject: Subject<'_>, ruled: Ruled<'_>, findings: &mut Findings) {
    if !ruled.rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|port| cover::port(port, &METADATA_PORT))) {
        return;
    }
    for target in METADATA {
        // Whoever names the address alone means it.
        let holds = |peer: &Peer| match peer {
            Peer::Block { cidr, except } => {
                cidr.contains(&target)
                    && cidr.prefix_len() < cidr.max_prefix_len()
                    && !except.iter().any(|hole| hole.contains(&target))
            }
            _ => false,
        };
        let (path, what) = match &ruled.rule.peers {
            None => (ruled.path(), "everyone".to_owned()),
            Some(_) => {
                let Some(entry) = ruled.entries.iter().find(|entry| entry.peers.iter().any(holds)) else { continue };
                let block = entry.peers.iter().find(|peer| holds(peer)).map(|peer| crate::lint::scene::name_of(&"".into(), peer));
                (entry.path.clone(), block.unwrap_or_default())
            }
        };
        let source = |id: &u32| scene.addresses(*id).iter().copied().find(|ip| ip.is_ipv4() == target.is_ipv4());
        let reaches =
            |id: &&u32| source(id).is_some_and(|source| scene.passes(Direction::Egress, source, target, Protocol::Tcp, 80));
        let Some(pod) = subject.members.iter().find(reaches) else { continue };
        let message = format!("{what} includes {target}: {} reaches the metadata service", scene.inventory.title(*pod));
        let fix = match (&ruled.rule.peers, target.is_ipv4()) {
            (None, _) => "name the peers, or ports other than 80".to_owned(),
            (_, true) => format!("add except: [ {target}/32 ]"),
            (_, false) => format!("add except: [ \"{target}/128\" ]"),
        };
        findings.add(Code::MetadataReachable, subject.written, &path, message, fix);
    }
}
