//! The shared corpus: what the API server accepts, and that every case can be read.

use std::path::PathBuf;

use sluice_crds::case::{Case, conformance_dir, own_cases_dir, read_case_dir, read_cases};
use sluice_crds::{Severity, Value, lower};
use sluice_policy::source::PodSelector;
use sluice_policy::view::Scope;
use sluice_policy::{Flow, Table, View, World};

fn shared() -> Option<PathBuf> {
    let dir = conformance_dir();
    if dir.is_none() {
        eprintln!("SKIPPED: ../shared/conformance isn't there");
    }
    dir
}

#[test]
fn a_policy_is_valid_exactly_when_the_api_server_would_accept_it() {
    let Some(dir) = shared() else { return };
    let text = std::fs::read_to_string(dir.join("validation.jsonl")).expect("the file can be read");
    let mut judged = 0;
    for line in text.lines() {
        let case: serde_json::Value = serde_json::from_str(line).expect("a line is JSON");
        let lowered = lower(&Value::from(&case["policy"]));
        let found: Vec<_> = lowered.diagnostics.iter().map(ToString::to_string).collect();
        assert_eq!(lowered.is_valid(), case["valid"], "{}: {found:?}", case["name"]);
        if case["policy"]["kind"] == "NetworkPolicy" {
            assert!(lowered.object.is_some(), "{}: a policy isolates, whatever is wrong with it", case["name"]);
        } else {
            assert!(lowered.object.is_some() || !lowered.is_valid(), "{}: refused without a word", case["name"]);
        }
        judged += 1;
    }
    assert!(judged >= 38, "only {judged} cases were judged");
}

#[test]
fn every_case_of_the_corpus_is_read_and_every_policy_in_it_understood() {
    let Some(dir) = shared() else { return };
    let cases = read_case_dir(&dir).expect("the corpus can be read");
    assert!(cases.len() > 500, "{} cases", cases.len());
    let mut probes = 0;
    for case in &cases {
        probes += case.states.iter().map(|s| s.probes.len()).sum::<usize>();
        for diagnostic in &case.diagnostics {
            let meant = case.has_tag("fail-closed") || diagnostic.severity == Severity::Warning;
            assert!(meant, "{} {:?}: {diagnostic}", case.name, case.tags);
        }
    }
    assert!(probes > 70_000, "{probes} probes");
}

#[test]
fn the_engine_answers_the_shared_corpus_as_expected() {
    let Some(dir) = shared() else { return };
    let cases = read_case_dir(&dir).expect("the corpus can be read");
    judge(cases.iter());
}

#[test]
fn the_engine_answers_our_own_cases_as_expected() {
    let cases = read_case_dir(&own_cases_dir()).expect("our cases can be read");
    assert!(cases.len() >= 60, "{} cases", cases.len());
    let mut names: Vec<&str> = cases.iter().map(|c| c.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), cases.len(), "two cases have one name");
    judge(cases.iter());
}

/// Our cases never count on a diagnostic that isn't meant: those that are tag it.
#[test]
fn our_own_cases_have_errors_only_where_they_say_so() {
    for case in read_case_dir(&own_cases_dir()).expect("our cases can be read") {
        let errors: Vec<_> = case.diagnostics.iter().filter(|d| d.severity == Severity::Error).collect();
        let says_so = case.has_tag("unreadable");
        assert_eq!(says_so, !errors.is_empty(), "{}: {errors:?}", case.name);
    }
}

#[test]
fn a_case_that_can_not_be_read_is_named_by_file_and_line() {
    let dir = tempfile::tempdir().expect("a folder for the test");
    let file = dir.path().join("bad.jsonl");
    std::fs::write(&file, "\n{\"name\": \"x\"}\n").expect("the file can be written");
    let error = read_cases(&file).expect_err("the case has no namespaces").to_string();
    assert!(error.contains("bad.jsonl:2: missing field"), "{error}");
}

/// Puts every probe to a table that is brought from state to state by deltas.
fn judge<'c>(cases: impl Iterator<Item = &'c Case>) {
    let (mut wrong, mut judged) = (Vec::new(), 0);
    for case in cases {
        let mut world = World::new();
        world.hold_resolvers(&[PodSelector::kube_dns()]);
        let mut view = View::new(Scope::Everything).resolving(vec![PodSelector::kube_dns()]);
        let mut table = Table::empty();
        for (i, state) in case.states.iter().enumerate() {
            let effects = world.apply(state.edits.iter().cloned());
            let changes = if i == 0 { view.snapshot(&world) } else { view.delta(&world, &effects) };
            table = table.apply(&changes).expect("the changes fit the table").0;
            if let Some(now) = state.now {
                let effects = world.set_time(now);
                table = table.apply(&view.delta(&world, &effects)).expect("the changes fit the table").0;
            }
            for probe in &state.probes {
                let flow = Flow {
                    source: probe.from.ip,
                    destination: probe.to.ip,
                    protocol: probe.protocol,
                    destination_port: probe.port,
                    icmp: probe.icmp,
                    names: &[],
                    request: None,
                };
                let both = |flow: &Flow<'_>| {
                    let verdict = table.verdict(flow);
                    (verdict, table.audit(flow, &verdict).map(|audit| audit.decision()))
                };
                let (verdict, audit) = match &probe.contents {
                    None => both(&flow),
                    Some(contents) => contents.judged(|request| both(&Flow { request: Some(request), ..flow })),
                };
                judged += 1;
                if (verdict.decision(), audit) != (probe.expect, probe.audit) {
                    wrong.push(format!("{} state {i}: {probe}; got {verdict:?}, audit {audit:?}", case.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {judged} wrong:\n{}", wrong.len(), wrong[..wrong.len().min(20)].join("\n"));
    assert!(judged > 0);
}
