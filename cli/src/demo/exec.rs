//! Entering a pod of a demonstration that is kept up, from any terminal of the same person.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use serde::{Deserialize, Serialize};

use super::lab::Lab;
use crate::config::Settings;

/// What a demonstration leaves in the state folder while it is up.
#[derive(Debug, Serialize, Deserialize)]
struct Notice {
    /// The demonstration's own number, as processes outside of it count.
    process: String,
    /// Paths that open the namespaces: pods as `namespace/name`, nodes, `outside`.
    places: BTreeMap<String, PathBuf>,
    /// What the pods see as `/etc/hosts`.
    hosts: PathBuf,
    /// Whom they ask for other names, and that it is they who are asked; nothing where the scene has no name server.
    resolv_conf: Option<PathBuf>,
    nsswitch: Option<PathBuf>,
}

/// Removes the notice when the demonstration ends.
#[derive(Debug)]
pub(super) struct Announced {
    file: PathBuf,
}

impl Drop for Announced {
    fn drop(&mut self) {
        // A notice that stays names a process that is gone, and is seen through.
        let _ = fs::remove_file(&self.file);
    }
}

fn notice_file(settings: &Settings) -> PathBuf {
    settings.state_dir.join("demo.json")
}

/// The notice of a demonstration that is up.
fn read_notice(settings: &Settings) -> Option<Notice> {
    let text = fs::read_to_string(notice_file(settings)).ok()?;
    let notice: Notice = serde_json::from_str(&text).ok()?;
    let alive = notice.places.values().next().is_some_and(|place| fs::metadata(place).is_ok());
    alive.then_some(notice)
}

/// Lets `sluice demo exec` find the pods of `lab`.
pub(super) fn announce(lab: &Lab, folder: &Path, settings: &Settings) -> anyhow::Result<Announced> {
    if let Some(other) = read_notice(settings) {
        bail!("a demonstration is up already (process {}): end it with Ctrl-C there", other.process);
    }
    let file_of = |name: &str, text: String| {
        let file = folder.join(name);
        fs::write(&file, text).with_context(|| file.display().to_string())?;
        anyhow::Ok(file)
    };
    let hosts = file_of("hosts", lab.hosts())?;
    let resolv_conf = lab.resolv_conf().map(|conf| file_of("resolv.conf", conf.text())).transpose()?;
    // As in a container: this machine's own resolvers are none of a pod's.
    let nsswitch = lab.resolv_conf().map(|_| file_of("nsswitch.conf", "hosts: files dns\n".to_owned())).transpose()?;
    let process = fs::read_link("/proc/self").context("/proc/self")?.display().to_string();
    let notice = Notice { process, places: lab.places(), hosts, resolv_conf, nsswitch };
    let file = notice_file(settings);
    fs::create_dir_all(&settings.state_dir).with_context(|| settings.state_dir.display().to_string())?;
    fs::write(&file, serde_json::to_string_pretty(&notice)?).with_context(|| file.display().to_string())?;
    Ok(Announced { file })
}

/// Runs `command` in `pod` in place of this process.
pub(super) fn run(pod: &str, command: &[String], settings: &Settings) -> anyhow::Result<u8> {
    let Some(notice) = read_notice(settings) else {
        bail!("no demonstration of yours is up: start one with `sluice demo --keep` (if it runs as root, use sudo here as well)");
    };
    let place = find(&notice.places, pod)?;
    enter(&notice, place).with_context(|| format!("entering {pod}"))?;
    let shell = settings.shell.display().to_string();
    let (program, arguments) = command.split_first().map_or((&shell, &[][..]), |(first, rest)| (first, rest));
    let error = Command::new(program).args(arguments).exec();
    bail!("{program}: {error}")
}

/// The place called `name`: in full, or the part behind the slash where only one has it.
fn find<'n>(places: &'n BTreeMap<String, PathBuf>, name: &str) -> anyhow::Result<&'n Path> {
    if let Some(place) = places.get(name) {
        return Ok(place);
    }
    let short: Vec<_> = places.iter().filter(|(full, _)| full.rsplit('/').next() == Some(name)).collect();
    match short.as_slice() {
        [(_, place)] => Ok(place),
        [] => {
            let all: Vec<_> = places.keys().map(String::as_str).collect();
            bail!("there is no pod {name}: {}", all.join(", "))
        }
        several => {
            let all: Vec<_> = several.iter().map(|(full, _)| full.as_str()).collect();
            bail!("which {name}? {}", all.join(" or "))
        }
    }
}

/// Moves this process, which has one thread, into the namespaces.
fn enter(notice: &Notice, place: &Path) -> anyhow::Result<()> {
    let theirs = Path::new("/proc").join(&notice.process).join("ns/user");
    let network = File::open(place).with_context(|| place.display().to_string())?;
    let user = File::open(&theirs).with_context(|| theirs.display().to_string())?;
    // Root's demonstration has no user namespace of its own, and a process can't enter the one it is in.
    if user.metadata()?.ino() != fs::metadata("/proc/self/ns/user")?.ino() {
        setns(&user, CloneFlags::CLONE_NEWUSER).context("its user namespace")?;
    }
    setns(&network, CloneFlags::CLONE_NEWNET).context("its network namespace")?;
    // Pods know each other by name, through a file of their own, and other names by the scene's name server.
    let own = unshare(CloneFlags::CLONE_NEWNS)
        .and_then(|()| mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>));
    let cover =
        |file: &PathBuf, at: &str| own.and_then(|()| mount(Some(file), at, None::<&Path>, MsFlags::MS_BIND, None::<&Path>));
    if let Err(errno) = cover(&notice.hosts, "/etc/hosts") {
        eprintln!("pods are not known by name here ({errno}): use their addresses");
    }
    let switched = notice.nsswitch.as_ref().map_or(Ok(()), |file| match cover(file, "/etc/nsswitch.conf") {
        // Without one, C libraries take this very order.
        Err(Errno::ENOENT) => Ok(()),
        covered => covered,
    });
    let resolved = notice.resolv_conf.as_ref().map_or(Ok(()), |file| cover(file, "/etc/resolv.conf"));
    if let Err(errno) = switched.and(resolved) {
        eprintln!("the scene's name server is not asked here ({errno}): names outside are this machine's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_by_short_name_where_it_is_unique() {
        let places: BTreeMap<String, PathBuf> =
            ["a/web", "b/web", "a/db", "node-1"].into_iter().map(|n| (n.to_owned(), PathBuf::from(n))).collect();
        assert_eq!(find(&places, "db").unwrap(), Path::new("a/db"));
        assert_eq!(find(&places, "b/web").unwrap(), Path::new("b/web"));
        assert_eq!(find(&places, "node-1").unwrap(), Path::new("node-1"));
        assert_eq!(find(&places, "web").unwrap_err().to_string(), "which web? a/web or b/web");
        assert!(find(&places, "x").unwrap_err().to_string().starts_with("there is no pod x: a/db"));
    }
}
