//! The second judgement of flows that the kernel decides alone.

use std::sync::Arc;

use sluice_policy::Table;

use super::ledger::Entry;
use super::record::{ends, flow};
use crate::ident::RecordId;
use crate::kernel::Site;
use crate::records::{Record, RecordType};

/// Whether a flow passed unread of which Audit policies could say no more: it was offered to the proxy, and not taken.
pub(super) fn is_left_out(entry: &Entry, table: &Table) -> bool {
    let flow = flow(entry.site, &entry.headers);
    matches!(entry.site, Site::Audited(_)) && table.hangs_on_contents(&flow, &table.verdict(&flow))
}

/// The record of what the Audit policies would make of a packet's flow; `None`: the same, or nobody can say.
///
/// Only of flows that policies decide: what is forged, or unknown, is dropped whatever they say.
pub(super) fn record(entry: &Entry, id: RecordId, node: &Arc<str>, table: &Table) -> Option<Record> {
    // What merely passed is reported as audited too.
    let is_policys = matches!(entry.site, Site::Isolated(_) | Site::Denied(_) | Site::Unreadable(_) | Site::Audited(_));
    if !is_policys || !table.has_audit() {
        return None;
    }
    let headers = &entry.headers;
    let flow = flow(entry.site, headers);
    let verdict = table.verdict(&flow);
    // The kernel judged by the table of a moment ago. Where that of now says otherwise, there is nothing to compare with.
    if verdict.is_allowed() != matches!(entry.site, Site::Audited(_)) {
        return None;
    }
    let audit = table.audit(&flow, &verdict)?;
    let mut record = Record::new(RecordType::Connection, id, node, table, &ends(headers));
    record.audited(verdict.decision(), &audit);
    if matches!(entry.site, Site::Audited(_)) {
        record.suppressed = (entry.left_out > 0).then_some(entry.left_out);
    }
    Some(record)
}
