//! All HTTP matches of a program, prepared: what is plain text is compared, and what must be run is run only where a text begins
//! as the pattern must.

use std::sync::{Arc, OnceLock};

use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input};
use regex_syntax::hir::literal::{ExtractKind, Extractor};
use rustc_hash::FxHashMap;

use super::{HttpMatch, HttpRequest};

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

/// One `method` or `path` of an item. Plain texts are compared, not run.
#[derive(Clone, Debug)]
enum Matcher {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    OneOf(Box<[Box<str>]>),
    Regex(Arc<Pattern>),
}

/// A regular expression, compiled when a text first begins as it must.
#[derive(Debug)]
struct Pattern {
    source: Arc<str>,
    /// What every match begins with: most rules of a service differ here, so most are never run.
    prefix: Box<str>,
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

    fn matches(&self, text: &str) -> bool {
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

    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::OneOf(texts) => texts.iter().any(|t| **t == *text),
            Self::Regex(pattern) => pattern.matches(text),
        }
    }
}

/// The HTTP matches of the lines of one program, found by what their paths begin with.
#[derive(Debug, Default)]
pub(crate) struct HttpIndex {
    /// In the order of lines, and of items in a line.
    items: Vec<Item>,
    /// Items by the whole path, or by what it begins with; numbers ascending.
    exact: FxHashMap<Box<[u8]>, Vec<u32>>,
    by_prefix: FxHashMap<Box<[u8]>, Vec<u32>>,
    /// The lengths that occur in `by_prefix`, ascending.
    lengths: Vec<usize>,
    /// Items whose path can begin with anything.
    anywhere: Vec<u32>,
}

#[derive(Debug)]
struct Item {
    line: u32,
    index: u16,
    method: Matcher,
    path: Matcher,
}

/// A line that matches a request, and the first of its items that does, by the index in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) line: u32,
    pub(crate) item: u16,
}

impl HttpIndex {
    /// The matches of each line, in the order of the lines. Equal patterns are compiled once.
    pub(crate) fn new<'a>(lines: impl Iterator<Item = &'a [HttpMatch]>) -> Self {
        let mut known: FxHashMap<Arc<str>, Arc<Pattern>> = FxHashMap::default();
        let mut matcher = |pattern: Option<&Arc<str>>| {
            let Some(source) = pattern else { return Matcher::Any };
            Matcher::plain(source).unwrap_or_else(|| {
                let pattern = known.entry(source.clone()).or_insert_with(|| Arc::new(Pattern::new(source.clone())));
                Matcher::Regex(pattern.clone())
            })
        };
        let mut index = Self::default();
        for (line, matches) in (0..).zip(lines) {
            for m in matches {
                let item = Item { line, index: m.index, method: matcher(m.method.as_ref()), path: matcher(m.path.as_ref()) };
                index.push(item);
            }
        }
        index.lengths = index.by_prefix.keys().map(|prefix| prefix.len()).collect();
        index.lengths.sort_unstable();
        index.lengths.dedup();
        index
    }

    fn push(&mut self, item: Item) {
        let number = u32::try_from(self.items.len()).expect("a program has fewer than 2^32 matches");
        let bytes = |text: &str| -> Box<[u8]> { text.as_bytes().into() };
        match &item.path {
            Matcher::Any => self.anywhere.push(number),
            Matcher::Exact(text) => self.exact.entry(bytes(text)).or_default().push(number),
            Matcher::OneOf(texts) => texts.iter().for_each(|text| self.exact.entry(bytes(text)).or_default().push(number)),
            Matcher::Prefix(prefix) => self.by_prefix.entry(bytes(prefix)).or_default().push(number),
            Matcher::Regex(pattern) if pattern.prefix.is_empty() => self.anywhere.push(number),
            Matcher::Regex(pattern) => self.by_prefix.entry(bytes(&pattern.prefix)).or_default().push(number),
        }
        self.items.push(item);
    }

    /// The lines that match `request`, ascending, each once.
    pub(crate) fn hits(&self, request: &HttpRequest<'_>) -> Vec<Hit> {
        let path = request.path.as_bytes();
        let beginnings = self.lengths.iter().map_while(|length| path.get(..*length));
        let by_prefix = beginnings.filter_map(|beginning| self.by_prefix.get(beginning));
        let numbers = by_prefix.chain(self.exact.get(path)).chain([&self.anywhere]).flatten();
        let mut found: Vec<u32> = numbers
            .copied()
            .filter(|number| {
                let item = &self.items[*number as usize];
                item.method.matches(request.method) && item.path.matches(request.path)
            })
            .collect();
        found.sort_unstable();
        let mut hits: Vec<Hit> = found
            .into_iter()
            .map(|number| {
                let item = &self.items[number as usize];
                Hit { line: item.line, item: item.index }
            })
            .collect();
        hits.dedup_by_key(|hit| hit.line);
        hits
    }
}
