//! How many connections the proxy holds, in all and for one pod.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustc_hash::FxHashMap;

/// Counts open connections against the limits.
#[derive(Debug)]
pub struct Admission {
    most: usize,
    most_per_pod: usize,
    open: AtomicUsize,
    per_pod: Mutex<FxHashMap<IpAddr, usize>>,
}

/// The right to hold one connection; dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    admission: Arc<Admission>,
    pod: IpAddr,
}

impl Admission {
    /// At most `most` connections at a time, and `most_per_pod` from one source address.
    pub fn new(most: usize, most_per_pod: usize) -> Arc<Self> {
        Arc::new(Self { most, most_per_pod, open: AtomicUsize::new(0), per_pod: Mutex::default() })
    }

    /// A place for a connection from `pod`, if there is one.
    pub fn enter(self: &Arc<Self>, pod: IpAddr) -> Option<Place> {
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.most {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let mut per_pod = self.per_pod.lock().unwrap_or_else(PoisonError::into_inner);
        let held = per_pod.entry(pod).or_default();
        if *held >= self.most_per_pod {
            drop(per_pod);
            self.open.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        *held += 1;
        drop(per_pod);
        Some(Place { admission: Arc::clone(self), pod })
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let mut per_pod = self.admission.per_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = per_pod.get_mut(&self.pod) {
            *held -= 1;
            if *held == 0 {
                per_pod.remove(&self.pod);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::Admission;

    const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn one_pod_can_not_take_every_place() {
        let admission = Admission::new(3, 2);
        let held: Vec<_> = (0..2).map(|_| admission.enter(A)).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(admission.enter(A).is_none(), "the pod's own limit");
        let other = admission.enter(B);
        assert!(other.is_some());
        assert!(admission.enter(B).is_none(), "the limit in all");
        drop(held);
        assert!(admission.enter(A).is_some());
    }

    #[test]
    fn nothing_is_left_behind() {
        let admission = Admission::new(10, 10);
        drop((admission.enter(A), admission.enter(B)));
        assert_eq!(admission.open(), 0);
        assert!(admission.per_pod.lock().unwrap().is_empty());
    }
}
