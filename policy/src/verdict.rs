//! What Sluice decides about a flow.

use std::sync::Arc;

use serde::Serialize;

use crate::flow::Direction;
use crate::reason::Reason;
use crate::snapshot::PolicyId;
use crate::source::PolicyRef;

/// The decision for one connection, request or datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Decision {
    Allow,
    /// L3/L4 alone can't decide: read the head of the request, then ask again.
    Inspect,
    Deny,
}

impl Decision {
    /// The word of `sluice eval`: `allow`, `l7` or `deny`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Inspect => "l7",
            Self::Deny => "deny",
        }
    }
}

/// A rule of a policy: an index into [`snapshot::Policy::rules`](crate::snapshot::Policy), and for an L7 rule the item that
/// matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId {
    pub policy: PolicyId,
    pub rule: u16,
    /// Index of the item of the manifest's `http`, `grpc` or `tls.serverNames`, if one decided.
    pub item: Option<u16>,
}

/// What one end of the flow says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub decision: Decision,
    pub reason: Reason,
    /// The rule that decided; `None` where isolation, a default or an invariant did.
    pub rule: Option<RuleId>,
}

impl Half {
    pub const fn allow(reason: Reason) -> Self {
        Self { decision: Decision::Allow, reason, rule: None }
    }

    pub const fn deny(reason: Reason) -> Self {
        Self { decision: Decision::Deny, reason, rule: None }
    }
}

/// Both ends. A flow passes when both allow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub egress: Half,
    pub ingress: Half,
}

impl Verdict {
    /// Both ends say the same, for the same reason.
    pub const fn both(half: Half) -> Self {
        Self { egress: half, ingress: half }
    }

    pub fn decision(&self) -> Decision {
        self.egress.decision.max(self.ingress.decision)
    }

    pub fn is_allowed(&self) -> bool {
        self.decision() == Decision::Allow
    }

    /// The direction whose half decided: the denial if there is one (egress first), else what must be inspected,
    /// else the half that an actual rule allowed, and of two such rules the one that read the request.
    pub fn deciding(&self) -> Direction {
        let decision = self.decision();
        if self.egress.decision == decision && self.ingress.decision == decision {
            let says_more = |half: &Half| (half.rule.is_some(), half.rule.is_some_and(|rule| rule.item.is_some()));
            let ingress_says_more = says_more(&self.ingress) > says_more(&self.egress);
            return if decision == Decision::Allow && ingress_says_more { Direction::Ingress } else { Direction::Egress };
        }
        if self.egress.decision == decision { Direction::Egress } else { Direction::Ingress }
    }

    pub fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }

    pub fn reason(&self) -> Reason {
        self.half(self.deciding()).reason
    }
}

/// A rule named as people know it: the `by` of `sluice eval`, the `policy` of a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NamedRule {
    pub kind: &'static str,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// A field path below `spec`: `ingress[0].http[1]`. Absent for a policy that isolates and has no rule that allows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl NamedRule {
    pub fn of_policy(reference: &PolicyRef) -> Self {
        Self { kind: reference.kind.as_str(), namespace: reference.namespace.clone(), name: reference.name.clone(), rule: None }
    }
}

impl std::fmt::Display for NamedRule {
    /// `SluiceNetworkPolicy production/backend ingress[0].http[1]`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind)?;
        f.write_str(" ")?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)?;
        if let Some(rule) = &self.rule {
            write!(f, " {rule}")?;
        }
        Ok(())
    }
}
