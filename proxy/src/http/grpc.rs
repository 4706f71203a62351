//! gRPC as far as it differs from the HTTP/2 that carries it: how a call is told, and what a client can read as its end.
//!
//! A client takes a call's end from the trailers, and any answer without them for a fault of the network. So what the proxy
//! itself says comes "trailers-only": status 200 and the call's status in one HEADERS frame that ends the stream
//! (gRPC over HTTP/2, `PROTOCOL-HTTP2.md` of the gRPC project).

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use hyper::Response;

use crate::records::GrpcFacts;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Most of an encoded `grpc-message`. Clients bound the list of fields that they take, the strictest known at 8 KiB.
const MOST_MESSAGE_BYTES: usize = 4096;

/// The statuses that the proxy gives by itself, by their numbers in gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Cancelled = 1,
    Unknown = 2,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Internal = 13,
    Unavailable = 14,
}

impl Status {
    pub(crate) const fn number(self) -> u32 {
        self as u32
    }

    /// As the gRPC project maps statuses of HTTP (`http-grpc-status-mapping.md`), for those that the proxy gives.
    pub(crate) fn of_http(status: StatusCode) -> Self {
        match status {
            StatusCode::FORBIDDEN => Self::PermissionDenied,
            StatusCode::BAD_REQUEST => Self::Internal,
            StatusCode::BAD_GATEWAY => Self::Unavailable,
            _ => Self::Unknown,
        }
    }

    /// What a client would have made of the server's RST_STREAM (`PROTOCOL-HTTP2.md`, "Errors").
    pub(crate) fn of_reset(reason: h2::Reason) -> Self {
        match reason {
            h2::Reason::REFUSED_STREAM => Self::Unavailable,
            h2::Reason::CANCEL => Self::Cancelled,
            h2::Reason::ENHANCE_YOUR_CALM => Self::ResourceExhausted,
            h2::Reason::INADEQUATE_SECURITY => Self::PermissionDenied,
            _ => Self::Internal,
        }
    }
}

/// Whether a request is a call: HTTP/2 whose content is `application/grpc`, `application/grpc+proto` or with parameters. What
/// only begins like it, as `application/grpc-web` does, is none.
pub(crate) fn is_call(version: Version, headers: &HeaderMap) -> bool {
    const NAME: &[u8] = b"application/grpc";
    let kind = headers.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
    let Some((name, rest)) = kind.split_at_checked(NAME.len()) else { return false };
    version == Version::HTTP_2
        && name.eq_ignore_ascii_case(NAME)
        && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
}

/// Service and method of a call, from its canonical path `/package.Service/Method`; neither where it has another form.
pub(crate) fn facts(path: &str) -> GrpcFacts {
    let parts = path.strip_prefix('/').and_then(|path| path.split_once('/'));
    let (service, method) = parts.filter(|(service, method)| !service.is_empty() && !method.contains('/')).unzip();
    let shortened = |text: &str| crate::records::shortened(text).into_owned();
    GrpcFacts { service: service.map(shortened), method: method.map(shortened), status: None }
}

/// The status in trailers, or in the head of an answer that is trailers-only.
pub(crate) fn status_in(fields: &HeaderMap) -> Option<u32> {
    fields.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()
}

/// The fields that end a call.
pub(crate) fn end(status: Status, message: &str) -> HeaderMap {
    let mut fields = HeaderMap::new();
    fields.insert(GRPC_STATUS, HeaderValue::from(status.number()));
    if let Ok(message) = HeaderValue::from_str(&encoded(message)) {
        fields.insert(GRPC_MESSAGE, message);
    }
    fields
}

/// Makes `response`, whose body is empty, a trailers-only answer.
pub(crate) fn make_trailers_only<B>(response: &mut Response<B>, status: Status, message: &str) {
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response.headers_mut().extend(end(status, message));
}

/// `grpc-message` in its percent-encoding: a space to `~` without `%` stands for itself, every other byte as `%XX`.
/// Cut at [`MOST_MESSAGE_BYTES`], between characters.
fn encoded(message: &str) -> String {
    let mut text = String::with_capacity(message.len());
    for character in message.chars() {
        let before = text.len();
        match character {
            ' '..='$' | '&'..='~' => text.push(character),
            _ => {
                for byte in character.encode_utf8(&mut [0; 4]).bytes() {
                    text.push_str(&format!("%{byte:02X}"));
                }
            }
        }
        if text.len() > MOST_MESSAGE_BYTES {
            text.truncate(before);
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use ::http::{HeaderMap, HeaderValue, Version, header::CONTENT_TYPE};

    use super::{MOST_MESSAGE_BYTES, encoded, facts, is_call};

    #[test]
    fn calls_are_told_by_their_content() {
        for (kind, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC;charset=utf-8", true),
            ("application/grpc ; a=b", true),
            ("application/grpc-web", false),
            ("application/grpcx", false),
            ("application/json", false),
            ("application/grp", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            assert_eq!(is_call(Version::HTTP_2, &headers), expected, "{kind}");
            assert!(!is_call(Version::HTTP_11, &headers), "HTTP/1 carries no calls");
        }
        assert!(!is_call(Version::HTTP_2, &HeaderMap::new()));
    }

    #[test]
    fn paths_name_service_and_method() {
        for (path, service, method) in [
            ("/orderservice.OrderService/GetOrder", Some("orderservice.OrderService"), Some("GetOrder")),
            ("/Plain/M", Some("Plain"), Some("M")),
            ("/a/b/c", None, None),
            ("//b", None, None),
            ("/a", None, None),
            ("*", None, None),
        ] {
            let facts = facts(path);
            assert_eq!((facts.service.as_deref(), facts.method.as_deref()), (service, method), "{path}");
        }
    }

    #[test]
    fn messages_are_encoded() {
        assert_eq!(encoded("a b~100%\n\"é\"\u{7f}"), "a b~100%25%0A\"%C3%A9\"%7F");
        let long = encoded(&"é".repeat(2000));
        assert!(long.len() <= MOST_MESSAGE_BYTES && long.len() > MOST_MESSAGE_BYTES - 6 && long.ends_with("%C3%A9"));
    }
}
