//! Where connections arrive that only Audit policies want read: a door that is open while there is something to audit, and room.
//!
//! The kernel lets such a flow pass where nobody listens, so a closed door refuses nobody. It is closed until the first table is there,
//! while no Audit policy selects a pod of this node, while half of `limits.connections` are open, when files or memory run out, and
//! from the beginning of the drain on.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::{is_one_connections, on_loopback};
use crate::connection::{Dataplane, handle_audited};
use crate::judge::OriginalDst;

/// So many may wait when the door closes, and are let in all the same: few.
const BACKLOG: i32 = 256;
/// How often is looked whether there is room.
const LOOK: Duration = Duration::from_millis(100);
/// How long the door stays closed where it can't be opened.
const PAUSE: Duration = Duration::from_secs(1);

/// Opens and closes the door, and carries the connections that come by it, until the drain begins.
pub(super) async fn accept_loop(port: u16, dataplane: Arc<Dataplane>, connections: TaskTracker) {
    let mut tables = dataplane.table.clone();
    let mut open: Vec<TcpListener> = Vec::new();
    let mut not_before = Instant::now();
    loop {
        let has_audit = tables.borrow_and_update().has_audit();
        let is_wanted = has_audit && dataplane.admission.has_room() && Instant::now() >= not_before;
        if is_wanted && open.is_empty() {
            match listeners(port) {
                Ok(listeners) => open = listeners,
                Err(error) => {
                    tracing::warn!(error = crate::error_chain(&*error), port, "what only Audit policies want read passes unread");
                    not_before = Instant::now() + PAUSE;
                }
            }
        } else if !is_wanted && !open.is_empty() {
            close(&mut open, &dataplane, &connections);
        }
        tokio::select! {
            biased;
            () = dataplane.drain.begun.cancelled() => break,
            accepted = accept(&open) => match accepted {
                Ok(accepted) => spawn(accepted, &dataplane, &connections),
                Err(error) if is_one_connections(&error) => {}
                Err(error) => {
                    dataplane.metrics.accept_backoffs.inc();
                    tracing::warn!(%error, "what only Audit policies want read passes unread for a moment");
                    not_before = Instant::now() + PAUSE;
                }
            },
            changed = tables.changed() => if changed.is_err() {
                // Whoever gave out tables is gone, so this process is ending.
                dataplane.drain.begun.cancelled().await;
                break;
            },
            () = tokio::time::sleep(LOOK), if has_audit => {}
        }
    }
    close(&mut open, &dataplane, &connections);
}

fn listeners(port: u16) -> Result<Vec<TcpListener>, Box<dyn std::error::Error>> {
    let held = on_loopback(port, BACKLOG, Vec::new())?;
    Ok(held.into_iter().map(TcpListener::from_std).collect::<io::Result<_>>()?)
}

/// The next connection at any of them.
async fn accept(open: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    poll_fn(|cx| {
        let mut accepted = open.iter().map(|listener| listener.poll_accept(cx));
        accepted.find(Poll::is_ready).unwrap_or(Poll::Pending)
    })
    .await
}

fn spawn((stream, client): (TcpStream, SocketAddr), dataplane: &Arc<Dataplane>, connections: &TaskTracker) {
    let Ok(original) = stream.local_addr() else { return };
    connections.spawn(handle_audited(Arc::clone(dataplane), stream, client, OriginalDst(original)));
}

/// Lets in who waits at the door, and closes it.
fn close(open: &mut Vec<TcpListener>, dataplane: &Arc<Dataplane>, connections: &TaskTracker) {
    for listener in open.drain(..) {
        super::close(listener, BACKLOG, |stream, client, original| {
            connections.spawn(handle_audited(Arc::clone(dataplane), stream, client, original));
        });
    }
}
