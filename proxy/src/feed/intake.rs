//! Applies updates to the table, and hands the newest to the kernel.

use std::sync::Arc;
use std::time::Duration;

use sluice_feed::parts::Update;
use sluice_policy::Table;
use sluice_policy::snapshot::{Change, Generation};
use sluice_policy::table::Touched;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::{Extent, FeedMetrics, Handover, Held, Timing};

/// What the link brings.
#[derive(Debug)]
pub(super) enum Arrival {
    /// A session began with this run of the controller; answers go to `answers` until the next `Session`.
    Session {
        node: Arc<str>,
        epoch: u64,
        /// What the node said it holds, if that is the newest there is.
        current: Stand,
        answers: mpsc::Sender<Answer>,
    },
    Update(Box<Update>),
    /// An update arrived that could not be read.
    Unreadable {
        generation: Generation,
        reason: String,
    },
}

/// What the controller is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Ack(Generation),
    Nack { generation: Generation, reason: String },
}

/// Which state of which run of the controller.
pub(super) type Stand = Option<(u64, Generation)>;

/// The table as received, and how far the kernel is behind it.
#[derive(Debug)]
struct Intake {
    /// What each snapshot begins from.
    nothing: Table,
    table: Arc<Table>,
    stand: Stand,
    /// What has changed since the last hand-over; `None`: nothing.
    due: Option<Extent>,
    /// Deltas are of no use before the next snapshot.
    wants_snapshot: bool,
}

/// A table on its way to the kernel.
struct Applying {
    table: Arc<Table>,
    stand: (u64, Generation),
    result: oneshot::Receiver<Result<(), String>>,
}

/// Runs until the link or the applier is gone.
pub(super) async fn run(
    timing: Timing,
    (nothing, restored): (Table, Option<Held>),
    mut arrivals: mpsc::Receiver<Arrival>,
    stand: watch::Sender<Stand>,
    tables: mpsc::Sender<Handover>,
    held: watch::Sender<Option<Held>>,
    metrics: FeedMetrics,
) {
    let mut intake = Intake::new(nothing, restored);
    let mut node: Arc<str> = Arc::from("");
    let mut session_epoch = None;
    let mut answers: Option<mpsc::Sender<Answer>> = None;
    let mut applying: Option<Applying> = None;
    let mut retry = Retry { after: timing.first_backoff, at: Instant::now() };
    loop {
        let ready = intake.due.is_some() && applying.is_none() && intake.stand.is_some();
        tokio::select! {
            arrival = arrivals.recv() => {
                let Some(arrival) = arrival else { return };
                let refused = match arrival {
                    Arrival::Session { node: name, epoch, current, answers: to } => {
                        node = name;
                        session_epoch = Some(epoch);
                        answers = Some(to);
                        intake.wants_snapshot = false;
                        // The kernel may have taken it while nobody was there to be told.
                        let in_force = held.borrow().as_ref().map(|held| (held.epoch, held.generation));
                        if let Some((_, generation)) = in_force.filter(|_| in_force == current) {
                            answer(&mut answers, Answer::Ack(generation));
                        }
                        None
                    }
                    Arrival::Update(update) => {
                        metrics.updates.inc();
                        let generation = update.heading.generation;
                        intake.take(&node, &update).err().map(|reason| (generation, reason))
                    }
                    Arrival::Unreadable { generation, reason } => intake.refuse(reason).err().map(|reason| (generation, reason)),
                };
                stand.send_replace(intake.stand);
                if let Some((generation, reason)) = refused {
                    metrics.refusals.inc();
                    tracing::warn!(%generation, reason, "update refused; what is in force stays");
                    answer(&mut answers, Answer::Nack { generation, reason });
                }
            }
            permit = async { tokio::time::sleep_until(retry.at).await; tables.reserve().await }, if ready => {
                let Ok(permit) = permit else { return };
                let (Some(extent), Some(stand)) = (intake.due.take(), intake.stand) else { continue };
                let (done, result) = oneshot::channel();
                permit.send(Handover { table: intake.table.clone(), extent, epoch: stand.0, generation: stand.1, done });
                applying = Some(Applying { table: intake.table.clone(), stand, result });
            }
            (applied, result) = finished(&mut applying) => {
                let (epoch, generation) = applied.stand;
                // Another run of the controller counts from 1 again: this generation would mean nothing, or something else.
                let of_this_epoch = session_epoch == Some(epoch);
                match result {
                    Ok(()) => {
                        retry = Retry { after: timing.first_backoff, at: Instant::now() };
                        metrics.generation.set(i64::try_from(generation.0).unwrap_or(i64::MAX));
                        held.send_replace(Some(Held { table: applied.table, epoch, generation }));
                        if of_this_epoch {
                            answer(&mut answers, Answer::Ack(generation));
                        }
                    }
                    Err(reason) => {
                        metrics.refusals.inc();
                        tracing::error!(%generation, reason, "the kernel refused the table; what it held stays in force");
                        // What this hand-over touched is lost, so the next one says all.
                        intake.due = Some(Extent::Whole);
                        retry.postpone(timing.longest_backoff);
                        if of_this_epoch && !intake.wants_snapshot {
                            answer(&mut answers, Answer::Nack { generation, reason });
                        }
                    }
                }
            }
        }
    }
}

/// Waits for the applier; forever if it has nothing to do.
async fn finished(applying: &mut Option<Applying>) -> (Applying, Result<(), String>) {
    let Some(current) = applying else { return std::future::pending().await };
    let result = (&mut current.result).await.unwrap_or_else(|_| Err("the applier gave no answer".to_owned()));
    match applying.take() {
        Some(applied) => (applied, result),
        None => std::future::pending().await,
    }
}

/// The session's queue is far longer than a sound controller leaves it; if it is full all the same, or gone, the session is over.
fn answer(answers: &mut Option<mpsc::Sender<Answer>>, answer: Answer) {
    if answers.as_ref().is_some_and(|to| to.try_send(answer).is_err()) {
        *answers = None;
    }
}

struct Retry {
    after: Duration,
    at: Instant,
}

impl Retry {
    fn postpone(&mut self, longest: Duration) {
        self.at = Instant::now() + self.after;
        self.after = (self.after * 2).min(longest);
    }
}

impl Intake {
    fn new(nothing: Table, restored: Option<Held>) -> Self {
        match restored {
            Some(held) => Self {
                nothing,
                table: held.table,
                stand: Some((held.epoch, held.generation)),
                due: Some(Extent::Whole),
                wants_snapshot: false,
            },
            None => Self { table: Arc::new(nothing.clone()), nothing, stand: None, due: None, wants_snapshot: false },
        }
    }

    /// Applies an update, or says why not. A delta that comes while a snapshot is awaited is passed over in silence.
    fn take(&mut self, node: &str, update: &Update) -> Result<(), String> {
        let heading = update.heading;
        // Another node's facts would let that node's address into our pods.
        if let Some(other) = update.changes.iter().find_map(|change| other_node(change, node)) {
            return self.refuse(format!("the update is for the node {other:?}, not for {node:?}"));
        }
        let Some(base) = heading.base else {
            let (table, _) = match self.nothing.apply(&update.changes) {
                Ok(applied) => applied,
                Err(error) => return self.refuse(format!("the snapshot contradicts itself: {error}")),
            };
            if !table.is_loaded() || *table.node().name != *node {
                return self.refuse("the snapshot doesn't say which node it is for".to_owned());
            }
            self.table = Arc::new(table);
            self.stand = Some((heading.epoch, heading.generation));
            self.due = Some(Extent::Whole);
            self.wants_snapshot = false;
            return Ok(());
        };
        if self.wants_snapshot {
            return Ok(());
        }
        if self.stand != Some((heading.epoch, base)) {
            return self.refuse(format!("the delta leads on from generation {base}, which this node doesn't hold"));
        }
        let (table, touched) = match self.table.apply(&update.changes) {
            Ok(applied) => applied,
            Err(error) => return self.refuse(error.to_string()),
        };
        self.table = Arc::new(table);
        self.stand = Some((heading.epoch, heading.generation));
        self.due = Some(match self.due.take() {
            None => Extent::Touched(touched),
            Some(Extent::Whole) => Extent::Whole,
            Some(Extent::Touched(before)) => Extent::Touched(union(before, touched)),
        });
        Ok(())
    }

    /// From here on only a snapshot helps. `Err` the first time, `Ok` while one is awaited already.
    fn refuse(&mut self, reason: String) -> Result<(), String> {
        self.wants_snapshot = true;
        Err(reason)
    }
}

fn other_node<'a>(change: &'a Change, node: &str) -> Option<&'a str> {
    match change {
        Change::PutNode(facts) if *facts.name != *node => Some(&facts.name),
        _ => None,
    }
}

fn union(mut all: Touched, more: Touched) -> Touched {
    let Touched { node, endpoints, appeared, identities, sets, programs, audited } = more;
    // What the first list already touched was there before both, or is counted already.
    all.appeared.extend(appeared.difference(&all.endpoints).copied().collect::<Vec<_>>());
    all.node |= node;
    all.endpoints.extend(endpoints);
    all.identities.extend(identities);
    all.sets.extend(sets);
    all.programs.extend(programs);
    all.audited.extend(audited);
    all
}
