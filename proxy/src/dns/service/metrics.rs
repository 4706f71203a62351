//! What is counted beside the fates of queries, which their judge counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// The counters of the DNS proxy.
#[derive(Clone, Debug, Default)]
pub struct DnsMetrics {
    /// Datagrams and connections to the proxy's own address, or between addresses that no pod and no server has.
    pub not_diverted: Counter,
    /// Messages that are no query: answered by FORMERR if by anything.
    pub malformed: Counter,
    /// Answers that didn't fit their question, and were dropped.
    pub not_believed: Counter,
    /// Answers that couldn't be sent to the pod.
    pub unsent: Counter,
    /// Sockets for the answers of one pod, since another's took all the room in the one for all.
    pub lanes: Counter,
    /// Answers that were sent in fragments.
    pub fragmented: Counter,
    /// Connections that were closed for want of room.
    pub connections_refused: Counter,
    /// Waits of a listener for file descriptors or memory.
    pub accept_backoffs: Counter,
}

impl DnsMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let registry = registry.sub_registry_with_prefix("sluice_dns");
        let metrics = Self::default();
        let m = metrics.clone();
        registry.register("not_diverted", "Datagrams and connections that were not diverted to the DNS proxy", m.not_diverted);
        registry.register("malformed", "Messages that are no DNS query", m.malformed);
        registry.register("not_believed", "Answers of servers that didn't fit their question", m.not_believed);
        registry.register("unsent", "Answers that couldn't be sent to the pod", m.unsent);
        let help = "Sockets opened for the answers of one pod, as the one of all pods was full";
        registry.register("answer_sockets", help, m.lanes);
        registry.register("fragmented", "Answers sent in fragments", m.fragmented);
        registry.register("connections_refused", "Connections closed for want of room", m.connections_refused);
        registry.register("accept_backoffs", "Waits of a listener for file descriptors or memory", m.accept_backoffs);
        metrics
    }
}
