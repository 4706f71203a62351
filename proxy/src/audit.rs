//! What Audit policies would change: records and counters of it. Nothing here has a say in what passes.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use sluice_policy::{Audit, Decision, Table};

use crate::judge::{self, Ends};
use crate::records::{Record, RecordVerdict};

/// A policy, and what it would have done.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    /// `SluiceNetworkPolicy shop/backend`
    policy: String,
    would_be: WouldBe,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct WouldBe(RecordVerdict);

impl EncodeLabelValue for WouldBe {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.0.as_str().encode(encoder)
    }
}

/// The counters of what Audit policies would change.
#[derive(Clone, Debug, Default)]
pub struct AuditMetrics {
    flows: Family<Labels, Counter>,
    /// Flows of audited pods that nobody looked at: decided by the kernel and beyond the limit, or lost; or allowed unread where an
    /// audit hangs on contents, and not offered to the proxy, not taken by it, or not understood to their end.
    pub left_out: Counter,
}

impl AuditMetrics {
    /// In `registry`, which gives them their prefix.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register("audit_flows", "Connections and requests that an Audit policy would have decided otherwise", m.flows);
        registry.register("audit_left_out", "Flows that Audit policies were not asked about, or not to their end", m.left_out);
        metrics
    }

    /// Counts what a record says, for each policy that it names.
    pub(crate) fn found(&self, record: &Record) {
        let Some(would_be) = record.would_be else { return };
        let several = record.policies.iter();
        let only = record.policy.iter().filter(|_| record.policies.is_empty());
        for policy in several.chain(only) {
            let policy = sluice_policy::verdict::NamedRule { rule: None, ..policy.clone() }.to_string();
            self.flows.get_or_create(&Labels { policy, would_be: WouldBe(would_be) }).inc();
        }
    }
}

impl Record {
    /// Notes what would have been, in place of what was: the flow's own record says that.
    pub fn audited(&mut self, enforced: Decision, audit: &Audit) {
        self.verdict = RecordVerdict::Audit;
        self.enforced = Some(RecordVerdict::of(enforced));
        self.would_be = Some(RecordVerdict::of(audit.decision()));
        self.reason = audit.reason();
        self.direction = Some(audit.direction.as_str());
        let by = audit.by();
        self.policy = by.first().cloned();
        self.policies = if by.len() > 1 { by.to_vec() } else { Vec::new() };
    }
}

/// What the Audit policies would make of a connection or request, and what is enforced; `None`: the same.
pub(crate) fn audit(table: &Table, ends: &Ends, request: Option<sluice_policy::Request<'_>>) -> Option<(Decision, Audit)> {
    if !table.has_audit() {
        return None;
    }
    let flow = judge::flow(ends, request);
    let verdict = table.verdict(&flow);
    Some((verdict.decision(), table.audit(&flow, &verdict)?))
}
