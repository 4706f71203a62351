//! A large cluster: how long reading, `explain`, `diff` and `graph` take. Printed, not judged; the answers are.
//!
//! `cargo test --release -p sluice --test large -- --ignored --nocapture`

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::{Instant, SystemTime};

use sluice_cli::cluster::{Cluster, Names};
use sluice_cli::diff::Diff;
use sluice_cli::explain::Explained;
use sluice_cli::flow_line::Question;

/// How large a cluster: 25 applications in each namespace, replicated until there are `pods`.
#[derive(Clone, Copy)]
struct Size {
    namespaces: usize,
    pods: usize,
    policies: usize,
}

const SMALL: Size = Size { namespaces: 8, pods: 1_000, policies: 200 };
const LARGE: Size = Size { namespaces: 200, pods: 100_000, policies: 10_000 };
const APPS: usize = 25;
const TIERS: [&str; 3] = ["front", "back", "data"];

fn inventory(size: Size, folder: &Path) {
    let mut texts = vec![String::new(); size.namespaces];
    for (n, text) in texts.iter_mut().enumerate() {
        writeln!(text, "apiVersion: v1\nkind: Namespace\nmetadata: {{ name: ns-{n}, labels: {{ team: team-{} }} }}", n % 20)
            .unwrap();
    }
    for pod in 0..size.pods {
        let (n, within) = (pod % size.namespaces, pod / size.namespaces);
        let (app, tier, port) =
            (within % APPS, TIERS[within % APPS % 3], if (within % APPS).is_multiple_of(3) { 8000 } else { 8080 });
        let [_, a, b, c] = u32::try_from(pod + 1).unwrap().to_be_bytes();
        writeln!(
            texts[n],
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: app-{app}-{n:x}7f-{pod:05x}\n  namespace: ns-{n}\n  labels: {{ app: app-{app}, tier: {tier}, pod-template-hash: {n:x}7f }}\n\
             spec:\n  nodeName: node-{}\n  containers: [ {{ name: c, ports: [ {{ name: http, containerPort: {port} }} ] }} ]\n\
             status: {{ phase: Running, podIPs: [ {{ ip: 10.{a}.{b}.{c} }} ] }}",
            pod % 500
        )
        .unwrap();
    }
    fs::create_dir(folder).unwrap();
    for (n, text) in texts.iter().enumerate() {
        fs::write(folder.join(format!("{n:03}.yaml")), text).unwrap();
    }
}

/// In each namespace a default deny, and then by turns: from another application, from a tier of a team, to the world, with `http`.
fn policies(size: Size, folder: &Path, port: impl Fn(usize) -> u16) {
    let mut texts = vec![String::new(); size.namespaces];
    for policy in 0..size.policies {
        let (n, turn) = (policy % size.namespaces, policy / size.namespaces);
        let (app, other, tier, port) = (turn % APPS, (turn + 1) % APPS, TIERS[turn % 3], port(policy));
        let (kind, spec) = match turn {
            0 => ("networking.k8s.io/v1\nkind: NetworkPolicy", "  podSelector: {}\n  policyTypes: [Ingress]\n".to_owned()),
            _ => {
                let subject = format!("  podSelector: {{ matchLabels: {{ app: app-{app} }} }}\n");
                let from = |peer: String, rest: &str| {
                    format!("{subject}  ingress: [ {{ from: [ {peer} ], ports: [ {{ port: {port} }} ]{rest} }} ]\n")
                };
                match turn % 5 {
                    0 | 1 => (
                        "networking.k8s.io/v1\nkind: NetworkPolicy",
                        from(format!("{{ podSelector: {{ matchLabels: {{ app: app-{other} }} }} }}"), ""),
                    ),
                    2 => (
                        "networking.k8s.io/v1\nkind: NetworkPolicy",
                        from(
                            format!(
                                "{{ namespaceSelector: {{ matchLabels: {{ team: team-{} }} }}, podSelector: {{ matchLabels: {{ tier: {tier} }} }} }}",
                                turn % 20
                            ),
                            "",
                        ),
                    ),
                    3 => (
                        "networking.k8s.io/v1\nkind: NetworkPolicy",
                        format!(
                            "{subject}  policyTypes: [Egress]\n  egress: [ {{ to: [ {{ ipBlock: {{ cidr: 0.0.0.0/0, except: [ 10.0.0.0/8 ] }} }} ], ports: [ {{ port: 443 }} ] }} ]\n"
                        ),
                    ),
                    _ => (
                        "sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy",
                        from(
                            format!("{{ podSelector: {{ matchLabels: {{ tier: {tier} }} }} }}"),
                            ", http: [ { method: GET, path: \"/api/.*\" } ]",
                        ),
                    ),
                }
            }
        };
        writeln!(texts[n], "---\napiVersion: {kind}\nmetadata: {{ name: policy-{turn}, namespace: ns-{n} }}\nspec:\n{spec}")
            .unwrap();
    }
    fs::create_dir(folder).unwrap();
    for (n, text) in texts.iter().enumerate() {
        fs::write(folder.join(format!("{n:03}.yaml")), text).unwrap();
    }
}

/// Ten policies let an application in on another port: as many ports open, and as many close.
fn ask(size: Size) {
    let folder = tempfile::tempdir().unwrap();
    let [cluster, old, new] = ["cluster", "old", "new"].map(|name| folder.path().join(name));
    inventory(size, &cluster);
    policies(size, &old, |_| 8080);
    // The second policy of namespaces 0 to 4, and the third of the same: turns 1 and 6 name another application.
    let changed = |policy: usize| policy % size.namespaces < 5 && [1, 6].contains(&(policy / size.namespaces));
    policies(size, &new, |policy| if changed(policy) { 8081 } else { 8080 });

    let begun = Instant::now();
    let loaded = [&old, &new].map(|version| sluice_crds::load(&[cluster.clone(), version.clone()]));
    println!("read both versions         {:?}", begun.elapsed());
    let begun = Instant::now();
    let [before, after] = loaded;
    let (before, after) = Cluster::versions(before, after);
    assert!(before.is_whole() && after.is_whole(), "{:?}", before.errors().next());
    println!("two tables                 {:?}", begun.elapsed());
    let begun = Instant::now();
    let diff = Diff::of(&before, &after, usize::MAX, |_, _| {});
    println!("diff of ten policies       {:?}", begun.elapsed());
    assert_eq!(diff.policies.len(), 10);
    ask_everything(size, &cluster, &old);
    let closes: usize = diff.differences.iter().filter(|d| d.change == "closes").map(|d| d.from.len() * d.to.len()).sum();
    let opens: usize = diff.differences.iter().filter(|d| d.change == "opens").map(|d| d.from.len() * d.to.len()).sum();
    // Where there are many policies, another still lets the application in on the old port.
    assert!(opens > 0 && opens + closes <= 40, "opens {opens}, closes {closes}");
    let begun = Instant::now();
    let pod = |app: usize| format!("ns-0/app-{app}-07f-{:05x}", app * size.namespaces);
    let question = Question::from_text(&pod(5), &pod(1), "8080/tcp", None).unwrap();
    let explained = Explained::of(&before, &question, &Names::default()).unwrap();
    println!("explain, once all is read  {:?}", begun.elapsed());
    assert_eq!(explained.verdict, "deny");
    assert!(explained.ingress.nearest.is_some());
    let begun = Instant::now();
    let needed = Cluster::load_for(&[cluster, old], &Names::default(), SystemTime::now(), &question);
    let from_files = Explained::of(&needed, &question, &Names::default()).unwrap();
    println!("explain, from the files    {:?}", begun.elapsed());
    assert_eq!(serde_json::to_value(from_files).unwrap(), serde_json::to_value(explained).unwrap());
}

/// All policies are new: most pairs of workloads are judged otherwise.
fn ask_everything(size: Size, cluster: &Path, policies: &Path) {
    let [before, after] = [&[cluster.to_owned()][..], &[cluster.to_owned(), policies.to_owned()]].map(sluice_crds::load);
    let (before, after) = Cluster::versions(before, after);
    let begun = Instant::now();
    let diff = Diff::of(&before, &after, 100, |_, _| {});
    println!("diff of all pairs          {:?}", begun.elapsed());
    assert_eq!((diff.opens, diff.policies.len()), (0, 100));
    assert_eq!(diff.more.unwrap().policies, size.policies - 100);
    // A default deny in each namespace, and few rules that let other namespaces in.
    let pairs: usize = diff.differences.iter().map(|difference| difference.pairs).sum();
    let workloads = size.namespaces * APPS;
    assert!(pairs > workloads * workloads / 2, "{pairs} of {workloads} x {workloads}");
}

#[test]
fn a_small_one_of_the_same_kind() {
    ask(SMALL);
}

#[test]
#[ignore = "takes a minute, and is worth it in a release build alone"]
fn a_hundred_thousand_pods_and_ten_thousand_policies() {
    ask(LARGE);
}
