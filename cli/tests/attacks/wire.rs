//! Frames as they are on an interface: sent and seen by packet sockets, past the sender's own IP.

use std::net::Ipv6Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt, socket, sockopt,
};
use sluice_testnet::Netns;

pub(crate) type Mac = [u8; 6];

pub(crate) const BROADCAST: Mac = [0xff; 6];
/// Tag protocols of VLAN frames.
pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const SERVICE_VLAN: u16 = 0x88a8;

const MOST_FRAMES: usize = 100_000;

/// A packet socket on one interface: sends frames, and sees all that pass, in both directions.
pub(crate) struct Wire {
    socket: OwnedFd,
    mac: Mac,
}

impl Wire {
    pub(crate) fn open(ns: &Netns, interface: &str) -> Self {
        ns.run(|| {
            let address = link_address(interface);
            let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).unwrap();
            setsockopt(&socket, sockopt::RcvBufForce, &(8 << 20))
                .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, &(8 << 20)))
                .unwrap();
            // The address names the interface, and leaves the socket its protocol.
            bind(socket.as_raw_fd(), &address).unwrap();
            Self { socket, mac: address.addr().unwrap() }
        })
    }

    /// The interface's own.
    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    pub(crate) fn send(&self, frame: &[u8]) {
        send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    }

    /// What has passed since the last call.
    pub(crate) fn frames(&self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut buffer = vec![0; 1 << 16];
        while frames.len() < MOST_FRAMES {
            match recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => return frames,
                // An error of the interface is told once, and says nothing about frames.
                Err(Errno::ENETDOWN) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("more than {MOST_FRAMES} frames");
    }
}

/// The link-layer address of an interface of the calling thread's namespace.
pub(crate) fn link_address(interface: &str) -> LinkAddr {
    let mut all = getifaddrs().unwrap().filter(|found| found.interface_name == interface);
    all.find_map(|found| found.address?.as_link_addr().copied()).unwrap_or_else(|| panic!("there is no interface {interface}"))
}

/// The link-local address of an interface of the calling thread's namespace.
pub(crate) fn link_local(interface: &str) -> Ipv6Addr {
    let all = getifaddrs().unwrap().filter(|found| found.interface_name == interface);
    let mut all = all.filter_map(|found| Some(found.address?.as_sockaddr_in6()?.ip()));
    all.find(Ipv6Addr::is_unicast_link_local).unwrap_or_else(|| panic!("{interface} has no link-local address"))
}

/// An Ethernet frame around an IP packet, with these VLAN tags (tag protocol, number), the outer one first.
pub(crate) fn frame(to: Mac, from: Mac, tags: &[(u16, u16)], packet: &[u8]) -> Vec<u8> {
    let mut frame = [to, from].concat();
    for (protocol, number) in tags {
        frame.extend(protocol.to_be_bytes());
        frame.extend(number.to_be_bytes());
    }
    let kind: u16 = if packet[0] >> 4 == 4 { 0x0800 } else { 0x86dd };
    frame.extend(kind.to_be_bytes());
    frame.extend(packet);
    frame
}

/// The IP packet in a frame without tags.
pub(crate) fn packet_of(frame: &[u8]) -> &[u8] {
    frame.get(14..).unwrap_or_default()
}
