//! What is counted beside connections, among which flows of QUIC are.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The counters of QUIC.
#[derive(Clone, Debug, Default)]
pub struct QuicMetrics {
    /// Datagrams to the proxy's own address, or between addresses that no pod and no server has.
    pub not_diverted: Counter,
    /// Datagrams of allowed flows that were dropped because more might be in them than could be read.
    pub unreadable: Counter,
    /// Datagrams that could not be sent on, in either direction.
    pub unsent: Counter,
    /// Denials of which neither the client heard nor a record tells, beyond what one pod gets.
    pub unsaid: Counter,
}

impl QuicMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("sluice_quic");
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register("not_diverted", "Datagrams that were not diverted to the proxy", m.not_diverted);
        registry.register("unreadable", "Datagrams of allowed flows that were dropped because they can't be read", m.unreadable);
        registry.register("unsent", "Datagrams that could not be sent on", m.unsent);
        registry.register("unsaid", "Denials that were neither answered nor recorded, beyond what one pod gets", m.unsaid);
        metrics
    }
}
