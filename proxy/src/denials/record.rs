//! The record of a packet that the kernel denied, or let pass: what the engine says of it now.

use std::sync::Arc;

use nix::net::if_::if_indextoname;
use sluice_policy::flow::{Flow, Request};
use sluice_policy::{Decision, Direction, Reason, Table};

use super::ledger::Entry;
use super::packet::Headers;
use crate::ident::RecordId;
use crate::judge::{ClientAddr, Ends, OriginalDst, Ruling};
use crate::kernel::{Site, Subject};
use crate::records::{Record, RecordType};

pub(super) fn record(entry: &Entry, id: RecordId, node: &Arc<str>, table: &Table) -> Record {
    let headers = &entry.headers;
    let mut record = Record::new(RecordType::Connection, id, node, table, &ends(headers));
    let ruling = ruling(table, entry.site, headers);
    record.decided(&ruling);
    if !ruling.is_allowed() {
        // Where policies decided, the kernel knows whose, even if they have changed since.
        record.direction = entry.site.direction().map(Direction::as_str);
    }
    if entry.site == Site::Forged {
        // Whose address it bears has not sent it.
        (record.source.namespace, record.source.pod) = (None, None);
    }
    if let Subject::Interface(number) = entry.subject {
        // Gone, or none, where there is no name.
        record.interface = if_indextoname(number).ok().map(|name| name.to_string_lossy().into_owned());
    }
    record.suppressed = (entry.left_out > 0).then_some(entry.left_out);
    record
}

pub(super) fn ends(headers: &Headers) -> Ends {
    Ends { protocol: headers.protocol, ..Ends::new(ClientAddr(headers.source), OriginalDst(headers.destination)) }
}

/// What the kernel did, with the rule that says so in the table of now.
///
/// The kernel judged by its own rules, which are those of a moment ago, or of a moment to come. Where the table of now says
/// otherwise, no policy is named: it would be the wrong one.
fn ruling(table: &Table, site: Site, headers: &Headers) -> Ruling {
    let flow = flow(site, headers);
    let Some(reason) = site.reason() else { return passed(table, &flow) };
    let unnamed = Ruling { decision: Decision::Deny, reason, direction: Direction::Ingress, by: Vec::new() };
    let Some(direction) = site.direction() else { return unnamed };
    let verdict = table.verdict(&flow);
    let half = verdict.half(direction);
    if half.decision != Decision::Deny || half.reason != reason {
        return Ruling { direction, ..unnamed };
    }
    Ruling { decision: Decision::Deny, reason, direction, by: table.by(&flow, &verdict, direction) }
}

/// The flow that the packet begins, or would have begun.
pub(super) fn flow(site: Site, headers: &Headers) -> Flow<'static> {
    // What only a request could allow, and there can be none.
    let is_unreadable = matches!(site, Site::Unreadable(_));
    Flow {
        source: headers.source.ip(),
        destination: headers.destination.ip(),
        protocol: headers.protocol,
        destination_port: headers.destination.port(),
        icmp: headers.icmp,
        names: &[],
        request: is_unreadable.then_some(Request::Opaque),
    }
}

fn passed(table: &Table, flow: &Flow<'_>) -> Ruling {
    let verdict = table.verdict(flow);
    let direction = verdict.deciding();
    if !verdict.is_allowed() {
        return Ruling { decision: Decision::Allow, reason: Reason::PolicyChanged, direction, by: Vec::new() };
    }
    Ruling { decision: Decision::Allow, reason: verdict.reason(), direction, by: table.by(flow, &verdict, direction) }
}
