//! The redirect by the BPF program of `ebpf-redirect`, which checks more than classifiers can: the pod's link-layer address, what
//! it says of itself in ARP and neighbour discovery, and that a packet to one station is in a frame to one.
//!
//! The program is asked before all other filters and its answer is final. So it is put in place before the classifiers of a former
//! process are taken away, and they are gone before it is.

use super::classifier::Classifier;
use super::redirect::{Error, Port};

/// The program at all ports. Dropped, it stays in force there.
#[derive(Debug)]
pub(super) struct Program {
    bpf: sluice_ebpf_redirect::Redirect,
    classifier: Classifier,
}

impl Program {
    /// Loads it. Ports hold what they held.
    pub(super) fn open(classifier: Classifier) -> Result<Self, (Classifier, sluice_ebpf_redirect::Error)> {
        match sluice_ebpf_redirect::Redirect::open() {
            Ok(bpf) => Ok(Self { bpf, classifier }),
            Err(error) => Err((classifier, error)),
        }
    }

    /// What is at the ports apart from the program.
    pub(super) fn classifier(&mut self) -> &mut Classifier {
        &mut self.classifier
    }

    /// See [`Redirect::set`](super::redirect::Redirect::set).
    pub(super) fn set(&mut self, port: &Port) -> Result<(), Error> {
        let wanted = sluice_ebpf_redirect::Port {
            index: port.index,
            mac: port.mac.map(|mac| mac.0),
            bridge: port.bridge,
            // Table `netdev sluice` takes in what the bridge receives, whomever it is addressed to.
            bridge_mac: port.bridge_mac.map_or([0; 6], |mac| mac.0),
            addresses: port.addresses.clone(),
        };
        if let Err(error) = self.bpf.set(&wanted) {
            // An address that no pod can have changes nothing by itself. The first error is the one to tell.
            let _ = self.clear(port.index);
            return Err(error.into());
        }
        Ok(self.classifier.clear(port.index)?)
    }

    /// See [`Redirect::clear`](super::redirect::Redirect::clear). Closed first, then removed: without any filter the bridge's own
    /// rules close the port but for ARP and the like, that a pod needs before it is known.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), Error> {
        self.classifier.clear(index)?;
        self.bpf.clear(index)?;
        self.classifier.ingress().remove_program(index)?;
        Ok(())
    }
}
