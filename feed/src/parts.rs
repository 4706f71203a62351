//! An update in parts that each fit a message, and back together.

use bytes::Bytes;
use sluice_policy::snapshot::{Change, Generation};

use crate::changes::{self, DecodeError};
use crate::{UPDATE_LIMIT_BYTES, wire};

/// The payload of a part: well below [`MESSAGE_LIMIT_BYTES`](crate::MESSAGE_LIMIT_BYTES).
pub const PART_BYTES: usize = 1 << 20;

/// Which update: where it leads, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heading {
    /// The run of the controller that counts the generations.
    pub epoch: u64,
    pub generation: Generation,
    /// `None`: a full snapshot.
    pub base: Option<Generation>,
}

/// A whole update, as a node reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    pub heading: Heading,
    pub changes: Vec<Change>,
}

/// Parts that don't make an update. The stream is of no use any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartError {
    #[error("a part of another update came before the last part of generation {0}")]
    Interrupted(Generation),
    #[error("the update to generation {0} has more than {UPDATE_LIMIT_BYTES} bytes")]
    TooLarge(Generation),
    #[error("the update to generation {generation} can't be read: {source}")]
    Unreadable { generation: Generation, source: DecodeError },
}

/// Cuts an encoded list of changes into parts. There is at least one, also of an empty list. Nothing is copied.
pub fn split(heading: Heading, mut payload: Bytes) -> impl Iterator<Item = wire::Part> {
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let piece = payload.split_to(payload.len().min(PART_BYTES));
        ended = payload.is_empty();
        Some(wire::Part {
            epoch: heading.epoch,
            generation: heading.generation.0,
            base: heading.base.map(|base| base.0),
            payload: piece,
            last: ended,
        })
    })
}

/// The parts of an update that have arrived. Bounded: what exceeds [`UPDATE_LIMIT_BYTES`] is an error.
#[derive(Debug, Default)]
pub struct Assembly {
    begun: Option<(Heading, Vec<u8>)>,
}

impl Assembly {
    /// Takes the next part; the whole update if it was the last. After an error the assembly is empty.
    pub fn push(&mut self, part: wire::Part) -> Result<Option<Update>, PartError> {
        let heading = Heading { epoch: part.epoch, generation: Generation(part.generation), base: part.base.map(Generation) };
        let (begun, mut bytes) = self.begun.take().unwrap_or((heading, Vec::new()));
        if begun != heading {
            return Err(PartError::Interrupted(begun.generation));
        }
        if bytes.len() + part.payload.len() > UPDATE_LIMIT_BYTES {
            return Err(PartError::TooLarge(heading.generation));
        }
        bytes.extend_from_slice(&part.payload);
        if !part.last {
            self.begun = Some((heading, bytes));
            return Ok(None);
        }
        let changes =
            changes::decode(&bytes).map_err(|source| PartError::Unreadable { generation: heading.generation, source })?;
        Ok(Some(Update { heading, changes }))
    }

    /// Whether an update has begun and its last part is still to come.
    pub fn is_open(&self) -> bool {
        self.begun.is_some()
    }
}
