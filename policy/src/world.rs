//! All objects, identities and sets.

use std::sync::Arc;

use crate::source::{Key, Object};

/// The whole inventory and all policies, with the identities they lead to. Incremental: a change costs what it touches.
#[derive(Debug, Default)]
pub struct World {}

/// What a list of edits touched in the [`World`]: what each node's [`View`](crate::View) must look at again.
#[derive(Debug, Default)]
pub struct Effects {}

/// One edit of the inventory or the policies.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    Put(Object),
    Remove(Key),
}

impl World {
    pub fn new() -> Self {
        Self::default()
    }

    /// Applies `edits` in order. Total: an edit that removes what isn't there does nothing.
    pub fn apply(&mut self, edits: impl IntoIterator<Item = Edit>) -> Effects {
        let _ = edits;
        unimplemented!()
    }

    /// The names of all Node objects, and of all nodes that a pod names.
    pub fn nodes(&self) -> Vec<Arc<str>> {
        unimplemented!()
    }
}
