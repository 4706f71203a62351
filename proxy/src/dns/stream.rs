//! Messages over TCP: each with its length before it, in two bytes (RFC 1035 section 4.2.2, RFC 7766 section 8).

use thiserror::Error;

const LENGTH_BYTES: usize = 2;

/// A message that is longer than its place. A stream that has one can't be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a message of {bytes} bytes, where {most_bytes} is the most")]
pub struct TooLong {
    pub bytes: usize,
    pub most_bytes: usize,
}

/// Takes a stream of messages apart, however its reads fall. Holds no more than one message.
#[derive(Debug)]
pub struct Frames {
    most_bytes: usize,
    /// The begun message, with its length before it.
    begun: Vec<u8>,
}

impl Frames {
    /// A message of more than `most_bytes` ends the stream; 65,535 is the most that there can be.
    pub fn new(most_bytes: usize) -> Self {
        Self { most_bytes, begun: Vec::new() }
    }

    /// The next message that ends in `read`, which is left with what follows it. `None`: `read` is used up.
    pub fn next(&mut self, read: &mut &[u8]) -> Result<Option<Vec<u8>>, TooLong> {
        self.take(read, LENGTH_BYTES);
        let Some((length, _)) = self.begun.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let bytes = usize::from(u16::from_be_bytes(*length));
        if bytes > self.most_bytes {
            return Err(TooLong { bytes, most_bytes: self.most_bytes });
        }
        self.take(read, LENGTH_BYTES + bytes);
        if self.begun.len() < LENGTH_BYTES + bytes {
            return Ok(None);
        }
        let message = self.begun.split_off(LENGTH_BYTES);
        self.begun.clear();
        Ok(Some(message))
    }

    /// Whether the stream may end here: no message is begun.
    pub fn is_between(&self) -> bool {
        self.begun.is_empty()
    }

    /// Moves bytes until `wanted` are there, or none are left.
    fn take(&mut self, read: &mut &[u8], wanted: usize) {
        let missing = wanted.saturating_sub(self.begun.len()).min(read.len());
        let (taken, rest) = read.split_at(missing);
        self.begun.extend_from_slice(taken);
        *read = rest;
    }
}

/// A message as it is written to a stream.
pub fn frame(message: &[u8]) -> Result<Vec<u8>, TooLong> {
    let most_bytes = usize::from(u16::MAX);
    let length = u16::try_from(message.len()).map_err(|_| TooLong { bytes: message.len(), most_bytes })?;
    Ok([&length.to_be_bytes(), message].concat())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(frames: &mut Frames, mut read: &[u8]) -> Vec<Vec<u8>> {
        let mut messages = Vec::new();
        while let Some(message) = frames.next(&mut read).unwrap() {
            messages.push(message);
        }
        assert!(read.is_empty());
        messages
    }

    #[test]
    fn what_is_too_long_is_known_by_its_length() {
        let mut frames = Frames::new(3);
        assert_eq!(all(&mut frames, &[0]), Vec::<Vec<u8>>::new());
        assert!(!frames.is_between());
        assert_eq!(all(&mut frames, &[3, 1, 2, 3, 0, 0]), [vec![1, 2, 3], vec![]]);
        assert!(frames.is_between());
        assert_eq!(frames.next(&mut &[0, 4][..]), Err(TooLong { bytes: 4, most_bytes: 3 }));
        // And stays so.
        assert_eq!(frames.next(&mut &[1, 2, 3, 4][..]), Err(TooLong { bytes: 4, most_bytes: 3 }));
        assert_eq!(frame(&vec![0; 65_536]), Err(TooLong { bytes: 65_536, most_bytes: 65_535 }));
        assert_eq!(frame(&vec![0; 65_535]).unwrap()[..3], [255, 255, 0]);
    }

    proptest! {
        #[test]
        fn messages_are_the_same_however_reads_fall(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            cuts in prop::collection::vec(1_usize..20, 0..40),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message).unwrap()).collect();
            let mut frames = Frames::new(40);
            let (mut rest, mut read) = (&stream[..], Vec::new());
            for cut in cuts {
                let (part, later) = rest.split_at(cut.min(rest.len()));
                read.extend(all(&mut frames, part));
                rest = later;
            }
            read.extend(all(&mut frames, rest));
            prop_assert_eq!(read, messages);
            prop_assert!(frames.is_between());
        }
    }
}
