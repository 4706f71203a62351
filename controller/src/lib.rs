//! Objects in, one snapshot per node out: `watch -> world -> plan -> publish`.
//!
//! ```text
//! files (watched) --edits--> publish (one thread) <--hello, ack, nack-- serve (gRPC) <--> nodes
//!                              World::apply -> plan -> parts to each node's queue
//! ```
//!
//! [`files`] knows what each file holds and says what changed. [`plan`] is pure: it decides which node is sent what, and keeps
//! to bounds. [`publish`] is the one thread that owns the world. Nothing here is needed for enforcement: when the controller
//! dies, every node keeps what it has.

mod admin;
pub mod config;
pub mod files;
mod listen;
mod metrics;
mod plan;
mod publish;
mod run;
mod serve;
mod status;

pub use config::{Args, Config};
pub use run::{RunError, Running, start};
