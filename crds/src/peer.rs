//! One entry of `from` or `to`.

use ipnet::IpNet;
use sluice_policy::label::Selector;
use sluice_policy::source::{Namespaces, Peer, PodSelector};

use crate::address::block;
use crate::diagnostic::{At, Report};
use crate::field::{Unreadable, list, mapping, only};
use crate::rule::{Context, Partly};
use crate::selector::selector;
use crate::value::{Map, Value};

/// Reads a peer of a rule of `policy`.
pub(crate) fn peer(value: &Value, policy: &Context, at: At<'_>, report: &mut Report) -> Partly<Peer> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let known = only(map, &["podSelector", "namespaceSelector", "ipBlock"], policy.dialect.later_peer_fields(), at, report);
    let selects = map.get("podSelector").is_some() || map.get("namespaceSelector").is_some();
    let mut peer = match (map.get("ipBlock"), selects) {
        (Some(value), false) => ip_block(value, at.field("ipBlock", value.line), report),
        (Some(_), true) => {
            report.error(at, "ipBlock beside a selector", "write them as two peers, each beginning with \"- \"");
            Partly::nothing()
        }
        (None, true) => pods(map, &policy.namespaces, at, report),
        (None, false) => {
            if known.is_ok() {
                report.error(at, "a peer without podSelector, namespaceSelector and ipBlock", "name one of them");
            }
            Partly::nothing()
        }
    };
    peer.complete &= known.is_ok();
    peer
}

/// `podSelector` alone is about the policy's own namespace; with `namespaceSelector` both must match.
fn pods(map: &Map, own: &Namespaces, at: At<'_>, report: &mut Report) -> Partly<Peer> {
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
        None => own.clone(),
    };
    let pods = read("podSelector").unwrap_or_default();
    Partly { open: Some(Peer::Pods(PodSelector { namespaces, pods })), complete }
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
