//! All HTTP and gRPC matches of a program, found by path; what else an item asks is looked at only where path and method match.

use std::cell::OnceCell;

use rustc_hash::FxHashMap;

use super::condition::{Holds, Prepared};
use super::pattern::{Matcher, Patterns};
use super::query::Query;
use super::{Condition, GrpcMatch, HttpMatch, HttpRequest, PathMatch};
use crate::source::{Action, L7};

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
    /// Lines that deny what isn't gRPC, and lines that deny all HTTP because they are about another protocol.
    unless_grpc: Vec<u32>,
    every_request: Vec<u32>,
}

#[derive(Debug)]
struct Item {
    line: u32,
    index: u16,
    method: Matcher,
    path: Matcher,
    /// What most items don't ask.
    more: Option<Box<More>>,
}

#[derive(Debug)]
struct More {
    /// Of a Deny: what can't be told holds.
    deny: bool,
    grpc: bool,
    host: Option<Matcher>,
    headers: Box<[Prepared]>,
    query: Box<[Prepared]>,
}

/// What was read of a request, once it was asked.
#[derive(Default)]
struct Facts {
    is_grpc: OnceCell<bool>,
    query: OnceCell<Query>,
}

/// A line that matches a request, and the first of its items that does, by the index in the manifest; `None`: the line denies
/// whatever is not of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) line: u32,
    pub(crate) item: Option<u16>,
}

impl HttpIndex {
    /// The L7 part of each line, in the order of the lines, and what it does with what it matches.
    pub(crate) fn new<'a>(lines: impl Iterator<Item = Option<(&'a L7, Action)>>) -> Self {
        let mut patterns = Patterns::default();
        let mut index = Self::default();
        for (line, part) in (0..).zip(lines) {
            let Some((l7, action)) = part else { continue };
            let deny = action == Action::Deny;
            match l7 {
                L7::Http(items) => items.iter().for_each(|item| index.push(Item::http(line, item, deny, &mut patterns))),
                L7::Grpc(items) => {
                    items.iter().for_each(|item| index.push(Item::grpc(line, item, deny, &mut patterns)));
                    index.unless_grpc.extend(deny.then_some(line));
                }
                L7::Tls(_) => index.every_request.extend(deny.then_some(line)),
                // Its lines read nothing.
                L7::Dns(_) => {}
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
            Matcher::Any | Matcher::Suffix(_) => self.anywhere.push(number),
            Matcher::Exact(text) => self.exact.entry(bytes(text)).or_default().push(number),
            Matcher::OneOf(texts) => texts.iter().for_each(|text| self.exact.entry(bytes(text)).or_default().push(number)),
            Matcher::Prefix(prefix) | Matcher::Below(prefix) => self.by_prefix.entry(bytes(prefix)).or_default().push(number),
            Matcher::Regex(pattern) if pattern.prefix.is_empty() => self.anywhere.push(number),
            Matcher::Regex(pattern) => self.by_prefix.entry(bytes(&pattern.prefix)).or_default().push(number),
        }
        self.items.push(item);
    }

    /// The lines that match `request`, ascending, each once.
    pub(crate) fn hits(&self, request: &HttpRequest<'_>) -> Vec<Hit> {
        let facts = Facts::default();
        let path = request.path.as_bytes();
        let beginnings = self.lengths.iter().map_while(|length| path.get(..*length));
        let by_prefix = beginnings.filter_map(|beginning| self.by_prefix.get(beginning));
        let numbers = by_prefix.chain(self.exact.get(path)).chain([&self.anywhere]).flatten();
        let mut found: Vec<u32> = numbers
            .copied()
            .filter(|number| {
                let item = &self.items[*number as usize];
                item.method.matches(request.method)
                    && item.path.matches(request.path)
                    && item.more.as_ref().is_none_or(|more| more.matches(request, &facts))
            })
            .collect();
        found.sort_unstable();
        let mut hits: Vec<Hit> = found
            .into_iter()
            .map(|number| {
                let item = &self.items[number as usize];
                Hit { line: item.line, item: Some(item.index) }
            })
            .collect();
        let others = self.every_request.len() + self.unless_grpc.len();
        if others > 0 {
            let unless_grpc = self.unless_grpc.iter().filter(|_| !facts.is_grpc(request));
            hits.extend(self.every_request.iter().chain(unless_grpc).map(|line| Hit { line: *line, item: None }));
            // The sort keeps items of one line in their order.
            hits.sort_by_key(|hit| hit.line);
        }
        hits.dedup_by_key(|hit| hit.line);
        hits
    }
}

impl Item {
    fn http(line: u32, item: &HttpMatch, deny: bool, patterns: &mut Patterns) -> Self {
        let HttpMatch { index, method, path, host, headers, query } = item;
        let asks = host.is_some() || !headers.is_empty() || !query.is_empty();
        let path = match path {
            None => Matcher::Any,
            Some(PathMatch::Regex(pattern)) => patterns.matcher(Some(pattern)),
            Some(PathMatch::Exact(path)) => Matcher::Exact((&**path).into()),
            Some(PathMatch::Prefix(path)) => match path.strip_suffix('/').unwrap_or(path) {
                "" => Matcher::Prefix("/".into()),
                path => Matcher::Below(path.into()),
            },
        };
        let more = asks.then(|| {
            let host = host.as_ref().map(|host| patterns.host(host));
            Box::new(More { deny, grpc: false, host, headers: prepared(headers, patterns), query: prepared(query, patterns) })
        });
        Self { line, index: *index, method: patterns.matcher(method.as_ref()), path, more }
    }

    fn grpc(line: u32, item: &GrpcMatch, deny: bool, patterns: &mut Patterns) -> Self {
        let path = match (&item.service, &item.method) {
            (None, None) => Matcher::Any,
            (Some(service), None) => Matcher::Below(format!("/{service}").into()),
            (Some(service), Some(method)) => Matcher::Exact(format!("/{service}/{method}").into()),
            // A call has two segments, so this is its method.
            (None, Some(method)) => Matcher::Suffix(format!("/{method}").into()),
        };
        let headers = prepared(&item.metadata, patterns);
        let more = More { deny, grpc: true, host: None, headers, query: Box::default() };
        Self { line, index: item.index, method: Matcher::Any, path, more: Some(Box::new(more)) }
    }
}

fn prepared(conditions: &[Condition], patterns: &mut Patterns) -> Box<[Prepared]> {
    conditions.iter().map(|condition| Prepared::new(condition, patterns)).collect()
}

impl More {
    fn matches(&self, request: &HttpRequest<'_>, facts: &Facts) -> bool {
        if self.grpc && !facts.is_grpc(request) {
            return false;
        }
        let of_host = self.host.iter().map(|host| match request.host.strip_suffix('.').unwrap_or(request.host) {
            // A server that is told no name may be any.
            "" => Holds::Unknown,
            name => Holds::from_bool(host.matches(name)),
        });
        let of_headers = self.headers.iter().map(|condition| condition.of_fields(request.fields));
        let of_query = self.query.iter().map(|condition| facts.query(request).holds(condition));
        of_host.chain(of_headers).chain(of_query).all(|holds| holds.suffices(self.deny))
    }
}

impl Facts {
    fn is_grpc(&self, request: &HttpRequest<'_>) -> bool {
        *self.is_grpc.get_or_init(|| request.grpc_call().is_some())
    }

    fn query(&self, request: &HttpRequest<'_>) -> &Query {
        self.query.get_or_init(|| Query::new(request.query))
    }
}
