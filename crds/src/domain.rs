//! Domain names, as ClusterNetworkPolicy writes them.

use std::sync::Arc;

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, text};
use crate::value::{Value, quoted};

/// A name of at least two labels, or `*.` before a name: all names below it.
pub(crate) fn domain_name(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Arc<str>> {
    let written = text(value, at, report)?;
    if is_domain_name(written) {
        return Ok(written.clone());
    }
    let message = format!("{} is no domain name", quoted(written));
    report.error(at, message, "write it like api.example.org, or *.example.org for all names below; * stands only in front");
    Err(Unreadable)
}

fn is_domain_name(written: &str) -> bool {
    let least = if written.starts_with("*.") { 1 } else { 2 };
    is_name(written.strip_suffix('.').unwrap_or(written), least)
}

/// A name that a client of TLS may ask for, or `*.` before one; without a final dot (RFC 6066 section 3).
pub(crate) fn is_server_name(written: &str) -> bool {
    is_name(written, 1)
}

fn is_name(written: &str, least: usize) -> bool {
    let name = written.strip_prefix("*.").unwrap_or(written);
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let inner = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(*byte, b'-' | b'_');
        matches!(bytes, [first, .., last] if first.is_ascii_alphanumeric() && last.is_ascii_alphanumeric())
            && bytes.len() <= 63
            && bytes.iter().all(inner)
            || matches!(bytes, [one] if one.is_ascii_alphanumeric())
    };
    name.len() <= 253 && name.split('.').count() >= least && name.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_two_labels_and_a_star_only_in_front() {
        let good =
            ["example.org", "a.b.c", "*.example.org", "example.org.", "*.org", "xn--bcher-kva.example", "1.example", "a_b.org"];
        let bad = ["localhost", "www.*.org", "*", "*.", "", ".", "a..b", "-a.org", "a-.org", "**.a.org", "a.org/"];
        for name in good {
            assert!(is_domain_name(name), "{name}");
        }
        for name in bad {
            assert!(!is_domain_name(name), "{name}");
        }
    }
}
