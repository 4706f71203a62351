//! Any text as manifests: read, lowered, compiled, sent and judged.

use std::collections::HashSet;
use std::net::IpAddr;

use sluice_crds::{Document, Limits, Manifests, Value, lower_document, read_where, read_within};
use sluice_policy::http::HttpRequest;
use sluice_policy::source::Object;
use sluice_policy::view::Scope;
use sluice_policy::world::Edit;
use sluice_policy::{Decision, Flow, Protocol, Request, Table, View, World};

const PORTS: [u16; 3] = [53, 80, 8080];

/// Nothing panics; the feed says what the world says; the order of objects changes no answer; contents that were read leave
/// nothing to inspect.
pub(crate) fn manifests(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = read_within(text, "fuzz.yaml", Limits::default());
    if read.is_whole() {
        without_pods(text, &read);
    }
    let mut objects = Vec::new();
    for document in &read.documents {
        let lowered = lower_document(document);
        lowered.diagnostics.iter().for_each(|diagnostic| drop(diagnostic.to_string()));
        objects.extend(lowered.object);
    }
    read.errors.iter().for_each(|error| drop(error.to_string()));
    // Of two for one key the last holds, so that their order means something.
    let mut keys = HashSet::new();
    objects.retain(|object| keys.insert(object.key()));
    let forward = table(objects.iter().cloned());
    let backward = table(objects.iter().rev().cloned());
    let addresses = addresses(&objects);
    for source in &addresses {
        for destination in addresses.iter().filter(|address| address.is_ipv4() == source.is_ipv4()) {
            for destination_port in PORTS {
                let mut flow = Flow {
                    source: *source,
                    destination: *destination,
                    protocol: Protocol::Tcp,
                    destination_port,
                    icmp: None,
                    names: &[],
                    request: None,
                };
                let (one, other) = (forward.verdict(&flow), backward.verdict(&flow));
                assert_eq!(one.decision(), other.decision(), "{flow:?}");
                let get = HttpRequest::plain("GET", "/api/orders", "orders.example");
                for request in [Request::Opaque, Request::Http(&get), Request::Tls { server_name: Some("orders.example") }] {
                    flow.request = Some(request);
                    let judged = forward.verdict(&flow).decision();
                    assert_ne!(judged, Decision::Inspect, "{flow:?}");
                    assert_eq!(judged, backward.verdict(&flow).decision(), "{flow:?}");
                    if one.decision() != Decision::Inspect {
                        assert_eq!(judged, one.decision(), "{flow:?}");
                    }
                }
            }
        }
    }
}

/// Leaving out the pods that can be told by their lines leaves all other objects, where they are.
fn without_pods(text: &str, whole: &Manifests) {
    let excerpt = read_where(text, "fuzz.yaml", Limits::default(), |outline| outline.kind != "Pod");
    assert!(excerpt.is_whole(), "{:?}", excerpt.errors);
    let others = |manifests: &Manifests| {
        let is_other = |document: &&Document| document.value.get("kind").and_then(Value::as_str) != Some("Pod");
        manifests.documents.iter().filter(is_other).map(|document| (document.line, document.value.clone())).collect::<Vec<_>>()
    };
    assert_eq!(others(&excerpt), others(whole));
}

/// The table of everything, by way of the feed.
fn table(objects: impl Iterator<Item = Object>) -> Table {
    let mut world = World::new();
    world.apply(objects.map(Edit::Put));
    let snapshot = View::new(Scope::Everything).snapshot(&world);
    let sent = sluice_feed::changes::encode(&snapshot).expect("a small world fits a message");
    let snapshot = sluice_feed::changes::decode(&sent).expect("what is sent is understood");
    Table::empty().apply(&snapshot).expect("a snapshot fits the empty table").0
}

/// Of the first few pods, and of nobody.
fn addresses(objects: &[Object]) -> Vec<IpAddr> {
    let pods = objects.iter().filter_map(|object| match object {
        Object::Pod(pod) => Some(pod.ips.iter().copied()),
        _ => None,
    });
    let mut addresses: Vec<IpAddr> = pods.flatten().take(5).collect();
    addresses.extend([IpAddr::from([203, 0, 113, 7]), IpAddr::from([10, 9, 0, 1])]);
    addresses
}
