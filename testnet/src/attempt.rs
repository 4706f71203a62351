//! The client's side of one probe, as a small state machine on a non-blocking socket.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use crate::sctp::{self, Chunk, Packet};
use crate::{Outcome, Probe, Protocol, icmp};

/// What a client sends, one line.
const QUESTION: &[u8] = b"probe\n";
/// Source ports tried before giving up: only those on which the namespace itself listens are taken.
const TRIES: usize = 64;
/// An answer is shorter.
const LONGEST_ANSWER: usize = 4096;

pub(crate) struct Attempt {
    pub(crate) socket: Socket,
    to: SocketAddr,
    state: State,
}

enum State {
    /// TCP, before the handshake is done.
    Connecting,
    /// TCP, with what has come of the answer.
    Asked(Vec<u8>),
    Datagram,
    Sctp {
        port: u16,
        tag: u32,
    },
    Icmp {
        identifier: u16,
    },
}

pub(crate) enum Progress {
    Waiting,
    Ended(Outcome),
}

impl Attempt {
    /// Opens a socket in the namespace of the calling thread, and sends the first packet.
    pub(crate) fn start(probe: &Probe, source: IpAddr) -> Result<Self, Outcome> {
        let opened = match probe.protocol {
            Protocol::Tcp => Self::tcp(probe, source),
            Protocol::Udp => Self::udp(probe, source),
            Protocol::Sctp => Self::sctp(probe, source),
            Protocol::Icmp => Self::icmp(probe, source),
        };
        opened.map_err(|error| Outcome::of_error(&error))
    }

    fn tcp(probe: &Probe, source: IpAddr) -> io::Result<Self> {
        let to = SocketAddr::new(probe.to, probe.port);
        let socket = open(to, Type::STREAM, None)?;
        bind_fresh(&socket, probe, source)?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let state = State::Connecting;
        Ok(Self { socket, to, state })
    }

    fn udp(probe: &Probe, source: IpAddr) -> io::Result<Self> {
        let to = SocketAddr::new(probe.to, probe.port);
        let socket = open(to, Type::DGRAM, None)?;
        bind_fresh(&socket, probe, source)?;
        socket.connect(&to.into())?;
        socket.send(QUESTION)?;
        let state = State::Datagram;
        Ok(Self { socket, to, state })
    }

    fn sctp(probe: &Probe, source: IpAddr) -> io::Result<Self> {
        let to = SocketAddr::new(probe.to, probe.port);
        let socket = raw(to, source, sctp::PROTOCOL)?;
        let port = probe.from.fresh_port();
        // Any number but zero; that it goes with the port makes captures readable.
        let tag = 0x5100_0000 | u32::from(port);
        let attempt = Self { socket, to, state: State::Sctp { port, tag } };
        attempt.send()?;
        Ok(attempt)
    }

    fn icmp(probe: &Probe, source: IpAddr) -> io::Result<Self> {
        let to = SocketAddr::new(probe.to, 0);
        let protocol = match probe.to {
            IpAddr::V4(_) => libc::IPPROTO_ICMP,
            IpAddr::V6(_) => libc::IPPROTO_ICMPV6,
        };
        let socket = raw(to, source, protocol)?;
        let identifier = probe.from.fresh_port();
        let attempt = Self { socket, to, state: State::Icmp { identifier } };
        attempt.send()?;
        Ok(attempt)
    }

    /// Sends the question of a protocol that does not do so itself.
    fn send(&self) -> io::Result<()> {
        let bytes = match self.state {
            State::Connecting | State::Asked(_) => return Ok(()),
            State::Datagram => QUESTION.to_vec(),
            State::Sctp { port, tag } => Packet {
                source_port: port,
                destination_port: self.to.port(),
                verification_tag: 0,
                chunk: Chunk::Init { initiate_tag: tag },
            }
            .encode(),
            State::Icmp { identifier } => icmp::request(self.to.ip(), identifier),
        };
        self.socket.send(&bytes).map(|_| ())
    }

    /// Sends once more what may have been lost. A send that fails has its reason pending on the socket, where
    /// [`Attempt::advance`] finds it.
    pub(crate) fn send_again(&mut self) {
        let _ = self.send();
    }

    /// Goes on as far as the socket lets it.
    pub(crate) fn advance(&mut self) -> Progress {
        if matches!(self.state, State::Connecting) {
            match self.socket.take_error() {
                Ok(Some(error)) | Err(error) => return Progress::Ended(Outcome::of_error(&error)),
                Ok(None) => {}
            }
            if self.socket.peer_addr().is_err() {
                return match queued_error(&self.socket) {
                    Some(error) => Progress::Ended(Outcome::of_error(&error)),
                    None => Progress::Waiting,
                };
            }
            if let Err(error) = (&self.socket).write_all(QUESTION) {
                return Progress::Ended(Outcome::of_error(&error));
            }
            self.state = State::Asked(Vec::new());
        }
        let mut bytes = [0_u8; 2048];
        loop {
            match (&self.socket).read(&mut bytes) {
                Ok(got) => {
                    if let Some(outcome) = self.take(&bytes[..got]) {
                        return Progress::Ended(outcome);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Progress::Ended(Outcome::of_error(&error)),
            }
        }
    }

    /// What the bytes that came say, if they say all.
    fn take(&mut self, bytes: &[u8]) -> Option<Outcome> {
        match &mut self.state {
            State::Connecting => None,
            State::Asked(answer) => {
                if bytes.is_empty() {
                    return Some(Outcome::Reset);
                }
                answer.extend_from_slice(bytes);
                let whole = answer.contains(&b'\n') || answer.len() > LONGEST_ANSWER;
                whole.then(|| answered(answer))
            }
            State::Datagram => Some(answered(bytes)),
            State::Sctp { port, tag } => {
                let packet = Packet::decode(without_ip_header(self.to, bytes)?)?;
                let ours =
                    packet.destination_port == *port && packet.source_port == self.to.port() && packet.verification_tag == *tag;
                match packet.chunk {
                    Chunk::InitAck { cookie, .. } if ours => Some(answered(&cookie)),
                    Chunk::Abort if ours => Some(Outcome::Refused),
                    _ => None,
                }
            }
            State::Icmp { identifier } => {
                let packet = without_ip_header(self.to, bytes)?;
                icmp::is_reply(self.to.ip(), *identifier, packet).then_some(Outcome::Connected { peer: None, seen: None })
            }
        }
    }

    pub(crate) fn at_deadline(&self) -> Outcome {
        match self.state {
            State::Asked(_) => Outcome::Silent,
            _ => Outcome::Timeout,
        }
    }
}

/// A socket that is told of every ICMP error, also of those that TCP and UDP would sit out.
fn open(to: SocketAddr, kind: Type, protocol: Option<i32>) -> io::Result<Socket> {
    let protocol = protocol.map(socket2::Protocol::from);
    let socket = Socket::new(Domain::for_address(to), kind.nonblocking(), protocol)?;
    match to {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    Ok(socket)
}

/// An ICMP error in the socket's error queue. One that answers a SYN while connect() still runs, as it does here where
/// all hops are one machine, is found there alone (tcp_v4_err in net/ipv4/tcp_ipv4.c).
fn queued_error(socket: &Socket) -> Option<io::Error> {
    let mut control = cmsg_space!(libc::sock_extended_err, libc::sockaddr_in6);
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut [], Some(&mut control), flags);
    received.ok()?.cmsgs().ok()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4RecvErr(error, _) | ControlMessageOwned::Ipv6RecvErr(error, _) => {
            let number = i32::try_from(error.ee_errno).ok()?;
            (number != 0).then(|| io::Error::from_raw_os_error(number))
        }
        _ => None,
    })
}

fn raw(to: SocketAddr, source: IpAddr, protocol: i32) -> io::Result<Socket> {
    let socket = open(to, Type::RAW, Some(protocol))?;
    socket.bind(&SocketAddr::new(source, 0).into())?;
    // A port in the address of a raw IPv6 socket would have to be its protocol number.
    socket.connect(&SocketAddr::new(to.ip(), 0).into())?;
    Ok(socket)
}

fn bind_fresh(socket: &Socket, probe: &Probe, source: IpAddr) -> io::Result<()> {
    let mut outcome = Ok(());
    for _ in 0..TRIES {
        let address = SocketAddr::new(source, probe.from.fresh_port());
        outcome = socket.bind(&address.into());
        match &outcome {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            _ => break,
        }
    }
    outcome
}

/// Raw IPv4 sockets deliver the IP header, raw IPv6 sockets do not.
fn without_ip_header(to: SocketAddr, bytes: &[u8]) -> Option<&[u8]> {
    if to.is_ipv6() {
        return Some(bytes);
    }
    let words = usize::from(bytes.first()? & 0xf);
    bytes.get(4 * words..)
}

/// `IDENTITY CLIENT:PORT ...`, or an answer of another kind of server.
fn answered(bytes: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(bytes);
    let mut words = text.split_whitespace();
    let peer = words.next().map(str::to_owned);
    match words.next().and_then(|word| word.parse().ok()) {
        Some(seen) => Outcome::Connected { peer, seen: Some(seen) },
        None => Outcome::Connected { peer: None, seen: None },
    }
}
