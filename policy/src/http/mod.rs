//! HTTP requests and the rules that match them.

mod condition;
mod index;
mod path;
mod pattern;
mod query;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use index::{Hit, HttpIndex};
pub use path::{PathError, canonical_path, encode_path};
pub use pattern::{PATTERN_MAX_BYTES, PatternError, check_host_pattern, check_pattern};

/// A request as it is judged: canonical, and what is forwarded.
#[derive(Clone, Copy, Debug)]
pub struct HttpRequest<'a> {
    /// As sent; methods are case-sensitive (RFC 9110 section 9.1).
    pub method: &'a str,
    /// The canonical path ([`canonical_path`]), without the query.
    pub path: &'a str,
    /// As sent, without the `?`; `None`: there is none.
    pub query: Option<&'a str>,
    /// Without the port, in lower case. Empty: the request names none.
    pub host: &'a str,
    /// Whether it came in HTTP/2, which gRPC needs.
    pub is_http2: bool,
    /// The fields that go on to the server: what is taken out on the way must be gone already.
    pub fields: &'a dyn HeaderFields,
}

impl<'a> HttpRequest<'a> {
    /// A request of HTTP/1 without query and fields.
    pub fn plain(method: &'a str, path: &'a str, host: &'a str) -> Self {
        Self { method, path, query: None, host, is_http2: false, fields: &NoFields }
    }

    /// Service and method, if the request is certainly a gRPC call: HTTP/2, POST, `/SERVICE/METHOD`, and one `content-type` of
    /// `application/grpc`, with a suffix (`+proto`) and parameters or without (gRPC over HTTP/2, "Requests").
    pub(crate) fn grpc_call(&self) -> Option<(&'a str, &'a str)> {
        if !self.is_http2 || self.method != "POST" {
            return None;
        }
        let (service, method) = self.path.strip_prefix('/')?.split_once('/')?;
        let (mut lines, mut grpc) = (0, false);
        self.fields.each("content-type", &mut |value| {
            lines += 1;
            grpc = is_grpc(value);
        });
        (lines == 1 && grpc && !service.is_empty() && !method.is_empty() && !method.contains('/')).then_some((service, method))
    }
}

fn is_grpc(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let Some((name, suffix)) = essence.split_at_checked("application/grpc".len()) else { return false };
    let is_token = |rest: &[u8]| !rest.is_empty() && rest.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b));
    name.eq_ignore_ascii_case(b"application/grpc") && (suffix.is_empty() || suffix.strip_prefix(b"+").is_some_and(is_token))
}

/// The header fields of a request.
pub trait HeaderFields: fmt::Debug {
    /// Calls `found` with the value of each line of the field `name` (in lower case), in their order.
    fn each<'a>(&'a self, name: &str, found: &mut dyn FnMut(&'a [u8]));
}

/// A request without header fields.
#[derive(Clone, Copy, Debug)]
pub struct NoFields;

impl HeaderFields for NoFields {
    fn each<'a>(&'a self, _: &str, _: &mut dyn FnMut(&'a [u8])) {}
}

/// Lines of name and value, names in any case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldLines(pub Vec<(String, Vec<u8>)>);

impl HeaderFields for FieldLines {
    fn each<'a>(&'a self, name: &str, found: &mut dyn FnMut(&'a [u8])) {
        self.0.iter().filter(|(line, _)| line.eq_ignore_ascii_case(name)).for_each(|(_, value)| found(value));
    }
}

/// One item of a rule's `http` list: AND over what is given. Patterns are whole-match regular expressions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpMatch {
    /// The item's index in the manifest's list: `ingress[0].http[1]` has 1, also where item 0 could not be read.
    pub index: u16,
    pub method: Option<Arc<str>>,
    pub path: Option<PathMatch>,
    /// A pattern for the host without port, whatever its letters' case.
    pub host: Option<Arc<str>>,
    /// Names are in lower case.
    pub headers: Vec<Condition>,
    /// Over the decoded parameters of the query.
    pub query: Vec<Condition>,
}

/// What the canonical path must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PathMatch {
    Regex(Arc<str>),
    Exact(Arc<str>),
    /// Whole segments, whether written with a `/` at the end or without: `/a` is `/a`, `/a/` and `/a/b`, not `/ab`.
    Prefix(Arc<str>),
}

/// What a header field or a parameter of the query must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Condition {
    pub name: Arc<str>,
    pub test: Test,
    /// The condition holds where the test doesn't.
    pub not: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Test {
    Exact(Arc<str>),
    /// A whole-match regular expression.
    Regex(Arc<str>),
    Present,
    Absent,
}

/// One item of a rule's `grpc` list: AND over what is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GrpcMatch {
    /// The item's index in the manifest's list.
    pub index: u16,
    /// With its package: `orderservice.OrderService`. `None` only in a Deny of which it could not be read.
    pub service: Option<Arc<str>>,
    /// `None`: every method.
    pub method: Option<Arc<str>>,
    /// Header fields; names are in lower case.
    pub metadata: Vec<Condition>,
}
