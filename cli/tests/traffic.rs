//! The examples that are worth seeing with real traffic, and the demonstration's own scene, through the real programs: pods as
//! namespaces, `sluice-controller`, `sluice-proxy`, curl.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sluice_cli::expectation::Expectations;

/// Scenes that run side by side: each has its own namespaces, so only the machine's size limits them.
const AT_ONCE: usize = 3;

fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    // A demonstration of the person who runs the tests is none of theirs.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command
}

/// Whether namespaces can be made here; says loudly what is skipped where they can't.
fn possible(test: &str) -> bool {
    let inside = sluice_testnet::capability().is_ok();
    let rootless = || Command::new("unshare").args(["-Urnm", "true"]).status().is_ok_and(|status| status.success());
    let possible = inside || rootless();
    if !possible {
        println!("SKIPPED {test}: this user can't make network namespaces; run the tests as root");
    }
    possible
}

#[test]
fn marked_examples_hold_with_real_connections() {
    if !possible("marked_examples_hold_with_real_connections") {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let mut scenes: Vec<PathBuf> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.join(Expectations::FILE).is_file() && Expectations::read(path).unwrap().traffic)
        .collect();
    scenes.sort();
    assert!(scenes.len() >= 6, "only {} examples are marked", scenes.len());
    let next = AtomicUsize::new(0);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let play = || {
            let mut failures = Vec::new();
            while let Some(scene) = scenes.get(next.fetch_add(1, Ordering::Relaxed)) {
                let began = Instant::now();
                let output = sluice().args(["demo", "--scene"]).arg(scene).output().unwrap();
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                println!("{}: {} after {:?}", scene.display(), output.status, began.elapsed());
                if !output.status.success() {
                    failures.push(format!("{}\n{}{}", scene.display(), text(&output.stderr), text(&output.stdout)));
                }
            }
            failures
        };
        let players: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(play)).collect();
        players.into_iter().flat_map(|player| player.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_row_that_differs_is_marked_and_fails() {
    if !possible("a_row_that_differs_is_marked_and_fails") {
        return;
    }
    let scene = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/http-read-only");
    for file in ["policy.yaml", "cluster.yaml"] {
        fs::copy(from.join(file), scene.path().join(file)).unwrap();
    }
    let wrong = "apiVersion: test.sluice.dev/v1alpha1\nkind: Expectations\nexpectations:\n\
                 - { from: default/frontend, to: default/backend, port: 80, http: PUT /api/v1/users, expect: allow }\n";
    fs::write(scene.path().join(Expectations::FILE), wrong).unwrap();
    let output = sluice().args(["demo", "--scene"]).arg(scene.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("✘") && said.contains("1 of 1 differ"), "{said}");
    assert!(said.contains("SluiceNetworkPolicy default/l7-policy"), "the record's policy is named: {said}");
    let kept = said.lines().find_map(|line| line.strip_prefix("Logs, records and policies of this run: ")).unwrap();
    assert!(Path::new(kept).join("records-node-1.jsonl").is_file(), "{said}");
    fs::remove_dir_all(kept).unwrap();
}

/// A scene of its own: the manifests of examples/egress-by-name, perhaps without its name server, and these rows.
fn scene_by_name(has_server: bool, rows: &str) -> tempfile::TempDir {
    let scene = tempfile::tempdir().unwrap();
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/egress-by-name");
    fs::copy(from.join("policy.yaml"), scene.path().join("policy.yaml")).unwrap();
    let mut cluster = fs::read_to_string(from.join("cluster.yaml")).unwrap();
    if !has_server {
        cluster = cluster.replace("k8s-app: kube-dns", "app: other");
    }
    fs::write(scene.path().join("cluster.yaml"), cluster).unwrap();
    let head = "apiVersion: test.sluice.dev/v1alpha1\nkind: Expectations\nnames: { github.com: [140.82.112.3] }\nexpectations:\n";
    fs::write(scene.path().join(Expectations::FILE), format!("{head}{rows}")).unwrap();
    scene
}

#[test]
fn rows_that_cannot_be_tried_are_said_to_be_left_out() {
    if !possible("rows_that_cannot_be_tried_are_said_to_be_left_out") {
        return;
    }
    let by_name = "- { from: production/builder, to: github.com, port: 443, expect: deny }\n";
    let by_tls = "- { from: production/builder, to: 192.0.2.77, port: 443, tls: github.com, expect: deny }\n";
    let plain = "- { from: production/builder, to: 192.0.2.77, port: 443, expect: deny }\n";
    let play = |has_server: bool, rows: &str| {
        let scene = scene_by_name(has_server, rows);
        let output = sluice().args(["demo", "--scene"]).arg(scene.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), said)
    };
    let (code, said) = play(false, &[by_name, by_tls, plain].concat());
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("LEFT OUT: 1 rows: they go by name, and the scene has no name server"), "{said}");
    assert!(said.contains("LEFT OUT: 1 rows: they ask for a server name of TLS"), "{said}");
    assert!(said.contains("All 1 as expected, 2 left out"), "{said}");
    let (code, said) = play(false, by_name);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("none of the scene's 1 rows can be tried"), "{said}");
    let (code, said) = play(true, by_name);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("deny (not resolved)") && !said.contains("LEFT OUT"), "{said}");
}

#[test]
fn the_scene_shows_answers_their_ttl_and_the_record_of_a_denial() {
    if !possible("the_scene_shows_answers_their_ttl_and_the_record_of_a_denial") {
        return;
    }
    let output = sluice().arg("demo").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let row = |what: &str| said.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("no {what} in {said}"));
    assert!(row("look up api.github.com ").contains("allow (140.82.112.5, TTL 60)"), "{said}");
    assert!(row("look up evil.example ").contains("deny (REFUSED)"), "{said}");
    assert!(row("→ evil.example ").contains("deny (not resolved)"), "{said}");
    assert!(row("→ 203.0.113.66 ").contains("deny (no answer)"), "{said}");
    let told =
        "Sluice denied the look-up of evil.example (A) from agents/agent: no egress rule of SluiceNetworkPolicy agents/agent";
    assert!(said.lines().any(|line| line.starts_with(told)), "{said}");
    let learned =
        |line: &&str| line.starts_with("agents/agent ") && line.contains(" api.github.com ") && line.contains("140.82.112.5");
    assert_eq!(said.lines().filter(learned).count(), 1, "{said}");
    let record: serde_json::Value = serde_json::from_str(row("{\"time\"")).unwrap();
    assert_eq!(record["dns"]["name"], "evil.example");
    assert_eq!((&record["type"], &record["verdict"]), (&"lookup".into(), &"deny".into()));
    assert_eq!(record["policy"]["name"], "agent");
}

#[test]
fn exec_without_a_demonstration_says_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let output = sluice().env("XDG_RUNTIME_DIR", state.path()).args(["demo", "exec", "web", "--", "true"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("start one with `sluice demo --keep`"), "{said}");
}

/// A demonstration that is kept up, ended and waited for with the guard.
struct Kept {
    process: std::process::Child,
    state: tempfile::TempDir,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Kept {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut process = sluice()
            .args(["demo", "--keep"])
            .env("XDG_RUNTIME_DIR", state.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let output = process.stdout.take().unwrap();
        let (send, lines) = std::sync::mpsc::sync_channel(1000);
        std::thread::spawn(move || {
            for line in std::io::BufRead::lines(std::io::BufReader::new(output)) {
                if send.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { process, state, lines }
    }

    /// The first further line that begins with `start`, without it.
    fn line(&self, start: &str) -> String {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(60)).unwrap();
            if let Some(rest) = line.strip_prefix(start) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Runs a command in a pod from "another terminal": what it wrote, and whether it succeeded.
    fn exec(&self, pod: &str, command: &[&str]) -> (String, bool) {
        let output =
            sluice().env("XDG_RUNTIME_DIR", self.state.path()).args(["demo", "exec", pod, "--"]).args(command).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.success())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_person_can_play_with_what_is_kept_up() {
    if !possible("a_person_can_play_with_what_is_kept_up") {
        return;
    }
    let mut kept = Kept::start();
    let policies = kept.line("  policies   ");
    let policies = PathBuf::from(policies.split_whitespace().next().unwrap());
    kept.line("  pods ");
    let delete = ["curl", "-q", "-sS", "--max-time", "5", "-X", "DELETE", "http://backend:8080/api/users"];
    let (denial, _) = kept.exec("frontend", &delete);
    assert!(denial.contains("shop/backend") && denial.contains("DELETE"), "a 403 names the policy: {denial}");

    let shop = policies.join("shop.yaml");
    let edited = fs::read_to_string(&shop).unwrap().replace("{ method: POST, path: \"/api/submit\" }", "{ method: DELETE }");
    fs::write(&shop, edited).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    let mut answer = String::new();
    while Instant::now() < until && !answer.contains("shop/backend answers DELETE /api/users") {
        answer = kept.exec("frontend", &delete).0;
    }
    assert!(answer.contains("shop/backend answers DELETE /api/users"), "the edit is in force: {answer}");
    let (rules, listed) = kept.exec("node-1", &["nft", "list", "table", "inet", "sluice"]);
    assert!(listed && rules.contains("shop/backend"), "{rules}");

    // Names are what the scene's name server says, and what the policies make of it.
    let get = |name: &str| ["curl", "-q", "-sS", "--max-time", "5", name].map(str::to_owned);
    let ask = |pod: &str, url: &str| kept.exec(pod, &get(url).iter().map(String::as_str).collect::<Vec<_>>()).0;
    assert!(ask("agent", "http://api.github.com/a").contains("outside answers GET /a"));
    assert!(ask("free", "http://evil.example/a").contains("outside answers GET /a"));
    assert!(ask("agent", "http://evil.example/a").contains("Could not resolve host"));
    let agents = policies.join("agents.yaml");
    let edited = fs::read_to_string(&agents).unwrap().replace("matchName: api.github.com", "matchPattern: \"*.example\"");
    fs::write(&agents, edited).unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until && !answer.contains("outside answers GET /b") {
        answer = ask("agent", "http://evil.example/b");
    }
    assert!(answer.contains("outside answers GET /b"), "the edit is in force: {answer}");

    let id = i32::try_from(kept.process.id()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGINT).unwrap();
    let status = kept.process.wait().unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(!policies.exists(), "the folder is gone");
    assert!(!kept.exec("frontend", &["true"]).1, "nothing is up");
}
