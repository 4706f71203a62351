//! Messages for tests, written as lines of a zone: `owner ttl type data`.

use std::str::FromStr as _;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::rdata::svcb::{IpHint, SvcParamKey, SvcParamValue};
use hickory_proto::rr::rdata::{CNAME, HTTPS, SVCB, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::Query;

pub(super) const ID: u16 = 0x2a17;

/// A query that wants recursion and has no EDNS: `A www.example.org`.
pub(super) fn ask(question: &str) -> Message {
    let (record_type, name) = question.split_once(' ').unwrap();
    let mut message = Message::new(ID, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Question::query(Name::from_ascii(name).unwrap(), RecordType::from_str(record_type).unwrap()));
    message
}

pub(super) fn bytes(message: &Message) -> Vec<u8> {
    message.to_vec().unwrap()
}

pub(super) fn query(question: &str) -> Query {
    Query::read(&bytes(&ask(question))).unwrap()
}

/// What a server answers with these lines, `+` before those of its additional section.
pub(super) fn answer(question: &str, lines: &[&str]) -> Message {
    let mut message = ask(question).into_response();
    message.metadata.recursion_available = true;
    for line in lines {
        match line.strip_prefix('+') {
            Some(line) => message.add_additional(record(line)),
            None => message.add_answer(record(line)),
        };
    }
    message
}

pub(super) fn record(line: &str) -> Record {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let name = |text: &str| Name::from_ascii(text).unwrap();
    let data = match fields[2] {
        "A" => RData::A(fields[3].parse().unwrap()),
        "AAAA" => RData::AAAA(fields[3].parse().unwrap()),
        "CNAME" => RData::CNAME(CNAME(name(fields[3]))),
        "TXT" => RData::TXT(TXT::new(vec![fields[3].to_owned()])),
        "HTTPS" => RData::HTTPS(HTTPS(service(&fields[3..]))),
        "SVCB" => RData::SVCB(service(&fields[3..])),
        other => panic!("{other}"),
    };
    Record::from_rdata(name(fields[0]), fields[1].parse().unwrap(), data)
}

/// Priority, target, hints of IPv4, then those of IPv6.
fn service(fields: &[&str]) -> SVCB {
    let (v6, v4): (Vec<&str>, Vec<&str>) = fields[2..].iter().partition(|hint| hint.contains(':'));
    let mut params = Vec::new();
    if !v4.is_empty() {
        let hints = v4.iter().map(|hint| hint.parse().unwrap()).collect();
        params.push((SvcParamKey::Ipv4Hint, SvcParamValue::Ipv4Hint(IpHint(hints))));
    }
    if !v6.is_empty() {
        let hints = v6.iter().map(|hint| hint.parse().unwrap()).collect();
        params.push((SvcParamKey::Ipv6Hint, SvcParamValue::Ipv6Hint(IpHint(hints))));
    }
    SVCB::new(fields[0].parse().unwrap(), Name::from_ascii(fields[1]).unwrap(), params)
}
