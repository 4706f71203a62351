//! What becomes of a packet that is denied: counted, reported now and then, dropped.
//!
//! Each [`Site`] has a chain, which others enter by `goto`:
//!
//! | rule | |
//! |---|---|
//! | `update @reported_egress_v4 { ip saddr counter limit rate 10/second } log prefix ".." group 15001` | For each pod apart: counts, and goes on to the log while the limit lasts. |
//! | `counter name "isolated_egress"` | Counts every packet. The counter is an object of its own, which no replacement sets back. Behind the pod's: who sees that it has moved finds the pod's has. |
//! | drop, or reject | Whatever happened before. |
//!
//! Nothing here changes a verdict. A set that is full, or an element beyond its limit, ends the evaluation of the first rule
//! alone; a log without a reader is thrown away by the kernel. So the last rule is always reached.
//!
//! The element's counter says how many packets were denied, the records how many were reported: the difference was left out, be
//! it by the limit, by a queue that was full or by a proxy that didn't run. Elements vanish [`KEPT_FOR`] after their last packet.
//!
//! Allowed flows pass no rule of this, unless the configuration asks for records of them too.

use std::time::Duration;

use nftnl::nftnl_sys as sys;
use sluice_policy::Direction;

use super::config::{Config, Deny, Log};
use super::expr::{self, Address, Expr, Value};
use super::names::Edition;
use super::object::{Chain, Family, Field, Rule, Set, SetKind, Verdict};
use super::ration;
use super::site::{Budget, Site};

/// How long an element stays after its last packet.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(600);
/// What of a packet is reported: an IPv6 header with several extensions, and ports.
const REPORTED_BYTES: u32 = 128;
/// So many lines the kernel sends as one message, if they come within its flush time.
const LINES_AT_ONCE: u16 = 16;

/// Where a packet is sent to be denied.
pub(super) fn goto(site: Site, edition: Edition) -> Verdict {
    Verdict::Goto(edition.name(&site.name()))
}

/// The chains of all sites that drop.
pub(super) fn chains(config: &Config, edition: Edition) -> Vec<Chain> {
    Site::denials().map(|site| Chain { name: edition.name(&site.name()), rules: rules(site, config) }).collect()
}

/// The counters of all sites that drop.
pub(super) fn counters() -> impl Iterator<Item = String> {
    Site::denials().map(Site::name)
}

/// The sets of those who are reported, which no edition replaces.
pub(super) fn sets(config: &Config) -> Vec<Set> {
    let Some(log) = &config.log else { return Vec::new() };
    let passed = if log.passed { &Budget::PASSED[..] } else { &[] };
    let audited = if config.audits { &Budget::AUDITED[..] } else { &[] };
    let sets = Budget::DENIALS.iter().chain(passed).chain(audited).flat_map(|budget| budget.sets());
    sets.map(|(family, name)| {
        let field = family.map_or(Field::InterfaceIndex, Field::Address);
        Set::new(name, &[field], SetKind::Rationed)
    })
    .collect()
}

fn rules(site: Site, config: &Config) -> Vec<Rule> {
    let by_policy = matches!(site.budget(), Budget::Pod(_));
    let counted = ration::named_counter(&site.name());
    let mut rules = reports(site, config.log.as_ref());
    match config.deny {
        // Whoever speaks QUIC falls back at once if it hears of it, and waits for seconds if not.
        _ if matches!(site, Site::Unreadable(_)) => {
            rules.push(Rule::acting([vec![counted]]));
            rules.push(Rule::acting([expr::protocol(expr::UDP), vec![reject_by_icmp()]]));
            match config.deny {
                Deny::Drop => rules.push(Rule::new([], &Verdict::Drop)),
                Deny::Reject => rules.push(Rule::acting([vec![reject_by_icmp()]])),
            }
        }
        Deny::Reject if by_policy => {
            rules.push(Rule::acting([vec![counted]]));
            rules.push(Rule::acting([expr::protocol(expr::TCP), vec![reject_by_reset()]]));
            rules.push(Rule::acting([vec![reject_by_icmp()]]));
        }
        Deny::Drop | Deny::Reject => rules.push(Rule::new([vec![counted]], &Verdict::Drop)),
    }
    rules
}

/// The rules that report a packet, each for its family.
fn reports(site: Site, log: Option<&Log>) -> Vec<Rule> {
    let Some(log) = log else { return Vec::new() };
    let line = || ration::log(&site.prefix(), log.group, REPORTED_BYTES, LINES_AT_ONCE);
    let direction = match site.budget() {
        Budget::Interface => {
            let [(_, set)] = &site.budget().sets()[..] else { return Vec::new() };
            return vec![Rule::acting([ration::interface_rationed(set, log.ration()), vec![line()]])];
        }
        Budget::Pod(direction) | Budget::Passed(direction) | Budget::Audited(direction) => direction,
    };
    Family::BOTH.map(|family| Rule::acting([by_pod(site, direction, family, log), vec![line()]])).into()
}

fn by_pod(site: Site, direction: Direction, family: Family, log: &Log) -> Vec<Expr> {
    let pod = match direction {
        Direction::Egress => Address::Source,
        Direction::Ingress => Address::Destination,
    };
    let mut words = expr::family(family);
    words.extend(ration::address_rationed(family, pod, &site.budget().set(family), log.ration()));
    words
}

/// The rules that report what begins an allowed flow: at the end of `judge`, if the configuration asks for it.
///
/// As its source's egress where that is a local pod, else as its destination's ingress.
pub(super) fn reports_of_passed(config: &Config, family: Family, local: &str) -> Vec<Rule> {
    let Some(log) = config.log.as_ref().filter(|log| log.passed) else { return Vec::new() };
    reports_of_begun(log, family, local, Site::Passed)
}

/// The same for the pods that an Audit policy selects, which are in the set `audited`.
pub(super) fn reports_of_audited(config: &Config, family: Family, audited: &str) -> Vec<Rule> {
    let Some(log) = config.log.as_ref().filter(|_| config.audits) else { return Vec::new() };
    reports_of_begun(log, family, audited, Site::Audited)
}

fn reports_of_begun(log: &Log, family: Family, local: &str, site: fn(Direction) -> Site) -> Vec<Rule> {
    let is_pod = |address, inverted| expr::address_also_in(family, address, local, inverted);
    let begins = || [expr::state(expr::NEW), expr::family(family)].concat();
    [
        (Direction::Egress, [begins(), is_pod(Address::Source, false), Vec::new()]),
        (Direction::Ingress, [begins(), is_pod(Address::Source, true), is_pod(Address::Destination, false)]),
    ]
    .map(|(direction, matches)| {
        let site = site(direction);
        let line = ration::log(&site.prefix(), log.group, REPORTED_BYTES, LINES_AT_ONCE);
        Rule::acting(matches.into_iter().chain([by_pod(site, direction, family, log), vec![line]]))
    })
    .into()
}

/// `reject with tcp reset`
fn reject_by_reset() -> Expr {
    reject(1, 0)
}

/// `reject with icmpx admin-prohibited`
fn reject_by_icmp() -> Expr {
    reject(2, 3)
}

fn reject(kind: u32, code: u8) -> Expr {
    expr::expr("reject", [(sys::NFTNL_EXPR_REJECT_TYPE, Value::U32(kind)), (sys::NFTNL_EXPR_REJECT_CODE, Value::U8(code))])
}
