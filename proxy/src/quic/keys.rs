//! The keys of Initial packets: whoever sees the first of them can make them (RFC 9001 section 5.2, RFC 9369 section 3.3).
//!
//! They hide nothing, and tell what belongs to an attempt to connect from what doesn't.

use ring::aead::quic::{AES_128, HeaderProtectionKey};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};

use super::packet::Version;

const SECRET_BYTES: usize = 32;
const KEY_BYTES: usize = 16;
const SAMPLE_BYTES: usize = 16;
/// Where the sample begins, as if the packet number had all its four bytes (RFC 9001 section 5.4.2).
const LONGEST_NUMBER_BYTES: usize = 4;
const TAG_BYTES: usize = 16;

const SALT_V1: [u8; 20] =
    [0x38, 0x76, 0x2c, 0xf7, 0xf5, 0x59, 0x34, 0xb3, 0x4d, 0x17, 0x9a, 0xe6, 0xa4, 0xc8, 0x0c, 0xad, 0xcc, 0xbb, 0x7f, 0x0a];
const SALT_V2: [u8; 20] =
    [0x0d, 0xed, 0xe3, 0xde, 0xf7, 0x00, 0xa6, 0xdb, 0x81, 0x93, 0x81, 0xbe, 0x6e, 0x26, 0x9d, 0xcb, 0xf9, 0xbd, 0x2e, 0xd9];

/// Whose packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// The keys of one side's Initial packets.
pub(super) struct Keys {
    aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
    header: HeaderProtectionKey,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keys")
    }
}

/// What an Initial packet holds.
pub(super) struct Opened {
    pub(super) number: u64,
    pub(super) payload: Vec<u8>,
}

impl Keys {
    /// By the destination that the client chose for its first packet.
    pub(super) fn of(version: Version, destination: &[u8], side: Side) -> Self {
        let (salt, labels) = match version {
            Version::V1 => (SALT_V1, ["quic key", "quic iv", "quic hp"]),
            Version::V2 => (SALT_V2, ["quicv2 key", "quicv2 iv", "quicv2 hp"]),
        };
        let initial = Salt::new(HKDF_SHA256, &salt).extract(destination);
        let of_side = match side {
            Side::Client => "client in",
            Side::Server => "server in",
        };
        let secret = Prk::new_less_safe(HKDF_SHA256, &expand::<SECRET_BYTES>(&initial, of_side));
        let [key, iv, header] = labels;
        let key = UnboundKey::new(&AES_128_GCM, &expand::<KEY_BYTES>(&secret, key)).expect("the key has the cipher's length");
        let header = HeaderProtectionKey::new(&AES_128, &expand::<KEY_BYTES>(&secret, header));
        Self { aead: LessSafeKey::new(key), iv: expand(&secret, iv), header: header.expect("the key has the cipher's length") }
    }

    /// The payload of `packet`, whose number begins at `number_at`. `None`: it was not made with these keys. `largest` is the largest
    /// number of those that were.
    pub(super) fn open(&self, packet: &[u8], number_at: usize, largest: Option<u64>) -> Option<Opened> {
        let sample_at = number_at.checked_add(LONGEST_NUMBER_BYTES)?;
        let mask = self.header.new_mask(packet.get(sample_at..sample_at.checked_add(SAMPLE_BYTES)?)?).ok()?;
        let mut packet = packet.to_vec();
        packet[0] ^= mask[0] & 0x0f;
        let number_bytes = usize::from(packet[0] & 0x03) + 1;
        let mut cut = 0;
        for (byte, mask) in packet[number_at..number_at + number_bytes].iter_mut().zip(&mask[1..]) {
            *byte ^= mask;
            cut = cut << 8 | u64::from(*byte);
        }
        let number = whole_number(cut, number_bytes, largest);
        let (header, sealed) = packet.split_at_mut(number_at + number_bytes);
        let payload = self.aead.open_in_place(self.nonce(number), Aad::from(&*header), sealed).ok()?;
        Some(Opened { number, payload: payload.to_vec() })
    }

    /// Protects a packet whose `header` ends with its whole number.
    pub(super) fn seal(&self, header: &[u8], payload: &[u8]) -> Option<Vec<u8>> {
        let number_at = header.len().checked_sub(usize::from(header.first()? & 0x03) + 1)?;
        let number = header[number_at..].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let mut sealed = payload.to_vec();
        self.aead.seal_in_place_append_tag(self.nonce(number), Aad::from(header), &mut sealed).ok()?;
        let mut packet = header.to_vec();
        packet.extend(sealed);
        let sample_at = number_at + LONGEST_NUMBER_BYTES;
        let mask = self.header.new_mask(packet.get(sample_at..sample_at + SAMPLE_BYTES)?).ok()?;
        packet[0] ^= mask[0] & 0x0f;
        packet[number_at..header.len()].iter_mut().zip(&mask[1..]).for_each(|(byte, mask)| *byte ^= mask);
        Some(packet)
    }

    fn nonce(&self, number: u64) -> Nonce {
        let mut nonce = self.iv;
        for (byte, of_number) in nonce[NONCE_LEN - 8..].iter_mut().zip(number.to_be_bytes()) {
            *byte ^= of_number;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// How many bytes a sealed payload of `bytes` has.
pub(super) const fn sealed_bytes(bytes: usize) -> usize {
    bytes + TAG_BYTES
}

/// RFC 9000 appendix A.3: the number that is nearest to the next one.
fn whole_number(cut: u64, bytes: usize, largest: Option<u64>) -> u64 {
    let expected = largest.map_or(0, |largest| largest.saturating_add(1));
    let window = 1_u64 << (8 * bytes);
    let half = window / 2;
    let candidate = (expected & !(window - 1)) | cut;
    if candidate.saturating_add(half) <= expected && candidate < (1 << 62) - window {
        candidate + window
    } else if candidate > expected.saturating_add(half) && candidate >= window {
        candidate - window
    } else {
        candidate
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label without a context (RFC 8446 section 7.1).
fn expand<const BYTES: usize>(secret: &Prk, label: &str) -> [u8; BYTES] {
    const PREFIX: &str = "tls13 ";
    let byte = |length: usize| u8::try_from(length).expect("lengths and labels here are short");
    let info: [&[u8]; 5] = [&[0, byte(BYTES)], &[byte(PREFIX.len() + label.len())], PREFIX.as_bytes(), label.as_bytes(), &[0]];
    let mut out = [0; BYTES];
    secret.expand(&info, Length(BYTES)).and_then(|made| made.fill(&mut out)).expect("as many bytes as were asked for");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_nearest_to_the_next() {
        for (cut, bytes, largest, whole) in [
            (2, 1, None, 2),
            (0xff, 1, None, 0xff),
            // RFC 9000 appendix A.3.
            (0x9b32, 2, Some(0xa82f_30ea), 0xa82f_9b32),
            (0x00, 1, Some(0xff), 0x100),
            (0xff, 1, Some(0x100), 0xff),
            (0xffff_ffff, 4, None, 0xffff_ffff),
        ] {
            assert_eq!(whole_number(cut, bytes, largest), whole, "{cut:#x}");
        }
    }
}
