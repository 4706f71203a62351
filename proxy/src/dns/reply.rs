//! The answers that are made here: to what is denied, to what no server answers, and to what can't be read.

use super::code::{Rcode, RecordType};
use super::query::{DNSSEC_OK, Kind, LEAST_UDP_BYTES, Query};
use super::wire::Header;

/// The longest message that passes nearly all paths in one piece; longer ones are never asked for or sent here.
pub const OUR_UDP_BYTES: u16 = 1232;
/// RFC 8914 section 2.
const EXTENDED_ERROR: u16 = 15;

/// How a denied query is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DenyWith {
    #[default]
    Refused,
    NxDomain,
}

/// Why there is no other answer (RFC 8914 section 4), for those whose query has EDNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendedError {
    Prohibited = 18,
    /// The server didn't answer.
    NoReachableAuthority = 22,
    /// The server couldn't be reached, or what came from it was no answer.
    NetworkError = 23,
}

/// The answer to a query that policy denies. `text` names the policy; it is cut to what the client takes.
///
/// `NXDOMAIN` is said of names alone: what is no look-up is refused.
pub fn refusal(query: &Query, with: DenyWith, text: Option<&str>) -> Vec<u8> {
    let rcode = match (with, query.kind) {
        (DenyWith::NxDomain, Kind::LookUp) => Rcode::NX_DOMAIN,
        _ => Rcode::REFUSED,
    };
    reply(query, rcode, ExtendedError::Prohibited, text)
}

/// The answer to an allowed name with a search suffix behind it: the resolver goes on with the next of its list, where some give up
/// on a refusal.
pub fn no_such_name(query: &Query) -> Vec<u8> {
    reply(query, Rcode::NX_DOMAIN, ExtendedError::Prohibited, Some("an allowed name with a search suffix behind it"))
}

/// The answer where the server gave none in time, or none that could be believed.
pub fn failure(query: &Query, why: ExtendedError, text: Option<&str>) -> Vec<u8> {
    reply(query, Rcode::SERV_FAIL, why, text)
}

/// The answer to bytes that are [`Malformed`](super::Malformed): `FORMERR`, of its header alone. `None`: there is no header, or it is a
/// response's, which nobody answers.
pub fn unreadable(message: &[u8]) -> Option<Vec<u8>> {
    let header = Header::read(message).filter(|header| !header.is_response())?;
    let mut answer = Vec::new();
    header.answered(Rcode::FORM_ERR.0, 0, 0).write(&mut answer);
    Some(answer)
}

fn reply(query: &Query, rcode: Rcode, why: ExtendedError, text: Option<&str>) -> Vec<u8> {
    let mut answer = Vec::new();
    let (questions, additionals) = (u16::from(!query.question.is_empty()), u16::from(query.edns.is_some()));
    query.header.answered(rcode.0, questions, additionals).write(&mut answer);
    answer.extend(&query.question);
    let Some(edns) = query.edns else { return answer };

    // The root, which owns it; then type, class, the upper bits of the code with the version, flags, and the length of the options.
    let fixed_bytes = 1 + 10 + 6;
    let most_bytes = usize::from(edns.udp_bytes.clamp(LEAST_UDP_BYTES, OUR_UDP_BYTES));
    let text = text.unwrap_or_default();
    let text = &text[..text.floor_char_boundary(most_bytes - answer.len() - fixed_bytes)];
    let text_bytes = u16::try_from(text.len()).expect("it is cut to less than a message over UDP");
    answer.push(0);
    let flags = if edns.dnssec_ok { DNSSEC_OK } else { 0 };
    for field in [RecordType::OPT.0, OUR_UDP_BYTES, 0, flags, 6 + text_bytes, EXTENDED_ERROR, 2 + text_bytes, why as u16] {
        answer.extend(field.to_be_bytes());
    }
    answer.extend(text.as_bytes());
    answer
}

#[cfg(test)]
mod tests;
