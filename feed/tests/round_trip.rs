//! What is sent is what arrives, however it is cut; and whatever else arrives is refused, never misread.

mod worlds;

use bytes::Bytes;
use proptest::prelude::*;
use sluice_feed::changes::{self, DecodeError};
use sluice_feed::parts::{self, Assembly, Heading, PartError};
use sluice_feed::saved::{self, ReadError};
use sluice_feed::{CHANGE_LIMIT_BYTES, FieldError, wire};
use sluice_policy::Direction;
use sluice_policy::snapshot::{Change, Generation, Policy, PolicyId, Rule};
use sluice_policy::source::{Action, PolicyKind, PolicyRef, Tier};

use worlds::{change, changes as some_changes};

const HEADING: Heading = Heading { epoch: 7, generation: Generation(3), base: Some(Generation(2)) };

proptest! {
    #[test]
    fn changes_come_back_as_they_were(list in some_changes()) {
        let bytes = changes::encode(&list).expect("small enough");
        prop_assert_eq!(bytes.len(), list.iter().map(changes::encoded_len).sum::<usize>());
        prop_assert_eq!(changes::decode(&bytes).expect("just encoded"), list);
    }

    #[test]
    fn a_cut_list_is_refused_or_shorter_but_never_different(list in some_changes(), at in any::<prop::sample::Index>()) {
        let bytes = changes::encode(&list).expect("small enough");
        let cut = at.index(bytes.len() + 1);
        if let Ok(read) = changes::decode(&bytes[..cut]) {
            prop_assert_eq!(&list[..read.len()], &read[..]);
            prop_assert_eq!(changes::encode(&read).expect("small").len(), cut, "cut between two changes");
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = changes::decode(&bytes);
        let _ = saved::read(&bytes);
        let mut file = b"SLUICE\0\x02".to_vec();
        file.extend_from_slice(&bytes);
        prop_assert!(saved::read(&file).is_err());
    }

    #[test]
    fn flipped_bits_never_panic_and_what_is_read_can_be_written(
        list in some_changes(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..4),
    ) {
        let mut bytes = changes::encode(&list).expect("small enough");
        if !bytes.is_empty() {
            for (at, bit) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << bit;
            }
            if let Ok(read) = changes::decode(&bytes) {
                let again = changes::encode(&read).expect("small enough");
                prop_assert_eq!(changes::decode(&again).expect("just encoded"), read);
            }
        }
    }

    #[test]
    fn a_saved_table_comes_back_and_a_damaged_one_never(
        list in some_changes(),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let bytes = saved::write("node-a", 9, Generation(4), &list).expect("small enough");
        let read = saved::read(&bytes).expect("just written");
        prop_assert_eq!((read.node.as_str(), read.epoch, read.generation), ("node-a", 9, Generation(4)));
        prop_assert_eq!(read.changes, list);

        let at = at.index(bytes.len());
        prop_assert!(saved::read(&bytes[..at]).is_err(), "half written");
        let mut damaged = bytes;
        damaged[at] ^= flip;
        prop_assert!(saved::read(&damaged).is_err(), "damaged at {}", at);
    }

    #[test]
    fn an_update_survives_any_cut(list in some_changes(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let bytes = changes::encode(&list).expect("small enough");
        let mut borders: Vec<usize> = cuts.iter().map(|c| c.index(bytes.len() + 1)).collect();
        borders.extend([0, bytes.len()]);
        borders.sort_unstable();
        let pieces: Vec<_> = borders.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
        let mut assembly = Assembly::default();
        let mut arrived = None;
        for (i, piece) in pieces.iter().enumerate() {
            prop_assert!(arrived.is_none());
            arrived = assembly.push(part(piece.clone(), i + 1 == pieces.len())).expect("in order");
        }
        let update = arrived.expect("the last part came");
        prop_assert_eq!(update.heading, HEADING);
        prop_assert_eq!(update.changes, list);
        prop_assert!(!assembly.is_open());
    }

    #[test]
    fn one_change_alone_round_trips_as_a_message(one in change()) {
        let message = wire::Change::from(&one);
        prop_assert_eq!(Change::try_from(message).expect("from a change"), one);
    }
}

fn part(payload: Vec<u8>, last: bool) -> wire::Part {
    wire::Part { epoch: 7, generation: 3, base: Some(2), payload: payload.into(), last }
}

#[test]
fn a_large_update_is_cut_into_messages_below_the_limit() {
    let payload = Bytes::from(vec![1u8; 3 * parts::PART_BYTES + 17]);
    let cut: Vec<_> = parts::split(HEADING, payload.clone()).collect();
    assert_eq!(cut.len(), 4);
    assert_eq!(cut.iter().map(|p| p.last).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(cut.iter().flat_map(|p| p.payload.to_vec()).collect::<Vec<_>>(), payload.to_vec());
    let exact = Bytes::from(vec![1u8; 2 * parts::PART_BYTES]);
    assert_eq!(parts::split(HEADING, exact).map(|p| p.last).collect::<Vec<_>>(), [false, true]);
    assert_eq!(parts::split(HEADING, Bytes::new()).map(|p| p.last).collect::<Vec<_>>(), [true]);
}

#[test]
fn parts_of_two_updates_are_not_mixed() {
    let mut assembly = Assembly::default();
    assert_eq!(assembly.push(part(vec![2], false)), Ok(None));
    let other = wire::Part { generation: 4, ..part(vec![2], true) };
    assert_eq!(assembly.push(other), Err(PartError::Interrupted(Generation(3))));
    assert!(!assembly.is_open(), "what had begun is gone");
}

#[test]
fn a_change_larger_than_the_limit_is_neither_sent_nor_read() {
    let rule = Rule {
        direction: Direction::Ingress,
        path: "x".repeat(CHANGE_LIMIT_BYTES).into(),
        action: Action::Allow,
        peers: None,
        ports: None,
        l7: None,
    };
    let reference = PolicyRef { kind: PolicyKind::NetworkPolicy, namespace: "a".into(), name: "b".into() };
    let policy = Policy { reference, tier: Tier::Additive, ingress: true, egress: false, audit: false, rules: vec![rule] };
    let list = [Change::PutPolicy(PolicyId(1), policy.into())];
    let error = changes::encode(&list).expect_err("too large");
    assert!(error.to_string().contains("change 0"), "{error}");

    let claims_much = [0xff, 0xff, 0xff, 0xff, 0x7f];
    assert!(matches!(changes::decode(&claims_much), Err(DecodeError::ChangeTooLarge { index: 0, .. })));
}

/// What must not be read as something weaker: each row is a message that lacks, or exceeds, what its meaning hangs on.
#[test]
fn what_is_missing_or_unknown_is_refused() {
    let policy = |edit: fn(&mut wire::PutPolicy)| {
        let mut put = wire::PutPolicy {
            id: 1,
            kind: 1,
            namespace: "a".into(),
            name: "b".into(),
            tier: Some(wire::Tier { kind: 2, priority: 0 }),
            ingress: true,
            egress: false,
            rules: vec![wire::Rule { direction: 1, path: "ingress[0]".into(), action: 1, ..Default::default() }],
            audit: false,
        };
        edit(&mut put);
        wire::change::Body::PutPolicy(put)
    };
    let ports = |item: wire::PortMatch| {
        let mut put = wire::PutPolicy {
            kind: 1,
            tier: Some(wire::Tier { kind: 2, priority: 0 }),
            rules: vec![wire::Rule { direction: 1, action: 1, ..Default::default() }],
            ..Default::default()
        };
        put.rules[0].ports = Some(wire::Ports { items: vec![item] });
        wire::change::Body::PutPolicy(put)
    };
    let l7 = |body| {
        let mut put = wire::PutPolicy {
            kind: 3,
            tier: Some(wire::Tier { kind: 2, priority: 0 }),
            rules: vec![wire::Rule { direction: 1, action: 1, ..Default::default() }],
            ..Default::default()
        };
        put.rules[0].l7 = Some(wire::L7 { body: Some(body) });
        wire::change::Body::PutPolicy(put)
    };
    let http = |item| wire::l7::Body::Http(wire::HttpRules { items: vec![item] });
    let headers = |test| wire::HttpMatch { headers: vec![wire::Condition { test, ..Default::default() }], ..Default::default() };
    let grpc = |item| wire::l7::Body::Grpc(wire::GrpcRules { items: vec![item] });
    let tls = |item| wire::l7::Body::Tls(wire::TlsRules { items: vec![item] });
    let range = |first, last| Some(wire::port_match::Ports::Range(wire::PortRange { first, last }));
    let endpoint =
        |address: &[u8]| wire::change::Body::PutEndpoint(wire::PutEndpoint { address: address.to_vec(), ..Default::default() });
    let node_with = |address: &[u8], prefix_length| {
        let cidr = wire::Cidr { address: address.to_vec(), prefix_length };
        wire::change::Body::PutNode(wire::NodeFacts { pod_cidrs: vec![cidr], ..Default::default() })
    };
    let rows = [
        ("no change at all", None),
        ("policy of no kind", Some(policy(|p| p.kind = 0))),
        ("policy of an unknown kind", Some(policy(|p| p.kind = 9))),
        ("policy without tier", Some(policy(|p| p.tier = None))),
        ("unknown tier", Some(policy(|p| p.tier = Some(wire::Tier { kind: 4, priority: 0 })))),
        ("priority beyond 16 bits", Some(policy(|p| p.tier = Some(wire::Tier { kind: 1, priority: 65_536 })))),
        ("rule without direction", Some(policy(|p| p.rules[0].direction = 0))),
        ("rule without action", Some(policy(|p| p.rules[0].action = 0))),
        ("rule with an unknown action", Some(policy(|p| p.rules[0].action = 4))),
        ("peer of no kind", Some(policy(|p| p.rules[0].peers = Some(wire::Peers { items: vec![Default::default()] })))),
        ("L7 of a kind that a newer controller knows", Some(policy(|p| p.rules[0].l7 = Some(wire::L7 { body: None })))),
        ("path of no kind", Some(l7(http(wire::HttpMatch { path: Some(wire::PathMatch { body: None }), ..Default::default() })))),
        ("item beyond 16 bits", Some(l7(http(wire::HttpMatch { index: 65_536, ..Default::default() })))),
        ("condition without a test", Some(l7(http(headers(None))))),
        ("condition of no presence", Some(l7(http(headers(Some(wire::condition::Test::Presence(0))))))),
        ("condition of an unknown presence", Some(l7(http(headers(Some(wire::condition::Test::Presence(3))))))),
        ("metadata without a test", Some(l7(grpc(wire::GrpcMatch { metadata: vec![Default::default()], ..Default::default() })))),
        ("call beyond 16 bits", Some(l7(grpc(wire::GrpcMatch { index: 65_536, ..Default::default() })))),
        ("server name of no kind", Some(l7(tls(wire::TlsMatch { index: 0, name: Some(Default::default()) })))),
        ("server name beyond 16 bits", Some(l7(tls(wire::TlsMatch { index: 65_536, name: None })))),
        ("ports without protocol", Some(ports(wire::PortMatch { protocol: None, ports: range(1, 2) }))),
        ("ports of no kind", Some(ports(wire::PortMatch { protocol: Some(6), ports: None }))),
        ("protocol beyond 8 bits", Some(ports(wire::PortMatch { protocol: Some(256), ports: range(1, 2) }))),
        ("port beyond 16 bits", Some(ports(wire::PortMatch { protocol: Some(6), ports: range(1, 65_536) }))),
        ("range upside down", Some(ports(wire::PortMatch { protocol: Some(6), ports: range(2, 1) }))),
        ("address of no bytes", Some(endpoint(&[]))),
        ("address of five bytes", Some(endpoint(&[1, 2, 3, 4, 5]))),
        ("dropped address of three bytes", Some(wire::change::Body::DropEndpoint(vec![1, 2, 3]))),
        ("prefix longer than IPv4", Some(node_with(&[10, 0, 0, 0], 33))),
        ("prefix longer than IPv6", Some(node_with(&[0; 16], 129))),
        ("prefix beyond 8 bits", Some(node_with(&[10, 0, 0, 0], 256))),
        ("program of no direction", Some(wire::change::Body::PutProgram(Default::default()))),
    ];
    for (what, body) in rows {
        let read = Change::try_from(wire::Change { body, audit: false });
        assert!(read.is_err(), "{what}: read as {read:?}");
    }
    assert!(Change::try_from(wire::Change { body: Some(policy(|_| ())), audit: false }).is_ok(), "the untouched row is sound");
    for sound in [
        http(headers(Some(wire::condition::Test::Presence(1)))),
        grpc(wire::GrpcMatch::default()),
        tls(wire::TlsMatch::default()),
    ] {
        assert!(Change::try_from(wire::Change { body: Some(l7(sound)), audit: false }).is_ok(), "the untouched row is sound");
    }
    let error = Change::try_from(wire::Change { body: Some(policy(|p| p.kind = 9)), audit: false }).expect_err("unknown kind");
    assert_eq!(error, FieldError::Unknown { field: "put_policy.kind", value: 9 });
    assert_eq!(error.to_string(), "field put_policy.kind has the unknown value 9");
    // A second table of the second table.
    let drop_audit = Some(wire::change::Body::DropAudit(wire::DropAudit {}));
    assert!(Change::try_from(wire::Change { body: drop_audit, audit: true }).is_err());
    assert!(Change::try_from(wire::Change { body: None, audit: true }).is_err());
}

#[test]
fn host_bits_of_a_block_mean_nothing() {
    let cidr = wire::Cidr { address: vec![10, 1, 2, 3], prefix_length: 8 };
    let facts = wire::NodeFacts { name: "n".into(), ips: vec![], pod_cidrs: vec![cidr] };
    let body = Some(wire::change::Body::PutNode(facts));
    let read = Change::try_from(wire::Change { body, audit: false });
    let Ok(Change::PutNode(facts)) = read else { panic!("a sound node was refused") };
    assert_eq!(facts.pod_cidrs, ["10.0.0.0/8".parse().expect("a block")]);
}

#[test]
fn a_saved_table_of_another_format_is_named_so() {
    let mut bytes = saved::write("n", 1, Generation(1), &[]).expect("small");
    for format in [1, 2, 4] {
        bytes[7] = format;
        assert_eq!(saved::read(&bytes), Err(ReadError::Version(format)));
    }
    assert_eq!(saved::read(b"\x7fELF whatever"), Err(ReadError::Foreign));
    assert_eq!(saved::read(b""), Err(ReadError::Foreign));
}
