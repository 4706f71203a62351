//! Datagrams as clients make them.

use super::keys::{Keys, Side, sealed_bytes};
use super::packet::Version;

/// RFC 9001 appendix A.2: the ClientHello, for `example.com`, in its frame.
#[cfg(test)]
pub(super) const CRYPTO_FRAME: &str = "060040f1010000ed0303ebf8fa56f12939b9584a3896472ec40bb863cfd3e868\
    04fe3a47f06a2b69484c00000413011302010000c000000010000e00000b6578616d706c652e636f6dff01000100000a00080006001d0017001800100007\
    000504616c706e000500050100000000003300260024001d00209370b2c9caa47fbabaf4559fedba753de171fa71f50f1ce15d43e994ec74d748002b0003\
    020304000d0010000e0403050306030203080408050806002d00020101001c00024001003900320408ffffffffffffffff05048000ffff07048000ffff08\
    01100104800075300901100f088394c8f03e51570806048000ffff";

#[cfg(test)]
pub(super) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .bytes()
        .map(|digit| u8::try_from(char::from(digit).to_digit(16).expect("a digit")).expect("samples are short"))
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A ClientHello with this server name, and with an extension that makes it longer.
#[cfg(test)]
pub(super) fn hello(name: Option<&str>, longer_by: u16) -> Vec<u8> {
    let mut extensions = Vec::new();
    if let Some(name) = name {
        let length = u16::try_from(name.len()).expect("samples are short");
        for field in [0, length + 5, length + 3] {
            extensions.extend(field.to_be_bytes());
        }
        extensions.push(0);
        extensions.extend(length.to_be_bytes());
        extensions.extend(name.as_bytes());
    }
    extensions.extend([0xfa, 0xfa]);
    extensions.extend(longer_by.to_be_bytes());
    extensions.extend((0..longer_by).map(|byte| byte.to_le_bytes()[0]));
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(u16::try_from(extensions.len()).expect("samples are short").to_be_bytes());
    body.extend(extensions);
    let mut message = u32::try_from(body.len()).expect("samples are short").to_be_bytes().to_vec();
    message[0] = 1;
    message.extend(body);
    message
}

/// A piece of the handshake.
#[cfg(test)]
pub(super) fn crypto(at: usize, piece: &[u8]) -> Vec<u8> {
    let number = |number: usize| (u16::try_from(number).expect("samples are short") | 0x4000).to_be_bytes();
    let mut frame = vec![6];
    frame.extend(number(at));
    frame.extend(number(piece.len()));
    frame.extend(piece);
    frame
}

/// An Initial packet with the keys of `first`, to `destination`, and so many bytes at least.
pub(super) fn initial(version: Version, first: &[u8], destination: &[u8], number: u8, frames: &[u8], least: usize) -> Vec<u8> {
    let mut header = vec![0xc0 | version.initial_bits() << 4];
    header.extend(version.number().to_be_bytes());
    header.push(u8::try_from(destination.len()).expect("samples are short"));
    header.extend(destination);
    // No id of its own, no token, then the length and the number.
    header.extend([0, 0]);
    let mut payload = frames.to_vec();
    payload.resize(payload.len().max(least.saturating_sub(sealed_bytes(header.len() + 3))).max(4), 0);
    header.extend((u16::try_from(sealed_bytes(payload.len()) + 1).expect("samples are short") | 0x4000).to_be_bytes());
    header.push(number);
    Keys::of(version, first, Side::Client).seal(&header, &payload).expect("samples are short")
}

/// A datagram that begins a connection to `name`.
#[cfg(test)]
pub(super) fn beginning(version: Version, destination: &[u8], name: &str) -> Vec<u8> {
    initial(version, destination, destination, 0, &crypto(0, &hello(Some(name), 0)), 1200)
}
