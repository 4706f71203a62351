//! `sluice-testnet run [--rootless] -- COMMAND [ARGUMENT..]`: COMMAND as root of a world of its own.

use std::process::{Command, ExitCode};

const USAGE: &str = "\
Runs a command in namespaces of its own (user, network, mounts, processes), where it can make test networks.

usage: sluice-testnet run [--rootless] -- COMMAND [ARGUMENT..]
       sluice-testnet check

  run         as an ordinary user, COMMAND is root of a user namespace; everything it leaves running ends with it
  --rootless  the same also where you are root
  check       says whether networks can be made right here; exit status 0 if so

examples:
  sluice-testnet run -- cargo test -p sluice-testnet
  sluice-testnet run -- bash";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let texts: Vec<_> = words.iter().map(|word| word.to_str()).collect();
    let (rootless, from) = match texts.as_slice() {
        [Some("check")] => return check(),
        [Some("run"), Some("--rootless"), Some("--"), _, ..] => (true, 3),
        [Some("run"), Some("--"), _, ..] => (false, 2),
        [Some("--help" | "-h")] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    let mut command = Command::new(&words[from]);
    command.args(&words[from + 1..]);
    let Err(error) = sluice_testnet::run(&mut command, rootless);
    eprintln!("sluice-testnet: {error}");
    ExitCode::from(2)
}

fn check() -> ExitCode {
    match sluice_testnet::capability() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("sluice-testnet: {why}");
            ExitCode::FAILURE
        }
    }
}
