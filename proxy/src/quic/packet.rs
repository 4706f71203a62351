//! Headers of packets and frames of their contents, as far as a client sends them before it is answered (RFC 9000 sections 17 and 19,
//! RFC 9369 section 3.2).

/// Versions whose packets can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V1,
    V2,
}

/// RFC 9000 section 17.2.
const LONGEST_ID_BYTES: usize = 20;
const IS_LONG: u8 = 0x80;

impl Version {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::V1 => 0x0000_0001,
            Self::V2 => 0x6b33_43cf,
        }
    }

    fn of(number: u32) -> Option<Self> {
        [Self::V1, Self::V2].into_iter().find(|version| version.number() == number)
    }

    /// The two bits that say of which kind a long header is.
    pub(super) const fn initial_bits(self) -> u8 {
        match self {
            Self::V1 => 0,
            Self::V2 => 1,
        }
    }

    fn kind(self, bits: u8) -> Kind {
        match (bits.wrapping_sub(self.initial_bits())) & 3 {
            0 => Kind::Initial,
            1 => Kind::ZeroRtt,
            2 => Kind::Handshake,
            _ => Kind::Retry,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Initial,
    ZeroRtt,
    Handshake,
    /// Servers send it.
    Retry,
}

/// One packet of a datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Packet<'a> {
    Initial(Initial<'a>),
    /// Of a connection that an Initial packet begins: 0-RTT, or part of a handshake.
    Long,
    /// Of a connection that is there. Nobody but its ends can tell where it goes; it is the datagram's last.
    Short,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Initial<'a> {
    pub(super) version: Version,
    pub(super) destination: &'a [u8],
    pub(super) source: &'a [u8],
    /// The packet with its header.
    pub(super) whole: &'a [u8],
    /// Where in it its number begins.
    pub(super) number_at: usize,
}

/// Why a datagram, or an attempt to connect, can't be judged by a server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    #[error("it is no packet of QUIC")]
    NotQuic,
    #[error("it is of a version that is not known")]
    Version,
    #[error("it begins no connection")]
    NoInitial,
    #[error("an Initial packet is in a datagram of less than 1200 bytes")]
    TooShort,
    #[error("it belongs to no attempt to connect")]
    Foreign,
    #[error("its frames can't be read")]
    Frames,
    #[error("two of its frames say different things")]
    Contradiction,
    #[error("its ClientHello can't be read")]
    Hello,
    #[error("its ClientHello is too long")]
    TooLong,
}

/// The first packet of `datagram`, and what stands behind it.
pub(super) fn first(datagram: &[u8]) -> Result<(Packet<'_>, &[u8]), Unreadable> {
    let flags = *datagram.first().ok_or(Unreadable::NotQuic)?;
    if flags & IS_LONG == 0 {
        return Ok((Packet::Short, &[]));
    }
    let mut fields = Fields(&datagram[1..]);
    let number = fields.take(4)?;
    let version = Version::of(u32::from_be_bytes([number[0], number[1], number[2], number[3]])).ok_or(Unreadable::Version)?;
    let destination = fields.id()?;
    let source = fields.id()?;
    let kind = version.kind(flags >> 4 & 3);
    match kind {
        Kind::Retry => return Err(Unreadable::NotQuic),
        Kind::Initial => drop(fields.vector()?),
        Kind::ZeroRtt | Kind::Handshake => {}
    }
    let length = fields.number()?;
    let number_at = datagram.len() - fields.0.len();
    let length = usize::try_from(length).map_err(|_| Unreadable::NotQuic)?;
    fields.take(length)?;
    let (whole, rest) = datagram.split_at(number_at + length);
    let packet = match kind {
        Kind::Initial => Packet::Initial(Initial { version, destination, source, whole, number_at }),
        _ => Packet::Long,
    };
    Ok((packet, rest))
}

/// Calls `crypto` with each piece of the handshake, and where it belongs.
pub(super) fn frames(payload: &[u8], mut crypto: impl FnMut(u64, &[u8]) -> Result<(), Unreadable>) -> Result<(), Unreadable> {
    let mut fields = Fields(payload);
    let unreadable = |_| Unreadable::Frames;
    // RFC 9000 section 12.4: a payload without frames is a violation of the protocol.
    if payload.is_empty() {
        return Err(Unreadable::Frames);
    }
    while let Some((kind, rest)) = fields.0.split_first() {
        fields.0 = rest;
        match kind {
            // PADDING, PING
            0x00 | 0x01 => {}
            // ACK, with and without counts of ECN
            0x02 | 0x03 => {
                let mut take = || fields.number().map_err(unreadable);
                let (_largest, _delay, ranges, _first) = (take()?, take()?, take()?, take()?);
                for _ in 0..ranges {
                    let _gap_and_length = (take()?, take()?);
                }
                if *kind == 0x03 {
                    let _counts = (take()?, take()?, take()?);
                }
            }
            // CRYPTO
            0x06 => {
                let at = fields.number().map_err(unreadable)?;
                crypto(at, fields.vector().map_err(unreadable)?)?;
            }
            // CONNECTION_CLOSE
            0x1c => {
                let _error_and_frame = (fields.number().map_err(unreadable)?, fields.number().map_err(unreadable)?);
                fields.vector().map_err(unreadable)?;
            }
            _ => return Err(Unreadable::Frames),
        }
    }
    Ok(())
}

/// Fields one after another, as QUIC writes them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Unreadable> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Unreadable::NotQuic)?;
        self.0 = rest;
        Ok(taken)
    }

    /// RFC 9000 section 16: the first two bits say how many bytes it has.
    fn number(&mut self) -> Result<u64, Unreadable> {
        let first = *self.0.first().ok_or(Unreadable::NotQuic)?;
        let bytes = self.take(1 << (first >> 6))?;
        Ok(bytes[1..].iter().fold(u64::from(first & 0x3f), |number, byte| number << 8 | u64::from(*byte)))
    }

    /// With its length before it.
    fn vector(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(self.number()?).map_err(|_| Unreadable::NotQuic)?;
        self.take(length)
    }

    fn id(&mut self) -> Result<&'a [u8], Unreadable> {
        let length = usize::from(self.take(1)?[0]);
        if length > LONGEST_ID_BYTES {
            return Err(Unreadable::NotQuic);
        }
        self.take(length)
    }
}
