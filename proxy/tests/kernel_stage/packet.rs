//! Packets that an ordinary socket would not send.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sluice_testnet::{Netns, Pod};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// An answer that hasn't come by then is none.
const SILENCE: Duration = Duration::from_millis(400);

/// A UDP datagram as a pod with CAP_NET_RAW sends it: any source, and for IPv4 any options (a multiple of 4 bytes).
pub fn forge(from: &Netns, source: SocketAddr, to: SocketAddr, options: &[u8], text: &str) {
    let packet = datagram(source, to, options, text);
    from.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::RAW, Some(Protocol::from(255))).expect("a raw socket");
        if to.is_ipv4() {
            socket.set_header_included_v4(true).expect("our own header");
        }
        let target = SockAddr::from(SocketAddr::new(to.ip(), 0));
        socket.send_to(&packet, &target).expect("a forged packet is sent");
    });
}

/// The packet itself.
pub fn datagram(source: SocketAddr, to: SocketAddr, options: &[u8], text: &str) -> Vec<u8> {
    match (source.ip(), to.ip()) {
        (IpAddr::V4(s), IpAddr::V4(d)) => {
            let udp = udp(&s.octets(), &d.octets(), source.port(), to.port(), text.as_bytes());
            let header = 20 + options.len();
            let mut packet = vec![0x40 | u8::try_from(header / 4).expect("short options"), 0];
            packet.extend(u16::try_from(header + udp.len()).expect("a short text").to_be_bytes());
            packet.extend([0, 7, 0, 0, 64, 17, 0, 0]);
            packet.extend(s.octets());
            packet.extend(d.octets());
            packet.extend(options);
            let checksum = !sum(&packet);
            packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            packet.extend(udp);
            packet
        }
        (IpAddr::V6(s), IpAddr::V6(d)) => {
            let udp = udp(&s.octets(), &d.octets(), source.port(), to.port(), text.as_bytes());
            let mut packet = vec![0x60, 0, 0, 0];
            packet.extend(u16::try_from(udp.len()).expect("a short text").to_be_bytes());
            packet.extend([17, 64]);
            packet.extend(s.octets());
            packet.extend(d.octets());
            packet.extend(udp);
            packet
        }
        _ => panic!("one family"),
    }
}

/// The Internet checksum before its inversion.
pub fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(*c.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    u16::try_from(sum).expect("folded")
}

fn udp(source: &[u8], destination: &[u8], source_port: u16, port: u16, text: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + text.len()).expect("a short text").to_be_bytes();
    let mut segment = Vec::new();
    segment.extend(source_port.to_be_bytes());
    segment.extend(port.to_be_bytes());
    segment.extend(length);
    segment.extend([0, 0]);
    segment.extend(text);
    let pseudo = [source, destination, &[0, 17], &length, &segment].concat();
    let checksum = !sum(&pseudo);
    // A source route changes the destination that the sum covers; IPv4 does without one.
    if source.len() == 16 {
        segment[6..8].copy_from_slice(&checksum.to_be_bytes());
    }
    segment
}

/// A socket that takes what arrives at `at`.
pub fn listen(ns: &Netns, at: SocketAddr) -> UdpSocket {
    let socket = ns.udp_bind(at).expect("a port");
    socket.set_read_timeout(Some(Duration::from_millis(300))).expect("a time-out");
    socket
}

/// The next text that arrives, if one does.
pub fn arrived(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0; 64];
    let (length, _) = socket.recv_from(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// Datagrams to an echo, each of which must be answered while others come and go.
pub fn unbroken(a: &Pod, to: IpAddr, work: impl FnOnce()) -> (usize, usize) {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let socket = a.ns().udp_bind(SocketAddr::new(a.v4().expect("it works"), 0)).expect("it works");
        socket.set_read_timeout(Some(SILENCE)).expect("it works");
        let stop_seen = &stop;
        let counting = scope.spawn(move || {
            let (mut sent, mut answered) = (0, 0);
            while !stop_seen.load(Ordering::Relaxed) {
                socket.send_to(b"are you there\n", SocketAddr::new(to, 53)).expect("it works");
                sent += 1;
                answered += usize::from(socket.recv(&mut [0; 256]).is_ok());
            }
            (sent, answered)
        });
        work();
        stop.store(true, Ordering::Relaxed);
        counting.join().expect("it works")
    })
}
