//! `sluice lint` over manifests with marks: what must be found stands on its line, and nothing else may be found.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;
use sluice_cli::lint::catalogue::{Code, to_markdown};
use sluice_cli::lint::{Linted, Severity, lint};
use sluice_cli::progress::Progress;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lint")
}

fn fixtures(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_file()).collect();
    files.sort();
    files
}

/// `(line, code)`; line 0 for what is about all manifests (`# !! code`).
fn marks(text: &str) -> BTreeSet<(u32, String)> {
    let mut marks = BTreeSet::new();
    for (line, text) in (1..).zip(text.lines()) {
        if let Some(code) = text.strip_prefix("# !! ") {
            marks.insert((0, code.to_owned()));
        } else if let Some((_, codes)) = text.split_once("# !").filter(|_| !text.starts_with('#')) {
            marks.extend(codes.split_whitespace().map(|code| (line, code.to_owned())));
        }
    }
    marks
}

fn found(linted: &Linted) -> BTreeSet<(u32, String)> {
    linted.findings.iter().map(|finding| (finding.line, finding.code.to_owned())).collect()
}

#[track_caller]
fn check(files: &[PathBuf]) {
    let mut wrong = Vec::new();
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let wanted = marks(&fs::read_to_string(file).unwrap());
        let linted = lint(std::slice::from_ref(file), &Progress::hidden());
        let got = found(&linted);
        for missing in wanted.difference(&got) {
            wrong.push(format!("{name}:{}: {} is not found", missing.0, missing.1));
        }
        for finding in linted.findings.iter().filter(|f| !wanted.contains(&(f.line, f.code.to_owned()))) {
            wrong.push(format!("{name}:{}: {} {}: {}", finding.line, finding.code, finding.field, finding.message));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_marked_is_found_and_nothing_else() {
    check(&fixtures(&root()));
}

#[test]
fn the_mistakes_of_the_guides_are_found() {
    let files = fixtures(&root().join("reference"));
    assert!(files.len() >= 5, "{files:?}");
    check(&files);
}

#[test]
fn every_check_has_a_fixture() {
    let marked: BTreeSet<String> =
        fixtures(&root()).iter().flat_map(|file| marks(&fs::read_to_string(file).unwrap())).map(|(_, code)| code).collect();
    let all: BTreeSet<String> = Code::ALL.iter().map(|code| code.as_str().to_owned()).collect();
    assert_eq!(marked, all);
}

#[test]
fn the_documentation_lists_all_checks() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lint.md");
    let text = fs::read_to_string(path).unwrap();
    let (_, listed) = text.split_once("## Checks\n\n").expect("docs/lint.md has a chapter Checks");
    assert_eq!(listed.trim_end(), to_markdown().trim_end(), "the chapter Checks of docs/lint.md must be:\n{}", to_markdown());
}

/// Examples that show a mistake, or are shorter than a policy should be; all others have nothing to be warned of.
const SHOWN: [(&str, &[&str]); 9] = [
    ("and-or-selectors", &["or-for-and"]),
    ("backend-egress-to-database", &["dns-not-allowed"]),
    ("both-ends", &["one-sided"]),
    ("demo", &["dns-not-allowed"]),
    ("forgotten-dns", &["dns-not-allowed", "ingress-closed-unsaid"]),
    ("http-beside-network-policy", &["l4-disarms-l7"]),
    ("pod-address-block", &["dns-not-allowed", "pod-address-in-block"]),
    ("policy-types", &["direction-not-in-policy-types", "dns-not-allowed"]),
    ("restricted-egress", &["metadata-reachable"]),
];

#[test]
fn examples_have_nothing_to_be_warned_of_but_what_they_show() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut folders: Vec<PathBuf> = fs::read_dir(examples).unwrap().map(|e| e.unwrap().path()).filter(|p| p.is_dir()).collect();
    folders.sort();
    assert!(folders.len() > 50, "only {} examples found", folders.len());
    let mut wrong = Vec::new();
    for folder in folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let linted = lint(&[folder], &Progress::hidden());
        let warned = linted.findings.iter().filter(|finding| finding.severity >= Severity::Warning);
        let got: BTreeSet<&str> = warned.clone().map(|finding| finding.code).collect();
        let want: BTreeSet<&str> = SHOWN.iter().filter(|shown| shown.0 == name).flat_map(|shown| shown.1).copied().collect();
        if got != want {
            let said: Vec<String> = warned.map(|f| format!("{}:{}: {}", f.file, f.line, f.message)).collect();
            wrong.push(format!("{name}: {got:?} instead of {want:?}\n{}", said.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Runs `sluice lint`; standard output and the exit status.
fn sluice(arguments: &[&str]) -> (String, i32) {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).arg("lint").args(arguments).current_dir(root()).output().unwrap();
    (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.code().unwrap_or(-1))
}

#[test]
fn the_exit_status_tells_what_was_found() {
    let rows: [(&[&str], i32); 8] = [
        (&["-f", "dns-of-another-policy.yaml"], 0),
        (&["-f", "dns.yaml"], 1),
        (&["-f", "dns.yaml", "--fail-on", "error"], 0),
        (&["-f", "ignored.yaml"], 0),
        (&["-f", "ignored.yaml", "--fail-on", "info"], 1),
        (&["-f", "reader.yaml", "--fail-on", "error"], 2),
        (&["-f", "no-such-file.yaml"], 2),
        (&["--explain", "no-such-check"], 2),
    ];
    for (arguments, status) in rows {
        assert_eq!(sluice(arguments).1, status, "{arguments:?}");
    }
}

#[test]
fn findings_have_the_published_shape() {
    let (text, status) = sluice(&["-f", "or-for-and.yaml"]);
    assert_eq!(status, 1);
    expect![[r#"
        or-for-and.yaml
           74 warning or-for-and  NetworkPolicy shop/either spec.ingress[0].from[1]
                      these are two peers: all pods of namespaces team=ops, and the pods app=monitoring of shop itself
                 why: Two list items are an OR: all pods of those namespaces, and those pods of the policy's own namespace.
                 fix: if both must hold of one pod, take away the dash before podSelector
          105 info    or-for-and  NetworkPolicy shop/can-only-be-an-or spec.ingress[0].from[1]
                      these are two peers: all pods of namespaces team=legacy, and the pods app=api of shop itself
                 fix: if both must hold of one pod, take away the dash before podSelector

        1 warning, 1 info in 1 file: 4 policies, 6 pods
    "#]]
    .assert_eq(&text);
    let (json, _) = sluice(&["-f", "ignored.yaml", "-o", "json"]);
    expect![[r#"
        {
          "findings": [
            {
              "code": "empty-list-is-everyone",
              "severity": "info",
              "file": "ignored.yaml",
              "line": 23,
              "object": "NetworkPolicy shop/open",
              "field": "spec.ingress[1].from",
              "message": "from: [] is everyone, as if it weren't there",
              "why": "`from: []` is not nobody but everyone, as if it weren't there.",
              "fix": "leave from out if that is meant"
            }
          ],
          "summary": {
            "errors": 0,
            "warnings": 0,
            "infos": 1,
            "ignored": 1,
            "files": 1,
            "policies": 1,
            "pods": 1
          }
        }
    "#]]
    .assert_eq(&json);
    let yaml = sluice(&["-f", "ignored.yaml", "-o", "yaml"]).0;
    let read: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(read, serde_json::from_str::<serde_json::Value>(&json).unwrap());
}

#[test]
fn checks_explain_themselves() {
    let (all, status) = sluice(&["--list"]);
    assert_eq!(status, 0);
    for code in Code::ALL {
        assert!(all.contains(&format!("{} (", code.as_str())), "{} is not listed", code.as_str());
    }
    expect![[r#"
        namespace-name-label (warning)
            A namespace is selected by a label `name` that it doesn't have.
            Only `kubernetes.io/metadata.name` is on every namespace; any other label must be put there by somebody.
            A `namespaceSelector` by `name` (or `kubernetes.io/namespace.name`) which no namespace carries, while there is a namespace of that name, or of nearly that name.
    "#]]
    .assert_eq(&sluice(&["--explain", "namespace-name-label"]).0);
}

#[test]
fn what_may_have_been_meant_is_named() {
    let linted = ["selectors.yaml", "namespace-name.yaml"].map(|file| lint(&[root().join(file)], &Progress::hidden()));
    let fixes: Vec<&str> = linted.iter().flat_map(|linted| &linted.findings).map(|finding| finding.fix.as_str()).collect();
    let wanted = [
        "is name: frontend meant?",
        "is app: api meant?",
        "is tier: back meant?",
        "is the key app meant?",
        "these are labels of the Service api-service; its pods are app=api",
        "write kubernetes.io/metadata.name: monitoring, or put the label on the namespace",
        "is kubernetes.io/metadata.name: monitoring meant?",
        "each of these labels is there, but no pod has them together: select by fewer",
    ];
    for wanted in wanted {
        assert!(fixes.contains(&wanted), "{wanted} is not among {fixes:#?}");
    }
}
