//! What the proxy itself says to a client.

use std::time::Duration;

use ::http::{HeaderValue, Method, Response, StatusCode, Version, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use sluice_policy::{Reason, Table};

use super::body::{ResponseBody, Track};
use super::grpc;
use super::head::HeadError;
use crate::config::DenialBody;
use crate::connection::Conn;
use crate::judge::{self, JudgedRequest, Ruling};

/// A denied request's body is read to its end if it is no longer than this, so that the connection can go on.
const DRAINED_BYTES: u64 = 64 * 1024;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// What becomes of the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    KeepAlive,
    Close,
}

/// The status of an answer, as HTTP has it and as gRPC does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) http: StatusCode,
    pub(crate) grpc: grpc::Status,
}

impl From<StatusCode> for Code {
    fn from(http: StatusCode) -> Self {
        Self { http, grpc: grpc::Status::of_http(http) }
    }
}

/// The answer to a request that policy denies.
pub(crate) fn denied(
    conn: &Conn,
    table: &Table,
    request: &JudgedRequest,
    ruling: &Ruling,
    id: &str,
    after: After,
    track: Track,
) -> Response<ResponseBody> {
    let sentence = judge::sentence(table, conn.ends(), Some(request), ruling);
    denied_by(conn, &sentence, id, after, track)
}

/// The same, with the sentence at hand.
pub(crate) fn denied_by(conn: &Conn, sentence: &str, id: &str, after: After, track: Track) -> Response<ResponseBody> {
    respond(conn, StatusCode::FORBIDDEN.into(), sentence, id, after, track)
}

/// The answer to a request that can't be read safely, or not served.
pub(crate) fn refused(conn: &Conn, code: Code, why: &str, reason: Reason, id: &str, track: Track) -> Response<ResponseBody> {
    let sentence = format!("Sluice refused the request: {why} ({reason})");
    respond(conn, code, &sentence, id, After::Close, track)
}

/// The status and the reason for what the guard refused.
pub(crate) fn of_head_error(error: HeadError) -> (StatusCode, Reason) {
    match error {
        HeadError::Malformed(_) => (StatusCode::BAD_REQUEST, Reason::MalformedRequest),
        HeadError::TooLarge => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HeadTooLarge),
        HeadError::Timeout => (StatusCode::REQUEST_TIMEOUT, Reason::HeadTimeout),
    }
}

fn respond(conn: &Conn, code: Code, sentence: &str, id: &str, after: After, track: Track) -> Response<ResponseBody> {
    track.note_status(if track.is_grpc { StatusCode::OK } else { code.http });
    let text = match conn.dataplane.denial_body {
        DenialBody::Full => sentence,
        DenialBody::Id => id,
    };
    let mut response = if track.is_grpc {
        track.note_call(code.grpc.number());
        let mut response = Response::new(ResponseBody::of_ours(String::new(), track));
        grpc::make_trailers_only(&mut response, code.grpc, text);
        response
    } else {
        let mut response = Response::new(ResponseBody::of_ours(format!("{text}\n"), track));
        *response.status_mut() = code.http;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        response
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert("x-sluice-id", id);
    }
    if after == After::Close {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Whether the connection can go on after a request that is not forwarded: only if its body is over, or soon is.
pub(crate) async fn drain_body(parts: &::http::request::Parts, body: Incoming) -> After {
    if body.is_end_stream() {
        return After::KeepAlive;
    }
    if parts.version == Version::HTTP_2 {
        // One stream ends without the others, so the answer goes at once. To drop the body would be a RST_STREAM, and some clients forget
        // the answer over it.
        tokio::spawn(drain(body));
        return After::KeepAlive;
    }
    // Reading would ask the client to send what nobody wants.
    let waits = parts.headers.contains_key(header::EXPECT);
    if waits || parts.method == Method::CONNECT || body.size_hint().lower() > DRAINED_BYTES {
        return After::Close;
    }
    if drain(body).await { After::KeepAlive } else { After::Close }
}

/// Reads a body that nobody wants, within bounds. Whether that was all of it.
async fn drain(mut body: Incoming) -> bool {
    let drained = async {
        let mut bytes = 0;
        loop {
            match body.frame().await {
                None => return true,
                Some(Err(_)) => return false,
                Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, bytes::Bytes::len) as u64,
            }
            if bytes > DRAINED_BYTES {
                return false;
            }
        }
    };
    tokio::time::timeout(DRAIN_TIME, drained).await.unwrap_or(false)
}
