//! Web servers in any number of pods, from one thread: HTTP/1.1, and HTTP/2 by prior knowledge.
//!
//! | path | answer |
//! |---|---|
//! | `/bytes?n=1000` | so many bytes |
//! | `/drip?n=5&ms=100` | chunks, one after the other |
//! | `/trailers` | two chunks and the trailer `x-sum: 42` |
//! | `/wait?ms=500` | an answer after that time |
//! | with `Upgrade: websocket` | 101, then every byte comes back |
//! | else | what the server saw, as JSON; the bytes of the body are counted |

use std::convert::Infallible;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRAILER, UPGRADE};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use sluice_testnet::Netns;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A request as a server saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Path and query as they came.
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Seen {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// All web servers of a test. They end with it.
pub(crate) struct Web {
    listeners: mpsc::Sender<(std::net::TcpListener, String)>,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
}

impl Web {
    pub(crate) fn start() -> Self {
        let (listeners, mut more) = mpsc::channel::<(std::net::TcpListener, String)>(64);
        let log = Arc::<Log>::default();
        let shared = Arc::clone(&log);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                while let Some((listener, pod)) = more.recv().await {
                    let listener = TcpListener::from_std(listener).unwrap();
                    tokio::spawn(accept(listener, pod.into(), Arc::clone(&shared)));
                }
            });
        });
        Self { listeners, log }
    }

    /// Answers at `port` of all addresses in a namespace, by this name.
    pub(crate) fn serve(&self, ns: &Netns, name: &str, port: u16) {
        let listener = ns.tcp_listen((Ipv6Addr::UNSPECIFIED, port).into()).unwrap();
        listener.set_nonblocking(true).unwrap();
        self.listeners.blocking_send((listener, name.to_owned())).unwrap();
    }

    /// Every request so far, in the order of arrival.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.log.seen.lock().unwrap().clone()
    }

    /// Connections accepted so far, with or without a request.
    pub(crate) fn connections(&self) -> usize {
        self.log.connections.load(Ordering::SeqCst)
    }
}

async fn accept(listener: TcpListener, pod: Arc<str>, log: Arc<Log>) {
    loop {
        let Ok((stream, client)) = listener.accept().await else { continue };
        log.connections.fetch_add(1, Ordering::SeqCst);
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        tokio::spawn(converse(stream, client, Arc::clone(&pod), Arc::clone(&log)));
    }
}

async fn converse(stream: TcpStream, client: SocketAddr, pod: Arc<str>, log: Arc<Log>) {
    let mut first = [0_u8; 3];
    // A client that sends less and waits is none of these tests'.
    while let Ok(1..3) = stream.peek(&mut first).await {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let service = service_fn(move |request| answer(request, client, Arc::clone(&pod), Arc::clone(&log)));
    let io = TokioIo::new(stream);
    // How a connection ends is the client's matter.
    if &first == b"PRI" {
        let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await;
    } else {
        let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, service).with_upgrades().await;
    }
}

async fn answer(request: Request<Incoming>, client: SocketAddr, pod: Arc<str>, log: Arc<Log>) -> Result<Answer, Infallible> {
    let headers = pairs(request.headers());
    let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
    let method = request.method().to_string();
    let version = format!("{:?}", request.version());
    let seen = Seen { method: method.clone(), target: target.clone(), headers: headers.clone() };
    log.seen.lock().unwrap().push(seen);

    if request.headers().get(UPGRADE).is_some_and(|value| value == "websocket") {
        return Ok(upgrade(request));
    }
    let number = |name: &str| number(&target, name);
    match request.uri().path() {
        "/bytes" => {
            let length = number("n");
            let mut answer = stream(move |frames| send_bytes(frames, length));
            answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
            Ok(answer)
        }
        "/drip" => {
            let (count, pause) = (number("n"), Duration::from_millis(number("ms")));
            Ok(stream(move |frames| drip(frames, count, pause)))
        }
        "/trailers" => {
            let mut answer = stream(trailers);
            answer.headers_mut().insert(TRAILER, HeaderValue::from_static("x-sum"));
            Ok(answer)
        }
        path => {
            if path == "/wait" {
                tokio::time::sleep(Duration::from_millis(number("ms"))).await;
            }
            let (bytes, trailers) = consume(request.into_body()).await;
            let body = json!({
                "pod": &*pod, "client": client.ip(), "method": method, "target": target, "version": version,
                "headers": headers.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
                "bytes": bytes, "trailers": trailers.map(|t| pairs(&t)),
            });
            Ok(Response::new(http_body_util::Full::new(Bytes::from(body.to_string())).boxed_unsync()))
        }
    }
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

fn number(target: &str, name: &str) -> u64 {
    let query = target.split_once('?').map_or("", |(_, query)| query);
    let value = query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

async fn consume(mut body: Incoming) -> (u64, Option<HeaderMap>) {
    let (mut bytes, mut trailers) = (0, None);
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => bytes += data.len() as u64,
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    (bytes, trailers)
}

/// After 101 every byte comes back.
fn upgrade(request: Request<Incoming>) -> Answer {
    let mut answer = Response::new(http_body_util::Empty::new().boxed_unsync());
    *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    answer.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut io = TokioIo::new(upgraded);
        let mut bytes = [0_u8; 4096];
        while let Ok(got @ 1..) = io.read(&mut bytes).await {
            if io.write_all(&bytes[..got]).await.is_err() {
                return;
            }
        }
    });
    answer
}

/// A body that a task writes while it is sent.
struct Frames(mpsc::Receiver<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

fn stream<F>(write: impl FnOnce(mpsc::Sender<Frame<Bytes>>) -> F) -> Answer
where
    F: Future<Output = ()> + Send + 'static,
{
    let (frames, queue) = mpsc::channel(4);
    tokio::spawn(write(frames));
    Response::new(Frames(queue).boxed_unsync())
}

async fn send_bytes(frames: mpsc::Sender<Frame<Bytes>>, mut left: u64) {
    let block = Bytes::from(vec![b'x'; 64 * 1024]);
    while left > 0 {
        let length = block.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if frames.send(Frame::data(block.slice(..length))).await.is_err() {
            return;
        }
        left -= length as u64;
    }
}

async fn drip(frames: mpsc::Sender<Frame<Bytes>>, count: u64, pause: Duration) {
    for number in 1..=count {
        if frames.send(Frame::data(Bytes::from(format!("drop {number}\n")))).await.is_err() {
            return;
        }
        tokio::time::sleep(pause).await;
    }
}

async fn trailers(frames: mpsc::Sender<Frame<Bytes>>) {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", HeaderValue::from_static("42"));
    for frame in [Frame::data(Bytes::from("one")), Frame::data(Bytes::from("two")), Frame::trailers(trailers)] {
        let _ = frames.send(frame).await;
    }
}
