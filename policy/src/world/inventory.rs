//! The inventory: how namespaces, nodes and pods come, change and go.

use std::sync::Arc;

use super::{Effects, Placed, World};
use crate::label::Labels;
use crate::snapshot::NodeFacts;
use crate::source::{NamedPort, Node, Pod, PodRef};

impl World {
    pub(super) fn put_namespace(&mut self, name: Arc<str>, labels: Option<Labels>) {
        let before = self.namespace_labels(&name);
        match labels {
            Some(labels) => self.namespaces.insert(name.clone(), labels),
            None => self.namespaces.remove(&name),
        };
        let after = self.namespace_labels(&name);
        if before != after {
            self.selectors.namespace_changed(&name, &after, &mut self.classes, &self.identities);
        }
    }

    /// A pod may arrive before its namespace, which by then has the one label that every namespace has.
    pub(super) fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        let implied = || Labels::from([("kubernetes.io/metadata.name".into(), name.clone())]);
        self.namespaces.get(name).cloned().unwrap_or_else(implied)
    }

    pub(super) fn put_node(&mut self, node: Node, effects: &mut Effects) {
        if self.nodes.get(&node.name) != Some(&node) {
            effects.nodes.insert(node.name.clone());
            self.nodes.insert(node.name.clone(), node);
        }
    }

    pub(super) fn remove_node(&mut self, name: &Arc<str>, effects: &mut Effects) {
        if self.nodes.remove(name).is_some() {
            effects.nodes.insert(name.clone());
        }
    }

    pub(crate) fn node_facts(&self, name: &Arc<str>) -> NodeFacts {
        let node = self.nodes.get(name);
        NodeFacts {
            name: name.clone(),
            ips: node.map(|n| n.ips.clone()).unwrap_or_default(),
            pod_cidrs: node.map(|n| n.pod_cidrs.clone()).unwrap_or_default(),
        }
    }

    pub(super) fn put_pod(&mut self, pod: Pod, effects: &mut Effects) {
        let old = self.pods.get(&pod.reference);
        if old.is_some_and(|old| old.pod == pod) {
            return;
        }
        let selectable = !pod.host_network && !pod.finished && !pod.ips.is_empty();
        let stays =
            old.is_some_and(|old| selectable && old.class.is_some() && old.pod.ips == pod.ips && is_alike(&old.pod, &pod));
        let ports: Arc<[NamedPort]> = pod.ports.iter().cloned().collect();
        if stays {
            // Same class and addresses: only what the endpoint says of itself differs.
            let placed = self.pods.get_mut(&pod.reference).expect("the pod was found above");
            let nodes = (placed.pod.node.clone(), pod.node.clone());
            placed.ports = ports;
            effects.addresses.extend(pod.ips.iter().copied());
            placed.pod = pod;
            self.count_node(nodes.0.as_ref(), false);
            self.count_node(nodes.1.as_ref(), true);
            return;
        }
        self.remove_pod(&pod.reference.clone(), effects);
        let class = selectable.then(|| {
            for ip in &pod.ips {
                let claimants = self.addresses.entry(*ip).or_default();
                let place = claimants.partition_point(|other| *other < pod.reference);
                claimants.insert(place, pod.reference.clone());
            }
            self.claimed(&pod.ips);
            effects.addresses.extend(pod.ips.iter().copied());
            let namespace = &pod.reference.namespace;
            let labels = self.namespace_labels(namespace);
            let (class, new) = self.classes.enter(&pod);
            if new {
                self.selectors.class_appeared(class, &labels, &mut self.classes);
            }
            class
        });
        self.count_node(pod.node.as_ref(), true);
        self.pods.insert(pod.reference.clone(), Placed { pod, ports, class });
    }

    pub(super) fn remove_pod(&mut self, reference: &PodRef, effects: &mut Effects) {
        let Some(placed) = self.pods.remove(reference) else { return };
        self.count_node(placed.pod.node.as_ref(), false);
        let Some(class) = placed.class else { return };
        for ip in &placed.pod.ips {
            if let Some(claimants) = self.addresses.get_mut(ip) {
                claimants.retain(|other| other != reference);
                if claimants.is_empty() {
                    self.addresses.remove(ip);
                }
            }
        }
        self.claimed(&placed.pod.ips);
        effects.addresses.extend(placed.pod.ips.iter().copied());
        self.classes.leave(class, reference);
    }

    fn count_node(&mut self, node: Option<&Arc<str>>, appears: bool) {
        let Some(node) = node else { return };
        if appears {
            *self.named_nodes.entry(node.clone()).or_default() += 1;
        } else if let Some(count) = self.named_nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                self.named_nodes.remove(node);
            }
        }
    }
}

/// Whether every selector takes both or neither.
fn is_alike(one: &Pod, other: &Pod) -> bool {
    one.labels == other.labels && one.service_account == other.service_account
}
