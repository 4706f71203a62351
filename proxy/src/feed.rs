//! The node's end of the feed: keeps the table as the controller says, and hands it to the kernel.
//!
//! ```text
//! controller <-- link: connects, forever --> intake: Table::apply --> Handover --> kernel applier
//!                   <-- ack | nack --------------- result ----------------'
//!                                                     '--> Held: what the kernel holds (saved to disk, readiness)
//! ```
//!
//! Nothing that a controller does or fails to do takes away what is in force. Silence, garbage, a message too large or an update
//! that doesn't fit ends the session or is answered with a nack; the table stays as it is until a whole update has been read,
//! understood and applied.
//!
//! Reading a large snapshot takes the processor for a while: [`run`] belongs on a runtime that carries no connections.

mod intake;
mod link;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use sluice_feed::{FeedAddress, wire};
use sluice_policy::Table;
use sluice_policy::snapshot::Generation;
use sluice_policy::table::Touched;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A table to be put in force.
#[derive(Debug)]
pub struct Handover {
    pub table: Arc<Table>,
    pub extent: Extent,
    /// The controller's run that counts the generations.
    pub epoch: u64,
    pub generation: Generation,
    /// The applier says here once the kernel holds the table, or why it can't. Dropping it means that it can't.
    pub done: oneshot::Sender<Result<(), String>>,
}

/// How much the kernel has to look at, relative to the last [`Handover`] that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it: a snapshot, the table from disk, or what follows a hand-over that failed.
    Whole,
    /// Only what is named.
    Touched(Touched),
}

impl Extent {
    /// What differs; None: perhaps everything.
    pub fn touched(&self) -> Option<&Touched> {
        match self {
            Self::Whole => None,
            Self::Touched(touched) => Some(touched),
        }
    }
}

/// A table that the kernel holds.
#[derive(Clone, Debug)]
pub struct Held {
    pub table: Arc<Table>,
    /// The controller's run that counts the generations.
    pub epoch: u64,
    pub generation: Generation,
}

/// Where the feed comes from, and for whom.
#[derive(Clone, Debug)]
pub struct FeedConfig {
    pub controller: FeedAddress,
    pub node: Arc<str>,
    /// Which pods are resolvers to this node.
    pub resolvers: Vec<wire::Resolvers>,
    /// The table before the first snapshot, with this node's settings.
    pub nothing: Table,
    pub timing: Timing,
}

/// How long the feed waits for what.
#[derive(Clone, Debug)]
pub struct Timing {
    /// For a connection, and then for the controller's first message.
    pub greeting: Duration,
    /// For the next part of an update that has begun.
    pub part: Duration,
    /// For the snapshot that a nack asked for. The controller holds repeated ones back for up to 30 s.
    pub snapshot: Duration,
    /// Between two pings, and then for the answer.
    pub keepalive: Duration,
    /// Before the second attempt to connect, and before a table that the kernel refused is handed over again; doubled each time.
    pub first_backoff: Duration,
    pub longest_backoff: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            greeting: Duration::from_secs(10),
            part: Duration::from_secs(30),
            snapshot: Duration::from_secs(90),
            keepalive: Duration::from_secs(10),
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(10),
        }
    }
}

/// What the feed counts.
#[derive(Clone, Debug, Default)]
pub struct FeedMetrics {
    /// 1 while a controller has welcomed this node.
    pub connected: Gauge,
    /// The generation that the kernel holds.
    pub generation: Gauge,
    pub updates: Counter,
    /// Updates that could not be read, didn't fit, or were refused by the kernel.
    pub refusals: Counter,
    pub connection_losses: Counter,
}

impl FeedMetrics {
    pub fn new(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let feed = registry.sub_registry_with_prefix("sluice_feed");
        feed.register("connected", "Whether a controller has welcomed this node", metrics.connected.clone());
        feed.register("generation", "Generation of the table that the kernel holds", metrics.generation.clone());
        feed.register("updates", "Updates of the table that arrived whole", metrics.updates.clone());
        feed.register("refusals", "Updates answered with a nack", metrics.refusals.clone());
        feed.register("connection_losses", "Sessions and attempts that ended", metrics.connection_losses.clone());
        metrics
    }
}

/// Follows the controller until `cancel`.
///
/// - `restored`: the table from disk ([`state::load`](crate::state::load)). It is handed over first, without waiting for a
///   controller.
/// - `tables`: to the kernel applier, one [`Handover`] at a time. While it works, further updates are folded into one.
/// - `held`: told each table that the kernel holds: for readiness, and for [`state::keep`](crate::state::keep).
pub async fn run(
    config: FeedConfig,
    restored: Option<Held>,
    tables: mpsc::Sender<Handover>,
    held: watch::Sender<Option<Held>>,
    metrics: FeedMetrics,
    cancel: CancellationToken,
) {
    let stand = restored.as_ref().map(|held| (held.epoch, held.generation));
    let (stand_in, stand_out) = watch::channel(stand);
    let (to_intake, from_link) = mpsc::channel(1);
    let intake = intake::run(
        config.timing.clone(),
        (config.nothing.clone(), restored),
        from_link,
        stand_in,
        tables,
        held,
        metrics.clone(),
    );
    let link = link::run(config, stand_out, to_intake, metrics);
    tokio::select! {
        () = cancel.cancelled() => {}
        () = intake => {}
        () = link => {}
    }
}
