//! Traffic between two namespaces: connections opened and closed, and bytes in bulk.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use sluice_testnet::Netns;
use socket2::SockRef;

/// A server in its own namespace.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    listener: TcpListener,
}

impl Server {
    pub(crate) fn start(ns: &Netns, ip: IpAddr, port: u16) -> io::Result<Self> {
        let address = SocketAddr::new(ip, port);
        let listener = ns.tcp_listen(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self { address, listener })
    }

    /// Connections per second, one after the other, each reset by the server before the next begins: no port waits in TIME_WAIT, and
    /// no queue is ever full. Both ends are in the calling thread, which never sleeps: what is measured is the way of the packets,
    /// not how long a processor takes to wake up.
    pub(crate) fn connections_per_second(&self, client: &Netns, time: Duration) -> io::Result<f64> {
        client.run(|| {
            let begin = Instant::now();
            let mut count = 0_u32;
            while begin.elapsed() < time {
                let mut stream = TcpStream::connect_timeout(&self.address, Duration::from_secs(2))?;
                SockRef::from(&self.accept()?).set_linger(Some(Duration::ZERO))?;
                match stream.read(&mut [0]) {
                    Err(error) if error.kind() == ErrorKind::ConnectionReset => count += 1,
                    other => return Err(io::Error::other(format!("not reset by the server: {other:?}"))),
                }
            }
            Ok(f64::from(count) / begin.elapsed().as_secs_f64())
        })
    }

    fn accept(&self) -> io::Result<TcpStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Ok(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::hint::spin_loop(),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gigabits per second of one connection's payload.
    pub(crate) fn gigabits_per_second(&self, client: &Netns, time: Duration) -> io::Result<f64> {
        let mut stream = client.run(|| TcpStream::connect_timeout(&self.address, Duration::from_secs(2)))?;
        let mut taken = self.accept()?;
        taken.set_nonblocking(false)?;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                while taken.read(&mut buffer).is_ok_and(|read| read > 0) {}
            });
            let buffer = vec![0; 256 << 10];
            let begin = Instant::now();
            let mut bytes = 0_usize;
            while begin.elapsed() < time {
                stream.write_all(&buffer)?;
                bytes += buffer.len();
            }
            let rate = bytes as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64();
            // The reader ends with it.
            drop(stream);
            Ok(rate)
        })
    }
}
