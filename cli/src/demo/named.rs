//! Below the table, in a scene with names: why a look-up was denied, as its client was told; what the pods have learned; and the record
//! of the denial.

use std::fmt::Write;

use super::client::{Got, Seen};
use super::lab::Lab;
use super::report::Report;
use super::scene::Scene;
use crate::names::Names;
use crate::output::{Paint, Tone};

/// Lines of what was learned that are shown.
const SHOWN: usize = 6;

/// What is said below the table; nothing where no row is a look-up.
pub(super) fn to_text(scene: &Scene, lab: &Lab, seen: &[Seen], report: &Report, paint: Paint) -> String {
    let mut text = String::new();
    if scene.rows.iter().all(|row| row.dns.is_none()) {
        return text;
    }
    let title = |text: &mut String, line: &str| {
        let _ = writeln!(text, "\n{}", paint.paint(Tone::Strong, line));
    };
    match lab.learned() {
        Ok(learned) if learned.names.is_empty() => {}
        Ok(Names { node, mut names }) => {
            let more = names.len().saturating_sub(SHOWN);
            names.truncate(SHOWN);
            title(&mut text, "What the answers have opened, and for how long (sluice names):");
            text += &Names { node, names }.to_text(paint);
            if more > 0 {
                let _ = writeln!(text, "and {more} more");
            }
        }
        // The table says what the rows came to; this is only beside it.
        Err(error) => text += &format!("\nThe proxy doesn't say what was learned: {error:#}\n"),
    }
    let denied = scene.rows.iter().zip(seen).zip(report.records());
    let first = denied.filter(|((row, seen), _)| row.dns.is_some() && seen.got == Got::Deny).find_map(|((_, seen), record)| {
        let (why, record) = (seen.why.as_ref()?, record?);
        Some((why, record))
    });
    if let Some((why, record)) = first {
        title(&mut text, "What the pod is told of a look-up that is denied, and the proxy's record of it:");
        let _ = writeln!(text, "{why}\n{}", paint.paint(Tone::Quiet, record));
    }
    text
}
