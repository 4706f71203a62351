use super::super::sample::{CRYPTO_FRAME, beginning, bytes, crypto, hello, initial};
use super::*;

const ID: [u8; 8] = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
const OTHER_ID: [u8; 8] = [9; 8];

fn named(name: &str) -> Result<Seen, Unreadable> {
    Ok(Seen { server_names: vec![Some(name.to_owned())], goes_on: false, begins: true })
}

fn goes_on() -> Result<Seen, Unreadable> {
    Ok(Seen { goes_on: true, begins: true, ..Seen::default() })
}

/// RFC 9001 appendix A.2 and RFC 9369 appendix A.2. Ciphertexts are as long as their texts, and the tag is over all of them: where head and
/// tag are the same, so is the rest.
#[test]
fn the_samples_of_the_standards() {
    let rows = [
        (
            "c300000001088394c8f03e5157080000449e00000002",
            "c000000001088394c8f03e5157080000449e7b9aec34d1b1c98dd7689fb8ec11",
            "e221af44860018ab0856972e194cd934",
        ),
        (
            "d36b3343cf088394c8f03e5157080000449e00000002",
            "d76b3343cf088394c8f03e5157080000449ea0c95e82ffe67b6abcdb4298b485",
            "a18b2faa745b6fe189cf772a9f84cbfc",
        ),
    ];
    for (version, (header, head, tag)) in [Version::V1, Version::V2].into_iter().zip(rows) {
        let mut payload = bytes(CRYPTO_FRAME);
        payload.resize(1162, 0);
        let sample = Keys::of(version, &ID, Side::Client).seal(&bytes(header), &payload).unwrap();
        assert_eq!((sample.len(), &sample[..32], &sample[1184..]), (1200, &*bytes(head), &*bytes(tag)));
        assert_eq!(Hellos::default().see(&sample), named("example.com"));
    }
}

/// RFC 9001 appendix A.3 and RFC 9369 appendix A.3: what a server answers.
#[test]
fn the_samples_of_servers() {
    let rows = [
        "cf000000010008f067a5502a4262b5004075c0d95a482cd0991cd25b0aac406a5816b6394100f37a1c69797554780bb38cc5a99f5ede4cf73c3ec2493a18\
         39b3dbcba3f6ea46c5b7684df3548e7ddeb9c3bf9c73cc3f3bded74b562bfb19fb84022f8ef4cdd93795d77d06edbb7aaf2f58891850abbdca3d20398c27\
         6456cbc42158407dd074ee",
        "dc6b3343cf0008f067a5502a4262b50040\
         75d92faaf16f05d8a4398c47089698baeea26b91eb761d9b89237bbf87263017915358230035f7fd3945d88965cf17f9af6e16886c61bfc703106fbaf3cb\
         4cfa52382dd16a393e42757507698075b2c984c707f0a0812d8cd5a6881eaf21ceda98f4bd23f6fe1a3e2c43edd9ce7ca84bed8521e2e140",
    ];
    for (version, packet) in [Version::V1, Version::V2].into_iter().zip(rows) {
        let packet = bytes(packet);
        let (Packet::Initial(initial), []) = first(&packet).unwrap() else { panic!("{packet:02x?}") };
        let opened = Keys::of(version, &ID, Side::Server).open(initial.whole, initial.number_at, None).unwrap();
        assert_eq!((initial.version, opened.number), (version, 1));
        let mut pieces = Vec::new();
        frames(&opened.payload, |at, bytes| {
            pieces.push((at, bytes.len()));
            Ok(())
        })
        .unwrap();
        assert_eq!(pieces, [(0, 90)]);
    }
}

#[test]
fn a_hello_in_two_datagrams_is_whole_by_the_second() {
    let whole = hello(Some("api.example.com"), 1500);
    let (one, two) = whole.split_at(1100);
    let pieces = [crypto(0, one), crypto(1100, two)];
    for order in [[0, 1], [1, 0]] {
        let mut hellos = Hellos::default();
        let datagrams = order.map(|piece| {
            let number = u8::try_from(piece).unwrap();
            initial(Version::V1, &ID, &ID, number, &pieces[piece], 1200)
        });
        assert_eq!(hellos.see(&datagrams[0]), goes_on());
        assert!(hellos.release().is_empty());
        // What is sent once more changes nothing.
        assert_eq!(hellos.see(&datagrams[0]), goes_on());
        assert_eq!(hellos.see(&datagrams[1]), named("api.example.com"));
        assert_eq!(hellos.release(), [datagrams[0].clone(), datagrams[0].clone()]);
        // Once it is whole, what comes again says nothing new.
        assert_eq!(hellos.see(&datagrams[1]), Ok(Seen { begins: true, ..Seen::default() }));
    }
}

#[test]
fn pieces_in_any_order_within_a_packet() {
    let whole = hello(Some("api.example.com"), 40);
    let mut frames: Vec<Vec<u8>> =
        (0..whole.len()).step_by(7).map(|at| crypto(at, &whole[at..(at + 9).min(whole.len())])).collect();
    frames.reverse();
    frames.insert(3, vec![0, 0, 1, 2, 0, 0, 0, 0]);
    assert_eq!(Hellos::default().see(&initial(Version::V2, &ID, &ID, 0, &frames.concat(), 1200)), named("api.example.com"));
}

#[test]
fn one_flow_may_carry_several_connections_and_each_is_read() {
    let mut hellos = Hellos::default();
    assert_eq!(hellos.see(&beginning(Version::V1, &ID, "one.example")), named("one.example"));
    assert_eq!(hellos.see(&beginning(Version::V1, &OTHER_ID, "two.example")), named("two.example"));
    // To the id that the server of the first has chosen, with the keys of the first.
    let ack = initial(Version::V1, &ID, &[5; 12], 1, &[2, 0, 0, 0, 0], 0);
    assert_eq!(hellos.see(&ack), Ok(Seen { begins: true, ..Seen::default() }));
    // In another version, on which both ends have agreed.
    let ack = initial(Version::V2, &ID, &[5; 12], 2, &[2, 0, 0, 0, 0], 0);
    assert_eq!(hellos.see(&ack), Ok(Seen { begins: true, ..Seen::default() }));
    // A short header, whatever stands behind it.
    let short = [&[0x40; 30][..], &beginning(Version::V1, &[1; 8], "three.example")].concat();
    assert_eq!(hellos.see(&short), Ok(Seen::default()));
    // Behind a packet of a handshake.
    let handshake = [&[0xe0, 0, 0, 0, 1, 0, 0, 0x40, 20][..], &[7; 20]].concat();
    let behind = [&*handshake, &beginning(Version::V1, &[1; 8], "three.example")].concat();
    assert_eq!(hellos.see(&handshake), Ok(Seen::default()));
    assert_eq!(hellos.see(&behind), named("three.example"));
}

#[test]
fn a_second_hello_of_a_connection_is_read_too() {
    let mut hellos = Hellos::default();
    assert_eq!(hellos.see(&beginning(Version::V1, &ID, "one.example")), named("one.example"));
    let first_bytes = hello(Some("one.example"), 0).len();
    let second = hello(Some("two.example"), 0);
    let (one, two) = second.split_at(20);
    let next = |number, at, piece: &[u8]| initial(Version::V1, &ID, &[5; 12], number, &crypto(at, piece), 1200);
    assert_eq!(hellos.see(&next(1, first_bytes, one)), goes_on());
    assert_eq!(hellos.see(&next(2, first_bytes + 20, two)), named("two.example"));
}

#[test]
fn what_may_mean_something_else_to_a_server_is_unreadable() {
    let good = beginning(Version::V1, &ID, "one.example");
    let see = |datagram: &[u8]| Hellos::default().see(datagram);
    let with = |frames: &[u8]| see(&initial(Version::V1, &ID, &ID, 0, frames, 1200));
    let mut of_other_version = good.clone();
    of_other_version[1..5].copy_from_slice(&[0xff, 0, 0, 29]);
    assert_eq!(see(&of_other_version), Err(Unreadable::Version));
    let mut negotiation = good.clone();
    negotiation[1..5].copy_from_slice(&[0; 4]);
    assert_eq!(see(&negotiation), Err(Unreadable::Version));
    assert_eq!(see(&good[..1199]), Err(Unreadable::NotQuic));
    assert_eq!(see(&initial(Version::V1, &ID, &ID, 0, &crypto(0, &hello(None, 0)), 0)), Err(Unreadable::TooShort));
    let mut changed = good.clone();
    changed[600] ^= 1;
    assert_eq!(see(&changed), Err(Unreadable::Foreign));
    // Behind a good packet too.
    assert_eq!(see(&[&*good, &[0xc0, 9, 9, 9, 9, 0, 0][..]].concat()), Err(Unreadable::Version));
    assert_eq!(see(&[&*good, &[0xf0, 0, 0, 0, 1, 0, 0][..]].concat()), Err(Unreadable::NotQuic));
    // STREAM, and a number in more bytes than it needs.
    assert_eq!(with(&[8, 0, 0]), Err(Unreadable::Frames));
    assert_eq!(with(&[0x40, 6, 0, 0]), Err(Unreadable::Frames));
    assert_eq!(with(&crypto(0, &[2, 0, 0, 0])), Err(Unreadable::Hello));
    assert_eq!(with(&crypto(16_380, &[0; 5])), Err(Unreadable::TooLong));
    let two = [crypto(0, &hello(Some("one.example"), 0)), crypto(0, &hello(Some("two.example"), 0))].concat();
    assert_eq!(with(&two), Err(Unreadable::Contradiction));
    // In another datagram, to the same id.
    let mut hellos = Hellos::default();
    assert_eq!(hellos.see(&good), named("one.example"));
    assert_eq!(hellos.see(&beginning(Version::V1, &ID, "two.example")), Err(Unreadable::Contradiction));
    let foreign = initial(Version::V1, &OTHER_ID, &[5; 12], 0, &[1], 1200);
    assert_eq!(hellos.see(&foreign), Err(Unreadable::Foreign));
}

#[test]
fn what_is_held_back_is_bounded_and_forgotten_with_its_attempt() {
    let whole = hello(Some("api.example.com"), 3000);
    let piece = |id: &[u8], at: usize| initial(Version::V1, id, id, 0, &crypto(at, &whole[at..at + 10]), 1200);
    let mut hellos = Hellos::default();
    for at in 0..MOST_HELD {
        assert_eq!(hellos.see(&piece(&ID, 10 * at)), goes_on());
    }
    assert_eq!(hellos.see(&piece(&ID, 100)), Err(Unreadable::TooLong));
    for id in 1..=u8::try_from(MOST_ATTEMPTS).unwrap() {
        assert_eq!(hellos.see(&piece(&[id; 8], 0)), goes_on());
    }
    assert!(hellos.attempts.iter().all(|attempt| attempt.destination != ID));
    assert!(hellos.release().is_empty());
    // Its last pieces alone are no ClientHello: the server never got the first.
    let rest = initial(Version::V1, &ID, &ID, 1, &crypto(80, &whole[80..1000]), 1200);
    assert_eq!(hellos.see(&rest), goes_on());
}

/// A ClientHello of which nobody was told is none that was read.
#[test]
fn what_was_denied_or_unreadable_is_read_again() {
    let hidden = beginning(Version::V1, &OTHER_ID, "two.example");
    let mut hellos = Hellos::default();
    assert_eq!(hellos.see(&beginning(Version::V1, &ID, "one.example")), named("one.example"));
    // With something behind it that can't be read.
    assert_eq!(hellos.see(&[&*hidden, &[0xc0, 9, 9, 9, 9, 0, 0][..]].concat()), Err(Unreadable::Version));
    assert_eq!(hellos.see(&hidden), named("two.example"));
    hellos.forget();
    // With a packet of another attempt behind it.
    let ack = initial(Version::V1, &ID, &[5; 12], 1, &[2, 0, 0, 0, 0], 0);
    assert_eq!(hellos.see(&[&*hidden, &ack].concat()), named("two.example"));
    hellos.forget();
    assert_eq!(hellos.see(&hidden), named("two.example"));
    // And what was allowed goes on to be known.
    let mut hellos = Hellos::default();
    assert_eq!(hellos.see(&beginning(Version::V1, &ID, "one.example")), named("one.example"));
    assert_eq!(hellos.see(&hidden), named("two.example"));
    hellos.forget();
    assert_eq!(hellos.see(&ack), Ok(Seen { begins: true, ..Seen::default() }));
}

/// What the corpus of the fuzz target began with is what clients send.
#[test]
fn corpus() {
    let whole = hello(Some("api.example.com"), 1500);
    let chunk = |kind: u8, bytes: &[u8]| {
        let length = u16::try_from(bytes.len() + 1).unwrap().to_be_bytes();
        [&length[..], &[kind], bytes].concat()
    };
    let datagrams = |all: &[Vec<u8>]| all.iter().flat_map(|datagram| chunk(0, datagram)).collect::<Vec<u8>>();
    let frames = |all: &[(u8, Vec<u8>)]| all.iter().flat_map(|(kind, frames)| chunk(*kind, frames)).collect::<Vec<u8>>();
    let one = |version| beginning(version, &ID, "one.example");
    let hello_of = |name| crypto(0, &hello(Some(name), 0));
    let handshake = [&[0xe0, 0, 0, 0, 1, 0, 0, 0x40, 20][..], &[7; 20]].concat();
    let seeds = [
        ("v1", datagrams(&[one(Version::V1)])),
        ("v2", datagrams(&[one(Version::V2)])),
        ("two_connections", datagrams(&[one(Version::V1), beginning(Version::V1, &OTHER_ID, "two.example")])),
        ("coalesced", datagrams(&[[&*handshake, &one(Version::V1)].concat()])),
        ("short", datagrams(&[one(Version::V1), vec![0x41; 40]])),
        ("cut", datagrams(&[one(Version::V1)])[..700].to_vec()),
        ("frames", frames(&[(1, hello_of("one.example"))])),
        ("frames_of_two", frames(&[(1, crypto(0, &whole[..1100])), (1, crypto(1100, &whole[1100..]))])),
        ("frames_back_to_front", frames(&[(3, crypto(1100, &whole[1100..])), (3, crypto(0, &whole[..1100]))])),
        ("frames_of_others", frames(&[(1, [&hello_of("one.example")[..], &[1, 2, 0, 0, 0, 0, 0x1c, 0, 0, 0]].concat())])),
        ("contradiction", frames(&[(1, hello_of("one.example")), (1, hello_of("two.example")), (5, hello_of("two.example"))])),
    ];
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/quic");
    for (name, seed) in seeds {
        let held = std::fs::read(folder.join(name)).unwrap_or_default();
        assert!(held == seed, "the seed {name} is not as it would be made");
    }
}
