//! The `http` list of a rule.

use std::sync::Arc;

use regex_automata::nfa::thompson::NFA;
use sluice_policy::http::HttpMatch;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list, mapping, only, text};
use crate::value::{Map, Value, quoted};

/// Characters of one regular expression. It is checked first, so that a pattern of megabytes costs nothing.
const MAX_PATTERN: usize = 4096;

/// Bytes of one compiled regular expression: what keeps `(a{1000}){1000}` from filling a node's memory.
const MAX_COMPILED: usize = 128 << 10;

/// Items of one rule; their number is in every verdict, in 16 bits.
const MAX_ITEMS: usize = 1000;

/// Reads the items that can be read; the others match nothing.
pub(crate) fn items(value: &Value, at: At<'_>, report: &mut Report) -> Vec<HttpMatch> {
    let Ok(entries) = list(value, at, report) else { return Vec::new() };
    if entries.is_empty() {
        report.error(at, "an empty list matches no request", "leave http out, or write [{}] for every request");
    }
    let mut items = Vec::with_capacity(entries.len().min(MAX_ITEMS));
    for (i, entry) in entries.iter().enumerate() {
        let at = at.index(i, entry.line);
        match u16::try_from(i) {
            Ok(index) if i < MAX_ITEMS => items.extend(item(entry, index, at, report).ok()),
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
    Ok(HttpMatch { index, method: method?, path: path? })
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
    match check(pattern) {
        Ok(()) => Ok(Some(pattern.clone())),
        Err((message, remedy)) => {
            report.error(at, message, remedy);
            Err(Unreadable)
        }
    }
}

fn check(pattern: &str) -> Result<(), (String, &'static str)> {
    if pattern.len() > MAX_PATTERN {
        let message = format!("a regular expression of {} bytes; the limit is {MAX_PATTERN}", pattern.len());
        return Err((message, "write it shorter, or as several items"));
    }
    let config = NFA::config().nfa_size_limit(Some(MAX_COMPILED));
    match NFA::compiler().configure(config).build(pattern) {
        Ok(_) => Ok(()),
        Err(error) if error.size_limit().is_some() => {
            let message = format!("the regular expression {} is larger than {MAX_COMPILED} bytes once compiled", quoted(pattern));
            Err((message, "repeat less often, or write several items"))
        }
        Err(error) => {
            // The parser draws the pattern with marks under it, over many lines; the last says what is wrong.
            let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            let last = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            Err((format!("{} is no regular expression: {last}", quoted(pattern)), "mend the pattern"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_checked_within_bounds() {
        let long = "a".repeat(10 << 20);
        let rows = [
            ("GET", ""),
            ("/api/.*", ""),
            ("GET|POST", ""),
            ("", ""),
            ("/users/\\d+/[\\w-]+(/.*)?", ""),
            ("(", "unclosed group"),
            ("a)(b", "unopened group"),
            ("*", "repetition operator missing expression"),
            ("(?=x)", "look-around"),
            ("\\1", "backreferences"),
            ("((((a{100}){100}){100}){100})", "once compiled"),
            (&long, "the limit is"),
        ];
        for (pattern, want) in rows {
            let got = check(pattern).err().map(|(message, _)| message).unwrap_or_default();
            assert!(if want.is_empty() { got.is_empty() } else { got.contains(want) }, "{:.40}: {got}", pattern);
        }
    }
}
