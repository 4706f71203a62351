//! What is read of a message without a parser: its header, its question, and where records end (RFC 1035 section 4.1).

use std::fmt::Write as _;

pub(super) const HEADER_BYTES: usize = 12;
/// RFC 1035 section 2.3.4: with the lengths of labels, and with the root's.
const MOST_NAME_BYTES: usize = 255;
const MOST_LABEL_BYTES: u8 = 63;
/// The two bits that make a length a pointer (RFC 1035 section 4.1.4).
const POINTER: u8 = 0xc0;
/// What the other 14 bits reach.
const MOST_POINTED_BYTES: usize = 1 << 14;

const RESPONSE: u16 = 0x8000;
const OPCODE_SHIFT: u32 = 11;
const TRUNCATED: u16 = 0x0200;
const RECURSION_DESIRED: u16 = 0x0100;
const RECURSION_AVAILABLE: u16 = 0x0080;
const AUTHENTIC_DATA: u16 = 0x0020;
const CHECKING_DISABLED: u16 = 0x0010;
const RCODE: u16 = 0x000f;

/// The first twelve bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u16,
    flags: u16,
    pub(super) questions: u16,
    pub(super) answers: u16,
    pub(super) authorities: u16,
    pub(super) additionals: u16,
}

impl Header {
    /// `None`: the message is shorter.
    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let field = |index: usize| u16_at(message, index * 2);
        Some(Self {
            id: field(0)?,
            flags: field(1)?,
            questions: field(2)?,
            answers: field(3)?,
            authorities: field(4)?,
            additionals: field(5)?,
        })
    }

    /// What answers this query has for a header: `RD` and `CD` as they were, `RA` set, and never `AA`, `TC` or `AD`.
    pub(super) fn answered(self, rcode: u16, questions: u16, additionals: u16) -> Self {
        let kept = self.flags & (RESPONSE | 0x7800 | RECURSION_DESIRED | CHECKING_DISABLED);
        let flags = kept | RESPONSE | RECURSION_AVAILABLE | (rcode & RCODE);
        Self { id: self.id, flags, questions, answers: 0, authorities: 0, additionals }
    }

    pub(super) fn write(self, message: &mut Vec<u8>) {
        for field in [self.id, self.flags, self.questions, self.answers, self.authorities, self.additionals] {
            message.extend(field.to_be_bytes());
        }
    }

    pub(super) const fn is_response(self) -> bool {
        self.flags & RESPONSE != 0
    }

    /// 0 is QUERY.
    pub(super) const fn opcode(self) -> u16 {
        (self.flags >> OPCODE_SHIFT) & 0xf
    }

    pub(super) const fn is_truncated(self) -> bool {
        self.flags & TRUNCATED != 0
    }

    pub(super) const fn recursion_desired(self) -> bool {
        self.flags & RECURSION_DESIRED != 0
    }

    pub(super) const fn authentic_data(self) -> bool {
        self.flags & AUTHENTIC_DATA != 0
    }

    pub(super) const fn checking_disabled(self) -> bool {
        self.flags & CHECKING_DISABLED != 0
    }

    /// Without the bits that are in the OPT record.
    pub(super) const fn rcode(self) -> u16 {
        self.flags & RCODE
    }

    pub(super) fn records(self) -> usize {
        [self.answers, self.authorities, self.additionals].into_iter().map(usize::from).sum()
    }
}

pub(super) fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*message.get(at..)?.first_chunk()?))
}

/// The first question, which follows the header.
pub(super) struct Question<'a> {
    /// Name, type and class as they came.
    pub(super) wire: &'a [u8],
    pub(super) record_type: u16,
    pub(super) class: u16,
}

impl<'a> Question<'a> {
    /// `None`: it is cut, or its name is none. Nothing stands before it that its name could point to.
    pub(super) fn read(message: &'a [u8]) -> Option<Self> {
        let (name_end, pointed) = skip_name(message, HEADER_BYTES)?;
        if pointed {
            return None;
        }
        let (record_type, class) = (u16_at(message, name_end)?, u16_at(message, name_end + 2)?);
        Some(Self { wire: message.get(HEADER_BYTES..name_end + 4)?, record_type, class })
    }

    /// In the form that patterns compare with.
    pub(super) fn name(&self) -> String {
        plain(Labels(self.wire))
    }

    /// Where the records begin.
    pub(super) fn end(&self) -> usize {
        HEADER_BYTES + self.wire.len()
    }
}

/// The labels of a name that points nowhere.
struct Labels<'a>(&'a [u8]);

impl<'a> Iterator for Labels<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first()?;
        let (label, rest) = rest.split_at_checked(usize::from(*length))?;
        self.0 = rest;
        (!label.is_empty()).then_some(label)
    }
}

/// A name as `sluice_policy::name` compares it: in lower case, without a final dot, and a dot in it stands between two labels. A dot or
/// backslash in a label has a backslash before it, another byte than a graphic one is `\` and its three digits (RFC 1035 section 5.1).
pub(super) fn plain<'a>(labels: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut name = String::new();
    for label in labels {
        if !name.is_empty() {
            name.push('.');
        }
        for byte in label {
            match byte {
                b'.' | b'\\' => name.extend(['\\', char::from(*byte)]),
                byte if byte.is_ascii_graphic() => name.push(char::from(byte.to_ascii_lowercase())),
                byte => write!(name, "\\{byte:03}").expect("a string takes all"),
            }
        }
    }
    name
}

/// Where the name at `at` ends, and whether it does so by pointing to another. What it points to is not looked at.
fn skip_name(message: &[u8], at: usize) -> Option<(usize, bool)> {
    let mut end = at;
    loop {
        let length = *message.get(end)?;
        if length & POINTER == POINTER {
            return message.get(end + 1).map(|_| (end + 2, true));
        }
        if length > MOST_LABEL_BYTES {
            return None;
        }
        end += 1 + usize::from(length);
        if end - at > MOST_NAME_BYTES {
            return None;
        }
        if length == 0 {
            return Some((end, false));
        }
    }
}

/// The longest row of pointers that a name anywhere in the message could go through, whether or not a name begins there. Each points
/// before the name that it is in, as they must to end. A parser walks the row again for every name, of which a message can hold
/// thousands.
pub(super) fn longest_row_of_pointers(message: &[u8]) -> usize {
    let seen = &message[..message.len().min(MOST_POINTED_BYTES + MOST_NAME_BYTES)];
    // Where labels that begin here end: at a pointer, the root, or what can't be read.
    let mut ends = vec![0; seen.len()];
    for at in (0..seen.len()).rev() {
        let length = seen[at];
        let next = at + 1 + usize::from(length);
        ends[at] = if (1..=MOST_LABEL_BYTES).contains(&length) && next < seen.len() { ends[next] } else { at };
    }
    let mut rows = vec![0; seen.len()];
    for at in 0..seen.len() {
        let pointer = u16_at(seen, ends[at]).filter(|pointer| *pointer >= u16::from(POINTER) << 8);
        let target = pointer.map(|pointer| usize::from(pointer) & (MOST_POINTED_BYTES - 1));
        rows[at] = target.filter(|target| *target < at).map_or(0, |target| rows[target] + 1);
    }
    rows.into_iter().max().unwrap_or(0)
}

/// A record that is passed by: only what an OPT record has is taken from it.
pub(super) struct Skipped {
    pub(super) record_type: u16,
    /// Of OPT: how large a message may be.
    pub(super) class: u16,
    /// The lower half of the TTL. Of OPT: its flags.
    pub(super) flags: u16,
    /// Whether the root owns it.
    pub(super) of_root: bool,
    pub(super) end: usize,
}

impl Skipped {
    pub(super) fn read(message: &[u8], at: usize) -> Option<Self> {
        let (fields, _) = skip_name(message, at)?;
        let field = |index: usize| u16_at(message, fields + index * 2);
        let end = fields + 10 + usize::from(field(4)?);
        message.get(..end)?;
        Some(Self { record_type: field(0)?, class: field(1)?, flags: field(3)?, of_root: fields == at + 1, end })
    }
}
