//! Audit policies and what the kernel decides: it decides the same, and says what there is to judge a second time.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_testnet::{Protocol::Tcp, wait_until};

use super::watch::LONG;
use super::{Scene, by, config, possible, scene};
use crate::kernel_stage::{Stage, edits};

/// `free` would not reach port 8080 of `other`; `shut` would reach everything.
const AUDITS: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: careful, namespace: production}
spec:
  enforcement: Audit
  podSelector: {matchLabels: {app: free}}
  policyTypes: [Egress]
  egress:
  - action: Deny
    to: [{podSelector: {matchLabels: {app: other}}}]
    ports: [{protocol: TCP, port: 8080}]
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {name: opens, namespace: production}
spec:
  enforcement: Audit
  podSelector: {matchLabels: {app: shut}}
  policyTypes: [Egress]
  egress: [{}]
";

/// Chains, sets and maps by their names, without what is there for the sake of Audit policies.
fn enforced(stage: &Stage) -> BTreeMap<String, String> {
    let listing = stage.listing();
    let mut blocks = BTreeMap::new();
    for block in ["\n\tchain ", "\n\tset ", "\n\tmap "].iter().flat_map(|head| listing.split(head).skip(1)) {
        let block = block.split("\n\t}").next().unwrap_or_default();
        let name = block.split_whitespace().next().unwrap_or_default().to_owned();
        // What the kernel itself has put into sets is no rule.
        if !name.contains("audited") && !name.starts_with("reported") && !name.starts_with("inside") && name != "stand" {
            let for_audits = |line: &&str| line.contains("sluice Audited") || line.contains("for Audit policies alone");
            let lines = block.lines().filter(|line| !for_audits(line));
            blocks.insert(name, lines.collect::<Vec<_>>().join("\n"));
        }
    }
    blocks
}

#[test]
fn the_rules_that_decide_are_the_same_with_audit_policies_and_without() {
    if !possible() {
        return;
    }
    let (Scene { stage: mut bare, .. }, Scene { mut stage, .. }) = (scene(config()), scene(config()));
    stage.engine.edit(edits(AUDITS));
    // Both, because a whole replacement changes names.
    stage.apply_whole();
    bare.apply_whole();
    assert!(stage.listing().contains("sluice Audited egress"), "{}", stage.listing());
    assert!(enforced(&bare).len() > 40, "{}", bare.listing());
    assert_eq!(enforced(&stage), enforced(&bare));
    // And by a small change.
    assert!(!stage.change(&AUDITS.replace("app: free", "app: frontend")).whole, "only who is audited changes");
    assert_eq!(enforced(&stage), enforced(&bare));
}

#[test]
fn what_the_kernel_decides_is_judged_a_second_time() {
    if !possible() {
        return;
    }
    let Scene { mut stage, watch, shut, free, .. } = scene(config());
    stage.expect(&[(&free, "10.0.1.5", 8080, Tcp, true)]);
    stage.change(AUDITS);
    watch.tables.send_replace(Arc::new(stage.engine.table.clone()));
    stage.expect(&[
        (&free, "10.0.1.5", 8080, Tcp, true),
        (&free, "10.0.1.5", 80, Tcp, true),
        (&free, "fd00:1::5", 8080, Tcp, true),
        (&shut, "10.0.1.5", 8080, Tcp, false),
    ]);
    let audits = || watch.records().into_iter().filter(|record| record["verdict"] == "audit").collect::<Vec<_>>();
    let of = |from: &str| audits().into_iter().find(|record| record["source"]["ip"] == from);
    assert!(
        wait_until(LONG, || ["10.0.1.4", "fd00:1::4", "10.0.1.3"].iter().all(|from| of(from).is_some())),
        "{:#?}",
        watch.records()
    );
    let would_be_denied = of("10.0.1.4").unwrap();
    let words = |record: &Value| ["enforced", "wouldBe", "reason", "direction"].map(|field| record[field].clone());
    assert_eq!(words(&would_be_denied), ["allow", "deny", "DeniedByRule", "egress"].map(Value::from));
    assert_eq!(would_be_denied["policy"], by("SluiceNetworkPolicy", "careful", Some("egress[0]")));
    assert_eq!(would_be_denied["destination"]["port"], 8080);
    let would_be_allowed = of("10.0.1.3").unwrap();
    assert_eq!(words(&would_be_allowed), ["deny", "allow", "RuleMatched", "egress"].map(Value::from));
    assert_eq!(would_be_allowed["policy"], by("SluiceNetworkPolicy", "opens", Some("egress[0]")));
    assert_eq!(watch.with_reason("NoRuleMatched")["protocol"], json!("TCP"), "the denial has its own record");
    let ports =
        audits().into_iter().filter(|record| record["source"]["ip"] == "10.0.1.4").map(|r| r["destination"]["port"].clone());
    assert!(ports.clone().all(|port| port == 8080), "what is no difference has no record: {:?}", ports.collect::<Vec<_>>());
}
