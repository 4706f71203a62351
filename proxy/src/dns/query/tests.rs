use hickory_proto::op::{Edns as Opt, OpCode};
use hickory_proto::rr::DNSClass;
use proptest::prelude::*;

use super::super::sample::{ID, ask, bytes, record};
use super::*;

/// The header of a query with these flags and counts.
fn head(flags: u16, counts: [u16; 4]) -> Vec<u8> {
    [ID, flags].into_iter().chain(counts).flat_map(u16::to_be_bytes).collect()
}

/// A question by its labels.
fn question(labels: &[&[u8]], record_type: u16, class: u16) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(u8::try_from(label.len()).unwrap());
        wire.extend(*label);
    }
    wire.push(0);
    wire.extend(record_type.to_be_bytes());
    wire.extend(class.to_be_bytes());
    wire
}

fn by_labels(labels: &[&[u8]]) -> Vec<u8> {
    [head(0, [1, 0, 0, 0]), question(labels, 1, 1)].concat()
}

const OPT: &[u8] = &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0];
const WWW: &[&[u8]] = &[b"www", b"example", b"org"];

#[test]
fn a_query_says_what_it_asks() {
    let mut message = ask("HTTPS Www.Example.ORG");
    message.metadata.checking_disabled = true;
    message.metadata.authentic_data = true;
    let mut opt = Opt::new();
    opt.set_max_payload(1400).set_dnssec_ok(true);
    message.set_edns(opt);
    let query = Query::read(&bytes(&message)).unwrap();
    assert_eq!((query.kind, query.id, &*query.name), (Kind::LookUp, ID, "www.example.org"));
    assert_eq!((query.record_type, &*query.record_type.to_string()), (RecordType::HTTPS, "HTTPS"));
    assert_eq!([query.recursion_desired, query.checking_disabled, query.authentic_data], [true; 3]);
    assert_eq!(query.edns, Some(Edns { udp_bytes: 1400, dnssec_ok: true }));
    assert_eq!(query.question, question(&[b"Www", b"Example", b"ORG"], 65, 1));

    let plain = Query::read(&by_labels(WWW)).unwrap();
    assert_eq!([plain.recursion_desired, plain.checking_disabled, plain.authentic_data], [false; 3]);
    assert_eq!(plain.edns, None);
}

#[test]
fn names_are_read_as_patterns_compare_them() {
    let long = [b'a'; 63];
    let rows: [(&[&[u8]], &str); 9] = [
        (WWW, "www.example.org"),
        (&[b"API", b"GitHub", b"com"], "api.github.com"),
        (&[], ""),
        (&[b"_sip", b"*"], "_sip.*"),
        // A dot in a label makes it no other name's.
        (&[b"x.example", b"org"], "x\\.example.org"),
        (&[b"a\\b"], "a\\\\b"),
        (&[b"a b\0", b"\xff"], "a\\032b\\000.\\255"),
        (&["ä".as_bytes()], "\\195\\164"),
        (&[&long, b"b"], &format!("{}.b", "a".repeat(63))),
    ];
    for (labels, wanted) in rows {
        assert_eq!(Query::read(&by_labels(labels)).unwrap().name, wanted);
    }
}

#[test]
fn a_name_has_255_bytes_at_most() {
    let label = [b'a'; 63];
    // Each label has its length before it, and the root has one.
    let longest: [&[u8]; 4] = [&label, &label, &label, &label[..61]];
    assert_eq!(Query::read(&by_labels(&longest)).unwrap().question.len(), 255 + 4);
    let longer: [&[u8]; 4] = [&label, &label, &label, &label[..62]];
    assert!(matches!(Query::read(&by_labels(&longer)), Err(Malformed::Form(_))));
}

#[test]
fn each_kind_is_told() {
    let of = |record_type, class| [head(0, [1, 0, 0, 0]), question(WWW, record_type, class)].concat();
    let update = {
        let mut message = ask("SOA example.org");
        message.metadata.op_code = OpCode::Update;
        message.add_answer(record("www.example.org 0 A 192.0.2.1")).add_authority(record("www.example.org 60 A 192.0.2.2"));
        bytes(&message)
    };
    let rows: [(&str, Vec<u8>, Kind, &str); 12] = [
        ("an address", of(1, 1), Kind::LookUp, "www.example.org"),
        ("a type without a name", of(1234, 1), Kind::LookUp, "www.example.org"),
        ("any type", of(255, 1), Kind::LookUp, "www.example.org"),
        ("a transfer", of(252, 1), Kind::Other, "www.example.org"),
        ("an incremental transfer", of(251, 1), Kind::Other, "www.example.org"),
        ("a key exchange", of(249, 1), Kind::Other, "www.example.org"),
        ("the server's version", of(16, 3), Kind::Other, "www.example.org"),
        ("any class", of(1, 255), Kind::Other, "www.example.org"),
        ("an update", update, Kind::Other, "example.org"),
        ("a notification", [head(4 << 11, [1, 0, 0, 0]), question(WWW, 6, 1)].concat(), Kind::Other, "www.example.org"),
        ("a stateful operation", [head(6 << 11, [0; 4]), vec![0, 1, 0, 0]].concat(), Kind::Other, ""),
        ("an operation with a cut question", [head(9 << 11, [1, 0, 0, 0]), vec![3, b'w']].concat(), Kind::Other, ""),
    ];
    for (what, message, kind, name) in rows {
        let query = Query::read(&message).unwrap();
        assert_eq!((query.kind, &*query.name), (kind, name), "{what}");
    }
}

#[test]
fn what_is_no_query_is_malformed() {
    let www = question(WWW, 1, 1);
    let with = |flags: u16, counts: [u16; 4], rest: &[u8]| [&head(flags, counts), &www[..], rest].concat();
    let record = [OPT, OPT].concat();
    let mut message = ask("A www.example.org").into_response();
    message.metadata.recursion_available = true;
    assert_eq!(Query::read(&bytes(&message)), Err(Malformed::Response));
    assert_eq!(Query::read(&[0; 11]), Err(Malformed::Short(11)));
    let rows: [(&str, Vec<u8>); 15] = [
        ("no question", head(0, [0; 4])),
        ("two questions", with(0, [2, 0, 0, 0], &www)),
        ("no name", head(0, [1, 0, 0, 0])),
        ("a cut name", by_labels(WWW)[..20].to_vec()),
        ("a cut class", by_labels(WWW)[..by_labels(WWW).len() - 1].to_vec()),
        ("a name that points", [head(0, [1, 0, 0, 0]), vec![1, b'a', 0xc0, 12, 0, 1, 0, 1]].concat()),
        ("a name that points to itself", [head(0, [1, 0, 0, 0]), vec![0xc0, 12, 0, 1, 0, 1]].concat()),
        ("a label of an unknown kind", [head(0, [1, 0, 0, 0]), vec![0x41, b'a', 0, 0, 1, 0, 1]].concat()),
        ("an answer", with(0, [1, 1, 0, 0], OPT)),
        ("an authority", with(0, [1, 0, 1, 0], OPT)),
        ("a record that isn't there", with(0, [1, 0, 0, 1], &[])),
        ("a cut record", with(0, [1, 0, 0, 1], &OPT[..10])),
        ("bytes behind the last", with(0, [1, 0, 0, 1], &[OPT, &[0]].concat())),
        ("two OPT records", with(0, [1, 0, 0, 2], &record)),
        ("an OPT record of a name", with(0, [1, 0, 0, 1], &[&[1, b'a'], OPT].concat())),
    ];
    for (what, message) in rows {
        assert!(matches!(Query::read(&message), Err(Malformed::Form(_))), "{what}");
    }
    assert!(Query::read(&with(0, [1, 0, 0, 1], OPT)).is_ok());
}

#[test]
fn other_records_may_stand_beside() {
    let www = question(WWW, 1, 1);
    // A signature behind the OPT record, its owner pointing to the question.
    let signature = [0xc0, 12, 0, 250, 0, 255, 0, 0, 0, 0, 0, 2, 1, 2];
    let query = Query::read(&[&head(0, [1, 0, 0, 2]), &www[..], OPT, &signature].concat()).unwrap();
    assert_eq!(query.edns, Some(Edns { udp_bytes: 1232, dnssec_ok: true }));

    // What the client has of a zone is beside its question, and an OPT record there is out of place.
    let transfer = question(WWW, 251, 1);
    let query = Query::read(&[&head(0, [1, 0, 1, 0]), &transfer[..], &signature].concat()).unwrap();
    assert_eq!(query.kind, Kind::Other);
    let query = Query::read(&[&head(0, [1, 0, 1, 0]), &transfer[..], OPT].concat());
    assert!(matches!(query, Err(Malformed::Form(_))));

    // A size that none can mean is the least.
    let tiny = [0, 0, 41, 0, 1, 0, 0, 0, 0, 0, 0];
    let query = Query::read(&[&head(0, [1, 0, 0, 1]), &www[..], &tiny].concat()).unwrap();
    assert_eq!(query.edns, Some(Edns { udp_bytes: 512, dnssec_ok: false }));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_a_panic(message in prop::collection::vec(any::<u8>(), 0..80), small in any::<bool>()) {
        let mut message = message;
        if small && message.len() >= 12 {
            message[2] &= 0x7f;
            message[4..12].copy_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        }
        if let Ok(query) = Query::read(&message) {
            prop_assert!(query.question.len() <= 259 && query.name.len() <= 4 * 255);
            prop_assert!(!query.name.ends_with('.') || query.name.ends_with("\\."));
        }
    }

    /// No two names are the same when they are read but for the case of letters, whatever bytes labels hold.
    #[test]
    fn names_are_equal_as_servers_compare_them(
        one in prop::collection::vec(prop::collection::vec(prop::sample::select(&b".\\aA0.\x01"[..]), 1..4), 0..3),
        other in prop::collection::vec(prop::collection::vec(prop::sample::select(&b".\\aA0.\x01"[..]), 1..4), 0..3),
    ) {
        let wire = |labels: &[Vec<u8>]| by_labels(&labels.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let (first, second) = (wire(&one), wire(&other));
        let same = first.eq_ignore_ascii_case(&second);
        prop_assert_eq!(Query::read(&first).unwrap().name == Query::read(&second).unwrap().name, same);
    }

    /// The parser reads the same of what its own writer makes.
    #[test]
    fn what_the_parser_writes_is_read(
        name in "[a-zA-Z0-9_]{1,12}(\\.[a-z][a-zA-Z0-9-]{0,11}){0,5}",
        number in prop::sample::select(&[1_u16, 2, 16, 28, 33, 65, 255][..]),
        class in prop::sample::select(&[1_u16, 3][..]),
        size in prop::option::of(512_u16..),
    ) {
        let mut message = ask(&format!("{} {name}", RecordType(number)));
        message.queries[0].set_query_class(DNSClass::from(class));
        if let Some(size) = size {
            let mut opt = Opt::new();
            opt.set_max_payload(size);
            message.set_edns(opt);
        }
        let query = Query::read(&bytes(&message)).unwrap();
        prop_assert_eq!(&query.name, &name.to_ascii_lowercase());
        prop_assert_eq!((query.record_type.0, query.kind == Kind::LookUp), (number, class == 1));
        prop_assert_eq!(query.edns.map(|edns| edns.udp_bytes), size);
    }
}
