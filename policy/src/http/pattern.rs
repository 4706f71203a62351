//! Texts that are compared as a whole: plain ones, and regular expressions, which are run only where a text begins as the pattern
//! must.

use std::sync::{Arc, OnceLock};

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use rustc_hash::FxHashMap;

/// The longest regular expression that is read.
pub const PATTERN_MAX_BYTES: usize = 4096;

/// The largest automaton of one pattern. `[a-z]{1,64}/[0-9]{1,9}` takes 15 KiB.
const PATTERN_NFA_BYTES: usize = 128 << 10;

/// Why a pattern of a rule can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("has {length} bytes; a pattern may have {PATTERN_MAX_BYTES}")]
    TooLong { length: usize },
    #[error("would need more than {} KiB when compiled", PATTERN_NFA_BYTES >> 10)]
    TooLarge,
    #[error("is not a regular expression: {0}")]
    Syntax(String),
}

/// Whether `pattern` may stand in a rule: syntax, length and compiled size.
pub fn check_pattern(pattern: &str) -> Result<(), PatternError> {
    if pattern.len() > PATTERN_MAX_BYTES {
        return Err(PatternError::TooLong { length: pattern.len() });
    }
    if Matcher::plain(pattern).is_some() {
        return Ok(());
    }
    // Alone first: `a)|(b` is only well-formed inside the group that makes a pattern match as a whole.
    if let Err(error) = build(&[pattern.to_owned()], PATTERN_NFA_BYTES) {
        return Err(pattern_error(&error));
    }
    build(&[whole(pattern)], PATTERN_NFA_BYTES).map(|_| ()).map_err(|error| pattern_error(&error))
}

/// Whether `pattern` may stand in a rule as a host's.
pub fn check_host_pattern(pattern: &str) -> Result<(), PatternError> {
    check_pattern(pattern)?;
    check_pattern(&any_case(pattern))
}

/// `pattern` for letters of either case.
fn any_case(pattern: &str) -> String {
    format!("(?i){pattern}")
}

fn pattern_error(error: &BuildError) -> PatternError {
    if error.size_limit().is_some() {
        PatternError::TooLarge
    } else {
        let detail = error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string);
        // The last line says what; those before draw the pattern.
        PatternError::Syntax(detail.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned())
    }
}

fn whole(pattern: &str) -> String {
    format!(r"\A(?:{pattern})\z")
}

fn build(patterns: &[String], nfa_bytes: usize) -> Result<Regex, Box<BuildError>> {
    Regex::builder()
        .syntax(nesting())
        .configure(
            Regex::config()
                .nfa_size_limit(Some(nfa_bytes))
                .dfa_size_limit(Some(64 << 10))
                .hybrid_cache_capacity(64 << 10)
                .which_captures(regex_automata::nfa::thompson::WhichCaptures::None),
        )
        .build_many(patterns)
        .map_err(Box::new)
}

/// One `method`, `path` or `host` of an item. Plain texts are compared, not run.
#[derive(Clone, Debug)]
pub(super) enum Matcher {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    /// This path, without a `/` at its end, and all below it.
    Below(Box<str>),
    Suffix(Box<str>),
    OneOf(Box<[Box<str>]>),
    Regex(Arc<Pattern>),
}

/// Patterns by their source: equal ones are compiled once.
#[derive(Debug, Default)]
pub(super) struct Patterns(FxHashMap<Arc<str>, Arc<Pattern>>);

impl Patterns {
    pub(super) fn get(&mut self, source: &Arc<str>) -> Arc<Pattern> {
        self.0.entry(source.clone()).or_insert_with(|| Arc::new(Pattern::new(source.clone()))).clone()
    }

    /// The matcher of a pattern, or of none.
    pub(super) fn matcher(&mut self, pattern: Option<&Arc<str>>) -> Matcher {
        let Some(source) = pattern else { return Matcher::Any };
        Matcher::plain(source).unwrap_or_else(|| Matcher::Regex(self.get(source)))
    }

    /// The matcher of a host's pattern, for hosts in lower case.
    pub(super) fn host(&mut self, pattern: &str) -> Matcher {
        Matcher::Regex(self.get(&any_case(pattern).into()))
    }
}

/// A regular expression, compiled when a text first begins as it must.
#[derive(Debug)]
pub(super) struct Pattern {
    source: Arc<str>,
    /// What every match begins with: most rules of a service differ here, so most are never run.
    pub(super) prefix: Box<str>,
    /// `None`: it doesn't compile; it should not have come here, and matches nothing.
    automaton: OnceLock<Option<Automaton>>,
}

/// A pattern that must match a text as a whole.
#[derive(Debug)]
enum Automaton {
    /// Nearly all: one table look-up a byte.
    Table(Box<dense::DFA<Vec<u32>>>),
    /// Those whose table would be large, or that ask for word borders.
    General(Box<Regex>),
}

/// The largest table of one pattern.
const TABLE_BYTES: usize = 64 << 10;

impl Automaton {
    fn new(pattern: &str) -> Option<Self> {
        let whole = whole(pattern);
        let config = dense::Config::new()
            .start_kind(StartKind::Anchored)
            .dfa_size_limit(Some(TABLE_BYTES))
            .determinize_size_limit(Some(8 * TABLE_BYTES));
        let table = dense::Builder::new().syntax(nesting()).configure(config).build(&whole);
        match table {
            Ok(table) => Some(Self::Table(Box::new(table))),
            Err(_) => build(&[whole], PATTERN_NFA_BYTES).ok().map(|regex| Self::General(Box::new(regex))),
        }
    }

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Table(table) => {
                let input = Input::new(text).anchored(Anchored::Yes).earliest(true);
                // The table has no byte at which it gives up, so it answers every text.
                matches!(table.try_search_fwd(&input), Ok(Some(_)))
            }
            Self::General(regex) => regex.is_match(text),
        }
    }
}

fn nesting() -> syntax::Config {
    syntax::Config::new().nest_limit(100)
}

impl Pattern {
    fn new(source: Arc<str>) -> Self {
        let prefix = literal_prefix(&source).unwrap_or_default().into_boxed_str();
        Self { source, prefix, automaton: OnceLock::new() }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        let compile = || {
            let fits = self.source.len() <= PATTERN_MAX_BYTES;
            fits.then(|| Automaton::new(&self.source)).flatten()
        };
        text.starts_with(&*self.prefix) && self.automaton.get_or_init(compile).as_ref().is_some_and(|a| a.matches(text))
    }
}

/// The text that every match of `pattern` begins with, if that can be told.
fn literal_prefix(pattern: &str) -> Option<String> {
    if pattern.len() > PATTERN_MAX_BYTES {
        return None;
    }
    let hir = regex_syntax::parse(pattern).ok()?;
    let literals = Extractor::new().kind(ExtractKind::Prefix).extract(&hir);
    let common = literals.longest_common_prefix()?;
    // A prefix that ends inside a character is cut back to the last whole one.
    let valid = match std::str::from_utf8(common) {
        Ok(all) => all,
        Err(error) => std::str::from_utf8(&common[..error.valid_up_to()]).ok()?,
    };
    Some(valid.to_owned())
}

impl Matcher {
    /// The matcher of a pattern that is plain text in one of the usual forms; `None` for one that has to be run.
    fn plain(pattern: &str) -> Option<Self> {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-~=&,:@!%'<>;\"".contains(&b));
        if pattern == ".*" {
            Some(Self::Any)
        } else if plain(pattern) {
            Some(Self::Exact(pattern.into()))
        } else if let Some(prefix) = pattern.strip_suffix(".*").filter(|prefix| plain(prefix)) {
            Some(Self::Prefix(prefix.into()))
        } else if pattern.split('|').all(plain) {
            Some(Self::OneOf(pattern.split('|').map(Into::into).collect()))
        } else {
            None
        }
    }

    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Below(path) => text.strip_prefix(&**path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::OneOf(texts) => texts.iter().any(|t| **t == *text),
            Self::Regex(pattern) => pattern.matches(text),
        }
    }
}
