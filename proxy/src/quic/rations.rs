//! How many denials a pod hears of, and gets records of: it may send as many datagrams as it likes.

use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

/// In a burst, and in each second after it.
const PER_SECOND: u32 = 50;
/// Pods that are remembered. What a node has, and more.
const MOST_PODS: usize = 4096;

/// A bucket for each pod.
#[derive(Debug, Default)]
pub(super) struct Rations {
    pods: Mutex<FxHashMap<IpAddr, Ration>>,
}

#[derive(Debug)]
struct Ration {
    left: u32,
    since: Instant,
    left_out: u64,
}

impl Rations {
    /// Whether something may be said of `pod`, and how often nothing was since it last was.
    pub(super) fn take(&self, pod: IpAddr, now: Instant) -> Option<u64> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        if pods.len() >= MOST_PODS && !pods.contains_key(&pod) {
            pods.retain(|_, ration| now.duration_since(ration.since) < Duration::from_secs(1));
            if pods.len() >= MOST_PODS {
                return None;
            }
        }
        let ration = pods.entry(pod).or_insert(Ration { left: PER_SECOND, since: now, left_out: 0 });
        if now.duration_since(ration.since) >= Duration::from_secs(1) {
            (ration.left, ration.since) = (PER_SECOND, now);
        }
        match ration.left.checked_sub(1) {
            Some(left) => {
                ration.left = left;
                Some(std::mem::take(&mut ration.left_out))
            }
            None => {
                ration.left_out += 1;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn one_pod_takes_nothing_from_another() {
        let (rations, now) = (Rations::default(), Instant::now());
        let [one, two] = [1, 2].map(|last| IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)));
        assert!((0..PER_SECOND).all(|_| rations.take(one, now) == Some(0)));
        assert_eq!([rations.take(one, now), rations.take(one, now), rations.take(two, now)], [None, None, Some(0)]);
        let later = now + Duration::from_secs(1);
        assert_eq!([rations.take(one, later), rations.take(one, later)], [Some(2), Some(0)]);
    }
}
