//! One run of dnsperf.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Command;

use anyhow::{Context, bail};
use sluice_testnet::Netns;

use crate::statistics::Sorted;

/// Where Debian has it.
pub(super) const PROGRAM: &str = "/usr/bin/dnsperf";
/// Sockets of the client: a pod's programs ask from many ports.
const SOCKETS: &str = "20";

/// What dnsperf is to do.
#[derive(Clone, Debug)]
pub(super) struct Dnsperf<'a> {
    names: &'a [String],
    seconds: usize,
    rate: Option<usize>,
    /// Each answer is printed, with its latency.
    says_each: bool,
}

/// What it found.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub(super) completed: usize,
    pub(super) lost: usize,
    /// Answers that were none of NOERROR.
    pub(super) failed: usize,
    pub(super) per_second: f64,
    latencies_us: Vec<f64>,
}

impl<'a> Dnsperf<'a> {
    /// Asks for these, from the first on again when they are through, for so long.
    pub(super) fn new(names: &'a [String], seconds: usize) -> Self {
        Self { names, seconds, rate: None, says_each: true }
    }

    /// At most so many each second.
    pub(super) fn at(self, rate: usize) -> Self {
        Self { rate: Some(rate), ..self }
    }

    /// Without latencies, which cost the client something.
    pub(super) fn silent(self) -> Self {
        Self { says_each: false, ..self }
    }

    pub(super) fn run(&self, ns: &Netns, server: SocketAddr) -> anyhow::Result<Run> {
        let mut file = tempfile::NamedTempFile::new()?;
        let text: String = self.names.iter().map(|name| format!("{name} A\n")).collect();
        file.write_all(text.as_bytes())?;
        let mut command = Command::new(PROGRAM);
        command.args(["-s", &server.ip().to_string(), "-p", &server.port().to_string()]);
        command.args(["-c", SOCKETS, "-l", &self.seconds.to_string(), "-d"]).arg(file.path());
        if let Some(rate) = self.rate {
            command.args(["-Q", &rate.to_string()]);
        }
        if self.says_each {
            command.arg("-v");
        }
        // Who reads a pipe is woken for each answer, and takes processors from all that is measured.
        let said = tempfile::NamedTempFile::new()?;
        command.stdout(said.reopen()?);
        let output = ns.output(&mut command).context("start dnsperf")?;
        let text = std::fs::read_to_string(said.path())?;
        if !output.status.success() {
            bail!("dnsperf: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Run::read(&text).with_context(|| format!("dnsperf said {}", text.lines().rev().take(30).collect::<Vec<_>>().join("\n")))
    }
}

impl Run {
    fn read(text: &str) -> anyhow::Result<Self> {
        let mut latencies_us = Vec::new();
        let mut totals = Vec::new();
        for line in text.lines() {
            match line.strip_prefix("> ") {
                // `> NOERROR www.example.org A 0.000153`
                Some(said) => latencies_us.extend(latency_us(said)),
                None => totals.push(line.trim()),
            }
        }
        let total = |name: &str| {
            let line = totals.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.with_context(|| format!("no line {name:?}"))
        };
        let number = |name: &str| -> anyhow::Result<f64> {
            let word = total(name)?.split_whitespace().next().context("a number")?;
            Ok(word.parse()?)
        };
        let count = |name: &str| -> anyhow::Result<usize> {
            let word = total(name)?.split_whitespace().next().context("a number")?;
            Ok(word.parse()?)
        };
        let completed = count("Queries completed")?;
        // `NOERROR 25000 (100.00%)`, and others behind commas.
        let codes = if completed > 0 { total("Response codes")? } else { "" };
        let good =
            codes.split(',').find_map(|code| code.trim().strip_prefix("NOERROR ")?.split(' ').next()?.parse::<usize>().ok());
        Ok(Self {
            completed,
            lost: count("Queries lost")?,
            failed: completed - good.unwrap_or(0),
            per_second: number("Queries per second")?,
            latencies_us,
        })
    }

    /// The latency in microseconds that so large a share of answers keeps within.
    pub(super) fn latency_us(&self, share: f64) -> f64 {
        if self.latencies_us.is_empty() {
            return f64::NAN;
        }
        Sorted::new(self.latencies_us.clone()).quantile(share)
    }
}

fn latency_us(said: &str) -> Option<f64> {
    said.split_whitespace().next_back()?.parse::<f64>().ok().map(|seconds| seconds * 1e6)
}

#[cfg(test)]
mod tests {
    use super::Run;

    /// As dnsperf 2.10 writes it.
    const SAID: &str = "\
[Status] Sending queries (to 127.0.0.1:53)
> NOERROR host-000000.bench.example A 0.000231
> NXDOMAIN host-000001.bench.example A 0.000226
> NOERROR host-000002.bench.example A 0.001000

Statistics:

  Queries sent:         4
  Queries completed:    3 (75.00%)
  Queries lost:         1 (25.00%)

  Response codes:       NOERROR 2 (66.67%), NXDOMAIN 1 (33.33%)
  Average packet size:  request 29, response 29
  Run time (s):         1.000282
  Queries per second:   2.999154
";

    #[test]
    fn what_dnsperf_says_is_read() {
        let run = Run::read(SAID).unwrap();
        assert_eq!((run.completed, run.lost, run.failed), (3, 1, 1));
        assert!((run.per_second - 2.999154).abs() < 1e-9);
        assert_eq!([0.0, 0.5, 0.99].map(|share| run.latency_us(share).round()), [226.0, 231.0, 1000.0]);
        assert!(Run::read("[Status] Sending queries").is_err());
    }
}
