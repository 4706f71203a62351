//! Reads the parts of a manifest for the naive judge: one function per type of the API, and nothing cleverer than the API text.
//!
//! Each gives [`Unreadable`] where the API server would refuse the part, because then nobody can say what was meant.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;

use regex::Regex;
use serde_json::{Map, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

pub(crate) type Read<T> = Result<T, Unreadable>;

/// One requirement of a label selector; `matchLabels` entries are `In` with one value.
#[derive(Clone, Debug)]
pub(crate) struct Term {
    pub(crate) key: String,
    pub(crate) operator: String,
    pub(crate) values: Vec<String>,
}

/// One entry of `from` or `to`, part by part.
pub(crate) struct Peer {
    /// Whether all of its fields are known.
    pub(crate) known: Read<bool>,
    pub(crate) what: Peers,
}

pub(crate) enum Peers {
    Selectors { namespaces: Option<Read<Vec<Term>>>, pods: Read<Vec<Term>>, accounts: Read<Accounts> },
    Nodes(Read<Vec<Term>>),
    Block { cidr: Read<Cidr>, except: Vec<Read<Cidr>> },
}

/// Names of service accounts.
pub(crate) enum Accounts {
    Any,
    These(Vec<String>),
}

impl Accounts {
    pub(crate) fn contains(&self, name: &String) -> bool {
        match self {
            Self::Any => true,
            Self::These(names) => names.contains(name),
        }
    }
}

/// One entry of `ports`, part by part.
pub(crate) struct Port {
    pub(crate) known: Read<bool>,
    pub(crate) protocol: String,
    pub(crate) ports: Read<Ports>,
}

pub(crate) enum Ports {
    Any,
    Range(u16, u16),
    Named(String),
}

/// What a rule does with what it matches.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Allow,
    Deny,
}

/// A network, by its first bits.
#[derive(Clone, Copy, PartialEq)]
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

pub(crate) fn text(value: &Value) -> Read<String> {
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

/// Whether `object` has no fields but these.
pub(crate) fn known(object: &Map<String, Value>, fields: &[&str]) -> Read<bool> {
    if object.keys().all(|key| fields.contains(&key.as_str())) { Ok(true) } else { Err(Unreadable) }
}

/// Whether a policy is of our kind, which has more fields.
pub(crate) fn is_ours(policy: &Value) -> bool {
    policy["kind"] == "SluiceNetworkPolicy" || is_clusters(policy)
}

/// Whether it is our kind for pods of any namespace.
pub(crate) fn is_clusters(policy: &Value) -> bool {
    policy["kind"] == "SluiceClusterNetworkPolicy"
}

/// What such a policy asks of its subjects' namespaces and labels: at least one of the two is said, and no field is unknown.
pub(crate) fn cluster_subject(policy: &Value) -> Read<(Vec<Term>, Vec<Term>)> {
    known(policy.as_object().ok_or(Unreadable)?, &["apiVersion", "kind", "metadata", "spec", "status"])?;
    spec(policy)?;
    let (namespaces, pods) = (&policy["spec"]["namespaceSelector"], &policy["spec"]["podSelector"]);
    if namespaces.is_null() && pods.is_null() {
        return Err(Unreadable);
    }
    Ok((selector(namespaces)?, selector(pods)?))
}

pub(crate) fn service_account(pod: &Value) -> String {
    pod["spec"]["serviceAccountName"].as_str().filter(|name| !name.is_empty()).unwrap_or("default").to_owned()
}

/// Whether `spec` has only known fields. An absent one is empty.
pub(crate) fn spec(policy: &Value) -> Read<bool> {
    let more: &[&str] = match is_ours(policy) {
        true if is_clusters(policy) => &["enforcement", "expires", "namespaceSelector"],
        true => &["enforcement", "expires"],
        false => &[],
    };
    match &policy["spec"] {
        Value::Null => Ok(true),
        spec => {
            known(spec.as_object().ok_or(Unreadable)?, &[more, &["podSelector", "policyTypes", "ingress", "egress"]].concat())
        }
    }
}

/// When a policy expires. The tests write such times in UTC alone.
pub(crate) fn expires(policy: &Value) -> Read<Option<&str>> {
    match &policy["spec"]["expires"] {
        Value::Null => Ok(None),
        _ if !is_ours(policy) => Ok(None),
        Value::String(at) if at.len() == 20 && at.as_bytes()[10] == b'T' && at.ends_with('Z') => Ok(Some(at)),
        _ => Err(Unreadable),
    }
}

/// Whether a rule has only known fields.
pub(crate) fn rule(value: &Value, peers_field: &str, ours: bool) -> Read<bool> {
    let more: &[&str] = if ours { &["action", "http", "grpc", "tls", "dns", "icmp"] } else { &[] };
    let map = value.as_object().ok_or(Unreadable)?;
    // Contents are never found in ICMP.
    if ours && !value["icmp"].is_null() && ["http", "grpc", "tls", "dns"].iter().any(|kind| !value[*kind].is_null()) {
        return Err(Unreadable);
    }
    known(map, &[more, &[peers_field, "ports"]].concat())
}

/// A rule's action. Any other word than Allow may have been meant to deny, and so may a slip for the field's name and what is no
/// mapping at all.
pub(crate) fn action(rule: &Value, ours: bool) -> Action {
    let allows = match rule {
        _ if !ours => true,
        Value::Null => true,
        Value::Object(fields) => match &rule["action"] {
            Value::Null => !fields.iter().any(|(name, word)| match name.split_once(':') {
                // `{action:Deny}`: the word is part of the name.
                Some((name, word)) => is_slip(name) && word.trim() != "Allow",
                None => name != "action" && is_slip(name) && word != "Allow",
            }),
            word => word == "Allow",
        },
        _ => false,
    };
    if allows { Action::Allow } else { Action::Deny }
}

/// Whether one letter more, less or other makes `action` of `name`, upper and lower case being the same.
fn is_slip(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let shorter = |word: &str| (0..word.len()).map(|i| [&word[..i], &word[i + 1..]].concat()).collect::<Vec<_>>();
    name.is_ascii()
        && (name == "action"
            || shorter("action").contains(&name)
            || shorter(&name).contains(&"action".to_owned())
            || (0..6).any(|i| name.len() == 6 && name[..i] == "action"[..i] && name[i + 1..] == "action"[i + 1..]))
}

/// One entry of `from` or `to`: a block, nodes, or at least one thing that is asked of pods.
pub(crate) fn peer(value: &Value, ours: bool) -> Read<Peer> {
    let map = value.as_object().ok_or(Unreadable)?;
    let more: &[&str] = if ours { &["serviceAccounts", "nodeSelector"] } else { &[] };
    let fields = [&["podSelector", "namespaceSelector", "ipBlock"], more].concat();
    let given = |field: &str| map.get(field).filter(|value| !value.is_null() && fields.contains(&field));
    let of_pods = [given("podSelector"), given("namespaceSelector"), given("serviceAccounts")];
    let what = match (given("ipBlock"), given("nodeSelector"), of_pods) {
        (Some(value), None, [None, None, None]) => block(value)?,
        (None, Some(value), [None, None, None]) => Peers::Nodes(selector(value)),
        (None, None, [None, None, None]) | (Some(_), ..) | (_, Some(_), _) => return Err(Unreadable),
        (None, None, [pods, namespaces, accounts]) => Peers::Selectors {
            namespaces: namespaces.map(selector),
            pods: selector(pods.unwrap_or(&Value::Null)),
            accounts: accounts.map_or(Ok(Accounts::Any), |value| {
                let names = strings(value)?;
                let sound = !names.is_empty() && names.iter().all(|name| !name.is_empty());
                if sound { Ok(Accounts::These(names)) } else { Err(Unreadable) }
            }),
        },
    };
    Ok(Peer { known: known(map, &fields), what })
}

/// A block, and what is carved out of it: smaller blocks within.
fn block(value: &Value) -> Read<Peers> {
    object(value, &["cidr", "except"])?;
    let cidr = network(&value["cidr"]);
    let inside = |hole: &Value| {
        let (hole, cidr) = (network(hole)?, cidr?);
        if hole.is_strictly_inside(cidr) { Ok(hole) } else { Err(Unreadable) }
    };
    let except = match list(&value["except"]) {
        Ok(holes) => holes.into_iter().flatten().map(inside).collect(),
        Err(Unreadable) => vec![Err(Unreadable)],
    };
    Ok(Peers::Block { cidr, except })
}

pub(crate) fn network(value: &Value) -> Read<Cidr> {
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
pub(crate) fn port(value: &Value) -> Read<Port> {
    let map = value.as_object().ok_or(Unreadable)?;
    let given = |field: &str| map.get(field).filter(|value| !value.is_null());
    let protocol = given("protocol").map_or(Ok("TCP".to_owned()), text)?;
    if !["TCP", "UDP", "SCTP"].contains(&protocol.as_str()) {
        return Err(Unreadable);
    }
    let number = |value: &Value| value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0).ok_or(Unreadable);
    let ports = match (given("port"), given("endPort")) {
        (None, None) => Ok(Ports::Any),
        (Some(Value::String(name)), None) if is_port_name(name) => Ok(Ports::Named(name.clone())),
        (Some(first), last) => match (number(first), number(last.unwrap_or(first))) {
            (Ok(first), Ok(last)) if first <= last => Ok(Ports::Range(first, last)),
            _ => Err(Unreadable),
        },
        (None, Some(_)) => Err(Unreadable),
    };
    Ok(Port { known: known(map, &["protocol", "port", "endPort"]), protocol, ports })
}

/// IANA_SVC_NAME: at most 15 of `a-z0-9-`, at least one letter, no dash at either end nor two in a row.
pub(crate) fn is_port_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

thread_local! {
    /// Patterns are few and questions many.
    static PATTERNS: RefCell<HashMap<String, Read<Regex>>> = RefCell::default();
}

pub(crate) fn whole_match(pattern: &str) -> Read<Regex> {
    let compile = || {
        // By itself first: `a)|(b` would become a pattern by being put between parentheses.
        Regex::new(pattern).map_err(|_| Unreadable)?;
        Regex::new(&format!(r"\A(?:{pattern})\z")).map_err(|_| Unreadable)
    };
    PATTERNS.with_borrow_mut(|patterns| patterns.entry(pattern.to_owned()).or_insert_with(compile).clone())
}
