//! `sluice diff` of changes that nearly every pair of workloads feels.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;
use sluice_cli::cluster::Cluster;
use sluice_cli::diff::Diff;

fn sluice(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).arg("diff").args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}exit {}\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

/// `namespaces` of `apps` workloads each, every workload of two pods, and in each namespace `policies`.
fn regular(folder: &Path, namespaces: usize, apps: usize, policies: impl Fn(usize) -> String) -> PathBuf {
    let mut text = String::new();
    for (n, app) in (0..namespaces).flat_map(|n| (0..apps).map(move |app| (n, app))) {
        for copy in 0..2 {
            writeln!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: app-{app}-7f-{copy}, namespace: ns-{n}, labels: {{ app: app-{app}, pod-template-hash: 7f }} }}\n\
                 spec: {{ containers: [ {{ name: c }} ] }}\nstatus: {{ phase: Running, podIPs: [ {{ ip: 10.{n}.{app}.{} }} ] }}",
                copy + 1
            )
            .unwrap();
        }
        if app == 0 {
            text.push_str(&policies(n));
        }
    }
    fs::write(folder, text).unwrap();
    folder.to_owned()
}

/// A policy of `ns-{n}` that isolates what comes in and what goes out.
fn isolating(name: &str, n: usize, subject: &str) -> String {
    format!(
        "---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: ns-{n} }}\n\
         spec:\n  podSelector: {subject}\n  policyTypes: [Ingress, Egress]\n"
    )
}

/// Each pair of workloads is closed by two policies of its own: 90,000 differences that nobody could read.
#[test]
fn of_too_many_differences_namespaces_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let old = regular(&folder.path().join("old.yaml"), 20, 15, |_| String::new());
    let of_apps = |n: usize| -> String {
        let each = |app: usize| isolating(&format!("app-{app}"), n, &format!("{{ matchLabels: {{ app: app-{app} }} }}"));
        (0..15).map(each).collect()
    };
    let new = regular(&folder.path().join("new.yaml"), 20, 15, of_apps);
    let printed = sluice(&["old.yaml", "new.yaml", "--most", "2"], folder.path());
    expect![[r#"
        opens 0, closes 3

        closes
          every pod → every pod   any port
            all 90000 pairs of workloads, such as ns-0/app-0 → ns-0/app-0
            was allow  egress isolated by nobody; ingress isolated by nobody
            is  deny   no egress rule of NetworkPolicy ns-0/app-0; no ingress rule of NetworkPolicy ns-0/app-0
          every pod → the outside world   any port
            all 300 pairs of workloads, such as ns-0/app-0 → the outside world
            was allow  egress isolated by nobody
            is  deny   no egress rule of NetworkPolicy ns-0/app-0
          and 1 more, between 300 pairs of workloads (--most 0 shows all)

        policies
          added   NetworkPolicy ns-0/app-0
          added   NetworkPolicy ns-0/app-1
          and 298 more
        exit 1
    "#]]
    .assert_eq(&printed);
    let (old, new) = Cluster::versions(sluice_crds::load(&[old]), sluice_crds::load(&[new]));
    let diff = Diff::of(&old, &new, usize::MAX, |_, _| {});
    let pods: usize = diff
        .differences
        .iter()
        .filter(|d| !d.from[0].starts_with("the outside") && !d.to[0].starts_with("the outside"))
        .map(|d| d.pairs)
        .sum();
    assert_eq!(pods, 300 * 300);
}

/// Many workloads and one line each way: what closes is one rule's doing, and is told as one difference.
#[test]
fn a_change_of_all_pairs_is_one_difference() {
    let folder = tempfile::tempdir().unwrap();
    regular(&folder.path().join("old.yaml"), 20, 15, |_| String::new());
    regular(&folder.path().join("new.yaml"), 20, 15, |n| {
        let deny = "---\napiVersion: sluice.dev/v1alpha1\nkind: SluiceClusterNetworkPolicy\nmetadata: { name: closed }\n\
                    spec: { podSelector: {}, namespaceSelector: {}, policyTypes: [Egress] }\n";
        if n == 0 { deny.to_owned() } else { String::new() }
    });
    expect![[r#"
        opens 0, closes 1

        closes
          every pod → every pod, the outside world   any port
            was allow  egress isolated by nobody
            is  deny   no egress rule of SluiceClusterNetworkPolicy closed

        policies
          added   SluiceClusterNetworkPolicy closed
        exit 1
    "#]]
    .assert_eq(&sluice(&["old.yaml", "new.yaml"], folder.path()));
}
