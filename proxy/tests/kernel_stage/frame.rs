//! Whole frames, as a pod with CAP_NET_RAW sends and hears them.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, recv, sendto, setsockopt, socket,
    sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use sluice_testnet::Netns;

pub type Mac = [u8; 6];

pub const TO_ALL: Mac = [0xff; 6];

/// A VLAN tag: its type (802.1Q or 802.1ad) and number.
pub type Tag = (u16, u16);

pub const DOT1Q: u16 = 0x8100;
pub const DOT1AD: u16 = 0x88a8;

const ARP: u16 = 0x0806;

/// The interface's address for this layer: `eth0` of a pod, `cni0` of a node.
pub fn mac(ns: &Netns, interface: &str) -> Mac {
    link(ns, interface).addr().expect("an Ethernet address")
}

fn link(ns: &Netns, interface: &str) -> LinkAddr {
    let find = || {
        getifaddrs().expect("interfaces").find_map(|found| {
            let address: SockaddrStorage = found.address.filter(|_| found.interface_name == interface)?;
            address.as_link_addr().copied()
        })
    };
    ns.run(find).unwrap_or_else(|| panic!("{} has no {interface}", ns.name()))
}

/// A frame with an IP packet or anything else, under any number of tags.
pub fn frame(destination: Mac, source: Mac, tags: &[Tag], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = [destination, source].concat();
    for (kind, number) in tags {
        bytes.extend(kind.to_be_bytes());
        bytes.extend(number.to_be_bytes());
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    // The shortest frame there is.
    bytes.resize(bytes.len().max(60), 0);
    bytes
}

/// A frame with an IP packet in it.
pub fn ip_frame(destination: Mac, source: Mac, tags: &[Tag], packet: &[u8]) -> Vec<u8> {
    let kind = if packet.first().is_some_and(|first| first >> 4 == 6) { 0x86dd } else { 0x0800 };
    frame(destination, source, tags, kind, packet)
}

/// `owner` (2) or asker (1) of ARP: says that `address` is at `mac`, to `to`.
pub fn arp(operation: u16, mac: Mac, address: IpAddr, to_mac: Mac, to: IpAddr, destination: Mac) -> Vec<u8> {
    let (IpAddr::V4(address), IpAddr::V4(to)) = (address, to) else { panic!("ARP is of IPv4") };
    let mut payload = vec![0, 1, 8, 0, 6, 4];
    payload.extend(operation.to_be_bytes());
    payload.extend(mac);
    payload.extend(address.octets());
    payload.extend(to_mac);
    payload.extend(to.octets());
    frame(destination, mac, &[], ARP, &payload)
}

/// ICMPv6 with its checksum, behind any extension headers: these begin with the next one's number, the last with 58.
pub fn icmpv6(source: IpAddr, to: IpAddr, first_header: u8, extensions: &[u8], message: &[u8]) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(to)) = (source, to) else { panic!("ICMPv6 is of IPv6") };
    let mut message = message.to_vec();
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let pseudo = [&source.octets()[..], &to.octets(), &length, &[0, 0, 0, 58], &message].concat();
    let checksum = !super::packet::sum(&pseudo);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    let payload = u16::try_from(extensions.len() + message.len()).expect("a short packet").to_be_bytes();
    [&[0x60, 0, 0, 0][..], &payload, &[first_header, 255], &source.octets(), &to.octets(), extensions, &message].concat()
}

/// Sends a frame by `eth0`.
pub fn send(from: &Netns, bytes: &[u8]) {
    let link = link(from, "eth0");
    from.run(|| {
        let socket = open();
        sendto(socket.as_raw_fd(), bytes, &link, MsgFlags::empty()).expect("a frame is sent");
    });
}

fn open() -> OwnedFd {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll).expect("a packet socket")
}

/// Hears every frame that a namespace gets or sends.
pub struct Ear {
    fd: OwnedFd,
}

impl Ear {
    pub fn new(ns: &Netns) -> Self {
        let fd = ns.run(open);
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).expect("a time-out");
        Self { fd }
    }

    /// All that is heard within `wait`.
    pub fn heard(&self, wait: Duration) -> Vec<Vec<u8>> {
        let end = Instant::now() + wait;
        let (mut frames, mut buffer) = (Vec::new(), [0; 4096]);
        while Instant::now() < end {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => frames.push(buffer[..length].to_vec()),
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
        frames
    }

    /// Whether a frame with these bytes in it is heard within `wait`.
    pub fn hears(&self, wanted: &[u8], wait: Duration) -> bool {
        let end = Instant::now() + wait;
        let mut buffer = [0; 4096];
        while Instant::now() < end {
            match recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) if buffer[..length].windows(wanted.len()).any(|window| window == wanted) => return true,
                Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
        false
    }
}

/// A UDP datagram as an IP packet.
pub fn datagram(source: SocketAddr, to: SocketAddr, text: &str) -> Vec<u8> {
    super::packet::datagram(source, to, &[], text)
}
