//! What the table knows of one address: the elements that it has in sets and maps.
//!
//! One function says it for one address of one [`Table`], so that a whole replacement (all addresses) and a small change (the
//! touched ones, before and after) cannot differ.

use std::collections::BTreeSet;
use std::net::IpAddr;

use sluice_policy::snapshot::{Endpoint, SetId};
use sluice_policy::table::ReadPorts;
use sluice_policy::{Direction, Protocol, Table};

use super::base;
use super::bundle::{self, BundleId, Pair};
use super::denied;
use super::names::Edition;
use super::object::{Element, Family, Key, Verdict, concatenation, octets};
use super::site::Site;

/// Where pods go that are isolated in the other direction alone.
pub(super) const STARTED: &str = "started";

/// A set or map whose elements come from endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Place {
    /// The addresses of this node's pods.
    Local(Family),
    /// The addresses of other nodes' pods in this node's ranges.
    Elsewhere(Family),
    /// Pairs of addresses of one pod.
    Itself(Family),
    /// The addresses of this node's pods that an Audit policy selects. Nothing is decided by them.
    Audited(Family),
    /// Where this node's pods ask for names, so that their look-ups are diverted.
    Lookups(Family),
    /// Those of them of which Audit policies read what they send, or are sent, at every port; and at which ports of the others.
    Read(Direction, Family),
    ReadPort(Direction, Family),
    Pods(SetId, Family),
    NamedPort(Protocol, String, Family),
    Bundle(BundleId, Family),
    Dispatch(Direction, Family),
}

impl Place {
    pub(super) fn name(&self, edition: Edition) -> String {
        match self {
            Self::Local(family) => edition.sets_of(base::LOCAL, *family),
            Self::Elsewhere(family) => edition.sets_of(base::ELSEWHERE, *family),
            Self::Itself(family) => edition.sets_of(base::ITSELF, *family),
            Self::Audited(family) => edition.sets_of(base::AUDITED, *family),
            Self::Lookups(family) => edition.sets_of(base::LOOKUPS, *family),
            Self::Read(direction, family) => edition.sets_of(&base::read(*direction), *family),
            Self::ReadPort(direction, family) => edition.sets_of(&base::read_port(*direction), *family),
            Self::Pods(set, family) => edition.pods(*set, *family),
            Self::NamedPort(protocol, port, family) => edition.named_port(*protocol, port, *family),
            Self::Bundle(id, family) => edition.bundle(*id, *family),
            Self::Dispatch(direction, family) => edition.dispatch(*direction, *family),
        }
    }
}

/// What an element says beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Present,
    /// Both ends denied: two live pods claim the address.
    Conflict,
    /// No policy selects the pod.
    Free,
    /// Isolated in the other direction alone.
    Started,
    Program(sluice_policy::snapshot::ProgramId),
}

impl Says {
    /// The element for `key` of a map in `direction`, or of a set.
    pub(super) fn element(self, key: Key, place: &Place, edition: Edition) -> Element {
        let Place::Dispatch(direction, _) = place else {
            return Element::plain(key);
        };
        let verdict = match self {
            Self::Present | Self::Free => Verdict::Continue,
            Self::Conflict => denied::goto(Site::Conflict, edition),
            Self::Started => Verdict::Jump(edition.name(STARTED)),
            Self::Program(program) => Verdict::Jump(edition.program(*direction, program, 0)),
        };
        Element::verdict(key, verdict)
    }
}

/// Every element that `ip` has by being an endpoint of `table`.
///
/// `named` are the ports whose sets exist, and `bundles` of a selector's set those that it is part of.
pub(super) fn elements<'b, I>(
    table: &Table,
    ip: IpAddr,
    named: impl Fn(Protocol, &str) -> bool,
    bundles: impl Fn(SetId) -> I,
    mut visit: impl FnMut(Place, Key, Says),
) where
    I: Iterator<Item = (BundleId, &'b BTreeSet<Pair>)>,
{
    let Some(endpoint) = table.endpoint(ip) else {
        return;
    };
    let family = Family::of(ip);
    let key = octets(ip);
    for port in endpoint.ports.iter().filter(|port| named(port.protocol, &port.name)) {
        let place = Place::NamedPort(port.protocol, port.name.to_string(), family);
        visit(place, concatenation([key.as_slice(), &port.port.to_be_bytes()]), Says::Present);
    }
    if !endpoint.conflict {
        for set in table.sets_of(endpoint.identity) {
            visit(Place::Pods(*set, family), key.clone(), Says::Present);
            for (id, pairs) in bundles(*set) {
                bundle::keys(id, &key, pairs).into_iter().for_each(|key| visit(Place::Bundle(id, family), key, Says::Present));
            }
        }
    }
    if endpoint.local {
        visit(Place::Local(family), key.clone(), Says::Present);
        if !endpoint.conflict {
            visit(Place::Itself(family), concatenation([key.as_slice(), &key]), Says::Present);
        }
        for (protocol, port) in table.lookups(ip) {
            let key = concatenation([key.as_slice(), &[protocol.number()], &port.to_be_bytes()]);
            visit(Place::Lookups(family), key, Says::Present);
        }
        if let Some(reads) = table.audit_reads(ip) {
            visit(Place::Audited(family), key.clone(), Says::Present);
            for direction in Direction::BOTH {
                match reads.get(direction) {
                    ReadPorts::Every => visit(Place::Read(direction, family), key.clone(), Says::Present),
                    ReadPorts::These(ports) => ports.iter().for_each(|port| {
                        let key = concatenation([key.as_slice(), &port.to_be_bytes()]);
                        visit(Place::ReadPort(direction, family), key, Says::Present);
                    }),
                }
            }
        }
    }
    if !endpoint.local && table.node().pod_cidrs.iter().any(|net| net.contains(&ip)) {
        visit(Place::Elsewhere(family), key.clone(), Says::Present);
    }
    for direction in Direction::BOTH {
        if let Some(says) = judged_by(table, endpoint, direction) {
            visit(Place::Dispatch(direction, family), key.clone(), says);
        }
    }
}

/// What the map of a direction says of an endpoint; `None`: it isn't judged here.
fn judged_by(table: &Table, endpoint: &Endpoint, direction: Direction) -> Option<Says> {
    if endpoint.conflict {
        return Some(Says::Conflict);
    }
    if !endpoint.local {
        return None;
    }
    let programs = table.programs(endpoint.identity);
    let other = match direction {
        Direction::Ingress => programs.egress,
        Direction::Egress => programs.ingress,
    };
    Some(match (programs.get(direction), other) {
        (Some(program), _) => Says::Program(program),
        (None, Some(_)) => Says::Started,
        (None, None) => Says::Free,
    })
}
