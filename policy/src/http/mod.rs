//! HTTP requests and the rules that match them.

mod index;
mod path;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub(crate) use index::{Hit, HttpIndex};
pub use index::{PATTERN_MAX_BYTES, PatternError, check_pattern};
pub use path::{PathError, canonical_path, encode_path};

/// A request as it is judged: canonical, and what is forwarded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpRequest<'a> {
    /// As sent; methods are case-sensitive (RFC 9110 section 9.1).
    pub method: &'a str,
    /// The canonical path ([`canonical_path`]), without the query.
    pub path: &'a str,
    /// Without the port, in lower case.
    pub host: &'a str,
}

/// One item of a rule's `http` list: AND over what is given. Patterns are whole-match regular expressions.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HttpMatch {
    /// The item's index in the manifest's list: `ingress[0].http[1]` has 1, also where item 0 could not be read.
    pub index: u16,
    pub method: Option<Arc<str>>,
    pub path: Option<Arc<str>>,
}
