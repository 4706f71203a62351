//! What rules ask of contents, and what is found in connections.

use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::{object, one_of, sometimes};
use crate::reference::Request;

const METHODS: [&str; 6] = ["GET", "P(OS|U)T", "GET|POST", ".*", "", "get"];
const PATHS: [&str; 8] = ["/api/.*", "/", "/api|/x", "/api/[0-9]+", ".*", "(?i)/API/7", "/a[.]B/Get", "(unclosed"];
const HOSTS: [&str; 6] = ["shop", "SHOP[.].*", "shop|s.*p", ".*", "(?-i)SHOP", "(unclosed"];

/// What `rules` of the worlds are asked about. Each is there for some condition, pattern or ambiguity below.
pub(crate) fn requests() -> &'static [Request] {
    static REQUESTS: LazyLock<Vec<Request>> = LazyLock::new(|| {
        let request = |method: &str, target: &str, host: &str, headers: &[(&str, &[u8])]| {
            let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query.to_owned())));
            let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
            Request { method: method.into(), path: path.into(), query, host: host.into(), http2: false, headers }
        };
        let over_http2 =
            |path: &str, headers: &[(&str, &[u8])]| Request { http2: true, ..request("POST", path, "shop", headers) };
        vec![
            request("GET", "/api/7", "shop", &[]),
            request("POST", "/", "", &[("X-Team", b"blue")]),
            request("PUT", "/x", "shop", &[("x-team", b"blue"), ("x-team", b"red")]),
            request("GET", "/apis", "shop.example.com.", &[("x-team", b"red, blue")]),
            request("DELETE", "/api/?page=2", "host", &[("x-team", b"blue"), ("x-team", b"blue")]),
            request("GET", "/api?page=2&page=x", "shop", &[("x-debug", b"\xff")]),
            request("GET", "/x?pa%67e=a+b;page=3", "shop", &[("x-debug", b"")]),
            request("GET", "/?%zz=1&page=7", "shop", &[("x-team", b"yellow")]),
            request("GET", "/api/7?page=%ff&page", "shop", &[]),
            request("GET", "/api/7?page=%0a2", "shop", &[]),
            over_http2("/a.B/Get", &[("content-type", b"application/grpc"), ("x-team", b"blue")]),
            over_http2("/a.B/Put", &[("content-type", b"Application/gRPC+proto; a=b"), ("x-team", b"red")]),
            over_http2("/a.B/Get", &[("content-type", b"application/grpc-web")]),
            request("POST", "/a.B/Get", "shop", &[("content-type", b"application/grpc")]),
        ]
    });
    &REQUESTS
}

/// What a rule asks of contents: nothing, one kind, or by mistake two.
pub(super) fn part() -> BoxedStrategy<Value> {
    prop_oneof![
        12 => Just(json!({})),
        20 => list(http()).prop_map(|items| json!({"http": items})),
        8 => list(grpc()).prop_map(|items| json!({"grpc": items})),
        8 => list(server_name()).prop_map(|names| json!({"tls": {"serverNames": names}})),
        1 => (list(http()), list(grpc())).prop_map(|(http, grpc)| json!({"http": http, "grpc": grpc})),
        6 => super::names::lookups(),
        1 => Just(json!({"dns": [{"matchPattern": "*"}], "http": [{}]})),
        1 => Just(json!({"dns": []})),
        1 => Just(json!({"http": []})),
        1 => Just(json!({"tls": {"serverNames": ["api.example.org"], "alpn": []}})),
    ]
    .boxed()
}

/// A rule with the fields of `part` too.
pub(super) fn joined(mut rule: Value, part: Value) -> Value {
    if let (Some(rule), Value::Object(part)) = (rule.as_object_mut(), part) {
        rule.extend(part);
    }
    rule
}

fn list(item: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    vec(item, 1..3).prop_map(Value::from).boxed()
}

fn http() -> BoxedStrategy<Value> {
    let path = prop_oneof![
        4 => one_of(&PATHS).prop_map(|path| json!({"path": path})),
        2 => one_of(&["/api", "/api/", "/", "/a.B", "/api/7/.."])
            .prop_map(|path| json!({"path": path, "pathType": "Prefix"})),
        2 => one_of(&["/api/7", "/x", "/api/", "//x"]).prop_map(|path| json!({"path": path, "pathType": "Exact"})),
        1 => Just(json!({"path": "/x", "pathType": "exact"})),
        4 => Just(json!({})),
    ];
    let rarely = |values: BoxedStrategy<Value>| prop_oneof![3 => Just(None), 1 => values.prop_map(Some)].boxed();
    let item = object(vec![
        ("method", sometimes(one_of(&METHODS))),
        ("host", rarely(one_of(&HOSTS))),
        ("headers", rarely(list(header()))),
        ("query", rarely(list(parameter()))),
        ("cookies", prop_oneof![30 => Just(None), 1 => Just(Some(json!([])))].boxed()),
    ]);
    (item, path).prop_map(|(item, path)| joined(item, path)).boxed()
}

fn header() -> BoxedStrategy<Value> {
    let sound = select(vec![
        json!({"name": "x-team", "exact": "blue"}),
        json!({"name": "X-Team", "regex": "b.*"}),
        json!({"name": "x-team", "regex": ".*blue.*"}),
        json!({"name": "x-team", "present": true}),
        json!({"name": "x-team", "absent": true}),
        json!({"name": "x-debug", "exact": ""}),
        json!({"name": "x-debug", "present": true}),
        json!({"name": "x-debug", "regex": ".*"}),
    ]);
    let broken = select(vec![
        json!({"name": "host", "exact": "shop"}),
        json!({"name": "x-team"}),
        json!({"name": "x-team", "exact": "blue", "absent": true}),
        json!({"name": "x-team", "regex": "(unclosed"}),
        json!({"name": "x-team", "exact": "blue", "Not": true}),
        json!({"name": "x-team", "absent": false}),
    ]);
    negated(prop_oneof![12 => sound, 1 => broken].boxed())
}

fn parameter() -> BoxedStrategy<Value> {
    let sound = select(vec![
        json!({"name": "page", "exact": "2"}),
        json!({"name": "page", "exact": "a b"}),
        json!({"name": "page", "exact": "a+b"}),
        json!({"name": "page", "regex": "[0-9]+"}),
        json!({"name": "page", "regex": "[0-9a-z+ ;=]*"}),
        json!({"name": "page", "present": true}),
        json!({"name": "page", "absent": true}),
    ]);
    negated(prop_oneof![12 => sound, 1 => Just(json!({"name": "", "exact": "2"}))].boxed())
}

fn negated(condition: BoxedStrategy<Value>) -> BoxedStrategy<Value> {
    let not = prop_oneof![3 => Just(json!({})), 1 => Just(json!({"not": true})), 1 => Just(json!({"not": false}))];
    (condition, not).prop_map(|(condition, not)| joined(condition, not)).boxed()
}

fn grpc() -> BoxedStrategy<Value> {
    object(vec![
        ("service", prop_oneof![9 => one_of(&["a.B", "a.B", "C", "a.*"]).prop_map(Some), 1 => Just(None)].boxed()),
        ("method", sometimes(one_of(&["Get", "Put", "*", "G.t"]))),
        ("metadata", prop_oneof![2 => Just(None), 1 => list(header()).prop_map(Some)].boxed()),
    ])
}

fn server_name() -> BoxedStrategy<Value> {
    one_of(&["api.example.org", "*.example.org", "*.org", "Example.org", "*.api.example.org", "10.0.0.1", "a..b"])
}
