//! Whether what one rule matches is wholly matched by another, judged by what is written alone.
//!
//! A "yes" holds for any pods there may ever be; a "no" may only mean that it can't be told.

use ipnet::IpNet;
use sluice_policy::label::{Operator, Requirement, Selector};
use sluice_policy::source::{Namespaces, Peer, PodSelector, PortMatch, Rule};

use super::inventory::Inventory;

/// Whether everything that `inner` matches, `outer` matches too.
pub(super) fn selector(outer: &Selector, inner: &Selector) -> bool {
    outer.requirements.iter().all(|wanted| inner.requirements.iter().any(|given| follows(wanted, given)))
}

/// Whether a label that meets `given` meets `wanted`.
fn follows(wanted: &Requirement, given: &Requirement) -> bool {
    if wanted == given {
        return true;
    }
    let within = |value| wanted.values.contains(value);
    wanted.key == given.key
        && match (wanted.operator, given.operator) {
            (Operator::In, Operator::In) => given.values.iter().all(within),
            (Operator::Exists, Operator::In) => true,
            (Operator::NotIn, Operator::In) => !given.values.iter().any(within),
            (Operator::NotIn, Operator::DoesNotExist) => true,
            (Operator::NotIn, Operator::NotIn) => wanted.values.iter().all(|value| given.values.contains(value)),
            _ => false,
        }
}

pub(super) fn pods(outer: &PodSelector, inner: &PodSelector, inventory: &Inventory) -> bool {
    let namespaces = match (&outer.namespaces, &inner.namespaces) {
        (Namespaces::Named(outer), Namespaces::Named(inner)) => outer == inner,
        (Namespaces::Matching(outer), Namespaces::Matching(inner)) => selector(outer, inner),
        (Namespaces::Matching(outer), Namespaces::Named(inner)) => {
            outer.is_everything() || inventory.namespaces.get(inner).is_some_and(|labels| outer.matches(labels))
        }
        (Namespaces::Named(_), Namespaces::Matching(_)) => false,
    };
    namespaces && selector(&outer.pods, &inner.pods)
}

/// Whether the addresses of `inner` are all addresses of `outer`, exceptions considered.
fn block(outer: (&IpNet, &[IpNet]), inner: (&IpNet, &[IpNet])) -> bool {
    let apart = |hole: &IpNet| !hole.contains(inner.0) && !inner.0.contains(hole);
    outer.0.contains(inner.0) && outer.1.iter().all(|hole| apart(hole) || inner.1.iter().any(|other| other.contains(hole)))
}

pub(super) fn peer(outer: &Peer, inner: &Peer, inventory: &Inventory) -> bool {
    match (outer, inner) {
        (Peer::Pods(outer), Peer::Pods(inner)) => pods(outer, inner, inventory),
        (Peer::Block { cidr, except }, Peer::Block { cidr: inner, except: holes }) => block((cidr, except), (inner, holes)),
        (Peer::Nodes(outer), Peer::Nodes(inner)) => selector(outer, inner),
        (outer, inner) => outer == inner,
    }
}

pub(super) fn port(outer: &PortMatch, inner: &PortMatch) -> bool {
    use PortMatch::{All, Icmp, Range};
    match (outer, inner) {
        (All { protocol }, inner) => *protocol == inner.protocol(),
        (Icmp(outer), Icmp(inner)) => {
            let covers = |outer: Option<u8>, inner: Option<u8>| outer.is_none() || outer == inner;
            outer.family == inner.family && covers(outer.kind, inner.kind) && covers(outer.code, inner.code)
        }
        (Range { protocol, first, last }, Range { protocol: p, first: f, last: l }) => protocol == p && first <= f && l <= last,
        (outer, inner) => outer == inner,
    }
}

/// Whether two ports have a flow in common, or may have: names are not resolved.
pub(super) fn ports_meet(one: &PortMatch, other: &PortMatch) -> bool {
    use PortMatch::{Icmp, Named, Range};
    one.protocol() == other.protocol()
        && match (one, other) {
            (Icmp(one), Icmp(other)) => {
                let meet = |one: Option<u8>, other: Option<u8>| one.is_none() || other.is_none() || one == other;
                one.family == other.family && meet(one.kind, other.kind) && meet(one.code, other.code)
            }
            (Range { first, last, .. }, Range { first: f, last: l, .. }) => first <= l && f <= last,
            (Named { name, .. }, Named { name: n, .. }) => name == n,
            _ => true,
        }
}

/// Whether `outer` matches everyone that `inner` does: by its peers alone.
pub(super) fn peers(outer: &Rule, inner: &Rule, inventory: &Inventory) -> bool {
    match (&outer.peers, &inner.peers) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner.iter().all(|wanted| outer.iter().any(|given| peer(given, wanted, inventory))),
    }
}

/// Whether `outer` matches every port that `inner` does.
pub(super) fn ports(outer: &Rule, inner: &Rule) -> bool {
    match (&outer.ports, &inner.ports) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(outer), Some(inner)) => inner.iter().all(|wanted| outer.iter().any(|given| port(given, wanted))),
    }
}

/// Whether `outer` matches every flow that `inner` does; neither's L7 part is considered.
pub(super) fn rule(outer: &Rule, inner: &Rule, inventory: &Inventory) -> bool {
    outer.direction == inner.direction && ports(outer, inner) && peers(outer, inner, inventory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_covers_what_asks_for_more() {
        let selector_of = |text: &str| {
            let requirement = |part: &str| {
                let (key, operator, values) = match (part.split_once("!="), part.split_once('=')) {
                    (Some((key, values)), _) => (key, Operator::NotIn, values),
                    (None, Some((key, values))) => (key, Operator::In, values),
                    (None, None) => match part.strip_prefix('!') {
                        Some(key) => (key, Operator::DoesNotExist, ""),
                        None => (part, Operator::Exists, ""),
                    },
                };
                let values = values.split('|').filter(|value| !value.is_empty()).map(Into::into).collect();
                Requirement { key: key.into(), operator, values }
            };
            Selector::new(text.split(',').filter(|part| !part.is_empty()).map(requirement))
        };
        let rows = [
            ("", "app=web", true),
            ("app=web", "", false),
            ("app=web", "app=web,tier=front", true),
            ("app=web|api", "app=web", true),
            ("app=web", "app=web|api", false),
            ("app", "app=web", true),
            ("app=web", "app", false),
            ("app!=db", "app=web", true),
            ("app!=db", "app=db", false),
            ("app!=db", "!app", true),
            ("app!=db", "app!=db|web", true),
            ("app!=db|web", "app!=db", false),
            ("tier=web", "app=web", false),
        ];
        for (outer, inner, want) in rows {
            assert_eq!(selector(&selector_of(outer), &selector_of(inner)), want, "{outer} for {inner}");
        }
    }

    #[test]
    fn a_block_covers_what_lies_in_it_and_in_no_hole() {
        let block_of = |text: &str| {
            let (cidr, except) = text.split_once(" but ").unwrap_or((text, ""));
            let holes: Vec<IpNet> = except.split(' ').filter_map(|hole| hole.parse().ok()).collect();
            (cidr.parse::<IpNet>().expect("a block"), holes)
        };
        let rows = [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.1.0.0/16", "10.0.0.0/8", false),
            ("10.0.0.0/8 but 10.1.0.0/16", "10.1.2.0/24", false),
            ("10.0.0.0/8 but 10.1.0.0/16", "10.2.0.0/16", true),
            ("10.0.0.0/8 but 10.1.2.0/24", "10.1.0.0/16", false),
            ("10.0.0.0/8 but 10.1.2.0/24", "10.1.0.0/16 but 10.1.2.0/23", true),
            ("10.0.0.0/8", "::/0", false),
        ];
        for (outer, inner, want) in rows {
            let ((outer_cidr, outer_holes), (inner_cidr, inner_holes)) = (block_of(outer), block_of(inner));
            assert_eq!(block((&outer_cidr, &outer_holes), (&inner_cidr, &inner_holes)), want, "{outer} for {inner}");
        }
    }

    #[test]
    fn ports_cover_and_meet() {
        let tcp = sluice_policy::Protocol::Tcp;
        let range = |first, last| PortMatch::Range { protocol: tcp, first, last };
        let http = PortMatch::Named { protocol: tcp, name: "http".into() };
        let rows = [
            (PortMatch::All { protocol: tcp }, http.clone(), true, true),
            (http.clone(), PortMatch::All { protocol: tcp }, false, true),
            (range(80, 90), range(85, 90), true, true),
            (range(80, 90), range(85, 95), false, true),
            (range(80, 90), range(91, 95), false, false),
            (range(80, 80), http, false, true),
            (PortMatch::All { protocol: sluice_policy::Protocol::Udp }, range(80, 80), false, false),
        ];
        for (outer, inner, covers, meet) in rows {
            assert_eq!((port(&outer, &inner), ports_meet(&outer, &inner)), (covers, meet), "{outer:?} for {inner:?}");
        }
    }
}
