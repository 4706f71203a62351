//! What a process has learned that may not tell the kernel any more: for its successor, which does.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sluice_policy::source::PodRef;

use super::journal::Entry;
use super::lesson::Lesson;
use super::moment::Moment;

/// A [`Lesson`] on its way to another process of this boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Late {
    pub pod: IpAddr,
    /// Whose address it was when the answer was learned.
    namespace: Arc<str>,
    name: Arc<str>,
    /// Moments are nanoseconds since the boot.
    learned: u64,
    addresses: Vec<LateAddress>,
}

/// An address, and each of its names with the moment that it expires.
type LateAddress = (IpAddr, Vec<(Arc<str>, u64)>);

impl Late {
    /// What is new in `lesson`, which was learned for this pod.
    pub fn new(lesson: &Lesson, pod: &PodRef) -> Self {
        let news = |address: &super::Learned| {
            let names = address.names.iter().filter(|name| name.is_news);
            (address.address, names.map(|name| (Arc::clone(&name.name), name.expires.nanos())).collect())
        };
        Self {
            pod: lesson.pod,
            namespace: Arc::clone(&pod.namespace),
            name: Arc::clone(&pod.name),
            learned: lesson.at.nanos(),
            addresses: lesson.addresses.iter().map(news).collect(),
        }
    }

    /// Whether it was learned for this pod.
    pub fn is_of(&self, pod: &PodRef) -> bool {
        (&self.namespace, &self.name) == (&pod.namespace, &pod.name)
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.addresses.iter().map(|(address, _)| *address)
    }

    /// As [`super::Names::restore`] takes it.
    pub fn entries(&self) -> Vec<Entry> {
        let moment = |nanos| Moment::since_boot(Duration::from_nanos(nanos));
        let entry = |address: &IpAddr, (name, expires): &(Arc<str>, u64)| Entry {
            pod: self.pod,
            address: *address,
            name: Arc::clone(name),
            expires: moment(*expires),
            learned: moment(self.learned),
        };
        self.addresses.iter().flat_map(|(address, names)| names.iter().map(|name| entry(address, name))).collect()
    }
}
