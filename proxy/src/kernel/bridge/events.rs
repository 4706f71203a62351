//! What has changed about interfaces and filters since the last look, so that a look costs nothing where nothing has.

use std::collections::BTreeSet;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket};

use super::super::netlink::{Error, u16_at, u32_at};
use super::links::Link;

/// `RTMGRP_LINK`, `RTMGRP_TC`, `RTMGRP_IPV4_IFADDR` and `RTMGRP_IPV6_IFADDR`.
const GROUPS: u32 = 1 | 8 | 0x10 | 0x100;
/// Links that came, went or changed.
const LINKS: std::ops::RangeInclusive<u16> = 16..=17;
/// The node's own addresses, which tell its bridges apart.
const ADDRESSES: std::ops::RangeInclusive<u16> = 20..=21;
/// Queueing disciplines, classes and filters.
const TRAFFIC_CONTROL: [u16; 4] = [36, 37, 44, 45];
const AF_BRIDGE: u8 = 7;
const HEADER_BYTES: usize = 16;
/// So many datagrams are read at once; more are for the next time.
const MOST: usize = 4096;

/// What there is to look at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Happened {
    /// Everything: what happened is not known whole.
    pub(super) much: bool,
    /// A bridge or a port of one came, went or changed.
    pub(super) bridges: bool,
    /// Links of which nothing else is known.
    pub(super) links: BTreeSet<u32>,
    /// Interfaces whose filters may have changed.
    pub(super) filters: BTreeSet<u32>,
}

impl Happened {
    pub(super) fn add(&mut self, more: Self) {
        self.much |= more.much;
        self.bridges |= more.bridges;
        self.links.extend(more.links);
        self.filters.extend(more.filters);
    }
}

/// A socket that hears of changes in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Events {
    fd: OwnedFd,
}

impl Events {
    pub(super) fn open() -> Result<Self, Error> {
        let open = || {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, GROUPS))?;
            Ok(fd)
        };
        Ok(Self { fd: open().map_err(Error::Open)? })
    }

    /// A descriptor that can be read from once something has happened.
    pub(super) fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// What happened since the last call.
    pub(super) fn drain(&mut self) -> Result<Happened, Error> {
        let mut happened = Happened::default();
        let mut buffer = [0; 8192];
        for _ in 0..MOST {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => note(&mut happened, &buffer[..length]),
                Err(Errno::EAGAIN) => return Ok(happened),
                Err(Errno::EINTR) => {}
                // More happened than there was room for.
                Err(Errno::ENOBUFS) => happened.much = true,
                Err(errno) => return Err(Error::Receive(errno)),
            }
        }
        happened.much = true;
        Ok(happened)
    }
}

/// Adds what the messages of one datagram say. A message that was cut off says that something happened, and to what.
fn note(happened: &mut Happened, mut bytes: &[u8]) {
    while let (Some(length), Some(kind)) = (u32_at(bytes, 0), u16_at(bytes, 4)) {
        let length = usize::try_from(length).unwrap_or(usize::MAX).max(HEADER_BYTES);
        let body = bytes.get(HEADER_BYTES..length.min(bytes.len())).unwrap_or_default();
        if LINKS.contains(&kind) {
            let link = Link::decode(body);
            let is_of_bridge =
                body.first() == Some(&AF_BRIDGE) || link.as_ref().is_none_or(|link| link.is_bridge() || link.master.is_some());
            happened.bridges |= is_of_bridge;
            happened.links.extend(link.map(|link| link.index));
        } else if ADDRESSES.contains(&kind) {
            happened.links.extend(u32_at(body, 4));
        } else if TRAFFIC_CONTROL.contains(&kind) {
            happened.filters.extend(u32_at(body, 4));
        }
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}
