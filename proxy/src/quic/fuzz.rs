//! What must hold of any datagrams of a client.

use super::hellos::{Hellos, Seen};
use super::packet::{Packet, Unreadable, Version, first};
use super::sample::initial;

/// `data` is datagrams, each behind its length in two bytes, and the last perhaps cut. The first byte of each says what it is:
///
/// | its bits | |
/// |---|---|
/// | 0: zero | the datagram as it is |
/// | 0: one | frames, that become an Initial packet: what no fuzzer could encrypt |
/// | 1 | of these, the version |
/// | 2 to 7 | of these, the connection |
pub fn quic(data: &[u8]) {
    let (mut hellos, mut again) = (Hellos::default(), Hellos::default());
    let mut rest = data;
    let mut number = 0_u8;
    while let Some((length, behind)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (chunk, next) = behind.split_at(length);
        rest = next;
        let Some((kind, bytes)) = chunk.split_first() else { continue };
        number = number.wrapping_add(1);
        let datagram = match kind & 1 {
            0 => bytes.to_vec(),
            _ => {
                let version = if kind & 2 == 0 { Version::V1 } else { Version::V2 };
                let id = [kind >> 2; 8];
                initial(version, &id, &id, number, &bytes[..bytes.len().min(8192)], 1200)
            }
        };
        let packets = packets(&datagram);
        let seen = hellos.see(&datagram);
        assert_eq!(seen, again.see(&datagram), "the same bytes say the same");
        match seen {
            Ok(Seen { begins, server_names, goes_on }) => {
                assert_eq!(packets, Ok(begins), "every packet was read, and whether one begins a connection");
                assert!(begins || server_names.is_empty() && !goes_on);
                for name in server_names.into_iter().flatten() {
                    assert!(!name.is_empty() && name.len() <= 253, "{name:?}");
                }
            }
            Err(error) => assert!(packets.is_ok() || packets == Err(error) || packets.is_err(), "{error}"),
        }
        assert!(hellos.release().iter().map(Vec::len).sum::<usize>() <= 64 << 10);
        drop(again.release());
    }
}

/// Whether one of the packets is an Initial one.
fn packets(mut datagram: &[u8]) -> Result<bool, Unreadable> {
    let mut begins = false;
    while !datagram.is_empty() {
        let before = datagram.len();
        let (packet, rest) = first(datagram)?;
        assert!(rest.len() < before, "it goes on");
        if let Packet::Initial(initial) = packet {
            assert!(initial.number_at <= initial.whole.len() && initial.destination.len() <= 20);
            begins = true;
        }
        datagram = rest;
    }
    Ok(begins)
}
