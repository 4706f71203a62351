//! The query of a request, in every way in which a server may read it.
//!
//! Nothing says what a query means (RFC 3986 section 3.4): `&` separates nearly everywhere, `;` somewhere, and `+` is a space to
//! most and itself to some. A query that has one of them has as many readings, and what differs between them is unknown.

use std::collections::BTreeMap;

use super::condition::{Found, Holds, Prepared};

/// All readings of one query.
#[derive(Debug)]
pub(super) struct Query {
    readings: Vec<Reading>,
}

/// The parameters by their names, both decoded once.
#[derive(Debug, Default)]
struct Reading {
    /// The values of a name; `None`: one of them can't be decoded.
    parameters: BTreeMap<String, Option<Vec<String>>>,
    /// A name can't be decoded, so that it may be any.
    unreadable_name: bool,
}

impl Query {
    pub(super) fn new(raw: Option<&str>) -> Self {
        let raw = raw.unwrap_or_default();
        let mut readings = vec![Reading::new(raw, false, true)];
        let (semicolon, plus) = (raw.contains(';'), raw.contains('+'));
        if semicolon {
            readings.push(Reading::new(raw, true, true));
        }
        if plus {
            readings.push(Reading::new(raw, false, false));
        }
        if semicolon && plus {
            readings.push(Reading::new(raw, true, false));
        }
        Self { readings }
    }

    pub(super) fn holds(&self, condition: &Prepared) -> Holds {
        Holds::in_all(self.readings.iter().map(|reading| reading.holds(condition)))
    }
}

impl Reading {
    fn new(raw: &str, semicolons: bool, plus_is_space: bool) -> Self {
        let mut reading = Self::default();
        let parts = raw.split(|c| c == '&' || (semicolons && c == ';')).filter(|part| !part.is_empty());
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let Some(name) = decoded(name, plus_is_space) else {
                reading.unreadable_name = true;
                continue;
            };
            let values = reading.parameters.entry(name).or_insert_with(|| Some(Vec::new()));
            match (decoded(value, plus_is_space), values) {
                (Some(value), Some(values)) => values.push(value),
                (None, values) => *values = None,
                (Some(_), None) => {}
            }
        }
        reading
    }

    fn holds(&self, condition: &Prepared) -> Holds {
        let found = self.parameters.get(&*condition.name);
        if self.unreadable_name {
            return condition.beside_unreadable_names(found.is_some());
        }
        match found {
            None => condition.holds(&Found::Texts(&[]), false),
            Some(None) => condition.holds(&Found::Unreadable, false),
            Some(Some(values)) => {
                let values: Vec<&str> = values.iter().map(String::as_str).collect();
                condition.holds(&Found::Texts(&values), false)
            }
        }
    }
}

/// `text` with its escapes decoded once; `None` if one is broken, or the whole isn't UTF-8, or holds a control character: a line
/// break would end what `.*` stands for, and NUL ends the value to some servers.
fn decoded(text: &str, plus_is_space: bool) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        out.push(match byte {
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = (digit()?, digit()?);
                u8::try_from(high << 4 | low).ok()?
            }
            b'+' if plus_is_space => b' ',
            other => other,
        });
    }
    String::from_utf8(out).ok().filter(|text| !text.bytes().any(|byte| byte.is_ascii_control()))
}
