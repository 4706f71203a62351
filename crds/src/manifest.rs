//! A text of manifests: YAML or JSON, several documents, and the lists that `kubectl get -o yaml` prints.

use std::fmt;
use std::sync::Arc;

use crate::value::{Entry, Map, Node, Value, quoted};
use crate::yaml::{Documents, Fault, Limits};

/// What a text holds.
#[derive(Clone, Debug)]
pub struct Manifests {
    /// In the order of the text; the items of lists each by itself.
    pub documents: Vec<Document>,
    /// Where the text isn't YAML, or a document can't be an object. Not empty: the text as a whole did not parse, and what
    /// its file held before has to stay in force.
    pub errors: Vec<ManifestError>,
}

impl Manifests {
    /// Whether the text as a whole parsed.
    pub fn is_whole(&self) -> bool {
        self.errors.is_empty()
    }
}

/// One object as it was written.
#[derive(Clone, Debug)]
pub struct Document {
    /// The name of the text: a file's path.
    pub source: Arc<str>,
    /// The line it begins on, from 1.
    pub line: u32,
    pub value: Value,
}

/// Why a text, or a document of it, can't be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ManifestError {
    pub source_name: Arc<str>,
    /// From 1; 0 for the text as a whole.
    pub line: u32,
    /// From 1; 0 for the text as a whole.
    pub column: u32,
    /// The field path that had been reached, if any.
    pub field: String,
    pub message: String,
}

impl fmt::Display for ManifestError {
    /// `demo/backend.yaml:14:7: spec.ingress[0]: ...`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source_name)?;
        if self.line > 0 {
            write!(f, ":{}:{}", self.line, self.column)?;
        }
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Reads `text` within the default [`Limits`]. `source` names it in errors: a file's path. Total: never panics.
pub fn read(text: &str, source: &str) -> Manifests {
    read_within(text, source, Limits::default())
}

/// Reads `text` within `limits`.
///
/// A document that is well-formed YAML but not acceptable costs only itself; where the text isn't YAML, reading goes on after the
/// next line that begins with `---`.
pub fn read_within(text: &str, source: &str, limits: Limits) -> Manifests {
    let manifests = read_yaml(text, source, limits);
    if manifests.is_whole() || !text.trim_start().starts_with('{') {
        return manifests;
    }
    // JSON is YAML but for one thing: a character beyond 16 bits may be written as two escapes.
    match join_surrogates(text) {
        Some(joined) => read_yaml(&joined, source, limits),
        None => manifests,
    }
}

fn read_yaml(text: &str, source: &str, limits: Limits) -> Manifests {
    let mut reader = Reader { source: source.into(), manifests: Manifests { documents: Vec::new(), errors: Vec::new() } };
    if text.len() > limits.bytes {
        let message = format!("{} bytes, and the limit is {}: split it", text.len(), limits.bytes);
        reader.error(Fault { line: 0, column: 0, field: String::new(), message }, 0);
        return reader.manifests;
    }
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines_before = 0;
    // Each round begins behind the place where the one before failed; their number is bounded as well, because a
    // text with an error on every second line tells its author nothing new.
    for _ in 0..MAX_ERRORS {
        let Some(failed_at) = reader.take(rest, limits, lines_before) else { return reader.manifests };
        let Some((line, next)) = next_document(rest, failed_at) else { return reader.manifests };
        lines_before += line;
        rest = next;
    }
    reader.manifests
}

/// `text` with the characters themselves for pairs of escapes such as `\ud83d\ude00`; `None` if there is no such pair.
fn join_surrogates(text: &str) -> Option<String> {
    let mut joined = String::new();
    let mut rest = text;
    let mut found = false;
    while let Some(at) = rest.find('\\') {
        let unit = |from: usize| {
            let escape = rest.get(from..from + 6)?.strip_prefix("\\u")?;
            u16::from_str_radix(escape, 16).ok()
        };
        let pair = [unit(at), unit(at + 6)].into_iter().flatten();
        let decoded = char::decode_utf16(pair).next().and_then(Result::ok).filter(|c| u32::from(*c) > 0xffff);
        let end = match decoded {
            Some(c) => {
                joined.push_str(&rest[..at]);
                joined.push(c);
                found = true;
                at + 12
            }
            // The character after a backslash is never one itself.
            None => {
                let end = rest[at + 1..].chars().next().map_or(rest.len(), |c| at + 1 + c.len_utf8());
                joined.push_str(&rest[..end]);
                end
            }
        };
        rest = &rest[end..];
    }
    joined.push_str(rest);
    found.then_some(joined)
}

/// How often reading begins anew after a text that isn't YAML.
const MAX_ERRORS: usize = 20;

/// The first `---` of `text` from line `line` (from 1) on: how many lines come before it, and the text from it on.
fn next_document(text: &str, line: u32) -> Option<(u32, &str)> {
    let mut start = 0;
    for (before, next) in (0..).zip(text.split_inclusive('\n')) {
        if before + 1 >= line && next.starts_with("---") {
            return Some((before, &text[start..]));
        }
        start += next.len();
    }
    None
}

struct Reader {
    source: Arc<str>,
    manifests: Manifests,
}

impl Reader {
    fn error(&mut self, fault: Fault, lines_before: u32) {
        let Fault { line, column, field, message } = fault;
        let line = if line == 0 { 0 } else { line.saturating_add(lines_before) };
        self.manifests.errors.push(ManifestError { source_name: self.source.clone(), line, column, field, message });
    }

    /// Reads as far as the text is YAML; returns the line (of `text`, from 1) from which to go on.
    fn take(&mut self, text: &str, limits: Limits, lines_before: u32) -> Option<u32> {
        let mut documents = Documents::new(text, limits);
        while let Some(parsed) = documents.next() {
            match parsed.value {
                Ok(value) => self.object(value, lines_before),
                Err(fault) => {
                    self.error(fault, lines_before);
                    if let Some(line) = documents.broken_at() {
                        return Some(line);
                    }
                    if self.manifests.errors.len() >= MAX_ERRORS {
                        return None;
                    }
                }
            }
        }
        None
    }

    /// Takes one document: an object, a list of objects, or nothing.
    fn object(&mut self, mut value: Value, lines_before: u32) {
        if lines_before > 0 {
            move_down(&mut value, lines_before);
        }
        self.flatten(value, "");
    }

    fn flatten(&mut self, value: Value, field: &str) {
        let line = value.line;
        let Node::Map(map) = value.node else {
            // An empty document is common: a file of comments, a `---` too many.
            if !matches!(value.node, Node::Null) || !field.is_empty() {
                let message = format!("{} where an object (a mapping with apiVersion and kind) belongs", value.describe());
                self.error(Fault { line, column: 1, field: field.to_owned(), message }, 0);
            }
            return;
        };
        let Some(list) = ListKind::of(&map) else {
            let document = Document { source: self.source.clone(), line, value: Value { line, node: Node::Map(map) } };
            self.manifests.documents.push(document);
            return;
        };
        let items = map.into_iter().find(|e| &*e.key == "items").map(|e| e.value);
        let items = match items.map(|v| (v.line, v.node)) {
            None | Some((_, Node::Null)) => Vec::new(),
            Some((_, Node::List(items))) => items,
            Some((line, other)) => {
                let message = format!("{} where a list of objects belongs", Value::new(line, other).describe());
                let field = join(field, "items");
                return self.error(Fault { line, column: 1, field, message }, 0);
            }
        };
        for (i, item) in items.into_iter().enumerate() {
            let item = list.complete(item);
            // A path is built only where it can be needed: a list may have a hundred thousand items.
            if matches!(&item.node, Node::Map(m) if ListKind::of(m).is_none()) {
                self.flatten(item, field);
            } else {
                self.flatten(item, &format!("{}[{i}]", join(field, "items")));
            }
        }
    }
}

fn join(field: &str, name: &str) -> String {
    if field.is_empty() { name.to_owned() } else { format!("{field}.{name}") }
}

/// `kind: List`, or the list of one kind (`PodList`), whose items need not say what they are.
enum ListKind {
    Any,
    Of { api_version: Arc<str>, kind: Arc<str> },
}

impl ListKind {
    fn of(map: &Map) -> Option<Self> {
        let kind = map.get("kind")?.as_str()?.strip_suffix("List")?;
        let api_version = map.get("apiVersion").and_then(Value::as_arc_str)?.clone();
        // A kind of somebody else's may well end in "List" and be no list.
        let is_ours = matches!(&*api_version, "v1" | "networking.k8s.io/v1")
            || api_version.starts_with("sluice.dev/")
            || api_version.starts_with("policy.networking.k8s.io/");
        match kind {
            _ if !is_ours => None,
            "" => Some(Self::Any),
            kind => Some(Self::Of { api_version, kind: kind.into() }),
        }
    }

    /// The item with the `apiVersion` and `kind` of its list, where it doesn't have its own.
    fn complete(&self, mut item: Value) -> Value {
        if let (Self::Of { api_version, kind }, Node::Map(map)) = (self, &mut item.node) {
            for (key, text) in [("apiVersion", api_version), ("kind", kind)] {
                if !map.iter().any(|e| &*e.key == key) {
                    let value = Value::new(item.line, Node::String(text.clone()));
                    map.push(Entry { key: key.into(), line: item.line, value });
                }
            }
        }
        item
    }
}

/// Adds to every line, for a text that was read from its middle. Recursion is bounded by [`Limits::depth`].
fn move_down(value: &mut Value, lines: u32) {
    value.line = value.line.saturating_add(lines);
    match &mut value.node {
        Node::List(items) => items.iter_mut().for_each(|v| move_down(v, lines)),
        Node::Map(map) => map.iter_mut().for_each(|e| {
            e.line = e.line.saturating_add(lines);
            move_down(&mut e.value, lines);
        }),
        _ => {}
    }
}

/// What a document calls itself, for a sentence: `Pod shop/web`, `an object without kind`.
pub(crate) fn describe(value: &Value) -> String {
    let kind = value.get("kind").and_then(Value::as_str).unwrap_or("an object without kind");
    let metadata = value.get("metadata");
    let text = |field| metadata.and_then(|m| m.get(field)).and_then(Value::as_str);
    match (text("namespace"), text("name").or_else(|| text("generateName"))) {
        (Some(namespace), Some(name)) => format!("{} {}/{}", plain(kind), plain(namespace), plain(name)),
        (None, Some(name)) => format!("{} {}", plain(kind), plain(name)),
        (_, None) => format!("{} without a name", plain(kind)),
    }
}

/// The text itself where it is a plain name, else in quotes and cut.
pub(crate) fn plain(text: &str) -> String {
    let is_name = text.len() <= 253 && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if is_name { text.to_owned() } else { quoted(text) }
}
