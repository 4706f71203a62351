//! Flows that are read for the sake of Audit policies alone: all that is enforced allows them unread.
//!
//! At the end of `judge`, behind every rule that denies or diverts, what begins such a flow at a port where an Audit policy looks into
//! contents is offered to a listener of its own.
//!
//! | | |
//! |---|---|
//! | the proxy listens there | The flow is labelled, and from then on the proxy's like any other. |
//! | nobody does | The kernel leaves the rule at its `tproxy`, and the packet goes on by its ordinary way, without the label: an established flow that nobody reads, like any that is allowed. |
//!
//! What could go wrong, and doesn't:
//!
//! | rule | without it |
//! |---|---|
//! | a bare SYN of a new flow | A flow that once passed would be taken in the middle when the proxy comes back. |
//! | the label *offered* is set first, and must be there | A packet that has got a socket and can't be labelled as the proxy's is dropped on its way (`ip_forward`): the flow would not pass. |
//! | the proxy judges by its table all the same | By now it may be denied, or read for more than audits. |

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use sluice_policy::Direction;

use super::super::config::Config;
use super::super::expr::{self, Address, Expr};
use super::super::names::Edition;
use super::super::object::{Chain, Family, Rule, Verdict};
use super::sets::{read, read_port};

const READ: &str = "audited_read";
const OFFER: &str = "audited_offer";
const WHY: &str = "for Audit policies alone";

/// Whether anything is diverted for the sake of Audit policies alone.
fn offers(config: &Config) -> bool {
    config.audits && config.diverts
}

/// At the end of `judge`.
pub(super) fn of_allowed(config: &Config, family: Family, edition: Edition) -> Option<Rule> {
    let begins = [expr::state(expr::NEW), expr::bare_syn()];
    offers(config).then(|| Rule::new(begins, &Verdict::Jump(edition.sets_of(READ, family))).because(WHY))
}

/// At the beginning of `divert`: a handshake stays with the listener that it began with.
pub(super) fn of_diverted(config: &Config) -> Vec<Rule> {
    let rule = |family| {
        let words =
            [expr::original_direction(), expr::has_label(config.offered_bit()), to_audits(config, family), marked(config)];
        Rule::new(words, &Verdict::Accept).because(WHY)
    };
    if offers(config) { Family::BOTH.map(rule).into() } else { Vec::new() }
}

/// Whom `judge` leads to.
pub(super) fn chains(config: &Config, family: Family, edition: Edition) -> Vec<Chain> {
    let chain = |name: &str, rules| Chain { name: edition.sets_of(name, family), rules };
    if !offers(config) {
        return Vec::new();
    }
    vec![chain(READ, wants(family, edition)), chain(OFFER, offer(config, family))]
}

/// Whether an Audit policy reads there, at either end.
fn wants(family: Family, edition: Edition) -> Vec<Rule> {
    let offer = Verdict::Goto(edition.sets_of(OFFER, family));
    let ends = [(Direction::Egress, Address::Source), (Direction::Ingress, Address::Destination)];
    let of_end = |(direction, address)| {
        let (every, ports) = (edition.sets_of(&read(direction), family), edition.sets_of(&read_port(direction), family));
        [
            Rule::new([expr::address_in(family, address, &every, false)], &offer),
            Rule::new([expr::address_and_port_in(family, address, expr::TCP, &ports)], &offer),
        ]
    };
    ends.into_iter().flat_map(of_end).collect()
}

fn offer(config: &Config, family: Family) -> Vec<Rule> {
    let offered = config.offered_bit();
    let taken = [expr::has_label(offered), to_audits(config, family), expr::set_label(config.label_bit), marked(config)];
    vec![Rule::acting([expr::set_label(offered)]), Rule::new(taken, &Verdict::Accept)]
}

fn to_audits(config: &Config, of: Family) -> Vec<Expr> {
    let listener = match of {
        Family::V4 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Family::V6 => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    [expr::family(of), expr::protocol(expr::TCP), expr::tproxy(listener, config.audit_port)].concat()
}

fn marked(config: &Config) -> Vec<Expr> {
    expr::set_mark(config.mark.value, config.mark.mask)
}
