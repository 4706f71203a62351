//! All HTTP matches of a program, prepared so that one request is looked at once.

use std::cell::OnceCell;
use std::sync::Arc;

use regex_automata::meta::{BuildError, Regex};
use regex_automata::util::syntax;
use regex_automata::{MatchKind, PatternSet};

use super::{HttpMatch, HttpRequest};

/// The longest regular expression that is read.
pub const PATTERN_MAX_BYTES: usize = 4096;

/// The largest automaton of one pattern. `[a-z]{1,64}/[0-9]{1,9}` takes 15 KiB.
const PATTERN_NFA_BYTES: usize = 128 << 10;

/// The largest automaton of a group of patterns; more are split in several groups.
const GROUP_NFA_BYTES: usize = 2 << 20;

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
    if !matches!(Matcher::literal(pattern), Matcher::Regex(_)) {
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
        .syntax(syntax::Config::new().nest_limit(100))
        .configure(
            Regex::config()
                .match_kind(MatchKind::All)
                .nfa_size_limit(Some(nfa_bytes))
                .hybrid_cache_capacity(1 << 20)
                .which_captures(regex_automata::nfa::thompson::WhichCaptures::None),
        )
        .build_many(patterns)
        .map_err(Box::new)
}

/// One `method` or `path` of an item. Plain texts are compared, not run.
#[derive(Debug)]
enum Matcher {
    Any,
    Exact(Box<str>),
    Prefix(Box<str>),
    OneOf(Box<[Box<str>]>),
    /// The pattern's number in its [`PatternGroup`].
    Regex(usize),
    /// A pattern that doesn't compile: it should not have come here, and matches nothing.
    Never,
}

impl Matcher {
    /// The matcher of a pattern that needs no automaton; `Regex(0)` for one that does.
    fn literal(pattern: &str) -> Self {
        let plain = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_-~=&,:@!%'<>;\"".contains(&b));
        if pattern == ".*" {
            Self::Any
        } else if plain(pattern) {
            Self::Exact(pattern.into())
        } else if let Some(prefix) = pattern.strip_suffix(".*").filter(|prefix| plain(prefix)) {
            Self::Prefix(prefix.into())
        } else if pattern.split('|').all(plain) {
            Self::OneOf(pattern.split('|').map(Into::into).collect())
        } else {
            Self::Regex(0)
        }
    }
}

/// Patterns that are matched in one pass over the text.
#[derive(Debug, Default)]
struct PatternGroup {
    sources: Vec<Arc<str>>,
    parts: Vec<(usize, Regex)>,
}

impl PatternGroup {
    fn matcher(&mut self, pattern: Option<&Arc<str>>) -> Matcher {
        let Some(pattern) = pattern else {
            return Matcher::Any;
        };
        match Matcher::literal(pattern) {
            Matcher::Regex(_) => {}
            literal => return literal,
        }
        if pattern.len() > PATTERN_MAX_BYTES {
            return Matcher::Never;
        }
        let known = self.sources.iter().position(|s| s == pattern);
        Matcher::Regex(known.unwrap_or_else(|| {
            self.sources.push(pattern.clone());
            self.sources.len() - 1
        }))
    }

    /// Compiles what was collected: all in one automaton, or in halves where that would be too large.
    fn compile(&mut self) {
        let patterns: Vec<String> = self.sources.iter().map(|s| whole(s)).collect();
        self.compile_part(0, &patterns);
    }

    fn compile_part(&mut self, first: usize, patterns: &[String]) {
        if patterns.is_empty() {
            return;
        }
        match build(patterns, GROUP_NFA_BYTES) {
            Ok(regex) => self.parts.push((first, regex)),
            // One that can't be built alone is in no part, so it matches nothing.
            Err(_) if patterns.len() == 1 => {}
            Err(_) => {
                let (left, right) = patterns.split_at(patterns.len() / 2);
                self.compile_part(first, left);
                self.compile_part(first + left.len(), right);
            }
        }
    }

    fn matches(&self, text: &str) -> Box<[bool]> {
        let mut hits = vec![false; self.sources.len()].into_boxed_slice();
        for (first, regex) in &self.parts {
            let mut set = PatternSet::new(regex.pattern_len());
            regex.which_overlapping_matches(&regex_automata::Input::new(text), &mut set);
            for pattern in set.iter() {
                hits[first + pattern.as_usize()] = true;
            }
        }
        hits
    }
}

/// The HTTP matches of the lines of one program.
#[derive(Debug, Default)]
pub(crate) struct HttpIndex {
    methods: PatternGroup,
    paths: PatternGroup,
    /// By line; empty for lines without.
    items: Vec<Box<[Item]>>,
}

#[derive(Debug)]
struct Item {
    index: u16,
    method: Matcher,
    path: Matcher,
}

/// Collects the matches line by line.
#[derive(Debug, Default)]
pub(crate) struct HttpIndexBuilder(HttpIndex);

impl HttpIndexBuilder {
    pub(crate) fn push_line(&mut self, matches: &[HttpMatch]) {
        let index = &mut self.0;
        let items = matches.iter().map(|m| Item {
            index: m.index,
            method: index.methods.matcher(m.method.as_ref()),
            path: index.paths.matcher(m.path.as_ref()),
        });
        let items = items.collect();
        index.items.push(items);
    }

    pub(crate) fn build(mut self) -> HttpIndex {
        self.0.methods.compile();
        self.0.paths.compile();
        self.0
    }
}

/// One request against one index: each group of patterns is run at most once.
#[derive(Debug)]
pub(crate) struct Hits<'a> {
    index: &'a HttpIndex,
    request: &'a HttpRequest<'a>,
    methods: OnceCell<Box<[bool]>>,
    paths: OnceCell<Box<[bool]>>,
}

impl<'a> Hits<'a> {
    pub(crate) fn new(index: &'a HttpIndex, request: &'a HttpRequest<'a>) -> Self {
        Self { index, request, methods: OnceCell::new(), paths: OnceCell::new() }
    }

    /// The first item of `line` that matches the request, by its index in the manifest.
    pub(crate) fn first_item(&self, line: usize) -> Option<u16> {
        let items = self.index.items.get(line)?;
        items
            .iter()
            .find(|item| {
                check(&item.method, self.request.method, &self.index.methods, &self.methods)
                    && check(&item.path, self.request.path, &self.index.paths, &self.paths)
            })
            .map(|item| item.index)
    }
}

fn check(matcher: &Matcher, text: &str, group: &PatternGroup, hits: &OnceCell<Box<[bool]>>) -> bool {
    match matcher {
        Matcher::Any => true,
        Matcher::Exact(exact) => **exact == *text,
        Matcher::Prefix(prefix) => text.starts_with(&**prefix),
        Matcher::OneOf(texts) => texts.iter().any(|t| **t == *text),
        Matcher::Regex(number) => hits.get_or_init(|| group.matches(text)).get(*number).copied().unwrap_or(false),
        Matcher::Never => false,
    }
}
