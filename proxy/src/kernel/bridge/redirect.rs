//! How a pod's frames are taken off its bridge: at the ingress of its port, those that come from the pod's own address.
//!
//! There are two forms, the kernel's classifiers and a BPF program. A process uses one of them at all ports. What the other form left
//! at a port is removed once this one's is in place: never is a port without both that was open for its pod, and never open for
//! anybody else.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::netlink;
use super::classifier::Classifier;
use super::links::Mac;
use super::program::Program;

/// A port whose pod is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    /// The interface's number.
    pub(super) index: u32,
    pub(super) name: String,
    /// The pod's link-layer address, if it may be believed.
    pub(super) mac: Option<Mac>,
    /// The bridge's number, to which the frames go.
    pub(super) bridge: u32,
    /// The bridge's link-layer address: for redirects that write it into the frames.
    pub(super) bridge_mac: Option<Mac>,
    /// The only sources that are admitted: its pod's.
    pub(super) addresses: BTreeSet<IpAddr>,
}

/// By what means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// BPF where it may be loaded, else classifiers.
    #[default]
    Auto,
    Classifier,
    Bpf,
}

/// Why a port's frames aren't redirected.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error(transparent)]
    Bpf(#[from] sluice_ebpf_redirect::Error),
}

/// The redirect of all ports.
#[derive(Debug)]
pub(super) struct Redirect {
    form: Form,
    /// None until the first port: a node without bridges loads nothing.
    means: Option<Means>,
}

#[derive(Debug)]
enum Means {
    Classifier(Classifier),
    Bpf(Program),
}

impl Redirect {
    /// # Errors
    /// BPF is asked for by name, and is not to be had.
    pub(super) fn new(form: Form) -> Result<Self, sluice_ebpf_redirect::Error> {
        if form == Form::Bpf {
            sluice_ebpf_redirect::is_possible()?;
        }
        Ok(Self { form, means: None })
    }

    /// Makes a port ready that admits nothing yet. The kernel drops what is on its way to the pod while it is done: so it is done
    /// before the pod has an address.
    pub(super) fn prepare(&mut self, index: u32) -> Result<(), Error> {
        Ok(self.classifier()?.ingress().prepare(index)?)
    }

    /// Makes the port admit exactly its addresses. Does nothing where it does already.
    pub(super) fn set(&mut self, port: &Port) -> Result<(), Error> {
        match self.means()? {
            Means::Classifier(classifier) => {
                classifier.set(port)?;
                classifier.ingress().remove_program(port.index)?;
                Ok(())
            }
            Means::Bpf(program) => program.set(port),
        }
    }

    /// Makes the port admit nothing. A port that is gone is no error.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), Error> {
        match self.means()? {
            Means::Classifier(classifier) => {
                classifier.clear(index)?;
                classifier.ingress().remove_program(index)?;
                Ok(())
            }
            Means::Bpf(program) => program.clear(index),
        }
    }

    /// Whether a port that this process has not set admits anything, or may: because of a former process, or of somebody else.
    pub(super) fn may_admit(&mut self, index: u32) -> Result<bool, Error> {
        let classifier = self.classifier()?;
        Ok(classifier.has_any(index)? || classifier.ingress().has_program(index)?)
    }

    /// The addresses for which the port has classifiers, whoever put them there. A BPF program can't be asked.
    pub(super) fn admitted(&mut self, index: u32) -> Result<BTreeSet<IpAddr>, Error> {
        Ok(self.classifier()?.admitted(index)?)
    }

    fn classifier(&mut self) -> Result<&mut Classifier, Error> {
        Ok(match self.means()? {
            Means::Classifier(classifier) => classifier,
            Means::Bpf(program) => program.classifier(),
        })
    }

    fn means(&mut self) -> Result<&mut Means, Error> {
        if self.means.is_none() {
            self.means = Some(choose(self.form)?);
        }
        Ok(self.means.as_mut().expect("chosen above"))
    }
}

fn choose(form: Form) -> Result<Means, Error> {
    const WHAT: &str = "pods' frames are taken off bridges by";
    let classifier = Classifier::open()?;
    if form == Form::Classifier {
        tracing::info!("{WHAT} classifiers, as configured");
        return Ok(Means::Classifier(classifier));
    }
    match (Program::open(classifier), form) {
        (Ok(program), Form::Auto) => {
            tracing::info!("{WHAT} BPF, the best there is (`redirect: auto`)");
            Ok(Means::Bpf(program))
        }
        (Ok(program), _) => {
            tracing::info!("{WHAT} BPF, as configured");
            Ok(Means::Bpf(program))
        }
        (Err((classifier, why)), Form::Auto) => {
            tracing::info!("{WHAT} classifiers (`redirect: auto`), because BPF can't be had: {}", crate::error_chain(&why));
            Ok(Means::Classifier(classifier))
        }
        (Err((_, why)), _) => Err(why.into()),
    }
}

/// Removes all of both forms that was ever put on an interface, which may have been a port once, and the queueing discipline that
/// it hung on, or that a port was given, if nobody else has any filter there. Whether there was anything.
pub(super) fn remove(classifier: &mut Classifier, index: u32, is_port: bool) -> Result<bool, netlink::Error> {
    let had_any = classifier.has_any(index)?;
    classifier.clear(index)?;
    let had_program = classifier.ingress().remove_program(index)?;
    let had = had_any || had_program;
    let had_discipline = (had || is_port) && classifier.ingress().remove_unused(index)?;
    Ok(had || had_discipline)
}
