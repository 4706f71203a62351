//! Which cases are judged, in which layout.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use sluice_crds::case::{self, Case};

use crate::stage::Layout;

/// Families of the shared corpus.
const FAMILIES: [&str; 8] =
    ["cyclonus", "k8s-e2e", "kube-network-policies", "network-policy-api", "recipes", "edge", "fuzz-np", "fuzz-cnp"];
/// Judged whole in every run.
const WHOLE: &str = "edge";
/// The variable that repeats a draw.
const SEED: &str = "SLUICE_SEED";
/// The variable that says how pods are joined.
const LAYOUT: &str = "SLUICE_LAYOUT";

/// How the nodes have their pods: `SLUICE_LAYOUT=routed` (default), `bridge0` or `bridge1`, by bridge-nf-call-iptables.
pub(crate) fn network() -> sluice_testnet::Layout {
    match &*network_name() {
        "routed" => sluice_testnet::Layout::Routed,
        "bridge0" => sluice_testnet::Layout::Bridge { call_iptables: false },
        "bridge1" => sluice_testnet::Layout::Bridge { call_iptables: true },
        other => panic!("{LAYOUT}={other}: routed, bridge0 or bridge1"),
    }
}

fn network_name() -> String {
    #[expect(clippy::disallowed_methods, reason = "beside the seed, all that this test reads of its environment")]
    let given = std::env::var(LAYOUT).ok();
    given.unwrap_or_else(|| "routed".to_owned())
}

/// A case in one layout.
pub(crate) struct Job {
    pub(crate) case: Case,
    pub(crate) layout: Layout,
}

/// What decides about the tenth.
#[derive(Clone, Copy)]
pub(crate) struct Seed(pub(crate) u64);

impl std::fmt::Display for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Seed {
    /// `SLUICE_SEED`, or another one at each run.
    pub(crate) fn drawn() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where this test reads its environment")]
        let given = std::env::var(SEED).ok();
        let given = given.map(|text| text.parse().unwrap_or_else(|_| panic!("{SEED}={text:?} is not a number")));
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::from(d.subsec_nanos()) ^ d.as_secs());
        Self(given.unwrap_or_else(now))
    }

    /// The variables that draw the same again.
    pub(crate) fn variables(self) -> String {
        format!("{LAYOUT}={} {SEED}={self}", network_name())
    }

    fn number(self, of: &Case, what: &str) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, &of.name, what).hash(&mut hasher);
        hasher.finish()
    }
}

/// `edge` and this project's own cases in both layouts, and a tenth of each other family in one.
pub(crate) fn edge_and_a_tenth(seed: Seed) -> Vec<Job> {
    let mut jobs = in_both_layouts(own());
    for family in FAMILIES {
        let mut cases = shared(family);
        if family == WHOLE {
            jobs.extend(in_both_layouts(cases));
            continue;
        }
        cases.sort_by_key(|case| seed.number(case, "tenth"));
        cases.truncate(cases.len().div_ceil(10));
        jobs.extend(cases.into_iter().map(|case| {
            let layout = if seed.number(&case, "layout").is_multiple_of(2) { Layout::OneNode } else { Layout::TwoNodes };
            Job { case, layout }
        }));
    }
    jobs
}

/// Every case in both layouts.
pub(crate) fn all() -> Vec<Job> {
    let mut jobs = in_both_layouts(own());
    jobs.extend(FAMILIES.into_iter().flat_map(|family| in_both_layouts(shared(family))));
    jobs
}

fn in_both_layouts(cases: Vec<Case>) -> Vec<Job> {
    let both = |case: Case| [Layout::OneNode, Layout::TwoNodes].map(|layout| Job { case: case.clone(), layout });
    cases.into_iter().flat_map(both).collect()
}

/// A family of the shared corpus; none, loudly, where the corpus isn't beside the repository.
fn shared(family: &str) -> Vec<Case> {
    match case::conformance_dir() {
        Some(dir) => read(&dir.join(format!("{family}.jsonl"))),
        None => {
            println!("\n!!! SKIPPED: ../shared/conformance isn't there, so NO case of {family} was judged by the kernel !!!\n");
            Vec::new()
        }
    }
}

/// The cases of `policy/tests/cases`.
fn own() -> Vec<Case> {
    let dir = case::own_cases_dir();
    let cases = case::read_case_dir(&dir).unwrap_or_else(|error| panic!("{error}"));
    assert!(!cases.is_empty(), "{}: no case is there", dir.display());
    cases
}

fn read(file: &Path) -> Vec<Case> {
    case::read_cases(file).unwrap_or_else(|error| panic!("{error}"))
}
