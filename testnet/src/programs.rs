//! Sluice's own programs, as a user runs them: one controller over a folder of manifests, one proxy on each node.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::{Child, Error, Net, Netns, Node, binary, wait_until};

/// Where a proxy answers `/readyz` and `/metrics`, in its node's namespace.
const ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15020);
/// Where the controller answers `/status` and `/metrics`, in its own.
const CONTROLLER_ADMIN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 15021);

/// The controller and proxies of a network. Dropped, they are killed; what they enforce goes with the namespaces.
#[derive(Debug)]
pub struct Programs {
    folder: PathBuf,
    manifests: PathBuf,
    /// The controller needs no network: the nodes reach its socket through the file system.
    controller_ns: Netns,
    controller: Option<Child>,
    proxies: BTreeMap<String, Running>,
}

#[derive(Debug)]
struct Running {
    ns: Netns,
    arguments: Vec<String>,
    child: Option<Child>,
}

impl Programs {
    /// Starts the controller over `manifests` and a proxy on each of `nodes`; sockets and state live in `folder`, which
    /// must outlast this. Returns when every node is ready. `arguments` go to every proxy.
    pub fn start(net: &Net, folder: &Path, manifests: &Path, nodes: &[&Node], arguments: &[&str]) -> Result<Self, Error> {
        let mut programs = Self {
            folder: folder.to_owned(),
            manifests: manifests.to_owned(),
            controller_ns: net.outside().clone(),
            controller: None,
            proxies: BTreeMap::new(),
        };
        programs.start_controller()?;
        for node in nodes {
            let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
            programs.proxies.insert(node.name().to_owned(), Running { ns: node.ns().clone(), arguments, child: None });
            programs.start_proxy(node.name())?;
        }
        for node in nodes {
            programs.wait_ready(node.name(), Duration::from_secs(20))?;
        }
        Ok(programs)
    }

    /// The controller's socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("controller.sock")
    }

    /// Starts the controller, after [`Programs::kill_controller`].
    pub fn start_controller(&mut self) -> Result<(), Error> {
        let mut command = Command::new(binary("sluice-controller")?);
        command.arg("--files").arg(&self.manifests);
        command.arg("--listen").arg(format!("unix:{}", self.socket().display()));
        command.arg("--admin").arg(CONTROLLER_ADMIN.to_string());
        self.controller = Some(self.controller_ns.spawn(command)?);
        Ok(())
    }

    /// SIGKILL.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// The controller, unless it was killed.
    pub fn controller(&self) -> Option<&Child> {
        self.controller.as_ref()
    }

    /// Starts the proxy of a node again, after [`Programs::kill_proxy`]. See [`Programs::wait_ready`].
    pub fn start_proxy(&mut self, node: &str) -> Result<(), Error> {
        self.relieve_proxy(node).map(drop)
    }

    /// Starts a second proxy of a node, which takes over from the one that runs. Returns that.
    pub fn relieve_proxy(&mut self, node: &str) -> Result<Option<Child>, Error> {
        let state = self.state_folder(node);
        fs::create_dir_all(&state).map_err(|error| self.failed("creating the state folder", &error.to_string()))?;
        let socket = format!("unix:{}", self.socket().display());
        let running = self.proxies.get_mut(node).ok_or_else(|| Error::Unknown { kind: "node", name: node.to_owned() })?;
        let mut command = Command::new(binary("sluice-proxy")?);
        command.args(["--controller", &socket, "--node", node, "--state-dir"]).arg(state).args(&running.arguments);
        let child = running.ns.spawn(command)?;
        Ok(running.child.replace(child))
    }

    /// Where the proxy of `node` keeps its table.
    pub fn state_folder(&self, node: &str) -> PathBuf {
        self.folder.join(format!("state-{node}"))
    }

    /// SIGKILL.
    pub fn kill_proxy(&mut self, node: &str) {
        if let Some(running) = self.proxies.get_mut(node) {
            running.child = None;
        }
    }

    /// The proxy of a node, unless it was killed.
    pub fn proxy(&mut self, node: &str) -> Option<&mut Child> {
        self.proxies.get_mut(node)?.child.as_mut()
    }

    /// Returns when the node's first table is in its kernel.
    pub fn wait_ready(&mut self, node: &str, timeout: Duration) -> Result<(), Error> {
        let ready = wait_until(timeout, || self.admin(node, "/readyz").is_some_and(|answer| answer.starts_with("HTTP/1.1 200")));
        if ready {
            return Ok(());
        }
        let log = |child: Option<&Child>| child.map(|c| c.stderr().join("\n  ")).unwrap_or_else(|| "not running".to_owned());
        let proxy = log(self.proxies.get(node).and_then(|running| running.child.as_ref()));
        let answer = self.admin(node, "/readyz").unwrap_or_else(|| "no answer".to_owned());
        let reason = format!("not ready: {answer}\nproxy:\n  {proxy}\ncontroller:\n  {}", log(self.controller.as_ref()));
        Err(self.failed("sluice-proxy", &reason))
    }

    /// What a proxy's admin address answers to GET `path`, head and body.
    pub fn admin(&self, node: &str, path: &str) -> Option<String> {
        get(&self.proxies.get(node)?.ns, ADMIN, path).ok()
    }

    /// What the controller's admin address answers to GET `path`, head and body.
    pub fn controller_admin(&self, path: &str) -> Option<String> {
        get(&self.controller_ns, CONTROLLER_ADMIN, path).ok()
    }

    /// The controller's `/status`: what it read, and which node holds what.
    pub fn controller_status(&self) -> Option<serde_json::Value> {
        let answer = self.controller_admin("/status")?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        serde_json::from_str(body).ok()
    }

    /// The records that a node's proxy has written so far.
    pub fn records(&self, node: &str) -> Vec<serde_json::Value> {
        let child = self.proxies.get(node).and_then(|running| running.child.as_ref());
        let lines = child.map(Child::stdout).unwrap_or_default();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The first record that `wanted` takes, once it is written.
    pub fn wait_record(
        &self,
        node: &str,
        timeout: Duration,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> Option<serde_json::Value> {
        let end = Instant::now() + timeout;
        loop {
            if let Some(record) = self.records(node).into_iter().find(&wanted) {
                return Some(record);
            }
            if Instant::now() > end {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn failed(&self, command: &str, reason: &str) -> Error {
        Error::Command { command: command.to_owned(), namespace: "the test network".to_owned(), reason: reason.to_owned() }
    }
}

fn get(ns: &Netns, admin: SocketAddr, path: &str) -> std::io::Result<String> {
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&admin, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })
}
