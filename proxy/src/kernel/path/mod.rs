//! Whether the packets of the node's pods come by our hook at all.
//!
//! Our rules see a packet that the node's IP stack takes in from a pod's interface and routes. Some networks carry packets
//! otherwise, and nothing here could tell them to stop. Such a node must not be called ready.
//!
//! | network | how it is recognised |
//! |---|---|
//! | IPVS (kube-proxy's mode, others) | `kube-ipvs0`, or virtual services in `/proc/net/ip_vs`: it translates after `prerouting`, so that rules would be judged by a Service's address |
//! | Cilium | `cilium_host`, `cilium_net`, or its programs at tc ingress of a pod's interface: they hand packets from interface to interface |
//! | Calico's eBPF | its programs there, by name |
//! | netkit pairs | the kind of a pod's interface |
//! | Open vSwitch (OVN-Kubernetes, Antrea) | a kind of interface, `openvswitch` |
//! | macvlan, ipvlan, SR-IOV, host-device | a pod of this node whose address is on the link of an interface that leads outside; or no pod of this node is behind an interface of a pod, but nowhere, or beyond a gateway |
//!
//! A pod's route comes and goes at other moments than its object, so what is wrong with one pod counts once it has lasted. A pod
//! can take its own interface away: where others are behind theirs, one that is nowhere or beyond a gateway gets a line in the log
//! and says nothing of the node.
//!
//! Not recognised: programs attached by tcx (only a system call that is unsafe here lists them), a filter that redirects under a
//! name that nobody knows, an XDP program. docs/compatibility.md says which networks are known to work.

mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use sluice_policy::Table;

use super::base;
use super::netlink::Error;
use links::{Links, Reached};

/// So many pods are named; the others are counted.
const NAMED: usize = 5;

/// Programs at tc ingress of a pod's interface by which packets leave the IP stack aside: what stands in their names. Cilium's and
/// Calico's, and the files and sections of their older versions.
const REDIRECTING: [&str; 5] = ["cil_from_container", "bpf_lxc", "from-container", "cali_tc", "calico_from"];

/// Why packets of pods aren't seen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unseen {
    #[error(
        "IPVS translates Services after our hook ({seen}): connections to a Service would be judged by its address. Run kube-proxy in \
         mode nftables or iptables"
    )]
    Ipvs { seen: String },
    #[error("{program} hands packets of pods from interface to interface ({seen}): they never meet the rules")]
    Redirected { program: &'static str, seen: String },
    #[error(
        "{pods} not behind an interface of a pod ({how}): macvlan, ipvlan, SR-IOV or host-device, or the network isn't set up. Such \
         packets never meet the rules"
    )]
    Elsewhere { pods: String, how: String },
}

/// Looks at one network namespace again and again.
#[derive(Debug)]
pub struct PathWatch {
    links: Links,
    uplinks: BTreeSet<String>,
    patience: Duration,
    /// Since when an address of a pod is not behind a pod's interface, and whether the log was told.
    astray: BTreeMap<IpAddr, (Instant, bool)>,
}

/// A pod that is not behind a pod's interface.
#[derive(Debug)]
struct Astray {
    pod: String,
    how: String,
    /// Its neighbours on a wire that leads outside can reach it.
    on_link: bool,
}

impl PathWatch {
    /// In the calling thread's network namespace. `uplinks` are those that the configuration names; a pod's interface may be
    /// missing for `patience`.
    pub fn open(uplinks: &[String], patience: Duration) -> Result<Self, Error> {
        let uplinks = uplinks.iter().cloned().collect();
        Ok(Self { links: Links::open()?, uplinks, patience, astray: BTreeMap::new() })
    }

    /// What keeps packets of the node's pods from being seen. Without a table no pod is known.
    pub fn look(&mut self, table: Option<&Table>) -> Result<Vec<Unseen>, Error> {
        let links = self.links.all()?;
        let mut unseen = Vec::new();
        if links.iter().any(|link| link.name == "kube-ipvs0") {
            unseen.push(Unseen::Ipvs { seen: "interface kube-ipvs0".to_owned() });
        } else if has_virtual_services(&std::fs::read_to_string("/proc/thread-self/net/ip_vs").unwrap_or_default()) {
            unseen.push(Unseen::Ipvs { seen: "virtual services in /proc/net/ip_vs".to_owned() });
        }
        if let Some(link) = links.iter().find(|link| link.name == "cilium_host" || link.name == "cilium_net") {
            unseen.push(Unseen::Redirected { program: "Cilium", seen: format!("interface {}", link.name) });
        }
        if let Some(link) = links.iter().find(|link| link.kind.as_deref() == Some("openvswitch")) {
            unseen.push(Unseen::Redirected { program: "Open vSwitch", seen: format!("interface {}", link.name) });
        }
        let Some(table) = table else { return Ok(unseen) };
        let mut uplinks = super::uplinks::find(&table.node().ips, &[]).unwrap_or_default();
        uplinks.extend(self.uplinks.iter().cloned());
        let mut behind: BTreeSet<u32> = BTreeSet::new();
        let mut astray: BTreeMap<IpAddr, Astray> = BTreeMap::new();
        for (ip, endpoint) in table.endpoints().filter(|(_, endpoint)| endpoint.local && !endpoint.conflict) {
            let (how, on_link) = match self.links.route(ip)? {
                // Of the node itself: a pod in its network, or one that is gone and whose address was given anew.
                Reached::Here => continue,
                Reached::Nowhere => ("there is no route to it".to_owned(), false),
                Reached::By { index, on_link } => match links.iter().find(|link| link.index == index) {
                    None => continue,
                    Some(link) => match link.leads_outside(&uplinks, &base::OUTSIDE) {
                        None => {
                            behind.insert(index);
                            continue;
                        }
                        Some(why) => (format!("its route leads by {}, {why}", link.name), on_link),
                    },
                },
            };
            astray.insert(ip, Astray { pod: format!("pod {} ({ip})", endpoint.pod), how, on_link });
        }
        for link in links.iter().filter(|link| behind.contains(&link.index)) {
            if link.kind.as_deref() == Some("netkit") {
                unseen.push(Unseen::Redirected { program: "eBPF at a netkit pair", seen: format!("interface {}", link.name) });
                break;
            }
        }
        for index in &behind {
            let programs = self.links.ingress_programs(*index)?;
            if let Some(name) = programs.iter().find(|name| REDIRECTING.iter().any(|known| name.contains(known))) {
                let link = links.iter().find(|link| link.index == *index).map_or("?", |link| link.name.as_str());
                unseen.push(Unseen::Redirected { program: "eBPF", seen: format!("program {name} at tc ingress of {link}") });
                break;
            }
        }
        unseen.extend(self.lasting(astray, behind.is_empty()));
        Ok(unseen)
    }

    /// What those pods that have been astray for so long that it is no matter of order say of the node. `all`: no pod is where it
    /// should be.
    fn lasting(&mut self, astray: BTreeMap<IpAddr, Astray>, all: bool) -> Option<Unseen> {
        let now = Instant::now();
        self.astray.retain(|ip, _| astray.contains_key(ip));
        let mut lasting = Vec::new();
        for (ip, astray) in astray {
            let (since, said) = self.astray.entry(ip).or_insert((now, false));
            if now.duration_since(*since) < self.patience {
                continue;
            }
            if all || astray.on_link {
                lasting.push((astray.pod, astray.how));
            } else if !*said {
                tracing::warn!(
                    "{} is behind no interface of a pod of this node ({}): nothing of it is seen",
                    astray.pod,
                    astray.how
                );
                *said = true;
            }
        }
        let (_, how) = lasting.first()?.clone();
        let verb = if lasting.len() > 1 { "are" } else { "is" };
        let mut names: Vec<String> = lasting.iter().take(NAMED).map(|(pod, _)| pod.clone()).collect();
        if lasting.len() > NAMED {
            names.push(format!("{} more", lasting.len() - NAMED));
        }
        Some(Unseen::Elsewhere { pods: format!("{} {verb}", names.join(", ")), how })
    }
}

/// Lines of virtual services begin with their protocol, or with FWM; those of their servers with an arrow.
fn has_virtual_services(ip_vs: &str) -> bool {
    ip_vs.lines().any(|line| ["TCP ", "UDP ", "SCTP ", "FWM "].iter().any(|word| line.starts_with(word)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn virtual_services_are_told_from_the_head() {
        let head = "IP Virtual Server version 1.2.1 (size=4096)\nProt LocalAddress:Port Scheduler Flags\n  \
                    -> RemoteAddress:Port Forward Weight ActiveConn InActConn\n";
        assert!(!has_virtual_services(head));
        assert!(has_virtual_services(&format!(
            "{head}TCP  0A600001:01BB rr\n  -> C0A80001:192B      Masq    1      0          0\n"
        )));
        assert!(has_virtual_services(&format!("{head}FWM  00000001 rr\n")));
        assert!(!has_virtual_services(""));
    }
}
