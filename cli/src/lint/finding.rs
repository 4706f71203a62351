//! One finding, and how findings are collected.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Serialize;
use sluice_crds::Value;

use super::catalogue::Code;
use super::read::Written;

/// How bad it is. The order is that of `--fail-on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Can't be in force as it is written.
    Error,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// Something in the manifests that is wrong, or probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub code: &'static str,
    pub severity: Severity,
    /// Empty where it is about no file.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub file: Arc<str>,
    /// From 1; 0 where it isn't known.
    #[serde(skip_serializing_if = "is_zero")]
    pub line: u32,
    /// `NetworkPolicy shop/backend`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub object: String,
    /// `spec.ingress[0].from[1]`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
    pub message: String,
    pub why: &'static str,
    pub fix: String,
}

fn is_zero(line: &u32) -> bool {
    *line == 0
}

/// What has been found so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    found: Vec<Finding>,
    /// Findings that a label of their object asks to leave out.
    ignored: usize,
    /// What was found where: one remark of a kind for each place.
    places: HashSet<(Code, Arc<str>, String, String)>,
}

impl Findings {
    /// A finding in a policy, at `field`. The severity is the code's own.
    pub(super) fn add(&mut self, code: Code, policy: &Written, field: &str, message: String, fix: impl Into<String>) {
        self.add_as(code, code.check().severity, policy, field, message, fix);
    }

    pub(super) fn add_as(
        &mut self,
        code: Code,
        severity: Severity,
        policy: &Written,
        field: &str,
        message: String,
        fix: impl Into<String>,
    ) {
        let object = policy.policy.reference.to_string();
        if !self.places.insert((code, policy.file.clone(), object.clone(), field.to_owned())) {
            return;
        }
        if policy.ignores(code) {
            self.ignored += 1;
            return;
        }
        let line = line_of(&policy.value, field);
        let (file, field) = (policy.file.clone(), field.to_owned());
        self.push(Finding {
            code: code.as_str(),
            severity,
            file,
            line,
            object,
            field,
            message,
            why: code.check().why,
            fix: fix.into(),
        });
    }

    pub(super) fn push(&mut self, finding: Finding) {
        self.found.push(finding);
    }

    /// All findings, by file and line, and how many were left out.
    pub(super) fn finish(mut self) -> (Vec<Finding>, usize) {
        self.found.sort_by(|a, b| {
            let place = |f: &Finding| (f.file.clone(), f.line, f.object.clone(), f.field.clone(), f.code);
            place(a).cmp(&place(b))
        });
        (self.found, self.ignored)
    }
}

/// The line of the value at `path` (`spec.ingress[0].from[1]`), or of the last part of it that is there.
pub(super) fn line_of(object: &Value, path: &str) -> u32 {
    follow(object, path).1
}

/// Whether something is written at `path`.
pub(super) fn exists(object: &Value, path: &str) -> bool {
    follow(object, path).0
}

/// Whether the path leads to its end, and the line that it leads to.
fn follow(object: &Value, path: &str) -> (bool, u32) {
    let (mut value, mut line) = (object, object.line);
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        let next = match step.strip_suffix(']') {
            Some(index) => index.parse().ok().and_then(|i: usize| value.as_list()?.get(i)).map(|item| (item, item.line)),
            None => {
                let entry = value.as_map().and_then(|map| map.iter().find(|entry| &*entry.key == step));
                entry.map(|entry| (&entry.value, entry.line))
            }
        };
        let Some((found, at)) = next else { return (false, line) };
        (value, line) = (found, at);
    }
    (true, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_leads_to_its_line() {
        let text = "kind: X\nspec:\n  ingress:\n  - from:\n    - podSelector: {}\n    - ipBlock:\n        cidr: 10.0.0.0/8\n";
        let object = &sluice_crds::read(text, "test").documents[0].value;
        let rows = [
            ("spec", 2),
            ("spec.ingress", 3),
            ("spec.ingress[0]", 4),
            ("spec.ingress[0].from[1]", 6),
            ("spec.ingress[0].from[1].ipBlock.cidr", 7),
            ("spec.ingress[0].ports[0]", 4),
            ("spec.egress", 2),
        ];
        for (path, line) in rows {
            assert_eq!(line_of(object, path), line, "{path}");
        }
    }
}
