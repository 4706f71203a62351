//! What is judged: a connection, datagram or request.

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::http::HttpRequest;

/// Which side of a pod a rule is about. `Egress` is judged for the source's pod, `Ingress` for the destination's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    /// `ingress` or `egress`, as in a field path and in a flow record.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The protocol over IP. Only TCP, UDP and SCTP have ports; the others follow the rules that restrict no port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
    #[serde(rename = "SCTP")]
    Sctp,
    /// ICMP for IPv4 (1) and ICMPv6 (58): echo requests and whatever else starts an exchange.
    #[serde(rename = "ICMP")]
    Icmp,
    /// Any other IP protocol, by its IANA number (GRE is 47).
    Other(u8),
}

impl Protocol {
    pub const fn has_ports(self) -> bool {
        matches!(self, Self::Tcp | Self::Udp | Self::Sctp)
    }

    /// The IANA protocol number; ICMP answers for IPv4.
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Other(n) => n,
        }
    }

    pub const fn from_number(number: u8) -> Self {
        match number {
            1 | 58 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            132 => Self::Sctp,
            n => Self::Other(n),
        }
    }
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp => f.write_str("TCP"),
            Self::Udp => f.write_str("UDP"),
            Self::Sctp => f.write_str("SCTP"),
            Self::Icmp => f.write_str("ICMP"),
            Self::Other(n) => write!(f, "IP protocol {n}"),
        }
    }
}

impl std::str::FromStr for Protocol {
    type Err = String;

    /// `TCP`, `UDP`, `SCTP` or `ICMP`, in any case.
    fn from_str(s: &str) -> Result<Self, String> {
        match s.to_ascii_uppercase().as_str() {
            "TCP" => Ok(Self::Tcp),
            "UDP" => Ok(Self::Udp),
            "SCTP" => Ok(Self::Sctp),
            "ICMP" => Ok(Self::Icmp),
            _ => Err(format!("unknown protocol {s:?}: TCP, UDP, SCTP or ICMP")),
        }
    }
}

/// Which ICMP: each family of addresses has its own, with its own types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum IcmpFamily {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

impl IcmpFamily {
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// The type of an echo request.
    pub const fn echo_request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }
}

/// What a message of ICMP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcmpMessage {
    #[serde(rename = "type")]
    pub kind: u8,
    #[serde(default)]
    pub code: u8,
}

/// The first packet of an exchange, after any Service translation, and what is known of the request in it.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub protocol: Protocol,
    /// 0 for protocols without ports.
    pub destination_port: u16,
    /// Of [`Protocol::Icmp`]: the message. `None`: an echo request.
    pub icmp: Option<IcmpMessage>,
    /// The names of which DNS has told the source that they have the destination's address, as for
    /// [`NamePattern::matches`](crate::name::NamePattern::matches).
    pub names: &'a [Arc<str>],
    /// `None`: nothing has been read yet. Then a flow whose answer hangs on a request is [`Decision::Inspect`](crate::Decision).
    pub request: Option<Request<'a>>,
}

impl Flow<'_> {
    /// The message of ICMP that this is, and of which family; `None`: it is of another protocol.
    pub fn icmp(&self) -> Option<(IcmpFamily, IcmpMessage)> {
        let family = IcmpFamily::of(self.destination);
        let message = self.icmp.unwrap_or(IcmpMessage { kind: family.echo_request(), code: 0 });
        (self.protocol == Protocol::Icmp).then_some((family, message))
    }
}

/// What was read of a connection's contents.
#[derive(Clone, Copy, Debug)]
pub enum Request<'a> {
    Http(&'a HttpRequest<'a>),
    /// A TLS ClientHello, and the server name in it, in any case. What follows it is not read.
    Tls {
        server_name: Option<&'a str>,
    },
    /// A look-up: the name in the form that patterns compare with, and the IANA number of the type of records.
    Lookup {
        name: &'a str,
        kind: u16,
    },
    /// The bytes are certainly not of a protocol that the rules in question can judge: no L7 rule matches.
    Opaque,
}
