//! `icmp`, `fqdns` and `dns`, in the naive judge.

use std::net::IpAddr;

use serde_json::Value;

use super::l7::Says;
use super::read::{self, Read, Unreadable};
use super::{Case, Contents, Direction, Question, and, any, has_address, port_matches};

/// Whether a rule's ports match, or its messages of ICMP: it is enough that one of the two does.
pub(super) fn place_matches(case: &Case<'_>, rule: &Value, ours: bool) -> Read<bool> {
    let ports = read::list(&rule["ports"]);
    let given = |field: &str| ours && !rule[field].is_null();
    let contents: Vec<&str> = ["http", "grpc", "tls", "dns"].into_iter().filter(|kind| given(kind)).collect();
    if !given("icmp") {
        return match (ports, contents.as_slice()) {
            // Look-ups go to one port.
            (Ok(None), ["dns"]) => Ok(case.question.port == 53 && ["TCP", "UDP"].contains(&case.question.protocol)),
            (ports, _) => any(ports, |entry| port_matches(case, entry)),
        };
    }
    let messages = match read::list(&rule["icmp"]) {
        Ok(Some(entries)) => any(Ok(Some(entries)), |entry| message_matches(case, entry)),
        // Whatever was meant, it was about ICMP.
        _ if case.question.protocol == "ICMP" => Err(Unreadable),
        _ => Ok(false),
    };
    match ports {
        // Nobody can say which of the two was meant.
        Ok(None) if !contents.is_empty() => Ok(true),
        Ok(None) => messages,
        ports => or(any(ports, |entry| port_matches(case, entry)), messages),
    }
}

fn or(one: Read<bool>, two: Read<bool>) -> Read<bool> {
    if one == Ok(true) || two == Ok(true) { Ok(true) } else { Ok(one? || two?) }
}

fn message_matches(case: &Case<'_>, entry: &Value) -> Read<bool> {
    if case.question.protocol != "ICMP" {
        return Ok(false);
    }
    let fields = entry.as_object().ok_or(Unreadable)?;
    let (family, echo) = match case.question.to {
        IpAddr::V4(_) => ("IPv4", 8),
        IpAddr::V6(_) => ("IPv6", 128),
    };
    let (kind, code) = case.question.icmp.unwrap_or((echo, 0));
    let of_family = match entry["family"].as_str() {
        Some("IPv4" | "IPv6") => Ok(entry["family"] == family),
        _ => return Err(Unreadable),
    };
    let number = |field: &str, asked: u8| match &entry[field] {
        Value::Null => Ok(true),
        value if value.as_u64().is_some_and(|number| number <= 255) => Ok(*value == asked),
        _ => Err(Unreadable),
    };
    let kind_matches = number("type", kind);
    let code_matches = match (&entry["type"], kind_matches, &entry["code"]) {
        (_, _, Value::Null) => Ok(true),
        // A code means something only beside its type.
        (Value::Null, _, _) | (_, Err(Unreadable), _) => Err(Unreadable),
        _ => number("code", code),
    };
    and(read::known(fields, &["family", "type", "code"]), and(of_family, and(kind_matches, code_matches)))
}

/// Whether a peer is one by name.
pub(super) fn given(case: &Case<'_>, policy: &Value, entry: &Value) -> bool {
    case.direction == Direction::Egress && read::is_ours(policy) && !entry["fqdns"].is_null()
}

/// A peer by name.
pub(super) struct Fqdns {
    patterns: Vec<Vec<String>>,
    private: bool,
    pub(super) check: bool,
}

impl Fqdns {
    pub(super) fn read(entry: &Value) -> Read<Self> {
        read::known(entry.as_object().ok_or(Unreadable)?, &["fqdns", "allowPrivate", "nameCheck"])?;
        let private = match &entry["allowPrivate"] {
            Value::Null => false,
            value => value.as_bool().ok_or(Unreadable)?,
        };
        let check = match entry["nameCheck"].as_str() {
            None if entry["nameCheck"].is_null() => true,
            Some("Enforce") => true,
            Some("AddressOnly") => false,
            _ => return Err(Unreadable),
        };
        let entries = read::list(&entry["fqdns"])?.ok_or(Unreadable)?;
        let patterns = entries.iter().map(|entry| pattern(entry, &["matchName", "matchPattern"])).collect::<Read<Vec<_>>>()?;
        Ok(Self { patterns, private, check })
    }

    fn matches(&self, name: &str) -> bool {
        self.patterns.iter().any(|pattern| pattern_matches(pattern, name))
    }

    /// Whether DNS says that one of the names has the other end's address. A deny takes addresses of the inside too.
    pub(super) fn is_told(&self, case: &Case<'_>, deny: bool) -> bool {
        let has_it = |name: &Value| {
            let ips = name["ips"].as_array().into_iter().flatten();
            ips.filter_map(read::address).any(|ip| ip == case.peer_ip)
        };
        let mut names = case.cluster.of_kind("Name").filter(|name| has_it(name));
        names.any(|name| self.matches(name["metadata"]["name"].as_str().unwrap_or_default()))
            && (deny || self.private || !is_inside(case))
    }

    /// Whether the connection is for one of the names. Without a name, or with an address for one, it may be for any.
    pub(super) fn server(&self, question: &Question<'_>, deny: bool) -> Says {
        let name = match question.contents {
            Contents::NotRead => return Says::Ask,
            Contents::Http(request) => Some(request.host.as_str()),
            Contents::Tls(name) => name,
            Contents::Other | Contents::Lookup(..) => None,
        };
        let name = name.map(|name| name.strip_suffix('.').unwrap_or(name).to_lowercase());
        // A Host has an address of IPv6 in brackets.
        let bare = |name: &str| name.trim_matches(['[', ']']).to_owned();
        let name = name.filter(|name| !name.is_empty() && bare(name).parse::<IpAddr>().is_err());
        Says::from(name.map_or(deny, |name| self.matches(&name)))
    }

    /// What the rule says of look-ups: its names may be asked for at the resolvers, or, of a deny, nowhere.
    pub(super) fn asked(&self, case: &Case<'_>, deny: bool) -> Says {
        let question = case.question;
        if question.port != 53 || !["TCP", "UDP"].contains(&question.protocol) || !(deny || is_resolver(case)) {
            return Says::No;
        }
        match question.contents {
            Contents::NotRead => Says::Ask,
            Contents::Lookup(name, _) => Says::from(self.matches(name) || (deny && name.contains('\\'))),
            _ => Says::from(deny),
        }
    }
}

impl From<bool> for Says {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes(Vec::new()) } else { Self::No }
    }
}

/// Where the server name or Host is looked at.
pub(super) fn is_checked(question: &Question<'_>) -> bool {
    question.protocol == "TCP" && [80, 443].contains(&question.port)
}

/// What is taken for QUIC, which nobody looks into unless told to.
pub(super) fn is_quic(question: &Question<'_>) -> bool {
    question.protocol == "UDP" && question.port == 443
}

/// Whether the destination is a pod that answers for the cluster's DNS.
pub(super) fn is_resolver(case: &Case<'_>) -> bool {
    let of_dns = |(key, value): &(String, String)| key == "k8s-app" && value == "kube-dns";
    case.destination.is_some_and(|pod| pod.namespace() == "kube-system" && read::labels(pod.manifest).iter().any(of_dns))
}

/// An item of `dns`.
pub(super) fn lookup(entry: &Value, name: &str, kind: u16) -> Read<bool> {
    let types = match read::list(&entry["types"])? {
        None if entry["types"].is_null() => Ok(true),
        None => Err(Unreadable),
        Some(types) => {
            let number = |word: &Value| match word.as_str() {
                Some("A") => Ok(1),
                Some("AAAA") => Ok(28),
                Some("TXT") => Ok(16),
                _ => Err(Unreadable),
            };
            types.iter().map(number).collect::<Read<Vec<u16>>>().map(|types| types.contains(&kind))
        }
    };
    let pattern = pattern(entry, &["matchName", "matchPattern", "types"]);
    // Who takes such a name apart at its dots reads another.
    let matches = pattern.and_then(|pattern| match pattern_matches(&pattern, name) {
        false if name.contains('\\') => Err(Unreadable),
        answer => Ok(answer),
    });
    and(matches, types)
}

/// Whether the other end is of the cluster, or its address is nobody's on the Internet.
fn is_inside(case: &Case<'_>) -> bool {
    const PRIVATE: [&str; 10] = [
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "224.0.0.0/3",
    ];
    let ip = case.peer_ip;
    let within = |network: &str| read::network(&Value::from(network)).is_ok_and(|network| network.contains(ip));
    let of_node = |node: &Value| {
        let ranges = node["spec"]["podCIDRs"].as_array().into_iter().flatten();
        has_address(node, ip) || ranges.filter_map(|range| read::network(range).ok()).any(|range| range.contains(ip))
    };
    PRIVATE.into_iter().any(within)
        || (ip.is_ipv6() && !within("2000::/3"))
        || case.cluster.of_kind("Node").any(of_node)
        || case.cluster.pods().any(|pod| pod.has_address(ip))
}

/// The labels of a name or a pattern. A name in another alphabet is written as DNS has it.
fn pattern(entry: &Value, known: &[&str]) -> Read<Vec<String>> {
    let fields = entry.as_object().ok_or(Unreadable)?;
    read::known(fields, known)?;
    let (written, wild) = match (&entry["matchName"], &entry["matchPattern"]) {
        (name, Value::Null) => (read::text(name)?, false),
        (Value::Null, pattern) => (read::text(pattern)?, true),
        _ => return Err(Unreadable),
    };
    let written = match (written.is_ascii(), wild) {
        (true, _) => written.to_lowercase(),
        (false, false) => idna::domain_to_ascii(&written).map_err(|_| Unreadable)?,
        (false, true) => return Err(Unreadable),
    };
    let labels: Vec<String> = written.strip_suffix('.').unwrap_or(&written).split('.').map(str::to_owned).collect();
    let sound = |(i, label): (usize, &String)| {
        let stars = label.matches('*').count();
        let letters = label.chars().all(|c| c.is_ascii_alphanumeric() || "-_*".contains(c));
        let deep = i == 0 && label == "**" && labels.len() > 1;
        letters && !label.is_empty() && (deep || !label.contains("**")) && (wild || stars == 0)
    };
    if labels.iter().enumerate().all(sound) && written.parse::<IpAddr>().is_err() { Ok(labels) } else { Err(Unreadable) }
}

fn pattern_matches(pattern: &[String], name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    match pattern {
        [all] if all == "*" => true,
        _ if name.contains('\\') => false,
        [deep, rest @ ..] if deep == "**" => labels.len() > rest.len() && all_match(rest, &labels[labels.len() - rest.len()..]),
        pattern => labels.len() == pattern.len() && all_match(pattern, &labels),
    }
}

fn all_match(pattern: &[String], labels: &[&str]) -> bool {
    pattern.iter().zip(labels).all(|(wanted, label)| {
        let expression = wanted.replace('*', "[^.]*");
        read::whole_match(&expression).is_ok_and(|expression| expression.is_match(label))
    })
}
