//! The items of a rule's `http` list.

use std::sync::Arc;

use sluice_policy::http::{
    HttpMatch, PATTERN_MAX_BYTES, PathError, PathMatch, PatternError, canonical_path, check_host_pattern, check_pattern,
    encode_path,
};

use crate::condition::{Names, conditions};
use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, mapping, only, text};
use crate::l7::{Item as _, part};
use crate::rule::Partly;
use crate::value::{Map, Value, quoted};

pub(crate) fn item(value: &Value, index: u16, left: &mut usize, at: At<'_>, report: &mut Report) -> Partly<HttpMatch> {
    let Ok(map) = mapping(value, at, report) else { return Partly::nothing() };
    let mut complete = only(map, &["method", "path", "pathType", "host", "headers", "query"], &[], at, report).is_ok();
    // All are read before any decides, so that the author hears of everything at once.
    let mut item = HttpMatch::everything(index);
    item.method = part(pattern(map, "method", check_pattern, at, report), &mut complete);
    item.path = part(path(map, at, report), &mut complete);
    item.host = part(pattern(map, "host", check_host_pattern, at, report), &mut complete);
    item.headers = conditions(map, "headers", Names::Headers, left, &mut complete, at, report);
    item.query = conditions(map, "query", Names::Query, left, &mut complete, at, report);
    Partly { open: Some(item), complete }
}

/// `path`, as `pathType` says it is meant.
///
/// | pathType | path |
/// |---|---|
/// | absent, `Regex` | a whole-match regular expression |
/// | `Exact` | this path |
/// | `Prefix` | this path and all below it |
fn path(map: &Map, at: At<'_>, report: &mut Report) -> Reading<Option<PathMatch>> {
    let kind = match map.get("pathType") {
        None => "Regex",
        Some(value) => {
            let at = at.field("pathType", value.line);
            match &**text(value, at, report)? {
                "Regex" => "Regex",
                kind @ ("Exact" | "Prefix") if map.get("path").is_none() => {
                    report.error(at, format!("{kind} of no path"), "give the path");
                    return Err(Unreadable);
                }
                "Exact" => "Exact",
                "Prefix" => "Prefix",
                other => {
                    report.error(at, format!("{} is no pathType", quoted(other)), "write Regex, Exact or Prefix");
                    return Err(Unreadable);
                }
            }
        }
    };
    if kind == "Regex" {
        return Ok(pattern(map, "path", check_pattern, at, report)?.map(PathMatch::Regex));
    }
    let Some(value) = map.get("path") else { return Ok(None) };
    let at = at.field("path", value.line);
    let written = text(value, at, report)?;
    match canonical(written, kind == "Exact") {
        Ok(()) if kind == "Exact" => Ok(Some(PathMatch::Exact(written.clone()))),
        Ok(()) => Ok(Some(PathMatch::Prefix(written.clone()))),
        Err(remedy) => {
            report.error(at, format!("{} is no path that a request can have once it is read", quoted(written)), remedy);
            Err(Unreadable)
        }
    }
}

/// Whether a request can have this path: in canonical form, which is the decoded one. `Err`: what to write instead.
fn canonical(written: &str, exact: bool) -> Result<(), String> {
    if written.len() > PATTERN_MAX_BYTES {
        return Err(format!("write at most {PATTERN_MAX_BYTES} bytes"));
    }
    // `OPTIONS *`.
    if written == "*" && exact {
        return Ok(());
    }
    if !written.starts_with('/') {
        return Err("begin it with /".to_owned());
    }
    match canonical_path(written) {
        Ok(path) if path != written => return Err(format!("write {}", quoted(&path))),
        Err(PathError::Delimiter) => return Err("ask for the query in query; # never arrives at a server".to_owned()),
        // A % by itself is what `%25` is once it is decoded.
        Ok(_) | Err(PathError::BadEscape) => {}
        Err(_) => return Err("write it decoded, without control characters".to_owned()),
    }
    match canonical_path(&encode_path(written)) {
        Ok(path) if path == written => Ok(()),
        _ => Err("write it decoded, without //, . and ..".to_owned()),
    }
}

/// A whole-match regular expression that `check` lets pass.
pub(crate) fn pattern(
    map: &Map,
    name: &str,
    check: fn(&str) -> Result<(), PatternError>,
    at: At<'_>,
    report: &mut Report,
) -> Reading<Option<Arc<str>>> {
    let Some(value) = map.get(name) else { return Ok(None) };
    let at = at.field(name, value.line);
    let pattern = text(value, at, report)?;
    // The engine itself says what it can compile, and looks at the length first: ten megabytes cost nothing.
    match check(pattern) {
        Ok(()) => Ok(Some(pattern.clone())),
        Err(error) => {
            let remedy = match error {
                PatternError::TooLong { .. } => "write it shorter, or as several items",
                PatternError::TooLarge => "repeat less often, or write several items",
                PatternError::Syntax(_) => "mend the regular expression; a special character is taken literally after \\",
            };
            report.error(at, format!("{} {error}", quoted(pattern)), remedy);
            Err(Unreadable)
        }
    }
}
