//! Datagrams that the kernel diverts, as what listens for look-ups gets them.

use std::io::IoSliceMut;
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg};

/// A datagram, from whom, and whom it was for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diverted {
    pub client: SocketAddr,
    pub server: SocketAddr,
    pub text: String,
}

/// The next one that waits; the socket is one of `dns::service::Sockets`.
pub fn receive(socket: &UdpSocket) -> Option<Diverted> {
    let mut text = [0; 256];
    let mut parts = [IoSliceMut::new(&mut text)];
    let mut control = nix::cmsg_space!(SockaddrStorage);
    let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT).ok()?;
    let from = got.address?;
    let v4 = from.as_sockaddr_in().map(|from| SocketAddrV4::from(*from).into());
    let client = v4.or_else(|| from.as_sockaddr_in6().map(|from| SocketAddrV6::from(*from).into()))?;
    let server = got.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::Ipv4OrigDstAddr(to) => Some(SocketAddrV4::from(SockaddrIn::from(to)).into()),
        ControlMessageOwned::Ipv6OrigDstAddr(to) => Some(SocketAddrV6::from(SockaddrIn6::from(to)).into()),
        _ => None,
    })?;
    let bytes = got.bytes;
    Some(Diverted { client, server, text: String::from_utf8_lossy(&text[..bytes]).into_owned() })
}
