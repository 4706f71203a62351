//! The differences for people: text, and Markdown for a pull request.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use sluice_policy::{Direction, Reason};

use super::compare::Found;
use super::{Arrival, Decided, Diff, Difference, Judged, Rest, ends as all_ends};
use crate::output::{Paint, Tone};
use crate::reach::{EndId, Reach};

/// Ends that are named one by one; of more, the first.
const NAMED: usize = 4;

/// Blocks of addresses that are named; of more, the first.
const BLOCKS: usize = 6;

/// The ends of a difference in few words: `shop/web, shop/db`, `all of shop (12 workloads)`, `every pod`.
pub(super) fn ends(reach: &Reach<'_>, ends: &[EndId], found: &Found) -> String {
    if let Some(part) = found.part {
        return few(namespaces(reach, ends, part.of == found.pairs), Vec::new());
    }
    let names = all_ends(reach, ends, BLOCKS);
    if names.len() <= NAMED {
        return names.join(", ");
    }
    let outside: Vec<String> = names.iter().filter(|name| !name.contains('/') || name.starts_with("outside ")).cloned().collect();
    let mut of_namespace: BTreeMap<&str, (Vec<EndId>, bool)> = BTreeMap::new();
    let chosen: BTreeSet<EndId> = ends.iter().copied().collect();
    for (end, class) in reach.classes.all.iter().enumerate() {
        let (mine, whole) = of_namespace.entry(&class.namespace).or_insert((Vec::new(), true));
        if chosen.contains(&end) {
            mine.push(end);
        } else {
            *whole = false;
        }
    }
    if of_namespace.values().all(|(_, whole)| *whole) {
        return [vec!["every pod".to_owned()], outside].concat().join(", ");
    }
    let mut parts = Vec::new();
    let mut rest = Vec::new();
    for (namespace, (mine, whole)) in of_namespace {
        let workloads = reach.classes.describe(mine.iter().copied());
        if whole && workloads.len() > 1 {
            parts.push(format!("all of {namespace} ({} workloads)", workloads.len()));
        } else {
            rest.extend(workloads);
        }
    }
    parts.extend(rest);
    few(parts, outside)
}

/// The first of `parts`, then `outside`, then how many more there are.
fn few(mut parts: Vec<String>, outside: Vec<String>) -> String {
    let more = parts.len().saturating_sub(NAMED);
    parts.truncate(NAMED);
    parts.extend(outside);
    let last = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{last}", parts.join(", "))
}

/// The namespaces of some ends, and the outside. `whole`: what is said of them holds of all their workloads.
pub(super) fn namespaces(reach: &Reach<'_>, ends: &[EndId], whole: bool) -> Vec<String> {
    let mut of_namespace: BTreeMap<&str, Vec<EndId>> = BTreeMap::new();
    let mut parts = Vec::new();
    for end in ends {
        match reach.class(*end) {
            Some(class) => of_namespace.entry(&class.namespace).or_default().push(*end),
            None => parts.push(*end),
        }
    }
    let all: BTreeSet<&str> = reach.classes.all.iter().map(|class| &*class.namespace).collect();
    let mut words: Vec<String> = if whole && of_namespace.len() == all.len() {
        vec!["every pod".to_owned()]
    } else {
        let all = if whole { "all of " } else { "" };
        let count = |ends: Vec<EndId>| match reach.classes.describe(ends).len() {
            1 => "1 workload".to_owned(),
            count => format!("{count} workloads"),
        };
        of_namespace.into_iter().map(|(namespace, ends)| format!("{all}{namespace} ({})", count(ends))).collect()
    };
    if !parts.is_empty() {
        words.push(if whole { all_ends(reach, &parts, BLOCKS).join(", ") } else { "the outside world".to_owned() });
    }
    words
}

impl Diff {
    fn summary(&self) -> String {
        let mut parts = vec![format!("opens {}", self.opens), format!("closes {}", self.closes)];
        if self.changes > 0 {
            parts.push(format!("changes {}", self.changes));
        }
        let mut summary = parts.join(", ");
        let more = self.more.unwrap_or_default();
        for (word, change) in [("appear", self.appear.len() + more.appear), ("vanish", self.vanish.len() + more.vanish)] {
            if change > 0 {
                let _ = write!(summary, "; {change} workloads {word}");
            }
        }
        summary
    }

    pub(super) fn to_text(&self, paint: Paint) -> String {
        let mut text = String::new();
        if self.is_empty() {
            let _ = writeln!(text, "every flow is judged as before");
        } else {
            let _ = writeln!(text, "{}", paint.paint(Tone::Strong, &self.summary()));
        }
        for (section, rest) in self.sections() {
            let mut differences = self.differences.iter().filter(|difference| difference.change == section).peekable();
            if differences.peek().is_some() {
                let _ = writeln!(text, "\n{section}");
            }
            differences.for_each(|difference| write_difference(&mut text, difference, paint));
            if let Some(rest) = left_out(rest) {
                let _ = writeln!(text, "  {rest}");
            }
        }
        let more = self.more.unwrap_or_default();
        if !self.appear.is_empty() || !self.vanish.is_empty() {
            let _ = writeln!(text, "\nworkloads (flows from and to them are not compared)");
        }
        for arrival in &self.appear {
            let _ = writeln!(text, "  + {}: {}", arrival.workload, isolation(arrival));
        }
        for workload in &self.vanish {
            let _ = writeln!(text, "  - {workload}");
        }
        for (sign, word, count) in [("+", "appear", more.appear), ("-", "vanish", more.vanish)].into_iter().filter(|m| m.2 > 0) {
            let _ = writeln!(text, "  {sign} and {count} more that {word}");
        }
        if !self.policies.is_empty() {
            let _ = writeln!(text, "\npolicies");
        }
        for policy in &self.policies {
            let note = policy.note.map(|note| format!("   {note}")).unwrap_or_default();
            let _ = writeln!(text, "  {:<7} {}{}", policy.change, policy.policy, paint.paint(Tone::Depends, &note));
        }
        if more.policies > 0 {
            let _ = writeln!(text, "  and {} more", more.policies);
        }
        text
    }

    pub(super) fn to_markdown(&self) -> String {
        let mut text = String::from("### What this change does to the network\n\n");
        if self.is_empty() {
            text.push_str("Every flow is judged as before.\n");
        } else {
            let _ = writeln!(text, "**{}**", escape(&self.summary()));
        }
        for (section, rest) in self.sections() {
            let mut differences = self.differences.iter().filter(|difference| difference.change == section).peekable();
            if differences.peek().is_some() {
                let sign = if section == "opens" { "⚠️ " } else { "" };
                let _ = writeln!(text, "\n#### {sign}{section}\n\n| from | to | ports | was | is |\n|---|---|---|---|---|");
            }
            for difference in differences {
                let requests: String = difference.requests.iter().map(|line| format!("<br>{}", escape(line))).collect();
                let share = share(difference).map(|share| format!("<br>{}", escape(&share))).unwrap_or_default();
                let _ = writeln!(
                    text,
                    "| {} | {}{share} | {} | {} | {}{requests} |",
                    escape(&difference.shown.from),
                    escape(&difference.shown.to),
                    escape(&difference.on),
                    escape(&format!("{}: {}", difference.old.verdict, said(&difference.old))),
                    escape(&format!("{}: {}", difference.new.verdict, said(&difference.new))),
                );
            }
            if let Some(rest) = left_out(rest) {
                let _ = writeln!(text, "\n{rest}");
            }
        }
        let more = self.more.unwrap_or_default();
        if !self.appear.is_empty() || !self.vanish.is_empty() {
            text.push_str("\n#### Workloads\n\nFlows from and to these are not compared.\n\n");
        }
        for arrival in &self.appear {
            let _ = writeln!(text, "- new: {}: {}", escape(&arrival.workload), escape(&isolation(arrival)));
        }
        for workload in &self.vanish {
            let _ = writeln!(text, "- gone: {}", escape(workload));
        }
        for (word, count) in [("new", more.appear), ("gone", more.vanish)].into_iter().filter(|more| more.1 > 0) {
            let _ = writeln!(text, "- {word}: and {count} more");
        }
        if !self.policies.is_empty() {
            text.push_str("\n#### Policies\n\n");
        }
        for policy in &self.policies {
            let note = policy.note.map(|note| format!(" — {note}")).unwrap_or_default();
            let _ = writeln!(text, "- {}: {}{note}", policy.change, escape(&policy.policy));
        }
        if more.policies > 0 {
            let _ = writeln!(text, "- and {} more", more.policies);
        }
        text
    }

    /// What opens first, because that is the dangerous part; and how much of each is left out.
    fn sections(&self) -> [(&'static str, Rest); 3] {
        let more = self.more.unwrap_or_default();
        [("opens", more.opens), ("changes", more.changes), ("closes", more.closes)]
    }
}

fn left_out(rest: Rest) -> Option<String> {
    let Rest { differences, pairs } = rest;
    (differences > 0).then(|| format!("and {differences} more, between {pairs} pairs of workloads (--most 0 shows all)"))
}

/// Where namespaces are compared: how many of their workloads it is about, and two of them.
fn share(difference: &Difference) -> Option<String> {
    let example = difference.example.as_ref()?;
    let Difference { pairs, of, .. } = difference;
    let all = if pairs == of { format!("all {of} pairs") } else { format!("{pairs} of {of} pairs") };
    Some(format!("{all} of workloads, such as {} → {}", example.from, example.to))
}

fn write_difference(text: &mut String, difference: &Difference, paint: Paint) {
    let Difference { shown, on, old, new, requests, .. } = difference;
    let _ = writeln!(text, "  {}", paint.paint(Tone::Strong, &format!("{} → {}   {on}", shown.from, shown.to)));
    if let Some(share) = share(difference) {
        let _ = writeln!(text, "    {share}");
    }
    for (word, judged) in [("was", old), ("is", new)] {
        let verdict = match judged.verdict {
            "allow" => paint.paint(Tone::Good, "allow"),
            "deny" => paint.paint(Tone::Bad, "deny "),
            _ => paint.paint(Tone::Depends, "l7   "),
        };
        let _ = writeln!(text, "    {word:<3} {verdict}  {}", said(judged));
    }
    for request in requests {
        let _ = writeln!(text, "        {request}");
    }
}

/// Who is behind the halves that differ.
fn said(judged: &Judged) -> String {
    let halves = [(&judged.egress, Direction::Egress), (&judged.ingress, Direction::Ingress)];
    let halves: Vec<String> =
        halves.into_iter().filter_map(|(half, direction)| half.as_ref().map(|half| in_words(half, direction))).collect();
    halves.join("; ")
}

fn in_words(half: &Decided, direction: Direction) -> String {
    let by: Vec<String> = half.by.iter().map(ToString::to_string).collect();
    let by = by.join(", ");
    match half.reason {
        Reason::NoRuleMatched => format!("no {direction} rule of {by}"),
        Reason::NotIsolated => format!("{direction} isolated by nobody"),
        Reason::RuleMatched => by,
        Reason::DeniedByRule => format!("denied by {by}"),
        Reason::NeedsRequest => format!("requests judged by {by}"),
        reason => format!("{direction}: {reason}"),
    }
}

fn isolation(arrival: &Arrival) -> String {
    let half = |by: &[sluice_policy::verdict::NamedRule], direction: &str| match by {
        [] => format!("open in {direction}"),
        by => format!("isolated in {direction} by {}", by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
    };
    format!("{}, {}", half(&arrival.ingress_isolated_by, "ingress"), half(&arrival.egress_isolated_by, "egress"))
}

/// Text that stands for itself in a table of Markdown.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '|' | '*' | '_' | '`' | '[' | ']' | '~' | '#' | '@' => escaped.extend(['\\', c]),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '&' => escaped.push_str("&amp;"),
            c if c.is_control() => escaped.push(' '),
            c => escaped.push(c),
        }
    }
    escaped
}
