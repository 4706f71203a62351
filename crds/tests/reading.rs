//! Texts to documents: what is an object, what is an error, and where.

use sluice_crds::value::{Node, Value};
use sluice_crds::{Document, read};

/// The value at a path such as `a.b.0`, of the only document.
fn value_at(text: &str, path: &str) -> Value {
    let manifests = read(text, "m.yaml");
    assert!(manifests.is_whole(), "{:?}", manifests.errors);
    let [document] = &manifests.documents[..] else { panic!("one document: {:?}", manifests.documents) };
    let mut value = &document.value;
    for step in path.split('.') {
        value = match &value.node {
            Node::List(list) => &list[step.parse::<usize>().expect("an index")],
            Node::Map(map) => &map.iter().find(|e| &*e.key == step).unwrap_or_else(|| panic!("no {step}")).value,
            other => panic!("{step} of {other:?}"),
        };
    }
    value.clone()
}

/// The errors of a text, as people see them.
fn errors(text: &str) -> Vec<String> {
    read(text, "m.yaml").errors.iter().map(ToString::to_string).collect()
}

fn names(documents: &[Document]) -> Vec<&str> {
    documents.iter().map(|d| d.value.get("metadata").and_then(|m| m.get("name")).and_then(Value::as_str).unwrap_or("?")).collect()
}

#[test]
fn values_are_what_kubectl_takes_them_for_and_know_their_lines() {
    let text = |s: &str| Node::String(s.into());
    let rows = [
        ("a: yes", "a", 1, Node::Bool(true)),
        ("a: \"yes\"", "a", 1, text("yes")),
        ("a: 'on'", "a", 1, text("on")),
        ("\n\na: !!str 80", "a", 3, text("80")),
        ("a: ! 80", "a", 1, text("80")),
        ("a: !!int \"80\"", "a", 1, Node::Int(80)),
        ("a:\n  b:\n  - x\n  - z", "a.b.1", 4, text("z")),
        ("{\"a\": {\"b\":\n [1,\n 2]}}", "a.b.1", 3, Node::Int(2)),
        ("{\"a\":\"\\/\\u003c\"}", "a", 1, text("/<")),
        ("{\n\t\"a\":\t\"b\"\n}", "a", 2, text("b")),
        ("{\"a\": \"\\ud83d\\ude00\"}", "a", 1, text("\u{1f600}")),
        ("a: |\n  x\n  y\n", "a", 2, text("x\ny\n")),
        ("yes: x", "true", 1, text("x")),
        ("80: x", "80", 1, text("x")),
        ("a: &x {b: c}\nd: *x", "d.b", 1, text("c")),
        ("a: &x {b: c, e: f}\nd: {<<: *x, e: g}", "d.b", 1, text("c")),
        ("a: &x {b: c, e: f}\nd: {<<: *x, e: g}", "d.e", 2, text("g")),
        ("d: {\"<<\": g}", "d.<<", 1, text("g")),
        ("\u{feff}a: b", "a", 1, text("b")),
        ("%YAML 1.1\n---\na: b", "a", 3, text("b")),
    ];
    for (written, path, line, node) in rows {
        let value = value_at(written, path);
        assert_eq!((value.line, value.node), (line, node), "{written:?}");
    }
}

#[test]
fn a_text_holds_many_documents_and_lists() {
    let manifests = read(
        "# nothing\n---\n---\n{apiVersion: v1, kind: Pod, metadata: {name: a}}\n---\napiVersion: v1\nkind: List\nitems:\n\
         - {apiVersion: v1, kind: Pod, metadata: {name: b}}\n- apiVersion: v1\n  kind: List\n  items:\n  - {apiVersion: v1, kind: Pod, metadata: {name: c}}\n\
         ---\n{apiVersion: v1, kind: PodList, items: [{metadata: {name: d}}]}\n---\n{apiVersion: v1, kind: List, items: null}\n...\n",
        "m.yaml",
    );
    assert!(manifests.is_whole(), "{:?}", manifests.errors);
    assert_eq!(names(&manifests.documents), ["a", "b", "c", "d"]);
    assert_eq!(manifests.documents.iter().map(|d| d.line).collect::<Vec<_>>(), [4, 9, 13, 15]);
    assert_eq!(manifests.documents[3].value.get("kind").and_then(Value::as_str), Some("Pod"));
}

#[test]
fn a_list_of_somebody_elses_kind_is_an_object() {
    let manifests = read("{apiVersion: example.com/v1, kind: AllowList, items: 5, metadata: {name: x}}", "m.yaml");
    assert!(manifests.is_whole());
    assert_eq!(names(&manifests.documents), ["x"]);
}

#[test]
fn errors_name_line_column_and_field() {
    let rows = [
        ("a: b\na: c", "m.yaml:2:1: the key \"a\" is written twice"),
        ("spec:\n  ingress:\n  - from: x\n    from: y", "m.yaml:4:5: spec.ingress[0]: the key \"from\" is written twice"),
        ("{\"a\": 1, \"a\": 2}", "m.yaml:1:10: the key \"a\" is written twice"),
        ("spec:\n  a: [", "m.yaml:3:1: spec.a[0]: "),
        ("spec:\n  a: b: c", "m.yaml:2:7: spec: mapping values are not allowed in this context"),
        ("a:\n\t- b", "m.yaml:2:"),
        ("a: \"x", "m.yaml:1:4: a: "),
        ("a: *x", "m.yaml:1:4: a: while parsing node, found unknown anchor"),
        ("? [a]\n: b", "m.yaml:1:3: a mapping's key is a list or a mapping; the API knows only text keys"),
        ("~: b", "m.yaml:1:1: a mapping's key is empty or null; the API knows only text keys"),
        ("a: !!int x", "m.yaml:1:4: a: \"x\" is not of the type !!int"),
        ("a: {<<: x}", "m.yaml:1:10: a: a merge key (<<) takes a mapping or a list of mappings"),
        ("hello", "m.yaml:1:1: the text \"hello\" where an object (a mapping with apiVersion and kind) belongs"),
        ("- a", "m.yaml:1:1: a list where an object (a mapping with apiVersion and kind) belongs"),
        ("{apiVersion: v1, kind: List, items: {a: b}}", "m.yaml:1:1: items: a mapping where a list of objects belongs"),
        ("apiVersion: v1\nkind: List\nitems:\n- x", "m.yaml:4:1: items[0]: the text \"x\" where an object"),
        ("a: \0", "m.yaml:1:"),
    ];
    for (text, want) in rows {
        let errors = errors(text);
        assert!(errors.len() == 1 && errors[0].starts_with(want), "{text:?}: {errors:?}");
    }
}

#[test]
fn documents_around_a_broken_one_are_read() {
    let pod = |name: &str| format!("{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}}}\n");
    let text = format!("{}---\na: [\n---\n{}---\nx: 1\nx: 2\n---\n{}", pod("a"), pod("b"), pod("c"));
    let manifests = read(&text, "m.yaml");
    assert_eq!(names(&manifests.documents), ["a", "b", "c"]);
    assert_eq!(manifests.documents.iter().map(|d| d.line).collect::<Vec<_>>(), [1, 5, 10]);
    assert_eq!(manifests.errors.iter().map(|e| e.line).collect::<Vec<_>>(), [4, 8]);
}

#[test]
fn what_is_never_read_is_not_kept() {
    let written = "{apiVersion: v1, kind: Pod, metadata: {name: a, annotations: {x: {y: [z, {w: v}]}, x: 1}, labels: {annotations: b}}, \
        status: {conditions: [a, [b]], phase: Running}}";
    let text = |s: &str| Node::String(s.into());
    assert_eq!(value_at(written, "metadata.annotations").node, Node::Map(Default::default()));
    assert_eq!(value_at(written, "metadata.labels.annotations").node, text("b"));
    assert_eq!(value_at(written, "status.conditions").node, Node::List(vec![]));
    assert_eq!(value_at(written, "status.phase").node, text("Running"));
    let errors = errors("{metadata: {annotations: {a: &x b}}, spec: *x}");
    assert!(errors[0].contains("never read"), "{errors:?}");
}
