//! A proxy between a client and a server on loopback, and the words to speak HTTP/1 by hand.

#![expect(clippy::unwrap_used, reason = "a test whose stage can't be set up has failed")]

use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::registry::Registry;
use serde_json::Value;
use sluice_policy::view::Scope;
use sluice_policy::{Table, View, World};
use sluice_proxy::config::Config;
use sluice_proxy::connection::{Dataplane, handle_audited, handle_connection};
use sluice_proxy::judge::OriginalDst;
use sluice_proxy::metrics::Metrics;
use sluice_proxy::records;
use sluice_proxy::upstream::Dialer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// Who the client is.
pub(crate) const FRONTEND: &str = "10.1.0.1:40000";

/// The frontend may GET and POST below /api.
pub(crate) const BACKEND_POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: demo }
spec:
  podSelector: { matchLabels: { app: backend } }
  ingress:
  - from: [ { podSelector: { matchLabels: { app: frontend } } } ]
    http:
    - { method: GET, path: \"/api/.*\" }
    - { method: HEAD, path: \"/api/.*\" }
    - { method: POST, path: \"/api/.*\" }
    - { method: CONNECT }
";

const INVENTORY: &str = "
apiVersion: v1
kind: Namespace
metadata: { name: demo }
---
apiVersion: v1
kind: Node
metadata: { name: node-1 }
status: { addresses: [ { type: InternalIP, address: 192.0.2.1 } ] }
---
apiVersion: v1
kind: Pod
metadata: { name: backend, namespace: demo, labels: { app: backend } }
spec: { nodeName: node-1, containers: [ { name: main, image: x } ] }
status: { phase: Running, podIPs: [ { ip: 127.0.0.1 } ] }
---
apiVersion: v1
kind: Pod
metadata: { name: frontend, namespace: demo, labels: { app: frontend } }
spec: { nodeName: node-2, containers: [ { name: main, image: x } ] }
status: { phase: Running, podIPs: [ { ip: 10.1.0.1 } ] }
---
";

/// The table of node-1 under these policies.
pub(crate) fn table(policies: &str) -> Arc<Table> {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), format!("{INVENTORY}{policies}")).unwrap();
    let loaded = sluice_crds::load(&[file.path().to_owned()]);
    assert!(loaded.is_clean(), "{:?} {:?}", loaded.diagnostics, loaded.unreadable);
    let mut world = World::new();
    world.apply(loaded.into_edits());
    let changes = View::new(Scope::Node("node-1".into())).snapshot(&world);
    Arc::new(Table::empty().apply(&changes).unwrap().0)
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A proxy in front of one server.
pub(crate) struct Stage {
    /// Where the proxy takes the client's connections.
    pub(crate) address: SocketAddr,
    tables: watch::Sender<Arc<Table>>,
    output: Output,
    pub(crate) dataplane: Arc<Dataplane>,
}

impl Stage {
    pub(crate) async fn new(server: SocketAddr, policies: &str) -> Self {
        Self::with(server, policies, &[]).await
    }

    /// With settings as `--set` takes them.
    pub(crate) async fn with(server: SocketAddr, policies: &str, settings: &[&str]) -> Self {
        Self::begin(server, policies, settings, false).await
    }

    /// Connections come to it for the sake of Audit policies alone.
    pub(crate) async fn audited(server: SocketAddr, policies: &str, settings: &[&str]) -> Self {
        Self::begin(server, policies, settings, true).await
    }

    async fn begin(server: SocketAddr, policies: &str, settings: &[&str], audited: bool) -> Self {
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let config = Config::load(None, &settings).unwrap();
        let (tables, receiver) = watch::channel(table(policies));
        let output = Output::default();
        let (sink, _writer) = records::start(1024, output.clone()).unwrap();
        let metrics = Metrics::new(&mut Registry::default());
        let dataplane = Arc::new(Dataplane::new("node-1", &config, receiver, sink, metrics, Dialer::Plain));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::clone(&dataplane);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let client = FRONTEND.parse().unwrap();
                let (shared, original) = (Arc::clone(&shared), OriginalDst(server));
                if audited {
                    tokio::spawn(handle_audited(shared, stream, client, original));
                } else {
                    tokio::spawn(handle_connection(shared, stream, client, original));
                }
            }
        });
        Self { address, tables, output, dataplane }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Another set of policies is in force from now on.
    pub(crate) fn policies(&self, policies: &str) {
        self.tables.send_replace(table(policies));
    }

    /// The first records, once there are so many.
    pub(crate) async fn records(&self, count: usize) -> Vec<Value> {
        let mut lines = Vec::new();
        for _ in 0..500 {
            let text = String::from_utf8(self.output.0.lock().unwrap().clone()).unwrap();
            lines = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            if lines.len() >= count {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(lines.len() >= count, "{count} records wanted: {lines:#?}");
        lines
    }
}

/// A server that treats each connection so.
pub(crate) async fn serve_raw<F>(each: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(each(stream));
        }
    });
    address
}

/// Bytes up to and with `end`, as text; what there was if the peer ends before.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end) {
        match tokio::time::timeout(Duration::from_secs(10), stream.read_u8()).await.expect("nothing came for 10 s") {
            Ok(byte) => got.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}

/// A head; `None` if the peer has ended.
pub(crate) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        got.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(got).ok()
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Sends and reads the answer.
pub(crate) async fn ask(stream: &mut TcpStream, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    read_response(stream, "GET").await
}

/// One response with a `content-length`.
pub(crate) async fn read_response(stream: &mut TcpStream, method: &str) -> Answer {
    let head = read_until(stream, b"\r\n\r\n").await;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("no response: {head:?}"));
    let mut answer = Answer { status, head, body: String::new() };
    if method == "HEAD" || matches!(status, 204 | 304) {
        return answer;
    }
    let length = answer.header("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    tokio::time::timeout(Duration::from_secs(20), stream.read_exact(&mut body)).await.expect("body in time").expect("whole body");
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer
}
