//! Who reaches whom on which ports, asked once for all that no rule tells apart: pods ([`classes`]), addresses outside
//! ([`outside`]) and ports ([`ports`]). What `sluice diff` and `sluice graph` ask.

pub mod classes;
pub mod outside;
pub mod ports;

use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;

use sluice_policy::snapshot::ProgramId;
use sluice_policy::{Direction, Flow, IcmpMessage, Protocol, Verdict};

use crate::cluster::Cluster;
use classes::{Class, Classes, Side};
use outside::{Outside, Part};
use ports::{Borders, PortRange};

/// One or two versions of a cluster, cut into what no rule tells apart.
#[derive(Debug)]
pub struct Reach<'c> {
    pub versions: Vec<&'c Cluster>,
    pub classes: Classes,
    pub outside: Outside,
    borders: Vec<HashMap<ProgramId, Borders>>,
}

/// One end of a flow, an index: classes first, parts of the outside behind them.
pub type EndId = usize;

/// Ranges of ports that were worked out before; each thread has its own.
#[derive(Debug, Default)]
pub struct Ranges(HashMap<Telling, Rc<[PortRange]>>);

/// What tells ports apart: per version the programs of both ends, and the named ports of the destination.
type Telling = (Vec<Option<ProgramId>>, Vec<usize>);

impl<'c> Reach<'c> {
    pub fn of(versions: Vec<&'c Cluster>) -> Self {
        let outside = Outside::of(&versions);
        let classes = Classes::of(&versions, &outside);
        let borders = versions.iter().map(|version| {
            let table = version.table();
            table.program_ids().filter_map(|id| Some((id, Borders::of(table.lines(id)?)))).collect()
        });
        let borders = borders.collect();
        Self { versions, classes, outside, borders }
    }

    pub fn end_count(&self) -> usize {
        self.classes.all.len() + self.outside.parts.len()
    }

    pub fn class(&self, end: EndId) -> Option<&Class> {
        self.classes.all.get(end)
    }

    pub fn part(&self, end: EndId) -> Option<&Part> {
        self.outside.parts.get(end.checked_sub(self.classes.all.len())?)
    }

    pub fn side(&self, end: EndId, version: usize) -> Option<&Side> {
        self.class(end)?.sides[version].as_ref()
    }

    /// The program that judges an end's pods.
    pub fn program(&self, end: EndId, version: usize, direction: Direction) -> Option<ProgramId> {
        self.class(end)?.programs(self.versions[version], version).get(direction)
    }

    /// Addresses for a flow from one end to the other, per version, for each family that both have in all versions.
    pub fn addresses(&self, from: EndId, to: EndId) -> Vec<Vec<(IpAddr, IpAddr)>> {
        [0, 1].into_iter().filter_map(|family| self.addresses_of_family(from, to, family)).collect()
    }

    /// [`Reach::addresses`] of IPv4 (0) or IPv6 (1).
    pub fn addresses_of_family(&self, from: EndId, to: EndId, family: usize) -> Option<Vec<(IpAddr, IpAddr)>> {
        // From a pod to another of its own kind.
        let number = usize::from(from == to);
        let ips = |end: EndId, other: EndId, number: usize| -> Option<Vec<IpAddr>> {
            if let Some(part) = self.part(end) {
                let fits = part.representative.is_ipv4() == (family == 0);
                return fits.then(|| vec![part.representative; self.versions.len()]);
            }
            let examples = &self.class(end)?.examples;
            // A node always reaches its own pods: of them nothing can be learned about the others.
            let node = self.part(other).and_then(|part| part.node.as_ref());
            let example = match node {
                Some(node) => examples.iter().find(|example| example.host.as_ref() != Some(node)).or(examples.first())?,
                None => examples.get(number)?,
            };
            example.ips.iter().map(|ips| ips[family]).collect()
        };
        Some(ips(from, to, 0)?.into_iter().zip(ips(to, from, number)?).collect())
    }

    /// The ranges of ports that no rule about flows between these ends tells apart, in any version.
    pub fn ranges(&self, from: EndId, to: EndId, known: &mut Ranges) -> Rc<[PortRange]> {
        let versions = 0..self.versions.len();
        let programs: Vec<Option<ProgramId>> = versions
            .clone()
            .flat_map(|version| [self.program(from, version, Direction::Egress), self.program(to, version, Direction::Ingress)])
            .collect();
        let ports: Vec<usize> = versions.filter_map(|version| self.side(to, version)).map(|side| side.ports).collect();
        let telling = (programs, ports);
        if let Some(ranges) = known.0.get(&telling) {
            return ranges.clone();
        }
        let held = telling.0.iter().enumerate().filter_map(|(place, id)| self.borders[place / 2].get(id.as_ref()?));
        let ranges: Rc<[PortRange]> = self.ranges_by(&held.collect::<Vec<_>>(), &telling.1).into();
        known.0.insert(telling, ranges.clone());
        ranges
    }

    /// The ranges of ports that the programs of one half don't tell apart.
    pub fn ranges_of_half(&self, from: EndId, to: EndId, direction: Direction) -> Vec<PortRange> {
        let judged = if direction == Direction::Egress { from } else { to };
        let versions = 0..self.versions.len();
        let held: Vec<&Borders> = versions
            .clone()
            .filter_map(|version| self.borders[version].get(&self.program(judged, version, direction)?))
            .collect();
        let ports: Vec<usize> = versions.filter_map(|version| self.side(to, version)).map(|side| side.ports).collect();
        self.ranges_by(&held, &ports)
    }

    fn ranges_by(&self, held: &[&Borders], ports: &[usize]) -> Vec<PortRange> {
        let named: Vec<_> = ports.iter().flat_map(|ports| self.classes.ports[*ports].iter().cloned()).collect();
        Borders::ranges(held, &named)
    }

    pub fn verdict(&self, version: usize, ips: (IpAddr, IpAddr), range: &PortRange) -> Verdict {
        self.versions[version].table().verdict(&flow(ips, range))
    }
}

/// The flow that stands for a range of ports.
pub fn flow(ips: (IpAddr, IpAddr), range: &PortRange) -> Flow<'static> {
    let icmp = (range.protocol == Protocol::Icmp).then(|| {
        let [kind, code] = range.first.to_be_bytes();
        IcmpMessage { kind, code }
    });
    let destination_port = if icmp.is_some() { 0 } else { range.first };
    Flow { source: ips.0, destination: ips.1, protocol: range.protocol, destination_port, icmp, names: &[], request: None }
}
