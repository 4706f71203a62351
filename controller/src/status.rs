//! Who holds what, as `/status` says it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use prometheus_client::metrics::histogram::Histogram;
use serde::Serialize;
use sluice_policy::World;
use sluice_policy::source::PolicyRef;

use crate::plan::{Counts, Gate, Plan};

/// The state of the controller.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    /// The folder was read as a whole at least once, and nodes are served.
    pub(crate) ready: bool,
    pub(crate) epoch: String,
    pub(crate) files: usize,
    pub(crate) objects: usize,
    /// Files that could not be read ever since the start.
    pub(crate) never_read: usize,
    /// What is wrong with the files, one line each.
    pub(crate) problems: Vec<String>,
    pub(crate) nodes: Vec<NodeStatus>,
    pub(crate) policies: Vec<PolicyStatus>,
    #[serde(skip)]
    pub(crate) counts: Counts,
    #[serde(skip)]
    pub(crate) latency: Option<Histogram>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NodeStatus {
    pub(crate) name: Arc<str>,
    pub(crate) connected: bool,
    /// The newest generation that was sent, and the newest that the node's kernel holds.
    pub(crate) generation: Option<u64>,
    pub(crate) acknowledged: Option<u64>,
    /// The node's kernel holds all there is.
    pub(crate) programmed: bool,
    /// The node keeps a table of an earlier run, because not all files could be read.
    pub(crate) held_back: bool,
    /// Why the node could not use what it was sent last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refusal: Option<String>,
    /// Whether the inventory knows the node. Other names are whatever a client said.
    #[serde(skip)]
    pub(crate) known: bool,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PolicyStatus {
    #[serde(skip)]
    pub(crate) reference: PolicyRef,
    pub(crate) kind: &'static str,
    pub(crate) namespace: Arc<str>,
    pub(crate) name: Arc<str>,
    /// Nodes whose kernel holds the policy in its newest form.
    pub(crate) programmed: usize,
    /// Nodes that need it, as far as they ever connected.
    pub(crate) nodes: usize,
    /// `Audit`, of a policy that only reports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) enforcement: Option<&'static str>,
    /// In RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) expires: Option<String>,
    pub(crate) message: String,
}

impl Status {
    pub(crate) fn new(plan: &Plan, known: Vec<Arc<str>>, policies: &BTreeSet<PolicyRef>) -> Self {
        // Two sessions of one node overlap while its proxy is replaced: the one that is further counts.
        let mut sessions = BTreeMap::new();
        for (session, live) in plan.sessions() {
            let rank = |(session, live): &(&crate::plan::Session, bool)| (*live, session.acked);
            let this = (session, live);
            let slot = sessions.entry(session.node.clone()).or_insert(this);
            if rank(&this) > rank(slot) {
                *slot = this;
            }
        }
        let mut holders: BTreeMap<&PolicyRef, (usize, usize)> = policies.iter().map(|policy| (policy, (0, 0))).collect();
        for (session, _) in sessions.values() {
            for (policy, since) in session.policies.values() {
                let Some((programmed, nodes)) = holders.get_mut(policy) else { continue };
                *nodes += 1;
                *programmed += usize::from(session.is_in_step() && session.acked >= Some(*since));
            }
        }
        let mut nodes: BTreeMap<Arc<str>, NodeStatus> = BTreeMap::new();
        for (name, (session, live)) in &sessions {
            let status = NodeStatus {
                name: name.clone(),
                connected: *live,
                generation: session.sent().map(|generation| generation.0),
                acknowledged: session.acked.map(|generation| generation.0),
                programmed: session.is_programmed(),
                held_back: session.is_held_back(plan.gate()),
                refusal: session.refusal.clone(),
                known: false,
            };
            nodes.insert(name.clone(), status);
        }
        for name in known {
            let node = nodes.entry(name.clone()).or_insert_with(|| NodeStatus {
                name,
                connected: false,
                generation: None,
                acknowledged: None,
                programmed: false,
                held_back: false,
                refusal: None,
                known: true,
            });
            node.known = true;
        }
        let policy = |(policy, (programmed, nodes)): (&PolicyRef, (usize, usize))| PolicyStatus {
            reference: policy.clone(),
            kind: policy.kind.as_str(),
            namespace: policy.namespace.clone(),
            name: policy.name.clone(),
            programmed,
            nodes,
            enforcement: None,
            expires: None,
            message: format!("Programmed {programmed}/{nodes} nodes"),
        };
        Self {
            ready: plan.gate() > Gate::Shut,
            epoch: format!("{:016x}", plan.epoch),
            files: 0,
            objects: 0,
            never_read: 0,
            problems: Vec::new(),
            nodes: nodes.into_values().collect(),
            policies: holders.into_iter().map(policy).collect(),
            counts: plan.counts,
            latency: None,
        }
    }
}

impl Status {
    /// Says of each policy whether it only audits, and when it expires or that it has.
    pub(crate) fn note_enforcement(&mut self, world: &World) {
        for status in &mut self.policies {
            let Some(policy) = world.written(&status.reference) else { continue };
            status.enforcement = policy.audit.then_some("Audit");
            status.expires = policy.expires.map(sluice_crds::moment_text);
            if world.is_expired(policy) {
                status.message = "Expired".to_owned();
            }
        }
    }

    /// Policies that a node needs and doesn't hold in their newest form.
    pub(crate) fn unprogrammed(&self) -> usize {
        self.policies.iter().filter(|policy| policy.programmed < policy.nodes).count()
    }
}
