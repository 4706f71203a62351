//! The same interface in a build without BPF: it can't be opened.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use crate::{Dropped, Error, Port};

/// In this build there is none: [`Redirect::open`] says why.
#[derive(Debug)]
pub struct Redirect {
    never: Infallible,
}

/// Always [`Error::NotBuilt`].
pub fn is_possible() -> Result<(), Error> {
    Err(Error::NotBuilt)
}

impl Redirect {
    /// Always [`Error::NotBuilt`].
    pub fn open() -> Result<Self, Error> {
        Err(Error::NotBuilt)
    }

    /// Can't be called.
    pub fn set(&mut self, _port: &Port) -> Result<(), Error> {
        match self.never {}
    }

    /// Can't be called.
    pub fn clear(&mut self, _port_index: u32) -> Result<(), Error> {
        match self.never {}
    }

    /// Can't be called.
    pub fn attached(&self, _ports: &[u32]) -> Result<BTreeSet<u32>, Error> {
        match self.never {}
    }

    /// Can't be called.
    pub fn drops(&self) -> Result<BTreeMap<Dropped, u64>, Error> {
        match self.never {}
    }

    /// Always [`Error::NotBuilt`]: what another build attached, `tc filter del` removes.
    pub fn remove_all(_ports: &[u32]) -> Result<BTreeSet<u32>, Error> {
        Err(Error::NotBuilt)
    }
}
