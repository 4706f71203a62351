//! One rule of a NetworkPolicy or SluiceNetworkPolicy.

use std::sync::Arc;

use sluice_policy::Direction;
use sluice_policy::Protocol;
use sluice_policy::source::{Action, Namespaces, Peer, PolicyKind, PortMatch, Rule};

use crate::bounds::{MAX_PEERS, MAX_PORTS, bounded, distinct, within_pairs};
use crate::diagnostic::{At, Report};
use crate::dns;
use crate::field::{Unreadable, is_near, list, mapping, only, text};
use crate::icmp;
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
            (Self::Sluice, Direction::Ingress) => &["action", "from", "ports", "icmp", "http", "grpc", "tls", "dns"],
            (Self::Sluice, Direction::Egress) => &["action", "to", "ports", "icmp", "http", "grpc", "tls", "dns"],
        }
    }

    const fn later_rule_fields(self) -> &'static [&'static str] {
        match self {
            Self::Kubernetes => &[],
            Self::Sluice => &["kafka"],
        }
    }

    /// What makes a peer.
    pub(crate) const fn peer_fields(self, direction: Direction) -> &'static [&'static str] {
        match (self, direction) {
            (Self::Kubernetes, _) => &["podSelector", "namespaceSelector", "ipBlock"],
            (Self::Sluice, Direction::Ingress) => {
                &["podSelector", "namespaceSelector", "serviceAccounts", "nodeSelector", "ipBlock"]
            }
            (Self::Sluice, Direction::Egress) => {
                &["podSelector", "namespaceSelector", "serviceAccounts", "nodeSelector", "ipBlock", "fqdns"]
            }
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
    let messages = map.get("icmp").filter(|_| dialect == Dialect::Sluice).map(|value| {
        let at = at.field("icmp", value.line);
        if let Some(kind) = kind {
            report.error(
                at,
                format!("icmp beside {kind}"),
                "a rule about contents has no messages of ICMP: write a rule for each",
            );
            complete = false;
        }
        messages(value, action, at, report)
    });
    let either = messages.is_some() && kind.is_some();
    let ports = match (ports, messages) {
        // Nobody can say which of the two was meant.
        (None, _) if either => None,
        (None, None) => default_ports(kind, action),
        (None, messages) => messages,
        (Some(ports), messages) => ports.map(|ports| distinct(ports.into_iter().chain(messages.into_iter().flatten()).collect())),
    };
    let mut contents = None;
    if let Some(kind) = kind {
        let read = l7(map, direction, action, items_left, at, report);
        complete &= read.is_ok();
        // A deny of which a port can't carry such contents can't have meant what it says about them.
        let carried = ports.iter().flatten().all(|port| l7::is_spoken_over(kind, port.protocol()));
        contents = read.ok().flatten().filter(|_| (carried && !either) || action == Action::Allow);
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
    collect(entries, action, |i, entry| peer(entry, direction, policy, action, at.index(i, entry.line), report))
}

/// The ports of a rule that gives none: every port of every protocol, but for one about contents. Look-ups go to port 53, and all else
/// is spoken over TCP.
fn default_ports(l7: Option<&str>, action: Action) -> Option<Vec<PortMatch>> {
    match l7 {
        Some("dns") => {
            Some([Protocol::Udp, Protocol::Tcp].map(|protocol| PortMatch::Range { protocol, first: 53, last: 53 }).into())
        }
        Some(_) if action == Action::Allow => Some(vec![PortMatch::All { protocol: Protocol::Tcp }]),
        _ => None,
    }
}

/// `icmp`: messages beside the ports, or instead of them.
fn messages(value: &Value, action: Action, at: At<'_>, report: &mut Report) -> Vec<PortMatch> {
    let entries = list(value, at, report);
    match entries {
        Ok([]) => report.error(at, "an empty list matches no message", "leave icmp out, or name a family"),
        Ok(entries) => {
            bounded("messages", entries.len(), MAX_PORTS, at, report);
            let read = collect(Ok(entries), action, |i, entry| icmp::message(entry, at.index(i, entry.line), report));
            return distinct(read.unwrap_or_else(|| vec![icmp::EVERY_MESSAGE]));
        }
        Err(Unreadable) => {}
    }
    if action == Action::Allow { Vec::new() } else { vec![icmp::EVERY_MESSAGE] }
}

/// `ports`. `None`: the rule gives none, as the list is absent or empty. `Some(None)`: all ports.
fn ports(
    map: &Map,
    dialect: Dialect,
    l7: Option<&str>,
    action: Action,
    at: At<'_>,
    report: &mut Report,
) -> Option<Option<Vec<PortMatch>>> {
    let value = map.get("ports")?;
    let at = at.field("ports", value.line);
    let entries = list(value, at, report);
    if entries.is_ok_and(<[_]>::is_empty) {
        return None;
    }
    if dialect == Dialect::Sluice {
        bounded("ports", entries.map_or(0, <[_]>::len), MAX_PORTS, at, report);
    }
    let ports = collect(entries, action, |i, entry| {
        let at = at.index(i, entry.line);
        let read = port(entry, at, report);
        let carries = |l7: &str| read.open.as_ref().is_none_or(|port| l7::is_spoken_over(l7, port.protocol()));
        if let Some(l7) = l7.filter(|l7| read.complete && !carries(l7)) {
            let message = format!("{l7} is spoken over {}, so this port matches nothing", l7::carriers(l7));
            report.error(at, message, "leave it out");
            return Partly { complete: false, ..read };
        }
        if l7 == Some("dns") && read.complete && !read.open.as_ref().is_some_and(dns::is_judged_at) {
            let most = format!("at most {} in a range: each is diverted by itself", dns::MOST_PORTS);
            report.error(at, "look-ups are judged at ports that are given by their numbers", most);
            return Partly { complete: false, ..read };
        }
        read
    });
    Some(ports.map(distinct))
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
