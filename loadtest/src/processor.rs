//! How long processes have computed.

use std::collections::BTreeMap;
use std::fs;

use anyhow::Context;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// `USER_HZ`, which Linux fixes.
const TICKS: f64 = 100.0;

/// What `/proc/PID/stat` says.
struct Stat {
    parent: u32,
    /// Seconds in user space and in the kernel for it, of all its threads.
    seconds: f64,
}

impl Stat {
    fn read(process: u32) -> anyhow::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
        // The name, in brackets, may hold anything. Behind it are the fields of `man proc_pid_stat` from the third on.
        let (_, fields) = stat.rsplit_once(')').context("a name in brackets")?;
        let field = |number: usize| fields.split_whitespace().nth(number - 3).context("a field of /proc/PID/stat");
        let ticks = |number| Ok::<f64, anyhow::Error>(field(number)?.parse()?);
        Ok(Self { parent: field(4)?.parse()?, seconds: (ticks(14)? + ticks(15)?) / TICKS })
    }
}

/// Seconds that a process has computed, in user space and in the kernel for it.
pub(crate) fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    Ok(Stat::read(process)?.seconds)
}

/// The same of all that this process has started, by itself or by others, and that runs or has been waited for here; without itself.
///
/// What the kernel does for packets it does mostly in whoever sent them, up to the next queue: so with client, proxy and server counted
/// together that is in it.
pub(crate) fn cpu_seconds_of_children() -> anyhow::Result<f64> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // One that has just ended.
        let Ok(stat) = Stat::read(process) else { continue };
        all.insert(process, stat);
    }
    let own = std::process::id();
    let is_ours = |process: u32| {
        let mut process = process;
        while let Some(stat) = all.get(&process) {
            if stat.parent == own {
                return true;
            }
            process = stat.parent;
        }
        false
    };
    let running: f64 = all.iter().filter(|(process, _)| is_ours(**process)).map(|(_, stat)| stat.seconds).sum();
    let ended = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let micros = ended.user_time().num_microseconds() + ended.system_time().num_microseconds();
    Ok(running + micros as f64 / 1e6)
}
