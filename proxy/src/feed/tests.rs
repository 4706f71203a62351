//! A node against controllers that are sound, slow, lost, and out to do harm.

use std::net::IpAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sluice_feed::parts::{self, Heading};
use sluice_feed::wire::feed_server::{Feed, FeedServer};
use sluice_feed::wire::{self, controller_message, node_message};
use sluice_feed::{FeedAddress, MESSAGE_LIMIT_BYTES, VERSION, changes};
use sluice_policy::Table;
use sluice_policy::snapshot::{Change, Endpoint, Generation, IdentityId, NodeFacts, Programs, SetId};
use sluice_policy::source::PodRef;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{Extent, FeedConfig, FeedMetrics, Handover, Held, Timing, run};

const LONG: Duration = Duration::from_secs(20);
const NODE: &str = "node-a";

/// One session as the controller sees it.
struct Session {
    hello: wire::Hello,
    from: Streaming<wire::NodeMessage>,
    to: mpsc::Sender<Result<wire::ControllerMessage, Status>>,
}

struct Controller {
    sessions: mpsc::Sender<Session>,
}

#[tonic::async_trait]
impl Feed for Controller {
    type FollowStream = ReceiverStream<Result<wire::ControllerMessage, Status>>;

    async fn follow(&self, request: Request<Streaming<wire::NodeMessage>>) -> Result<Response<Self::FollowStream>, Status> {
        let mut from = request.into_inner();
        let Some(wire::NodeMessage { body: Some(node_message::Body::Hello(hello)) }) = from.message().await? else {
            panic!("no hello first");
        };
        let (to, outgoing) = mpsc::channel(64);
        self.sessions.send(Session { hello, from, to }).await.expect("the test takes it");
        Ok(Response::new(ReceiverStream::new(outgoing)))
    }
}

/// Serves at `path`, beginning anew each time it is called.
fn serve(path: &Path) -> (mpsc::Receiver<Session>, CancellationToken) {
    let _ = std::fs::remove_file(path);
    let incoming = UnixListenerStream::new(UnixListener::bind(path).expect("bind"));
    let (sessions, arrived) = mpsc::channel(16);
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    let server = tonic::transport::Server::builder().add_service(FeedServer::new(Controller { sessions }));
    tokio::spawn(server.serve_with_incoming_shutdown(incoming, stopped));
    (arrived, stop)
}

impl Session {
    async fn welcome(&mut self, epoch: u64, current: bool) {
        self.send(controller_message::Body::Welcome(wire::Welcome { version: VERSION, epoch, current })).await;
    }

    async fn send(&mut self, body: controller_message::Body) {
        self.to.send(Ok(wire::ControllerMessage { body: Some(body) })).await.expect("a live session");
    }

    async fn update(&mut self, epoch: u64, generation: u64, base: Option<u64>, list: &[Change]) {
        let payload = changes::encode(list).expect("small");
        self.raw(epoch, generation, base, payload).await;
    }

    async fn raw(&mut self, epoch: u64, generation: u64, base: Option<u64>, payload: Vec<u8>) {
        let heading = Heading { epoch, generation: Generation(generation), base: base.map(Generation) };
        for part in parts::split(heading, Bytes::from(payload)) {
            self.send(controller_message::Body::Part(part)).await;
        }
    }

    async fn answer(&mut self) -> node_message::Body {
        let message = tokio::time::timeout(LONG, self.from.message()).await.expect("in time");
        message.expect("a live session").expect("an answer").body.expect("a body")
    }

    async fn expect_ack(&mut self, generation: u64) {
        let answer = self.answer().await;
        assert_eq!(answer, node_message::Body::Ack(wire::Ack { generation }));
    }

    async fn expect_nack(&mut self, generation: u64) -> String {
        match self.answer().await {
            node_message::Body::Nack(nack) if nack.generation == generation => nack.reason,
            other => panic!("no nack of {generation}: {other:?}"),
        }
    }
}

/// The node's end, with the test as kernel applier.
struct Node {
    tables: mpsc::Receiver<Handover>,
    held: watch::Receiver<Option<Held>>,
    metrics: FeedMetrics,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

fn follow(path: &Path, restored: Option<Held>) -> Node {
    let timing = Timing {
        greeting: Duration::from_millis(500),
        part: Duration::from_millis(500),
        snapshot: Duration::from_secs(2),
        keepalive: Duration::from_millis(500),
        first_backoff: Duration::from_millis(10),
        longest_backoff: Duration::from_millis(50),
    };
    let config = FeedConfig {
        controller: FeedAddress::Unix(path.to_owned()),
        node: NODE.into(),
        resolvers: Vec::new(),
        nothing: Table::empty(),
        timing,
    };
    let (tables_in, tables) = mpsc::channel(1);
    let (held_in, held) = watch::channel(None);
    let (metrics, cancel) = (FeedMetrics::default(), CancellationToken::new());
    let task = tokio::spawn(run(config, restored, tables_in, held_in, metrics.clone(), cancel.clone()));
    Node { tables, held, metrics, cancel, task }
}

impl Node {
    async fn handover(&mut self) -> Handover {
        tokio::time::timeout(LONG, self.tables.recv()).await.expect("in time").expect("a hand-over")
    }

    async fn apply(&mut self) -> (Arc<Table>, Extent) {
        let Handover { table, extent, done, .. } = self.handover().await;
        done.send(Ok(())).expect("the feed waits for the result");
        (table, extent)
    }

    async fn idle(&mut self, time: Duration) {
        assert!(tokio::time::timeout(time, self.tables.recv()).await.is_err(), "a table that nobody sent");
    }

    async fn end(self) {
        self.cancel.cancel();
        self.task.await.expect("no panic");
    }
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn pod(last: u8) -> Change {
    let endpoint = Endpoint {
        pod: PodRef { namespace: "shop".into(), name: format!("pod-{last}").into() },
        identity: IdentityId(1),
        local: true,
        conflict: false,
        host: None,
        ports: Arc::from([]),
    };
    Change::PutEndpoint(ip(last), Arc::new(endpoint))
}

fn snapshot_of(node: &str, pods: &[u8]) -> Vec<Change> {
    let facts = NodeFacts { name: node.into(), ips: vec![], pod_cidrs: vec![] };
    let mut list = vec![Change::PutNode(facts), Change::PutIdentity(IdentityId(1), Programs::default())];
    list.extend(pods.iter().map(|last| pod(*last)));
    list
}

fn pods(table: &Table) -> Vec<String> {
    let mut all: Vec<_> = table.endpoints().map(|(ip, _)| ip.to_string()).collect();
    all.sort();
    all
}

fn table(node: &str, addresses: &[u8]) -> Arc<Table> {
    Arc::new(Table::empty().apply(&snapshot_of(node, addresses)).expect("sound").0)
}

/// A node that follows a sound controller and holds generation 1 of epoch 7 with one pod.
async fn in_step(path: &Path) -> (Node, Session, mpsc::Receiver<Session>, CancellationToken) {
    let (mut sessions, stop) = serve(path);
    let mut node = follow(path, None);
    let mut session = sessions.recv().await.expect("a session");
    assert_eq!((session.hello.version, &*session.hello.node), (VERSION, NODE));
    assert_eq!((session.hello.epoch, session.hello.generation), (0, 0));
    session.welcome(7, false).await;
    session.update(7, 1, None, &snapshot_of(NODE, &[1])).await;
    let (table, extent) = node.apply().await;
    assert_eq!((pods(&table), extent), (vec!["10.0.0.1".to_owned()], Extent::Whole));
    session.expect_ack(1).await;
    (node, session, sessions, stop)
}

fn socket() -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("c.sock");
    (dir, path)
}

#[tokio::test]
async fn deltas_follow_and_fold_while_the_kernel_works() {
    let (_dir, path) = socket();
    let (mut node, mut session, _sessions, _stop) = in_step(&path).await;
    assert!(node.held.borrow().as_ref().is_some_and(|held| held.generation == Generation(1) && held.epoch == 7));
    assert_eq!(node.metrics.connected.get(), 1);

    session.update(7, 2, Some(1), &[pod(2)]).await;
    let slow = node.handover().await;
    assert!(
        matches!(&slow.extent, Extent::Touched(touched) if touched.endpoints.contains(&ip(2)) && touched.endpoints.len() == 1)
    );
    for (generation, last) in [(3, 3), (4, 4), (5, 5)] {
        session.update(7, generation, Some(generation - 1), &[pod(last)]).await;
    }
    session.update(7, 6, Some(5), &[Change::DropEndpoint(ip(1))]).await;
    tokio::time::timeout(LONG, async {
        while node.metrics.updates.get() < 6 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("all of them arrive while the kernel works");
    slow.done.send(Ok(())).expect("awaited");
    session.expect_ack(2).await;
    let (table, extent) = node.apply().await;
    assert_eq!(pods(&table), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
    let Extent::Touched(touched) = extent else { panic!("a delta became a snapshot") };
    assert_eq!(touched.endpoints.into_iter().collect::<Vec<_>>(), [ip(1), ip(3), ip(4), ip(5)]);
    session.expect_ack(6).await;
    node.end().await;
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_a_snapshot_mends_it() {
    let (_dir, path) = socket();
    let (mut node, mut session, _sessions, _stop) = in_step(&path).await;
    let rows: [(&str, Option<u64>, Vec<Change>, &str); 5] = [
        ("a gap", Some(4), vec![pod(9)], "leads on from generation 4"),
        ("a contradiction", Some(1), vec![Change::DropSet(SetId(77))], "77"),
        ("another node's snapshot", None, snapshot_of("node-b", &[9]), "node-b"),
        ("another node's facts", Some(1), snapshot_of("node-b", &[]), "node-b"),
        ("a snapshot of nobody", None, vec![], "which node"),
    ];
    let mut generation = 10;
    let mut base = 1;
    for (what, from, list, wanted) in rows {
        session.update(7, generation, from.map(|from| if from == 1 { base } else { from }), &list).await;
        let reason = session.expect_nack(generation).await;
        assert!(reason.contains(wanted), "{what}: {reason}");
        // What follows before the snapshot is passed over in silence.
        session.update(7, generation + 1, Some(generation), &[pod(8)]).await;
        node.idle(Duration::from_millis(50)).await;
        base = generation + 2;
        session.update(7, base, None, &snapshot_of(NODE, &[1])).await;
        assert_eq!(node.apply().await.1, Extent::Whole, "{what}");
        session.expect_ack(base).await;
        generation += 10;
    }
    // Bytes that are no changes: a nack as well.
    session.raw(7, generation, Some(base), vec![2, 0xff, 0xff]).await;
    assert!(session.expect_nack(generation).await.contains("change 0"));
    assert_eq!(pods(&node.held.borrow().as_ref().expect("a table").table), ["10.0.0.1"]);
    node.end().await;
}

#[tokio::test]
async fn a_kernel_that_refuses_is_asked_again_for_all_of_it() {
    let (_dir, path) = socket();
    let (mut node, mut session, _sessions, _stop) = in_step(&path).await;
    session.update(7, 2, Some(1), &[pod(2)]).await;
    node.handover().await.done.send(Err("out of memory".to_owned())).expect("awaited");
    assert_eq!(session.expect_nack(2).await, "out of memory");
    // Without waiting for the controller, the node tries again; an applier that drops the request has failed too.
    let again = node.handover().await;
    assert_eq!((again.extent, again.generation), (Extent::Whole, Generation(2)));
    drop(again.done);
    assert!(session.expect_nack(2).await.contains("no answer"));
    session.update(7, 3, None, &snapshot_of(NODE, &[1, 2, 3])).await;
    loop {
        let handover = node.handover().await;
        assert_eq!(handover.extent, Extent::Whole);
        let generation = handover.generation;
        handover.done.send(Ok(())).expect("awaited");
        session.expect_ack(generation.0).await;
        if generation == Generation(3) {
            break;
        }
    }
    assert_eq!(node.held.borrow().as_ref().map(|held| held.generation), Some(Generation(3)));
    node.end().await;
}

#[tokio::test]
async fn a_restored_table_goes_to_the_kernel_first_and_goes_on_from_there() {
    let (_dir, path) = socket();
    let restored = Held { table: table(NODE, &[1]), epoch: 7, generation: Generation(5) };
    // No controller far and wide.
    let mut node = follow(&path, Some(restored));
    let (first, extent) = node.apply().await;
    assert_eq!((pods(&first), extent), (vec!["10.0.0.1".to_owned()], Extent::Whole));

    let (mut sessions, stop) = serve(&path);
    let mut session = sessions.recv().await.expect("a session");
    assert_eq!((session.hello.epoch, session.hello.generation), (7, 5));
    session.welcome(7, true).await;
    session.expect_ack(5).await;
    session.update(7, 6, Some(5), &[pod(2)]).await;
    assert!(matches!(node.apply().await.1, Extent::Touched(_)));
    session.expect_ack(6).await;

    // The controller dies: nothing happens to the table. The next one counts anew.
    drop(session);
    stop.cancel();
    let (mut sessions, _stop) = serve(&path);
    let mut session = tokio::time::timeout(LONG, sessions.recv()).await.expect("it comes back").expect("a session");
    assert_eq!((session.hello.epoch, session.hello.generation), (7, 6));
    node.idle(Duration::from_millis(50)).await;
    session.welcome(8, false).await;
    // A generation of before means nothing to this one, so it isn't acked.
    session.update(8, 1, None, &snapshot_of(NODE, &[3])).await;
    assert_eq!(pods(&node.apply().await.0), ["10.0.0.3"]);
    session.expect_ack(1).await;
    node.end().await;
}

type Harm = fn(&Path) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Each of these takes the controller's place for a while. What the node holds stays, and the next sound controller is followed.
#[tokio::test]
async fn a_hostile_controller_harms_nothing_that_is_in_force() {
    let harms: [(&str, Harm); 7] = [
        ("it accepts and is silent", |path| accept(path, |stream| Box::pin(std::future::pending().map_with(stream)))),
        ("it speaks garbage", |path| {
            accept(path, |mut stream| {
                Box::pin(async move {
                    let bytes: Vec<u8> = (0..100_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[1]).collect();
                    // The node may hang up in the middle.
                    let _ = stream.write_all(&bytes).await;
                })
            })
        }),
        ("it welcomes nobody", |path| session(path, |session| Box::pin(std::future::pending().map_with(session)))),
        ("it speaks another version", |path| {
            session(path, |mut session| {
                Box::pin(async move {
                    let welcome = wire::Welcome { version: VERSION + 1, epoch: 1, current: true };
                    session.send(controller_message::Body::Welcome(welcome)).await;
                    session.to.closed().await;
                })
            })
        }),
        ("it sends a message beyond the limit", |path| {
            session(path, |mut session| {
                Box::pin(async move {
                    session.welcome(9, false).await;
                    let payload = vec![0u8; MESSAGE_LIMIT_BYTES + 1].into();
                    let part = wire::Part { epoch: 9, generation: 1, base: None, payload, last: true };
                    session.send(controller_message::Body::Part(part)).await;
                    session.to.closed().await;
                })
            })
        }),
        ("it never ends an update", |path| {
            session(path, |mut session| {
                Box::pin(async move {
                    session.welcome(9, false).await;
                    let part = wire::Part { epoch: 9, generation: 1, base: None, payload: vec![1].into(), last: false };
                    session.send(controller_message::Body::Part(part)).await;
                    session.to.closed().await;
                })
            })
        }),
        ("it mixes two updates", |path| {
            session(path, |mut session| {
                Box::pin(async move {
                    session.welcome(9, false).await;
                    for generation in [1, 2] {
                        let part = wire::Part { epoch: 9, generation, base: None, payload: vec![1].into(), last: false };
                        session.send(controller_message::Body::Part(part)).await;
                    }
                    session.to.closed().await;
                })
            })
        }),
    ];
    let (_dir, path) = socket();
    let (mut node, session, _sessions, stop) = in_step(&path).await;
    drop(session);
    stop.cancel();
    for (round, (what, harm)) in harms.into_iter().enumerate() {
        let losses = node.metrics.connection_losses.get();
        let task = tokio::spawn(harm(&path));
        let lost = async {
            // One loss may be of the controller before; two and a half are of this one.
            while node.metrics.connection_losses.get() < losses + 3 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            lost = tokio::time::timeout(LONG, lost) => lost.unwrap_or_else(|_| panic!("{what}: the node never gave up")),
            _ = node.tables.recv() => panic!("{what}: a table came of it"),
        }
        task.abort();
        let in_force = node.held.borrow().as_ref().map(|held| pods(&held.table));
        let expected = if round == 0 { "10.0.0.1".to_owned() } else { ip(u8::try_from(round).expect("few") + 10).to_string() };
        assert_eq!(in_force, Some(vec![expected]), "{what}");

        let (mut sessions, stop) = serve(&path);
        let mut session = tokio::time::timeout(LONG, sessions.recv()).await.expect("it comes back").expect("a session");
        let epoch = 100 + round as u64;
        session.welcome(epoch, false).await;
        session.update(epoch, 1, None, &snapshot_of(NODE, &[u8::try_from(round).expect("few") + 11])).await;
        node.apply().await;
        session.expect_ack(1).await;
        drop(session);
        stop.cancel();
    }
    node.end().await;
}

/// Keeps something alive for as long as a future takes.
trait MapWith: Future<Output = ()> + Sized {
    async fn map_with<T>(self, kept: T) {
        self.await;
        drop(kept);
    }
}

impl<F: Future<Output = ()>> MapWith for F {}

type Boxed = Pin<Box<dyn Future<Output = ()> + Send>>;

fn accept(path: &Path, then: fn(tokio::net::UnixStream) -> Boxed) -> Boxed {
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).expect("bind");
    Box::pin(async move {
        let mut clients = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            clients.spawn(then(stream));
        }
    })
}

fn session(path: &Path, then: fn(Session) -> Boxed) -> Boxed {
    let (mut sessions, stop) = serve(path);
    Box::pin(async move {
        let _stop = stop.drop_guard();
        let mut clients = tokio::task::JoinSet::new();
        while let Some(session) = sessions.recv().await {
            clients.spawn(then(session));
        }
    })
}
