//! What people and the cluster say, in the engine's own words: inventory (namespaces, pods, nodes) and policies.
//!
//! `sluice-crds` makes these from Kubernetes objects. They are what was *understood*: a rule that can't be read arrives as
//! [`Rule::unreadable`], never as nothing, so that its pods stay isolated.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::flow::{Direction, IcmpFamily, IcmpMessage, Protocol};
use crate::http::{GrpcMatch, HttpMatch};
use crate::label::{Labels, Operator, Requirement, Selector};

pub use crate::name::{NamePattern, plain_name};

/// One object of the cluster. Objects of the same key replace each other.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    Namespace(Namespace),
    Pod(Pod),
    Node(Node),
    Name(KnownName),
    Policy(Policy),
}

/// What identifies an [`Object`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Key {
    Namespace(Arc<str>),
    Pod(PodRef),
    Node(Arc<str>),
    /// In lower case, without a final dot.
    Name(Arc<str>),
    Policy(PolicyRef),
}

impl std::fmt::Display for Key {
    /// `Pod shop/web`, `Node node-1`, `NetworkPolicy shop/backend`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Namespace(name) => write!(f, "Namespace {name}"),
            Self::Pod(pod) => write!(f, "Pod {pod}"),
            Self::Node(name) => write!(f, "Node {name}"),
            Self::Name(name) => write!(f, "name {name}"),
            Self::Policy(policy) => policy.fmt(f),
        }
    }
}

impl Object {
    pub fn key(&self) -> Key {
        match self {
            Self::Namespace(n) => Key::Namespace(n.name.clone()),
            Self::Pod(p) => Key::Pod(p.reference.clone()),
            Self::Node(n) => Key::Node(n.name.clone()),
            Self::Name(n) => Key::Name(n.name.clone()),
            Self::Policy(p) => Key::Policy(p.reference.clone()),
        }
    }
}

/// A namespace. `kubernetes.io/metadata.name` is among its labels, whether the manifest says so or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    pub name: Arc<str>,
    pub labels: Labels,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PodRef {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl std::fmt::Display for PodRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub reference: PodRef,
    pub labels: Labels,
    /// `status.podIPs`. Empty while the pod has none.
    pub ips: Vec<IpAddr>,
    /// `spec.nodeName`; `None` while it is not scheduled.
    pub node: Option<Arc<str>>,
    /// Such a pod is never selected, as subject or as peer: its address is its node's.
    pub host_network: bool,
    /// Phase `Succeeded` or `Failed`: its address may already be another's.
    pub finished: bool,
    pub service_account: Arc<str>,
    pub ports: Vec<NamedPort>,
}

/// A port of a pod that has a name. Init containers' are not among them.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamedPort {
    pub name: Arc<str>,
    pub protocol: Protocol,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    pub labels: Labels,
    /// `status.addresses` of the types InternalIP and ExternalIP.
    pub ips: Vec<IpAddr>,
    /// `spec.podCIDRs`. An address in them that no pod claims is closed on this node.
    pub pod_cidrs: Vec<IpNet>,
}

/// What DNS is known to say of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownName {
    /// In lower case, without a final dot.
    pub name: Arc<str>,
    pub ips: Vec<IpAddr>,
}

/// Which object a policy is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRef {
    pub kind: PolicyKind,
    /// Empty for the cluster kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PolicyKind {
    NetworkPolicy,
    ClusterNetworkPolicy,
    SluiceNetworkPolicy,
    SluiceClusterNetworkPolicy,
}

impl PolicyKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NetworkPolicy => "NetworkPolicy",
            Self::ClusterNetworkPolicy => "ClusterNetworkPolicy",
            Self::SluiceNetworkPolicy => "SluiceNetworkPolicy",
            Self::SluiceClusterNetworkPolicy => "SluiceClusterNetworkPolicy",
        }
    }
}

impl std::fmt::Display for PolicyRef {
    /// `NetworkPolicy production/backend`, `ClusterNetworkPolicy guard`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            write!(f, "{} {}", self.kind.as_str(), self.name)
        } else {
            write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
        }
    }
}

/// Where a policy stands in the order. Lower `priority` is judged first.
///
/// Admin -> Deny rules of our kinds -> additive (the union of all allows; isolation) -> Baseline -> allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tier {
    Admin { priority: u16 },
    Additive,
    Baseline { priority: u16 },
}

/// A policy as it was understood.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub reference: PolicyRef,
    pub tier: Tier,
    pub subject: PodSelector,
    /// Directions in which the subjects are isolated (additive tier) or judged (others): `policyTypes`, after its defaults.
    pub ingress: bool,
    pub egress: bool,
    /// `enforcement: Audit`: what it would change is reported, and nothing is changed.
    pub audit: bool,
    /// From then on the policy is as if absent.
    pub expires: Option<SystemTime>,
    /// In the order of the manifest: ingress rules and egress rules.
    pub rules: Vec<Rule>,
}

/// Pods: by namespace and labels. Never outside addresses, never host-network pods.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodSelector {
    pub namespaces: Namespaces,
    pub pods: Selector,
}

impl PodSelector {
    /// The pods that answer for DNS in nearly every cluster: `k8s-app: kube-dns` in kube-system.
    pub fn kube_dns() -> Self {
        let app = Requirement { key: "k8s-app".into(), operator: Operator::In, values: vec!["kube-dns".into()] };
        Self { namespaces: Namespaces::Named("kube-system".into()), pods: Selector::new([app]) }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Namespaces {
    /// Exactly this one: a `podSelector` without `namespaceSelector`.
    Named(Arc<str>),
    /// All that the selector matches.
    Matching(Selector),
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Action {
    /// Allows. In the Admin tier (`Accept`) this ends the walk, L7 included; elsewhere it is one of a union.
    Allow,
    Deny,
    /// Admin tier: leave the decision to the tiers below.
    Pass,
}

/// One rule of a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pub direction: Direction,
    /// The rule's field path below `spec`: `ingress[0]`.
    pub path: Arc<str>,
    pub action: Action,
    /// OR. `None`: everyone (`from`/`to` absent or empty). `Some(vec![])`: nobody (all entries unreadable).
    pub peers: Option<Vec<Peer>>,
    /// OR. `None`: all ports of all protocols. `Some(vec![])`: none.
    pub ports: Option<Vec<PortMatch>>,
    pub l7: Option<L7>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Peer {
    Pods(PodSelector),
    /// Any address in `cidr` and in no `except`, a pod's or not. Both are in canonical form (host bits zero).
    Block {
        cidr: IpNet,
        except: Vec<IpNet>,
    },
    /// Nodes by their labels: their addresses, and so the pods on them that have the node's network.
    Nodes(Selector),
    /// The addresses that DNS has told the source of these names: `domainNames`, `fqdns`.
    Names(Named),
}

/// What a rule says of names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    pub patterns: Vec<NamePattern>,
    /// Whether a name may have an address of the cluster, or one that is nobody's on the Internet. Without it, whoever answers for the
    /// name could open the way to any of these. Of a Deny always: it denies wherever the name leads.
    pub allow_private: bool,
    /// Whether the server name or Host of a connection must be one of the names, too, where the node looks at these.
    pub name_check: bool,
}

impl Named {
    /// `name` is as for [`NamePattern::matches`].
    pub fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(name))
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum PortMatch {
    /// All ports of one protocol.
    All { protocol: Protocol },
    /// `first..=last`.
    Range { protocol: Protocol, first: u16, last: u16 },
    /// By the name it has on the destination's pod. A pod without that name and protocol is not matched.
    Named { protocol: Protocol, name: Arc<str> },
    /// Messages of ICMP: they stand where ports stand, and a rule that has both matches either.
    Icmp(IcmpMatch),
}

/// Which messages of ICMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct IcmpMatch {
    pub family: IcmpFamily,
    /// `None`: every type.
    pub kind: Option<u8>,
    /// `None`: every code. Never without `kind`.
    pub code: Option<u8>,
}

impl IcmpMatch {
    pub fn matches(&self, family: IcmpFamily, message: IcmpMessage) -> bool {
        self.family == family
            && self.kind.is_none_or(|kind| kind == message.kind)
            && self.code.is_none_or(|code| code == message.code)
    }
}

impl std::fmt::Display for IcmpMatch {
    /// `ICMPv6`, `ICMP for IPv4 type 8`, `ICMPv6 type 1 code 4`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.family {
            IcmpFamily::V4 => "ICMP for IPv4",
            IcmpFamily::V6 => "ICMPv6",
        })?;
        if let Some(kind) = self.kind {
            write!(f, " type {kind}")?;
        }
        if let Some(code) = self.code {
            write!(f, " code {code}")?;
        }
        Ok(())
    }
}

/// What a rule says about contents. A rule has at most one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum L7 {
    /// OR over the items. An item of an Allow that could not be read is left out; if none is left nothing matches.
    Http(Vec<HttpMatch>),
    /// Calls of gRPC over HTTP/2. OR over the items.
    Grpc(Vec<GrpcMatch>),
    /// TLS, by the name that the client asks for. OR over the items.
    Tls(Vec<TlsMatch>),
    /// Look-ups of names, of egress alone. OR over the items.
    Dns(Vec<DnsMatch>),
}

/// One item of `dns`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DnsMatch {
    /// The item's index in the manifest's list.
    pub index: u16,
    /// `None`, in a Deny alone: it could not be read, so it is every name.
    pub name: Option<NamePattern>,
    /// Types of records by their IANA numbers, ascending. Empty: every type.
    pub types: Vec<u16>,
}

/// One entry of `tls.serverNames`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct TlsMatch {
    /// The entry's index in the manifest's list.
    pub index: u16,
    /// `None`, in a Deny alone: it could not be read, so it is every name.
    pub name: Option<NamePattern>,
}

impl DnsMatch {
    /// `name` is as for [`NamePattern::matches`].
    pub fn is_of_name(&self, name: &str) -> bool {
        self.name.as_ref().is_none_or(|pattern| pattern.matches(name))
    }

    /// `kind` is an IANA number.
    pub fn is_of_type(&self, kind: u16) -> bool {
        self.types.is_empty() || self.types.contains(&kind)
    }
}

impl TlsMatch {
    /// `server_name` in any case, with a final dot or without.
    pub fn matches(&self, server_name: &str) -> bool {
        self.name.as_ref().is_none_or(|pattern| pattern.matches(&plain_name(server_name)))
    }
}

impl L7 {
    /// Whether no item could be read.
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Http(items) => items.is_empty(),
            Self::Grpc(items) => items.is_empty(),
            Self::Tls(items) => items.is_empty(),
            Self::Dns(items) => items.is_empty(),
        }
    }

    /// Where item `index` stands below its rule: `http[1]`.
    pub fn item_path(&self, index: u16) -> String {
        match self {
            Self::Http(_) => format!("http[{index}]"),
            Self::Grpc(_) => format!("grpc[{index}]"),
            Self::Tls(_) => format!("tls.serverNames[{index}]"),
            Self::Dns(_) => format!("dns[{index}]"),
        }
    }
}

impl Rule {
    /// The rule that takes the place of one that can't be read: an allow that matches nothing, a deny that matches everything.
    pub fn unreadable(direction: Direction, path: Arc<str>, action: Action) -> Self {
        let nothing = matches!(action, Action::Allow);
        Self { direction, path, action, peers: nothing.then(Vec::new), ports: None, l7: None }
    }
}
