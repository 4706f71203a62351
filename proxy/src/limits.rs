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
    /// Whose number it counts for.
    pod: Option<IpAddr>,
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
        Some(Place { admission: Arc::clone(self), pod: Some(pod) })
    }

    /// A place for a connection that is not to be refused. Whoever asks has looked whether [there is room](Self::has_room).
    pub fn hold(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place { admission: Arc::clone(self), pod: None }
    }

    /// Whether half of the places are free: the others are for connections that have to be read.
    pub fn has_room(&self) -> bool {
        self.open() < self.most.div_ceil(2)
    }

    /// Connections that are open now.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.open.fetch_sub(1, Ordering::Relaxed);
        let Some(pod) = self.pod else { return };
        let mut per_pod = self.admission.per_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = per_pod.get_mut(&pod) {
            *held -= 1;
            if *held == 0 {
                per_pod.remove(&pod);
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
    fn what_may_not_be_refused_leaves_room() {
        let admission = Admission::new(4, 4);
        let one = admission.hold();
        assert!(admission.has_room());
        let two = admission.hold();
        assert!(!admission.has_room());
        let others: Vec<_> = [A, B].map(|pod| admission.enter(pod)).into();
        assert!(others.iter().all(Option::is_some));
        let beyond = admission.hold();
        assert!(admission.enter(A).is_none(), "they count");
        drop((one, two, beyond, others));
        assert!(admission.has_room());
    }

    #[test]
    fn nothing_is_left_behind() {
        let admission = Admission::new(10, 10);
        drop((admission.enter(A), admission.enter(B), admission.hold()));
        assert_eq!(admission.open(), 0);
        assert!(admission.per_pod.lock().unwrap().is_empty());
    }
}
