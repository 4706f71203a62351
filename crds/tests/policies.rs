//! Policies to what the engine knows, row by row, with what is said about them.

#[path = "words/kubernetes.rs"]
mod kubernetes;
mod lowering;
mod words;

use kubernetes::network_policy;
use lowering::lowered;
use sluice_policy::source::{Action, L7};
use words::{check, list, policy_of, port, sluice_policy};

#[test]
fn network_policies() {
    check(
        network_policy,
        "NetworkPolicy",
        &[
            ("{}", "{} in", &[]),
            ("null", "{} in", &[]),
            ("{podSelector: null, policyTypes: null, ingress: null, egress: null}", "{} in", &[]),
            ("{podSelector: {matchLabels: {a: b}}, policyTypes: [Egress]}", "a=b out", &[]),
            ("{egress: [{}]}", "{} in out; egress[0] * *", &[]),
            ("{egress: [], policyTypes: []}", "{} in", &[]),
            ("{ingress: [{from: [], ports: []}, {from: null, ports: null}]}", "{} in; ingress[0] * *; ingress[1] * *", &[]),
            (
                "{ingress: [{from: [{podSelector: {}}, {namespaceSelector: {}}, {namespaceSelector: {matchLabels: {x: z}}, podSelector: {matchLabels: {a: b}}}]}]}",
                "{} in; ingress[0] [ns/{} <{}>/{} <x=z>/a=b] *",
                &[],
            ),
            ("{ingress: [{from: [{podSelector: null, namespaceSelector: {}}]}]}", "{} in; ingress[0] [<{}>/{}] *", &[]),
            (
                "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}",
                "{} in; ingress[0] [10.0.0.0/8-10.1.0.0/16] *",
                &[],
            ),
            (
                "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1/24}}]}]}",
                "{} in; ingress[0] [10.0.0.0/24] *",
                &[(
                    "spec.ingress[0].from[0].ipBlock.cidr",
                    "10.0.0.1/24 has bits set beyond its length and is read as 10.0.0.0/24",
                )],
            ),
            (
                "{ingress: [{ports: [{}, {port: 80}, {port: http, protocol: UDP}, {protocol: SCTP}, {port: 80, endPort: 90}]}]}",
                "{} in; ingress[0] * [TCP TCP:80 UDP:http SCTP TCP:80-90]",
                &[],
            ),
            // What can't be read closes.
            ("[]", "{} in out", &[("spec", "a list where a mapping belongs")]),
            ("{podSelector: {app: web}}", "{} in", &[("spec.podSelector.app", "unknown field \"app\"")]),
            (
                "{podSelector: web, ingress: [{}]}",
                "{} in; ingress[0] * *",
                &[("spec.podSelector", "the text \"web\" where a mapping belongs")],
            ),
            (
                "{podSelector: {matchLabels: {a: 1.10}}}",
                "{} in",
                &[("spec.podSelector.matchLabels.a", "the number 1.1 where text belongs")],
            ),
            (
                "{podSelector: {matchLabels: {a: yes}}}",
                "{} in",
                &[("spec.podSelector.matchLabels.a", "the truth value true where text belongs")],
            ),
            ("{podSelector: {matchLabels: {a: }}}", "a= in", &[("spec.podSelector.matchLabels.a", "nothing is given")]),
            ("{policyTypes: [ingress]}", "{} in out", &[("spec.policyTypes[0]", "\"ingress\" is no direction")]),
            ("{policyTypes: Ingress}", "{} in out", &[("spec.policyTypes", "the text \"Ingress\" where a list belongs")]),
            ("{policyTypes: [Ingress, Ingress, Egress]}", "{} in out", &[("spec.policyTypes", "more than two entries")]),
            ("{ingress: {from: []}}", "{} in", &[("spec.ingress", "a mapping where a list belongs")]),
            ("{egress: everything}", "{} in out", &[("spec.egress", "the text \"everything\" where a list belongs")]),
            (
                "{ingress: [{from: []}, null, {form: []}]}",
                "{} in; ingress[0] * *; ingress[1] [] *; ingress[2] [] *",
                &[("spec.ingress[1]", "null where a mapping belongs"), ("spec.ingress[2].form", "unknown field \"form\"")],
            ),
            ("{ingress: [{to: []}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].to", "unknown field \"to\"")]),
            ("{ingres: [{}], egress: [{}]}", "{} in out; egress[0] [] *", &[("spec.ingres", "unknown field \"ingres\"")]),
            ("{policyTypes: [Egress], x: z, egress: [{}]}", "{} out; egress[0] [] *", &[("spec.x", "unknown field \"x\"")]),
            (
                "{ingress: [{from: [{}, null, {podSelector: {}}]}]}",
                "{} in; ingress[0] [ns/{}] *",
                &[
                    ("spec.ingress[0].from[0]", "a peer without podSelector, namespaceSelector and ipBlock"),
                    ("spec.ingress[0].from[1]", "null where a mapping belongs"),
                ],
            ),
            (
                "{ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}",
                "{} in; ingress[0] [] *",
                &[("spec.ingress[0].from[0]", "ipBlock beside a selector")],
            ),
            (
                "{ingress: [{from: [{namespaceSelector: {}, podSelector: {matchLabel: {a: b}}}]}]}",
                "{} in; ingress[0] [] *",
                &[("spec.ingress[0].from[0].podSelector.matchLabel", "unknown field")],
            ),
            (
                "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}",
                "{} in; ingress[0] [] *",
                &[("spec.ingress[0].from[0].ipBlock.except[0]", "10.0.0.0/8 is not a part of 10.0.0.0/8")],
            ),
            (
                "{ingress: [{from: [{ipBlock: {except: []}}]}]}",
                "{} in; ingress[0] [] *",
                &[("spec.ingress[0].from[0].ipBlock.cidr", "missing")],
            ),
            (
                "{ingress: [{from: [{ipBlock: {cidr: 10.0.0.1}}]}]}",
                "{} in; ingress[0] [] *",
                &[("spec.ingress[0].from[0].ipBlock.cidr", "\"10.0.0.1\" is no CIDR block")],
            ),
            (
                "{ingress: [{ports: [{port: 0}, {port: 65536}, {port: 1.5}, {port: true}, {port: \"80\"}]}]}",
                "{} in; ingress[0] * []",
                &[
                    ("spec.ingress[0].ports[0].port", "the number 0 is no port's number"),
                    ("spec.ingress[0].ports[1].port", "the number 65536"),
                    ("spec.ingress[0].ports[2].port", "the number 1.5"),
                    ("spec.ingress[0].ports[3].port", "the truth value true"),
                    ("spec.ingress[0].ports[4].port", "\"80\" is no port's name"),
                ],
            ),
            (
                "{ingress: [{ports: [{endPort: 90}, {port: http, endPort: 90}, {port: 91, endPort: 90}, {protocol: tcp}, {prot: TCP}]}]}",
                "{} in; ingress[0] * []",
                &[
                    ("spec.ingress[0].ports[0].endPort", "endPort without port"),
                    ("spec.ingress[0].ports[1].endPort", "endPort beside a port's name"),
                    ("spec.ingress[0].ports[2].endPort", "endPort is less than port"),
                    ("spec.ingress[0].ports[3].protocol", "\"tcp\" is no protocol"),
                    ("spec.ingress[0].ports[4].prot", "unknown field \"prot\""),
                ],
            ),
            (
                "{podSelector: {matchExpressions: [{key: a, operator: In}]}}",
                "{} in",
                &[("spec.podSelector.matchExpressions[0].values", "In and NotIn need values")],
            ),
            (
                "{podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}",
                "{} in",
                &[("spec.podSelector.matchExpressions[0].values", "Exists and DoesNotExist take no values")],
            ),
            (
                "{podSelector: {matchExpressions: [{key: a, operator: exists}]}}",
                "{} in",
                &[("spec.podSelector.matchExpressions[0].operator", "\"exists\" is no operator")],
            ),
            ("{podSelector: {matchExpressions: [{key: a, operator: NotIn, values: [c, b]}]}}", "a notin (b,c) in", &[]),
            ("{ingress: [{http: [{}]}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].http", "unknown field \"http\"")]),
        ],
    );
}

#[test]
fn sluice_network_policies() {
    check(
        sluice_policy,
        "SluiceNetworkPolicy",
        &[
            ("{enforcement: Enforce}", "{} in", &[]),
            (
                "{ingress: [{http: [{method: GET, path: /a}, {}, {path: null, pathType: Regex}]}]}",
                "{} in; ingress[0] * [TCP] http[0:GET /a 1:* * 2:* *]",
                &[],
            ),
            (
                "{egress: [{action: Allow, ports: [{port: 80}], http: [{method: GET}]}]}",
                "{} in out; egress[0] * [TCP:80] http[0:GET *]",
                &[],
            ),
            ("{ingress: [{action: Deny, from: [{podSelector: {}}]}]}", "{} in; DENY ingress[0] [ns/{}] *", &[]),
            // What can't be read closes.
            (
                "{ingress: [{http: [{path: '('}, {path: /b}]}]}",
                "{} in; ingress[0] * [TCP] http[1:* /b]",
                &[("spec.ingress[0].http[0].path", "\"(\" is not a regular expression: unclosed group")],
            ),
            (
                "{ingress: [{http: [{pth: a}]}]}",
                "{} in; ingress[0] * [TCP] http[]",
                &[("spec.ingress[0].http[0].pth", "unknown field \"pth\"")],
            ),
            (
                "{ingress: [{http: []}]}",
                "{} in; ingress[0] * [TCP] http[]",
                &[("spec.ingress[0].http", "an empty list matches no request")],
            ),
            (
                "{ingress: [{http: {path: /a}}]}",
                "{} in; ingress[0] * [TCP] http[]",
                &[("spec.ingress[0].http", "a mapping where a list belongs")],
            ),
            (
                "{ingress: [{http: [null, {method: 5}]}]}",
                "{} in; ingress[0] * [TCP] http[]",
                &[
                    ("spec.ingress[0].http[0]", "null where a mapping belongs"),
                    ("spec.ingress[0].http[1].method", "the number 5 where text belongs"),
                ],
            ),
            (
                "{ingress: [{ports: [{protocol: UDP}, {port: 80}], http: [{}]}]}",
                "{} in; ingress[0] * [TCP:80] http[0:* *]",
                &[("spec.ingress[0].ports[0]", "http is spoken over TCP")],
            ),
            ("{ingress: [{kafka: {}}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].kafka", "not supported by this version")]),
            (
                "{egress: [{to: [{serviceAccounts: [x], namespaceSelector: {}}, {podSelector: {}}]}]}",
                "{} in out; egress[0] [<{}>/serviceAccount=x ns/{}] *",
                &[],
            ),
            (
                "{ingress: [{from: [{serviceAccounts: [b, a], podSelector: {matchLabels: {k: v}}}, {nodeSelector: {}}]}]}",
                "{} in; ingress[0] [ns/serviceAccount in (a,b),k=v nodes<{}>] *",
                &[],
            ),
            (
                "{ingress: [{from: [{serviceAccounts: []}, {serviceAccounts: [A/b]}, {nodeSelector: {}, podSelector: {}}]}]}",
                "{} in; ingress[0] [] *",
                &[
                    ("spec.ingress[0].from[0].serviceAccounts", "an empty list names no service account"),
                    ("spec.ingress[0].from[1].serviceAccounts[0]", "\"A/b\" is no service account's name"),
                    ("spec.ingress[0].from[2]", "nodeSelector beside a selector"),
                ],
            ),
            (
                "{expires: x, ingress: [{}, {action: Deny}]}",
                "{} in; ingress[0] [] *; DENY ingress[1] * *",
                &[("spec.expires", "\"x\" is no time")],
            ),
            (
                "{expires: 2027-01-31, policyTypes: [Egress], egress: [{}]}",
                "{} out; egress[0] [] *",
                &[("spec.expires", "\"2027-01-31\" is no time")],
            ),
            ("{expires: 1801440000, ingress: [{}]}", "{} in; ingress[0] [] *", &[("spec.expires", "the number 1801440000")]),
            ("{expires: {}, ingress: [{}]}", "{} in; ingress[0] [] *", &[("spec.expires", "a mapping where text belongs")]),
            ("{expires: \"2027-01-31T00:00:00Z\", ingress: [{}]}", "{} in until 2027-01-31T00:00:00Z; ingress[0] * *", &[]),
            ("{expires: 2027-01-31T00:00:00+01:00}", "{} in until 2027-01-30T23:00:00Z", &[]),
            ("{enforcement: Audit, egress: [{action: Deny}]}", "{} in out AUDIT; DENY egress[0] * *", &[]),
            (
                "{enforcement: Audit, expires: \"2027-01-31T00:00:00Z\", ingress: [{http: [{method: GET}]}]}",
                "{} in AUDIT until 2027-01-31T00:00:00Z; ingress[0] * [TCP] http[0:GET *]",
                &[],
            ),
            (
                "{enforcement: audit, ingress: [{}]}",
                "{} in; ingress[0] * *",
                &[("spec.enforcement", "\"audit\" is no enforcement")],
            ),
            // A deny that can't be read denies all that its readable parts leave open.
            (
                "{ingress: [{action: Drop, from: [{podSelector: {}}]}]}",
                "{} in; DENY ingress[0] [ns/{}] *",
                &[("spec.ingress[0].action", "\"Drop\" is no action")],
            ),
            ("{ingress: [{action: 5}]}", "{} in; DENY ingress[0] * *", &[("spec.ingress[0].action", "the number 5")]),
            (
                "{ingress: [{action: Deny, from: [{ipBlock: {cidr: x}}, {podSelector: {}}], ports: [{port: 80}]}]}",
                "{} in; DENY ingress[0] * [TCP:80]",
                &[("spec.ingress[0].from[0].ipBlock.cidr", "\"x\" is no CIDR block")],
            ),
            (
                "{ingress: [{action: Deny, from: [{namespaceSelector: {}, podSelector: {x: z}}]}]}",
                "{} in; DENY ingress[0] [<{}>/{}] *",
                &[("spec.ingress[0].from[0].podSelector.x", "unknown field")],
            ),
            (
                "{ingress: [{action: Deny, from: [{ipBlock: {cidr: 10.0.0.0/8, except: [x, 10.1.0.0/16]}}]}]}",
                "{} in; DENY ingress[0] [10.0.0.0/8-10.1.0.0/16] *",
                &[("spec.ingress[0].from[0].ipBlock.except[0]", "\"x\" is no CIDR block")],
            ),
            (
                "{ingress: [{action: Deny, ports: [{port: 99999, protocol: UDP}]}]}",
                "{} in; DENY ingress[0] * [UDP]",
                &[("spec.ingress[0].ports[0].port", "the number 99999")],
            ),
            (
                "{ingress: [{action: Deny, ports: [{protocol: x}]}]}",
                "{} in; DENY ingress[0] * *",
                &[("spec.ingress[0].ports[0].protocol", "\"x\" is no protocol")],
            ),
            (
                "{ingress: [{action: Deny, from: all}]}",
                "{} in; DENY ingress[0] * *",
                &[("spec.ingress[0].from", "the text \"all\" where a list belongs")],
            ),
            (
                "{ingress: [{action: Deny, port: 80}]}",
                "{} in; DENY ingress[0] * *",
                &[("spec.ingress[0].port", "unknown field \"port\"")],
            ),
            // Nobody can say that these were no denies.
            (
                "{ingress: ['action:Deny', [], 5, null]}",
                "{} in; DENY ingress[0] * *; DENY ingress[1] * *; DENY ingress[2] * *; ingress[3] [] *",
                &[
                    ("spec.ingress[0]", "the text \"action:Deny\" where a mapping belongs"),
                    ("spec.ingress[1]", "a list where a mapping belongs"),
                    ("spec.ingress[2]", "the number 5 where a mapping belongs"),
                    ("spec.ingress[3]", "null where a mapping belongs"),
                ],
            ),
            (
                "{ingress: [{Action: Deny, from: [{podSelector: {}}]}, {acton: deny}, {'action:Deny': null, ports: [{port: 80}]}]}",
                "{} in; DENY ingress[0] [ns/{}] *; DENY ingress[1] * *; DENY ingress[2] * [TCP:80]",
                &[
                    ("spec.ingress[0].Action", "unknown field \"Action\""),
                    ("spec.ingress[1].acton", "unknown field \"acton\""),
                    ("spec.ingress[2][action:Deny]", "unknown field \"action:Deny\""),
                ],
            ),
            (
                "{ingress: [{Action: Allow}, {action: Allow, Action: Deny}, {action: null}]}",
                "{} in; ingress[0] [] *; ingress[1] [] *; ingress[2] * *",
                &[("spec.ingress[0].Action", "unknown field"), ("spec.ingress[1].Action", "unknown field")],
            ),
            (
                "{policyTypes: [Egress], ingress: [{}, {action: Deny}]}",
                "{} out; ingress[0] * *; DENY ingress[1] * *",
                &[("spec.ingress", "ingress[1] denies nothing, because policyTypes leaves out this direction")],
            ),
            ("{egress: x}", "{} in out; DENY egress * *", &[("spec.egress", "the text \"x\" where a list belongs")]),
        ],
    );
}

#[test]
fn remarks_are_bounded() {
    let rules = vec!["{x: z}"; 5000].join(", ");
    let lowered = lowered(&network_policy(&format!("{{ingress: [{rules}]}}")));
    assert_eq!(lowered.diagnostics.len(), 101);
    assert_eq!(lowered.diagnostics[100].message, "1901 further problems are not listed");
    assert_eq!(policy_of(lowered).rules.len(), 2000);
}

/// What goes beyond a bound can't be put in force: allows match nothing, denies what their other parts leave open.
#[test]
fn one_policy_cannot_burden_a_node_without_bound() {
    let entries = |count: usize, entry: &dyn Fn(usize) -> String| (0..count).map(entry).collect::<Vec<_>>().join(", ");
    let read = |rules: &str| {
        let lowered = lowered(&sluice_policy(&format!("{{ingress: [{rules}]}}")));
        let said = lowered.diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        (policy_of(lowered), said)
    };
    let rule = |action: &str, peers: usize, names: usize| {
        let peers = entries(peers, &|i| format!("{{podSelector: {{matchLabels: {{a: v{i}}}}}}}"));
        let names = entries(names, &|i| format!("{{port: n{i}}}"));
        format!("{{action: {action}, from: [{peers}], ports: [{names}, {{port: n0}}, {{port: 80}}]}}")
    };

    let (policy, said) = read(&rule("Allow", 50, 20));
    assert_eq!((said.as_str(), policy.rules[0].ports.as_ref().map(Vec::len)), ("", Some(21)), "a name said twice counts once");
    let (policy, said) = read(&rule("Allow", 143, 7));
    assert!(
        said.contains("spec.ingress[0]: more than 1000 pairs of a peer and a named port, or a message of ICMP: 143 times 7"),
        "{said}"
    );
    assert_eq!(policy.rules[0].peers, Some(Vec::new()), "it allows nobody");
    let (policy, said) = read(&rule("Deny", 143, 7));
    assert!(said.contains("143 times 7"), "{said}");
    let left = (policy.rules[0].peers.as_ref().map(Vec::len), policy.rules[0].ports.as_ref().map(|ports| list(ports, port)));
    assert_eq!(left, (Some(143), Some("[TCP TCP:80]".to_owned())), "it denies its peers every port of the protocol");

    let with_items = |count: usize| format!("{{http: [{}]}}", entries(count, &|i| format!("{{path: /{i}}}")));
    let (policy, said) = read(&[with_items(1000), with_items(999), with_items(3)].join(", "));
    assert!(said.contains("spec.ingress[2].http[1]: more than 2000 http items in one policy"), "{said}");
    let items = |rule: &sluice_policy::source::Rule| match &rule.l7 {
        Some(L7::Http(items)) => items.len(),
        _ => 0,
    };
    assert_eq!(policy.rules.iter().map(items).collect::<Vec<_>>(), [1000, 999, 1]);

    for (last, denies) in [("{}", false), ("{action: Deny}", true), ("{Action: Deny}", true), ("'action:Deny'", true)] {
        let (policy, said) = read(&format!("{}, {last}", vec!["{}"; 2001].join(", ")));
        assert!(said.contains("spec.ingress[2000]: more than 2000 rules in one policy; split the policy"), "{said}");
        let beyond = policy.rules[2000..].iter().map(|rule| (rule.action, rule.peers.is_none())).collect::<Vec<_>>();
        assert_eq!(beyond, if denies { vec![(Action::Deny, true)] } else { Vec::new() }, "{last}");
    }
}
