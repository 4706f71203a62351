//! The program as scripts see it: shapes, messages and exit statuses.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use expect_test::{Expect, expect};

/// Runs `sluice` in `examples/`; standard output, standard error and exit status in one text.
fn sluice(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sluice"))
        .args(arguments)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that ends without reading its input is no failure of the test.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}exit {}\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

#[track_caller]
fn check(arguments: &[&str], input: &str, expected: Expect) {
    expected.assert_eq(&sluice(arguments, input));
}

const FLOW: &str =
    r#"{"from":{"namespace":"production","pod":"frontend"},"to":{"namespace":"production","pod":"backend"},"port":8080"#;

#[test]
fn eval_has_the_published_shape() {
    let flows = format!("{FLOW}}}\n\n{FLOW},\"http\":{{\"method\":\"GET\",\"path\":\"/api/x\"}}}}\n");
    check(
        &["eval", "-f", "http-rules", "--flows", "-"],
        &flows,
        expect![[r#"
            {"verdict":"l7","reason":"NeedsRequest","egress":{"verdict":"allow","reason":"NotIsolated","by":null},"ingress":{"verdict":"l7","reason":"NeedsRequest","by":{"kind":"SluiceNetworkPolicy","namespace":"production","name":"backend","rule":"ingress[0]"}}}
            {"verdict":"allow","reason":"RuleMatched","egress":{"verdict":"allow","reason":"NotIsolated","by":null},"ingress":{"verdict":"allow","reason":"RuleMatched","by":{"kind":"SluiceNetworkPolicy","namespace":"production","name":"backend","rule":"ingress[0].http[0]"}}}
            exit 0
        "#]],
    );
}

#[test]
fn eval_in_other_formats() {
    let flows = format!("{FLOW}}}\n{FLOW},\"http\":{{\"method\":\"DELETE\",\"path\":\"/api/x\"}}}}\nnothing\n");
    check(
        &["eval", "-f", "http-rules", "--flows", "-", "-o", "text"],
        &flows,
        expect![[r#"
        l7     production/frontend → production/backend 8080/tcp
               egress: isolated by nobody
               ingress: requests judged by SluiceNetworkPolicy production/backend ingress[0]
        deny   production/frontend → production/backend 8080/tcp  DELETE /api/x
               egress: isolated by nobody
               ingress: no rule of SluiceNetworkPolicy production/backend
        error  -:3: not a flow: expected ident at line 1 column 2
        error: -:3: not a flow: expected ident at line 1 column 2
        exit 2
    "#]],
    );
    check(
        &["eval", "-f", "http-rules", "--flows", "-", "-o", "yaml"],
        &flows,
        expect![[r#"
        ---
        verdict: l7
        reason: NeedsRequest
        egress:
          verdict: allow
          reason: NotIsolated
          by: null
        ingress:
          verdict: l7
          reason: NeedsRequest
          by:
            kind: SluiceNetworkPolicy
            namespace: production
            name: backend
            rule: ingress[0]
        ---
        verdict: deny
        reason: NoRuleMatched
        egress:
          verdict: allow
          reason: NotIsolated
          by: null
        ingress:
          verdict: deny
          reason: NoRuleMatched
          by:
            kind: SluiceNetworkPolicy
            namespace: production
            name: backend
        ---
        error: "-:3: not a flow: expected ident at line 1 column 2"
        error: -:3: not a flow: expected ident at line 1 column 2
        exit 2
    "#]],
    );
    let lines = sluice(&["eval", "-f", "http-rules", "--flows", "-", "-o", "json"], &flows);
    assert_eq!(lines, sluice(&["eval", "-f", "http-rules", "--flows", "-"], &flows));
}

#[test]
fn several_isolating_policies_are_a_list() {
    let flow = r#"{"from":{"ip":"203.0.113.9"},"to":{"namespace":"production","pod":"api"},"port":1}"#;
    check(
        &["eval", "-f", "policies-add-up", "--flows", "-"],
        flow,
        expect![[r#"
            {"verdict":"deny","reason":"NoRuleMatched","egress":{"verdict":"allow","reason":"NotOurPod","by":null},"ingress":{"verdict":"deny","reason":"NoRuleMatched","by":[{"kind":"NetworkPolicy","namespace":"production","name":"allow-monitoring-to-api"},{"kind":"NetworkPolicy","namespace":"production","name":"allow-web-to-api"}]}}
            exit 0
        "#]],
    );
}

#[test]
fn contents_that_are_not_http_match_no_http_rule() {
    let flows = format!(
        "{FLOW},\"tls\":{{\"serverName\":\"x\"}}}}\n{FLOW},\"grpc\":{{\"service\":\"s.S\",\"method\":\"Get\"}}}}\n{FLOW},\"http\":{{\"path\":\"/api/%252e%252e/admin\"}}}}\n"
    );
    let answers = sluice(&["eval", "-f", "http-rules", "--flows", "-"], &flows);
    let reasons: Vec<&str> = answers.lines().filter_map(|line| line.split("\"reason\":\"").nth(1)?.split('"').next()).collect();
    assert_eq!(reasons, ["NotTheProtocol", "NoRuleMatched", "MalformedRequest"], "{answers}");
}

#[test]
fn contents_of_flows_are_judged() {
    const POLICY: &str = r#"
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop }
status: { podIPs: [ { ip: 10.0.0.1 } ] }
---
apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: web, namespace: shop }
spec:
  ingress:
  - http: [ { host: "web", headers: [ { name: x-team, exact: blue } ], query: [ { name: page, regex: "[0-9]+" } ] } ]
  - grpc: [ { service: a.B, method: Get, metadata: [ { name: x-team, exact: blue } ] } ]
  - tls: { serverNames: [ "*.example.org" ] }
  - { action: Deny, ports: [ { port: 81 } ], http: [ { method: DELETE } ] }
"#;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("policy.yaml"), POLICY).unwrap();
    let manifests = folder.path().to_str().unwrap();
    let http = r#""http":{"method":"GET","path":"/?page=1","host":"Web:80","headers":{"X-Team":"blue"}}"#;
    let grpc = r#""grpc":{"service":"a.B","method":"Get","metadata":{"x-team":"blue"}}"#;
    let rows = [
        (80, http.to_owned(), "allow ingress[0].http[0]"),
        (80, http.replace("blue\"", "red\""), "deny null"),
        (80, http.replace("\"blue\"", "[\"blue\",\"red\"]"), "deny null"),
        (80, http.replace("page=1", "page=x"), "deny null"),
        (80, http.replace("Web", "db"), "deny null"),
        (80, grpc.to_owned(), "allow ingress[1].grpc[0]"),
        (80, grpc.replace("Get", "Put"), "deny null"),
        (80, r#""tls":{"serverName":"a.Example.org"}"#.to_owned(), "allow ingress[2].tls.serverNames[0]"),
        (80, r#""tls":{"serverName":"example.org"}"#.to_owned(), "deny null"),
        (80, r#""tls":{}"#.to_owned(), "deny null"),
        (81, http.replace("GET", "DELETE"), "deny ingress[3].http[0]"),
        (81, r#""tls":{"serverName":"a.example.org"}"#.to_owned(), "deny ingress[3]"),
    ];
    for (port, contents, expected) in rows {
        let flow = format!(r#"{{"from":{{"ip":"192.0.2.9"}},"to":{{"namespace":"shop","pod":"web"}},"port":{port},{contents}}}"#);
        let answer = sluice(&["eval", "-f", manifests, "--flows", "-"], &flow);
        let json: serde_json::Value = serde_json::from_str(answer.lines().next().unwrap()).unwrap();
        let by = json["ingress"]["by"]["rule"].as_str().unwrap_or("null");
        assert_eq!(format!("{} {by}", json["verdict"].as_str().unwrap()), expected, "{contents}: {answer}");
    }
    let explain = |field: &str| {
        let ends = ["explain", "-f", manifests, "--from", "192.0.2.9", "--to", "shop/web", "--port", "80"];
        sluice(&[&ends[..], &["--http", "GET http://web/?page=1", "--header", field]].concat(), "")
    };
    assert!(explain("x-team: blue").contains("matched: peer and port match, and the request matches http[0]"));
    let missed = explain("x-team: red");
    assert!(missed.contains("any request at web with x-team: blue with page ~ [0-9]+ in the query"), "{missed}");
    assert!(explain("x-team").contains("header \"x-team\": write 'NAME: VALUE'"));
}

#[test]
fn flows_that_cannot_be_read_cost_only_themselves() {
    let flows = format!(
        "{FLOW}}}\n{{\n{{\"from\":{{\"namespace\":\"x\",\"pod\":\"y\"}},\"to\":{{\"ip\":\"::1\"}},\"port\":1}}\n{FLOW}}}\n"
    );
    let answer = sluice(&["eval", "-f", "http-rules", "--flows", "-"], &flows);
    assert_eq!(answer.matches("\"verdict\":\"l7\",\"reason\":\"NeedsRequest\",\"egress\"").count(), 2, "{answer}");
    assert!(answer.contains("error: -:2: not a flow: "), "{answer}");
    assert!(answer.contains("error: -:3: there is no pod x/y in the manifests"), "{answer}");
    assert!(answer.ends_with("exit 2\n"), "{answer}");
    let answers: Vec<serde_json::Value> = answer.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let errors: Vec<_> = answers.iter().map(|answer| answer["error"].as_str().unwrap_or_default()).collect();
    assert_eq!(errors.len(), 4, "an answer per question: {answer}");
    assert!(errors[0].is_empty() && errors[3].is_empty(), "{answer}");
    assert!(errors[1].starts_with("-:2: not a flow: "), "{answer}");
    assert_eq!(errors[2], "-:3: there is no pod x/y in the manifests");
}

#[test]
fn a_line_without_end_is_refused_in_bounded_memory() {
    let flows = format!("{}\n{FLOW}}}\n", "x".repeat(3 << 20));
    let answer = sluice(&["eval", "-f", "http-rules", "--flows", "-"], &flows);
    assert!(answer.contains("error: -:1: longer than 1048576 bytes"), "{answer}");
    let answers: Vec<&str> = answer.lines().filter(|line| line.starts_with('{')).collect();
    assert_eq!(answers[0], r#"{"error":"-:1: longer than 1048576 bytes"}"#);
    assert!(answers[1].starts_with("{\"verdict\":\"l7\""), "{answer}");
}

#[test]
fn names_are_looked_up_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("names.json");
    std::fs::write(&names, r#"{"api.example.com": ["2001:db8::1", "203.0.113.7"]}"#).unwrap();
    let flow = r#"{"from":{"namespace":"production","pod":"backend"},"to":{"name":"API.example.com"},"port":443}"#;
    let answer = sluice(&["eval", "-f", "external-api", "--flows", "-", "--names", names.to_str().unwrap()], flow);
    assert!(answer.starts_with(r#"{"verdict":"allow","reason":"RuleMatched""#), "{answer}");
    let unknown = sluice(&["eval", "-f", "external-api", "--flows", "-"], flow);
    assert!(unknown.contains("nothing is known of the name API.example.com: give its addresses with --names"), "{unknown}");
}

#[test]
fn manifests_that_cannot_be_read_are_answered_around() {
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("bad.yaml");
    std::fs::write(&bad, "kind: [\n").unwrap();
    let answer = sluice(&["eval", "-f", "http-rules", "-f", bad.to_str().unwrap(), "--flows", "-"], &format!("{FLOW}}}\n"));
    assert!(answer.starts_with("{\"verdict\":\"l7\""), "{answer}");
    assert!(answer.contains("bad.yaml:") && answer.ends_with("exit 2\n"), "{answer}");
    let missing = sluice(&["matrix", "-f", "nowhere", "--port", "80/tcp"], "");
    assert!(missing.contains("error: nowhere: ") && missing.ends_with("exit 2\n"), "{missing}");
}

#[test]
fn explain_tells_a_denial() {
    check(
        &[
            "explain",
            "-f",
            "http-rules",
            "--from",
            "production/frontend",
            "--to",
            "production/backend",
            "--port",
            "8080/tcp",
            "--http",
            "DELETE /api/users",
        ],
        "",
        expect![[r#"
            production/frontend (10.244.1.11) may not send DELETE /api/users to production/backend (10.244.1.10) on 8080/tcp: production/backend is isolated in ingress by SluiceNetworkPolicy production/backend, and no rule allows it.

            egress of production/frontend: allow (NotIsolated)
              no policy isolates it: allowed by default

            ingress of production/backend: deny (NoRuleMatched)
              isolated by SluiceNetworkPolicy production/backend
              additive tier
                ✗ SluiceNetworkPolicy production/backend ingress[0]: from pods app=frontend of production, TCP 8080, GET /api/.* or POST /api/submit
                  missed: the request is not GET /api/.* or POST /api/submit
              nearest: SluiceNetworkPolicy production/backend ingress[0]: all matches but the request: DELETE /api/users is asked, GET /api/.* or POST /api/submit is allowed
              no rule allows it and the pod is isolated: denied
            exit 1
        "#]],
    );
}

#[test]
fn explain_tells_what_each_rule_missed() {
    check(
        &["explain", "-f", "office-access", "--from", "203.0.113.9", "--to", "production/api", "--port", "8080"],
        "",
        expect![[r#"
            203.0.113.9 may not connect to production/api (10.244.1.10) on 8080/tcp: production/api is isolated in ingress by NetworkPolicy production/allow-office-to-api, and no rule allows it.

            egress of 203.0.113.9: allow (NotOurPod)

            ingress of production/api: deny (NoRuleMatched)
              isolated by NetworkPolicy production/allow-office-to-api
              additive tier
                ✗ NetworkPolicy production/allow-office-to-api ingress[0]: from 203.0.113.0/24, TCP 443
                  missed: 8080/tcp is not TCP 443
                ✗ NetworkPolicy production/allow-office-to-api ingress[1]: from pods app=web of production, TCP 8080
                  missed: the other end is not among pods app=web of production
              nearest: NetworkPolicy production/allow-office-to-api ingress[0]: all matches but the port: 8080/tcp is asked, TCP 443 is allowed
              no rule allows it and the pod is isolated: denied
            exit 1
        "#]],
    );
}

#[test]
fn explain_answers_programs_too() {
    let json = sluice(
        &["explain", "-f", "three-tier", "--from", "app/frontend", "--to", "app/backend", "--port", "8080/tcp", "-o", "json"],
        "",
    );
    let body = json.strip_suffix("exit 0\n").unwrap();
    let explained: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(explained["verdict"], "allow");
    assert_eq!(explained["egress"]["by"]["rule"], "egress[0]");
    assert_eq!(explained["egress"]["steps"][1]["outcome"], "notReached");
    let yaml = sluice(
        &["explain", "-f", "three-tier", "--from", "app/frontend", "--to", "app/backend", "--port", "8080/tcp", "-o", "yaml"],
        "",
    );
    let same: serde_json::Value = serde_saphyr::from_str(yaml.strip_suffix("exit 0\n").unwrap()).unwrap();
    assert_eq!(same, explained);
}

#[test]
fn matrix_prints_who_reaches_whom() {
    check(
        &["matrix", "-f", "three-tier", "--port", "8080/tcp"],
        "",
        expect![[r#"
            8080/tcp   rows: from, columns: to   . allowed  X denied  L judged at L7  # itself

                                  1 2 3 4 5
            1 app/backend         # X X X X
            2 app/cron            X # X X .
            3 app/database        X . # X .
            4 app/frontend        . X X # X
            5 kube-system/coredns X . X X #
            exit 0
        "#]],
    );
    let json = sluice(&["matrix", "-f", "http-rules", "--port", "8080/tcp", "-n", "production", "-o", "json"], "");
    let matrix: serde_json::Value = serde_json::from_str(json.strip_suffix("exit 0\n").unwrap()).unwrap();
    assert_eq!(matrix["pods"], serde_json::json!(["production/backend", "production/batch", "production/frontend"]));
    assert_eq!(matrix["cells"][2], serde_json::json!(["l7", "allow", "self"]));
    assert_eq!(matrix["cells"][1][0], "deny");
}

#[test]
fn help_teaches_and_says_the_version() {
    let commands = ["eval", "explain", "matrix", "graph", "diff", "test", "counters", "names", "demo", "completions"];
    for command in [vec!["--help"]].into_iter().chain(commands.map(|command| vec![command, "--help"])) {
        let help = sluice(&command, "");
        assert!(help.contains("Examples:") && help.ends_with("exit 0\n"), "{command:?}: {help}");
    }
    assert_eq!(sluice(&["--version"], ""), format!("sluice {}\nexit 0\n", env!("CARGO_PKG_VERSION")));
    for command in [&[][..], &["eval"], &["explain", "--from", "a/b"], &["matrix"], &["demo"], &["demo", "exec"]] {
        for arguments in [[command, &["--print-config"]].concat(), [&["--print-config"], command].concat()] {
            let settings = sluice(&arguments, "");
            assert!(settings.contains("stateDir: ") && settings.ends_with("exit 0\n"), "{arguments:?}: {settings}");
        }
    }
    assert!(sluice(&["evil", "--print-config"], "").ends_with("exit 2\n"));
    assert!(sluice(&["explain", "-f", "x", "--from", "a", "--to", "b/c", "--port", "80"], "").ends_with("exit 2\n"));
}

/// Every command that README.md shows with its output, and its policy.
#[test]
fn what_the_docs_say_of_policies_can_be_read() {
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policies.md")).unwrap();
    let blocks: Vec<&str> = page.split("```").filter_map(|part| part.strip_prefix("yaml\n")).collect();
    assert!(!blocks.is_empty());
    for block in blocks {
        let folder = tempfile::tempdir().unwrap();
        let policy = folder.path().join("policy.yaml");
        std::fs::write(&policy, block).unwrap();
        // What the page lets expire must not make it wrong one day.
        let at = ["--at", "2026-01-01T00:00:00Z"];
        let read = sluice(&["matrix", "-f", policy.to_str().unwrap(), "--port", "80/tcp", at[0], at[1]], "");
        // What the page says isn't done yet is said of the policy too.
        let is_undone = |line: &&str| !(line.starts_with("warning: ") && line.contains(" by this version"));
        let read: Vec<&str> = read.lines().filter(is_undone).collect();
        assert_eq!(read, ["no pod with an address in these manifests", "exit 0"], "{block}");
    }
}

#[test]
fn the_page_of_tools_shows_what_they_print() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = std::fs::read_to_string(root.join("docs/tools.md")).unwrap();
    let mut shown = 0;
    for console in page.split("```").filter_map(|part| part.strip_prefix("console\n$ sluice ")) {
        let (command, output) = console.split_once('\n').unwrap();
        let ran = Command::new(env!("CARGO_BIN_EXE_sluice")).args(command.split(' ')).current_dir(&root).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout).trim_end(), output.trim_end(), "{command}");
        shown += 1;
    }
    assert_eq!(shown, 4);
}

#[test]
fn the_readme_tells_the_truth() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let block = |kind: &str| readme.split("```").filter_map(|part| part.strip_prefix(kind)).collect::<Vec<_>>();
    let mut shown = 0;
    for console in block("console\n") {
        for part in console.split("$ sluice ").skip(1).filter(|part| !part.starts_with("demo ")) {
            let (command, output) = part.split_once('\n').unwrap();
            let (head, request) = command.split_once(" --http ").unwrap_or((command, ""));
            let mut arguments: Vec<&str> = head.split(' ').collect();
            if !request.is_empty() {
                arguments.extend(["--http", request.trim_matches('\'')]);
            }
            let ran = Command::new(env!("CARGO_BIN_EXE_sluice")).args(&arguments).current_dir(&root).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&ran.stdout).trim_end(), output.trim_end(), "{command}");
            shown += 1;
        }
    }
    assert_eq!(shown, 3);
    let folder = tempfile::tempdir().unwrap();
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, block("yaml\n")[0]).unwrap();
    let read = sluice(&["matrix", "-f", policy.to_str().unwrap(), "--port", "80/tcp"], "");
    assert_eq!(read, "no pod with an address in these manifests\nexit 0\n");
    let demo = block("text\n")[0];
    let scene = std::fs::read_to_string(root.join("examples/demo/expectations.yaml")).unwrap();
    assert_eq!(demo.matches('✔').count(), scene.matches("- from: ").count(), "README.md shows another scene");
}
