//! The stage: nodes and pods as namespaces, servers in them, the real controller and a real proxy on each node.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use sluice_testnet::dns::{ResolvConf, Scripted};
use sluice_testnet::{Child, Net, Netns, Node, Pod, Port, wait_until};

use super::scene::{Holder, Scene, Speaks};
use super::{name_server, server};
use crate::admin;
use crate::names::Names;

/// The proxies' admin address, on the loopback of each node.
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 15020);
/// How long the first table may take to reach the kernel.
const READY_WITHIN: Duration = Duration::from_secs(15);

/// Everything that runs. Dropped, it ends: processes are killed, namespaces go with the last of them.
pub(super) struct Lab {
    // Dropped in this order: proxies before the network they guard.
    proxies: Vec<Program>,
    controller: Program,
    /// They serve until they are dropped.
    _name_servers: Vec<Scripted>,
    resolv_conf: Option<ResolvConf>,
    net: Net,
    nodes: Vec<Node>,
    folder: PathBuf,
}

/// A running program whose output goes to files.
struct Program {
    child: Child,
    log: PathBuf,
}

impl Lab {
    /// Builds the scene's network in namespaces and starts everything; returns once every node's rules are in its kernel.
    pub(super) fn start(scene: &Scene, folder: &Path, progress: &dyn Fn(&str)) -> anyhow::Result<Self> {
        let (controller, proxy) = (sluice_testnet::binary("sluice-controller")?, sluice_testnet::binary("sluice-proxy")?);
        let net = Net::new()?;
        let mut nodes = Vec::new();
        for node in scene.cluster.nodes() {
            nodes.push(net.add_node(&node.name, &node.ips)?);
        }
        for reference in scene.cluster.live_pods() {
            let pod = scene.cluster.pod(reference).context("a live pod is a pod")?;
            if pod.host_network {
                continue;
            }
            let node = pod.node.as_deref().and_then(|name| net.node(name));
            let Some(node) = node else { bail!("pod {reference}: spec.nodeName is none of the scene's nodes") };
            net.add_pod(&node, &reference.to_string(), &pod.ips)?;
        }
        for ip in scene.outside() {
            if ip != Net::OUTSIDE_V4 && ip != Net::OUTSIDE_V6 {
                net.add_outside_address(ip)?;
            }
        }
        let name_servers = serve(scene, &net)?;
        progress(&format!("{} nodes and {} pods are namespaces, their servers listen", nodes.len(), net.pods().len()));

        let socket = format!("unix:{}", folder.join("controller.sock").display());
        let first = nodes.first().context("a scene has a node")?;
        let mut command = Command::new(controller);
        command.arg("--files").arg(&scene.folder).args(["--listen", &socket]);
        let log = folder.join("controller.log");
        let controller = Program::start(first.ns(), &command, &log, &log)?;
        let mut proxies = Vec::new();
        for node in &nodes {
            let mut command = Command::new(&proxy);
            command.args(["--controller", &socket, "--node", node.name(), "--admin", &ADMIN.to_string()]);
            command.arg("--state-dir").arg(folder.join(format!("state-{}", node.name())));
            let log = folder.join(format!("proxy-{}.log", node.name()));
            proxies.push(Program::start(node.ns(), &command, &record_file(folder, node), &log)?);
        }
        let resolv_conf = (!scene.resolvers().is_empty()).then(|| ResolvConf {
            nameservers: scene.resolvers().to_vec(),
            // Whom a policy gives no name server is not to wait long for one.
            options: vec!["timeout:1".to_owned()],
            ..ResolvConf::default()
        });
        let folder = folder.to_owned();
        let mut lab = Self { proxies, controller, _name_servers: name_servers, resolv_conf, net, nodes, folder };
        progress("sluice-controller and sluice-proxy run");
        lab.wait_until_ready()?;
        Ok(lab)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        for (proxy, node) in self.proxies.iter_mut().zip(&self.nodes) {
            let ready = wait_until(READY_WITHIN, || {
                is_ready(node.ns()) || !proxy.child.is_running() || !self.controller.child.is_running()
            });
            let both_run = proxy.child.is_running() && self.controller.child.is_running();
            if !ready || !both_run {
                bail!(
                    "{} on {}\n{}{}",
                    if both_run { "no table reached the kernel in time" } else { "a program has ended" },
                    node.name(),
                    self.controller.last_words(),
                    proxy.last_words(),
                );
            }
        }
        Ok(())
    }

    /// The namespace of an end, and the address to use there if it isn't the only one.
    pub(super) fn namespace(&self, holder: &Holder) -> Option<(Netns, Option<IpAddr>)> {
        match holder {
            Holder::Pod(name) => self.net.pod(name).map(|pod| (pod.ns().clone(), None)),
            Holder::Node(name) => self.net.node(name).map(|node| (node.ns().clone(), None)),
            Holder::Outside(ip) => Some((self.net.outside().clone(), Some(*ip))),
        }
    }

    pub(super) fn net(&self) -> &Net {
        &self.net
    }

    pub(super) fn has_pod(&self, name: &str) -> bool {
        self.net.pod(name).is_some()
    }

    pub(super) fn pod_names(&self) -> Vec<String> {
        self.net.pods().iter().map(|pod| pod.name().to_owned()).collect()
    }

    pub(super) fn first_node(&self) -> &str {
        self.nodes.first().map_or("", Node::name)
    }

    /// Every namespace that a person may enter: pods as `namespace/name`, nodes and `outside` by name.
    pub(super) fn places(&self) -> BTreeMap<String, PathBuf> {
        let pods = self.net.pods().into_iter().map(|pod: Pod| (pod.name().to_owned(), pod.ns().path()));
        let nodes = self.nodes.iter().map(|node| (node.name().to_owned(), node.ns().path()));
        pods.chain(nodes).chain([("outside".to_owned(), self.net.outside().path())]).collect()
    }

    /// Lines of `/etc/hosts` for the pods: by name, and by name and namespace.
    pub(super) fn hosts(&self) -> String {
        let mut text = "127.0.0.1 localhost\n::1 localhost\n".to_owned();
        for pod in self.net.pods() {
            let (namespace, name) = pod.name().split_once('/').unwrap_or(("default", pod.name()));
            for ip in pod.addresses() {
                text.push_str(&format!("{ip} {name} {name}.{namespace}\n"));
            }
        }
        text
    }

    /// The file that says to pods whom to ask for names, where the scene has name servers.
    pub(super) fn resolv_conf(&self) -> Option<&ResolvConf> {
        self.resolv_conf.as_ref()
    }

    /// What the proxies say that pods have learned.
    pub(super) fn learned(&self) -> anyhow::Result<Names> {
        let mut all = Names { node: self.first_node().to_owned(), names: Vec::new() };
        for node in &self.nodes {
            let of_node: Names = node.ns().run(|| admin::ask(&ADMIN.to_string(), "/names"))?;
            all.names.extend(of_node.names);
        }
        Ok(all)
    }

    /// The files with the proxies' records.
    pub(super) fn record_files(&self) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| record_file(&self.folder, node)).collect()
    }
}

/// Where the proxy of a node writes its records.
fn record_file(folder: &Path, node: &Node) -> PathBuf {
    folder.join(format!("records-{}.jsonl", node.name()))
}

/// Starts whatever the scene's rows connect to; the name servers are returned, and serve while they are held.
fn serve(scene: &Scene, net: &Net) -> anyhow::Result<Vec<Scripted>> {
    let mut name_servers = Vec::new();
    let mut echoes: BTreeMap<Holder, Vec<Port>> = BTreeMap::new();
    let mut outside_served = Vec::new();
    for listener in scene.listeners() {
        let (ns, name, addresses) = match &listener.holder {
            Holder::Pod(name) => match net.pod(name) {
                Some(pod) => (pod.ns().clone(), name.clone(), pod.addresses()),
                None => continue,
            },
            Holder::Node(name) => match net.node(name) {
                Some(node) => (node.ns().clone(), name.clone(), node.addresses().to_vec()),
                None => continue,
            },
            // The host outside listens on all its addresses at once, each port once.
            Holder::Outside(ip) => (net.outside().clone(), "outside".to_owned(), vec![*ip]),
        };
        if listener.speaks == Speaks::Dns {
            let at: Vec<_> = addresses.into_iter().map(|ip| SocketAddr::new(ip, listener.port)).collect();
            let served = name_server::serve(&ns, &at, &scene.names);
            name_servers.push(served.with_context(|| format!("a name server in {name} on port {}", listener.port))?);
            continue;
        }
        if listener.speaks != Speaks::Anything {
            if matches!(listener.holder, Holder::Outside(_)) {
                if outside_served.contains(&listener.port) {
                    continue;
                }
                outside_served.push(listener.port);
            }
            let served = match listener.speaks {
                Speaks::Grpc => server::serve_calls(&ns, listener.port),
                Speaks::Http | Speaks::Dns | Speaks::Anything => server::serve(&ns, &name, listener.port),
            };
            served.with_context(|| format!("a server in {name} on port {}", listener.port))?;
            continue;
        }
        let port = match listener.protocol {
            6 => Port::tcp(listener.port),
            17 => Port::udp(listener.port),
            132 => Port::sctp(listener.port),
            _ => continue,
        };
        let holder = match listener.holder {
            // One entry for the host outside, under any of its addresses.
            Holder::Outside(_) => Holder::Outside(Net::OUTSIDE_V4),
            other => other,
        };
        let ports = echoes.entry(holder).or_default();
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    for (holder, ports) in echoes {
        match holder {
            Holder::Pod(name) => net.pod(&name).map(|pod| net.serve_pod(&pod, &ports)),
            Holder::Node(name) => net.node(&name).map(|node| net.serve(node.ns(), &name, &ports)),
            Holder::Outside(_) => Some(net.serve(net.outside(), "outside", &ports)),
        }
        .transpose()?;
    }
    Ok(name_servers)
}

impl Program {
    /// Starts `command` in `ns`: standard output goes to `out`, standard error to `log`.
    fn start(ns: &Netns, command: &Command, out: &Path, log: &Path) -> anyhow::Result<Self> {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", r#"out=$1 log=$2; shift 2; exec "$@" >>"$out" 2>>"$log""#, "sh"]);
        shell.arg(out).arg(log).arg(command.get_program()).args(command.get_args());
        let child = ns.spawn(shell)?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// The end of its log, for the message that says it failed.
    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(8)..];
        tail.iter().map(|line| format!("  {}: {line}\n", self.log.file_stem().unwrap_or_default().display())).collect()
    }
}

/// Asks a proxy's `/readyz`.
fn is_ready(node: &Netns) -> bool {
    let Ok(mut stream) = node.tcp_connect(None, ADMIN, Duration::from_millis(500)) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    // A server that closes without waiting for us may reset; what it said before counts.
    let _ = asked.and_then(|()| stream.read_to_string(&mut answer).map(drop));
    answer.split_whitespace().nth(1) == Some("200")
}
