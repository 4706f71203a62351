//! What a server says of a name, as the codec believes it.

use std::net::IpAddr;

use hickory_proto::op::{Message, MessageType, OpCode, Query as Question};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use sluice_proxy::dns::{Answer, Query, believe};

/// The answer to a question for the addresses of one family. All of `ips` are of that family.
pub fn answer(name: &str, ips: &[IpAddr], ttl_seconds: u32) -> Answer {
    let is_v6 = ips.iter().any(IpAddr::is_ipv6);
    let name = Name::from_ascii(format!("{}.", name.trim_end_matches('.'))).expect("a name");
    let kind = if is_v6 { RecordType::AAAA } else { RecordType::A };
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Question::query(name.clone(), kind));
    let query = Query::read(&message.to_vec().expect("a question")).expect("a question that can be read");
    let mut message = message.into_response();
    for ip in ips {
        let data = match *ip {
            IpAddr::V4(ip) => RData::A(ip.into()),
            IpAddr::V6(ip) => RData::AAAA(ip.into()),
        };
        message.add_answer(Record::from_rdata(name.clone(), ttl_seconds, data));
    }
    believe(&query, &message.to_vec().expect("an answer")).expect("an answer that can be believed")
}
