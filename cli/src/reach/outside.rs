//! Addresses that are no pod's: which of them no rule tells apart, and sets of them in words.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};
use sluice_policy::snapshot::Peer;

use crate::cluster::Cluster;

/// Addresses outside that are in the same blocks of all rules.
#[derive(Clone, Debug)]
pub struct Part {
    /// One that no pod has.
    pub representative: IpAddr,
    /// The node that has this address: where the part has no other.
    pub node: Option<Arc<str>>,
    kind: u32,
}

/// All addresses, by the blocks that they are in.
#[derive(Debug)]
pub struct Outside {
    v4: Family,
    v6: Family,
    pub parts: Vec<Part>,
    /// Whether any pod has an IPv6 address; without, what is IPv6 goes unsaid.
    speaks_v6: bool,
}

#[derive(Debug)]
struct Family {
    is_v4: bool,
    /// Where each interval begins; the next one's begin ends it. The first is 0.
    starts: Vec<u128>,
    /// Per interval: equal numbers, equal blocks.
    kinds: Vec<u32>,
    /// Per interval: whether it is in a node's range of pods.
    of_pods: Vec<bool>,
}

/// Addresses that are tried for one that no pod has.
const TRIED: u128 = 300;

impl Outside {
    /// As the rules of all `versions` tell addresses apart.
    pub fn of(versions: &[&Cluster]) -> Self {
        let mut blocks: BTreeSet<(IpNet, Vec<IpNet>)> = BTreeSet::new();
        for version in versions {
            let table = version.table();
            let lines = table.program_ids().filter_map(|id| table.lines(id)).flat_map(|lines| &lines.lines);
            for peer in lines.flat_map(|line| line.peers.iter().flatten()) {
                if let Peer::Block { cidr, except } = peer {
                    blocks.insert((*cidr, except.clone()));
                }
            }
        }
        let pods: BTreeSet<IpNet> =
            versions.iter().flat_map(|v| v.nodes()).flat_map(|node| node.pod_cidrs.iter().copied()).collect();
        let (v4, v6) = (Family::of(true, &blocks, &pods), Family::of(false, &blocks, &pods));
        let nodes: HashMap<IpAddr, Arc<str>> = versions
            .iter()
            .flat_map(|version| version.nodes())
            .flat_map(|node| node.ips.iter().map(|ip| (*ip, node.name.clone())))
            .collect();
        let is_pod = |ip: IpAddr| versions.iter().any(|version| version.table().endpoint(ip).is_some());
        let parts = [&v4, &v6].into_iter().flat_map(|family| family.parts(&nodes, is_pod)).collect();
        let speaks_v6 = versions.iter().flat_map(|version| version.pods()).any(|pod| pod.ips.iter().any(IpAddr::is_ipv6));
        Self { v4, v6, parts, speaks_v6 }
    }

    /// Equal for addresses of one family that are in the same blocks.
    pub fn kind(&self, ip: IpAddr) -> u32 {
        if ip.is_ipv4() { self.v4.kind(number(ip)) } else { self.v6.kind(number(ip)) }
    }

    /// Some of the `parts`, in words: `the outside world`, `outside 203.0.113.0/24`; of many blocks, `most`.
    pub fn describe(&self, parts: &[usize], most: usize) -> String {
        let chosen = |v4: bool| -> BTreeSet<u32> {
            parts.iter().map(|part| &self.parts[*part]).filter(|p| p.representative.is_ipv4() == v4).map(|p| p.kind).collect()
        };
        let known = |v4: bool| -> BTreeSet<u32> {
            self.parts.iter().filter(|p| p.representative.is_ipv4() == v4).map(|p| p.kind).collect()
        };
        let four = self.v4.describe(&chosen(true), &known(true), most);
        let six = self.v6.describe(&chosen(false), &known(false), most);
        match (four, six) {
            (Text::Nothing, Text::Nothing) => "nobody outside".to_owned(),
            (Text::All, Text::All) => "the outside world".to_owned(),
            (Text::All, Text::Nothing) if !self.speaks_v6 => "the outside world".to_owned(),
            (Text::All, Text::Nothing) => "the outside world (IPv4)".to_owned(),
            (Text::Nothing, Text::All) => "the outside world (IPv6)".to_owned(),
            (Text::Some(text), Text::Nothing) | (Text::Nothing, Text::Some(text)) => format!("outside {text}"),
            (Text::All, Text::Some(text)) | (Text::Some(text), Text::All) => {
                format!("the outside world, of the other family {text}")
            }
            (Text::Some(four), Text::Some(six)) => format!("outside {four}, {six}"),
        }
    }
}

enum Text {
    Nothing,
    All,
    Some(String),
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    }
}

impl Family {
    fn of(is_v4: bool, blocks: &BTreeSet<(IpNet, Vec<IpNet>)>, pods: &BTreeSet<IpNet>) -> Self {
        let of_family = |net: &IpNet| net.network().is_ipv4() == is_v4;
        let blocks: Vec<_> = blocks.iter().filter(|(cidr, _)| of_family(cidr)).collect();
        let pods: Vec<&IpNet> = pods.iter().filter(|net| of_family(net)).collect();
        let last = Self::last(is_v4);
        let mut starts = BTreeSet::from([0_u128]);
        let nets = blocks.iter().flat_map(|(cidr, except)| std::iter::once(cidr).chain(except)).chain(pods.iter().copied());
        for net in nets {
            starts.insert(number(net.network()));
            starts.extend(number(net.broadcast()).checked_add(1).filter(|next| *next <= last));
        }
        let mut numbers: HashMap<Vec<usize>, u32> = HashMap::new();
        let mut family = Self { is_v4, starts: starts.into_iter().collect(), kinds: Vec::new(), of_pods: Vec::new() };
        for start in &family.starts {
            let ip = address(is_v4, *start);
            let holding = blocks
                .iter()
                .enumerate()
                .filter(|(_, (cidr, except))| cidr.contains(&ip) && !except.iter().any(|net| net.contains(&ip)));
            let holding: Vec<usize> = holding.map(|(number, _)| number).collect();
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            family.kinds.push(*numbers.entry(holding).or_insert(next));
            family.of_pods.push(pods.iter().any(|net| net.contains(&ip)));
        }
        family
    }

    const fn last(is_v4: bool) -> u128 {
        if is_v4 { u32::MAX as u128 } else { u128::MAX }
    }

    fn kind(&self, ip: u128) -> u32 {
        let after = self.starts.partition_point(|start| *start <= ip);
        self.kinds[after.saturating_sub(1)]
    }

    fn intervals(&self) -> impl Iterator<Item = (u128, u128, u32, bool)> {
        let lasts = self.starts.iter().skip(1).map(|next| next - 1).chain([Self::last(self.is_v4)]);
        let rest = self.kinds.iter().zip(&self.of_pods);
        self.starts.iter().zip(lasts).zip(rest).map(|((first, last), (kind, of_pods))| (*first, last, *kind, *of_pods))
    }

    /// A part per kind, where it has an address outside the ranges of pods that no pod has.
    fn parts(&self, nodes: &HashMap<IpAddr, Arc<str>>, is_pod: impl Fn(IpAddr) -> bool) -> Vec<Part> {
        let mut parts: BTreeMap<u32, Part> = BTreeMap::new();
        for (first, last, kind, _) in self.intervals().filter(|(.., of_pods)| !of_pods) {
            if parts.get(&kind).is_some_and(|part| part.node.is_none()) {
                continue;
            }
            let free =
                (0..=(last - first).min(TRIED)).map(|offset| address(self.is_v4, first + offset)).filter(|ip| !is_pod(*ip));
            let free: Vec<IpAddr> = free.collect();
            // The first address of a range is its network's, the last its broadcast's: any other is the better example.
            let plain = free.iter().skip(1).chain(free.first()).find(|ip| !nodes.contains_key(*ip));
            if let Some(ip) = plain.or(free.first()) {
                parts.insert(kind, Part { representative: *ip, node: nodes.get(ip).cloned(), kind });
            }
        }
        parts.into_values().collect()
    }

    /// The addresses of these kinds; those of kinds that are not `known` are nobody's to ask about, and may be in or out.
    fn describe(&self, chosen: &BTreeSet<u32>, known: &BTreeSet<u32>, most: usize) -> Text {
        if chosen.is_empty() {
            return Text::Nothing;
        }
        // Per interval: in or out; `None`, where it is nobody's to ask about.
        let intervals: Vec<(u128, u128, Option<bool>)> = self
            .intervals()
            .map(|(first, last, kind, of_pods)| {
                let asked = !of_pods && known.contains(&kind);
                (first, last, asked.then(|| chosen.contains(&kind)))
            })
            .collect();
        // What nobody asks about goes with its neighbours where they agree: a block stays one block.
        let settled = |place: usize| {
            let before = intervals[..place].iter().rev().find_map(|(.., inside)| *inside);
            let after = intervals[place..].iter().find_map(|(.., inside)| *inside);
            if before.or(after) == after.or(before) { before.or(after) } else { None }
        };
        let said = |inside: bool| {
            let picked =
                intervals.iter().enumerate().filter(|(place, (.., known))| known.or_else(|| settled(*place)) == Some(inside));
            let nets: Vec<IpNet> = picked.flat_map(|(_, (first, last, _))| subnets(self.is_v4, *first, *last)).collect();
            IpNet::aggregate(&nets)
        };
        let but = said(false);
        if but.is_empty() {
            return Text::All;
        }
        let only = said(true);
        let list = |nets: &[IpNet]| {
            let shown: Vec<String> = nets.iter().take(most).map(short).collect();
            let more = nets.len().saturating_sub(most);
            let more = if more > 0 { format!(" and {more} more ranges") } else { String::new() };
            format!("{}{more}", shown.join(", "))
        };
        if but.len() < only.len() {
            let all = if self.is_v4 { "0.0.0.0/0" } else { "::/0" };
            Text::Some(format!("{all} but {}", list(&but)))
        } else {
            Text::Some(list(&only))
        }
    }
}

/// A single address without its `/32`.
fn short(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

fn address(is_v4: bool, number: u128) -> IpAddr {
    match u32::try_from(number) {
        Ok(number) if is_v4 => Ipv4Addr::from(number).into(),
        _ => Ipv6Addr::from(number).into(),
    }
}

fn subnets(is_v4: bool, first: u128, last: u128) -> Vec<IpNet> {
    match (address(is_v4, first), address(is_v4, last)) {
        (IpAddr::V4(first), IpAddr::V4(last)) => Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect(),
        (IpAddr::V6(first), IpAddr::V6(last)) => Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect(),
        _ => Vec::new(),
    }
}
