//! `sluice graph`: workloads and the outside world as nodes, what is allowed between them as edges.

mod page;
mod text;

use std::collections::BTreeMap;

use serde::Serialize;
use sluice_policy::{Decision, Direction, Reason};

use crate::args::{GraphArgs, GraphFormat};
use crate::cluster::Cluster;
use crate::config::Settings;
use crate::output::{Form, print};
use crate::progress::Progress;
use crate::reach::ports::{PortRange, PortSet};
use crate::reach::{EndId, Ranges, Reach};

/// Who reaches whom, on any port.
#[derive(Debug, Serialize)]
pub struct Graph {
    pub nodes: Vec<Node>,
    pub edges: Vec<Edge>,
    /// Edges that no policy speaks of, and that were left out.
    #[serde(rename = "leftOut")]
    pub left_out: usize,
}

/// A workload, or a part of the outside world.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Empty for what is outside.
    pub namespace: String,
    pub name: String,
    pub pods: usize,
    /// Directions in which no policy isolates its pods.
    pub open: Vec<Direction>,
}

/// What is allowed from one node to another; nodes by their index.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Edge {
    pub from: usize,
    pub to: usize,
    /// In words, with what is read marked: `TCP 80, 443`, `TCP 8080 (L7)`.
    pub label: String,
    pub ports: PortSet,
    /// Where requests are judged.
    pub read: PortSet,
    /// Only because no policy isolates either end.
    pub by_default: bool,
}

/// Draws; returns the exit status.
pub fn run(args: &GraphArgs, settings: &Settings) -> anyhow::Result<u8> {
    let cluster = Cluster::load(&args.manifests.paths);
    cluster.report(settings);
    let progress = Progress::on_terminal(settings);
    let graph = Graph::of(&cluster, &args.namespace, args.all, |done, all| progress.step("workloads asked:", done, all));
    drop(progress);
    print(settings, &graph, |paint| {
        Ok(match args.output {
            GraphFormat::Text => Form::Text(graph.to_text(paint)),
            GraphFormat::Dot => Form::Text(graph.to_dot()),
            GraphFormat::Mermaid => Form::Text(graph.to_mermaid()),
            GraphFormat::Html => Form::Text(graph.to_html()?),
            GraphFormat::Json => Form::Json,
            GraphFormat::Yaml => Form::Yaml,
        })
    })?;
    Ok(if cluster.is_whole() { 0 } else { 2 })
}

/// What flows between two ends are allowed.
struct Allowed {
    ports: PortSet,
    read: PortSet,
    by_default: bool,
}

impl Graph {
    /// Asks every pair of ends, of `namespaces` and the outside world alone if any is named. Edges that no policy speaks of are
    /// left out unless `all` are wanted: without policies everyone reaches everyone.
    pub fn of(cluster: &Cluster, namespaces: &[String], all: bool, progress: impl Fn(usize, usize)) -> Self {
        let reach = Reach::of(vec![cluster]);
        let wanted: Vec<EndId> = (0..reach.end_count())
            .filter(|end| {
                let class = reach.class(*end);
                class.is_none_or(|class| namespaces.is_empty() || namespaces.iter().any(|n| **n == *class.namespace))
            })
            .collect();
        let mut graph = Self { nodes: Vec::new(), edges: Vec::new(), left_out: 0 };
        let mut of_end: BTreeMap<EndId, Vec<usize>> = BTreeMap::new();
        for &end in &wanted {
            of_end.insert(end, graph.add_nodes(&reach, end));
        }
        let mut ranges = Ranges::default();
        for (done, &from) in wanted.iter().enumerate() {
            for &to in &wanted {
                if let Some(allowed) = allowed(&reach, from, to, &mut ranges) {
                    graph.add_edges(&of_end[&from], &of_end[&to], &allowed, all);
                }
            }
            progress(done + 1, wanted.len());
        }
        graph.forget_lonely_outside();
        graph
    }

    fn add_nodes(&mut self, reach: &Reach<'_>, end: EndId) -> Vec<usize> {
        let first = self.nodes.len();
        match reach.class(end) {
            None => {
                let part = end - reach.classes.all.len();
                let name = reach.outside.describe(&[part], 4);
                self.nodes.push(Node { namespace: String::new(), name, pods: 0, open: Vec::new() });
            }
            Some(class) => {
                let isolated = |direction| {
                    let lines = reach.program(end, 0, direction).and_then(|id| reach.versions[0].table().lines(id));
                    lines.is_some_and(|lines| !lines.isolated_by.is_empty())
                };
                let open: Vec<Direction> = Direction::BOTH.into_iter().filter(|direction| !isolated(*direction)).collect();
                let mut pods: BTreeMap<Option<usize>, usize> = BTreeMap::new();
                for pod in &class.pods {
                    *pods.entry(reach.classes.workloads.of_pod(pod)).or_default() += 1;
                }
                for (name, count) in reach.classes.describe([end]).into_iter().zip(pods.into_values()) {
                    let namespace = class.namespace.to_string();
                    let name = name.strip_prefix(&format!("{namespace}/")).unwrap_or(&name).to_owned();
                    self.nodes.push(Node { namespace, name, pods: count, open: open.clone() });
                }
            }
        }
        (first..self.nodes.len()).collect()
    }

    fn add_edges(&mut self, from: &[usize], to: &[usize], allowed: &Allowed, all: bool) {
        for (&from, &to) in from.iter().flat_map(|from| to.iter().map(move |to| (from, to))) {
            // One workload of one pod has nobody to talk to.
            if from == to && self.nodes[from].pods < 2 {
                continue;
            }
            if allowed.by_default && !all {
                self.left_out += 1;
                continue;
            }
            let words = [(&allowed.ports, ""), (&allowed.read, " (L7)")];
            let words =
                words.iter().filter(|(ports, _)| !ports.ranges().is_empty()).map(|(ports, mark)| format!("{ports}{mark}"));
            self.edges.push(Edge {
                from,
                to,
                label: words.collect::<Vec<_>>().join(", "),
                ports: allowed.ports.clone(),
                read: allowed.read.clone(),
                by_default: allowed.by_default,
            });
        }
    }

    /// Parts of the outside that no edge touches say nothing.
    fn forget_lonely_outside(&mut self) {
        let mut kept = Vec::with_capacity(self.nodes.len());
        let mut next = 0;
        for (number, node) in self.nodes.iter().enumerate() {
            let touched = self.edges.iter().any(|edge| edge.from == number || edge.to == number);
            kept.push((!node.namespace.is_empty() || touched).then(|| {
                next += 1;
                next - 1
            }));
        }
        let place = |number: usize| kept[number].unwrap_or_default();
        for edge in &mut self.edges {
            (edge.from, edge.to) = (place(edge.from), place(edge.to));
        }
        let mut number = 0;
        self.nodes.retain(|_| {
            number += 1;
            kept[number - 1].is_some()
        });
    }
}

fn allowed(reach: &Reach<'_>, from: EndId, to: EndId, known: &mut Ranges) -> Option<Allowed> {
    if reach.part(from).is_some() && reach.part(to).is_some() {
        return None;
    }
    let mut addresses = reach.addresses(from, to);
    if from == to && addresses.is_empty() {
        // A single pod always reaches itself.
        return None;
    }
    addresses.truncate(1);
    let (mut ports, mut read, mut by_default): (Vec<PortRange>, Vec<PortRange>, bool) = (Vec::new(), Vec::new(), true);
    for range in reach.ranges(from, to, known).iter() {
        let verdict = reach.verdict(0, addresses.first()?[0], range);
        match verdict.decision() {
            Decision::Allow => ports.push(*range),
            Decision::Inspect => read.push(*range),
            Decision::Deny => {}
        }
        by_default &= [verdict.egress, verdict.ingress]
            .iter()
            .all(|half| matches!(half.reason, Reason::NotIsolated | Reason::NotOurPod | Reason::FromOwnNode));
    }
    let (ports, read): (PortSet, PortSet) = (ports.into_iter().collect(), read.into_iter().collect());
    (!ports.ranges().is_empty() || !read.ranges().is_empty()).then_some(Allowed { ports, read, by_default })
}
