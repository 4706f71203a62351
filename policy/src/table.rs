//! The node's table: applies changes, decides flows, and lists what the kernel needs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::flow::{Direction, Flow, Protocol};
use crate::snapshot::{Change, Endpoint, IdentityId, NodeFacts, Peer, Policy, PolicyId, ProgramId, Programs, SetId};
use crate::source::{PortMatch, Tier};
use crate::verdict::{Decision, NamedRule, RuleId, Verdict};

/// Everything a node decides by. Cheap to clone: parts that don't change are shared.
#[derive(Clone, Debug)]
pub struct Table {}

/// What a list of changes touched: where the kernel has to look.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// The node's own facts changed.
    pub node: bool,
    /// Addresses that appeared, vanished, or whose endpoint differs.
    pub endpoints: BTreeSet<IpAddr>,
    /// Identities whose programs changed.
    pub identities: BTreeSet<IdentityId>,
    /// Sets whose members changed, appeared or vanished.
    pub sets: BTreeSet<SetId>,
    /// Programs whose lines changed, appeared or vanished.
    pub programs: BTreeSet<ProgramId>,
}

/// A list of changes that doesn't fit the state it is applied to: the sender and this table disagree, so a new snapshot is due.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("change refers to {what} {id}, which the table doesn't hold")]
pub struct ApplyError {
    pub what: &'static str,
    pub id: String,
}

/// One step of a program, in the order of judgement: the first line that matches decides.
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
#[derive(Clone, Debug)]
pub struct Lines {
    pub direction: Direction,
    pub lines: Vec<Line>,
    /// `Allow` (nobody isolates) or `Deny`.
    pub default: Decision,
    /// The policies of the additive tier that isolate.
    pub isolated_by: Vec<PolicyId>,
}

impl Table {
    /// The table before the first snapshot: it denies everything, for `NoSnapshot`.
    pub fn empty() -> Self {
        unimplemented!()
    }

    /// The table that `changes` lead to from here, and what differs. `self` stays as it is.
    pub fn apply(&self, changes: &[Change]) -> Result<(Self, Touched), ApplyError> {
        let _ = changes;
        unimplemented!()
    }

    /// Decides `flow` by its addresses, ports and, if given, its request. No I/O.
    ///
    /// Without a request, a flow whose answer hangs on one is `Inspect`. With one, the answer is `Allow` or `Deny`.
    pub fn verdict(&self, flow: &Flow<'_>) -> Verdict {
        let _ = flow;
        unimplemented!()
    }

    /// Who decided one half of `verdict(flow)`: the rule, or every policy that isolates where none allows. Empty: no policy.
    pub fn by(&self, flow: &Flow<'_>, verdict: &Verdict, direction: Direction) -> Vec<NamedRule> {
        let _ = (flow, verdict, direction);
        unimplemented!()
    }

    /// The list of changes that leads from [`Table::empty`] to this table: what is written to disk.
    pub fn to_changes(&self) -> Vec<Change> {
        unimplemented!()
    }

    /// Whether a snapshot has arrived.
    pub fn is_loaded(&self) -> bool {
        unimplemented!()
    }

    pub fn node(&self) -> &NodeFacts {
        unimplemented!()
    }

    pub fn endpoint(&self, ip: IpAddr) -> Option<&Arc<Endpoint>> {
        let _ = ip;
        unimplemented!()
    }

    /// All endpoints, local ones and peers, in no particular order.
    pub fn endpoints(&self) -> impl Iterator<Item = (IpAddr, &Arc<Endpoint>)> {
        std::iter::empty()
    }

    /// The programs that judge the pods of an identity.
    pub fn programs(&self, identity: IdentityId) -> Programs {
        let _ = identity;
        unimplemented!()
    }

    /// Every program that the table holds.
    pub fn program_ids(&self) -> impl Iterator<Item = ProgramId> {
        std::iter::empty()
    }

    pub fn lines(&self, program: ProgramId) -> Option<&Lines> {
        let _ = program;
        unimplemented!()
    }

    pub fn policy(&self, id: PolicyId) -> Option<&Arc<Policy>> {
        let _ = id;
        unimplemented!()
    }

    /// A rule by the name people know it by.
    pub fn named(&self, rule: RuleId) -> Option<NamedRule> {
        let _ = rule;
        unimplemented!()
    }

    /// Every set that the table holds.
    pub fn set_ids(&self) -> impl Iterator<Item = SetId> {
        std::iter::empty()
    }

    /// The sets that an identity is a member of.
    pub fn sets_of(&self, identity: IdentityId) -> &[SetId] {
        let _ = identity;
        unimplemented!()
    }

    /// The addresses of the pods in a set (both families, without addresses in conflict), in no particular order.
    pub fn addresses(&self, set: SetId) -> impl Iterator<Item = IpAddr> {
        let _ = set;
        std::iter::empty()
    }

    /// Where the port `name` of `protocol` is found: address and number for each endpoint that has it.
    pub fn named_ports(&self, protocol: Protocol, name: &str) -> impl Iterator<Item = (IpAddr, u16)> {
        let _ = (protocol, name);
        std::iter::empty()
    }
}
