//! What must hold of any two messages: a query from a pod, and what a server says to it.

use hickory_proto::op::{Message, MessageType};

use super::wire::plain;
use super::{
    DenyWith, ExtendedError, Frames, Kind, NotBelieved, Query, RecordType, believe, failure, frame, no_such_name, refusal,
    unreadable,
};

/// Longer than an answer can hold, and with characters of all widths.
const TEXT: &str = "SluiceNetworkPolicy prøduction/bäckend €𝄞 ";

/// `data` is a stream of two messages, the second perhaps cut.
pub fn dns(data: &[u8]) {
    let (mut frames, mut read) = (Frames::new(usize::from(u16::MAX)), data);
    let Ok(Some(asked)) = frames.next(&mut read) else { return };
    let said = read.get(2..).unwrap_or_default();
    let query = match Query::read(&asked) {
        Ok(query) => query,
        Err(_) => return answers_nothing(&asked),
    };
    same_as_the_parser(&query, &asked);
    let text = TEXT.repeat(40);
    for text in [None, Some(&*text), Some("")] {
        for made in [
            refusal(&query, DenyWith::Refused, text),
            refusal(&query, DenyWith::NxDomain, text),
            no_such_name(&query),
            failure(&query, ExtendedError::NetworkError, text),
        ] {
            fits(&query, &made);
        }
    }
    learns_what_was_asked(&query, said);
}

fn answers_nothing(asked: &[u8]) {
    let answer = unreadable(asked);
    assert_eq!(answer.is_some(), asked.len() >= 12 && asked[2] & 0x80 == 0);
    let Some(answer) = answer else { return };
    let message = Message::from_vec(&answer).expect("a header is a message");
    assert_eq!((answer[..2].as_ref(), message.metadata.message_type), (&asked[..2], MessageType::Response));
}

/// Where the parser reads a query as well, both see the same question.
fn same_as_the_parser(query: &Query, asked: &[u8]) {
    let Some(message) = Message::from_vec(asked).ok().filter(|_| !query.question.is_empty()) else { return };
    let [question] = &message.queries[..] else { return assert_eq!(query.kind, Kind::Other) };
    assert_eq!((&plain(question.name().iter()), query.id), (&query.name, message.metadata.id));
    assert_eq!(u16::from(question.query_type()), query.record_type.0);
    if let Some(edns) = query.edns {
        let theirs = message.edns.as_ref().map(|edns| (edns.max_payload(), edns.flags().dnssec_ok));
        assert_eq!(theirs, Some((edns.udp_bytes, edns.dnssec_ok)));
    }
}

/// An answer made here is a message, no larger than the client takes, and belongs to its query.
fn fits(query: &Query, made: &[u8]) {
    assert!(made.len() <= query.edns.map_or(512, |edns| usize::from(edns.udp_bytes.min(1232))), "{} bytes", made.len());
    let message = Message::from_vec(made).expect("what is made here can be read");
    let flags = &message.metadata;
    assert_eq!((flags.id, flags.message_type), (query.id, MessageType::Response));
    assert!(flags.recursion_available && !flags.authoritative && !flags.authentic_data && !flags.truncation);
    assert_eq!((flags.recursion_desired, flags.checking_disabled), (query.recursion_desired, query.checking_disabled));
    assert_eq!(message.edns.is_some(), query.edns.is_some());
    assert!(made[12..].starts_with(&query.question));
    let believed = believe(query, made).expect("it answers its query");
    assert!(believed.addresses.is_empty());
}

/// What is learned hangs on the question, and another's answer is never believed.
fn learns_what_was_asked(query: &Query, said: &[u8]) {
    let Ok(answer) = believe(query, said) else { return };
    assert_eq!(answer.names[0], query.name);
    for (index, name) in answer.names.iter().enumerate() {
        assert!(!answer.names[..index].contains(name), "{name} twice");
    }
    let teaches = matches!(query.record_type, RecordType::A | RecordType::AAAA | RecordType::SVCB | RecordType::HTTPS);
    if answer.truncated || answer.rcode.0 != 0 || query.kind == Kind::Other || !teaches {
        assert!(answer.addresses.is_empty());
    }
    for address in &answer.addresses {
        assert!(answer.names.starts_with(answer.names_of(address)) && !answer.names_of(address).is_empty());
        assert!(address.ttl_seconds <= 0x7fff_ffff && answer.ttl_seconds <= Some(address.ttl_seconds));
        assert!(address.ip.is_ipv4() || query.record_type != RecordType::A);
        assert!(address.ip.is_ipv6() || query.record_type != RecordType::AAAA);
    }
    let mut other = said.to_vec();
    other[0] ^= 1;
    assert!(matches!(believe(query, &other), Err(NotBelieved::OtherId { .. })));
    if query.kind == Kind::LookUp {
        let mut other = said.to_vec();
        // The lower byte of the type.
        other[12 + query.question.len() - 3] ^= 1;
        assert!(matches!(believe(query, &other), Err(NotBelieved::OtherQuestion)));
    }
    assert_eq!(frame(said).map(|framed| framed.len()), Ok(said.len() + 2));
}
