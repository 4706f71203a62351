//! Policies that expire, and Audit policies, from the files to the nodes.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod scene;

use std::time::{Duration, SystemTime};

use scene::{Node, Scene, inventory, judge};
use sluice_policy::{Decision, Flow, Protocol, Table};

const CLIENT: &str = "10.0.1.2";
const STRANGER: &str = "10.0.1.3";
const WEB: &str = "10.0.1.1";

/// A SluiceNetworkPolicy by which web takes connections from client alone.
fn policy(more: &str) -> String {
    format!(
        "apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: {{ name: web, namespace: shop }}
spec:
  {more}
  podSelector: {{ matchLabels: {{ app: web }} }}
  ingress:
  - from: [ {{ podSelector: {{ matchLabels: {{ app: client }} }} }} ]
"
    )
}

fn is_closed(table: &Table) -> bool {
    judge(table, STRANGER, WEB) == Decision::Deny && judge(table, CLIENT, WEB) == Decision::Allow
}

fn is_open(table: &Table) -> bool {
    judge(table, STRANGER, WEB) == Decision::Allow
}

/// What the Audit policies would make of a connection to web.
fn audit(table: &Table, from: &str) -> Option<Decision> {
    let flow = Flow {
        source: from.parse().expect("an address"),
        destination: WEB.parse().expect("an address"),
        protocol: Protocol::Tcp,
        destination_port: 80,
        icmp: None,
        names: &[],
        request: None,
    };
    table.audit(&flow, &table.verdict(&flow)).map(|audit| audit.decision())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_ends_when_its_time_is_over_and_not_before() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    node.until("the inventory", is_open).await;

    let expires = SystemTime::now() + Duration::from_secs(6);
    scene.write("policy.yaml", &policy(&format!("expires: \"{}\"", sluice_crds::moment_text(expires))));
    node.until("the policy", is_closed).await;
    let status = scene.status_until("programmed", |s| s["policies"][0]["programmed"] == 1).await;
    assert_eq!(status["policies"][0]["message"], "Programmed 1/1 nodes");
    assert_eq!(status["policies"][0]["expires"], sluice_crds::moment_text(expires));
    node.until("its end", is_open).await;
    assert!(SystemTime::now() >= expires, "it ended too early");
    assert_eq!(node.snapshots, 1, "a delta says so");
    scene.status_until("the word for it", |s| s["policies"][0]["message"] == "Expired").await;

    // Whoever writes it anew has it in force again, and who starts anew finds it expired.
    let later = SystemTime::now() + Duration::from_secs(3600);
    scene.write("policy.yaml", &policy(&format!("expires: \"{}\"", sluice_crds::moment_text(later))));
    node.until("the policy, renewed", is_closed).await;
    scene.status_until("in force", |s| s["policies"][0]["message"] == "Programmed 1/1 nodes").await;
    drop(node);
    scene.stop().await;
    scene.write("policy.yaml", &policy("expires: \"2020-01-01T00:00:00Z\""));
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    node.take().await;
    assert!(is_open(&node.table) && node.table.policy_count() == 0, "never in force");
    scene.status_until("the word for it", |s| s["policies"][0]["message"] == "Expired").await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_audit_policy_reaches_the_nodes_that_need_it_and_changes_no_verdict() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.write("policy.yaml", &policy("enforcement: Audit"));
    scene.start().await;
    let (mut one, mut two) = (Node::connect(&scene, "one").await, Node::connect(&scene, "two").await);
    one.until("the policy", Table::has_audit).await;
    assert!(is_open(&one.table) && one.table.policy_count() == 0, "it is not in force");
    assert_eq!((audit(&one.table, STRANGER), audit(&one.table, CLIENT)), (Some(Decision::Deny), None));
    two.take().await;
    assert!(!two.table.has_audit(), "none of its pods is audited");
    let status = scene.status_until("programmed", |s| s["policies"][0]["programmed"] == 1).await;
    assert_eq!(status["policies"][0]["enforcement"], "Audit");
    assert_eq!(status["policies"][0]["message"], "Programmed 1/1 nodes");

    scene.write("policy.yaml", &policy("enforcement: Enforce"));
    one.until("the policy in force", is_closed).await;
    assert!(!one.table.has_audit() && audit(&one.table, STRANGER).is_none());
    scene.write("policy.yaml", &policy("enforcement: Audit"));
    one.until("the policy out of force", |table| is_open(table) && table.has_audit()).await;
    assert_eq!(audit(&one.table, STRANGER), Some(Decision::Deny));
    scene.stop().await;
}
