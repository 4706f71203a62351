//! `sluice-testnet run [--rootless] -- COMMAND [ARGUMENT..]`: COMMAND as root of a world of its own.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::{Command, ExitCode};
use std::time::Duration;

use sluice_testnet::{Error, Net, Outcome, Port, Probe, Protocol, enter, run};

const USAGE: &str = "\
Runs a command in namespaces of its own (user, network, mounts, processes), where it can make test networks.

usage: sluice-testnet run [--rootless] -- COMMAND [ARGUMENT..]
       sluice-testnet try

  run         as an ordinary user, COMMAND is root of a user namespace; everything it leaves running ends with it
  --rootless  the same also where you are root
  try         makes a small network as the demo does, in a user namespace where it needs one, and says who reached whom

examples:
  sluice-testnet run -- cargo test -p sluice-testnet
  sluice-testnet run -- bash";

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let texts: Vec<_> = words.iter().map(|word| word.to_str()).collect();
    let (rootless, from) = match texts.as_slice() {
        [Some("try")] => return try_out(),
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
    let Err(error) = run(&mut command, rootless);
    eprintln!("sluice-testnet: {error}");
    ExitCode::from(2)
}

fn try_out() -> ExitCode {
    match enter().and_then(|()| small_network()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-testnet: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Two pods of two nodes; whether each reached the other by every protocol.
fn small_network() -> Result<bool, Error> {
    let ports = [Port::tcp(80), Port::udp(53), Port::sctp(132), Port::of(Protocol::Icmp, 0)];
    let net = Net::new()?;
    let mut pods = Vec::new();
    for number in 1..=2_u16 {
        let node = net.add_node(&format!("node-{number}"), &[])?;
        let v4 = Ipv4Addr::from(0x0a00_0000 | u32::from(number));
        let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number);
        let pod = net.add_pod(&node, &format!("try/pod-{number}"), &[v4.into(), v6.into()])?;
        net.serve_pod(&pod, &ports)?;
        pods.push(pod);
    }
    let mut probes = Vec::new();
    for (from, to) in [(0, 1), (1, 0)] {
        for to in pods[to].addresses() {
            for Port { protocol, number: port } in ports {
                probes.push(Probe { from: pods[from].ns().clone(), source: None, to, port, protocol });
            }
        }
    }
    let outcomes = net.probe(&probes, Duration::from_secs(1));
    for (probe, outcome) in probes.iter().zip(&outcomes) {
        println!("{} -> {} {:?}: {outcome:?}", probe.from.name(), probe.to, probe.protocol);
    }
    Ok(outcomes.iter().all(Outcome::is_connected))
}
