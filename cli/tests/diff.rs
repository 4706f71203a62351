//! `sluice diff`: what it prints, and that it finds every difference and no other.

#![expect(clippy::unwrap_used, reason = "a test that can't go on fails there")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use expect_test::{Expect, expect};
use sluice_cli::cluster::{Cluster, Names};
use sluice_cli::diff::Diff;
use sluice_cli::flow_line::{End, Question};
use sluice_policy::Protocol;

fn sluice(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sluice")).arg("diff").args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}exit {}\n", text(&output.stdout), text(&output.stderr), output.status.code().unwrap_or(-1))
}

/// `examples/NAME` without its expectations, and the same after `edit` of its policies.
fn versions(name: &str, edit: impl Fn(String) -> String) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name);
    for version in ["old", "new"] {
        let version = folder.path().join(version);
        fs::create_dir(&version).unwrap();
        fs::copy(example.join("cluster.yaml"), version.join("cluster.yaml")).unwrap();
        fs::copy(example.join("policy.yaml"), version.join("policy.yaml")).unwrap();
    }
    let policy = folder.path().join("new/policy.yaml");
    let before = fs::read_to_string(&policy).unwrap();
    let after = edit(before.clone());
    assert_ne!(before, after, "the edit finds nothing to edit");
    fs::write(policy, after).unwrap();
    folder
}

#[track_caller]
fn check(name: &str, edit: impl Fn(String) -> String, arguments: &[&str], expected: Expect) {
    let folder = versions(name, edit);
    expected.assert_eq(&sluice(&[&["old", "new"], arguments].concat(), folder.path()));
}

const DATABASE_PEER: &str =
    "  - from: [ { podSelector: { matchLabels: { tier: backend } } } ]\n    ports: [ { protocol: TCP, port: 5432 } ]";

fn open_the_database(policy: String) -> String {
    let more = "  - from: [ { podSelector: { matchLabels: { tier: backend } } }, { podSelector: { matchLabels: { tier: batch } } }, \
                { ipBlock: { cidr: 203.0.113.0/24 } } ]\n    ports: [ { protocol: TCP, port: 5432 } ]";
    let idle = "\n---\napiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: idle, namespace: app }\n\
                spec: { podSelector: { matchLabels: { tier: nobody } } }\n";
    policy.replace(DATABASE_PEER, more).replace("port: 8080 } ]\n  - to:", "port: 8081 } ]\n  - to:") + idle
}

#[test]
fn what_opens_comes_first_with_both_rules() {
    check(
        "three-tier",
        open_the_database,
        &[],
        expect![[r#"
        opens 1, closes 1

        opens
          app/cron, outside 203.0.113.0/24 → app/database   TCP 5432
            was deny   no ingress rule of NetworkPolicy app/database-policy
            is  allow  NetworkPolicy app/database-policy ingress[0]

        closes
          app/frontend → app/backend   TCP 8080
            was allow  NetworkPolicy app/frontend-policy egress[0]
            is  deny   no egress rule of NetworkPolicy app/frontend-policy

        policies
          changed NetworkPolicy app/database-policy
          changed NetworkPolicy app/frontend-policy
          added   NetworkPolicy app/idle   no pod that it selects is in the inventory
        exit 1
    "#]],
    );
}

#[test]
fn markdown_for_a_pull_request() {
    check(
        "three-tier",
        open_the_database,
        &["-o", "markdown"],
        expect![[r#"
        ### What this change does to the network

        **opens 1, closes 1**

        #### ⚠️ opens

        | from | to | ports | was | is |
        |---|---|---|---|---|
        | app/cron, outside 203.0.113.0/24 | app/database | TCP 5432 | deny: no ingress rule of NetworkPolicy app/database-policy | allow: NetworkPolicy app/database-policy ingress\[0\] |

        #### closes

        | from | to | ports | was | is |
        |---|---|---|---|---|
        | app/frontend | app/backend | TCP 8080 | allow: NetworkPolicy app/frontend-policy egress\[0\] | deny: no egress rule of NetworkPolicy app/frontend-policy |

        #### Policies

        - changed: NetworkPolicy app/database-policy
        - changed: NetworkPolicy app/frontend-policy
        - added: NetworkPolicy app/idle — no pod that it selects is in the inventory
        exit 1
    "#]],
    );
}

#[test]
fn a_port_that_is_now_read_closes_in_part() {
    let read = |policy: String| {
        policy.replace("    http:\n    - { method: GET, path: \"/api/.*\" }\n    - { method: POST, path: \"/api/submit\" }\n", "")
    };
    let folder = versions("http-rules", read);
    let closes = sluice(&["new", "old"], folder.path());
    expect![[r#"
        opens 0, closes 1

        closes
          production/frontend → production/backend   TCP 8080
            was allow  SluiceNetworkPolicy production/backend ingress[0]
            is  l7     requests judged by SluiceNetworkPolicy production/backend ingress[0]

        policies
          changed SluiceNetworkPolicy production/backend
        exit 1
    "#]]
    .assert_eq(&closes);
    let opens = sluice(&["old", "new"], folder.path());
    assert!(opens.starts_with("opens 1, closes 0\n"), "{opens}");
}

#[test]
fn requests_that_come_and_go_are_named() {
    let edit = |policy: String| policy.replace("POST, path: \"/api/submit\"", "DELETE, path: \"/api/users\"");
    check(
        "http-rules",
        edit,
        &[],
        expect![[r#"
        opens 0, closes 0, changes 1

        changes
          production/frontend → production/backend   TCP 8080
            was l7     requests judged by SluiceNetworkPolicy production/backend ingress[0]
            is  l7     requests judged by SluiceNetworkPolicy production/backend ingress[0]
                no longer allowed: POST /api/submit
                now allowed: DELETE /api/users

        policies
          changed SluiceNetworkPolicy production/backend
        exit 1
    "#]],
    );
}

#[test]
fn other_words_for_the_same_change_nothing() {
    let edit = |policy: String| {
        policy.replace("matchLabels: { tier: backend }", "matchExpressions: [ { key: tier, operator: In, values: [ backend ] } ]")
    };
    check(
        "three-tier",
        edit,
        &[],
        expect![["
        every flow is judged as before
        exit 0
    "]],
    );
    let useless = |policy: String| policy.replace(DATABASE_PEER, &format!("{DATABASE_PEER}\n{DATABASE_PEER}"));
    check(
        "three-tier",
        useless,
        &[],
        expect![[r#"
        every flow is judged as before

        policies
          changed NetworkPolicy app/database-policy   changes nothing
        exit 0
    "#]],
    );
}

#[test]
fn policies_alone_take_the_pods_of_the_other_version() {
    let folder = versions("three-tier", open_the_database);
    let whole = sluice(&["old", "new", "-o", "json"], folder.path());
    let alone = sluice(&["old", "new/policy.yaml", "-o", "json"], folder.path());
    assert_eq!(
        alone.replace("note: the new version has no pods: those of the old one are taken (or give --inventory PATH)\n", ""),
        whole
    );
    let given = sluice(
        &["--old", "old/policy.yaml", "--new", "new/policy.yaml", "--inventory", "old/cluster.yaml", "-o", "json"],
        folder.path(),
    );
    assert_eq!(given, whole);
    let none = sluice(&["old/policy.yaml", "new/policy.yaml"], folder.path());
    assert!(none.contains("--inventory") && none.ends_with("exit 2\n"), "{none}");
    let missing = sluice(&["old", "nowhere"], folder.path());
    assert!(missing.contains("error: nowhere: ") && missing.ends_with("exit 2\n"), "{missing}");
    let one = sluice(&["old"], folder.path());
    assert!(one.ends_with("exit 2\n"), "{one}");
}

#[test]
fn a_new_workload_says_how_open_it_is() {
    let folder = versions("three-tier", |policy| policy + "\n# as it was\n");
    let cluster = folder.path().join("new/cluster.yaml");
    let text = fs::read_to_string(&cluster).unwrap().replace("name: cron,", "name: import,");
    fs::write(&cluster, text.replace("tier: batch", "tier: import")).unwrap();
    expect![[r#"
        opens 0, closes 0; 1 workloads appear; 1 workloads vanish

        workloads (flows from and to them are not compared)
          + app/import: open in ingress, open in egress
          - app/cron
        exit 1
    "#]]
    .assert_eq(&sluice(&["old", "new"], folder.path()));
}

/// A policy that changes nothing says why.
#[test]
fn a_policy_without_effect_says_why() {
    let more = |policy: String| {
        let extra = |name: &str, tier: &str, more: &str| {
            format!(
                "\n---\napiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{ name: {name}, namespace: app }}\n\
                 spec: {{ podSelector: {{ matchLabels: {{ tier: {tier} }} }}, policyTypes: [Ingress]{more} }}\n"
            )
        };
        policy
            + &extra("audit", "database", ", enforcement: Audit, ingress: [ {} ]")
            + &extra("expired", "database", ", expires: \"2020-01-31T00:00:00Z\", ingress: [ {} ]")
            + &extra("nobody", "nobody", "")
            + &extra("nothing-new", "database", "")
            + &extra("new-pods", "import", "")
    };
    let folder = versions("three-tier", more);
    let cluster = folder.path().join("new/cluster.yaml");
    let text = fs::read_to_string(&cluster).unwrap().replace("name: cron,", "name: import,");
    fs::write(&cluster, text.replace("tier: batch", "tier: import")).unwrap();
    expect![[r#"
        opens 0, closes 0; 1 workloads appear; 1 workloads vanish

        workloads (flows from and to them are not compared)
          + app/import: isolated in ingress by SluiceNetworkPolicy app/new-pods, open in egress
          - app/cron

        policies
          added   SluiceNetworkPolicy app/audit   Audit: changes nothing that is enforced
          added   SluiceNetworkPolicy app/expired   expired: changes nothing
          added   SluiceNetworkPolicy app/new-pods   selects only workloads that one version has: not compared
          added   SluiceNetworkPolicy app/nobody   no pod that it selects is in the inventory
          added   SluiceNetworkPolicy app/nothing-new   changes nothing
        warning: SluiceNetworkPolicy app/expired: Expired at 2020-01-31T00:00:00Z: as if it were absent
        exit 1
    "#]]
    .assert_eq(&sluice(&["old", "new"], folder.path()));
}

/// A cluster at random: few labels, so that rules meet; a label of its own for each pod, so that each is a workload.
struct Random(fastrand::Rng);

impl Random {
    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.0.usize(..from.len())]
    }

    fn inventory(&mut self) -> String {
        let mut text = String::new();
        for namespace in ["a", "b"] {
            let team = self.pick(&["red", "blue"]);
            write!(text, "---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: {namespace}, labels: {{ team: {team} }} }}\n")
                .unwrap();
        }
        text.push_str(
            "---\napiVersion: v1\nkind: Node\nmetadata: { name: node-1 }\nspec: { podCIDRs: [ 10.244.0.0/24 ] }\n\
             status: { addresses: [ { type: InternalIP, address: 192.0.2.1 } ] }\n",
        );
        for pod in 0..6 {
            let (namespace, app, port) = (self.pick(&["a", "b"]), self.pick(&["web", "api"]), self.pick(&["80", "8080"]));
            write!(
                text,
                "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: p{pod}, namespace: {namespace}, labels: {{ app: {app}, id: p{pod} }} }}\n\
                 spec: {{ nodeName: node-1, containers: [ {{ name: c, ports: [ {{ name: web, containerPort: {port} }} ] }} ] }}\n\
                 status: {{ phase: Running, podIPs: [ {{ ip: 10.244.0.1{pod} }} ] }}\n"
            )
            .unwrap();
        }
        text
    }

    fn peer(&mut self) -> String {
        match self.0.u8(..5) {
            0 => format!("{{ podSelector: {{ matchLabels: {{ app: {} }} }} }}", self.pick(&["web", "api"])),
            1 => format!("{{ namespaceSelector: {{ matchLabels: {{ team: {} }} }} }}", self.pick(&["red", "blue"])),
            2 => "{ ipBlock: { cidr: 0.0.0.0/0, except: [ 10.0.0.0/8 ] } }".to_owned(),
            3 => format!("{{ ipBlock: {{ cidr: {} }} }}", self.pick(&["10.244.0.12/32", "10.244.0.8/29", "203.0.113.0/24"])),
            _ => "{ podSelector: {} }".to_owned(),
        }
    }

    fn rule(&mut self, side: &str) -> String {
        let peers = match self.0.u8(..4) {
            0 => String::new(),
            _ => format!("{side}: [ {} ], ", self.peer()),
        };
        let ports = match self.0.u8(..5) {
            0 => "",
            1 => "ports: [ { port: 80 } ]",
            2 => "ports: [ { port: web } ]",
            3 => "ports: [ { port: 443, endPort: 8080 } ]",
            _ => "ports: [ { protocol: UDP, port: 53 }, { port: 80 } ]",
        };
        format!("{{ {peers}{ports} }}")
    }

    fn policy(&mut self, name: usize) -> String {
        let namespace = self.pick(&["a", "b"]);
        let subject = self.pick(&[
            "{}",
            "{ matchLabels: { app: web } }",
            "{ matchExpressions: [ { key: app, operator: NotIn, values: [ web ] } ] }",
        ]);
        let types = self.pick(&["[Ingress]", "[Egress]", "[Ingress, Egress]"]);
        let (ingress, egress) = (self.rule("from"), self.rule("to"));
        let (kind, action) = match self.0.u8(..3) {
            0 => (
                "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy",
                self.pick(&["action: Deny, ", "", "http: [ { method: GET } ], "]),
            ),
            _ => ("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy", ""),
        };
        let list = |types: &str, word: &str, rule: &str| {
            if types.contains(word) {
                format!("  {}: [ {} ]\n", word.to_lowercase(), rule.replacen("{ ", &format!("{{ {action}"), 1))
            } else {
                String::new()
            }
        };
        format!(
            "---\n{kind}\nmetadata: {{ name: p{name}, namespace: {namespace} }}\nspec:\n  podSelector: {subject}\n  policyTypes: {types}\n{}{}",
            list(types, "Ingress", &ingress),
            list(types, "Egress", &egress)
        )
    }
}

const OUTSIDE: [&str; 4] = ["203.0.113.7", "10.9.9.9", "198.51.100.1", "203.0.114.1"];
const PORTS: [(Protocol, u16); 11] = [
    (Protocol::Tcp, 1),
    (Protocol::Tcp, 79),
    (Protocol::Tcp, 80),
    (Protocol::Tcp, 81),
    (Protocol::Tcp, 443),
    (Protocol::Tcp, 8080),
    (Protocol::Tcp, 8081),
    (Protocol::Tcp, 65535),
    (Protocol::Udp, 53),
    (Protocol::Udp, 80),
    (Protocol::Icmp, 0),
];

/// Whether a difference speaks of this end: by the pod's name, or by the words for what is outside.
fn names(ends: &[String], end: &End) -> bool {
    let End::Ip(ip) = end else { return ends.contains(&end.to_string()) };
    let inside = |list: &str| {
        list.split(", ").any(|net| net.parse::<ipnet::IpNet>().map_or(net.parse() == Ok(*ip), |net| net.contains(ip)))
    };
    ends.iter().any(|text| match text.strip_prefix("outside ") {
        _ if text == "the outside world" => true,
        Some(list) => match list.strip_prefix("0.0.0.0/0 but ") {
            Some(but) => !inside(but),
            None => inside(list),
        },
        None => false,
    })
}

#[test]
fn finds_every_difference_and_no_other() {
    let mut found = 0;
    for seed in 0..120 {
        let mut random = Random(fastrand::Rng::with_seed(seed));
        let inventory = random.inventory();
        let policies: Vec<String> = (0..5).map(|name| random.policy(name)).collect();
        let mut others = policies.clone();
        for _ in 0..random.0.usize(1..3) {
            let place = random.0.usize(..others.len());
            others[place] = random.policy(place);
        }
        // In a third of the cases a pod or a namespace changes too.
        let other_inventory = match seed % 6 {
            0 => inventory.replacen("app: web", "app: api", 1),
            1 => inventory.replacen("team: red", "team: blue", 1),
            _ => inventory.clone(),
        };
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: String| -> PathBuf {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let old = write("old.yaml", inventory + &policies.concat());
        let new = write("new.yaml", other_inventory + &others.concat());
        let (old, new) = Cluster::versions(sluice_crds::load(&[old]), sluice_crds::load(&[new]));
        let errors = old.errors().chain(new.errors());
        let errors: Vec<&str> = errors.filter(|error| !error.contains("http is spoken over TCP")).collect();
        assert!(errors.is_empty(), "{errors:?}");
        let diff = Diff::of(&old, &new, usize::MAX, |_, _| {});
        let pods: BTreeSet<_> = old.live_pods().cloned().collect();
        let pods = pods.into_iter().map(|pod| End::Pod(pod, None));
        let outside = OUTSIDE.map(|ip| End::Ip(ip.parse::<IpAddr>().unwrap()));
        let ends: Vec<End> = pods.chain(outside).collect();
        for (from, to) in ends.iter().flat_map(|from| ends.iter().map(move |to| (from, to))) {
            if from == to || matches!((from, to), (End::Ip(_), End::Ip(_))) {
                continue;
            }
            for (protocol, port) in PORTS {
                let question = Question { from: from.clone(), to: to.clone(), port, protocol, icmp: None, contents: None };
                let verdict = |cluster: &Cluster| cluster.verdict(&question, &Names::default()).unwrap().decision();
                let (was, is) = (verdict(&old), verdict(&new));
                let covering = diff.differences.iter().filter(|difference| {
                    let on_port = |range: &sluice_cli::reach::ports::PortRange| {
                        range.protocol == protocol && (range.first..=range.last).contains(&port)
                    };
                    difference.ports.ranges().iter().any(on_port) && names(&difference.from, from) && names(&difference.to, to)
                });
                let said: Vec<(&str, &str)> = covering.map(|d| (d.old.verdict, d.new.verdict)).filter(|(a, b)| a != b).collect();
                let expected: &[(&str, &str)] = if was == is { &[] } else { &[(was.as_str(), is.as_str())] };
                let lines =
                    || diff.differences.iter().map(|d| format!("{:?} -> {:?} on {}\n", d.from, d.to, d.on)).collect::<String>();
                assert_eq!(said, expected, "seed {seed}: {from} -> {to} {port}/{protocol}\n{}", lines());
                found += usize::from(was != is);
            }
        }
    }
    assert!(found > 1000, "only {found} differences: the cases are too tame");
}
