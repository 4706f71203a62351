//! `sluice-bench`: what Sluice costs, measured on a test network with the programs as a user runs them.
//!
//! Every figure about traffic is a ratio to a peer that ran in turns with it, because machines drift. Nothing here passes
//! or fails; `docs/PERFORMANCE.md` keeps what was measured, with the command.

mod apply;
mod l4;
mod load;
mod lookups;
mod manifests;
mod processor;
mod statistics;

use clap::{Parser, ValueEnum};

use l4::Joined;

/// Measures Sluice on a test network of namespaces. Needs root, or `sluice-testnet run -- sluice-bench`.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "all")]
    scenario: Scenario,
    /// Turns of each peer in `l4`.
    #[arg(long, default_value_t = 301)]
    turns: usize,
    /// How the pods are joined in `l4` (repeatable; all ways by default).
    #[arg(long, value_enum)]
    layout: Vec<Joined>,
    /// Changes in `apply`.
    #[arg(long, default_value_t = 500)]
    changes: usize,
    /// How `lookups` asks.
    #[command(flatten)]
    pace: lookups::Pace,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Connections per second and bytes per second of a flow that the kernel alone decides.
    L4,
    /// Time from a changed file to the kernel's rules.
    Apply,
    /// What a look-up costs on its way through, beside dnsdist.
    Lookups,
    /// All of them.
    All,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if matches!(args.scenario, Scenario::Apply | Scenario::All) {
        apply::measure(args.changes)?;
    }
    if matches!(args.scenario, Scenario::L4 | Scenario::All) {
        let layouts = if args.layout.is_empty() { Joined::value_variants() } else { &args.layout };
        for layout in layouts {
            l4::measure(args.turns, *layout)?;
        }
    }
    if matches!(args.scenario, Scenario::Lookups | Scenario::All) {
        lookups::measure(&args.pace)?;
    }
    Ok(())
}
