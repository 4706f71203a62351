//! The engine as a judge: manifests through `sluice-crds` into a world, a view and a table, and questions put to the table.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use sluice_policy::http::{FieldLines, HttpRequest};
use sluice_policy::source::{Key, KnownName, Object, PodRef, PodSelector, PolicyKind, PolicyRef};
use sluice_policy::table::{NameSettings, Quic};
use sluice_policy::view::Scope;
use sluice_policy::world::{Edit as WorldEdit, Effects};
use sluice_policy::{Decision, Direction, Flow, IcmpMessage, Protocol, Request, Table, Verdict, View, World};

use crate::reference::{Answer, Cluster, Contents, Half, Judgement, Question};
use crate::worlds::{self, Edit};

/// One reader of a world, kept up to date by deltas.
pub(crate) struct Reader {
    view: View,
    pub(crate) table: Table,
}

/// A world, and everyone who reads it.
pub(crate) struct Engine {
    world: World,
    pub(crate) everything: Reader,
    /// One for each of the names that [`Engine::of`] was given, in their order.
    pub(crate) nodes: Vec<Reader>,
}

impl Reader {
    fn new(scope: Scope, world: &World, settings: NameSettings) -> Self {
        let mut view = View::new(scope).resolving(vec![PodSelector::kube_dns()]);
        let (table, _) = Table::with(settings).apply(&view.snapshot(world)).expect("a snapshot fits the empty table");
        Self { view, table }
    }
}

impl Engine {
    /// Compiles `edits` from nothing, for a table of everything and one for each of `nodes`.
    pub(crate) fn of(edits: impl IntoIterator<Item = WorldEdit>, nodes: &[&str]) -> Self {
        let mut world = World::new();
        world.hold_resolvers(&[PodSelector::kube_dns()]);
        world.apply(edits);
        Self::of_world(world, nodes, &NameSettings::default())
    }

    fn of_world(world: World, nodes: &[&str], settings: &NameSettings) -> Self {
        let everything = Reader::new(Scope::Everything, &world, settings.clone());
        let of_node = |node: &&str| Reader::new(Scope::Node((*node).into()), &world, settings.clone());
        let nodes = nodes.iter().map(of_node).collect();
        Self { world, everything, nodes }
    }

    pub(crate) fn of_cluster(cluster: &Cluster, nodes: &[&str]) -> Self {
        let mut engine = Self::of(cluster.objects.iter().map(|object| lower(&Edit::Put(object.clone()))), nodes);
        if cluster.inspects_quic {
            engine = Self::of_world(engine.world, nodes, &NameSettings { quic: Quic::Inspect, ..NameSettings::default() });
        }
        if let Some(now) = &cluster.now {
            engine.set_time(sluice_crds::parse_moment(now).expect("the tests write times that can be read"));
        }
        engine
    }

    /// Says what time it is.
    pub(crate) fn set_time(&mut self, now: SystemTime) {
        let effects = self.world.set_time(now);
        self.follow(&effects);
    }

    /// Applies `edits` at once, and what follows from them to each table.
    pub(crate) fn edit(&mut self, edits: impl IntoIterator<Item = WorldEdit>) {
        let effects = self.world.apply(edits);
        self.follow(&effects);
    }

    fn follow(&mut self, effects: &Effects) {
        for reader in std::iter::once(&mut self.everything).chain(&mut self.nodes) {
            let delta = reader.view.delta(&self.world, effects);
            reader.table = reader.table.apply(&delta).expect("a delta fits the state it was made for").0;
        }
    }
}

/// What `sluice-crds` makes of an edit. An object of which nothing is understood would be no edit at all; the tests draw none.
pub(crate) fn lower(edit: &Edit) -> WorldEdit {
    match edit {
        Edit::Put(manifest) if manifest["kind"] == "Name" => WorldEdit::Put(name(manifest)),
        Edit::Put(manifest) => {
            WorldEdit::Put(lowered(manifest).object.unwrap_or_else(|| panic!("nothing understood of {manifest}")))
        }
        Edit::Remove(manifest) => {
            let (kind, namespace, name) = worlds::key(manifest);
            let (namespace, name): (Arc<str>, Arc<str>) = (namespace.into(), name.into());
            let policy = |kind| Key::Policy(PolicyRef { kind, namespace: namespace.clone(), name: name.clone() });
            WorldEdit::Remove(match kind.as_str() {
                "Namespace" => Key::Namespace(name),
                "Name" => Key::Name(name),
                "Node" => Key::Node(name),
                "Pod" => Key::Pod(PodRef { namespace, name }),
                "NetworkPolicy" => policy(PolicyKind::NetworkPolicy),
                "ClusterNetworkPolicy" => policy(PolicyKind::ClusterNetworkPolicy),
                "SluiceClusterNetworkPolicy" => policy(PolicyKind::SluiceClusterNetworkPolicy),
                "SluiceNetworkPolicy" => policy(PolicyKind::SluiceNetworkPolicy),
                other => panic!("nobody removes a {other} here"),
            })
        }
    }
}

/// What DNS says of a name, which is no object of a cluster.
fn name(manifest: &Value) -> Object {
    let ips = manifest["ips"].as_array().into_iter().flatten();
    let ips = ips.map(|ip| crate::reference::read::address(ip).expect("names have addresses")).collect();
    Object::Name(KnownName { name: manifest["metadata"]["name"].as_str().expect("names are texts").into(), ips })
}

/// One manifest, by way of its text.
pub(crate) fn lowered(manifest: &Value) -> sluice_crds::Lowered {
    let manifests = sluice_crds::read(&manifest.to_string(), "a test");
    assert!(manifests.is_whole() && manifests.documents.len() == 1, "{manifest}: {:?}", manifests.errors);
    sluice_crds::lower_document(&manifests.documents[0])
}

/// Puts a question to a table.
pub(crate) fn ask(table: &Table, question: &Question<'_>) -> Verdict {
    with_flow(question, |flow| table.verdict(flow))
}

/// A table's answer in the reference's words.
pub(crate) fn judgement(table: &Table, question: &Question<'_>) -> Judgement {
    with_flow(question, |flow| {
        let verdict = table.verdict(flow);
        let half = |direction| Half {
            answer: answer(verdict.half(direction).decision),
            causes: table.by(flow, &verdict, direction).iter().map(ToString::to_string).collect(),
            all: verdict.half(direction).rule.is_none(),
        };
        Judgement { egress: half(Direction::Egress), ingress: half(Direction::Ingress) }
    })
}

/// What a table says that the Audit policies would change: the answer, and who would give it.
pub(crate) fn audit(table: &Table, question: &Question<'_>) -> Option<(Answer, Direction, BTreeSet<String>)> {
    with_flow(question, |flow| {
        let audit = table.audit(flow, &table.verdict(flow))?;
        Some((answer(audit.decision()), audit.direction, audit.by().iter().map(ToString::to_string).collect()))
    })
}

/// Whether a flow is allowed unread and what Audit policies make of it hangs on its contents.
pub(crate) fn hangs(table: &Table, question: &Question<'_>) -> bool {
    with_flow(question, |flow| table.hangs_on_contents(flow, &table.verdict(flow)))
}

/// Whether the ports that Audit policies read are this flow's, at either end.
pub(crate) fn is_read(table: &Table, question: &Question<'_>) -> bool {
    let is_read = |ip, direction| {
        let reads = table.audit_reads(ip);
        question.protocol == "TCP" && reads.is_some_and(|reads| reads.get(direction).contains(question.port))
    };
    is_read(question.from, Direction::Egress) || is_read(question.to, Direction::Ingress)
}

pub(crate) fn with_flow<T>(question: &Question<'_>, judge: impl FnOnce(&Flow<'_>) -> T) -> T {
    let protocol: Protocol = question.protocol.parse().expect("the questions name protocols the engine knows");
    let icmp = question.icmp.map(|(kind, code)| IcmpMessage { kind, code });
    let (source, destination, destination_port) = (question.from, question.to, question.port);
    let flow = |request| Flow { source, destination, protocol, destination_port, icmp, names: &[], request };
    match question.contents {
        Contents::NotRead => judge(&flow(None)),
        Contents::Other => judge(&flow(Some(Request::Opaque))),
        Contents::Lookup(name, kind) => judge(&flow(Some(Request::Lookup { name, kind }))),
        Contents::Tls(server_name) => judge(&flow(Some(Request::Tls { server_name }))),
        Contents::Http(read) => {
            let fields = FieldLines(read.headers.clone());
            let request = HttpRequest {
                method: &read.method,
                path: &read.path,
                query: read.query.as_deref(),
                host: &read.host,
                is_http2: read.http2,
                fields: &fields,
            };
            judge(&flow(Some(Request::Http(&request))))
        }
    }
}

pub(crate) fn answer(decision: Decision) -> Answer {
    match decision {
        Decision::Allow => Answer::Allow,
        Decision::Inspect => Answer::L7,
        Decision::Deny => Answer::Deny,
    }
}

/// Whether the engine's answer is the reference's: the same at both ends, and the same cause (one of the rules that could be it,
/// or all policies that isolate).
pub(crate) fn agrees(engine: &Judgement, reference: &Judgement) -> bool {
    let half = |engine: &Half, reference: &Half| {
        engine.answer == reference.answer
            && engine.all == reference.all
            && if reference.all {
                engine.causes == reference.causes
            } else {
                engine.causes.len() == 1 && engine.causes.is_subset(&reference.causes)
            }
    };
    half(&engine.egress, &reference.egress) && half(&engine.ingress, &reference.ingress)
}
