//! What strangers send, given any bytes: the bodies of `fuzz/fuzz_targets`, and the replay of what fuzzing has found.
//!
//! Each states what must hold whatever comes, and panics where it doesn't.

use bytes::BytesMut;
use sluice_feed::{changes, saved};

use crate::denials::Headers;
use crate::detect::{Detected, classify};
pub use crate::dns::fuzz_dns as dns;
use crate::hello::{Hello, HelloScanner};
pub use crate::http::fuzz_guard as http_guard;
pub use crate::quic::fuzz_quic as quic;

const LIMIT: usize = 4096;

/// A target: its name, that of its folder in `fuzz/corpus`, and what it does.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 8] = [
    ("classify", classify_bytes),
    ("client_hello", client_hello),
    ("http_guard", http_guard),
    ("packet", packet),
    ("dns", dns),
    ("quic", quic),
    ("feed_changes", feed_changes),
    ("saved_table", saved_table),
];

/// More bytes never change what a connection was taken for.
pub fn classify_bytes(data: &[u8]) {
    let mut sure = None;
    for length in 0..=data.len().min(512) {
        let said = classify(&data[..length], LIMIT);
        match &sure {
            Some(before) => assert_eq!(&said, before, "after {length} bytes"),
            None if said != Detected::Undecided => sure = Some(said),
            None => {}
        }
    }
}

/// In one read or in many, a ClientHello names the same server, and a name that a host can have.
pub fn client_hello(data: &[u8]) {
    let whole = HelloScanner::default().scan(data, LIMIT);
    let mut scanner = HelloScanner::default();
    let mut said = Hello::Incomplete;
    for length in 0..=data.len() {
        said = scanner.scan(&data[..length], LIMIT);
        if said != Hello::Incomplete {
            break;
        }
    }
    assert_eq!(said, whole);
    if let Hello::Complete { server_name: Some(name) } = whole {
        assert!(!name.is_empty() && name.len() <= 253 && !name.ends_with('.'), "{name:?}");
        assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{name:?}");
    }
}

/// What less of a packet shows is what more of it shows, or less: a cut packet has no other ends.
pub fn packet(data: &[u8]) {
    let Some(whole) = Headers::read(data) else { return };
    for length in 0..data.len().min(256) {
        let Some(part) = Headers::read(&data[..length]) else { continue };
        assert_eq!((part.source.ip(), part.destination.ip()), (whole.source.ip(), whole.destination.ip()), "{length} bytes");
    }
}

/// What is understood of a feed is what would be sent to say it.
pub fn feed_changes(data: &[u8]) {
    let Ok(list) = changes::decode(data) else { return };
    let bytes = changes::encode(&list).expect("what was read can be written");
    assert_eq!(changes::decode(&bytes).as_ref(), Ok(&list));
}

/// As [`feed_changes`], for a saved table. Its head and its checksum are made right, which no fuzzer would guess.
pub fn saved_table(data: &[u8]) {
    drop(saved::read(data));
    let empty = saved::write("n", 1, sluice_policy::snapshot::Generation(1), &[]).expect("an empty table");
    // "SLUICE\0" and the format.
    let mut file = BytesMut::from(&empty[..8]);
    file.extend_from_slice(data);
    let checksum = crc32fast::hash(&file);
    file.extend_from_slice(&checksum.to_be_bytes());
    let Ok(read) = saved::read(&file) else { return };
    let again = saved::write(&read.node, read.epoch, read.generation, &read.changes).expect("what was read can be written");
    assert_eq!(saved::read(&again), Ok(read));
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::TARGETS;

    /// What fuzzing has found, and what it began with.
    #[test]
    fn corpora() {
        for (name, target) in TARGETS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
            let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
            files.sort();
            assert!(files.len() > 1, "{} holds nothing", folder.display());
            for file in files {
                let data = std::fs::read(&file).unwrap();
                let done = std::panic::catch_unwind(|| target(&data));
                assert!(done.is_ok(), "{}", file.display());
            }
        }
    }
}
