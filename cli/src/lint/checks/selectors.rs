//! Selectors that match nothing, and what may have been meant.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use sluice_policy::label::{Labels, Operator, Requirement, SERVICE_ACCOUNT};
use sluice_policy::source::{Namespaces, Peer, PodSelector, PolicyKind};

use crate::lint::catalogue::Code;
use crate::lint::finding::{Finding, Findings};
use crate::lint::near::nearest;
use crate::lint::read::Written;
use crate::lint::scene::Scene;
use crate::lint::service::Service;

/// The label that every namespace has.
const NAME: &str = "kubernetes.io/metadata.name";
/// What people take for it.
const NOT_THE_NAME: [&str; 2] = ["name", "kubernetes.io/namespace.name"];

/// How many namespaces are searched for a label that may have been meant.
const MOST_SEARCHED: usize = 50;

type Known = BTreeMap<Arc<str>, BTreeSet<Arc<str>>>;

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    if !scene.inventory.given {
        if !scene.objects.policies.is_empty() {
            missing(findings, "no pods are given: selectors, ports and addresses are not held against any");
        }
        return;
    }
    let mut services: HashMap<&str, Vec<&Service>> = HashMap::new();
    for service in &scene.objects.services {
        services.entry(&service.namespace).or_default().push(service);
    }
    let mut namespaces = Known::new();
    for labels in scene.inventory.namespaces.values() {
        for (key, value) in labels {
            namespaces.entry(key.clone()).or_default().insert(value.clone());
        }
    }
    let mut search = Search { scene, services, namespaces, absent: HashSet::new(), findings };
    for subject in scene.subjects() {
        let written = subject.written;
        let field = match written.policy.reference.kind {
            PolicyKind::ClusterNetworkPolicy => "spec.subject",
            PolicyKind::SluiceClusterNetworkPolicy => "spec",
            PolicyKind::NetworkPolicy | PolicyKind::SluiceNetworkPolicy => "spec.podSelector",
        };
        search.selector(written, field, &written.policy.subject, true);
        for entry in subject.rules().flat_map(|ruled| ruled.entries) {
            for peer in &entry.peers {
                if let Peer::Pods(selector) = peer {
                    search.selector(written, &entry.path, selector, false);
                }
            }
        }
    }
}

fn missing(findings: &mut Findings, message: &str) {
    let check = Code::InventoryMissing.check();
    findings.push(Finding {
        code: check.code,
        severity: check.severity,
        file: "".into(),
        line: 0,
        object: String::new(),
        field: String::new(),
        message: message.to_owned(),
        why: check.why,
        fix: "add them with -f: kubectl get namespaces,pods,services,nodes -A -o yaml".to_owned(),
    });
}

struct Search<'s, 'f> {
    scene: &'s Scene,
    services: HashMap<&'s str, Vec<&'s Service>>,
    /// The labels of all namespaces.
    namespaces: Known,
    /// Namespaces of which it has been said that nothing of them is given.
    absent: HashSet<Arc<str>>,
    findings: &'f mut Findings,
}

impl Search<'_, '_> {
    fn selector(&mut self, written: &Written, field: &str, selector: &PodSelector, is_subject: bool) {
        let inventory = &self.scene.inventory;
        let selected = inventory.select(selector);
        if !selected.members.is_empty() || selected.finished {
            return;
        }
        if let Some(host) = selected.host {
            let message = format!("only pods in the node's network match {}, such as {}", words(selector), inventory.title(host));
            let fix = if is_subject {
                "nothing closes such a pod; close the node, and name it by its address where it is a peer"
            } else {
                "name the node's address by an ipBlock (nodeSelector in the Sluice kinds, nodes in ClusterNetworkPolicy)"
            };
            self.findings.add(Code::OnlyHostNetwork, written, field, message, fix);
            return;
        }
        let namespaces = inventory.namespaces_of(&selector.namespaces);
        if namespaces.is_empty() {
            if let Namespaces::Matching(wanted) = &selector.namespaces {
                self.namespace(written, &place(written, field, "namespaceSelector"), &wanted.requirements);
            }
            return;
        }
        let inhabited: Vec<&Arc<str>> = namespaces.iter().filter(|name| inventory.is_inhabited(name)).collect();
        if inhabited.is_empty() {
            if let Some(first) = namespaces.first().filter(|_| !(is_subject && selector.pods.is_everything())) {
                self.absent(first, "has no pods in these manifests");
            }
            return;
        }
        if selector.pods.is_everything() {
            return;
        }
        let known = known_in(self.scene, &inhabited);
        let whose = if is_subject { "subject" } else { "peer" };
        let message = format!("no pod matches the {whose} {}", words(selector));
        let fix = self.of_service(&inhabited, selector).unwrap_or_else(|| suggestion(&selector.pods.requirements, &known, "pod"));
        self.findings.add(Code::SelectorMatchesNothing, written, &place(written, field, "podSelector"), message, fix);
    }

    /// A selector of namespaces that none matches.
    fn namespace(&mut self, written: &Written, field: &str, requirements: &[Requirement]) {
        let wanted = |r: &Requirement| match (r.operator, r.values.as_slice()) {
            (Operator::In, [value]) => Some((r.key.clone(), value.clone())),
            _ => None,
        };
        let names = self.scene.inventory.namespaces.keys().map(|name| &**name);
        if let [one] = requirements
            && let Some((key, value)) = wanted(one)
        {
            if &*key == NAME && nearest(&value, names.clone()).is_none() {
                self.absent(&value, "is not in these manifests");
                return;
            }
            let carried = self.namespaces.get(&key).is_some_and(|values| nearest(&value, values.iter().map(|v| &**v)).is_some());
            let exists = self.scene.inventory.namespaces.contains_key(&value);
            let meant = if exists { Some(&*value) } else { nearest(&value, names).filter(|_| !carried) };
            if let Some(meant) = meant.filter(|_| NOT_THE_NAME.contains(&&*key)) {
                let message = format!("no namespace has the label {key}: {value}, not even {meant} itself");
                let fix = format!("write {NAME}: {meant}, or put the label on the namespace");
                self.findings.add(Code::NamespaceNameLabel, written, field, message, fix);
                return;
            }
        }
        let selector = sluice_policy::label::Selector { requirements: requirements.to_vec() };
        let message = format!("no namespace matches {selector}");
        self.findings.add(
            Code::SelectorMatchesNothing,
            written,
            field,
            message,
            suggestion(requirements, &self.namespaces, "namespace"),
        );
    }

    /// The labels of a Service, or its name, where those of its pods belong.
    fn of_service(&self, namespaces: &[&Arc<str>], selector: &PodSelector) -> Option<String> {
        let among = namespaces.iter().take(MOST_SEARCHED).filter_map(|name| self.services.get(&***name)).flatten();
        let names_it = |service: &&&Service| {
            let by_name = |r: &Requirement| r.key.ends_with("service-name") && r.values.contains(&service.name);
            let by_labels = !service.labels.is_empty() && selector.pods.matches(&service.labels);
            by_labels || selector.pods.requirements.iter().any(by_name)
        };
        let service = among.into_iter().find(names_it)?;
        let pods = service.selector.as_ref()?;
        Some(format!("these are labels of the Service {}; its pods are {}", service.name, pods.pods))
    }

    /// Says once of a namespace that nothing is known of it.
    fn absent(&mut self, namespace: &Arc<str>, what: &str) {
        if self.absent.insert(namespace.clone()) {
            missing(self.findings, &format!("namespace {namespace} {what}: what selects it is not held against its pods"));
        }
    }
}

/// The field itself where it is there: a peer is an entry with selectors, a subject a selector.
fn place(written: &Written, field: &str, name: &str) -> String {
    let within = format!("{field}.{name}");
    let nested = format!("{field}.pods.{name}");
    let line = |path: &str| crate::lint::finding::exists(&written.value, path);
    if line(&within) {
        within
    } else if line(&nested) {
        nested
    } else {
        field.to_owned()
    }
}

/// `app=web in namespaces team=a`.
fn words(selector: &PodSelector) -> String {
    match &selector.namespaces {
        Namespaces::Named(name) => format!("{} in namespace {name}", selector.pods),
        Namespaces::Matching(namespaces) if namespaces.is_everything() => format!("{} in all namespaces", selector.pods),
        Namespaces::Matching(namespaces) => format!("{} in namespaces {namespaces}", selector.pods),
    }
}

fn known_in(scene: &Scene, namespaces: &[&Arc<str>]) -> Known {
    let mut all = Known::new();
    for known in namespaces.iter().take(MOST_SEARCHED).filter_map(|name| scene.inventory.known_labels(name)) {
        for (key, values) in known {
            all.entry(key.clone()).or_default().extend(values.iter().cloned());
        }
    }
    all
}

/// What may have been meant by the first requirement that nothing meets.
fn suggestion(requirements: &[Requirement], known: &Known, of: &str) -> String {
    let meets = |requirement: &Requirement| {
        let with = |key: &Arc<str>, value: &Arc<str>| requirement.matches(&Labels::from([(key.clone(), value.clone())]));
        match requirement.operator {
            Operator::NotIn | Operator::DoesNotExist => true,
            _ => known.get(&requirement.key).is_some_and(|values| values.iter().any(|value| with(&requirement.key, value))),
        }
    };
    let asked = requirements.iter().filter(|requirement| &*requirement.key != SERVICE_ACCOUNT);
    let Some(unmet) = asked.clone().find(|requirement| !meets(requirement)) else {
        return if asked.count() > 1 {
            format!("each of these labels is there, but no {of} has them together: select by fewer")
        } else {
            format!("compare it with the labels of the {of}s: kubectl get {of}s --show-labels")
        };
    };
    let key = &unmet.key;
    let Some(value) = unmet.values.first() else {
        return match nearest(key, known.keys().map(|key| &**key)) {
            Some(near) => format!("is the key {near} meant?"),
            None => format!("no {of} has the label {key}; known are {}", some(known.keys())),
        };
    };
    if let Some(values) = known.get(key) {
        return match nearest(value, values.iter().map(|value| &**value)) {
            Some(near) => format!("is {key}: {near} meant?"),
            None => format!("{key} is here {}", some(values)),
        };
    }
    let near = nearest(key, known.keys().map(|key| &**key));
    let other = known.iter().find(|(_, values)| values.contains(value)).map(|(key, _)| &**key);
    match near.filter(|near| known.get(*near).is_some_and(|values| values.contains(value))).or(other).or(near) {
        Some(near) => format!("is {near}: {value} meant?"),
        None => format!("no {of} has the label {key}; known are {}", some(known.keys())),
    }
}

/// `a, b, c and 4 more`.
fn some<'w>(words: impl IntoIterator<Item = &'w Arc<str>>) -> String {
    let words: Vec<&str> = words.into_iter().map(|word| &**word).collect();
    match words.as_slice() {
        [] => "none".to_owned(),
        few if few.len() <= 5 => few.join(", "),
        many => format!("{} and {} more", many[..4].join(", "), many.len() - 4),
    }
}
