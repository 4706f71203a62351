//! What a node has to know, and how it changes.
//!
//! A snapshot is the list of [`Change`]s that leads from nothing to a state; a delta is a list that leads from one state to
//! the next. Within one list the order is free for the sender, and what a change refers to may come later in the same list:
//! the list is applied as a whole or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::flow::{Direction, Protocol};
use crate::source::{Action, L7, Named, NamedPort, PodRef, PolicyRef, PortMatch, Tier};

macro_rules! id {
    ($($(#[doc = $doc:literal])+ $name:ident),+ $(,)?) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub struct $name(pub u32);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    )+};
}

id! {
    /// Pods that answer every selector alike. Never renumbered, never reused.
    IdentityId,
    /// A policy object. A policy that changes keeps its number.
    PolicyId,
    /// The pods that one selector matches.
    SetId,
    /// The policies that judge one kind of pod in one direction.
    ProgramId,
}

/// Counts the states of one node's feed, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u64);

impl std::fmt::Display for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One step from a state to the next. `Put` adds or replaces.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// The node itself: exactly one in a node's snapshot. A table of everything has one for each node.
    PutNode(NodeFacts),
    PutPolicy(PolicyId, Arc<Policy>),
    DropPolicy(PolicyId),
    /// Adds and removes members of a set; a set that doesn't exist yet begins empty.
    EditSet {
        set: SetId,
        add: Vec<IdentityId>,
        remove: Vec<IdentityId>,
    },
    DropSet(SetId),
    PutProgram(ProgramId, Program),
    DropProgram(ProgramId),
    /// Which programs judge the local pods of an identity. Identities that only appear as peers have none.
    PutIdentity(IdentityId, Programs),
    DropIdentity(IdentityId),
    PutEndpoint(IpAddr, Arc<Endpoint>),
    DropEndpoint(IpAddr),
    /// Where the cluster itself is: its nodes, the ranges of their pods, and pods outside of these. In the place of what was said before.
    PutCluster(Arc<[IpNet]>),
    /// The pods that are the cluster's resolvers: those of these sets. In the place of what was said before.
    PutResolvers(Vec<SetId>),
    /// What DNS says of names to every pod, for who asks with a list of them. Never on the wire: a node learns what its pods are told.
    PutNames(Arc<KnownNames>),
    /// One of the others, for the second table, in which the Audit policies are in force too. Its numbers are its own.
    Audit(Box<Change>),
    /// There is no second table any more. Whatever the list says of it holds behind this.
    DropAudit,
}

/// Facts about the node whose table it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    pub name: Arc<str>,
    /// Traffic from these addresses to local pods is always allowed.
    pub ips: Vec<IpAddr>,
    /// An address in here that is no endpoint is a pod we don't know yet: closed.
    pub pod_cidrs: Vec<IpNet>,
}

/// A policy with its selectors resolved to sets.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub reference: PolicyRef,
    pub tier: Tier,
    /// Whether it isolates (additive) or judges (other tiers) its subjects in this direction.
    pub ingress: bool,
    pub egress: bool,
    /// Only ever in the second table: see [`Change::Audit`].
    pub audit: bool,
    pub rules: Vec<Rule>,
}

impl Policy {
    pub fn governs(&self, direction: Direction) -> bool {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub direction: Direction,
    /// Field path below `spec`: `ingress[0]`.
    pub path: Arc<str>,
    pub action: Action,
    /// OR; `None`: everyone; `Some([])`: nobody.
    pub peers: Option<Vec<Peer>>,
    /// OR; `None`: all ports of all protocols; `Some([])`: none.
    pub ports: Option<Vec<PortMatch>>,
    pub l7: Option<L7>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    Set(SetId),
    Block {
        cidr: IpNet,
        except: Vec<IpNet>,
    },
    /// The addresses that the source was told of these names. Of egress alone.
    Names(Arc<Named>),
    /// The resolvers that the source may ask for the names of its rules. Never in a policy: lines of programs have it.
    Resolvers,
}

/// Names by the addresses that they have.
pub type KnownNames = BTreeMap<IpAddr, Vec<Arc<str>>>;

/// The policies that judge one kind of pod in one direction, sorted by [`PolicyId`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    pub direction: Direction,
    pub policies: Vec<PolicyId>,
}

/// `None`: no policy of any tier selects the pod in this direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Programs {
    pub ingress: Option<ProgramId>,
    pub egress: Option<ProgramId>,
}

impl Programs {
    pub fn get(&self, direction: Direction) -> Option<ProgramId> {
        match direction {
            Direction::Ingress => self.ingress,
            Direction::Egress => self.egress,
        }
    }
}

/// One address of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub pod: PodRef,
    pub identity: IdentityId,
    /// On this node: judged here.
    pub local: bool,
    /// Another live pod claims the address too: all its traffic is denied.
    pub conflict: bool,
    /// The node that the pod is on, in a table of everything. `None` in a node's own table, and never on the wire: there, local
    /// says it.
    pub host: Option<Arc<str>>,
    pub ports: Arc<[NamedPort]>,
}

impl Endpoint {
    /// The numbers that the pod's ports of this name have.
    pub(crate) fn ports_named(&self, protocol: Protocol, name: &str) -> impl Iterator<Item = u16> {
        self.ports.iter().filter(move |port| port.protocol == protocol && *port.name == *name).map(|port| port.port)
    }
}
