//! `/healthz`, `/readyz`, `/metrics`, `/counters` and `/names`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use sluice_policy::Table;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::enforcer::{AskCounts, KernelState, Unready};
use crate::kernel::Count;
use crate::metrics::Metrics;
use crate::names::{Moment, Names, listing};
use crate::records::RecordSink;

/// Who asks at the same time.
const MOST_CONNECTIONS: usize = 32;
/// How long one connection may take.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// How long the kernel's thread may be busy with a table until a question is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the admin address tells.
#[derive(Debug)]
pub struct Admin {
    pub node: String,
    pub registry: Registry,
    pub metrics: Metrics,
    pub records: RecordSink,
    pub kernel: watch::Receiver<KernelState>,
    pub counts: mpsc::Sender<AskCounts>,
    pub names: Arc<Names>,
    pub table: watch::Receiver<Arc<Table>>,
    pub draining: CancellationToken,
}

/// Answers at `listener` until it is dropped.
pub async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "admin accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let admin = Arc::clone(&admin);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let admin = Arc::clone(&admin);
                async move { Ok::<_, Infallible>(admin.answer(&request).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_TIME, connection).await;
            drop(place);
        });
    }
}

impl Admin {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.unready() {
                None => text(StatusCode::OK, format!("ok\n{}", self.remark())),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => self.exposition().await,
            "/counters" => self.counters().await,
            "/names" => self.names(),
            _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz, /metrics, /counters, /names\n".into()),
        }
    }

    fn unready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("Draining: the proxy is ending".into());
        }
        match &*self.kernel.borrow() {
            KernelState::InForce | KernelState::InForceBeside(_) => None,
            KernelState::Waiting => Some("NoSnapshot: no table is in force yet".into()),
            KernelState::Failing(troubles) => Some(troubles.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")),
        }
    }

    /// What a ready node has to say all the same.
    fn remark(&self) -> String {
        match &*self.kernel.borrow() {
            KernelState::InForceBeside(others) => format!("{}: {others}\n", Unready::OtherEngine.as_str()),
            _ => String::new(),
        }
    }

    /// What the kernel's rules have counted.
    async fn counts(&self) -> Result<Vec<Count>, String> {
        let ask = async {
            let (ask, answer) = oneshot::channel();
            self.counts.send(ask).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(PATIENCE, ask).await {
            Ok(Some(counts)) => counts.map_err(|error| crate::error_chain(&error)),
            Ok(None) => Err("the kernel's thread has ended".into()),
            Err(_) => Err(format!("the kernel's thread has been busy for {} s", PATIENCE.as_secs())),
        }
    }

    async fn counters(&self) -> Response<Full<Bytes>> {
        match self.counts().await {
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
            Ok(counters) => json(&serde_json::json!({ "node": self.node, "counters": counters })),
        }
    }

    /// What look-ups have taught.
    fn names(&self) -> Response<Full<Bytes>> {
        let table = Arc::clone(&self.table.borrow());
        json(&serde_json::json!({ "node": self.node, "names": listing(&self.names, &table, Moment::now()) }))
    }

    async fn exposition(&self) -> Response<Full<Bytes>> {
        match self.counts().await {
            Ok(counts) => self.metrics.rules(&counts),
            Err(error) => tracing::warn!("what rules have counted is missing from the metrics: {error}"),
        }
        let queued = i64::try_from(self.records.queued()).unwrap_or(i64::MAX);
        self.metrics.records_queued.set(queued);
        let suppressed = &self.metrics.records_suppressed;
        suppressed.inc_by(self.records.dropped().saturating_sub(suppressed.get()));
        let mut body = String::new();
        match prometheus_client::encoding::text::encode(&mut body, &self.registry) {
            Ok(()) => {
                let mut response = text(StatusCode::OK, body);
                let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                response.headers_mut().insert(header::CONTENT_TYPE, ::http::HeaderValue::from_static(kind));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        }
    }
}

fn json(body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, format!("{body}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, ::http::HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, ::http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
