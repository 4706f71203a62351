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
        assert!(said.ends_with(" as expected\nexit 0\n"), "{}: {said}", folder.display());
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

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, mark) in [("bash", "complete -F _sluice"), ("zsh", "#compdef sluice"), ("fish", "complete -c sluice")] {
        let script = sluice(&["completions", shell], &examples());
        assert!(script.contains(mark) && script.contains("explain") && script.ends_with("exit 0\n"), "{shell}: {script}");
    }
    assert!(sluice(&["completions", "tcsh"], &examples()).ends_with("exit 2\n"));
}
