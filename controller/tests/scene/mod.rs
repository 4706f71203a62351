//! A controller over a folder of its own, and nodes that follow it through the real socket.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sluice_controller::{Config, Running};
use sluice_feed::parts::{Assembly, Update};
use sluice_feed::wire::feed_client::FeedClient;
use sluice_feed::wire::{self, controller_message, node_message};
use sluice_feed::{FeedAddress, VERSION};
use sluice_policy::snapshot::Generation;
use sluice_policy::{Decision, Flow, Protocol, Table};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tonic::transport::Endpoint;

/// Longer than anything takes that works, also on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Scene {
    pub(crate) dir: tempfile::TempDir,
    running: Option<(Running, CancellationToken)>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(dir.path().join("manifests")).expect("a folder in it");
        Self { dir, running: None }
    }

    pub(crate) fn folder(&self) -> PathBuf {
        self.dir.path().join("manifests")
    }

    pub(crate) fn write(&self, file: &str, text: &str) {
        std::fs::write(self.folder().join(file), text).expect("write a manifest");
    }

    pub(crate) fn address(&self) -> FeedAddress {
        FeedAddress::Unix(self.dir.path().join("c.sock"))
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            files: self.folder(),
            listen: self.address(),
            socket_mode: 0o600,
            insecure_listen: false,
            admin: Some("127.0.0.1:0".parse().expect("an address")),
            file_limit_bytes: 256 << 20,
            log: String::new(),
        }
    }

    pub(crate) async fn start(&mut self) {
        let cancel = CancellationToken::new();
        let running = sluice_controller::start(self.config(), cancel.clone()).await.expect("the controller starts");
        self.running = Some((running, cancel));
    }

    pub(crate) async fn stop(&mut self) {
        let (running, cancel) = self.running.take().expect("it was started");
        cancel.cancel();
        running.ended().await.expect("a clean end");
    }

    /// An answer of the admin address: its head and body.
    pub(crate) async fn get(&self, path: &str) -> String {
        let (running, _) = self.running.as_ref().expect("it was started");
        let url = running.admin.expect("an admin address");
        let mut stream = tokio::net::TcpStream::connect(url).await.expect("connect");
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.expect("ask");
        let mut answer = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.expect("an answer");
        answer
    }

    pub(crate) async fn status(&self) -> serde_json::Value {
        let answer = self.get("/status").await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
        serde_json::from_str(body).expect("JSON")
    }

    /// Asks for the status until it is as wanted.
    pub(crate) async fn status_until(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let begun = Instant::now();
        loop {
            let status = self.status().await;
            if wanted(&status) {
                return status;
            }
            assert!(begun.elapsed() < LONG, "{what} didn't come about: {status}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A node that keeps a table as the real one does, and answers when it is told to.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) table: Table,
    pub(crate) held: (u64, Generation),
    pub(crate) current: bool,
    pub(crate) updates: usize,
    pub(crate) snapshots: usize,
    answers: mpsc::Sender<wire::NodeMessage>,
    stream: Streaming<wire::ControllerMessage>,
    assembly: Assembly,
}

/// Connects as `name`, holding `held`.
pub(crate) async fn hello(
    address: &FeedAddress,
    version: u32,
    name: &str,
    held: (u64, Generation),
) -> Result<(mpsc::Sender<wire::NodeMessage>, Streaming<wire::ControllerMessage>), tonic::Status> {
    let endpoint = Endpoint::from_shared(address.url()).expect("a sound address");
    let channel = endpoint.connect().await.expect("connect to the controller");
    let (answers, outbox) = mpsc::channel(1024);
    let hello = wire::Hello { version, node: name.to_owned(), epoch: held.0, generation: held.1.0, resolvers: Vec::new() };
    answers.send(wire::NodeMessage { body: Some(node_message::Body::Hello(hello)) }).await.expect("a place");
    let stream = FeedClient::new(channel).follow(ReceiverStream::new(outbox)).await?.into_inner();
    Ok((answers, stream))
}

impl Node {
    pub(crate) async fn connect(scene: &Scene, name: &str) -> Self {
        Self::reconnect(scene, name, Table::empty(), (0, Generation(0))).await
    }

    /// Connects, holding `table`.
    pub(crate) async fn reconnect(scene: &Scene, name: &str, table: Table, held: (u64, Generation)) -> Self {
        let (answers, mut stream) = hello(&scene.address(), VERSION, name, held).await.expect("a welcome");
        let Some(controller_message::Body::Welcome(welcome)) = message(&mut stream).await else { panic!("no welcome first") };
        assert_eq!(welcome.version, VERSION);
        Self {
            name: name.to_owned(),
            table,
            held,
            current: welcome.current,
            updates: 0,
            snapshots: 0,
            answers,
            stream,
            assembly: Assembly::default(),
        }
    }

    /// The next update, applied but not yet answered.
    pub(crate) async fn take(&mut self) -> Update {
        let update = self.receive().await;
        self.apply(&update);
        update
    }

    pub(crate) async fn receive(&mut self) -> Update {
        loop {
            let Some(controller_message::Body::Part(part)) = message(&mut self.stream).await else {
                panic!("no part of an update")
            };
            if let Some(update) = self.assembly.push(part).expect("a sound update") {
                return update;
            }
        }
    }

    pub(crate) fn apply(&mut self, update: &Update) {
        let heading = update.heading;
        let base = match heading.base {
            Some(base) => {
                assert_eq!(self.held, (heading.epoch, base), "a gap");
                self.table.clone()
            }
            None => {
                self.snapshots += 1;
                Table::empty()
            }
        };
        (self.table, _) = base.apply(&update.changes).expect("the update fits the table");
        self.held = (heading.epoch, heading.generation);
        self.updates += 1;
    }

    pub(crate) async fn ack(&mut self, generation: Generation) {
        self.answer(node_message::Body::Ack(wire::Ack { generation: generation.0 })).await;
    }

    pub(crate) async fn nack(&mut self, generation: Generation, reason: &str) {
        self.answer(node_message::Body::Nack(wire::Nack { generation: generation.0, reason: reason.to_owned() })).await;
    }

    async fn answer(&mut self, body: node_message::Body) {
        self.answers.send(wire::NodeMessage { body: Some(body) }).await.expect("a stream");
    }

    /// Follows until the table is as wanted, acking as it goes. Returns how long that took.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Table) -> bool) -> Duration {
        let begun = Instant::now();
        while !wanted(&self.table) {
            let taken = tokio::time::timeout(LONG.saturating_sub(begun.elapsed()), self.take()).await;
            let update = taken.unwrap_or_else(|_| panic!("{}: {what} didn't come about", self.name));
            self.ack(update.heading.generation).await;
        }
        begun.elapsed()
    }

    /// Says so if an update comes within `time`.
    pub(crate) async fn quiet(&mut self, time: Duration) {
        if let Ok(update) = tokio::time::timeout(time, self.take()).await {
            panic!("{}: an update that nobody needs: {update:?}", self.name);
        }
    }
}

async fn message(stream: &mut Streaming<wire::ControllerMessage>) -> Option<controller_message::Body> {
    tokio::time::timeout(3 * LONG, stream.message()).await.expect("in time").expect("a live stream")?.body
}

/// What the table says about TCP to port 80.
pub(crate) fn judge(table: &Table, from: &str, to: &str) -> Decision {
    let flow = Flow {
        source: from.parse().expect("an address"),
        destination: to.parse().expect("an address"),
        protocol: Protocol::Tcp,
        destination_port: 80,
        icmp: None,
        names: &[],
        request: None,
    };
    table.verdict(&flow).decision()
}

/// A running pod.
pub(crate) fn pod(name: &str, app: &str, node: &str, ip: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: {name}, namespace: shop, labels: {{ app: {app} }} }}\n\
         spec: {{ nodeName: {node}, containers: [ {{ name: c, image: i }} ] }}\n\
         status: {{ phase: Running, podIP: {ip}, podIPs: [ {{ ip: {ip} }} ] }}\n"
    )
}

pub(crate) fn node(name: &str, ip: &str, cidr: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Node\nmetadata: {{ name: {name} }}\nspec: {{ podCIDRs: [ {cidr} ] }}\n\
         status: {{ addresses: [ {{ type: InternalIP, address: {ip} }} ] }}\n"
    )
}

/// A NetworkPolicy that lets only `from` reach `app`.
pub(crate) fn policy(name: &str, app: &str, from: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec:\n  podSelector: {{ matchLabels: {{ app: {app} }} }}\n  policyTypes: [ Ingress ]\n  ingress:\n\
         \x20 - from: [ {{ podSelector: {{ matchLabels: {{ app: {from} }} }} }} ]\n"
    )
}

/// Two nodes with a web pod on each, a client and a stranger on the first.
pub(crate) fn inventory() -> String {
    [
        "---\napiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n".to_owned(),
        node("one", "192.0.2.1", "10.0.1.0/24"),
        node("two", "192.0.2.2", "10.0.2.0/24"),
        pod("web", "web", "one", "10.0.1.1"),
        pod("client", "client", "one", "10.0.1.2"),
        pod("stranger", "stranger", "one", "10.0.1.3"),
        pod("db", "db", "two", "10.0.2.1"),
        pod("batch", "batch", "two", "10.0.2.2"),
    ]
    .concat()
}

/// Replaces a file as careful programs do: whole, by a rename.
pub(crate) fn replace(path: &Path, text: &str) {
    let fresh = path.with_extension("new");
    std::fs::write(&fresh, text).expect("write");
    std::fs::rename(&fresh, path).expect("rename");
}
