//! What was learned, as people ask for it: which pod, which name, which address, for how long, by which rule.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;
use sluice_policy::Table;
use sluice_policy::verdict::NamedRule;

use super::{Moment, Names};

/// A line of `sluice names`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Listed {
    /// Absent: the table knows no pod at this address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// The pod's own address.
    pub ip: IpAddr,
    pub name: Arc<str>,
    pub address: IpAddr,
    pub seconds_left: u64,
    /// The rules that take the address for the name's. None: nothing is opened by it.
    pub rules: Vec<NamedRule>,
    /// Rules name the name, and none takes this address: it is private, or of the cluster.
    pub private: bool,
}

/// All that is known, by pod, name and address.
pub fn listing(names: &Names, table: &Table, now: Moment) -> Vec<Listed> {
    let line = |known: super::Known| {
        let endpoint = table.endpoint(known.pod);
        let of_name = table.names_in_rules(known.pod).into_iter().filter(|(_, named)| named.matches(&known.name));
        let (mut rules, mut withheld) = (Vec::new(), false);
        for (rule, named) in of_name {
            if table.may_have(named, known.address) {
                rules.extend(table.named(rule));
            } else {
                withheld = true;
            }
        }
        rules.dedup();
        Listed {
            namespace: endpoint.map(|endpoint| endpoint.pod.namespace.clone()),
            pod: endpoint.map(|endpoint| endpoint.pod.name.clone()),
            ip: known.pod,
            name: known.name,
            address: known.address,
            seconds_left: known.left.as_secs(),
            private: withheld && rules.is_empty(),
            rules,
        }
    };
    names.all(now).into_iter().map(line).collect()
}
