//! Which flows were denied a moment ago, so that what a client sends again is no denial of its own.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use super::hellos::Answerable;
use super::packet::{Packet, first};

/// Short: the next moment a name may be known, or a policy another.
const REFUSED_FOR: Duration = Duration::from_secs(1);
const MOST_REFUSED: usize = 4096;

/// A client's port, and a server's.
pub(super) type Key = (SocketAddr, SocketAddr);

#[derive(Debug, Default)]
pub(super) struct RefusedFlows {
    flows: Mutex<FxHashMap<Key, Refused>>,
}

#[derive(Debug)]
struct Refused {
    until: Instant,
    /// Where its attempt to connect went, if it was one: another is judged anew.
    destination: Option<Vec<u8>>,
}

impl RefusedFlows {
    /// Remembers a flow that was denied, by its attempt to connect if it was one.
    pub(super) fn add(&self, key: Key, attempt: Option<&Answerable>) {
        let now = Instant::now();
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        if flows.len() >= MOST_REFUSED {
            flows.retain(|_, refused| refused.until > now);
        }
        if flows.len() < MOST_REFUSED {
            let destination = attempt.map(|attempt| attempt.destination.clone());
            flows.insert(key, Refused { until: now + REFUSED_FOR, destination });
        }
    }

    /// Whether `message` is part of what was denied.
    pub(super) fn has(&self, key: Key, message: &[u8]) -> bool {
        let flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(refused) = flows.get(&key).filter(|refused| refused.until > Instant::now()) else { return false };
        match first(message) {
            Ok((Packet::Initial(initial), _)) => refused.destination.as_deref() == Some(initial.destination),
            _ => true,
        }
    }
}
