//! The conformance cases (`shared/conformance/README.md`), read as manifests: for the naive judge, and without
//! `sluice_crds::case`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::reference::{Answer, Cluster, Contents, Request};
use crate::worlds::Edit;

/// A case: states that follow each other, each with its probes.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) states: Vec<State>,
}

pub(crate) struct State {
    pub(crate) cluster: Cluster,
    pub(crate) probes: Vec<Probe>,
}

#[derive(Clone, Debug)]
pub(crate) struct Probe {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: String,
    pub(crate) icmp: Option<(u8, u8)>,
    pub(crate) contents: Option<Read>,
    pub(crate) expect: Answer,
    pub(crate) audit: Option<Answer>,
}

/// `../shared/conformance` beside the repository. `None`, loudly, where it isn't there.
pub(crate) fn shared() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!("\n!!! SKIPPED: {} isn't there, so NO conformance case was judged !!!\n", path.display());
    None
}

/// The JSON objects of a file of lines.
pub(crate) fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let parse =
        |(i, line): (usize, &str)| serde_json::from_str(line).unwrap_or_else(|e| panic!("{}:{}: {e}", path.display(), i + 1));
    text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()).map(parse).collect()
}

/// What a probe says was read of the connection.
#[derive(Clone, Debug)]
pub(crate) enum Read {
    Http(Request),
    Tls(Option<String>),
    Lookup(String, u16),
    Other,
}

impl Probe {
    pub(crate) fn contents(&self) -> Contents<'_> {
        match &self.contents {
            None => Contents::NotRead,
            Some(Read::Http(request)) => Contents::Http(request),
            Some(Read::Tls(name)) => Contents::Tls(name.as_deref()),
            Some(Read::Lookup(name, kind)) => Contents::Lookup(name, *kind),
            Some(Read::Other) => Contents::Other,
        }
    }
}

impl Case {
    pub(crate) fn read(line: &Value) -> Self {
        let of = |field: &str| line[field].as_array().cloned().unwrap_or_default();
        let first = of("namespaces")
            .iter()
            .map(namespace)
            .chain(of("nodes").iter().map(node))
            .chain(line["domains"].as_object().into_iter().flatten().map(known_name))
            .chain(of("pods").iter().map(pod))
            .chain(of("policies"))
            .map(Edit::Put)
            .collect::<Vec<_>>();
        let mut cluster = Cluster::default();
        cluster.edit(&first);
        cluster.now = line["now"].as_str().map(str::to_owned);
        let mut states = vec![State { probes: probes(line, &cluster), cluster }];
        for step in of("steps") {
            let mut cluster = states.last().expect("the first state is there").cluster.clone();
            for action in step["actions"].as_array().into_iter().flatten() {
                cluster.edit(&perform(action, &cluster));
            }
            cluster.now = step["now"].as_str().map(str::to_owned).or(cluster.now);
            states.push(State { probes: probes(&step, &cluster), cluster });
        }
        Self { name: line["name"].as_str().unwrap_or("unnamed").to_owned(), states }
    }
}

fn namespace(entry: &Value) -> Value {
    let name = entry.get("name").unwrap_or(&entry["ns"]);
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": entry["labels"]}})
}

/// What DNS says of a name: no object of a cluster, but known to the judge as one.
fn known_name((name, ips): (&String, &Value)) -> Value {
    json!({"kind": "Name", "metadata": {"name": name}, "ips": ips})
}

fn node(entry: &Value) -> Value {
    let addresses: Vec<_> = entry["ips"].as_array().into_iter().flatten().collect();
    let addresses: Vec<_> = addresses.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": entry["name"], "labels": entry["labels"]},
        "status": {"addresses": addresses}})
}

fn pod(entry: &Value) -> Value {
    let ips = entry["ips"].as_array().cloned().unwrap_or_else(|| vec![entry["ip"].clone()]);
    let ips: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    let ports = entry["ports"].as_array().into_iter().flatten();
    let ports: Vec<_> =
        ports.map(|p| json!({"name": p["name"], "containerPort": p["port"], "protocol": p["protocol"]})).collect();
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": entry["ns"], "name": entry["name"], "labels": entry["labels"]},
        "spec": {"nodeName": entry["node"], "hostNetwork": entry["hostNetwork"] == true, "serviceAccountName": entry["serviceAccount"],
            "containers": [{"name": "main", "ports": ports}]},
        "status": {"phase": entry.get("phase").unwrap_or(&json!("Running")), "podIPs": ips}})
}

/// The edits that a step's action stands for.
fn perform(action: &Value, cluster: &Cluster) -> Vec<Edit> {
    let named =
        |kind: &Value, namespace: &Value, name: &Value| json!({"kind": kind, "metadata": {"namespace": namespace, "name": name}});
    match action["op"].as_str().unwrap_or_default() {
        "create-policy" | "update-policy" => vec![Edit::Put(action["policy"].clone())],
        "delete-policy" => {
            let kind = action.get("kind").cloned().unwrap_or_else(|| json!("NetworkPolicy"));
            vec![Edit::Remove(named(&kind, &action["ns"], &action["name"]))]
        }
        "create-namespace" | "set-namespace-labels" => vec![Edit::Put(namespace(action))],
        "delete-namespace" => {
            let of_it = cluster.objects.iter().filter(|object| match object["kind"].as_str() {
                Some("Namespace") => object["metadata"]["name"] == action["ns"],
                Some("Node") => false,
                _ => object["metadata"]["namespace"] == action["ns"],
            });
            of_it.cloned().map(Edit::Remove).collect()
        }
        "create-pod" => vec![Edit::Put(pod(&action["pod"]))],
        "set-pod-labels" => {
            let mut pod = find_pod(cluster, &action["ns"], &action["name"]).clone();
            pod["metadata"]["labels"] = action["labels"].clone();
            vec![Edit::Put(pod)]
        }
        "delete-pod" => vec![Edit::Remove(named(&json!("Pod"), &action["ns"], &action["name"]))],
        other => panic!("no such step: {other}"),
    }
}

fn find_pod<'a>(cluster: &'a Cluster, namespace: &Value, name: &Value) -> &'a Value {
    let found = cluster.objects.iter().find(|object| {
        let metadata = &object["metadata"];
        object["kind"] == "Pod" && metadata["namespace"] == *namespace && metadata["name"] == *name
    });
    found.unwrap_or_else(|| panic!("the case names a pod that isn't there: {namespace}/{name}"))
}

fn end(cluster: &Cluster, end: &Value) -> IpAddr {
    let ip = match end.get("ip") {
        Some(ip) => ip,
        None => {
            let pod = find_pod(cluster, end.get("ns").unwrap_or(&end["namespace"]), &end["pod"]);
            &pod["status"]["podIPs"][0]["ip"]
        }
    };
    crate::reference::read::address(ip).unwrap_or_else(|| panic!("no address: {end}"))
}

fn request(http: &Value) -> Request {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let lines = |(name, values): (&String, &Value)| {
        let values = values.as_array().cloned().unwrap_or_else(|| vec![values.clone()]);
        values.iter().map(|value| (name.clone(), text(value).into_bytes())).collect::<Vec<_>>()
    };
    let target = text(&http["path"]);
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query.to_owned())));
    Request {
        method: text(&http["method"]),
        path: path.to_owned(),
        query,
        host: http.get("host").map_or_else(|| "test".to_owned(), text),
        http2: http["http2"] == true,
        headers: http["headers"].as_object().into_iter().flatten().flat_map(lines).collect(),
    }
}

fn answer(word: &Value) -> Answer {
    match word.as_str() {
        Some("allow") => Answer::Allow,
        Some("deny") => Answer::Deny,
        Some("l7") => Answer::L7,
        other => panic!("a probe expects {other:?}"),
    }
}

/// A name, and the type of records by the name that it has.
fn lookup(asked: &Value) -> Read {
    let kinds = [("A", 1), ("AAAA", 28), ("TXT", 16), ("HTTPS", 65)];
    let kind =
        kinds.into_iter().find(|(word, _)| asked["type"] == *word).expect("the tests name types of records that they know");
    Read::Lookup(asked["name"].as_str().expect("names are texts").to_owned(), kind.1)
}

/// Type and code.
fn message(icmp: &Value) -> Option<(u8, u8)> {
    let number = |field: &str| u8::try_from(icmp[field].as_u64().unwrap_or(0)).expect("types and codes have 8 bits");
    icmp.is_object().then(|| (number("type"), number("code")))
}

fn probes(part: &Value, cluster: &Cluster) -> Vec<Probe> {
    let number = |port: &Value| u16::try_from(port.as_u64().unwrap_or(0)).expect("a port has 16 bits");
    let word = |value: &Value| value.as_str().unwrap_or("TCP").to_owned();
    let mut probes = Vec::new();
    for probe in part["probes"].as_array().into_iter().flatten() {
        let http = &probe["http"];
        probes.push(Probe {
            from: end(cluster, &probe["from"]),
            to: end(cluster, &probe["to"]),
            port: number(&probe["port"]),
            protocol: word(&probe["protocol"]),
            icmp: message(&probe["icmp"]),
            contents: match &probe["tls"] {
                _ if http.is_object() => Some(Read::Http(request(http))),
                _ if probe["lookup"].is_object() => Some(lookup(&probe["lookup"])),
                Value::Object(tls) => Some(Read::Tls(tls.get("serverName").and_then(Value::as_str).map(str::to_owned))),
                _ => (probe["opaque"] == true).then_some(Read::Other),
            },
            expect: answer(&probe["expect"]),
            audit: probe.get("audit").map(answer),
        });
    }
    for table in part["tables"].as_array().into_iter().flatten() {
        let order = table["order"].as_array().expect("a table has an order");
        let ips: Vec<IpAddr> = order
            .iter()
            .map(|name| {
                let (namespace, pod) = name.as_str().and_then(|n| n.split_once('/')).expect("order lists ns/pod");
                end(cluster, &json!({"ns": namespace, "pod": pod}))
            })
            .collect();
        for on in table["on"].as_array().into_iter().flatten() {
            for (from, row) in ips.iter().zip(table["rows"].as_array().into_iter().flatten()) {
                for (to, cell) in ips.iter().zip(row.as_str().expect("a row is a string").chars()) {
                    let expect = match cell {
                        '1' => Answer::Allow,
                        '0' => Answer::Deny,
                        _ => continue,
                    };
                    probes.push(Probe {
                        from: *from,
                        to: *to,
                        port: number(&on["port"]),
                        protocol: word(&on["protocol"]),
                        icmp: None,
                        contents: None,
                        expect,
                        audit: None,
                    });
                }
            }
        }
    }
    probes
}
