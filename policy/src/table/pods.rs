//! The pods that are judged here, by all their addresses.

use std::net::IpAddr;
use std::sync::Arc;

use super::Table;
use crate::sharded::Sharded;
use crate::snapshot::{Endpoint, IdentityId};
use crate::source::PodRef;

/// An endpoint, and of it what every verdict asks, to be had without another step.
#[derive(Clone, Debug)]
pub(crate) struct Slot {
    pub(crate) identity: IdentityId,
    pub(crate) local: bool,
    pub(crate) conflict: bool,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Slot {
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Self {
        Self { identity: endpoint.identity, local: endpoint.local, conflict: endpoint.conflict, endpoint }
    }
}

/// The addresses of each pod of this node, ascending.
#[derive(Clone, Debug)]
pub(super) struct LocalPods(Sharded<PodRef, Arc<[IpAddr]>>);

impl LocalPods {
    pub(super) fn new() -> Self {
        Self(Sharded::new())
    }

    pub(super) fn join(&mut self, ip: IpAddr, endpoint: &Endpoint) {
        if endpoint.local {
            let mut addresses = self.0.get(&endpoint.pod).map(|ips| ips.to_vec()).unwrap_or_default();
            addresses.push(ip);
            addresses.sort_unstable();
            addresses.dedup();
            self.0.insert(endpoint.pod.clone(), addresses.into());
        }
    }

    pub(super) fn leave(&mut self, ip: IpAddr, endpoint: &Endpoint) {
        let Some(addresses) = self.0.get(&endpoint.pod).filter(|_| endpoint.local) else { return };
        let left: Arc<[IpAddr]> = addresses.iter().copied().filter(|other| *other != ip).collect();
        if left.is_empty() {
            self.0.remove(&endpoint.pod);
        } else {
            self.0.insert(endpoint.pod.clone(), left);
        }
    }
}

impl Table {
    /// All addresses of the pod of this node that has this one, ascending: of both families, as pods have. None where two pods claim it,
    /// and those that others claim are left out.
    pub fn addresses_of_pod(&self, ip: IpAddr) -> impl Iterator<Item = IpAddr> {
        let slot = self.endpoints.get(&ip).filter(|slot| slot.local && !slot.conflict);
        let all = slot.and_then(|slot| self.pods.0.get(&slot.endpoint.pod));
        let is_its_own = |ip: &IpAddr| self.endpoints.get(ip).is_some_and(|slot| !slot.conflict);
        all.into_iter().flat_map(|ips| ips.iter().copied()).filter(move |ip| is_its_own(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(pod: &str, local: bool) -> Endpoint {
        let pod = PodRef { namespace: "shop".into(), name: pod.into() };
        Endpoint { pod, identity: IdentityId(1), local, conflict: false, host: None, ports: Arc::default() }
    }

    #[test]
    fn a_pod_is_found_by_each_of_its_addresses_while_it_has_them() {
        let [one, two, three] = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|ip| ip.parse::<IpAddr>().unwrap());
        let mut pods = LocalPods::new();
        let (web, far) = (endpoint("web", true), endpoint("far", false));
        pods.join(two, &web);
        pods.join(one, &web);
        pods.join(one, &web);
        pods.join(three, &far);
        let shown = |pods: &LocalPods, pod: &Endpoint| pods.0.get(&pod.pod).map(|ips| ips.to_vec()).unwrap_or_default();
        assert_eq!((shown(&pods, &web), shown(&pods, &far)), (vec![one, two], vec![]));
        pods.leave(three, &far);
        pods.leave(one, &web);
        assert_eq!(shown(&pods, &web), [two]);
        pods.leave(two, &web);
        assert!(pods.0.get(&web.pod).is_none());
    }
}
