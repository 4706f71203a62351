//! What a pod asks.
//!
//! | query | what it is here |
//! |---|---|
//! | opcode QUERY, class IN, any type of records | [`Kind::LookUp`]: judged by name and type |
//! | the same, type ANY | [`Kind::LookUp`]: rules can name it; its answer teaches nothing |
//! | the same, a transfer (AXFR, IXFR) or another meta type (OPT, TKEY, TSIG, MAILA, ..) | [`Kind::Other`] |
//! | opcode QUERY, another class (CH, HS, NONE, ANY, ..) | [`Kind::Other`] |
//! | another opcode (NOTIFY, UPDATE, DSO, ..), whatever it holds | [`Kind::Other`], read no further than a question |
//! | opcode QUERY with no question or several, with answers, with two OPT records, with bytes that belong to no part | [`Malformed`] |
//! | a response | [`Malformed`], and gets no answer |

use thiserror::Error;

use super::code::RecordType;
use super::wire::{Header, Question, Skipped};

/// RFC 1035 section 3.2.4.
const IN: u16 = 1;
const QUERY: u16 = 0;
/// RFC 6891 section 6.1.4.
pub(super) const DNSSEC_OK: u16 = 0x8000;
/// What may be sent to whom says nothing of a size (RFC 1035 section 4.2.1), or a smaller one (RFC 6891 section 6.2.3).
pub(super) const LEAST_UDP_BYTES: u16 = 512;

/// How a query can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One name, one type of records or all of them, class IN: what rules of `dns` speak of.
    LookUp,
    /// None of their words fits it: only a rule that allows all contents lets it pass. It never teaches.
    Other,
}

/// What EDNS says of the client (RFC 6891).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// The longest message over UDP that it takes: at least 512.
    pub udp_bytes: u16,
    /// `DO`: it wants the records of DNSSEC.
    pub dnssec_ok: bool,
}

/// A query that was read. What isn't in here goes to the server with its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub kind: Kind,
    pub id: u16,
    /// As patterns compare names: in lower case, without a final dot, with backslashes before dots in labels. Of another opcode it is
    /// the zone, or empty.
    pub name: String,
    /// Of another opcode without a question: 0.
    pub record_type: RecordType,
    /// `RD`.
    pub recursion_desired: bool,
    /// `CD`.
    pub checking_disabled: bool,
    /// `AD`.
    pub authentic_data: bool,
    /// `None` without an OPT record, and of another opcode.
    pub edns: Option<Edns>,
    pub(super) header: Header,
    /// As it came, for answers to begin with. Empty: another opcode without a question.
    pub(super) question: Vec<u8>,
}

/// Bytes that are no query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    #[error("{0} bytes are less than a header: no answer is possible")]
    Short(usize),
    #[error("a response, where queries are read: two that answered such would never end")]
    Response,
    /// [`unreadable`](super::unreadable) answers it.
    #[error("a query with {0}")]
    Form(&'static str),
}

impl Query {
    /// Reads a query, all of its bytes. A name in it that would be longer than 255 bytes is none.
    pub fn read(message: &[u8]) -> Result<Self, Malformed> {
        let header = Header::read(message).ok_or(Malformed::Short(message.len()))?;
        if header.is_response() {
            return Err(Malformed::Response);
        }
        if header.opcode() != QUERY {
            let question = Question::read(message).filter(|_| header.questions == 1);
            return Ok(Self::new(Kind::Other, header, question, None));
        }
        if header.questions != 1 {
            return Err(Malformed::Form("not exactly one question"));
        }
        let question = Question::read(message).ok_or(Malformed::Form("a question that has no name, type or class"))?;
        let record_type = RecordType(question.record_type);
        // RFC 1995 section 3: an incremental transfer says here what the client has.
        if header.answers != 0 || (header.authorities != 0 && record_type != RecordType::IXFR) {
            return Err(Malformed::Form("records where an answer has them"));
        }
        let edns = rest(message, question.end(), header)?;
        let kind = if question.class == IN && !record_type.is_meta() { Kind::LookUp } else { Kind::Other };
        Ok(Self::new(kind, header, Some(question), edns))
    }

    fn new(kind: Kind, header: Header, question: Option<Question<'_>>, edns: Option<Edns>) -> Self {
        Self {
            kind,
            id: header.id,
            name: question.as_ref().map(Question::name).unwrap_or_default(),
            record_type: RecordType(question.as_ref().map_or(0, |question| question.record_type)),
            recursion_desired: header.recursion_desired(),
            checking_disabled: header.checking_disabled(),
            authentic_data: header.authentic_data(),
            edns,
            header,
            question: question.map(|question| question.wire.to_vec()).unwrap_or_default(),
        }
    }
}

/// Passes by all records, of which at most one is OPT, and sees that nothing follows them.
fn rest(message: &[u8], begin: usize, header: Header) -> Result<Option<Edns>, Malformed> {
    let (mut at, mut edns) = (begin, None);
    for index in 0..header.records() {
        let record = Skipped::read(message, at).ok_or(Malformed::Form("a record that is cut"))?;
        at = record.end;
        if RecordType(record.record_type) != RecordType::OPT {
            continue;
        }
        let said = Edns { udp_bytes: record.class.max(LEAST_UDP_BYTES), dnssec_ok: record.flags & DNSSEC_OK != 0 };
        let in_place = record.of_root && index >= usize::from(header.authorities);
        if !in_place || edns.replace(said).is_some() {
            return Err(Malformed::Form("an OPT record too many, or out of its place"));
        }
    }
    if at != message.len() {
        return Err(Malformed::Form("bytes behind its last record"));
    }
    Ok(edns)
}

#[cfg(test)]
mod tests;
