//! The connections of a case, tried, and compared with what it expects.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use sluice_crds::case::{Case, Probe, State};
use sluice_policy::verdict::Decision;
use sluice_policy::{Flow, IcmpFamily, Protocol, Reason};
use sluice_proxy::kernel::Config;
use sluice_testnet::{Outcome, Port, probe};

use crate::listener;
use crate::stage::{Broken, Enforced, Layout, Stage};

/// So long a packet that is dropped is waited for.
const WAIT: Duration = Duration::from_millis(400);
/// An allowed connection that wasn't answered by then may have been held up by load, and is given one more chance. One that
/// should have been denied and was answered has none.
const LONG_WAIT: Duration = Duration::from_secs(4);

/// What came of one case.
#[derive(Default)]
pub(crate) struct Judged {
    states: usize,
    probes: usize,
    denied: usize,
    retried: usize,
    failures: Vec<String>,
}

/// What came of all cases, by family.
#[derive(Default)]
pub(crate) struct Tally {
    families: BTreeMap<String, (usize, Judged)>,
    pub(crate) failures: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, family: &str, judged: Judged) {
        let (cases, sum) = self.families.entry(family.to_owned()).or_default();
        *cases += 1;
        sum.states += judged.states;
        sum.probes += judged.probes;
        sum.denied += judged.denied;
        sum.retried += judged.retried;
        self.failures.extend(judged.failures);
    }

    pub(crate) fn probes(&self) -> usize {
        self.families.values().map(|(_, judged)| judged.probes).sum()
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (family, (cases, Judged { states, probes, denied, retried, .. })) in &self.families {
            writeln!(f, "{family}: {cases} cases, {states} states, {probes} probes ({denied} denied, {retried} retried)")?;
        }
        Ok(())
    }
}

/// How often a network is built for a case: on a machine under load the kernel may not finish an interface in time.
const BUILDS: usize = 3;

/// Tries everything that the case expects. Only a network that could not be built is built again, and says so; never for a
/// verdict.
pub(crate) fn judge_case(case: &Case, layout: Layout) -> Judged {
    let mut builds = 0;
    loop {
        builds += 1;
        let mut judged = Judged::default();
        let Err(broken) = judge_states(case, layout, &mut judged) else {
            return judged;
        };
        let told = format!("{} ({layout:?}, state {}): {broken}", case.name, judged.states);
        if builds < BUILDS && broken.is::<sluice_testnet::Error>() {
            println!("built again: {told}");
            continue;
        }
        judged.failures.push(told);
        return judged;
    }
}

/// Lines as rules in series, or as bundles: of each case the one in one layout, the other in the other.
fn rules_of(case: &Case, layout: Layout) -> Config {
    let odd = case.name.bytes().fold(0, |parity, byte| parity ^ byte) & 1 == 1;
    let in_series = if odd == (layout == Layout::OneNode) { 0 } else { usize::MAX };
    Config { in_series, ..Config::default() }
}

fn judge_states(case: &Case, layout: Layout, judged: &mut Judged) -> Result<(), Broken> {
    let first = case.states.first().ok_or("a case has at least one state")?;
    let mut stage = Stage::new(first, layout, rules_of(case, layout))?;
    for (turn, state) in case.states.iter().enumerate() {
        stage.enter(state)?;
        let failures = judge_state(&mut stage, state, judged)?;
        judged.states += 1;
        if let Some(first) = failures.first() {
            let rules: String = stage.enforced().iter().map(|e| format!("{}:\n{}", e.node.name(), e.ruleset())).collect();
            let (name, count) = (&case.name, failures.len());
            let others: String = failures.iter().skip(1).take(5).map(|f| format!("\n{f}")).collect();
            judged.failures.push(format!("{name} ({layout:?}, state {turn}): {count} probes, {first}{others}\n{rules}"));
        }
    }
    Ok(())
}

/// What must become of a probe's packets.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    /// An answer of this server, which sees the client's own address.
    Answer {
        by: String,
    },
    /// As that, or silence: who never knew a neighbour that two pods claim to be can't ask it.
    AnswerIfAsked {
        by: String,
    },
    Silence,
    /// ICMP, so that the client tries another way: QUIC where names are checked.
    Refusal,
}

/// A probe and what must become of it.
struct Tried<'a> {
    probe: &'a Probe,
    packets: probe::Probe,
    expected: Expected,
}

fn judge_state(stage: &mut Stage, state: &State, judged: &mut Judged) -> Result<Vec<String>, Broken> {
    serve(stage, state)?;
    let mut tried = Vec::new();
    // Of ICMP, only an echo is answered.
    for probe in state.probes.iter().filter(|probe| is_echo(probe)) {
        tried.push(prepare(stage, probe)?);
    }
    let packets: Vec<probe::Probe> = tried.iter().map(|t| t.packets.clone()).collect();
    let mut outcomes = probe::probe(&packets, WAIT);
    let late: Vec<usize> = (0..tried.len()).filter(|i| is_late(&tried[*i].expected, &outcomes[*i])).collect();
    let again: Vec<probe::Probe> = late.iter().map(|i| packets[*i].clone()).collect();
    for (place, outcome) in late.iter().zip(probe::probe(&again, LONG_WAIT)) {
        outcomes[*place] = outcome;
    }
    judged.probes += tried.len();
    judged.denied +=
        tried.iter().filter(|t| !matches!(t.expected, Expected::Answer { .. } | Expected::AnswerIfAsked { .. })).count();
    judged.retried += late.len();
    let wrong = tried.iter().zip(&outcomes).filter(|(t, outcome)| !is_met(t, outcome));
    Ok(wrong.map(|(t, outcome)| describe(stage, t, outcome)).collect())
}

/// Every destination answers at every port that the state asks it for, named or not.
fn serve(stage: &mut Stage, state: &State) -> Result<(), Broken> {
    let mut ports: BTreeMap<String, (IpAddr, BTreeSet<Port>)> = BTreeMap::new();
    for probe in state.probes.iter().filter(|p| p.protocol.has_ports()) {
        let holder = stage.holder(&probe.to)?;
        let port = Port::of(transport(probe.protocol)?, probe.port);
        ports.entry(holder.identity).or_insert((probe.to.ip, BTreeSet::new())).1.insert(port);
    }
    for (ip, ports) in ports.into_values() {
        let holder = stage.holder(&sluice_crds::case::End { pod: None, ip })?;
        stage.serve(&holder, &ports.into_iter().collect::<Vec<_>>())?;
    }
    Ok(())
}

fn prepare<'a>(stage: &mut Stage, probe: &'a Probe) -> Result<Tried<'a>, Broken> {
    let (from, to) = (stage.holder(&probe.from)?, stage.holder(&probe.to)?);
    let packets = probe::Probe {
        from: from.ns,
        source: Some(probe.from.ip),
        to: probe.to.ip,
        port: probe.port,
        protocol: transport(probe.protocol)?,
    };
    Ok(Tried { probe, packets, expected: expected(stage, probe, to.identity) })
}

fn is_echo(probe: &Probe) -> bool {
    let echo = IcmpFamily::of(probe.to.ip).echo_request();
    probe.icmp.is_none_or(|message| (message.kind, message.code) == (echo, 0))
}

fn transport(protocol: Protocol) -> Result<sluice_testnet::Protocol, Broken> {
    Ok(match protocol {
        Protocol::Tcp => sluice_testnet::Protocol::Tcp,
        Protocol::Udp => sluice_testnet::Protocol::Udp,
        Protocol::Sctp => sluice_testnet::Protocol::Sctp,
        Protocol::Icmp => sluice_testnet::Protocol::Icmp,
        Protocol::Other(number) => return Err(format!("no probe speaks IP protocol {number}").into()),
    })
}

/// What the packets of `probe` meet. The case says whether the flow passes. Where contents decide, the node that has to read them
/// ends the kernel's part: what listens there for the proxy answers. Look-ups are read where they are asked, whatever becomes of them;
/// of all else, TCP alone is diverted.
fn expected(stage: &Stage, probe: &Probe, server: String) -> Expected {
    let is_lookup = |enforced: &&Enforced| enforced.ask(&flow(probe), |table, flow| table.is_lookup(flow));
    let asked = stage.path(probe.from.ip, probe.to.ip).find(is_lookup).filter(|_| probe.from.ip != probe.to.ip);
    if let Some(asked) = asked {
        let by = listener::identity_for_lookups(asked.node.name());
        return if stage.is_contested_neighbour(asked, probe.to.ip) {
            Expected::AnswerIfAsked { by }
        } else {
            Expected::Answer { by }
        };
    }
    let stop = stage
        .path(probe.from.ip, probe.to.ip)
        .map(|enforced| (enforced, l4_decision(enforced, probe)))
        .find(|(_, decision)| *decision != Decision::Allow);
    match (probe.expect, stop) {
        (Decision::Allow, _) if probe.contents.is_none() => Expected::Answer { by: server },
        (_, Some((reader, Decision::Inspect))) if probe.protocol == Protocol::Tcp => {
            Expected::Answer { by: listener::identity(reader.node.name()) }
        }
        (Decision::Allow, None) => Expected::Answer { by: server },
        (Decision::Inspect, None) => Expected::Answer { by: "a proxy, and no node's table asks for one".to_owned() },
        (_, Some((enforced, Decision::Deny))) if is_refused(enforced, probe) => Expected::Refusal,
        _ => Expected::Silence,
    }
}

fn is_refused(enforced: &Enforced, probe: &Probe) -> bool {
    enforced.ask(&flow(probe), |table, flow| table.verdict(flow).reason() == Reason::NotTheProtocol)
}

/// The probe's first packet, of which nothing is read.
fn flow(probe: &Probe) -> Flow<'static> {
    Flow {
        source: probe.from.ip,
        destination: probe.to.ip,
        protocol: probe.protocol,
        destination_port: probe.port,
        icmp: probe.icmp,
        names: &[],
        request: None,
    }
}

/// What a node's table says while no request is read.
fn l4_decision(enforced: &Enforced, probe: &Probe) -> Decision {
    enforced.ask(&flow(probe), |table, flow| table.verdict(flow).decision())
}

/// Whether an answer was due and none came yet.
fn is_late(expected: &Expected, outcome: &Outcome) -> bool {
    matches!(expected, Expected::Answer { .. } | Expected::Refusal) && matches!(outcome, Outcome::Timeout | Outcome::Silent)
}

fn is_met(tried: &Tried<'_>, outcome: &Outcome) -> bool {
    match (&tried.expected, outcome) {
        (Expected::Silence, outcome) => *outcome == Outcome::Timeout,
        (Expected::AnswerIfAsked { .. }, Outcome::Timeout) => true,
        (Expected::Refusal, outcome) => matches!(outcome, Outcome::Unreachable(_) | Outcome::Refused),
        (Expected::Answer { .. }, Outcome::Connected { .. }) if tried.probe.protocol == Protocol::Icmp => true,
        (Expected::Answer { by } | Expected::AnswerIfAsked { by }, Outcome::Connected { peer, seen }) => {
            peer.as_ref() == Some(by) && seen.is_some_and(|client| client.ip() == tried.probe.from.ip)
        }
        (Expected::Answer { .. } | Expected::AnswerIfAsked { .. }, _) => false,
    }
}

/// Tells apart who is wrong: what each node's table says is beside what came.
fn describe(stage: &Stage, tried: &Tried<'_>, outcome: &Outcome) -> String {
    let engine: Vec<String> = stage
        .path(tried.probe.from.ip, tried.probe.to.ip)
        .map(|e| format!("{}: {}", e.node.name(), l4_decision(e, tried.probe).as_str()))
        .collect();
    format!("{}\n  due {:?}, got {outcome:?}; the engine says {engine:?}", tried.probe, tried.expected)
}
