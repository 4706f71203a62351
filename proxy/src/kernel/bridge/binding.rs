//! Whose port is whose: decided once for each port, from what its other end shows.
//!
//! A pod may add any address to its own interface. So what an end shows counts only until the port has its pod, and then not
//! again: the port admits what the table says that this pod has, and nothing else.
//!
//! | the end shows addresses of | |
//! |---|---|
//! | no local pod | nobody's yet |
//! | one pod, which no other end shows and no port has | this pod's |
//! | several pods | nobody's, and none of these pods' ports is opened by it |
//! | a pod that another end shows too, or whose port is known | nobody's |
//! | whatever it shows, of a port that was another pod's which is still there | that pod's, if it is shown, and nobody else's |
//!
//! A port is its pod's as long as interface and pod stay, and the pod has an address that it was known by. The end of a veth can be
//! moved into another namespace, by a pod too: that makes it no other pod's, not even of one whose own port has just gone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use rustc_hash::FxHashMap;
use sluice_policy::Table;
use sluice_policy::source::PodRef;
use sluice_policy::table::Touched;

/// The addresses of this node's pods.
#[derive(Clone, Debug, Default)]
pub(super) struct Locals {
    by_address: FxHashMap<IpAddr, PodRef>,
    by_pod: FxHashMap<PodRef, BTreeSet<IpAddr>>,
}

impl Locals {
    /// Follows the table. `touched` is what differs from the last one; None: everything.
    pub(super) fn follow(&mut self, table: &Table, touched: Option<&Touched>) {
        match touched {
            Some(touched) => touched.endpoints.iter().for_each(|address| self.look_at(table, *address)),
            None => {
                *self = Self::default();
                table.endpoints().for_each(|(address, _)| self.look_at(table, address));
            }
        }
    }

    fn look_at(&mut self, table: &Table, address: IpAddr) {
        if let Some(pod) = self.by_address.remove(&address)
            && let Some(addresses) = self.by_pod.get_mut(&pod)
        {
            addresses.remove(&address);
            if addresses.is_empty() {
                self.by_pod.remove(&pod);
            }
        }
        // What two pods claim is denied to both.
        if let Some(endpoint) = table.endpoint(address).filter(|endpoint| endpoint.local && !endpoint.conflict) {
            self.by_address.insert(address, endpoint.pod.clone());
            self.by_pod.entry(endpoint.pod.clone()).or_default().insert(address);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_pod.is_empty()
    }

    /// The pods that have any of these addresses, and by which.
    pub(super) fn holders(&self, addresses: &[IpAddr]) -> BTreeMap<PodRef, BTreeSet<IpAddr>> {
        let mut holders: BTreeMap<PodRef, BTreeSet<IpAddr>> = BTreeMap::new();
        for address in addresses {
            if let Some(pod) = self.by_address.get(address) {
                holders.entry(pod.clone()).or_default().insert(*address);
            }
        }
        holders
    }

    /// All addresses of a pod; none of one that isn't known here.
    pub(super) fn addresses(&self, pod: &PodRef) -> BTreeSet<IpAddr> {
        self.by_pod.get(pod).cloned().unwrap_or_default()
    }

    pub(super) fn all_addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.by_address.keys().copied()
    }

    pub(super) fn is_there(&self, pod: &PodRef) -> bool {
        self.by_pod.contains_key(pod)
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &PodRef> {
        self.by_pod.keys()
    }
}

/// Whose a port is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) pod: PodRef,
    /// By which addresses that was told.
    pub(super) by: BTreeSet<IpAddr>,
}

impl Owner {
    /// Whether the pod is still the one that was told.
    pub(super) fn holds(&self, locals: &Locals) -> bool {
        !self.by.is_disjoint(&locals.addresses(&self.pod))
    }
}

/// Why a port is nobody's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Doubt {
    #[error("its other end shows no address of a pod of this node")]
    Nobody,
    #[error("its other end shows addresses of {}: either may be the other's", list(.0))]
    Several(BTreeSet<PodRef>),
    #[error("its other end shows an address of {0}, and so does that of another port")]
    Contested(PodRef),
    #[error("its other end shows an address of {0}, whose port is another")]
    Taken(PodRef),
    #[error("its other end shows an address of {shown}, and it was the port of {former}, which is still there")]
    Former { shown: PodRef, former: PodRef },
}

fn list(pods: &BTreeSet<PodRef>) -> String {
    pods.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Decides about ports that are nobody's yet. `shown` is what the ends of each show, `taken` are the pods whose ports are known,
/// `former` says whose ports were those of pods that are still there.
pub(super) fn decide(
    mut shown: BTreeMap<u32, BTreeMap<PodRef, BTreeSet<IpAddr>>>,
    taken: &BTreeSet<PodRef>,
    former: &BTreeMap<u32, PodRef>,
) -> BTreeMap<u32, Result<Owner, Doubt>> {
    let mut decided = BTreeMap::new();
    for (port, former) in former {
        let Some(holders) = shown.get_mut(port) else { continue };
        let own = holders.remove_entry(former);
        match (own, holders.pop_first()) {
            (Some((pod, by)), _) => *holders = [(pod, by)].into(),
            (None, Some((other, _))) => {
                shown.remove(port);
                decided.insert(*port, Err(Doubt::Former { shown: other, former: former.clone() }));
            }
            (None, None) => {}
        }
    }
    let mut claims: BTreeMap<PodRef, usize> = BTreeMap::new();
    for pod in shown.values().flat_map(BTreeMap::keys) {
        *claims.entry(pod.clone()).or_default() += 1;
    }
    let decide = |mut holders: BTreeMap<PodRef, BTreeSet<IpAddr>>| {
        if holders.len() > 1 {
            return Err(Doubt::Several(holders.into_keys().collect()));
        }
        let Some((pod, by)) = holders.pop_first() else { return Err(Doubt::Nobody) };
        if taken.contains(&pod) {
            return Err(Doubt::Taken(pod));
        }
        if claims.get(&pod) != Some(&1) {
            return Err(Doubt::Contested(pod));
        }
        Ok(Owner { pod, by })
    };
    decided.extend(shown.into_iter().map(|(port, holders)| (port, decide(holders))));
    decided
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "x".into(), name: name.into() }
    }

    fn check(what: &str, shown: &[(u32, &[&str])], taken: &[&str], expected: &[(u32, &str)]) {
        check_after(what, shown, taken, &[], expected);
    }

    fn check_after(what: &str, shown: &[(u32, &[&str])], taken: &[&str], former: &[(u32, &str)], expected: &[(u32, &str)]) {
        let holders = |pods: &[&str]| pods.iter().map(|name| (pod(name), BTreeSet::new())).collect();
        let shown = shown.iter().map(|(port, pods)| (*port, holders(pods))).collect();
        let former = former.iter().map(|(port, name)| (*port, pod(name))).collect();
        let decided = decide(shown, &taken.iter().map(|name| pod(name)).collect(), &former);
        let word = |decision: &Result<Owner, Doubt>| match decision {
            Ok(owner) => owner.pod.name.to_string(),
            Err(Doubt::Nobody) => "nobody".to_owned(),
            Err(Doubt::Several(_)) => "several".to_owned(),
            Err(Doubt::Contested(_)) => "contested".to_owned(),
            Err(Doubt::Taken(_)) => "taken".to_owned(),
            Err(Doubt::Former { .. }) => "former".to_owned(),
        };
        let decided: Vec<(u32, String)> = decided.iter().map(|(port, decision)| (*port, word(decision))).collect();
        let expected: Vec<(u32, String)> = expected.iter().map(|(port, word)| (*port, (*word).to_owned())).collect();
        assert_eq!(decided, expected, "{what}");
    }

    #[test]
    fn a_port_is_told_by_the_table_row_by_row() {
        check("nothing shown", &[(1, &[])], &[], &[(1, "nobody")]);
        check("one each", &[(1, &["a"]), (2, &["b"])], &[], &[(1, "a"), (2, "b")]);
        check("several", &[(1, &["a", "b"])], &[], &[(1, "several")]);
        check("a thief beside the owner", &[(1, &["a"]), (2, &["a", "b"])], &[], &[(1, "contested"), (2, "several")]);
        check("two ends with one address", &[(1, &["a"]), (2, &["a"])], &[], &[(1, "contested"), (2, "contested")]);
        check("another has it", &[(2, &["a"])], &["a"], &[(2, "taken")]);
        check_after("it was another's", &[(2, &["a"])], &[], &[(2, "b")], &[(2, "former")]);
        check_after("it was another's, and shows nothing", &[(2, &[])], &[], &[(2, "b")], &[(2, "nobody")]);
        check_after("it is still its own", &[(2, &["a", "b"])], &[], &[(2, "b")], &[(2, "b")]);
        check_after("the owner comes back", &[(1, &["a"]), (2, &["a"])], &[], &[(2, "b")], &[(1, "a"), (2, "former")]);
    }
}
