//! Label selectors: `matchLabels` and `matchExpressions`.

use std::sync::Arc;

use sluice_policy::label::{Operator, Requirement, Selector};

use crate::diagnostic::{At, Report};
use crate::field::{Reading, Unreadable, list, mapping, only, text};
use crate::metadata::{check_label_value, labels};
use crate::syntax;
use crate::value::{Value, quoted};

/// Reads a selector. `{}` selects everything; any part that can't be read makes the whole unreadable, because each part narrows
/// it.
pub(crate) fn selector(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Selector> {
    let map = mapping(value, at, report)?;
    let mut answer = only(map, &["matchLabels", "matchExpressions"], &[], at, report);
    let mut requirements = Vec::new();
    if let Some(value) = map.get("matchLabels") {
        match labels(value, at.field("matchLabels", value.line), report) {
            Ok(labels) => requirements.extend(labels.iter().map(|(k, v)| Requirement {
                key: k.clone(),
                operator: Operator::In,
                values: vec![v.clone()],
            })),
            Err(Unreadable) => answer = Err(Unreadable),
        }
    }
    if let Some(value) = map.get("matchExpressions") {
        let at = at.field("matchExpressions", value.line);
        for (i, entry) in list(value, at, report)?.iter().enumerate() {
            match requirement(entry, at.index(i, entry.line), report) {
                Ok(requirement) => requirements.push(requirement),
                Err(Unreadable) => answer = Err(Unreadable),
            }
        }
    }
    answer.map(|()| Selector::new(requirements))
}

fn requirement(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Requirement> {
    let map = mapping(value, at, report)?;
    only(map, &["key", "operator", "values"], &[], at, report)?;
    let required = |name: &'static str, report: &mut Report| match map.get(name) {
        Some(value) => text(value, at.field(name, value.line), report).cloned(),
        None => {
            report.error(at.field(name, value.line), "missing", "a requirement has key, operator and, for In and NotIn, values");
            Err(Unreadable)
        }
    };
    let key = required("key", report)?;
    if !syntax::is_label_key(&key) {
        report.error(at.field("key", value.line), format!("{} is no label's key", quoted(&key)), "name a label");
        return Err(Unreadable);
    }
    let operator = match &*required("operator", report)? {
        "In" => Operator::In,
        "NotIn" => Operator::NotIn,
        "Exists" => Operator::Exists,
        "DoesNotExist" => Operator::DoesNotExist,
        other => {
            let message = format!("{} is no operator", quoted(other));
            report.error(at.field("operator", value.line), message, "use In, NotIn, Exists or DoesNotExist");
            return Err(Unreadable);
        }
    };
    let values = match map.get("values") {
        None => Vec::new(),
        Some(value) => values(value, at.field("values", value.line), report)?,
    };
    let here = at.field("values", value.line);
    match (operator, values.is_empty()) {
        (Operator::In | Operator::NotIn, true) => {
            report.error(here, "In and NotIn need values", "list at least one");
            Err(Unreadable)
        }
        (Operator::Exists | Operator::DoesNotExist, false) => {
            report.error(here, "Exists and DoesNotExist take no values", "leave values out");
            Err(Unreadable)
        }
        _ => Ok(Requirement { key, operator, values }),
    }
}

fn values(value: &Value, at: At<'_>, report: &mut Report) -> Reading<Vec<Arc<str>>> {
    let mut values = Vec::new();
    for (i, value) in list(value, at, report)?.iter().enumerate() {
        let at = at.index(i, value.line);
        let text = text(value, at, report)?;
        check_label_value(text, at, report)?;
        values.push(text.clone());
    }
    Ok(values)
}
