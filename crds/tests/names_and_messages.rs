//! `icmp`, `fqdns` and `dns` to what the engine knows, row by row, with what is said about them.

#[path = "words/kubernetes.rs"]
mod kubernetes;
mod lowering;
mod words;

use kubernetes::network_policy;
use words::{Row, check, sluice_policy};

fn ingress(rows: &[Row]) {
    check(|rule| sluice_policy(&format!("{{ingress: [{rule}]}}")), "SluiceNetworkPolicy", rows);
}

fn egress(rows: &[Row]) {
    check(|rule| sluice_policy(&format!("{{policyTypes: [Egress], egress: [{rule}]}}")), "SluiceNetworkPolicy", rows);
}

const ICMP: &str = "spec.ingress[0].icmp";

#[test]
fn messages_stand_where_ports_stand() {
    ingress(&[
        ("{icmp: [{family: IPv4, type: 8, code: 0}]}", "{} in; ingress[0] * [V4:8/0]", &[]),
        ("{icmp: [{family: IPv6, type: 128}, {family: IPv4}]}", "{} in; ingress[0] * [V6:128/* V4:*/*]", &[]),
        ("{ports: [{port: 80}], icmp: [{family: IPv4, type: 8}]}", "{} in; ingress[0] * [TCP:80 V4:8/*]", &[]),
        ("{ports: [], icmp: [{family: IPv4, type: 8}]}", "{} in; ingress[0] * [V4:8/*]", &[]),
        ("{icmp: [{family: IPv4, type: 8}, {type: 8, family: IPv4}]}", "{} in; ingress[0] * [V4:8/*]", &[]),
        ("{icmp: null}", "{} in; ingress[0] * *", &[]),
        ("{action: Deny, icmp: [{family: IPv4, type: 255, code: 255}]}", "{} in; DENY ingress[0] * [V4:255/255]", &[]),
        ("{action: Deny, ports: [{port: 80}], icmp: [{family: IPv4}]}", "{} in; DENY ingress[0] * [TCP:80 V4:*/*]", &[]),
    ]);
    check(
        network_policy,
        "NetworkPolicy",
        &[(
            "{ingress: [{icmp: [{family: IPv4}]}]}",
            "{} in; ingress[0] [] *",
            &[("spec.ingress[0].icmp", "unknown field \"icmp\"")],
        )],
    );
}

#[test]
fn messages_that_cannot_be_read_close() {
    ingress(&[
        ("{icmp: [{type: 8}]}", "{} in; ingress[0] * []", &[("spec.ingress[0].icmp[0].family", "of which family?")]),
        (
            "{icmp: [{family: ipv4, type: 8}, {family: IPv6}]}",
            "{} in; ingress[0] * [V6:*/*]",
            &[("spec.ingress[0].icmp[0].family", "\"ipv4\" is no family")],
        ),
        (
            "{icmp: [{family: IPv4, type: 256}, {family: IPv4, type: echo-request}]}",
            "{} in; ingress[0] * []",
            &[
                ("spec.ingress[0].icmp[0].type", "the number 256 is no type of ICMP"),
                ("spec.ingress[0].icmp[1].type", "the text \"echo-request\" is no type of ICMP"),
            ],
        ),
        ("{icmp: [{family: IPv4, code: 0}]}", "{} in; ingress[0] * []", &[("spec.ingress[0].icmp[0].code", "code without type")]),
        (
            "{icmp: [{family: IPv4, type: 8, id: 7}]}",
            "{} in; ingress[0] * []",
            &[("spec.ingress[0].icmp[0].id", "unknown field \"id\"")],
        ),
        ("{icmp: []}", "{} in; ingress[0] * []", &[(ICMP, "an empty list matches no message")]),
        ("{icmp: {family: IPv4}}", "{} in; ingress[0] * []", &[(ICMP, "a mapping where a list belongs")]),
        ("{ports: [{port: 80}], icmp: []}", "{} in; ingress[0] * [TCP:80]", &[(ICMP, "an empty list matches no message")]),
        // A deny takes what its readable parts leave open.
        ("{action: Deny, icmp: []}", "{} in; DENY ingress[0] * [ICMP]", &[(ICMP, "an empty list matches no message")]),
        ("{action: Deny, icmp: 8}", "{} in; DENY ingress[0] * [ICMP]", &[(ICMP, "the number 8 where a list belongs")]),
        (
            "{action: Deny, icmp: [{type: 8}, {family: IPv6, type: 500, code: 1}]}",
            "{} in; DENY ingress[0] * [ICMP V6:*/*]",
            &[
                ("spec.ingress[0].icmp[0].family", "of which family?"),
                ("spec.ingress[0].icmp[1].type", "the number 500 is no type of ICMP"),
            ],
        ),
        (
            "{action: Deny, icmp: [{family: IPv4, code: 3}]}",
            "{} in; DENY ingress[0] * [V4:*/*]",
            &[("spec.ingress[0].icmp[0].code", "code without type")],
        ),
        // A deny whose ports can't be read has them all.
        (
            "{action: Deny, ports: 80, icmp: [{family: IPv4}]}",
            "{} in; DENY ingress[0] * *",
            &[("spec.ingress[0].ports", "the number 80 where a list belongs")],
        ),
    ]);
}

#[test]
fn messages_beside_contents() {
    ingress(&[
        ("{http: [{}], icmp: [{family: IPv4}]}", "{} in; ingress[0] [] *", &[(ICMP, "icmp beside http")]),
        ("{action: Deny, http: [{}], icmp: [{family: IPv4}]}", "{} in; DENY ingress[0] * *", &[(ICMP, "icmp beside http")]),
        (
            "{action: Deny, ports: [{port: 80}], http: [{}], icmp: [{family: IPv4}]}",
            "{} in; DENY ingress[0] * [TCP:80 V4:*/*]",
            &[(ICMP, "icmp beside http")],
        ),
    ]);
}

const FQDNS: &str = "spec.egress[0].to[0].fqdns";

#[test]
fn peers_by_name() {
    egress(&[
        (
            "{to: [{fqdns: [{matchName: API.github.com.}, {matchPattern: '*.amazonaws.com'}]}]}",
            "{} out; egress[0] [names<[api.github.com *.amazonaws.com]>] *",
            &[],
        ),
        (
            "{to: [{fqdns: [{matchName: a.b}], allowPrivate: true, nameCheck: AddressOnly}, {podSelector: {}}]}",
            "{} out; egress[0] [names<[a.b] private unchecked> ns/{}] *",
            &[],
        ),
        (
            "{to: [{fqdns: [{matchName: a.b}], allowPrivate: false, nameCheck: Enforce}]}",
            "{} out; egress[0] [names<[a.b]>] *",
            &[],
        ),
        // It denies wherever the name leads.
        (
            "{action: Deny, to: [{fqdns: [{matchName: a.b}]}], ports: [{port: 443}]}",
            "{} out; DENY egress[0] [names<[a.b] private>] [TCP:443]",
            &[],
        ),
    ]);
}

#[test]
fn names_that_cannot_be_read_match_nothing() {
    const NONE: &str = "{} out; egress[0] [] *";
    egress(&[
        (
            "{to: [{fqdns: [{matchName: '*.b'}, {matchName: c.d}]}]}",
            NONE,
            &[("spec.egress[0].to[0].fqdns[0].matchName", "\"*.b\" is no name")],
        ),
        (
            "{to: [{fqdns: [{matchPattern: 'a.**.b'}]}]}",
            NONE,
            &[("spec.egress[0].to[0].fqdns[0].matchPattern", "\"a.**.b\" is no pattern of names")],
        ),
        ("{to: [{fqdns: [{}]}]}", NONE, &[("spec.egress[0].to[0].fqdns[0]", "not exactly one of matchName and matchPattern")]),
        (
            "{to: [{fqdns: [{matchName: a.b, port: 80}]}]}",
            NONE,
            &[("spec.egress[0].to[0].fqdns[0].port", "unknown field \"port\"")],
        ),
        ("{to: [{fqdns: []}]}", NONE, &[(FQDNS, "an empty list matches no name")]),
        (
            "{to: [{fqdns: [{matchName: a.b}], allowPrivate: maybe}]}",
            NONE,
            &[("spec.egress[0].to[0].allowPrivate", "the text \"maybe\" where true or false belongs")],
        ),
        (
            "{to: [{fqdns: [{matchName: a.b}], nameCheck: no-thanks}]}",
            NONE,
            &[("spec.egress[0].to[0].nameCheck", "\"no-thanks\" is no nameCheck")],
        ),
        ("{to: [{fqdns: [{matchName: a.b}], podSelector: {}}]}", NONE, &[("spec.egress[0].to[0]", "fqdns beside a selector")]),
        (
            "{to: [{podSelector: {}, allowPrivate: true}, {podSelector: {}}]}",
            "{} out; egress[0] [ns/{}] *",
            &[("spec.egress[0].to[0].allowPrivate", "allowPrivate without fqdns")],
        ),
        (
            "{action: Deny, to: [{fqdns: [{matchName: ''}]}, {podSelector: {}}]}",
            "{} out; DENY egress[0] * *",
            &[("spec.egress[0].to[0].fqdns[0].matchName", "\"\" is no name")],
        ),
    ]);
    ingress(&[(
        "{from: [{fqdns: [{matchName: a.b}]}, {podSelector: {}}]}",
        "{} in; ingress[0] [ns/{}] *",
        &[("spec.ingress[0].from[0].fqdns", "unknown field \"fqdns\"")],
    )]);
}

const DNS: &str = "spec.egress[0].dns";

#[test]
fn look_ups() {
    egress(&[
        (
            "{dns: [{matchName: a.b}, {matchPattern: '**.c', types: [AAAA, A, A]}]}",
            "{} out; egress[0] * [UDP:53 TCP:53] dns[0:a.b 1:**.c/1/28]",
            &[],
        ),
        (
            "{ports: [{protocol: UDP, port: 5353, endPort: 5368}], dns: [{matchPattern: '*'}]}",
            "{} out; egress[0] * [UDP:5353-5368] dns[0:*]",
            &[],
        ),
        // Each port is diverted by itself.
        (
            "{ports: [{protocol: UDP, port: 53}, {port: dns-tcp}, {port: 1, endPort: 17}, {}], dns: [{matchPattern: '*'}]}",
            "{} out; egress[0] * [UDP:53] dns[0:*]",
            &[
                ("spec.egress[0].ports[1]", "look-ups are judged at ports that are given by their numbers"),
                ("spec.egress[0].ports[2]", "look-ups are judged at ports that are given by their numbers"),
                ("spec.egress[0].ports[3]", "look-ups are judged at ports that are given by their numbers"),
            ],
        ),
        ("{action: Deny, dns: [{matchName: a.b}]}", "{} out; DENY egress[0] * [UDP:53 TCP:53] dns[0:a.b]", &[]),
        // What can't be read.
        (
            "{dns: [{matchName: a..b}, {matchName: c}, {matchName: d, types: [aaaa]}, {matchName: e, types: []}]}",
            "{} out; egress[0] * [UDP:53 TCP:53] dns[1:c]",
            &[
                ("spec.egress[0].dns[0].matchName", "\"a..b\" is no name"),
                ("spec.egress[0].dns[2].types[0]", "\"aaaa\" is no type of records"),
                ("spec.egress[0].dns[3].types", "an empty list matches no look-up"),
            ],
        ),
        (
            "{action: Deny, dns: [{matchName: a..b, types: [A]}, {matchName: d, types: 1}]}",
            "{} out; DENY egress[0] * [UDP:53 TCP:53] dns[0:any name/1 1:d]",
            &[
                ("spec.egress[0].dns[0].matchName", "\"a..b\" is no name"),
                ("spec.egress[0].dns[1].types", "the number 1 where a list belongs"),
            ],
        ),
        ("{dns: []}", "{} out; egress[0] * [UDP:53 TCP:53] dns[]", &[(DNS, "an empty list matches no look-up")]),
        ("{action: Deny, dns: []}", "{} out; DENY egress[0] * [UDP:53 TCP:53]", &[(DNS, "an empty list matches no look-up")]),
        (
            "{ports: [{protocol: SCTP, port: 53}, {port: 53}], dns: [{matchName: a}]}",
            "{} out; egress[0] * [TCP:53] dns[0:a]",
            &[("spec.egress[0].ports[0]", "dns is spoken over UDP and TCP")],
        ),
        (
            "{action: Deny, ports: [{protocol: SCTP, port: 53}], dns: [{matchName: a}]}",
            "{} out; DENY egress[0] * [SCTP:53]",
            &[("spec.egress[0].ports[0]", "dns is spoken over UDP and TCP")],
        ),
        ("{http: [{}], dns: [{matchName: a}]}", "{} out; egress[0] [] *", &[(DNS, "dns beside http")]),
        // A deny whose ports can't be read has them all.
        (
            "{action: Deny, ports: [{protocol: ANY}], dns: [{matchName: a}]}",
            "{} out; DENY egress[0] * * dns[0:a]",
            &[("spec.egress[0].ports[0].protocol", "\"ANY\" is no protocol")],
        ),
    ]);
    ingress(&[
        ("{dns: [{matchName: a}]}", "{} in; ingress[0] [] *", &[("spec.ingress[0].dns", "dns is for egress")]),
        (
            "{action: Deny, dns: [{matchName: a}]}",
            "{} in; DENY ingress[0] * [UDP:53 TCP:53]",
            &[("spec.ingress[0].dns", "dns is for egress")],
        ),
    ]);
}
