//! Protocols and ports of probes and servers.

/// What a probe speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// A connection, a line, an answer.
    Tcp,
    /// A datagram and its answer.
    Udp,
    /// INIT and INIT ACK in raw packets.
    Sctp,
    /// Echo request and reply, of the address's family.
    Icmp,
}

impl Protocol {
    /// As nft and /etc/protocols write it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
            Self::Icmp => "icmp",
        }
    }
}

/// A port on which a server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port {
    /// TCP, UDP or SCTP; ICMP echo is answered by the kernel.
    pub protocol: Protocol,
    /// 1 to 65535.
    pub number: u16,
}

impl Port {
    /// A TCP port.
    pub const fn tcp(number: u16) -> Self {
        Self::of(Protocol::Tcp, number)
    }

    /// A UDP port.
    pub const fn udp(number: u16) -> Self {
        Self::of(Protocol::Udp, number)
    }

    /// An SCTP port.
    pub const fn sctp(number: u16) -> Self {
        Self::of(Protocol::Sctp, number)
    }

    /// A port of any protocol.
    pub const fn of(protocol: Protocol, number: u16) -> Self {
        Self { protocol, number }
    }
}
