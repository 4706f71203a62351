//! Records of what the kernel denies without the proxy.
//!
//! ```text
//! log rules --NFLOG--> packet -> ledger: a record? -> record: the engine says which rule -> records
//! counters ---1 s----> metrics, ledger: how many were left out?
//! ```
//!
//! A thread of its own, because reading counters blocks. It is a witness: nothing waits for it, and if it doesn't listen, or the
//! kernel can't tell it, packets are denied all the same.

mod audit;
mod ledger;
mod metrics;
mod packet;
mod record;

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sluice_policy::{Direction, Table};
use tokio::sync::watch;

use crate::ident::Ids;
use crate::kernel::nflog::{BindError, Report, Reports};
use crate::kernel::tally::Tallies;
use crate::kernel::{self, Budget, NetlinkError, Site, Subject};
use crate::records::RecordSink;
use ledger::{Entry, Ledger};

pub use metrics::DenialMetrics;
pub use packet::Headers;

/// How often the kernel's counters are read.
const ROUND: Duration = Duration::from_secs(1);
/// In which all reports have arrived that were made before it.
const ON_THEIR_WAY: Duration = Duration::from_millis(60);
/// Messages of the kernel that are read in one go, before it is looked whether anything else is due.
const MESSAGES_AT_ONCE: usize = 64;

/// Why there is no witness at all.
#[derive(Debug, thiserror::Error)]
#[error("read the kernel's counters of denials")]
pub struct OpenError(#[from] NetlinkError);

/// What there is to do.
enum Woken {
    End,
    Reports,
    Round,
}

/// Listens to the kernel's reports, and writes records.
#[derive(Debug)]
pub struct Witness {
    config: Option<kernel::Log>,
    /// `None`: rules report nothing.
    reports: Option<Reports>,
    is_listening: bool,
    tallies: Tallies,
    totals: BTreeMap<Site, u64>,
    ledger: Ledger,
    ids: Ids,
    node: Arc<str>,
    tables: watch::Receiver<Arc<Table>>,
    sink: RecordSink,
    metrics: DenialMetrics,
    /// The counters could not be read, and that was said.
    is_blind: bool,
}

impl Witness {
    /// Begins to listen in the calling thread's network namespace. To be done before the rules are written.
    /// Without `config` it only counts. And why no reports arrive, if they don't: it tries again, unless the kernel has none.
    pub fn open(
        config: Option<kernel::Log>,
        node: &str,
        tables: watch::Receiver<Arc<Table>>,
        sink: RecordSink,
        metrics: DenialMetrics,
    ) -> Result<(Self, Option<BindError>), OpenError> {
        let mut tallies = Tallies::open()?;
        let (mut ledger, now) = (Ledger::default(), Instant::now());
        for budget in Budget::ALL {
            ledger.begin(budget, &tallies.of(budget)?, now);
        }
        let mut witness = Self {
            config,
            reports: None,
            is_listening: false,
            tallies,
            totals: BTreeMap::new(),
            ledger,
            ids: Ids::default(),
            node: node.into(),
            tables,
            sink,
            metrics,
            is_blind: false,
        };
        let Some(kernel::Log { group, .. }) = config else { return Ok((witness, None)) };
        let deaf = Reports::open(group).and_then(|reports| witness.reports.insert(reports).listen()).err();
        match deaf {
            None => witness.begin_listening(),
            Some(BindError::Unsupported) => (witness.config, witness.reports) = (None, None),
            Some(_) => {}
        }
        Ok((witness, deaf))
    }

    /// Whether rules may report: they can't be written where the kernel has no NFLOG.
    pub fn is_of_use(&self) -> bool {
        self.config.is_some()
    }

    /// Works until the other end of `end` is dropped, and then writes what is still to be said.
    pub fn run(mut self, end: &UnixStream) {
        let mut next_round = Instant::now();
        loop {
            match self.wait(end, next_round) {
                Woken::End => break,
                Woken::Reports => self.take_all(),
                Woken::Round => {
                    self.round();
                    next_round = Instant::now() + ROUND;
                }
            }
        }
        self.round();
        std::thread::sleep(ON_THEIR_WAY);
        self.take_all();
        self.ledger.settle();
        self.write_due(true);
    }

    fn wait(&self, end: &UnixStream, next_round: Instant) -> Woken {
        let left = next_round.saturating_duration_since(Instant::now());
        let Some(left_ms) = u16::try_from(left.as_millis()).ok().filter(|_| !left.is_zero()) else { return Woken::Round };
        let mut sources = vec![PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        sources.extend(self.reports.as_ref().map(|reports| PollFd::new(reports.as_fd(), PollFlags::POLLIN)));
        // A time below a millisecond is not worth a wait of its own, nor worth turning round without one.
        if poll(&mut sources, PollTimeout::from(left_ms.max(1))).is_err() {
            // Interrupted. Other errors would come at once and again.
            std::thread::sleep(Duration::from_millis(1));
        }
        let is_ready = |source: &PollFd<'_>| source.any().unwrap_or_default();
        match sources.as_slice() {
            [end, ..] if is_ready(end) => Woken::End,
            [_, reports] if is_ready(reports) => Woken::Reports,
            _ if Instant::now() >= next_round => Woken::Round,
            _ => Woken::Reports,
        }
    }

    fn begin_listening(&mut self) {
        self.is_listening = true;
        self.metrics.listening.set(1);
    }

    /// What is due once a second.
    fn round(&mut self) {
        // Whoever had the group may have ended: at a planned restart, our predecessor.
        if !self.is_listening && self.reports.as_mut().is_some_and(|reports| reports.listen().is_ok()) {
            tracing::info!("what the kernel denies gets records now");
            self.begin_listening();
        }
        self.take_all();
        self.ledger.settle();
        let read = self.read_counters();
        if let Err(error) = &read {
            self.metrics.unread.inc();
            if !self.is_blind {
                tracing::warn!("read the kernel's counters of denials: {}", crate::error_chain(error));
            }
        }
        self.is_blind = read.is_err();
        self.write_due(false);
        self.ledger.forget(Instant::now());
    }

    /// Whose packets they were is only asked where there were any.
    fn read_counters(&mut self) -> Result<(), NetlinkError> {
        let totals = self.tallies.totals()?;
        let moved = |(site, total): &&(Site, u64)| self.totals.get(site) != Some(total);
        let mut budgets: Vec<Budget> = totals.iter().filter(moved).map(|(site, _)| site.budget()).collect();
        budgets.sort_unstable();
        budgets.dedup();
        if self.config.is_some_and(|config| config.passed) {
            budgets.extend(Budget::ALL.iter().filter(|budget| matches!(budget, Budget::Passed(_))));
        }
        if self.tables.borrow().has_audit() {
            budgets.extend(Budget::AUDITED);
        }
        for budget in budgets {
            let tallies = self.tallies.of(budget)?;
            self.ledger.read(budget, &tallies, Instant::now());
        }
        // Only now: what could not be read is asked for again.
        self.metrics.count(&totals, &self.totals);
        self.totals = totals.into_iter().collect();
        Ok(())
    }

    fn take_all(&mut self) {
        // More than the kernel can hold for us; what comes meanwhile is a matter of the next round.
        for _ in 0..MESSAGES_AT_ONCE {
            if !self.take(MESSAGES_AT_ONCE) {
                return;
            }
        }
    }

    /// Reads at most so many messages; `false`: none is left.
    fn take(&mut self, most: usize) -> bool {
        let Some(reports) = &mut self.reports else { return false };
        let mut entries = Vec::new();
        let mut is_more = true;
        for _ in 0..most {
            let now = Instant::now();
            let ledger = &mut self.ledger;
            match reports.take_waiting(|report| entries.extend(enter(ledger, report, now))) {
                Ok(true) => {}
                Ok(false) => {
                    is_more = false;
                    break;
                }
                // Some were lost (ENOBUFS), and reading goes on with the next.
                Err(error) => {
                    self.metrics.overruns.inc();
                    tracing::debug!("reports of the kernel are lost: {}", crate::error_chain(&error));
                }
            }
        }
        entries.into_iter().for_each(|entry| self.write(&entry));
        is_more
    }

    fn write_due(&mut self, is_end: bool) {
        for entry in self.ledger.due(Instant::now(), is_end) {
            self.write(&entry);
        }
    }

    fn write(&self, entry: &Entry) {
        let table = Arc::clone(&self.tables.borrow());
        let id = self.ids.next();
        let audit = audit::record(entry, id, &self.node, &table);
        if matches!(entry.site, Site::Audited(_)) {
            self.metrics.audit.left_out.inc_by(entry.left_out + u64::from(audit::is_left_out(entry, &table)));
        } else {
            self.metrics.left_out.inc_by(entry.left_out);
            self.sink.write(record::record(entry, id, &self.node, &table));
        }
        if let Some(record) = audit {
            self.metrics.audit.found(&record);
            self.sink.write(record);
        }
    }
}

/// Reads the packet's headers; what has none is counted with what was left out.
fn enter(ledger: &mut Ledger, report: Report<'_>, now: Instant) -> Option<Entry> {
    let headers = Headers::read(report.packet)?;
    let subject = match report.site.budget() {
        Budget::Interface => Subject::Interface(report.interface),
        Budget::Pod(direction) | Budget::Passed(direction) | Budget::Audited(direction) => Subject::Address(match direction {
            Direction::Egress => headers.source.ip(),
            Direction::Ingress => headers.destination.ip(),
        }),
    };
    ledger.report(subject, report.site, headers, now)
}
