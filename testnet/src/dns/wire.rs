//! DNS messages, as much of them as tests read and write. A message is plain data: one that lies is written by changing it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The type of a record or of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(pub u16);

impl Kind {
    /// An IPv4 address.
    pub const A: Self = Self(1);
    /// A name server of a zone.
    pub const NS: Self = Self(2);
    /// Another name for the same.
    pub const CNAME: Self = Self(5);
    /// The start of a zone.
    pub const SOA: Self = Self(6);
    /// The name of an address.
    pub const PTR: Self = Self(12);
    /// Text.
    pub const TXT: Self = Self(16);
    /// An IPv6 address.
    pub const AAAA: Self = Self(28);
    /// EDNS, which is no record (RFC 6891).
    pub const OPT: Self = Self(41);
    /// A service's binding (RFC 9460).
    pub const SVCB: Self = Self(64);
    /// The same of an HTTPS origin.
    pub const HTTPS: Self = Self(65);
    /// All there is, in a question.
    pub const ANY: Self = Self(255);
}

/// The class of the Internet.
const IN: u16 = 1;
/// The option with an Extended DNS Error (RFC 8914).
const EXTENDED_ERROR: u16 = 15;
/// Names longer than this have no form (RFC 1035, 3.1).
const LONGEST_NAME: usize = 255;

/// What a message asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Without the dot at its end; case as it was sent. A byte that is no letter, digit, `-`, `_` or `*` is `\DDD`.
    pub name: String,
    /// Its type.
    pub kind: Kind,
}

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// A or AAAA.
    Address(IpAddr),
    /// CNAME, NS or PTR.
    Name(String),
    /// Any other, and those whose bytes don't fit their type.
    Bytes(Vec<u8>),
}

/// One record of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whose. Written as in [`Question`].
    pub name: String,
    /// Its type.
    pub kind: Kind,
    /// 1 for the Internet; of [`Kind::OPT`], the datagram size.
    pub class: u16,
    /// Seconds.
    pub ttl: u32,
    /// What it says.
    pub data: Data,
}

impl Record {
    /// An A or AAAA record.
    pub fn address(name: &str, ttl: u32, address: IpAddr) -> Self {
        let kind = if address.is_ipv4() { Kind::A } else { Kind::AAAA };
        Self { name: name.to_owned(), kind, class: IN, ttl, data: Data::Address(address) }
    }

    /// A CNAME record.
    pub fn alias(name: &str, ttl: u32, of: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::CNAME, class: IN, ttl, data: Data::Name(of.to_owned()) }
    }
}

/// A DNS message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// What pairs answer and question.
    pub id: u16,
    /// QR: this is an answer.
    pub is_answer: bool,
    /// AA.
    pub authoritative: bool,
    /// TC: there is more than fitted.
    pub truncated: bool,
    /// RD.
    pub recursion_desired: bool,
    /// RA.
    pub recursion_available: bool,
    /// 0 NOERROR, 2 SERVFAIL, 3 NXDOMAIN, 5 REFUSED: the header's four bits.
    pub rcode: u8,
    /// Usually one.
    pub questions: Vec<Question>,
    /// The answer.
    pub answers: Vec<Record>,
    /// The authority section.
    pub authority: Vec<Record>,
    /// The additional section, with OPT.
    pub additional: Vec<Record>,
}

impl Message {
    /// A question as a stub resolver sends it, without EDNS.
    pub fn query(id: u16, name: &str, kind: Kind) -> Self {
        let questions = vec![Question { name: name.to_owned(), kind }];
        Self { id, recursion_desired: true, questions, ..Self::default() }
    }

    /// With EDNS, and room for answers of `limit_bytes` in a datagram.
    #[must_use]
    pub fn edns(mut self, limit_bytes: u16) -> Self {
        let data = Data::Bytes(Vec::new());
        self.additional.push(Record { name: String::new(), kind: Kind::OPT, class: limit_bytes, ttl: 0, data });
        self
    }

    /// With EDNS and an Extended DNS Error: a code of RFC 8914 and a text.
    #[must_use]
    pub fn extended_error(mut self, code: u16, text: &str) -> Self {
        let body = [&code.to_be_bytes(), text.as_bytes()].concat();
        let option = [&EXTENDED_ERROR.to_be_bytes(), length(body.len()).as_slice(), &body].concat();
        self.additional.push(Record { name: String::new(), kind: Kind::OPT, class: 1232, ttl: 0, data: Data::Bytes(option) });
        self
    }

    /// The answer to this question: its id and question, nothing said yet.
    pub fn reply(&self) -> Self {
        Self {
            id: self.id,
            is_answer: true,
            recursion_desired: self.recursion_desired,
            recursion_available: true,
            questions: self.questions.clone(),
            ..Self::default()
        }
    }

    /// With one record more in the answer.
    #[must_use]
    pub fn answer(mut self, record: Record) -> Self {
        self.answers.push(record);
        self
    }

    /// The addresses in the answer, whatever name they are given for.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let address = |record: &Record| match record.data {
            Data::Address(address) => Some(address),
            _ => None,
        };
        self.answers.iter().filter_map(address).collect()
    }

    /// Extended DNS Errors: code and text.
    pub fn extended_errors(&self) -> Vec<(u16, String)> {
        let mut found = Vec::new();
        for record in self.additional.iter().filter(|record| record.kind == Kind::OPT) {
            let Data::Bytes(mut options) = record.data.clone() else { continue };
            while options.len() >= 4 {
                let code = u16::from_be_bytes([options[0], options[1]]);
                let length = usize::from(u16::from_be_bytes([options[2], options[3]]));
                let end = (4 + length).min(options.len());
                if let (EXTENDED_ERROR, [high, low, text @ ..]) = (code, &options[4..end]) {
                    found.push((u16::from_be_bytes([*high, *low]), String::from_utf8_lossy(text).into_owned()));
                }
                options.drain(..end);
            }
        }
        found
    }

    /// Reads a message; None where the bytes are none, or end early. What follows it is ignored.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        let id = reader.u16()?;
        let [high, low] = reader.u16()?.to_be_bytes();
        let counts = [reader.u16()?, reader.u16()?, reader.u16()?, reader.u16()?];
        let questions = (0..counts[0]).map(|_| reader.question()).collect::<Option<_>>()?;
        let mut section = |count| (0..count).map(|_| reader.record()).collect::<Option<Vec<_>>>();
        Some(Self {
            id,
            is_answer: high & 0x80 != 0,
            authoritative: high & 0x04 != 0,
            truncated: high & 0x02 != 0,
            recursion_desired: high & 0x01 != 0,
            recursion_available: low & 0x80 != 0,
            rcode: low & 0x0f,
            questions,
            answers: section(counts[1])?,
            authority: section(counts[2])?,
            additional: section(counts[3])?,
        })
    }

    /// The message on the wire, without compression.
    ///
    /// # Panics
    /// If a name has no form on the wire, or a section more records than can be counted.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.id.to_be_bytes().to_vec();
        let bit = |set: bool, value: u8| if set { value } else { 0 };
        out.push(
            bit(self.is_answer, 0x80)
                | bit(self.authoritative, 0x04)
                | bit(self.truncated, 0x02)
                | bit(self.recursion_desired, 0x01),
        );
        out.push(bit(self.recursion_available, 0x80) | (self.rcode & 0x0f));
        let sections = [&self.answers, &self.authority, &self.additional];
        for count in [self.questions.len()].into_iter().chain(sections.map(Vec::len)) {
            out.extend(length(count));
        }
        for question in &self.questions {
            write_name(&mut out, &question.name);
            out.extend(question.kind.0.to_be_bytes());
            out.extend(IN.to_be_bytes());
        }
        for record in sections.into_iter().flatten() {
            write_name(&mut out, &record.name);
            out.extend(record.kind.0.to_be_bytes());
            out.extend(record.class.to_be_bytes());
            out.extend(record.ttl.to_be_bytes());
            let mut data = Vec::new();
            match &record.data {
                Data::Address(IpAddr::V4(address)) => data.extend(address.octets()),
                Data::Address(IpAddr::V6(address)) => data.extend(address.octets()),
                Data::Name(name) => write_name(&mut data, name),
                Data::Bytes(bytes) => data.extend(bytes),
            }
            out.extend(length(data.len()));
            out.extend(data);
        }
        out
    }
}

/// A length or a count on the wire.
pub(super) fn length(of: usize) -> [u8; 2] {
    u16::try_from(of).expect("what a DNS message counts is below 65,536").to_be_bytes()
}

fn write_name(out: &mut Vec<u8>, name: &str) {
    for label in name.trim_end_matches('.').split('.').filter(|_| !name.is_empty()) {
        let mut bytes = Vec::new();
        let mut rest = label.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(if byte == b'\\' { escaped(&mut rest) } else { byte });
        }
        let size = u8::try_from(bytes.len()).ok().filter(|size| (1..=63).contains(size));
        out.push(size.unwrap_or_else(|| panic!("a label of {} bytes in {name:?}", bytes.len())));
        out.extend(bytes);
    }
    out.push(0);
}

/// The byte that three digits stand for.
fn escaped(digits: &mut impl Iterator<Item = u8>) -> u8 {
    let digits: String = digits.take(3).map(char::from).collect();
    digits.parse().expect("three digits below 256 after a backslash")
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn take(&mut self, count: usize) -> Option<&[u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(count)?)?;
        self.at += count;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn question(&mut self) -> Option<Question> {
        let question = Question { name: self.name()?, kind: Kind(self.u16()?) };
        self.u16()?;
        Some(question)
    }

    fn record(&mut self) -> Option<Record> {
        let (name, kind, class, ttl) = (self.name()?, Kind(self.u16()?), self.u16()?, self.u32()?);
        let size = usize::from(self.u16()?);
        let start = self.at;
        let raw = self.take(size)?.to_vec();
        let data = match kind {
            Kind::A => <[u8; 4]>::try_from(raw.as_slice()).ok().map(|octets| Data::Address(Ipv4Addr::from(octets).into())),
            Kind::AAAA => <[u8; 16]>::try_from(raw.as_slice()).ok().map(|octets| Data::Address(Ipv6Addr::from(octets).into())),
            Kind::CNAME | Kind::NS | Kind::PTR => {
                let mut inner = Reader { bytes: &self.bytes[..start + size], at: start };
                inner.name().map(Data::Name)
            }
            _ => None,
        };
        Some(Record { name, kind, class, ttl, data: data.unwrap_or(Data::Bytes(raw)) })
    }

    /// A name; pointers lead backwards only, so it ends.
    fn name(&mut self) -> Option<String> {
        let mut name = String::new();
        let (mut at, mut end, mut size) = (self.at, None, 0);
        loop {
            let head = usize::from(*self.bytes.get(at)?);
            match head {
                0 => break,
                1..=63 => {
                    size += head + 1;
                    if size >= LONGEST_NAME {
                        return None;
                    }
                    if !name.is_empty() {
                        name.push('.');
                    }
                    for byte in self.bytes.get(at + 1..at + 1 + head)? {
                        match byte {
                            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' => name.push(char::from(*byte)),
                            other => name.push_str(&format!("\\{other:03}")),
                        }
                    }
                    at += 1 + head;
                }
                192..=255 => {
                    let to = ((head & 0x3f) << 8) | usize::from(*self.bytes.get(at + 1)?);
                    end.get_or_insert(at + 2);
                    if to >= at {
                        return None;
                    }
                    at = to;
                }
                _ => return None,
            }
        }
        self.at = end.unwrap_or(at + 1);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_as_it_was_written() {
        let query = Message::query(7, "A b.*._x-1.Test", Kind::HTTPS);
        let read = Message::query(7, "A\\032b.*._x-1.Test", Kind::HTTPS);
        assert_eq!(Message::parse(&query.bytes()), Some(read.clone()));
        assert_eq!(read.bytes(), query.bytes());
        let mut reply = Message::query(7, "www.example.test", Kind::A).edns(1232).reply();
        reply.rcode = 3;
        reply.truncated = true;
        let reply = reply
            .answer(Record::alias("www.example.test", 5, "other.test"))
            .answer(Record::address("other.test", 6, "10.0.0.1".parse().unwrap()))
            .answer(Record::address("other.test", 6, "fd00::1".parse().unwrap()))
            .edns(4096);
        assert_eq!(Message::parse(&reply.bytes()), Some(reply.clone()));
        assert_eq!(reply.addresses().len(), 2);
        let bytes = reply.bytes();
        assert!((0..bytes.len()).all(|cut| Message::parse(&bytes[..cut]).is_none()), "cut short anywhere");
    }

    #[test]
    fn compressed_names_end() {
        // Header, question "a.b", and an answer CNAME whose owner points at "b" and whose target is "c" before "a.b".
        let mut bytes = Message::query(1, "a.b", Kind::A).bytes();
        bytes[7] = 1;
        bytes.extend([0xc0, 14, 0, 5, 0, 1, 0, 0, 0, 9, 0, 4, 1, b'c', 0xc0, 12]);
        let message = Message::parse(&bytes).expect("a message");
        assert_eq!(message.answers, [Record::alias("b", 9, "c.a.b")]);
        // A pointer at itself.
        let own = u8::try_from(bytes.len() - 2).unwrap();
        *bytes.last_mut().unwrap() = own;
        assert!(matches!(Message::parse(&bytes).expect("a message").answers[0].data, Data::Bytes(_)));
        bytes[21 + 1] = 21;
        assert_eq!(Message::parse(&bytes), None);
    }

    #[test]
    fn extended_errors_are_found() {
        let mut message = Message::query(1, "a", Kind::A).edns(512);
        message.additional[0].data = Data::Bytes(vec![0, 10, 0, 1, 9, 0, 15, 0, 4, 0, 18, b'n', b'o', 0, 15, 0, 9, 0]);
        assert_eq!(message.extended_errors(), [(18, "no".to_owned())]);
    }
}
