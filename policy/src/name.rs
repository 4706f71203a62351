//! DNS names, and the patterns that rules have for them: one matcher for peers by name, server names and look-ups.
//!
//! | pattern | written as | matches |
//! |---|---|---|
//! | [`NamePattern::Name`] | `api.example.org` | this name |
//! | [`NamePattern::Below`] | `*.example.org` in `domainNames` and `serverNames` | one label or more before `.example.org` |
//! | [`NamePattern::Glob`] | `api-*.example.org` in `matchPattern` | `*` is any part of one label, none included; no label is empty |
//! | | `*.example.org` in `matchPattern` | one label before `.example.org` |
//! | | `**.example.org` in `matchPattern` | one label or more before `.example.org` |
//! | | `*` in `matchPattern` | every name, the root too |
//!
//! Patterns and names are compared in lower case and without a final dot ([`plain_name`]). Names of other alphabets are what the wire
//! has: A-labels (`xn--...`), in patterns as in names.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Which names a rule means. In lower case, without a final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NamePattern {
    /// Exactly this one.
    Name(Arc<str>),
    /// This many labels or more before `.example.org`: one.
    Below(Arc<str>),
    /// With `*` in labels, and perhaps `**.` in front; `*` alone is every name.
    Glob(Arc<str>),
}

impl NamePattern {
    /// From the way that ClusterNetworkPolicy writes it. Letter case and a final dot say nothing.
    pub fn new(written: &str) -> Self {
        let name = plain_name(written);
        match name.strip_prefix("*.") {
            Some(rest) => Self::Below(rest.into()),
            None => Self::Name(name.into()),
        }
    }

    /// From a `matchPattern`. Letter case and a final dot say nothing.
    pub fn glob(written: &str) -> Self {
        let pattern = plain_name(written);
        if pattern.contains('*') { Self::Glob(pattern.into()) } else { Self::Name(pattern.into()) }
    }

    /// `name` is in lower case, without a final dot, and a dot in it always stands between two labels.
    ///
    /// A label may hold any byte, a dot too, and then its presentation has a backslash (RFC 1035 section 5.1). Taken apart at its dots,
    /// such a name would be another, so no pattern matches it but that of every name.
    pub fn matches(&self, name: &str) -> bool {
        if let Self::Glob(pattern) = self
            && **pattern == *"*"
        {
            return true;
        }
        if name.contains('\\') {
            return false;
        }
        match self {
            Self::Name(wanted) => **wanted == *name,
            Self::Below(wanted) => {
                name.strip_suffix(&**wanted).and_then(|rest| rest.strip_suffix('.')).is_some_and(|labels| !labels.is_empty())
            }
            Self::Glob(pattern) => glob_matches(pattern, name),
        }
    }

    /// Whether `name` is a name that this pattern matches with further labels behind it, as resolvers make it with their search lists:
    /// `api.github.com.production.svc.cluster.local` for `api.github.com`. The pattern of every name has none: it matches them all.
    ///
    /// `name` is as for [`matches`](Self::matches). At most the product of both lengths is looked at.
    pub fn is_prefix_of(&self, name: &str) -> bool {
        // No pattern matches a name with a backslash, so the matched part ends before the first.
        let name = name.split_once('\\').map_or(name, |(before, _)| before);
        match self {
            Self::Name(wanted) => name.strip_prefix(&**wanted).is_some_and(|rest| rest.starts_with('.')),
            Self::Below(wanted) => {
                let first = name.chars().next().map_or(0, char::len_utf8);
                name[first..].contains(&format!(".{wanted}."))
            }
            Self::Glob(pattern) if **pattern == *"*" => false,
            Self::Glob(pattern) => match pattern.strip_prefix("**.") {
                None => labels_end(name, pattern).is_some_and(|end| glob_matches(pattern, &name[..end])),
                Some(rest) => name
                    .match_indices('.')
                    .take_while(|(dot, _)| !name[..*dot].ends_with('.') && *dot > 0)
                    .map(|(dot, _)| &name[dot + 1..])
                    .any(|behind| labels_end(behind, rest).is_some_and(|end| glob_matches(rest, &behind[..end]))),
            },
        }
    }
}

impl std::fmt::Display for NamePattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(name) | Self::Glob(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
        }
    }
}

/// A DNS name as it is compared: in lower case, without a final dot.
pub fn plain_name(written: &str) -> String {
    written.strip_suffix('.').unwrap_or(written).to_ascii_lowercase()
}

/// Whether an address can be a server's on the Internet: none that is private, shared, of the link, of the host itself, of a group, or
/// reserved. IPv6 that carries an IPv4 address (mapped, 6to4, NAT64) is what that address is.
pub fn is_outside(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            let shared = a == 100 && b & 0xc0 == 64;
            let protocols = (a, b, c) == (192, 0, 0);
            let benchmarking = a == 198 && b & 0xfe == 18;
            !(a == 0
                || a >= 224
                || ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || shared
                || protocols
                || benchmarking)
        }
        IpAddr::V6(ip) => {
            let [a, b, c, d, e, f, g, h] = ip.segments();
            let embedded = |high: u16, low: u16| {
                let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
                is_outside(IpAddr::from([a, b, c, d]))
            };
            match [a, b, c, d, e, f] {
                [0, 0, 0, 0, 0, 0xffff] | [0x64, 0xff9b, 0, 0, 0, 0] => embedded(g, h),
                [0x2002, high, low, ..] => embedded(high, low),
                // All that is given out is in 2000::/3.
                _ => a & 0xe000 == 0x2000,
            }
        }
    }
}

/// Where as many labels of `name` end as `pattern` has, and another one follows.
fn labels_end(name: &str, pattern: &str) -> Option<usize> {
    let dots = pattern.bytes().filter(|byte| *byte == b'.').count();
    name.match_indices('.').nth(dots).map(|(end, _)| end)
}

/// Label by label, from the last one to the first.
fn glob_matches(pattern: &str, name: &str) -> bool {
    let (any_before, pattern) = match pattern.strip_prefix("**.") {
        Some(rest) => (true, rest),
        None => (false, pattern),
    };
    let mut labels = name.rsplit('.');
    for wanted in pattern.rsplit('.') {
        if !labels.next().is_some_and(|label| !label.is_empty() && label_matches(wanted.as_bytes(), label.as_bytes())) {
            return false;
        }
    }
    let mut left = labels.peekable();
    left.peek().is_some() == any_before && left.all(|label| !label.is_empty())
}

/// `*` stands for any number of bytes. At most the product of both lengths is looked at.
fn label_matches(pattern: &[u8], label: &[u8]) -> bool {
    let (mut at, mut place) = (0, 0);
    // The last `*`, and the first byte that it doesn't stand for yet.
    let mut star: Option<(usize, usize)> = None;
    while place < label.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, place));
                at += 1;
            }
            (Some(wanted), _) if *wanted == label[place] => {
                at += 1;
                place += 1;
            }
            (_, Some((last, until))) => {
                star = Some((last, until + 1));
                at = last + 1;
                place = until + 1;
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_by_label() {
        let rows = [
            ("api.github.com", "api.github.com", true),
            ("API.GitHub.com.", "api.github.com", true),
            ("api.github.com", "xapi.github.com", false),
            ("api.github.com", "api.github.com.evil.example", false),
            ("*.amazonaws.com", "s3.amazonaws.com", true),
            ("*.amazonaws.com", "eu.s3.amazonaws.com", false),
            ("*.amazonaws.com", "amazonaws.com", false),
            ("*.amazonaws.com", ".amazonaws.com", false),
            ("*.amazonaws.com", "xamazonaws.com", false),
            ("**.amazonaws.com", "s3.amazonaws.com", true),
            ("**.amazonaws.com", "a.eu.s3.amazonaws.com", true),
            ("**.amazonaws.com", "amazonaws.com", false),
            ("**.amazonaws.com", ".amazonaws.com", false),
            ("**.amazonaws.com", "a..amazonaws.com", false),
            ("**.amazonaws.com", "s3.amazonaws.com.evil.example", false),
            ("**.*.example.org", "b.example.org", false),
            ("**.*.example.org", "a.b.example.org", true),
            ("api-*.example.org", "api-eu.example.org", true),
            ("api-*.example.org", "api-.example.org", true),
            ("api-*.example.org", "api.example.org", false),
            ("api-*.example.org", "api-eu.west.example.org", false),
            ("*-*.example.org", "a-b-c.example.org", true),
            ("*a*b*.example.org", "xxaxxbxx.example.org", true),
            ("*a*b*.example.org", "xxbxxaxx.example.org", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.b.c", false),
            ("*", "com", true),
            ("*", "a.b.c", true),
            ("*", "", true),
            ("*.*", "a.b", true),
            ("*.*", "a", false),
            // The label is `x.example`, below `org`.
            ("**.example.org", "x\\.example.org", false),
            ("*.example.org", "x\\.example.org", false),
            ("*", "x\\.example.org", true),
        ];
        for (pattern, name, want) in rows {
            assert_eq!(NamePattern::glob(pattern).matches(name), want, "{pattern} and {name}");
        }
        let below = NamePattern::new("*.example.org");
        for (name, want) in
            [("a.example.org", true), ("a.b.example.org", true), ("example.org", false), ("x\\.example.org", false)]
        {
            assert_eq!(below.matches(name), want, "{below} and {name}");
        }
    }

    #[test]
    fn a_search_list_makes_longer_names_of_allowed_ones() {
        let rows = [
            ("api.github.com", "api.github.com.production.svc.cluster.local", true),
            ("api.github.com", "api.github.com.lan", true),
            ("api.github.com", "api.github.com", false),
            ("api.github.com", "api.github.community.lan", false),
            ("api.github.com", "x.api.github.com.lan", false),
            ("*.example.org", "x.example.org.cluster.local", true),
            ("*.example.org", "x.example.org", false),
            ("*.example.org", "example.org.cluster.local", false),
            ("*.example.org", "x.y.example.org.cluster.local", false),
            ("**.example.org", "x.y.example.org.cluster.local", true),
            ("**.example.org", "x.example.org.example.org", true),
            ("**.example.org", "example.org.lan", false),
            ("**.example.org", "x..example.org.lan", false),
            ("**.*.example.org", "x.example.org.lan", false),
            ("**.*.example.org", "y.x.example.org.lan", true),
            ("api-*.example.org", "api-eu.example.org.lan", true),
            ("*", "a.b", false),
            ("*.*", "a.b.c", true),
            ("", "a.b", false),
            // A label `foo.bar` behind the name, and one that ends with it.
            ("api.github.com", "api.github.com.foo\\.bar", true),
            ("api.github.com", "api.github.com\\.foo.bar", false),
            ("**.com", "a\\.b.com.lan", false),
        ];
        for (pattern, name, want) in rows {
            assert_eq!(NamePattern::glob(pattern).is_prefix_of(name), want, "{pattern} and {name}");
        }
        let below = NamePattern::new("*.example.org");
        for (name, want) in [
            ("x.example.org.cluster.local", true),
            ("x.y.example.org.cluster.local", true),
            ("example.org.cluster.local", false),
            (".example.org.cluster.local", false),
            ("x.example.org", false),
            ("x\\.example.org.lan", false),
        ] {
            assert_eq!(below.is_prefix_of(name), want, "{below} and {name}");
        }
    }

    #[test]
    fn addresses_of_the_inside_are_told_apart() {
        let outside = ["140.82.112.3", "1.1.1.1", "192.0.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1", "64:ff9b::8c52:7003"];
        let inside = [
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "100.127.0.1",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "192.0.0.8",
            "198.18.0.1",
            "198.19.255.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "fc00::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:a00:1::1",
            "64:ff9b:1::1",
        ];
        for (addresses, want) in [(&outside[..], true), (&inside[..], false)] {
            for address in addresses {
                assert_eq!(is_outside(address.parse().unwrap()), want, "{address}");
            }
        }
    }

    /// Written for being read: all ways are tried.
    fn naive(pattern: &[char], label: &[char]) -> bool {
        match pattern {
            [] => label.is_empty(),
            ['*', rest @ ..] => (0..=label.len()).any(|taken| naive(rest, &label[taken..])),
            [first, rest @ ..] => label.first() == Some(first) && naive(rest, &label[1..]),
        }
    }

    fn naive_labels(pattern: &[&str], name: &[&str]) -> bool {
        let characters = |text: &str| text.chars().collect::<Vec<char>>();
        match (pattern, name) {
            ([], []) => true,
            (["**", rest @ ..], _) => (1..=name.len()).any(|taken| naive_labels(rest, &name[taken..])),
            ([wanted, rest @ ..], [label, others @ ..]) => {
                naive(&characters(wanted), &characters(label)) && naive_labels(rest, others)
            }
            _ => false,
        }
    }

    fn naive_prefix(pattern: &NamePattern, name: &str) -> bool {
        let every = NamePattern::Glob("*".into());
        *pattern != every && name.match_indices('.').any(|(dot, _)| pattern.matches(&name[..dot]))
    }

    proptest! {
        #[test]
        fn a_label_is_matched_as_by_trying_every_way(pattern in "[ab*]{1,8}", label in "[ab]{1,10}") {
            let characters = |text: &str| text.chars().collect::<Vec<char>>();
            prop_assert_eq!(label_matches(pattern.as_bytes(), label.as_bytes()), naive(&characters(&pattern), &characters(&label)));
        }

        #[test]
        fn a_name_is_matched_as_by_trying_every_way(
            deep in any::<bool>(),
            pattern in prop::collection::vec("[ab*]{1,3}", 1..4),
            name in prop::collection::vec("[ab]{1,3}", 1..6),
        ) {
            prop_assume!(pattern.iter().all(|label| !label.contains("**")));
            prop_assume!(deep || pattern != ["*"]);
            let mut labels: Vec<&str> = pattern.iter().map(String::as_str).collect();
            if deep {
                labels.insert(0, "**");
            }
            let written = NamePattern::glob(&labels.join("."));
            let names: Vec<&str> = name.iter().map(String::as_str).collect();
            prop_assert_eq!(written.matches(&name.join(".")), naive_labels(&labels, &names), "{}", written);
        }

        #[test]
        fn case_and_a_final_dot_say_nothing(pattern in "[a-c*]{1,3}(\\.[a-c*]{1,3}){0,2}", name in "[a-c]{1,3}(\\.[a-c]{1,3}){0,2}") {
            let matches = |pattern: &str, name: &str| NamePattern::glob(pattern).matches(&plain_name(name));
            let wanted = matches(&pattern, &name);
            prop_assert_eq!(matches(&format!("{}.", pattern.to_uppercase()), &format!("{}.", name.to_uppercase())), wanted);
        }

        #[test]
        fn any_text_has_an_answer(pattern in any::<String>(), name in any::<String>()) {
            for pattern in [NamePattern::glob(&pattern), NamePattern::new(&pattern)] {
                prop_assert_eq!(pattern.is_prefix_of(&name), naive_prefix(&pattern, &name), "{:?}", pattern);
            }
        }

        #[test]
        fn a_prefix_is_found_as_by_trying_every_one(
            pattern in "(\\*\\*\\.)?[ab*]{0,2}(\\.[ab*]{0,2}){0,3}",
            name in "[ab\\\\]{0,2}(\\.[ab]{0,2}){0,7}",
        ) {
            for pattern in [NamePattern::glob(&pattern), NamePattern::new(&pattern)] {
                prop_assert_eq!(pattern.is_prefix_of(&name), naive_prefix(&pattern, &name), "{:?}", pattern);
            }
        }

        /// What makes a name longer in front never makes an exact pattern match; behind, none at all but that of every name.
        #[test]
        fn a_suffix_behind_an_allowed_name_is_another_name(name in "[a-c]{1,3}(\\.[a-c]{1,3}){0,2}", suffix in "[d-f]{1,3}") {
            let longer = format!("{name}.{suffix}");
            prop_assert!(NamePattern::glob(&name).matches(&name));
            prop_assert!(!NamePattern::glob(&name).matches(&longer));
            let deep = format!("**.{name}");
            prop_assert!(!NamePattern::glob(&deep).matches(&longer));
        }
    }
}
