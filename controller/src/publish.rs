//! The one thread that owns the world: takes what the files and the nodes say, and fills each node's queue.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use sluice_feed::parts::Heading;
use sluice_policy::World;
use sluice_policy::snapshot::Generation;
use sluice_policy::source::{Key, Object, PodSelector, PolicyRef};
use sluice_policy::world::Edit;
use tokio::sync::{mpsc, oneshot};

use crate::files::Batch;
use crate::plan::{Gate, Hello, Limits, Plan, Refusal, Send, SessionId};
use crate::status::Status;

/// Inputs that may wait. The files' thread and the nodes' readers wait for a place.
pub(crate) const INPUTS: usize = 256;

/// How often it is looked what time it is, where policies expire: a clock that is set moves no timer.
const LOOK_AT_CLOCK: Duration = Duration::from_secs(10);

/// Kinds of pods that all nodes together may call resolvers: each is a selector that every pod is tried on.
const MOST_RESOLVERS: usize = 64;

/// What a node's stream carries.
#[derive(Clone, Debug)]
pub(crate) enum Outgoing {
    Welcome { epoch: u64, current: bool },
    Update { heading: Heading, payload: Bytes },
}

/// What the thread is told.
pub(crate) enum Input {
    Files(Batch),
    Join { id: SessionId, hello: Hello, outbox: mpsc::Sender<Outgoing>, answer: oneshot::Sender<Result<(), Refusal>> },
    Ack(SessionId, Generation),
    Nack(SessionId, Generation, String),
    Leave(SessionId),
    Status(oneshot::Sender<Status>),
}

/// The world, and who follows it.
pub(crate) struct Publisher {
    world: World,
    plan: Plan,
    outboxes: HashMap<SessionId, mpsc::Sender<Outgoing>>,
    policies: BTreeSet<PolicyRef>,
    /// All that any node has named. They stay: a node that names others is rare.
    resolvers: BTreeSet<PodSelector>,
    /// Those that were said to have expired, and when they did.
    expired: BTreeMap<PolicyRef, SystemTime>,
    files: (usize, usize),
    never_read: usize,
    problems: Vec<String>,
    /// From the first event of a change to its updates in the nodes' queues, in seconds.
    latency: Histogram,
    /// Whether all nodes hold all there is, and that was said.
    settled: bool,
}

/// How many updates a node's queue holds: what may be unanswered, a snapshot, and the welcome.
pub(crate) fn outbox_size() -> usize {
    Limits::default().updates + 2
}

impl Publisher {
    pub(crate) fn new(epoch: u64) -> Self {
        Self {
            world: World::new(),
            plan: Plan::new(epoch, Limits::default()),
            outboxes: HashMap::new(),
            policies: BTreeSet::new(),
            resolvers: BTreeSet::new(),
            expired: BTreeMap::new(),
            files: (0, 0),
            never_read: 0,
            problems: Vec::new(),
            latency: Histogram::new(exponential_buckets(0.0005, 2.0, 14)),
            settled: true,
        }
    }

    /// Runs until every sender of inputs is gone.
    pub(crate) async fn run(mut self, mut inputs: mpsc::Receiver<Input>) {
        loop {
            let idle = Duration::from_secs(3600);
            let wait = self.plan.next_tick().map_or(idle, |at| at.saturating_duration_since(Instant::now()));
            let waited = tokio::time::timeout(wait.min(self.until_expiry().unwrap_or(idle)), inputs.recv()).await;
            // Whatever else there is to do, and however much of it.
            self.pass_time();
            match waited {
                Ok(Some(input)) => self.take(input),
                Ok(None) => return,
                Err(_) => {
                    let sends = self.plan.tick(&self.world, Instant::now());
                    self.send(sends);
                }
            }
        }
    }

    /// How long the next expiry is away, or the next look at the clock. `None`: no policy expires.
    fn until_expiry(&self) -> Option<Duration> {
        let left = |expiry: SystemTime| expiry.duration_since(SystemTime::now()).unwrap_or_default();
        self.world.heeds_time().then(|| self.world.next_expiry().map_or(LOOK_AT_CLOCK, left).min(LOOK_AT_CLOCK))
    }

    /// Tells the world what time it is, where that matters, and the nodes what follows.
    fn pass_time(&mut self) {
        if !self.world.heeds_time() {
            return;
        }
        let effects = self.world.set_time(SystemTime::now());
        if effects.is_empty() {
            return;
        }
        let sends = self.plan.changed(&self.world, &effects, Instant::now());
        self.send(sends);
        self.settled = false;
        self.say_expired();
        self.say_when_settled();
    }

    /// Names the policies that have expired since, and those that are in force again.
    fn say_expired(&mut self) {
        let expired: BTreeMap<_, _> = self.world.expired().into_iter().collect();
        for (policy, at) in expired.iter().filter(|(policy, _)| !self.expired.contains_key(*policy)) {
            tracing::warn!(%policy, expires = sluice_crds::moment_text(*at), "Expired: the policy is as if absent");
        }
        for policy in self.expired.keys().filter(|policy| !expired.contains_key(*policy) && self.policies.contains(*policy)) {
            tracing::warn!(%policy, "no longer expired: the policy is in force again");
        }
        self.expired = expired;
    }

    fn take(&mut self, input: Input) {
        let now = Instant::now();
        match input {
            Input::Files(batch) => self.files(batch),
            Input::Join { id, hello, outbox, answer } => self.join(id, hello, outbox, answer),
            Input::Ack(id, generation) => {
                let sends = self.plan.ack(id, generation, &self.world, now);
                self.send(sends);
                self.say_when_settled();
            }
            Input::Nack(id, generation, reason) => {
                let node = self.plan.node(id);
                tracing::warn!(node, %generation, reason, "the node keeps what it had and gets a full snapshot");
                let sends = self.plan.nack(id, generation, reason, &self.world, now);
                self.send(sends);
            }
            Input::Leave(id) => self.leave(id),
            Input::Status(answer) => {
                // The asker may have gone away.
                let _ = answer.send(self.status());
            }
        }
    }

    fn files(&mut self, batch: Batch) {
        let Batch { edits, never_read, problems, files, objects, since } = batch;
        self.files = (files, objects);
        self.never_read = never_read;
        if let Some(problems) = problems {
            self.problems = problems;
        }
        for edit in &edits {
            match edit {
                Edit::Put(Object::Policy(policy)) => {
                    self.policies.insert(policy.reference.clone());
                }
                Edit::Remove(Key::Policy(reference)) => {
                    self.policies.remove(reference);
                }
                _ => {}
            }
        }
        let count = edits.len();
        let started = Instant::now();
        // Before what is new: a policy that comes expired is never in force.
        let expired = self.world.set_time(SystemTime::now());
        let mut sends = self.plan.changed(&self.world, &expired, Instant::now());
        let effects = self.world.apply(edits);
        sends.extend(self.plan.changed(&self.world, &effects, Instant::now()));
        self.say_expired();
        let gate = if never_read == 0 { Gate::Open } else { Gate::NewNodes };
        if gate > self.plan.gate() {
            if gate == Gate::NewNodes {
                tracing::warn!(
                    never_read,
                    "files that can't be read may have held policies: nodes that hold a table keep it until they can be"
                );
            }
            tracing::info!(files, objects, policies = self.policies.len(), "the folder is read");
            sends.extend(self.plan.open(gate, &self.world, Instant::now()));
        }
        let updates = sends.len();
        self.send(sends);
        if let Some(since) = since {
            self.latency.observe(since.elapsed().as_secs_f64());
        }
        if count > 0 {
            let took = started.elapsed();
            tracing::info!(edits = count, updates, ?took, "applied");
            self.settled = false;
            self.say_when_settled();
        }
    }

    fn join(
        &mut self,
        id: SessionId,
        hello: Hello,
        outbox: mpsc::Sender<Outgoing>,
        answer: oneshot::Sender<Result<(), Refusal>>,
    ) {
        let node = hello.node.clone();
        if !self.hold_resolvers(&hello.resolvers) {
            let _ = answer.send(Err(Refusal::TooManyResolvers(MOST_RESOLVERS)));
            return;
        }
        let joined = self.plan.join(id, hello, &self.world, Instant::now());
        let (current, sends) = match joined {
            Ok(joined) => joined,
            Err(refusal) => {
                let _ = answer.send(Err(refusal));
                return;
            }
        };
        tracing::info!(%node, current, "node connected");
        self.settled = false;
        let welcome = Outgoing::Welcome { epoch: self.plan.epoch, current };
        if outbox.try_send(welcome).is_err() || answer.send(Ok(())).is_err() {
            self.plan.leave(id, Instant::now());
        } else {
            self.outboxes.insert(id, outbox);
        }
        self.send(sends);
    }

    /// Whether the world can say, from now on, which pods these are.
    fn hold_resolvers(&mut self, selectors: &[PodSelector]) -> bool {
        let new: Vec<_> = selectors.iter().filter(|selector| !self.resolvers.contains(*selector)).cloned().collect();
        if new.is_empty() {
            return true;
        }
        if self.resolvers.len() + new.len() > MOST_RESOLVERS {
            return false;
        }
        let effects = self.world.hold_resolvers(&new);
        self.resolvers.extend(new);
        let sends = self.plan.changed(&self.world, &effects, Instant::now());
        self.send(sends);
        true
    }

    fn leave(&mut self, id: SessionId) {
        if self.outboxes.remove(&id).is_some() {
            tracing::info!(node = self.plan.node(id), "node disconnected; it keeps what it has");
            self.plan.leave(id, Instant::now());
        }
    }

    fn send(&mut self, sends: Vec<Send>) {
        for Send { session, heading, payload } in sends {
            let Some(outbox) = self.outboxes.get(&session) else { continue };
            if outbox.try_send(Outgoing::Update { heading, payload }).is_err() {
                // The queue is as long as the plan allows, so this is a stream that has ended or one that doesn't move.
                self.leave(session);
            }
        }
    }

    fn say_when_settled(&mut self) {
        let live = || self.plan.sessions().filter(|(_, live)| *live).map(|(session, _)| session);
        if !self.settled && live().count() > 0 && live().all(|session| session.is_programmed()) {
            self.settled = true;
            let nodes = live().count();
            tracing::info!(policies = self.policies.len(), "Programmed {nodes}/{nodes} nodes");
        }
    }

    fn status(&self) -> Status {
        let nodes: Vec<Arc<str>> = self.world.nodes();
        let mut status = Status::new(&self.plan, nodes, &self.policies);
        status.note_enforcement(&self.world);
        (status.files, status.objects) = self.files;
        status.never_read = self.never_read;
        status.problems = self.problems.clone();
        status.latency = Some(self.latency.clone());
        status
    }
}
