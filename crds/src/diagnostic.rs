//! What is wrong with an object, said so that its author can mend it: object, field, what is wrong, what to do.

use std::fmt;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Understood, but probably not what was meant. The API server would accept it.
    Warning,
    /// Not understood in part or whole, or not what the API server would accept. What it means is decided fail-closed.
    Error,
}

impl Severity {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One remark on one field of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub severity: Severity,
    /// The file, where there is one.
    pub source: Option<Arc<str>>,
    /// From 1; 0 where it isn't known.
    pub line: u32,
    /// `SluiceNetworkPolicy production/backend`.
    pub object: Arc<str>,
    /// `spec.ingress[0].http[1].path`; empty for the object as a whole.
    pub field: String,
    pub message: String,
    /// What to write instead.
    pub remedy: String,
}

impl fmt::Display for Diagnostic {
    /// `demo/backend.yaml:14: SluiceNetworkPolicy production/backend: spec.ingress[0].http[1].path: ...; remedy`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_place(f, self.source.as_deref(), self.line)?;
        f.write_str(&self.object)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// `file:line: `, as far as known.
fn write_place(f: &mut fmt::Formatter<'_>, source: Option<&str>, line: u32) -> fmt::Result {
    match (source, line) {
        (Some(source), 0) => write!(f, "{source}: "),
        (Some(source), line) => write!(f, "{source}:{line}: "),
        (None, 0) => Ok(()),
        (None, line) => write!(f, "line {line}: "),
    }
}

/// How many remarks on one object are kept: a policy of a million bad rules must not fill the memory a second time.
const MAX_PER_OBJECT: usize = 100;

/// Collects the remarks on one object.
#[derive(Default)]
pub(crate) struct Report {
    diagnostics: Vec<Diagnostic>,
    left_out: usize,
}

impl Report {
    pub(crate) fn error(&mut self, at: At<'_>, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Error, at, message.into(), remedy.into());
    }

    pub(crate) fn warning(&mut self, at: At<'_>, message: impl Into<String>, remedy: impl Into<String>) {
        self.push(Severity::Warning, at, message.into(), remedy.into());
    }

    fn push(&mut self, severity: Severity, at: At<'_>, message: String, remedy: String) {
        if self.diagnostics.len() >= MAX_PER_OBJECT {
            self.left_out += 1;
            return;
        }
        let field = at.path.to_string();
        let object = Arc::default();
        self.diagnostics.push(Diagnostic { severity, source: None, line: at.line, object, field, message, remedy });
    }

    /// The remarks. What the object calls itself is put together only if there are any.
    pub(crate) fn finish(mut self, object: impl FnOnce() -> Arc<str>) -> Vec<Diagnostic> {
        if self.diagnostics.is_empty() {
            return self.diagnostics;
        }
        if self.left_out > 0 {
            self.diagnostics.push(Diagnostic {
                severity: Severity::Error,
                source: None,
                line: 0,
                object: Arc::default(),
                field: String::new(),
                message: format!("{} further problems are not listed", self.left_out),
                remedy: "mend those above first".to_owned(),
            });
        }
        let object = object();
        for diagnostic in &mut self.diagnostics {
            diagnostic.object = object.clone();
        }
        self.diagnostics
    }
}

/// A place in an object: a field path, which costs nothing until it is printed, and a line.
#[derive(Clone, Copy)]
pub(crate) struct At<'p> {
    pub(crate) path: Path<'p>,
    pub(crate) line: u32,
}

impl<'p> At<'p> {
    pub(crate) const fn root(line: u32) -> Self {
        Self { path: Path { parent: None, step: Step::Root }, line }
    }

    pub(crate) fn field(&'p self, name: &'p str, line: u32) -> Self {
        At { path: Path { parent: Some(&self.path), step: Step::Field(name) }, line }
    }

    /// The field's own name; empty for an entry of a list.
    pub(crate) const fn name(&self) -> &'p str {
        match self.path.step {
            Step::Field(name) => name,
            Step::Root | Step::Index(_) => "",
        }
    }

    pub(crate) fn index(&'p self, index: usize, line: u32) -> Self {
        At { path: Path { parent: Some(&self.path), step: Step::Index(index) }, line }
    }
}

/// A field path, as a list from its last step to its first.
#[derive(Clone, Copy)]
pub(crate) struct Path<'p> {
    parent: Option<&'p Path<'p>>,
    step: Step<'p>,
}

#[derive(Clone, Copy)]
enum Step<'p> {
    Root,
    Field(&'p str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    /// `spec.ingress[0].ports`; a name with characters of its own stands in brackets: `labels[app.kubernetes.io/name]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            first = matches!(parent.step, Step::Root);
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(i) => write!(f, "[{i}]"),
            Step::Field(name) => {
                let cut: String = name.chars().take(100).flat_map(char::escape_debug).collect();
                if cut.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                    write!(f, "{}{cut}", if first { "" } else { "." })
                } else {
                    write!(f, "[{cut}]")
                }
            }
        }
    }
}
