//! Every folder of `examples/` through the real program: `sluice eval` must answer each row as it is expected.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sluice_cli::contents::Contents;
use sluice_cli::expectation::{Expectations, Row};
use sluice_cli::flow_line::End;

fn examples() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut folders: Vec<PathBuf> =
        fs::read_dir(root).unwrap().map(|e| e.unwrap().path()).filter(|p| p.join(Expectations::FILE).is_file()).collect();
    folders.sort();
    folders
}

/// A row as a line of `eval --flows`.
fn flow(row: &Row) -> Value {
    let end = |text: &str| match text.parse().unwrap() {
        End::Pod(pod, _) => json!({ "namespace": &*pod.namespace, "pod": &*pod.name }),
        End::Ip(ip) => json!({ "ip": ip }),
        End::Name(name) => json!({ "name": name }),
    };
    let mut flow = json!({ "from": end(&row.from), "to": end(&row.to), "port": row.port, "protocol": row.protocol });
    match row.question().unwrap().contents {
        Some(Contents::Http { method, target, host, .. }) => {
            flow["http"] = json!({ "method": method, "path": target, "host": host });
        }
        Some(Contents::Grpc { service, method, .. }) => flow["grpc"] = json!({ "service": service, "method": method }),
        Some(Contents::Tls { server_name }) => flow["tls"] = json!({ "serverName": server_name }),
        Some(Contents::Lookup { name, kind }) => flow["dns"] = json!({ "name": name, "type": sluice_crds::type_of_number(kind) }),
        None => {}
    }
    flow
}

/// Everyone whom the answer names, as `KIND NAMESPACE/NAME RULE`.
fn deciders(answer: &Value) -> Vec<String> {
    let name = |by: &Value| {
        let rule = by["rule"].as_str().map(|rule| format!(" {rule}")).unwrap_or_default();
        let word = |key: &str| by[key].as_str().unwrap_or_default().to_owned();
        let namespace = Some(word("namespace")).filter(|name| !name.is_empty()).map_or(String::new(), |name| format!("{name}/"));
        format!("{} {namespace}{}{rule}", word("kind"), word("name"))
    };
    let of_half = |half: &Value| match &half["by"] {
        Value::Array(several) => several.iter().map(name).collect(),
        Value::Null => vec![],
        one => vec![name(one)],
    };
    // Only the ends that decided: the other end's allow is no reason for a denial.
    ["egress", "ingress"]
        .iter()
        .filter(|d| answer[**d]["verdict"] == answer["verdict"])
        .flat_map(|d| of_half(&answer[*d]))
        .collect()
}

#[test]
fn eval_answers_every_example_as_expected() {
    let scratch = tempfile::tempdir().unwrap();
    let folders = examples();
    assert!(folders.len() > 50, "only {} examples found", folders.len());
    let mut wrong = Vec::new();
    for folder in &folders {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        let Expectations { expectations: rows, names, .. } = Expectations::read(folder).unwrap();
        let flows = scratch.path().join("flows.jsonl");
        let lines: String = rows.iter().map(|row| format!("{}\n", flow(row))).collect();
        fs::write(&flows, lines).unwrap();
        let known = scratch.path().join("names.json");
        fs::write(&known, serde_json::to_string(&names).unwrap()).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_sluice"))
            .args(["eval", "-f"])
            .arg(folder)
            .arg("--flows")
            .arg(&flows)
            .arg("--names")
            .arg(&known)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        // That names are known here and nowhere else is said of the rules that go by them.
        let is_known = |line: &str| !names.is_empty() && line.contains("warning") && line.contains("names are not learned");
        if !output.status.success() || !said.lines().all(is_known) {
            wrong.push(format!("{name}: {} {said}", output.status));
        }
        let answers: Vec<Value> =
            String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers.len(), rows.len(), "{name}: {said}");
        for (row, answer) in rows.iter().zip(&answers) {
            let what = format!("{name}: {} -> {}:{} {}", row.from, row.to, row.port, row.http.as_deref().unwrap_or(""));
            if answer["verdict"] != row.expect.as_str() {
                wrong.push(format!("{what}: expected {}, got {answer}", row.expect.as_str()));
            }
            if let Some(by) = row.by.as_ref().filter(|by| !deciders(answer).contains(by)) {
                wrong.push(format!("{what}: expected {by}, got {answer}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_example_is_in_the_index() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let index = fs::read_to_string(root.join("README.md")).unwrap();
    for folder in examples() {
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        assert!(name == "demo" || index.contains(&format!("| [{name}]({name}) |")), "{name} is not in examples/README.md");
        let marked = index.lines().any(|line| line.starts_with(&format!("| [{name}](")) && line.contains('⚡'));
        let traffic = Expectations::read(&folder).unwrap().traffic;
        assert_eq!(marked, traffic && name != "demo", "{name}: the index and its expectations differ about traffic");
    }
}
