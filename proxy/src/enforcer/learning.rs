//! Names on their way into the kernel: many look-ups, few transactions.
//!
//! ```text
//! look-up -> Learner::learn   -> queue -> one transaction of all that wait -> journal -> confirmed -> the answer goes to the pod
//!         -> Learner::prolong -> queue -> the same, twenty times a second  -> journal -> confirmed
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sluice_policy::Table;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant as Tick;

use super::Enforcer;
use crate::names::{Journal, Late, Lesson, Moment, Names};
use crate::restart::Inherited;

/// Lessons that wait for the kernel; who comes then waits for a place.
const QUEUE: usize = 4096;
/// Lessons in one transaction: it is the latency of those that come meanwhile.
const TOGETHER: usize = 512;
/// Where a transaction follows the one before so soon, the thread sleeps for [`PACE`] when it is done: those that come meanwhile go together,
/// and none of them wakes it, which costs more than all else of a look-up. One that comes alone waits for nothing.
const BUSY: Duration = Duration::from_millis(5);
const PACE: Duration = Duration::from_millis(1);
/// How often what nobody waits for is told, much sooner than a look-up would have to wait for it.
const PROLONG_PACE: Duration = Duration::from_millis(50);
/// How long what has expired is remembered, for flows that began by it and go on.
const REMEMBERED: Duration = Duration::from_secs(3600);

/// How often all that is remembered is looked through.
const TIDY: Duration = Duration::from_secs(60);

/// What was learned and where it is written down.
#[derive(Debug)]
pub struct Learning {
    pub names: Arc<Names>,
    journal: Journal,
    /// The table that a former process wrote down, which says whose the remembered names are. It may be older than what that process
    /// had in force at last.
    former: Option<Arc<Table>>,
    tidied: Instant,
    /// When the last transaction of lessons ended.
    told: Option<Instant>,
    /// When what nobody waits for is told next, if there is any.
    prolong_at: Tick,
}

impl Learning {
    pub fn new(names: Arc<Names>, journal: Journal, former: Option<Arc<Table>>) -> Self {
        Self { names, journal, former, tidied: Instant::now(), told: None, prolong_at: Tick::now() }
    }
}

/// A lesson, and who waits for the kernel to hold it.
#[derive(Debug)]
pub struct Taught {
    pub(super) lesson: Lesson,
    pub(super) done: oneshot::Sender<Result<(), String>>,
}

/// Hands lessons to the kernel's thread.
#[derive(Clone, Debug)]
pub struct Learner {
    awaited: mpsc::Sender<Taught>,
    prolonging: mpsc::Sender<Lesson>,
    is_late: Arc<AtomicBool>,
}

/// Where the kernel's thread gets them.
#[derive(Debug)]
pub struct Lessons {
    pub(super) awaited: mpsc::Receiver<Taught>,
    /// What nobody waits for.
    pub(super) prolonging: mpsc::Receiver<Lesson>,
    /// They wait for long: the first table is still to come, or a successor is about to have the kernel, or has it.
    pub(super) is_late: Arc<AtomicBool>,
}

impl Learner {
    pub fn new() -> (Self, Lessons) {
        let ((awaited, to_answer), (prolonging, to_prolong)) = (mpsc::channel(QUEUE), mpsc::channel(QUEUE));
        let is_late = Arc::new(AtomicBool::new(true));
        let lessons = Lessons { awaited: to_answer, prolonging: to_prolong, is_late: Arc::clone(&is_late) };
        (Self { awaited, prolonging, is_late }, lessons)
    }

    /// Whether lessons wait for the first table, or for another process, which is about to have the kernel.
    pub fn is_late(&self) -> bool {
        self.is_late.load(Ordering::Relaxed)
    }

    /// Soon the kernel holds it, and it is written down. Without room it isn't, nor if the kernel refuses: the next answer waits for it then.
    pub fn prolong(&self, lesson: Lesson) {
        let _ = self.prolonging.try_send(lesson);
    }

    /// Ok: the kernel holds all of them, and they are written down.
    pub async fn learn(&self, lessons: Vec<Lesson>) -> Result<(), String> {
        let ended = || "the kernel's thread has ended".to_owned();
        let mut acks = Vec::with_capacity(lessons.len());
        for lesson in lessons {
            let (done, ack) = oneshot::channel();
            self.awaited.send(Taught { lesson, done }).await.map_err(|_| ended())?;
            acks.push(ack);
        }
        for ack in acks {
            ack.await.map_err(|_| ended())??;
        }
        Ok(())
    }
}

/// Without what nobody waits for any more: the pod was told SERVFAIL, so the addresses stay closed until it asks again, and a kernel that
/// is behind catches up. What gave way to them has lost its place all the same.
fn still_awaited(mut taught: Taught) -> Option<Taught> {
    if taught.done.is_closed() {
        taught.lesson.addresses.clear();
    }
    (!taught.lesson.is_empty() || !taught.lesson.displaced.is_empty()).then_some(taught)
}

/// What waits, as far as it goes into one transaction.
fn together<T>(first: T, others: &mut mpsc::Receiver<T>) -> Vec<T> {
    let others = std::iter::from_fn(|| others.try_recv().ok());
    [first].into_iter().chain(others).take(TOGETHER).collect()
}

impl Enforcer {
    /// Puts a lesson, and all that wait behind it, into the kernel.
    pub(super) fn learn(&mut self, first: Taught, others: &mut mpsc::Receiver<Taught>) {
        let is_busy = self.learning.as_ref().and_then(|learning| learning.told).is_some_and(|told| told.elapsed() < BUSY);
        let taught = together(first, others);
        let is_forgotten = |taught: &Taught| self.learning.as_ref().is_some_and(|l| l.names.is_forgotten(&taught.lesson));
        let (late, taught): (Vec<Taught>, Vec<Taught>) = taught.into_iter().partition(is_forgotten);
        for Taught { done, .. } in late {
            let _ = done.send(Err("the pod that asked is gone".to_owned()));
        }
        let taught = taught.into_iter().filter_map(still_awaited);
        let (mut lessons, waiting): (Vec<Lesson>, Vec<_>) = taught.map(|taught| (taught.lesson, taught.done)).unzip();
        if let Some(Learning { names, .. }) = &self.learning {
            for lesson in &mut lessons {
                names.catch_up(lesson);
            }
        }
        let learned = self.tell(&lessons);
        if let Some(learning) = &mut self.learning {
            learning.told = Some(Instant::now());
        }
        for (done, learned) in waiting.into_iter().zip(learned) {
            // Who doesn't wait any more has answered SERVFAIL by now.
            let _ = done.send(learned);
        }
        if is_busy {
            std::thread::sleep(PACE);
        }
    }

    /// Puts lessons that nobody waits for into the kernel. One that it refuses is told again by the next look-up, which waits for it.
    pub(super) fn prolong(&mut self, first: Lesson, others: &mut mpsc::Receiver<Lesson>) {
        let mut lessons = together(first, others);
        let Some(learning) = &mut self.learning else { return };
        let is_all = lessons.len() < TOGETHER;
        learning.prolong_at = Tick::now() + if is_all { PROLONG_PACE } else { Duration::ZERO };
        lessons.retain_mut(|lesson| learning.names.catch_up(lesson));
        for error in self.tell(&lessons).into_iter().filter_map(Result::err) {
            tracing::debug!("addresses that a pod was told are not prolonged: {error}");
        }
    }

    /// When [`Self::prolong`] may be called next.
    pub(super) fn prolong_at(&self) -> Option<Tick> {
        self.learning.as_ref().map(|learning| learning.prolong_at)
    }

    /// Tells the kernel, and writes down and confirms what it holds by that.
    fn tell(&mut self, lessons: &[Lesson]) -> Vec<Result<(), String>> {
        let learned = match self.kernel.learn(lessons) {
            Err(_) if lessons.len() > 1 => lessons.iter().map(|lesson| self.learn_alone(lesson)).collect(),
            learned => vec![learned.map_err(|error| crate::error_chain(&error)); lessons.len()],
        };
        let told = lessons.iter().zip(&learned).filter(|(lesson, learned)| learned.is_ok() && !lesson.is_empty());
        self.note_learned(told.map(|(lesson, _)| lesson));
        learned
    }

    /// Learns what a predecessor was told when it had let go of the kernel.
    pub(super) fn inherit(&mut self, inherited: Inherited) {
        let Inherited { late, done } = inherited;
        let learned = self.learn_late(&late);
        // It may have ended meanwhile.
        let _ = done.send(learned);
    }

    fn learn_late(&mut self, late: &Late) -> Result<(), String> {
        let endpoint = self.kernel.in_force().and_then(|table| table.endpoint(late.pod));
        let is_its = endpoint.is_some_and(|endpoint| endpoint.local && late.is_of(&endpoint.pod));
        let (Some(Learning { names, .. }), true) = (&self.learning, is_its) else {
            return Err("the pod that asked is gone".to_owned());
        };
        let now = Moment::now();
        names.restore(&late.entries(), now);
        let mut lesson = names.of_pod(late.pod, now);
        lesson.addresses.retain(|learned| late.addresses().any(|address| address == learned.address));
        self.learn_alone(&lesson)?;
        self.note_learned(std::iter::once(&lesson));
        Ok(())
    }

    /// One lesson that the kernel refuses must not take others with it.
    fn learn_alone(&mut self, lesson: &Lesson) -> Result<(), String> {
        self.kernel.learn(std::slice::from_ref(lesson)).map_err(|error| crate::error_chain(&error))
    }

    fn note_learned<'a>(&self, lessons: impl Iterator<Item = &'a Lesson>) {
        let Some(Learning { names, journal, .. }) = &self.learning else { return };
        let lessons: Vec<&Lesson> = lessons.collect();
        // Counted and said there; the answers hold all the same, until this process is killed.
        let _ = journal.append_all(&lessons);
        for lesson in lessons {
            names.confirm(lesson);
        }
    }

    /// Before `table` comes into force: what pods were told that are gone by it, or others now, counts for nothing. Nor, before the first
    /// table, does what nobody can say whose it is.
    pub(super) fn forget_pods(&mut self, table: &Table) {
        let Some(Learning { names, journal, former, .. }) = &self.learning else { return };
        let in_force = self.kernel.in_force();
        let before = in_force.or(former.as_deref());
        let is_same = |ip: &IpAddr| match (before.and_then(|before| before.endpoint(*ip)), table.endpoint(*ip)) {
            (Some(old), Some(new)) => new.local && old.pod == new.pod,
            // Unknown to the table in force, and so without anything that was told.
            (None, Some(new)) => new.local && in_force.is_some(),
            (_, None) => false,
        };
        let gone: Vec<IpAddr> = names.pods().into_iter().filter(|ip| !is_same(ip)).collect();
        for ip in &gone {
            // As above.
            let _ = journal.forget(names.forget(*ip, Moment::now()));
        }
        if let Err(error) = self.kernel.forget(&gone) {
            tracing::warn!(
                "addresses that pods were told, which are gone, stay open until their time: {}",
                crate::error_chain(&error)
            );
        }
    }

    /// Now and then.
    pub(super) fn tidy_names(&mut self) {
        let Some(Learning { names, journal, tidied, .. }) = self.learning.as_mut().filter(|it| it.tidied.elapsed() >= TIDY)
        else {
            return;
        };
        *tidied = Instant::now();
        let now = Moment::now();
        names.sweep(now.before(REMEMBERED));
        if let Err(error) = journal.compact_if_due(now) {
            tracing::warn!("the journal of names can't be written anew: {}", crate::error_chain(&error));
        }
    }
}
