//! Random policies, small and about the same few things, so that they meet.

use fastrand::Rng;

pub(super) const APPS: [&str; 3] = ["a", "b", "c"];
pub(super) const TEAMS: [&str; 2] = ["red", "blue"];
/// Names under which policies come, change and go.
pub(super) const NAMES: [&str; 5] = ["one", "two", "three", "four", "five"];

/// A policy `name` of namespace `shop`.
pub(super) fn policy(rng: &mut Rng, name: &str) -> String {
    if rng.u8(..100) < 65 { network_policy(rng, name) } else { sluice_policy(rng, name) }
}

fn network_policy(rng: &mut Rng, name: &str) -> String {
    let types = ["Ingress", "Egress", "Ingress, Egress"];
    let types = types[rng.usize(..types.len())];
    let mut spec = format!("podSelector: {}, policyTypes: [ {types} ]", selector(rng));
    for (kind, field, peers) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")] {
        if types.contains(kind) {
            let rules: Vec<String> = (0..rng.usize(..3)).map(|_| rule(rng, peers, "")).collect();
            spec += &format!(", {field}: [ {} ]", rules.join(", "));
        }
    }
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\nspec: {{ {spec} }}\n"
    )
}

fn sluice_policy(rng: &mut Rng, name: &str) -> String {
    let (field, peers) = if rng.bool() { ("ingress", "from") } else { ("egress", "to") };
    let kind = if field == "ingress" { "Ingress" } else { "Egress" };
    let rules: Vec<String> = (0..1 + rng.usize(..2))
        .map(|_| match rng.u8(..3) {
            0 => rule(rng, peers, "action: Deny, "),
            _ => {
                let peers = peer(rng, peers);
                format!("{{ {peers}ports: [ {{ protocol: TCP, port: 8080 }} ], http: [ {{ method: GET, path: \"/a.*\" }} ] }}")
            }
        })
        .collect();
    format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{ name: {name}, namespace: shop }}\n\
         spec: {{ podSelector: {}, policyTypes: [ {kind} ], {field}: [ {} ] }}\n",
        selector(rng),
        rules.join(", ")
    )
}

fn selector(rng: &mut Rng) -> String {
    match rng.u8(..4) {
        0 => "{}".to_owned(),
        1 => format!("{{ matchLabels: {{ team: {} }} }}", TEAMS[rng.usize(..TEAMS.len())]),
        _ => format!("{{ matchLabels: {{ app: {} }} }}", APPS[rng.usize(..APPS.len())]),
    }
}

/// `from: [ .. ], ` or nothing, which is everyone.
fn peer(rng: &mut Rng, field: &str) -> String {
    let peer = match rng.u8(..6) {
        0 => return String::new(),
        1 => "{ ipBlock: { cidr: 203.0.113.0/24 } }".to_owned(),
        2 => "{ ipBlock: { cidr: 10.1.0.0/30 } }, { ipBlock: { cidr: \"fd00:1::/125\", except: [ \"fd00:1::2/128\" ] } }"
            .to_owned(),
        3 => "{ namespaceSelector: {} }".to_owned(),
        _ => format!("{{ podSelector: {} }}", selector(rng)),
    };
    format!("{field}: [ {peer} ], ")
}

fn rule(rng: &mut Rng, peers: &str, action: &str) -> String {
    let ports = [
        "",
        "ports: [ { port: 80 } ]",
        "ports: [ { port: 80, endPort: 90 } ]",
        "ports: [ { protocol: UDP, port: 53 }, { port: http } ]",
        "ports: [ { protocol: UDP, port: 5000, endPort: 5999 }, { port: 90 } ]",
        "ports: [ { port: 8080 } ]",
    ];
    format!("{{ {action}{}{} }}", peer(rng, peers), ports[rng.usize(..ports.len())])
}
