//! The reports of the kernel's rules: packets that came by a log rule of ours, through NFLOG.
//!
//! A group has one listener in a network namespace. The kernel copies the first bytes of a packet into a message and sends it
//! when several have come together, or after a moment. Where nobody listens it throws them away, and where the listener is slow
//! it loses them; the packet's own fate hangs on neither.

use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::netlink::{self, Attributes, Message, Socket};
use super::site::Site;

const NFULNL_MSG_PACKET: u16 = message_type(0);
const NFULNL_MSG_CONFIG: u16 = message_type(1);
const NFULA_IFINDEX_INDEV: u16 = 4;
const NFULA_PAYLOAD: u16 = 9;
const NFULA_PREFIX: u16 = 10;
const NFULA_CFG_CMD: u16 = 1;
const NFULA_CFG_MODE: u16 = 2;
const NFULA_CFG_TIMEOUT: u16 = 4;
const NFULNL_CFG_CMD_BIND: u8 = 1;
const NFULNL_COPY_PACKET: u8 = 2;
/// `struct nfgenmsg`.
const FIXED_BYTES: usize = 4;

/// The most of a packet that is wanted; rules may say less.
const MOST_BYTES: u32 = 256;
/// After so many hundredths of a second the kernel sends what it has.
const FLUSH_CENTISECONDS: u32 = 2;
/// For bursts while the reader is busy: some thousand lines.
const ROOM_BYTES: usize = 1 << 20;

/// `NFNL_SUBSYS_ULOG` is 4 and stands in the upper byte.
const fn message_type(message: u16) -> u16 {
    4 << 8 | message
}

/// Why a group can't be listened to.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("somebody else in this network namespace listens to NFLOG group {group}: choose another one as nflogGroup")]
    Taken { group: u16 },
    #[error("this kernel has no NFLOG (module nfnetlink_log)")]
    Unsupported,
    #[error("listen to NFLOG group {group}")]
    Failed { group: u16, source: netlink::Error },
}

/// A packet as a rule reported it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report<'a> {
    pub site: Site,
    /// By which interface it came; 0 is none.
    pub interface: u32,
    /// From the IP header on, cut after some bytes.
    pub packet: &'a [u8],
}

/// The listener of one group.
#[derive(Debug)]
pub struct Reports {
    socket: Socket,
    group: u16,
}

impl Reports {
    /// A listener for the calling thread's network namespace, wherever it is used later. It doesn't listen yet.
    pub fn open(group: u16) -> Result<Self, BindError> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter).map_err(|source| BindError::Failed { group, source })?;
        socket.set_room(ROOM_BYTES);
        Ok(Self { socket, group })
    }

    /// Begins to listen, until it is dropped. May be tried again.
    pub fn listen(&mut self) -> Result<(), BindError> {
        let group = self.group;
        let failed = |source: netlink::Error| match source.refusal() {
            // Whose port it is not, gets EPERM.
            Some(Errno::EPERM | Errno::EBUSY) => BindError::Taken { group },
            Some(Errno::EINVAL | Errno::EOPNOTSUPP) => BindError::Unsupported,
            _ => BindError::Failed { group, source },
        };
        // `struct nfulnl_msg_config_mode` is packed.
        let mode = [&MOST_BYTES.to_be_bytes()[..], &[NFULNL_COPY_PACKET, 0]].concat();
        let requests: [&[(u16, &[u8])]; 2] = [
            &[(NFULA_CFG_CMD, &[NFULNL_CFG_CMD_BIND])],
            &[(NFULA_CFG_MODE, &mode), (NFULA_CFG_TIMEOUT, &FLUSH_CENTISECONDS.to_be_bytes())],
        ];
        for attributes in requests {
            let [high, low] = group.to_be_bytes();
            let mut message = Message::new(NFULNL_MSG_CONFIG, 0, &[0, 0, high, low]);
            for (kind, value) in attributes {
                message.put(*kind, value);
            }
            self.socket.acknowledged(message).map_err(failed)?;
        }
        Ok(())
    }

    /// Hands over the packets of one message of the kernel, if one waits; `false`: none does. What isn't of our rules, or isn't
    /// whole, is left out. [`Errno::ENOBUFS`] says that some were lost, and the next call goes on.
    pub fn take_waiting(&mut self, mut visit: impl FnMut(Report<'_>)) -> Result<bool, netlink::Error> {
        self.socket.take_waiting(|kind, body| {
            if let Some(report) = report(kind, body) {
                visit(report);
            }
        })
    }
}

impl AsFd for Reports {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn report(kind: u16, body: &[u8]) -> Option<Report<'_>> {
    if kind != NFULNL_MSG_PACKET {
        return None;
    }
    let (mut site, mut interface, mut packet) = (None, 0, None);
    for (kind, value) in Attributes(body.get(FIXED_BYTES..)?) {
        match kind {
            NFULA_PREFIX => site = Site::of_prefix(value.strip_suffix(&[0]).unwrap_or(value)),
            NFULA_IFINDEX_INDEV => interface = u32::from_be_bytes(*value.first_chunk()?),
            NFULA_PAYLOAD => packet = Some(value),
            _ => {}
        }
    }
    Some(Report { site: site?, interface, packet: packet? })
}

#[cfg(test)]
mod tests {
    use sluice_policy::Direction;

    use super::*;

    #[test]
    fn a_report_is_read_and_what_is_none_of_ours_is_not() {
        let mut message = Message::new(NFULNL_MSG_PACKET, 0, &[2, 0, 0, 9]);
        message.put(NFULA_PREFIX, b"sluice NoRuleMatched egress\0").put(NFULA_IFINDEX_INDEV, &7_u32.to_be_bytes());
        message.put(NFULA_PAYLOAD, &[0x45, 0, 0, 9]);
        let body = message.body().to_vec();
        let wanted = Report { site: Site::Isolated(Direction::Egress), interface: 7, packet: &[0x45, 0, 0, 9] };
        assert_eq!(report(NFULNL_MSG_PACKET, &body), Some(wanted));
        assert_eq!(report(NFULNL_MSG_CONFIG, &body), None);
        for cut in 0..body.len() {
            assert_ne!(report(NFULNL_MSG_PACKET, &body[..cut]), Some(wanted), "cut at {cut}");
        }
        let mut foreign = Message::new(NFULNL_MSG_PACKET, 0, &[2, 0, 0, 9]);
        foreign.put(NFULA_PREFIX, b"somebody's\0").put(NFULA_PAYLOAD, &[0x45]);
        assert_eq!(report(NFULNL_MSG_PACKET, foreign.body()), None);
    }

    #[test]
    fn a_group_has_one_listener() {
        if netlink::no_namespaces() {
            return;
        }
        let ns = sluice_testnet::Netns::new("nflog").expect("a namespace");
        ns.run(|| {
            let open = |group| Reports::open(group).expect("a socket");
            let (mut first, mut second) = (open(15_001), open(15_001));
            first.listen().expect("nobody listens yet");
            assert!(matches!(second.listen(), Err(BindError::Taken { group: 15_001 })));
            open(15_002).listen().expect("another group");
            drop(first);
            second.listen().expect("free again");
        });
    }
}
