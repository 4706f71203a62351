//! Programs: the rules that judge one kind of pod in one direction, in the order of judgement.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;

use crate::flow::{Direction, Flow, Protocol};
use crate::http::HttpIndex;
use crate::snapshot::{Endpoint, Peer, Policy, PolicyId, Rule, SetId};
use crate::source::{Action, L7, PortMatch, Tier};
use crate::verdict::{Decision, RuleId};

/// One step of a program: the first line that matches decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub rule: RuleId,
    pub tier: Tier,
    /// OR; `None`: everyone; `Some([])`: nobody (the kernel may leave such a line out).
    pub peers: Option<Vec<Peer>>,
    /// OR; `None`: all ports and all protocols; `Some([])`: none.
    pub ports: Option<Vec<PortMatch>>,
    pub action: LineAction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LineAction {
    Allow,
    Deny,
    /// Contents decide: divert.
    Inspect,
    /// Go on with the first line of a lower tier.
    Pass,
}

/// The lines of a program, and what happens when none matches.
#[derive(Clone, Debug, PartialEq)]
pub struct Lines {
    pub direction: Direction,
    pub lines: Vec<Line>,
    /// `Allow` (nobody isolates) or `Deny`.
    pub default: Decision,
    /// The policies of the additive tier that isolate.
    pub isolated_by: Vec<PolicyId>,
}

/// A program made ready: its lines, and an index that finds the lines a peer can match without trying all.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) lines: Lines,
    /// In the order of `PolicyId`, for the L7 parts.
    policies: Vec<(PolicyId, Arc<Policy>)>,
    /// Line numbers, ascending, in each of these.
    pub(crate) everyone: Vec<u32>,
    by_set: FxHashMap<SetId, Vec<u32>>,
    by_block: Blocks,
    /// Whether a line denies or passes on: then one more match can mean less.
    pub(crate) takes_back: bool,
    /// Made when the first request is judged: most programs of a large world never see one here.
    http: OnceLock<HttpIndex>,
}

/// Brings the rules of `policies` in the order of judgement:
///
/// 1. Admin tier, by priority;
/// 2. Deny rules of the additive tier, those without an L7 part first;
/// 3. Allow rules of the additive tier without an L7 part: what they match, no L7 rule can change;
/// 4. Allow rules with an L7 part;
/// 5. if a policy of the additive tier isolates: deny. Else the Baseline tier, by priority, and what it leaves open is allowed.
///
/// Policies of equal rank stand in the order of their names, so the order in which objects arrive changes nothing.
pub(crate) fn compile(direction: Direction, policies: Vec<(PolicyId, Arc<Policy>)>) -> Compiled {
    let mut order: Vec<(u8, u16, usize, u16)> = Vec::new();
    let mut by_name: Vec<usize> = (0..policies.len()).collect();
    by_name.sort_by(|a, b| policies[*a].1.reference.cmp(&policies[*b].1.reference));
    let mut isolated_by = Vec::new();
    for &place in &by_name {
        let (id, policy) = &policies[place];
        if policy.tier == Tier::Additive && policy.governs(direction) {
            isolated_by.push(*id);
        }
    }
    for (name_rank, &place) in by_name.iter().enumerate() {
        let (_, policy) = &policies[place];
        if !policy.governs(direction) {
            continue;
        }
        for (number, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| rule.direction == direction) {
            let rank = match (policy.tier, rule.action, rule.l7.as_ref().is_some_and(L7::is_read)) {
                (Tier::Admin { .. }, ..) => 0,
                (Tier::Additive, Action::Deny, false) => 1,
                (Tier::Additive, Action::Deny, true) => 2,
                (Tier::Additive, _, false) => 3,
                (Tier::Additive, _, true) => 4,
                (Tier::Baseline { .. }, ..) if isolated_by.is_empty() => 5,
                (Tier::Baseline { .. }, ..) => continue,
            };
            let priority = match policy.tier {
                Tier::Admin { priority } | Tier::Baseline { priority } => priority,
                Tier::Additive => 0,
            };
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            order.push((rank, priority, name_rank, number));
        }
    }
    order.sort_unstable();
    let lines: Vec<Line> = order
        .into_iter()
        .filter_map(|(_, _, name_rank, number)| {
            let (id, policy) = &policies[by_name[name_rank]];
            line(*id, policy.tier, number, policy.rules.get(usize::from(number))?)
        })
        .collect();
    let default = if isolated_by.is_empty() { Decision::Allow } else { Decision::Deny };
    index(Lines { direction, lines, default, isolated_by }, policies)
}

fn line(policy: PolicyId, tier: Tier, number: u16, rule: &Rule) -> Option<Line> {
    let action = match (rule.action, &rule.l7) {
        // An L7 part none of whose items could be read allows nothing, and its flow need not be read. Nor does one that nobody reads.
        (Action::Allow, Some(l7)) if l7.is_empty() || !l7.is_read() => return None,
        (Action::Deny, Some(l7)) if l7.is_empty() || !l7.is_read() => LineAction::Deny,
        (_, Some(_)) => LineAction::Inspect,
        (Action::Allow, None) => LineAction::Allow,
        (Action::Deny, None) => LineAction::Deny,
        (Action::Pass, None) => LineAction::Pass,
    };
    // All that is read is spoken over TCP alone: such a rule says nothing about other protocols.
    let ports = match &rule.l7 {
        Some(l7) if l7.is_read() => Some(tcp_only(rule.ports.as_deref())),
        _ => rule.ports.clone(),
    };
    Some(Line { rule: RuleId { policy, rule: number, item: None }, tier, peers: rule.peers.clone(), ports, action })
}

fn tcp_only(ports: Option<&[PortMatch]>) -> Vec<PortMatch> {
    match ports {
        None => vec![PortMatch::All { protocol: Protocol::Tcp }],
        Some(ports) => ports.iter().filter(|p| p.protocol() == Protocol::Tcp).cloned().collect(),
    }
}

impl PortMatch {
    pub fn protocol(&self) -> Protocol {
        match self {
            Self::All { protocol } | Self::Range { protocol, .. } | Self::Named { protocol, .. } => *protocol,
            Self::Icmp(_) => Protocol::Icmp,
        }
    }

    /// Whether the entry matches `flow`. `destination` is the endpoint there, if a pod is.
    pub fn matches(&self, flow: &Flow<'_>, destination: Option<&Endpoint>) -> bool {
        if self.protocol() != flow.protocol {
            return false;
        }
        match self {
            Self::All { .. } => true,
            Self::Range { first, last, .. } => (*first..=*last).contains(&flow.destination_port),
            Self::Named { name, protocol } => destination
                .is_some_and(|endpoint| endpoint.ports_named(*protocol, name).any(|port| port == flow.destination_port)),
            Self::Icmp(wanted) => flow.icmp().is_some_and(|(family, message)| wanted.matches(family, message)),
        }
    }
}

impl Line {
    /// Whether the line's ports match. Protocols without ports match only lines that restrict none, and ICMP those that name its message.
    pub fn ports_match(&self, flow: &Flow<'_>, destination: Option<&Endpoint>) -> bool {
        match &self.ports {
            None => true,
            Some(ports) => ports.iter().any(|p| p.matches(flow, destination)),
        }
    }
}

fn index(lines: Lines, policies: Vec<(PolicyId, Arc<Policy>)>) -> Compiled {
    let mut everyone = Vec::new();
    let mut by_set: FxHashMap<SetId, Vec<u32>> = FxHashMap::default();
    let mut by_block = Blocks::default();
    for (number, line) in (0_u32..).zip(&lines.lines) {
        match &line.peers {
            None => everyone.push(number),
            Some(peers) => {
                for peer in peers {
                    match peer {
                        Peer::Set(set) => {
                            let numbers = by_set.entry(*set).or_default();
                            if numbers.last() != Some(&number) {
                                numbers.push(number);
                            }
                        }
                        Peer::Block { cidr, except } => by_block.push(*cidr, except, number),
                    }
                }
            }
        }
    }
    let takes_back = lines.lines.iter().any(|line| matches!(line.action, LineAction::Deny | LineAction::Pass))
        || policies.iter().flat_map(|(_, policy)| &policy.rules).any(|rule| rule.action == Action::Deny);
    Compiled { lines, policies, everyone, by_set, by_block, takes_back, http: OnceLock::new() }
}

impl Compiled {
    /// The sets that the lines name.
    pub(crate) fn sets(&self) -> impl Iterator<Item = SetId> {
        self.by_set.keys().copied()
    }

    /// The lines that can match a pod in these sets, ascending: those for everyone, and those that name a set of its.
    pub(crate) fn lines_for(&self, sets: &[SetId]) -> Vec<u32> {
        let mut numbers = self.everyone.clone();
        // Whichever side is shorter is gone through, the other is asked.
        if sets.len() <= self.by_set.len() {
            numbers.extend(sets.iter().filter_map(|set| self.by_set.get(set)).flatten());
        } else {
            let held = self.by_set.iter().filter(|(set, _)| sets.binary_search(set).is_ok());
            numbers.extend(held.flat_map(|(_, numbers)| numbers));
        }
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    pub(crate) fn blocks(&self) -> &Blocks {
        &self.by_block
    }

    /// What a line says beyond addresses and ports: its action if it matches, and its L7 part.
    pub(crate) fn rule(&self, id: RuleId) -> Option<&Rule> {
        let place = self.policies.binary_search_by_key(&id.policy, |(id, _)| *id).ok()?;
        self.policies[place].1.rules.get(usize::from(id.rule))
    }

    pub(crate) fn http(&self) -> &HttpIndex {
        self.http.get_or_init(|| {
            HttpIndex::new(self.lines.lines.iter().map(|line| {
                let rule = self.rule(line.rule)?;
                Some((rule.l7.as_ref()?, rule.action))
            }))
        })
    }
}

/// Lines by address block.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    few: Vec<(IpNet, Excepted)>,
    v4: PrefixMap<Ipv4Net, Vec<Excepted>>,
    v6: PrefixMap<Ipv6Net, Vec<Excepted>>,
}

/// A line, and the addresses of its block that it leaves out.
#[derive(Clone, Debug)]
struct Excepted {
    line: u32,
    except: Box<[IpNet]>,
}

/// Up to here a list is faster than a trie.
const FEW_BLOCKS: usize = 8;

impl Blocks {
    fn push(&mut self, cidr: IpNet, except: &[IpNet], line: u32) {
        let entry = Excepted { line, except: except.into() };
        if self.few.len() < FEW_BLOCKS {
            self.few.push((cidr, entry));
            return;
        }
        match cidr {
            IpNet::V4(net) => self.v4.entry(net).or_default().push(entry),
            IpNet::V6(net) => self.v6.entry(net).or_default().push(entry),
        }
    }

    /// Calls `found` with each line that has a block around `ip`, in no particular order.
    pub(crate) fn lines(&self, ip: IpAddr, mut found: impl FnMut(u32)) {
        let mut check = |entry: &Excepted| {
            if !entry.except.iter().any(|net| net.contains(&ip)) {
                found(entry.line);
            }
        };
        for (net, entry) in &self.few {
            if net.contains(&ip) {
                check(entry);
            }
        }
        match ip {
            IpAddr::V4(ip) => {
                for (_, entries) in self.v4.cover(&Ipv4Net::from(ip)) {
                    entries.iter().for_each(&mut check);
                }
            }
            IpAddr::V6(ip) => {
                for (_, entries) in self.v6.cover(&Ipv6Net::from(ip)) {
                    entries.iter().for_each(&mut check);
                }
            }
        }
    }
}
