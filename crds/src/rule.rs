//! One rule of a NetworkPolicy or SluiceNetworkPolicy.

use std::sync::Arc;

use sluice_policy::Direction;
use sluice_policy::Protocol;
use sluice_policy::source::{Action, Namespaces, Peer, PolicyKind, PortMatch, Rule};

use crate::bounds::{MAX_PEERS, MAX_PORTS, bounded, distinct, within_pairs};
use crate::diagnostic::{At, Report};
use crate::field::{Unreadable, is_near, list, mapping, only, text};
use crate::l7::{self, l7};
use crate::peer::peer;
use crate::port::port;
use crate::value::{Map, Value, quoted};

/// Which fields there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Kubernetes,
    Sluice,
}

impl Dialect {
    pub(crate) const fn of(kind: PolicyKind) -> Self {
        match kind {
            PolicyKind::NetworkPolicy | PolicyKind::ClusterNetworkPolicy => Self::Kubernetes,
            PolicyKind::SluiceNetworkPolicy | PolicyKind::SluiceClusterNetworkPolicy => Self::Sluice,
        }
    }

    const fn rule_fields(self, direction: Direction) -> &'static [&'static str] {
        match (self, direction) {
            (Self::Kubernetes, Direction::Ingress) => &["from", "ports"],
            (Self::Kubernetes, Direction::Egress) => &["to", "ports"],
            (Self::Sluice, Direction::Ingress) => &["action", "from", "ports", "http", "grpc", "tls"],
            (Self::Sluice, Direction::Egress) => &["action", "to", "ports", "http", "grpc", "tls"],
        }
    }

    const fn later_rule_fields(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &[],
            Self::Sluice => &["dns", "kafka", "icmp"],
        }
    }

    pub(crate) const fn peer_fields(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &["podSelector", "namespaceSelector", "ipBlock"],
            Self::Sluice => &["podSelector", "namespaceSelector", "serviceAccounts", "nodeSelector", "ipBlock"],
        }
    }

    pub(crate) const fn later_peer_fields(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &[],
            Self::Sluice => &["fqdns", "allowPrivate", "nameCheck"],
        }
    }
}

/// What a rule has to know of its policy.
pub(crate) struct Context {
    pub(crate) dialect: Dialect,
    /// What a `podSelector` alone is about: the policy's own namespace, or all of them where it is the cluster's.
    pub(crate) namespaces: Namespaces,
}

/// What could be read of something, and whether that is all of it.
pub(crate) struct Partly<T> {
    /// What its readable parts leave open; `None`: everything.
    pub(crate) open: Option<T>,
    pub(crate) complete: bool,
}

impl<T> Partly<T> {
    pub(crate) const fn nothing() -> Self {
        Self { open: None, complete: false }
    }
}

/// Reads rule number `index` of its direction. Total: what can't be read closes. `items_left` is how many L7 items the policy may
/// still have.
pub(crate) fn rule(
    value: &Value,
    direction: Direction,
    index: usize,
    policy: &Context,
    items_left: &mut usize,
    at: At<'_>,
    report: &mut Report,
) -> Rule {
    let dialect = policy.dialect;
    let path: Arc<str> = format!("{direction}[{index}]").into();
    let Ok(map) = mapping(value, at, report) else {
        // `- action:Deny`, without the space, is a text.
        let action = if may_deny(value, dialect) { Action::Deny } else { Action::Allow };
        return Rule::unreadable(direction, path, action);
    };
    let (action, mut complete) = match map.get("action").filter(|_| dialect == Dialect::Sluice) {
        None if may_deny(value, dialect) => (Action::Deny, false),
        None => (Action::Allow, true),
        Some(value) => action(value, at.field("action", value.line), report),
    };
    complete &= only(map, dialect.rule_fields(direction), dialect.later_rule_fields(), at, report).is_ok();

    let peers = peers(map, direction, policy, action, at, report);
    let kind = l7::kind(map).filter(|_| dialect == Dialect::Sluice);
    let ports = ports(map, dialect, kind, action, at, report);
    let mut contents = None;
    if kind.is_some() {
        let read = l7(map, action, items_left, at, report);
        complete &= read.is_ok();
        // A deny of which a port speaks no TCP can't have meant what it says about contents.
        let tcp = ports.iter().flatten().all(|port| protocol(port) == Protocol::Tcp);
        contents = read.ok().flatten().filter(|_| tcp || action == Action::Allow);
    }
    if !complete && action == Action::Allow {
        return Rule::unreadable(direction, path, Action::Allow);
    }
    within_pairs(Rule { direction, path, action, peers, ports, l7: contents }, at, report)
}

/// Whether a rule may have been meant to deny: it has another `action` than Allow, or a slip for it (`Action: Deny`,
/// `{action:Deny}`), or it is no mapping at all.
pub(crate) fn may_deny(value: &Value, dialect: Dialect) -> bool {
    if dialect == Dialect::Kubernetes || value.is_null() {
        return false;
    }
    let Some(map) = value.as_map() else { return true };
    if let Some(action) = map.get("action") {
        return action.as_str() != Some("Allow");
    }
    map.iter().filter(|entry| &*entry.key != "action").any(|entry| {
        let (name, word) = match entry.key.split_once(':') {
            Some((name, word)) => (name, Some(word)),
            None => (&*entry.key, entry.value.as_str()),
        };
        is_near(name, "action") && word.map(str::trim) != Some("Allow")
    })
}

/// The action, and whether it could be read.
fn action(value: &Value, at: At<'_>, report: &mut Report) -> (Action, bool) {
    match text(value, at, report).map(|t| &**t) {
        Ok("Allow") => (Action::Allow, true),
        Ok("Deny") => (Action::Deny, true),
        Ok(other) => {
            report.error(at, format!("{} is no action", quoted(other)), "write Allow or Deny");
            // Any other word may have been meant to deny.
            (Action::Deny, false)
        }
        Err(Unreadable) => (Action::Deny, false),
    }
}

/// `from` or `to`. An absent or empty list is everyone.
fn peers(
    map: &Map,
    direction: Direction,
    policy: &Context,
    action: Action,
    at: At<'_>,
    report: &mut Report,
) -> Option<Vec<Peer>> {
    let name = match direction {
        Direction::Ingress => "from",
        Direction::Egress => "to",
    };
    let value = map.get(name)?;
    let at = at.field(name, value.line);
    let entries = list(value, at, report);
    if policy.dialect == Dialect::Sluice {
        bounded("peers", entries.map_or(0, <[_]>::len), MAX_PEERS, at, report);
    }
    collect(entries, action, |i, entry| peer(entry, policy, at.index(i, entry.line), report))
}

/// `ports`. An absent or empty list is every port of every protocol, but for a rule about contents, of the kind `l7`: they are all
/// spoken over TCP.
fn ports(
    map: &Map,
    dialect: Dialect,
    l7: Option<&str>,
    action: Action,
    at: At<'_>,
    report: &mut Report,
) -> Option<Vec<PortMatch>> {
    let every = (l7.is_some() && action == Action::Allow).then(|| vec![PortMatch::All { protocol: Protocol::Tcp }]);
    let Some(value) = map.get("ports") else { return every };
    let at = at.field("ports", value.line);
    let entries = list(value, at, report);
    if dialect == Dialect::Sluice {
        bounded("ports", entries.map_or(0, <[_]>::len), MAX_PORTS, at, report);
    }
    let ports = collect(entries, action, |i, entry| {
        let at = at.index(i, entry.line);
        let read = port(entry, at, report);
        if let Some(l7) = l7.filter(|_| read.complete && read.open.as_ref().is_some_and(|p| protocol(p) != Protocol::Tcp)) {
            report.error(at, format!("{l7} is spoken over TCP, so this port matches nothing"), "leave it out");
            return Partly { complete: false, ..read };
        }
        read
    });
    ports.map(distinct).or(every)
}

const fn protocol(port: &PortMatch) -> Protocol {
    match port {
        PortMatch::All { protocol } | PortMatch::Range { protocol, .. } | PortMatch::Named { protocol, .. } => *protocol,
    }
}

/// The entries of a list that is an OR, in which an empty list is everything. One that can't be read matches nothing in an allow,
/// and in a deny all that its readable parts leave open.
fn collect<T>(
    entries: Result<&[Value], Unreadable>,
    action: Action,
    mut read: impl FnMut(usize, &Value) -> Partly<T>,
) -> Option<Vec<T>> {
    let Ok(entries) = entries else {
        return (action == Action::Allow).then(Vec::new);
    };
    if entries.is_empty() {
        return None;
    }
    let mut collected = Some(Vec::with_capacity(entries.len()));
    for (i, entry) in entries.iter().enumerate() {
        let partly = read(i, entry);
        match (partly.open, partly.complete, action) {
            (Some(entry), true, _) | (Some(entry), false, Action::Deny) => {
                if let Some(list) = &mut collected {
                    list.push(entry);
                }
            }
            (None, _, Action::Deny) => collected = None,
            (None, _, _) | (Some(_), false, _) => {}
        }
    }
    collected
}
