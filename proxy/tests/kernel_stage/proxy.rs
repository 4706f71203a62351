//! What stands in for the proxy: its listener, and the connections that the kernel hands it.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use sluice_testnet::{Netns, bound};
use socket2::{Domain, Socket, Type};

/// The proxy's listener: transparent, on the loopback address of the family.
pub fn listen(ns: &Netns, like: IpAddr) -> TcpListener {
    listen_at(ns, like, 15001)
}

/// The listener for what only Audit policies want read.
pub fn listen_for_audits(ns: &Netns, like: IpAddr) -> TcpListener {
    listen_at(ns, like, 15002)
}

fn listen_at(ns: &Netns, like: IpAddr, port: u16) -> TcpListener {
    let loopback: IpAddr = if like.is_ipv4() { "127.0.0.1" } else { "::1" }.parse().expect("an address");
    let address = SocketAddr::new(loopback, port);
    let listen = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        transparent(&socket);
        socket.bind(&address.into())?;
        socket.listen(16)?;
        socket.set_nonblocking(true)?;
        std::io::Result::Ok(socket.into())
    };
    ns.run(|| bound(listen)).expect("the proxy's port is free")
}

/// IP_TRANSPARENT is one flag for both families, and an IPv6 socket takes it at the level of IPv4 too.
pub fn transparent(socket: &Socket) {
    socket.set_ip_transparent_v4(true).expect("the right to be transparent");
}

/// The next connection, if one comes within half a second. Reading from it gives up after `patience`.
pub fn accept(listener: &TcpListener, patience: Option<Duration>) -> Option<TcpStream> {
    for _ in 0..50 {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).expect("a socket");
                stream.set_read_timeout(patience).expect("a time-out");
                return Some(stream);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(Duration::from_millis(10)),
            Err(error) => panic!("{error}"),
        }
    }
    None
}

/// Asserts that `taken` is the proxy's end of the connection that `client` made to `to`, by a word each way.
pub fn expect_taken(client: &TcpStream, taken: &TcpStream, to: SocketAddr) {
    let ends = |stream: &TcpStream| (stream.local_addr().expect("its own end"), stream.peer_addr().expect("the other end"));
    let (own, meant) = ends(client);
    assert_eq!((ends(taken), meant), ((to, own), to));
    for (mut from, mut into, sent) in [(client, taken, b"ping"), (taken, client, b"pong")] {
        from.write_all(sent).expect("an open connection");
        let mut word = [0; 4];
        into.read_exact(&mut word).expect("the word");
        assert_eq!(&word, sent);
    }
}
