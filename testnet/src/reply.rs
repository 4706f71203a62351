//! Answers to datagrams, sent from the very address that was asked.

use std::collections::BTreeSet;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::Socket;

use crate::sctp::{Chunk, Packet};

/// The family of a raw socket. Sockets for UDP are of IPv6 and take both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A datagram with its two addresses. Raw sockets have no ports: theirs are zero.
struct Datagram {
    from: SocketAddr,
    to: IpAddr,
    bytes: Vec<u8>,
}

/// `IDENTITY CLIENT:PORT LINE`, with one end of line.
pub(crate) fn text(identity: &str, peer: SocketAddr, line: &[u8]) -> Vec<u8> {
    let mut answer = format!("{identity} {peer} ").into_bytes();
    answer.extend_from_slice(line.trim_ascii_end());
    answer.push(b'\n');
    answer
}

/// Makes the kernel tell to which of its addresses a datagram came.
pub(crate) fn report_destination(socket: &Socket, family: Family) -> io::Result<()> {
    match family {
        Family::V4 => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
        Family::V6 => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
    }
    Ok(())
}

/// Answers all UDP datagrams that wait.
pub(crate) fn datagrams(identity: &str, socket: &Socket) -> io::Result<()> {
    while let Some(question) = receive(socket)? {
        let peer = SocketAddr::new(question.from.ip().to_canonical(), question.from.port());
        let answer = text(identity, peer, &question.bytes);
        send(socket, question.to, question.from, &answer)?;
    }
    Ok(())
}

/// Answers all SCTP packets that wait: INIT ACK at one of `ports`, ABORT elsewhere, nothing to what isn't an INIT.
pub(crate) fn sctp(identity: &str, socket: &Socket, family: Family, ports: &BTreeSet<u16>) -> io::Result<()> {
    while let Some(question) = receive(socket)? {
        let payload = match family {
            Family::V6 => Some(question.bytes.as_slice()),
            Family::V4 => {
                let words = question.bytes.first().map_or(0, |byte| byte & 0xf);
                question.bytes.get(4 * usize::from(words)..)
            }
        };
        let Some(packet) = payload.and_then(Packet::decode) else {
            continue;
        };
        let Chunk::Init { initiate_tag } = packet.chunk else {
            continue;
        };
        let peer = SocketAddr::new(question.from.ip(), packet.source_port);
        let chunk = match ports.contains(&packet.destination_port) {
            false => Chunk::Abort,
            true => Chunk::InitAck { initiate_tag: !initiate_tag, cookie: text(identity, peer, b"") },
        };
        let answer = Packet {
            source_port: packet.destination_port,
            destination_port: packet.source_port,
            verification_tag: initiate_tag,
            chunk,
        };
        send(socket, question.to, question.from, &answer.encode())?;
    }
    Ok(())
}

/// The next datagram; None when there is none.
fn receive(socket: &Socket) -> io::Result<Option<Datagram>> {
    let mut bytes = vec![0_u8; 2048];
    let mut control = cmsg_space!(libc::in6_pktinfo, libc::in_pktinfo);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::MSG_DONTWAIT);
    let message = match received {
        Ok(message) => message,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let missing = || io::Error::other("a datagram without its addresses");
    let from = message.address.as_ref().and_then(socket_address);
    let to = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into()),
        ControlMessageOwned::Ipv6PacketInfo(info) => Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into()),
        _ => None,
    });
    let length = message.bytes;
    let (from, to) = (from.ok_or_else(missing)?, to.ok_or_else(missing)?);
    bytes.truncate(length);
    Ok(Some(Datagram { from, to, bytes }))
}

fn send(socket: &Socket, from: IpAddr, to: SocketAddr, bytes: &[u8]) -> io::Result<()> {
    let v4_info;
    let v6_info;
    let control = match from {
        IpAddr::V4(v4) => {
            let s_addr = u32::from_ne_bytes(v4.octets());
            v4_info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            ControlMessage::Ipv4PacketInfo(&v4_info)
        }
        IpAddr::V6(v6) => {
            v6_info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: v6.octets() }, ipi6_ifindex: 0 };
            ControlMessage::Ipv6PacketInfo(&v6_info)
        }
    };
    sendmsg(socket.as_raw_fd(), &[IoSlice::new(bytes)], &[control], MsgFlags::MSG_DONTWAIT, Some(&SockaddrStorage::from(to)))?;
    Ok(())
}

fn socket_address(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    let v6 = address.as_sockaddr_in6()?;
    Some(SocketAddr::new(v6.ip().into(), v6.port()))
}
