//! How the kernel schedules a thread.

#![expect(unsafe_code, reason = "no library sets the policy of a thread and leaves its nice value alone")]

use nix::errno::Errno;

/// From now on this thread takes the processor from nobody when it is woken (`SCHED_BATCH`), but has its share as before: who sends a datagram,
/// a pod's program or a server, goes on with its work, and both are spared a switch there and back for each.
pub(super) fn as_batch() -> Result<(), Errno> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and all that is read is one `sched_param`, which outlives the call.
    Errno::result(unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) }).map(drop)
}

#[cfg(test)]
mod tests {
    /// Field 41 of `man proc_pid_stat`; the name before the others may hold anything.
    fn policy() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(41 - 3).unwrap().parse().unwrap()
    }

    #[test]
    fn it_is_of_this_thread_alone() {
        let before = policy();
        std::thread::spawn(|| {
            super::as_batch().unwrap();
            assert_eq!(policy(), libc::SCHED_BATCH);
        })
        .join()
        .unwrap();
        assert_eq!(policy(), before);
    }
}
