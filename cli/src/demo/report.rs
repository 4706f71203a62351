//! The table at the end: who asked for what, what was expected and seen, and who decided.

use std::fmt::Write;
use std::time::Duration;

use sluice_policy::source::plain_name;
use sluice_policy::{Decision, Reason};

use super::client::{Got, NOT_RESOLVED, Seen};
use super::lab::Lab;
use super::records::{Policy, Record, Records, Wanted};
use super::scene::Scene;
use crate::cluster::Answer;
use crate::contents::Contents;
use crate::expectation::Row;
use crate::output::{Paint, Tone};

/// Every row, judged.
pub(super) struct Report {
    lines: Vec<Line>,
    left_out: usize,
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
    /// The proxy's record of it, as it was written.
    record: Option<String>,
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
        let wanted: Vec<Option<Wanted>> = scene.rows.iter().zip(seen).map(|(row, seen)| wanted(scene, row, seen)).collect();
        let records = Records::read(&lab.record_files(), |records| {
            let is_there = |row: &Row, wanted: &Wanted| records.find(&row.from, &row.to, wanted).is_some();
            scene.rows.iter().zip(&wanted).all(|(row, wanted)| wanted.as_ref().is_none_or(|wanted| is_there(row, wanted)))
        });
        let lines = scene.rows.iter().zip(seen).zip(&wanted).map(|((row, seen), wanted)| {
            let of_id = seen.id.as_deref().and_then(|id| records.of_id(id));
            let record = of_id.or_else(|| records.find(&row.from, &row.to, wanted.as_ref()?));
            line(scene, row, seen, record, wanted.is_some())
        });
        Self { lines: lines.collect(), left_out: scene.left_out.values().sum() }
    }

    /// The proxies' records of the scene's rows as they were written, in the order of the rows.
    pub(super) fn records(&self) -> impl Iterator<Item = Option<&str>> {
        self.lines.iter().map(|line| line.record.as_deref())
    }

    pub(super) fn is_as_expected(&self) -> bool {
        self.lines.iter().all(|line| line.differs.is_none())
    }

    /// The table. Where a line would be wider than `width`, who decided comes below it, or below all lines in a row that the same
    /// policies decided.
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
        for (index, line) in self.lines.iter().enumerate() {
            let (mark, tone) = if line.differs.is_none() { ("✔", Tone::Good) } else { ("✘", Tone::Bad) };
            let verdict = if below { got(line) } else { format!("{:seen$}", got(line)) };
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
            let next = self.lines.get(index + 1).filter(|_| line.differs.is_none());
            let _ = match next.map(|next| next.decided.to_string() == line.decided.to_string()) {
                Some(true) if below => writeln!(text),
                _ if below => writeln!(text, "\n      {decided}"),
                _ => writeln!(text, "  {decided}"),
            };
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
        let left_out = if self.left_out > 0 { format!(", {} left out", self.left_out) } else { String::new() };
        let by_proxy = self.lines.iter().filter(|line| line.decided.told_by == PROXY).count();
        let _ = writeln!(
            text,
            "\n{summary}{left_out}, in {:.1} s. {by_proxy} were judged by the proxy, whose records name the rule; {} by the kernel \
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

/// What the proxy must have written of a row, if it judges it: a request, a look-up, or the look-up that no request followed.
fn wanted(scene: &Scene, row: &Row, seen: &Seen) -> Option<Wanted> {
    let question = row.question().ok()?;
    if seen.how == NOT_RESOLVED {
        let is_judged = scene.judge(&question).is_ok_and(|judgement| scene.teaches(judgement.source));
        return is_judged.then(|| Wanted::Lookup { name: plain_name(&row.to), kind: None });
    }
    let (method, target, host) = match question.contents.as_ref()? {
        Contents::Http { method, target, host, .. } => (method.clone(), target.clone(), host.as_str()),
        Contents::Grpc { service, method, .. } => ("POST".to_owned(), format!("/{service}/{method}"), ""),
        Contents::Lookup { name, kind } => {
            let kind = Some(sluice_crds::type_of_number(*kind).to_string());
            return scene.is_lookup(&question).then(|| Wanted::Lookup { name: plain_name(name), kind });
        }
        Contents::Tls { .. } => return None,
    };
    if !scene.is_read(&question) {
        return None;
    }
    let path = target.split('?').next().unwrap_or_default();
    let path = sluice_policy::http::canonical_path(path).map_or_else(|_| path.to_owned(), |path| path.into_owned());
    let host = host.split(':').next().unwrap_or_default().to_owned();
    Some(Wanted::Request { method, path, host })
}

fn line(scene: &Scene, row: &Row, seen: &Seen, record: Option<&Record>, is_judged: bool) -> Line {
    let answer = row.question().ok().and_then(|question| scene.judge(&question).ok()).map(|judgement| judgement.answer);
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
    if is_judged && record.is_none() {
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
        what: asked(row).unwrap_or_else(|| format!("{}{port}", row.protocol)),
        expected: row.expect.as_str(),
        got: seen.got,
        how: seen.how.clone(),
        decided,
        differs: (!problems.is_empty()).then(|| problems.join("; ")),
        record: record.map(|record| record.line.clone()),
    }
}

/// What the client asks for. The host of a request is said where it isn't whom it is sent to.
fn asked(row: &Row) -> Option<String> {
    let contents = row.question().ok().and_then(|question| question.contents);
    if let Some(Contents::Http { method, target, host, .. }) = contents
        && !host.is_empty()
    {
        return Some(if host == row.to { format!("{method} {target}") } else { format!("{method} {target} (Host: {host})") });
    }
    let look_up = row.dns.as_ref().map(|name| format!("look up {}", name.replacen('/', " ", 1)));
    row.http.clone().or(row.grpc.clone()).or(look_up)
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
