//! One entry of `from` or `to`.

use std::sync::Arc;

use ipnet::IpNet;
use sluice_policy::Direction;
use sluice_policy::label::{Operator, Requirement, SERVICE_ACCOUNT, Selector};
use sluice_policy::source::{Action, Named, Namespaces, Peer, PodSelector};

use crate::address::block;
use crate::bounds::{MAX_NAMES, bounded};
use crate::diagnostic::{At, Report};
use crate::field::{Unreadable, list, mapping, only, text, truth};
use crate::fqdn;
use crate::rule::{Context, Dialect, Partly};
use crate::selector::selector;
use crate::syntax;
use crate::value::{Map, Value, quoted};

/// Reads a peer of a rule of `policy`.
pub(crate) fn peer(
    value: &Value,
    direction: Direction,
    policy: &Context,
    action: Action,
    at: At<'_>,
    report: &mut Report,
) -> Partly<Peer> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let fields = policy.dialect.peer_fields(direction);
    let beside_names: &[&str] = if fields.contains(&"fqdns") { &BESIDE_NAMES } else { &[] };
    let known = only(map, &[fields, beside_names].concat(), &[], at, report);
    let given = |name: &&str| fields.contains(name) && map.get(name).is_some();
    let selects = PODS.iter().any(given);
    let others: Vec<&str> = ADDRESSES.iter().copied().filter(|name| given(name)).collect();
    let mut peer = match (others.as_slice(), selects) {
        (["ipBlock"], false) => {
            let value = &map.get("ipBlock").expect("it is given");
            ip_block(value, at.field("ipBlock", value.line), report)
        }
        (["nodeSelector"], false) => {
            let value = &map.get("nodeSelector").expect("it is given");
            // All nodes, where nobody can say which: only a deny takes that.
            let read = selector(value, at.field("nodeSelector", value.line), report);
            Partly { complete: read.is_ok(), open: Some(Peer::Nodes(read.unwrap_or_default())) }
        }
        (["fqdns"], false) => names(map, action, at, report),
        ([], true) => pods(map, policy, at, report),
        ([], false) => {
            if known.is_ok() {
                report.error(at, format!("a peer without {}", one_of(fields)), "name one of them");
            }
            Partly::nothing()
        }
        ([first, ..], _) => {
            let beside = if selects { "a selector" } else { "another" };
            report.error(at, format!("{first} beside {beside}"), "write them as two peers, each beginning with \"- \"");
            Partly::nothing()
        }
    };
    for field in beside_names.iter().filter(|_| map.get("fqdns").is_none()) {
        let Some(value) = map.get(field) else { continue };
        report.error(at.field(field, value.line), format!("{field} without fqdns"), "it is about names alone: leave it out");
        peer.complete = false;
    }
    peer.complete &= known.is_ok();
    peer
}

/// What a peer selects pods by: AND.
const PODS: [&str; 3] = ["podSelector", "namespaceSelector", "serviceAccounts"];
/// What stands alone in a peer.
const ADDRESSES: [&str; 3] = ["ipBlock", "nodeSelector", "fqdns"];
/// What `fqdns` may have beside it.
const BESIDE_NAMES: [&str; 2] = ["allowPrivate", "nameCheck"];

/// `a, b and c`.
pub(crate) fn one_of(fields: &[&str]) -> String {
    match fields {
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
        [] => String::new(),
    }
}

/// `podSelector` alone is about the policy's own namespace; with `namespaceSelector` both must match, and so must the name of the
/// service account.
fn pods(map: &Map, policy: &Context, at: At<'_>, report: &mut Report) -> Partly<Peer> {
    let mut complete = true;
    let mut read = |name: &str| {
        map.get(name).map(|value| {
            selector(value, at.field(name, value.line), report).unwrap_or_else(|Unreadable| {
                complete = false;
                Selector::everything()
            })
        })
    };
    let namespaces = match read("namespaceSelector") {
        Some(selector) => Namespaces::Matching(selector),
        None => policy.namespaces.clone(),
    };
    let mut pods = read("podSelector").unwrap_or_default();
    if let Some(value) = map.get("serviceAccounts").filter(|_| policy.dialect == Dialect::Sluice) {
        match accounts(value, at.field("serviceAccounts", value.line), report) {
            Ok(names) => {
                let named = Requirement { key: SERVICE_ACCOUNT.into(), operator: Operator::In, values: names };
                pods = Selector::new(pods.requirements.into_iter().chain([named]));
            }
            Err(Unreadable) => complete = false,
        }
    }
    Partly { open: Some(Peer::Pods(PodSelector { namespaces, pods })), complete }
}

/// `fqdns`: names outside of the cluster, at least one, and what is asked of their addresses and connections.
///
/// A deny denies wherever the names lead, so `allowPrivate` says nothing there.
fn names(map: &Map, action: Action, at: At<'_>, report: &mut Report) -> Partly<Peer> {
    let value = map.get("fqdns").expect("it is given");
    let here = at.field("fqdns", value.line);
    let patterns = list(value, here, report).and_then(|entries| {
        if entries.is_empty() {
            report.error(here, "an empty list matches no name", "leave it out, or name a name");
            return Err(Unreadable);
        }
        bounded("names", entries.len(), MAX_NAMES, here, report);
        let pattern = |(i, entry): (usize, &Value)| {
            let at = here.index(i, entry.line);
            let map = mapping(entry, at, report)?;
            let known = only(map, &fqdn::FIELDS, &[], at, report);
            let pattern = fqdn::pattern(map, at, report);
            known.and(pattern)
        };
        let all: Vec<_> = entries.iter().enumerate().map(pattern).collect();
        all.into_iter().collect::<Result<Vec<_>, _>>()
    });
    let allow_private = map.get("allowPrivate").map(|value| truth(value, at.field("allowPrivate", value.line), report));
    let name_check = map.get("nameCheck").map(|value| {
        let at = at.field("nameCheck", value.line);
        match &**text(value, at, report)? {
            "Enforce" => Ok(true),
            "AddressOnly" => Ok(false),
            other => {
                report.error(at, format!("{} is no nameCheck", quoted(other)), "write Enforce or AddressOnly");
                Err(Unreadable)
            }
        }
    });
    match (patterns, allow_private.transpose(), name_check.transpose()) {
        (Ok(patterns), Ok(allow_private), Ok(name_check)) => {
            let allow_private = allow_private.unwrap_or(false) || action != Action::Allow;
            let named = Named { patterns, allow_private, name_check: name_check.unwrap_or(true) };
            Partly { open: Some(Peer::Names(named)), complete: true }
        }
        _ => Partly::nothing(),
    }
}

/// Names of service accounts, at least one.
fn accounts(value: &Value, at: At<'_>, report: &mut Report) -> Result<Vec<Arc<str>>, Unreadable> {
    let entries = list(value, at, report)?;
    if entries.is_empty() {
        report.error(at, "an empty list names no service account", "list their names, or leave it out");
        return Err(Unreadable);
    }
    let name = |(i, entry): (usize, &Value), report: &mut Report| {
        let at = at.index(i, entry.line);
        let name = text(entry, at, report)?;
        if syntax::is_subdomain(name) {
            return Ok(name.clone());
        }
        report.error(
            at,
            format!("{} is no service account's name", quoted(name)),
            "write its metadata.name, without the namespace",
        );
        Err(Unreadable)
    };
    let names: Vec<_> = entries.iter().enumerate().map(|entry| name(entry, report)).collect();
    names.into_iter().collect()
}

fn ip_block(value: &Value, at: At<'_>, report: &mut Report) -> Partly<Peer> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let mut complete = only(map, &["cidr", "except"], &[], at, report).is_ok();
    let Some(written) = map.get("cidr") else {
        report.error(at.field("cidr", value.line), "missing", "write it like 10.0.0.0/8");
        return Partly::nothing();
    };
    let Ok(cidr) = block(written, at.field("cidr", written.line), report) else { return Partly::nothing() };
    let mut except = Vec::new();
    if let Some(value) = map.get("except") {
        let at = at.field("except", value.line);
        match list(value, at, report) {
            Ok(entries) => {
                for (i, entry) in entries.iter().enumerate() {
                    match excepted(entry, cidr, at.index(i, entry.line), report) {
                        Ok(net) => except.push(net),
                        Err(Unreadable) => complete = false,
                    }
                }
            }
            Err(Unreadable) => complete = false,
        }
    }
    Partly { open: Some(Peer::Block { cidr, except }), complete }
}

/// A block that is carved out: it lies within `cidr` and is smaller, else the API server refuses it.
fn excepted(value: &Value, cidr: IpNet, at: At<'_>, report: &mut Report) -> Result<IpNet, Unreadable> {
    let net = block(value, at, report)?;
    if cidr.contains(&net) && net != cidr {
        return Ok(net);
    }
    report.error(at, format!("{net} is not a part of {cidr}"), "an exception is a smaller block within cidr");
    Err(Unreadable)
}
