//! The traffic of one node: kernel rules, interception, a verdict per connection and request, upstream.
//!
//! ```text
//! controller -> feed -> app --table--> kernel        (rules, revocation)
//!                        `----watch--> connection    (one per diverted connection)
//! intercept -> connection -> detect -> http | relay -> upstream
//!                        `-> records, metrics -> admin
//! kernel --NFLOG--> denials -> records
//! ```

pub mod admin;
pub mod app;
pub mod audit;
pub mod config;
pub mod connection;
pub mod denials;
pub mod detect;
pub mod dns;
pub mod enforcer;
pub mod feed;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod hello;
mod http;
pub mod ident;
pub mod intercept;
pub mod judge;
pub mod kernel;
pub mod limits;
pub mod lookups;
pub mod metrics;
pub mod names;
mod observe;
pub mod quic;
pub mod records;
pub mod relay;
pub mod restart;
pub mod socket;
pub mod state;
pub mod upstream;

/// An error with its causes, for one line of a log.
pub(crate) fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
