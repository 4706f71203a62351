//! The program as people start and stop it.

#[expect(dead_code, reason = "each test program uses a part of it")]
mod scene;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use scene::{Node, Scene, inventory, judge, policy};
use sluice_policy::Decision;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sluice-controller"))
}

fn output(arguments: &[&str]) -> Output {
    program().args(arguments).output().expect("it runs")
}

fn start(scene: &Scene) -> Child {
    let folder = scene.folder();
    let mut child = program()
        .args(["--files", folder.to_str().expect("a path"), "--listen", &scene.address().to_string()])
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("its log")).lines();
    let ready = lines.by_ref().map_while(Result::ok).find(|line| {
        assert!(!line.contains('\x1b'), "colours in a log that is no terminal: {line:?}");
        line.contains("the folder is read")
    });
    assert!(ready.is_some(), "it never got ready");
    std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
    child
}

/// Waits for the end, bounded.
fn end(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("a child") {
            return status.code();
        }
        assert!(begun.elapsed() < scene::LONG, "it doesn't end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn terminate(child: &Child) {
    let sent = Command::new("kill").args(["-TERM", &child.id().to_string()]).status().expect("kill runs");
    assert!(sent.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_serves_and_ends_cleanly() {
    let scene = Scene::new();
    scene.write("all.yaml", &(inventory() + &policy("web", "web", "client")));
    let mut child = start(&scene);
    let socket = scene.dir.path().join("c.sock");
    let mode = std::fs::metadata(&socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "others could read every policy");
    let mut node = Node::connect(&scene, "one").await;
    node.until("the policy", |t| judge(t, "10.0.1.3", "10.0.1.1") == Decision::Deny).await;

    let second = output(&["--files", scene.folder().to_str().expect("a path"), "--listen", &scene.address().to_string()]);
    assert_eq!(second.status.code(), Some(2));
    let message = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(message.contains("another controller listens there"), "{message}");

    // Killed outright, it leaves its socket behind; the next one takes its place.
    child.kill().expect("kill");
    assert_eq!(end(&mut child), None);
    assert!(socket.exists());
    let mut child = start(&scene);
    let mut node = Node::connect(&scene, "one").await;
    node.until("the policy again", |t| judge(t, "10.0.1.3", "10.0.1.1") == Decision::Deny).await;

    let begun = Instant::now();
    terminate(&child);
    assert_eq!(end(&mut child), Some(0));
    println!("SIGTERM to end with a node connected: {:?}", begun.elapsed());
    assert!(!socket.exists(), "its socket is gone");
}

#[test]
fn what_can_not_work_is_said_at_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().to_str().expect("a path");
    let file = dir.path().join("file");
    std::fs::write(&file, "").expect("write");
    let socket = format!("unix:{path}/c.sock");
    let rows: [(&[&str], &str); 9] = [
        (&["--files", "/does/not/exist", "--listen", &socket], "--files /does/not/exist: No such file or directory"),
        (&["--files", file.to_str().expect("a path"), "--listen", &socket], "is no folder"),
        (&["--files", path, "--listen", &format!("unix:{path}/file")], "a file that is no socket"),
        (&["--files", path, "--listen", "192.0.2.1:7070"], "192.0.2.1:7070 is no loopback address"),
        (&["--files", path, "--listen", "0.0.0.0:0"], "--insecure-listen"),
        (&["--files", path, "--listen", "unix:/proc/none/c.sock"], "--listen unix:/proc/none/c.sock: No such file or directory"),
        (&["--files", path, "--listen", "nonsense"], "write unix:PATH or HOST:PORT"),
        (&["--files", path, "--listen", &socket, "--socket-mode", "999"], "octal"),
        (&["--files", path], "--listen"),
    ];
    for (arguments, wanted) in rows {
        let output = output(arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(wanted), "{arguments:?}: {message}");
        assert!(message.matches("(os error").count() <= 1, "a cause is said once: {message}");
    }
    assert!(!dir.path().join("c.sock").exists());
}

#[test]
fn it_says_what_it_is() {
    let help = output(&["--help"]);
    let text = String::from_utf8_lossy(&help.stdout).into_owned();
    assert_eq!(help.status.code(), Some(0));
    assert!(text.contains("Examples:") && text.contains("--insecure-listen"), "{text}");
    assert_eq!(output(&["--version"]).status.code(), Some(0));
}

#[test]
fn its_configuration_is_printed_as_yaml_whatever_else_is_given() {
    let config = |arguments: &[&str]| -> serde_json::Value {
        let printed = output(&[arguments, &["--print-config"]].concat());
        assert_eq!(printed.status.code(), Some(0), "{}", String::from_utf8_lossy(&printed.stderr));
        let text = String::from_utf8_lossy(&printed.stdout).into_owned();
        assert!(!text.starts_with('{'), "{text}");
        serde_saphyr::from_str(&text).expect("YAML")
    };
    let defaults = config(&[]);
    assert_eq!((&defaults["files"], &defaults["listen"]), (&serde_json::Value::Null, &serde_json::Value::Null));
    assert_eq!((&defaults["socketMode"], &defaults["fileLimitMib"]), (&"0600".into(), &256.into()));
    let given = config(&["--files", "x", "--listen", "unix:/run/c.sock", "--socket-mode", "0660"]);
    assert_eq!((&given["files"], &given["listen"]), (&"x".into(), &"unix:/run/c.sock".into()));
    assert_eq!(given["socketMode"], "0660");
}
