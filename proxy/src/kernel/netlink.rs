//! The little of netlink that conntrack and routing need: one socket, messages with attributes, dumps and acknowledged requests.
//!
//! nftables has its own way into the kernel (libnftnl, one batch per transaction). What is here is for the two families whose
//! messages are a fixed header and a handful of attributes, and it is safe Rust throughout: messages are byte vectors, and a
//! message from the kernel is read with every length checked.
//!
//! A socket belongs to the network namespace of the thread that opened it, wherever it is used later.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvmsg, sendto, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Why an exchange with the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open a netlink socket")]
    Open(#[source] Errno),
    #[error("send to the kernel by netlink")]
    Send(#[source] Errno),
    /// Includes the time-out: the kernel answers at once or not at all.
    #[error("receive from the kernel by netlink")]
    Receive(#[source] Errno),
    /// The kernel understood the request and refused it.
    #[error("the kernel refuses: {0}")]
    Refused(Errno),
    /// The kernel's tables changed under the dump, or a message didn't fit, each time it was tried.
    #[error("the kernel's answer was incomplete in each of {attempts} attempts")]
    Incomplete { attempts: u32 },
}

impl Error {
    /// The kernel's own error number, if it was the kernel that refused.
    pub fn refusal(&self) -> Option<Errno> {
        match self {
            Self::Refused(errno) => Some(*errno),
            _ => None,
        }
    }
}

/// `NLM_F_*`.
pub(super) mod flags {
    pub(in crate::kernel) const REQUEST: u16 = 0x1;
    pub(in crate::kernel) const ACK: u16 = 0x4;
    /// In an answer: the table changed while it was dumped.
    pub(in crate::kernel) const DUMP_INTERRUPTED: u16 = 0x10;
    pub(in crate::kernel) const DUMP: u16 = 0x300;
    pub(in crate::kernel) const REPLACE: u16 = 0x100;
    pub(in crate::kernel) const EXCLUSIVE: u16 = 0x200;
    pub(in crate::kernel) const CREATE: u16 = 0x400;
}

/// `NETLINK_GET_STRICT_CHK`, which `libc` doesn't name.
const STRICT_CHECKS: i32 = 12;

/// The kernel heeds all that a dump's request says, and refuses what it doesn't know.
#[derive(Clone, Copy, Debug)]
struct StrictChecks;

nix::setsockopt_impl!(StrictChecks, libc::SOL_NETLINK, STRICT_CHECKS, bool, sockopt::SetBool);

const HEADER_BYTES: usize = 16;
const ATTRIBUTE_HEADER_BYTES: usize = 4;
const NESTED: u16 = 0x8000;
/// The upper two bits of an attribute's type are flags.
const ATTRIBUTE_TYPE_MASK: u16 = 0x3fff;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// The kernel fills at most 32 KiB per message of a dump (`netlink_dump`), so the first size already fits.
const FIRST_BUFFER_BYTES: usize = 64 * 1024;
const ATTEMPTS: u32 = 6;
const ANSWER_SECONDS: i64 = 10;

/// A request: header, fixed part and attributes, as the kernel reads them (host byte order unless the attribute says otherwise).
#[derive(Debug)]
pub(super) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// `fixed` is the family's own header (`nfgenmsg`, `rtmsg`, `fib_rule_hdr`); its length is a multiple of 4.
    pub(super) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER_BYTES];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | self::flags::REQUEST).to_ne_bytes());
        bytes.extend_from_slice(fixed);
        Self { bytes }
    }

    pub(super) fn put(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE_HEADER_BYTES + value.len()).expect("our attributes are a few bytes long");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.put(kind | NESTED, &[]);
        fill(self);
        let length = u16::try_from(self.bytes.len() - start).expect("our attributes are a few bytes long");
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// What comes after netlink's own header.
    #[cfg(test)]
    pub(super) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    pub(super) fn seal(&mut self, sequence: u32) -> &[u8] {
        let length = u32::try_from(self.bytes.len()).expect("our messages are a few bytes long");
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        &self.bytes
    }
}

/// The attributes in `0`, as (type without its flags, value). Ends at the first that doesn't fit into what is there.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attributes<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (length, kind) = (u16_at(self.0, 0)?, u16_at(self.0, 2)?);
        let length = usize::from(length);
        let value = self.0.get(ATTRIBUTE_HEADER_BYTES..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & ATTRIBUTE_TYPE_MASK, value))
    }
}

/// The value of the first attribute of a kind.
pub(super) fn attribute(attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    Attributes(attributes).find_map(|(kind, value)| (kind == wanted).then_some(value))
}

/// An integer of an attribute's value in host byte order; `None` if the value is too short.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// As [`u16_at`].
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A netlink socket of one family, for one exchange at a time.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// How a dump ended.
enum Dumped {
    Whole,
    /// Entries may be missing: ask again.
    Partly,
}

impl Socket {
    /// Opens a socket in the calling thread's network namespace.
    pub(super) fn open(family: SockProtocol) -> Result<Self, Error> {
        let open = || {
            let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, family)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
            Ok(fd)
        };
        Ok(Self { fd: open().map_err(Error::Open)?, sequence: 0, buffer: vec![0; FIRST_BUFFER_BYTES] })
    }

    /// As [`open`](Self::open), for dumps that are narrowed down: by default the kernel overlooks by what.
    pub(super) fn open_strict(family: SockProtocol) -> Result<Self, Error> {
        let opened = Self::open(family)?;
        setsockopt(&opened.fd, StrictChecks, &true).map_err(Error::Open)?;
        Ok(opened)
    }

    /// Sends `message` and waits for the kernel's acknowledgement.
    pub(super) fn acknowledged(&mut self, message: Message) -> Result<(), Error> {
        self.answered(message, |_, _| None::<()>).map(|_| ())
    }

    /// [`acknowledged`](Self::acknowledged), with what `visit` made of the last message before that (type and body).
    pub(super) fn answered<T>(
        &mut self,
        mut message: Message,
        mut visit: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        message.bytes[6] |= flags::ACK.to_ne_bytes()[0];
        message.bytes[7] |= flags::ACK.to_ne_bytes()[1];
        self.send(&mut message)?;
        let mut made = None;
        loop {
            let (length, _) = self.receive()?;
            for answer in Answers(&self.buffer[..length]).filter(|answer| answer.sequence == self.sequence) {
                if answer.kind == NLMSG_ERROR {
                    return answer.status().map(|()| made);
                }
                made = visit(answer.kind, answer.body);
            }
        }
    }

    /// Dumps a table: `visit` gets the type and body of each message and says what to keep.
    ///
    /// Nothing but what is kept stays in memory. Where the table changed under the dump so that entries may be missing, it starts
    /// afresh, and what was kept of the incomplete attempt is dropped.
    pub(super) fn dump<T>(
        &mut self,
        mut message: Message,
        mut visit: impl FnMut(u16, &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        for _ in 0..ATTEMPTS {
            let mut kept = Vec::new();
            self.send(&mut message)?;
            if let Dumped::Whole = self.read_dump(|kind, body| kept.extend(visit(kind, body)))? {
                return Ok(kept);
            }
        }
        Err(Error::Incomplete { attempts: ATTEMPTS })
    }

    /// Reads to the end of the dump even when it is known to be useless: the kernel runs one dump per socket at a time.
    fn read_dump(&mut self, mut visit: impl FnMut(u16, &[u8])) -> Result<Dumped, Error> {
        let mut outcome = Dumped::Whole;
        loop {
            let (length, truncated) = self.receive()?;
            for answer in Answers(&self.buffer[..length]) {
                if answer.sequence != self.sequence {
                    continue;
                }
                if answer.flags & flags::DUMP_INTERRUPTED != 0 {
                    outcome = Dumped::Partly;
                }
                match answer.kind {
                    NLMSG_DONE => {
                        answer.status()?;
                        return Ok(outcome);
                    }
                    NLMSG_ERROR => answer.status()?,
                    kind => visit(kind, answer.body),
                }
            }
            if truncated {
                outcome = Dumped::Partly;
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
    }

    /// What the kernel has sent of itself since the last call, if it has: `visit` gets the type and body of each message of one
    /// datagram. `false`: nothing waits.
    pub(super) fn take_waiting(&mut self, mut visit: impl FnMut(u16, &[u8])) -> Result<bool, Error> {
        let Some((length, _)) = self.receive_by(MsgFlags::MSG_DONTWAIT)? else { return Ok(false) };
        Answers(&self.buffer[..length]).for_each(|answer| visit(answer.kind, answer.body));
        Ok(true)
    }

    /// Room for what the kernel sends of itself, in bytes, as far as this process may have it.
    pub(super) fn set_room(&self, bytes: usize) {
        if setsockopt(&self.fd, sockopt::RcvBufForce, &bytes).is_err() {
            let _ = setsockopt(&self.fd, sockopt::RcvBuf, &bytes);
        }
    }

    fn send(&mut self, message: &mut Message) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let bytes = message.seal(self.sequence);
        let kernel = NetlinkAddr::new(0, 0);
        sendto(self.fd.as_raw_fd(), bytes, &kernel, MsgFlags::empty()).map_err(Error::Send)?;
        Ok(())
    }

    /// The length of the next message of the kernel, and whether it was longer than the buffer.
    fn receive(&mut self) -> Result<(usize, bool), Error> {
        self.receive_by(MsgFlags::empty())?.ok_or(Error::Receive(Errno::EAGAIN))
    }

    /// `None`: nothing came, in the time that the socket or `how` allows.
    fn receive_by(&mut self, how: MsgFlags) -> Result<Option<(usize, bool)>, Error> {
        loop {
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            match recvmsg::<NetlinkAddr>(self.fd.as_raw_fd(), &mut slices, None, how) {
                // Whoever has CAP_NET_ADMIN may send to this socket too; the kernel's port is 0.
                Ok(received) if received.address.is_some_and(|a| a.pid() == 0) => {
                    return Ok(Some((received.bytes, received.flags.contains(MsgFlags::MSG_TRUNC))));
                }
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(errno) => return Err(Error::Receive(errno)),
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One message of the kernel.
struct Answer<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Answer<'_> {
    /// The error number at the head of `NLMSG_ERROR` and `NLMSG_DONE`; 0 is success.
    fn status(&self) -> Result<(), Error> {
        let number = self.body.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
        if number < 0 { Err(Error::Refused(Errno::from_raw(-number))) } else { Ok(()) }
    }
}

/// The messages of one datagram.
struct Answers<'a>(&'a [u8]);

impl<'a> Iterator for Answers<'a> {
    type Item = Answer<'a>;

    fn next(&mut self) -> Option<Answer<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let answer = Answer {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            body: self.0.get(HEADER_BYTES..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(answer)
    }
}

/// Whether tests that need namespaces of their own must be left out here, said loudly.
#[cfg(test)]
pub(crate) fn no_namespaces() -> bool {
    sluice_testnet::capability().inspect_err(|why| eprintln!("\n!!! SKIPPED: {why} !!!\n")).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_as_written() {
        let mut message = Message::new(7, flags::ACK, &[1, 2, 3, 4]);
        message.put(1, &[9]).nest(2, |inner| {
            inner.put(3, &[1, 2, 3, 4, 5]);
        });
        let bytes = message.seal(42).to_vec();
        let answer = Answers(&bytes).next().expect("a whole message");
        assert_eq!((answer.kind, answer.sequence, answer.flags), (7, 42, flags::ACK | flags::REQUEST));
        let attributes: Vec<_> = Attributes(&answer.body[4..]).collect();
        assert_eq!(attributes[0], (1, &[9][..]));
        assert_eq!(attributes[1].0, 2);
        assert_eq!(Attributes(attributes[1].1).collect::<Vec<_>>(), [(3, &[1, 2, 3, 4, 5][..])]);
    }

    #[test]
    fn every_truncation_ends_the_walk_without_a_panic() {
        let mut message = Message::new(7, 0, &[0; 4]);
        message.nest(2, |inner| {
            inner.put(3, &[1, 2, 3, 4, 5]);
        });
        let bytes = message.seal(1).to_vec();
        for cut in 0..bytes.len() {
            assert!(Answers(&bytes[..cut]).next().is_none(), "a message of {cut} bytes is not whole");
            let walked = Attributes(bytes[HEADER_BYTES + 4..].get(..cut).unwrap_or_default()).count();
            assert!(walked <= 1);
        }
        // A length below the header's own would be walked for ever.
        assert_eq!(Attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
        assert!(Answers(&[0; 64]).next().is_none());
    }
}
