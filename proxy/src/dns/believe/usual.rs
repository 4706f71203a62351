//! The answer that nearly all are: addresses of the very name that was asked for, and perhaps an OPT record that says nothing else.
//!
//! It is read here without a parser, a tenth of the work. Whatever is different in the least is none of it and goes the long way, so that what
//! is learned is the same by both.

use std::net::IpAddr;

use super::super::chain::ttl_of;
use super::super::code::RecordType;
use super::super::query::{Kind, Query};
use super::super::wire::{HEADER_BYTES, Header, u16_at};
use super::{Address, Answer, unread};

/// Records of an answer that are read here. Each is compared with those before it.
const MOST: u16 = 16;
const IN: u16 = 1;
/// A name that is the question's: a pointer to where that begins, behind the header.
const THE_QUESTIONS: u16 = 0xc00c;
/// The name of the root and the type of an OPT record.
const OPT: [u8; 3] = [0, 0, 41];

/// `None`: it is another answer. The response's question is the query's, and its name points nowhere.
pub(super) fn read(query: &Query, header: Header, response: &[u8]) -> Option<Answer> {
    let is_usual = query.kind == Kind::LookUp && header.rcode() == 0 && header.questions == 1;
    if !is_usual || header.answers > MOST || header.authorities != 0 || header.additionals > 1 {
        return None;
    }
    let mut rest = response.get(HEADER_BYTES + query.question.len()..)?;
    let mut addresses: Vec<Address> = Vec::with_capacity(header.answers.into());
    for _ in 0..header.answers {
        let (fixed, after) = rest.split_first_chunk::<12>()?;
        let field = |at| u16_at(fixed, at);
        if field(0)? != THE_QUESTIONS || field(2)? != query.record_type.0 || field(4)? != IN {
            return None;
        }
        let (ip, after): (IpAddr, _) = match (query.record_type, field(10)?) {
            (RecordType::A, 4) => after.split_first_chunk::<4>().map(|(ip, after)| (IpAddr::from(*ip), after))?,
            (RecordType::AAAA, 16) => after.split_first_chunk::<16>().map(|(ip, after)| (IpAddr::from(*ip), after))?,
            _ => return None,
        };
        let ttl_seconds = ttl_of(u32::from_be_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]));
        match addresses.iter_mut().find(|address| address.ip == ip) {
            Some(before) => before.ttl_seconds = before.ttl_seconds.min(ttl_seconds),
            None => addresses.push(Address { ip, ttl_seconds, links: 1 }),
        }
        rest = after;
    }
    if header.additionals == 1 {
        // Of its own size, without a part of the rcode, of version 0, with no options.
        let (opt, after) = rest.split_first_chunk::<11>()?;
        if opt[..3] != OPT || opt[5..7] != [0; 2] || opt[9..] != [0; 2] {
            return None;
        }
        rest = after;
    }
    rest.is_empty().then(|| Answer {
        ttl_seconds: addresses.iter().map(|address| address.ttl_seconds).min(),
        addresses,
        ..unread(query, header)
    })
}

#[cfg(test)]
mod tests;
