//! The ingress of a port in the kernel's traffic control: the queueing discipline on which filters of both forms hang, and the
//! BPF program's filter as far as it can be spoken of without libbpf. So a build without BPF removes what one with BPF left.

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::super::netlink::{self, Message, Socket, attribute, flags, u32_at};

/// `linux/rtnetlink.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`.
const NEW_QDISC: u16 = 36;
const DELETE_QDISC: u16 = 37;
const GET_QDISC: u16 = 38;
pub(super) const NEW_FILTER: u16 = 44;
pub(super) const DELETE_FILTER: u16 = 45;
pub(super) const GET_FILTER: u16 = 46;
pub(super) const KIND: u16 = 1;
pub(super) const OPTIONS: u16 = 2;
const BPF_NAME: u16 = 7;

const CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The ingress of `clsact`, and of the older `ingress`.
pub(super) const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;

/// Priority and protocol (`ETH_P_ALL`), handle and name of the BPF program's filter, as `ebpf-redirect/src/tc.rs` places it.
const PROGRAM_INFO: u32 = 1 << 16 | 0x0003_u16.to_be() as u32;
const PROGRAM_HANDLE: u32 = 0x51_0ce;
const PROGRAM_NAME: &[u8] = b"sluice_redirect";

/// `struct tcmsg`.
pub(super) const FIXED_BYTES: usize = 20;

/// A socket to traffic control, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Ingress {
    pub(super) socket: Socket,
}

impl Ingress {
    pub(super) fn open() -> Result<Self, netlink::Error> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkRoute)? })
    }

    /// See [`Redirect::prepare`](super::redirect::Redirect::prepare).
    pub(super) fn prepare(&mut self, index: u32) -> Result<(), netlink::Error> {
        let head = fixed(index, CLSACT_HANDLE, CLSACT, 0);
        let mut request = Message::new(NEW_QDISC, flags::CREATE | flags::EXCLUSIVE, &head);
        request.put(KIND, b"clsact\0");
        match self.socket.acknowledged(request) {
            // That, or the older `ingress`.
            Ok(()) | Err(netlink::Error::Refused(Errno::EEXIST)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether the BPF program of some process is there.
    pub(super) fn has_program(&mut self, index: u32) -> Result<bool, netlink::Error> {
        let request = Message::new(GET_FILTER, flags::DUMP, &fixed(index, 0, INGRESS, 0));
        let found = self.socket.dump(request, |kind, body| {
            let is_there = kind == NEW_FILTER
                && u32_at(body, 4)? == index
                && (u32_at(body, 8)?, u32_at(body, 16)?) == (PROGRAM_HANDLE, PROGRAM_INFO);
            let attributes = body.get(FIXED_BYTES..).filter(|_| is_there)?;
            let is_bpf = attribute(attributes, KIND)?.starts_with(b"bpf\0");
            // As libbpf names it: behind the name comes the kernel's number of the program.
            let name = attribute(attribute(attributes, OPTIONS)?, BPF_NAME)?.strip_prefix(PROGRAM_NAME)?;
            (is_bpf && matches!(name.first(), None | Some(0 | b':'))).then_some(())
        });
        Ok(!nothing_there(found)?.is_empty())
    }

    /// Removes the BPF program, of whatever process. Whether it was there.
    pub(super) fn remove_program(&mut self, index: u32) -> Result<bool, netlink::Error> {
        let is_there = self.has_program(index)?;
        if is_there {
            let head = fixed(index, PROGRAM_HANDLE, INGRESS, PROGRAM_INFO);
            gone_is_done(self.socket.acknowledged(Message::new(DELETE_FILTER, 0, &head)))?;
        }
        Ok(is_there)
    }

    /// Removes the queueing discipline if nobody has any filter there. Whether it did.
    pub(super) fn remove_unused(&mut self, index: u32) -> Result<bool, netlink::Error> {
        if !self.has_clsact(index)? || self.count(index, INGRESS)? != 0 || self.count(index, EGRESS)? != 0 {
            return Ok(false);
        }
        gone_is_done(self.socket.acknowledged(Message::new(DELETE_QDISC, 0, &fixed(index, CLSACT_HANDLE, CLSACT, 0))))?;
        Ok(true)
    }

    fn has_clsact(&mut self, index: u32) -> Result<bool, netlink::Error> {
        let request = Message::new(GET_QDISC, flags::DUMP, &fixed(index, 0, 0, 0));
        let found = self.socket.dump(request, |kind, body| {
            let is_it = kind == NEW_QDISC && u32_at(body, 4)? == index;
            (is_it && attribute(body.get(FIXED_BYTES..)?, KIND)?.starts_with(b"clsact")).then_some(())
        });
        Ok(!nothing_there(found)?.is_empty())
    }

    fn count(&mut self, index: u32, parent: u32) -> Result<usize, netlink::Error> {
        let request = Message::new(GET_FILTER, flags::DUMP, &fixed(index, 0, parent, 0));
        let found = self.socket.dump(request, |kind, body| (kind == NEW_FILTER && u32_at(body, 4)? == index).then_some(()));
        Ok(nothing_there(found)?.len())
    }
}

pub(super) fn fixed(index: u32, handle: u32, parent: u32, info: u32) -> [u8; FIXED_BYTES] {
    let mut bytes = [0; FIXED_BYTES];
    for (at, word) in (4..).step_by(4).zip([index, handle, parent, info]) {
        bytes[at..at + 4].copy_from_slice(&word.to_ne_bytes());
    }
    bytes
}

/// An interface that is gone, or has no queueing discipline for filters, has no filters.
pub(super) fn nothing_there<T>(found: Result<Vec<T>, netlink::Error>) -> Result<Vec<T>, netlink::Error> {
    match found {
        Err(netlink::Error::Refused(Errno::ENODEV | Errno::EINVAL | Errno::ENOENT)) => Ok(Vec::new()),
        found => found,
    }
}

pub(super) fn gone_is_done(done: Result<(), netlink::Error>) -> Result<(), netlink::Error> {
    match done {
        Err(netlink::Error::Refused(Errno::ENOENT | Errno::ENODEV | Errno::EINVAL)) => Ok(()),
        done => done,
    }
}
