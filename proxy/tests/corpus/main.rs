//! The kernel as judge of the conformance corpus: real pods, real packets, the rules that `sluice_proxy::kernel` writes.
//!
//! Every case becomes a network of namespaces ([`stage`]): its pods with their addresses on one node or spread over two, each
//! node with the table that the engine makes for it, the rules that the kernel's part makes of that, and a [`listener`] where the
//! proxy would be. Then all connections of a state are tried at once ([`judge`]), so that a state costs one wait however many are
//! denied. What a case's DNS says, each node's pods have been told ([`domains`]). A step of a case reaches the kernel as the delta that it is, not as a new ruleset.
//!
//! | test | cases |
//! |---|---|
//! | `edge_and_a_tenth` | all of `edge` and of this project's own, in both layouts; of each other family a tenth, drawn by a seed that is printed |
//! | `random_worlds_hold_in_the_kernel` | random small worlds, drawn by the same seed: what the naive reference says of each connection |
//! | `many_random_worlds` (ignored: minutes) | many more |
//! | `all` (ignored: minutes) | every case, in both layouts |
//!
//! `SLUICE_SEED=NUMBER` draws the same tenth, and the same worlds, again. `SLUICE_LAYOUT=bridge0` and `bridge1` put each node's pods on a
//! bridge, without and with bridge-nf-call-iptables.

#[path = "../kernel_stage/answer.rs"]
#[expect(unreachable_pub, reason = "the module belongs to several test programs")]
mod answer;
#[path = "../kernel_stage/diverted.rs"]
#[expect(unreachable_pub, reason = "the module belongs to several test programs")]
mod diverted;
mod domains;
mod judge;
mod listener;
#[path = "../kernel_stage/packet.rs"]
#[expect(unreachable_pub, reason = "the module belongs to several test programs")]
#[expect(dead_code, reason = "answers are all that is sent by hand here")]
mod packet;
mod random;
mod select;
mod stage;

// What the engine is judged by, judges the kernel too.
#[path = "../../../policy/tests/engine/mod.rs"]
#[expect(dead_code, reason = "the kernel asks for a part of it")]
mod engine;
#[path = "../../../policy/tests/reference/mod.rs"]
#[expect(dead_code, reason = "the kernel asks for a part of it")]
mod reference;
#[path = "../../../policy/tests/worlds/mod.rs"]
#[expect(dead_code, reason = "the kernel asks for a part of it")]
mod worlds;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use judge::{Tally, judge_case};
use select::{Job, Seed};

/// The time of a case is waiting, mostly.
const CASES_AT_ONCE: usize = 8;
/// So many failures are printed in full.
const SHOWN: usize = 8;

#[test]
fn edge_and_a_tenth() {
    let seed = Seed::drawn();
    println!("{} draws this tenth again", seed.variables());
    run(&select::edge_and_a_tenth(seed));
}

#[test]
fn random_worlds_hold_in_the_kernel() {
    random_worlds(16);
}

#[test]
#[ignore = "takes minutes: `make test-long`"]
fn many_random_worlds() {
    random_worlds(160);
}

fn random_worlds(count: usize) {
    let seed = Seed::drawn();
    println!("{} draws these worlds again", seed.variables());
    run(&random::jobs(seed, count));
}

#[test]
#[ignore = "takes minutes: `make test-long`"]
fn all() {
    run(&select::all());
}

/// Judges every job and fails with what went wrong.
fn run(jobs: &[Job]) {
    if let Err(why) = sluice_testnet::capability() {
        println!("\n!!! SKIPPED: NO case was judged by the kernel: {why} !!!\n");
        return;
    }
    let began = Instant::now();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    std::thread::scope(|scope| {
        for _ in 0..CASES_AT_ONCE {
            scope.spawn(|| {
                while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let judged = judge_case(&job.case, job.layout);
                    tally.lock().expect("no judge panics while it adds").add(&job.case.family, judged);
                }
            });
        }
    });
    let tally = tally.into_inner().expect("no judge panics while it adds");
    println!("{tally}{:.1} s", began.elapsed().as_secs_f64());
    assert!(tally.probes() > 0, "nothing was judged");
    let shown = tally.failures.iter().take(SHOWN).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(tally.failures.is_empty(), "{} failures\n\n{shown}", tally.failures.len());
}
