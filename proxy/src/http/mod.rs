//! HTTP/1.1 and HTTP/2: a verdict per request, both legs in the client's version.
//!
//! ```text
//! http1: socket -> guard -> hyper -> exchange -> pinned upstream     (then a tunnel, if the server agreed to one)
//! http2: socket -----------> hyper -> exchange -> pinned upstream
//! ```

mod answer;
mod body;
mod exchange;
mod fields;
mod framing;
mod grpc;
mod guard;
mod head;
mod http1;
mod http2;
mod ledger;
mod observed;
mod pinned;
mod replay;
mod target;
mod underway;

#[cfg(any(test, fuzzing))]
pub use guard::fuzz::fuzz_guard;
pub(crate) use head::is_token_byte;
pub(crate) use http1::serve_http1;
pub(crate) use http2::serve_http2;
pub(crate) use observed::{Requests, Streams, Unreadable};
pub(crate) use underway::Underway;
