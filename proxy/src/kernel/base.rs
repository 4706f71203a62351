//! The chains that every packet meets, and why each rule stands where it does.
//!
//! A pod may hold CAP_NET_RAW: it can send any frame out of its interface, and what it sends is all it can do. So every rule is
//! asked: what could such a frame gain here?
//!
//! `prerouting`, priority -90 unless configured, after kube-proxy's DNAT (-100), so addresses are pods' and never a Service's, leads each family to
//! chains of its own, which begin with `arriving`:
//!
//! | rule | attack it closes |
//! |---|---|
//! | IP source routes (`lsrr`, `ssrr`), IPv6 routing headers: drop | They take effect after this hook: the packet is judged as one to the first stop (or to the proxy's own socket) and goes on to another. Before everything, because an established flow's packet can carry one too. |
//! | in by an interface of `@inside`: `goto from_pod` | |
//! | behind a pod's interface: into `@inside`, `goto from_pod` | A pod's interface is any that has a kind (veth, bridge, ...), unless it is an uplink by name or of a kind that leads outside. What is unknown is a pod's: closed. Two look-ups by name for each packet cost too much, so the number is kept. An interface that turns into an uplink stays closed until the next whole replacement, which empties the set. |
//! | `lo`: accept | The node speaks to itself. No frame from outside comes in by `lo`. The upstream leg to a server on the node itself runs here. |
//! | from outside with a local pod's address: drop | A neighbour of the node would be judged as that pod. |
//!
//! `from_pod`, packets that a pod sent:
//!
//! | rule | attack it closes |
//! |---|---|
//! | from `::` to the link, neighbour discovery: accept | None: a pod without an address yet (duplicate address detection). It stays on the link. |
//! | `fib saddr . iif oif missing`: drop | Any forged source: another pod's answer in its established flow (so before everything that trusts a flow), the node's own address (which policy always admits), an outside address from an `ipBlock`. |
//! | a look-up of a pod that has rules by name: `goto lookups_divert` ([`lookups`]) | Whatever is known of its flow: a second question from the port of an answered one is no part of anything that was judged. |
//! | `jump live` | |
//! | to the node, a group or everybody, by UDP to the port of a tunnel (VXLAN, Geneve) or by a protocol that carries packets: drop | The node's end of a tunnel trusts its peers by their knowing it: what a pod wraps up arrives here as a packet of another node's pod. |
//! | `ip saddr . ip daddr @itself`: accept | None: a pod to itself, also through a Service. Behind the spoof check, and not from outside, where the pair can only be forged. |
//! | DHCP from 0.0.0.0 to 255.255.255.255, and from a link-local address to ff02::1:2: accept | None: a pod without an address yet, to a server on the node. Neither destination is forwarded. |
//! | a source that is no local pod: drop | The first SYN of a pod that the snapshot doesn't know yet. Behind `live`, so that the node's probe of such a pod is answered. |
//!
//! `live`, packets of flows that were judged before:
//!
//! | rule | attack it closes |
//! |---|---|
//! | established and not *diverted*: `goto established`, which accepts; while tuples are revoked, it drops `@revoked` first | None, and nearly all packets end here: so it comes first. What the proxy has to do with carries the label. |
//! | IPv6, a fragment header: drop | Reassembly takes off one fragment header. Fragments inside fragments are left, show no port, and match no Deny rule; the pod would put them together. |
//! | ICMP of a pod, about no flow, or about one that it is no end of: out of this chain, to be judged like any packet | An error with a forged quotation is *related* to the flow it quotes: it would reach the flow's ends from a pod that may not speak to them, with whatever it carries, and the sockets of the proxy ("fragmentation needed"). |
//! | to 127.0.0.0/8 and not a reply: drop | With `route_localnet` (kube-proxy sets it) a pod would reach the proxy's listener, or the node's own, by its loopback address. Replies stay: a node's connection to its NodePort by 127.0.0.1 is translated. |
//! | `socket transparent 1 socket wildcard 0`: `goto own_socket`, which labels what begins, marks and accepts | Packets of the proxy's own sockets, ICMP errors about them included. A pod can end the tracking of a live proxied flow (forged FIN and RST, or by waiting) and have it begin anew: without the label it would be established and no longer the proxy's. The tuple must be that of a live connection, and the source was checked. Without `wildcard 0` a listener matches at any address. |
//! | invalid, no bare SYN, `socket transparent 1`: mark, accept | None: the last step of a handshake with the proxy, which `wildcard` does not match. Client and server leg share ports and so one conntrack entry; where the last connection's server leg is still ending, the new one's packets are invalid to it. A bare SYN stays out, and a listener takes nothing else. |
//! | label *diverted*: `goto divert` | The five-tuple of a proxied connection that has ended, or of the proxy's own leg: conntrack still holds it as established, and a pod's packet would go to the server unread. |
//! | `@revoked`: drop | The flow that a new policy forbids: its entry is deleted, and the server's next packet would open one the other way round. |
//! | related ICMP: accept | None that a pod gains alone: errors about allowed flows. Related TCP and UDP (a helper's expectations) are judged as new: a pod could talk a helper into opening any port. |
//! | neighbour discovery to the link or the node: accept | Only what is not forwarded: to another pod's address it would be a channel. |
//! | neighbour solicitation and advertisement in by a bridge to a local pod: accept | A channel between pods of one bridge that is there all the same, as the bridge itself carries these ([`bridge`](super::bridge)). With bridge-nf-call-ip6tables it shows them to this hook, and without them isolated pods would lose their neighbours. |
//!
//! `judge`, what begins a flow (or has none: untracked, invalid): egress of the source, ingress of the destination, both by
//! address; a destination in the node's pod CIDRs that is nobody's, not even a pod's elsewhere (not every CNI keeps to
//! `podCIDRs`): drop; what either end wants inspected: `goto divert`. All else is allowed.
//!
//! `inspect` labels the flow. What can't be labelled (no conntrack entry, one from before the first table) could later
//! pass by `established`: drop. Nobody reads what is neither TCP nor, where it is inspected, QUIC: no policy asks for more of UDP.
//!
//! Where another engine's rules forbid that flows are diverted ([`others`](super::others)), `inspect` denies and `divert` drops:
//! connections that the proxy holds already go on by their sockets, and no other begins.
//!
//! What is allowed unread, and what only Audit policies want read, is offered to a listener of its own: [`audited`].
//!
//! `divert` hands the flow's first direction to the proxy's listener, or its sockets for QUIC; the kernel leaves the rule where none listens, and the next
//! one drops. The other direction belongs to the proxy's socket, which `live` has found, or to nobody: drop.
//!
//! `output` labels what leaves by a transparent socket, which are the proxy's upstream legs, and turns the answers of servers on
//! the node itself back to the proxy; they would go to the pod. `forward` drops what carries our mark (the routing rule is gone,
//! and the packet was meant for the proxy), what belongs to a diverted flow (another program has taken our mark away), and new
//! flows to an interface behind which the snapshot knows no such pod. Neighbour discovery to the link is never forwarded: here it
//! can only be a bridge's, shown by bridge-nf-call-ip6tables, and passes. What the node routed has a smaller hop limit than it must
//! have: no receiver heeds it, and it is dropped, as it would be a channel to pods of other bridges.
//!
//! The node's own packets to its pods pass `output`, never `prerouting`: they are always allowed, and no rule here says so. No
//! rule accepts by mark.
//!
//! Most drops are a `goto` a chain that says by its name why: it counts, reports some, and drops ([`denied`]).
//!
//! All this holds as long as the table does. Another program on the node that flushes the ruleset takes it along:
//! [`harm`](super::harm) notices, and the proxy writes it anew within a second and ends what began meanwhile. Until then
//! nothing is enforced; nor, where no proxy runs to notice it, until one is started.

mod audited;
mod lookups;
mod sets;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nftnl::{ChainType, Hook};
use sluice_policy::Direction;

use super::config::Config;
use super::denied;
use super::expr::{self, Address, Side};
use super::names::{self, Edition};
use super::object::{Chain, Family, Rule, Verdict};
use super::pretence;
use super::ration;
use super::site::Site;
use super::transaction::BaseHook;

pub(super) use sets::{
    AUDITED, ELSEWHERE, INSIDE, ITSELF, LOCAL, LOOKUPS, OUTSIDE, POD_CIDRS, UPLINKS, read, read_port, revoked_set, sets,
    stand_set,
};
use sets::{NEIGHBOURS, ON_LINK, OUTSIDE_KINDS};

/// Where our chain of `forward` stands.
const FORWARD_PRIORITY: i32 = -90;
/// Where `type route` chains stand (mangle).
const OUTPUT_PRIORITY: i32 = -150;

const DIVERT: &str = "divert";
const ARRIVING: &str = "arriving";
const OPTIONS: &str = "options";
const OWN_SOCKET: &str = "own_socket";
const ESTABLISHED: &str = "established";
const LIVE: &str = "live";
const JUDGE: &str = "judge";
const FIRST_SEEN: &str = "first_seen";
const FROM_POD: &str = "from_pod";

const LOOSE_SOURCE_ROUTE: u8 = 131;
const STRICT_SOURCE_ROUTE: u8 = 137;

/// The base chains and where they hang.
pub(super) fn hooks(config: &Config) -> [(&'static str, BaseHook); 3] {
    [
        (names::PREROUTING, BaseHook { hook: Hook::PreRouting, priority: config.hook_priority, kind: ChainType::Filter }),
        (names::OUTPUT, BaseHook { hook: Hook::Out, priority: OUTPUT_PRIORITY, kind: ChainType::Route }),
        (names::FORWARD, BaseHook { hook: Hook::Forward, priority: FORWARD_PRIORITY, kind: ChainType::Filter }),
    ]
}

/// The chains that the base chains lead to.
pub(super) fn chains(config: &Config, edition: Edition, cutting: bool) -> Vec<Chain> {
    let chain = |name: &str, rules: Vec<Rule>| Chain { name: edition.name(name), rules };
    let mut chains = vec![
        chain(DIVERT, divert(config, edition)),
        chain(OWN_SOCKET, own_socket(config, edition)),
        chain(OPTIONS, options(edition)),
        // Entered by pods that are isolated in the other direction alone.
        chain(super::address::STARTED, vec![started()]),
    ];
    chains.extend(denied::chains(config, edition));
    chains.extend(Direction::BOTH.map(|direction| {
        let rules = if config.diverts { inspect(config, direction, edition) } else { no_proxy(edition) };
        chain(&inspect_of(direction), rules)
    }));
    chains.extend(established(edition, cutting));
    for family in Family::BOTH {
        let chain = |name: &str, rules: Vec<Rule>| Chain { name: edition.sets_of(name, family), rules };
        chains.extend([
            chain(ARRIVING, arriving(family, edition)),
            chain(LIVE, live(config, family, edition)),
            chain(JUDGE, judge(config, family, edition)),
            chain(FIRST_SEEN, first_seen(family, edition)),
            chain(FROM_POD, from_pod(config, family, edition)),
        ]);
        chains.extend(audited::chains(config, family, edition));
        chains.extend(lookups::chain(config, family, edition));
    }
    chains
}

/// What becomes of an established flow's packet: where tuples are revoked, they are looked up first.
///
/// The only chains of these that a small change may write. Most of the time nothing is revoked, and a look-up of five fields
/// for every packet would cost a stream some hundredths of its rate.
pub(super) fn established(edition: Edition, cutting: bool) -> [Chain; 2] {
    Family::BOTH.map(|family| {
        let mut rules = Vec::new();
        if cutting {
            rules.push(revoked(family, edition));
        }
        rules.push(Rule::new([], &Verdict::Accept));
        Chain { name: edition.sets_of(ESTABLISHED, family), rules }
    })
}

fn revoked(family: Family, edition: Edition) -> Rule {
    Rule::new([expr::whole_tuple_in(family, &names::revoked(family))], &denied::goto(Site::Revoked, edition))
}

/// TCP that doesn't begin with a bare SYN: see [`program`](super::program).
fn started() -> Rule {
    Rule::new([expr::state(expr::NEW | expr::INVALID), expr::not_a_bare_syn()], &Verdict::Drop)
}

/// The rules of the base chains: changing them is the switch from one edition to the next.
pub(super) fn switch(config: &Config, edition: Edition) -> Vec<Chain> {
    let chain = |name: &str, rules: Vec<Rule>| Chain { name: name.to_owned(), rules };
    vec![
        chain(names::PREROUTING, prerouting(edition)),
        chain(names::OUTPUT, output(config)),
        chain(names::FORWARD, forward(config, edition)),
    ]
}

/// How many rules each of these chains has.
pub(super) fn rule_counts(config: &Config, edition: Edition, cutting: bool) -> BTreeMap<String, usize> {
    let chains = switch(config, edition).into_iter().chain(chains(config, edition, cutting));
    chains.map(|chain| (chain.name, chain.rules.len())).collect()
}

fn prerouting(edition: Edition) -> Vec<Rule> {
    let to = |family| Verdict::Goto(edition.sets_of(ARRIVING, family));
    vec![Rule::new([expr::family(Family::V4)], &to(Family::V4)), Rule::new([], &to(Family::V6))]
}

fn arriving(family: Family, edition: Edition) -> Vec<Rule> {
    let chain = |name: &str| edition.sets_of(name, family);
    let options = match family {
        Family::V4 => Rule::new([expr::has_options()], &Verdict::Jump(edition.name(OPTIONS))),
        Family::V6 => Rule::new([expr::routing_header()], &denied::goto(Site::SourceRouted, edition)),
    };
    vec![
        options,
        Rule::new([expr::interface_in(&edition.name(INSIDE))], &Verdict::Goto(chain(FROM_POD))),
        Rule::new([neither(Side::In, edition)], &Verdict::Goto(chain(FIRST_SEEN))),
        Rule::new([expr::from_loopback()], &Verdict::Accept),
        Rule::new([expr::address_in(family, Address::Source, &chain(LOCAL), false)], &denied::goto(Site::Forged, edition))
            .because("a pod's address from outside"),
        Rule::new([], &Verdict::Jump(chain(LIVE))),
        Rule::new([], &Verdict::Goto(chain(JUDGE))),
    ]
}

/// What may be done with an IPv4 packet that has options.
fn options(edition: Edition) -> Vec<Rule> {
    let drop = denied::goto(Site::SourceRouted, edition);
    [LOOSE_SOURCE_ROUTE, STRICT_SOURCE_ROUTE].map(|option| Rule::new([expr::ip_option(option)], &drop)).into()
}

/// In or out by what is a pod's interface, as far as anybody knows.
pub(super) fn neither(side: Side, edition: Edition) -> Vec<expr::Expr> {
    expr::interface_is_neither(side, &edition.name(UPLINKS), &edition.name(OUTSIDE_KINDS))
}

fn from_pod(config: &Config, family: Family, edition: Edition) -> Vec<Rule> {
    let chain = |name: &str| edition.sets_of(name, family);
    let mut rules = Vec::new();
    if family == Family::V6 {
        rules.push(Rule::new(
            [
                expr::address_is(Address::Source, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
                expr::icmpv6_type_in(&edition.name(ON_LINK)),
                expr::destination_begins(Family::V6, &[0xff, 0x02]),
            ],
            &Verdict::Accept,
        ));
    }
    let dhcp = match family {
        Family::V4 => expr::frame::dhcp_v4(),
        Family::V6 => expr::frame::dhcp_v6(),
    };
    rules.extend([
        Rule::new([expr::source_not_behind_its_interface()], &denied::goto(Site::Forged, edition)).because("forged source")
    ]);
    rules.extend(lookups::from_pod(config, family, edition));
    rules.push(Rule::new([], &Verdict::Jump(chain(LIVE))));
    rules.extend(pretence::tunnels(edition));
    rules.extend([
        Rule::new([expr::both_addresses_in(family, &chain(ITSELF))], &Verdict::Accept).because("a pod to itself"),
        Rule::new([expr::family(family), dhcp], &Verdict::Accept).because("DHCP"),
        Rule::new([expr::address_in(family, Address::Source, &chain(LOCAL), true)], &denied::goto(Site::Unknown, edition))
            .because("a pod that is not known yet"),
        Rule::new([], &Verdict::Goto(chain(JUDGE))),
    ]);
    rules
}

/// Behind a pod's interface that `inside` doesn't hold yet. A full set must change nothing, so learning has a rule of its own.
fn first_seen(family: Family, edition: Edition) -> Vec<Rule> {
    vec![
        Rule::acting([ration::learn_interface(&edition.name(INSIDE))]),
        Rule::new([], &Verdict::Goto(edition.sets_of(FROM_POD, family))),
    ]
}

fn live(config: &Config, family: Family, edition: Edition) -> Vec<Rule> {
    let mut rules = vec![Rule::new(
        [expr::state(expr::ESTABLISHED), expr::lacks_label(config.label_bit)],
        &Verdict::Goto(edition.sets_of(ESTABLISHED, family)),
    )];
    if family == Family::V6 {
        rules.push(Rule::new([expr::fragment_header()], &Verdict::Drop).because("fragments inside fragments"));
    }
    rules.extend(pretence::errors(family, edition));
    if family == Family::V4 {
        rules.push(
            Rule::new(
                [
                    expr::family(Family::V4),
                    expr::destination_begins(Family::V4, &[Ipv4Addr::LOCALHOST.octets()[0]]),
                    expr::not_state(expr::ESTABLISHED | expr::RELATED),
                ],
                &denied::goto(Site::ToLoopback, edition),
            )
            .because("the node's loopback from outside"),
        );
    }
    rules.extend([
        Rule::new([expr::socket_transparent(true), expr::socket_not_wildcard()], &Verdict::Goto(edition.name(OWN_SOCKET)))
            .because("the proxy's own connections"),
        Rule::new(
            [
                expr::state(expr::INVALID),
                expr::not_a_bare_syn(),
                expr::socket_transparent(true),
                expr::set_mark(config.mark.value, config.mark.mask),
            ],
            &Verdict::Accept,
        )
        .because("the proxy's connections that begin"),
        Rule::new([expr::has_label(config.label_bit)], &Verdict::Goto(edition.name(DIVERT))),
        revoked(family, edition),
    ]);
    match family {
        Family::V4 => rules.push(Rule::new([expr::state(expr::RELATED), expr::protocol(expr::ICMP)], &Verdict::Accept)),
        Family::V6 => {
            rules.push(Rule::new([expr::state(expr::RELATED), expr::protocol(expr::ICMPV6)], &Verdict::Accept));
            let reach = [
                expr::destination_is_link_local(),
                expr::destination_begins(Family::V6, &[0xff, 0x02]),
                expr::destination_is_local(true),
            ];
            let on_link = edition.name(ON_LINK);
            rules.extend(reach.map(|destination| {
                Rule::new([expr::family(Family::V6), expr::icmpv6_type_in(&on_link), destination], &Verdict::Accept)
            }));
            rules.push(
                Rule::new(
                    [
                        expr::address_in(Family::V6, Address::Destination, &edition.sets_of(LOCAL, family), false),
                        expr::icmpv6_type_in(&edition.name(NEIGHBOURS)),
                        expr::frame::from_bridge(),
                    ],
                    &Verdict::Accept,
                )
                .because("neighbours on a bridge"),
            );
        }
    }
    rules
}

fn judge(config: &Config, family: Family, edition: Edition) -> Vec<Rule> {
    let mut rules: Vec<Rule> = [(Direction::Egress, Address::Source), (Direction::Ingress, Address::Destination)]
        .map(|(direction, address)| Rule {
            words: expr::address_verdict(family, address, &edition.dispatch(direction, family)),
            comment: None,
        })
        .into();
    let [cidrs, local, elsewhere] = [POD_CIDRS, LOCAL, ELSEWHERE].map(|set| edition.sets_of(set, family));
    rules.extend([
        Rule::new(
            [
                expr::address_in(family, Address::Destination, &local, true),
                expr::address_also_in(family, Address::Destination, &cidrs, false),
                expr::address_also_in(family, Address::Destination, &elsewhere, true),
                expr::destination_is_local(false),
            ],
            &denied::goto(Site::Unknown, edition),
        )
        .because("to a pod that is not known yet"),
        Rule::new([expr::has_label(config.label_bit)], &Verdict::Goto(edition.name(DIVERT))),
    ]);
    rules.extend(audited::of_allowed(config, family, edition));
    rules.extend(denied::reports_of_passed(config, family, &local));
    rules.extend(denied::reports_of_audited(config, family, &edition.sets_of(AUDITED, family)));
    rules
}

/// The chain that marks a flow for the proxy, because a policy of this direction wants it read.
pub(super) fn inspect_of(direction: Direction) -> String {
    format!("inspect_{direction}")
}

fn inspect(config: &Config, direction: Direction, edition: Edition) -> Vec<Rule> {
    let quic = config.quic_port.map_or_else(Vec::new, |_| expr::not_protocol(expr::UDP));
    vec![
        Rule::new([expr::not_protocol(expr::TCP), quic], &denied::goto(Site::Unreadable(direction), edition)),
        Rule::acting([expr::set_label(config.label_bit)]),
        Rule::new([expr::has_label(config.label_bit)], &Verdict::Return),
        Rule::new([], &denied::goto(Site::Untracked, edition)).because("can't be labelled"),
    ]
}

/// Where nothing may be diverted, what only the proxy could decide is denied.
fn no_proxy(edition: Edition) -> Vec<Rule> {
    vec![
        Rule::new([], &denied::goto(Site::Unheard, edition))
            .because("needs the proxy, and another engine's rules forbid it: see /readyz"),
    ]
}

fn own_socket(config: &Config, edition: Edition) -> Vec<Rule> {
    let begins = || expr::state(expr::NEW | expr::RELATED);
    vec![
        Rule::acting([begins(), expr::set_label(config.label_bit)]),
        Rule::new([begins(), expr::lacks_label(config.label_bit)], &denied::goto(Site::Untracked, edition))
            .because("can't be labelled"),
        Rule::new([expr::set_mark(config.mark.value, config.mark.mask)], &Verdict::Accept),
    ]
}

fn divert(config: &Config, edition: Edition) -> Vec<Rule> {
    let [v4, v6] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    let streams = [(v4, expr::TCP, config.proxy_port_v4), (v6, expr::TCP, config.proxy_port_v6)];
    let quic = config.quic_port.into_iter().flat_map(|port| [(v4, expr::UDP, port), (v6, expr::UDP, port)]);
    let mut rules = audited::of_diverted(config);
    rules.extend(streams.into_iter().chain(quic).filter(|_| config.diverts).map(|(address, protocol, port)| {
        Rule::new(
            [
                expr::original_direction(),
                expr::family(Family::of(address)),
                expr::protocol(protocol),
                expr::tproxy(address, port),
                expr::set_mark(config.mark.value, config.mark.mask),
            ],
            &Verdict::Accept,
        )
    }));
    if config.quic_port.is_some() {
        let neither = [expr::not_protocol(expr::TCP), expr::not_protocol(expr::UDP), vec![expr::counter()]];
        rules.push(Rule::new(neither, &Verdict::Drop).because("errors about what the proxy answers"));
    }
    rules.push(Rule::new([expr::original_direction()], &denied::goto(Site::Unheard, edition)).because("nobody listens"));
    rules.push(Rule::new([vec![expr::counter()]], &Verdict::Drop).because("to a leg of the proxy that has ended"));
    rules
}

fn output(config: &Config) -> Vec<Rule> {
    vec![
        Rule::acting([expr::state(expr::NEW), expr::socket_transparent(true), expr::set_label(config.label_bit)]),
        Rule::acting([
            expr::reply_direction(),
            expr::has_label(config.label_bit),
            expr::socket_transparent(false),
            expr::set_mark(config.mark.value, config.mark.mask),
        ]),
    ]
}

fn forward(config: &Config, edition: Edition) -> Vec<Rule> {
    let mut rules = vec![
        Rule::new([expr::has_mark(config.mark.value, config.mark.mask)], &denied::goto(Site::Unheard, edition))
            .because("meant for the proxy"),
        Rule::new([expr::has_label(config.label_bit), vec![expr::counter()]], &Verdict::Drop).because("the proxy's flow"),
        Rule::new([expr::state(expr::ESTABLISHED | expr::RELATED)], &Verdict::Accept),
    ];
    let reach = [expr::destination_is_link_local(), expr::destination_begins(Family::V6, &[0xff, 0x02])];
    rules.extend(reach.map(|destination| {
        let words = [expr::family(Family::V6), expr::icmpv6_type_in(&edition.name(ON_LINK)), destination];
        Rule::new(words, &Verdict::Accept).because("neighbours on a bridge")
    }));
    rules.push(
        Rule::new(
            [
                expr::family(Family::V6),
                expr::icmpv6_type_in(&edition.name(NEIGHBOURS)),
                expr::was_routed(),
                vec![expr::counter()],
            ],
            &Verdict::Drop,
        )
        .because("neighbour discovery that left its link"),
    );
    rules.extend(Family::BOTH.map(|family| {
        let local = edition.sets_of(LOCAL, family);
        Rule::new([expr::address_in(family, Address::Destination, &local, false)], &Verdict::Accept)
    }));
    rules.push(
        Rule::new([neither(Side::Out, edition)], &denied::goto(Site::Unknown, edition)).because("to a pod that is not known yet"),
    );
    rules
}
