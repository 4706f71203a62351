//! The one walk that decides a flow, and that explains it.

mod contents;
mod names;

use std::cell::OnceCell;
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{Direction, Flow, Protocol, Request};
use crate::http::Hit;
use crate::memo;
use crate::program::{Compiled, Line, LineAction, Quic, Reads, Where};
use crate::reason::Reason;
use crate::snapshot::{Endpoint, Peer, SetId};
use crate::source::{Action, L7, Named, PortMatch, Tier};
use crate::table::{Slot, Table};
use crate::verdict::{Decision, Half, NamedRule, RuleId, Verdict};

impl Table {
    /// Decides `flow` by its addresses, ports and, if given, its request. No I/O.
    ///
    /// Without a request, a flow whose answer hangs on one is `Inspect`. With one, the answer is `Allow` or `Deny`.
    ///
    /// | source | destination | egress half | ingress half |
    /// |---|---|---|---|
    /// | a pod | the same pod | allowed | allowed |
    /// | local pod | anything | its egress program | |
    /// | anything | local pod | | its ingress program |
    /// | the pod's own node | local pod | | allowed |
    /// | an address of the node's pods that no pod has | | denied | |
    /// | | an address of the node's pods that no pod has | | denied |
    pub fn verdict(&self, flow: &Flow<'_>) -> Verdict {
        let ends = match self.ends(flow) {
            Err(half) => return Verdict::both(half),
            Ok(ends) => ends,
        };
        let plans = memo::plans(self.id(), ends.key(), || Plans {
            egress: self.plan(Direction::Egress, &ends),
            ingress: self.plan(Direction::Ingress, &ends),
        });
        let half =
            |direction, plan| self.without_program(flow, direction, &ends).unwrap_or_else(|| half(self, plan, flow, &ends));
        Verdict { egress: half(Direction::Egress, &plans.egress), ingress: half(Direction::Ingress, &plans.ingress) }
    }

    /// Who decided one half of `verdict(flow)`: the rule, or every policy that isolates where none allows. Empty: no policy.
    pub fn by(&self, flow: &Flow<'_>, verdict: &Verdict, direction: Direction) -> Vec<NamedRule> {
        let half = verdict.half(direction);
        if let Some(rule) = half.rule {
            return self.named(rule).into_iter().collect();
        }
        if !matches!(half.reason, Reason::NoRuleMatched | Reason::NotTheProtocol) {
            return Vec::new();
        }
        let judged = match direction {
            Direction::Egress => self.endpoint(flow.source),
            Direction::Ingress => self.endpoint(flow.destination),
        };
        let Some(program) = judged.and_then(|e| self.programs(e.identity).get(direction)) else {
            return Vec::new();
        };
        let isolating = self.lines(program).into_iter().flat_map(|lines| &lines.isolated_by);
        isolating.filter_map(|id| self.policy(*id)).map(|p| NamedRule::of_policy(&p.reference)).collect()
    }

    /// The walk of `verdict`, written down: `explain(f).verdict == verdict(f)`.
    pub fn explain(&self, flow: &Flow<'_>) -> Explanation {
        let verdict = self.verdict(flow);
        let (egress, ingress) = match self.ends(flow) {
            Err(_) => (Vec::new(), Vec::new()),
            Ok(ends) => (self.steps(flow, Direction::Egress, &ends), self.steps(flow, Direction::Ingress, &ends)),
        };
        let by = |direction| self.by(flow, &verdict, direction);
        Explanation { verdict, egress_by: by(Direction::Egress), ingress_by: by(Direction::Ingress), egress, ingress }
    }

    /// The endpoints of the flow, or the answer that needs no policy.
    fn ends(&self, flow: &Flow<'_>) -> Result<Ends<'_>, Half> {
        if !self.is_loaded() {
            return Err(Half::deny(Reason::NoSnapshot));
        }
        let source = self.endpoints.get(&flow.source);
        let destination = self.endpoints.get(&flow.destination);
        if source.is_some_and(|e| e.conflict) || destination.is_some_and(|e| e.conflict) {
            return Err(Half::deny(Reason::AddressConflict));
        }
        if let (Some(source), Some(destination)) = (source, destination)
            // A pod has one identity, so most pairs are told apart without looking at names.
            && source.identity == destination.identity
            && source.endpoint.pod == destination.endpoint.pod
        {
            return Err(Half::allow(Reason::SamePod));
        }
        Ok(Ends { source, destination })
    }

    /// The answer for a half that no program judges because of the addresses themselves.
    fn without_program(&self, flow: &Flow<'_>, direction: Direction, ends: &Ends<'_>) -> Option<Half> {
        let (judged, address) = match direction {
            Direction::Egress => (ends.source, flow.source),
            Direction::Ingress => (ends.destination, flow.destination),
        };
        let Some(judged) = judged else {
            // The node's own address may lie in the range of its pods (a bridge's gateway does).
            let unknown = self.node().pod_cidrs.iter().any(|net| net.contains(&address)) && !self.node_ips.contains_key(&address);
            return Some(if unknown { Half::deny(Reason::UnknownPod) } else { Half::allow(Reason::NotOurPod) });
        };
        if direction == Direction::Ingress && ends.source.is_none() && judged.local {
            let node = self.node_ips.get(&flow.source)?;
            let own = judged.endpoint.host.as_ref().is_none_or(|host| host == node);
            return own.then_some(Half::allow(Reason::FromOwnNode));
        }
        None
    }

    /// How a half is judged, as far as that hangs on identities alone.
    fn plan(&self, direction: Direction, ends: &Ends<'_>) -> Plan {
        let (judged, peer) = match direction {
            Direction::Egress => (ends.source, ends.destination),
            Direction::Ingress => (ends.destination, ends.source),
        };
        let Some(judged) = judged.filter(|endpoint| endpoint.local) else {
            return Plan::Fixed(Half::allow(Reason::NotOurPod));
        };
        let Some(id) = self.programs(judged.identity).get(direction) else {
            return Plan::Fixed(Half::allow(Reason::NotIsolated));
        };
        let program = self.compiled(id).expect("an applied table has the programs of its identities").clone();
        let sets: Vec<SetId> = peer.map(|peer| self.sets_of(peer.identity).to_vec()).unwrap_or_default();
        let candidates: Box<[Candidate]> =
            program.lines_for(&sets).into_iter().map(|line| Candidate::new(&program, line)).collect();
        let unindexed = candidates.iter().copied().filter(|candidate| !candidate.is_indexed).collect();
        Plan::Program { candidates, unindexed, sets, program }
    }

    fn steps(&self, flow: &Flow<'_>, direction: Direction, ends: &Ends<'_>) -> Vec<Step> {
        if self.without_program(flow, direction, ends).is_some() {
            return Vec::new();
        }
        let Plan::Program { program, sets, .. } = self.plan(direction, ends) else {
            return Vec::new();
        };
        let judged = Judged::new(self, &program, flow, ends);
        let mut from = 0;
        let mut decided = false;
        let mut steps = Vec::new();
        for (number, line) in program.lines.lines.iter().enumerate() {
            let outcome = if decided || number < from {
                Outcome::NotReached
            } else {
                match judged.matches(number, line, &sets) {
                    Err(miss) => Outcome::Missed(miss),
                    Ok(item) => {
                        if line.action == LineAction::Pass {
                            from = next_tier(&program, number);
                        } else {
                            decided = true;
                        }
                        Outcome::Matched { item }
                    }
                }
            };
            let Some(rule) = self.named(line.rule) else {
                continue;
            };
            let (tier, action, reads) = (line.tier, line.action, line.reads.clone());
            steps.push(Step { id: line.rule, tier, rule, action, reads, outcome });
        }
        steps
    }
}

/// Both halves of all flows between two identities.
pub(crate) struct Plans {
    egress: Plan,
    ingress: Plan,
}

enum Plan {
    Fixed(Half),
    Program {
        program: Arc<Compiled>,
        /// The lines that can match the peer's pod; those for blocks, which hang on its address, are not among them.
        candidates: Box<[Candidate]>,
        /// Those of them that an index of requests doesn't find.
        unindexed: Box<[Candidate]>,
        /// The sets of the peer's pod, sorted.
        sets: Vec<SetId>,
    },
}

/// A line that can match, and as much of its ports as fits beside its number: most flows are decided without looking at more.
#[derive(Clone, Copy)]
struct Candidate {
    line: u32,
    is_indexed: bool,
    /// Its peers are names or resolvers, and not asked yet.
    is_by_name: bool,
    ports: Ports,
}

#[derive(Clone, Copy)]
enum Ports {
    Every,
    One {
        protocol: Protocol,
        first: u16,
        last: u16,
    },
    /// Names, or several: the line itself says.
    Several,
}

impl Candidate {
    fn new(program: &Compiled, line: u32) -> Self {
        let found = &program.lines.lines[line as usize];
        let ports = match found.ports.as_deref() {
            None => Ports::Every,
            Some([PortMatch::All { protocol }]) => Ports::One { protocol: *protocol, first: 0, last: u16::MAX },
            Some([PortMatch::Range { protocol, first, last }]) => Ports::One { protocol: *protocol, first: *first, last: *last },
            Some(_) => Ports::Several,
        };
        let is_indexed = matches!(found.reads, Reads::Contents | Reads::NameAndContents(_));
        let is_by_name = matches!(found.peers.as_deref(), Some([Peer::Names(_) | Peer::Resolvers, ..]));
        Self { line, is_indexed, is_by_name, ports }
    }

    fn may_match(&self, flow: &Flow<'_>) -> bool {
        match self.ports {
            Ports::One { protocol, first, last } => protocol == flow.protocol && (first..=last).contains(&flow.destination_port),
            Ports::Every | Ports::Several => true,
        }
    }
}

/// One half of one flow, by its plan: the first line that matches decides.
fn half(table: &Table, plan: &Plan, flow: &Flow<'_>, ends: &Ends<'_>) -> Half {
    let (program, candidates, unindexed) = match plan {
        Plan::Fixed(half) => return *half,
        Plan::Program { program, candidates, unindexed, .. } => (program, candidates, unindexed),
    };
    let judged = Judged::new(table, program, flow, ends);
    let mut from = 0;
    loop {
        let Some((number, item)) = judged.first(from, candidates, unindexed) else {
            return judged.default_half();
        };
        let line = &program.lines.lines[number];
        let (decision, reason) = match line.action {
            LineAction::Pass => {
                from = next_tier(program, number);
                continue;
            }
            LineAction::Allow => (Decision::Allow, Reason::RuleMatched),
            LineAction::Deny => (Decision::Deny, Reason::DeniedByRule),
            LineAction::Inspect if flow.request.is_none() => (Decision::Inspect, Reason::NeedsRequest),
            LineAction::Inspect if is_deny(program, line) => (Decision::Deny, Reason::DeniedByRule),
            LineAction::Inspect => (Decision::Allow, Reason::RuleMatched),
        };
        return Half { decision, reason, rule: Some(RuleId { item, ..line.rule }) };
    }
}

/// A verdict and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    pub verdict: Verdict,
    pub egress_by: Vec<NamedRule>,
    pub ingress_by: Vec<NamedRule>,
    /// Every rule that could have decided, in the order of judgement. Empty where no program judges the half.
    pub egress: Vec<Step>,
    pub ingress: Vec<Step>,
}

/// One line of a rule that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The rule, for what [`Table::policy`] knows of it.
    pub id: RuleId,
    pub tier: Tier,
    pub rule: NamedRule,
    pub action: LineAction,
    /// A rule by name is looked at several times, each time for something else.
    pub reads: Reads,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It matched; `item` is the index of the L7 item that did.
    Matched {
        item: Option<u16>,
    },
    Missed(Miss),
    /// An earlier rule had decided, or a Pass led past it.
    NotReached,
}

/// The first thing that didn't match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    Peer,
    Port,
    Request,
}

struct Ends<'t> {
    source: Option<&'t Slot>,
    destination: Option<&'t Slot>,
}

impl Ends<'_> {
    /// What the plans of the two halves hang on.
    fn key(&self) -> memo::Key {
        memo::Key::new([self.source, self.destination].map(|end| end.map(|slot| (slot.identity, slot.local))))
    }
}

/// One half of one flow against one program.
struct Judged<'a> {
    table: &'a Table,
    program: &'a Compiled,
    flow: &'a Flow<'a>,
    destination: Option<&'a Arc<Endpoint>>,
    /// What the request matches, once that is asked.
    hits: OnceCell<Vec<Hit>>,
}

impl<'a> Judged<'a> {
    fn new(table: &'a Table, program: &'a Compiled, flow: &'a Flow<'a>, ends: &Ends<'a>) -> Self {
        Self { table, program, flow, destination: ends.destination.map(|slot| &slot.endpoint), hits: OnceCell::new() }
    }

    /// What holds where no line matches.
    fn default_half(&self) -> Half {
        let lines = &self.program.lines;
        if lines.default == Decision::Allow {
            return Half::allow(Reason::NotIsolated);
        }
        let is_refused = |line: &Line| {
            let anywhere = Line { place: Where::Anywhere, ..line.clone() };
            // Clients try it beside TCP, to the same port: whoever may speak TLS there is to hear that QUIC can't be read.
            let beside = Flow { protocol: Protocol::Tcp, ..*self.flow };
            let is_port = || lines.ports_match(&anywhere, self.flow, None) || lines.ports_match(&anywhere, &beside, None);
            line.place == Where::Elsewhere && self.names_match(line) && is_port()
        };
        // What was read was read of a rule's names, and is denied for them.
        let is_unread = lines.quic == Quic::Reject || self.flow.request.is_none();
        if is_unread && lines.is_quic(self.flow) && lines.lines.iter().any(is_refused) {
            return Half::deny(Reason::NotTheProtocol);
        }
        Half::deny(nothing_matched(self.program, self.flow))
    }

    /// The lines that the request matches, ascending, and the item of each that does; none without an HTTP request.
    fn hits(&self) -> &[Hit] {
        let Some(Request::Http(request)) = self.flow.request else { return &[] };
        self.hits.get_or_init(|| self.program.http().hits(request))
    }

    /// The item of an inspecting line that the request matches, if the line matches.
    fn hit(&self, line: usize) -> Option<Option<u16>> {
        let hits = self.hits();
        let place = hits.binary_search_by_key(&line, |hit| hit.line as usize).ok()?;
        Some(hits[place].item)
    }

    /// The first line from `from` on that matches, and its L7 item that did. `unindexed` are those of `candidates` that are not
    /// found by the request.
    fn first(&self, from: usize, candidates: &[Candidate], unindexed: &[Candidate]) -> Option<(usize, Option<u16>)> {
        let mut best = match self.flow.request {
            // Of a hundred lines that read requests, few match this one: they are found by it, not tried in turn.
            Some(Request::Http(_)) => {
                let plain = self.first_of(from, unindexed.iter());
                let matched = self.hits().iter().filter_map(|hit| {
                    let place = candidates.binary_search_by_key(&hit.line, |candidate| candidate.line).ok()?;
                    candidates.get(place)
                });
                let read = self.first_of(from, matched);
                match (plain, read) {
                    (Some(plain), Some(read)) => Some(if plain.0 < read.0 { plain } else { read }),
                    (plain, read) => plain.or(read),
                }
            }
            _ => self.first_of(from, candidates.iter()),
        };
        self.program.blocks().lines(self.peer_address(), |number| {
            let number = number as usize;
            if number < from || best.is_some_and(|(best, _)| number >= best) {
                return;
            }
            if let Ok(item) = self.rest_matches(number, &self.program.lines.lines[number]) {
                best = Some((number, item));
            }
        });
        best
    }

    fn first_of<'c>(&self, from: usize, candidates: impl Iterator<Item = &'c Candidate>) -> Option<(usize, Option<u16>)> {
        candidates.filter(|candidate| candidate.line as usize >= from && candidate.may_match(self.flow)).find_map(|candidate| {
            let number = candidate.line as usize;
            let line = &self.program.lines.lines[number];
            if candidate.is_by_name && !self.names_match(line) {
                return None;
            }
            let item = self.rest_matches(number, line).ok()?;
            Some((number, item))
        })
    }

    fn peer_address(&self) -> IpAddr {
        match self.program.lines.direction {
            Direction::Egress => self.flow.destination,
            Direction::Ingress => self.flow.source,
        }
    }

    /// Whether the source was told one of the names for this address, and the address may be that of a name.
    fn has_name(&self, named: &Named) -> bool {
        let ip = self.flow.destination;
        let mut names = self.flow.names.iter().chain(self.table.known_names(ip));
        names.any(|name| named.matches(name)) && self.table.may_have(named, ip)
    }

    /// Whether one of the peers of a line for names or resolvers matches.
    fn names_match(&self, line: &Line) -> bool {
        line.peers.iter().flatten().any(|peer| match peer {
            Peer::Names(named) => self.has_name(named),
            Peer::Resolvers => self.table.is_resolver(self.flow.destination),
            // A block of such a line was asked before, and a set too.
            Peer::Set(_) | Peer::Block { .. } => false,
        })
    }

    /// Whether a line matches, tried without candidates. `sets` are those of the peer's pod.
    fn matches(&self, number: usize, line: &Line, sets: &[SetId]) -> Result<Option<u16>, Miss> {
        let address = self.peer_address();
        let peer_matches = line.peers.as_ref().is_none_or(|peers| {
            peers.iter().any(|peer| match peer {
                Peer::Set(set) => sets.binary_search(set).is_ok(),
                Peer::Block { cidr, except } => cidr.contains(&address) && !except.iter().any(|net| net.contains(&address)),
                Peer::Names(_) | Peer::Resolvers => self.names_match(line),
            })
        });
        if !peer_matches {
            return Err(Miss::Peer);
        }
        self.rest_matches(number, line)
    }

    /// Whether a line whose peers match also matches by port and request.
    fn rest_matches(&self, number: usize, line: &Line) -> Result<Option<u16>, Miss> {
        if !self.program.lines.ports_match(line, self.flow, self.destination.map(|e| &**e)) {
            return Err(Miss::Port);
        }
        match (&line.reads, self.flow.request) {
            (Reads::Nothing, _) | (_, None) => Ok(None),
            (Reads::Contents, Some(request)) => self.contents_match(number, line, request),
            (Reads::Name(names), Some(request)) => self.server_name_is_one(line, names, request).map(|()| None),
            (Reads::NameAndContents(names), Some(request)) => {
                self.server_name_is_one(line, names, request)?;
                self.contents_match(number, line, request)
            }
            (Reads::LookUp | Reads::NamesAsked(_), Some(request)) => self.lookup_matches(line, request),
        }
    }
}

fn is_deny(program: &Compiled, line: &Line) -> bool {
    program.rule(line.rule).is_some_and(|rule| rule.action == Action::Deny)
}

/// The first line of a lower tier than line `number`'s.
fn next_tier(program: &Compiled, number: usize) -> usize {
    let lines = &program.lines.lines;
    let rank = |line: &Line| match line.tier {
        Tier::Admin { .. } => 0,
        Tier::Additive => 1,
        Tier::Baseline { .. } => 2,
    };
    let here = rank(&lines[number]);
    lines[number..].iter().position(|line| rank(line) > here).map_or(lines.len(), |offset| number + offset)
}

/// Why nothing of a request matches.
fn nothing_matched(program: &Compiled, flow: &Flow<'_>) -> Reason {
    let lines = &program.lines;
    let of_tls = |line: &Line| {
        let by_contents = || program.rule(line.rule).is_some_and(|rule| matches!(rule.l7, Some(L7::Tls(_))));
        matches!(line.reads, Reads::Name(_)) || by_contents()
    };
    match flow.request {
        Some(Request::Opaque) => Reason::NotTheProtocol,
        Some(Request::Tls { .. }) if !lines.lines.iter().any(of_tls) => Reason::NotTheProtocol,
        _ => Reason::NoRuleMatched,
    }
}
