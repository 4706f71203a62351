//! Conditions on header fields and on parameters of the query.
//!
//! A field may be sent twice, and a server may go by the first line, by the last, or by all of them together. Whoever sends
//! it chooses what the firewall sees and what the server sees, unless every such reading counts. So a test has three answers,
//! and what hangs on the reading allows nothing and denies everything:
//!
//! | the value | the test | in an allow | in a deny |
//! |---|---|---|---|
//! | matches in every reading | `Yes` | holds | holds |
//! | matches in one reading, not in another | `Unknown` | doesn't hold | holds |
//! | matches in no reading, or there is none | `No` | doesn't hold | doesn't hold |
//! | isn't UTF-8 | `Unknown` | doesn't hold | holds |
//!
//! `not` turns Yes and No around, and leaves Unknown what it is.
//!
//! Readings are each line by itself and, if there are several, all of them joined by commas (RFC 9110 section 5.3). A part of a
//! header's list (`red, blue`) is what a line of its own would be, so a match there makes No to Unknown, but takes nothing from
//! a value that matches as a whole.

use std::sync::Arc;

use super::pattern::{Pattern, Patterns};
use super::{Condition, HeaderFields, Test};

/// Whether something holds, as far as can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holds {
    No,
    Unknown,
    Yes,
}

impl Holds {
    pub(super) const fn from_bool(holds: bool) -> Self {
        if holds { Self::Yes } else { Self::No }
    }

    const fn negated(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Unknown => Self::Unknown,
            Self::Yes => Self::No,
        }
    }

    /// What is the same in all readings; Unknown where they differ.
    pub(super) fn in_all(readings: impl Iterator<Item = Self>) -> Self {
        readings.reduce(|one, other| if one == other { one } else { Self::Unknown }).unwrap_or(Self::Unknown)
    }

    /// Whether a rule that allows or denies may go by it.
    pub(super) fn suffices(self, deny: bool) -> bool {
        self == Self::Yes || (deny && self == Self::Unknown)
    }
}

/// A [`Condition`] made ready.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) name: Box<str>,
    test: Ready,
    not: bool,
}

#[derive(Debug)]
enum Ready {
    Exact(Box<str>),
    Regex(Arc<Pattern>),
    Present,
}

/// What was found under a name.
pub(super) enum Found<'a> {
    /// Texts, in their order; none if the name isn't there.
    Texts(&'a [&'a str]),
    /// The name is there, but not all of its values can be read.
    Unreadable,
}

impl Prepared {
    pub(super) fn new(condition: &Condition, patterns: &mut Patterns) -> Self {
        let (test, absent) = match &condition.test {
            Test::Exact(text) => (Ready::Exact((&**text).into()), false),
            Test::Regex(pattern) => (Ready::Regex(patterns.get(pattern)), false),
            Test::Present => (Ready::Present, false),
            Test::Absent => (Ready::Present, true),
        };
        Self { name: (&*condition.name).into(), test, not: condition.not != absent }
    }

    pub(super) fn of_fields(&self, fields: &dyn HeaderFields) -> Holds {
        let mut lines = Vec::new();
        fields.each(&self.name, &mut |value| lines.push(std::str::from_utf8(value.trim_ascii())));
        match lines.into_iter().collect::<Result<Vec<_>, _>>() {
            Ok(texts) => self.holds(&Found::Texts(&texts), true),
            Err(_) => self.holds(&Found::Unreadable, true),
        }
    }

    /// `lists`: whether commas separate what might have been sent in several lines.
    pub(super) fn holds(&self, found: &Found<'_>, lists: bool) -> Holds {
        let holds = match (&self.test, found) {
            (Ready::Present, Found::Texts(texts)) => Holds::from_bool(!texts.is_empty()),
            (Ready::Present, Found::Unreadable) => Holds::Yes,
            (_, Found::Unreadable) => Holds::Unknown,
            (Ready::Exact(exact), Found::Texts(texts)) => in_readings(texts, lists, |text| **exact == *text),
            (Ready::Regex(pattern), Found::Texts(texts)) => in_readings(texts, lists, |text| pattern.matches(text)),
        };
        if self.not { holds.negated() } else { holds }
    }

    /// The answer where the name can't be looked up among what is there; `found`: it is there all the same.
    pub(super) fn beside_unreadable_names(&self, found: bool) -> Holds {
        match self.test {
            Ready::Present if found => Holds::from_bool(!self.not),
            _ => Holds::Unknown,
        }
    }
}

fn in_readings(texts: &[&str], lists: bool, matches: impl Fn(&str) -> bool) -> Holds {
    let (mut all, mut any) = (!texts.is_empty(), false);
    let mut read = |text: &str| {
        let holds = matches(text);
        all &= holds;
        any |= holds;
    };
    texts.iter().for_each(|text| read(text));
    if texts.len() > 1 {
        read(&texts.join(", "));
        read(&texts.join(","));
    }
    let mut parts = texts.iter().flat_map(|text| text.split(',')).map(|part| part.trim_ascii());
    match (all, any) {
        (true, _) => Holds::Yes,
        (false, true) => Holds::Unknown,
        (false, false) if lists && parts.any(matches) => Holds::Unknown,
        (false, false) => Holds::No,
    }
}
