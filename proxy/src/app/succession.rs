//! How this process lets a successor take over, and what it keeps until then.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::enforcer::Aside;
use crate::feed::Held;
use crate::kernel::Stand;
use crate::restart::{self, Channel, Sockets};
use crate::state;

/// How long the table that the kernel holds may take to be the one that is written down.
const SAVED: Duration = Duration::from_secs(2);

/// Who writes tables down, and stops for a successor.
#[derive(Debug)]
pub(super) struct Keeper {
    dir: PathBuf,
    node: Arc<str>,
    held: watch::Receiver<Option<Held>>,
    running: Option<(CancellationToken, JoinHandle<()>)>,
}

impl Keeper {
    pub(super) fn start(dir: PathBuf, node: Arc<str>, held: watch::Receiver<Option<Held>>) -> Self {
        let mut keeper = Self { dir, node, held, running: None };
        keeper.go_on();
        keeper
    }

    fn go_on(&mut self) {
        let cancel = CancellationToken::new();
        let work = state::keep(self.dir.clone(), Arc::clone(&self.node), self.held.clone(), cancel.clone());
        self.running = Some((cancel, tokio::spawn(work)));
    }

    /// When this returns, what is held is written down, if it can be, and nothing is written any more.
    async fn stop(&mut self) {
        if let Some((cancel, task)) = self.running.take() {
            cancel.cancel();
            let _ = task.await;
        }
    }

    /// Waits until the feed knows that the kernel holds this table.
    async fn catch_up(&mut self, stand: Stand) {
        let is_it = |held: &Option<Held>| {
            held.as_ref().is_some_and(|held| (held.epoch, held.generation.0) == (stand.epoch, stand.generation))
        };
        if tokio::time::timeout(SAVED, self.held.wait_for(is_it)).await.is_err() {
            tracing::warn!("the table that the kernel holds may not be the one that the successor finds");
        }
    }
}

/// What ends when a successor has taken over: the admin address is its, and so is what the kernel reports.
type Ending = (AbortHandle, UnixStream);

/// Waits for successors, for as long as this process lives.
#[derive(Debug)]
pub(super) struct Succession {
    sockets: Arc<Mutex<Sockets>>,
    succeeded: CancellationToken,
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl Succession {
    /// Without a place to wait at there is none, and the log says so.
    pub(super) fn start(place: &Path, sockets: Sockets, asides: mpsc::Sender<Aside>, keeper: Keeper, ending: Ending) -> Self {
        let sockets = Arc::new(Mutex::new(sockets));
        let (successors, ready) = mpsc::channel(1);
        if let Err(error) = restart::offer(place, Arc::clone(&sockets), successors) {
            tracing::warn!(path = %place.display(), %error, "a second sluice-proxy can't take over from this one");
        }
        let (succeeded, end) = (CancellationToken::new(), CancellationToken::new());
        let task = tokio::spawn(wait(ready, asides, keeper, ending, (succeeded.clone(), end.clone())));
        Self { sockets, succeeded, end, task }
    }

    /// Returns when a successor has taken over.
    pub(super) async fn succeeded(&self) {
        self.succeeded.cancelled().await;
    }

    pub(super) fn has_succeeded(&self) -> bool {
        self.succeeded.is_cancelled()
    }

    /// A successor from now on gets the admin address alone: what arrives meanwhile must not wait in vain.
    pub(super) fn close_doors(&self) {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).close_doors();
    }

    /// Ends, when what is held is written down.
    pub(super) async fn end(self) {
        self.end.cancel();
        let _ = self.task.await;
    }
}

async fn wait(
    mut ready: mpsc::Receiver<Channel>,
    asides: mpsc::Sender<Aside>,
    mut keeper: Keeper,
    ending: Ending,
    (succeeded, end): (CancellationToken, CancellationToken),
) {
    loop {
        tokio::select! {
            () = end.cancelled() => return keeper.stop().await,
            Some(successor) = ready.recv() => if let Some(()) = hand_over(successor, &asides, &mut keeper).await {
                break;
            },
        }
    }
    tracing::info!("another sluice-proxy has taken over");
    let (admin, witness) = ending;
    admin.abort();
    drop(witness);
    succeeded.cancel();
    end.cancelled().await;
}

/// `None`: everything goes on as before.
async fn hand_over(successor: Channel, asides: &mpsc::Sender<Aside>, keeper: &mut Keeper) -> Option<()> {
    let (stopped, stand) = oneshot::channel();
    let (go, may_go) = oneshot::channel();
    let (released, is_released) = oneshot::channel();
    asides.send(Aside { successor, stopped, go: may_go, released }).await.ok()?;
    if let Some(stand) = stand.await.ok()? {
        keeper.catch_up(stand).await;
    }
    keeper.stop().await;
    let _ = go.send(());
    let released = is_released.await.ok();
    if released.is_none() {
        keeper.go_on();
    }
    released
}
