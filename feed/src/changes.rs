//! A list of changes as bytes: each change as a message after its length.
//!
//! The changes are read one by one, so that what a hostile sender can make a reader allocate grows with what it sends, and
//! reading ends at the first one that can't be understood.

use prost::Message;
use prost::encoding::{decode_varint, encode_varint, encoded_len_varint};
use sluice_policy::snapshot::Change;

use crate::from_wire::FieldError;
use crate::{CHANGE_LIMIT_BYTES, UPDATE_LIMIT_BYTES, wire};

/// Why a list of changes can't be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("change {index} takes {bytes} bytes, more than the {CHANGE_LIMIT_BYTES} that one change may have")]
    ChangeTooLarge { index: usize, bytes: usize },
    #[error("the changes take more than {UPDATE_LIMIT_BYTES} bytes")]
    TooLarge,
}

/// Why bytes are no list of changes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the changes have {bytes} bytes, more than the limit of {UPDATE_LIMIT_BYTES}")]
    TooLarge { bytes: usize },
    #[error("change {index} claims {bytes} bytes, more than the limit of {CHANGE_LIMIT_BYTES}")]
    ChangeTooLarge { index: usize, bytes: u64 },
    #[error("the bytes end in the middle of change {index}")]
    Truncated { index: usize },
    #[error("change {index} is no protobuf message: {source}")]
    Malformed { index: usize, source: prost::DecodeError },
    #[error("change {index}: {source}")]
    Field { index: usize, source: FieldError },
}

/// The size of a change in an encoded list, in bytes.
pub fn encoded_len(change: &Change) -> usize {
    let len = wire::Change::from(change).encoded_len();
    len + encoded_len_varint(len as u64)
}

/// Encodes `changes`, in order.
pub fn encode(changes: &[Change]) -> Result<Vec<u8>, EncodeError> {
    let mut bytes = Vec::new();
    for (index, change) in changes.iter().enumerate() {
        let message = wire::Change::from(change);
        let len = message.encoded_len();
        if len > CHANGE_LIMIT_BYTES {
            return Err(EncodeError::ChangeTooLarge { index, bytes: len });
        }
        if bytes.len() + len + encoded_len_varint(len as u64) > UPDATE_LIMIT_BYTES {
            return Err(EncodeError::TooLarge);
        }
        encode_varint(len as u64, &mut bytes);
        message.encode_raw(&mut bytes);
    }
    Ok(bytes)
}

/// Decodes what [`encode`] wrote. All of it is understood, or none of it is used.
pub fn decode(mut bytes: &[u8]) -> Result<Vec<Change>, DecodeError> {
    if bytes.len() > UPDATE_LIMIT_BYTES {
        return Err(DecodeError::TooLarge { bytes: bytes.len() });
    }
    let mut changes = Vec::new();
    while !bytes.is_empty() {
        let index = changes.len();
        let claimed = decode_varint(&mut bytes).map_err(|_| DecodeError::Truncated { index })?;
        let len = usize::try_from(claimed).ok().filter(|len| *len <= CHANGE_LIMIT_BYTES);
        let len = len.ok_or(DecodeError::ChangeTooLarge { index, bytes: claimed })?;
        let (message, rest) = bytes.split_at_checked(len).ok_or(DecodeError::Truncated { index })?;
        let message = wire::Change::decode(message).map_err(|source| DecodeError::Malformed { index, source })?;
        changes.push(Change::try_from(message).map_err(|source| DecodeError::Field { index, source })?);
        bytes = rest;
    }
    Ok(changes)
}
