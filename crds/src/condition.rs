//! Conditions on header fields and on parameters of the query: `headers`, `query` and `metadata` of an item.

use std::sync::Arc;

use sluice_policy::http::{Condition, Test, check_pattern};

use crate::bounds::{MAX_CONDITIONS, MAX_EXACT_BYTES, MAX_L7_ITEMS, MAX_NAME_BYTES};
use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list, mapping, only, text, truth};
use crate::http::pattern;
use crate::l7::part;
use crate::value::{Map, Value, quoted};

/// What the conditions are on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    Headers,
    Metadata,
    Query,
}

/// Fields that belong to one connection, and end at the proxy (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"];

/// Reads those of the list `field` that can be read.
pub(crate) fn conditions(
    item: &Map,
    field: &str,
    names: Names,
    left: &mut usize,
    complete: &mut bool,
    at: At<'_>,
    report: &mut Report,
) -> Vec<Condition> {
    let Some(value) = item.get(field) else { return Vec::new() };
    let at = at.field(field, value.line);
    let Ok(entries) = list(value, at, report) else {
        *complete = false;
        return Vec::new();
    };
    let mut conditions = Vec::with_capacity(entries.len().min(MAX_CONDITIONS));
    for (i, entry) in entries.iter().enumerate() {
        let at = at.index(i, entry.line);
        let beyond = match (i, *left) {
            (MAX_CONDITIONS.., _) => Some((format!("more than {MAX_CONDITIONS} conditions"), "split the item")),
            (_, 0) => Some((format!("more than {MAX_L7_ITEMS} items and conditions in one policy"), "split the policy")),
            _ => None,
        };
        if let Some((message, remedy)) = beyond {
            report.error(at, message, remedy);
            *complete = false;
            break;
        }
        *left -= 1;
        match condition(entry, names, at, report) {
            Ok(condition) => conditions.push(condition),
            Err(Unreadable) => *complete = false,
        }
    }
    conditions
}

fn condition(value: &Value, names: Names, at: At<'_>, report: &mut Report) -> Reading<Condition> {
    let map = mapping(value, at, report)?;
    let mut complete = only(map, &["name", "exact", "regex", "present", "absent", "not"], &[], at, report).is_ok();
    let name = part(name(map, names, at, report).map(Some), &mut complete);
    let test = part(test(map, names, at, report).map(Some), &mut complete);
    let not = match map.get("not") {
        None => Some(false),
        Some(value) => part(truth(value, at.field("not", value.line), report).map(Some), &mut complete),
    };
    match (name, test, not) {
        (Some(name), Some(test), Some(not)) if complete => Ok(Condition { name, test, not }),
        _ => Err(Unreadable),
    }
}

fn name(map: &Map, names: Names, at: At<'_>, report: &mut Report) -> Reading<Arc<str>> {
    let Some(value) = map.get("name") else {
        report.error(at, "a condition on no name", "give the name");
        return Err(Unreadable);
    };
    let at = at.field("name", value.line);
    let written = text(value, at, report)?;
    if written.is_empty() || written.len() > MAX_NAME_BYTES {
        report.error(at, format!("a name of {} bytes", written.len()), format!("write 1 to {MAX_NAME_BYTES}"));
        return Err(Unreadable);
    }
    if names == Names::Query {
        return Ok(written.clone());
    }
    let lower = written.to_ascii_lowercase();
    let remedy = match (&*lower, names) {
        (":path" | ":method" | "host" | ":authority", Names::Metadata) => "name the call with service and method",
        (":path", _) => "ask for it in path",
        (":method", _) => "ask for it in method",
        ("host" | ":authority", _) => "ask for it in host",
        (pseudo, _) if pseudo.starts_with(':') => "leave it out: it is no header field",
        (hop, _) if HOP_BY_HOP.contains(&hop) => {
            "leave it out, or have the client say it in a field of its own: this one ends at each connection"
        }
        (token, _) if !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)) => {
            "write letters, digits and -"
        }
        _ => return Ok(lower.into()),
    };
    report.error(at, format!("{} is no name of a field to ask about", quoted(written)), remedy);
    Err(Unreadable)
}

/// Exactly one of `exact`, `regex`, `present` and `absent`.
fn test(map: &Map, names: Names, at: At<'_>, report: &mut Report) -> Reading<Test> {
    let tests = ["exact", "regex", "present", "absent"];
    let mut given = tests.into_iter().filter_map(|field| Some((field, map.get(field)?)));
    let (Some((field, value)), None) = (given.next(), given.next()) else {
        report.error(at, "not exactly one test", "write one of exact, regex, present: true and absent: true");
        return Err(Unreadable);
    };
    let here = at.field(field, value.line);
    match field {
        "exact" => exact(text(value, here, report)?, names, here, report).map(Test::Exact),
        "regex" => pattern(map, "regex", check_pattern, at, report)?.map(Test::Regex).ok_or(Unreadable),
        _ => {
            let present = field == "present";
            if truth(value, here, report)? {
                return Ok(if present { Test::Present } else { Test::Absent });
            }
            let remedy = if present { "write absent: true" } else { "write present: true" };
            report.error(here, format!("{field}: false"), remedy);
            Err(Unreadable)
        }
    }
}

fn exact(written: &Arc<str>, names: Names, at: At<'_>, report: &mut Report) -> Reading<Arc<str>> {
    if written.len() > MAX_EXACT_BYTES {
        report.error(at, format!("a value of {} bytes", written.len()), format!("write at most {MAX_EXACT_BYTES}"));
        return Err(Unreadable);
    }
    let never = names != Names::Query && (written.trim_ascii() != &**written || written.chars().any(char::is_control));
    if never {
        report.error(at, format!("{} is no value that a field can have", quoted(written)), "leave out the white space around it");
        return Err(Unreadable);
    }
    Ok(written.clone())
}
