//! A text of manifests without the objects that a question isn't about.
//!
//! Most of a large cluster's text are pods, and most of the time that reading takes goes into building them. Those that nobody
//! asks for can be told by their lines alone, if these are as `kubectl get -o yaml` and most people write them; everything else
//! is read, so what is left out here can only be what was asked to be left out.

use memchr::{memchr_iter, memmem};

use crate::manifest::{Manifests, read_within};
use crate::yaml::Limits;

/// An object that stands by itself in a text: its kind, and its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline<'t> {
    pub kind: &'t str,
    pub text: &'t str,
}

/// The fields of an object, of which an object that can be left out has no others.
const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// [`read_within`](crate::read_within), without the objects that can be told by their lines and aren't `wanted`.
pub fn read_where(text: &str, source: &str, limits: Limits, wanted: impl Fn(Outline<'_>) -> bool) -> Manifests {
    // What is too large is not looked at either.
    let excerpt = if text.len() > limits.bytes { None } else { excerpt(text, wanted) };
    read_within(excerpt.as_deref().unwrap_or(text), source, limits)
}

/// `text` with empty lines in the place of the objects that aren't `wanted`, so that all others keep their line numbers; `None`
/// if it is to be read as it is.
///
/// `wanted` is asked about those objects only whose kind is certain without parsing: documents, and items of a `List`, in block
/// style. What is left out isn't checked, not even as YAML.
fn excerpt(text: &str, wanted: impl Fn(Outline<'_>) -> bool) -> Option<String> {
    // A carriage return alone ends a line of YAML, and directives reach beyond a document's beginning.
    let directive = text.starts_with('%') || memmem::find(text.as_bytes(), b"\n%").is_some();
    if directive || memchr::memchr(b'\r', text.as_bytes()).is_some() {
        return None;
    }
    let mut left = String::new();
    let mut any = false;
    for document in documents(text) {
        match items(document) {
            Some((head, items, tail)) => {
                left.push_str(head);
                for item in items {
                    any |= take(&mut left, item, "  ", &wanted);
                }
                left.push_str(tail);
            }
            None => any |= take(&mut left, document, "", &wanted),
        }
    }
    any.then_some(left)
}

/// Puts the object at the end of `left`, or as many empty lines; returns whether it left it out.
fn take(left: &mut String, object: &str, indent: &str, wanted: &impl Fn(Outline<'_>) -> bool) -> bool {
    // In a list, an object that is wanted may refer to what another one anchors.
    let anchors = !indent.is_empty() && object.contains('&');
    let unwanted = !anchors && kind(object, indent).is_some_and(|kind| !wanted(Outline { kind, text: object }));
    if unwanted {
        left.extend(memchr_iter(b'\n', object.as_bytes()).map(|_| '\n'));
    } else {
        left.push_str(object);
    }
    unwanted
}

/// The documents of a text, each with its `---`. No scalar can hold a line that begins so.
fn documents(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let (document, next) = match memmem::find(text.as_bytes(), b"\n---") {
            Some(end) => (&text[..=end], Some(&text[end + 1..])),
            None => (text, None),
        };
        rest = next;
        Some(document)
    })
}

/// A `List` in block style: what is before its items, the items from their dashes on, and what is behind them.
fn items(document: &str) -> Option<(&str, Vec<&str>, &str)> {
    let begin = memmem::find(document.as_bytes(), b"\nitems:\n")? + "\nitems:\n".len();
    let (head, rest) = document.split_at(begin);
    let mut items = Vec::new();
    let mut start = 0;
    let mut end = rest.len();
    let mut at = 0;
    for line in lines(rest) {
        if let Some(inner) = line.strip_prefix("- ") {
            // Others have numbers in messages, which count them all.
            if !FIELDS.iter().any(|field| inner.strip_prefix(field).is_some_and(|rest| rest.starts_with(':'))) {
                return None;
            }
            if at > start {
                items.push(&rest[start..at]);
            }
            start = at;
        } else if at == 0 {
            return None;
        } else if !line.starts_with([' ', '\n', '#']) {
            end = at;
            break;
        }
        at += line.len();
    }
    items.push(&rest[start..end]);
    let tail = &rest[end..];
    let outer = |line: &str| {
        matches!(line.trim_end(), "---" | "apiVersion: v1" | "kind: List" | "items:" | "metadata:" | "")
            || line.starts_with([' ', '#'])
    };
    let is_list = || head.lines().chain(tail.lines()).filter(|line| line.trim_end() == "kind: List").count() == 1;
    (head.lines().chain(tail.lines()).all(outer) && is_list()).then_some((head, items, tail))
}

/// The kind of an object whose fields begin their lines, behind `indent`; `None` if it can't be told.
fn kind<'t>(object: &'t str, indent: &str) -> Option<&'t str> {
    let mut kind = None;
    for (number, line) in lines(object).enumerate() {
        let line = line.strip_suffix('\n').unwrap_or(line);
        let line = match (number, indent.is_empty()) {
            (0, false) => line.strip_prefix("- ")?,
            (0, true) if line.trim_end() == "---" => continue,
            _ => match line.strip_prefix(indent) {
                Some(line) => line,
                // Less indented than the fields: nothing but space and remarks may be.
                None if line.trim_start().is_empty() || line.trim_start().starts_with('#') => continue,
                None => return None,
            },
        };
        if line.is_empty() || line.starts_with([' ', '#']) {
            continue;
        }
        let (field, value) = line.split_once(':')?;
        if !FIELDS.contains(&field) {
            return None;
        }
        if field == "kind" {
            let value = value.strip_prefix(' ')?.trim();
            let plain = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric());
            // A second one would be an error, and is to be seen.
            if !plain || kind.replace(value).is_some() {
                return None;
            }
        }
    }
    kind
}

/// The lines of a text, each with its end.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut start = 0;
    let ends = memchr_iter(b'\n', text.as_bytes()).map(|end| end + 1).chain([text.len()]);
    ends.map(move |end| &text[std::mem::replace(&mut start, end)..end]).filter(|line| !line.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is left of a text without its pods.
    fn without_pods(text: &str) -> Option<String> {
        excerpt(text, |outline| outline.kind != "Pod")
    }

    const POD: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n";
    const POLICY: &str = "kind: NetworkPolicy\nmetadata: { name: p }\n";

    #[test]
    fn documents_are_left_out_and_lines_stay() {
        let text = format!("# first\n{POD}---\n{POLICY}---\n{POD}# last\n---\n{POLICY}");
        let left = without_pods(&text).expect("there are pods");
        assert_eq!(left, format!("\n\n\n\n\n---\n{POLICY}\n\n\n\n\n\n---\n{POLICY}"));
        assert_eq!(excerpt(&text, |_| true), None);
    }

    #[test]
    fn items_of_a_list_are_left_out() {
        let item = |object: &str| {
            let indented: String = object.lines().map(|line| format!("  {line}\n")).collect();
            indented.replacen("  ", "- ", 1)
        };
        let (head, tail) = ("apiVersion: v1\nitems:\n", "kind: List\nmetadata:\n  resourceVersion: \"\"\n");
        let text = format!("{head}{}{}{}{tail}", item(POD), item(POLICY), item(POD));
        assert_eq!(without_pods(&text), Some(format!("{head}\n\n\n\n{}\n\n\n\n{tail}", item(POLICY))));
        let only = format!("{head}{}{tail}", item(POD));
        let left = without_pods(&only).expect("there is a pod");
        assert!(crate::read(&left, "test").is_whole() && crate::read(&left, "test").documents.is_empty());
    }

    /// Whatever a reader could take for something else than a pod is left to it.
    #[test]
    fn what_is_not_certain_is_read() {
        let texts = [
            "{ apiVersion: v1, kind: Pod, metadata: { name: a } }\n",
            "%YAML 1.2\n---\napiVersion: v1\nkind: Pod\n",
            "kind: Pod\r\nmetadata: { name: a }\r\n",
            "metadata: { name: a }\rkind: NetworkPolicy\n---\nkind: Pod\n",
            "kind: Pod\nkind: NetworkPolicy\n",
            "kind: Pod\n\"kind\": NetworkPolicy\n",
            "kind: Pod\n'kind': NetworkPolicy\n",
            "kind: Pod\n? kind\n: NetworkPolicy\n",
            "kind: Pod\n<<: { kind: NetworkPolicy }\n",
            "kind: Pod # or\n",
            "kind:\tPod\n",
            "kind:\n  Pod\n",
            "kind: &a Pod\n",
            "kind: !!str Pod\n",
            "kind: \"Pod\"\n",
            "metadata: \"\nkind: Pod\"\n",
            "--- { kind: NetworkPolicy }\n",
            "--- # kind\nkind: Pod\n",
            "...\nkind: Pod\n",
            " kind: Pod\n",
            "data: x\nkind: Pod\n",
            "items:\n- kind: Pod\nkind: List\n",
            "apiVersion: v1\nitems:\n- kind: Pod\n- null\nkind: List\n",
            "apiVersion: v1\nitems:\n- kind: Pod\n- x: 1\nkind: List\n",
            "apiVersion: v1\nitems:\n- kind: Pod\n kind: NetworkPolicy\nkind: List\n",
            "apiVersion: v1\nitems:\n- kind: Pod\n  metadata: { labels: &l { a: b } }\n- kind: NetworkPolicy\n  spec: *l\nkind: List\n",
            "apiVersion: v1\nitems:\n- kind: Pod\nkind: List\nkind: List\n",
            "apiVersion: v1\nitems:\n- kind: Pod\nkind: ConfigMapList\n",
            "apiVersion: v1\nitems:\n- kind: Pod\nkind: List\nitems:\n- kind: NetworkPolicy\n",
            "apiVersion: v1\nitems:\n  - kind: Pod\nkind: List\n",
            "apiVersion: v1\nitems:\n[ { kind: Pod } ]\nkind: List\n",
            "",
            "---",
        ];
        for text in texts {
            assert_eq!(without_pods(text), None, "{text:?}");
        }
    }
}
