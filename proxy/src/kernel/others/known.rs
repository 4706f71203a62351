//! Rules of others that are known to do no harm, by the names that their programs give them.
//!
//! kube-proxy rejects connections to Services without endpoints, drops those that a Service's source ranges don't allow, invalid
//! packets and martians. All of that is about Service addresses that were not translated, and the proxy's own leg to such an
//! address meets the same rules in `output`. Names are exact: kube-router's `KUBE-ROUTER-*`, `KUBE-POD-FW-*` and `KUBE-NWPLCY-*`
//! are a policy engine's.

use super::ruleset::{Step, TableFamily, TableName};

/// kube-proxy's chains and kubelet's, in the tables of iptables.
const KUBE_PROXY: [&str; 12] = [
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FIREWALL",
    "KUBE-FORWARD",
    "KUBE-IPVS-FILTER",
    "KUBE-IPVS-OUT-FILTER",
    "KUBE-KUBELET-CANARY",
    "KUBE-MARK-DROP",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-CANARY",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SERVICES",
    "KUBE-SOURCE-RANGES-FIREWALL",
];

/// Our own tables, in whatever family, and the one of kube-proxy's nftables mode.
pub(super) fn is_harmless_table(table: &TableName) -> bool {
    let is_ours = table.name == "sluice" || table.name.starts_with("sluice-") || table.name.starts_with("sluice_");
    let is_kube_proxys =
        table.name == "kube-proxy" && matches!(table.family, TableFamily::Ip | TableFamily::Ip6 | TableFamily::Inet);
    is_ours || is_kube_proxys
}

/// A chain that nobody is to be followed into.
pub(super) fn is_harmless_chain(table: &TableName, chain: &str) -> bool {
    matches!(table.family, TableFamily::Ip | TableFamily::Ip6) && KUBE_PROXY.contains(&chain)
}

/// The set or map whose elements can decide about a step. What a rule says of addresses or ports in a set of its own name is not
/// known anyway, and such sets may be large.
pub(super) fn set_of(step: &Step) -> Option<&str> {
    match step {
        Step::Within { set, .. } if set.starts_with("__set") => Some(set),
        Step::Map { map, .. } => Some(map),
        _ => None,
    }
}
