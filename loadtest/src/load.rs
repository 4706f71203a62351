//! Traffic between two namespaces: connections opened and closed, and bytes in bulk.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sluice_testnet::Netns;
use socket2::{Domain, Protocol, Socket, Type};

/// A server that takes connections and reads what comes until the client ends. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    stop: Arc<AtomicBool>,
    address: SocketAddr,
    ns: Netns,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    pub(crate) fn start(ns: &Netns, ip: IpAddr, port: u16) -> io::Result<Self> {
        let address = SocketAddr::new(ip, port);
        let listener = ns.tcp_listen(address)?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || serve(&listener, &stopped));
        Ok(Self { stop, address, ns: ns.clone(), thread: Some(thread) })
    }
}

fn serve(listener: &TcpListener, stop: &AtomicBool) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok((mut stream, _)) = listener.accept() {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One more connection, from the server's own namespace, so that `accept` returns.
        let address = self.address;
        let _ = self.ns.run(|| TcpStream::connect_timeout(&address, Duration::from_secs(1)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connections per second: one after the other, each closed by RST so that no port waits in TIME_WAIT.
pub(crate) fn connections_per_second(client: &Netns, server: SocketAddr, time: Duration) -> io::Result<f64> {
    client.run(|| {
        let begin = Instant::now();
        let mut count = 0_u32;
        while begin.elapsed() < time {
            let socket = Socket::new(Domain::for_address(server), Type::STREAM, Some(Protocol::TCP))?;
            socket.set_linger(Some(Duration::ZERO))?;
            socket.connect_timeout(&server.into(), Duration::from_secs(2))?;
            count += 1;
        }
        Ok(f64::from(count) / begin.elapsed().as_secs_f64())
    })
}

/// Gigabits per second of one connection's payload.
pub(crate) fn gigabits_per_second(client: &Netns, server: SocketAddr, time: Duration) -> io::Result<f64> {
    client.run(|| {
        let mut stream = TcpStream::connect_timeout(&server, Duration::from_secs(2))?;
        let buffer = vec![0; 256 << 10];
        let begin = Instant::now();
        let mut bytes = 0_usize;
        while begin.elapsed() < time {
            stream.write_all(&buffer)?;
            bytes += buffer.len();
        }
        Ok(bytes as f64 * 8.0 / 1e9 / begin.elapsed().as_secs_f64())
    })
}
