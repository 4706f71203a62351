//! The status as metrics. Made anew for each scrape, so that a node that is gone leaves no line behind.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::status::Status;

/// The name of a node that the inventory knows: never what a client made up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: String,
}

/// The text of `/metrics`.
pub(crate) fn exposition(status: &Status) -> Result<String, std::fmt::Error> {
    let mut root = Registry::default();
    let registry = root.sub_registry_with_prefix("sluice_controller");
    let generation = Family::<NodeLabel, Gauge>::default();
    let acknowledged = Family::<NodeLabel, Gauge>::default();
    let connected = Family::<NodeLabel, Gauge>::default();
    for node in status.nodes.iter().filter(|node| node.known) {
        let label = NodeLabel { node: node.name.to_string() };
        connected.get_or_create(&label).set(node.connected.into());
        generation.get_or_create(&label).set(signed(node.generation.unwrap_or(0)));
        acknowledged.get_or_create(&label).set(signed(node.acknowledged.unwrap_or(0)));
    }
    registry.register("node_connected", "Whether the node follows the feed", connected);
    registry.register("node_generation", "The newest generation that the node was sent", generation);
    registry.register("node_acknowledged_generation", "The newest generation that the node's kernel holds", acknowledged);
    let mut gauge = |name: &str, help: &str, value: usize| {
        let gauge: Gauge = Gauge::default();
        gauge.set(signed(value as u64));
        registry.register(name, help, gauge);
    };
    gauge("files", "Files that are known", status.files);
    gauge("objects", "Objects that the files hold", status.objects);
    gauge("problems", "What is wrong with the files, in lines", status.problems.len());
    gauge("files_never_read", "Files that could not be read ever since the start", status.never_read);
    gauge("policies_unprogrammed", "Policies that some node that needs them doesn't hold", status.unprogrammed());
    let counts = status.counts;
    let mut counter = |name: &str, help: &str, value: u64| registry.register(name, help, ConstCounter::new(value));
    counter("snapshots", "Full snapshots that were sent", counts.snapshots);
    counter("deltas", "Deltas that were sent", counts.deltas);
    counter("coalesced", "Times a node left too much unanswered and was put on a snapshot", counts.coalesced);
    counter("nacks", "Updates that a node could not use", counts.nacks);
    if let Some(latency) = &status.latency {
        let help = "From a file's event to the updates in the nodes' queues, in seconds";
        registry.register("publish_seconds", help, latency.clone());
    }
    let mut text = String::new();
    encode(&mut text, &root)?;
    Ok(text)
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
