//! Destination ports: where rules draw lines between them, and sets of them in words.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::Serialize;
use sluice_policy::Protocol;
use sluice_policy::source::{NamedPort, PortMatch};
use sluice_policy::table::{Lines, Where};

/// Stands for every protocol that has no ports and is not ICMP: no rule tells one from another.
pub const OTHERS: Protocol = Protocol::Other(255);

const WITH_PORTS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// Ports that no rule in question tells apart. Of ICMP, type and code stand for a port, the type in the upper byte; of protocols with
/// neither, `first` and `last` are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct PortRange {
    pub protocol: Protocol,
    pub first: u16,
    pub last: u16,
}

/// Where the lines of a program begin to say something else.
#[derive(Clone, Debug, Default)]
pub struct Borders {
    /// First ports of ranges.
    firsts: BTreeSet<(Protocol, u16)>,
    named: BTreeSet<(Protocol, Arc<str>)>,
}

impl Borders {
    pub fn of(lines: &Lines) -> Self {
        let mut borders = Self::default();
        if lines.lines.iter().any(|line| line.place != Where::Anywhere) {
            lines.checked_ports.iter().for_each(|port| borders.cut(Protocol::Tcp, *port, *port));
            lines.quic_ports.iter().for_each(|port| borders.cut(Protocol::Udp, *port, *port));
        }
        for port in lines.lines.iter().flat_map(|line| line.ports.iter().flatten()) {
            match port {
                PortMatch::All { .. } => {}
                PortMatch::Range { protocol, first, last } => borders.cut(*protocol, *first, *last),
                PortMatch::Named { protocol, name } => drop(borders.named.insert((*protocol, name.clone()))),
                PortMatch::Icmp(messages) => {
                    let (kinds, codes) = (messages.kind.map_or((0, u8::MAX), |kind| (kind, kind)), messages.code);
                    let codes = codes.map_or((0, u8::MAX), |code| (code, code));
                    borders.cut(Protocol::Icmp, u16::from_be_bytes([kinds.0, codes.0]), u16::from_be_bytes([kinds.1, codes.1]));
                }
            }
        }
        borders
    }

    fn cut(&mut self, protocol: Protocol, first: u16, last: u16) {
        self.firsts.insert((protocol, first));
        if let Some(next) = last.checked_add(1) {
            self.firsts.insert((protocol, next));
        }
    }

    /// The ranges that no program of `all` tells apart where the destination has these named ports. Together they are every port.
    pub fn ranges(all: &[&Self], destination: &[NamedPort]) -> Vec<PortRange> {
        let mut merged = Self::default();
        for borders in all {
            merged.firsts.extend(&borders.firsts);
            for port in destination.iter().filter(|port| borders.named.contains(&(port.protocol, port.name.clone()))) {
                merged.cut(port.protocol, port.port, port.port);
            }
        }
        let mut ranges = Vec::new();
        for protocol in WITH_PORTS.into_iter().chain([Protocol::Icmp]) {
            let (least, _) = span(protocol);
            let mut firsts: Vec<u16> = merged.firsts.iter().filter(|(p, _)| *p == protocol).map(|(_, first)| *first).collect();
            firsts.retain(|first| *first > least);
            firsts.insert(0, least);
            let lasts = firsts.iter().skip(1).map(|next| next - 1).chain([u16::MAX]);
            ranges.extend(firsts.iter().zip(lasts).map(|(first, last)| PortRange { protocol, first: *first, last }));
        }
        ranges.push(PortRange { protocol: OTHERS, first: 0, last: 0 });
        ranges
    }
}

/// Ports of several protocols.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PortSet {
    /// Sorted, disjoint, and as few as can be.
    ranges: Vec<PortRange>,
}

impl FromIterator<PortRange> for PortSet {
    fn from_iter<T: IntoIterator<Item = PortRange>>(ranges: T) -> Self {
        let mut sorted: Vec<PortRange> = ranges.into_iter().collect();
        sorted.sort_unstable();
        let mut ranges: Vec<PortRange> = Vec::with_capacity(sorted.len());
        for range in sorted {
            match ranges.last_mut() {
                Some(before) if before.protocol == range.protocol && range.first <= before.last.saturating_add(1) => {
                    before.last = before.last.max(range.last);
                }
                _ => ranges.push(range),
            }
        }
        Self { ranges }
    }
}

impl PortSet {
    pub fn ranges(&self) -> &[PortRange] {
        &self.ranges
    }

    fn of(&self, protocol: Protocol) -> impl Iterator<Item = &PortRange> {
        self.ranges.iter().filter(move |range| range.protocol == protocol)
    }

    fn has_all(&self, protocol: Protocol) -> bool {
        let (first, last) = span(protocol);
        self.of(protocol).any(|range| range.first <= first && range.last >= last)
    }

    /// The ports of these protocols that are not in the set.
    fn missing(&self, protocols: &[Protocol]) -> Self {
        let mut missing = Vec::new();
        for &protocol in protocols {
            let (least, most) = span(protocol);
            let mut next = u32::from(least);
            for range in self.of(protocol) {
                if u32::from(range.first) > next {
                    missing.push(PortRange { protocol, first: clamp(next), last: range.first - 1 });
                }
                next = u32::from(range.last) + 1;
            }
            if next <= u32::from(most) {
                missing.push(PortRange { protocol, first: clamp(next), last: most });
            }
        }
        Self { ranges: missing }
    }

    fn list(&self) -> String {
        let mut parts: Vec<String> = Vec::new();
        let mut protocol = None;
        for range in &self.ranges {
            let ports = match range.protocol {
                Protocol::Icmp => messages(range),
                _ if range.first == range.last => range.first.to_string(),
                _ => format!("{}-{}", range.first, range.last),
            };
            let same = protocol.replace(range.protocol) == Some(range.protocol);
            parts.push(match range.protocol {
                OTHERS => "other protocols".to_owned(),
                protocol if self.has_all(protocol) => protocol.to_string(),
                _ if same => ports,
                protocol => format!("{protocol} {ports}"),
            });
        }
        parts.join(", ")
    }
}

/// The least and the greatest number that a range of this protocol can have. No destination has port 0.
fn span(protocol: Protocol) -> (u16, u16) {
    match protocol {
        Protocol::Icmp => (0, u16::MAX),
        protocol if protocol.has_ports() => (1, u16::MAX),
        _ => (0, 0),
    }
}

/// `type 8`, `types 9-255`, `type 3 code 4`, `type 3 code 5 to type 7 code 255`.
fn messages(range: &PortRange) -> String {
    let ([first, first_code], [last, last_code]) = (range.first.to_be_bytes(), range.last.to_be_bytes());
    match (first_code, last_code) {
        (0, u8::MAX) if first == last => format!("type {first}"),
        (0, u8::MAX) => format!("types {first}-{last}"),
        _ if range.first == range.last => format!("type {first} code {first_code}"),
        _ => format!("type {first} code {first_code} to type {last} code {last_code}"),
    }
}

fn clamp(port: u32) -> u16 {
    u16::try_from(port).unwrap_or(u16::MAX)
}

impl std::fmt::Display for PortSet {
    /// `TCP 80, 443, UDP 53`, `any port`, `any port but TCP 80`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all: Vec<Protocol> = WITH_PORTS.into_iter().chain([Protocol::Icmp, OTHERS]).collect();
        let missing = self.missing(&all);
        if missing.ranges.is_empty() {
            return f.write_str("any port");
        }
        let but = |missing: &Self| missing.ranges.len() <= 4 && self.ranges.len() > missing.ranges.len();
        if but(&missing) {
            return write!(f, "any port but {}", missing.list());
        }
        let [protocol] =
            self.ranges.iter().map(|range| range.protocol).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>()[..]
        else {
            return f.write_str(&self.list());
        };
        let missing = self.missing(&[protocol]);
        if protocol != OTHERS && !missing.ranges.is_empty() && but(&missing) {
            let ports = missing.list();
            let ports = ports.strip_prefix(&format!("{protocol} ")).unwrap_or(&ports);
            return write!(f, "{protocol} but {ports}");
        }
        f.write_str(&self.list())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ranges: &[(Protocol, u16, u16)]) -> String {
        ranges
            .iter()
            .map(|(protocol, first, last)| PortRange { protocol: *protocol, first: *first, last: *last })
            .collect::<PortSet>()
            .to_string()
    }

    #[test]
    fn sets_are_said_in_few_words() {
        use Protocol::{Icmp, Sctp, Tcp, Udp};
        let most = u16::MAX;
        let rest = [(Udp, 1, most), (Sctp, 1, most), (Icmp, 0, most), (OTHERS, 0, 0)];
        let with = |tcp: &[(Protocol, u16, u16)]| set(&[tcp, &rest].concat());
        assert_eq!(set(&[(Tcp, 80, 80), (Tcp, 443, 443), (Udp, 53, 53)]), "TCP 80, 443, UDP 53");
        assert_eq!(set(&[(Tcp, 80, 80), (Tcp, 81, 90)]), "TCP 80-90");
        assert_eq!(set(&[(Tcp, 1, most)]), "TCP");
        assert_eq!(set(&[(Tcp, 1, 79), (Tcp, 81, most)]), "TCP but 80");
        assert_eq!(with(&[(Tcp, 1, most)]), "any port");
        assert_eq!(with(&[(Tcp, 1, 79), (Tcp, 81, most)]), "any port but TCP 80");
        assert_eq!(with(&[]), "any port but TCP");
        let type_and_code = |kind: u16, code: u16| (kind << 8) + code;
        let echo = type_and_code(8, 0);
        assert_eq!(set(&[(Icmp, echo, echo)]), "ICMP type 8 code 0");
        assert_eq!(set(&[(Icmp, 0, 255), (Icmp, echo, echo + 255)]), "ICMP type 0, type 8");
        assert_eq!(set(&[(Icmp, 0, echo - 1), (Icmp, echo + 1, most)]), "ICMP but type 8 code 0");
        assert_eq!(set(&[(Icmp, 0, most)]), "ICMP");
        assert_eq!(set(&[(Icmp, echo, most)]), "ICMP types 8-255");
    }

    #[test]
    fn ranges_are_every_port_once() {
        let mut borders = Borders::default();
        borders.cut(Protocol::Tcp, 80, 80);
        borders.cut(Protocol::Tcp, 8000, u16::MAX);
        borders.named.insert((Protocol::Udp, "dns".into()));
        let port = NamedPort { name: "dns".into(), protocol: Protocol::Udp, port: 53 };
        let ranges = Borders::ranges(&[&borders], &[port]);
        assert_eq!(ranges.iter().copied().collect::<PortSet>().to_string(), "any port");
        let firsts: Vec<(Protocol, u16)> = ranges.iter().map(|range| (range.protocol, range.first)).collect();
        use Protocol::{Icmp, Sctp, Tcp, Udp};
        let expected =
            [(Tcp, 1), (Tcp, 80), (Tcp, 81), (Tcp, 8000), (Udp, 1), (Udp, 53), (Udp, 54), (Sctp, 1), (Icmp, 0), (OTHERS, 0)];
        assert_eq!(firsts, expected);
    }
}
