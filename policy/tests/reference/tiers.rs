//! ClusterNetworkPolicy in the naive judge: the Admin tier before everything else, the Baseline tier where nobody isolates.
//!
//! | the API says | here |
//! |---|---|
//! | policies by priority, the smallest first, and rules in their order: the first that matches decides | [`judge`] |
//! | Accept and Deny are final; Pass leaves the rest of the tier out | [`judge`] |
//! | an unknown peer: Accept matches nothing, Deny and Pass deny all | [`decide`] |
//! | subjects and peers are pods; `nodes`, `networks`, `domainNames` are addresses | [`peer_matches`] |
//! | a policy whose subject, tier or priority can't be read is refused | [`rank`] |

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::l7::Says;
use super::read::{self, Read, Unreadable};
use super::{Answer, Case, Contents, Half, Pod, and, names, terms_match};

const ACCEPT: &str = "Accept";
const DENY: &str = "Deny";
const PASS: &str = "Pass";

/// What the policies of a tier say; `None`: nothing, or to ask further down.
pub(super) fn judge(case: &Case<'_>, tier: &str) -> Option<Half> {
    let policies = case.cluster.of_kind("ClusterNetworkPolicy");
    let ranked = policies.filter_map(|policy| Some((rank(policy, tier).ok()??, name(policy), policy)));
    let mut policies: Vec<_> = ranked.filter(|(.., policy)| selects(case, policy)).collect();
    policies.sort_by_key(|(priority, name, _)| (*priority, name.to_owned()));
    let (rules_field, ..) = case.direction.words();
    for (_, name, policy) in policies {
        let rules = match read::list(&policy["spec"][rules_field]) {
            Ok(rules) => rules.into_iter().flatten().collect(),
            Err(Unreadable) => return Some(half(Answer::Deny, format!("ClusterNetworkPolicy {name} {rules_field}"))),
        };
        for (i, rule) in Vec::<&Value>::into_iter(rules).enumerate() {
            let title = || format!("ClusterNetworkPolicy {name} {rules_field}[{i}]");
            match decide(case, rule) {
                // A rule by name allows the look-up of its names at the resolvers, too.
                None => match asked(case, rule) {
                    Says::Yes(_) => return Some(half(Answer::Allow, title())),
                    Says::Ask => return Some(half(Answer::L7, title())),
                    Says::No => {}
                },
                Some(PASS) => return None,
                Some(ACCEPT) => return Some(half(Answer::Allow, title())),
                Some(_) => return Some(half(Answer::Deny, title())),
            }
        }
    }
    None
}

fn half(answer: Answer, cause: String) -> Half {
    Half { answer, causes: [cause].into(), all: false }
}

fn name(policy: &Value) -> String {
    policy["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

/// The fields of a mapping that are given, if there are no others than `known`.
fn fields<'v>(value: &'v Value, known: &[&str]) -> Read<Map<String, Value>> {
    let map: &'v Map<String, Value> = value.as_object().ok_or(Unreadable)?;
    if !map.keys().all(|key| known.contains(&key.as_str())) {
        return Err(Unreadable);
    }
    Ok(map.iter().filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// A mapping of which exactly one field is given.
fn only_one(value: &Value, known: &[&str]) -> Read<(String, Value)> {
    let mut given = fields(value, known)?.into_iter();
    match (given.next(), given.next()) {
        (Some(entry), None) => Ok(entry),
        _ => Err(Unreadable),
    }
}

/// The priority of a policy of this tier. Unreadable: it is refused, whatever tier it may be of.
fn rank(policy: &Value, tier: &str) -> Read<Option<u64>> {
    fields(policy, &["apiVersion", "kind", "metadata", "spec", "status"])?;
    let spec = fields(&policy["spec"], &["tier", "priority", "subject", "ingress", "egress"])?;
    let given = spec.get("tier").and_then(Value::as_str).filter(|tier| ["Admin", "Baseline"].contains(tier)).ok_or(Unreadable)?;
    let priority = spec.get("priority").and_then(Value::as_u64).filter(|priority| *priority <= 1000).ok_or(Unreadable)?;
    subject_terms(spec.get("subject").ok_or(Unreadable)?)?;
    Ok((given == tier).then_some(priority))
}

type Terms = Vec<read::Term>;

/// What a subject, or a peer that is pods, asks of the namespace and of the pod.
fn subject_terms(value: &Value) -> Read<(Terms, Terms)> {
    pods_terms(only_one(value, &["namespaces", "pods"])?)
}

fn pods_terms((kind, value): (String, Value)) -> Read<(Terms, Terms)> {
    if kind == "namespaces" {
        return Ok((read::selector(&value)?, Vec::new()));
    }
    let pods = fields(&value, &["namespaceSelector", "podSelector"])?;
    let namespaces = read::selector(pods.get("namespaceSelector").unwrap_or(&Value::Null))?;
    Ok((namespaces, read::selector(pods.get("podSelector").ok_or(Unreadable)?)?))
}

fn is_one_of(case: &Case<'_>, pod: Pod<'_>, (namespaces, pods): &(Terms, Terms)) -> bool {
    terms_match(namespaces, &case.cluster.namespace_labels(pod.namespace())) && terms_match(pods, &read::labels(pod.manifest))
}

fn selects(case: &Case<'_>, policy: &Value) -> bool {
    subject_terms(&policy["spec"]["subject"]).is_ok_and(|terms| is_one_of(case, case.subject, &terms))
}

/// What an Accept by name says of a look-up.
fn asked(case: &Case<'_>, rule: &Value) -> Says {
    let question = case.question;
    let is_lookup = question.port == 53 && ["TCP", "UDP"].contains(&question.protocol) && names::is_resolver(case);
    let sound = rule["action"] == ACCEPT
        && fields(rule, &["name", "action", "to", "protocols"]).is_ok()
        && (rule["name"].is_null() || rule["name"].is_string());
    if !is_lookup || !sound || case.direction != super::Direction::Egress {
        return Says::No;
    }
    let texts = |list: &Value| -> Option<Vec<String>> {
        let list = list.as_array().filter(|list| !list.is_empty())?;
        list.iter().map(|text| text.as_str().filter(|text| is_domain_name(text)).map(str::to_owned)).collect()
    };
    let of_peer = |peer: &Value| only_one(peer, &["domainNames"]).ok().and_then(|(_, names)| texts(&names));
    let peers = rule["to"].as_array().into_iter().flatten();
    let patterns: Vec<String> = peers.filter_map(of_peer).flatten().collect();
    match question.contents {
        _ if patterns.is_empty() => Says::No,
        Contents::NotRead => Says::Ask,
        Contents::Lookup(name, _) => Says::from(patterns.iter().any(|pattern| name_matches(pattern, name))),
        _ => Says::No,
    }
}

/// The action of a rule that matches.
fn decide(case: &Case<'_>, rule: &Value) -> Option<&'static str> {
    let (_, peers_field, _) = case.direction.words();
    let given = fields(rule, &["name", "action", peers_field, "protocols"]);
    let action = [ACCEPT, DENY, PASS].into_iter().find(|word| rule["action"] == *word);
    let name = &rule["name"];
    let known = match (given, action) {
        (Ok(_), Some(_)) if name.is_null() || name.is_string() => Ok(true),
        _ => Err(Unreadable),
    };
    let accepts = action == Some(ACCEPT);
    let entries = |field: &str| read::list(&rule[field]).ok().flatten();
    let peers = entries(peers_field).map(|all| all.iter().map(|peer| peer_matches(case, peer, accepts)).collect::<Vec<_>>());
    let ports = match &rule["protocols"] {
        Value::Null => Some(vec![Ok(true)]),
        _ => entries("protocols").map(|all| all.iter().map(|entry| port_matches(case, entry)).collect()),
    };
    // A list that is empty or none can't be read.
    let parts = [peers.unwrap_or_else(|| vec![Err(Unreadable)]), ports.unwrap_or_else(|| vec![Err(Unreadable)])];
    let or = |answers: &Vec<Read<bool>>| {
        if answers.contains(&Ok(true)) { Ok(true) } else { answers.iter().find(|a| a.is_err()).copied().unwrap_or(Ok(false)) }
    };
    let matches = and(known, and(or(&parts[0]), or(&parts[1])));
    if accepts {
        return (matches == Ok(true)).then_some(ACCEPT);
    }
    if known.is_ok() && parts.iter().flatten().all(Result::is_ok) {
        return action.filter(|_| matches == Ok(true));
    }
    (matches != Ok(false)).then_some(DENY)
}

fn peer_matches(case: &Case<'_>, peer: &Value, accepts: bool) -> Read<bool> {
    let kinds: &[&str] = match case.direction {
        super::Direction::Ingress => &["namespaces", "pods"],
        super::Direction::Egress => &["namespaces", "pods", "nodes", "networks", "domainNames"],
    };
    let (kind, value) = only_one(peer, kinds)?;
    let texts = || -> Read<Vec<&str>> {
        let list = value.as_array().filter(|list| !list.is_empty()).ok_or(Unreadable)?;
        list.iter().map(|entry| entry.as_str().ok_or(Unreadable)).collect()
    };
    match kind.as_str() {
        "nodes" => {
            let terms = read::selector(&value)?;
            let mut nodes = case.cluster.of_kind("Node").filter(|node| terms_match(&terms, &read::labels(node)));
            Ok(nodes.any(|node| super::has_address(node, case.peer_ip)))
        }
        "networks" => {
            let networks: Read<Vec<_>> = texts()?.into_iter().map(|text| read::network(&Value::from(text))).collect();
            Ok(networks?.into_iter().any(|network| network.contains(case.peer_ip)))
        }
        "domainNames" => {
            let patterns = texts()?;
            if !accepts || !patterns.iter().all(|pattern| is_domain_name(pattern)) {
                return Err(Unreadable);
            }
            let names = case.cluster.of_kind("Name").filter(|name| names_address(name, case.peer_ip));
            Ok(names.into_iter().any(|known| patterns.iter().any(|pattern| name_matches(pattern, &name(known)))))
        }
        _ => {
            let terms = pods_terms((kind, value))?;
            Ok(case.peer.is_some_and(|pod| is_one_of(case, pod, &terms)))
        }
    }
}

fn names_address(known: &Value, ip: IpAddr) -> bool {
    known["ips"].as_array().into_iter().flatten().any(|text| read::address(text) == Some(ip))
}

fn labels_of(name: &str) -> Vec<String> {
    name.to_ascii_lowercase().trim_end_matches('.').split('.').map(str::to_owned).collect()
}

/// Label by label from the end; `*` in front is one label or more.
fn name_matches(pattern: &str, name: &str) -> bool {
    let (mut pattern, mut name) = (labels_of(pattern), labels_of(name));
    while let (Some(wanted), Some(given)) = (pattern.last(), name.last()) {
        if wanted == "*" {
            return true;
        }
        if wanted != given {
            return false;
        }
        pattern.pop();
        name.pop();
    }
    pattern.is_empty() && name.is_empty()
}

/// The pattern of the CRD: labels with dots between them, `*` for the first.
fn is_domain_name(written: &str) -> bool {
    let pattern = r"\A(\*|[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)(\.[a-zA-Z0-9]([-a-zA-Z0-9_]*[a-zA-Z0-9])?)+\.?\z";
    regex::Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(written))
}

fn port_matches(case: &Case<'_>, entry: &Value) -> Read<bool> {
    let (kind, value) = only_one(entry, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
    let question = case.question;
    if kind == "destinationNamedPort" {
        let name = value.as_str().filter(|name| read::is_port_name(name)).ok_or(Unreadable)?;
        let is_it = |(given, protocol, port): &(String, String, u16)| {
            given == name && protocol == question.protocol && *port == question.port
        };
        return Ok(case.destination.is_some_and(|pod| read::named_ports(pod.manifest).iter().any(is_it)));
    }
    let port = |value: Option<&Value>| {
        value.and_then(Value::as_u64).and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0).ok_or(Unreadable)
    };
    let (first, last) = match fields(&value, &["destinationPort"])?.get("destinationPort") {
        None => (0, u16::MAX),
        Some(value) => match only_one(value, &["number", "range"])? {
            (kind, number) if kind == "number" => (port(Some(&number))?, port(Some(&number))?),
            (_, range) => {
                let range = fields(&range, &["start", "end"])?;
                let (start, end) = (port(range.get("start"))?, port(range.get("end"))?);
                if start >= end {
                    return Err(Unreadable);
                }
                (start, end)
            }
        },
    };
    Ok(kind.to_uppercase() == question.protocol && (first..=last).contains(&question.port))
}
