//! Audit policies and policies that expire, as `sluice` tells of them.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::io::Write;
use std::process::{Command, Stdio};

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, labels: { app: web } }
status: { phase: Running, podIP: 10.0.0.1 }
---
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: shop, labels: { app: db } }
status: { phase: Running, podIP: 10.0.0.2 }
---
";

const AUDIT: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: tried, namespace: shop }
spec:
  enforcement: Audit
  podSelector: { matchLabels: { app: db } }
  ingress: [ { from: [ { podSelector: { matchLabels: { app: backup } } } ] } ]
";

const EXPIRING: &str = "
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: closed, namespace: shop }
spec:
  expires: \"2027-01-31T00:00:00Z\"
  podSelector: { matchLabels: { app: db } }
";

/// Runs `sluice` over these manifests; standard output, standard error and exit status in one text.
fn sluice(policy: &str, arguments: &[&str], input: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("all.yaml"), format!("{PODS}{policy}")).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .args(["-f", "."])
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}exit {}\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

const FLOW: &str = r#"{"from":{"namespace":"shop","pod":"web"},"to":{"namespace":"shop","pod":"db"},"port":5432}"#;
const BACK: &str = r#"{"from":{"namespace":"shop","pod":"db"},"to":{"namespace":"shop","pod":"web"},"port":80}"#;

#[test]
fn eval_says_what_audit_policies_would_change() {
    let by = r#"{"kind":"SluiceNetworkPolicy","namespace":"shop","name":"tried"}"#;
    let answers = sluice(AUDIT, &["eval", "--flows", "-"], &format!("{FLOW}\n{BACK}\n"));
    let lines: Vec<&str> = answers.lines().collect();
    let audit = format!(
        r#""audit":{{"verdict":"deny","reason":"NoRuleMatched","direction":"ingress","egress":{{"verdict":"allow","reason":"NotIsolated","by":null}},"ingress":{{"verdict":"deny","reason":"NoRuleMatched","by":{by}}}}}}}"#
    );
    assert!(lines[0].starts_with(r#"{"verdict":"allow","reason":"NotIsolated","#) && lines[0].ends_with(&audit), "{answers}");
    assert!(!lines[1].contains("audit"), "nothing differs there: {answers}");
    assert_eq!(lines[2], "exit 0");
}

#[test]
fn explain_says_it_in_a_sentence() {
    let flow = ["explain", "--from", "shop/web", "--to", "shop/db", "--port", "5432/tcp"];
    let answer = sluice(AUDIT, &flow, "");
    let second = answer.lines().nth(1).unwrap_or_default();
    let wanted =
        "Audit: it would be denied: SluiceNetworkPolicy shop/tried would isolate the pod in ingress, and no rule allows it.";
    assert_eq!(second, wanted, "{answer}");
    assert!(answer.ends_with("exit 0\n"), "what is enforced decides the status: {answer}");
    let json = sluice(AUDIT, &[&flow[..], &["-o", "json"]].concat(), "");
    assert!(json.contains("\"audit\": {"), "{json}");
}

#[test]
fn what_has_expired_is_told_and_not_in_force() {
    let matrix = ["matrix", "--port", "5432/tcp"];
    let before = sluice(EXPIRING, &[&matrix[..], &["--at", "2027-01-30T23:59:59Z"]].concat(), "");
    assert!(!before.contains("Expired") && before.ends_with("exit 0\n"), "{before}");
    let after = sluice(EXPIRING, &[&matrix[..], &["--at", "2027-01-31T01:00:00+01:00"]].concat(), "");
    let note = "SluiceNetworkPolicy shop/closed: Expired at 2027-01-31T00:00:00Z: as if it were absent\n";
    assert!(after.contains(note) && after.ends_with("exit 0\n"), "{after}");
    let flow = ["explain", "--from", "shop/web", "--to", "shop/db", "--port", "5432/tcp", "--at"];
    assert!(sluice(EXPIRING, &[&flow[..], &["2027-01-30T00:00:00Z"]].concat(), "").ends_with("exit 1\n"));
    assert!(sluice(EXPIRING, &[&flow[..], &["2027-02-01T00:00:00Z"]].concat(), "").ends_with("exit 0\n"));
    let eval = ["eval", "--flows", "-", "--at"];
    assert!(sluice(EXPIRING, &[&eval[..], &["2026-01-01T00:00:00Z"]].concat(), FLOW).starts_with(r#"{"verdict":"deny""#));
    assert!(sluice(EXPIRING, &[&eval[..], &["2028-01-01T00:00:00Z"]].concat(), FLOW).starts_with(r#"{"verdict":"allow""#));
    assert!(sluice(EXPIRING, &[&eval[..], &["tomorrow"]].concat(), FLOW).ends_with("exit 2\n"));
}
