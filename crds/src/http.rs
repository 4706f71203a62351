//! The `http` list of a rule.

use std::sync::Arc;

use sluice_policy::http::{HttpMatch, PathMatch, PatternError, check_pattern};

use crate::bounds::MAX_HTTP_ITEMS;
use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list, mapping, only, text};
use crate::value::{Map, Value, quoted};

/// Items of one rule; their number is in every verdict, in 16 bits.
const MAX_ITEMS: usize = 1000;

/// How many items a rule has, readable or not, as far as they are looked at.
pub(crate) fn written(rule: &Value) -> usize {
    rule.get("http").and_then(Value::as_list).map_or(0, |items| items.len().min(MAX_ITEMS))
}

/// Reads the items that can be read; the others match nothing. `left` is how many the policy may still have.
pub(crate) fn items(value: &Value, left: usize, at: At<'_>, report: &mut Report) -> Vec<HttpMatch> {
    let Ok(entries) = list(value, at, report) else { return Vec::new() };
    if entries.is_empty() {
        report.error(at, "an empty list matches no request", "leave http out, or write [{}] for every request");
    }
    let mut items = Vec::with_capacity(entries.len().min(MAX_ITEMS));
    for (i, entry) in entries.iter().enumerate() {
        let at = at.index(i, entry.line);
        match u16::try_from(i) {
            Ok(index) if i < MAX_ITEMS.min(left) => items.extend(item(entry, index, at, report).ok()),
            _ if i >= left => {
                report.error(at, format!("more than {MAX_HTTP_ITEMS} http items in one policy"), "split the policy");
                break;
            }
            _ => {
                report.error(at, format!("more than {MAX_ITEMS} items"), "split the rule");
                break;
            }
        }
    }
    items
}

fn item(value: &Value, index: u16, at: At<'_>, report: &mut Report) -> Reading<HttpMatch> {
    let map = mapping(value, at, report)?;
    let known = only(map, &["method", "path", "pathType"], &["host", "headers", "query"], at, report);
    let path_type = path_type(map, at, report);
    // All are read before any decides, so that the author hears of everything at once.
    let method = pattern(map, "method", at, report);
    let path = pattern(map, "path", at, report);
    known?;
    path_type?;
    Ok(HttpMatch { index, method: method?, path: path?.map(PathMatch::Regex), ..HttpMatch::default() })
}

fn path_type(map: &Map, at: At<'_>, report: &mut Report) -> Reading<()> {
    let Some(value) = map.get("pathType") else { return Ok(()) };
    let at = at.field("pathType", value.line);
    match &**text(value, at, report)? {
        "Regex" => Ok(()),
        other => {
            report.error(at, format!("{} is not supported by this version", quoted(other)), "write Regex, or leave it out");
            Err(Unreadable)
        }
    }
}

fn pattern(map: &Map, name: &str, at: At<'_>, report: &mut Report) -> Reading<Option<Arc<str>>> {
    let Some(value) = map.get(name) else { return Ok(None) };
    let at = at.field(name, value.line);
    let pattern = text(value, at, report)?;
    // The engine itself says what it can compile, and looks at the length first: ten megabytes cost nothing.
    match check_pattern(pattern) {
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
