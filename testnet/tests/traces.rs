//! That nothing is left: of a dropped network in the kernel, of a killed program among the processes; and that all of
//! it works for an ordinary user.

use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use sluice_testnet::{Net, capability, wait_until};

#[test]
fn a_dropped_network_leaves_no_interface() {
    if let Err(why) = capability() {
        println!("SKIPPED: {why}");
        return;
    }
    let net = Net::new().unwrap();
    let node = net.add_node("node-1", &[]).unwrap();
    let pod = net.add_pod(&node, "x/pod", &["10.0.0.1".parse().unwrap()]).unwrap();
    // Seen from a namespace that stays: its end of a veth goes with the namespace of the other end.
    let fabric = net.fabric().clone();
    let links = || fabric.exec("ip", &["-o", "link"]).unwrap().lines().count();
    assert_eq!(links(), 3, "lo, to-node-1, outside");
    let inode = std::fs::metadata(pod.ns().path()).unwrap().ino();
    drop((net, node, pod));
    assert!(wait_until(Duration::from_secs(10), || links() == 1));
    let mine = std::fs::read_dir("/proc/self/fd").unwrap();
    let held = mine.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    let name = format!("net:[{inode}]");
    assert_eq!(held.filter(|link| link.to_string_lossy() == name).count(), 0);
}

/// What `sluice demo` does: a program that goes into a user namespace by itself.
#[test]
fn a_program_enters_by_itself() {
    let copies = tempfile::tempdir().unwrap();
    open_to_all(copies.path());
    let program = copies.path().join("sluice-testnet");
    copy_program(env!("CARGO_BIN_EXE_sluice-testnet").as_ref(), &program);
    let mut ways = vec![vec![]];
    if nix::unistd::geteuid().is_root() {
        ways.push(AS_NOBODY.to_vec());
    }
    for way in ways {
        let words: Vec<_> = way.iter().map(std::ffi::OsStr::new).chain([program.as_os_str()]).collect();
        let output = Command::new(words[0]).args(&words[1..]).arg("try").current_dir("/").output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(said.matches("Connected").count(), 16, "{said}");
    }
}

const AS_NOBODY: [&str; 5] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];

/// Nobody may not look into root's folders.
fn open_to_all(folder: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("a folder of this test");
}

/// By another process: what this one has open for writing, the children of other tests have too for a moment, and can't be started then.
fn copy_program(from: &std::path::Path, to: &std::path::Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().expect("cp").success());
}

/// The tests of `network.rs` once more, as nobody (uid 65534), inside `sluice-testnet run`.
#[test]
fn an_ordinary_user_can_do_all_of_it() {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIPPED: only root can become another user; this run is one already");
        return;
    }
    let folder = std::env::current_exe().unwrap();
    let folder = folder.parent().unwrap();
    let newest = |prefix: &str| {
        let programs = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
        let programs = programs.filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            name.starts_with(prefix) && !name.contains('.')
        });
        programs
            .max_by_key(|entry| entry.metadata().unwrap().modified().unwrap())
            .map(|entry| entry.path())
            .unwrap_or_else(|| panic!("{prefix}* is not in {}", folder.display()))
    };
    let tests = newest("network-");
    let copies = tempfile::tempdir().unwrap();
    open_to_all(copies.path());
    let run = copies.path().join("sluice-testnet");
    copy_program(env!("CARGO_BIN_EXE_sluice-testnet").as_ref(), &run);
    let copy = copies.path().join("network");
    copy_program(&tests, &copy);
    // Without a user namespace the same tests say why they do nothing.
    let plain = Command::new(AS_NOBODY[0]).args(&AS_NOBODY[1..]).arg(&copy).arg("--nocapture").output().unwrap();
    let said = String::from_utf8_lossy(&plain.stdout);
    assert!(said.contains("SKIPPED: network namespaces need root or a user namespace"), "{said}");
    let output = Command::new(AS_NOBODY[0])
        .args(&AS_NOBODY[1..])
        .arg(&run)
        .args(["run", "--"])
        .arg(copy)
        .args(["--nocapture", "--test-threads=2"])
        .current_dir("/")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    assert!(!said.contains("SKIPPED"), "{said}");
    assert!(said.contains("test result: ok."), "{said}");
    println!("{said}");
}

#[test]
fn run_passes_the_exit_status_on_and_ends_what_was_left_running() {
    let run = |script: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-testnet"));
        command.args(["run", "--rootless", "--", "sh", "-c", script]);
        command.stdin(Stdio::null());
        command
    };
    if !run("exit 0").status().unwrap().success() {
        assert!(!nix::unistd::geteuid().is_root(), "root may make user namespaces here");
        println!("SKIPPED: no user namespace inside this one");
        return;
    }
    assert_eq!(run("exit 7").status().unwrap().code(), Some(7));
    assert_eq!(run("kill -TERM $$").status().unwrap().code(), Some(128 + 15));
    let output = run("id -u; cat /proc/1/comm; ip -o link | wc -l; touch /run/x").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0\nsluice-testnet\n1\n", "{output:?}");

    // What ends the program is passed on to it.
    let mut waits = run("trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done");
    let mut waits = waits.stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    std::io::Read::read_exact(waits.stdout.as_mut().unwrap(), &mut up).unwrap();
    let outer = nix::unistd::Pid::from_raw(i32::try_from(waits.id()).unwrap());
    nix::sys::signal::kill(outer, nix::sys::signal::SIGTERM).unwrap();
    assert_eq!(waits.wait().unwrap().code(), Some(5));

    // Killed without a chance to clean up, it takes everything inside along. The word is in no other command line.
    let word = format!("100{}", std::process::id());
    let mut outer = run(&format!("sleep {word} & sleep {word}")).spawn().unwrap();
    assert!(wait_until(Duration::from_secs(10), || sleepers(&word) == 2));
    outer.kill().unwrap();
    outer.wait().unwrap();
    assert!(wait_until(Duration::from_secs(10), || sleepers(&word) == 0));
}

/// Whenever it comes: the stage between is number one of its world, and the kernel drops what such a process doesn't handle.
#[test]
fn no_signal_is_lost_while_the_program_starts() {
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-testnet"));
        command.args(["run", "--rootless", "--", "sleep", "1000"]);
        command.stdin(Stdio::null()).spawn().unwrap()
    };
    if sluice_testnet::capability().is_err() {
        println!("SKIPPED: no user namespace inside this one");
        return;
    }
    for delay in 0..60 {
        let mut outer = start();
        std::thread::sleep(Duration::from_micros(500 * delay));
        let number = nix::unistd::Pid::from_raw(i32::try_from(outer.id()).unwrap());
        nix::sys::signal::kill(number, nix::sys::signal::SIGTERM).unwrap();
        let ends = wait_until(Duration::from_secs(5), || outer.try_wait().unwrap().is_some());
        if !ends {
            outer.kill().unwrap();
        }
        assert!(ends, "after {delay} half milliseconds");
    }
}

/// How many processes `sleep WORD` there are.
fn sleepers(word: &str) -> usize {
    let processes = std::fs::read_dir("/proc").expect("/proc");
    let lines = processes.filter_map(|entry| std::fs::read(entry.ok()?.path().join("cmdline")).ok());
    let sought = format!("sleep\0{word}\0");
    lines.filter(|line| *line == sought.as_bytes()).count()
}

/// How long the test that gets killed by process `killer` lets its program sleep: a word of no other command line.
fn long(killer: u32) -> String {
    format!("200{killer}")
}

#[test]
fn a_killed_test_takes_its_programs_along() {
    if let Err(why) = capability() {
        println!("SKIPPED: {why}");
        return;
    }
    let word = long(std::process::id());
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--ignored", "--exact", "starts_a_program_and_waits_to_be_killed"]).stdout(Stdio::null());
    let mut test = test.spawn().unwrap();
    assert!(wait_until(Duration::from_secs(10), || sleepers(&word) == 1));
    test.kill().unwrap();
    test.wait().unwrap();
    assert!(wait_until(Duration::from_secs(10), || sleepers(&word) == 0));
}

#[test]
#[ignore = "the victim of a_killed_test_takes_its_programs_along"]
fn starts_a_program_and_waits_to_be_killed() {
    let net = Net::new().unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg(long(std::os::unix::process::parent_id()));
    let _child = net.outside().spawn(sleep).unwrap();
    std::thread::sleep(Duration::from_secs(20));
}
