//! What the kernel's thread is told and asked.

use std::os::fd::OwnedFd;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant as Tick, Interval, MissedTickBehavior};

use super::{Aside, Learner, Lessons, Taught};
use crate::feed::Handover;
use crate::kernel::{self, Count};
use crate::names::Lesson;
use crate::restart::Inherited;

/// A question: what have the rules counted? Answered between two tables.
pub type AskCounts = oneshot::Sender<Result<Vec<Count>, kernel::Error>>;

/// What the kernel's thread is told and asked.
#[derive(Debug)]
pub struct Inputs {
    pub handovers: mpsc::Receiver<Handover>,
    pub asked: mpsc::Receiver<AskCounts>,
    pub lessons: Lessons,
    /// What a predecessor learned late.
    pub inherited: mpsc::Receiver<Inherited>,
    /// Successors that are ready.
    pub asides: mpsc::Receiver<Aside>,
}

impl Inputs {
    /// Tables, and nothing else.
    pub fn tables(handovers: mpsc::Receiver<Handover>) -> Self {
        Self {
            handovers,
            asked: mpsc::channel(1).1,
            lessons: Learner::new().1,
            inherited: mpsc::channel(1).1,
            asides: mpsc::channel(1).1,
        }
    }
}

/// What pods can make work of.
pub(super) enum Work {
    Learn(Taught),
    Prolong(Lesson),
    Inherit(Inherited),
    Count(AskCounts),
    LookAtBridges,
}

/// Ports of bridges, and when they change.
pub(super) struct Ports {
    changes: std::io::Result<AsyncFd<OwnedFd>>,
    ticks: Interval,
}

impl Ports {
    pub(super) fn new(descriptor: std::io::Result<OwnedFd>, tick: Duration) -> Self {
        let changes = descriptor.and_then(readable);
        if let Err(error) = &changes {
            tracing::warn!(%error, "ports of bridges are looked at every {tick:?} only");
        }
        Self { changes, ticks: every(tick) }
    }
}

/// What is to be done next of all this. Of several things any one: however much pods make of one, it doesn't keep the others waiting.
pub(super) async fn next_work(
    lessons: &mut Lessons,
    prolong_at: Option<Tick>,
    inherited: Option<&mut mpsc::Receiver<Inherited>>,
    asked: &mut mpsc::Receiver<AskCounts>,
    ports: &mut Ports,
) -> Work {
    let inherited = async { inherited?.recv().await };
    tokio::select! {
        Some(taught) = lessons.awaited.recv() => Work::Learn(taught),
        Some(lesson) = at(prolong_at, lessons.prolonging.recv()) => Work::Prolong(lesson),
        Some(inherited) = inherited => Work::Inherit(inherited),
        Some(asks) = asked.recv() => Work::Count(asks),
        () = changed(ports.changes.as_ref().ok()) => Work::LookAtBridges,
        _ = ports.ticks.tick() => Work::LookAtBridges,
    }
}

#[expect(
    deprecated,
    reason = "unsound for types whose descriptor may change or close: an OwnedFd's doesn't, and what replaces it is unsafe"
)]
fn readable(fd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

/// Once an interface has changed, or a filter of one.
async fn changed(changes: Option<&AsyncFd<OwnedFd>>) {
    match changes {
        // Whoever is told reads to the end.
        Some(changes) => match changes.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

/// Ticks from one period on; a tick that is late moves those after it.
pub(super) fn every(period: Duration) -> Interval {
    let mut ticks = tokio::time::interval_at(Tick::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// What `next` yields, but not before then. `None`: at once.
async fn at<T>(then: Option<Tick>, next: impl Future<Output = T>) -> T {
    if let Some(then) = then.filter(|then| *then > Tick::now()) {
        tokio::time::sleep_until(then).await;
    }
    next.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{Limits, Moment, Names, NamesMetrics};

    #[tokio::test]
    async fn lessons_without_end_keep_nobody_waiting() {
        let names = Names::new(Limits::default(), NamesMetrics::default());
        let lesson = names.learn_one([10, 0, 0, 1].into(), "a", [192, 0, 2, 1].into(), 60, Moment::now());
        let (learner, mut lessons) = Learner::new();
        for _ in 0..1000 {
            let (learner, lesson) = (learner.clone(), lesson.clone());
            tokio::spawn(async move { learner.learn(vec![lesson]).await });
        }
        let (questions, mut asked) = mpsc::channel(1);
        let (question, _answer) = oneshot::channel();
        questions.send(question).await.unwrap();
        let mut ports = Ports::new(Err(std::io::ErrorKind::Unsupported.into()), Duration::from_secs(60));
        for _ in 0..1000 {
            tokio::task::yield_now().await;
            match next_work(&mut lessons, None, None, &mut asked, &mut ports).await {
                Work::Count(_) => return,
                Work::Learn(_) => {}
                Work::Prolong(_) | Work::Inherit(_) | Work::LookAtBridges => unreachable!(),
            }
        }
        panic!("a question waits as long as there are lessons");
    }
}
