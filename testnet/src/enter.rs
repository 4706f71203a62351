//! Becoming root of a world of one's own: user, network, mount and process namespaces around a program.
//!
//! A process with several threads cannot enter a user namespace, so it is done before there are any, by three stages of
//! the same program: the one outside makes the namespaces and waits; the first inside is the init process of the new
//! process namespace, with which everything in it dies; the last is the program itself.

use std::convert::Infallible;
use std::fs;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getegid, geteuid, getpid};

use crate::{Error, WhyNot, capability, obstacle};

/// The first thing that `main` of a program calls that makes networks: where the process can, it returns at once.
/// Otherwise the program is started again inside a user namespace, and this process waits for it and exits as it did.
///
/// Must be called before any thread is started. Standard input and output, arguments and working folder are kept;
/// `/proc` stays that of outside, so that `/proc/self` is the number by which others know the process.
///
/// # Errors
/// Why neither is possible.
pub fn enter() -> Result<(), Error> {
    if is_init_of_new_world() {
        exit(init(&mut again()?)?);
    }
    if capability().is_ok() {
        return Ok(());
    }
    match outside(&mut again()?, true)? {}
}

/// Runs `program` in a world of its own, with `/proc`, `/sys` and `/run` that fit it, and exits as it did. `rootless`:
/// in a user namespace even where the caller is root.
///
/// # Errors
/// Why that is not possible.
pub fn run(program: &mut Command, rootless: bool) -> Result<Infallible, Error> {
    if is_init_of_new_world() {
        private_mounts();
        exit(init(program)?);
    }
    outside(&mut again()?, rootless || !geteuid().is_root())
}

/// This program with its arguments, once more.
fn again() -> Result<Command, Error> {
    let own = std::env::current_exe().map_err(Error::Enter)?;
    let mut command = Command::new(own);
    command.args(std::env::args_os().skip(1));
    Ok(command)
}

/// Number one, under a `/proc` that still counts by the process namespace outside.
fn is_init_of_new_world() -> bool {
    let known_as = fs::read_link("/proc/self");
    getpid() == Pid::from_raw(1) && known_as.is_ok_and(|number| number != Path::new("1"))
}

/// The stage outside: makes the namespaces and waits.
fn outside(command: &mut Command, new_user: bool) -> Result<Infallible, Error> {
    // What ends the program is passed on to it, and not obeyed here before it has ended.
    let signals = forwarded();
    signals.thread_block().map_err(failed)?;
    let (uid, gid) = (geteuid(), getegid());
    let mut kinds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID;
    if new_user {
        kinds |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(kinds).map_err(refused)?;
    if new_user {
        // Since Linux 3.19 an ordinary user must give up setgroups before mapping a group.
        let map = |file: &str, content: String| fs::write(format!("/proc/self/{file}"), content);
        map("setgroups", "deny".to_owned())
            .and_then(|()| map("uid_map", format!("0 {uid} 1")))
            .and_then(|()| map("gid_map", format!("0 {gid} 1")))
            .map_err(|error| refused(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))))?;
    }
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&Path>, "/", None::<&Path>, private, None::<&Path>).map_err(failed)?;
    let child = command.spawn().map_err(Error::Enter)?;
    exit(attend(child.id(), &signals)?);
}

fn refused(errno: Errno) -> Error {
    let hint = obstacle().map_or(String::new(), |found| format!(": {found}"));
    if geteuid().is_root() {
        return WhyNot::Confined { errno }.into();
    }
    WhyNot::NoUserNamespaces { errno, hint }.into()
}

/// The stage between: reaps what is left to it, and ends with `command`; everything else in the namespace ends then.
fn init(command: &mut Command) -> Result<ExitStatus, Error> {
    set_pdeathsig(Signal::SIGKILL).map_err(failed)?;
    let signals = forwarded();
    // The program begins with nothing blocked, as it inherits what is blocked here. What comes in that moment is noted: the kernel
    // drops what number one doesn't handle.
    let noted: Vec<(Signal, Arc<AtomicBool>)> = PASSED_ON.map(|signal| (signal, Arc::default())).into();
    for (signal, flag) in &noted {
        signal_hook::flag::register(*signal as i32, Arc::clone(flag)).map_err(Error::Enter)?;
    }
    signals.thread_unblock().map_err(failed)?;
    let child = command.spawn().map_err(Error::Enter)?;
    signals.thread_block().map_err(failed)?;
    for (signal, _) in noted.iter().filter(|(_, flag)| flag.load(Ordering::Relaxed)) {
        // It may have ended already: then it is waited for, and not found.
        let _ = kill(pid(child.id()), *signal);
    }
    attend(child.id(), &signals)
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("process ids are below 2^22"))
}

/// Waits for the child with this number, passing signals on to it.
fn attend(child: u32, signals: &SigSet) -> Result<ExitStatus, Error> {
    let child = pid(child);
    loop {
        // Before waiting: what ended while the signals were not yet blocked has sent its own in vain.
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                    return Ok(ExitStatus::from_raw((code & 0xff) << 8));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                    return Ok(ExitStatus::from_raw(signal as i32));
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) => {}
                Err(Errno::ECHILD) => return Ok(ExitStatus::from_raw(1 << 8)),
                Err(errno) => return Err(failed(errno)),
            }
        }
        match signals.wait().map_err(failed)? {
            Signal::SIGCHLD => {}
            other => {
                // It may have ended by itself; then the next round sees it.
                let _ = kill(child, other);
            }
        }
    }
}

/// What ends a program.
const PASSED_ON: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

fn forwarded() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    PASSED_ON.into_iter().for_each(|signal| signals.add(signal));
    signals
}

/// As a shell says it: the code, or 128 and the signal.
fn exit(status: ExitStatus) -> ! {
    let by_signal = status.signal().map(|signal| 128 + signal);
    std::process::exit(status.code().or(by_signal).unwrap_or(1))
}

/// Mounts that fit the new namespaces. A container that has parts of `/proc` or `/sys` covered refuses new ones; the old
/// are good enough then, and what really needs them says so itself.
fn private_mounts() {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("tmpfs", "/run")] {
        let target = PathBuf::from(target);
        let _ = mount(Some(kind), &target, Some(kind), plain, None::<&Path>);
    }
}

fn failed(errno: Errno) -> Error {
    Error::Enter(io::Error::from(errno))
}
