//! `sluice-proxy`: enforces the policies of one node.

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sluice_proxy::app::{self, Options};
use sluice_proxy::config::{Args, Command, Config};
use sluice_proxy::kernel::Kernel;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// The input can't be read.
const BAD_INPUT: u8 = 2;

fn main() -> ExitCode {
    let args = Args::parse();
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(filter)
        .init();

    let (file, settings) = match &args.command {
        Some(Command::Cleanup { config, settings }) => (config, settings),
        None => (&args.config, &args.settings),
    };
    let config = match Config::load(file.as_deref(), settings) {
        Ok(config) => config,
        Err(error) => return failed(&error.into(), BAD_INPUT),
    };
    let result = match args.command {
        Some(Command::Cleanup { .. }) => cleanup(),
        None if args.print_config => print_config(&config),
        None => enforce(args, config),
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
    println!("{}", if removed.table { "removed table inet sluice and its routing" } else { "nothing to remove" });
    Ok(())
}

fn failed(error: &anyhow::Error, code: u8) -> ExitCode {
    eprintln!("sluice-proxy: {error:#}");
    ExitCode::from(code)
}
