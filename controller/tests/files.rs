//! A folder that people and programs change in all the ways they do.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod scene;

use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

use scene::{Node, Scene, inventory, judge, pod, policy, replace};
use sluice_policy::{Decision, Table};

const STRANGER: &str = "10.0.1.3";
const WEB: &str = "10.0.1.1";

fn closed(table: &Table) -> bool {
    judge(table, STRANGER, WEB) == Decision::Deny
}

fn open(table: &Table) -> bool {
    judge(table, STRANGER, WEB) == Decision::Allow
}

/// A controller with the inventory, and its first node in step.
async fn scene() -> (Scene, Node) {
    let mut scene = Scene::new();
    scene.write("inventory.yaml", &inventory());
    scene.start().await;
    let mut node = Node::connect(&scene, "one").await;
    node.until("the inventory", |t| t.endpoint(WEB.parse().expect("ip")).is_some()).await;
    (scene, node)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_at_the_node_at_once() {
    let (mut scene, mut node) = scene().await;
    let mut times = Vec::new();
    for round in 0..40 {
        let text = if round % 2 == 0 { policy("web", "web", "client") } else { policy("web", "web", "stranger") };
        let wanted = if round % 2 == 0 { closed } else { open };
        // By turns as a shell writes, and as a careful program does.
        if round % 4 < 2 {
            scene.write("policy.yaml", &text);
        } else {
            replace(&scene.folder().join("policy.yaml"), &text);
        }
        times.push(node.until("the change", wanted).await);
    }
    times.sort();
    println!("file change to node: median {:?}, slowest {:?} of {}", times[20], times[39], times.len());
    assert!(times[20] < Duration::from_millis(100), "the median is over what is promised: {times:?}");
    assert!(times[39] < Duration::from_secs(1), "{times:?}");
    assert_eq!(node.snapshots, 1, "deltas after the first");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_half_written_changes_nothing() {
    let (mut scene, mut node) = scene().await;
    let whole = policy("web", "web", "client");
    scene.write("policy.yaml", &whole);
    node.until("the policy", closed).await;

    // Not YAML.
    scene.write("policy.yaml", &(whole.clone() + "---\napiVersion: v1\n  kind: ]["));
    let status = scene.status_until("a report", |s| s["problems"][0].is_string()).await;
    let problem = status["problems"][0].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("policy.yaml:") && problem.contains("what the file held before stays in force"), "{problem}");
    // Cut off in the middle, also at the border of two documents while the writer still has it open.
    let two = policy("other", "client", "web") + &whole;
    let mut file = std::fs::File::create(scene.folder().join("policy.yaml")).expect("truncate");
    file.write_all(&two.as_bytes()[..two.len() - whole.len()]).expect("the first half");
    file.flush().expect("written");
    node.quiet(Duration::from_millis(200)).await;
    assert!(closed(&node.table), "the writer isn't done");
    file.write_all(whole.as_bytes()).expect("the second half");
    drop(file);
    node.until("the second policy", |t| judge(t, STRANGER, "10.0.1.2") == Decision::Deny).await;
    assert!(closed(&node.table));
    scene.status_until("all well", |s| s["problems"].as_array().is_some_and(Vec::is_empty)).await;

    // The disk is full: 0 bytes.
    scene.write("policy.yaml", "");
    let status = scene.status_until("a report", |s| s["problems"][0].is_string()).await;
    assert!(status["problems"][0].as_str().is_some_and(|p| p.contains("empty")), "{status}");
    // Not UTF-8, and a folder of that name.
    std::fs::write(scene.folder().join("policy.yaml"), b"kind: \xff\xfe").expect("write");
    scene.status_until("a report", |s| s["problems"][0].as_str().is_some_and(|p| p.contains("UTF-8"))).await;
    node.quiet(Duration::from_millis(100)).await;
    assert!(closed(&node.table));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_is_bad_harms_no_other() {
    let (mut scene, mut node) = scene().await;
    let bad = policy("bad", "client", "web")
        .replace("{ podSelector: { matchLabels: { app: web } } }", "{ ipBlock: { cidr: nonsense } }");
    scene.write("policy.yaml", &(bad + &policy("web", "web", "client")));
    node.until("the good one", closed).await;
    // The bad one isolates its subjects, and allows nothing.
    assert_eq!(judge(&node.table, WEB, "10.0.1.2"), Decision::Deny);
    let status = scene.status_until("a report", |s| s["problems"][0].is_string()).await;
    let problem = status["problems"][0].as_str().unwrap_or_default();
    for part in ["policy.yaml:", "NetworkPolicy shop/bad", "spec.ingress[0].from[0].ipBlock.cidr"] {
        assert!(problem.contains(part), "{part} is missing: {problem}");
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_policy_that_is_no_longer_understood_stays_as_it_was() {
    let (mut scene, mut node) = scene().await;
    let cluster = |subject: &str| {
        format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: SluiceClusterNetworkPolicy\nmetadata: {{ name: web }}\n\
             spec: {{ podSelector: {subject}, policyTypes: [Ingress] }}\n"
        )
    };
    scene.write("cluster.yaml", &cluster("{ matchLabels: { app: web } }"));
    node.until("it is closed", closed).await;
    scene.write("cluster.yaml", &cluster("nonsense"));
    let status = scene.status_until("a report", |s| s["problems"][0].is_string()).await;
    let problem = status["problems"][0].as_str().unwrap_or_default();
    assert!(problem.contains("SluiceClusterNetworkPolicy web") && problem.contains("spec.podSelector"), "{problem}");
    // What comes behind it is at the node, and it is still closed.
    scene.write("other.yaml", &policy("client", "client", "web"));
    node.until("the next change", |t| judge(t, STRANGER, "10.0.1.2") == Decision::Deny).await;
    assert!(closed(&node.table));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_come_and_go_in_every_way() {
    let (mut scene, mut node) = scene().await;
    let folder = scene.folder();
    scene.write("a.yaml", &policy("web", "web", "client"));
    node.until("the policy", closed).await;

    // Renamed: the same objects from another file are no change.
    std::fs::rename(folder.join("a.yaml"), folder.join("b.yaml")).expect("rename");
    node.quiet(Duration::from_millis(200)).await;
    assert_eq!(scene.status().await["files"], 2);
    // In two files: the first by name counts, and when it goes the other takes its place.
    scene.write("a.yaml", &policy("web", "web", "stranger"));
    node.until("the first file", open).await;
    let status = scene.status_until("a report", |s| s["problems"][0].is_string()).await;
    assert!(status["problems"][0].as_str().is_some_and(|p| p.contains("also in") && p.contains("shop/web")), "{status}");
    std::fs::remove_file(folder.join("a.yaml")).expect("remove");
    node.until("the other file", closed).await;
    std::fs::remove_file(folder.join("b.yaml")).expect("remove");
    let took = node.until("no policy", open).await;
    assert!(took < Duration::from_secs(1), "{took:?}");

    // An editor that moves the old file away before it writes the new one opens nothing in between.
    scene.write("a.yaml", &policy("web", "web", "client"));
    node.until("the policy", closed).await;
    std::fs::rename(folder.join("a.yaml"), folder.join("a.yaml~")).expect("rename");
    scene.write("a.yaml", &(policy("web", "web", "client") + &pod("new", "web", "one", "10.0.1.9")));
    let update = node.take().await;
    node.ack(update.heading.generation).await;
    assert!(closed(&node.table), "it opened in between");
    assert!(node.table.endpoint("10.0.1.9".parse().expect("ip")).is_some());

    // A folder below, whole and then gone; what is no manifest, or hidden, is none of our business.
    std::fs::create_dir(folder.join("team")).expect("a folder");
    std::fs::write(folder.join("team/p.yml"), policy("client", "client", "web")).expect("write");
    node.until("the policy of the folder", |t| judge(t, STRANGER, "10.0.1.2") == Decision::Deny).await;
    std::fs::write(folder.join("team/.p.yml.swp"), "{{{{").expect("write");
    std::fs::write(folder.join("notes.txt"), "{{{{").expect("write");
    std::fs::remove_dir_all(folder.join("team")).expect("remove");
    node.until("no policy of the folder", |t| judge(t, STRANGER, "10.0.1.2") == Decision::Allow).await;
    assert!(scene.status().await["problems"].as_array().is_some_and(Vec::is_empty));

    // The folder itself is gone, as when a disk is unmounted: everything stays.
    let away = scene.dir.path().join("away");
    std::fs::rename(&folder, &away).expect("rename");
    scene.status_until("a report", |s| s["problems"][0].is_string()).await;
    assert!(closed(&node.table));
    std::fs::rename(&away, &folder).expect("rename");
    scene.write("a.yaml", &policy("web", "web", "stranger"));
    node.until("a change after its return", open).await;
    scene.stop().await;
}

/// A ConfigMap volume: the files are links through `..data`, which one rename points to the next version.
#[tokio::test(flavor = "multi_thread")]
async fn a_mounted_config_map_changes_as_a_whole() {
    let (mut scene, mut node) = scene().await;
    let folder = scene.folder();
    let version = |name: &str, from: &str| {
        std::fs::create_dir(folder.join(name)).expect("a version");
        std::fs::write(folder.join(name).join("policy.yaml"), policy("web", "web", from)).expect("write");
        symlink(name, folder.join("..data_tmp")).expect("link");
        std::fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swap");
    };
    version("..2026_1", "client");
    symlink("..data/policy.yaml", folder.join("policy.yaml")).expect("link");
    node.until("the first version", closed).await;
    for (name, from, wanted) in [("..2026_2", "stranger", open as fn(&Table) -> bool), ("..2026_3", "client", closed)] {
        version(name, from);
        let took = node.until("the next version", wanted).await;
        println!("link swapped to node: {took:?}");
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    std::fs::remove_dir_all(folder.join("..2026_2")).expect("remove");
    node.quiet(Duration::from_millis(200)).await;
    scene.stop().await;
}
