//! The journal's bytes. Numbers are little-endian.
//!
//! ```text
//! file    = header, records one after the other
//! header  = "SLNAMES\0", format u32, mark [8], boot text, node text, CRC-32 of all that u32
//! record  = mark [8], length of the body u32, CRC-32 of length and body u32, body
//! body    = 1 (learned), moment u64, pod address, names u16, each a text, entries u32, each: name u16, until the tick u32, address
//!         | 2 (forgotten), moment u64, pod address
//! text    = length u16, UTF-8
//! address = 4 or 6, the octets
//! ```
//!
//! The mark is random, and each file has its own. It is how a reader finds the next record behind a damaged one, and why no name that a
//! stranger made up can look like a record to it.

use std::collections::HashMap;
use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::BootId;
use crate::names::moment::{Moment, Tick};

const MAGIC: &[u8; 8] = b"SLNAMES\0";
const FORMAT: u32 = 2;
const LEARNED: u8 = 1;
const FORGOTTEN: u8 = 2;
/// Before the body: mark, length, checksum.
const HEAD_BYTES: usize = 16;
/// A body is closed when it has grown to this.
const FULL_BYTES: usize = 48 * 1024;
/// More than any body that is written: one that is nearly full, and an address with its names.
const MOST_BODY_BYTES: usize = 1 << 20;
/// A body counts its names in 16 bits.
const MOST_NAMES: usize = u16::MAX as usize;

pub(super) type Mark = [u8; 8];

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Learned { pod: IpAddr, at: Moment, entries: Vec<(IpAddr, Arc<str>, Tick)> },
    Forgotten { pod: IpAddr, at: Moment },
}

/// Why a file is not read any further than its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unusable {
    #[error("its header is damaged")]
    Damaged,
    #[error("its format is {0}, not {FORMAT}")]
    OtherFormat(u32),
    #[error("it is of another boot of this machine")]
    OtherBoot,
    #[error("it is of another node")]
    OtherNode,
}

pub(super) fn header(mark: Mark, boot: &BootId, node: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(FORMAT.to_le_bytes());
    bytes.extend(mark);
    text(&mut bytes, &boot.0);
    text(&mut bytes, node);
    let sum = crc32fast::hash(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// The mark of a file, and how long its header is.
pub(super) fn read_header(bytes: &[u8], boot: &BootId, node: &str) -> Result<(Mark, usize), Unusable> {
    let mut rest = Reader(bytes);
    let damaged = Unusable::Damaged;
    if rest.array::<8>().ok_or(damaged)? != *MAGIC {
        return Err(damaged);
    }
    // Another format may have its checksum elsewhere.
    let format = rest.u32().ok_or(damaged)?;
    if format != FORMAT {
        return Err(Unusable::OtherFormat(format));
    }
    let mark = rest.array::<8>().ok_or(damaged)?;
    let found_boot = rest.text().ok_or(damaged)?;
    let found_node = rest.text().ok_or(damaged)?;
    let length = bytes.len() - rest.0.len();
    if rest.u32().ok_or(damaged)? != crc32fast::hash(&bytes[..length]) {
        return Err(damaged);
    }
    if found_node != node {
        return Err(Unusable::OtherNode);
    }
    if found_boot != boot.0 {
        return Err(Unusable::OtherBoot);
    }
    Ok((mark, length + 4))
}

/// Writes records for a file with this mark.
#[derive(Debug)]
pub(super) struct Writer {
    mark: Mark,
    bytes: Vec<u8>,
}

impl Writer {
    pub(super) fn new(mark: Mark) -> Self {
        Self { mark, bytes: Vec::new() }
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// As many records as it takes.
    pub(super) fn learned<'a>(
        &mut self,
        pod: IpAddr,
        at: Moment,
        entries: impl IntoIterator<Item = (IpAddr, &'a Arc<str>, Tick)>,
    ) {
        let mut names: HashMap<&str, u16> = HashMap::new();
        let (mut texts, mut pairs, mut count) = (Vec::new(), Vec::new(), 0u32);
        for (ip, name, until) in entries {
            let known = u16::try_from(names.len()).unwrap_or(u16::MAX);
            let index = *names.entry(name).or_insert(known);
            if index == known {
                text(&mut texts, name);
            }
            pairs.extend(index.to_le_bytes());
            pairs.extend(until.0.to_le_bytes());
            address(&mut pairs, ip);
            count += 1;
            if texts.len() + pairs.len() > FULL_BYTES || names.len() == MOST_NAMES {
                self.body(pod, at, (names.len(), &texts), (count, &pairs));
                names.clear();
                texts.clear();
                pairs.clear();
                count = 0;
            }
        }
        if count > 0 {
            self.body(pod, at, (names.len(), &texts), (count, &pairs));
        }
    }

    fn body(&mut self, pod: IpAddr, at: Moment, (names, texts): (usize, &[u8]), (count, pairs): (u32, &[u8])) {
        self.record(LEARNED, pod, at, |bytes| {
            bytes.extend(u16::try_from(names).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend(texts);
            bytes.extend(count.to_le_bytes());
            bytes.extend(pairs);
        });
    }

    pub(super) fn forgotten(&mut self, pod: IpAddr, at: Moment) {
        self.record(FORGOTTEN, pod, at, |_| {});
    }

    fn record(&mut self, kind: u8, pod: IpAddr, at: Moment, rest: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.extend(self.mark);
        let head = self.bytes.len();
        self.bytes.extend([0; HEAD_BYTES - 8]);
        let start = self.bytes.len();
        self.bytes.push(kind);
        self.bytes.extend(at.nanos().to_le_bytes());
        address(&mut self.bytes, pod);
        rest(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).expect("a body is closed before it is a megabyte");
        let sum = checksum(length, &self.bytes[start..]);
        self.bytes[head..head + 4].copy_from_slice(&length.to_le_bytes());
        self.bytes[head + 4..start].copy_from_slice(&sum.to_le_bytes());
    }
}

fn checksum(length: u32, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length.to_le_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// All sound records behind the header, and how many bytes are none.
pub(super) fn records(mut bytes: &[u8], mark: Mark) -> (Vec<Record>, usize) {
    let mut found = Vec::new();
    let mut damaged = 0;
    let mut names = HashSet::new();
    while !bytes.is_empty() {
        if let Some((body, rest)) = sound_body(bytes, mark)
            && let Some(record) = Reader(body).record(&mut names)
        {
            found.push(record);
            bytes = rest;
            continue;
        }
        let next = bytes[1..].windows(mark.len()).position(|window| window == mark);
        let skipped = next.map_or(bytes.len(), |at| at + 1);
        damaged += skipped;
        bytes = &bytes[skipped..];
    }
    (found, damaged)
}

fn sound_body(bytes: &[u8], mark: Mark) -> Option<(&[u8], &[u8])> {
    let mut rest = Reader(bytes);
    if rest.array::<8>()? != mark {
        return None;
    }
    let length = rest.u32()?;
    let sum = rest.u32()?;
    let size = usize::try_from(length).ok().filter(|size| *size <= MOST_BODY_BYTES)?;
    let (body, rest) = rest.0.split_at_checked(size)?;
    (checksum(length, body) == sum).then_some((body, rest))
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_le_bytes());
    bytes.extend(&text.as_bytes()[..usize::from(length)]);
}

fn address(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            bytes.push(4);
            bytes.extend(v4.octets());
        }
        IpAddr::V6(v6) => {
            bytes.push(6);
            bytes.extend(v6.octets());
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*array)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self) -> Option<&'a str> {
        let length = self.u16()?;
        let (text, rest) = self.0.split_at_checked(length.into())?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn address(&mut self) -> Option<IpAddr> {
        match self.array::<1>()? {
            [4] => self.array::<4>().map(IpAddr::from),
            [6] => self.array::<16>().map(IpAddr::from),
            _ => None,
        }
    }

    /// `shared`: the names so far, so that each is held once.
    fn record(mut self, shared: &mut HashSet<Arc<str>>) -> Option<Record> {
        let [kind] = self.array::<1>()?;
        let at = Moment::from_nanos(u64::from_le_bytes(self.array()?));
        let pod = self.address()?;
        let record = match kind {
            FORGOTTEN => Record::Forgotten { pod, at },
            LEARNED => {
                let names: Vec<Arc<str>> = (0..self.u16()?).map(|_| Some(intern(shared, self.text()?))).collect::<Option<_>>()?;
                let mut entries = Vec::new();
                for _ in 0..self.u32()? {
                    let name = Arc::clone(names.get(usize::from(self.u16()?))?);
                    let until = Tick(self.u32()?);
                    entries.push((self.address()?, name, until));
                }
                Record::Learned { pod, at, entries }
            }
            _ => return None,
        };
        self.0.is_empty().then_some(record)
    }
}

fn intern(shared: &mut HashSet<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(known) = shared.get(name) {
        return Arc::clone(known);
    }
    let name: Arc<str> = name.into();
    shared.insert(Arc::clone(&name));
    name
}
