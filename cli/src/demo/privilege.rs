//! The right to make network namespaces: through a user namespace, or as root where ordinary users may not.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::bail;
use nix::unistd::geteuid;
use sluice_testnet::{Error, WhyNot};

use crate::config::Settings;

/// Returns where the rest of the program may make namespaces; must be called before any thread is started.
///
/// An ordinary user's program is started again in a user namespace. Where the machine refuses that, it says so and goes on
/// through sudo, if there is one.
pub(super) fn enter(settings: &Settings) -> anyhow::Result<()> {
    let refusal = match sluice_testnet::enter() {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    let may_help = matches!(refusal, Error::Enter(_) | Error::WhyNot(WhyNot::NoUserNamespaces { .. } | WhyNot::NotInside { .. }));
    if geteuid().is_root() || !may_help {
        bail!("the demonstration can't run here: {refusal}");
    }
    if !settings.sudo {
        bail!("the demonstration can't run here: {refusal}\nThere is no sudo: run `sluice demo` as root");
    }
    writeln!(io::stderr(), "{refusal}\nSo the demonstration needs root here: running it through sudo.")?;
    let program = std::env::current_exe()?;
    let error = Command::new("sudo").arg("--").arg(program).args(std::env::args_os().skip(1)).exec();
    bail!("sudo: {error}")
}
