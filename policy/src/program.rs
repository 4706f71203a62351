//! Programs: the rules that judge one kind of pod in one direction, in the order of judgement.

mod lines;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use rustc_hash::FxHashMap;

use crate::flow::{Direction, Flow, Protocol};
use crate::http::HttpIndex;
use crate::snapshot::{Endpoint, Peer, Policy, PolicyId, Rule, SetId};
use crate::source::{Action, Named, PortMatch, Tier};
use crate::verdict::{Decision, RuleId};

use lines::Maker;
pub use lines::{DNS_PORT, MOST_LOOKUP_PORTS};

/// What a node's configuration says of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameSettings {
    /// TCP ports at which the server name or Host must be a name that the rule allows.
    pub checked_ports: BTreeSet<u16>,
    /// UDP ports at which QUIC is spoken.
    pub quic_ports: BTreeSet<u16>,
    /// What a rule that checks names makes of it.
    pub quic: Quic,
    /// Resolvers by their addresses, beside the cluster's pods.
    pub resolvers: BTreeSet<IpAddr>,
}

/// What a rule that checks names makes of UDP at the ports of QUIC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Quic {
    /// It allows nothing there: nobody looks for the server name.
    #[default]
    Reject,
    /// The server name in its first packets is judged, as that of TLS over TCP is.
    Inspect,
}

impl Default for NameSettings {
    /// HTTP and HTTPS, and no resolver but the cluster's.
    fn default() -> Self {
        Self { checked_ports: [80, 443].into(), quic_ports: [443].into(), quic: Quic::default(), resolvers: BTreeSet::new() }
    }
}

/// One step of a program: the first line that matches decides.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub rule: RuleId,
    pub tier: Tier,
    /// OR; `None`: everyone; `Some([])`: nobody (the kernel may leave such a line out).
    pub peers: Option<Vec<Peer>>,
    /// OR; `None`: all ports and all protocols; `Some([])`: none.
    pub ports: Option<Vec<PortMatch>>,
    /// AND: which of these.
    pub place: Where,
    pub action: LineAction,
    /// What an inspecting line reads.
    pub reads: Reads,
}

/// Which ports a line is for, by whether names are checked there ([`NameSettings::checked_ports`], and those of QUIC where it is
/// inspected).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Where {
    Anywhere,
    Checked,
    Unchecked,
    /// As `Unchecked`, and without the UDP ports of QUIC.
    Elsewhere,
}

/// What a line wants to know of a flow's contents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Reads {
    Nothing,
    /// What the rule's L7 part says.
    Contents,
    /// The server name or Host: one of these names.
    Name(Arc<[Arc<Named>]>),
    NameAndContents(Arc<[Arc<Named>]>),
    /// The look-up, by the rule's `dns`.
    LookUp,
    /// The look-up: for one of these names, whatever its type.
    NamesAsked(Arc<[Arc<Named>]>),
}

impl Reads {
    /// Whether it is look-ups that are read, and not connections.
    pub const fn is_lookup(&self) -> bool {
        matches!(self, Self::LookUp | Self::NamesAsked(_))
    }

    /// Whether the L7 part of the rule has a say.
    const fn has_contents(&self) -> bool {
        matches!(self, Self::Contents | Self::NameAndContents(_))
    }
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
    /// TCP ports at which names are checked, ascending.
    pub checked_ports: Arc<[u16]>,
    /// UDP ports at which QUIC is spoken, ascending.
    pub quic_ports: Arc<[u16]>,
    /// Whether names are checked there too, or QUIC is refused.
    pub quic: Quic,
    /// Where the program's pods ask for names, so that these look-ups must be judged and learned from: port 53, and what `dns` rules
    /// name beside it. None: it says nothing of names.
    pub lookups: BTreeSet<(Protocol, u16)>,
}

/// A program made ready: its lines, and an index that finds the lines a peer can match without trying all.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) lines: Lines,
    /// In the order of `PolicyId`, for the L7 parts.
    policies: Vec<(PolicyId, Arc<Policy>)>,
    /// Line numbers, ascending, in each of these.
    pub(crate) everyone: Vec<u32>,
    /// Those for names and resolvers alone: nothing but the flow says whether their peers match.
    by_name: Vec<u32>,
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
pub(crate) fn compile(direction: Direction, policies: Vec<(PolicyId, Arc<Policy>)>, settings: &NameSettings) -> Compiled {
    let mut order: Vec<(u8, u16, usize, u16, Line)> = Vec::new();
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
        let (id, policy) = &policies[place];
        if !policy.governs(direction) {
            continue;
        }
        let priority = match policy.tier {
            Tier::Admin { priority } | Tier::Baseline { priority } => priority,
            Tier::Additive => 0,
        };
        for (number, rule) in policy.rules.iter().enumerate().filter(|(_, rule)| rule.direction == direction) {
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            for line in (Maker { settings, policy: *id, tier: policy.tier, number }).lines(rule) {
                let rank = match (policy.tier, rule.action, line.action == LineAction::Inspect) {
                    (Tier::Admin { .. }, ..) => 0,
                    (Tier::Additive, Action::Deny, false) => 1,
                    (Tier::Additive, Action::Deny, true) => 2,
                    (Tier::Additive, _, false) => 3,
                    (Tier::Additive, _, true) => 4,
                    (Tier::Baseline { .. }, ..) if isolated_by.is_empty() => 5,
                    (Tier::Baseline { .. }, ..) => continue,
                };
                order.push((rank, priority, name_rank, number, line));
            }
        }
    }
    // Stable: lines of one rule stay in their order.
    order.sort_by_key(|(rank, priority, name_rank, number, _)| (*rank, *priority, *name_rank, *number));
    let lines: Vec<Line> = order.into_iter().map(|(.., line)| line).collect();
    let default = if isolated_by.is_empty() { Decision::Allow } else { Decision::Deny };
    let checked_ports = settings.checked_ports.iter().copied().collect();
    let quic_ports = settings.quic_ports.iter().copied().collect();
    let lookups = lookups(&lines);
    let quic = settings.quic;
    index(Lines { direction, lines, default, isolated_by, checked_ports, quic_ports, quic, lookups }, policies)
}

fn lookups(lines: &[Line]) -> BTreeSet<(Protocol, u16)> {
    let by_name = |line: &Line| line.peers.iter().flatten().any(|peer| matches!(peer, Peer::Names(_)));
    if !lines.iter().any(|line| line.reads.is_lookup() || by_name(line)) {
        return BTreeSet::new();
    }
    let of_rules = lines.iter().filter(|line| line.reads == Reads::LookUp).flat_map(|line| line.ports.iter().flatten());
    let of_rules = of_rules.flat_map(|port| match port {
        PortMatch::Range { protocol, first, last } => (*first..=*last).map(|port| (*protocol, port)).collect(),
        _ => Vec::new(),
    });
    [(Protocol::Udp, DNS_PORT), (Protocol::Tcp, DNS_PORT)].into_iter().chain(of_rules).collect()
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

impl Lines {
    /// Whether it is taken for QUIC, where names are checked.
    pub(crate) fn is_quic(&self, flow: &Flow<'_>) -> bool {
        flow.protocol == Protocol::Udp && self.quic_ports.contains(&flow.destination_port)
    }

    /// Whether names are checked where it goes.
    fn is_checked(&self, flow: &Flow<'_>) -> bool {
        match flow.protocol {
            Protocol::Tcp => self.checked_ports.contains(&flow.destination_port),
            Protocol::Udp => self.quic == Quic::Inspect && self.is_quic(flow),
            _ => false,
        }
    }

    /// Whether the ports of one of the lines match. Protocols without ports match only lines that restrict none, and ICMP those that
    /// name its message.
    pub fn ports_match(&self, line: &Line, flow: &Flow<'_>, destination: Option<&Endpoint>) -> bool {
        let in_place = match line.place {
            Where::Anywhere => true,
            Where::Checked => self.is_checked(flow),
            Where::Unchecked => !self.is_checked(flow),
            Where::Elsewhere => !self.is_checked(flow) && !self.is_quic(flow),
        };
        in_place && line.ports.as_ref().is_none_or(|ports| ports.iter().any(|p| p.matches(flow, destination)))
    }
}

fn index(lines: Lines, policies: Vec<(PolicyId, Arc<Policy>)>) -> Compiled {
    let mut everyone = Vec::new();
    let mut by_name = Vec::new();
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
                        // A line of names has no other peers.
                        Peer::Names(_) | Peer::Resolvers if by_name.last() == Some(&number) => {}
                        Peer::Names(_) | Peer::Resolvers => by_name.push(number),
                    }
                }
            }
        }
    }
    let takes_back = lines.lines.iter().any(|line| matches!(line.action, LineAction::Deny | LineAction::Pass))
        || policies.iter().flat_map(|(_, policy)| &policy.rules).any(|rule| rule.action == Action::Deny);
    Compiled { lines, policies, everyone, by_name, by_set, by_block, takes_back, http: OnceLock::new() }
}

impl Compiled {
    /// The sets that the lines name.
    pub(crate) fn sets(&self) -> impl Iterator<Item = SetId> {
        self.by_set.keys().copied()
    }

    /// The lines that can match a pod in these sets, ascending: those for everyone, those for names, and those that name a set of its.
    pub(crate) fn lines_for(&self, sets: &[SetId]) -> Vec<u32> {
        let mut numbers = [&*self.everyone, &*self.by_name].concat();
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
                let rule = self.rule(line.rule).filter(|_| line.reads.has_contents())?;
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
