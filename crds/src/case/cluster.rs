//! A case's cluster as it changes from state to state.

use std::collections::{BTreeMap, HashMap};
use std::time::SystemTime;

use sluice_policy::source::{Key, KnownName, Namespace, Object, PodRef, plain_name};
use sluice_policy::verdict::Decision;
use sluice_policy::world::Edit;

use super::written::{self, Action, WrittenPod};
use super::{Case, End, Probe, State};
use crate::diagnostic::Diagnostic;
use crate::lower::lower;
use crate::time::parse_moment;
use crate::value::Value;

/// Reads one case from its line of JSON.
pub(super) fn parse_case(json: &str) -> Result<Case, String> {
    let case: written::Case = serde_json::from_str(json).map_err(|e| e.to_string())?;
    let mut cluster = Cluster::default();
    let mut first = Vec::new();
    for namespace in &case.namespaces {
        first.push(put_namespace(&namespace.name, &namespace.labels));
    }
    for node in &case.nodes {
        first.push(Edit::Put(Object::Node(node.to_source())));
    }
    for (name, ips) in &case.domains {
        first.push(Edit::Put(Object::Name(KnownName { name: plain_name(name).into(), ips: ips.clone() })));
    }
    for pod in case.pods {
        first.push(cluster.put_pod(pod));
    }
    for policy in &case.policies {
        first.extend(cluster.put_policy(policy));
    }
    let probes = cluster.probes(&case.probes, &case.tables)?;
    let mut states = vec![State { now: time(case.now.as_deref())?, edits: first, probes }];
    for step in case.steps {
        let now = time(step.now.as_deref())?;
        let mut edits = Vec::new();
        for action in step.actions {
            cluster.act(action, &mut edits)?;
        }
        let probes = cluster.probes(&step.probes, &step.tables)?;
        states.push(State { now, edits, probes });
    }
    let written::Case { name, family, title, tags, .. } = case;
    Ok(Case { name, family, title, tags, states, diagnostics: cluster.diagnostics })
}

fn time(written: Option<&str>) -> Result<Option<SystemTime>, String> {
    let parse = |written| parse_moment(written).ok_or_else(|| format!("now: {written:?} is no time"));
    written.map(parse).transpose()
}

/// What the steps have to know of the states before them.
#[derive(Default)]
struct Cluster {
    pods: HashMap<PodRef, WrittenPod>,
    policies: Vec<Key>,
    diagnostics: Vec<Diagnostic>,
}

impl Cluster {
    fn put_pod(&mut self, pod: WrittenPod) -> Edit {
        let edit = Edit::Put(Object::Pod(pod.to_source()));
        self.pods.insert(pod.reference(), pod);
        edit
    }

    fn put_policy(&mut self, manifest: &serde_json::Value) -> Option<Edit> {
        let lowered = lower(&Value::from(manifest));
        self.diagnostics.extend(lowered.diagnostics);
        self.policies.extend(lowered.key);
        lowered.object.map(Edit::Put)
    }

    fn act(&mut self, action: Action, edits: &mut Vec<Edit>) -> Result<(), String> {
        match action {
            Action::CreatePolicy { policy } | Action::UpdatePolicy { policy } => edits.extend(self.put_policy(&policy)),
            Action::DeletePolicy { kind, ns, name } => {
                let namespace = ns.unwrap_or_default();
                let is_it = |key: &Key| match key {
                    Key::Policy(p) => p.kind.as_str() == kind && *p.namespace == *namespace && *p.name == *name,
                    _ => false,
                };
                if !self.policies.iter().any(is_it) {
                    return Err(format!("delete-policy: there is no {kind} {namespace}/{name}"));
                }
                edits.extend(take(&mut self.policies, is_it).into_iter().map(Edit::Remove));
            }
            Action::CreateNamespace { ns, labels } | Action::SetNamespaceLabels { ns, labels } => {
                edits.push(put_namespace(&ns, &labels));
            }
            Action::DeleteNamespace { ns } => {
                let inside = |key: &Key| matches!(key, Key::Policy(p) if *p.namespace == *ns);
                edits.extend(take(&mut self.policies, inside).into_iter().map(Edit::Remove));
                let mut pods: Vec<PodRef> = self.pods.keys().filter(|p| *p.namespace == *ns).cloned().collect();
                pods.sort();
                for pod in pods {
                    self.pods.remove(&pod);
                    edits.push(Edit::Remove(Key::Pod(pod)));
                }
                edits.push(Edit::Remove(Key::Namespace(ns.into())));
            }
            Action::CreatePod { pod } => edits.push(self.put_pod(pod)),
            Action::SetPodLabels { ns, name, labels } => {
                let reference = PodRef { namespace: ns.into(), name: name.into() };
                let Some(mut pod) = self.pods.remove(&reference) else {
                    return Err(format!("set-pod-labels: there is no pod {reference}"));
                };
                pod.labels = labels;
                edits.push(self.put_pod(pod));
            }
            Action::DeletePod { ns, name } => {
                let reference = PodRef { namespace: ns.into(), name: name.into() };
                if self.pods.remove(&reference).is_none() {
                    return Err(format!("delete-pod: there is no pod {reference}"));
                }
                edits.push(Edit::Remove(Key::Pod(reference)));
            }
        }
        Ok(())
    }

    fn probes(&self, probes: &[written::Probe], tables: &[written::Table]) -> Result<Vec<Probe>, String> {
        let mut all = Vec::new();
        for probe in probes {
            all.push(Probe {
                from: self.end(&probe.from)?,
                to: self.end(&probe.to)?,
                port: probe.port,
                protocol: probe.protocol,
                icmp: probe.icmp,
                contents: probe.contents()?,
                expect: probe.expect.into(),
                audit: probe.audit.map(Decision::from),
            });
        }
        for table in tables {
            self.unroll(table, &mut all)?;
        }
        Ok(all)
    }

    fn unroll(&self, table: &written::Table, probes: &mut Vec<Probe>) -> Result<(), String> {
        let mut ends = Vec::new();
        for name in &table.order {
            let (ns, pod) = name.split_once('/').ok_or_else(|| format!("table: {name:?} is not ns/pod"))?;
            ends.push(self.end(&written::End { ns: Some(ns.to_owned()), pod: Some(pod.to_owned()), ip: None })?);
        }
        if table.rows.len() != ends.len() {
            return Err(format!("table: {} rows for {} pods", table.rows.len(), ends.len()));
        }
        for on in &table.on {
            for (from, row) in ends.iter().zip(&table.rows) {
                if row.chars().count() != ends.len() {
                    return Err(format!("table: the row {row:?} is not {} long", ends.len()));
                }
                for (to, cell) in ends.iter().zip(row.chars()) {
                    let expect = match cell {
                        '1' => Decision::Allow,
                        '0' => Decision::Deny,
                        '.' => continue,
                        other => return Err(format!("table: {other:?} is none of 1, 0 and .")),
                    };
                    let (from, to) = (from.clone(), to.clone());
                    let (port, protocol) = (on.port, on.protocol);
                    probes.push(Probe { from, to, port, protocol, icmp: None, contents: None, expect, audit: None });
                }
            }
        }
        Ok(())
    }

    fn end(&self, end: &written::End) -> Result<End, String> {
        match (&end.ns, &end.pod, end.ip) {
            (Some(ns), Some(pod), ip) => {
                let reference = PodRef { namespace: ns.as_str().into(), name: pod.as_str().into() };
                let written = self.pods.get(&reference).ok_or_else(|| format!("there is no pod {reference}"))?;
                Ok(End { ip: ip.unwrap_or(written.ip), pod: Some(reference) })
            }
            (None, None, Some(ip)) => Ok(End { pod: None, ip }),
            _ => Err("an end is a pod (ns, pod) or an address (ip)".to_owned()),
        }
    }
}

/// Takes what `wanted` says out of `keys`.
fn take(keys: &mut Vec<Key>, wanted: impl Fn(&Key) -> bool) -> Vec<Key> {
    let taken = keys.iter().filter(|k| wanted(k)).cloned().collect();
    keys.retain(|k| !wanted(k));
    taken
}

fn put_namespace(name: &str, labels: &BTreeMap<String, String>) -> Edit {
    let mut labels = written::labels(labels);
    labels.insert("kubernetes.io/metadata.name".into(), name.into());
    Edit::Put(Object::Namespace(Namespace { name: name.into(), labels }))
}
