//! ClusterNetworkPolicy (`policy.networking.k8s.io/v1alpha2`): what the cluster's administrators say before and after everybody else.
//!
//! What can't be read closes, and only where it stands:
//!
//! | what can't be read | what it means |
//! |---|---|
//! | `tier`, `priority`, `subject`, an unknown field of `spec` | the policy is refused, and its last understood version stays in force: nobody can say whom it would close, nor before whom it stands |
//! | a rule, a field of it that isn't known, `action` | Accept matches nothing; all else denies what its readable parts leave open |
//! | one peer, one entry of `protocols` | in an Accept nothing; in a Deny or Pass the rule denies all peers, or all protocols |
//! | what is beyond a bound of the API | read all the same, and reported |

use std::sync::Arc;

use sluice_policy::label::Selector;
use sluice_policy::source::{
    Action, NamePattern, Named, Namespaces, Peer, PodSelector, Policy, PolicyRef, PortMatch, Rule, Tier,
};
use sluice_policy::{Direction, Protocol};

use crate::address::block;
use crate::bounds::{MAX_RULES, bounded, distinct, rules_beyond, within_pairs};
use crate::diagnostic::{At, Report};
use crate::domain::domain_name;
use crate::field::{Reading, Unreadable, list, mapping, only, text};
use crate::policy::OBJECT_FIELDS;
use crate::port;
use crate::selector::selector;
use crate::value::{Entry, Map, Node, Value, quoted};

/// The API's bound for rules of a direction, peers and protocols of a rule, networks and domain names of a peer.
const MOST: usize = 25;
const MAX_PRIORITY: i64 = 1000;

/// Reads the policy `object`, which is called `reference`. Unreadable: it is refused.
pub(crate) fn cluster_policy(object: &Value, reference: PolicyRef, report: &mut Report) -> Reading<Policy> {
    let root = At::root(object.line);
    let whole = only(mapping(object, root, report)?, OBJECT_FIELDS, &[], root, report);
    let spec = required(object.get("spec"), "spec", "a ClusterNetworkPolicy has tier, priority and subject", root, report)?;
    let at = root.field("spec", spec.line);
    let map = mapping(spec, at, report)?;
    let known = only(map, &["tier", "priority", "subject", "ingress", "egress"], &[], at, report);
    // Each of these says what is wrong with it, before the policy is given up.
    let tier = tier(map, at, report);
    let subject = match required(map.get("subject"), "subject", "name namespaces or pods", at, report) {
        Ok(value) => subject(value, at.field("subject", value.line), report),
        Err(Unreadable) => Err(Unreadable),
    };
    let mut rules = Vec::new();
    for direction in Direction::BOTH {
        rules_of(direction, map, at, &mut rules, report);
    }
    whole?;
    known?;
    let governs = |direction| rules.iter().any(|rule: &Rule| rule.direction == direction);
    let (ingress, egress) = (governs(Direction::Ingress), governs(Direction::Egress));
    let (tier, subject) = (tier?, subject?);
    Ok(Policy { reference, tier, subject, ingress, egress, audit: false, expires: None, rules })
}

fn required<'v>(
    value: Option<&'v Value>,
    name: &'static str,
    remedy: &str,
    at: At<'_>,
    report: &mut Report,
) -> Reading<&'v Value> {
    value.ok_or_else(|| {
        report.error(at.field(name, at.line), "missing", remedy);
        Unreadable
    })
}

fn tier(spec: &Map, at: At<'_>, report: &mut Report) -> Reading<Tier> {
    let priority =
        required(spec.get("priority"), "priority", "write a number from 0 to 1000; the smallest is judged first", at, report)
            .and_then(|value| match value.node {
                Node::Int(number) if (0..=MAX_PRIORITY).contains(&number) => Ok(u16::try_from(number).expect("1000 at most")),
                _ => {
                    let message = format!("{} is no priority", value.describe());
                    report.error(at.field("priority", value.line), message, "write a number from 0 to 1000");
                    Err(Unreadable)
                }
            });
    let value = required(spec.get("tier"), "tier", "write Admin or Baseline", at, report)?;
    let at = at.field("tier", value.line);
    match &**text(value, at, report)? {
        "Admin" => Ok(Tier::Admin { priority: priority? }),
        "Baseline" => Ok(Tier::Baseline { priority: priority? }),
        other => {
            report.error(at, format!("{} is no tier", quoted(other)), "write Admin or Baseline");
            Err(Unreadable)
        }
    }
}

/// `namespaces` or `pods`, as subject and as peer.
fn subject(value: &Value, at: At<'_>, report: &mut Report) -> Reading<PodSelector> {
    let map = mapping(value, at, report)?;
    only(map, &["namespaces", "pods"], &[], at, report)?;
    match (map.get("namespaces"), map.get("pods")) {
        (Some(value), None) => namespaces(value, at.field("namespaces", value.line), report),
        (None, Some(value)) => pods(value, at.field("pods", value.line), report),
        (None, None) => {
            report.error(at, "whom is it about?", "name namespaces or pods; \"namespaces: {}\" is every pod of the cluster");
            Err(Unreadable)
        }
        (Some(_), Some(_)) => {
            report.error(at, "namespaces beside pods", "pods has a namespaceSelector of its own");
            Err(Unreadable)
        }
    }
}

fn namespaces(value: &Value, at: At<'_>, report: &mut Report) -> Reading<PodSelector> {
    let namespaces = Namespaces::Matching(selector(value, at, report)?);
    Ok(PodSelector { namespaces, pods: Selector::everything() })
}

/// `namespaceSelector`, absent for all of them, and `podSelector`.
fn pods(value: &Value, at: At<'_>, report: &mut Report) -> Reading<PodSelector> {
    let map = mapping(value, at, report)?;
    only(map, &["namespaceSelector", "podSelector"], &[], at, report)?;
    let namespaces = match map.get("namespaceSelector") {
        Some(value) => selector(value, at.field("namespaceSelector", value.line), report)?,
        None => Selector::everything(),
    };
    let written =
        required(map.get("podSelector"), "podSelector", "\"podSelector: {}\" is every pod of these namespaces", at, report)?;
    let pods = selector(written, at.field("podSelector", written.line), report)?;
    Ok(PodSelector { namespaces: Namespaces::Matching(namespaces), pods })
}

fn rules_of(direction: Direction, spec: &Map, at: At<'_>, rules: &mut Vec<Rule>, report: &mut Report) {
    let name = direction.as_str();
    let Some(value) = spec.get(name) else { return };
    let at = at.field(name, value.line);
    let Ok(entries) = list(value, at, report) else {
        // Nobody can say that there was no deny among them.
        rules.push(Rule::unreadable(direction, name.into(), Action::Deny));
        return;
    };
    bounded("rules of a direction", entries.len(), MOST, at, report);
    for (i, value) in entries.iter().enumerate() {
        let at = at.index(i, value.line);
        if rules.len() >= MAX_RULES {
            rules.extend(rules_beyond(direction, i, true, at, report));
            return;
        }
        rules.push(rule(value, direction, i, at, report));
    }
}

/// Reads rule number `index` of its direction.
fn rule(value: &Value, direction: Direction, index: usize, at: At<'_>, report: &mut Report) -> Rule {
    let path: Arc<str> = format!("{direction}[{index}]").into();
    let Ok(map) = mapping(value, at, report) else {
        return Rule::unreadable(direction, path, Action::Deny);
    };
    let peers_field = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let (action, known_action) = action(map, at, report);
    let complete = only(map, &["name", "action", peers_field, "protocols"], &[], at, report).is_ok() & known_action;
    if let Some(name) = map.get("name") {
        let at = at.field("name", name.line);
        if text(name, at, report).is_ok_and(|name| name.chars().count() > 100) {
            report.error(at, "longer than 100 characters", "shorten it");
        }
    }
    let peers = peers(map, direction, peers_field, action, at, report);
    let ports = protocols(map, at, report);
    let is_readable = complete && peers.complete && ports.complete;
    match (action, complete) {
        (Action::Allow, false) => Rule::unreadable(direction, path, Action::Allow),
        (Action::Allow, true) => {
            within_pairs(Rule { direction, path, action, peers: Some(peers.read), ports: ports.read, l7: None }, at, report)
        }
        // What it was to do with whom can't be told: so it denies.
        (Action::Deny | Action::Pass, _) => {
            let action = if is_readable { action } else { Action::Deny };
            let peers_read = peers.complete.then_some(peers.read);
            let ports_read = if ports.complete { ports.read } else { None };
            within_pairs(Rule { direction, path, action, peers: peers_read, ports: ports_read, l7: None }, at, report)
        }
    }
}

fn action(map: &Map, at: At<'_>, report: &mut Report) -> (Action, bool) {
    const REMEDY: &str = "write Accept, Deny or Pass";
    let Ok(value) = required(map.get("action"), "action", REMEDY, at, report) else { return (Action::Deny, false) };
    let at = at.field("action", value.line);
    match text(value, at, report).map(|t| &**t) {
        Ok("Accept") => (Action::Allow, true),
        Ok("Deny") => (Action::Deny, true),
        Ok("Pass") => (Action::Pass, true),
        Ok(other) => {
            report.error(at, format!("{} is no action", quoted(other)), REMEDY);
            (Action::Deny, false)
        }
        Err(Unreadable) => (Action::Deny, false),
    }
}

/// The entries of a list that could be read, and whether that is all of them.
struct Read<T> {
    read: T,
    complete: bool,
}

fn peers(
    map: &Map,
    direction: Direction,
    name: &'static str,
    action: Action,
    at: At<'_>,
    report: &mut Report,
) -> Read<Vec<Peer>> {
    const REMEDY: &str = "name at least one peer; \"namespaces: {}\" is every pod of the cluster";
    let mut peers = Read { read: Vec::new(), complete: false };
    let Ok(value) = required(map.get(name), name, REMEDY, at, report) else { return peers };
    let at = at.field(name, value.line);
    let Ok(entries) = list(value, at, report) else { return peers };
    if entries.is_empty() {
        report.error(at, "empty", REMEDY);
        return peers;
    }
    bounded("peers of a rule", entries.len(), MOST, at, report);
    peers.complete = true;
    for (i, entry) in entries.iter().enumerate() {
        match peer(entry, direction, action, at.index(i, entry.line), report) {
            Ok(read) => peers.read.extend(read),
            Err(Unreadable) => peers.complete = false,
        }
    }
    peers
}

/// One peer, which may be several blocks.
pub(crate) fn peer(value: &Value, direction: Direction, action: Action, at: At<'_>, report: &mut Report) -> Reading<Vec<Peer>> {
    let kinds: &[&str] = match direction {
        Direction::Ingress => &["namespaces", "pods"],
        Direction::Egress => &["namespaces", "pods", "nodes", "networks", "domainNames"],
    };
    let map = mapping(value, at, report)?;
    only(map, kinds, &[], at, report)?;
    let Some(entry) = only_entry(map) else {
        report.error(at, "a peer has exactly one kind", format!("name one of {}", kinds.join(", ")));
        return Err(Unreadable);
    };
    let (value, at) = (&entry.value, at.field(&entry.key, entry.value.line));
    match &*entry.key {
        "namespaces" => Ok(vec![Peer::Pods(namespaces(value, at, report)?)]),
        "pods" => Ok(vec![Peer::Pods(pods(value, at, report)?)]),
        "nodes" => Ok(vec![Peer::Nodes(selector(value, at, report)?)]),
        "networks" => {
            let blocks = entries_of(value, "networks of a peer", at, report, block)?;
            Ok(blocks.into_iter().map(|cidr| Peer::Block { cidr, except: Vec::new() }).collect())
        }
        _ => {
            let names = entries_of(value, "domain names of a peer", at, report, domain_name)?;
            if action != Action::Allow {
                report.error(
                    at,
                    "domain names are for Accept alone",
                    "deny the addresses, or accept the names and deny the rest",
                );
                return Err(Unreadable);
            }
            let patterns = names.iter().map(|name| NamePattern::new(name)).collect();
            // The API asks for no more than the addresses that the names have, whichever these are.
            Ok(vec![Peer::Names(Named { patterns, allow_private: true, name_check: false })])
        }
    }
}

/// The field that is given, if there is exactly one.
fn only_entry(map: &Map) -> Option<&Entry> {
    let mut given = map.iter().filter(|entry| !entry.value.is_null());
    given.next().filter(|_| given.next().is_none())
}

/// A list with at least one entry, each of which can be read.
fn entries_of<T>(
    value: &Value,
    what: &str,
    at: At<'_>,
    report: &mut Report,
    read: impl Fn(&Value, At<'_>, &mut Report) -> Reading<T>,
) -> Reading<Vec<T>> {
    let entries = list(value, at, report)?;
    if entries.is_empty() {
        report.error(at, "empty", "list at least one");
        return Err(Unreadable);
    }
    bounded(what, entries.len(), MOST, at, report);
    let read: Vec<Reading<T>> =
        entries.iter().enumerate().map(|(i, entry)| read(entry, at.index(i, entry.line), report)).collect();
    read.into_iter().collect()
}

/// `protocols`. Absent: all protocols and ports.
fn protocols(map: &Map, at: At<'_>, report: &mut Report) -> Read<Option<Vec<PortMatch>>> {
    let Some(value) = map.get("protocols") else { return Read { read: None, complete: true } };
    let at = at.field("protocols", value.line);
    let mut ports = Read { read: Some(Vec::new()), complete: false };
    let Ok(entries) = list(value, at, report) else { return ports };
    if entries.is_empty() {
        report.error(at, "empty", "leave it out for all protocols, or list at least one");
        return ports;
    }
    bounded("protocols of a rule", entries.len(), MOST, at, report);
    let (mut read, mut complete) = (Vec::new(), true);
    for (i, entry) in entries.iter().enumerate() {
        match protocol(entry, at.index(i, entry.line), report) {
            Ok(matches) => read.extend(matches),
            Err(Unreadable) => complete = false,
        }
    }
    (ports.read, ports.complete) = (Some(distinct(read)), complete);
    ports
}

fn protocol(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Vec<PortMatch>> {
    const PROTOCOLS: [(&str, Protocol); 3] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
    let map = mapping(value, at, report)?;
    only(map, &["tcp", "udp", "sctp", "destinationNamedPort"], &[], at, report)?;
    let Some(entry) = only_entry(map) else {
        report.error(at, "an entry has exactly one protocol", "write a second entry, beginning with \"- \"");
        return Err(Unreadable);
    };
    let (value, at) = (&entry.value, at.field(&entry.key, entry.value.line));
    let Some((_, protocol)) = PROTOCOLS.iter().find(|(name, _)| *name == &*entry.key) else {
        let name = port::name(value, at, report)?;
        // Whatever protocol it is of at the destination.
        return Ok(PROTOCOLS.map(|(_, protocol)| PortMatch::Named { protocol, name: name.clone() }).into());
    };
    let map = mapping(value, at, report)?;
    only(map, &["destinationPort"], &[], at, report)?;
    match map.get("destinationPort") {
        None => Ok(vec![PortMatch::All { protocol: *protocol }]),
        Some(value) => {
            let (first, last) = destination_port(value, at.field("destinationPort", value.line), report)?;
            Ok(vec![PortMatch::Range { protocol: *protocol, first, last }])
        }
    }
}

/// `number`, or `range` with `start` and `end`.
fn destination_port(value: &Value, at: At<'_>, report: &mut Report) -> Reading<(u16, u16)> {
    let map = mapping(value, at, report)?;
    only(map, &["number", "range"], &[], at, report)?;
    match (map.get("number"), map.get("range")) {
        (Some(value), None) => port::number(value, at.field("number", value.line), report).map(|number| (number, number)),
        (None, Some(value)) => {
            let at = at.field("range", value.line);
            let range = mapping(value, at, report)?;
            only(range, &["start", "end"], &[], at, report)?;
            let mut end_of = |name: &'static str| {
                let value = required(range.get(name), name, "a range has start and end", at, report)?;
                port::number(value, at.field(name, value.line), report)
            };
            let (start, end) = (end_of("start")?, end_of("end")?);
            if start >= end {
                report.error(
                    at,
                    format!("{start} is not less than {end}"),
                    "give the first and the last port, or number for one alone",
                );
                return Err(Unreadable);
            }
            Ok((start, end))
        }
        _ => {
            report.error(at, "a port is either number or range", "name one of them");
            Err(Unreadable)
        }
    }
}
