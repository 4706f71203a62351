//! The answer for people: a sentence, then the walk.

use std::fmt::Write;

use sluice_policy::{Direction, Reason};

use super::{Explained, Looked, Walk, words};
use crate::cluster::AuditAnswer;
use crate::output::{Paint, Tone};

impl Explained {
    /// Who may do what to whom, and because of what.
    pub(super) fn to_sentence(&self) -> String {
        let name = |party: &super::Party| match &party.pod {
            Some(pod) => format!("{pod} ({})", party.ip),
            None => party.ip.to_string(),
        };
        let what = match &self.request {
            Some(request) => format!("send {request} to"),
            None => "connect to".to_owned(),
        };
        let may = match self.verdict {
            "deny" => "may not",
            _ => "may",
        };
        let start = format!("{} {may} {what} {} on {}", name(&self.from), name(&self.to), self.port);
        let (egress, ingress) = (self.half(Direction::Egress), self.half(Direction::Ingress));
        match self.verdict {
            "deny" => {
                let why: Vec<String> = [(&self.egress, egress), (&self.ingress, ingress)]
                    .into_iter()
                    .filter_map(|(walk, words)| (walk.verdict == "deny").then_some(words))
                    .collect();
                format!("{start}: {}.", dedup(why).join("; and "))
            }
            "l7" => format!("{start}, and every request is judged: {}.", dedup(vec![egress, ingress]).join("; ")),
            _ => format!("{start}: {}.", dedup(vec![egress, ingress]).join("; ")),
        }
    }

    /// One direction in words.
    fn half(&self, direction: Direction) -> String {
        let walk = self.walk(direction);
        let party = match direction {
            Direction::Egress => &self.from,
            Direction::Ingress => &self.to,
        };
        let pod = party.pod.clone().unwrap_or_else(|| party.ip.to_string());
        let rules: Vec<String> = walk.by.as_slice().iter().map(ToString::to_string).collect();
        let rules = words::and(&rules);
        match walk.reason {
            Reason::RuleMatched => format!("{direction} is allowed by {rules}"),
            Reason::DeniedByRule => format!("{direction} is denied by {rules}"),
            Reason::NeedsRequest => format!("{direction} hangs on the request, by {rules}"),
            Reason::NoRuleMatched => format!("{pod} is isolated in {direction} by {rules}, and no rule allows it"),
            Reason::NotTheProtocol => {
                format!("{pod} is isolated in {direction} by {rules}, and its contents are not what a rule asks for")
            }
            Reason::NotIsolated => format!("no policy isolates {pod} in {direction}, so the default allows it"),
            Reason::SamePod => "a pod always reaches itself".to_owned(),
            Reason::FromOwnNode => format!("a node always reaches its own pods, and {pod} is one of them"),
            Reason::NotOurPod => format!("{pod} is no pod, so no policy speaks of its {direction}"),
            Reason::UnknownPod => format!("{pod} lies in a node's pod range and is no pod that is known: closed"),
            Reason::AddressConflict => "two pods claim one of the addresses: closed".to_owned(),
            Reason::MalformedRequest => format!("{direction} is judged by the request, and this one can't be read safely"),
            other => format!("{direction}: {other}"),
        }
    }

    /// The sentence, and the walk in both directions.
    pub(super) fn to_text(&self, paint: Paint) -> String {
        let mut text = String::new();
        let _ = writeln!(text, "{}", paint.paint(Tone::Strong, &self.sentence));
        if let Some(audit) = &self.audit {
            let _ = writeln!(text, "{}", paint.paint(tone(audit.verdict), &audited(audit)));
        }
        for direction in [Direction::Egress, Direction::Ingress] {
            let walk = self.walk(direction);
            let party = match direction {
                Direction::Egress => &self.from,
                Direction::Ingress => &self.to,
            };
            let name = party.pod.clone().unwrap_or_else(|| party.ip.to_string());
            let verdict = paint.paint(tone(walk.verdict), walk.verdict);
            let _ = writeln!(text, "\n{direction} of {name}: {verdict} ({})", walk.reason);
            write_walk(&mut text, walk, paint);
        }
        text
    }
}

/// What would be, if the Audit policies were in force too.
fn audited(audit: &AuditAnswer) -> String {
    let rules: Vec<String> = audit.half().by.as_slice().iter().map(ToString::to_string).collect();
    let (direction, rules) = (audit.direction, words::and(&rules));
    match audit.reason {
        Reason::NoRuleMatched | Reason::NotTheProtocol => {
            format!("Audit: it would be denied: {rules} would isolate the pod in {direction}, and no rule allows it.")
        }
        _ if audit.verdict == "deny" => format!("Audit: it would be denied: {direction} by {rules}."),
        _ => format!("Audit: it would be allowed: {direction} by {rules}."),
    }
}

fn write_walk(text: &mut String, walk: &Walk, paint: Paint) {
    if !walk.isolated_by.is_empty() {
        let names: Vec<String> = walk.isolated_by.iter().map(ToString::to_string).collect();
        let _ = writeln!(text, "  isolated by {}", words::and(&names));
    }
    let mut tier = "";
    for step in &walk.steps {
        if step.tier != tier {
            tier = step.tier;
            let _ = writeln!(text, "  {tier} tier");
        }
        write_step(text, step, walk, paint);
    }
    if let Some(nearest) = &walk.nearest {
        let _ = writeln!(text, "  {}", paint.paint(Tone::Depends, &format!("nearest: {nearest}")));
    }
    let last = match walk.reason {
        Reason::NoRuleMatched | Reason::NotTheProtocol => "no rule allows it and the pod is isolated: denied",
        Reason::NotIsolated => "no policy isolates it: allowed by default",
        _ => return,
    };
    let _ = writeln!(text, "  {last}");
}

fn write_step(text: &mut String, step: &Looked, walk: &Walk, paint: Paint) {
    let (mark, tone) = match step.outcome {
        "matched" => ("→", tone(walk.verdict)),
        "missed" => ("✗", Tone::Quiet),
        _ => ("·", Tone::Quiet),
    };
    let _ = writeln!(text, "    {} {}: {}", paint.paint(tone, mark), paint.paint(tone, &step.rule.to_string()), step.asks);
    let _ = writeln!(text, "      {}", paint.paint(Tone::Quiet, &format!("{}: {}", said(step.outcome), step.because)));
}

fn said(outcome: &str) -> &str {
    if outcome == "notReached" { "not reached" } else { outcome }
}

fn tone(verdict: &str) -> Tone {
    match verdict {
        "allow" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Depends,
    }
}

fn dedup(mut parts: Vec<String>) -> Vec<String> {
    parts.dedup();
    parts
}
