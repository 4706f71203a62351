//! What the proxy counts, under `sluice_` and in base units.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use sluice_policy::Reason;

use crate::audit::AuditMetrics;
use crate::kernel::Count;
use crate::kernel::others::Effect;
use crate::records::RecordVerdict;

/// How a connection or request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    verdict: VerdictLabel,
    reason: ReasonLabel,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct VerdictLabel(RecordVerdict);

impl EncodeLabelValue for VerdictLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.0.as_str().encode(encoder)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct ReasonLabel(Reason);

impl EncodeLabelValue for ReasonLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.0.as_str().encode(encoder)
    }
}

/// A rule of a policy, and what it did.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RuleLabels {
    direction: &'static str,
    action: &'static str,
    /// As in the kernel's listing; of rules that are looked up together the first.
    rule: String,
}

impl RuleLabels {
    fn new(count: &Count) -> Self {
        let first = count.by.first().map(ToString::to_string).unwrap_or_default();
        let rule = match count.by.len() {
            0 | 1 => first,
            many => format!("{first} and {} more", many - 1),
        };
        Self { direction: count.direction.as_str(), action: count.action.as_str(), rule }
    }
}

/// The counters of the data path and of the table.
#[derive(Clone, Debug)]
pub struct Metrics {
    connections: Family<Outcome, Counter>,
    requests: Family<Outcome, Counter>,
    rules: Family<RuleLabels, Counter>,
    connect: Histogram,
    response: Histogram,
    /// Connections that are open now.
    pub open_connections: Gauge,
    /// Times a listener had to wait because the process was out of file descriptors or memory.
    pub accept_backoffs: Counter,
    /// Records that found no place in the queue, or could not be written.
    pub records_suppressed: Counter,
    /// Records that wait for the writer.
    pub records_queued: Gauge,
    /// The generation of the table that decides.
    pub generation: Gauge,
    /// The generation that the kernel holds.
    pub kernel_generation: Gauge,
    /// Times the kernel refused a table.
    pub kernel_failures: Counter,
    /// Ports of pods' bridges that are open for their pod.
    pub bridge_ports: Gauge,
    /// Ports of pods' bridges whose pod isn't known: closed.
    pub bridge_ports_unidentified: Gauge,
    /// Endpoints of the table.
    pub table_endpoints: Gauge,
    /// Programs of the table.
    pub table_programs: Gauge,
    /// Address sets of the table.
    pub table_sets: Gauge,
    other_engine_findings: Family<EffectLabel, Gauge>,
    /// Ways on which packets of this node's pods don't come by the rules.
    pub path_not_seen: Gauge,
    /// What Audit policies would change.
    pub audit: AuditMetrics,
}

/// What becomes of connections that go through the proxy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EffectLabel {
    effect: &'static str,
}

impl Metrics {
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("sluice");
        let metrics = Self {
            connections: Family::default(),
            requests: Family::default(),
            rules: Family::default(),
            connect: Histogram::new(exponential_buckets(0.000_1, 4.0, 9)),
            response: Histogram::new(exponential_buckets(0.000_2, 4.0, 10)),
            open_connections: Gauge::default(),
            accept_backoffs: Counter::default(),
            records_suppressed: Counter::default(),
            records_queued: Gauge::default(),
            generation: Gauge::default(),
            kernel_generation: Gauge::default(),
            kernel_failures: Counter::default(),
            bridge_ports: Gauge::default(),
            bridge_ports_unidentified: Gauge::default(),
            table_endpoints: Gauge::default(),
            table_programs: Gauge::default(),
            table_sets: Gauge::default(),
            other_engine_findings: Family::default(),
            path_not_seen: Gauge::default(),
            audit: AuditMetrics::new(registry),
        };
        for effect in [Effect::Evades, Effect::Cuts] {
            metrics.other_engine_findings(effect, 0);
        }
        let m = metrics.clone();
        registry.register("connections", "Connections that the proxy ended, by outcome", m.connections);
        registry.register("requests", "Requests that the proxy judged, by outcome", m.requests);
        registry.register(
            "rule_packets",
            "First packets of flows, and denied packets, that a rule decided in the kernel",
            m.rules,
        );
        let seconds = || Unit::Seconds;
        registry.register_with_unit("upstream_connect", "Time to connect to a server", seconds(), m.connect);
        registry.register_with_unit("response", "Time from a judged request to the head of its response", seconds(), m.response);
        registry.register("open_connections", "Connections that are open", m.open_connections);
        registry.register("accept_backoffs", "Waits of a listener for file descriptors or memory", m.accept_backoffs);
        registry.register("records_suppressed", "Records left out", m.records_suppressed);
        registry.register("records_queued", "Records that wait to be written", m.records_queued);
        registry.register("generation", "Generation of the table that decides", m.generation);
        registry.register("kernel_generation", "Generation that the kernel holds", m.kernel_generation);
        registry.register("kernel_failures", "Tables that the kernel refused", m.kernel_failures);
        registry.register("bridge_ports", "Ports of pods' bridges that are open for their pod", m.bridge_ports);
        let unidentified = "Ports of pods' bridges whose pod is not known, which are closed";
        registry.register("bridge_ports_unidentified", unidentified, m.bridge_ports_unidentified);
        registry.register("table_endpoints", "Pod addresses in the table", m.table_endpoints);
        registry.register("table_programs", "Policy sets in the table", m.table_programs);
        registry.register("table_sets", "Selectors in the table", m.table_sets);
        let help = "Rules of others that connections through the proxy would evade, or that would cut them";
        registry.register("other_engine_findings", help, m.other_engine_findings);
        registry.register("path_not_seen", "Ways on which packets of pods don't come by the rules", m.path_not_seen);
        metrics
    }

    pub(crate) fn other_engine_findings(&self, effect: Effect, count: usize) {
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        self.other_engine_findings.get_or_create(&EffectLabel { effect: effect.as_str() }).set(count);
    }

    pub(crate) fn connection(&self, verdict: RecordVerdict, reason: Reason) {
        self.connections.get_or_create(&outcome(verdict, reason)).inc();
    }

    pub(crate) fn request(&self, verdict: RecordVerdict, reason: Reason) {
        self.requests.get_or_create(&outcome(verdict, reason)).inc();
    }

    /// What the kernel's rules have counted until now, in place of what they had.
    pub(crate) fn rules(&self, counts: &[Count]) {
        self.rules.clear();
        for count in counts {
            self.rules.get_or_create(&RuleLabels::new(count)).inc_by(count.packets);
        }
    }

    pub(crate) fn connected(&self, took: Duration) {
        self.connect.observe(took.as_secs_f64());
    }

    pub(crate) fn responded(&self, took: Duration) {
        self.response.observe(took.as_secs_f64());
    }
}

fn outcome(verdict: RecordVerdict, reason: Reason) -> Outcome {
    Outcome { verdict: VerdictLabel(verdict), reason: ReasonLabel(reason) }
}
