//! YAML text to [`Value`]s, one per document, bounded in depth and in what aliases may grow to.
//!
//! Text comes from folders that anyone may write to, so nothing here may panic, recurse by the depth of the input or cost
//! more than the text is long: mappings find duplicate keys by hashing, and aliases draw on a budget of copied values.

use std::collections::HashSet;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, Span, StrInput};

mod builder;

use self::builder::Builder;
use crate::value::Value;

/// What a text may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Length of the text, in bytes.
    pub bytes: usize,
    /// Mappings and lists within each other.
    pub depth: usize,
    /// Values that aliases (`*name`) and merge keys (`<<`) may add to one document.
    pub copied_values: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { bytes: 512 << 20, depth: 64, copied_values: 100_000 }
    }
}

/// Why a document, or the rest of the text, can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) line: u32,
    /// From 1.
    pub(crate) column: u32,
    /// The field path that had been reached.
    pub(crate) field: String,
    pub(crate) message: String,
}

/// One document of a text.
pub(crate) struct Parsed {
    pub(crate) value: Result<Value, Fault>,
}

/// Reads the documents of `text`, lazily. After the error of a document that is broken as YAML the iterator ends; one that is
/// well-formed but not acceptable (a duplicate key, too deep) is an error alone.
pub(crate) struct Documents<'t> {
    parser: Parser<'t, StrInput<'t>>,
    limits: Limits,
    ended: bool,
    broken: Option<u32>,
    /// See [`Builder::text`]; handed from document to document.
    texts: HashSet<Arc<str>>,
}

impl<'t> Documents<'t> {
    pub(crate) fn new(text: &'t str, limits: Limits) -> Self {
        Self { parser: Parser::new_from_str(text), limits, ended: false, broken: None, texts: HashSet::new() }
    }

    /// Where the text ceased to be YAML: the line from which a next document may be looked for.
    pub(crate) fn broken_at(&self) -> Option<u32> {
        self.broken
    }
}

impl Iterator for Documents<'_> {
    type Item = Parsed;

    fn next(&mut self) -> Option<Parsed> {
        let mut builder: Option<Builder> = None;
        while !self.ended {
            match self.parser.next_event()? {
                Ok((Event::DocumentStart(_), span)) => {
                    let new = builder.insert(Builder::new(line_of(&span), self.limits));
                    new.texts = std::mem::take(&mut self.texts);
                }
                Ok((Event::DocumentEnd, _)) => {
                    let mut built = builder.take()?;
                    self.texts = std::mem::take(&mut built.texts);
                    return Some(Parsed { value: built.finish() });
                }
                Ok((Event::StreamEnd, _)) => self.ended = true,
                Ok((event, span)) => {
                    if let Some(builder) = &mut builder {
                        builder.take_event(event, &span);
                    }
                }
                Err(error) => {
                    self.ended = true;
                    let at = error.marker();
                    let builder = builder.unwrap_or_else(|| Builder::new(narrow(at.line()), self.limits));
                    // The scanner may notice only at the next document's beginning, but that is never this document's own.
                    self.broken = Some(narrow(at.line()).max(builder.line.saturating_add(1)));
                    let fault = Fault {
                        line: narrow(at.line()),
                        column: narrow(at.col() + 1),
                        field: builder.path(),
                        message: error.info().to_owned(),
                    };
                    return Some(Parsed { value: Err(fault) });
                }
            }
        }
        None
    }
}

fn line_of(span: &Span) -> u32 {
    narrow(span.start.line())
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
