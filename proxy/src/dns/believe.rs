//! What may be learned from a server's answer. It is handed on as it came; here a copy of it is read.
//!
//! | answer | what becomes of it |
//! |---|---|
//! | of another id, opcode or question, a query, or no message at all | [`NotBelieved`]: dropped, so that the true one can still come |
//! | to the question, but not a message that can be read to its end | [`NotBelieved`] |
//! | truncated (`TC`) | believed and unread: the client asks again over TCP |
//! | to a query that is no look-up | believed and unread |
//! | another outcome than NOERROR | believed, teaches nothing |
//! | to a question of type A, or AAAA | teaches the addresses of that family that the names of its chain have |
//! | to a question of type HTTPS, or SVCB | teaches their address hints, and the addresses that its names have beside them |
//! | to any other question | believed, teaches nothing |

mod usual;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;

use hickory_proto::op::Message;
use hickory_proto::rr::rdata::svcb::SvcParamValue;
use hickory_proto::rr::{RData, rdata::SVCB};
use hickory_proto::serialize::binary::DecodeError;
use thiserror::Error;
use tracing::{Dispatch, dispatcher};

use super::chain::{Link, Records, is_service, ttl};
use super::code::{Rcode, RecordType};
use super::query::{Kind, Query};
use super::wire::{HEADER_BYTES, Header, longest_row_of_pointers};

/// Records in one answer. All the addresses that a message can hold are fewer.
pub const MOST_RECORDS: usize = 4096;
/// Pointers that one name may go through. Real names go through one for each label at most, and rarely through more than three.
const MOST_POINTERS: usize = 16;
/// Addresses that are taken from one answer: hints are four bytes each.
pub const MOST_ADDRESSES: usize = 4096;

/// An answer to the question that was asked, and what it teaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub rcode: Rcode,
    /// It was cut: it teaches nothing.
    pub truncated: bool,
    /// The chain of names, in the form that patterns compare with. The first is the one that was asked for, and policy allowed; what
    /// the others are is the server's word alone.
    pub names: Vec<String>,
    pub addresses: Vec<Address>,
    /// Addresses beyond [`MOST_ADDRESSES`], which are not learned.
    pub left_out: usize,
    /// The least of the chain and the addresses. `None`: there is neither.
    pub ttl_seconds: Option<u32>,
}

/// An address that a name has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    pub ip: IpAddr,
    /// The least of its own and the aliases that lead to it. At most 2^31 - 1.
    pub ttl_seconds: u32,
    /// How many names lead to it, from the first on: at least one.
    links: usize,
}

impl Answer {
    /// The names that lead to `address`, from the one that was asked for to its owner.
    pub fn names_of(&self, address: &Address) -> &[String] {
        &self.names[..address.links]
    }
}

/// Why an answer is dropped.
#[derive(Debug, Error)]
pub enum NotBelieved {
    #[error("{0} bytes are less than a header")]
    Short(usize),
    #[error("a query, where an answer belongs")]
    NotAResponse,
    #[error("id {got}, where {asked} was asked")]
    OtherId { asked: u16, got: u16 },
    #[error("opcode {got}, where {asked} was asked")]
    OtherOpcode { asked: u16, got: u16 },
    #[error("another question than the one that was asked")]
    OtherQuestion,
    #[error("{0} records, where {MOST_RECORDS} is the most")]
    TooManyRecords(usize),
    #[error("names that point on and on, {0} times, where {MOST_POINTERS} is the most")]
    TooManyPointers(usize),
    #[error("its records can't be read")]
    Unreadable(#[from] DecodeError),
}

/// Reads what came from the server that `query` went to, at the port that it went from: both are for the caller to see to.
pub fn believe(query: &Query, response: &[u8]) -> Result<Answer, NotBelieved> {
    let header = Header::read(response).ok_or(NotBelieved::Short(response.len()))?;
    belongs(query, header, response)?;
    let answer = unread(query, header);
    if answer.truncated || query.kind == Kind::Other {
        return Ok(answer);
    }
    match usual::read(query, header, response) {
        Some(usual) => Ok(usual),
        None => parsed(query, header, response, answer),
    }
}

/// What can be told of an answer without reading its records.
fn unread(query: &Query, header: Header) -> Answer {
    Answer {
        rcode: Rcode(header.rcode()),
        truncated: header.is_truncated(),
        names: vec![query.name.clone()],
        addresses: Vec::new(),
        left_out: 0,
        ttl_seconds: None,
    }
}

/// What is learned beyond `answer`, which is what can be told without reading records.
fn parsed(query: &Query, header: Header, response: &[u8], mut answer: Answer) -> Result<Answer, NotBelieved> {
    if header.records() > MOST_RECORDS {
        return Err(NotBelieved::TooManyRecords(header.records()));
    }
    let pointers = longest_row_of_pointers(response);
    if pointers > MOST_POINTERS {
        return Err(NotBelieved::TooManyPointers(pointers));
    }
    let message = parse(response)?;
    answer.rcode = Rcode(message.metadata.response_code.into());
    let records = Records::of(&message, query.record_type);
    let chain = records.chain(&query.name);
    if answer.rcode == Rcode::NO_ERROR {
        answer.learn(&records, &chain, query.record_type);
    }
    let of_chain = chain.last().and_then(|end| end.ttl);
    answer.ttl_seconds = answer.addresses.iter().map(|address| address.ttl_seconds).chain(of_chain).min();
    answer.names = chain.into_iter().map(|link| link.name).collect();
    Ok(answer)
}

/// The parser writes to the log what it finds odd, all of it and each time. Strangers have no say in the log.
fn parse(response: &[u8]) -> Result<Message, DecodeError> {
    dispatcher::with_default(&Dispatch::none(), || Message::from_vec(response))
}

/// What can be told without reading records. Other operations may leave the question out of their answers (RFC 2136 section 3.8, RFC
/// 5936 section 2.2.1).
fn belongs(query: &Query, header: Header, response: &[u8]) -> Result<(), NotBelieved> {
    if !header.is_response() {
        return Err(NotBelieved::NotAResponse);
    }
    if header.id != query.id {
        return Err(NotBelieved::OtherId { asked: query.id, got: header.id });
    }
    let asked = query.header.opcode();
    if header.opcode() != asked {
        return Err(NotBelieved::OtherOpcode { asked, got: header.opcode() });
    }
    if query.kind == Kind::Other && (header.questions == 0 || query.question.is_empty()) {
        return Ok(());
    }
    // A length in a name is less than any letter, so this makes nothing equal but letters.
    let Some((name, rest)) = query.question.split_last_chunk::<4>() else { return Err(NotBelieved::OtherQuestion) };
    let got = response.get(HEADER_BYTES..HEADER_BYTES + query.question.len()).and_then(|got| got.split_last_chunk::<4>());
    if header.questions == 1 && got.is_some_and(|(got, fields)| got.eq_ignore_ascii_case(name) && fields == rest) {
        Ok(())
    } else {
        Err(NotBelieved::OtherQuestion)
    }
}

impl Answer {
    fn learn(&mut self, records: &Records<'_>, chain: &[Link], asked: RecordType) {
        let mut known = HashMap::new();
        for (index, link) in chain.iter().enumerate() {
            let mut add = |ip: IpAddr, own: u32| {
                let ttl_seconds = link.ttl.map_or(own, |of_chain| of_chain.min(own));
                match known.entry((index, ip)) {
                    Entry::Occupied(at) => {
                        let before: &mut Address = &mut self.addresses[*at.get()];
                        before.ttl_seconds = before.ttl_seconds.min(ttl_seconds);
                    }
                    Entry::Vacant(_) if self.addresses.len() == MOST_ADDRESSES => self.left_out += 1,
                    Entry::Vacant(place) => {
                        place.insert(self.addresses.len());
                        self.addresses.push(Address { ip, ttl_seconds, links: index + 1 });
                    }
                }
            };
            for record in records.of_owner(&link.name) {
                match &record.data {
                    RData::A(a) if asked == RecordType::A || is_service(asked) => add(a.0.into(), ttl(record)),
                    RData::AAAA(aaaa) if asked == RecordType::AAAA || is_service(asked) => add(aaaa.0.into(), ttl(record)),
                    _ => {}
                }
            }
            for (ttl, service) in records.bindings(&link.name) {
                hints(service).for_each(|ip| add(ip, ttl));
            }
        }
    }
}

/// RFC 9460 section 7.3.
fn hints(service: &SVCB) -> impl Iterator<Item = IpAddr> {
    service.svc_params.iter().flat_map(|(_, value)| -> Vec<IpAddr> {
        match value {
            SvcParamValue::Ipv4Hint(hint) => hint.0.iter().map(|a| a.0.into()).collect(),
            SvcParamValue::Ipv6Hint(hint) => hint.0.iter().map(|aaaa| aaaa.0.into()).collect(),
            _ => Vec::new(),
        }
    })
}

#[cfg(test)]
mod tests;
