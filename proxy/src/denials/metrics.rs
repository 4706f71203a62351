//! What is counted of the kernel's denials.

use std::collections::BTreeMap;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::audit::AuditMetrics;
use crate::kernel::Site;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    reason: Word,
    direction: Word,
}

/// A word of ours: no label says what a client made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        self.0.encode(encoder)
    }
}

/// The counters of the kernel's denials.
#[derive(Clone, Debug, Default)]
pub struct DenialMetrics {
    packets: Family<Labels, Counter>,
    /// Packets of which there is no record of their own: repetitions, beyond the limit, or lost.
    pub left_out: Counter,
    /// Times the kernel had no room for its reports.
    pub overruns: Counter,
    /// Whether the kernel's reports arrive here: 1, or 0 while somebody else has the NFLOG group.
    pub listening: Gauge,
    /// Times the kernel's counters could not be read.
    pub unread: Counter,
    /// Shared with the data path.
    pub audit: AuditMetrics,
}

impl DenialMetrics {
    pub fn new(registry: &mut Registry, audit: AuditMetrics) -> Self {
        let registry = registry.sub_registry_with_prefix("sluice");
        let metrics = Self { audit, ..Self::default() };
        let m = metrics.clone();
        registry.register("kernel_denials", "Packets that the kernel denied, by reason and direction", m.packets);
        registry.register("kernel_denials_left_out", "Packets denied by the kernel without a record of their own", m.left_out);
        registry.register("kernel_log_overruns", "Times reports of the kernel were lost, for want of room", m.overruns);
        registry.register("kernel_log_listening", "Whether the kernel's reports arrive", m.listening);
        registry.register("kernel_log_unread", "Times the kernel's counters of denials could not be read", m.unread);
        metrics
    }

    /// What the kernel has counted, after what it had `before`. A counter of the kernel that is smaller began anew.
    pub(super) fn count(&self, totals: &[(Site, u64)], before: &BTreeMap<Site, u64>) {
        for (site, total) in totals {
            let Some(reason) = site.reason() else { continue };
            let direction = site.direction().map_or("none", |direction| direction.as_str());
            let counter = self.packets.get_or_create(&Labels { reason: Word(reason.as_str()), direction: Word(direction) });
            let counted = before.get(site).copied().unwrap_or_default();
            counter.inc_by(if *total < counted { *total } else { total - counted });
        }
    }
}
