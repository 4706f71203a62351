//! Events of a YAML document to a [`Value`].

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use saphyr_parser::{Event, ScalarStyle, Span, Tag};

use super::{Fault, Limits, line_of, narrow};
use crate::scalar;
use crate::value::{Entry, Map, Node, Value, quoted};

/// A mapping or list that isn't complete yet.
struct Open {
    line: u32,
    anchor: usize,
    content: Content,
    /// Nothing in here is kept: see [`is_never_read`].
    skipped: bool,
}

enum Content {
    List(Vec<Value>),
    Map {
        map: Map,
        key: Option<(Arc<str>, u32)>,
        /// The keys so far, once there are too many to compare one by one.
        seen: Option<HashSet<Arc<str>>>,
        /// What `<<` refers to.
        merge: Option<Value>,
    },
}

/// How many keys are compared one by one before a hash set pays.
const FEW_KEYS: usize = 16;

pub(super) struct Builder {
    pub(super) line: u32,
    limits: Limits,
    /// Values that aliases may still add.
    budget: usize,
    stack: Vec<Open>,
    anchors: HashMap<usize, (Value, usize)>,
    /// See [`Self::text`].
    pub(super) texts: HashSet<Arc<str>>,
    root: Option<Value>,
    fault: Option<Fault>,
}

impl Builder {
    pub(super) fn new(line: u32, limits: Limits) -> Self {
        Self {
            line,
            limits,
            budget: limits.copied_values,
            stack: Vec::new(),
            anchors: HashMap::new(),
            texts: HashSet::new(),
            root: None,
            fault: None,
        }
    }

    pub(super) fn finish(self) -> Result<Value, Fault> {
        match self.fault {
            Some(fault) => Err(fault),
            None => Ok(self.root.unwrap_or(Value::new(self.line, Node::Null))),
        }
    }

    /// The field path that has been reached: `spec.ingress[2].ports`.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        for open in &self.stack {
            match &open.content {
                Content::List(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Map { key: Some((key, _)), .. } => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.extend(key.chars().take(100));
                }
                Content::Map { key: None, .. } => {}
            }
        }
        path
    }

    fn fail(&mut self, span: &Span, message: impl Into<String>) {
        if self.fault.is_none() {
            let column = narrow(span.start.col() + 1);
            let field = self.path();
            self.fault = Some(Fault { line: line_of(span), column, field, message: message.into() });
            // Nothing of the document will be used: let go of it now.
            self.stack = Vec::new();
            self.anchors = HashMap::new();
        }
    }

    pub(super) fn take_event(&mut self, event: Event<'_>, span: &Span) {
        if self.fault.is_some() {
            return;
        }
        match event {
            Event::Scalar(text, style, anchor, tag) => match self.scalar_node(&text, style, tag.as_deref()) {
                Ok(node) => {
                    // A key's style matters: only an unquoted `<<` merges.
                    let merge = style == ScalarStyle::Plain && text == "<<";
                    self.complete(Value::new(line_of(span), node), anchor, merge, span);
                }
                Err(message) => self.fail(span, message),
            },
            Event::SequenceStart(anchor, _) => self.open(anchor, Content::List(Vec::new()), span),
            Event::MappingStart(anchor, _) => {
                let map = Content::Map { map: Map::default(), key: None, seen: None, merge: None };
                self.open(anchor, map, span);
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(anchor) => self.alias(anchor, span),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => {}
        }
    }

    fn open(&mut self, anchor: usize, content: Content, span: &Span) {
        if self.stack.len() >= self.limits.depth {
            return self.fail(span, format!("nested more than {} deep", self.limits.depth));
        }
        if self.expects_key() {
            return self.fail(span, "a mapping's key is a list or a mapping; the API knows only text keys");
        }
        let skipped = self.is_skipping();
        self.stack.push(Open { line: line_of(span), anchor, content, skipped });
    }

    fn close(&mut self, span: &Span) {
        let Some(open) = self.stack.pop() else { return };
        let node = match open.content {
            Content::List(items) => Node::List(items),
            Content::Map { mut map, merge: source, .. } => {
                if let Some(Err(message)) = source.map(|s| merge(&mut map, s)) {
                    return self.fail(span, message);
                }
                Node::Map(map)
            }
        };
        self.complete(Value::new(open.line, node), open.anchor, false, span);
    }

    fn alias(&mut self, anchor: usize, span: &Span) {
        let Some((value, size)) = self.anchors.get(&anchor) else {
            return self.fail(span, "an alias to a value that is not complete, or is never read");
        };
        let (value, size) = (value.clone(), *size);
        if self.spend(size, span) {
            self.complete(value, 0, false, span);
        }
    }

    /// Draws `size` copied values on the budget.
    fn spend(&mut self, size: usize, span: &Span) -> bool {
        match self.budget.checked_sub(size) {
            Some(rest) => {
                self.budget = rest;
                true
            }
            None => {
                let message = format!("anchors and aliases that grow to more than {} values", self.limits.copied_values);
                self.fail(span, message);
                false
            }
        }
    }

    /// Whether what begins now is part of something that is never read.
    fn is_skipping(&self) -> bool {
        let Some(top) = self.stack.last() else { return false };
        if top.skipped {
            return true;
        }
        let Content::Map { key: Some((key, _)), .. } = &top.content else { return false };
        let below = self.stack.iter().rev().nth(1);
        let Some(Open { content: Content::Map { key: Some((parent, _)), .. }, .. }) = below else { return false };
        is_never_read(parent, key)
    }

    fn scalar_node(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Node, String> {
        let core = tag.filter(|t| t.is_yaml_core_schema()).map(|t| t.suffix.as_str());
        let unspecific = tag.is_some_and(|t| t.handle.is_empty() && t.suffix == "!");
        match core {
            Some("str") => Ok(Node::String(self.text(text))),
            Some(kind @ ("int" | "float" | "bool" | "null")) => {
                let node = scalar::resolve(text).unwrap_or_else(|| Node::String("".into()));
                let fits = matches!(
                    (kind, &node),
                    ("int" | "float", Node::Int(_)) | ("float", Node::Float(_)) | ("bool", Node::Bool(_)) | ("null", Node::Null)
                );
                if fits { Ok(node) } else { Err(format!("{} is not of the type !!{kind}", quoted(text))) }
            }
            // `!!timestamp` stays text for the API; `!!binary` and the rest have no place in a manifest we read.
            Some("timestamp") => Ok(Node::String(self.text(text))),
            Some(other) => Err(format!("the YAML type !!{} is not known here", quoted(other))),
            None if unspecific || style != ScalarStyle::Plain => Ok(Node::String(self.text(text))),
            None => Ok(scalar::resolve(text).unwrap_or_else(|| Node::String(self.text(text)))),
        }
    }

    /// One text, kept once where it is short: keys, kinds and labels come again with every object of a long list.
    fn text(&mut self, text: &str) -> Arc<str> {
        const LONGEST: usize = 40;
        const MOST: usize = 4096;
        if text.len() > LONGEST {
            return text.into();
        }
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        if self.texts.len() < MOST {
            self.texts.insert(new.clone());
        }
        new
    }

    fn expects_key(&self) -> bool {
        matches!(self.stack.last(), Some(Open { content: Content::Map { key: None, .. }, .. }))
    }

    /// Puts a complete value where it belongs: as a key, as a key's value, into a list, or as the document.
    fn complete(&mut self, value: Value, anchor: usize, merge_key: bool, span: &Span) {
        if let Some(open) = self.stack.last_mut().filter(|open| open.skipped) {
            // Keys are kept until their values come, and then forgotten, so that the mapping stays empty.
            if let Content::Map { key, .. } = &mut open.content {
                *key = if key.is_some() { None } else { Some(("".into(), value.line)) };
            }
            return;
        }
        if anchor != 0 {
            // An anchored value is kept a second time, so that nested anchors cost as much as aliases.
            let size = size(&value);
            if !self.spend(size, span) {
                return;
            }
            self.anchors.insert(anchor, (value.clone(), size));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(value);
            return;
        };
        match &mut open.content {
            Content::List(items) => items.push(value),
            Content::Map { map, key, seen, merge } => match key.take() {
                Some((name, _)) if &*name == MERGE => *merge = Some(value),
                Some((name, line)) => map.push(Entry { key: name, line, value }),
                None if merge_key && merge.is_some() => self.fail(span, "the key << is written twice"),
                None if merge_key => *key = Some((MERGE.into(), value.line)),
                None => {
                    let line = value.line;
                    let name = match key_text(value) {
                        Ok(name) => name,
                        Err(message) => return self.fail(span, message),
                    };
                    if is_duplicate(map, seen, &name) {
                        let name = quoted(&name);
                        return self.fail(span, format!("the key {name} is written twice"));
                    }
                    *key = Some((name, line));
                }
            },
        }
    }
}

/// Parts of objects that take most of the room in what `kubectl get -o yaml` prints, and that nothing here looks at. They are
/// told by the field they stand in, so that a label or an unknown field of a policy is never among them.
fn is_never_read(parent: &str, key: &str) -> bool {
    match parent {
        "metadata" => matches!(key, "managedFields" | "annotations" | "ownerReferences"),
        "status" => matches!(key, "conditions" | "containerStatuses" | "initContainerStatuses" | "images"),
        _ => false,
    }
}

/// Stands for an unquoted `<<`; no text of a manifest can be equal to it, because YAML forbids NUL.
const MERGE: &str = "\0<<";

fn is_duplicate(map: &Map, seen: &mut Option<HashSet<Arc<str>>>, name: &Arc<str>) -> bool {
    if map.len() < FEW_KEYS {
        return map.iter().any(|e| e.key == *name);
    }
    let seen = seen.get_or_insert_with(|| map.iter().map(|e| e.key.clone()).collect());
    !seen.insert(name.clone())
}

/// `<<: *base` and `<<: [*a, *b]`: keys that the mapping doesn't have itself; the first source wins.
fn merge(map: &mut Map, source: Value) -> Result<(), &'static str> {
    let sources = match source.node {
        Node::List(items) => items,
        _ => vec![source],
    };
    let mut seen: HashSet<Arc<str>> = map.iter().map(|e| e.key.clone()).collect();
    for source in sources {
        let Node::Map(from) = source.node else { return Err("a merge key (<<) takes a mapping or a list of mappings") };
        for entry in &from {
            if seen.insert(entry.key.clone()) {
                map.push(entry.clone());
            }
        }
    }
    Ok(())
}

/// A key as the API gets it: JSON has only text keys, and kubectl turns numbers and truth values into text.
fn key_text(value: Value) -> Result<Arc<str>, &'static str> {
    match value.node {
        Node::String(s) => Ok(s),
        Node::Int(n) => Ok(n.to_string().into()),
        Node::Float(n) => Ok(n.to_string().into()),
        Node::Bool(b) => Ok(b.to_string().into()),
        Node::Null => Err("a mapping's key is empty or null; the API knows only text keys"),
        Node::List(_) | Node::Map(_) => Err("a mapping's key is a list or a mapping; the API knows only text keys"),
    }
}

/// How many values a value is made of. Recursion is bounded by [`Limits::depth`].
fn size(value: &Value) -> usize {
    1 + match &value.node {
        Node::List(items) => items.iter().map(size).sum(),
        Node::Map(map) => map.iter().map(|e| 1 + size(&e.value)).sum(),
        _ => 0,
    }
}
