//! The thread that keeps the kernel in step with the table.
//!
//! ```text
//! Handover -> publish to the data path -> conntrack: whom does it revoke? -> one transaction -> delete their entries -> done
//!          -> conntrack once more: who slipped in between the reading and the transaction?
//! ```
//!
//! Reading the conntrack table takes milliseconds, and no flow that the new rules forbid begins behind the transaction. So the
//! generation is acknowledged before the second reading. The first one is a glance: what it misses the second one finds.
//!
//! The data path gets a table first: what it newly forbids is closed there at once, and what it newly allows arrives only
//! when the kernel lets it. Netlink blocks, so all this has a thread of its own.
//!
//! Others change the node too. Between tables the thread looks whether the rules are still there, and routing and uplinks as they
//! should be, and repairs what isn't. Until that is done the state is `Failing`. What others do that can't be repaired is looked at
//! by [`node`].

mod aside;
mod flows;
mod inputs;
mod learning;
mod node;
mod state;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_policy::Table;
use tokio::sync::watch;

use crate::config::{Config, ConnectionRecords, Deny};
use crate::feed::{Extent, Handover};
use crate::kernel::bridge::{self, Bridges};
use crate::kernel::conntrack::Conntrack;
use crate::kernel::revoke::Suspects;
use crate::kernel::routes::{self, PolicyRouting};
use crate::kernel::{self, Harm, Kernel, Left, Mark, Stand};
use crate::metrics::Metrics;
use flows::Unsettled;
use inputs::{Ports, Work, every, next_work};
use node::Node;

pub use aside::Aside;
pub use inputs::{AskCounts, Inputs};
pub use learning::{Learner, Learning, Lessons, Taught};
pub use state::{KernelState, Trouble, Unready};

/// How often routing and uplinks are looked at: others change them too.
const LOOK: Duration = Duration::from_secs(2);

/// How often it is looked at whether the rules are still there: without them everything passes. One message if nobody changed
/// anything.
const WATCH: Duration = Duration::from_millis(500);

/// Why the kernel can't be told.
#[derive(Debug, thiserror::Error)]
pub enum EnforceError {
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    #[error("pods on bridges")]
    Bridges(#[from] bridge::Error),
    #[error("policy routing")]
    Routes(#[from] routes::Error),
    #[error("read the kernel's live flows")]
    Conntrack(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("look at what others do on this node")]
    Node(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Everything that speaks to the kernel.
#[derive(Debug)]
pub struct Enforcer {
    kernel: Kernel,
    conntrack: Conntrack,
    routing: PolicyRouting,
    node: Node,
    bridges: Bridges,
    label_bit: u8,
    tables: watch::Sender<Arc<Table>>,
    state: watch::Sender<KernelState>,
    metrics: Metrics,
    /// Names, where look-ups are learned from.
    learning: Option<Learning>,
    /// What was done to the rules, until they are whole again and the flows that began meanwhile are ended.
    harm: Option<Harm>,
    failures: Failures,
    /// Whose flows are still to be looked at, because that failed.
    unsettled: Option<Suspects>,
    /// No table has been put in force yet.
    is_first: bool,
}

/// What is wrong now. Each is cleared by the next success of its kind.
#[derive(Debug, Default)]
struct Failures {
    /// The newest table.
    table: Option<String>,
    /// The rules, after somebody else changed them.
    rules: Option<String>,
    /// The rules for uplinks that have changed.
    uplinks: Option<String>,
    /// The rules that divert, or don't any more.
    diverting: Option<String>,
    /// Looking for flows that the table in force forbids.
    flows: Option<String>,
    /// Pods on bridges.
    bridges: Option<String>,
}

/// The kernel's part of the configuration.
pub fn kernel_config(config: &Config) -> kernel::Config {
    kernel::Config {
        mark: Mark { value: config.mark, mask: config.mark },
        routing_table: config.routing_table,
        hook_priority: config.hook_priority,
        proxy_port_v4: config.port,
        proxy_port_v6: config.port,
        audit_port: config.audit_port(),
        dns_port: config.dns_port(),
        quic_port: config.quic_port(),
        uplinks: config.uplinks.clone(),
        extends: kernel::extends_elements(),
        look_ups_per_second: NonZeroU32::new(config.dns.queries_per_second_per_pod),
        deny: match config.deny {
            Deny::Drop => kernel::Deny::Drop,
            Deny::Reject => kernel::Deny::Reject,
        },
        log: NonZeroU32::new(config.records.kernel_per_second).map(|per_second| kernel::Log {
            group: config.nflog_group,
            per_second,
            passed: config.records.connections == ConnectionRecords::All,
        }),
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
        let routing = PolicyRouting::new(kernel_config.mark, config.routing_table, config.rule_priority)?;
        let label_bit = kernel_config.label_bit;
        let bridges = Bridges::open(&config.uplinks, config.redirect.into())?;
        let mut node = Node::open(config, &kernel_config, metrics.clone())?;
        let mut kernel = Kernel::open(kernel_config)?;
        node.look(&kernel);
        kernel.set_diverts(node.may_divert());
        routing.install()?;
        for obstacle in routing.obstacles()? {
            tracing::warn!("diverted connections may not arrive: {obstacle}");
        }
        let conntrack = Conntrack::open().map_err(|error| EnforceError::Conntrack(error.into()))?;
        Ok(Self {
            kernel,
            conntrack,
            routing,
            node,
            bridges,
            label_bit,
            tables,
            state,
            metrics,
            learning: None,
            harm: None,
            failures: Failures::default(),
            unsettled: None,
            is_first: true,
        })
    }

    /// What a former process left in the kernel.
    pub fn left(&mut self) -> Result<Left, EnforceError> {
        Ok(self.kernel.left()?)
    }

    /// From now on the kernel's sets are filled with what is remembered of names, and learn what pods are told.
    pub fn learn_names(&mut self, learning: Learning) {
        self.kernel.remember(Arc::clone(&learning.names));
        self.learning = Some(learning);
    }

    /// Works until nobody hands over tables any more. Once a successor has the kernel, nothing is written any more.
    pub async fn run(mut self, mut inputs: Inputs) {
        let mut ports = Ports::new(self.bridges.descriptor(), bridge::TICK);
        let (mut watch, mut look) = (every(WATCH), every(LOOK));
        loop {
            let Inputs { handovers, asked, lessons, inherited, asides } = &mut inputs;
            // Before the first table nobody can say whose it is.
            let inherited = self.kernel.in_force().is_some().then_some(inherited);
            let work = next_work(lessons, self.prolong_at(), inherited, asked, &mut ports);
            // In this order: however many tables come, none of them puts off a look that is due. What pods can make work of comes last, and
            // each table looks at the ports of bridges by itself.
            tokio::select! {
                biased;
                _ = watch.tick() => self.keep_rules(),
                _ = look.tick() => self.look_around(),
                handover = handovers.recv() => match handover {
                    Some(handover) => {
                        self.take_over(handover);
                        inputs.lessons.is_late.store(self.is_first, Ordering::Relaxed);
                    },
                    None => return,
                },
                Some(aside) = asides.recv() => {
                    inputs.lessons.is_late.store(true, Ordering::Relaxed);
                    if let Some(successor) = aside.let_go(self.kernel.stand()).await {
                        return self.stand_aside(&successor, inputs).await;
                    }
                    inputs.lessons.is_late.store(false, Ordering::Relaxed);
                },
                work = work => match work {
                    Work::Learn(taught) => self.learn(taught, &mut inputs.lessons.awaited),
                    Work::Prolong(lesson) => self.prolong(lesson, &mut inputs.lessons.prolonging),
                    Work::Inherit(inherited) => self.inherit(inherited),
                    Work::Count(asks) => drop(asks.send(self.kernel.counts())),
                    Work::LookAtBridges => self.look_at_bridges(),
                },
            }
        }
    }

    fn take_over(&mut self, handover: Handover) {
        let Handover { table, mut extent, epoch, generation, done } = handover;
        // A small change would leave the flows alone that began while there were no rules.
        self.keep_rules();
        if self.harm.is_some() {
            extent = Extent::Whole;
        }
        let number = i64::try_from(generation.0).unwrap_or(i64::MAX);
        self.note_sizes(&table, number);
        self.forget_pods(&table);
        self.tables.send_replace(Arc::clone(&table));
        let started = Instant::now();
        self.kernel.set_stand(Stand { epoch, generation: generation.0 });
        let in_force = self.put_in_force(&table, &extent);
        // What is acknowledged holds on bridges too.
        let kept = in_force.as_ref().ok().map(|_| self.bridges.keep(&table, extent.touched()));
        let _ = done.send(in_force.as_ref().map(|_| ()).map_err(|error| crate::error_chain(error)));
        let unsettled = match in_force {
            Ok(unsettled) => unsettled,
            Err(error) => {
                let error = crate::error_chain(&error);
                self.metrics.kernel_failures.inc();
                tracing::error!(%generation, "the kernel refused the table, the former one stays in force: {error}");
                self.failures.table = Some(error);
                self.show_failures();
                return;
            }
        };
        self.metrics.kernel_generation.set(number);
        // After harm and failed repairs a table is written whole, with the uplinks of now.
        self.harm = None;
        self.failures = Failures::default();
        if let Some(kept) = kept {
            self.note_bridges(kept);
        }
        self.set_foreign_bridges();
        let settled = self.settle(&table, unsettled);
        self.note_flows(settled.as_ref().err());
        let took = started.elapsed();
        tracing::debug!(%generation, ?took, ended = settled.unwrap_or_default(), "table in force");
        if std::mem::take(&mut self.is_first) {
            let ready = if self.node.troubles().is_empty() { "ready" } else { "not ready" };
            tracing::info!(%generation, "{ready}: the first table is in force");
        }
    }

    /// Writes the rules anew if somebody else took them away, and ends the flows that began meanwhile.
    fn keep_rules(&mut self) {
        let error = match self.kernel.harm() {
            Err(error) => Some(format!("look whether the kernel's table is still there: {}", crate::error_chain(&error))),
            Ok(found) => {
                if let (Some(harm), None) = (found, self.harm) {
                    tracing::warn!(
                        "{harm}. Writing it now. `nft flush ruleset` does this, and so does reloading nftables.service"
                    );
                }
                self.harm = found.or(self.harm);
                self.harm.and_then(|harm| {
                    self.failures.rules.get_or_insert_with(|| harm.to_string());
                    self.show_failures();
                    self.restore().err().map(|error| format!("{harm}: {}", crate::error_chain(&error)))
                })
            }
        };
        if let Some(error) = error.as_ref().filter(|error| self.failures.rules.as_ref() != Some(error)) {
            self.metrics.kernel_failures.inc();
            tracing::error!("{error}");
        }
        if self.failures.rules != error {
            self.failures.rules = error;
            self.show_failures();
        }
    }

    fn restore(&mut self) -> Result<(), EnforceError> {
        let Some(table) = self.kernel.in_force().cloned() else { return Ok(()) };
        let started = Instant::now();
        self.kernel.keep_stand();
        // Whoever flushed the ruleset took their tables too.
        self.bridges.restore()?;
        let unsettled = self.put_in_force(&table, &Extent::Whole)?;
        let ended = self.settle(&table, unsettled)?;
        self.harm = None;
        tracing::info!(took = ?started.elapsed(), ended, "the kernel's table is written anew; flows that it forbids are ended");
        Ok(())
    }

    /// Repairs routing, and follows the node's uplinks.
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
        if let (Some(suspects), Some(table)) = (self.unsettled.clone(), self.kernel.in_force().cloned()) {
            self.kernel.keep_stand();
            let settled = self.settle(&table, Unsettled { suspects, ended: 0 });
            self.note_flows(settled.as_ref().err());
        }
        if let Err(error) = self.kernel.end_cutting() {
            tracing::warn!("revoked flows have ended, but are still looked for: {}", crate::error_chain(&error));
        }
        self.failures.uplinks = match self.kernel.refresh_uplinks() {
            Ok(changed) => {
                if changed.is_some() {
                    tracing::info!("the node's uplinks have changed: the kernel's table is written anew");
                }
                None
            }
            Err(error) => {
                let error = format!("follow the node's uplinks: {}", crate::error_chain(&error));
                tracing::error!("{error}");
                Some(error)
            }
        };
        self.tidy_names();
        self.look_at_others();
        self.show_failures();
    }

    /// Looks at what others do on this node, and begins or ceases to divert.
    fn look_at_others(&mut self) {
        self.node.look(&self.kernel);
        let diverts = self.node.may_divert();
        self.kernel.set_diverts(diverts);
        if self.kernel.diverts().is_none_or(|in_force| in_force == diverts) {
            self.failures.diverting = None;
            return;
        }
        let did = if diverts { "diverting" } else { "denying what needs the proxy" };
        self.failures.diverting = match self.restore() {
            Ok(()) => {
                tracing::info!("{did} from now on");
                None
            }
            Err(error) => {
                let error = format!("not yet {did}: {}", crate::error_chain(&error));
                self.metrics.kernel_failures.inc();
                tracing::error!("{error}");
                Some(error)
            }
        };
    }

    /// What was found when flows that began under former rules were looked for.
    fn note_flows(&mut self, error: Option<&EnforceError>) {
        self.failures.flows = error.map(|error| {
            let error = format!("flows that the table in force forbids may go on: {}", crate::error_chain(error));
            self.metrics.kernel_failures.inc();
            tracing::error!("{error}");
            error
        });
        self.show_failures();
    }

    fn look_at_bridges(&mut self) {
        let kept = self.bridges.tick();
        self.note_bridges(kept);
        self.set_foreign_bridges();
    }

    /// How it stands with the pods on bridges.
    fn note_bridges(&mut self, kept: Result<bridge::Standing, bridge::Error>) {
        let standing = self.bridges.standing();
        self.metrics.bridge_ports.set(size(standing.bound));
        self.metrics.bridge_ports_unidentified.set(size(standing.unidentified));
        let error = kept.err().map(|error| format!("pods on bridges may be closed: {}", crate::error_chain(&error)));
        // Until it has been looked again, what failed has failed.
        if self.failures.bridges == error || (error.is_none() && self.bridges.is_due()) {
            return;
        }
        if let Some(error) = &error {
            self.metrics.kernel_failures.inc();
            tracing::error!("{error}");
        }
        self.failures.bridges = error;
        self.show_failures();
    }

    /// What comes in by a bridge that isn't pods' comes from outside.
    fn set_foreign_bridges(&mut self) {
        if !self.kernel.set_foreign_bridges(&self.bridges.foreign()) {
            return;
        }
        if let Err(error) = self.kernel.refresh_uplinks() {
            // Looked at again with the uplinks.
            tracing::error!("leave alone what comes by bridges that aren't pods': {}", crate::error_chain(&error));
        }
    }

    /// Says whether anything is wrong. Before the first table there is nothing to say that it is not.
    fn show_failures(&self) {
        let Failures { table, rules, uplinks, diverting, flows, bridges } = &self.failures;
        let refused = [rules, table, uplinks, bridges, diverting, flows].into_iter().find_map(Option::as_ref);
        let refused = refused.map(|error| Trouble { word: Unready::KernelRefused, detail: error.clone() });
        let troubles: Vec<Trouble> = refused.into_iter().chain(self.node.troubles()).collect();
        let state = match self.kernel.in_force() {
            _ if !troubles.is_empty() => KernelState::Failing(troubles),
            None => KernelState::Waiting,
            Some(_) => self.node.tolerated().map_or(KernelState::InForce, KernelState::InForceBeside),
        };
        self.state.send_if_modified(|shown| {
            let is_new = *shown != state;
            *shown = state;
            is_new
        });
    }

    fn note_sizes(&self, table: &Table, generation: i64) {
        self.metrics.generation.set(generation);
        self.metrics.table_endpoints.set(size(table.endpoints().count()));
        self.metrics.table_programs.set(size(table.program_ids().count()));
        self.metrics.table_sets.set(size(table.set_ids().count()));
    }
}

fn size(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
