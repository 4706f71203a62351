//! A node's table on disk: what it last held, for the time after a restart while the controller is away.
//!
//! ```text
//! "SLUICE\0" VERSION | length, node's name | epoch | generation | length, changes | CRC-32 of all before
//! ```
//!
//! Numbers are big-endian, 8 bytes. The checksum finds what a crash or a bad disk left behind, not a forger: whoever can write
//! the file is root on the node.

use sluice_policy::snapshot::{Change, Generation};

use crate::NODE_NAME_LIMIT_BYTES;
use crate::changes::{self, DecodeError, EncodeError};

const MAGIC: &[u8; 7] = b"SLUICE\0";

/// The format of the file. Another version's file is not read: what it says might mean less here. It changes with the
/// format of the file and with the [`VERSION`](crate::VERSION) of the changes in it.
const FORMAT: u8 = 3;

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Saved {
    pub node: String,
    pub epoch: u64,
    pub generation: Generation,
    /// The changes that lead from nothing to the table.
    pub changes: Vec<Change>,
}

/// Why a file can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("not a saved table of Sluice")]
    Foreign,
    #[error("format {0}, but this version reads only format {FORMAT}")]
    Version(u8),
    #[error("incomplete: it was not written to its end")]
    Truncated,
    #[error("damaged: the checksum doesn't match")]
    Checksum,
    #[error(transparent)]
    Changes(DecodeError),
}

/// The bytes of a file.
pub fn write(node: &str, epoch: u64, generation: Generation, list: &[Change]) -> Result<Vec<u8>, EncodeError> {
    let body = changes::encode(list)?;
    let mut bytes = Vec::with_capacity(body.len() + node.len() + 48);
    bytes.extend_from_slice(MAGIC);
    bytes.push(FORMAT);
    bytes.extend_from_slice(&(node.len() as u64).to_be_bytes());
    bytes.extend_from_slice(node.as_bytes());
    bytes.extend_from_slice(&epoch.to_be_bytes());
    bytes.extend_from_slice(&generation.0.to_be_bytes());
    bytes.extend_from_slice(&(body.len() as u64).to_be_bytes());
    bytes.extend_from_slice(&body);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_be_bytes());
    Ok(bytes)
}

/// Reads what [`write`] wrote. Anything else is an error.
pub fn read(bytes: &[u8]) -> Result<Saved, ReadError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ReadError::Foreign)?;
    let (format, rest) = rest.split_first().ok_or(ReadError::Truncated)?;
    if *format != FORMAT {
        return Err(ReadError::Version(*format));
    }
    let (name, rest) = block(rest, NODE_NAME_LIMIT_BYTES)?;
    let (epoch, rest) = number(rest)?;
    let (generation, rest) = number(rest)?;
    let (body, rest) = block(rest, crate::UPDATE_LIMIT_BYTES)?;
    let checksum = <[u8; 4]>::try_from(rest).map_err(|_| ReadError::Truncated)?;
    let sealed = bytes.len() - checksum.len();
    if crc32fast::hash(bytes.get(..sealed).unwrap_or_default()) != u32::from_be_bytes(checksum) {
        return Err(ReadError::Checksum);
    }
    let node = std::str::from_utf8(name).map_err(|_| ReadError::Checksum)?.to_owned();
    let changes = changes::decode(body).map_err(ReadError::Changes)?;
    Ok(Saved { node, epoch, generation: Generation(generation), changes })
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), ReadError> {
    let (number, rest) = bytes.split_first_chunk::<8>().ok_or(ReadError::Truncated)?;
    Ok((u64::from_be_bytes(*number), rest))
}

fn block(bytes: &[u8], limit_bytes: usize) -> Result<(&[u8], &[u8]), ReadError> {
    let (len, rest) = number(bytes)?;
    let len = usize::try_from(len).ok().filter(|len| *len <= limit_bytes).ok_or(ReadError::Truncated)?;
    rest.split_at_checked(len).ok_or(ReadError::Truncated)
}
