//! What one node has been told, and what it has to be told next.

use std::sync::Arc;

use crate::snapshot::Change;
use crate::world::{Effects, World};

/// The part of the world that one node knows.
#[derive(Debug)]
pub struct View {}

/// Which pods are local to a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The pods of one node; of the others only those that its policies name.
    Node(Arc<str>),
    /// Every pod: for `sluice eval` and its kind, which judge both ends.
    Everything,
}

impl View {
    /// A node that has been told nothing.
    pub fn new(scope: Scope) -> Self {
        let _ = scope;
        unimplemented!()
    }

    /// The whole snapshot, as if the node had been told nothing; the view then stands at `world`.
    pub fn snapshot(&mut self, world: &World) -> Vec<Change> {
        let _ = world;
        unimplemented!()
    }

    /// What has changed for this node by `effects`, which led to `world`. Empty if nothing.
    pub fn delta(&mut self, world: &World, effects: &Effects) -> Vec<Change> {
        let _ = (world, effects);
        unimplemented!()
    }
}
