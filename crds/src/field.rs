//! Reading fields: each function reports what is wrong at its place and answers with what could be read.

use std::sync::Arc;

use crate::diagnostic::{At, Report};
use crate::value::{Map, Node, Value, quoted};

/// Something could not be read. It has been reported already; the caller decides what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

pub(crate) type Reading<T> = Result<T, Unreadable>;

pub(crate) fn mapping<'v>(value: &'v Value, at: At<'_>, report: &mut Report) -> Reading<&'v Map> {
    match &value.node {
        Node::Map(map) => Ok(map),
        _ => Err(wrong(value, "a mapping", at, report)),
    }
}

pub(crate) fn list<'v>(value: &'v Value, at: At<'_>, report: &mut Report) -> Reading<&'v [Value]> {
    match &value.node {
        Node::List(list) => Ok(list),
        Node::Map(_) => {
            report.error(at, "a mapping where a list belongs", "begin each entry with \"- \"");
            Err(Unreadable)
        }
        _ => Err(wrong(value, "a list", at, report)),
    }
}

pub(crate) fn text<'v>(value: &'v Value, at: At<'_>, report: &mut Report) -> Reading<&'v Arc<str>> {
    match &value.node {
        Node::String(s) => Ok(s),
        Node::Bool(_) | Node::Int(_) | Node::Float(_) => {
            let message = format!("{} where text belongs", value.describe());
            report.error(at, message, "put it in quotes (YAML takes words such as yes, on and 1.10 for other things)");
            Err(Unreadable)
        }
        _ => Err(wrong(value, "text", at, report)),
    }
}

pub(crate) fn truth(value: &Value, at: At<'_>, report: &mut Report) -> Reading<bool> {
    match value.node {
        Node::Bool(b) => Ok(b),
        _ => Err(wrong(value, "true or false", at, report)),
    }
}

fn wrong(value: &Value, wanted: &str, at: At<'_>, report: &mut Report) -> Unreadable {
    report.error(at, format!("{} where {wanted} belongs", value.describe()), format!("write {wanted} here"));
    Unreadable
}

/// Checks that `map` has no field but `known`, and that none of `later` is there, which a later version will know.
pub(crate) fn only(map: &Map, known: &[&str], later: &[&str], at: At<'_>, report: &mut Report) -> Reading<()> {
    let mut answer = Ok(());
    for entry in map {
        let name = &*entry.key;
        if known.contains(&name) {
            continue;
        }
        answer = Err(Unreadable);
        let here = at.field(name, entry.line);
        if later.contains(&name) {
            report.error(here, "not supported by this version", "leave it out, or use a version that knows it");
        } else {
            let remedy = match known.iter().find(|k| is_near(name, k)) {
                Some(near) => format!("is {near} meant?"),
                None => format!("known here: {}", known.join(", ")),
            };
            report.error(here, format!("unknown field {}", quoted(name)), remedy);
        }
    }
    answer
}

/// Whether `name` may be a slip for `known`: letters in other case, one left out, added or swapped for another.
pub(crate) fn is_near(name: &str, known: &str) -> bool {
    let (a, b) = (name.as_bytes(), known.as_bytes());
    if a.len().abs_diff(b.len()) > 1 {
        return false;
    }
    let equal = |(x, y): &(&u8, &u8)| x.eq_ignore_ascii_case(y);
    let front = a.iter().zip(b).take_while(equal).count();
    let back = a.iter().rev().zip(b.iter().rev()).take_while(equal).count();
    front + back + 1 >= a.len().max(b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_told_from_another_word() {
        let rows = [
            ("port", "ports", true),
            ("Ports", "ports", true),
            ("podselector", "podSelector", true),
            ("podSelectors", "podSelector", true),
            ("ingres", "ingress", true),
            ("frm", "from", true),
            ("form", "from", false),
            ("to", "from", false),
            ("app", "matchLabels", false),
            ("", "to", false),
        ];
        for (name, known, want) in rows {
            assert_eq!(is_near(name, known), want, "{name} for {known}");
        }
    }
}
