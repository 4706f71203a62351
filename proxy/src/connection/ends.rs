//! What ends a connection, whatever it does: a new table, the end of the process, and that nothing moves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sluice_policy::{Reason, Table};
use tokio::sync::watch;

use super::{Conn, Ended};
use crate::judge::Ruling;

/// A request is judged by the table of its moment. What still goes on so long after a new one is judged by that too.
const REQUEST_GRACE: Duration = Duration::from_secs(1);

/// Who connected just before the drain is about to say something. A reset then would be a request that is lost, and most clients tell
/// their users of it.
const FIRST_WORDS: Duration = Duration::from_secs(1);

impl Conn {
    /// Once the drain has begun, and who has just connected has asked, or had the time to.
    pub(crate) async fn draining(&self) {
        self.dataplane.drain.begun.cancelled().await;
        if !self.has_asked() {
            tokio::time::sleep_until(tokio::time::Instant::from_std(self.started) + FIRST_WORDS).await;
        }
    }

    /// A request has begun.
    pub(crate) fn asks(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Ends when the connection must end, whatever it does.
pub(super) async fn watch_over(conn: &Conn, mut table: watch::Receiver<Arc<Table>>) -> Ended {
    let idle = Duration::from_secs(conn.limits().idle_seconds.into());
    let mut moved = conn.moved();
    let mut still_since = tokio::time::Instant::now();
    let mut look = still_since + idle;
    let mut requests_due = None;
    loop {
        tokio::select! {
            changed = table.changed() => {
                if changed.is_err() {
                    // Whoever gave out tables is gone, so this process is ending.
                    conn.dataplane.drain.over.cancelled().await;
                    continue;
                }
                let now = Arc::clone(&table.borrow_and_update());
                if let Some(cut) = conn.judge_again(&now) {
                    return cut;
                }
                requests_due.get_or_insert_with(|| tokio::time::Instant::now() + REQUEST_GRACE);
            }
            () = tokio::time::sleep_until(requests_due.unwrap_or(look)), if requests_due.is_some() => {
                requests_due = None;
                let now = Arc::clone(&table.borrow());
                conn.underway.judge_again(&now, &conn.ends);
            }
            () = conn.dataplane.drain.over.cancelled() => {
                conn.reset();
                return Ended::Denied(Ruling::by_proxy(Reason::Draining));
            }
            () = tokio::time::sleep_until(look) => {
                let now = tokio::time::Instant::now();
                if conn.moved() != moved {
                    moved = conn.moved();
                    still_since = now;
                }
                if now >= still_since + idle && !conn.is_offered() {
                    // A stream that is cut must not look complete. HTTP says by itself where a message ends.
                    if !conn.is_http() {
                        conn.reset();
                    }
                    return Ended::Failed(Reason::IdleTimeout);
                }
                // Four looks in the limit: a connection lives at most a quarter longer than it may.
                look = now + idle / 4;
            }
        }
    }
}
