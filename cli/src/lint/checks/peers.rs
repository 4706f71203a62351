//! Two list items where one was meant.

use sluice_crds::Value;
use sluice_policy::source::{Peer, PodSelector};

use crate::lint::catalogue::Code;
use crate::lint::finding::{Findings, Severity};
use crate::lint::scene::{Scene, Subject};

pub(super) fn check(scene: &Scene, findings: &mut Findings) {
    for subject in scene.subjects() {
        for ruled in subject.rules() {
            let Some(entries) = subject.raw(ruled).and_then(|raw| raw.get(ruled.peers_field())).and_then(Value::as_list) else {
                continue;
            };
            for (i, pair) in entries.windows(2).enumerate() {
                if is_alone(&pair[0], "namespaceSelector")
                    && is_alone(&pair[1], "podSelector")
                    && let [Peer::Pods(there)] = ruled.entries[i].peers.as_slice()
                    && let [Peer::Pods(here)] = ruled.entries[i + 1].peers.as_slice()
                    && !here.pods.is_everything()
                {
                    pair_found(scene, subject, &ruled.entries[i + 1].path, there, here, findings);
                }
            }
        }
    }
}

fn is_alone(entry: &Value, field: &str) -> bool {
    entry.as_map().is_some_and(|map| map.len() == 1 && map.get(field).is_some())
}

fn pair_found(scene: &Scene, subject: Subject<'_>, path: &str, there: &PodSelector, here: &PodSelector, findings: &mut Findings) {
    let both = PodSelector { namespaces: there.namespaces.clone(), pods: here.pods.clone() };
    let is_meant = scene.inventory.given
        && !scene.inventory.select(here).members.is_empty()
        && scene.inventory.select(&both).members.is_empty();
    let severity = if is_meant { Severity::Info } else { Severity::Warning };
    let home = &subject.written.policy.reference.namespace;
    let namespaces = match &there.namespaces {
        sluice_policy::source::Namespaces::Matching(selector) => selector.to_string(),
        sluice_policy::source::Namespaces::Named(name) => name.to_string(),
    };
    let message =
        format!("these are two peers: all pods of namespaces {namespaces}, and the pods {} of {home} itself", here.pods);
    let fix = "if both must hold of one pod, take away the dash before podSelector";
    findings.add_as(Code::OrForAnd, severity, subject.written, path, message, fix);
}
