//! Names: pods that can't look any up, and pods that can look them up elsewhere.

use sluice_crds::Value;
use sluice_policy::source::{Peer, PortMatch, Rule, Tier};
use sluice_policy::{Direction, Protocol};

use crate::lint::catalogue::Code;
use crate::lint::cover;
use crate::lint::finding::Findings;
use crate::lint::inventory::ClassId;
use crate::lint::scene::{Ruled, Scene, Subject};

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    let servers: Vec<ClassId> = scene.inventory.own().filter(|id| scene.inventory.class(*id).resolver).collect();
    for class in scene.inventory.own().filter(|id| servers.binary_search(id).is_err()) {
        resolves(scene, class, &servers, findings);
    }
    for subject in scene.subjects().filter(|subject| goes_by_name(*subject)) {
        resolves_elsewhere(scene, subject, findings);
    }
}

/// Whether a class that may reach something may reach a resolver.
fn resolves(scene: &Scene, class: ClassId, servers: &[ClassId], findings: &mut Findings) {
    let is_isolating =
        |subject: &Subject<'_>| subject.governs(Direction::Egress) && subject.written.policy.tier == Tier::Additive;
    if !scene.policies_about(class).any(|subject| is_isolating(&subject)) {
        return;
    }
    let allows = || scene.policies_about(class).flat_map(|subject| subject.allows(Direction::Egress).map(move |r| (subject, r)));
    let asks = |protocol| allows().find(|(_, ruled)| asks_a_resolver(scene, ruled.rule, protocol, servers));
    let title = || scene.inventory.title(class);
    let Some((of_udp, udp)) = asks(Protocol::Udp) else {
        let is_other = |ruled: &Ruled<'_>| {
            let only_dns =
                |ports: &Vec<PortMatch>| ports.iter().all(|port| is_dns(port, Protocol::Udp) || is_dns(port, Protocol::Tcp));
            ruled.rule.peers.as_ref().is_none_or(|peers| !peers.is_empty()) && !ruled.rule.ports.as_ref().is_some_and(only_dns)
        };
        if let Some((subject, ruled)) = allows().find(|(_, ruled)| is_other(ruled)) {
            let message = format!("{} may send what this rule allows, but nothing to a resolver on UDP 53", title());
            let fix = "allow UDP and TCP 53 to namespaceSelector kubernetes.io/metadata.name: kube-system with podSelector k8s-app: \
                       kube-dns";
            findings.add(Code::DnsNotAllowed, subject.written, &ruled.path(), message, fix);
        }
        return;
    };
    if asks(Protocol::Tcp).is_none() {
        let message = format!("{} reaches a resolver over UDP by this rule, and none over TCP", title());
        let fix = "add { protocol: TCP, port: 53 } to its ports";
        findings.add(Code::DnsWithoutTcp, of_udp.written, &format!("{}.ports", udp.path()), message, fix);
    }
}

/// Whether `port` is for nothing but DNS.
fn is_dns(port: &PortMatch, protocol: Protocol) -> bool {
    match port {
        PortMatch::Range { protocol: p, first: 53, last: 53 } => *p == protocol,
        PortMatch::Named { protocol: p, name } => *p == protocol && name.contains("dns"),
        _ => false,
    }
}

/// Whether a rule lets a question through to something that may be a resolver.
fn asks_a_resolver(scene: &Scene, rule: &Rule, protocol: Protocol, servers: &[ClassId]) -> bool {
    // A rule by name allows the look-up of its names.
    if rule.peers.iter().flatten().any(|peer| matches!(peer, Peer::Names(_))) {
        return true;
    }
    let question = PortMatch::Range { protocol, first: 53, last: 53 };
    let ports = rule.ports.as_ref();
    if !ports.is_none_or(|ports| ports.iter().any(|port| cover::port(port, &question) || is_dns(port, protocol))) {
        return false;
    }
    let may_be = |peer: &Peer| match peer {
        Peer::Pods(_) if !servers.is_empty() => {
            scene.members(peer).is_some_and(|members| servers.iter().any(|server| members.binary_search(server).is_ok()))
        }
        Peer::Pods(selector) => matches!(selector.namespaces, sluice_policy::source::Namespaces::Matching(_)),
        Peer::Block { .. } | Peer::Nodes(_) => true,
        Peer::Names(_) => false,
    };
    rule.peers.as_ref().is_none_or(|peers| peers.iter().any(may_be))
}

/// Whether egress of these pods is given by names.
fn goes_by_name(subject: Subject<'_>) -> bool {
    subject.rules().any(|ruled| {
        let entries = subject.raw(ruled).and_then(|raw| raw.get("to")).and_then(Value::as_list).unwrap_or_default();
        entries.iter().any(|entry| entry.get("fqdns").is_some() || entry.get("domainNames").is_some())
    })
}

fn resolves_elsewhere(scene: &Scene, subject: Subject<'_>, findings: &mut Findings) {
    let tcp = |port| PortMatch::Range { protocol: Protocol::Tcp, first: port, last: port };
    let is_everyone = |peer: &Peer| matches!(peer, Peer::Block { cidr, .. } if cidr.prefix_len() == 0);
    let mut others: Vec<usize> = vec![subject.index];
    if let Some(first) = subject.members.first() {
        others.extend(scene.policies_about(*first).map(|other| other.index));
    }
    for other in others.into_iter().map(|index| scene.subject(index)) {
        for ruled in other.allows(Direction::Egress).filter(|ruled| ruled.rule.l7.is_none()) {
            let rule = ruled.rule;
            let open = |port| rule.ports.as_ref().is_none_or(|ports| ports.iter().any(|given| cover::port(given, &tcp(port))));
            let Some((port, what)) = [(853, "TLS"), (443, "HTTPS")].into_iter().find(|(port, _)| open(*port)) else { continue };
            if rule.peers.as_ref().is_none_or(|peers| peers.iter().any(is_everyone)) {
                let message = format!(
                    "TCP {port} is open to every address, so DNS over {what} passes beside the names of {}",
                    subject.written.policy.reference
                );
                let fix = "take the rule away, or name the addresses that are needed";
                findings.add(Code::EncryptedDnsOpen, other.written, &ruled.path(), message, fix);
            }
        }
    }
}
