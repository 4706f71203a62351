//! The thread that keeps the kernel in step with the table.
//!
//! ```text
//! Handover -> publish to the data path -> conntrack: whom does it revoke? -> one transaction -> delete their entries -> done
//! ```
//!
//! The data path gets a table first: what it newly forbids is closed there at once, and what it newly allows arrives only
//! when the kernel lets it. Netlink blocks, so all this has a thread of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_policy::Table;
use tokio::sync::{mpsc, watch};

use crate::config::{Config, Deny};
use crate::feed::{Extent, Handover};
use crate::kernel::conntrack::{Conntrack, Entry};
use crate::kernel::revoke::{self, Revoked, Suspects};
use crate::kernel::routes::{self, DEFAULT_PRIORITY, PolicyRouting};
use crate::kernel::{self, Kernel, Mark};
use crate::metrics::Metrics;

/// How often routing and uplinks are looked at: others change them too.
const LOOK: Duration = Duration::from_secs(2);

/// Flows can begin under the former table until the new one is in force. Looking again finds them; more than this is somebody
/// opening flows faster than they can be found, and the kernel's rules already judge those.
const MOST_PASSES: usize = 3;

/// Why the kernel can't be told.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error("policy routing")]
    Routes(#[from] routes::Error),
    #[error("read the kernel's live flows")]
    Conntrack(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whether the kernel holds what it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KernelState {
    /// No table has been put in force by this process.
    Waiting,
    InForce,
    /// The newest table was refused. What was in force still is.
    Failing(String),
}

/// Everything that speaks to the kernel.
#[derive(Debug)]
pub struct Enforcer {
    kernel: Kernel,
    conntrack: Conntrack,
    routing: PolicyRouting,
    label_bit: u8,
    tables: watch::Sender<Arc<Table>>,
    state: watch::Sender<KernelState>,
    metrics: Metrics,
}

/// The kernel's part of the configuration.
pub fn kernel_config(config: &Config) -> kernel::Config {
    kernel::Config {
        mark: Mark { value: config.mark, mask: config.mark },
        routing_table: config.routing_table,
        proxy_port_v4: config.port,
        proxy_port_v6: config.port,
        uplinks: config.uplinks.clone(),
        deny: match config.deny {
            Deny::Drop => kernel::Deny::Drop,
            Deny::Reject => kernel::Deny::Reject,
        },
        ..kernel::Config::default()
    }
}

impl Enforcer {
    /// Opens the kernel's side and sets up routing. What a former process left stays in force until the first table.
    pub fn open(
        config: &Config,
        tables: watch::Sender<Arc<Table>>,
        state: watch::Sender<KernelState>,
        metrics: Metrics,
    ) -> Result<Self, EnforceError> {
        let kernel_config = kernel_config(config);
        let routing = PolicyRouting::new(kernel_config.mark, config.routing_table, DEFAULT_PRIORITY)?;
        let label_bit = kernel_config.label_bit;
        let kernel = Kernel::open(kernel_config)?;
        routing.install()?;
        for obstacle in routing.obstacles()? {
            tracing::warn!("diverted connections may not arrive: {obstacle}");
        }
        let conntrack = Conntrack::open().map_err(|error| EnforceError::Conntrack(error.into()))?;
        Ok(Self { kernel, conntrack, routing, label_bit, tables, state, metrics })
    }

    /// Works until nobody hands over tables any more.
    pub async fn run(mut self, mut handovers: mpsc::Receiver<Handover>) {
        loop {
            match tokio::time::timeout(LOOK, handovers.recv()).await {
                Ok(Some(handover)) => self.take_over(handover),
                Ok(None) => return,
                Err(_) => self.look_around(),
            }
        }
    }

    fn take_over(&mut self, handover: Handover) {
        let Handover { table, extent, generation, done } = handover;
        let number = i64::try_from(generation.0).unwrap_or(i64::MAX);
        self.note_sizes(&table, number);
        self.tables.send_replace(Arc::clone(&table));
        let started = Instant::now();
        let result = self.put_in_force(&table, &extent).map_err(|error| crate::error_chain(&error));
        match &result {
            Ok(revoked) => {
                let took = started.elapsed();
                let first = *self.state.borrow() == KernelState::Waiting;
                self.metrics.kernel_generation.set(number);
                self.state.send_replace(KernelState::InForce);
                tracing::debug!(%generation, ?took, revoked, "table in force");
                if first {
                    tracing::info!(%generation, "ready: the first table is in force");
                }
            }
            Err(error) => {
                self.metrics.kernel_failures.inc();
                tracing::error!(%generation, "the kernel refused the table, the former one stays in force: {error}");
                self.state.send_replace(KernelState::Failing(error.clone()));
            }
        }
        let _ = done.send(result.map(|_| ()));
    }

    /// Yields how many flows were ended.
    fn put_in_force(&mut self, table: &Table, extent: &Extent) -> Result<usize, EnforceError> {
        let (touched, suspects) = match extent {
            Extent::Whole => (None, Suspects::All),
            Extent::Touched(touched) => (Some(touched), revoke::suspects(table, touched)),
        };
        let mut revoked = self.revoked(table, &suspects)?;
        self.kernel.apply(table, touched, &revoked.tuples)?;
        let mut ended = 0;
        for _ in 1..MOST_PASSES {
            ended += revoked.entries.len();
            self.forget(&revoked)?;
            if suspects.is_empty() {
                return Ok(ended);
            }
            revoked = self.revoked(table, &suspects)?;
            if revoked.entries.is_empty() {
                return Ok(ended);
            }
            self.kernel.apply(table, Some(&sluice_policy::table::Touched::default()), &revoked.tuples)?;
        }
        self.forget(&revoked)?;
        Ok(ended + revoked.entries.len())
    }

    fn revoked(&mut self, table: &Table, suspects: &Suspects) -> Result<Revoked, EnforceError> {
        if suspects.is_empty() {
            return Ok(Revoked::default());
        }
        let label = self.label_bit;
        let own = revoke::own_addresses().map_err(|error| EnforceError::Conntrack(error.into()))?;
        let is_judged = |entry: &Entry| suspects.contains(entry) && !own.contains(&entry.original.source);
        let entries = self
            .conntrack
            .keep(|entry| (is_judged(&entry) && revoke::must_end(table, label, &entry)).then_some(entry))
            .map_err(|error| EnforceError::Conntrack(error.into()))?;
        Ok(revoke::judge(table, suspects, label, entries))
    }

    fn forget(&mut self, revoked: &Revoked) -> Result<(), EnforceError> {
        for entry in &revoked.entries {
            self.conntrack.delete(entry).map_err(|error| EnforceError::Conntrack(error.into()))?;
        }
        Ok(())
    }

    /// Repairs what others have changed.
    fn look_around(&mut self) {
        let repaired = self.routing.is_installed().and_then(|installed| {
            if installed {
                return Ok(());
            }
            tracing::warn!("policy routing was removed by somebody else: installing it again");
            self.routing.install()
        });
        if let Err(error) = repaired {
            tracing::error!("policy routing: {}", crate::error_chain(&error));
        }
        match self.kernel.refresh_uplinks() {
            Ok(None) => {}
            Ok(Some(_)) => tracing::info!("the node's uplinks have changed: the kernel's table is written anew"),
            Err(error) => tracing::error!("look for uplinks: {}", crate::error_chain(&error)),
        }
    }

    fn note_sizes(&self, table: &Table, generation: i64) {
        let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.generation.set(generation);
        self.metrics.table_endpoints.set(size(table.endpoints().count()));
        self.metrics.table_programs.set(size(table.program_ids().count()));
        self.metrics.table_sets.set(size(table.set_ids().count()));
    }
}
