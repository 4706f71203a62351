//! The clients: curl inside a pod for HTTP, a client of gRPC for calls, one of DNS for look-ups, probes for everything else, all rows at
//! once. Where a row goes by name, its client looks the name up itself: no row lives on what another has learned.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::bail;
use sluice_policy::Protocol;
use sluice_testnet::dns::ResolvConf;
use sluice_testnet::{Netns, Outcome, Probe, orders};

use super::lab::Lab;
use super::lookup;
use super::scene::{Holder, Scene, Speaks};
use crate::contents::Contents;
use crate::expectation::{Expect, Row};
use crate::flow_line::{End, Question};

/// How long a client waits for an answer. A packet that is dropped costs all of it, so rows wait side by side.
const PATIENCE: Duration = Duration::from_millis(1000);
/// How long one waits whose answer is due and was late: a busy machine is no denial.
const SECOND_PATIENCE: Duration = Duration::from_secs(6);
/// Rows that are tried side by side.
const AT_ONCE: usize = 32;

/// What the order service itself answers, by gRPC's numbers: the second to methods that it doesn't have.
const OK: i32 = 0;
const UNIMPLEMENTED: i32 = 12;
/// The type A of DNS.
const ADDRESS: u16 = 1;

/// What a client saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) got: Got,
    /// In a word or two: `200`, `403`, `no answer`.
    pub(super) how: String,
    /// The `x-sluice-id` of an answer.
    pub(super) id: Option<String>,
    /// Why a look-up was denied, as the client was told.
    pub(super) why: Option<String>,
}

/// What one says whose packets vanish.
const NO_ANSWER: &str = "no answer";
/// What one says whose name server gave it no address.
pub(super) const NOT_RESOLVED: &str = "not resolved";

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
    let is_late = match row.expect {
        Expect::Allow => first.got != Got::Allow && first.id.is_none(),
        // The proxy says no in so many words.
        _ => first.how == NO_ANSWER && row.question().is_ok_and(|question| scene.is_read(&question)),
    };
    if is_late {
        return try_once(scene, lab, row, SECOND_PATIENCE);
    }
    first
}

fn try_once(scene: &Scene, lab: &Lab, row: &Row, patience: Duration) -> Seen {
    let Ok(question) = row.question() else { return unclear("unreadable row") };
    let Ok(judgement) = scene.judge(&question) else { return unclear("no addresses") };
    let mut destination = judgement.destination;
    let client = scene.holder(&question.from).and_then(|holder| lab.namespace(&holder));
    let Some((ns, source)) = client else { return unclear("no such client") };
    let server = scene.holder(&question.to).unwrap_or(Holder::Outside(destination));
    let speaks = scene.speaks(&server, row.port, row.protocol);
    if speaks == Speaks::Dns {
        return look_up(scene, &ns, &question, SocketAddr::new(destination, row.port), patience);
    }
    let resolve = |name: &str| lookup::resolve(&ns, scene.resolvers(), name, destination.is_ipv6(), patience);
    if let End::Ip(ip) = &question.to
        && scene.teaches(judgement.source)
    {
        // The expectation is that of a pod that has asked for its names, also for those that it gets no answer for.
        for name in scene.names_of(*ip) {
            resolve(name);
        }
    }
    if speaks == Speaks::Http {
        return curl(&ns, source, &question, destination, lab.resolv_conf(), patience);
    }
    if let End::Name(name) = &question.to {
        match resolve(name) {
            Some(found) => destination = found,
            None => return denied(NOT_RESOLVED),
        }
    }
    if let Some(call) = &row.grpc {
        return grpc(&ns, source, SocketAddr::new(destination, row.port), call, patience);
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
        Some(Outcome::Connected { .. }) => Seen { got: Got::Allow, how: "answered".to_owned(), id: None, why: None },
        Some(Outcome::Timeout) => denied(NO_ANSWER),
        Some(Outcome::Refused) => denied("refused"),
        Some(Outcome::Reset) => denied("reset"),
        Some(Outcome::Unreachable(_)) => denied("unreachable"),
        Some(Outcome::Silent) => unclear("connected, no answer"),
        Some(Outcome::Error(error)) => unclear(&error),
        None => unclear("no outcome"),
    }
}

/// Looks up what the row says, or where it says nothing, the first of the scene's names.
fn look_up(scene: &Scene, ns: &Netns, question: &Question, server: SocketAddr, patience: Duration) -> Seen {
    let any = || scene.names.keys().next().map_or("localhost", String::as_str);
    let (name, kind) = match &question.contents {
        Some(Contents::Lookup { name, kind }) => (name.as_str(), *kind),
        _ => (any(), ADDRESS),
    };
    match lookup::ask(ns, server, question.protocol, name, kind, patience) {
        Ok(Some(told)) => {
            let got = if told.is_of_server() { Got::Allow } else { Got::Deny };
            Seen { got, how: told.in_words(), id: None, why: told.why() }
        }
        Ok(None) => denied(NO_ANSWER),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => denied("refused"),
        Err(error) => unclear(&format!("look-up: {error}")),
    }
}

/// Sends a request to `address`; or, where the row goes to a name, to what curl itself finds by these `files`.
fn curl(
    ns: &Netns,
    source: Option<IpAddr>,
    question: &Question,
    address: IpAddr,
    files: Option<&ResolvConf>,
    patience: Duration,
) -> Seen {
    let (method, target, host) = match &question.contents {
        Some(Contents::Http { method, target, host, .. }) => (method.as_str(), target.as_str(), host.as_str()),
        _ => ("GET", "/", ""),
    };
    let to = match (&question.to, address) {
        (End::Name(name), _) => name.clone(),
        (_, IpAddr::V6(ip)) => format!("[{ip}]"),
        (_, ip) => ip.to_string(),
    };
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
    let port = question.port;
    match host {
        "" => command.arg(format!("http://{to}:{port}{target}")),
        host if host.contains(':') => command.arg(format!("http://{host}{target}")),
        host => command.arg(format!("http://{host}:{port}{target}")),
    };
    // Whatever host the request is for, this is where it goes.
    command.args(["--connect-to", &format!("::{to}:{port}")]);
    if let (End::Name(_), Some(files)) = (&question.to, files) {
        command = files.around(&command);
    }
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
        Some(0) if id.is_some() => Seen { got: Got::Deny, how: code, id, why: None },
        Some(0) => Seen { got: Got::Allow, how: code, id: None, why: None },
        Some(6) => denied(NOT_RESOLVED),
        Some(7) => denied("refused"),
        Some(28) => denied(NO_ANSWER),
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
            Seen { got, how: format!("status {}", end.status), id: end.sluice_id, why: None }
        }
        Err(error) => match error.kind() {
            io::ErrorKind::TimedOut => denied(NO_ANSWER),
            io::ErrorKind::ConnectionRefused => denied("refused"),
            io::ErrorKind::ConnectionReset => denied("reset"),
            _ => unclear(&format!("call: {error}")),
        },
    }
}

fn denied(how: &str) -> Seen {
    Seen { got: Got::Deny, how: how.to_owned(), id: None, why: None }
}

fn unclear(how: &str) -> Seen {
    Seen { got: Got::Unclear, how: how.to_owned(), id: None, why: None }
}
