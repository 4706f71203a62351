//! Names as `fqdns` and `dns` have them: `matchName`, and `matchPattern` with wildcards.
//!
//! | written | matches |
//! |---|---|
//! | `matchName: api.example.org` | this name |
//! | `matchPattern: "*.example.org"` | one label before it; `*` stands for any part of a label |
//! | `matchPattern: "**.example.org"` | one label or more before it |
//! | `matchPattern: "*"` | every name |
//!
//! Letter case and a final dot say nothing. A name in another alphabet is what it is on the wire: its A-labels, by UTS 46.

use std::net::IpAddr;

use idna::AsciiDenyList;
use sluice_policy::name::NamePattern;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, text};
use crate::value::{Map, Value, quoted};

/// The fields that give a name.
pub(crate) const FIELDS: [&str; 2] = ["matchName", "matchPattern"];

/// The longest name, without its final dot (RFC 1035 section 3.1).
pub(crate) const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// The one name or pattern that `map` gives.
pub(crate) fn pattern(map: &Map, at: At<'_>, report: &mut Report) -> Reading<NamePattern> {
    match FIELDS.map(|field| map.get(field)) {
        [Some(value), None] => match_name(value, at.field("matchName", value.line), report),
        [None, Some(value)] => match_pattern(value, at.field("matchPattern", value.line), report),
        _ => {
            report.error(at, "not exactly one of matchName and matchPattern", "name one of them");
            Err(Unreadable)
        }
    }
}

fn match_name(value: &Value, at: At<'_>, report: &mut Report) -> Reading<NamePattern> {
    let written = text(value, at, report)?;
    let remedy = if written.parse::<IpAddr>().is_ok() {
        "an address is not looked up: give it in ipBlock"
    } else if written.contains('*') {
        "write it as matchPattern"
    } else if let Some(name) = on_the_wire(written) {
        return Ok(NamePattern::Name(name.into()));
    } else {
        "write it like api.example.org"
    };
    report.error(at, format!("{} is no name", quoted(written)), remedy);
    Err(Unreadable)
}

fn match_pattern(value: &Value, at: At<'_>, report: &mut Report) -> Reading<NamePattern> {
    let written = text(value, at, report)?;
    let whole = written.strip_suffix('.').unwrap_or(written);
    let below = whole.strip_prefix("**.");
    let remedy = if whole == "**" {
        "write * for every name"
    } else if below.unwrap_or(whole).contains("**") {
        "** stands only in front, before a dot"
    } else if written.parse::<IpAddr>().is_ok() {
        "an address is not looked up: give it in ipBlock"
    } else if whole.split('.').any(|label| label.contains('*') && !label.is_ascii()) {
        "beside * write only letters that stand in names on the wire: ASCII"
    } else if let Some(pattern) = on_the_wire(below.unwrap_or(whole)) {
        let before = if below.is_some() { "**." } else { "" };
        return Ok(NamePattern::glob(&format!("{before}{pattern}")));
    } else {
        "write it like *.example.org, or **.example.org for all names below"
    };
    report.error(at, format!("{} is no pattern of names", quoted(written)), remedy);
    Err(Unreadable)
}

/// The name in lower case and in A-labels, without a final dot; `None`: no name can be so. `*` passes as a letter.
fn on_the_wire(written: &str) -> Option<String> {
    let labels: Option<Vec<String>> = written.strip_suffix('.').unwrap_or(written).split('.').map(label).collect();
    labels.map(|labels| labels.join(".")).filter(|name| name.len() <= MAX_NAME)
}

fn label(written: &str) -> Option<String> {
    let label = match written.is_ascii() {
        true => written.to_ascii_lowercase(),
        false => idna::domain_to_ascii_cow(written.as_bytes(), AsciiDenyList::EMPTY).ok()?.into_owned(),
    };
    // Some letters become ones that end a label.
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'*');
    let sound = !label.is_empty() && label.len() <= MAX_LABEL && label.bytes().all(fits);
    (sound && !label.starts_with('-') && !label.ends_with('-')).then_some(label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::Node;

    fn read(field: &str, written: &str) -> Option<String> {
        let value = Value::new(0, Node::String(written.into()));
        let (at, mut report) = (At::root(0), Report::default());
        let read = match field {
            "matchName" => match_name(&value, at, &mut report),
            _ => match_pattern(&value, at, &mut report),
        };
        assert_eq!(read.is_err(), !report.finish(|| "".into()).is_empty());
        read.ok().map(|pattern| pattern.to_string())
    }

    #[test]
    fn names() {
        let rows = [
            ("api.github.com", Some("api.github.com")),
            ("API.GitHub.com.", Some("api.github.com")),
            ("b\u{fc}cher.example", Some("xn--bcher-kva.example")),
            ("B\u{dc}CHER.example", Some("xn--bcher-kva.example")),
            // Decomposed letters are the same name.
            ("bu\u{308}cher.example", Some("xn--bcher-kva.example")),
            ("xn--bcher-kva.example", Some("xn--bcher-kva.example")),
            ("stra\u{df}e.example", Some("xn--strae-oqa.example")),
            ("_acme-challenge.example.org", Some("_acme-challenge.example.org")),
            ("intranet", Some("intranet")),
            ("1.example", Some("1.example")),
            ("*.example.org", None),
            ("10.0.0.1", None),
            ("fd00::1", None),
            ("", None),
            (".", None),
            ("a..b", None),
            (".a", None),
            ("a.b..", None),
            ("-a.b", None),
            ("a-.b", None),
            ("a b.c", None),
            ("a/b.c", None),
            ("a\\.b", None),
            // A full stop of another script, and letters that name no host.
            ("a\u{3002}b\u{fc}", None),
            ("a\u{200d}b", None),
            (" \u{fc}.example", None),
        ];
        for (written, want) in rows {
            assert_eq!(read("matchName", written).as_deref(), want, "{written:?}");
        }
        assert!(read("matchName", &format!("{}.org", "a".repeat(63))).is_some());
        assert!(read("matchName", &format!("{}.org", "a".repeat(64))).is_none());
        assert!(read("matchName", &vec!["a".repeat(62); 5].join(".")).is_none());
    }

    #[test]
    fn patterns() {
        let rows = [
            ("*.amazonaws.com", Some("*.amazonaws.com")),
            ("**.Amazonaws.com.", Some("**.amazonaws.com")),
            ("api-*.example.org", Some("api-*.example.org")),
            ("*", Some("*")),
            ("*.*", Some("*.*")),
            ("**.*.example.org", Some("**.*.example.org")),
            ("api.example.org", Some("api.example.org")),
            ("*.b\u{fc}cher.example", Some("*.xn--bcher-kva.example")),
            ("**", None),
            ("**.", None),
            ("a.**.b", None),
            ("a**.b", None),
            ("**.**.b", None),
            ("***.b", None),
            ("*b\u{fc}.example", None),
            ("*..b", None),
            ("*.-b", None),
            ("10.0.0.1", None),
            ("", None),
        ];
        for (written, want) in rows {
            assert_eq!(read("matchPattern", written).as_deref(), want, "{written:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_can_be_a_name_on_the_wire(written in any::<String>()) {
            for field in FIELDS {
                if let Some(read) = read(field, &written) {
                    prop_assert!(read.is_ascii() && !read.contains(|c: char| c.is_ascii_uppercase() || c == '\\'));
                    prop_assert_eq!(self::read("matchPattern", &read), Some(read));
                }
            }
        }

        #[test]
        fn a_u_label_is_read_as_its_a_label(label in "[a-z\u{e0}-\u{f6}\u{3b1}-\u{3c1}]{1,8}") {
            let once = read("matchName", &format!("{label}.example"));
            if let Some(once) = &once {
                prop_assert_eq!(&read("matchName", once), &Some(once.clone()));
                prop_assert_eq!(&read("matchName", &format!("{}.EXAMPLE.", label.to_uppercase())), &Some(once.clone()));
            }
        }
    }
}
