//! How many flows the rules of policies have matched.
//!
//! A rule counts the packets that it decides: the first of a flow that is allowed (what follows is established), each one that is
//! denied. The kernel's numbers begin anew with the rule, so what a rule has counted is taken over before it is written anew. What
//! it counts between that reading and the change is lost.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;
use sluice_policy::snapshot::ProgramId;
use sluice_policy::table::LineAction;
use sluice_policy::verdict::NamedRule;
use sluice_policy::{Direction, Table};

use super::inquiry::{self, attribute, is_text};
use super::netlink::{self, Attributes, Error, Socket};
use super::program::{Counted, Rendered};
use super::transaction::TABLE;

const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_COUNTER_PACKETS: u16 = 2;

/// So many rules that counted something are remembered, whether in force or not; more only as far as they are in force.
const MOST_FORMER: usize = 20_000;

/// What rules of policies have counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    pub direction: Direction,
    pub action: CountedAction,
    /// The rule that decided; where the kernel looks many rules up together, one of these; for [`CountedAction::Isolated`] the
    /// policies that isolate, of which no rule allowed.
    pub by: Vec<NamedRule>,
    /// First packets of flows, or packets that were denied.
    pub packets: u64,
}

/// What was done with what was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CountedAction {
    Allow,
    /// Handed to the proxy.
    Inspect,
    /// By a rule that denies.
    Deny,
    /// Because no rule allowed it.
    Isolated,
    /// Left to a lower tier.
    Pass,
}

impl CountedAction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Inspect => "inspect",
            Self::Deny => "deny",
            Self::Isolated => "isolated",
            Self::Pass => "pass",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key {
    direction: Direction,
    action: CountedAction,
    /// Displayed, which is what orders them.
    by: Vec<String>,
}

/// What rules counted that aren't there any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Former(HashMap<Key, u64>);

/// Programs as they are in the kernel, and the table that names their rules.
pub(super) struct InForce<'a> {
    pub(super) table: &'a Table,
    pub(super) programs: &'a BTreeMap<ProgramId, Rendered>,
}

impl Former {
    /// What the rules of `programs` have counted until now.
    pub(super) fn of(
        socket: &mut Socket,
        in_force: &InForce<'_>,
        programs: impl IntoIterator<Item = ProgramId>,
    ) -> Result<Self, Error> {
        let mut counted = Self::default();
        for id in programs {
            let Some(rendered) = in_force.programs.get(&id) else { continue };
            for chain in &rendered.chains {
                counted.add(&read(socket, Some(&chain.name))?, in_force, id, rendered);
            }
        }
        Ok(counted)
    }

    /// The same for all programs, by one question.
    pub(super) fn of_all(socket: &mut Socket, in_force: &InForce<'_>) -> Result<Self, Error> {
        let mut counted = Self::default();
        counted.add_all(&read(socket, None)?, in_force);
        Ok(counted)
    }

    /// After the rules that counted this were written anew. What is not in force any more may come back, so it is forgotten only
    /// once there is too much of it.
    pub(super) fn take_over(&mut self, counted: Self, in_force: &InForce<'_>) {
        for (key, packets) in counted.0 {
            *self.0.entry(key).or_default() += packets;
        }
        if self.0.len() <= MOST_FORMER {
            return;
        }
        let mut known: HashSet<Key> = HashSet::new();
        for (id, rendered) in in_force.programs {
            let Some(lines) = in_force.table.lines(*id) else { continue };
            known.extend(rendered.counted.iter().map(|counted| key(lines.direction, counted, &by(in_force.table, *id, counted))));
        }
        self.0.retain(|key, _| known.contains(key));
    }

    /// What was counted in all, by rules that are in force.
    pub(super) fn counts(&self, socket: &mut Socket, in_force: &InForce<'_>) -> Result<Vec<Count>, Error> {
        let mut now = self.clone();
        now.add_all(&read(socket, None)?, in_force);
        let mut named: HashMap<Key, Vec<NamedRule>> = HashMap::new();
        for (id, rendered) in in_force.programs {
            let Some(lines) = in_force.table.lines(*id) else { continue };
            for counted in &rendered.counted {
                let by = by(in_force.table, *id, counted);
                named.insert(key(lines.direction, counted, &by), by);
            }
        }
        let mut counts: Vec<(Key, Count)> = named
            .into_iter()
            .map(|(key, by)| {
                let packets = now.0.get(&key).copied().unwrap_or_default();
                let count = Count { direction: key.direction, action: key.action, by, packets };
                (key, count)
            })
            .collect();
        counts.sort_by(|(a, _), (b, _)| (&a.by, a).cmp(&(&b.by, b)));
        Ok(counts.into_iter().map(|(_, count)| count).collect())
    }

    fn add_all(&mut self, read: &BTreeMap<String, Vec<u64>>, in_force: &InForce<'_>) {
        for (id, rendered) in in_force.programs {
            self.add(read, in_force, *id, rendered);
        }
    }

    fn add(&mut self, read: &BTreeMap<String, Vec<u64>>, in_force: &InForce<'_>, program: ProgramId, rendered: &Rendered) {
        let Some(lines) = in_force.table.lines(program) else { return };
        for counted in &rendered.counted {
            let packets = read.get(&rendered.chains[counted.chain].name).and_then(|chain| chain.get(counted.rule)).copied();
            if let Some(packets) = packets.filter(|packets| *packets > 0) {
                let key = key(lines.direction, counted, &by(in_force.table, program, counted));
                *self.0.entry(key).or_default() += packets;
            }
        }
    }
}

fn key(direction: Direction, counted: &Counted, by: &[NamedRule]) -> Key {
    let action = match (counted.action, counted.rules.is_empty()) {
        (LineAction::Deny, true) => CountedAction::Isolated,
        (LineAction::Deny, false) => CountedAction::Deny,
        (LineAction::Allow, _) => CountedAction::Allow,
        (LineAction::Inspect, _) => CountedAction::Inspect,
        (LineAction::Pass, _) => CountedAction::Pass,
    };
    Key { direction, action, by: by.iter().map(ToString::to_string).collect() }
}

fn by(table: &Table, program: ProgramId, counted: &Counted) -> Vec<NamedRule> {
    if !counted.rules.is_empty() {
        return counted.rules.iter().filter_map(|rule| table.named(*rule)).collect();
    }
    let isolating = table.lines(program).map_or(&[][..], |lines| lines.isolated_by.as_slice());
    isolating.iter().filter_map(|id| table.policy(*id)).map(|policy| NamedRule::of_policy(&policy.reference)).collect()
}

/// The packets that each rule of our table counted, 0 where it counts none: of one chain, or by chain.
fn read(socket: &mut Socket, chain: Option<&str>) -> Result<BTreeMap<String, Vec<u64>>, Error> {
    let request = inquiry::dump_of(inquiry::NFPROTO_INET, inquiry::GET_RULE, NFTA_RULE_TABLE, NFTA_RULE_CHAIN, chain);
    let rules = socket.dump(request, |kind, body| {
        let is_ours = kind == inquiry::NEW_RULE && inquiry::is_inet(body) && is_text(attribute(body, NFTA_RULE_TABLE)?, TABLE);
        let chain = inquiry::text(attribute(body, NFTA_RULE_CHAIN)?)?;
        is_ours.then(|| (chain, attribute(body, NFTA_RULE_EXPRESSIONS).and_then(counter).unwrap_or_default()))
    })?;
    let mut by_chain: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for (chain, packets) in rules {
        by_chain.entry(chain).or_default().push(packets);
    }
    Ok(by_chain)
}

/// Of the first counter among a rule's expressions.
fn counter(expressions: &[u8]) -> Option<u64> {
    Attributes(expressions).find_map(|(_, expression)| {
        let counts = is_text(netlink::attribute(expression, NFTA_EXPR_NAME)?, "counter");
        let data = netlink::attribute(expression, NFTA_EXPR_DATA).filter(|_| counts)?;
        netlink::attribute(data, NFTA_COUNTER_PACKETS).and_then(inquiry::number)
    })
}
