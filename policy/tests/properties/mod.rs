//! Random small worlds: what must hold in each of them.
//!
//! The seed is fixed, so that a failure is the same on every machine; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` set another seed
//! and more worlds (`make test-long` does).

mod audit;
mod edits;
mod lines;

use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use crate::engine::{self, Engine};
use crate::reference::{Answer, Cluster, Contents, Question, judge};
use crate::worlds;

pub(crate) use audit::by_reference as audit_by_reference;

/// Runs `property` on worlds drawn from `strategy`: `worlds` of them, unless the environment says how many.
fn for_all<S: Strategy>(seed: u64, worlds: u32, strategy: S, property: impl Fn(S::Value) -> Result<(), TestCaseError>)
where
    S::Value: std::fmt::Debug,
{
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if config.max_shrink_iters == u32::MAX {
        config.max_shrink_iters = 4096;
    }
    if config.cases == 256 {
        config.cases = worlds;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(seed);
    }
    let mut runner = TestRunner::new(config);
    if let Err(failure) = runner.run(&strategy, property) {
        panic!("{failure}\n(seed {:?})", runner.config().rng_seed);
    }
}

/// Every question about a cluster's addresses: all pairs of one family, all protocols, all ports; nothing read of the contents.
fn questions(cluster: &Cluster) -> Vec<Question<'static>> {
    let addresses = worlds::addresses(cluster);
    let mut questions = Vec::new();
    for from in &addresses {
        for to in addresses.iter().filter(|to| to.is_ipv4() == from.is_ipv4()) {
            for protocol in worlds::PROTOCOLS {
                let (ports, messages) = match protocol {
                    "ICMP" => (&[0][..], &worlds::MESSAGES[..]),
                    _ => (&worlds::PORTS[..], &[None][..]),
                };
                questions.extend(
                    ports.iter().flat_map(|port| messages.iter().map(move |icmp| (*port, *icmp))).map(|(port, icmp)| Question {
                        from: *from,
                        to: *to,
                        protocol,
                        port,
                        icmp,
                        contents: Contents::NotRead,
                    }),
                );
            }
        }
    }
    questions
}

/// What may be found in a connection.
fn contents() -> impl Iterator<Item = Contents<'static>> {
    let names = worlds::SERVER_NAMES.into_iter().map(Contents::Tls);
    let lookups = worlds::names::LOOKUPS.into_iter().map(|(name, kind)| Contents::Lookup(name, kind));
    worlds::l7::requests().iter().map(Contents::Http).chain(names).chain(lookups).chain([Contents::Other])
}

#[test]
fn engine_and_reference_agree_on_every_question() {
    for_all(1, 48, worlds::cluster(), |cluster| {
        let engine = Engine::of_cluster(&cluster, &[]);
        for question in questions(&cluster) {
            agree(&engine, &cluster, &question)?;
        }
        Ok(())
    });
}

/// The two judges on one question, and on what may then be read where the answer hangs on that.
fn agree(engine: &Engine, cluster: &Cluster, question: &Question<'_>) -> Result<(), TestCaseError> {
    let table = &engine.everything.table;
    let before = engine::judgement(table, question);
    let expected = judge(cluster, question);
    prop_assert!(engine::agrees(&before, &expected), "{:?}: engine {:?}, reference {:?}", question, before, expected);
    for contents in contents() {
        let question = Question { contents, ..*question };
        let after = engine::judgement(table, &question);
        if before.answer() == Answer::L7 {
            let expected = judge(cluster, &question);
            prop_assert!(engine::agrees(&after, &expected), "{:?}: engine {:?}, reference {:?}", question, after, expected);
            prop_assert!(after.answer() != Answer::L7, "{:?}: read, and still undecided", question);
        } else {
            // What was decided before anything was read can't change by reading.
            prop_assert!(after.answer() == before.answer(), "{:?}: {:?}, and unread {:?}", question, after, before);
        }
    }
    Ok(())
}

#[test]
fn the_order_of_objects_changes_no_answer() {
    let shuffled = worlds::cluster().prop_flat_map(|cluster| {
        let objects = Just(cluster.objects.clone()).prop_shuffle();
        (Just(cluster), objects)
    });
    for_all(2, 48, shuffled, |(cluster, objects)| {
        let engine = Engine::of_cluster(&cluster, &[]);
        let mut other = Engine::of([], &[]);
        for object in objects {
            other.edit([engine::lower(&worlds::Edit::Put(object))]);
        }
        for question in questions(&cluster) {
            let (one, two) = (engine::ask(&engine.everything.table, &question), engine::ask(&other.everything.table, &question));
            for (one, two) in [(one.egress, two.egress), (one.ingress, two.ingress)] {
                prop_assert!(one.decision == two.decision, "{:?}: {:?} or {:?}", question, one, two);
                prop_assert!(one.reason == two.reason, "{:?}: {:?} or {:?}", question, one, two);
            }
        }
        Ok(())
    });
}

#[test]
fn a_table_written_down_and_read_again_is_the_same() {
    for_all(3, 32, worlds::cluster(), |cluster| {
        let engine = Engine::of_cluster(&cluster, &["k0", "k1"]);
        for reader in engine.nodes.iter().chain([&engine.everything]) {
            let (again, _) = sluice_policy::Table::empty()
                .apply(&reader.table.to_changes())
                .map_err(|e| TestCaseError::fail(format!("what a table wrote can't be read: {e}")))?;
            for question in questions(&cluster) {
                let (one, two) = (engine::ask(&reader.table, &question), engine::ask(&again, &question));
                prop_assert!(one == two, "{:?}: {:?}, and after reading {:?}", question, one, two);
            }
        }
        Ok(())
    });
}
