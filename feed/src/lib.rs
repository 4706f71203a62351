//! The messages between the controller and a node, and nothing else.
//!
//! A node opens one bidirectional stream and says [`hello`](wire::Hello). The controller [welcomes](wire::Welcome) it and
//! sends updates; the node answers each with an ack once its kernel holds it, or with a nack, which asks for a full snapshot.
//!
//! ```text
//! [Change] -> changes::encode -> bytes -> parts::split -> Part .. Part -> parts::Assembly -> bytes -> changes::decode -> [Change]
//!                                  \----> saved::write (a node's own copy on disk) ----> saved::read ----/
//! ```
//!
//! Both directions are total and checked. Reading trusts nothing: an unknown enum value, a missing field, a bad address or a
//! length beyond the limit is an error that names the field, never a panic and never a change that says less than
//! was sent. A restriction that got lost on the way would open what it closed.

pub mod address;
pub mod changes;
mod from_wire;
mod l7_from_wire;
mod l7_to_wire;
pub mod parts;
pub mod saved;
mod to_wire;

pub use address::FeedAddress;
pub use from_wire::FieldError;

/// The generated messages, client and server of `proto/feed.proto`.
pub mod wire {
    tonic::include_proto!("sluice.feed.v1");
}

/// The version of the feed that this build speaks. The other side must speak the same.
pub const VERSION: u32 = 4;

/// No gRPC message of the feed is larger, in bytes.
pub const MESSAGE_LIMIT_BYTES: usize = 4 << 20;

/// An encoded list of changes is no larger, in bytes. A node that is sent more refuses it.
pub const UPDATE_LIMIT_BYTES: usize = 512 << 20;

/// One encoded change is no larger, in bytes.
pub const CHANGE_LIMIT_BYTES: usize = 32 << 20;

/// A node's name is no longer, in bytes (a DNS subdomain, RFC 1123).
pub const NODE_NAME_LIMIT_BYTES: usize = 253;
