//! Clients that speak for themselves: one socket that asks for long, one stream, and datagrams with an untrue sender.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use socket2::{Domain, Type};

use super::wire::{Kind, Message, length};
use crate::{Netns, bound};

/// A datagram as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// Who sent it, by what it says.
    pub from: SocketAddr,
    /// All of it.
    pub bytes: Vec<u8>,
}

impl Datagram {
    /// What it says, if it is DNS.
    pub fn message(&self) -> Option<Message> {
        Message::parse(&self.bytes)
    }
}

/// A client with one UDP socket, from whose port all its questions come, as some libraries and every forwarder do it. It takes
/// datagrams from anybody, and shows them all.
#[derive(Debug)]
pub struct Socket {
    socket: UdpSocket,
    server: SocketAddr,
    last_id: u16,
}

impl Socket {
    /// A socket in `ns`, at a port of the kernel's choice, for questions to `server`.
    pub fn open(ns: &Netns, server: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        Ok(Self { socket: ns.udp_bind(SocketAddr::new(any, 0))?, server, last_id: 0 })
    }

    /// The port that its questions come from.
    pub fn port(&self) -> io::Result<u16> {
        Ok(self.socket.local_addr()?.port())
    }

    /// Sends bytes to the server, whatever they are.
    pub fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.send_to(bytes, self.server)?;
        Ok(())
    }

    /// The next datagram within `wait`, from whoever.
    pub fn receive(&self, wait: Duration) -> io::Result<Option<Datagram>> {
        let until = Instant::now() + wait;
        let mut bytes = vec![0; usize::from(u16::MAX)];
        loop {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left))?;
            match self.socket.recv_from(&mut bytes) {
                Ok((count, from)) => {
                    bytes.truncate(count);
                    return Ok(Some(Datagram { from, bytes }));
                }
                // With a time, the kernel doesn't go on by itself.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Asks, with a new id, and returns the first datagram with that id within `wait`. Those with another one are passed over.
    pub fn ask(&mut self, name: &str, kind: Kind, wait: Duration) -> io::Result<Option<Datagram>> {
        self.last_id = self.last_id.wrapping_add(1);
        let query = Message::query(self.last_id, name, kind).edns(1232);
        self.send(&query.bytes())?;
        let until = Instant::now() + wait;
        loop {
            let answer = self.receive(until.saturating_duration_since(Instant::now()))?;
            match answer {
                Some(other) if !other.bytes.starts_with(&self.last_id.to_be_bytes()) && Instant::now() < until => {}
                Some(other) if !other.bytes.starts_with(&self.last_id.to_be_bytes()) => return Ok(None),
                answer => return Ok(answer),
            }
        }
    }
}

/// A client with one TCP connection, for any number of questions at once.
#[derive(Debug)]
pub struct Stream {
    stream: TcpStream,
}

impl Stream {
    /// Connects from `ns` to `server`; `timeout` also bounds each read and write.
    pub fn open(ns: &Netns, server: SocketAddr, timeout: Duration) -> io::Result<Self> {
        Ok(Self { stream: ns.tcp_connect(None, server, timeout)? })
    }

    /// Sends these messages in one write, each behind its length.
    pub fn send(&mut self, messages: &[Message]) -> io::Result<()> {
        let framed: Vec<u8> = messages.iter().flat_map(|message| framed(&message.bytes())).collect();
        self.send_bytes(&framed)
    }

    /// Sends bytes as they are.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Says that no question follows; answers may still come.
    pub fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown(Shutdown::Write)
    }

    /// The next whole message's bytes; an error where the server closes before it is whole.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut head = [0; 2];
        self.stream.read_exact(&mut head)?;
        let mut bytes = vec![0; usize::from(u16::from_be_bytes(head))];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

/// A message behind its length, as TCP carries it.
pub(super) fn framed(message: &[u8]) -> Vec<u8> {
    [&length(message.len()), message].concat()
}

/// Sends one datagram from `ns` in the name of `from`, an address that `ns` needn't have: what somebody does who guesses a
/// question and answers before the server. Only nodes with [`crate::ReversePath::Off`] pass it on, or with `Loose`, where the address is
/// routed somewhere.
pub fn forge(ns: &Netns, from: SocketAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    ns.run(|| sender(from))?.send_to(bytes, to).map(|_| ())
}

/// A socket in this thread's namespace that sends from any address.
pub(super) fn sender(from: SocketAddr) -> io::Result<UdpSocket> {
    let socket = socket2::Socket::new(Domain::for_address(from), Type::DGRAM, None)?;
    if from.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    } else {
        socket.set_ip_transparent_v6(true)?;
    }
    bound(|| socket.bind(&from.into()))?;
    Ok(socket.into())
}
