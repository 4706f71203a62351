//! Where the body of an HTTP/1 request ends.

use super::head::{HeadError, field};

/// Longest line with the size of a chunk, its extensions included.
const LONGEST_SIZE_LINE: usize = 256;

/// How the body of a request is delimited (RFC 9112 section 6).
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// This many bytes are left; 0 is a request without a body.
    Length(u64),
    Chunked(ChunkScanner),
}

impl Framing {
    /// How many of the next `bytes` belong to the body.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, HeadError> {
        match self {
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(scanner) => scanner.advance(bytes),
        }
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(scanner) => scanner.state == State::Done,
        }
    }
}

/// Follows the chunked coding (RFC 9112 section 7.1) without its leniencies: CRLF and nothing else ends a line, a size is
/// hexadecimal digits and nothing else, extensions and trailers are bounded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ChunkScanner {
    state: State,
    /// The size that is being read.
    size: u64,
    digits: usize,
    line: usize,
    trailer: Vec<u8>,
    trailer_left: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data(u64),
    DataCr,
    DataLf,
    Trailer,
    TrailerLf,
    Done,
}

impl ChunkScanner {
    pub(crate) fn new(trailer_limit_bytes: usize) -> Self {
        Self { state: State::Size, size: 0, digits: 0, line: 0, trailer: Vec::new(), trailer_left: trailer_limit_bytes }
    }

    fn advance(&mut self, bytes: &[u8]) -> Result<usize, HeadError> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Done => break,
                State::Data(left) => {
                    let taken = (bytes.len() - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    at += taken;
                    let left = left - taken as u64;
                    self.state = if left == 0 { State::DataCr } else { State::Data(left) };
                }
                _ => {
                    self.state = self.step(byte)?;
                    at += 1;
                }
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, HeadError> {
        match (self.state, byte) {
            (State::Size, _) => self.size_digit(byte),
            (State::Extension, b'\r') => Ok(State::SizeLf),
            (State::Extension, b'\t' | 0x20..=0x7e) => {
                self.line += 1;
                if self.line > LONGEST_SIZE_LINE {
                    return Err(HeadError::Malformed("a chunk extension that is too long"));
                }
                Ok(State::Extension)
            }
            (State::SizeLf, b'\n') => {
                let size = std::mem::take(&mut self.size);
                (self.digits, self.line) = (0, 0);
                Ok(if size == 0 { State::Trailer } else { State::Data(size) })
            }
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size),
            (State::Trailer, b'\r') => Ok(State::TrailerLf),
            (State::Trailer, _) => {
                self.trailer_left = self.trailer_left.checked_sub(1).ok_or(HeadError::TooLarge)?;
                self.trailer.push(byte);
                Ok(State::Trailer)
            }
            (State::TrailerLf, b'\n') if self.trailer.is_empty() => Ok(State::Done),
            (State::TrailerLf, b'\n') => {
                check_trailer(&self.trailer)?;
                self.trailer.clear();
                Ok(State::Trailer)
            }
            _ => Err(HeadError::Malformed("chunks that aren't framed as they must be")),
        }
    }

    fn size_digit(&mut self, byte: u8) -> Result<State, HeadError> {
        match (byte, self.digits) {
            (b'\r', 1..) => Ok(State::SizeLf),
            (b';', 1..) => Ok(State::Extension),
            // 15 digits are 2^60 - 1 bytes, so nothing can overflow anywhere.
            (_, ..15) => {
                let digit =
                    char::from(byte).to_digit(16).ok_or(HeadError::Malformed("a chunk size that is no hexadecimal number"))?;
                self.size = self.size << 4 | u64::from(digit);
                self.digits += 1;
                Ok(State::Size)
            }
            _ => Err(HeadError::Malformed("a chunk size that is too long")),
        }
    }
}

/// A trailer is a header, but not one that says how to read the message (RFC 9110 section 6.5.1).
fn check_trailer(line: &[u8]) -> Result<(), HeadError> {
    let (name, _) = field(line)?;
    let forbidden: [&[u8]; 8] =
        [b"content-length", b"transfer-encoding", b"host", b"connection", b"upgrade", b"te", b"trailer", b"authorization"];
    if forbidden.iter().any(|f| name.eq_ignore_ascii_case(f)) || line.contains(&0) || line.contains(&b'\n') {
        return Err(HeadError::Malformed("a trailer that can't be one"));
    }
    Ok(())
}
