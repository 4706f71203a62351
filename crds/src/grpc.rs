//! The items of a rule's `grpc` list.

use std::sync::Arc;

use sluice_policy::http::GrpcMatch;

use crate::bounds::MAX_NAME_BYTES;
use crate::condition::{Names, conditions};
use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, mapping, only, text};
use crate::l7::{Item as _, part};
use crate::rule::Partly;
use crate::value::{Map, Value, quoted};

pub(crate) fn item(value: &Value, index: u16, left: &mut usize, at: At<'_>, report: &mut Report) -> Partly<GrpcMatch> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let mut complete = only(map, &["service", "method", "metadata"], &[], at, report).is_ok();
    let mut item = GrpcMatch::everything(index);
    item.service = part(service(map, at, report).map(Some), &mut complete);
    item.method = part(method(map, at, report), &mut complete);
    item.metadata = conditions(map, "metadata", Names::Metadata, left, &mut complete, at, report);
    Partly { open: Some(item), complete }
}

fn service(map: &Map, at: At<'_>, report: &mut Report) -> Reading<Arc<str>> {
    let Some(value) = map.get("service") else {
        report.error(at, "of which service?", "give service, with its package: orders.v1.OrderService");
        return Err(Unreadable);
    };
    let at = at.field("service", value.line);
    let written = text(value, at, report)?;
    if written.len() <= MAX_NAME_BYTES && written.split('.').all(is_identifier) {
        return Ok(written.clone());
    }
    let remedy = "write it in full and without wildcards, with its package: orders.v1.OrderService";
    report.error(at, format!("{} is no name of a service", quoted(written)), remedy);
    Err(Unreadable)
}

/// `None`: every method.
fn method(map: &Map, at: At<'_>, report: &mut Report) -> Reading<Option<Arc<str>>> {
    let Some(value) = map.get("method") else { return Ok(None) };
    let at = at.field("method", value.line);
    let written = text(value, at, report)?;
    match &**written {
        "*" => Ok(None),
        name if name.len() <= MAX_NAME_BYTES && is_identifier(name) => Ok(Some(written.clone())),
        other => {
            report.error(at, format!("{} is no name of a method", quoted(other)), "write the whole name, or * for every method");
            Err(Unreadable)
        }
    }
}

/// An identifier of protobuf.
fn is_identifier(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}
