//! What nodes get when they come, go, fall behind and refuse.

mod scene;

use std::time::Duration;

use scene::{LONG, Node, Scene, hello, inventory, judge, pod, policy};
use sluice_feed::VERSION;
use sluice_policy::snapshot::Generation;
use sluice_policy::{Decision, Table};
use tokio::io::AsyncWriteExt;

const CLIENT: &str = "10.0.1.2";
const STRANGER: &str = "10.0.1.3";
const WEB: &str = "10.0.1.1";

fn closed(table: &Table) -> bool {
    judge(table, STRANGER, WEB) == Decision::Deny && judge(table, CLIENT, WEB) == Decision::Allow
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_gets_what_its_policies_name_and_no_more() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.write("policy.yaml", &policy("web", "web", "client"));
    scene.write("db.yaml", &policy("db", "db", "web"));
    scene.start().await;
    let mut one = Node::connect(&scene, "one").await;
    let mut two = Node::connect(&scene, "two").await;
    one.until("the policy", closed).await;
    two.until("the policy of the other", |t| judge(t, "10.0.1.1", "10.0.2.1") == Decision::Allow).await;
    let addresses = |table: &Table| {
        let mut all: Vec<String> = table.endpoints().map(|(ip, _)| ip.to_string()).collect();
        all.sort();
        all
    };
    assert_eq!(addresses(&one.table), ["10.0.1.1", "10.0.1.2", "10.0.1.3"], "its own pods are all it needs");
    assert_eq!(addresses(&two.table), ["10.0.1.1", "10.0.2.1", "10.0.2.2"], "its own pods, and the peer of its policy");

    // What concerns one node is no news for the other.
    scene.write("more.yaml", &pod("batch-2", "batch", "two", "10.0.2.9"));
    two.until("the new pod", |t| t.endpoint("10.0.2.9".parse().expect("ip")).is_some()).await;
    one.quiet(Duration::from_millis(200)).await;

    let status = scene.status_until("programmed", |s| s["policies"][1]["programmed"] == 1).await;
    assert_eq!(status["policies"][0]["message"], "Programmed 1/1 nodes");
    assert_eq!(status["policies"][1]["name"], "web");
    assert_eq!(status["nodes"][0]["name"], "one");
    assert_eq!(status["nodes"][0]["programmed"], true);
    let metrics = scene.get("/metrics").await;
    let acknowledged = format!("sluice_controller_node_acknowledged_generation{{node=\"two\"}} {}", two.held.1);
    assert!(two.held.1 > Generation(1) && metrics.contains(&acknowledged), "{acknowledged}\n{metrics}");
    assert!(scene.get("/readyz").await.starts_with("HTTP/1.1 200"));
    assert!(scene.get("/healthz").await.starts_with("HTTP/1.1 200"));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_goes_on_where_it_was() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.write("policy.yaml", &policy("web", "web", "client"));
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    node.until("the policy", closed).await;
    let (table, held) = (node.table.clone(), node.held);
    drop(node);
    scene.status_until("a node that is away", |s| s["nodes"][0]["connected"] == false).await;

    // What it doesn't need changes nothing for it; then a delta follows, no snapshot.
    scene.write("more.yaml", &pod("batch-2", "batch", "two", "10.0.2.9"));
    scene.status_until("the new pod", |s| s["objects"] == 10).await;
    let mut node = Node::reconnect(&scene, "one", table, held).await;
    assert!(node.current, "nothing has changed for this node");
    scene.write("policy.yaml", &policy("web", "web", "stranger"));
    node.until("the new policy", |t| judge(t, STRANGER, WEB) == Decision::Allow).await;
    assert_eq!((node.updates, node.snapshots), (1, 0));

    // While it is away, something of its own changes: a snapshot.
    let (table, held) = (node.table.clone(), node.held);
    drop(node);
    scene.status_until("a node that is away", |s| s["nodes"][0]["connected"] == false).await;
    scene.write("policy.yaml", &policy("web", "web", "client"));
    scene.status_until("the change", |s| s["policies"][0]["nodes"] == 0).await;
    let mut node = Node::reconnect(&scene, "one", table, held).await;
    assert!(!node.current);
    node.until("the policy of now", closed).await;
    assert_eq!(node.snapshots, 1);

    // It was away for so long that the controller has forgotten it: what it gets now is no older table's number.
    let (table, held) = (node.table.clone(), node.held);
    drop(node);
    scene.status_until("a node that is away", |s| s["nodes"][0]["connected"] == false).await;
    scene.write("policy.yaml", &policy("web", "web", "stranger"));
    scene.status_until("a node that is forgotten", |s| s["nodes"][0]["generation"].is_null()).await;
    let mut forgotten = Node::connect(&scene, "one").await;
    let update = forgotten.take().await;
    assert!(update.heading.epoch == held.0 && update.heading.generation > held.1, "{:?} after {held:?}", update.heading);
    drop(forgotten);
    let mut node = Node::reconnect(&scene, "one", table, held).await;
    node.until("the policy of now", |t| judge(t, STRANGER, WEB) == Decision::Allow).await;

    // Another run of the controller counts anew.
    let (table, held) = (node.table.clone(), node.held);
    drop(node);
    scene.stop().await;
    scene.write("policy.yaml", &policy("web", "web", "stranger"));
    scene.start().await;
    let mut node = Node::reconnect(&scene, "one", table, held).await;
    assert!(!node.current);
    let update = node.take().await;
    assert_eq!((update.heading.base, update.heading.generation), (None, Generation(1)));
    assert_ne!(update.heading.epoch, held.0);
    assert_eq!(judge(&node.table, STRANGER, WEB), Decision::Allow);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nack_is_answered_with_a_snapshot_and_a_pause_that_grows() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    let first = node.take().await;
    node.ack(first.heading.generation).await;
    scene.write("policy.yaml", &policy("web", "web", "client"));
    let refused = node.receive().await;
    assert_eq!(refused.heading.base, Some(Generation(1)), "a delta");
    node.nack(refused.heading.generation, "the kernel is out of memory").await;
    let status = scene.status_until("a refusal", |s| s["nodes"][0]["refusal"].is_string()).await;
    assert_eq!(status["nodes"][0]["refusal"], "the kernel is out of memory");
    assert_eq!(status["policies"][0]["message"], "Programmed 0/1 nodes");

    let mut pauses = Vec::new();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let snapshot = node.receive().await;
        pauses.push(begun.elapsed());
        assert_eq!(snapshot.heading.base, None);
        node.nack(snapshot.heading.generation, "still").await;
    }
    assert!(pauses[2] > pauses[0] && pauses[2] > Duration::from_millis(300), "no hot loop: {pauses:?}");
    let snapshot = node.take().await;
    node.ack(snapshot.heading.generation).await;
    assert!(closed(&node.table));
    let status = scene.status_until("programmed", |s| s["nodes"][0]["programmed"] == true).await;
    assert_eq!(status["policies"][0]["message"], "Programmed 1/1 nodes");
    assert!(status["nodes"][0]["refusal"].is_null());
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_node_is_put_on_a_snapshot_and_holds_up_nobody() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.start().await;
    let mut slow = Node::connect(&scene, "one").await;
    let mut quick = Node::connect(&scene, "two").await;
    let first = slow.take().await;
    // Each round changes something of both nodes; the slow one reads nothing and answers nothing.
    let rounds: u32 = 100;
    for round in 1..=rounds {
        let ports = format!("10.0.2.{}", 10 + round);
        let text = pod("a", "web", "one", &format!("10.0.1.{}", 10 + round)) + &pod("b", "db", "two", &ports);
        scene.write("moving.yaml", &text);
        quick.until("this round", |t| t.endpoint(ports.parse().expect("ip")).is_some()).await;
    }
    scene.write("policy.yaml", &policy("web", "web", "client"));
    let metrics = scene.get("/metrics").await;
    assert!(metrics.contains("sluice_controller_coalesced_total 1"), "{metrics}");
    scene.status_until("a node that is behind", |s| s["nodes"][0]["programmed"] == false).await;

    // Once it has answered what was on its way, it gets all the rest as one snapshot.
    slow.ack(first.heading.generation).await;
    slow.until("all of it", |t| closed(t) && t.endpoint("10.0.1.110".parse().expect("ip")).is_some()).await;
    assert_eq!(slow.snapshots, 2, "the first and the one that made up for the rest");
    assert!(slow.updates < 70, "{} updates: more was on its way than may be", slow.updates);
    scene.write("policy.yaml", &policy("web", "web", "stranger"));
    slow.until("a delta again", |t| judge(t, STRANGER, WEB) == Decision::Allow).await;
    assert_eq!(slow.snapshots, 2);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused_and_harm_nobody() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    let first = node.take().await;
    node.ack(first.heading.generation).await;

    let nothing = (0, Generation(0));
    let refused = hello(&scene.address(), VERSION + 1, "one", nothing).await.expect_err("another version");
    assert_eq!(refused.code(), tonic::Code::FailedPrecondition);
    let (theirs, ours) = (VERSION + 1, VERSION);
    assert_eq!(refused.message(), format!("this node speaks version {theirs} of the feed, this controller speaks {ours}"));
    for name in ["", "a b", "x/../y", "né", &"n".repeat(254)] {
        let refused = hello(&scene.address(), VERSION, name, nothing).await.expect_err("a bad name");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument, "{name:?}");
    }
    let sluice_feed::FeedAddress::Unix(path) = scene.address() else { unreachable!("the scene has a socket") };
    let mut garbage = Vec::new();
    for i in 0..200u32 {
        let mut stream = tokio::net::UnixStream::connect(&path).await.expect("connect");
        let bytes: Vec<u8> = (0..2000u32).map(|n| n.wrapping_mul(2_654_435_761).wrapping_add(i * 97).to_be_bytes()[1]).collect();
        // The controller may hang up in the middle, which is as it should be.
        let _ = stream.write_all(&bytes).await;
        garbage.push(stream);
    }
    // Acks of what was never sent, and nacks by the thousand, only cost the node that sends them.
    node.ack(Generation(99)).await;
    let mut other = Node::connect(&scene, "two").await;
    let snapshot = other.take().await;
    for _ in 0..1000 {
        other.nack(snapshot.heading.generation, &"x".repeat(10_000)).await;
    }
    scene.write("policy.yaml", &policy("web", "web", "client"));
    node.until("the policy, in spite of all", closed).await;
    scene.status_until("the ack", |status| status["nodes"][0]["acknowledged"] == status["nodes"][0]["generation"]).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_never_read_keeps_nodes_that_know_more_at_what_they_hold() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.write("policy.yaml", &policy("web", "web", "client"));
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    node.until("the policy", closed).await;
    let (table, held) = (node.table.clone(), node.held);
    drop(node);
    scene.stop().await;

    scene.write("policy.yaml", "apiVersion: networking.k8s.io/v1\nkind: [ NetworkPolicy\nmetadata: {{{\n");
    scene.start().await;
    let status = scene.status_until("ready", |s| s["ready"] == true).await;
    assert_eq!(status["neverRead"], 1);
    assert!(status["problems"][0].as_str().is_some_and(|p| p.contains("policy.yaml:")), "{status}");
    // A snapshot without the policy would open what the node keeps closed.
    let mut node = Node::reconnect(&scene, "one", table, held).await;
    let mut fresh = Node::connect(&scene, "two").await;
    fresh.until("what can be read", Table::is_loaded).await;
    node.quiet(Duration::from_millis(300)).await;
    assert_eq!(scene.status().await["nodes"][0]["heldBack"], true);
    assert!(closed(&node.table));

    scene.write("policy.yaml", &policy("web", "web", "stranger"));
    node.until("the mended policy", |t| judge(t, STRANGER, WEB) == Decision::Allow).await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_pods_in_a_file_hold_up_nobody() {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.write("policy.yaml", &policy("web", "web", "client"));
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    node.until("the policy", closed).await;
    let mut text = String::new();
    for i in 0..100_000u32 {
        let (a, b) = (i / 250 % 250, i % 250);
        text += &pod(&format!("p{i}"), &format!("app-{}", i % 100), "far", &format!("10.{}.{a}.{b}", 100 + i / 62_500));
    }
    let before = rss_mib();
    let bytes = text.len();
    scene::replace(&scene.folder().join("many.yaml"), &text);
    drop(text);
    let begun = std::time::Instant::now();
    // While it is being read, other files are as quick as ever.
    let mut worst = Duration::ZERO;
    let mut rounds = 0;
    loop {
        let from = if rounds % 2 == 0 { "stranger" } else { "client" };
        let wanted = if rounds % 2 == 0 { STRANGER } else { CLIENT };
        scene.write("policy.yaml", &policy("web", "web", from));
        worst = worst.max(node.until("a policy meanwhile", |t| judge(t, wanted, WEB) == Decision::Allow).await);
        rounds += 1;
        if scene.status().await["objects"] == 100_009 {
            break;
        }
        assert!(begun.elapsed() < 6 * LONG, "the file was never read");
    }
    println!(
        "100,000 pods, {} MiB: in the world after {:?}, {rounds} other changes meanwhile, the slowest {worst:?}, {} MiB more memory",
        bytes >> 20,
        begun.elapsed(),
        rss_mib().saturating_sub(before)
    );
    // While the world takes the pods in, others wait: a fraction of a second, in a build that isn't optimised many times that.
    let limit = if cfg!(debug_assertions) { LONG } else { Duration::from_secs(2) };
    assert!(worst < limit, "{worst:?}");
    let mut far = Node::connect(&scene, "far").await;
    let begun = std::time::Instant::now();
    let update = far.take().await;
    println!("its node's snapshot of {} changes after {:?}", update.changes.len(), begun.elapsed());
    assert_eq!(far.table.endpoints().count(), 100_000);
    scene.stop().await;
}

fn rss_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
}
