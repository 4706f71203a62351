//! DNS messages: what a query asks, the answers that are made here, and what may be learned from a server's.
//!
//! Functions over bytes alone: no socket, no clock, no state. Who calls them is [`service`], which holds the pods' addresses and the
//! questions that are open; it forwards the bytes as they came, so sizes, DNSSEC bits and options are never touched.
//!
//! ```text
//! pod's bytes -> Frames (TCP) -> Query::read -> (policy) -> refusal | no_such_name | the same bytes to the server
//! server's bytes -> Frames (TCP) -> believe(query) -> what is learned; the same bytes to the pod
//!                      nothing in time -> failure
//! ```

mod believe;
mod chain;
mod code;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod query;
mod reply;
#[cfg(test)]
mod sample;
pub mod service;
mod stream;
mod wire;

pub use believe::{Address, Answer, MOST_ADDRESSES, MOST_RECORDS, NotBelieved, believe};
pub use chain::MOST_ALIASES;
pub use code::{Rcode, RecordType};
#[cfg(any(test, fuzzing))]
pub use fuzz::dns as fuzz_dns;
pub use query::{Edns, Kind, Malformed, Query};
pub use reply::{DenyWith, ExtendedError, OUR_UDP_BYTES, failure, no_such_name, refusal, unreadable};
pub use stream::{Frames, TooLong, frame};
