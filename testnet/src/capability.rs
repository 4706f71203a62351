//! Whether this process can make namespaces, and if not, what a person can do.

use std::fs;

use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::geteuid;

use crate::netns::on_own_thread;

/// Why no network can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WhyNot {
    /// An ordinary user, who needs a user namespace around the program first.
    #[error("network namespaces need root or a user namespace: run it under `sluice-testnet run -- COMMAND`{hint}")]
    NotInside {
        /// What on this machine will be in the way of that, or nothing.
        hint: String,
    },
    /// The kernel refuses even a user namespace.
    #[error("this machine does not let an ordinary user make a user namespace ({errno}){hint}; or run it as root")]
    NoUserNamespaces {
        /// What the kernel said.
        errno: Errno,
        /// The setting that is in the way, where one was found.
        hint: String,
    },
    /// Root, but of a container that may not.
    #[error(
        "root, but not allowed to make a network namespace ({errno}): in a container, it needs --privileged or \
         --cap-add SYS_ADMIN,NET_ADMIN with a seccomp profile that lets unshare pass"
    )]
    Confined {
        /// What the kernel said.
        errno: Errno,
    },
}

/// Whether this process can make networks. Tests ask first, and print the answer when it is no.
///
/// # Errors
/// Why not, in words for a person.
pub fn capability() -> Result<(), WhyNot> {
    let refused = match on_own_thread(|| unshare(CloneFlags::CLONE_NEWNET)) {
        Ok(()) => return Ok(()),
        Err(errno) => errno,
    };
    if geteuid().is_root() {
        return Err(WhyNot::Confined { errno: refused });
    }
    let hint = obstacle().map_or(String::new(), |found| format!(" ({found})"));
    Err(WhyNot::NotInside { hint })
}

/// The setting that keeps ordinary users from making user namespaces, and how to change it.
pub(crate) fn obstacle() -> Option<String> {
    let is = |path: &str, value: &str| fs::read_to_string(path).is_ok_and(|content| content.trim() == value);
    let settings = [
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("user.max_user_namespaces", "0", "10000"),
    ];
    settings
        .into_iter()
        .find(|(name, bad, _)| is(&format!("/proc/sys/{}", name.replace('.', "/")), bad))
        .map(|(name, bad, good)| format!("{name} is {bad}; `sysctl -w {name}={good}` as root allows it"))
}
