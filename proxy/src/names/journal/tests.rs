//! What is written comes back, what is damaged doesn't, and nothing comes back that wasn't written.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::record::Record;
use super::*;
use crate::names::lesson::{Learned, LearnedName};
use crate::names::{Limits, Names};

const NODE: &str = "node-a";

fn boot() -> BootId {
    BootId("11111111-2222-3333-4444-555555555555".into())
}

fn ip(last: u8) -> IpAddr {
    if last.is_multiple_of(2) { IpAddr::from([192, 0, 2, last]) } else { IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last.into()]) }
}

fn at(seconds: u64) -> Moment {
    Moment::since_boot(Duration::from_secs(seconds))
}

fn open(dir: &Path, now: u64) -> (Journal, Vec<Entry>) {
    Journal::open(dir, NODE, boot(), NamesMetrics::default(), at(now))
}

/// What `pod` has learned at a time: addresses with names, for so many seconds.
fn lesson(pod: u8, learned: u64, list: &[(u8, &str, u64)]) -> Lesson {
    let one = |&(address, name, seconds): &(u8, &str, u64)| Learned {
        address: ip(address),
        names: vec![LearnedName { name: name.into(), expires: at(learned + seconds), is_news: true }],
    };
    Lesson { addresses: list.iter().map(one).collect(), ..Lesson::nothing(ip(pod), at(learned)) }
}

fn shown(entries: &[Entry]) -> Vec<String> {
    let line = |e: &Entry| format!("{} {} {} until {}", e.pod, e.name, e.address, e.expires.nanos() / 1_000_000_000);
    entries.iter().map(line).collect()
}

fn names_of(entries: &[Entry]) -> Vec<&str> {
    entries.iter().map(|entry| &*entry.name).collect()
}

#[test]
fn what_is_written_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("not/yet/there");
    let (journal, nothing) = open(&state, 0);
    assert!(nothing.is_empty());
    journal.append(&lesson(10, 5, &[(2, "a", 60), (3, "b", 30)])).unwrap();
    journal.append(&lesson(10, 6, &[(2, "a", 90)])).unwrap();
    journal.append(&lesson(11, 6, &[(2, "a", 20)])).unwrap();
    let mut told = lesson(12, 6, &[(2, "known", 20), (3, "new", 20)]);
    told.addresses[0].names[0].is_news = false;
    journal.append(&told).unwrap();
    journal.append(&Lesson::nothing(ip(12), at(7))).unwrap();
    // As after SIGKILL: nothing is closed or flushed in order.
    std::mem::forget(journal);
    let (_, entries) = open(&state, 10);
    let expected = ["192.0.2.10 a 192.0.2.2 until 96", "192.0.2.10 b fd00::3 until 35", "192.0.2.12 new fd00::3 until 26"];
    assert_eq!(shown(&entries)[..3], expected);
    assert_eq!(shown(&entries)[3..], ["fd00::b a 192.0.2.2 until 26"]);
    assert_eq!(shown(&open(&state, 26).1), ["192.0.2.10 a 192.0.2.2 until 96", "192.0.2.10 b fd00::3 until 35"]);
    assert_eq!(std::fs::read_dir(&state).unwrap().count(), 1, "nothing is left lying about");
    assert_eq!(std::fs::metadata(path(&state, NODE)).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn another_boot_node_or_format_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), NODE);
    let write = || {
        let _ = std::fs::remove_file(&file);
        open(dir.path(), 0).0.append(&lesson(10, 5, &[(2, "a", 60)])).unwrap();
        assert_eq!(open(dir.path(), 6).1.len(), 1);
    };
    write();
    let other = BootId("99999999-2222-3333-4444-555555555555".into());
    let (journal, entries) = Journal::open(dir.path(), NODE, other.clone(), NamesMetrics::default(), at(6));
    assert!(entries.is_empty());
    journal.append(&lesson(10, 5, &[(4, "b", 60)])).unwrap();
    assert_eq!(names_of(&Journal::open(dir.path(), NODE, other, NamesMetrics::default(), at(6)).1), ["b"]);
    write();
    // Two odd names that share a file.
    std::fs::rename(&file, path(dir.path(), "a/b")).unwrap();
    assert!(Journal::open(dir.path(), "a_b", boot(), NamesMetrics::default(), at(6)).1.is_empty());
    let damage: [fn(&mut Vec<u8>); 4] =
        [|bytes| bytes[8] ^= 0x80, |bytes| bytes.truncate(20), Vec::clear, |bytes| bytes.splice(.., *b"garbage").for_each(drop)];
    for (index, damage) in damage.into_iter().enumerate() {
        write();
        let mut bytes = std::fs::read(&file).unwrap();
        damage(&mut bytes);
        std::fs::write(&file, bytes).unwrap();
        let (journal, entries) = open(dir.path(), 6);
        assert!(entries.is_empty(), "{index}");
        journal.append(&lesson(10, 5, &[(4, "b", 60)])).unwrap();
        assert_eq!(names_of(&open(dir.path(), 6).1), ["b"], "{index}");
    }
}

#[test]
fn what_is_appended_behind_a_torn_record_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), 0);
    journal.append(&lesson(10, 5, &[(2, "before", 60)])).unwrap();
    let whole = std::fs::metadata(&journal.path).unwrap().len();
    journal.append(&lesson(10, 5, &[(2, "torn", 60)])).unwrap();
    OpenOptions::new().write(true).open(&journal.path).unwrap().set_len(whole + 30).unwrap();
    journal.append(&lesson(10, 5, &[(2, "behind", 60)])).unwrap();
    assert_eq!(names_of(&open(dir.path(), 6).1), ["before", "behind"]);
}

#[test]
fn what_is_forgotten_stays_forgotten_in_whatever_order_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), 0);
    let check = |expected: &[&str]| {
        assert_eq!(names_of(&open(dir.path(), 10).1), expected);
    };
    journal.append(&lesson(10, 5, &[(2, "old", 600)])).unwrap();
    journal.append(&lesson(11, 5, &[(2, "other pod's", 600)])).unwrap();
    check(&["old", "other pod's"]);
    journal.forget(Forgotten { pod: ip(10), at: at(6) }).unwrap();
    check(&["other pod's"]);
    journal.append(&lesson(10, 6, &[(2, "on its way", 600)])).unwrap();
    check(&["other pod's"]);
    journal.append(&lesson(10, 7, &[(2, "new", 600)])).unwrap();
    check(&["new", "other pod's"]);
    assert!(journal.compact_beyond(0, at(10)).unwrap());
    journal.append(&lesson(10, 6, &[(4, "later still", 600)])).unwrap();
    check(&["new", "other pod's"]);
}

#[test]
fn a_long_file_is_written_anew_with_what_counts() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), 0);
    for second in 0..200 {
        journal.append(&lesson(10, second, &[(2, "a", 60), (3, "a", 60)])).unwrap();
        journal.append(&lesson(11, second, &[(2, &format!("n{second}"), 10)])).unwrap();
    }
    let long = std::fs::metadata(&journal.path).unwrap().len();
    assert!(!journal.compact_if_due(at(200)).unwrap(), "it is short");
    let before = open(dir.path(), 200).1;
    assert!(journal.compact_beyond(4096, at(200)).unwrap());
    let short = std::fs::metadata(&journal.path).unwrap().len();
    assert!(short * 10 < long, "{short} of {long}");
    assert_eq!(shown(&open(dir.path(), 200).1), shown(&before));
    assert!(!journal.compact_beyond(0, at(200)).unwrap(), "not twice what counts");
    journal.append(&lesson(12, 200, &[(2, "after", 60)])).unwrap();
    assert_eq!(open(dir.path(), 200).1.len(), before.len() + 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left lying about");
}

#[test]
fn two_processes_write_and_compact_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let (old, _) = open(dir.path(), 0);
    let (new, _) = open(dir.path(), 0);
    std::thread::scope(|scope| {
        for (pod, journal) in [(10, &old), (12, &new)] {
            scope.spawn(move || {
                for n in 0..600u32 {
                    journal.append(&lesson(pod, 5, &[(2, &format!("n{n}"), 60)])).unwrap();
                    if n % 100 == u32::from(pod) {
                        // The other one may be writing the file anew at this moment.
                        let _ = journal.compact_beyond(0, at(6));
                    }
                }
            });
        }
    });
    let count = |entries: &[Entry], pod| entries.iter().filter(|entry| entry.pod == ip(pod)).count();
    let entries = open(dir.path(), 6).1;
    assert_eq!((count(&entries, 10), count(&entries, 12)), (600, 600));
    std::fs::remove_file(&old.path).unwrap();
    old.append(&lesson(10, 5, &[(2, "a", 60)])).unwrap();
    new.append(&lesson(10, 5, &[(2, "b", 60)])).unwrap();
    assert_eq!(open(dir.path(), 6).1.len(), 2, "a file that is gone is made anew");
}

#[test]
fn the_file_of_a_successor_with_another_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), 0);
    let mut other = record::header([1; 8], &boot(), NODE);
    other[8] = 9;
    let temporary = dir.path().join("other");
    std::fs::write(&temporary, &other).unwrap();
    std::fs::rename(&temporary, &journal.path).unwrap();
    for _ in 0..2 {
        let error = journal.append(&lesson(10, 5, &[(2, "a", 60)])).unwrap_err();
        assert!(matches!(error, WriteError::Foreign { .. }) && error.to_string().contains("format is 9"), "{error}");
    }
    assert_eq!(std::fs::read(&journal.path).unwrap(), other);
    assert_eq!(journal.metrics.journal_failures.get(), 2);
}

#[test]
fn what_can_not_be_opened_is_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    std::fs::write(&state, "a file where a folder belongs").unwrap();
    let (journal, entries) = open(&state, 0);
    assert!(entries.is_empty());
    assert!(matches!(journal.append(&lesson(10, 5, &[(2, "a", 60)])), Err(WriteError::Open { .. })));
    std::fs::remove_file(&state).unwrap();
    journal.append(&lesson(10, 5, &[(2, "b", 60)])).unwrap();
    assert_eq!(names_of(&open(&state, 6).1), ["b"]);
    assert_eq!(journal.metrics.journal_failures.get(), 1);
}

#[test]
fn another_process_that_holds_the_file_does_not_hold_up_answers_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), 0);
    let other = File::open(&journal.path).unwrap();
    other.lock().unwrap();
    assert!(matches!(journal.append(&lesson(10, 5, &[(2, "a", 60)])), Err(WriteError::Busy { .. })));
    other.unlock().unwrap();
    journal.append(&lesson(10, 5, &[(2, "a", 60)])).unwrap();
}

#[test]
fn a_lesson_of_any_size_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (journal, _) = open(dir.path(), 0);
    let names: Vec<Arc<str>> = (0..17).map(|n| format!("{n}.{}", "x".repeat(240)).into()).collect();
    let learned = |n: u32| Learned {
        address: IpAddr::V6((u128::from(n)).into()),
        names: names.iter().map(|name| LearnedName { name: Arc::clone(name), expires: at(60), is_news: true }).collect(),
    };
    let large = Lesson { addresses: (0..4096).map(learned).collect(), ..Lesson::nothing(ip(1), at(1)) };
    journal.append(&large).unwrap();
    assert_eq!(open(dir.path(), 6).1.len(), 4096 * 17);
}

/// A file of lessons, and what each byte of it belongs to.
fn sample() -> (Vec<u8>, BTreeSet<String>) {
    let mark = *b"\xf3\x01ab\x00\xff\x80z";
    let mut writer = Writer::new(mark);
    for n in 0..6u8 {
        let name: Arc<str> = format!("name-{n}.example.org").into();
        let alias: Arc<str> = "alias".into();
        let entries = [(ip(n), &name, Tick(60)), (ip(n + 1), &name, Tick(70)), (ip(n), &alias, Tick(50))];
        writer.learned(ip(100 + n % 2), at(n.into()), entries);
    }
    let mut bytes = record::header(mark, &boot(), NODE);
    bytes.extend(writer.into_bytes());
    let written = BTreeSet::from_iter(facts(&bytes));
    assert_eq!(written.len(), 18);
    (bytes, written)
}

/// What a reader takes from these bytes, one line for each entry of each record.
fn facts(bytes: &[u8]) -> Vec<String> {
    let Ok((mark, start)) = record::read_header(bytes, &boot(), NODE) else { return Vec::new() };
    let lines = |record: Record| match record {
        Record::Learned { pod, at, entries } => {
            entries.into_iter().map(|(address, name, until)| format!("{pod} {at:?} {address} {name} {until:?}")).collect()
        }
        Record::Forgotten { pod, at } => vec![format!("{pod} {at:?} forgotten")],
    };
    record::records(&bytes[start..], mark).0.into_iter().flat_map(lines).collect()
}

#[test]
fn any_prefix_is_a_part_and_any_flipped_bit_costs_one_record_at_most() {
    let (bytes, written) = sample();
    let mut before = 0;
    for length in 0..=bytes.len() {
        let found = facts(&bytes[..length]);
        assert!(found.iter().all(|fact| written.contains(fact)), "{length}");
        assert!(found.len() >= before, "{length}: a longer prefix has no less");
        before = found.len();
    }
    assert_eq!(before, 18);
    let header = record::header(*b"\xf3\x01ab\x00\xff\x80z", &boot(), NODE).len();
    for at in 0..bytes.len() {
        for bit in 0..8 {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << bit;
            let found = facts(&flipped);
            assert!(found.iter().all(|fact| written.contains(fact)), "bit {bit} of byte {at}");
            assert_eq!(found.len(), if at < header { 0 } else { 15 }, "bit {bit} of byte {at}");
        }
    }
}

proptest! {
    #[test]
    fn no_damage_makes_up_an_entry(
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 0..40)), 1..4),
    ) {
        let (mut bytes, written) = sample();
        for (one, other, garbage) in cuts {
            let (one, other) = (one.index(bytes.len() + 1), other.index(bytes.len() + 1));
            bytes.splice(one.min(other)..one.max(other), garbage);
            prop_assert!(facts(&bytes).iter().all(|fact| written.contains(fact)));
            if bytes.is_empty() {
                break;
            }
        }
    }

    #[test]
    fn a_store_that_is_restored_lists_the_same(
        steps in prop::collection::vec((0u8..3, 0usize..6, 0u8..8, 0u32..100, 0u64..3000, 0u8..12), 1..60),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let names = Names::new(Limits::default(), NamesMetrics::default());
        let mut now = at(100);
        let (journal, _) = Journal::open(dir.path(), NODE, boot(), NamesMetrics::default(), now);
        for (pod, name, address, ttl, millis, what) in steps {
            // What was learned in the very nanosecond of forgetting is forgotten, so no two steps are of one.
            now = now.after(Duration::from_millis(millis + 1));
            match what {
                0 => journal.forget(names.forget(ip(pod), now)).unwrap(),
                1 => drop(journal.compact_beyond(0, now).unwrap()),
                2 => names.sweep(now),
                _ => {
                    let lesson = names.learn_one(ip(pod), &format!("name-{name}"), ip(address), ttl, now);
                    journal.append(&lesson).unwrap();
                    names.confirm(&lesson);
                }
            }
        }
        let (_, entries) = Journal::open(dir.path(), NODE, boot(), NamesMetrics::default(), now);
        let restored = Names::new(Limits::default(), NamesMetrics::default());
        restored.restore(&entries, now);
        prop_assert_eq!(restored.all(now), names.all(now));
    }
}
