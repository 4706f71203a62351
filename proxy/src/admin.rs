//! `/healthz`, `/readyz` and `/metrics`.

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
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use crate::enforcer::KernelState;
use crate::metrics::Metrics;
use crate::records::RecordSink;

/// Who asks at the same time.
const MOST_CONNECTIONS: usize = 32;
/// How long one connection may take.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// What the admin address tells.
#[derive(Debug)]
pub struct Admin {
    pub registry: Registry,
    pub metrics: Metrics,
    pub records: RecordSink,
    pub kernel: watch::Receiver<KernelState>,
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
                let response = admin.answer(&request);
                async move { Ok::<_, Infallible>(response) }
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
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.unready() {
                None => text(StatusCode::OK, "ok\n".into()),
                Some(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
            },
            "/metrics" => self.exposition(),
            _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz, /metrics\n".into()),
        }
    }

    fn unready(&self) -> Option<String> {
        if self.draining.is_cancelled() {
            return Some("Draining: the proxy is ending".into());
        }
        match &*self.kernel.borrow() {
            KernelState::InForce => None,
            KernelState::Waiting => Some("NoSnapshot: no table is in force yet".into()),
            KernelState::Failing(error) => Some(format!("KernelRefused: {error}")),
        }
    }

    fn exposition(&self) -> Response<Full<Bytes>> {
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

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, ::http::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
