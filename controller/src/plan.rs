//! Who is sent what, and when. Pure: no I/O, no clock; time comes in as an argument.
//!
//! Each session of a node has a view of the world. An update is sent at once while the node keeps up; a node that leaves too much
//! unanswered gets nothing more until it has answered all, and then one full snapshot in place of what it missed. So what is
//! kept for a node is bounded, whatever the node does.
//!
//! ```text
//!            hello                     too much unanswered
//! (waiting) ------> full snapshot ---> in step ------------> behind
//!     ^                  ^  | delta, delta, ..   <-----------  | all answered: full snapshot
//!     | world not ready  |  nack: full snapshot, after a pause that grows
//! ```

mod payload;
mod session;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_feed::parts::Heading;
use sluice_policy::World;
use sluice_policy::snapshot::Generation;
use sluice_policy::source::PodSelector;
use sluice_policy::world::Effects;

pub(crate) use session::Session;

/// How long a node that went away may come back and go on where it was.
const PARKED: Duration = Duration::from_secs(600);

/// How much may be on its way to one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Updates without an answer.
    pub(crate) updates: usize,
    /// Their bytes. A single update may exceed it.
    pub(crate) bytes: usize,
    /// Nodes, connected or away for less than [`PARKED`].
    pub(crate) nodes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { updates: 64, bytes: 64 << 20, nodes: 10_000 }
    }
}

/// A connection of a node. Two of one node may overlap while a proxy is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionId(pub(crate) u64);

/// What a node says first.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) node: Arc<str>,
    /// Zero and zero: it holds nothing.
    pub(crate) epoch: u64,
    pub(crate) generation: Generation,
    /// Which pods are resolvers to it. The world holds them.
    pub(crate) resolvers: Vec<PodSelector>,
}

/// An update to be sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Send {
    pub(crate) session: SessionId,
    pub(crate) heading: Heading,
    pub(crate) payload: Bytes,
}

/// How far the world is understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Gate {
    /// Not read yet: nobody is sent anything.
    Shut,
    /// Some file could not be read ever since the start. A node that holds a table knows more than we do, so it keeps
    /// that; a node that holds nothing gets what there is.
    NewNodes,
    Open,
}

/// Every node's part in the feed.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) epoch: u64,
    gate: Gate,
    limits: Limits,
    sessions: HashMap<SessionId, Session>,
    /// Nodes that went away: their last session, and until when it is kept.
    parked: BTreeMap<Arc<str>, (Session, Instant)>,
    /// The last generation that was sent to any node. One count for all of them and the whole run: a node tells an older table
    /// from a newer one by it, also one that was away for so long that nothing else is known of it here.
    last: Generation,
    pub(crate) counts: Counts,
}

/// What has happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) snapshots: u64,
    pub(crate) deltas: u64,
    /// Times a node fell behind.
    pub(crate) coalesced: u64,
    pub(crate) nacks: u64,
}

/// Why a node is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("this controller already serves {0} nodes, and that is its limit")]
    TooManyNodes(usize),
    #[error("nodes have named {0} kinds of resolvers, and that is the limit")]
    TooManyResolvers(usize),
}

impl Plan {
    pub(crate) fn new(epoch: u64, limits: Limits) -> Self {
        Self {
            epoch,
            gate: Gate::Shut,
            limits,
            sessions: HashMap::new(),
            parked: BTreeMap::new(),
            last: Generation::default(),
            counts: Counts::default(),
        }
    }

    /// Says how far the world is understood. The gate never closes again.
    pub(crate) fn open(&mut self, gate: Gate, world: &World, now: Instant) -> Vec<Send> {
        self.gate = self.gate.max(gate);
        self.tick(world, now)
    }

    /// A node arrives. Whether it already holds the newest, and what it is sent.
    pub(crate) fn join(
        &mut self,
        id: SessionId,
        hello: Hello,
        world: &World,
        now: Instant,
    ) -> Result<(bool, Vec<Send>), Refusal> {
        let parked = self.parked.remove(&hello.node).map(|(session, _)| session);
        if parked.is_none() && self.is_full() && !self.knows(&hello.node) {
            return Err(Refusal::TooManyNodes(self.limits.nodes));
        }
        let goes_on = parked.filter(|session| hello.epoch == self.epoch && session.stands_at(&hello));
        let current = goes_on.is_some();
        let holds_foreign_table = hello.generation > Generation(0) && hello.epoch != self.epoch;
        let session = goes_on.unwrap_or_else(|| Session::new(hello.node, hello.resolvers, holds_foreign_table, now));
        self.sessions.insert(id, session);
        Ok((current, self.tick(world, now)))
    }

    /// The world has changed by `effects`.
    pub(crate) fn changed(&mut self, world: &World, effects: &Effects, now: Instant) -> Vec<Send> {
        let mut sends = Vec::new();
        // A node that is away may go on where it was only as long as nothing of its own changes.
        self.parked.retain(|_, (session, _)| session.is_in_step() && session.delta(world, effects).is_none());
        for (id, session) in &mut self.sessions {
            if session.is_full(&self.limits) && session.is_in_step() {
                self.counts.coalesced += 1;
                session.fall_behind(now);
            }
            let Some(changes) = session.delta(world, effects) else { continue };
            self.last = Generation(self.last.0 + 1);
            match session.send_delta(self.last, &changes) {
                Ok((base, payload)) => {
                    self.counts.deltas += 1;
                    sends.push(Send {
                        session: *id,
                        heading: Heading { epoch: self.epoch, generation: self.last, base },
                        payload,
                    });
                }
                Err(error) => session.fail(&error, now),
            }
        }
        sends.extend(self.tick(world, now));
        sends
    }

    /// A node's kernel holds `generation`, and so all before it.
    pub(crate) fn ack(&mut self, id: SessionId, generation: Generation, world: &World, now: Instant) -> Vec<Send> {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.ack(generation);
        }
        self.tick(world, now)
    }

    /// A node could not use `generation`.
    pub(crate) fn nack(
        &mut self,
        id: SessionId,
        generation: Generation,
        reason: String,
        world: &World,
        now: Instant,
    ) -> Vec<Send> {
        if let Some(session) = self.sessions.get_mut(&id) {
            self.counts.nacks += 1;
            session.nack(generation, reason, now);
        }
        self.tick(world, now)
    }

    /// A node's connection ended.
    pub(crate) fn leave(&mut self, id: SessionId, now: Instant) {
        if let Some(session) = self.sessions.remove(&id)
            && !self.sessions.values().any(|other| other.node == session.node)
        {
            self.parked.insert(session.node.clone(), (session, now + PARKED));
        }
    }

    /// Sends the snapshots that are due, and forgets nodes that stayed away.
    pub(crate) fn tick(&mut self, world: &World, now: Instant) -> Vec<Send> {
        let mut sends = Vec::new();
        for (id, session) in &mut self.sessions {
            if session.snapshot_at(self.gate).is_none_or(|at| at > now) {
                continue;
            }
            self.last = Generation(self.last.0 + 1);
            match session.send_snapshot(self.last, world) {
                Ok(payload) => {
                    self.counts.snapshots += 1;
                    sends.push(Send {
                        session: *id,
                        heading: Heading { epoch: self.epoch, generation: self.last, base: None },
                        payload,
                    });
                }
                Err(error) => session.fail(&error, now),
            }
        }
        self.parked.retain(|_, (_, until)| *until > now);
        sends
    }

    /// When [`Plan::tick`] has something to do next, if nothing happens before.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let snapshots = self.sessions.values().filter_map(|session| session.snapshot_at(self.gate));
        snapshots.chain(self.parked.values().map(|(_, until)| *until)).min()
    }

    fn knows(&self, node: &str) -> bool {
        self.parked.contains_key(node) || self.sessions.values().any(|session| *session.node == *node)
    }

    /// Whether as many nodes as may be have a session, live or parked.
    fn is_full(&self) -> bool {
        let sessions = self.sessions.len() + self.parked.len();
        let live = || self.sessions.values().map(|session| &*session.node).collect::<HashSet<&str>>().len();
        // Two sessions of one node are rare, and counting the nodes isn't free.
        sessions >= self.limits.nodes && live() + self.parked.len() >= self.limits.nodes
    }

    /// Whose session it is; empty if it has ended.
    pub(crate) fn node(&self, id: SessionId) -> &str {
        self.sessions.get(&id).map_or("", |session| &*session.node)
    }

    pub(crate) fn gate(&self) -> Gate {
        self.gate
    }

    /// Live sessions and, after them, those of nodes that are away.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = (&Session, bool)> {
        let away = self.parked.values().map(|(session, _)| (session, false));
        self.sessions.values().map(|session| (session, true)).chain(away)
    }
}
