//! A text of manifests without the objects that a question isn't about.
//!
//! Most of a large cluster's text are pods, and most of the time that reading takes goes into building them. Those that nobody
//! asks for can be told by their lines alone, if these are as `kubectl get -o yaml` and most people write them; everything else
//! is read, so what is left out here can only be what was asked to be left out.

/// An object that stands by itself in a text: its kind, and its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline<'t> {
    pub kind: &'t str,
    pub text: &'t str,
}

/// The fields of an object, of which an object that can be left out has no others.
const FIELDS: [&str; 5] = ["apiVersion", "kind", "metadata", "spec", "status"];

/// `text` with empty lines in the place of the objects that aren't `wanted`, so that all others keep their line numbers; `None`
/// if it is to be read as it is.
///
/// `wanted` is asked about those objects only whose kind is certain without parsing: documents, and items of a `List`, in block
/// style. What is left out isn't checked, not even as YAML.
pub(crate) fn excerpt(text: &str, wanted: impl Fn(Outline<'_>) -> bool) -> Option<String> {
    // A carriage return alone ends a line of YAML, and directives reach beyond a document's beginning.
    if text.contains('\r') || text.starts_with('%') || text.contains("\n%") {
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
    let unwanted = kind(object, indent).is_some_and(|kind| !wanted(Outline { kind, text: object }));
    if unwanted {
        left.extend(object.matches('\n'));
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
        let (document, next) = match text.find("\n---") {
            Some(end) => (&text[..=end], Some(&text[end + 1..])),
            None => (text, None),
        };
        rest = next;
        Some(document)
    })
}

/// A `List` in block style: what is before its items, the items from their dashes on, and what is behind them.
fn items(document: &str) -> Option<(&str, Vec<&str>, &str)> {
    let begin = document.find("\nitems:\n")? + "\nitems:\n".len();
    let (head, rest) = document.split_at(begin);
    let mut items = Vec::new();
    let mut start = 0;
    let mut end = rest.len();
    let mut at = 0;
    for line in rest.split_inclusive('\n') {
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
    for (number, line) in object.lines().enumerate() {
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
