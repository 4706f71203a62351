//! What is saved comes back, and what is not whole does not.

use sluice_policy::snapshot::{Change, Endpoint, Generation, IdentityId, NodeFacts, Programs};
use sluice_policy::source::PodRef;

use super::*;

fn held(node: &str, generation: u64) -> Held {
    let facts = NodeFacts { name: node.into(), ips: vec![], pod_cidrs: vec!["10.0.0.0/24".parse().expect("a block")] };
    let endpoint = Endpoint {
        pod: PodRef { namespace: "shop".into(), name: "web".into() },
        identity: IdentityId(1),
        local: true,
        conflict: false,
        host: None,
        ports: Arc::from([]),
    };
    let list = [
        Change::PutNode(facts),
        Change::PutIdentity(IdentityId(1), Programs::default()),
        Change::PutEndpoint("10.0.0.1".parse().expect("ip"), Arc::new(endpoint)),
    ];
    let (table, _) = Table::empty().apply(&list).expect("sound");
    Held { table: Arc::new(table), epoch: 7, generation: Generation(generation) }
}

#[test]
fn a_table_comes_back_for_its_own_node_only() {
    let dir = tempfile::tempdir().expect("a folder");
    let state = dir.path().join("not/yet/there");
    assert!(load(&state, "node-a", &Table::empty()).expect("nothing is no error").is_none());
    save(&state, "node-a", &held("node-a", 5)).expect("saved");
    let back = load(&state, "node-a", &Table::empty()).expect("sound").expect("there");
    assert_eq!((back.epoch, back.generation), (7, Generation(5)));
    assert_eq!(back.table.endpoints().count(), 1);
    assert_eq!(&*back.table.node().name, "node-a");
    assert!(load(&state, "node-b", &Table::empty()).expect("no error").is_none());
    // Two odd names that share a file are told apart.
    save(&state, "a/b", &held("a/b", 1)).expect("saved");
    assert!(matches!(load(&state, "a_b", &Table::empty()), Err(LoadError::OtherNode { .. })));
    assert!(load_or_none(&state, "a_b", &Table::empty()).is_none());
    let names: Vec<_> =
        std::fs::read_dir(&state).expect("a folder").filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    assert_eq!(names.len(), 2, "nothing is left lying about: {names:?}");
}

#[test]
fn what_is_damaged_counts_as_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    save(dir.path(), "n", &held("n", 5)).expect("saved");
    let file = path(dir.path(), "n");
    let whole = std::fs::read(&file).expect("a file");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let mut newer = whole.clone();
    newer[7] = 99;
    let rows: [(&str, &[u8]); 6] = [
        ("empty", b""),
        ("half written", &whole[..whole.len() / 2]),
        ("one bit", &flipped),
        ("another version", &newer),
        ("something else", b"{}"),
        ("garbage behind it", &[whole.as_slice(), b"x"].concat()),
    ];
    for (what, bytes) in rows {
        std::fs::write(&file, bytes).expect("write");
        let error = load(dir.path(), "n", &Table::empty()).expect_err(what);
        assert!(error.to_string().contains("table-n"), "{what}: {error}");
        assert!(load_or_none(dir.path(), "n", &Table::empty()).is_none(), "{what}");
    }
    std::fs::remove_file(&file).expect("remove");
    std::fs::create_dir(&file).expect("a folder in its place");
    assert!(matches!(load(dir.path(), "n", &Table::empty()), Err(LoadError::Read { .. })));
}

#[tokio::test]
async fn the_newest_is_on_disk_soon_and_at_the_end() {
    let dir = tempfile::tempdir().expect("a folder");
    let (tables, newest) = watch::channel(None);
    let cancel = CancellationToken::new();
    let keeper = tokio::spawn(keep(dir.path().to_owned(), "n".into(), newest, cancel.clone()));
    let saved = || load(dir.path(), "n", &Table::empty()).ok().flatten().map(|held| held.generation);
    tables.send_replace(Some(held("n", 1)));
    let begun = std::time::Instant::now();
    while saved().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never saved");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Many at once are not written one by one; the last one is, also when the end comes first.
    for generation in 2..500 {
        tables.send_replace(Some(held("n", generation)));
    }
    cancel.cancel();
    keeper.await.expect("no panic");
    assert_eq!(saved(), Some(Generation(499)));
}

#[tokio::test]
async fn a_table_that_cannot_be_saved_takes_the_older_one_off_the_disk() {
    let full: Save = |dir, node, held| {
        if held.generation == Generation(2) {
            return Err(SaveError::Write { path: path(dir, node), source: io::ErrorKind::StorageFull.into() });
        }
        save(dir, node, held)
    };
    let dir = tempfile::tempdir().expect("a folder");
    save(dir.path(), "n", &held("n", 1)).expect("saved");
    save(dir.path(), "m", &held("m", 1)).expect("saved");
    let (tables, newest) = watch::channel(None);
    let cancel = CancellationToken::new();
    let keeper = tokio::spawn(keep_by(full, dir.path().to_owned(), "n".into(), newest, cancel.clone()));
    let is_there = || path(dir.path(), "n").exists();
    for (generation, wanted) in [(2, false), (3, true)] {
        tables.send_replace(Some(held("n", generation)));
        let begun = std::time::Instant::now();
        while is_there() != wanted {
            assert!(begun.elapsed() < Duration::from_secs(20), "generation {generation}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    cancel.cancel();
    keeper.await.expect("no panic");
    assert_eq!(load(dir.path(), "n", &Table::empty()).expect("sound").expect("there").generation, Generation(3));
    assert!(load(dir.path(), "m", &Table::empty()).expect("sound").is_some(), "another node's stays");
    // Where even that fails, the words say so.
    std::fs::remove_file(path(dir.path(), "n")).expect("remove");
    std::fs::create_dir(path(dir.path(), "n")).expect("a folder in its place");
    let words = save_or_remove(full, dir.path(), "n", &held("n", 2)).expect_err("full");
    assert!(words.contains("can't be removed"), "{words}");
}

#[test]
fn a_table_older_than_the_kernels_rules_is_passed_over() {
    let stand = |epoch, generation| Left::Rules(Some(Stand { epoch, generation }));
    let rows = [
        (Left::Nothing, true),
        (stand(7, 5), true),
        (stand(7, 4), true),
        (stand(7, 6), false),
        (stand(8, 1), false),
        (Left::Rules(None), false),
    ];
    for (left, is_used) in rows {
        assert_eq!(unless_older(Some(held("n", 5)), left).is_some(), is_used, "{left:?}");
        assert!(unless_older(None, left).is_none());
    }
}
