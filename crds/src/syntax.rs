//! How names are spelt: labels, port names and object names, as the API server checks them.

/// A label's value, or a label key's name: at most 63 characters, letters, digits, `-`, `_` and `.`, a letter or digit at both
/// ends.
fn is_qualified_part(s: &str) -> bool {
    let bytes = s.as_bytes();
    let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    bytes.len() <= 63
        && bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(inner)
}

/// A label's value: empty, or a qualified part.
pub(crate) fn is_label_value(s: &str) -> bool {
    s.is_empty() || is_qualified_part(s)
}

/// A label's key: a name, or `prefix/name` whose prefix is a DNS subdomain.
pub(crate) fn is_label_key(s: &str) -> bool {
    match s.split_once('/') {
        None => is_qualified_part(s),
        Some((prefix, name)) => is_subdomain(prefix) && is_qualified_part(name),
    }
}

/// RFC 1123 label: at most 63 lower-case letters, digits and `-`, none of these at an end. Names of namespaces.
pub(crate) fn is_dns_label(s: &str) -> bool {
    let bytes = s.as_bytes();
    let outer = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.len() <= 63
        && bytes.first().is_some_and(outer)
        && bytes.last().is_some_and(outer)
        && bytes.iter().all(|b| outer(b) || *b == b'-')
}

/// RFC 1123 subdomain: labels joined by dots, at most 253 characters, here (as in the API) with labels of any length. Names of
/// most objects.
pub(crate) fn is_subdomain(s: &str) -> bool {
    let outer = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |l: &str| {
        let bytes = l.as_bytes();
        bytes.first().is_some_and(outer) && bytes.last().is_some_and(outer) && bytes.iter().all(|b| outer(b) || *b == b'-')
    };
    s.len() <= 253 && s.split('.').all(label)
}

/// A port's name (RFC 6335 section 5.1, lower case): 1 to 15 letters, digits and `-`, a letter among them, no `-` at an end or
/// twice in a row.
pub(crate) fn is_port_name(s: &str) -> bool {
    (1..=15).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && s.bytes().any(|b| b.is_ascii_lowercase())
        && !s.starts_with('-')
        && !s.ends_with('-')
        && !s.contains("--")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_spelt_as_the_api_server_wants() {
        let long = "a".repeat(64);
        type Check = fn(&str) -> bool;
        let rows: [(&str, Check, bool); 29] = [
            ("", is_label_value, true),
            ("web", is_label_value, true),
            ("Web_1.2-x", is_label_value, true),
            ("-web", is_label_value, false),
            ("web.", is_label_value, false),
            ("a b", is_label_value, false),
            ("ä", is_label_value, false),
            (&long, is_label_value, false),
            ("app", is_label_key, true),
            ("app.kubernetes.io/name", is_label_key, true),
            ("", is_label_key, false),
            ("/name", is_label_key, false),
            ("App.io/name", is_label_key, false),
            ("a/b/c", is_label_key, false),
            ("a.io/", is_label_key, false),
            ("shop", is_dns_label, true),
            ("shop.eu", is_dns_label, false),
            ("Shop", is_dns_label, false),
            ("shop-", is_dns_label, false),
            ("shop.eu", is_subdomain, true),
            ("shop..eu", is_subdomain, false),
            ("", is_subdomain, false),
            ("http", is_port_name, true),
            ("h-2-c", is_port_name, true),
            ("8080", is_port_name, false),
            ("a--b", is_port_name, false),
            ("-a", is_port_name, false),
            ("HTTP", is_port_name, false),
            ("sixteen-letters-", is_port_name, false),
        ];
        for (text, check, want) in rows {
            assert_eq!(check(text), want, "{text:?}");
        }
    }
}
