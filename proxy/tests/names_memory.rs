//! What 10,000 names with 10 addresses each take, measured in a process of its own.

#![expect(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, Ipv4Addr};

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use sluice_proxy::dns::{Answer, Query, believe};
use sluice_proxy::names::{Limits, Moment, Names, NamesMetrics};

const NAMES: u32 = 10_000;
const ADDRESSES: u32 = 10;

/// Resident memory of this process, without what it shares with files.
fn anonymous_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn answer(number: u32) -> Answer {
    let name = Name::from_ascii(format!("a-name-of-common-length-{number}.service.example.org.")).unwrap();
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(name.clone(), RecordType::A));
    let query = Query::read(&message.to_vec().unwrap()).unwrap();
    let mut message = message.into_response();
    for address in 0..ADDRESSES {
        let address = Ipv4Addr::from(0x0a00_0000 + number * ADDRESSES + address);
        message.add_answer(Record::from_rdata(name.clone(), 3600, RData::A(address.into())));
    }
    believe(&query, &message.to_vec().unwrap()).unwrap()
}

/// No two names share an address, so nothing is shared in the store either.
#[test]
fn ten_thousand_names_of_ten_addresses_take_less_than_half_of_64_mib() {
    let names = Names::new(Limits::default(), NamesMetrics::default());
    let pod = IpAddr::from([10, 0, 0, 1]);
    let now = Moment::now();
    let before = anonymous_kib();
    for number in 0..NAMES {
        let lesson = names.learn(pod, &answer(number), now);
        assert_eq!(lesson.addresses.len(), ADDRESSES as usize);
        names.confirm(&lesson);
        assert!(lesson.displaced.is_empty());
    }
    let taken = anonymous_kib().saturating_sub(before);
    println!(
        "{NAMES} names with {ADDRESSES} addresses each: {taken} KiB, {} bytes an address",
        taken * 1024 / u64::from(NAMES * ADDRESSES)
    );
    assert_eq!(names.all(now).len(), (NAMES * ADDRESSES) as usize);
    assert!(taken < 32 * 1024, "{taken} KiB");
}
