//! The kernel's own text of its live flows, `/proc/net/nf_conntrack`.
//!
//! A dump by netlink locks each bucket of the hash table in turn, empty or not: 9 ms for 262,144 of them. The text is read without
//! locks, in half a millisecond and some 4 us for each flow, so it is faster where there are few. It has no labels, and an entry
//! that moves while it is read can be missed: so it tells where to look, and never that there is nothing.

use std::io;
use std::net::IpAddr;

use super::{Entry, Tuple, Upper};
use sluice_policy::Protocol;

/// Opened by the calling thread, so of its network namespace.
const TEXT: &str = "/proc/thread-self/net/nf_conntrack";
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
/// From here on a dump is faster, on kernels that begin each page of the text at the first bucket.
const FEW: usize = 2_000;

/// The live flows as entries without labels, mark, status and id; `None` where the text doesn't serve: a kernel without it, many
/// flows, or one that can't be understood.
pub(super) fn read() -> Option<Vec<Entry>> {
    let count: usize = std::fs::read_to_string(COUNT).ok()?.trim().parse().ok()?;
    if count > FEW {
        return None;
    }
    let text = text().ok()?;
    text.lines().map(entry).collect()
}

fn text() -> io::Result<String> {
    std::fs::read_to_string(TEXT)
}

/// `ipv4 2 tcp 6 431999 ESTABLISHED src=.. dst=.. sport=.. dport=.. src=.. dst=.. sport=.. dport=.. [ASSURED] mark=0 zone=0 use=2`
fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split_ascii_whitespace();
    let number: u8 = words.nth(3)?.parse().ok()?;
    let (mut tuples, mut zone) = (Vec::with_capacity(2), 0);
    for word in words {
        let Some((name, value)) = word.split_once('=') else { continue };
        match name {
            "src" => tuples.push(Half::new(value.parse().ok()?)),
            "dst" => tuples.last_mut()?.destination = Some(value.parse().ok()?),
            "sport" => tuples.last_mut()?.ports[0] = Some(value.parse().ok()?),
            "dport" => tuples.last_mut()?.ports[1] = Some(value.parse().ok()?),
            "type" => tuples.last_mut()?.icmp[0] = Some(value.parse().ok()?),
            "code" => tuples.last_mut()?.icmp[1] = Some(value.parse().ok()?),
            "id" => tuples.last_mut()?.icmp[2] = Some(value.parse().ok()?),
            "zone" => zone = value.parse().ok()?,
            // GRE's keys, and zones of one direction: tuples that are said in another way.
            "srckey" | "dstkey" | "zone-orig" | "zone-reply" => return None,
            _ => {}
        }
    }
    let [original, reply] = <[Half; 2]>::try_from(tuples).ok()?;
    Some(Entry {
        protocol: Protocol::from_number(number),
        original: original.tuple()?,
        reply: reply.tuple()?,
        labels: 0,
        mark: 0,
        status: 0,
        id: 0,
        zone,
    })
}

/// One direction, as far as it has been read.
struct Half {
    source: IpAddr,
    destination: Option<IpAddr>,
    ports: [Option<u16>; 2],
    /// Type, code and id.
    icmp: [Option<u16>; 3],
}

impl Half {
    fn new(source: IpAddr) -> Self {
        Self { source, destination: None, ports: [None; 2], icmp: [None; 3] }
    }

    fn tuple(&self) -> Option<Tuple> {
        let upper = match (self.ports, self.icmp) {
            ([Some(source), Some(destination)], _) => Upper::Ports { source, destination },
            (_, [Some(kind), Some(code), Some(id)]) => {
                Upper::Icmp { id, kind: u8::try_from(kind).ok()?, code: u8::try_from(code).ok()? }
            }
            _ => Upper::Nothing,
        };
        Some(Tuple { source: self.source, destination: self.destination?, upper, zone: None })
    }
}

#[cfg(test)]
mod tests {
    use super::entry;
    use expect_test::expect;

    fn check(line: &str, expected: &expect_test::Expect) {
        let said = entry(line).map(|e| format!("{:?} {:?} -> {:?}, zone {}", e.protocol, e.source(), e.destination(), e.zone));
        expected.assert_eq(&said.unwrap_or_else(|| "?".to_owned()));
    }

    #[test]
    fn lines_as_the_kernel_writes_them() {
        check(
            "ipv4     2 tcp      6 431999 ESTABLISHED src=10.1.0.1 dst=10.96.0.10 sport=40000 dport=80 src=10.1.0.2 dst=10.1.0.1 \
             sport=8080 dport=40000 [ASSURED] mark=0 zone=0 use=2",
            &expect!["Tcp (10.1.0.1, 40000) -> (10.1.0.2, 8080), zone 0"],
        );
        check(
            "ipv6     10 udp      17 29 src=fd00::1 dst=fd00::2 sport=1 dport=53 [UNREPLIED] src=fd00::2 dst=fd00::1 sport=53 \
             dport=1 mark=7 zone=3 use=2",
            &expect!["Udp (fd00::1, 1) -> (fd00::2, 53), zone 3"],
        );
        check(
            "ipv4     2 icmp     1 29 src=10.1.0.1 dst=10.1.0.2 type=8 code=0 id=9 src=10.1.0.2 dst=10.1.0.1 type=0 code=0 id=9 \
             mark=0 use=2",
            &expect!["Icmp (10.1.0.1, 0) -> (10.1.0.2, 0), zone 0"],
        );
        check(
            "ipv4     2 unknown  253 599 src=10.1.0.1 dst=10.1.0.2 [UNREPLIED] src=10.1.0.2 dst=10.1.0.1 mark=0 zone=0 use=2",
            &expect!["Other(253) (10.1.0.1, 0) -> (10.1.0.2, 0), zone 0"],
        );
    }

    #[test]
    fn what_is_said_otherwise_is_not_guessed() {
        for line in [
            "",
            "ipv4 2 tcp 6 10 SYN_SENT src=10.1.0.1",
            "ipv4 2 gre 47 10 src=10.1.0.1 dst=10.1.0.2 srckey=0x1 dstkey=0x2 src=10.1.0.2 dst=10.1.0.1 srckey=0x2 dstkey=0x1",
            "ipv4 2 udp 17 10 src=1.1.1.1 dst=1.1.1.2 sport=1 dport=99999 src=1.1.1.2 dst=1.1.1.1 sport=2 dport=1",
        ] {
            check(line, &expect!["?"]);
        }
    }
}
