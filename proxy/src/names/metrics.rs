//! What is counted of names.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Which bound was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Bound {
    NamesPerPod,
    AddressesPerName,
    NamesPerAddress,
    Total,
}

impl Bound {
    const ALL: [Self; 4] = [Self::NamesPerPod, Self::AddressesPerName, Self::NamesPerAddress, Self::Total];
}

impl EncodeLabelValue for Bound {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let word = match self {
            Self::NamesPerPod => "namesPerPod",
            Self::AddressesPerName => "addressesPerName",
            Self::NamesPerAddress => "namesPerAddress",
            Self::Total => "total",
        };
        word.encode(encoder)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    bound: Bound,
}

/// The counters of what was learned.
#[derive(Clone, Debug, Default)]
pub struct NamesMetrics {
    displaced: Family<Labels, Counter>,
    /// Addresses of names that are held, over all pods; expired ones until they are swept.
    pub entries: Gauge,
    /// Lessons that are not in the journal, so that a crash would lose them.
    pub journal_failures: Counter,
    /// Length of the journal.
    pub journal_bytes: Gauge,
}

impl NamesMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("sluice");
        let metrics = Self::default();
        for bound in Bound::ALL {
            let _ = metrics.displaced.get_or_create(&Labels { bound });
        }
        let m = metrics.clone();
        let help = "Addresses of names that were dropped before their time or not learned, by the bound that was met";
        registry.register("names_displaced", help, m.displaced);
        registry.register("names_entries", "Addresses of names that are held, over all pods", m.entries);
        registry.register("names_journal_failures", "Lessons that could not be written to the journal", m.journal_failures);
        registry.register("names_journal_bytes", "Length of the journal of names", m.journal_bytes);
        metrics
    }

    pub(super) fn displaced(&self, bound: Bound, count: usize) {
        self.displaced.get_or_create(&Labels { bound }).inc_by(count as u64);
    }

    #[cfg(test)]
    pub(super) fn displaced_by(&self, bound: Bound) -> u64 {
        self.displaced.get_or_create(&Labels { bound }).get()
    }
}
