//! The place at tc ingress of a port.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd};

use libbpf_rs::{ProgramHandle, TC_INGRESS, TcHook};
use nix::net::if_::if_indextoname;

use crate::Error;
use crate::said::{Failure, listening};

/// Before all others: no filter may have let a frame through when ours is asked.
const PRIORITY: u32 = 1;
/// Ours alone: what lies at this handle was put there by this crate, by this process or a former one.
const HANDLE: u32 = 0x51_0ce;
/// As the kernel knows the program, whose name is that of its function.
pub(crate) const NAME: &str = "sluice_redirect";

/// Which program a port holds at our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// None. Or there is no such interface.
    Nobody,
    /// A program of this crate, with the kernel's number.
    Ours(u32),
}

/// Whether there is such an interface in this thread's namespace.
pub(crate) fn exists(port: u32) -> bool {
    // nix 0.31 takes the null pointer of libc for success, with an empty name.
    if_indextoname(port).is_ok_and(|name| !name.is_empty())
}

/// Who holds our place at `port`.
pub(crate) fn holder(port: u32) -> Result<Holder, Error> {
    // Not having a program to attach, any descriptor does: a question carries none.
    let mut hook = hook(port, std::io::stdin().as_fd());
    let id = match listening(|| hook.query()) {
        Ok(id) => id,
        // ENOENT: no such filter. ENODEV: no such interface. EINVAL: no clsact yet, or something there that has no number:
        // attaching says so.
        Err(Failure { errno: Some(libc::ENOENT | libc::EINVAL | libc::ENODEV), .. }) => return Ok(Holder::Nobody),
        Err(Failure { said, .. }) => return Err(Error::Filter { port, what: "ask for the filter", said }),
    };
    match listening(|| ProgramHandle::from_prog_id(id)) {
        Ok(program) if program.name() != OsStr::new(NAME) => {
            Err(Error::Taken { port, program: program.name().to_string_lossy().into_owned() })
        }
        // Whoever has CAP_BPF, but not CAP_SYS_ADMIN, may not look at programs by number. Then the handle says whose it is.
        Ok(_) | Err(_) => Ok(Holder::Ours(id)),
    }
}

/// Puts the program at our place, in one step also where a former one is. Only what `former` says is ever replaced.
pub(crate) fn attach(port: u32, program: BorrowedFd<'_>, former: Holder) -> Result<(), Error> {
    let mut hook = hook(port, program);
    let failed = |what| move |Failure { said, .. }: Failure| Error::Filter { port, what, said };
    listening(|| hook.create()).map_err(failed("add the clsact qdisc"))?;
    match listening(|| hook.replace(former != Holder::Nobody).attach()) {
        Ok(_) => Ok(()),
        // A program of the classic kind: it has neither name nor number.
        Err(Failure { errno: Some(libc::EEXIST), .. }) => Err(Error::Taken { port, program: "without a name".to_owned() }),
        Err(failure) => Err(failed("attach the BPF program")(failure)),
    }
}

/// Empties our place, which holds a program of ours. The qdisc stays: others may use it.
pub(crate) fn detach(port: u32) -> Result<(), Error> {
    let mut hook = hook(port, std::io::stdin().as_fd());
    match listening(|| hook.detach()) {
        Ok(()) => Ok(()),
        Err(Failure { errno: Some(libc::ENOENT | libc::ENODEV), .. }) => Ok(()),
        Err(Failure { said, .. }) => Err(Error::Filter { port, what: "remove the filter", said }),
    }
}

fn hook(port: u32, program: BorrowedFd<'_>) -> TcHook {
    let mut hook = TcHook::new(program);
    let index = i32::try_from(port).unwrap_or(0);
    hook.ifindex(index).attach_point(TC_INGRESS).handle(HANDLE).priority(PRIORITY);
    hook
}
