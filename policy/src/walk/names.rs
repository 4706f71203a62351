//! What else is asked of rules by name: for answers to look-ups, and for lists of what was learned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Judged, Plan, is_deny};
use crate::flow::{Direction, Flow, Request};
use crate::name::NamePattern;
use crate::program::{Compiled, Line, Reads};
use crate::snapshot::Peer;
use crate::source::{L7, Named};
use crate::table::Table;
use crate::verdict::RuleId;

impl Table {
    /// Whether `flow`, a look-up that no rule allows, asks for a name that one would allow, with a search list's suffix behind it.
    pub fn is_suffixed(&self, flow: &Flow<'_>) -> bool {
        let Some(Request::Lookup { name, .. }) = flow.request else { return false };
        let Ok(ends) = self.ends(flow) else { return false };
        let Plan::Program { program, sets, .. } = self.plan(Direction::Egress, &ends) else { return false };
        let unread = Flow { request: None, ..*flow };
        let judged = Judged::new(self, &program, &unread, &ends);
        program.lines.lines.iter().enumerate().any(|(number, line)| {
            line.reads.is_lookup()
                && !is_deny(&program, line)
                && judged.matches(number, line, &sets).is_ok()
                && asks_for(&program, line).any(|pattern| pattern.is_prefix_of(name))
        })
    }

    /// Whether rules of the pod at `source` name `name`, and none of them takes `ip` for an address of it: it is of the cluster, or
    /// private.
    pub fn withholds(&self, source: IpAddr, name: &str, ip: IpAddr) -> bool {
        let mut of_name = self.peers_by_name(source).map(|(_, named)| named).filter(|named| named.matches(name)).peekable();
        of_name.peek().is_some() && !of_name.any(|named| self.may_have(named, ip))
    }

    /// The peers by name in the egress rules that judge the pod at `source`, each with its rule.
    pub fn names_in_rules(&self, source: IpAddr) -> BTreeSet<(RuleId, &Arc<Named>)> {
        self.peers_by_name(source).collect()
    }

    /// The same, in the order of the rules, some perhaps more than once.
    fn peers_by_name(&self, source: IpAddr) -> impl Iterator<Item = (RuleId, &Arc<Named>)> {
        let endpoint = self.endpoints.get(&source).filter(|slot| slot.local);
        let lines = endpoint.and_then(|slot| self.lines(self.programs(slot.identity).egress?));
        let all = lines.into_iter().flat_map(|lines| &lines.lines).filter(|line| !line.reads.is_lookup());
        all.flat_map(|line| line.peers.iter().flatten().map(move |peer| (line.rule, peer)))
            .filter_map(|(rule, peer)| if let Peer::Names(named) = peer { Some((rule, named)) } else { None })
    }
}

/// The names that a line about look-ups is for.
fn asks_for<'p>(program: &'p Compiled, line: &'p Line) -> impl Iterator<Item = &'p NamePattern> {
    let of_rule = program.rule(line.rule).and_then(|rule| rule.l7.as_ref());
    let items = match of_rule {
        Some(L7::Dns(items)) if line.reads == Reads::LookUp => items.as_slice(),
        _ => &[],
    };
    let named = match &line.reads {
        Reads::NamesAsked(named) => &**named,
        _ => &[],
    };
    items.iter().filter_map(|item| item.name.as_ref()).chain(named.iter().flat_map(|named| &named.patterns))
}
