//! Manifests in, one table of everything out: what `eval`, `explain` and `matrix` ask.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context;
use serde::Serialize;
use sluice_crds::{Loaded, Severity};
use sluice_policy::label::Labels;
use sluice_policy::source::{Key, KnownName, Node, Object, Pod, PodRef, PodSelector, Policy, PolicyRef, plain_name};
use sluice_policy::verdict::{Half, NamedRule};
use sluice_policy::view::Scope;
use sluice_policy::world::Edit;
use sluice_policy::{Decision, Direction, Flow, Reason, Table, Verdict, View, World};

use crate::config::Settings;
use crate::ends::Ends;
use crate::flow_line::{End, Question};
use crate::output::{Paint, Tone, complain};

/// All pods and policies of some folders, in one table that judges both ends of every flow.
#[derive(Debug)]
pub struct Cluster {
    table: Table,
    pods: BTreeMap<PodRef, Pod>,
    nodes: BTreeMap<String, Node>,
    namespaces: BTreeMap<Arc<str>, Labels>,
    policies: BTreeMap<PolicyRef, Policy>,
    remarks: Vec<Remark>,
    /// The time that is asked about.
    at: SystemTime,
}

/// Something to say about the manifests. An error is what could not be read; a warning, what is probably not meant.
#[derive(Debug)]
struct Remark {
    error: bool,
    text: String,
}

/// What DNS has answered so far.
#[derive(Debug, Default)]
pub struct Names {
    addresses: HashMap<String, Vec<IpAddr>>,
}

/// Why a flow can't be judged.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Unjudgeable {
    #[error("there is no pod {0} in the manifests")]
    NoPod(PodRef),
    #[error("pod {0} has no address (status.podIPs)")]
    NoAddress(PodRef),
    #[error("pod {pod} doesn't have the address {ip}")]
    NotItsAddress { pod: PodRef, ip: IpAddr },
    #[error("pod {0} has finished: it takes no part in the network")]
    Finished(PodRef),
    #[error("nothing is known of the name {0}: give its addresses with --names")]
    UnknownName(String),
    #[error("{from} and {to} have no address of the same family (IPv4, IPv6)")]
    Families { from: String, to: String },
}

/// A verdict, and who is behind it.
#[derive(Debug)]
pub struct Judgement {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub answer: Answer,
}

/// A line of `sluice eval`.
#[derive(Debug, Serialize)]
pub struct Answer {
    pub verdict: &'static str,
    pub reason: Reason,
    pub egress: HalfAnswer,
    pub ingress: HalfAnswer,
    /// What it would be with the Audit policies in force, where that is another answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audit: Option<AuditAnswer>,
}

/// The second answer of a flow.
#[derive(Debug, Serialize)]
pub struct AuditAnswer {
    pub verdict: &'static str,
    pub reason: Reason,
    /// Whose half differs.
    pub direction: Direction,
    pub egress: HalfAnswer,
    pub ingress: HalfAnswer,
}

/// One end's half of an [`Answer`].
#[derive(Debug, Serialize)]
pub struct HalfAnswer {
    pub verdict: &'static str,
    pub reason: Reason,
    pub by: By,
}

/// Who decided: nobody, one rule, or every policy that isolates where none allows.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum By {
    Nobody,
    One(NamedRule),
    Several(Vec<NamedRule>),
}

impl AuditAnswer {
    /// What the Audit policies would change of `enforced`; `None`: nothing.
    pub fn of(table: &Table, flow: &Flow<'_>, enforced: &Verdict) -> Option<Self> {
        let audit = table.audit(flow, enforced)?;
        let half = |direction, by: &[NamedRule]| {
            let half = audit.verdict.half(direction);
            HalfAnswer { verdict: half.decision.as_str(), reason: half.reason, by: by.to_vec().into() }
        };
        Some(Self {
            verdict: audit.decision().as_str(),
            reason: audit.reason(),
            direction: audit.direction,
            egress: half(Direction::Egress, &audit.egress_by),
            ingress: half(Direction::Ingress, &audit.ingress_by),
        })
    }

    /// The half that differs.
    pub fn half(&self) -> &HalfAnswer {
        match self.direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

impl By {
    pub fn as_slice(&self) -> &[NamedRule] {
        match self {
            Self::Nobody => &[],
            Self::One(rule) => std::slice::from_ref(rule),
            Self::Several(rules) => rules,
        }
    }
}

impl From<Vec<NamedRule>> for By {
    fn from(mut rules: Vec<NamedRule>) -> Self {
        match (rules.len(), rules.pop()) {
            (1, Some(only)) => Self::One(only),
            (_, None) => Self::Nobody,
            (_, Some(last)) => {
                rules.push(last);
                Self::Several(rules)
            }
        }
    }
}

impl Names {
    /// Reads `{"name": ["address", ..]}`.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let listed: HashMap<String, Vec<IpAddr>> =
            serde_json::from_str(&text).with_context(|| format!("{}: not {{\"name\": [\"address\", ..]}}", path.display()))?;
        let mut names = Self::default();
        names.add(listed);
        Ok(names)
    }

    /// The addresses of a name, however it is spelt.
    pub(crate) fn of(&self, name: &str) -> Option<&[IpAddr]> {
        self.addresses.get(&plain_name(name)).map(Vec::as_slice)
    }

    /// Gives a name that nothing is known of an address of the Internet that stands for what DNS would say, one of each family. They
    /// are for documentation (RFC 5737, RFC 3849), so nobody's rule means them.
    pub fn stand_in_for(&mut self, end: &End) {
        if let End::Name(name) = end
            && self.of(name).is_none()
        {
            let stand_ins = [IpAddr::from([203, 0, 113, 254]), IpAddr::from([0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe])];
            self.add([(name.clone(), stand_ins.to_vec())]);
        }
    }

    /// Adds these names, each in the place of what it was.
    pub fn add(&mut self, listed: impl IntoIterator<Item = (String, Vec<IpAddr>)>) {
        self.addresses.extend(listed.into_iter().map(|(name, ips)| (plain_name(&name), ips)));
    }
}

impl Cluster {
    /// Reads manifest files, and folders of them. What can't be read is reported by [`Cluster::report`], and costs only itself.
    pub fn load(paths: &[PathBuf]) -> Self {
        Self::load_with(paths, &Names::default())
    }

    /// [`Cluster::load`], where `names` have these addresses for rules that go by name.
    pub fn load_with(paths: &[PathBuf], names: &Names) -> Self {
        Self::load_at(paths, names, SystemTime::now())
    }

    /// [`Cluster::load_with`], at another time than now: of the policies that expire, what is in force is in force then.
    pub fn load_at(paths: &[PathBuf], names: &Names, at: SystemTime) -> Self {
        Self::of(sluice_crds::load(paths), names, at)
    }

    /// [`Cluster::load_at`], with the pods alone that `question` is about: no other pod's labels count for a flow. A pod that claims
    /// an address of theirs is one of them.
    ///
    /// Other pods aren't read at all where they can be told without it, and then their errors aren't seen.
    pub fn load_for(paths: &[PathBuf], names: &Names, at: SystemTime, question: &Question) -> Self {
        Self::of(Ends::of(question, names).load(paths), names, at)
    }

    fn of(loaded: Loaded, names: &Names, at: SystemTime) -> Self {
        let mut world = World::new();
        world.hold_resolvers(&[PodSelector::kube_dns()]);
        world.set_time(at);
        let known = names.addresses.iter().map(|(name, ips)| KnownName { name: name.as_str().into(), ips: ips.clone() });
        let mut cluster = Self::unjudged(&loaded, at);
        world.apply(loaded.into_edits().chain(known.map(|known| Edit::Put(Object::Name(known)))));
        cluster.remarks.extend(expired(&world));
        cluster.table = table_of(&world);
        cluster
    }

    /// Two versions of one cluster. The numbers of identities, sets, policies and programs mean the same in both tables.
    pub fn versions(old: Loaded, new: Loaded) -> (Self, Self) {
        let at = SystemTime::now();
        let (mut before, mut after) = (Self::unjudged(&old, at), Self::unjudged(&new, at));
        let new: HashMap<Key, Object> = new.objects.into_iter().map(|object| (object.key(), object)).collect();
        let mut edits = Vec::new();
        let mut kept = HashSet::new();
        for object in &old.objects {
            let key = object.key();
            match new.get(&key) {
                Some(same) if same == object => drop(kept.insert(key)),
                Some(_) => {}
                None => edits.push(Edit::Remove(key)),
            }
        }
        edits.extend(new.into_iter().filter(|(key, _)| !kept.contains(key)).map(|(_, object)| Edit::Put(object)));
        // Pods and policies are numbered in the order of their edits.
        edits.sort_by_cached_key(|edit| match edit {
            Edit::Put(object) => object.key(),
            Edit::Remove(key) => key.clone(),
        });
        let mut world = World::new();
        world.hold_resolvers(&[PodSelector::kube_dns()]);
        world.set_time(at);
        world.apply(old.into_edits());
        before.remarks.extend(expired(&world));
        before.table = table_of(&world);
        world.apply(edits);
        after.remarks.extend(expired(&world));
        after.table = table_of(&world);
        (before, after)
    }

    /// The objects and remarks, with a table that is still empty.
    fn unjudged(loaded: &Loaded, at: SystemTime) -> Self {
        let mut remarks: Vec<Remark> = loaded.unreadable.iter().map(|e| Remark { error: true, text: e.to_string() }).collect();
        remarks.extend(
            loaded
                .diagnostics
                .iter()
                .map(|diagnostic| Remark { error: diagnostic.severity == Severity::Error, text: diagnostic.to_string() }),
        );
        let mut pods = BTreeMap::new();
        let mut nodes = BTreeMap::new();
        let mut namespaces = BTreeMap::new();
        let mut policies = BTreeMap::new();
        for object in &loaded.objects {
            match object {
                Object::Pod(pod) => drop(pods.insert(pod.reference.clone(), pod.clone())),
                Object::Node(node) => drop(nodes.insert(node.name.to_string(), node.clone())),
                // Nothing in a manifest says what a name is.
                Object::Name(_) => {}
                Object::Policy(policy) => drop(policies.insert(policy.reference.clone(), policy.clone())),
                Object::Namespace(namespace) => drop(namespaces.insert(namespace.name.clone(), namespace.labels.clone())),
            }
        }
        Self { table: Table::empty(), pods, nodes, namespaces, policies, remarks, at }
    }

    /// Whether everything was read.
    pub fn is_whole(&self) -> bool {
        self.remarks.iter().all(|remark| !remark.error)
    }

    /// What could not be read, one line each.
    pub fn errors(&self) -> impl Iterator<Item = &str> {
        self.remarks.iter().filter(|remark| remark.error).map(|remark| remark.text.as_str())
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    pub fn pod(&self, reference: &PodRef) -> Option<&Pod> {
        self.pods.get(reference)
    }

    /// Says on standard error what could not be read, and what is probably not meant.
    pub fn report(&self, settings: &Settings) {
        self.say(&self.remarks.iter().collect::<Vec<_>>(), settings);
    }

    /// [`Cluster::report`], of what wasn't said of `other`.
    pub fn report_beyond(&self, other: &Self, settings: &Settings) {
        let said: HashSet<&str> = other.remarks.iter().map(|remark| remark.text.as_str()).collect();
        self.say(&self.remarks.iter().filter(|remark| !said.contains(remark.text.as_str())).collect::<Vec<_>>(), settings);
    }

    fn say(&self, remarks: &[&Remark], settings: &Settings) {
        let paint = Paint::for_terminal(settings, &io::stderr());
        for remark in remarks {
            if remark.error {
                complain(settings, &remark.text);
            } else {
                eprintln!("{} {}", paint.paint(Tone::Depends, "warning:"), remark.text);
            }
        }
    }

    /// The pods that take part in the network, sorted.
    pub fn live_pods(&self) -> impl Iterator<Item = &PodRef> {
        self.pods.values().filter(|pod| !pod.finished && !pod.ips.is_empty()).map(|pod| &pod.reference)
    }

    /// All pods, also those that take no part in the network, sorted.
    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// All policies as their authors wrote them, sorted.
    pub fn policies(&self) -> impl Iterator<Item = &Policy> {
        self.policies.values()
    }

    /// A policy as its author wrote it.
    pub fn policy(&self, reference: &PolicyRef) -> Option<&Policy> {
        self.policies.get(reference)
    }

    /// Whether a policy has expired: it is as if absent.
    pub fn is_expired(&self, reference: &PolicyRef) -> bool {
        self.policies.get(reference).and_then(|policy| policy.expires).is_some_and(|expires| expires <= self.at)
    }

    /// The nodes that the manifests define.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// The labels of a namespace; one that no manifest defines has its name alone.
    pub fn namespace_labels(&self, name: &Arc<str>) -> Labels {
        let implied = || Labels::from([("kubernetes.io/metadata.name".into(), name.clone())]);
        self.namespaces.get(name).cloned().unwrap_or_else(implied)
    }

    /// The pod that has `ip`.
    pub fn pod_at(&self, ip: IpAddr) -> Option<&PodRef> {
        self.table.endpoint(ip).map(|endpoint| &endpoint.pod)
    }

    /// Judges a flow, and names who decided.
    pub fn judge(&self, question: &Question, names: &Names) -> Result<Judgement, Unjudgeable> {
        self.asked(question, names, |flow, verdict| {
            let half = |direction| {
                let half = verdict.half(direction);
                HalfAnswer {
                    verdict: half.decision.as_str(),
                    reason: half.reason,
                    by: self.table.by(flow, &verdict, direction).into(),
                }
            };
            Judgement {
                source: flow.source,
                destination: flow.destination,
                answer: Answer {
                    verdict: verdict.decision().as_str(),
                    reason: verdict.reason(),
                    egress: half(Direction::Egress),
                    ingress: half(Direction::Ingress),
                    audit: AuditAnswer::of(&self.table, flow, &verdict),
                },
            }
        })
    }

    /// Judges a flow.
    pub fn verdict(&self, question: &Question, names: &Names) -> Result<Verdict, Unjudgeable> {
        self.asked(question, names, |_, verdict| verdict)
    }

    /// Makes a question the engine's flow, judges it, and hands both on: a flow borrows its request.
    pub fn asked<T>(
        &self,
        question: &Question,
        names: &Names,
        then: impl FnOnce(&Flow<'_>, Verdict) -> T,
    ) -> Result<T, Unjudgeable> {
        let (source, destination) = self.addresses(question, names)?;
        let Question { protocol, port, icmp, .. } = question;
        let flow =
            Flow { source, destination, protocol: *protocol, destination_port: *port, icmp: *icmp, names: &[], request: None };
        let Some(contents) = &question.contents else {
            let verdict = self.table.verdict(&flow);
            return Ok(then(&flow, verdict));
        };
        Ok(contents.judged(|request| match request {
            Ok(request) => {
                let flow = Flow { request: Some(request), ..flow };
                then(&flow, self.table.verdict(&flow))
            }
            // As the proxy does: what can't be read safely is denied wherever it would have been read.
            Err(_) => then(&flow, malformed(self.table.verdict(&flow))),
        }))
    }

    /// The addresses of both ends, of one family.
    fn addresses(&self, question: &Question, names: &Names) -> Result<(IpAddr, IpAddr), Unjudgeable> {
        let from = self.candidates(&question.from, names)?;
        let to = self.candidates(&question.to, names)?;
        for source in &from {
            if let Some(destination) = to.iter().find(|ip| ip.is_ipv4() == source.is_ipv4()) {
                return Ok((*source, *destination));
            }
        }
        Err(Unjudgeable::Families { from: question.from.to_string(), to: question.to.to_string() })
    }

    fn candidates(&self, end: &End, names: &Names) -> Result<Vec<IpAddr>, Unjudgeable> {
        match end {
            End::Ip(ip) => Ok(vec![*ip]),
            End::Name(name) => names.of(name).map(<[IpAddr]>::to_vec).ok_or_else(|| Unjudgeable::UnknownName(name.clone())),
            End::Pod(reference, wanted) => {
                let pod = self.pods.get(reference).ok_or_else(|| Unjudgeable::NoPod(reference.clone()))?;
                match wanted {
                    _ if pod.finished => Err(Unjudgeable::Finished(reference.clone())),
                    _ if pod.ips.is_empty() => Err(Unjudgeable::NoAddress(reference.clone())),
                    Some(ip) if !pod.ips.contains(ip) => Err(Unjudgeable::NotItsAddress { pod: reference.clone(), ip: *ip }),
                    Some(ip) => Ok(vec![*ip]),
                    None => Ok(pod.ips.clone()),
                }
            }
        }
    }
}

/// What is said of the policies whose time is over.
fn expired(world: &World) -> Vec<Remark> {
    let remark = |(policy, at)| Remark {
        error: false,
        text: format!("{policy}: Expired at {}: as if it were absent", sluice_crds::moment_text(at)),
    };
    world.expired().into_iter().map(remark).collect()
}

fn table_of(world: &World) -> Table {
    let changes = View::new(Scope::Everything).resolving(vec![PodSelector::kube_dns()]).snapshot(world);
    let (table, _) = Table::empty().apply(&changes).expect("a snapshot refers to nothing but itself");
    table
}

/// What becomes of a request that can't be read: denied at each end that would have read it.
fn malformed(mut verdict: Verdict) -> Verdict {
    for half in [&mut verdict.egress, &mut verdict.ingress] {
        if half.decision == Decision::Inspect {
            *half = Half::deny(Reason::MalformedRequest);
        }
    }
    verdict
}
