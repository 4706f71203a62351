//! What changes hands: what the kernel and the journal must be told.

use std::net::IpAddr;
use std::sync::Arc;

use super::Moment;

/// What the kernel must hold before an answer may leave. Empty if it holds all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lesson {
    pub pod: IpAddr,
    /// Addresses with a name that is new, or that the kernel would close too early.
    pub addresses: Vec<Learned>,
    /// What lost its place, perhaps another pod's. The kernel takes out what no other name of the address keeps by then.
    pub displaced: Vec<Displaced>,
    /// The kernel holds all that the answer says, but hardly longer: nobody has to wait for this.
    pub prolongs: bool,
    pub(super) at: Moment,
    /// Of the pod's names as they were then: no confirmation of them counts once some have been displaced or forgotten.
    pub(super) stamp: u64,
}

/// An address, and all the names that are known for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Learned {
    pub address: IpAddr,
    pub names: Vec<LearnedName>,
}

/// A name that an address has until then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LearnedName {
    pub name: Arc<str>,
    /// At a whole quarter of a second.
    pub expires: Moment,
    /// The kernel hasn't confirmed it.
    pub is_news: bool,
}

/// What is no longer known although its time isn't over: a bound was met.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Displaced {
    pub pod: IpAddr,
    pub address: IpAddr,
    pub name: Arc<str>,
}

/// Everything that was learned for `pod` until `at` counts for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub pod: IpAddr,
    pub at: Moment,
}

impl Lesson {
    pub(super) fn nothing(pod: IpAddr, at: Moment) -> Self {
        Self { pod, addresses: Vec::new(), displaced: Vec::new(), prolongs: false, at, stamp: 0 }
    }

    /// Whether the kernel holds all of the answer: nothing to be told, nothing to wait for.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }
}
