//! Reads the parts of a manifest for the naive judge: one function per type of the API, and nothing cleverer than the API text.
//!
//! Each gives [`Unreadable`] where the API server would refuse the part, because then nobody can say what was meant.

use std::net::IpAddr;

use regex::Regex;
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Unreadable;

pub(crate) type Read<T> = Result<T, Unreadable>;

/// One requirement of a label selector; `matchLabels` entries are `In` with one value.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) key: String,
    pub(crate) operator: String,
    pub(crate) values: Vec<String>,
}

pub(crate) enum Peer {
    Selectors { namespaces: Option<Vec<Term>>, pods: Vec<Term> },
    Block(Block),
}

pub(crate) struct Block {
    pub(crate) cidr: Cidr,
    pub(crate) except: Vec<Cidr>,
}

pub(crate) enum Port {
    Any,
    Range(u16, u16),
    Named(String),
}

/// A network, by its first bits.
#[derive(Clone, Copy)]
pub(crate) struct Cidr {
    bits: u128,
    length: u32,
    v6: bool,
}

impl Cidr {
    pub(crate) fn contains(self, ip: IpAddr) -> bool {
        self.v6 == ip.is_ipv6() && leading(left_aligned(ip), self.length) == leading(self.bits, self.length)
    }

    fn is_strictly_inside(self, outer: Self) -> bool {
        self.v6 == outer.v6 && self.length > outer.length && leading(self.bits, outer.length) == leading(outer.bits, outer.length)
    }
}

/// The address with its first bit at the top, so that a prefix length means the same in both families.
fn left_aligned(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)) << 96,
        IpAddr::V6(ip) => u128::from(ip),
    }
}

fn leading(bits: u128, length: u32) -> u128 {
    if length == 0 { 0 } else { bits >> (128 - length) }
}

fn text(value: &Value) -> Read<String> {
    value.as_str().map(str::to_owned).ok_or(Unreadable)
}

/// An object all of whose fields are known.
fn object<'a>(value: &'a Value, fields: &[&str]) -> Read<&'a Map<String, Value>> {
    let map = value.as_object().ok_or(Unreadable)?;
    if map.keys().all(|key| fields.contains(&key.as_str())) { Ok(map) } else { Err(Unreadable) }
}

/// An optional list: `None` if it is absent, null or empty.
pub(crate) fn list(value: &Value) -> Read<Option<&Vec<Value>>> {
    match value {
        Value::Null => Ok(None),
        Value::Array(entries) if entries.is_empty() => Ok(None),
        Value::Array(entries) => Ok(Some(entries)),
        _ => Err(Unreadable),
    }
}

fn strings(value: &Value) -> Read<Vec<String>> {
    list(value)?.into_iter().flatten().map(text).collect()
}

pub(crate) fn address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// The namespace of a namespaced object; absent means `default`.
pub(crate) fn namespace(object: &Value) -> &str {
    match object["metadata"]["namespace"].as_str() {
        None | Some("") => "default",
        Some(name) => name,
    }
}

pub(crate) fn labels(object: &Value) -> Vec<(String, String)> {
    let map = object["metadata"]["labels"].as_object();
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned()))).collect()
}

/// The ports of a pod's containers that have a name: name, protocol, number.
pub(crate) fn named_ports(pod: &Value) -> Vec<(String, String, u16)> {
    let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
    let ports = containers.flat_map(|container| container["ports"].as_array().into_iter().flatten());
    ports
        .filter_map(|port| {
            let name = port["name"].as_str().filter(|name| !name.is_empty())?;
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            let number = u16::try_from(port["containerPort"].as_u64()?).ok()?;
            Some((name.to_owned(), protocol.to_owned(), number))
        })
        .collect()
}

/// A label selector; null is the empty one, which matches everything.
pub(crate) fn selector(value: &Value) -> Read<Vec<Term>> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    let map = object(value, &["matchLabels", "matchExpressions"])?;
    let mut terms = Vec::new();
    match map.get("matchLabels") {
        None | Some(Value::Null) => {}
        Some(labels) => {
            for (key, value) in labels.as_object().ok_or(Unreadable)? {
                terms.push(Term { key: key.clone(), operator: "In".into(), values: vec![text(value)?] });
            }
        }
    }
    for entry in list(map.get("matchExpressions").unwrap_or(&Value::Null))?.into_iter().flatten() {
        object(entry, &["key", "operator", "values"])?;
        let term = Term { key: text(&entry["key"])?, operator: text(&entry["operator"])?, values: strings(&entry["values"])? };
        let sound = match term.operator.as_str() {
            "In" | "NotIn" => !term.values.is_empty(),
            "Exists" | "DoesNotExist" => term.values.is_empty(),
            _ => false,
        };
        if !sound || term.key.is_empty() {
            return Err(Unreadable);
        }
        terms.push(term);
    }
    Ok(terms)
}

/// The fields of a rule: only our own kind has `http`.
pub(crate) fn rule(value: &Value, peers_field: &str, ours: bool) -> Read<()> {
    let known: &[&str] = if ours { &["http"] } else { &[] };
    object(value, &[known, &[peers_field, "ports"]].concat())?;
    Ok(())
}

/// One entry of `from` or `to`: a block, or at least one selector.
pub(crate) fn peer(value: &Value) -> Read<Peer> {
    let map = object(value, &["podSelector", "namespaceSelector", "ipBlock"])?;
    let given = |field: &str| map.get(field).filter(|value| !value.is_null());
    match (given("podSelector"), given("namespaceSelector"), given("ipBlock")) {
        (None, None, Some(value)) => {
            object(value, &["cidr", "except"])?;
            let cidr = network(&value["cidr"])?;
            let except = list(&value["except"])?.into_iter().flatten().map(network).collect::<Read<Vec<_>>>()?;
            if except.iter().all(|hole| hole.is_strictly_inside(cidr)) {
                Ok(Peer::Block(Block { cidr, except }))
            } else {
                Err(Unreadable)
            }
        }
        (None, None, None) | (_, _, Some(_)) => Err(Unreadable),
        (pods, namespaces, None) => Ok(Peer::Selectors {
            namespaces: namespaces.map(selector).transpose()?,
            pods: selector(pods.unwrap_or(&Value::Null))?,
        }),
    }
}

fn network(value: &Value) -> Read<Cidr> {
    let (ip, length) = value.as_str().and_then(|text| text.split_once('/')).ok_or(Unreadable)?;
    let ip: IpAddr = ip.parse().map_err(|_| Unreadable)?;
    let most = if ip.is_ipv6() { 128 } else { 32 };
    // `u32::from_str` would take a sign.
    if !length.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unreadable);
    }
    let length: u32 = length.parse().map_err(|_| Unreadable)?;
    if length > most {
        return Err(Unreadable);
    }
    Ok(Cidr { bits: left_aligned(ip), length, v6: ip.is_ipv6() })
}

/// One entry of `ports`: its protocol, TCP unless given, and which ports.
pub(crate) fn port(value: &Value) -> Read<(String, Port)> {
    let map = object(value, &["protocol", "port", "endPort"])?;
    let given = |field: &str| map.get(field).filter(|value| !value.is_null());
    let protocol = given("protocol").map_or(Ok("TCP".to_owned()), text)?;
    if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
        return Err(Unreadable);
    }
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or(Unreadable);
    let port = match (given("port"), given("endPort")) {
        (None, None) => Port::Any,
        (Some(Value::String(name)), None) if is_port_name(name) => Port::Named(name.clone()),
        (Some(first), None) => Port::Range(number(first)?, number(first)?),
        (Some(first), Some(last)) => Port::Range(number(first)?, number(last)?),
        (None, Some(_)) => return Err(Unreadable),
    };
    if matches!(port, Port::Range(first, last) if first > last) {
        return Err(Unreadable);
    }
    Ok((protocol, port))
}

/// IANA_SVC_NAME: at most 15 of `a-z0-9-`, at least one letter, no dash at either end nor two in a row.
fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// One item of `http` that can be read.
pub(crate) struct HttpItem {
    pub(crate) index: usize,
    method: Option<Regex>,
    path: Option<Regex>,
}

impl HttpItem {
    pub(crate) fn matches(&self, method: &str, path: &str) -> bool {
        let whole = |pattern: &Option<Regex>, text: &str| pattern.as_ref().is_none_or(|p| p.is_match(text));
        whole(&self.method, method) && whole(&self.path, path)
    }
}

/// The items of a rule's `http` that can be read.
pub(crate) fn http(rule: &Value) -> Vec<HttpItem> {
    let item = |index, value: &Value| -> Read<HttpItem> {
        let map = object(value, &["method", "path"])?;
        let pattern = |field: &str| match map.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => whole_match(value.as_str().ok_or(Unreadable)?).map(Some),
        };
        Ok(HttpItem { index, method: pattern("method")?, path: pattern("path")? })
    };
    let items = rule["http"].as_array().into_iter().flatten().enumerate();
    items.filter_map(|(index, value)| item(index, value).ok()).collect()
}

fn whole_match(pattern: &str) -> Read<Regex> {
    // By itself first: `a)|(b` would become a pattern by being put between parentheses.
    Regex::new(pattern).map_err(|_| Unreadable)?;
    Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(|_| Unreadable)
}
