//! What a rule says about contents: one of `http`, `grpc`, `tls` and `dns`.
//!
//! | what can't be read | in an allow | in a deny |
//! |---|---|---|
//! | one part of an item | the item matches nothing | the item matches what its other parts leave open |
//! | a whole item | matches nothing | matches everything |
//! | the list, or an empty one | no item matches | the rule denies whatever its peers and ports match |
//! | which of two kinds is meant | the rule matches nothing | the same |

use sluice_policy::http::{GrpcMatch, HttpMatch};
use sluice_policy::source::{Action, DnsMatch, L7, TlsMatch};
use sluice_policy::{Direction, Protocol};

use crate::bounds::{MAX_L7_ITEMS, MAX_RULE_ITEMS};
use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list};
use crate::rule::Partly;
use crate::value::{Map, Value};
use crate::{dns, grpc, http, tls};

/// The fields of a rule that are about contents.
pub(crate) const KINDS: [&str; 4] = ["http", "grpc", "tls", "dns"];

/// An item of a list of which nothing can be read but that it is there.
pub(crate) trait Item {
    fn everything(index: u16) -> Self;
}

impl Item for HttpMatch {
    fn everything(index: u16) -> Self {
        Self { index, ..Self::default() }
    }
}

impl Item for GrpcMatch {
    fn everything(index: u16) -> Self {
        Self { index, ..Self::default() }
    }
}

impl Item for TlsMatch {
    fn everything(index: u16) -> Self {
        Self { index, name: None }
    }
}

impl Item for DnsMatch {
    fn everything(index: u16) -> Self {
        Self { index, name: None, types: Vec::new() }
    }
}

/// The field that says what a rule's contents must be, if there is one.
pub(crate) fn kind(rule: &Map) -> Option<&'static str> {
    KINDS.into_iter().find(|kind| rule.get(kind).is_some())
}

/// Whether contents of this kind are spoken over `protocol`.
pub(crate) fn is_spoken_over(kind: &str, protocol: Protocol) -> bool {
    protocol == Protocol::Tcp || kind == "dns" && protocol == Protocol::Udp
}

/// `TCP`, or what else contents of this kind are spoken over.
pub(crate) fn carriers(kind: &str) -> &'static str {
    if kind == "dns" { "UDP and TCP" } else { "TCP" }
}

/// The L7 part of a rule. `Err`: nobody can say what it is about. `left` is how many items and conditions the policy may still
/// have.
pub(crate) fn l7(
    rule: &Map,
    direction: Direction,
    action: Action,
    left: &mut usize,
    at: At<'_>,
    report: &mut Report,
) -> Reading<Option<L7>> {
    let mut given = KINDS.into_iter().filter_map(|kind| Some((kind, rule.get(kind)?)));
    let Some((kind, value)) = given.next() else { return Ok(None) };
    if let Some((other, value)) = given.next() {
        let at = at.field(other, value.line);
        report.error(at, format!("{other} beside {kind}"), "a rule is about one of them: write a rule for each");
        return Err(Unreadable);
    }
    let at = at.field(kind, value.line);
    let read = match kind {
        "http" => items(value, action, left, at, report, http::item).map(L7::Http),
        "grpc" => items(value, action, left, at, report, grpc::item).map(L7::Grpc),
        "tls" => tls::server_names(value, action, left, at, report).map(L7::Tls),
        _ if direction == Direction::Ingress => {
            report.error(
                at,
                "dns is for egress: a look-up is judged where it is asked",
                "write it in the policy of the pods that ask",
            );
            return Err(Unreadable);
        }
        _ => items(value, action, left, at, report, dns::item).map(L7::Dns),
    };
    let nothing = match kind {
        "grpc" => L7::Grpc(Vec::new()),
        "tls" => L7::Tls(Vec::new()),
        "dns" => L7::Dns(Vec::new()),
        _ => L7::Http(Vec::new()),
    };
    Ok(read.ok().or_else(|| (action == Action::Allow).then_some(nothing)))
}

/// Reads the items of a list. `Err`: it is none, or empty.
pub(crate) fn items<T: Item>(
    value: &Value,
    action: Action,
    left: &mut usize,
    at: At<'_>,
    report: &mut Report,
    mut read: impl FnMut(&Value, u16, &mut usize, At<'_>, &mut Report) -> Partly<T>,
) -> Reading<Vec<T>> {
    let entries = list(value, at, report)?;
    if entries.is_empty() {
        let (message, remedy) = match at.name() {
            "http" => ("an empty list matches no request", "leave http out, or write [{}] for every request"),
            "serverNames" => ("an empty list matches no server", "leave tls out, or name a server"),
            "dns" => ("an empty list matches no look-up", "leave dns out, or name a name"),
            _ => ("an empty list matches no request", "leave it out, or name a service"),
        };
        report.error(at, message, remedy);
        return Err(Unreadable);
    }
    let mut items = Vec::with_capacity(entries.len().min(MAX_RULE_ITEMS));
    for (i, entry) in entries.iter().enumerate() {
        let here = at.index(i, entry.line);
        let Some(index) = u16::try_from(i).ok().filter(|_| i < MAX_RULE_ITEMS) else {
            report.error(here, format!("more than {MAX_RULE_ITEMS} items"), "split the rule");
            items.extend((action == Action::Deny).then(|| T::everything(u16::try_from(i).unwrap_or(u16::MAX))));
            break;
        };
        if *left == 0 {
            let message = format!("more than {MAX_L7_ITEMS} {} items in one policy, conditions counted too", at.name());
            report.error(here, message, "split the policy");
            items.extend((action == Action::Deny).then(|| T::everything(index)));
            break;
        }
        *left -= 1;
        let item = read(entry, index, left, here, report);
        match (item.open, action) {
            (Some(open), Action::Deny) => items.push(open),
            (None, Action::Deny) => items.push(T::everything(index)),
            (Some(open), _) if item.complete => items.push(open),
            (_, _) => {}
        }
    }
    Ok(items)
}

/// What could be read of a part; what couldn't makes its item incomplete.
pub(crate) fn part<T>(read: Reading<Option<T>>, complete: &mut bool) -> Option<T> {
    *complete &= read.is_ok();
    read.ok().flatten()
}
