//! Messages between two processes on one machine, each with a socket or without.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

use super::Message;

/// An answer to a look-up, with all names and addresses, is the longest.
const LONGEST_MESSAGE: usize = 192 << 10;
/// Nobody waits longer for room to write.
const WRITE_PATIENCE: Duration = Duration::from_secs(5);

/// Why nothing is said, or heard.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    #[error("the other process has ended, or doesn't want to")]
    Closed,
    #[error("the other process says nothing")]
    Mute,
    #[error("the other process is user {0}'s")]
    Stranger(u32),
    #[error("what the other process says is not understood: {0}")]
    Unreadable(#[from] serde_json::Error),
    #[error("the other process says something else than it should")]
    Confused,
    #[error("a message is too long")]
    TooLong,
    #[error("speak with the other process")]
    System(#[source] std::io::Error),
}

impl From<Errno> for ChannelError {
    fn from(error: Errno) -> Self {
        match error {
            Errno::AGAIN => Self::Mute,
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Closed,
            Errno::MSGSIZE => Self::TooLong,
            other => Self::System(other.into()),
        }
    }
}

/// One end of a connection of whole messages. Blocks.
#[derive(Debug)]
pub struct Channel {
    socket: OwnedFd,
}

/// Where others connect to.
#[derive(Debug)]
pub(super) struct Door {
    socket: OwnedFd,
}

fn open() -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

impl Door {
    /// In the place of what is there, from one moment to the next.
    pub(super) fn open_at(path: &Path) -> std::io::Result<Self> {
        let socket = open()?;
        // Under another name first: who connects finds the former process, or this one.
        let dir = path.parent().unwrap_or(Path::new("."));
        let own = tempfile::Builder::new().prefix(".restart-").make_in(dir, |own| {
            rustix::net::bind(&socket, &SocketAddrUnix::new(own)?)?;
            Ok(())
        })?;
        rustix::net::listen(&socket, 1)?;
        own.into_temp_path().persist(path)?;
        Ok(Self { socket })
    }

    /// The next who connects.
    pub(super) fn accept(&self) -> Result<Channel, ChannelError> {
        Channel::new(rustix::net::accept_with(&self.socket, SocketFlags::CLOEXEC)?)
    }
}

impl Channel {
    /// `None`: nobody waits there.
    pub(super) fn connect(path: &Path) -> Result<Option<Self>, ChannelError> {
        let socket = open()?;
        match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
            Ok(()) => Self::new(socket).map(Some),
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn new(socket: OwnedFd) -> Result<Self, ChannelError> {
        let peer = sockopt::socket_peercred(&socket)?.uid;
        if peer.as_raw() != nix::unistd::geteuid().as_raw() && !peer.is_root() {
            return Err(ChannelError::Stranger(peer.as_raw()));
        }
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(WRITE_PATIENCE))?;
        Ok(Self { socket })
    }

    /// Says `message`, and hands over `socket`.
    pub(super) fn send(&self, message: &Message, socket: Option<BorrowedFd<'_>>) -> Result<(), ChannelError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST_MESSAGE {
            return Err(ChannelError::TooLong);
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let sockets = socket.map(|socket| [socket]);
        if let Some(sockets) = &sockets {
            control.push(SendAncillaryMessage::ScmRights(sockets));
        }
        rustix::net::sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// What the other end says next, within `patience`, or whenever it does.
    pub(super) fn receive(&self, patience: Option<Duration>) -> Result<(Message, Option<OwnedFd>), ChannelError> {
        sockopt::set_socket_timeout(&self.socket, sockopt::Timeout::Recv, patience)?;
        let mut bytes = vec![0; LONGEST_MESSAGE];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let got = rustix::net::recvmsg(self.socket.as_fd(), &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut sockets = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut sockets) => sockets.next(),
            _ => None,
        });
        let socket = sockets.next();
        if got.bytes == 0 {
            return Err(ChannelError::Closed);
        }
        if got.flags.contains(ReturnFlags::TRUNC) {
            return Err(ChannelError::TooLong);
        }
        Ok((serde_json::from_slice(&bytes[..got.bytes])?, socket))
    }
}
