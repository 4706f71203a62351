//! `http`, `grpc`, `tls` and `dns` in the naive judge.
//!
//! Everything is answered with three values: yes, no, and nobody can say, because a part of the rule can't be read or because
//! servers read the request in different ways. Nobody can say: an allow doesn't match, a deny does.

use serde_json::Value;

use super::read::Ports;
use super::read::{self, Action, Read, Unreadable};
use super::{Case, Contents, Direction, Question, Request, and, names};

/// What a rule whose peers and ports match says of a flow.
pub(crate) enum Says {
    /// It matches, by one of these items; without any, by its peers and ports alone, or because it can't be read.
    Yes(Vec<String>),
    No,
    /// It hangs on contents that were not read.
    Ask,
}

impl Says {
    /// Both must match.
    pub(super) fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::No, _) | (_, Self::No) => Self::No,
            (Self::Ask, _) | (_, Self::Ask) => Self::Ask,
            (Self::Yes(one), Self::Yes(other)) => Self::Yes(one.into_iter().chain(other).collect()),
        }
    }
}

/// The kinds of contents that a rule is about: at most one in a sound rule.
fn kinds(rule: &Value) -> Vec<&'static str> {
    ["http", "grpc", "tls", "dns"].into_iter().filter(|kind| !rule[*kind].is_null()).collect()
}

/// Whether a rule judges look-ups, by items that can be read.
pub(super) fn is_about_lookups(rule: &Value) -> bool {
    kinds(rule) == ["dns"] && rule["icmp"].is_null() && read::list(&rule["dns"]).is_ok_and(|items| items.is_some())
}

/// Whether it is an allow about contents of which nothing can be read.
pub(super) fn is_void(rule: &Value, action: Action) -> bool {
    let list = |kind: &str| if kind == "tls" { &rule["tls"]["serverNames"] } else { &rule[kind] };
    let readable = |kind: &str| {
        let entries = read::list(list(kind)).ok().flatten();
        let whole = kind != "tls" || rule["tls"].as_object().is_some_and(|tls| tls.len() == 1);
        whole && entries.into_iter().flatten().any(|entry| is_readable(kind, entry))
    };
    action == Action::Allow
        && match kinds(rule)[..] {
            [] => false,
            [kind] => !readable(kind),
            _ => true,
        }
}

/// An item's place, and whether it matches.
type Answers = Vec<(String, Read<bool>)>;

pub(super) fn says(rule: &Value, action: Action, case: &Case<'_>) -> Says {
    let question = case.question;
    let deny = action == Action::Deny;
    let kind = match (&kinds(rule)[..], deny) {
        ([], _) => return Says::Yes(Vec::new()),
        // Nobody can say which of the two is meant.
        ([_, _, ..], true) => return Says::Yes(Vec::new()),
        ([_, _, ..], false) => return Says::No,
        // Look-ups are judged where they are asked, and at ports that are few.
        (["dns"], true) if case.direction == Direction::Ingress || !is_asked_at(rule, question) => return Says::Yes(Vec::new()),
        (["dns"], false) if case.direction == Direction::Ingress || !is_asked_at(rule, question) => return Says::No,
        // Nothing is read in ICMP.
        ([_], true) if !rule["icmp"].is_null() => return Says::Yes(Vec::new()),
        ([kind], _) => *kind,
    };
    let (list, place) = match kind {
        "tls" => (&rule["tls"]["serverNames"], "tls.serverNames".to_owned()),
        kind => (&rule[kind], kind.to_owned()),
    };
    // Of a deny, what it says is left out where it says nothing, or contradicts the rule's own ports.
    let entries = match read::list(list) {
        Ok(Some(entries)) if !deny || !names_another_protocol(rule) => entries,
        _ if deny => return Says::Yes(Vec::new()),
        _ => return Says::No,
    };
    if !deny && kind == "tls" && rule["tls"].as_object().is_none_or(|tls| tls.len() != 1) {
        return Says::No;
    }
    if question.protocol != "TCP" && kind != "dns" {
        return Says::No;
    }
    let items: Answers =
        entries.iter().enumerate().map(|(i, entry)| (format!("{place}[{i}]"), answer(kind, entry, question))).collect();
    if matches!(question.contents, Contents::NotRead) {
        let readable = entries.iter().any(|entry| is_readable(kind, entry));
        return if deny || readable { Says::Ask } else { Says::No };
    }
    if !is_spoken(kind, question.contents) {
        return if deny { Says::Yes(Vec::new()) } else { Says::No };
    }
    let matching: Vec<String> = items.into_iter().filter(|(_, answer)| answer.unwrap_or(deny)).map(|(place, _)| place).collect();
    if matching.is_empty() { Says::No } else { Says::Yes(matching) }
}

/// Whether one of the rule's ports that can be read is of another protocol than TCP.
fn names_another_protocol(rule: &Value) -> bool {
    let ports = read::list(&rule["ports"]).ok().flatten();
    let spoken: &[&str] = if rule["dns"].is_null() { &["TCP"] } else { &["TCP", "UDP"] };
    ports.into_iter().flatten().any(|entry| read::port(entry).is_ok_and(|port| !spoken.contains(&&*port.protocol)))
}

/// Whether look-ups at this port are judged: by its number it is 53, or one of a rule's.
fn is_asked_at(rule: &Value, question: &Question<'_>) -> bool {
    let here = |entry: &Value| {
        read::port(entry).is_ok_and(|port| {
            let few = match port.ports {
                Ok(Ports::Range(first, last)) => last - first < 16 && (first..=last).contains(&question.port),
                _ => false,
            };
            port.known.is_ok() && port.protocol == question.protocol && few
        })
    };
    match read::list(&rule["ports"]) {
        Ok(None) => question.port == 53 && ["TCP", "UDP"].contains(&question.protocol),
        Ok(Some(entries)) => entries.iter().any(here),
        Err(Unreadable) => false,
    }
}

/// Whether the contents are of the protocol that the rule is about, so that its items can be asked.
fn is_spoken(kind: &str, contents: Contents<'_>) -> bool {
    match (kind, contents) {
        ("http", Contents::Http(_)) => true,
        ("grpc", Contents::Http(request)) => call(request).is_some(),
        ("tls", Contents::Tls(name)) => name.is_some_and(|name| !name.is_empty()),
        ("dns", Contents::Lookup(..)) => true,
        _ => false,
    }
}

/// Service and method of what is certainly a gRPC call.
fn call(request: &Request) -> Option<(&str, &str)> {
    let types: Vec<&[u8]> = lines(request, "content-type");
    let [of_call] = types[..] else { return None };
    let of_call = std::str::from_utf8(of_call).ok()?.split(';').next()?.trim().to_lowercase();
    let of_grpc = of_call == "application/grpc"
        || of_call
            .strip_prefix("application/grpc+")
            .is_some_and(|s| !s.is_empty() && s.chars().all(|c| c.is_ascii_alphanumeric()));
    match request.path.split('/').collect::<Vec<_>>()[..] {
        ["", service, method] if request.http2 && request.method == "POST" && of_grpc => {
            (!service.is_empty() && !method.is_empty()).then_some((service, method))
        }
        _ => None,
    }
}

fn answer(kind: &str, entry: &Value, question: &Question<'_>) -> Read<bool> {
    match (kind, question.contents) {
        ("http", Contents::Http(request)) => http(entry, request),
        ("grpc", Contents::Http(request)) => match call(request) {
            Some(call) => grpc(entry, call, request),
            None => Ok(false),
        },
        ("tls", Contents::Tls(Some(name))) => server_name(entry, name),
        ("dns", Contents::Lookup(name, kind)) => names::lookup(entry, name, kind),
        _ => Ok(false),
    }
}

/// Whether all of an item can be read, asked by way of a request that has no part which the answer could hang on.
fn is_readable(kind: &str, entry: &Value) -> bool {
    let plain = Request { method: "POST".into(), path: "/a.B/C".into(), host: "h".into(), http2: true, ..Request::default() };
    // What doesn't match must not hide what can't be read.
    let each = |field: &str| match (field, &entry[field]) {
        ("headers" | "metadata" | "query", list) => read::list(list).is_ok_and(|conditions| {
            conditions.into_iter().flatten().all(|condition| match field {
                "query" => of_query(condition, &plain).is_ok(),
                _ => of_header(condition, &plain).is_ok(),
            })
        }),
        _ => part(kind, field, entry, &plain).is_ok(),
    };
    let parts = |fields: &[&str]| fields.iter().all(|field| each(field));
    match kind {
        "http" => known(entry, HTTP).is_ok() && parts(HTTP),
        "grpc" => known(entry, GRPC).is_ok() && parts(GRPC),
        "dns" => names::lookup(entry, "a", 1).is_ok(),
        _ => server_name(entry, "a.b").is_ok(),
    }
}

const HTTP: &[&str] = &["method", "path", "pathType", "host", "headers", "query"];
const GRPC: &[&str] = &["service", "method", "metadata"];

fn known(entry: &Value, fields: &[&str]) -> Read<bool> {
    read::known(entry.as_object().ok_or(Unreadable)?, fields)
}

fn http(entry: &Value, request: &Request) -> Read<bool> {
    HTTP.iter().map(|field| part("http", field, entry, request)).fold(known(entry, HTTP), and)
}

fn grpc(entry: &Value, call: (&str, &str), request: &Request) -> Read<bool> {
    let as_request = Request { path: format!("/{}/{}", call.0, call.1), ..request.clone() };
    GRPC.iter().map(|field| part("grpc", field, entry, &as_request)).fold(known(entry, GRPC), and)
}

/// One field of an item.
fn part(kind: &str, field: &str, entry: &Value, request: &Request) -> Read<bool> {
    let value = &entry[field];
    match (kind, field) {
        ("http", "path") => path(entry, request),
        // `path` asks for it.
        ("http", "pathType") => Ok(true),
        ("grpc", "service") => {
            let name = read::text(value)?;
            let sound = name.split('.').all(is_identifier);
            if sound { Ok(request.path.split('/').nth(1) == Some(&name)) } else { Err(Unreadable) }
        }
        _ if value.is_null() => Ok(true),
        ("grpc", "method") => match read::text(value)?.as_str() {
            "*" => Ok(true),
            name if is_identifier(name) => Ok(request.path.split('/').nth(2) == Some(name)),
            _ => Err(Unreadable),
        },
        ("http", "method") => Ok(read::whole_match(&read::text(value)?)?.is_match(&request.method)),
        ("http", "host") => {
            let pattern = read::whole_match(&format!("(?i){}", read::text(value)?))?;
            match request.host.strip_suffix('.').unwrap_or(&request.host) {
                "" => Err(Unreadable),
                host => Ok(pattern.is_match(host)),
            }
        }
        (_, "query") => all(value, |condition| of_query(condition, request)),
        (_, _) => all(value, |condition| of_header(condition, request)),
    }
}

fn is_identifier(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && name.chars().next().is_some_and(|c| !c.is_ascii_digit())
}

fn path(entry: &Value, request: &Request) -> Read<bool> {
    let kind = match &entry["pathType"] {
        Value::Null => "Regex".to_owned(),
        word => read::text(word)?,
    };
    let path = match (&entry["path"], kind.as_str()) {
        (Value::Null, "Regex") => return Ok(true),
        (path, _) => read::text(path)?,
    };
    match kind.as_str() {
        "Regex" => Ok(read::whole_match(&path)?.is_match(&request.path)),
        "Exact" | "Prefix" if !is_canonical(&path) => Err(Unreadable),
        "Exact" => Ok(path == request.path),
        "Prefix" => {
            let wanted: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
            let given: Vec<&str> = request.path.split('/').skip(1).collect();
            Ok(request.path.starts_with('/') && given.starts_with(&wanted))
        }
        _ => Err(Unreadable),
    }
}

/// Whether a request's path, decoded, can be this one.
fn is_canonical(path: &str) -> bool {
    let escape = |part: &str| part.len() >= 2 && part.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    path.starts_with('/')
        && !path.contains("//")
        && !path.contains(['?', '#', ';', '\\'])
        && !path.split('%').skip(1).any(escape)
        && !path.split('/').any(|segment| segment == "." || segment == "..")
}

fn all(list: &Value, holds: impl Fn(&Value) -> Read<bool>) -> Read<bool> {
    read::list(list)?.into_iter().flatten().map(holds).fold(Ok(true), and)
}

fn lines<'a>(request: &'a Request, name: &str) -> Vec<&'a [u8]> {
    let of_name = request.headers.iter().filter(|(line, _)| line.to_lowercase() == name.to_lowercase());
    of_name.map(|(_, value)| value.trim_ascii()).collect()
}

fn of_header(condition: &Value, request: &Request) -> Read<bool> {
    let name = read::text(&condition["name"])?.to_lowercase();
    if name.is_empty() || name.starts_with(':') || name == "host" || name == "connection" {
        return Err(Unreadable);
    }
    let lines = lines(request, &name);
    let texts = lines.iter().map(|line| std::str::from_utf8(line).map(str::to_owned).map_err(|_| Unreadable)).collect();
    holds(condition, !lines.is_empty(), texts, true)
}

/// Whether a condition holds for a name that is there or not, with these texts.
fn holds(condition: &Value, there: bool, texts: Read<Vec<String>>, lists: bool) -> Read<bool> {
    known(condition, &["name", "exact", "regex", "present", "absent", "not"])?;
    let not = match &condition["not"] {
        Value::Null => false,
        value => value.as_bool().ok_or(Unreadable)?,
    };
    let given: Vec<&str> =
        ["exact", "regex", "present", "absent"].into_iter().filter(|test| !condition[*test].is_null()).collect();
    let answer = match given[..] {
        ["exact"] => {
            let wanted = read::text(&condition["exact"])?;
            in_every_reading(&texts?, lists, |text| text == wanted)?
        }
        ["regex"] => {
            let pattern = read::whole_match(&read::text(&condition["regex"])?)?;
            in_every_reading(&texts?, lists, |text| pattern.is_match(text))?
        }
        ["present"] if condition["present"] == true => there,
        ["absent"] if condition["absent"] == true => !there,
        _ => return Err(Unreadable),
    };
    Ok(answer != not)
}

/// A server takes the first of several, the last, any, or all with commas between; and may take a header's value apart again.
fn in_every_reading(texts: &[String], lists: bool, matches: impl Fn(&str) -> bool) -> Read<bool> {
    let mut readings = texts.to_vec();
    if texts.len() > 1 {
        readings.extend([texts.join(","), texts.join(", ")]);
    }
    let yes = readings.iter().filter(|reading| matches(reading)).count();
    if yes > 0 {
        return if yes == readings.len() { Ok(true) } else { Err(Unreadable) };
    }
    let in_part = texts.iter().any(|text| text.split(',').any(|part| matches(part.trim_ascii())));
    if lists && in_part { Err(Unreadable) } else { Ok(false) }
}

/// Some servers take `;` for `&`, and some leave `+` what it is.
fn of_query(condition: &Value, request: &Request) -> Read<bool> {
    let name = read::text(&condition["name"])?;
    if name.is_empty() {
        return Err(Unreadable);
    }
    let query = request.query.clone().unwrap_or_default();
    let mut answers = Vec::new();
    for separators in [&['&'][..], &['&', ';']] {
        for plus in ["%20", "%2B"] {
            let query = query.replace('+', plus);
            let mut values = Vec::new();
            let mut any_name = false;
            for parameter in query.split(separators).filter(|parameter| !parameter.is_empty()) {
                let (of, value) = parameter.split_once('=').unwrap_or((parameter, ""));
                match decode(of) {
                    Err(Unreadable) => any_name = true,
                    Ok(of) if of == name => values.push(decode(value)),
                    Ok(_) => {}
                }
            }
            let there = !values.is_empty();
            let asks_presence = !condition["present"].is_null() || !condition["absent"].is_null();
            let texts = values.into_iter().collect::<Read<Vec<_>>>();
            let answer = holds(condition, there, texts, false);
            answers.push(if any_name && !(asks_presence && there) { Err(Unreadable) } else { answer });
        }
    }
    if answers.iter().all(|answer| *answer == answers[0]) { answers[0] } else { Err(Unreadable) }
}

fn decode(text: &str) -> Read<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let digits = part.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit())).ok_or(Unreadable)?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| Unreadable)?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    let text = String::from_utf8(bytes).map_err(|_| Unreadable)?;
    if text.chars().any(|c| c < ' ' || c == '\u{7f}') { Err(Unreadable) } else { Ok(text) }
}

fn server_name(entry: &Value, asked: &str) -> Read<bool> {
    let wanted = read::text(entry)?.to_lowercase();
    let asked = asked.to_lowercase();
    let asked: Vec<&str> = asked.strip_suffix('.').unwrap_or(&asked).split('.').collect();
    let labels: Vec<&str> = wanted.split('.').collect();
    match labels[..] {
        ["*", ref rest @ ..] if !rest.is_empty() && rest.iter().all(|label| is_label(label)) => {
            Ok(asked.len() > rest.len() && asked.ends_with(rest) && asked[..asked.len() - rest.len()] != [""])
        }
        _ if labels.iter().all(|label| is_label(label)) && wanted.parse::<std::net::IpAddr>().is_err() => Ok(asked == labels),
        _ => Err(Unreadable),
    }
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}
