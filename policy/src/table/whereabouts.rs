//! What the table knows of addresses beyond pods: where the cluster is, who its resolvers are, what names are known to everybody.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixSet;

use super::{NameSettings, Quic, Table};
use crate::flow::{Flow, Protocol};
use crate::name::is_outside;
use crate::snapshot::{Change, KnownNames, SetId};
use crate::source::Named;

/// Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Whereabouts {
    settings: Arc<NameSettings>,
    cluster: Arc<Ranges>,
    resolvers: Arc<[SetId]>,
    names: Arc<KnownNames>,
}

/// Address ranges, to be asked about one address.
#[derive(Debug, Default)]
struct Ranges {
    listed: Arc<[IpNet]>,
    v4: PrefixSet<Ipv4Net>,
    v6: PrefixSet<Ipv6Net>,
}

impl Ranges {
    fn new(listed: &Arc<[IpNet]>) -> Self {
        let mut ranges = Self { listed: listed.clone(), ..Self::default() };
        for net in listed.iter() {
            match net {
                IpNet::V4(net) => drop(ranges.v4.insert(*net)),
                IpNet::V6(net) => drop(ranges.v6.insert(*net)),
            }
        }
        ranges
    }

    fn contains(&self, ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(ip) => self.v4.get_lpm(&ip.into()).is_some(),
            IpAddr::V6(ip) => self.v6.get_lpm(&ip.into()).is_some(),
        }
    }
}

impl Whereabouts {
    pub(super) fn of(settings: NameSettings) -> Self {
        Self { settings: Arc::new(settings), ..Self::default() }
    }

    pub(super) fn settings(&self) -> &NameSettings {
        &self.settings
    }

    pub(super) fn resolvers(&self) -> &[SetId] {
        &self.resolvers
    }

    pub(super) fn put_cluster(&mut self, ranges: &Arc<[IpNet]>) {
        self.cluster = Arc::new(Ranges::new(ranges));
    }

    pub(super) fn put_resolvers(&mut self, sets: &[SetId]) {
        self.resolvers = sets.into();
    }

    pub(super) fn put_names(&mut self, names: &Arc<KnownNames>) {
        self.names = names.clone();
    }

    /// What leads here from nothing, but for the settings.
    pub(super) fn to_changes(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if !self.cluster.listed.is_empty() {
            changes.push(Change::PutCluster(self.cluster.listed.clone()));
        }
        if !self.resolvers.is_empty() {
            changes.push(Change::PutResolvers(self.resolvers.to_vec()));
        }
        if !self.names.is_empty() {
            changes.push(Change::PutNames(self.names.clone()));
        }
        changes
    }
}

impl Table {
    /// Before a second table's first list: one that decides nothing, and has the settings of this one.
    pub(super) fn empty_second(&self) -> Self {
        let whereabouts = Whereabouts { settings: self.whereabouts.settings.clone(), ..Whereabouts::default() };
        Self { is_audit: true, whereabouts, ..Self::empty() }
    }

    /// Whether an address is the cluster's own: a node's, or one where pods are.
    pub fn is_of_cluster(&self, ip: IpAddr) -> bool {
        self.endpoints.get(&ip).is_some() || self.node_ips.contains_key(&ip) || self.whereabouts.cluster.contains(ip)
    }

    /// Whether an address can be no server's on the Internet: it is the cluster's own, or private.
    pub fn is_inside(&self, ip: IpAddr) -> bool {
        !is_outside(ip) || self.is_of_cluster(ip)
    }

    /// Whether a name of the rule may have this address, as far as the address says.
    pub fn may_have(&self, named: &Named, ip: IpAddr) -> bool {
        named.allow_private || !self.is_inside(ip)
    }

    /// Whether pods may ask this address for the names of their rules.
    pub fn is_resolver(&self, ip: IpAddr) -> bool {
        let is_pod = || {
            let endpoint = self.endpoints.get(&ip).filter(|slot| !slot.conflict);
            let sets = endpoint.map(|slot| self.sets_of(slot.identity)).unwrap_or_default();
            self.whereabouts.resolvers.iter().any(|set| sets.binary_search(set).is_ok())
        };
        self.whereabouts.settings.resolvers.contains(&ip) || is_pod()
    }

    /// The sets whose pods are the cluster's resolvers.
    pub fn resolvers(&self) -> &[SetId] {
        self.whereabouts.resolvers()
    }

    /// The names that everybody knows an address by.
    pub fn known_names(&self, ip: IpAddr) -> &[Arc<str>] {
        self.whereabouts.names.get(&ip).map(Vec::as_slice).unwrap_or_default()
    }

    /// Where the look-ups of the pod at `ip` are diverted, judged and learned from: where one of its policies, or one that only
    /// audits, says something of names. Ascending. What comes from an address that two pods claim goes nowhere.
    pub fn lookups(&self, ip: IpAddr) -> impl Iterator<Item = (Protocol, u16)> {
        let endpoint = self.endpoints.get(&ip).filter(|slot| slot.local && !slot.conflict);
        let lines = endpoint.and_then(|slot| self.lines(self.programs(slot.identity).egress?));
        let mut ports = lines.map(|lines| lines.lookups.clone()).unwrap_or_default();
        let audited = endpoint.and_then(|_| self.audit_reads(ip));
        ports.extend(audited.into_iter().flat_map(|reads| &reads.lookups));
        ports.into_iter()
    }

    /// Whether the look-ups of any pod are diverted.
    pub fn diverts_lookups(&self) -> bool {
        let of_audits = || self.audit.iter().flat_map(|audit| audit.addresses.iter()).any(|(_, reads)| !reads.lookups.is_empty());
        self.programs.iter().any(|(_, entry)| !entry.compiled.lines.lookups.is_empty()) || of_audits()
    }

    /// Whether it is the proxy of look-ups that `flow` is handed to. What a pod asks itself, nobody reads.
    pub fn is_lookup(&self, flow: &Flow<'_>) -> bool {
        let is_read = |port| port == (flow.protocol, flow.destination_port);
        flow.source != flow.destination && self.lookups(flow.source).any(is_read)
    }

    /// Whether `flow` goes where QUIC is inspected: its datagrams may be the proxy's to carry.
    pub fn may_be_inspected_quic(&self, flow: &Flow<'_>) -> bool {
        let settings = self.whereabouts.settings();
        let is_port = flow.protocol == Protocol::Udp && settings.quic_ports.contains(&flow.destination_port);
        settings.quic == Quic::Inspect && is_port
    }
}
