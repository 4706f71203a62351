//! As much SCTP (RFC 9260) as a probe needs: INIT, INIT ACK and ABORT, on raw sockets.
//!
//! Many kernels come without SCTP sockets, but a firewall judges the packets all the same.

/// IP protocol number.
pub(crate) const PROTOCOL: i32 = 132;

const INIT: u8 = 1;
const INIT_ACK: u8 = 2;
const ABORT: u8 = 6;
const STATE_COOKIE: u16 = 7;

/// A packet of one chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) verification_tag: u32,
    pub(crate) chunk: Chunk,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Chunk {
    Init {
        initiate_tag: u32,
    },
    /// The cookie is the server's to choose; ours says who answered.
    InitAck {
        initiate_tag: u32,
        cookie: Vec<u8>,
    },
    Abort,
}

impl Packet {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.source_port.to_be_bytes());
        bytes.extend_from_slice(&self.destination_port.to_be_bytes());
        bytes.extend_from_slice(&self.verification_tag.to_be_bytes());
        bytes.extend_from_slice(&[0; 4]);
        match &self.chunk {
            Chunk::Init { initiate_tag } => {
                chunk(&mut bytes, INIT, &init_body(*initiate_tag));
            }
            Chunk::InitAck { initiate_tag, cookie } => {
                let mut body = init_body(*initiate_tag);
                let len = u16::try_from(4 + cookie.len()).expect("cookies here are short");
                body.extend_from_slice(&STATE_COOKIE.to_be_bytes());
                body.extend_from_slice(&len.to_be_bytes());
                body.extend_from_slice(cookie);
                chunk(&mut bytes, INIT_ACK, &body);
            }
            Chunk::Abort => chunk(&mut bytes, ABORT, &[]),
        }
        let sum = crc32c(&bytes);
        // The checksum alone is little-endian (RFC 9260, appendix A).
        bytes[8..12].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a packet whose checksum is right and whose first chunk is one of ours.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let field = |at: usize| bytes.get(at..at + 2)?.first_chunk::<2>().copied();
        let word = |at: usize| bytes.get(at..at + 4)?.first_chunk::<4>().copied();
        let mut unsummed = bytes.to_vec();
        unsummed.get_mut(8..12)?.fill(0);
        if u32::from_le_bytes(word(8)?) != crc32c(&unsummed) {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(field(14)?));
        let body = bytes.get(16..12 + length)?;
        let tag = |body: &[u8]| Some(u32::from_be_bytes(*body.first_chunk::<4>()?));
        let chunk = match *bytes.get(12)? {
            INIT => Chunk::Init { initiate_tag: tag(body)? },
            INIT_ACK => Chunk::InitAck { initiate_tag: tag(body)?, cookie: cookie(body.get(16..)?)? },
            ABORT => Chunk::Abort,
            _ => return None,
        };
        Some(Self {
            source_port: u16::from_be_bytes(field(0)?),
            destination_port: u16::from_be_bytes(field(2)?),
            verification_tag: u32::from_be_bytes(word(4)?),
            chunk,
        })
    }
}

fn chunk(bytes: &mut Vec<u8>, kind: u8, body: &[u8]) {
    let len = u16::try_from(4 + body.len()).expect("chunks here are short");
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(body);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

/// Tag, window, streams out and in, first sequence number.
fn init_body(tag: u32) -> Vec<u8> {
    let mut body = tag.to_be_bytes().to_vec();
    body.extend_from_slice(&65_536_u32.to_be_bytes());
    body.extend_from_slice(&1_u16.to_be_bytes());
    body.extend_from_slice(&1_u16.to_be_bytes());
    body.extend_from_slice(&tag.to_be_bytes());
    body
}

fn cookie(mut parameters: &[u8]) -> Option<Vec<u8>> {
    while let [k0, k1, l0, l1, ..] = *parameters {
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        if u16::from_be_bytes([k0, k1]) == STATE_COOKIE {
            return Some(parameters.get(4..len)?.to_vec());
        }
        parameters = parameters.get(len.max(4).next_multiple_of(4)..)?;
    }
    None
}

/// CRC-32C (Castagnoli), bit by bit: probes are few and short.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_has_the_published_check_value() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn packets_survive_the_wire_and_damage_is_seen() {
        for chunk in [
            Chunk::Init { initiate_tag: 7 },
            Chunk::InitAck { initiate_tag: 8, cookie: b"production/backend 10.0.0.1:5".to_vec() },
            Chunk::Abort,
        ] {
            let packet = Packet { source_port: 1000, destination_port: 2000, verification_tag: 3, chunk };
            let mut bytes = packet.encode();
            assert_eq!(Packet::decode(&bytes), Some(packet));
            for cut in 0..bytes.len() {
                assert_eq!(Packet::decode(&bytes[..cut]), None, "cut at {cut}");
            }
            bytes[2] ^= 1;
            assert_eq!(Packet::decode(&bytes), None);
        }
    }
}
