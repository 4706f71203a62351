//! Matches and targets of iptables: in nftables' rules, where `iptables-nft` puts them (`linux/netfilter/xt_*.h`), by name and
//! the kernel's own structure.

use super::super::netlink::{u16_at, u32_at};
use super::ruleset::{Step, Test, Verdict};

/// A match.
pub(super) enum Condition {
    /// Always holds.
    Comment(String),
    /// All of these.
    Steps(Vec<Step>),
}

/// What a target does with a packet; `None`: it goes on, changed or noted.
pub(super) fn target(name: &str) -> Option<Verdict> {
    const GOES_ON: [&str; 29] = [
        "AUDIT",
        "CHECKSUM",
        "CLASSIFY",
        "CONNMARK",
        "CONNSECMARK",
        "CT",
        "DSCP",
        "ECN",
        "HL",
        "HMARK",
        "IDLETIMER",
        "LED",
        "LOG",
        "MARK",
        "NFLOG",
        "NOTRACK",
        "RATEEST",
        "SECMARK",
        "SET",
        "TCPMSS",
        "TCPOPTSTRIP",
        "TEE",
        "TOS",
        "TRACE",
        "TTL",
        "ULOG",
        "mark",
        "standard",
        "nflog",
    ];
    const TAKES_ALONG: [&str; 6] = ["DNAT", "MASQUERADE", "NETMAP", "REDIRECT", "SNAT", "TPROXY"];
    if GOES_ON.contains(&name) {
        None
    } else if TAKES_ALONG.contains(&name) || name == "ACCEPT" {
        Some(Verdict::Accept)
    } else {
        // REJECT, NFQUEUE, SYNPROXY, TARPIT, and what nobody knows.
        Some(Verdict::Deny(name.to_owned()))
    }
}

/// What a match asks for.
pub(super) fn condition(name: &str, info: &[u8]) -> Condition {
    let read = match name {
        "comment" => {
            let end = info.iter().position(|byte| *byte == 0).unwrap_or(info.len());
            return Condition::Comment(String::from_utf8_lossy(&info[..end]).into_owned());
        }
        "conntrack" => conntrack(info),
        "state" => u32_at(info, 0).map(|bits| vec![Step::Test(Test::State { bits, inverted: false })]),
        "tcp" => tcp(info),
        "addrtype" => address_type(info),
        "pkttype" => packet_type(info),
        _ => None,
    };
    Condition::Steps(read.unwrap_or_else(|| vec![Step::Perhaps(name.to_owned())]))
}

/// `struct xt_conntrack_mtinfo3`: eight addresses of 16 bytes, two times, five 16-bit numbers, then what is asked for.
fn conntrack(info: &[u8]) -> Option<Vec<Step>> {
    const STATE: u16 = 1;
    const PROTOCOL: u16 = 2;
    let (asked, inverted) = (u16_at(info, 146)?, u16_at(info, 148)?);
    let bits = u16_at(info, 150)?;
    let mut steps = Vec::new();
    if asked & STATE != 0 {
        steps.push(Step::Test(Test::State { bits: bits.into(), inverted: inverted & STATE != 0 }));
    }
    if asked & PROTOCOL != 0 {
        let number = u8::try_from(u16_at(info, 136)?).ok()?;
        steps.push(Step::Test(Test::Protocol { number, inverted: inverted & PROTOCOL != 0 }));
    }
    if asked & !(STATE | PROTOCOL) != 0 {
        steps.push(Step::Perhaps("conntrack".to_owned()));
    }
    Some(steps)
}

/// `struct xt_tcp`: two ranges of ports, an option, the flags, what is inverted.
fn tcp(info: &[u8]) -> Option<Vec<Step>> {
    const FLAGS_INVERTED: u8 = 4;
    let ports = [u16_at(info, 0)?, u16_at(info, 2)?, u16_at(info, 4)?, u16_at(info, 6)?];
    let &[option, mask, value, inverted] = info.get(8..)?.first_chunk()?;
    let mut steps = Vec::new();
    if ports != [0, u16::MAX, 0, u16::MAX] || option != 0 {
        steps.push(Step::Perhaps("tcp".to_owned()));
    }
    if mask != 0 || inverted & FLAGS_INVERTED != 0 {
        steps.push(Step::Test(Test::Flags { mask, value, inverted: inverted & FLAGS_INVERTED != 0 }));
    }
    Some(steps)
}

/// `struct xt_addrtype_info_v1`. Both ends are alike to us: neither is the node's, a broadcast or a multicast address.
fn address_type(info: &[u8]) -> Option<Vec<Step>> {
    let (source, destination, flags) = (u16_at(info, 0)?, u16_at(info, 2)?, u32_at(info, 4)?);
    let ends = [(source, flags & 1 != 0), (destination, flags & 2 != 0)];
    let asked = ends.into_iter().filter(|(types, _)| *types != 0);
    Some(asked.map(|(types, inverted)| Step::Test(Test::AddressType { types: types.into(), inverted })).collect())
}

/// `struct xt_pkttype_info`.
fn packet_type(info: &[u8]) -> Option<Vec<Step>> {
    let number = u8::try_from(u32_at(info, 0)?).ok()?;
    Some(vec![Step::Test(Test::PacketType { number, inverted: u32_at(info, 4)? != 0 })])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(name: &str, info: &[u8]) -> Vec<Step> {
        match condition(name, info) {
            Condition::Steps(steps) => steps,
            Condition::Comment(text) => panic!("{text}"),
        }
    }

    #[test]
    fn the_kernels_structures_are_read() {
        // As iptables-nft 1.8.9 writes `-m conntrack ! --ctstate RELATED,ESTABLISHED`.
        let mut info = [0_u8; 168];
        info[146..152].copy_from_slice(&[1_u16, 1, 6].map(u16::to_ne_bytes).concat());
        assert_eq!(steps("conntrack", &info), [Step::Test(Test::State { bits: 6, inverted: true })]);
        // With the status of the connection, of which nothing is known.
        info[146] |= 0x40;
        assert_eq!(steps("conntrack", &info)[1], Step::Perhaps("conntrack".to_owned()));
        // `-m tcp --syn`, and a port.
        assert_eq!(
            steps("tcp", &[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0x17, 2, 0]),
            [Step::Test(Test::Flags { mask: 0x17, value: 2, inverted: false })]
        );
        assert_eq!(steps("tcp", &[0, 0, 0xff, 0xff, 22, 0, 22, 0, 0, 0, 0, 0]), [Step::Perhaps("tcp".to_owned())]);
        // `-m addrtype ! --dst-type LOCAL`.
        assert_eq!(steps("addrtype", &[0, 0, 4, 0, 2, 0, 0, 0]), [Step::Test(Test::AddressType { types: 4, inverted: true })]);
        for name in ["conntrack", "state", "tcp", "addrtype", "pkttype", "owner"] {
            assert_eq!(steps(name, &[]), [Step::Perhaps(name.to_owned())], "what is cut short may hold or not");
        }
        assert!(matches!(condition("comment", b"cali:x\0\0"), Condition::Comment(text) if text == "cali:x"));
    }

    #[test]
    fn targets_deny_unless_they_are_known_not_to() {
        assert_eq!(target("LOG"), None);
        assert_eq!(target("MASQUERADE"), Some(Verdict::Accept));
        for name in ["REJECT", "NFQUEUE", "SYNPROXY", "TARPIT", "NEWTARGET"] {
            assert_eq!(target(name), Some(Verdict::Deny(name.to_owned())));
        }
    }
}
