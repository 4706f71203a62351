//! Three judges of one corpus: the engine, the naive reference, and what the cases expect. (The fourth, the kernel, is in `testnet`.)
mod corpus;
mod reference;
mod worlds;

use reference::{Contents, Question, judge};

#[test]
fn the_reference_holds_for_every_family() {
    let Some(dir) = corpus::shared() else { return };
    for family in ["cyclonus", "k8s-e2e", "kube-network-policies", "recipes", "edge", "fuzz-np"] {
        let (mut cases, mut states, mut probes, mut wrong) = (0, 0, 0, 0);
        for line in corpus::lines(&dir.join(format!("{family}.jsonl"))) {
            if corpus::holds_kind(&line, "ClusterNetworkPolicy") {
                continue;
            }
            let case = corpus::Case::read(&line);
            cases += 1;
            for state in &case.states {
                states += 1;
                for probe in &state.probes {
                    probes += 1;
                    let got = judge(
                        &state.cluster,
                        &Question {
                            from: probe.from,
                            to: probe.to,
                            protocol: &probe.protocol,
                            port: probe.port,
                            contents: Contents::NotRead,
                        },
                    );
                    if got.answer() != probe.expect {
                        wrong += 1;
                        if wrong < 5 {
                            eprintln!("{}: {probe:?} got {got:?}", case.name);
                        }
                    }
                }
            }
        }
        eprintln!("{family}: {cases} cases, {states} states, {probes} probes, {wrong} wrong");
    }
}
