//! `sluice-proxy`: enforces the policies of one node.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sluice_proxy::app::{self, Options};
use sluice_proxy::config::{Args, Command, Config};
use sluice_proxy::kernel::Kernel;
use tracing_subscriber::EnvFilter;

/// The input can't be read.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = match EnvFilter::try_new(&args.log).with_context(|| format!("--log {:?}", args.log)) {
        Ok(filter) => filter,
        Err(error) => return failed(&error, BAD_INPUT),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();

    let result = match args.command {
        Some(Command::Cleanup) => cleanup(),
        None => match Config::load(args.config.as_deref(), &args.settings) {
            Ok(config) if args.print_config => print_config(&config),
            Ok(config) => enforce(args, config),
            Err(error) => return failed(&error.into(), BAD_INPUT),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, 1),
    }
}

fn enforce(args: Args, config: Config) -> anyhow::Result<()> {
    let controller = args.controller.context("--controller is missing")?;
    let node = args.node.context("--node is missing")?;
    app::run(Options { controller, node, state_dir: args.state_dir, admin: args.admin, config })
}

fn print_config(config: &Config) -> anyhow::Result<()> {
    print!("{}", serde_saphyr::to_string(config).context("write the configuration")?);
    Ok(())
}

fn cleanup() -> anyhow::Result<()> {
    let removed = Kernel::cleanup().context("clean up the kernel's side (needs CAP_NET_ADMIN)")?;
    let found = match (removed.table, removed.bridges) {
        (true, false) => "removed table inet sluice and its routing",
        (true, true) => "removed table inet sluice, its routing, and what was on bridges",
        (false, true) => "removed what was on bridges",
        (false, false) => "nothing to remove",
    };
    println!("{found}");
    Ok(())
}

fn failed(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("sluice-proxy: {error:#}");
    ExitCode::from(code)
}
