//! `sluice-controller`: watches a folder of manifests and feeds the nodes.

use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use sluice_controller::{Args, Config};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let args = Args::parse();
    let print = args.print_config;
    match run(args.into(), print) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice-controller: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(config: Config, print: bool) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log).with_context(|| format!("--log {:?}", config.log))?;
    if print {
        println!("{}", serde_json::to_string_pretty(&config)?);
        return Ok(());
    }
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let ended = runtime.block_on(async {
        let cancel = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let running = sluice_controller::start(config, cancel.clone()).await?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping; the nodes keep what they have");
            cancel.cancel();
        });
        running.ended().await.context("serve nodes")
    });
    // The world's thread may be in the middle of something large; nothing on disk or on a node depends on it.
    runtime.shutdown_background();
    ended
}
