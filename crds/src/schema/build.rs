//! Parts of an OpenAPI v3 schema as the API server takes it: structural, every field with a description.

use serde_json::{Map, Value, json};

/// A property: its name, and what it is.
pub(super) type Property = (&'static str, Schema);

/// A schema under construction.
#[derive(Clone, Debug)]
pub(super) struct Schema(Map<String, Value>);

impl Schema {
    fn new(kind: &str, description: &str) -> Self {
        let mut map = Map::new();
        map.insert("description".to_owned(), description.into());
        map.insert("type".to_owned(), kind.into());
        Self(map)
    }

    pub(super) fn text(description: &str) -> Self {
        Self::new("string", description)
    }

    /// One of these words.
    pub(super) fn word(description: &str, words: &[&str]) -> Self {
        Self::text(description).with("enum", json!(words))
    }

    pub(super) fn boolean(description: &str) -> Self {
        Self::new("boolean", description)
    }

    /// Of a boolean: what false would mean, another field says.
    pub(super) fn only_true(self) -> Self {
        self.with("enum", json!([true]))
    }

    pub(super) fn integer(description: &str, least: u32, most: u32) -> Self {
        Self::new("integer", description).with("format", "int32").with("minimum", least).with("maximum", most)
    }

    /// A number, or a name.
    pub(super) fn int_or_string(description: &str) -> Self {
        let mut schema = Self::new("", description);
        schema.0.remove("type");
        schema.with("x-kubernetes-int-or-string", true)
    }

    pub(super) fn object(description: &str, properties: impl IntoIterator<Item = Property>) -> Self {
        let properties: Map<String, Value> =
            properties.into_iter().map(|(name, schema)| (name.to_owned(), schema.done())).collect();
        Self::new("object", description).with("properties", properties)
    }

    /// An object whose fields the API server itself knows, and describes.
    pub(super) fn known_object() -> Self {
        let mut schema = Self::new("object", "");
        schema.0.remove("description");
        schema
    }

    /// Texts by name.
    pub(super) fn texts_by_name(description: &str, text: Self) -> Self {
        Self::new("object", description).with("additionalProperties", text.done())
    }

    pub(super) fn list(description: &str, most: usize, items: Self) -> Self {
        Self::new("array", description).with("maxItems", most).with("items", items.done())
    }

    pub(super) fn at_least_one(self) -> Self {
        self.with("minItems", 1)
    }

    pub(super) fn required(self, names: &[&str]) -> Self {
        self.with("required", json!(names))
    }

    pub(super) fn longest(self, bytes: usize) -> Self {
        self.with("maxLength", bytes)
    }

    pub(super) fn default(self, value: impl Into<Value>) -> Self {
        self.with("default", value)
    }

    /// A list whose entries have this name, so that two writers don't overwrite each other's.
    pub(super) fn map_by(self, key: &str) -> Self {
        self.with("x-kubernetes-list-type", "map").with("x-kubernetes-list-map-keys", json!([key]))
    }

    pub(super) fn set(self) -> Self {
        self.with("x-kubernetes-list-type", "set")
    }

    pub(super) fn atomic(self) -> Self {
        let is_list = self.0.contains_key("items");
        self.with(if is_list { "x-kubernetes-list-type" } else { "x-kubernetes-map-type" }, "atomic")
    }

    /// Keeps fields that this version doesn't know: pruned, a rule that a newer version writes would say more than its author
    /// meant. Kept, it closes.
    pub(super) fn keeps_unknown(self) -> Self {
        self.with("x-kubernetes-preserve-unknown-fields", true)
    }

    /// A condition in CEL, and what is said where it doesn't hold.
    pub(super) fn rule(self, rule: &str, message: &str) -> Self {
        self.push_rule(json!({ "rule": rule, "message": message }))
    }

    /// As [`Self::rule`], about one field: `.endPort`.
    pub(super) fn rule_of(self, field: &str, rule: &str, message: &str) -> Self {
        self.push_rule(json!({ "rule": rule, "message": message, "fieldPath": field }))
    }

    fn push_rule(mut self, rule: Value) -> Self {
        let rules = self.0.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        if let Value::Array(rules) = rules {
            rules.push(rule);
        }
        self
    }

    /// Exactly one of these fields. Costs no CEL, of which a list in a list in a list has too little, but says it less well.
    pub(super) fn exactly_one(self, names: &[&str]) -> Self {
        let required: Vec<Value> = names.iter().map(|name| json!({ "required": [name] })).collect();
        self.with("oneOf", required)
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.insert(name.to_owned(), value.into());
        self
    }

    pub(super) fn done(self) -> Value {
        Value::Object(self.0)
    }
}
