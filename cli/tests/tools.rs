//! `sluice test`, `graph`, `matrix` in its pictures, and `completions`: what they print, and their exit statuses.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::expect;

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// Runs `sluice` in `folder`; standard output, standard error and exit status in one text.
fn sluice(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}exit {}\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

const WRONG: &str = r#"apiVersion: test.sluice.dev/v1alpha1
kind: Expectations
expectations:
- { from: production/frontend, to: production/backend, port: 8080, expect: l7 }
- from: production/frontend
  to: production/backend
  port: 8080
  http: DELETE /api/users?it's
  expect: allow
  because: "<nobody> said no"
- { from: production/batch, to: production/backend, port: 8080, expect: deny, by: NetworkPolicy production/other, reason: DeniedByRule }
- { from: production/nobody, to: production/backend, port: 8080, expect: deny }
"#;

#[test]
fn what_differs_from_expectations_is_told_with_its_line() {
    let folder = tempfile::tempdir().unwrap();
    fs::copy(examples().join("http-rules/cluster.yaml"), folder.path().join("cluster.yaml")).unwrap();
    fs::copy(examples().join("http-rules/policy.yaml"), folder.path().join("policy.yaml")).unwrap();
    fs::write(folder.path().join("wrong.yaml"), WRONG).unwrap();
    let arguments = ["test", "-f", "cluster.yaml", "-f", "policy.yaml", "wrong.yaml"];
    expect![[r#"
        ✘ wrong.yaml:5: production/frontend → production/backend 8080/tcp DELETE /api/users?it's
            expected  allow   because <nobody> said no
            got       deny  by SluiceNetworkPolicy production/backend (NoRuleMatched)
            sluice explain -f cluster.yaml -f policy.yaml --from production/frontend --to production/backend --port 8080/tcp --http 'DELETE /api/users?it'\''s'

        ✘ wrong.yaml:11: production/batch → production/backend 8080/tcp
            expected  deny  by NetworkPolicy production/other (DeniedByRule)
            got       deny  by SluiceNetworkPolicy production/backend (NoRuleMatched)
            sluice explain -f cluster.yaml -f policy.yaml --from production/batch --to production/backend --port 8080/tcp

        ✘ wrong.yaml:12: production/nobody → production/backend 8080/tcp
            expected  deny
            there is no pod production/nobody in the manifests
            sluice explain -f cluster.yaml -f policy.yaml --from production/nobody --to production/backend --port 8080/tcp

        1 as expected, 2 different, 1 can't be judged
        exit 2
    "#]].assert_eq(&sluice(&arguments, folder.path()));
    expect![[r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuite name="sluice" tests="4" failures="2" errors="1">
          <testcase classname="wrong.yaml" name="production/frontend → production/backend 8080/tcp" file="wrong.yaml" line="4"/>
          <testcase classname="wrong.yaml" name="production/frontend → production/backend 8080/tcp DELETE /api/users?it&#39;s" file="wrong.yaml" line="5">
            <failure message="expected allow, got deny">expected allow
        got deny  by SluiceNetworkPolicy production/backend (NoRuleMatched)
        sluice explain -f cluster.yaml -f policy.yaml --from production/frontend --to production/backend --port 8080/tcp --http &#39;DELETE /api/users?it&#39;\&#39;&#39;s&#39;</failure>
          </testcase>
          <testcase classname="wrong.yaml" name="production/batch → production/backend 8080/tcp" file="wrong.yaml" line="11">
            <failure message="expected NetworkPolicy production/other to decide; expected the reason DeniedByRule, got NoRuleMatched">expected deny  by NetworkPolicy production/other (DeniedByRule)
        got deny  by SluiceNetworkPolicy production/backend (NoRuleMatched)
        sluice explain -f cluster.yaml -f policy.yaml --from production/batch --to production/backend --port 8080/tcp</failure>
          </testcase>
          <testcase classname="wrong.yaml" name="production/nobody → production/backend 8080/tcp" file="wrong.yaml" line="12">
            <error message="there is no pod production/nobody in the manifests">expected deny
        sluice explain -f cluster.yaml -f policy.yaml --from production/nobody --to production/backend --port 8080/tcp</error>
          </testcase>
        </testsuite>
        exit 2
    "#]].assert_eq(&sluice(&[&arguments[..], &["-o", "junit"]].concat(), folder.path()));
    let json = sluice(&[&arguments[..], &["-o", "json"]].concat(), folder.path());
    let json: serde_json::Value = serde_json::from_str(json.strip_suffix("exit 2\n").unwrap()).unwrap();
    assert_eq!((&json["asExpected"], &json["different"], &json["unjudged"]), (&1.into(), &2.into(), &1.into()));
    assert_eq!(json["rows"][1]["line"], 5);
    let yaml = sluice(&[&arguments[..], &["-o", "yaml"]].concat(), folder.path());
    let yaml: serde_json::Value = serde_saphyr::from_str(yaml.strip_suffix("exit 2\n").unwrap()).unwrap();
    assert_eq!(yaml, json);
    // The command that it says to type is one that can be typed.
    let command = json["rows"][1]["explain"].as_str().unwrap().replacen("sluice", env!("CARGO_BIN_EXE_sluice"), 1);
    let typed = Command::new("sh").arg("-c").arg(command).current_dir(folder.path()).output().unwrap();
    assert_eq!(typed.status.code(), Some(1), "{typed:?}");
    assert!(String::from_utf8_lossy(&typed.stdout).contains("DELETE /api/users?it's"), "{typed:?}");
}

#[test]
fn every_example_is_as_its_expectations_say() {
    let mut arguments = vec!["test".to_owned()];
    let mut folders: Vec<PathBuf> = fs::read_dir(examples()).unwrap().map(|e| e.unwrap().path()).collect();
    folders.retain(|folder| folder.join("expectations.yaml").is_file());
    assert!(folders.len() > 50);
    for folder in folders {
        arguments.truncate(1);
        arguments.extend(["-f".to_owned(), folder.display().to_string()]);
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let said = sluice(&words, Path::new("/"));
        let judged: Vec<&str> = said.lines().collect();
        assert!(matches!(judged[..], [count, "exit 0"] if count.ends_with(" as expected")), "{}: {said}", folder.display());
    }
}

#[test]
fn expectations_that_cannot_be_read_are_named() {
    let none = sluice(&["test", "-f", "three-tier/policy.yaml"], &examples());
    assert!(none.contains("error: no expectations: name a file") && none.ends_with("exit 2\n"), "{none}");
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.yaml");
    fs::write(&bad, "apiVersion: test.sluice.dev/v1alpha1\nkind: Expectations\nexpectations: [ { from: x } ]\n").unwrap();
    let said = sluice(&["test", "-f", "three-tier", bad.to_str().unwrap()], &examples());
    assert!(said.contains("bad.yaml: ") && said.ends_with("exit 2\n"), "{said}");
}

/// Two pods and a policy whose names no API server takes; manifests with such names are read all the same, and reported.
const HOSTILE: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: "a\"];</script><b onload='x'>\\N", namespace: shop, labels: { app: a } }
status: { phase: Running, podIPs: [ { ip: 10.0.0.1 } ] }
---
apiVersion: v1
kind: Pod
metadata: { name: "new\nline|`#$(x)", namespace: shop, labels: { app: b } }
status: { phase: Running, podIPs: [ { ip: 10.0.0.2 } ] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: "<i>p\"</i>", namespace: shop }
spec:
  podSelector: { matchLabels: { app: b } }
  ingress: [ { from: [ { podSelector: { matchLabels: { app: a } } } ], ports: [ { port: 80 } ] } ]
"#;

fn hostile(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("all.yaml"), HOSTILE).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_sluice")).args(arguments).args(["-f", "all.yaml"]).current_dir(folder.path()).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(2), "the names are errors: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn hostile_names_stay_text_in_every_picture() {
    let dot = hostile(&["graph", "-o", "dot"]);
    assert!(dot.contains(r#"label="a\"];</script><b onload='x'>\\N""#), "{dot}");
    assert!(dot.contains(r#"label="new line|`#$(x)""#), "{dot}");
    let mermaid = hostile(&["graph", "-o", "mermaid"]);
    assert!(mermaid.contains("a#34;#93;#59;#60;/script#62;#60;b onload='x'#62;#92;N"), "{mermaid}");
    let page = hostile(&["graph", "-o", "html"]);
    assert_eq!(page.matches("</script>").count(), 1, "{page}");
    assert!(!page.contains("<b onload"), "{page}");
    let matrix = hostile(&["matrix", "--port", "80/tcp", "-o", "html"]);
    assert_eq!(matrix.matches("</script>").count(), 1, "{matrix}");
    assert!(!matrix.contains("<b onload") && !matrix.contains("<i>p"), "{matrix}");
    assert!(matrix.contains("NetworkPolicy shop/&lt;i&gt;p&quot;&lt;/i&gt; ingress[0]"), "{matrix}");
    let svg = hostile(&["matrix", "--port", "80/tcp", "-o", "svg"]);
    assert!(!svg.contains("<b onload") && svg.contains("&lt;b onload=&#39;x&#39;&gt;"), "{svg}");
    let markdown = hostile(&["matrix", "--port", "80/tcp", "-o", "markdown"]);
    assert!(markdown.contains(r#"a"];&lt;/script>&lt;b onload='x'>\\N and 1 alike |"#), "{markdown}");
}

#[test]
fn a_graph_for_each_program() {
    expect![[r##"
        digraph sluice {
          rankdir=LR;
          node [shape=box, style="rounded,filled", fillcolor="#f1f3f4", color="#667079", fontname="sans-serif"];
          edge [color="#0b5c3b", fontname="sans-serif", fontsize=10];
          subgraph cluster_0 {
            label="app"; color="#d9dde0"; fontname="sans-serif";
            n0 [label="backend"];
            n1 [label="cron", style="rounded,filled,dashed"];
            n2 [label="database", style="rounded,filled,dashed"];
            n3 [label="frontend"];
          }
          subgraph cluster_1 {
            label="kube-system"; color="#d9dde0"; fontname="sans-serif";
            n4 [label="coredns", style="rounded,filled,dashed"];
          }
            n5 [label="the outside world", shape=ellipse];
          n0 -> n2 [label="TCP 5432"];
          n0 -> n4 [label="TCP 53, UDP 53"];
          n1 -> n3 [label="TCP 80"];
          n2 -> n3 [label="TCP 80"];
          n3 -> n0 [label="TCP 8080"];
          n3 -> n4 [label="TCP 53, UDP 53"];
          n4 -> n3 [label="TCP 80"];
          n5 -> n3 [label="TCP 80"];
        }
        exit 0
    "##]]
    .assert_eq(&sluice(&["graph", "-f", "three-tier", "-o", "dot"], &examples()));
    expect![[r#"
        app/backend         → app/database         TCP 5432
        app/backend         → kube-system/coredns  TCP 53, UDP 53
        app/cron            → app/frontend         TCP 80
        app/database        → app/frontend         TCP 80
        app/frontend        → app/backend          TCP 8080
        app/frontend        → kube-system/coredns  TCP 53, UDP 53
        kube-system/coredns → app/frontend         TCP 80
        the outside world   → app/frontend         TCP 80
        and 9 that no policy speaks of (--all)
        exit 0
    "#]]
    .assert_eq(&sluice(&["graph", "-f", "three-tier"], &examples()));
    let none = sluice(&["graph", "-f", "http-rules"], &examples());
    assert!(none.contains("and 9 that no policy speaks of (--all)"), "{none}");
    expect![[r#"
        flowchart LR
          subgraph s0["production"]
            n0["backend"]
            n1["batch"]
            n2["frontend"]
          end
            n3(["the outside world"])
          n0 -.->|"any port"| n1
          n0 -.->|"any port"| n2
          n0 -.->|"any port"| n3
          n1 -.->|"any port"| n2
          n1 -.->|"any port"| n3
          n2 -->|"TCP 8080 (L7)"| n0
          n2 -.->|"any port"| n1
          n2 -.->|"any port"| n3
          n3 -.->|"any port"| n1
          n3 -.->|"any port"| n2
          linkStyle 5 stroke:#b87700
        exit 0
    "#]]
    .assert_eq(&sluice(&["graph", "-f", "http-rules", "-o", "mermaid", "--all"], &examples()));
    let json = sluice(&["graph", "-f", "http-rules", "-o", "json"], &examples());
    let graph: serde_json::Value = serde_json::from_str(json.strip_suffix("exit 0\n").unwrap()).unwrap();
    assert_eq!(graph["edges"][0]["label"], "TCP 8080 (L7)");
    assert_eq!(graph["edges"].as_array().unwrap().len(), 1);
    let yaml = sluice(&["graph", "-f", "http-rules", "-o", "yaml"], &examples());
    let same: serde_json::Value = serde_saphyr::from_str(yaml.strip_suffix("exit 0\n").unwrap()).unwrap();
    assert_eq!(same, graph);
    let page = sluice(&["graph", "-f", "http-rules", "-o", "html"], &examples());
    for elsewhere in ["src=", "@import", "url(h", "fetch("] {
        assert!(!page.contains(elsewhere), "the page asks somebody else: {elsewhere}");
    }
}

#[test]
fn a_matrix_in_each_format() {
    let matrix = |format: &str| sluice(&["matrix", "-f", "three-tier", "--port", "8080/tcp", "-o", format], &examples());
    expect![[r#"
        **8080/tcp**, rows: from, columns: to — `.` allowed, `X` denied, `L` judged at L7, `#` itself

        |  | 1 | 2 | 3 | 4 | 5 |
        |---|---|---|---|---|---|
        | 1 app/backend | # | X | X | X | X |
        | 2 app/cron | X | # | X | X | . |
        | 3 app/database | X | . | # | X | . |
        | 4 app/frontend | . | X | X | # | X |
        | 5 kube-system/coredns | X | . | X | X | # |
        exit 0
    "#]]
    .assert_eq(&matrix("markdown"));
    let why = "app/frontend → app/database: deny, egress NoRuleMatched NetworkPolicy app/frontend-policy; \
               ingress NoRuleMatched NetworkPolicy app/database-policy";
    for (format, begins) in [("svg", "<svg xmlns="), ("html", "<!DOCTYPE html>")] {
        let picture = matrix(format);
        assert!(picture.starts_with(begins) && picture.contains(why), "{picture}");
    }
}

#[test]
fn the_nearest_rule_says_what_differs() {
    let nearest = |arguments: &[&str]| {
        let said = sluice(&[&["explain"], arguments].concat(), &examples());
        said.lines().filter_map(|line| line.trim().strip_prefix("nearest: ").map(str::to_owned)).collect::<Vec<_>>()
    };
    let rows: [(&[&str], &[&str]); 6] = [
        (
            &["-f", "three-tier", "--from", "app/cron", "--to", "app/backend", "--port", "8080"],
            &[
                "NetworkPolicy app/backend-policy ingress[0]: all matches but the label tier of app/cron: it is batch, frontend is allowed",
            ],
        ),
        (
            &["-f", "three-tier", "--from", "app/backend", "--to", "app/database", "--port", "5433"],
            &[
                "NetworkPolicy app/backend-policy egress[0]: all matches but the port: 5433/tcp is asked, TCP 5432 is allowed",
                "NetworkPolicy app/database-policy ingress[0]: all matches but the port: 5433/tcp is asked, TCP 5432 is allowed",
            ],
        ),
        (
            &["-f", "tenant-isolation", "--from", "shared/prometheus", "--to", "team-a/backend", "--port", "80"],
            &[
                "NetworkPolicy team-a/allow-same-namespace ingress[0]: all matches but the namespace: shared is asked, team-a, the policy's own, is allowed",
            ],
        ),
        (
            &[
                "-f",
                "http-rules",
                "--from",
                "production/frontend",
                "--to",
                "production/backend",
                "--port",
                "8080",
                "--http",
                "PUT /x",
            ],
            &[
                "SluiceNetworkPolicy production/backend ingress[0]: all matches but the request: PUT /x is asked, GET /api/.* or POST /api/submit is allowed",
            ],
        ),
        (
            &["-f", "office-access", "--from", "198.51.100.9", "--to", "production/api", "--port", "443"],
            &[
                "NetworkPolicy production/allow-office-to-api ingress[0]: all matches but the address: 198.51.100.9 is not in 203.0.113.0/24",
            ],
        ),
        (&["-f", "three-tier", "--from", "app/frontend", "--to", "app/backend", "--port", "8080"], &[]),
    ];
    for (arguments, expected) in rows {
        assert_eq!(nearest(arguments), expected, "{arguments:?}");
    }
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, mark) in [("bash", "complete -F _sluice"), ("zsh", "#compdef sluice"), ("fish", "complete -c sluice")] {
        let script = sluice(&["completions", shell], &examples());
        assert!(script.contains(mark) && script.contains("explain") && script.ends_with("exit 0\n"), "{shell}: {script}");
    }
    assert!(sluice(&["completions", "tcsh"], &examples()).ends_with("exit 2\n"));
}
