//! A cluster on a test network with Sluice's own programs at work: what every test here begins with.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use sluice_testnet::{Net, Node, Options, Pod, Programs, capability, wait_until};
use tempfile::TempDir;

use crate::given::layout;
use crate::web::{Seen, Web};

/// For what must happen: generous, because the machine may be busy with something else.
pub(crate) const LONG: Duration = Duration::from_secs(20);
/// For what must not happen: as long as is looked whether it does.
pub(crate) const SHORT: Duration = Duration::from_millis(700);

/// Ends what other threads do, however a test ends.
pub(crate) struct EndOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A pod: `namespace/name`, the node, its addresses. Its label `app` is its name, its port `http` is 8080. `kube-system/dns` is the
/// cluster's resolver, by the label that it has everywhere.
pub(crate) type PodSpec<'a> = (&'a str, &'a str, &'a [&'a str]);

/// Nodes, pods, the controller and a proxy on each node. The pods' web servers answer at 8080.
pub(crate) struct Scene {
    pub(crate) programs: Programs,
    pub(crate) web: Web,
    pub(crate) net: Net,
    nodes: Vec<Node>,
    pods: BTreeMap<String, String>,
    markers: u32,
    folder: TempDir,
}

impl Scene {
    /// Starts everything with `policies` in force; None where no namespaces can be made, with the reason printed.
    ///
    /// Node `n` of the list has the pod CIDRs 10.N.0.0/16 and fd00:N::/64. `arguments` go to every proxy.
    pub(crate) fn start(nodes: &[&str], pods: &[PodSpec<'_>], policies: &str, arguments: &[&str]) -> Option<Self> {
        Self::start_on(Options { layout: layout(), ..Options::default() }, nodes, pods, policies, arguments)
    }

    /// [`Scene::start`] on a network of another kind.
    pub(crate) fn start_on(
        options: Options,
        nodes: &[&str],
        pods: &[PodSpec<'_>],
        policies: &str,
        arguments: &[&str],
    ) -> Option<Self> {
        if let Err(why) = capability() {
            assert!(!nix::unistd::geteuid().is_root(), "{why}");
            println!("SKIPPED: {why}");
            return None;
        }
        // Servers and clients of a whole network are files of this one process.
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
        let net = Net::with(options).unwrap();
        let nodes: Vec<Node> = nodes.iter().map(|name| net.add_node(name, &[]).unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        for name in ["manifests", "new"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let web = Web::start();
        let manifests = folder.path().join("manifests");
        fs::write(manifests.join("nodes.yaml"), inventory(&nodes, pods)).unwrap();
        fs::write(manifests.join("policies.yaml"), policies).unwrap();
        let mut texts = BTreeMap::new();
        for (name, node, addresses) in pods {
            let text = pod_manifest(name, node, addresses);
            fs::write(manifests.join(pod_file(name)), &text).unwrap();
            texts.insert((*name).to_owned(), text);
            let addresses: Vec<_> = addresses.iter().map(|a| a.parse().unwrap()).collect();
            let node = nodes.iter().find(|candidate| candidate.name() == *node).expect("the pod's node is listed");
            let pod = net.add_pod(node, name, &addresses).unwrap();
            web.serve(pod.ns(), name, 8080);
        }
        let all: Vec<&Node> = nodes.iter().collect();
        let programs = Programs::start(&net, folder.path(), &manifests, &all, arguments).unwrap();
        Some(Self { programs, web, net, nodes, pods: texts, markers: 0, folder })
    }

    pub(crate) fn pod(&self, name: &str) -> Pod {
        self.net.pod(name).unwrap_or_else(|| panic!("there is no pod {name}"))
    }

    pub(crate) fn node(&self, name: &str) -> Node {
        self.net.node(name).unwrap_or_else(|| panic!("there is no node {name}"))
    }

    pub(crate) fn manifests(&self) -> PathBuf {
        self.folder.path().join("manifests")
    }

    /// Puts a file into the folder as editors do, by renaming. Returns when that was done.
    pub(crate) fn save(&self, file: &str, text: &str) -> Instant {
        let new = self.folder.path().join("new").join(file);
        fs::write(&new, text).unwrap();
        fs::rename(new, self.manifests().join(file)).unwrap();
        Instant::now()
    }

    /// [`Scene::save`], and waits until the nodes' kernels hold it.
    pub(crate) fn apply(&mut self, file: &str, text: &str) {
        self.save(file, text);
        self.settle();
    }

    /// Replaces the policies that the scene began with.
    pub(crate) fn policies(&mut self, text: &str) {
        self.apply("policies.yaml", text);
    }

    /// Takes a file away. The controller believes that once the file has been away for 40 ms, so what is saved next comes after
    /// it.
    pub(crate) fn take_away(&self, file: &str) {
        fs::remove_file(self.manifests().join(file)).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }

    /// [`Scene::take_away`], and waits until that holds on the nodes.
    pub(crate) fn remove(&mut self, file: &str) {
        self.take_away(file);
        self.settle();
    }

    /// The manifest of a pod that the scene began with.
    pub(crate) fn manifest_of(&self, pod: &str) -> &str {
        &self.pods[pod]
    }

    /// Waits until everything that was saved so far is in every node's kernel.
    ///
    /// Each node has a pod `marker/NODE` that exists in the manifests alone. A policy of a new name for all of them is saved
    /// last; the controller reports on each policy how many of its nodes hold it.
    pub(crate) fn settle(&mut self) {
        self.markers += 1;
        let name = format!("marker-{}", self.markers);
        self.save(
            "zz-marker.yaml",
            &format!(
                "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: marker }}\n\
                 spec: {{ podSelector: {{}}, ingress: [ {{ ports: [ {{ port: {} }} ] }} ] }}\n",
                10_000 + self.markers
            ),
        );
        let nodes = self.nodes.len();
        let mut last = Value::Null;
        let held = wait_until(LONG, || {
            last = self.programs.controller_status().unwrap_or_default();
            let policies = last["policies"].as_array().into_iter().flatten();
            let mut markers = policies.filter(|policy| policy["name"] == name.as_str());
            markers.any(|policy| policy["programmed"] == nodes && policy["nodes"] == nodes)
        });
        assert!(held, "{name} does not reach every node: {last:#}\n{:?}", self.programs.controller());
    }

    /// What the pods' web servers were asked so far at this path (without the query).
    pub(crate) fn seen(&self, path: &str) -> Vec<Seen> {
        self.web.seen().into_iter().filter(|seen| seen.path() == path).collect()
    }

    /// The `request` record of a path on a node, once it is written.
    pub(crate) fn request_record(&self, node: &str, path: &str) -> Value {
        let wanted = |record: &Value| record["type"] == "request" && record["http"]["path"] == path;
        let record = self.programs.wait_record(node, LONG, wanted);
        record.unwrap_or_else(|| panic!("no request record of {path} on {node}: {:#?}", self.programs.records(node)))
    }

    /// A `connection` record with this reason, once it is written.
    pub(crate) fn connection_record(&self, node: &str, reason: &str) -> Value {
        let wanted = |record: &Value| record["type"] == "connection" && record["reason"] == reason;
        let record = self.programs.wait_record(node, LONG, wanted);
        record.unwrap_or_else(|| panic!("no connection record with {reason} on {node}: {:#?}", self.programs.records(node)))
    }
}

/// `backend`: requests of `frontend` below `/api/`. `plain`: connections of `frontend`. `stranger`: neither.
pub(crate) const READ_AND_PLAIN: &str = r#"
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: shop }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    ports: [ { protocol: TCP, port: 8080 } ]
    http: [ { method: GET, path: "/api/.*" } ]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: plain, namespace: shop }
spec:
  podSelector: { matchLabels: { app: plain } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
"#;

/// The file that holds a pod's manifest.
pub(crate) fn pod_file(pod: &str) -> String {
    format!("pod-{}.yaml", pod.replace('/', "-"))
}

fn inventory(nodes: &[Node], pods: &[PodSpec<'_>]) -> String {
    let mut text = String::new();
    let mut namespaces: Vec<&str> = pods.iter().filter_map(|(name, ..)| name.split('/').next()).collect();
    namespaces.push("marker");
    namespaces.sort_unstable();
    namespaces.dedup();
    for name in namespaces {
        let _ = writeln!(text, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {name} }}");
    }
    for (number, node) in (1..).zip(nodes) {
        let name = node.name();
        let addresses: Vec<_> = node.addresses().iter().map(|a| format!("{{ type: InternalIP, address: \"{a}\" }}")).collect();
        let _ = writeln!(
            text,
            "---\napiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\n\
             spec: {{ podCIDRs: [ 10.{number}.0.0/16, \"fd00:{number}::/64\" ] }}\nstatus: {{ addresses: [ {} ] }}",
            addresses.join(", ")
        );
        let marker = format!("10.{number}.255.1");
        text.push_str(&pod_manifest(&format!("marker/{name}"), name, &[&marker]));
    }
    text
}

/// A running pod as `kubectl get -o yaml` would show the parts that matter.
pub(crate) fn pod_manifest(pod: &str, node: &str, addresses: &[&str]) -> String {
    let (namespace, name) = pod.split_once('/').expect("namespace/name");
    let addresses: Vec<_> = addresses.iter().map(|a| format!("{{ ip: \"{a}\" }}")).collect();
    let of_system = if namespace == "kube-system" { format!(", k8s-app: kube-{name}") } else { String::new() };
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: {namespace}, labels: {{ app: {name}{of_system} }} }}\n\
         spec:\n  nodeName: {node}\n  containers:\n  - name: main\n    ports: [ {{ name: http, containerPort: 8080 }} ]\n\
         status: {{ phase: Running, podIPs: [ {} ] }}\n",
        addresses.join(", ")
    )
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub(crate) fn at(address: &str, port: u16) -> String {
    match address.contains(':') {
        true => format!("[{address}]:{port}"),
        false => format!("{address}:{port}"),
    }
}
