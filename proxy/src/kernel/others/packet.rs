//! The packets of connections that go through the proxy, as far as they are alike, for somebody else's rules to be tried on.
//!
//! A rule is harmless when none of them can meet it. So what all of them share is known here, and the rest isn't: addresses,
//! ports, interfaces, marks of others.
//!
//! Seen on 6.18, with HTTP through the proxy: in `input` the client's SYN is new and all else established; in `output` and
//! `postrouting` everything is established, the first SYN to the server too, because both legs share ports and so one entry of
//! the connection tracking. Nothing is invalid but the packets of a connection from the ports of one that is still ending: a
//! host's `ct state invalid drop` makes that one wait, and is no finding.

use std::net::IpAddr;

use super::super::config::Mark;
use super::super::object::Family;
use super::bits::{Bits, Holds};

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Where packets are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Hook {
    Prerouting,
    Input,
    Forward,
    Output,
    Postrouting,
    /// Of a device, before everything else.
    Ingress,
    Egress,
}

impl Hook {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Bits of `ct state`, of nftables and of xtables alike.
pub(super) mod state {
    pub(in super::super) const INVALID: u32 = 1;
    pub(in super::super) const ESTABLISHED: u32 = 2;
    pub(in super::super) const RELATED: u32 = 4;
    pub(in super::super) const NEW: u32 = 8;
    pub(in super::super) const UNTRACKED: u32 = 64;
}

/// FIN, SYN, RST, PSH, ACK, as in the header's byte.
mod flag {
    pub(super) const FIN: u8 = 1;
    pub(super) const SYN: u8 = 2;
    pub(super) const RST: u8 = 4;
    pub(super) const PSH: u8 = 8;
    pub(super) const ACK: u8 = 16;
}

/// What a rule reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// Bytes of the network header, or of the transport header.
    Network {
        offset: u32,
        length: u32,
    },
    Transport {
        offset: u32,
        length: u32,
    },
    State,
    Mark,
    InterfaceIn,
    InterfaceOut,
    NetworkProtocol,
    TransportProtocol,
    PacketType,
    /// Of the source or the destination, by the routing table.
    AddressType,
    Owner,
    Other,
}

impl Field {
    /// A whole address: of all addresses of a packet the same is known.
    pub(super) fn any_address(family: Family) -> Self {
        match family {
            Family::V4 => Self::Network { offset: 12, length: 4 },
            Family::V6 => Self::Network { offset: 8, length: 16 },
        }
    }
}

/// What the packets of one moment of a connection share.
#[derive(Clone, Debug)]
pub(super) struct Packet {
    pub(super) family: Family,
    pub(super) protocol: u8,
    pub(super) state: u32,
    /// Of TCP.
    pub(super) flags: u8,
    mark: Option<Mark>,
}

/// The node, as far as rules ask for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// The node's own addresses: no diverted packet has one at either end, for what is the node's own would be delivered anyway.
    pub(super) own: Vec<IpAddr>,
    /// The user that the proxy runs as.
    pub(super) user: u32,
}

impl Packet {
    /// What comes to `hook` of a connection that goes through the proxy, or for `Forward` and `Postrouting`, what would come if
    /// it didn't.
    pub(super) fn at(hook: Hook, family: Family, mark: Mark) -> Vec<Self> {
        use flag::{ACK, FIN, PSH, RST, SYN};
        let mark = matches!(hook, Hook::Prerouting).then_some(mark);
        let begins = [(state::NEW, SYN)];
        let goes_on = [ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN | ACK].map(|flags| (state::ESTABLISHED, flags));
        let tcp = begins.into_iter().chain(goes_on);
        let tcp = tcp.map(|(state, flags)| Self { family, protocol: TCP, state, flags, mark });
        let udp = [state::NEW, state::ESTABLISHED].map(|state| Self { family, protocol: UDP, state, flags: 0, mark });
        tcp.chain(udp).collect()
    }

    /// What a rule finds there.
    pub(super) fn load(&self, field: Field, place: &Place) -> Bits {
        match field {
            Field::Network { offset, length } => self.network(offset, length),
            Field::Transport { offset: 13, length: 1 } if self.protocol == TCP => Bits::known(&[self.flags]),
            Field::State => Bits::known(&self.state.to_ne_bytes()),
            Field::Mark => {
                self.mark.map_or_else(Bits::unknown, |mark| Bits::partly(&mark.value.to_ne_bytes(), &mark.mask.to_ne_bytes()))
            }
            Field::NetworkProtocol => Bits::known(&[self.family.number()]),
            Field::TransportProtocol => Bits::known(&[self.protocol]),
            // PACKET_HOST and RTN_UNICAST.
            Field::PacketType => Bits::known(&[0]),
            Field::AddressType => Bits::known(&1_u32.to_ne_bytes()),
            Field::Owner => Bits::known(&place.user.to_ne_bytes()),
            Field::Transport { .. } | Field::InterfaceIn | Field::InterfaceOut | Field::Other => Bits::unknown(),
        }
    }

    /// Whether a packet that gets this mark still has ours, if it had.
    pub(super) fn keeps_mark(&self, mark: &Bits) -> bool {
        self.mark.is_none_or(|ours| mark.is_surely(&ours.value.to_ne_bytes(), &ours.mask.to_ne_bytes()))
    }

    fn network(&self, offset: u32, length: u32) -> Bits {
        let (protocol_at, source, destination, address) = match self.family {
            Family::V4 => (9, 12, 16, 4),
            Family::V6 => (6, 8, 24, 16),
        };
        if (offset, length) == (protocol_at, 1) {
            return Bits::known(&[self.protocol]);
        }
        if (offset == source || offset == destination) && length <= address {
            return Bits::address(length as usize);
        }
        Bits::unknown()
    }

    /// Whether the packet's source or destination can begin with `data` in the bits of `mask`.
    ///
    /// Never diverted: loopback, multicast, broadcast, what stays on the link, and the node's own addresses.
    pub(super) fn is_possible_address(&self, data: &[u8], mask: &[u8], place: &Place) -> bool {
        const NEVER_V4: [(&[u8], u32); 3] = [(&[127], 8), (&[224], 3), (&[0], 8)];
        const NEVER_V6: [(&[u8], u32); 3] = [(&[0xff], 8), (&[0xfe, 0x80], 10), (&[0; 15], 120)];
        let never = match self.family {
            Family::V4 => NEVER_V4,
            Family::V6 => NEVER_V6,
        };
        let lies_in = |prefix: &[u8], bits: u32| {
            (0..bits as usize).all(|bit| {
                let (byte, bit) = (bit / 8, 0x80_u8 >> (bit % 8));
                let at = |bytes: &[u8]| bytes.get(byte).copied().unwrap_or_default() & bit;
                at(mask) != 0 && at(data) == at(prefix)
            })
        };
        let is_own = |own: &IpAddr| match own {
            IpAddr::V4(own) if self.family == Family::V4 => lies_in(&own.octets(), 32),
            IpAddr::V6(own) if self.family == Family::V6 => lies_in(&own.octets(), 128),
            _ => false,
        };
        !never.iter().any(|(prefix, bits)| lies_in(prefix, *bits)) && !place.own.iter().any(is_own)
    }

    /// `value` compared with what was loaded.
    pub(super) fn compare(&self, bits: &Bits, value: &[u8], place: &Place) -> Holds {
        bits.equals(value, |data, mask| self.is_possible_address(data, mask, place))
    }
}
