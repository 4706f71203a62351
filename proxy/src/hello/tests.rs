use proptest::prelude::*;

use super::{Hello, HelloScanner};

const LIMIT: usize = 4096;

fn vector8(content: &[u8]) -> Vec<u8> {
    [&[u8::try_from(content.len()).unwrap()], content].concat()
}

fn vector16(content: &[u8]) -> Vec<u8> {
    [&u16::try_from(content.len()).unwrap().to_be_bytes(), content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), vector16(content)].concat()
}

/// A list of host names as the extension has it.
fn names(names: &[&[u8]]) -> Vec<u8> {
    let names: Vec<u8> = names.iter().flat_map(|name| [vec![0], vector16(name)].concat()).collect();
    extension(0, &vector16(&names))
}

/// What stands before the extensions.
fn beginning() -> Vec<u8> {
    [vec![3, 3], vec![7; 32], vector8(&[9; 32]), vector16(&[0x13, 1, 0x13, 2]), vector8(&[0])].concat()
}

fn with_extensions(extensions: &[Vec<u8>]) -> Vec<u8> {
    [beginning(), vector16(&extensions.concat())].concat()
}

fn message(body: &[u8]) -> Vec<u8> {
    [&[1], &u32::try_from(body.len()).unwrap().to_be_bytes()[1..], body].concat()
}

/// A message in records of these lengths, the rest in a last one.
fn records(message: &[u8], lengths: &[usize]) -> Vec<u8> {
    let mut rest = message;
    let mut bytes = Vec::new();
    for length in lengths.iter().copied().chain([usize::MAX]) {
        let (fragment, left) = rest.split_at(length.min(rest.len()));
        rest = left;
        if !fragment.is_empty() {
            bytes.extend([vec![22, 3, 1], vector16(fragment)].concat());
        }
    }
    bytes
}

fn read(bytes: &[u8]) -> Hello {
    HelloScanner::default().scan(bytes, LIMIT)
}

fn named(name: Option<&str>) -> Hello {
    Hello::Complete { server_name: name.map(str::to_owned) }
}

#[test]
fn names_and_their_absence() {
    let other = extension(10, &[0, 2, 0, 29]);
    let rows: [(&str, Vec<u8>, Hello); 18] = [
        (
            "one name",
            with_extensions(&[other.clone(), names(&[b"api.example.com"]), other.clone()]),
            named(Some("api.example.com")),
        ),
        ("capitals, a final dot", with_extensions(&[names(&[b"API.Example.COM."])]), named(Some("api.example.com"))),
        ("no such extension", with_extensions(std::slice::from_ref(&other)), named(None)),
        ("no extensions", beginning(), named(None)),
        ("an empty list of extensions", with_extensions(&[]), named(None)),
        ("an IPv4 address", with_extensions(&[names(&[b"192.0.2.1"])]), named(None)),
        ("an IPv6 address", with_extensions(&[names(&[b"2001:db8::1"])]), named(None)),
        ("two names", with_extensions(&[names(&[b"a.example", b"b.example"])]), Hello::Unreadable),
        ("two extensions", with_extensions(&[names(&[b"a.example"]), names(&[b"b.example"])]), Hello::Unreadable),
        ("no name in the list", with_extensions(&[names(&[])]), Hello::Unreadable),
        ("an empty name", with_extensions(&[names(&[b""])]), Hello::Unreadable),
        ("an empty label", with_extensions(&[names(&[b"a..example"])]), Hello::Unreadable),
        ("only a dot", with_extensions(&[names(&[b"."])]), Hello::Unreadable),
        ("a NUL", with_extensions(&[names(&[b"a.example\0.b.example"])]), Hello::Unreadable),
        ("another kind of name", with_extensions(&[extension(0, &vector16(&[1, 0, 1, b'a']))]), Hello::Unreadable),
        ("bytes behind the extensions", [with_extensions(&[names(&[b"a.example"])]), vec![0]].concat(), Hello::Unreadable),
        ("no cipher suites", [vec![3, 3], vec![7; 32], vec![0], vec![0, 0], vec![1, 0]].concat(), Hello::Unreadable),
        ("a name too long", with_extensions(&[names(&[&[b"a.".repeat(127), b"aa".to_vec()].concat()])]), Hello::Unreadable),
    ];
    for (what, body, expected) in rows {
        assert_eq!(read(&records(&message(&body), &[])), expected, "{what}");
    }
}

#[test]
fn what_is_no_hello() {
    let good = records(&message(&with_extensions(&[names(&[b"a.example"])])), &[]);
    assert_eq!(read(&[good.as_slice(), b"\x14\x03\x03\0\x01\x01"].concat()), named(Some("a.example")), "early bytes behind it");
    let behind = records(&[message(&beginning()), vec![0]].concat(), &[]);
    assert_eq!(read(&behind), Hello::Unreadable, "bytes behind the message in its record");
    for (at, byte) in [(0, 23), (1, 2), (5, 2), (9, 4)] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(read(&bytes), Hello::Unreadable, "byte {at}");
    }
    assert_eq!(read(&[22, 3, 1, 0, 0]), Hello::Unreadable, "an empty record");
    assert_eq!(read(&[22, 3, 1, 0x40, 1]), Hello::Unreadable, "a record beyond 2^14 bytes");
    // Each record is small, and the message would be 16 MiB.
    let endless = records(&[vec![1, 0xff, 0xff, 0xff], vec![0; LIMIT]].concat(), &[100; 60]);
    assert_eq!(read(&endless[..LIMIT - 1]), Hello::Incomplete);
    assert_eq!(read(&endless), Hello::Unreadable, "beyond the limit");
}

/// The answer where the bytes arrive in these portions: the first that is certain.
fn read_in(bytes: &[u8], portions: &[usize]) -> Hello {
    let mut scanner = HelloScanner::default();
    let mut end = 0_usize;
    for portion in portions.iter().copied().chain([usize::MAX]) {
        end = end.saturating_add(portion).min(bytes.len());
        let answer = scanner.scan(&bytes[..end], LIMIT);
        if answer != Hello::Incomplete {
            return answer;
        }
    }
    Hello::Incomplete
}

proptest! {
    #[test]
    fn any_split_gives_the_same_answer(
        name in "[a-zA-Z0-9-]{1,20}(\\.[a-z0-9]{1,20}){0,3}",
        padding in 0_usize..6000,
        lengths in prop::collection::vec(1_usize..700, 0..12),
        portions in prop::collection::vec(0_usize..900, 0..12),
        flip in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let body = with_extensions(&[extension(21, &vec![0; padding]), names(&[name.as_bytes()])]);
        let mut bytes = records(&message(&body), &lengths);
        if let Some((at, byte)) = flip {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        } else if bytes.len() <= LIMIT && name.parse::<std::net::IpAddr>().is_err() {
            prop_assert_eq!(read(&bytes), named(Some(&name.to_ascii_lowercase())));
        }
        prop_assert_eq!(read_in(&bytes, &portions), read(&bytes));
        prop_assert_eq!(read_in(&bytes, &vec![1; bytes.len()]), read(&bytes));
    }

    #[test]
    fn random_bytes_have_an_answer(mut bytes in prop::collection::vec(any::<u8>(), 0..600), begins in 0..3) {
        if begins > 0 {
            bytes.splice(0..bytes.len().min(3), [22, 3, 1]);
        }
        let body: Vec<u8> = bytes.clone();
        let bytes = if begins == 2 { records(&message(&body), &[]) } else { bytes };
        let answer = read(&bytes);
        prop_assert_eq!(read_in(&bytes, &vec![1; bytes.len()]), answer);
    }
}
