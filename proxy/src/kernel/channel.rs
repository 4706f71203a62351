//! The socket by which nftables is told: a transaction is one `sendmsg`, and its answer is read to the end.
//!
//! How the kernel answers (`nfnetlink_rcv_batch`): it works through all messages, collects the errors, commits only if there is
//! none, and then delivers what it collected in order, together with the acknowledgement that the last message asked for. A
//! commit that fails is answered on the batch's own head. So when the last message's answer is there, every error has been seen.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockopt, recv, sendmsg, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Why the kernel doesn't hold what it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("open a netlink socket to nftables")]
    Open(#[source] Errno),
    /// EMSGSIZE: the transaction is larger than the socket's send buffer.
    #[error("send a transaction of {bytes} bytes to nftables")]
    Send { bytes: usize, source: Errno },
    #[error("read nftables' answer to a transaction")]
    Receive(#[source] Errno),
    /// `message` counts from 0; beyond the last is the commit itself.
    #[error("nftables refuses message {message} (type {kind}) of a transaction: {source}")]
    Refused { message: usize, kind: u8, source: Errno },
}

/// The send buffer that is asked for where the process may have any; elsewhere `net.core.wmem_max` bounds it.
const WANTED_BUFFER_BYTES: usize = 8 << 20;
/// A transaction this long keeps the kernel's commit lock for some tens of milliseconds; longer ones are split where they may be.
const LONGEST_BYTES: usize = 2 << 20;
const HEADER_BYTES: usize = 16;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLMSG_ERROR: u16 = 2;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM_NFTABLES: u16 = 10;
const ANSWER_SECONDS: i64 = 60;
/// More than the kernel puts into one datagram of a netlink socket.
const ANSWER_BYTES: usize = 64 << 10;

/// A socket to nftables, in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Channel {
    fd: OwnedFd,
    sequence: u32,
    limit_bytes: usize,
    commits: u32,
    /// Where answers are read to.
    answer: Box<[u8]>,
}

impl Channel {
    pub(super) fn open() -> Result<Self, ChannelError> {
        let open = || {
            let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkNetFilter)?;
            bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
            setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
            for (force, ask) in [(true, false), (false, true)] {
                let done = (force && setsockopt(&fd, sockopt::SndBufForce, &WANTED_BUFFER_BYTES).is_ok())
                    || (ask && setsockopt(&fd, sockopt::SndBuf, &WANTED_BUFFER_BYTES).is_ok());
                if done {
                    break;
                }
            }
            let buffer = getsockopt(&fd, sockopt::SndBuf)?;
            Ok((fd, buffer))
        };
        let (fd, buffer) = open().map_err(ChannelError::Open)?;
        // What the kernel itself takes off (netlink_sendmsg), and the batch's head and end.
        let limit_bytes = buffer.saturating_sub(128).min(LONGEST_BYTES);
        Ok(Self { fd, sequence: 0, limit_bytes, commits: 0, answer: vec![0; ANSWER_BYTES].into_boxed_slice() })
    }

    /// The longest transaction that is sent as one.
    pub(super) fn limit_bytes(&self) -> usize {
        self.limit_bytes
    }

    #[cfg(test)]
    pub(super) fn set_limit_bytes(&mut self, limit_bytes: usize) {
        self.limit_bytes = limit_bytes;
    }

    /// A buffer too small for a transaction of [`limit_bytes`](Self::limit_bytes), as where somebody else set a bound later.
    #[cfg(test)]
    pub(super) fn set_buffer_bytes(&self, bytes: usize) {
        setsockopt(&self.fd, sockopt::SndBuf, &bytes).expect("a smaller buffer");
    }

    /// Sends `messages` as one transaction: in force when this returns, or not at all.
    pub(super) fn commit(&mut self, messages: &[u8]) -> Result<(), ChannelError> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut batch = Vec::with_capacity(messages.len() + 40);
        let first = self.next_sequence();
        batch.extend_from_slice(&batch_border(BATCH_BEGIN, first));
        let mut kinds = Vec::new();
        let mut last = first;
        for message in Messages(messages) {
            last = self.next_sequence();
            kinds.push(message[4]);
            let at = batch.len();
            batch.extend_from_slice(message);
            // Asked for by the last one alone, below.
            let flags = u16::from_ne_bytes([message[6], message[7]]) & !NLM_F_ACK;
            batch[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
            batch[at + 8..at + 12].copy_from_slice(&last.to_ne_bytes());
        }
        let at = batch.len() - Messages(messages).last().map_or(0, <[u8]>::len);
        let flags = u16::from_ne_bytes([batch[at + 6], batch[at + 7]]) | NLM_F_ACK;
        batch[at + 6..at + 8].copy_from_slice(&flags.to_ne_bytes());
        let end = self.next_sequence();
        batch.extend_from_slice(&batch_border(BATCH_END, end));

        let kernel = NetlinkAddr::new(0, 0);
        sendmsg(self.fd.as_raw_fd(), &[IoSlice::new(&batch)], &[], MsgFlags::empty(), Some(&kernel))
            .map_err(|source| ChannelError::Send { bytes: batch.len(), source })?;
        self.read_answer(first, last, &kinds)?;
        self.commits = self.commits.wrapping_add(1);
        Ok(())
    }

    /// How many transactions were made, each of which is one more change of the ruleset.
    pub(super) fn commits(&self) -> u32 {
        self.commits
    }

    fn read_answer(&mut self, first: u32, last: u32, kinds: &[u8]) -> Result<(), ChannelError> {
        let mut refused = None;
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.answer, MsgFlags::empty()) {
                Ok(length) => length,
                Err(Errno::EINTR) => continue,
                Err(errno) => return Err(refused.unwrap_or(ChannelError::Receive(errno))),
            };
            for message in Messages(&self.answer[..length]) {
                let kind = u16::from_ne_bytes([message[4], message[5]]);
                let sequence = message[8..12].first_chunk().map_or(0, |b| u32::from_ne_bytes(*b));
                // An answer to an earlier transaction whose reading was given up counts before `first`.
                let position = sequence.wrapping_sub(first) as usize;
                if kind != NLMSG_ERROR || position > kinds.len() {
                    continue;
                }
                let number = message.get(HEADER_BYTES..).and_then(<[u8]>::first_chunk).map_or(0, |b| i32::from_ne_bytes(*b));
                if number != 0 && refused.is_none() {
                    let index = position.checked_sub(1).unwrap_or(kinds.len());
                    refused = Some(ChannelError::Refused {
                        message: index,
                        kind: kinds.get(index).copied().unwrap_or_default(),
                        source: Errno::from_raw(-number),
                    });
                }
                if sequence == last || (position == 0 && number != 0) {
                    // A refused head comes before or after the others' answers; later ones are skipped by their numbers.
                    return refused.map_or(Ok(()), Err);
                }
            }
        }
    }

    fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }
}

/// Splits messages into parts of at most `limit_bytes`, between messages.
pub(super) fn split(messages: &[u8], limit_bytes: usize) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    let (mut start, mut at) = (0, 0);
    for message in Messages(messages) {
        if at + message.len() - start > limit_bytes && at > start {
            parts.push(&messages[start..at]);
            start = at;
        }
        at += message.len();
    }
    if at > start {
        parts.push(&messages[start..at]);
    }
    parts
}

/// How many messages there are.
pub(super) fn count(messages: &[u8]) -> usize {
    Messages(messages).count()
}

/// `struct nlmsghdr` and `nfgenmsg`: a batch's first or last message.
fn batch_border(kind: u16, sequence: u32) -> [u8; 20] {
    let mut border = [0; 20];
    border[..4].copy_from_slice(&20_u32.to_ne_bytes());
    border[4..6].copy_from_slice(&kind.to_ne_bytes());
    border[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    border[8..12].copy_from_slice(&sequence.to_ne_bytes());
    border[18..20].copy_from_slice(&SUBSYSTEM_NFTABLES.to_be_bytes());
    border
}

/// The messages in a byte string; ends at the first that isn't whole.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        if length < HEADER_BYTES {
            return None;
        }
        let padded = length.next_multiple_of(4).min(self.0.len());
        let message = self.0.get(..padded.max(length))?;
        self.0 = &self.0[padded..];
        Some(message)
    }
}
