use proptest::prelude::*;

use super::*;

const V4: [&str; 2] = ["10.96.0.10:53", "10.0.1.1:40000"];
const V6: [&str; 2] = ["[fd00::10]:53", "[fd00:1::1]:40000"];

fn datagram([from, to]: [&str; 2], message: &[u8]) -> Datagram {
    Datagram::new(from.parse().unwrap(), to.parse().unwrap(), message).unwrap()
}

/// What a receiver computes: zero over all that is covered, the checksum included.
fn is_right(datagram: &Datagram) -> bool {
    let bytes = u16::try_from(datagram.segment.len()).unwrap();
    checksum(pseudo_header(UDP, datagram.from, datagram.to, bytes), &datagram.segment) == 0
}

#[test]
fn checksums_of_rfc_1071_and_of_a_known_header() {
    // RFC 1071 section 3: the sum of these is ddf2.
    assert_eq!(checksum(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    // Of an odd number of bytes, the last is the upper half of a word.
    assert_eq!(checksum(0, &[0x00, 0x01, 0xf2]), !0xf201);
    let header = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
    assert_eq!(checksum(0, &header), 0xb861);
}

#[test]
fn packets_to_the_byte() {
    let packet = datagram(V4, b"abc").whole();
    assert_eq!(
        packet,
        [
            0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0x65, 0x64, 10, 96, 0, 10, 10, 0, 1, 1, // IP
            0, 53, 0x9c, 0x40, 0, 11, 0x89, 0x95, b'a', b'b', b'c',
        ]
    );
    let packet = datagram(V6, b"abcd").whole();
    assert_eq!(packet[..8], [0x60, 0, 0, 0, 0, 12, 17, 64]);
    assert_eq!(packet[8..24], "fd00::10".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(packet[24..40], "fd00:1::1".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(packet[40..46], [0, 53, 0x9c, 0x40, 0, 12]);
    assert_eq!(packet[48..], *b"abcd");
}

#[test]
fn what_is_no_datagram_is_none() {
    let [v4, v6] = [V4, V6].map(|ends| ends.map(|end| end.parse().unwrap()));
    assert_eq!(Datagram::new(v4[0], v6[1], b""), None);
    assert_eq!(Datagram::new(v4[0], v4[1], &vec![0; 65_508]), None);
    assert_eq!(Datagram::new(v4[0], v4[1], &vec![0; 65_507]).unwrap().whole().len(), 65_535);
    assert_eq!(Datagram::new(v6[0], v6[1], &vec![0; 65_528]), None);
    assert_eq!(Datagram::new(v6[0], v6[1], &vec![0; 65_527]).unwrap().whole().len(), 65_575);
}

#[test]
fn a_checksum_of_zero_is_written_as_its_other_form() {
    // Two bytes that bring the sum to what gives zero.
    let without = datagram(V4, &[0, 0]);
    let rest = u16::from_be_bytes([without.segment[6], without.segment[7]]);
    let with = datagram(V4, &rest.to_be_bytes());
    assert_eq!(with.segment[6..8], [0xff, 0xff]);
    assert!(is_right(&with));
}

/// Puts fragments together again, as their headers say.
fn reassembled(fragments: &[Vec<u8>], is_v4: bool) -> Vec<u8> {
    let mut whole = Vec::new();
    for (index, fragment) in fragments.iter().enumerate() {
        let (offset, more, piece) = if is_v4 {
            assert_eq!(checksum(0, &fragment[..20]), 0);
            assert_eq!(usize::from(u16::from_be_bytes([fragment[2], fragment[3]])), fragment.len());
            assert_eq!(fragment[4..6], [0x56, 0x78]);
            let field = u16::from_be_bytes([fragment[6], fragment[7]]);
            (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0, &fragment[20..])
        } else {
            assert_eq!(usize::from(u16::from_be_bytes([fragment[4], fragment[5]])) + 40, fragment.len());
            assert_eq!((fragment[6], fragment[40], &fragment[44..48]), (44, 17, &[0x12, 0x34, 0x56, 0x78][..]));
            let field = u16::from_be_bytes([fragment[42], fragment[43]]);
            (usize::from(field & 0xfff8), field & 1 != 0, &fragment[48..])
        };
        assert!(fragment.len() <= 1280);
        assert_eq!(offset, whole.len());
        assert_eq!(more, index + 1 < fragments.len());
        whole.extend(piece);
    }
    whole
}

#[test]
fn the_longest_are_cut_to_their_end() {
    for (ends, longest) in [(V4, 65_507), (V6, 65_527)] {
        let datagram = datagram(ends, &vec![7; longest]);
        let fragments: Vec<_> = datagram.fragments(0x1234_5678).collect();
        assert_eq!(reassembled(&fragments, ends == V4), datagram.segment);
    }
}

proptest! {
    #[test]
    fn fragments_are_the_whole(message in prop::collection::vec(any::<u8>(), 0..6000), v4: bool) {
        let datagram = datagram(if v4 { V4 } else { V6 }, &message);
        prop_assert!(is_right(&datagram));
        let fragments: Vec<_> = datagram.fragments(0x1234_5678).collect();
        prop_assert_eq!(reassembled(&fragments, v4), datagram.segment);
    }
}

/// ICMP about a datagram of a client: from the server, and with as much of it as fits.
#[test]
fn errors_quote_what_they_are_about() {
    for (from, to, most) in [("10.0.0.1:4000", "192.0.2.1:443", 576), ("[fd00::1]:4000", "[2001:db8::1]:443", 1280)] {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        for bytes in [0, 21, 1200] {
            let datagram = Datagram::new(from, to, &vec![7; bytes]).unwrap();
            let error = datagram.prohibited();
            let (header_bytes, begun) = if from.is_ipv4() {
                assert_eq!((error[9], checksum(0, &error[..20])), (ICMP, 0));
                assert_eq!((&error[12..16], &error[16..20]), (&*octets(to.ip()), &*octets(from.ip())));
                assert_eq!(error[20..22], [3, 13]);
                (20, 0)
            } else {
                assert_eq!((error[6], &error[8..24], &error[24..40]), (ICMPV6, &*octets(to.ip()), &*octets(from.ip())));
                assert_eq!(error[40..42], [1, 1]);
                (40, pseudo_header(ICMPV6, to.ip(), from.ip(), length(error.len() - 40)))
            };
            assert_eq!(checksum(begun, &error[header_bytes..]), 0);
            let quoted = &error[header_bytes + 8..];
            assert!(datagram.whole().starts_with(quoted) && error.len() == most.min(header_bytes + 8 + datagram.whole().len()));
        }
    }
}

#[test]
fn what_must_not_be_cut_says_so() {
    let of = |from: &str, to: &str| Datagram::new(from.parse().unwrap(), to.parse().unwrap(), b"x").unwrap().uncut();
    let packet = of("192.0.2.1:443", "10.0.0.1:4000");
    assert_eq!((&packet[6..8], checksum(0, &packet[..20])), (&[0x40, 0][..], 0));
    assert_eq!(of("[fd00::1]:443", "[fd00::2]:4000")[6], UDP);
}
