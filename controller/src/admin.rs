//! `/healthz`, `/readyz`, `/status` and `/metrics` over HTTP.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::CONTENT_TYPE;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::metrics::exposition;
use crate::publish::Input;
use crate::status::Status;

/// Connections at a time. More wait.
const CONNECTIONS: usize = 64;

/// A whole connection takes no longer: nobody needs one for longer than a scrape.
const CONNECTION: Duration = Duration::from_secs(30);

/// Serves until `cancel`.
pub(crate) async fn serve(listener: TcpListener, inputs: mpsc::Sender<Input>, tasks: TaskTracker, cancel: CancellationToken) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = cancel.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: trying again at once would only spin.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let (inputs, cancel) = (inputs.clone(), cancel.clone());
        tasks.spawn(async move {
            let service = service_fn(|request| answer(request, inputs.clone()));
            let mut http = hyper::server::conn::http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(5)).max_headers(64);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                () = cancel.cancelled() => {}
                // How a scrape's connection ends is of no interest.
                _ = tokio::time::timeout(CONNECTION, connection) => {}
            }
            drop(slot);
        });
    }
}

async fn answer<B>(request: Request<B>, inputs: mpsc::Sender<Input>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "GET only\n"));
    }
    let path = request.uri().path();
    if !matches!(path, "/healthz" | "/readyz" | "/status" | "/metrics") {
        return Ok(text(StatusCode::NOT_FOUND, "/healthz /readyz /status /metrics\n"));
    }
    // That the publisher answers is what health means.
    let Some(status) = tokio::time::timeout(Duration::from_secs(5), status(&inputs)).await.ok().flatten() else {
        return Ok(text(StatusCode::SERVICE_UNAVAILABLE, "the publisher doesn't answer\n"));
    };
    Ok(match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if status.ready => text(StatusCode::OK, "ready\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "the folder is not read yet\n"),
        "/metrics" => match exposition(&status) {
            Ok(body) => typed(StatusCode::OK, "application/openmetrics-text; version=1.0.0; charset=utf-8", body),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written\n"),
        },
        _ => match serde_json::to_string(&status) {
            Ok(body) => typed(StatusCode::OK, "application/json", body + "\n"),
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the status can't be written\n"),
        },
    })
}

async fn status(inputs: &mpsc::Sender<Input>) -> Option<Status> {
    let (answer, answered) = oneshot::channel();
    inputs.send(Input::Status(answer)).await.ok()?;
    answered.await.ok()
}

fn text(code: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    typed(code, "text/plain; charset=utf-8", body.to_owned())
}

fn typed(code: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
