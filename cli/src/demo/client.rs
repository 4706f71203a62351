//! The clients: curl inside a pod for HTTP, a client of gRPC for calls, probes for everything else, all rows at once.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use sluice_policy::Protocol;
use sluice_testnet::{Netns, Outcome, Probe, orders};

use super::lab::Lab;
use super::scene::{Holder, Scene, Speaks};
use crate::cluster::Names;
use crate::contents::Contents;
use crate::expectation::{Expect, Row};

/// How long a client waits for an answer. A packet that is dropped costs all of it, so rows wait side by side.
const PATIENCE: Duration = Duration::from_millis(1000);
/// How long one waits whose answer is due and was late: a busy machine is no denial.
const SECOND_PATIENCE: Duration = Duration::from_secs(6);
/// Rows that are tried side by side.
const AT_ONCE: usize = 32;

/// What the order service itself answers, by gRPC's numbers: the second to methods that it doesn't have.
const OK: i32 = 0;
const UNIMPLEMENTED: i32 = 12;

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) got: Got,
    /// In a word or two: `200`, `403`, `no answer`.
    pub(super) how: String,
    /// The `x-sluice-id` of an answer.
    pub(super) id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Got {
    Allow,
    Deny,
    /// Neither: something is broken.
    Unclear,
}

impl Got {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unclear => "?",
        }
    }

    pub(super) fn is(self, expect: Expect) -> bool {
        matches!((self, expect), (Self::Allow, Expect::Allow) | (Self::Deny, Expect::Deny))
    }
}

/// Says what to do where curl is missing.
pub(super) fn find_curl() -> anyhow::Result<()> {
    if Command::new("curl").arg("--version").output().is_err() {
        bail!("the demonstration's clients are curl, and there is none: apt install curl");
    }
    Ok(())
}

/// Tries every row of the scene, many at once, and returns what was seen in the order of the rows.
pub(super) fn try_all(scene: &Scene, lab: &Lab) -> Vec<Seen> {
    let mut seen = Vec::with_capacity(scene.rows.len());
    for rows in scene.rows.chunks(AT_ONCE) {
        std::thread::scope(|scope| {
            let running: Vec<_> = rows.iter().map(|row| scope.spawn(|| try_row(scene, lab, row))).collect();
            for handle in running {
                seen.push(handle.join().unwrap_or_else(|_| unclear("the client broke")));
            }
        });
    }
    seen
}

fn try_row(scene: &Scene, lab: &Lab, row: &Row) -> Seen {
    let first = try_once(scene, lab, row, PATIENCE);
    if row.expect == Expect::Allow && first.got != Got::Allow && first.id.is_none() {
        return try_once(scene, lab, row, SECOND_PATIENCE);
    }
    first
}

fn try_once(scene: &Scene, lab: &Lab, row: &Row, patience: Duration) -> Seen {
    let Ok(question) = row.question() else { return unclear("unreadable row") };
    let addresses = scene.cluster.judge(&question, &Names::default()).map(|j| (j.source, j.destination));
    let Ok((_, destination)) = addresses else { return unclear("no addresses") };
    let client = scene.holder(&question.from).and_then(|holder| lab.namespace(&holder));
    let Some((ns, source)) = client else { return unclear("no such client") };
    let server = scene.holder(&question.to).unwrap_or(Holder::Outside(destination));
    if let Some(call) = &row.grpc {
        return grpc(&ns, source, SocketAddr::new(destination, row.port), call, patience);
    }
    if scene.speaks(&server, row.port, row.protocol) == Speaks::Http {
        let (method, target) = match &question.contents {
            Some(Contents::Http { method, target, .. }) => (method.as_str(), target.as_str()),
            _ => ("GET", "/"),
        };
        return curl(&ns, source, method, destination, row.port, target, patience);
    }
    let protocol = match row.protocol {
        Protocol::Tcp => sluice_testnet::Protocol::Tcp,
        Protocol::Udp => sluice_testnet::Protocol::Udp,
        Protocol::Sctp => sluice_testnet::Protocol::Sctp,
        Protocol::Icmp => sluice_testnet::Protocol::Icmp,
        Protocol::Other(_) => return unclear("no client for it"),
    };
    let probe = Probe { from: ns, source, to: destination, port: row.port, protocol };
    match lab.net().probe(&[probe], patience).pop() {
        Some(Outcome::Connected { .. }) => Seen { got: Got::Allow, how: "answered".to_owned(), id: None },
        Some(Outcome::Timeout) => denied("no answer"),
        Some(Outcome::Refused) => denied("refused"),
        Some(Outcome::Reset) => denied("reset"),
        Some(Outcome::Unreachable(_)) => denied("unreachable"),
        Some(Outcome::Silent) => unclear("connected, no answer"),
        Some(Outcome::Error(error)) => unclear(&error),
        None => unclear("no outcome"),
    }
}

fn curl(ns: &Netns, source: Option<IpAddr>, method: &str, to: IpAddr, port: u16, target: &str, patience: Duration) -> Seen {
    let seconds = format!("{:.1}", patience.as_secs_f32());
    let mut command = Command::new("curl");
    // -q comes first: a person's own .curlrc plays no part.
    command.args(["-q", "--silent", "--show-error", "--noproxy", "*", "--path-as-is", "--output", "/dev/null"]);
    command.args(["--write-out", "%{http_code} %header{x-sluice-id}", "--connect-timeout", &seconds]);
    command.args(["--max-time", &format!("{:.1}", patience.as_secs_f32() + 2.0)]);
    if method == "HEAD" {
        command.arg("--head");
    } else {
        command.args(["--request", method]);
    }
    if let Some(source) = source {
        command.args(["--interface", &source.to_string()]);
    }
    let host = if to.is_ipv6() { format!("[{to}]") } else { to.to_string() };
    command.arg(format!("http://{host}:{port}{target}"));
    let output = match ns.output(&mut command) {
        Ok(output) => output,
        Err(error) => return unclear(&format!("curl: {error}")),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    let mut words = said.split_whitespace();
    let code = words.next().unwrap_or_default().to_owned();
    let id = words.next().map(str::to_owned);
    // The exit statuses are of curl's manual.
    match output.status.code() {
        Some(0) if id.is_some() => Seen { got: Got::Deny, how: code, id },
        Some(0) => Seen { got: Got::Allow, how: code, id: None },
        Some(7) => denied("refused"),
        Some(28) => denied("no answer"),
        Some(52 | 56) => denied("cut"),
        _ => unclear(String::from_utf8_lossy(&output.stderr).trim()),
    }
}

fn grpc(ns: &Netns, source: Option<IpAddr>, to: SocketAddr, call: &str, patience: Duration) -> Seen {
    match orders::call(ns, source, to, call, patience) {
        Ok(end) => {
            let got = match (&end.sluice_id, end.status) {
                (Some(_), _) => Got::Deny,
                (None, OK | UNIMPLEMENTED) => Got::Allow,
                (None, _) => return unclear(&format!("status {} {}", end.status, end.message)),
            };
            Seen { got, how: format!("status {}", end.status), id: end.sluice_id }
        }
        Err(error) => match error.kind() {
            io::ErrorKind::TimedOut => denied("no answer"),
            io::ErrorKind::ConnectionRefused => denied("refused"),
            io::ErrorKind::ConnectionReset => denied("reset"),
            _ => unclear(&format!("call: {error}")),
        },
    }
}

fn denied(how: &str) -> Seen {
    Seen { got: Got::Deny, how: how.to_owned(), id: None }
}

fn unclear(how: &str) -> Seen {
    Seen { got: Got::Unclear, how: how.to_owned(), id: None }
}
