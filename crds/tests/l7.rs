//! `http`, `grpc` and `tls` of a rule to what the engine knows, row by row, with what is said about them.

mod lowering;
mod words;

use words::{Row, check, sluice_policy};

fn rules(rows: &[Row]) {
    check(|rule| sluice_policy(&format!("{{ingress: [{rule}]}}")), "SluiceNetworkPolicy", rows);
}

#[test]
fn items_of_http() {
    rules(&[
        (
            "{http: [{method: GET, pathType: Exact, path: /a}, {pathType: Prefix, path: /a/}, {pathType: Regex, path: /a}]}",
            "{} in; ingress[0] * [TCP] http[0:GET =/a 1:* ^/a/ 2:* /a]",
            &[],
        ),
        ("{http: [{host: 'API\\.example\\.com'}]}", "{} in; ingress[0] * [TCP] http[0:* * host API\\.example\\.com]", &[]),
        (
            "{http: [{headers: [{name: X-Team, exact: blue}, {name: v, regex: 'v[0-9]+', not: true}, {name: a, present: true}]}]}",
            "{} in; ingress[0] * [TCP] http[0:* * headers[x-team=blue !v~v[0-9]+ +a]]",
            &[],
        ),
        (
            "{http: [{query: [{name: Page, regex: '[0-9]+'}, {name: x, absent: true, not: false}]}]}",
            "{} in; ingress[0] * [TCP] http[0:* * query[Page~[0-9]+ -x]]",
            &[],
        ),
        ("{http: [{headers: [], query: null}]}", "{} in; ingress[0] * [TCP] http[0:* *]", &[]),
        ("{http: [{pathType: Exact, path: '/a b/é/100%'}]}", "{} in; ingress[0] * [TCP] http[0:* =/a b/é/100%]", &[]),
        ("{http: [{pathType: Exact, path: '*', method: OPTIONS}]}", "{} in; ingress[0] * [TCP] http[0:OPTIONS =*]", &[]),
    ]);
}

#[test]
fn an_item_of_an_allow_that_cannot_be_read_matches_nothing() {
    const NONE: &str = "{} in; ingress[0] * [TCP] http[]";
    const PATH: &str = "spec.ingress[0].http[0].path";
    const TYPE: &str = "spec.ingress[0].http[0].pathType";
    const HEADER: &str = "spec.ingress[0].http[0].headers[0]";
    const NAME: &str = "spec.ingress[0].http[0].headers[0].name";
    const EXACT: &str = "spec.ingress[0].http[0].headers[0].exact";
    rules(&[
        ("{http: [{pathType: prefix, path: /a}]}", NONE, &[(TYPE, "\"prefix\" is no pathType")]),
        ("{http: [{pathType: Prefix}]}", NONE, &[(TYPE, "Prefix of no path")]),
        ("{http: [{pathType: Exact, path: a}]}", NONE, &[(PATH, "\"a\" is no path that a request can have")]),
        ("{http: [{pathType: Prefix, path: '*'}]}", NONE, &[(PATH, "\"*\" is no path")]),
        ("{http: [{pathType: Exact, path: /a/../b}]}", NONE, &[(PATH, "\"/a/../b\" is no path")]),
        ("{http: [{pathType: Prefix, path: //a}]}", NONE, &[(PATH, "\"//a\" is no path")]),
        ("{http: [{pathType: Exact, path: /caf%C3%A9}]}", NONE, &[(PATH, "\"/caf%C3%A9\" is no path")]),
        ("{http: [{pathType: Exact, path: '/a?b'}]}", NONE, &[(PATH, "\"/a?b\" is no path")]),
        ("{http: [{pathType: Exact, path: /a;v=1}]}", NONE, &[(PATH, "\"/a;v=1\" is no path")]),
        ("{http: [{pathType: Exact, path: '/%252f'}]}", NONE, &[(PATH, "\"/%252f\" is no path")]),
        ("{http: [{host: '('}]}", NONE, &[("spec.ingress[0].http[0].host", "\"(\" is not a regular expression")]),
        ("{http: [{headers: {a: b}}]}", NONE, &[("spec.ingress[0].http[0].headers", "a mapping where a list belongs")]),
        ("{http: [{headers: [{exact: a}]}]}", NONE, &[(HEADER, "a condition on no name")]),
        ("{http: [{headers: [{name: a}]}]}", NONE, &[(HEADER, "not exactly one test")]),
        ("{http: [{headers: [{name: a, exact: b, present: true}]}]}", NONE, &[(HEADER, "not exactly one test")]),
        (
            "{http: [{headers: [{name: a, present: false}]}]}",
            NONE,
            &[("spec.ingress[0].http[0].headers[0].present", "present: false")],
        ),
        (
            "{http: [{headers: [{name: a, absent: false}]}]}",
            NONE,
            &[("spec.ingress[0].http[0].headers[0].absent", "absent: false")],
        ),
        (
            "{http: [{headers: [{name: a, exact: b, Not: true}]}]}",
            NONE,
            &[("spec.ingress[0].http[0].headers[0].Not", "unknown field \"Not\"")],
        ),
        (
            "{http: [{headers: [{name: a, exact: b, not: 'true'}]}]}",
            NONE,
            &[("spec.ingress[0].http[0].headers[0].not", "the text \"true\" where true or false belongs")],
        ),
        ("{http: [{headers: [{name: a, exact: 5}]}]}", NONE, &[(EXACT, "the number 5 where text belongs")]),
        ("{http: [{headers: [{name: a, exact: ' b'}]}]}", NONE, &[(EXACT, "\" b\" is no value that a field can have")]),
        (
            "{http: [{headers: [{name: a, regex: '('}]}]}",
            NONE,
            &[("spec.ingress[0].http[0].headers[0].regex", "\"(\" is not a regular expression")],
        ),
        ("{http: [{headers: [{name: '', exact: b}]}]}", NONE, &[(NAME, "a name of 0 bytes")]),
        ("{http: [{headers: [{name: 'a b', exact: b}]}]}", NONE, &[(NAME, "\"a b\" is no name of a field to ask about")]),
        ("{http: [{headers: [{name: Host, exact: b}]}]}", NONE, &[(NAME, "\"Host\" is no name of a field to ask about")]),
        ("{http: [{headers: [{name: ':path', exact: b}]}]}", NONE, &[(NAME, "\":path\" is no name")]),
        ("{http: [{headers: [{name: Connection, exact: b}]}]}", NONE, &[(NAME, "\"Connection\" is no name")]),
        ("{http: [{query: [{name: '', exact: b}]}]}", NONE, &[("spec.ingress[0].http[0].query[0].name", "a name of 0 bytes")]),
        // Everything is said at once, and the other items stand.
        (
            "{http: [{path: '(', host: '(', headers: [{name: te, exact: 1}]}, {path: /b}]}",
            "{} in; ingress[0] * [TCP] http[1:* /b]",
            &[
                (PATH, "\"(\" is not a regular expression"),
                ("spec.ingress[0].http[0].host", "\"(\" is not a regular expression"),
                (NAME, "\"te\" is no name"),
                (EXACT, "the number 1 where text belongs"),
            ],
        ),
    ]);
}

#[test]
fn remedies_say_what_to_write() {
    let remedy = |item: &str| {
        let lowered = lowering::lowered(&sluice_policy(&format!("{{ingress: [{{http: [{item}]}}]}}")));
        lowered.diagnostics[0].remedy.clone()
    };
    assert_eq!(remedy("{headers: [{name: Host, exact: a}]}"), "ask for it in host");
    assert_eq!(remedy("{headers: [{name: ':authority', exact: a}]}"), "ask for it in host");
    assert_eq!(remedy("{headers: [{name: ':path', exact: a}]}"), "ask for it in path");
    assert_eq!(remedy("{headers: [{name: ':method', exact: a}]}"), "ask for it in method");
    assert_eq!(remedy("{headers: [{name: ':scheme', exact: a}]}"), "leave it out: it is no header field");
    assert!(remedy("{headers: [{name: Upgrade, exact: a}]}").contains("ends at each connection"));
    assert_eq!(remedy("{headers: [{name: a, present: false}]}"), "write absent: true");
    assert_eq!(remedy("{pathType: Exact, path: /a/../b}"), "write \"/b\"");
    assert_eq!(remedy("{pathType: Exact, path: /caf%C3%A9}"), "write \"/café\"");
    assert_eq!(remedy("{pathType: Prefix, path: '/a?b=1'}"), "ask for the query in query; # never arrives at a server");
    assert_eq!(remedy("{pathType: Prefix, path: a}"), "begin it with /");
}

#[test]
fn an_item_of_a_deny_matches_what_its_readable_parts_leave_open() {
    const HTTP: &str = "spec.ingress[0].http";
    rules(&[
        ("{action: Deny, http: [{method: GET, path: /a}]}", "{} in; DENY ingress[0] * * http[0:GET /a]", &[]),
        (
            "{action: Deny, http: [{method: GET, path: '('}]}",
            "{} in; DENY ingress[0] * * http[0:GET *]",
            &[("spec.ingress[0].http[0].path", "\"(\" is not a regular expression")],
        ),
        (
            "{action: Deny, http: [{method: GET, path: /a, pathType: x, hots: b}]}",
            "{} in; DENY ingress[0] * * http[0:GET *]",
            &[
                ("spec.ingress[0].http[0].hots", "unknown field \"hots\""),
                ("spec.ingress[0].http[0].pathType", "\"x\" is no pathType"),
            ],
        ),
        (
            "{action: Deny, http: [{headers: [{name: a, exact: b}, {name: c, present: true, nto: true}]}]}",
            "{} in; DENY ingress[0] * * http[0:* * headers[a=b]]",
            &[("spec.ingress[0].http[0].headers[1].nto", "unknown field \"nto\"")],
        ),
        (
            "{action: Deny, http: [{path: /b}, 5]}",
            "{} in; DENY ingress[0] * * http[0:* /b 1:* *]",
            &[("spec.ingress[0].http[1]", "the number 5 where a mapping belongs")],
        ),
        ("{action: Deny, http: []}", "{} in; DENY ingress[0] * *", &[(HTTP, "an empty list matches no request")]),
        ("{action: Deny, http: {}}", "{} in; DENY ingress[0] * *", &[(HTTP, "a mapping where a list belongs")]),
        // It can't be about UDP and HTTP at once, and nobody can say which was meant.
        (
            "{action: Deny, ports: [{port: 80, protocol: UDP}], http: [{path: /a}]}",
            "{} in; DENY ingress[0] * [UDP:80]",
            &[("spec.ingress[0].ports[0]", "http is spoken over TCP")],
        ),
        (
            "{action: Deny, ports: [{port: 80}], http: [{path: /a}], foo: 1}",
            "{} in; DENY ingress[0] * [TCP:80] http[0:* /a]",
            &[("spec.ingress[0].foo", "unknown field \"foo\"")],
        ),
    ]);
}

#[test]
fn a_rule_is_about_one_protocol() {
    rules(&[
        ("{http: [{}], grpc: [{service: a.B}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].grpc", "grpc beside http")]),
        ("{tls: {serverNames: [a.b]}, http: [{}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].tls", "tls beside http")]),
        ("{http: [{}], dns: [{}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].dns", "dns beside http")]),
        (
            "{action: Deny, ports: [{port: 80}], http: [{path: /a}], grpc: [{service: a.B}]}",
            "{} in; DENY ingress[0] * [TCP:80]",
            &[("spec.ingress[0].grpc", "grpc beside http")],
        ),
    ]);
}

#[test]
fn items_of_grpc() {
    const SERVICE: &str = "spec.ingress[0].grpc[0].service";
    rules(&[
        (
            "{grpc: [{service: orders.OrderService, method: Get}, {service: a.B, method: '*'}, {service: C}]}",
            "{} in; ingress[0] * [TCP] grpc[0:orders.OrderService/Get 1:a.B/* 2:C/*]",
            &[],
        ),
        (
            "{grpc: [{service: a.B, metadata: [{name: X-Team, exact: blue}]}]}",
            "{} in; ingress[0] * [TCP] grpc[0:a.B/* metadata[x-team=blue]]",
            &[],
        ),
        ("{grpc: [{method: Get}]}", "{} in; ingress[0] * [TCP] grpc[]", &[("spec.ingress[0].grpc[0]", "of which service?")]),
        ("{grpc: [{service: 'a.*'}]}", "{} in; ingress[0] * [TCP] grpc[]", &[(SERVICE, "\"a.*\" is no name of a service")]),
        ("{grpc: [{service: a/b}]}", "{} in; ingress[0] * [TCP] grpc[]", &[(SERVICE, "\"a/b\" is no name of a service")]),
        (
            "{grpc: [{service: a.B, method: 'Get.*'}]}",
            "{} in; ingress[0] * [TCP] grpc[]",
            &[("spec.ingress[0].grpc[0].method", "\"Get.*\" is no name of a method")],
        ),
        (
            "{grpc: [{service: a.B, metadata: [{name: ':path', exact: x}]}]}",
            "{} in; ingress[0] * [TCP] grpc[]",
            &[("spec.ingress[0].grpc[0].metadata[0].name", "\":path\" is no name of a field to ask about")],
        ),
        ("{grpc: []}", "{} in; ingress[0] * [TCP] grpc[]", &[("spec.ingress[0].grpc", "an empty list matches no request")]),
        (
            "{ports: [{protocol: SCTP}], grpc: [{service: a.B}]}",
            "{} in; ingress[0] * [] grpc[0:a.B/*]",
            &[("spec.ingress[0].ports[0]", "grpc is spoken over TCP")],
        ),
        (
            "{action: Deny, grpc: [{service: 'a.*', method: Get}, {service: a.B, method: 5}]}",
            "{} in; DENY ingress[0] * * grpc[0:*/Get 1:a.B/*]",
            &[
                (SERVICE, "\"a.*\" is no name of a service"),
                ("spec.ingress[0].grpc[1].method", "the number 5 where text belongs"),
            ],
        ),
    ]);
}

#[test]
fn names_of_tls_servers() {
    const NAME: &str = "spec.ingress[0].tls.serverNames[0]";
    rules(&[
        (
            "{tls: {serverNames: [Api.example.com, '*.example.org', backend]}}",
            "{} in; ingress[0] * [TCP] tls[0:api.example.com 1:*.example.org 2:backend]",
            &[],
        ),
        ("{tls: {serverNames: [a.b.]}}", "{} in; ingress[0] * [TCP] tls[]", &[(NAME, "\"a.b.\" is no server's name")]),
        ("{tls: {serverNames: ['a.*.b']}}", "{} in; ingress[0] * [TCP] tls[]", &[(NAME, "\"a.*.b\" is no server's name")]),
        (
            "{tls: {serverNames: [10.0.0.1, a.b]}}",
            "{} in; ingress[0] * [TCP] tls[1:a.b]",
            &[(NAME, "\"10.0.0.1\" is no server's name")],
        ),
        (
            "{tls: {serverNames: []}}",
            "{} in; ingress[0] * [TCP] tls[]",
            &[("spec.ingress[0].tls.serverNames", "an empty list matches no server")],
        ),
        ("{tls: {}}", "{} in; ingress[0] * [TCP] tls[]", &[("spec.ingress[0].tls", "which servers?")]),
        ("{tls: [a.b]}", "{} in; ingress[0] * [TCP] tls[]", &[("spec.ingress[0].tls", "a list where a mapping belongs")]),
        (
            "{tls: {serverNames: [a.b], alpn: [h2]}}",
            "{} in; ingress[0] * [TCP] tls[]",
            &[("spec.ingress[0].tls.alpn", "unknown field \"alpn\"")],
        ),
        (
            "{action: Deny, tls: {serverNames: [a.b, 5], alpn: [h2]}}",
            "{} in; DENY ingress[0] * * tls[0:a.b 1:*]",
            &[
                ("spec.ingress[0].tls.alpn", "unknown field \"alpn\""),
                ("spec.ingress[0].tls.serverNames[1]", "the number 5 where text belongs"),
            ],
        ),
        ("{action: Deny, tls: {}}", "{} in; DENY ingress[0] * *", &[("spec.ingress[0].tls", "which servers?")]),
    ]);
}

/// What goes beyond a bound can't be put in force: an allow matches nothing, a deny what its other parts leave open.
#[test]
fn conditions_are_bounded() {
    let many = |count: usize| (0..count).map(|i| format!("{{name: x{i}, exact: b}}")).collect::<Vec<_>>().join(", ");
    let read = |rule: &str| {
        let lowered = lowering::lowered(&sluice_policy(&format!("{{ingress: [{rule}]}}")));
        let said = lowered.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        (words::policy_of(lowered), said)
    };
    let items = |policy: &sluice_policy::source::Policy| match &policy.rules[0].l7 {
        Some(sluice_policy::source::L7::Http(items)) => items.iter().map(|i| i.headers.len()).collect::<Vec<_>>(),
        _ => Vec::new(),
    };
    for (action, left) in [("Allow", vec![50]), ("Deny", vec![50, 50])] {
        let rule = format!("{{action: {action}, http: [{{headers: [{}]}}, {{headers: [{}]}}]}}", many(50), many(51));
        let (policy, said) = read(&rule);
        assert!(said.contains("spec.ingress[0].http[1].headers[50]: more than 50 conditions; split the item"), "{said}");
        assert_eq!(items(&policy), left, "{action}");
    }
    let long = "x".repeat(257);
    let (_, said) =
        read(&format!("{{http: [{{query: [{{name: {long}, exact: a}}, {{name: a, exact: '{}'}}]}}]}}", "x".repeat(4097)));
    assert!(said.contains("a name of 257 bytes; write 1 to 256"), "{said}");
    assert!(said.contains("a value of 4097 bytes; write at most 4096"), "{said}");
    let full = vec![format!("{{headers: [{}]}}", many(50)); 40].join(", ");
    let (policy, said) = read(&format!("{{http: [{full}]}}"));
    assert!(said.contains("spec.ingress[0].http[39].headers[10]: more than 2000 items and conditions in one policy"), "{said}");
    assert_eq!(items(&policy).len(), 39);
}
