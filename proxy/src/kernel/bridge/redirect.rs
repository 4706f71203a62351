//! How a pod's frames are taken off its bridge: at the ingress of its port, those that come from the pod's own address.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::netlink;
use super::classifier::Classifier;
use super::links::Mac;

/// A port whose pod is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The interface's number.
    pub(super) index: u32,
    pub(super) name: String,
    /// The bridge's number, to which the frames go.
    pub(super) bridge: u32,
    /// The bridge's link-layer address: for redirects that write it into the frames.
    pub(super) bridge_mac: Option<Mac>,
    /// The only sources that are admitted: its pod's.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// By what means.
#[derive(Debug)]
pub(super) enum Redirect {
    Classifier(Classifier),
}

impl Redirect {
    /// Makes a port ready that admits nothing yet. The kernel drops what is on its way to the pod while it is done: so it is done
    /// before the pod has an address.
    pub(super) fn prepare(&mut self, index: u32) -> Result<(), netlink::Error> {
        match self {
            Self::Classifier(classifier) => classifier.prepare(index),
        }
    }

    /// Makes the port admit exactly its addresses. Does nothing where it does already.
    pub(super) fn set(&mut self, port: &Port) -> Result<(), netlink::Error> {
        match self {
            Self::Classifier(classifier) => classifier.set(port),
        }
    }

    /// Makes the port admit nothing. A port that is gone is no error.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), netlink::Error> {
        match self {
            Self::Classifier(classifier) => classifier.clear(index),
        }
    }

    /// The addresses that the port admits now, whoever said so.
    pub(super) fn admitted(&mut self, index: u32) -> Result<BTreeSet<IpAddr>, netlink::Error> {
        match self {
            Self::Classifier(classifier) => classifier.admitted(index),
        }
    }

    /// Removes all that was ever put on an interface, which may have been a port once. Whether there was anything.
    pub(super) fn remove(&mut self, index: u32, is_port: bool) -> Result<bool, netlink::Error> {
        match self {
            Self::Classifier(classifier) => classifier.remove(index, is_port),
        }
    }
}
