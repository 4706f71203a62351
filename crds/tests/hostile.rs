//! Texts that mean harm: nothing panics, nothing costs more than its length.

use std::fmt::Write;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sluice_crds::{Limits, Manifests, lower_document, read, read_within};
use sluice_policy::source::Object;

/// Reads and lowers all of `text`, as the controller would.
fn take(text: &str) -> (Manifests, Vec<Object>) {
    let manifests = read(text, "hostile.yaml");
    let objects = manifests
        .documents
        .iter()
        .flat_map(|document| {
            let lowered = lower_document(document);
            // The texts for people must be made without panic as well.
            lowered.diagnostics.iter().for_each(|d| drop(d.to_string()));
            lowered.object
        })
        .collect();
    manifests.errors.iter().for_each(|e| drop(e.to_string()));
    (manifests, objects)
}

const REAL: &str = r#"apiVersion: sluice.dev/v1alpha1
kind: SluiceNetworkPolicy
metadata: { name: backend, namespace: production, labels: {app: x} }
spec:
  podSelector: { matchLabels: { app: backend } }
  policyTypes: [Ingress, Egress]
  ingress:
  - from:
    - podSelector: { matchExpressions: [ { key: app, operator: In, values: [a, b] } ] }
      namespaceSelector: {}
    - ipBlock: { cidr: 10.0.0.0/8, except: [ 10.1.0.0/16 ] }
    ports: [ { protocol: TCP, port: 8080 }, { port: http }, { port: 80, endPort: 90 } ]
    http:
    - { method: GET,  path: "/api/.*" }
    - { method: POST, path: "/api/submit" }
  - action: Deny
    from: [ { ipBlock: { cidr: 10.9.0.0/16 } } ]
  egress:
  - to: [ { podSelector: &p { matchLabels: { app: db } } }, { podSelector: *p } ]
---
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: { name: web, namespace: production, labels: { app: web, version: "1.10" } }
  spec:
    nodeName: n1
    containers: [ { name: main, ports: [ { name: http, containerPort: 8080 } ] } ]
  status: { phase: Running, podIP: 10.1.1.1, podIPs: [ { ip: 10.1.1.1 }, { ip: "fd00::1" } ] }
- apiVersion: v1
  kind: Node
  metadata: { name: n1 }
  spec: { podCIDRs: [ 10.1.0.0/16 ] }
  status: { addresses: [ { type: InternalIP, address: 172.18.0.2 } ] }
- { apiVersion: v1, kind: Namespace, metadata: { name: production } }
- { apiVersion: v1, kind: Service, metadata: { name: s }, spec: { ports: [ { port: 80 } ] } }
"#;

#[test]
fn the_text_that_is_mutated_below_is_sound() {
    let (manifests, objects) = take(REAL);
    assert!(manifests.is_whole(), "{:?}", manifests.errors);
    assert_eq!((manifests.documents.len(), objects.len()), (5, 4));
}

proptest! {
    // A failing text is printed; nothing is written beside the sources.
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}") {
        take(&text);
    }

    #[test]
    fn any_text_of_yaml_signs_is_answered(text in "[-:?*&!|>'\"\\[\\]{}#,@%\\\\ \n\tab0<~.]{0,200}") {
        take(&text);
    }

    /// Bytes changed, cut out and doubled in a real manifest: it is read or reported, and what is read isolates whom it selects.
    #[test]
    fn a_damaged_manifest_is_answered(
        edits in prop::collection::vec((0usize..REAL.len(), 0u8..3, any::<u8>()), 1..8),
    ) {
        let mut bytes = REAL.as_bytes().to_vec();
        for (at, what, byte) in edits {
            let at = at.min(bytes.len() - 1);
            match what {
                0 => bytes[at] = byte,
                1 => { bytes.remove(at); }
                _ => bytes.insert(at, b" \n-:{}[]\"'&*!"[usize::from(byte) % 13]),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        take(&text);
    }

    #[test]
    fn a_manifest_cut_off_anywhere_is_answered(end in 0usize..REAL.len()) {
        take(&REAL[..end]);
    }
}

/// Time that a test's machine may be slower by than the one where a bound was measured.
const PATIENCE: Duration = Duration::from_secs(20);

fn within(what: &str, text: &str) -> Manifests {
    let start = Instant::now();
    let (manifests, _) = take(text);
    let took = start.elapsed();
    eprintln!("{what}: {} bytes in {took:?}: {:?}", text.len(), manifests.errors.first().map(ToString::to_string));
    assert!(took < PATIENCE, "{what} took {took:?}");
    manifests
}

#[test]
fn what_grows_is_stopped() {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..20 {
        let _ = writeln!(laughs, "a{i}: &a{i} [{}]", vec![format!("*a{}", i - 1); 10].join(", "));
    }
    let errors = within("billion laughs", &laughs).errors;
    assert!(errors[0].message.contains("aliases that grow"), "{errors:?}");

    let mut merges = String::from("a0: &a0 {k: v}\n");
    for i in 1..5000 {
        let _ = writeln!(merges, "a{i}: &a{i}\n  <<: *a{}\n  k{i}: v", i - 1);
    }
    let errors = within("merge keys that grow", &merges).errors;
    assert!(errors[0].message.contains("aliases that grow"), "{errors:?}");

    let errors = within("a value that holds itself", "a: &a [*a]").errors;
    assert_eq!(errors.len(), 1);
}

#[test]
fn depth_is_bounded() {
    for (what, text) in [
        ("lists in flow", "[".repeat(100_000)),
        ("mappings in flow", "{a: ".repeat(100_000)),
        ("lists in block", "- ".repeat(100_000)),
        ("complex keys", "? ".repeat(100_000)),
        ("mappings in block", (0..2000).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>()),
    ] {
        let errors = within(what, &text).errors;
        assert!(!errors.is_empty(), "{what} was taken");
    }
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let depth = Limits::default().depth;
    assert!(read(&deep(depth), "x").errors[0].message.contains("where an object"), "as deep as allowed");
    assert!(read(&deep(depth + 1), "x").errors[0].message.contains("nested more than"), "one deeper");
}

#[test]
fn size_is_bounded() {
    let limits = Limits { bytes: 100, ..Limits::default() };
    let errors = read_within(&"#".repeat(101), "big.yaml", limits).errors;
    assert_eq!(errors[0].to_string(), "big.yaml: 101 bytes, and the limit is 100: split it");
}

#[test]
fn long_texts_cost_their_length() {
    let million = 1_000_000;
    within("one long word", &"x".repeat(million));
    within("one long line of words", &"x ".repeat(million / 2));
    within("one long quoted text", &format!("a: \"{}\"", "x\\n".repeat(million / 3)));
    within("one long block", &format!("a: |\n{}", "  x\n".repeat(million / 4)));
    within("many documents", &"---\na: b\n".repeat(million / 9));
    within("many broken documents", &"---\na: [\n".repeat(million / 9));
    within("many comments", &"# x\n".repeat(million / 4));
    within("many keys", &(0..million / 10).map(|i| format!("k{i}: v\n")).collect::<String>());
    within("many entries", &"- a\n".repeat(million / 4));
    within("many keys in flow", &format!("{{{}}}", (0..million / 10).map(|i| format!("k{i}: v,")).collect::<String>()));
    within("many anchors", &(0..million / 20).map(|i| format!("- &a{i} x\n- *a{i}\n")).collect::<String>());
    within("many merge keys", &"<<: {a: b}\n".repeat(million / 12));
    within("many blank lines", &"\n".repeat(million));
    within("many tabs", &"\t".repeat(million));
    within("many quotes", &"\"".repeat(million));
    within("many stars", &"*".repeat(million));
    within("many tags", &"!".repeat(million));
    within("many colons", &": ".repeat(million / 2));
    within("one long key", &format!("{}: v", "k".repeat(million)));
}

#[test]
fn a_regular_expression_of_ten_megabytes_costs_nothing() {
    let policy = |pattern: &str| {
        format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: SluiceNetworkPolicy\nmetadata: {{name: p}}\nspec:\n  ingress:\n  \
             - http:\n    - path: \"{pattern}\"\n    - path: /ok\n"
        )
    };
    let text = policy(&"(a|b)*".repeat(10_000_000 / 6));
    let start = Instant::now();
    let manifests = read(&text, "big.yaml");
    let reading = start.elapsed();
    let start = Instant::now();
    let lowered = lower_document(&manifests.documents[0]);
    assert!(start.elapsed() < Duration::from_millis(500), "lowering took {:?} after {reading:?}", start.elapsed());
    let message = lowered.diagnostics[0].to_string();
    assert!(message.starts_with("big.yaml:7: SluiceNetworkPolicy p: spec.ingress[0].http[0].path: "), "{message}");
    assert!(message.len() < 400, "the message repeats the pattern");
    let Some(Object::Policy(policy)) = lowered.object else { panic!("a policy is a policy") };
    let Some(sluice_policy::source::L7::Http(items)) = &policy.rules[0].l7 else { panic!("the rule stays about http") };
    assert_eq!(items.iter().map(|i| i.index).collect::<Vec<_>>(), [1], "the other item stands");
}

#[test]
fn a_hundred_thousand_pods_are_read_in_seconds() {
    let mut text = String::from("apiVersion: v1\nkind: List\nitems:\n");
    for i in 0..100_000u32 {
        let _ = write!(
            text,
            "- apiVersion: v1\n  kind: Pod\n  metadata:\n    name: web-{i}\n    namespace: shop\n    labels:\n      app: web\n      \
             pod-template-hash: \"{i}\"\n  spec:\n    nodeName: n{}\n    containers:\n    - name: main\n      image: web:1\n      ports:\n      \
             - name: http\n        containerPort: 8080\n        protocol: TCP\n  status:\n    phase: Running\n    podIPs:\n    - ip: 10.{}.{}.{}\n",
            i % 100,
            i >> 16,
            (i >> 8) & 255,
            i & 255,
        );
    }
    let start = Instant::now();
    let (manifests, objects) = take(&text);
    let took = start.elapsed();
    eprintln!("100,000 pods, {} MB: {took:?}", text.len() >> 20);
    assert!(manifests.is_whole());
    assert_eq!(objects.len(), 100_000);
    assert!(took < Duration::from_secs(60), "{took:?}");
}
