//! Labels, and the selectors that match them, as in Kubernetes' `labels` package.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The labels of a pod, namespace or node.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// What stands for a pod's service account among the labels by which pods are told apart. No label can be called so.
pub const SERVICE_ACCOUNT: &str = ":serviceAccount";

/// A label selector: the AND of its requirements. The empty selector matches everything.
///
/// `matchLabels` and `matchExpressions` of a manifest both become requirements (`k: v` is `k In [v]`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    pub requirements: Vec<Requirement>,
}

/// One condition on one label key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Requirement {
    pub key: Arc<str>,
    pub operator: Operator,
    /// Sorted and without duplicates; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<Arc<str>>,
}

/// | operator | label absent | label present |
/// |---|---|---|
/// | `In` | no | its value is listed |
/// | `NotIn` | **yes** | its value is not listed |
/// | `Exists` | no | yes |
/// | `DoesNotExist` | yes | no |
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

impl Selector {
    /// The selector `{}`: everything.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Requirements in canonical order, so that equal selectors compare equal.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let mut requirements: Vec<_> = requirements.into_iter().collect();
        for requirement in &mut requirements {
            requirement.values.sort();
            requirement.values.dedup();
        }
        requirements.sort();
        requirements.dedup();
        Self { requirements }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        self.requirements.iter().all(|r| r.matches(labels))
    }

    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

impl Requirement {
    pub fn equals(key: &str, value: &str) -> Self {
        Self { key: key.into(), operator: Operator::In, values: vec![value.into()] }
    }

    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator {
            Operator::In => value.is_some_and(|v| self.values.contains(v)),
            Operator::NotIn => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
        }
    }
}

impl std::fmt::Display for Selector {
    /// As `kubectl get -l` would take it: `app=web,tier in (a,b),!legacy`; the empty selector is `{}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("{}");
        }
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            let key = if &*r.key == SERVICE_ACCOUNT { "serviceAccount" } else { &*r.key };
            match (r.operator, r.values.as_slice()) {
                (Operator::In, [one]) => write!(f, "{key}={one}")?,
                (Operator::NotIn, [one]) => write!(f, "{key}!={one}")?,
                (Operator::In, many) => write!(f, "{key} in ({})", many.join(","))?,
                (Operator::NotIn, many) => write!(f, "{key} notin ({})", many.join(","))?,
                (Operator::Exists, _) => write!(f, "{key}")?,
                (Operator::DoesNotExist, _) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}
