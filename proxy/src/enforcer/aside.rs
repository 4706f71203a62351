//! The thread's last part: a successor has the kernel, and this process only follows.
//!
//! Connections that are under way are judged by each new table, but it counts as in force when the *successor* has put it in force. What
//! is learned is told to the successor.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Enforcer, Inputs, Taught};
use crate::feed::Handover;
use crate::kernel::{Left, Stand};
use crate::names::Late;
use crate::restart::Channel;

/// How often is looked which table the successor has put in force.
const LOOK: Duration = Duration::from_millis(100);

/// A successor that is ready, and who must agree.
#[derive(Debug)]
pub struct Aside {
    pub successor: Channel,
    /// Told which table is in force. From then on nothing changes in the kernel, until `go` says so or is dropped.
    pub stopped: oneshot::Sender<Option<Stand>>,
    pub go: oneshot::Receiver<()>,
    /// Told that the kernel is the successor's. Dropped: it isn't, and everything goes on as before.
    pub released: oneshot::Sender<()>,
}

impl Aside {
    /// The successor, if the kernel is its own now.
    pub(super) async fn let_go(self, stand: Option<Stand>) -> Option<Channel> {
        let Self { successor, stopped, go, released } = self;
        stopped.send(stand).ok()?;
        go.await.ok()?;
        match successor.release() {
            Ok(()) => released.send(()).ok().map(|()| successor),
            Err(error) => {
                tracing::warn!(error = crate::error_chain(&error), "a process wanted to take over, and doesn't");
                None
            }
        }
    }
}

impl Enforcer {
    /// Works until nobody hands over tables any more.
    pub(super) async fn stand_aside(mut self, successor: &Channel, mut inputs: Inputs) {
        let mut unconfirmed: Option<(Stand, oneshot::Sender<Result<(), String>>)> = None;
        let mut look = super::every(LOOK);
        loop {
            tokio::select! {
                biased;
                handover = inputs.handovers.recv() => {
                    let Some(Handover { table, epoch, generation, done, .. }) = handover else { return };
                    self.tables.send_replace(Arc::clone(&table));
                    unconfirmed = Some((Stand { epoch, generation: generation.0 }, done));
                }
                Some(taught) = inputs.lessons.awaited.recv() => self.pass_on(taught, successor),
                _ = look.tick(), if unconfirmed.is_some() => {
                    let left = self.kernel.left();
                    let is_there = |stand: Stand| matches!(left, Ok(Left::Rules(Some(found))) if stand.is_no_newer_than(found));
                    if let Some((_, done)) = unconfirmed.take_if(|(stand, _)| is_there(*stand)) {
                        let _ = done.send(Ok(()));
                    }
                }
            }
        }
    }

    /// Blocks until the successor has it.
    fn pass_on(&self, taught: Taught, successor: &Channel) {
        let table = Arc::clone(&self.tables.borrow());
        let learned = match table.endpoint(taught.lesson.pod) {
            Some(endpoint) => successor.teach(Late::new(&taught.lesson, &endpoint.pod)),
            None => Err("the pod that asked is gone".to_owned()),
        };
        // Who doesn't wait any more has answered SERVFAIL.
        let _ = taught.done.send(learned);
    }
}
