//! The rule that came nearest to allowing a denied flow, and what exactly it missed.

use std::net::IpAddr;

use serde::Serialize;
use sluice_policy::label::{Labels, Operator, Requirement, SERVICE_ACCOUNT};
use sluice_policy::source::{Action, Namespaces, Peer, Pod, PodSelector, Policy, PortMatch, Rule};
use sluice_policy::table::Reads;
use sluice_policy::verdict::NamedRule;
use sluice_policy::walk::{Miss, Outcome, Step};
use sluice_policy::{Direction, Flow, Request};

use super::{words, written};
use crate::cluster::Cluster;

/// A rule that would have allowed the flow but for this.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Nearest {
    pub rule: NamedRule,
    /// What differs, one after the other: `the port: 8080/tcp is asked, TCP 80 is allowed`.
    pub but: Vec<String>,
}

/// How far a rule is from matching: first by how many of peer, port and request differ, then by how much of the peer.
type Distance = (usize, usize);

/// Of all rules of one half that missed, the nearest; of equals, the first.
pub(super) fn nearest(cluster: &Cluster, flow: &Flow<'_>, steps: &[Step], direction: Direction) -> Option<Nearest> {
    let missed = steps.iter().filter_map(|step| {
        let Outcome::Missed(miss) = step.outcome else { return None };
        let reference = &cluster.table().policy(step.id.policy)?.reference;
        let (policy, rule) = written(cluster, reference, step)?;
        let (distance, but) = differences(cluster, flow, (miss, &step.reads), direction, policy, rule)?;
        Some((distance, Nearest { rule: step.rule.clone(), but }))
    });
    missed.min_by_key(|(distance, _)| *distance).map(|(_, nearest)| nearest)
}

fn differences(
    cluster: &Cluster,
    flow: &Flow<'_>,
    (miss, reads): (Miss, &Reads),
    direction: Direction,
    policy: &Policy,
    rule: &Rule,
) -> Option<(Distance, Vec<String>)> {
    if rule.action != Action::Allow {
        return None;
    }
    if let Some(asked) =
        name_asked(flow).filter(|_| miss == Miss::Request && matches!(reads, Reads::Name(_) | Reads::NamesAsked(_)))
    {
        return Some(((1, 0), vec![format!("the name: {asked} is asked for, {} is allowed", words::peers(rule, policy))]));
    }
    // What a rule by name says of look-ups stands beside its own peers and ports.
    if reads.is_lookup() && rule.l7.is_none() {
        return None;
    }
    let mut but = Vec::new();
    let mut of_peer = 0;
    if miss == Miss::Peer {
        let peers = rule.peers.as_deref().unwrap_or_default();
        let other = match direction {
            Direction::Egress => flow.destination,
            Direction::Ingress => flow.source,
        };
        let (count, what) = peers
            .iter()
            .map(|peer| peer_differences(cluster, other, peer, &policy.reference.namespace))
            .min_by_key(|(count, _)| *count)?;
        of_peer = count;
        but.extend(what);
    }
    let destination = cluster.table().endpoint(flow.destination).map(|endpoint| &**endpoint);
    let ports = rule.ports.as_deref();
    let on_port = |ports: &[PortMatch]| ports.iter().any(|p| p.matches(flow, destination));
    let port_misses = ports.is_some_and(|ports| !on_port(ports));
    if port_misses {
        if ports.is_some_and(<[_]>::is_empty) {
            return None;
        }
        let asked = words::destination_port(flow.destination_port, flow.protocol, flow.icmp);
        but.push(format!("the port: {asked} is asked, {} is allowed", words::ports(rule)));
    }
    // Whether a request would match is only known where all else did.
    if miss == Miss::Request {
        let asked = match flow.request {
            Some(Request::Http(request)) => format!("{} {}", request.method, request.path),
            Some(Request::Tls { server_name: Some(name) }) => format!("TLS for {name}"),
            Some(Request::Tls { server_name: None }) => "TLS without a server name".to_owned(),
            Some(Request::Lookup { name, kind }) => format!("the look-up of {name} ({})", sluice_crds::type_of_number(kind)),
            Some(Request::Opaque) | None => "something that no rule can read".to_owned(),
        };
        but.push(format!("the request: {asked} is asked, {} is allowed", words::requests(rule)?));
    }
    let dimensions = usize::from(miss == Miss::Peer) + usize::from(port_misses) + usize::from(miss == Miss::Request);
    Some(((dimensions, of_peer), but))
}

/// The name in a flow's contents; `None`: there are none.
fn name_asked(flow: &Flow<'_>) -> Option<String> {
    Some(match flow.request? {
        Request::Lookup { name, .. } | Request::Tls { server_name: Some(name) } => name.to_owned(),
        Request::Http(request) if !request.host.is_empty() => request.host.to_owned(),
        _ => "no name".to_owned(),
    })
}

/// How much of a peer differs from the other end, and what.
fn peer_differences(cluster: &Cluster, other: IpAddr, peer: &Peer, home: &str) -> (usize, Vec<String>) {
    let pod = cluster.pod_at(other).and_then(|reference| cluster.pod(reference));
    let far = 100;
    match (peer, pod) {
        (Peer::Pods(selector), Some(pod)) => {
            let differences = pod_differences(cluster, selector, pod, home);
            (differences.len(), differences)
        }
        (Peer::Pods(_), None) => (far, vec![format!("the peer: {other} is no pod, {} is allowed", words::peer(peer, home))]),
        (Peer::Block { cidr, except }, _) => {
            let within = except.iter().find(|net| cidr.contains(&other) && net.contains(&other));
            match within {
                Some(net) => (1, vec![format!("the address: {other} is in {net}, which {cidr} leaves out")]),
                None => (if pod.is_some() { 3 } else { 1 }, vec![format!("the address: {other} is not in {cidr}")]),
            }
        }
        (Peer::Nodes(_) | Peer::Names(_), _) => (far, vec![format!("the peer: {other} is none of {}", words::peer(peer, home))]),
    }
}

fn pod_differences(cluster: &Cluster, selector: &PodSelector, pod: &Pod, home: &str) -> Vec<String> {
    let mut differences = Vec::new();
    let namespace = &pod.reference.namespace;
    match &selector.namespaces {
        Namespaces::Named(wanted) if wanted != namespace => {
            let own = if **wanted == *home { ", the policy's own," } else { "" };
            differences.push(format!("the namespace: {namespace} is asked, {wanted}{own} is allowed"));
        }
        Namespaces::Named(_) => {}
        Namespaces::Matching(wanted) => {
            let labels = cluster.namespace_labels(namespace);
            differences.extend(unmet(&wanted.requirements, &labels, &format!("namespace {namespace}")));
        }
    }
    let mut labels = pod.labels.clone();
    labels.insert(SERVICE_ACCOUNT.into(), pod.service_account.clone());
    differences.extend(unmet(&selector.pods.requirements, &labels, &pod.reference.to_string()));
    differences
}

/// The requirements that don't hold: what the object has, and what is asked for.
fn unmet(requirements: &[Requirement], labels: &Labels, whose: &str) -> Vec<String> {
    let unmet = requirements.iter().filter(|requirement| !requirement.matches(labels));
    unmet
        .map(|Requirement { key, operator, values }| {
            let what = if &**key == SERVICE_ACCOUNT { "service account".to_owned() } else { format!("label {key}") };
            let wanted = values.iter().map(|value| &**value).collect::<Vec<_>>().join(" or ");
            match (operator, labels.get(key)) {
                (Operator::In, Some(value)) => format!("the {what} of {whose}: it is {value}, {wanted} is allowed"),
                (Operator::In, None) => format!("the {what} of {whose}: it has none, {wanted} is allowed"),
                (Operator::Exists, _) => format!("the {what} of {whose}: it has none"),
                (Operator::NotIn | Operator::DoesNotExist, Some(value)) => {
                    format!("the {what} of {whose}: it is {value}, which is left out")
                }
                (Operator::NotIn | Operator::DoesNotExist, None) => format!("the {what} of {whose}"),
            }
        })
        .collect()
}

impl std::fmt::Display for Nearest {
    /// `NetworkPolicy shop/web ingress[0]: all matches but the port: 8080/tcp is asked, TCP 80 is allowed`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: all matches but {}", self.rule, words::and(&self.but))
    }
}
