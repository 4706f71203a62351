//! The table at the end: who asked for what, what was expected and seen, and who decided.

use std::fmt::Write;
use std::time::Duration;

use sluice_policy::{Decision, Reason};

use super::client::{Got, Seen};
use super::lab::Lab;
use super::records::{Policy, Record, Records};
use super::scene::Scene;
use crate::cluster::{Answer, Names};
use crate::contents::Contents;
use crate::expectation::Row;
use crate::output::{Paint, Tone};

/// Every row, judged.
pub(super) struct Report {
    lines: Vec<Line>,
}

struct Line {
    who: String,
    what: String,
    expected: &'static str,
    got: Got,
    how: String,
    decided: Decided,
    /// What is wrong with the row, if anything.
    differs: Option<String>,
}

/// Who decided, and who says so.
struct Decided {
    /// As `sluice eval` names rules and policies.
    by: Vec<String>,
    /// The same for people.
    text: String,
    told_by: &'static str,
}

impl Report {
    pub(super) fn of(scene: &Scene, lab: &Lab, seen: &[Seen]) -> Self {
        let judged_at_l7: Vec<Option<(&Row, String, String)>> = scene.rows.iter().map(|row| request(scene, row)).collect();
        let records = Records::read(&lab.record_files(), |records| {
            let wanted = judged_at_l7.iter().flatten();
            wanted.clone().all(|(row, method, path)| records.of_request(&row.from, &row.to, method, path).is_some())
        });
        let lines = scene.rows.iter().zip(seen).zip(&judged_at_l7).map(|((row, seen), l7)| {
            let record = seen.id.as_deref().and_then(|id| records.of_id(id)).or_else(|| {
                let (row, method, path) = l7.as_ref()?;
                records.of_request(&row.from, &row.to, method, path)
            });
            line(scene, row, seen, record, l7.is_some())
        });
        Self { lines: lines.collect() }
    }

    pub(super) fn is_as_expected(&self) -> bool {
        self.lines.iter().all(|line| line.differs.is_none())
    }

    /// The table. Where a line would be wider than `width`, who decided comes below it.
    pub(super) fn to_text(&self, paint: Paint, width: Option<usize>, took: Duration) -> String {
        let column = |text: fn(&Line) -> String, title: &str| {
            self.lines.iter().map(|line| text(line).chars().count()).max().unwrap_or(0).max(title.len())
        };
        let got = |line: &Line| format!("{} ({})", line.got.as_str(), line.how);
        let who = column(|line| line.who.clone(), "who");
        let what = column(|line| line.what.clone(), "what");
        let expected = column(|line| line.expected.to_owned(), "expected");
        let seen = column(|line| format!("{} ({})", line.got.as_str(), line.how), "got");
        let before = 2 + who + 2 + what + 2 + expected + 2 + seen + 2;
        let decided = column(|line| line.decided.to_string(), "decided by");
        let below = width.is_some_and(|width| before + decided > width);
        let mut text = String::new();
        let title = format!("  {:who$}  {:what$}  {:expected$}  {:seen$}  decided by", "who", "what", "expected", "got");
        let _ = writeln!(text, "\n{}", paint.paint(Tone::Strong, title.trim_end()));
        for line in &self.lines {
            let (mark, tone) = if line.differs.is_none() { ("✔", Tone::Good) } else { ("✘", Tone::Bad) };
            let verdict = format!("{:seen$}", got(line));
            let verdict = paint.paint(if line.got == Got::Allow { Tone::Good } else { Tone::Bad }, &verdict);
            let _ = write!(
                text,
                "{} {:who$}  {:what$}  {:expected$}  {verdict}",
                paint.paint(tone, mark),
                line.who,
                line.what,
                line.expected
            );
            let decided = paint.paint(Tone::Quiet, &line.decided.to_string());
            let _ = if below { writeln!(text, "\n      {decided}") } else { writeln!(text, "  {decided}") };
            if let Some(differs) = &line.differs {
                let _ = writeln!(text, "      {}", paint.paint(Tone::Bad, differs));
            }
        }
        let wrong = self.lines.iter().filter(|line| line.differs.is_some()).count();
        let summary = if wrong == 0 {
            paint.paint(Tone::Good, &format!("All {} as expected", self.lines.len()))
        } else {
            paint.paint(Tone::Bad, &format!("{wrong} of {} differ", self.lines.len()))
        };
        let by_proxy = self.lines.iter().filter(|line| line.decided.told_by == PROXY).count();
        let _ = writeln!(
            text,
            "\n{summary}, in {:.1} s. {by_proxy} were judged by the proxy, whose records name the rule; {} by the kernel \
             alone, and the engine that wrote its rules names the policy.",
            took.as_secs_f32(),
            self.lines.len() - by_proxy,
        );
        text
    }
}

const PROXY: &str = "proxy";
const ENGINE: &str = "kernel";

impl std::fmt::Display for Decided {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:6} {}", self.told_by, self.text)
    }
}

/// Who decided in words: the rules, or the policies that isolate and have none.
fn in_words(by: &[Policy], direction: Option<&str>, reason: &str) -> String {
    if by.is_empty() {
        return if reason == Reason::NotIsolated.as_str() { "no policy selects it".to_owned() } else { reason.to_owned() };
    }
    if by.iter().any(|policy| policy.rule.is_some()) {
        return by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    }
    let mut text = format!("no {}rule of ", direction.map(|d| format!("{d} ")).unwrap_or_default());
    let mut kind = "";
    for (index, policy) in by.iter().enumerate() {
        let comma = if index > 0 { ", " } else { "" };
        let prefix = if policy.kind == kind { String::new() } else { format!("{} ", policy.kind) };
        text.push_str(&format!("{comma}{prefix}{}", policy.full_name()));
        kind = &policy.kind;
    }
    text
}

/// The method and canonical path of a row that the proxy judges.
fn request<'r>(scene: &Scene, row: &'r Row) -> Option<(&'r Row, String, String)> {
    let mut question = row.question().ok()?;
    let (method, target) = match question.contents.take()? {
        Contents::Http { method, target, .. } => (method, target),
        Contents::Grpc { service, method, .. } => ("POST".to_owned(), format!("/{service}/{method}")),
        Contents::Tls { .. } | Contents::Lookup { .. } => return None,
    };
    let unread = scene.cluster.verdict(&question, &Names::default()).ok()?;
    if unread.decision() != Decision::Inspect {
        return None;
    }
    let path = target.split('?').next().unwrap_or_default();
    let path = sluice_policy::http::canonical_path(path).map_or_else(|_| path.to_owned(), |path| path.into_owned());
    Some((row, method, path))
}

fn line(scene: &Scene, row: &Row, seen: &Seen, record: Option<&Record>, l7: bool) -> Line {
    let answer = row.question().ok().and_then(|q| scene.cluster.judge(&q, &Names::default()).ok()).map(|j| j.answer);
    let decided = match (record, &answer) {
        (Some(record), _) => told_by_proxy(record),
        (None, Some(answer)) => told_by_engine(answer),
        (None, None) => Decided { by: Vec::new(), text: "nobody knows".to_owned(), told_by: ENGINE },
    };
    let mut problems = Vec::new();
    if !seen.got.is(row.expect) {
        problems.push(format!("expected {}, got {}", row.expect.as_str(), seen.how));
    }
    if let Some(by) = row.by.as_ref().filter(|by| !decided.by.contains(by)) {
        problems.push(format!("expected {by} to decide"));
    }
    if l7 && record.is_none() {
        problems.push("the proxy has no record of it".to_owned());
    }
    if let Some(record) = record.filter(|record| record.verdict != row.expect.as_str()) {
        problems.push(format!("the proxy's record says {}", record.verdict));
    }
    if let Some(answer) = answer.filter(|answer| answer.verdict != row.expect.as_str()) {
        problems.push(format!("the engine says {}", answer.verdict));
    }
    let port = if row.protocol.has_ports() { format!(" {}", row.port) } else { String::new() };
    Line {
        who: format!("{} → {}", row.from, row.to),
        what: row.http.clone().or(row.grpc.clone()).unwrap_or_else(|| format!("{}{port}", row.protocol)),
        expected: row.expect.as_str(),
        got: seen.got,
        how: seen.how.clone(),
        decided,
        differs: (!problems.is_empty()).then(|| problems.join("; ")),
    }
}

fn told_by_proxy(record: &Record) -> Decided {
    let by = record.deciders();
    let text = in_words(&by, record.direction.as_deref(), &record.reason);
    Decided { by: by.iter().map(ToString::to_string).collect(), text, told_by: PROXY }
}

/// Who decided, by the engine: the first half that denies, as in the kernel, or the rules of both that allow.
fn told_by_engine(answer: &Answer) -> Decided {
    let halves = [("egress", &answer.egress), ("ingress", &answer.ingress)];
    let mut deciding: Vec<_> = halves.into_iter().filter(|(_, half)| half.verdict == answer.verdict).collect();
    if answer.verdict == Decision::Deny.as_str() {
        deciding.truncate(1);
    }
    let by: Vec<Policy> = deciding.iter().flat_map(|(_, half)| half.by.as_slice()).map(Policy::from).collect();
    let text = in_words(&by, deciding.first().map(|(direction, _)| *direction), answer.reason.as_str());
    Decided { by: by.iter().map(ToString::to_string).collect(), text, told_by: ENGINE }
}
