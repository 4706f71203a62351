//! Workloads: the pods that one controller made, or that carry the same labels.
//!
//! Manifests needn't name a pod's controller, but each kind of controller marks its pods:
//!
//! | label | whose pods | name of the controller |
//! |---|---|---|
//! | `pod-template-hash` | a Deployment's | what stands before `-HASH-` |
//! | `batch.kubernetes.io/job-name`, `job-name` | a Job's | the value |
//! | `statefulset.kubernetes.io/pod-name` | a StatefulSet's | what stands before the last `-` |
//! | `controller-revision-hash` | a DaemonSet's | what stands before the last `-` |
//!
//! Other pods are one workload if they are of one namespace and have the same labels and service account.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sluice_policy::label::Labels;
use sluice_policy::source::{Pod, PodRef};

/// Pods that stand for each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    pub namespace: Arc<str>,
    /// `shop/web`; `shop/web-1 and 2 alike` where no controller is known.
    pub name: String,
    /// Sorted.
    pub pods: Vec<PodRef>,
}

/// All workloads, sorted by namespace and name.
#[derive(Clone, Debug, Default)]
pub struct Workloads {
    pub all: Vec<Workload>,
    of_pod: HashMap<PodRef, usize>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Maker<'p> {
    Controller(&'p str),
    Labels(&'p Labels, &'p str),
}

impl Workloads {
    /// Of the pods that policies can select: a pod in its node's network is no more than the node's address.
    pub fn of<'p>(pods: impl IntoIterator<Item = &'p Pod>) -> Self {
        let mut made: BTreeMap<(&Arc<str>, Maker<'_>), Vec<&PodRef>> = BTreeMap::new();
        for pod in pods.into_iter().filter(|pod| is_selectable(pod)) {
            made.entry((&pod.reference.namespace, maker(pod))).or_default().push(&pod.reference);
        }
        let mut all: Vec<Workload> = made
            .into_iter()
            .map(|((namespace, maker), mut pods)| {
                pods.sort_unstable();
                pods.dedup();
                let name = match (maker, pods.as_slice()) {
                    (Maker::Controller(name), _) => format!("{namespace}/{name}"),
                    (Maker::Labels(..), [only]) => only.to_string(),
                    (Maker::Labels(..), pods) => format!("{} and {} alike", pods[0], pods.len() - 1),
                };
                Workload { namespace: namespace.clone(), name, pods: pods.into_iter().cloned().collect() }
            })
            .collect();
        all.sort_by(|a, b| (&a.namespace, &a.name, &a.pods).cmp(&(&b.namespace, &b.name, &b.pods)));
        let numbered = all.iter().enumerate();
        let of_pod = numbered.flat_map(|(number, w)| w.pods.iter().map(move |pod| (pod.clone(), number))).collect();
        Self { all, of_pod }
    }

    /// The index in `all` of a pod's workload.
    pub fn of_pod(&self, pod: &PodRef) -> Option<usize> {
        self.of_pod.get(pod).copied()
    }
}

/// Whether policies can select the pod.
pub fn is_selectable(pod: &Pod) -> bool {
    !pod.host_network && !pod.finished && !pod.ips.is_empty()
}

fn maker(pod: &Pod) -> Maker<'_> {
    let label = |key: &str| pod.labels.get(key).map(|value| &**value);
    let name = &*pod.reference.name;
    let before_last = || name.rsplit_once('-').map(|(before, _)| before);
    let controller = match label("pod-template-hash") {
        Some(hash) => name.rsplit_once('-').and_then(|(set, _)| set.strip_suffix(hash)?.strip_suffix('-')),
        None => label("batch.kubernetes.io/job-name").or_else(|| label("job-name")).or_else(|| {
            let marked = label("statefulset.kubernetes.io/pod-name").or_else(|| label("controller-revision-hash")).is_some();
            if marked { before_last() } else { None }
        }),
    };
    match controller.filter(|name| !name.is_empty()) {
        Some(controller) => Maker::Controller(controller),
        None => Maker::Labels(&pod.labels, &pod.service_account),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, labels: &[(&str, &str)]) -> Pod {
        Pod {
            reference: PodRef { namespace: "shop".into(), name: name.into() },
            labels: labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ips: vec![std::net::Ipv4Addr::LOCALHOST.into()],
            node: None,
            host_network: false,
            finished: false,
            service_account: "default".into(),
            ports: Vec::new(),
        }
    }

    #[test]
    fn each_controller_marks_its_pods() {
        let mut host = pod("host", &[]);
        host.host_network = true;
        let pods = [
            pod("web-7f9c-abcde", &[("app", "web"), ("pod-template-hash", "7f9c")]),
            pod("web-8a11-fghij", &[("app", "web"), ("pod-template-hash", "8a11")]),
            pod("db-0", &[("statefulset.kubernetes.io/pod-name", "db-0")]),
            pod("db-1", &[("statefulset.kubernetes.io/pod-name", "db-1")]),
            pod("agent-x1y2z", &[("controller-revision-hash", "5d")]),
            pod("import-28-q", &[("job-name", "import-28")]),
            pod("one", &[("app", "bare")]),
            pod("two", &[("app", "bare")]),
            pod("three", &[("app", "other")]),
            pod("not-its-hash", &[("pod-template-hash", "zzz")]),
            host,
        ];
        let workloads = Workloads::of(&pods);
        let names: Vec<(&str, usize)> = workloads.all.iter().map(|w| (w.name.as_str(), w.pods.len())).collect();
        let expected = [
            ("shop/agent", 1),
            ("shop/db", 2),
            ("shop/import-28", 1),
            ("shop/not-its-hash", 1),
            ("shop/one and 1 alike", 2),
            ("shop/three", 1),
            ("shop/web", 2),
        ];
        assert_eq!(names, expected);
        assert_eq!(workloads.of_pod(&pods[1].reference), Some(6));
        assert_eq!(workloads.of_pod(&pods[10].reference), None);
    }
}
