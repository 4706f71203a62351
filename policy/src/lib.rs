//! What Sluice allows. Pure: no I/O, no clock, no environment, and total: every flow has exactly one verdict.
//!
//! Objects arrive as [`source`] types (the crate `sluice-crds` makes them from YAML). A [`World`] holds them,
//! gives pods that look alike one identity, and says for each node, as a list of [`snapshot::Change`]s, what that
//! node has to know. A node keeps the changes in a [`Table`], which decides:
//!
//! ```text
//! source::Object -> World -> View (one per node) -> [Change] -> Table -> verdict / explain / kernel programs
//! ```
//!
//! `verdict` and `explain` are one walk, and the kernel's rules are written from the same [`table::Line`]s, so the three
//! can't disagree by construction.

pub mod audit;
pub mod flow;
pub mod http;
pub mod label;
mod memo;
pub mod name;
pub mod program;
pub mod reason;
mod sharded;
pub mod snapshot;
pub mod source;
pub mod table;
pub mod verdict;
pub mod view;
pub mod walk;
pub mod world;

pub use audit::Audit;
pub use flow::{Direction, Flow, IcmpFamily, IcmpMessage, Protocol, Request};
pub use reason::Reason;

pub use verdict::{Decision, Verdict};
pub use walk::Explanation;

pub use table::Table;
pub use view::View;
pub use world::World;
