//! One node's connection: what it has been told, and what it has answered.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sluice_feed::changes::EncodeError;
use sluice_policy::snapshot::{Change, Generation, PolicyId};
use sluice_policy::source::{PodSelector, PolicyRef};
use sluice_policy::view::Scope;
use sluice_policy::world::Effects;
use sluice_policy::{View, World};

use super::payload::encode;
use super::{Gate, Hello, Limits};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// One node's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) node: Arc<str>,
    /// Which pods are resolvers to it.
    resolvers: Vec<PodSelector>,
    view: View,
    /// The newest generation that was sent; `None`: none yet.
    sent: Option<Generation>,
    /// The newest that the node's kernel holds.
    pub(crate) acked: Option<Generation>,
    /// Updates without an answer, oldest first, with their bytes.
    unanswered: VecDeque<(Generation, usize)>,
    /// From when on a snapshot is due; `None`: the node is in step.
    due: Option<Instant>,
    /// Too much was unanswered: the snapshot waits until all is answered.
    behind: bool,
    /// Before the snapshot after the next nack.
    pause: Duration,
    /// The node came with a table of another controller's run, and was not sent ours yet.
    holds_foreign_table: bool,
    /// Why the node could not use what it was sent last.
    pub(crate) refusal: Option<String>,
    /// The policies that the node holds or was sent, and since which generation in this form. Audit policies are those of the
    /// second table (`true`), where numbers mean others.
    pub(crate) policies: BTreeMap<(bool, PolicyId), (PolicyRef, Generation)>,
}

impl Session {
    pub(crate) fn new(node: Arc<str>, resolvers: Vec<PodSelector>, holds_foreign_table: bool, now: Instant) -> Self {
        Self {
            view: View::new(Scope::Node(node.clone())).resolving(resolvers.clone()),
            node,
            resolvers,
            sent: None,
            acked: None,
            unanswered: VecDeque::new(),
            due: Some(now),
            behind: false,
            pause: FIRST_PAUSE,
            holds_foreign_table,
            refusal: None,
            policies: BTreeMap::new(),
        }
    }

    /// Whether a node that says this holds all that there is.
    pub(crate) fn stands_at(&self, hello: &Hello) -> bool {
        self.due.is_none() && self.sent == Some(hello.generation) && self.resolvers == hello.resolvers
    }

    pub(crate) fn sent(&self) -> Option<Generation> {
        self.sent
    }

    /// Whether the node was sent all that there is.
    pub(crate) fn is_in_step(&self) -> bool {
        self.due.is_none()
    }

    /// Whether the node's kernel holds all that there is.
    pub(crate) fn is_programmed(&self) -> bool {
        self.is_in_step() && self.sent.is_some() && self.acked == self.sent
    }

    /// Whether the node keeps an earlier table because ours is incomplete.
    pub(crate) fn is_held_back(&self, gate: Gate) -> bool {
        gate == Gate::NewNodes && self.holds_foreign_table
    }

    /// Whether no further update may be sent for now.
    pub(crate) fn is_full(&self, limits: &Limits) -> bool {
        let bytes: usize = self.unanswered.iter().map(|(_, bytes)| bytes).sum();
        self.unanswered.len() >= limits.updates || bytes >= limits.bytes
    }

    /// What `effects` change for this node; `None`: nothing, or it is to get a snapshot anyway.
    pub(crate) fn delta(&mut self, world: &World, effects: &Effects) -> Option<Vec<Change>> {
        if !self.is_in_step() {
            return None;
        }
        let changes = self.view.delta(world, effects);
        (!changes.is_empty()).then_some(changes)
    }

    /// From here on the node is sent nothing until it has answered all, and then a snapshot.
    pub(crate) fn fall_behind(&mut self, now: Instant) {
        self.behind = true;
        self.due = Some(now);
    }

    /// The base and bytes of the delta to `generation`.
    pub(crate) fn send_delta(
        &mut self,
        generation: Generation,
        list: &[Change],
    ) -> Result<(Option<Generation>, Bytes), EncodeError> {
        let payload = encode(list)?;
        let base = self.sent;
        self.remember(generation, list, payload.len());
        Ok((base, payload))
    }

    pub(crate) fn send_snapshot(&mut self, generation: Generation, world: &World) -> Result<Bytes, EncodeError> {
        let list = self.view.snapshot(world);
        let payload = encode(&list)?;
        self.policies.clear();
        self.unanswered.clear();
        self.remember(generation, &list, payload.len());
        self.due = None;
        self.behind = false;
        self.holds_foreign_table = false;
        Ok(payload)
    }

    /// What the node should be sent can't be sent; it is tried again later, as a snapshot.
    pub(crate) fn fail(&mut self, error: &EncodeError, now: Instant) {
        self.refusal = Some(error.to_string());
        self.due = Some(now + LONGEST_PAUSE);
    }

    fn remember(&mut self, generation: Generation, list: &[Change], bytes: usize) {
        if list.contains(&Change::DropAudit) {
            self.policies.retain(|(in_audit, _), _| !in_audit);
        }
        for change in list {
            let (in_audit, change) = match change {
                Change::Audit(change) => (true, &**change),
                change => (false, change),
            };
            match change {
                // The second table has the others too.
                Change::PutPolicy(id, policy) if policy.audit == in_audit => {
                    self.policies.insert((in_audit, *id), (policy.reference.clone(), generation));
                }
                Change::PutPolicy(id, _) | Change::DropPolicy(id) => {
                    self.policies.remove(&(in_audit, *id));
                }
                _ => {}
            }
        }
        self.sent = Some(generation);
        self.unanswered.push_back((generation, bytes));
    }

    pub(crate) fn ack(&mut self, generation: Generation) {
        // A generation that was never sent is a confused node's.
        if self.sent.is_none_or(|sent| generation > sent) {
            return;
        }
        while self.unanswered.front().is_some_and(|(first, _)| *first <= generation) {
            self.unanswered.pop_front();
        }
        self.acked = self.acked.max(Some(generation));
        if self.acked == self.sent {
            self.pause = FIRST_PAUSE;
            self.refusal = None;
        }
    }

    pub(crate) fn nack(&mut self, generation: Generation, reason: String, now: Instant) {
        if self.sent.is_none_or(|sent| generation > sent) {
            return;
        }
        self.refusal = Some(reason);
        // All that is on its way leads on from what the node refused.
        self.unanswered.clear();
        self.behind = false;
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }

    /// When the snapshot may be sent that is due; `None`: none is, or no time alone makes it possible.
    pub(crate) fn snapshot_at(&self, gate: Gate) -> Option<Instant> {
        let waits = self.behind && !self.unanswered.is_empty();
        self.due.filter(|_| gate != Gate::Shut && !self.is_held_back(gate) && !waits)
    }
}
