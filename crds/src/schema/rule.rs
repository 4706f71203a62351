//! One entry of `ingress` or `egress`.

use sluice_policy::Direction;

use super::build::Schema;
use super::l7;
use super::selector::selector;
use crate::bounds::{MAX_NAMES, MAX_PEERS, MAX_PORTS};
use crate::l7::carriers;
use crate::peer::one_of;
use crate::rule::Dialect;

/// Whose pods a `podSelector` alone selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Home {
    /// Those of the policy's namespace.
    Namespace,
    /// Those of all namespaces.
    Cluster,
}

pub(super) fn ingress(home: Home) -> Schema {
    rule("from", "Whence: any of these peers. Absent or empty: everywhere.", peer(home, Direction::Ingress), None)
}

pub(super) fn egress(home: Home) -> Schema {
    rule("to", "Whither: any of these peers. Absent or empty: everywhere.", peer(home, Direction::Egress), Some(l7::dns()))
}

fn rule(peers: &'static str, description: &str, peer: Schema, dns: Option<Schema>) -> Schema {
    let mut kinds = vec!["http", "grpc", "tls"];
    kinds.extend(dns.is_some().then_some("dns"));
    let rule = Schema::object(
        "What is allowed or denied: AND over the fields.",
        [
            (
                "action",
                Schema::word("Allow, or Deny: judged before all that allow, of any policy.", &["Allow", "Deny"]).default("Allow"),
            ),
            (peers, Schema::list(description, MAX_PEERS, peer).atomic()),
            ("ports", Schema::list("Any of these ports of the destination. Absent or empty: all.", MAX_PORTS, port()).atomic()),
            (
                "icmp",
                Schema::list("Any of these messages of ICMP, beside the ports or instead of them.", MAX_PORTS, message())
                    .at_least_one()
                    .atomic(),
            ),
            ("http", l7::http()),
            ("grpc", l7::grpc()),
            ("tls", l7::tls()),
        ]
        .into_iter()
        .chain(dns.map(|dns| ("dns", dns))),
    )
    .keeps_unknown();
    let rule = kinds.iter().enumerate().fold(rule, |rule, (i, kind)| {
        kinds[i + 1..].iter().fold(rule, |rule, other| {
            let field = format!(".{other}");
            rule.rule_of(&field, &format!("!has(self.{kind}) || !has(self.{other})"), &format!("{other} beside {kind}"))
        })
    });
    kinds.iter().fold(rule, |rule, kind| {
        let other = if *kind == "dns" { "p.protocol != 'SCTP'" } else { "p.protocol == 'TCP'" };
        let spoken = format!("!has(self.{kind}) || !has(self.ports) || self.ports.all(p, !has(p.protocol) || {other})");
        let message = format!("{kind} is spoken over {}, so this port matches nothing", carriers(kind));
        rule.rule_of(".ports", &spoken, &message).rule_of(
            ".icmp",
            &format!("!has(self.{kind}) || !has(self.icmp)"),
            &format!("icmp beside {kind}"),
        )
    })
}

fn message() -> Schema {
    Schema::object(
        "Messages of ICMP: AND over the fields. Answers to what was allowed, and errors about it, need no rule.",
        [
            ("family", Schema::word("Of IPv4, or ICMPv6 of IPv6; their types differ.", &["IPv4", "IPv6"])),
            ("type", Schema::integer("The type; 8 of IPv4 and 128 of IPv6 is an echo request. Absent: all.", 0, 255)),
            ("code", Schema::integer("The code. Absent: all of the type.", 0, 255)),
        ],
    )
    .required(&["family"])
    .keeps_unknown()
    .rule_of(".code", "!has(self.code) || has(self.type)", "code without type")
}

fn peer(home: Home, direction: Direction) -> Schema {
    let own = match home {
        Home::Namespace => "Pods with these labels; of the policy's own namespace unless namespaceSelector says otherwise.",
        Home::Cluster => "Pods with these labels; of all namespaces unless namespaceSelector says otherwise.",
    };
    let block = Schema::object(
        "Addresses, pods' too.",
        [
            ("cidr", Schema::text("A block like 10.0.0.0/8 or fd00::/8.").longest(43).with("format", "cidr")),
            (
                "except",
                Schema::list(
                    "Blocks within cidr that are left out.",
                    1000,
                    Schema::text("A smaller block.").longest(43).with("format", "cidr"),
                )
                .atomic(),
            ),
        ],
    )
    .required(&["cidr"])
    .keeps_unknown();
    let accounts = Schema::list(
        "Pods that run as one of these service accounts, by name.",
        1000,
        Schema::text("The name of a ServiceAccount.").longest(253),
    )
    .at_least_one()
    .atomic();
    let names = Schema::list(
        "Names outside of the cluster: the addresses that the pod has been told of them. Egress alone. Alone in its peer, but for allowPrivate and \
         nameCheck. This version learns none, so in a cluster it matches nothing.",
        MAX_NAMES,
        l7::name("A name, or a pattern of names: exactly one of them.", []),
    )
    .at_least_one()
    .atomic();
    // Without defaults: they would be put beside all other kinds of peers, too.
    let names = [
        ("fqdns", names),
        (
            "allowPrivate",
            Schema::boolean("true: the names may have private addresses, and those of the cluster, too. False unless given."),
        ),
        (
            "nameCheck",
            Schema::word(
                "Enforce, as unless given: where a connection says which server it wants, that must be one of the names. AddressOnly: the address \
                 is enough. This version asks for the address alone.",
                &["Enforce", "AddressOnly"],
            ),
        ),
    ];
    let names: Vec<_> = names.into_iter().filter(|_| direction == Direction::Egress).collect();
    let selects = "has(self.podSelector) || has(self.namespaceSelector) || has(self.serviceAccounts)";
    let peer = Schema::object(
        "Pods, nodes or addresses. What selects pods is AND.",
        [
            ("podSelector", selector(own)),
            ("namespaceSelector", selector("Pods of these namespaces; {} is all of them.")),
            ("serviceAccounts", accounts),
            (
                "nodeSelector",
                selector("Addresses of the nodes with these labels, and so pods in their network. Alone in its peer."),
            ),
            ("ipBlock", block),
        ]
        .into_iter()
        .chain(names),
    )
    .keeps_unknown()
    .rule(
        &format!(
            "{selects} || has(self.nodeSelector) || has(self.ipBlock){}",
            if direction == Direction::Egress { " || has(self.fqdns)" } else { "" }
        ),
        &format!("a peer without {}", one_of(Dialect::Sluice.peer_fields(direction))),
    )
    .rule(&format!("!has(self.ipBlock) || !({selects})"), "ipBlock beside a selector")
    .rule(&format!("!has(self.nodeSelector) || !({selects})"), "nodeSelector beside a selector")
    .rule("!has(self.ipBlock) || !has(self.nodeSelector)", "ipBlock beside another");
    if direction == Direction::Ingress {
        return peer;
    }
    peer.rule(&format!("!has(self.fqdns) || !({selects})"), "fqdns beside a selector")
        .rule("!has(self.fqdns) || !has(self.nodeSelector)", "nodeSelector beside another")
        .rule("!has(self.fqdns) || !has(self.ipBlock)", "ipBlock beside another")
}

fn port() -> Schema {
    let name = r"^([a-z0-9]-?)*[a-z]+(-?[a-z0-9])*$";
    let port = Schema::int_or_string(
        "The destination's port by number, or by the name that it has on the destination's pod. Absent: all of the protocol.",
    )
    .with("minimum", 1)
    .with("maximum", 65535)
    .longest(15)
    .with("pattern", name);
    Schema::object(
        "A port or a range of them.",
        [
            ("protocol", Schema::word("TCP unless given.", &["TCP", "UDP", "SCTP"]).default("TCP")),
            ("port", port),
            ("endPort", Schema::integer("The last port of a range that begins with port.", 1, 65535)),
        ],
    )
    .keeps_unknown()
    .rule_of(".endPort", "!has(self.endPort) || has(self.port)", "endPort without port")
    .rule_of(".endPort", "!has(self.endPort) || !has(self.port) || type(self.port) == int", "endPort beside a port's name")
    .rule_of(
        ".endPort",
        "!has(self.endPort) || !has(self.port) || type(self.port) != int || self.endPort >= self.port",
        "endPort is less than port",
    )
}
