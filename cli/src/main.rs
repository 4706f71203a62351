//! The program `sluice`: reads its command line and ends with the exit status: 0 yes, 1 denied or
//! different, 2 input that can't be read.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use sluice_cli::args::{Cli, Command};
use sluice_cli::config::Settings;
use sluice_cli::{counters, demo, diff, eval, expected, explain, graph, lint, matrix, names, output};

fn main() -> ExitCode {
    let settings = Settings::from_environment();
    let answered =
        if Cli::asks_for_settings(std::env::args_os()) { print_settings(&settings) } else { run(&Cli::parse(), &settings) };
    match answered {
        Ok(status) => ExitCode::from(status),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&settings, format_args!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<u8> {
    match &cli.command {
        None => {
            Cli::command().print_help()?;
            Ok(2)
        }
        Some(Command::Eval(args)) => eval::run(args, settings),
        Some(Command::Explain(args)) => explain::run(args, settings),
        Some(Command::Matrix(args)) => matrix::run(args, settings),
        Some(Command::Lint(args)) => lint::run(args, settings),
        Some(Command::Graph(args)) => graph::run(args, settings),
        Some(Command::Diff(args)) => diff::run(args, settings),
        Some(Command::Test(args)) => expected::run(args, settings),
        Some(Command::Counters(args)) => counters::run(args, settings),
        Some(Command::Names(args)) => names::run(args, settings),
        Some(Command::Demo(args)) => demo::run(args, settings),
        Some(Command::Completions(args)) => {
            let mut script = Vec::new();
            clap_complete::generate(args.shell, &mut Cli::command(), "sluice", &mut script);
            io::stdout().write_all(&script)?;
            Ok(0)
        }
    }
}

fn print_settings(settings: &Settings) -> anyhow::Result<u8> {
    write!(io::stdout(), "{}", serde_saphyr::to_string(settings)?)?;
    Ok(0)
}

/// Whoever read our answer has seen enough (`sluice .. | head`): no error.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe))
}
