use super::*;
use crate::source::{Action, L7};

fn canonical(raw: &str) -> String {
    match canonical_path(raw) {
        Ok(path) => {
            assert_eq!(canonical_path(&encode_path(&path)).as_deref(), Ok(&*path), "what is forwarded is what was judged");
            path.into_owned()
        }
        Err(error) => format!("refused: {error:?}"),
    }
}

#[test]
fn paths() {
    for (raw, expected) in [
        ("/", "/"),
        ("*", "*"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("/a.b/c..d/...", "/a.b/c..d/..."),
        ("//a///b", "/a/b"),
        ("/a/./b", "/a/b"),
        ("/a/.", "/a/"),
        ("/a/..", "/"),
        ("/a/../b", "/b"),
        ("/../../etc", "/etc"),
        ("/a/%2e%2e/b", "/b"),
        ("/a/%2E./b", "/b"),
        ("/a/..%2fb", "/b"),
        ("/a%2Fb", "/a/b"),
        ("/a\\b", "/a/b"),
        ("/a\\..\\b", "/b"),
        ("/a%5c..%5Cb", "/b"),
        ("/a/..;x=1/b", "/b"),
        ("/a;v=1/b;w", "/a/b"),
        ("/a;x%2f../b", "/a/b"),
        ("/a%3bx/b", "/a;x/b"),
        ("/.hidden", "/.hidden"),
        ("/caf%C3%A9", "/café"),
        ("/100%25", "/100%"),
        ("/a%20b", "/a b"),
        ("/%252e%252e/x", "refused: EncodedTwice"),
        ("/%252fx", "refused: EncodedTwice"),
        ("/%255cx", "refused: EncodedTwice"),
        ("/%2500", "refused: EncodedTwice"),
        ("/%25%32%66", "refused: EncodedTwice"),
        ("/a%00b", "refused: Control"),
        ("/a%0d%0ab", "refused: Control"),
        ("/a%", "refused: BadEscape"),
        ("/a%2", "refused: BadEscape"),
        ("/a%zz", "refused: BadEscape"),
        ("/a%+1", "refused: BadEscape"),
        ("/%ff", "refused: NotUtf8"),
        ("/a#b", "refused: Delimiter"),
        ("a", "refused: NotAbsolute"),
        ("", "refused: NotAbsolute"),
        ("http://h/a", "refused: NotAbsolute"),
    ] {
        assert_eq!(canonical(raw), expected, "{raw}");
    }
}

fn item(index: u16, method: &str, path: &str) -> HttpMatch {
    let pattern = |text: &str| (!text.is_empty()).then(|| Arc::from(text));
    HttpMatch { index, method: pattern(method), path: pattern(path).map(PathMatch::Regex), ..HttpMatch::default() }
}

fn first(items: &[HttpMatch], method: &str, path: &str) -> Option<u16> {
    let l7 = L7::Http(items.to_vec());
    let index = HttpIndex::new([None, Some((&l7, Action::Allow))].into_iter());
    let request = HttpRequest::plain(method, path, "");
    let hits = index.hits(&request);
    assert!(hits.iter().all(|hit| hit.line == 1) && hits.len() < 2, "{hits:?}");
    hits.first().and_then(|hit| hit.item)
}

#[test]
fn items_match_as_a_whole_and_the_first_is_named() {
    let items = [
        item(0, "GET", "/api/.*"),
        item(2, "POST|PUT", "/api/submit"),
        item(3, "[A-Z]+", "/v[0-9]+/x(y|z)?"),
        item(5, "", "/open"),
    ];
    for (method, path, expected) in [
        ("GET", "/api/users", Some(0)),
        ("GET", "/api/", Some(0)),
        ("GET", "/api", None),
        ("GET", "/x/api/users", None),
        ("get", "/api/users", None),
        ("GETT", "/api/users", None),
        ("POST", "/api/submit", Some(2)),
        ("PUT", "/api/submit", Some(2)),
        ("POST", "/api/submit/", None),
        ("DELETE", "/v12/xz", Some(3)),
        ("DELETE", "/v12/xyz", None),
        ("delete", "/v12/xz", None),
        ("ANY", "/open", Some(5)),
    ] {
        assert_eq!(first(&items, method, path), expected, "{method} {path}");
    }
}

#[test]
fn alternatives_stay_inside_the_whole_match() {
    assert_eq!(first(&[item(0, "", "/a|/b.*c")], "GET", "/a/evil"), None);
    assert_eq!(first(&[item(0, "", "/a|/b.*c")], "GET", "/a"), Some(0));
    assert_eq!(first(&[item(0, "", "(?i)/API")], "GET", "/api"), Some(0));
    assert_eq!(first(&[item(0, "", "/x?y*")], "GET", "/"), Some(0));
    assert_eq!(first(&[item(0, "", "/(é|è)[0-9]")], "GET", "/è1"), Some(0));
    assert_eq!(first(&[item(0, "", "^/a[0-9]$")], "GET", "/a1"), Some(0));
}

#[test]
fn many_large_patterns_all_work() {
    let items: Vec<_> = (0..200).map(|n| item(n, "", &format!("/p{n}/[a-z]{{1,60}}/[0-9]{{1,60}}"))).collect();
    assert_eq!(first(&items, "GET", "/p0/abc/12"), Some(0));
    assert_eq!(first(&items, "GET", "/p199/abc/12"), Some(199));
    assert_eq!(first(&items, "GET", "/p199/abc/x"), None);
}

#[test]
fn patterns_that_may_not_stand_in_a_rule() {
    assert_eq!(check_pattern("/api/.*"), Ok(()));
    assert_eq!(check_pattern("/v[0-9]+/(users|orders)/[^/]+"), Ok(()));
    assert!(matches!(check_pattern("/a(b"), Err(PatternError::Syntax(_))));
    assert!(matches!(check_pattern("a)|(b"), Err(PatternError::Syntax(_))));
    assert!(matches!(check_pattern("/a(?=b)"), Err(PatternError::Syntax(_))));
    assert_eq!(check_pattern("(.{1,1000}){1,1000}"), Err(PatternError::TooLarge));
    assert_eq!(check_pattern(&"a".repeat(10 << 20)), Err(PatternError::TooLong { length: 10 << 20 }));
}

/// Whether one item of an allow and of a deny matches a request with these header lines and this query.
fn both(item: HttpMatch, lines: &[(&str, &[u8])], query: Option<&str>) -> (bool, bool) {
    let l7 = L7::Http(vec![item]);
    let fields = FieldLines(lines.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect());
    let request = HttpRequest { query, fields: &fields, ..HttpRequest::plain("GET", "/", "host") };
    let matches = |action| !HttpIndex::new([Some((&l7, action))].into_iter()).hits(&request).is_empty();
    (matches(Action::Allow), matches(Action::Deny))
}

fn condition(name: &str, test: Test, not: bool) -> Condition {
    Condition { name: name.into(), test, not }
}

/// A test, the values of a header's lines, and what follows.
type Row<'a> = (&'a Test, &'a [&'a [u8]], (bool, bool));

/// What is certain counts in an allow and in a deny alike; what hangs on the server, in a deny alone.
const CERTAIN: (bool, bool) = (true, true);
const UNKNOWN: (bool, bool) = (false, true);
const NEVER: (bool, bool) = (false, false);

#[test]
fn a_header_that_can_be_read_in_two_ways_allows_nothing_and_is_denied() {
    let (exact, regex) = (Test::Exact("blue".into()), Test::Regex("blue|red".into()));
    let list = Test::Regex("[a-z, ]+".into());
    let rows: [Row<'_>; 14] = [
        (&exact, &[], NEVER),
        (&exact, &[b"blue"], CERTAIN),
        (&exact, &[b" blue\t"], CERTAIN),
        (&exact, &[b"Blue"], NEVER),
        (&exact, &[b"blue", b"red"], UNKNOWN),
        (&exact, &[b"red", b"blue"], UNKNOWN),
        (&exact, &[b"blue", b"blue"], UNKNOWN),
        (&exact, &[b"red, blue"], UNKNOWN),
        (&exact, &[b"red,green", b"pink"], NEVER),
        (&exact, &[b"\xff"], UNKNOWN),
        (&exact, &[b"blue", b"\xff"], UNKNOWN),
        (&regex, &[b"blue", b"red"], UNKNOWN),
        (&list, &[b"blue", b"red"], CERTAIN),
        (&list, &[b"blue", b"RED"], UNKNOWN),
    ];
    for (test, values, expected) in rows {
        let lines: Vec<(&str, &[u8])> = values.iter().map(|value| ("X-Team", *value)).collect();
        let item = |not| HttpMatch { headers: vec![condition("x-team", test.clone(), not)], ..HttpMatch::default() };
        assert_eq!(both(item(false), &lines, None), expected, "{test:?} {values:?}");
        let turned = match expected {
            CERTAIN => NEVER,
            NEVER => CERTAIN,
            other => other,
        };
        assert_eq!(both(item(true), &lines, None), turned, "not {test:?} {values:?}");
    }
}

#[test]
fn a_query_that_can_be_read_in_two_ways_allows_nothing_and_is_denied() {
    let exact = |text: &str| Test::Exact(text.into());
    let rows = [
        (exact("1"), None, NEVER),
        (exact("1"), Some(""), NEVER),
        (exact("1"), Some("p=1"), CERTAIN),
        (exact("1"), Some("%70=%31&q"), CERTAIN),
        (exact("1"), Some("p=1&p=1"), UNKNOWN),
        (exact("1"), Some("p=1&p=2"), UNKNOWN),
        (exact("1"), Some("p=1,2"), NEVER),
        (exact("1"), Some("q=1;p=1"), UNKNOWN),
        (exact("1;q"), Some("p=1;q"), UNKNOWN),
        (exact("1"), Some("q=a;b&p=1"), CERTAIN),
        (exact("a b"), Some("p=a+b"), UNKNOWN),
        (exact("a+b"), Some("p=a+b"), UNKNOWN),
        (exact("a+b"), Some("p=a%2Bb"), CERTAIN),
        (exact("1"), Some("p=%zz"), UNKNOWN),
        (exact("1"), Some("p=%ff"), UNKNOWN),
        (exact("1"), Some("q=%ff"), NEVER),
        (Test::Regex(".*admin.*".into()), Some("p=%0aadmin"), UNKNOWN),
        (exact("1"), Some("p=1%00"), UNKNOWN),
        (exact("1"), Some("%ff=2"), UNKNOWN),
        (exact("1"), Some("p=1&%f=2"), UNKNOWN),
        (exact(""), Some("p"), CERTAIN),
        (exact("%31"), Some("p=%2531"), CERTAIN),
        (Test::Present, Some("p=%ff"), CERTAIN),
        (Test::Present, Some("p&%ff"), CERTAIN),
        (Test::Present, Some("q&%ff"), UNKNOWN),
        (Test::Present, Some("q;p"), UNKNOWN),
        (Test::Present, Some("P=1"), NEVER),
        (Test::Absent, Some("P=1"), CERTAIN),
        (Test::Absent, Some("p"), NEVER),
        (Test::Absent, Some("q+p"), CERTAIN),
    ];
    for (test, query, expected) in rows {
        let item = HttpMatch { query: vec![condition("p", test.clone(), false)], ..HttpMatch::default() };
        assert_eq!(both(item, &[], query), expected, "{test:?} {query:?}");
    }
}

#[test]
fn hosts_match_whatever_their_letters() {
    let matches = |pattern: &str, host: &str| {
        let l7 = L7::Http(vec![HttpMatch { host: Some(pattern.into()), ..HttpMatch::default() }]);
        let request = HttpRequest::plain("GET", "/", host);
        [Action::Allow, Action::Deny].map(|action| !HttpIndex::new([Some((&l7, action))].into_iter()).hits(&request).is_empty())
    };
    for (pattern, host, expected) in [
        ("API\\.example\\.com", "api.example.com", [true, true]),
        ("api|web", "web.", [true, true]),
        ("api|web", "webs", [false, false]),
        (".*", "", [false, true]),
        ("\\[::1\\]", "[::1]", [true, true]),
    ] {
        assert_eq!(matches(pattern, host), expected, "{pattern} {host}");
    }
    assert_eq!(check_host_pattern("a.b"), Ok(()));
    let long = "a".repeat(253);
    assert_eq!(check_host_pattern(&long), Ok(()));
    assert_eq!(matches(&long, &long), [true, true]);
    // What would be too long or too large for letters of either case is refused, not left unmatched.
    assert!(matches!(
        check_host_pattern(&"a".repeat(PATTERN_MAX_BYTES)),
        Err(PatternError::TooLong { .. } | PatternError::TooLarge)
    ));
}

#[test]
fn what_is_a_grpc_call() {
    for (method, path, http2, types, call) in [
        ("POST", "/a.B/Get", true, &["application/grpc"][..], Some(("a.B", "Get"))),
        ("POST", "/a.B/Get", true, &["APPLICATION/GRPC+json;x=y"], Some(("a.B", "Get"))),
        ("POST", "/a.B/Get", false, &["application/grpc"], None),
        ("GET", "/a.B/Get", true, &["application/grpc"], None),
        ("POST", "/a.B", true, &["application/grpc"], None),
        ("POST", "/a.B/", true, &["application/grpc"], None),
        ("POST", "//Get", true, &["application/grpc"], None),
        ("POST", "/a.B/Get/x", true, &["application/grpc"], None),
        ("POST", "/a.B/Get", true, &[], None),
        ("POST", "/a.B/Get", true, &["application/grpc", "text/plain"], None),
        ("POST", "/a.B/Get", true, &["application/grpcx"], None),
        ("POST", "/a.B/Get", true, &["application/grpc+"], None),
        ("POST", "/a.B/Get", true, &["application/grpc-web+proto"], None),
        ("POST", "/a.B/Get", true, &["application/grpc, text/plain"], None),
    ] {
        let fields = FieldLines(types.iter().map(|value| ("Content-Type".to_owned(), value.as_bytes().to_vec())).collect());
        let request = HttpRequest { is_http2: http2, fields: &fields, ..HttpRequest::plain(method, path, "") };
        assert_eq!(request.grpc_call(), call, "{method} {path} {http2} {types:?}");
    }
}
