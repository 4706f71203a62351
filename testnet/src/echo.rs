//! The servers of a network: one thread that answers in every namespace.
//!
//! A socket belongs to the namespace it was opened in, wherever the thread is that reads it. So one `epoll` serves any
//! number of pods.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use crate::net::locked;
use crate::reply::{self, Family};
use crate::sctp;
use crate::{Error, Netns, Port, Protocol, bound};

/// A client that sends more than this without an end of line is cut off.
const LONGEST_LINE: usize = 64 * 1024;
/// The key of the socket that wakes the thread to end it.
const WAKE: u64 = 0;

#[derive(Debug)]
pub(crate) struct Echo {
    shared: Arc<Shared>,
    wake: UnixStream,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    epoll: Epoll,
    served: Mutex<HashMap<u64, Served>>,
    next_key: AtomicU64,
}

/// A socket under watch, and for whom it answers.
#[derive(Debug)]
struct Served {
    namespace: usize,
    identity: Arc<str>,
    socket: Socket,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Listener { port: u16 },
    Stream { peer: SocketAddr, unread: Vec<u8> },
    Datagrams { port: u16 },
    Sctp { family: Family, ports: BTreeSet<u16> },
}

impl Echo {
    pub(crate) fn start() -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(failed)?,
            served: Mutex::default(),
            next_key: AtomicU64::new(WAKE + 1),
        });
        let (wake, woken) = UnixStream::pair().map_err(Error::Server)?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, WAKE);
        shared.epoll.add(&woken, event).map_err(failed)?;
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("testnet-echo".to_owned())
            .spawn(move || {
                answer_all(&theirs);
                drop(woken);
            })
            .map_err(Error::Server)?;
        Ok(Self { shared, wake, thread: Some(thread) })
    }

    /// Serves exactly `ports` in `ns`. Connections of ports that stay live on; with no port at all, all are closed.
    pub(crate) fn serve(&self, ns: &Netns, identity: &str, ports: &[Port]) -> Result<(), Error> {
        let namespace = ns.key();
        let identity: Arc<str> = identity.replace(char::is_whitespace, "-").into();
        let wanted: BTreeSet<Port> = ports.iter().copied().collect();
        let sctp: BTreeSet<u16> = wanted.iter().filter(|port| port.protocol == Protocol::Sctp).map(|port| port.number).collect();
        let mut missing = wanted.clone();
        let mut no_sctp_yet = !sctp.is_empty();
        let mut served = locked(&self.shared.served);
        served.retain(|_, entry| {
            if entry.namespace != namespace {
                return true;
            }
            if wanted.is_empty() {
                return false;
            }
            entry.identity = Arc::clone(&identity);
            match &mut entry.kind {
                Kind::Listener { port } => missing.remove(&Port::tcp(*port)),
                Kind::Datagrams { port } => missing.remove(&Port::udp(*port)),
                Kind::Stream { .. } => true,
                Kind::Sctp { ports, .. } => {
                    no_sctp_yet = false;
                    ports.clone_from(&sctp);
                    !sctp.is_empty()
                }
            }
        });
        if missing.is_empty() {
            return Ok(());
        }
        let opened = ns.run(|| bound(|| open_all(&missing, no_sctp_yet.then_some(&sctp))));
        for (socket, kind) in opened.map_err(Error::Server)? {
            let entry = Served { namespace, identity: Arc::clone(&identity), socket, kind };
            self.shared.watch(&mut served, entry).map_err(Error::Server)?;
        }
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        let _ = self.wake.write_all(&[1]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        locked(&self.shared.served).clear();
    }
}

impl Shared {
    fn watch(&self, served: &mut HashMap<u64, Served>, entry: Served) -> io::Result<()> {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let event = EpollEvent::new(EpollFlags::EPOLLIN, key);
        self.epoll.add(&entry.socket, event)?;
        served.insert(key, entry);
        Ok(())
    }
}

fn failed(errno: nix::errno::Errno) -> Error {
    Error::Server(errno.into())
}

/// Opens what is missing, in the namespace of the calling thread.
fn open_all(missing: &BTreeSet<Port>, sctp: Option<&BTreeSet<u16>>) -> io::Result<Vec<(Socket, Kind)>> {
    let mut opened = Vec::new();
    for port in missing {
        let any = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port.number);
        let kind = match port.protocol {
            Protocol::Tcp => Type::STREAM,
            Protocol::Udp => Type::DGRAM,
            Protocol::Sctp | Protocol::Icmp => continue,
        };
        let socket = Socket::new(Domain::IPV6, kind.nonblocking(), None)?;
        socket.set_only_v6(false)?;
        if port.protocol == Protocol::Tcp {
            // Connections of an earlier server may still be in TIME_WAIT.
            socket.set_reuse_address(true)?;
            socket.bind(&any.into())?;
            socket.listen(4096)?;
            opened.push((socket, Kind::Listener { port: port.number }));
        } else {
            reply::report_destination(&socket, Family::V6)?;
            socket.bind(&any.into())?;
            opened.push((socket, Kind::Datagrams { port: port.number }));
        }
    }
    if let Some(ports) = sctp {
        for (domain, family) in [(Domain::IPV4, Family::V4), (Domain::IPV6, Family::V6)] {
            let protocol = socket2::Protocol::from(sctp::PROTOCOL);
            let socket = Socket::new(domain, Type::RAW.nonblocking(), Some(protocol))?;
            reply::report_destination(&socket, family)?;
            let ports = ports.clone();
            opened.push((socket, Kind::Sctp { family, ports }));
        }
    }
    Ok(opened)
}

/// Answers until woken.
fn answer_all(shared: &Shared) {
    let mut events = vec![EpollEvent::empty(); 256];
    loop {
        let ready = match shared.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(ready) => ready,
            Err(nix::errno::Errno::EINTR) => continue,
            Err(_) => return,
        };
        let mut served = locked(&shared.served);
        for event in &events[..ready] {
            if event.data() == WAKE {
                return;
            }
            let Some(entry) = served.get_mut(&event.data()) else {
                continue;
            };
            match answer(entry) {
                Next::Stay => {}
                Next::Close => {
                    served.remove(&event.data());
                }
                Next::Accepted(streams) => {
                    for stream in streams {
                        // Out of descriptors or memory: the client sees a closed connection.
                        let _ = shared.watch(&mut served, stream);
                    }
                }
            }
        }
    }
}

enum Next {
    Stay,
    Close,
    Accepted(Vec<Served>),
}

fn answer(entry: &mut Served) -> Next {
    match &mut entry.kind {
        Kind::Listener { .. } => {}
        Kind::Stream { peer, unread } => {
            return match converse(&entry.identity, &entry.socket, *peer, unread) {
                Ok(true) => Next::Stay,
                Ok(false) | Err(_) => Next::Close,
            };
        }
        // An answer that could not be sent is as one that was lost on the way.
        Kind::Datagrams { .. } => {
            let _ = reply::datagrams(&entry.identity, &entry.socket);
            return Next::Stay;
        }
        Kind::Sctp { family, ports } => {
            let _ = reply::sctp(&entry.identity, &entry.socket, *family, ports);
            return Next::Stay;
        }
    }
    accept(entry)
}

fn accept(listener: &Served) -> Next {
    let mut accepted = Vec::new();
    while let Ok((socket, address)) = listener.socket.accept() {
        let Some(peer) = address.as_socket() else {
            continue;
        };
        if socket.set_nonblocking(true).is_err() {
            continue;
        }
        accepted.push(Served {
            namespace: listener.namespace,
            identity: Arc::clone(&listener.identity),
            socket,
            kind: Kind::Stream { peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()), unread: Vec::new() },
        });
    }
    Next::Accepted(accepted)
}

/// Answers every whole line that has come; false once the client has closed or sends no lines.
fn converse(identity: &str, mut socket: &Socket, peer: SocketAddr, unread: &mut Vec<u8>) -> io::Result<bool> {
    let mut bytes = [0_u8; 4096];
    loop {
        match socket.read(&mut bytes) {
            Ok(0) => return Ok(false),
            Ok(got) => unread.extend_from_slice(&bytes[..got]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Ok(unread.len() <= LONGEST_LINE);
            }
            Err(error) => return Err(error),
        }
        while let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            // A client that does not read its answers fills the socket, fails here, and is cut off.
            socket.write_all(&reply::text(identity, peer, &line))?;
        }
        if unread.len() > LONGEST_LINE {
            return Ok(false);
        }
    }
}
