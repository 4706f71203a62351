//! Which bridges are pods', and which ports are exempt: a decision from what is known of the node.
//!
//! | a bridge | its ports |
//! |---|---|
//! | that the configuration names as an uplink, or that carries an address of the node | exempt: it leads off the node |
//! | on whose link the node finds a local pod's address | closed, each but for its own pod |
//! | with an address of its own in the node's pod CIDRs | closed |
//! | that was pods' before | closed, as long as it exists: its last pod may have gone |
//! | any other with an address of its own, where pods or pod CIDRs are known, or were when it was told (docker0, virbr0) | exempt |
//! | any other | closed: its first pod may be about to come, before it has its address |

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::guard::Device;
use super::links::Link;

/// What is known of the node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known<'a> {
    pub(super) links: &'a [Link],
    /// Names of interfaces that lead off the node.
    pub(super) uplinks: &'a BTreeSet<String>,
    /// The node's own addresses, and the interface that has each.
    pub(super) own: &'a [(u32, IpAddr)],
    pub(super) pod_cidrs: &'a [IpNet],
    /// The interfaces on whose links the node finds local pods.
    pub(super) ways: &'a BTreeSet<u32>,
    /// There are local pods.
    pub(super) has_pods: bool,
    /// What was told before.
    pub(super) before: &'a Bridges,
}

/// The bridges of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bridges {
    /// Those that are, or may be, pods'.
    pub(super) pods: BTreeSet<Device>,
    /// Of these, those that surely are.
    pub(super) surely_pods: BTreeSet<Device>,
    /// Those that are not: what comes by them comes from outside.
    pub(super) foreign: BTreeSet<Device>,
    /// Of these, those on whose link pods of this node are found all the same: what they say to each other there isn't judged.
    pub(super) unjudged: BTreeSet<Device>,
    /// The interfaces that the guard lets through.
    pub(super) exempt: BTreeSet<String>,
    /// There is a bridge, pods' or not.
    pub(super) any: bool,
}

/// Tells the bridges apart.
pub(super) fn tell(known: &Known<'_>) -> Bridges {
    let is_in_cidr = |address: &IpAddr| known.pod_cidrs.iter().any(|cidr| cidr.contains(address));
    let can_tell = known.has_pods || !known.pod_cidrs.is_empty();
    let mut bridges = Bridges { exempt: known.uplinks.clone(), ..Bridges::default() };
    for link in known.links.iter().filter(|link| link.is_bridge()) {
        bridges.any = true;
        let device = (link.index, link.name.clone());
        let has_pod_address = known.own.iter().any(|(index, address)| *index == link.index && is_in_cidr(address));
        let has_address = known.own.iter().any(|(index, address)| *index == link.index && !is_link_local(address));
        let is_surely_pods = known.ways.contains(&link.index) || has_pod_address || known.before.surely_pods.contains(&device);
        let is_surely_foreign = has_address && (can_tell || known.before.foreign.contains(&device));
        if known.uplinks.contains(&link.name) || (is_surely_foreign && !is_surely_pods) {
            if known.ways.contains(&link.index) {
                bridges.unjudged.insert(device.clone());
            }
            bridges.foreign.insert(device);
            continue;
        }
        if is_surely_pods {
            bridges.surely_pods.insert(device.clone());
        }
        bridges.pods.insert(device);
    }
    let foreign: BTreeSet<u32> = bridges.foreign.iter().map(|(index, _)| *index).collect();
    let ports = known.links.iter().filter(|link| link.master.is_some_and(|master| foreign.contains(&master)));
    bridges.exempt.extend(ports.map(|port| port.name.clone()));
    bridges
}

fn is_link_local(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => false,
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str, master: Option<u32>) -> Link {
        Link { index, name: name.to_owned(), kind: Some(kind.to_owned()), mac: None, master, peer: None }
    }

    /// What a row says of the node, beside its interfaces.
    #[derive(Default)]
    struct Given {
        pod_cidrs: Vec<IpNet>,
        ways: BTreeSet<u32>,
        has_pods: bool,
        before: Bridges,
        has_no_address: Option<u32>,
    }

    /// `cni0` with port `veth1`, `docker0` with port `veth2`, `br0` with port `eth0`.
    fn check(what: &str, given: &Given, pods: &[&str], exempt: &[&str]) {
        let links = [
            link(2, "eth0", "", Some(5)),
            link(3, "cni0", "bridge", None),
            link(4, "docker0", "bridge", None),
            link(5, "br0", "bridge", None),
            link(6, "veth1", "veth", Some(3)),
            link(7, "veth2", "veth", Some(4)),
        ];
        let own = [(3, "10.0.1.1"), (4, "172.17.0.1"), (5, "192.0.2.7")].map(|(index, ip)| {
            let ip = if given.has_no_address == Some(index) { "fe80::1" } else { ip };
            (index, ip.parse().unwrap())
        });
        let uplinks = ["br0".to_owned(), "lo".to_owned()].into();
        let Given { pod_cidrs, ways, has_pods, before, .. } = given;
        let told = tell(&Known { links: &links, uplinks: &uplinks, own: &own, pod_cidrs, ways, has_pods: *has_pods, before });
        assert_eq!(told.pods.iter().map(|(_, name)| name.as_str()).collect::<Vec<_>>(), pods, "{what}");
        let mut wanted: Vec<&str> = ["br0", "eth0", "lo"].into_iter().chain(exempt.iter().copied()).collect();
        wanted.sort_unstable();
        assert_eq!(told.exempt.iter().map(String::as_str).collect::<Vec<_>>(), wanted, "{what}");
        assert_eq!(
            told.unjudged.iter().map(|(index, _)| *index).collect::<Vec<_>>(),
            if ways.contains(&5) { vec![5] } else { vec![] }
        );
        assert!(told.any && told.foreign.contains(&(5, "br0".to_owned())));
    }

    #[test]
    fn bridges_are_told_apart_row_by_row() {
        let with = |ways: &[u32], before: &[u32]| Given {
            ways: ways.iter().copied().collect(),
            before: Bridges {
                surely_pods: before.iter().map(|index| (*index, "cni0".to_owned())).collect(),
                ..Bridges::default()
            },
            has_pods: true,
            ..Given::default()
        };
        let by_address = || Given { pod_cidrs: vec!["10.0.1.0/24".parse().unwrap()], ..Given::default() };
        let bare = Given { has_no_address: Some(4), ..with(&[3], &[]) };
        check("nothing known", &Given::default(), &["cni0", "docker0"], &[]);
        check("by its address", &by_address(), &["cni0"], &["veth2"]);
        check("by a pod's route", &with(&[3], &[]), &["cni0"], &["veth2"]);
        check("pods routed elsewhere", &with(&[99], &[]), &[], &["veth1", "veth2"]);
        check("as before", &with(&[], &[3]), &["cni0"], &["veth2"]);
        check("a pod on the node's own way out", &with(&[5], &[]), &[], &["veth1", "veth2"]);
        check("another of the same name", &with(&[], &[33]), &[], &["veth1", "veth2"]);
        let mut drained = Given::default();
        drained.before.surely_pods.insert((3, "cni0".to_owned()));
        drained.before.foreign.insert((4, "docker0".to_owned()));
        check("the last pod has gone", &drained, &["cni0"], &["veth2"]);
        check("without an address of its own", &bare, &["cni0", "docker0"], &[]);
    }
}
