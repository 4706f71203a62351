//! The one walk that decides a flow, and that explains it.

use std::cell::OnceCell;
use std::sync::Arc;

use crate::flow::{Direction, Flow, Request};
use crate::http::Hits;
use crate::memo;
use crate::program::{Compiled, Line, LineAction};
use crate::reason::Reason;
use crate::snapshot::{Endpoint, Peer, ProgramId, SetId};
use crate::source::{Action, Tier};
use crate::table::Table;
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
        match self.ends(flow) {
            Err(half) => Verdict::both(half),
            Ok(ends) => {
                Verdict { egress: self.half(flow, Direction::Egress, &ends), ingress: self.half(flow, Direction::Ingress, &ends) }
            }
        }
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
            && (Arc::ptr_eq(source, destination) || source.pod == destination.pod)
        {
            return Err(Half::allow(Reason::SamePod));
        }
        Ok(Ends { source, destination })
    }

    fn half(&self, flow: &Flow<'_>, direction: Direction, ends: &Ends<'_>) -> Half {
        let (id, program, peer) = match self.judge(flow, direction, ends) {
            Err(half) => return half,
            Ok(judge) => judge,
        };
        let candidates = Candidates { table: self, id, program, flow, peer, destination: ends.destination };
        let mut from = 0;
        let hits = OnceCell::new();
        loop {
            let Some((number, line, item)) = candidates.first(from, &hits) else {
                return default_half(program, flow);
            };
            let rule = RuleId { item, ..line.rule };
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
            return Half { decision, reason, rule: Some(rule) };
        }
    }

    /// The program that judges this half and the endpoint at the other end, or the answer that needs none.
    fn judge<'t>(
        &'t self,
        flow: &Flow<'_>,
        direction: Direction,
        ends: &Ends<'t>,
    ) -> Result<(ProgramId, &'t Compiled, Option<&'t Endpoint>), Half> {
        let (judged, address, peer) = match direction {
            Direction::Egress => (ends.source, flow.source, ends.destination),
            Direction::Ingress => (ends.destination, flow.destination, ends.source),
        };
        let Some(judged) = judged else {
            // The node's own address may lie in the range of its pods (a bridge's gateway does).
            let unknown = self.node().pod_cidrs.iter().any(|net| net.contains(&address)) && !self.node_ips.contains_key(&address);
            return Err(if unknown { Half::deny(Reason::UnknownPod) } else { Half::allow(Reason::NotOurPod) });
        };
        if !judged.local {
            return Err(Half::allow(Reason::NotOurPod));
        }
        if direction == Direction::Ingress
            && let Some(node) = self.node_ips.get(&flow.source)
            && judged.host.as_ref().is_none_or(|host| host == node)
        {
            return Err(Half::allow(Reason::FromOwnNode));
        }
        let Some(id) = self.programs(judged.identity).get(direction) else { return Err(Half::allow(Reason::NotIsolated)) };
        let program = self.compiled(id).expect("an applied table has the programs of its identities");
        Ok((id, program, peer.map(|e| &**e)))
    }

    fn steps(&self, flow: &Flow<'_>, direction: Direction, ends: &Ends<'_>) -> Vec<Step> {
        let Ok((id, program, peer)) = self.judge(flow, direction, ends) else {
            return Vec::new();
        };
        let candidates = Candidates { table: self, id, program, flow, peer, destination: ends.destination };
        let hits = OnceCell::new();
        let mut from = 0;
        let mut decided = false;
        let mut steps = Vec::new();
        for (number, line) in program.lines.lines.iter().enumerate() {
            let outcome = if decided || number < from {
                Outcome::NotReached
            } else {
                match candidates.matches(number, line, &hits) {
                    Err(miss) => Outcome::Missed(miss),
                    Ok(item) => {
                        if line.action == LineAction::Pass {
                            from = next_tier(program, number);
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
            steps.push(Step { id: line.rule, tier: line.tier, rule, action: line.action, outcome });
        }
        steps
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

/// One rule that was looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The rule, for what [`Table::policy`] knows of it.
    pub id: RuleId,
    pub tier: Tier,
    pub rule: NamedRule,
    pub action: LineAction,
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
    source: Option<&'t Arc<Endpoint>>,
    destination: Option<&'t Arc<Endpoint>>,
}

/// One half of one flow against one program.
struct Candidates<'a> {
    table: &'a Table,
    id: ProgramId,
    program: &'a Compiled,
    flow: &'a Flow<'a>,
    /// The endpoint at the other end, if it is a pod's.
    peer: Option<&'a Endpoint>,
    destination: Option<&'a Arc<Endpoint>>,
}

impl<'a> Candidates<'a> {
    /// The first line from `from` on that matches, by way of the index.
    fn first(&self, from: usize, hits: &OnceCell<Hits<'a>>) -> Option<(usize, &'a Line, Option<u16>)> {
        let mut best: Option<(usize, Option<u16>)> = None;
        let mut consider = |numbers: &[u32]| {
            for &number in numbers {
                let number = number as usize;
                if best.is_some_and(|(best, _)| number >= best) {
                    break;
                }
                if number < from {
                    continue;
                }
                if let Ok(item) = self.rest_matches(number, &self.program.lines.lines[number], hits) {
                    best = Some((number, item));
                    break;
                }
            }
        };
        match self.peer {
            None => consider(&self.program.everyone),
            Some(peer) => {
                consider(&memo::lines(self.table.id(), self.id, peer.identity, || {
                    self.program.lines_for(self.table.sets_of(peer.identity))
                }));
            }
        }
        self.program.blocks().lines(self.peer_address(), |number| consider(&[number]));
        best.map(|(number, item)| (number, &self.program.lines.lines[number], item))
    }

    fn peer_address(&self) -> std::net::IpAddr {
        match self.program.lines.direction {
            Direction::Egress => self.flow.destination,
            Direction::Ingress => self.flow.source,
        }
    }

    /// Whether a line matches, tried without the index.
    fn matches(&self, number: usize, line: &'a Line, hits: &OnceCell<Hits<'a>>) -> Result<Option<u16>, Miss> {
        let sets: &[SetId] = self.peer.map(|peer| self.table.sets_of(peer.identity)).unwrap_or_default();
        let address = self.peer_address();
        let peer_matches = line.peers.as_ref().is_none_or(|peers| {
            peers.iter().any(|peer| match peer {
                Peer::Set(set) => sets.binary_search(set).is_ok(),
                Peer::Block { cidr, except } => cidr.contains(&address) && !except.iter().any(|net| net.contains(&address)),
            })
        });
        if !peer_matches {
            return Err(Miss::Peer);
        }
        self.rest_matches(number, line, hits)
    }

    /// Whether a line whose peers match also matches by port and request.
    fn rest_matches(&self, number: usize, line: &'a Line, hits: &OnceCell<Hits<'a>>) -> Result<Option<u16>, Miss> {
        let destination = self.destination.map(|e| &**e);
        if !line.ports_match(self.flow.protocol, self.flow.destination_port, destination) {
            return Err(Miss::Port);
        }
        if line.action != LineAction::Inspect {
            return Ok(None);
        }
        match self.flow.request {
            None => Ok(None),
            // What can't be read as its protocol no allow matches, and every deny.
            Some(Request::Opaque) if is_deny(self.program, line) => Ok(None),
            Some(Request::Opaque) => Err(Miss::Request),
            Some(Request::Http(request)) => {
                let hits = hits.get_or_init(|| Hits::new(self.program.http(), request));
                hits.first_item(number).map(Some).ok_or(Miss::Request)
            }
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

/// What holds where no line matches.
fn default_half(program: &Compiled, flow: &Flow<'_>) -> Half {
    let lines = &program.lines;
    if lines.default == Decision::Allow {
        return Half::allow(Reason::NotIsolated);
    }
    Half::deny(match flow.request {
        Some(Request::Opaque) => Reason::NotTheProtocol,
        _ => Reason::NoRuleMatched,
    })
}
