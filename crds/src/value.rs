//! A manifest as it was written: a tree of values, each with its line.

use std::sync::Arc;

/// One value of a manifest, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// The line it begins on, from 1; 0 where the text is not known (values made from JSON in memory).
    pub line: u32,
    pub node: Node,
}

/// What a value is, in JSON's terms: what the API server is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    Null,
    Bool(bool),
    Int(i64),
    /// Never integral: `80.0` is `Int(80)`, as JSON prints it.
    Float(f64),
    String(Arc<str>),
    List(Vec<Value>),
    Map(Map),
}

/// A mapping, in the order it was written. Keys are unique.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Map {
    entries: Vec<Entry>,
}

/// One entry of a mapping.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub key: Arc<str>,
    /// The line of the key.
    pub line: u32,
    pub value: Value,
}

impl Value {
    pub fn new(line: u32, node: Node) -> Self {
        Self { line, node }
    }

    /// The entry `key`, if this is a mapping that has it and it isn't null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?.get(key)
    }

    pub fn as_map(&self) -> Option<&Map> {
        match &self.node {
            Node::Map(map) => Some(map),
            _ => None,
        }
    }

    pub fn as_list(&self) -> Option<&[Value]> {
        match &self.node {
            Node::List(list) => Some(list),
            _ => None,
        }
    }

    pub fn as_str(&self) -> Option<&str> {
        self.as_arc_str().map(|s| &**s)
    }

    pub fn as_arc_str(&self) -> Option<&Arc<str>> {
        match &self.node {
            Node::String(s) => Some(s),
            _ => None,
        }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.node, Node::Null)
    }

    /// What it is, for a sentence: `the number 80`, `the text "web"`, `a list`. Long texts are cut.
    pub fn describe(&self) -> String {
        match &self.node {
            Node::Null => "null".to_owned(),
            Node::Bool(b) => format!("the truth value {b}"),
            Node::Int(n) => format!("the number {n}"),
            Node::Float(n) => format!("the number {n}"),
            Node::String(s) => format!("the text {}", quoted(s)),
            Node::List(_) => "a list".to_owned(),
            Node::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// `text` in quotes, escaped, and cut where it would drown the sentence around it.
pub(crate) fn quoted(text: &str) -> String {
    const LIMIT: usize = 80;
    match text.char_indices().nth(LIMIT) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}... ({} bytes)", &text[..end], text.len()),
    }
}

impl Map {
    /// The value of `key`; `None` where it is absent or null, which the API does not tell apart.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|e| &*e.key == key).map(|e| &e.value).filter(|v| !v.is_null())
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Entry> {
        self.entries.iter()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(crate) fn iter_mut(&mut self) -> std::slice::IterMut<'_, Entry> {
        self.entries.iter_mut()
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
    }
}

impl IntoIterator for Map {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.entries.into_iter()
    }
}

impl<'a> IntoIterator for &'a Map {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl Node {
    /// A number as JSON would print it: integral floats are integers.
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked, and only integral values are converted")]
    pub(crate) fn number(n: f64) -> Self {
        // 2^53: beyond it a float no longer names one integer.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if n.fract() == 0.0 && n.abs() <= EXACT { Self::Int(n as i64) } else { Self::Float(n) }
    }
}

impl From<&serde_json::Value> for Value {
    fn from(json: &serde_json::Value) -> Self {
        use serde_json::Value as Json;
        let node = match json {
            Json::Null => Node::Null,
            Json::Bool(b) => Node::Bool(*b),
            Json::Number(n) => n.as_i64().map_or_else(|| Node::number(n.as_f64().unwrap_or(f64::NAN)), Node::Int),
            Json::String(s) => Node::String(s.as_str().into()),
            Json::Array(items) => Node::List(items.iter().map(Self::from).collect()),
            Json::Object(fields) => Node::Map(Map {
                entries: fields
                    .iter()
                    .map(|(key, value)| Entry { key: key.as_str().into(), line: 0, value: value.into() })
                    .collect(),
            }),
        };
        Self { line: 0, node }
    }
}
