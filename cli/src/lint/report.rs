//! Findings for people, by file.

use super::Linted;
use super::finding::{Finding, Severity};
use crate::output::{Paint, Tone};

impl Linted {
    /// By file and line; why it matters stands with the first of its kind.
    pub fn to_text(&self, paint: Paint) -> String {
        let mut text = String::new();
        let mut file = None;
        let mut explained = Vec::new();
        for finding in &self.findings {
            if file != Some(&finding.file) {
                if file.is_some() {
                    text.push('\n');
                }
                let title = if finding.file.is_empty() { "all manifests" } else { &finding.file };
                text.push_str(&format!("{}\n", paint.paint(Tone::Strong, title)));
                file = Some(&finding.file);
            }
            let first = !explained.contains(&finding.code);
            if first {
                explained.push(finding.code);
            }
            text.push_str(&one(finding, first, paint));
        }
        if !self.findings.is_empty() {
            text.push('\n');
        }
        text.push_str(&self.summary_line());
        text.push('\n');
        text
    }

    /// `2 warnings and 1 info in 3 files: 12 policies, 30 pods`.
    fn summary_line(&self) -> String {
        let summary = &self.summary;
        let found: Vec<String> = [(summary.errors, "error"), (summary.warnings, "warning"), (summary.infos, "info")]
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| if what == "info" { format!("{count} info") } else { counted(count, what) })
            .collect();
        let found = if found.is_empty() { "nothing found".to_owned() } else { found.join(", ") };
        let ignored = if summary.ignored == 0 { String::new() } else { format!(", {} ignored by a label", summary.ignored) };
        format!(
            "{found}{ignored} in {}: {}, {}",
            counted(summary.files, "file"),
            match summary.policies {
                1 => "1 policy".to_owned(),
                policies => format!("{policies} policies"),
            },
            counted(summary.pods, "pod")
        )
    }
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn one(finding: &Finding, with_why: bool, paint: Paint) -> String {
    let tone = match finding.severity {
        Severity::Error => Tone::Bad,
        Severity::Warning => Tone::Depends,
        Severity::Info => Tone::Quiet,
    };
    let line = if finding.line == 0 { "-".to_owned() } else { finding.line.to_string() };
    let severity = format!("{:<7}", finding.severity.as_str());
    let place = [finding.object.as_str(), finding.field.as_str()].into_iter().filter(|part| !part.is_empty());
    let place = place.collect::<Vec<_>>().join(" ");
    let mut text = format!("{line:>5} {} {}  {place}\n", paint.paint(tone, &severity), paint.paint(Tone::Strong, finding.code));
    let message = finding.message.replace('\n', "\n              ");
    text.push_str(&format!("              {message}\n"));
    if with_why {
        text.push_str(&format!("         {} {}\n", paint.paint(Tone::Quiet, "why:"), finding.why));
    }
    if !finding.fix.is_empty() {
        text.push_str(&format!("         {} {}\n", paint.paint(Tone::Good, "fix:"), finding.fix));
    }
    text
}
