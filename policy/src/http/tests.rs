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
