//! A server that does what a test says, also what no honest server does: it is late, mute, answers twice, from elsewhere, or lies.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::socket::{framed, sender};
use super::wire::Message;
use crate::net::locked;
use crate::{Error, Netns, bound};

/// Connections at a time; the next ones wait to be accepted.
const MOST_CONNECTIONS: usize = 256;
/// Answers that wait for their time; what is said beyond is dropped, and noted.
const MOST_WAITING: usize = 16_384;
/// Questions and troubles that are kept.
const MOST_KEPT: usize = 65_536;

/// What carried a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// A datagram.
    Udp,
    /// A connection.
    Tcp,
}

/// A question as it came.
#[derive(Clone, Debug)]
pub struct Query {
    /// When.
    pub at: Instant,
    /// The client.
    pub from: SocketAddr,
    /// The server's address that was asked.
    pub to: SocketAddr,
    /// What carried it.
    pub transport: Transport,
    /// The message's bytes; of TCP without its length.
    pub bytes: Vec<u8>,
}

impl Query {
    /// What it says, if it is DNS.
    pub fn message(&self) -> Option<Message> {
        Message::parse(&self.bytes)
    }
}

/// One thing that the server does upon a question.
#[derive(Clone, Debug)]
pub struct Reply {
    what: What,
    after: Duration,
    from: Option<SocketAddr>,
}

#[derive(Clone, Debug)]
enum What {
    Message(Vec<u8>),
    Raw(Vec<u8>),
    Close,
}

impl Reply {
    /// Answers with a message.
    pub fn message(message: &Message) -> Self {
        Self::bytes(message.bytes())
    }

    /// Answers with bytes; by TCP behind their length.
    pub fn bytes(bytes: Vec<u8>) -> Self {
        Self { what: What::Message(bytes), after: Duration::ZERO, from: None }
    }

    /// Answers with bytes; by TCP as they are.
    pub fn raw(bytes: Vec<u8>) -> Self {
        Self { what: What::Raw(bytes), ..Self::bytes(Vec::new()) }
    }

    /// Closes the connection, once what was said before on it is written. Nothing by UDP.
    pub fn close() -> Self {
        Self { what: What::Close, ..Self::bytes(Vec::new()) }
    }

    /// So long after the question.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.after = delay;
        self
    }

    /// From this address and port, which the namespace needn't have: see [`super::forge`]. Without meaning for TCP.
    #[must_use]
    pub fn from(mut self, address: SocketAddr) -> Self {
        self.from = Some(address);
        self
    }
}

/// A server by UDP and TCP, on one thread. Dropped, it ends and its connections are closed.
#[derive(Debug)]
pub struct Scripted {
    kept: Arc<Mutex<Kept>>,
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Kept {
    queries: Vec<Query>,
    troubles: Vec<String>,
}

impl Scripted {
    /// Listens in `ns` on these addresses and ports, by both transports. `script` says what is done upon each question; nothing
    /// is done upon one for which it returns nothing.
    pub fn start(
        ns: &Netns,
        addresses: &[SocketAddr],
        script: impl FnMut(&Query) -> Vec<Reply> + Send + 'static,
    ) -> Result<Self, Error> {
        let opened = || -> io::Result<(UnixStream, Loop)> {
            let (stop, stopped) = UnixStream::pair()?;
            let mut server = Loop {
                stopped,
                kept: Arc::default(),
                script: Box::new(script),
                udp: Vec::new(),
                tcp: Vec::new(),
                connections: BTreeMap::new(),
                next_connection: 0,
                senders: BTreeMap::new(),
                waiting: Vec::new(),
            };
            for address in addresses {
                let udp = ns.udp_bind(*address)?;
                udp.set_nonblocking(true)?;
                server.udp.push((udp, *address));
                let tcp = ns.run(|| bound(|| TcpListener::bind(address)))?;
                tcp.set_nonblocking(true)?;
                server.tcp.push((tcp, *address));
            }
            Ok((stop, server))
        };
        let (stop, server) = opened().map_err(Error::Server)?;
        let kept = Arc::clone(&server.kept);
        let inside = ns.clone();
        let work = move || match inside.enter() {
            Ok(()) => server.run(),
            Err(error) => server.trouble(format!("entering {}: {error}", inside.name())),
        };
        let named = std::thread::Builder::new().name("testnet-dns".to_owned());
        let thread = named.spawn(work).map_err(Error::Server)?;
        Ok(Self { kept, stop: Some(stop), thread: Some(thread) })
    }

    /// The questions so far, in the order they came.
    pub fn queries(&self) -> Vec<Query> {
        locked(&self.kept).queries.clone()
    }

    /// What couldn't be done as the script said. A test that depends on an answer not being believed looks here that it was sent.
    pub fn troubles(&self) -> Vec<String> {
        locked(&self.kept).troubles.clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // A script that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

type Script = Box<dyn FnMut(&Query) -> Vec<Reply> + Send>;

struct Loop {
    stopped: UnixStream,
    kept: Arc<Mutex<Kept>>,
    script: Script,
    udp: Vec<(UdpSocket, SocketAddr)>,
    tcp: Vec<(TcpListener, SocketAddr)>,
    connections: BTreeMap<u64, Connection>,
    next_connection: u64,
    /// Sockets that answers from elsewhere were sent by.
    senders: BTreeMap<SocketAddr, UdpSocket>,
    waiting: Vec<Waiting>,
}

struct Connection {
    stream: TcpStream,
    client: SocketAddr,
    server: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The client will say no more.
    is_read: bool,
    /// The script will.
    ends: bool,
}

struct Waiting {
    due: Instant,
    to: Target,
    reply: Reply,
}

#[derive(Clone, Copy)]
enum Target {
    Datagram { client: SocketAddr, asked: usize },
    Connection(u64),
}

impl Loop {
    fn run(mut self) {
        loop {
            self.act();
            let timeout = self.waiting.iter().map(|waiting| waiting.due).min().map_or(PollTimeout::NONE, |due| {
                // Rounded up: a wait of less than a millisecond would spin.
                let left = due.saturating_duration_since(Instant::now()).as_millis() + 1;
                PollTimeout::from(u16::try_from(left).unwrap_or(u16::MAX))
            });
            let numbers: Vec<u64> = self.connections.keys().copied().collect();
            let accepting = if numbers.len() < MOST_CONNECTIONS { PollFlags::POLLIN } else { PollFlags::empty() };
            let mut polled = vec![PollFd::new(self.stopped.as_fd(), PollFlags::POLLIN)];
            polled.extend(self.udp.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), PollFlags::POLLIN)));
            polled.extend(self.tcp.iter().map(|(socket, _)| PollFd::new(socket.as_fd(), accepting)));
            polled.extend(self.connections.values().map(|connection| {
                let when = |set: bool, flag: PollFlags| if set { flag } else { PollFlags::empty() };
                let reading = when(!connection.is_read, PollFlags::POLLIN);
                let writing = when(!connection.output.is_empty(), PollFlags::POLLOUT);
                PollFd::new(connection.stream.as_fd(), reading | writing)
            }));
            if let Err(errno) = poll(&mut polled, timeout)
                && errno != nix::errno::Errno::EINTR
            {
                return self.trouble(format!("poll: {errno}"));
            }
            let ready: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(true)).collect();
            if ready[0] {
                return;
            }
            let (udp, rest) = ready[1..].split_at(self.udp.len());
            let (tcp, streams) = rest.split_at(self.tcp.len());
            (0..udp.len()).filter(|place| udp[*place]).for_each(|place| self.read_datagrams(place));
            (0..tcp.len()).filter(|place| tcp[*place]).for_each(|place| self.accept(place));
            for (number, _) in numbers.iter().zip(streams).filter(|(_, ready)| **ready) {
                self.read_stream(*number);
            }
        }
    }

    fn trouble(&self, what: String) {
        let mut kept = locked(&self.kept);
        if kept.troubles.len() < MOST_KEPT {
            kept.troubles.push(what);
        }
    }

    fn read_datagrams(&mut self, place: usize) {
        let mut buffer = vec![0; usize::from(u16::MAX)];
        // An error is that of an earlier answer, which nobody took.
        while let Ok((count, from)) = self.udp[place].0.recv_from(&mut buffer) {
            let (to, bytes) = (self.udp[place].1, buffer[..count].to_vec());
            let query = Query { at: Instant::now(), from, to, transport: Transport::Udp, bytes };
            self.ask(query, Target::Datagram { client: from, asked: place });
        }
    }

    fn accept(&mut self, place: usize) {
        let Ok((stream, client)) = self.tcp[place].0.accept() else { return };
        if let Err(error) = stream.set_nonblocking(true) {
            return self.trouble(format!("a connection of {client}: {error}"));
        }
        let server = self.tcp[place].1;
        let (input, output) = (Vec::new(), Vec::new());
        let connection = Connection { stream, client, server, input, output, is_read: false, ends: false };
        self.connections.insert(self.next_connection, connection);
        self.next_connection += 1;
    }

    fn read_stream(&mut self, number: u64) {
        let Some(connection) = self.connections.get_mut(&number) else { return };
        let mut buffer = [0; 16_384];
        match connection.stream.read(&mut buffer) {
            Ok(0) => connection.is_read = true,
            Ok(count) => connection.input.extend(&buffer[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return,
            Err(_) => {
                self.connections.remove(&number);
                return;
            }
        }
        let (from, to) = (connection.client, connection.server);
        while let Some(bytes) = self.connections.get_mut(&number).and_then(|connection| whole(&mut connection.input)) {
            let query = Query { at: Instant::now(), from, to, transport: Transport::Tcp, bytes };
            self.ask(query, Target::Connection(number));
        }
    }

    fn ask(&mut self, query: Query, to: Target) {
        let replies = (self.script)(&query);
        let at = query.at;
        let mut kept = locked(&self.kept);
        if kept.queries.len() < MOST_KEPT {
            kept.queries.push(query);
        }
        drop(kept);
        for reply in replies {
            if self.waiting.len() < MOST_WAITING {
                self.waiting.push(Waiting { due: at + reply.after, to, reply });
            } else {
                self.trouble(format!("more than {MOST_WAITING} answers wait"));
            }
        }
    }

    /// Does what is due, in the order of its times, and writes what connections take.
    fn act(&mut self) {
        let now = Instant::now();
        let (mut due, later) = std::mem::take(&mut self.waiting).into_iter().partition::<Vec<_>, _>(|waiting| waiting.due <= now);
        self.waiting = later;
        due.sort_by_key(|waiting| waiting.due);
        for Waiting { to, reply, .. } in due {
            match to {
                Target::Datagram { client, asked } => self.send_datagram(client, asked, reply),
                Target::Connection(number) => {
                    let Some(connection) = self.connections.get_mut(&number) else { continue };
                    match reply.what {
                        What::Message(bytes) => connection.output.extend(framed(&bytes)),
                        What::Raw(bytes) => connection.output.extend(bytes),
                        What::Close => connection.ends = true,
                    }
                }
            }
        }
        let waiting = &self.waiting;
        let is_awaited = |number| waiting.iter().any(|waiting| matches!(waiting.to, Target::Connection(to) if to == number));
        self.connections.retain(|number, connection| {
            while !connection.output.is_empty() {
                match connection.stream.write(&connection.output) {
                    Ok(count) => drop(connection.output.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                    Err(_) => return false,
                }
            }
            !connection.ends && (!connection.is_read || is_awaited(*number))
        });
    }

    fn send_datagram(&mut self, client: SocketAddr, asked: usize, reply: Reply) {
        let (What::Message(bytes) | What::Raw(bytes)) = reply.what else { return };
        let from = reply.from.unwrap_or(self.udp[asked].1);
        let own = self.udp.iter().find(|(_, address)| *address == from).map(|(socket, _)| socket);
        let sent = match own {
            Some(socket) => socket.send_to(&bytes, client),
            None => self.send_elsewhere(from, &bytes, client),
        };
        if let Err(error) = sent {
            self.trouble(format!("{from} to {client}: {error}"));
        }
    }

    fn send_elsewhere(&mut self, from: SocketAddr, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match self.senders.entry(from) {
            Entry::Occupied(socket) => socket.get().send_to(bytes, to),
            Entry::Vacant(place) => place.insert(sender(from)?).send_to(bytes, to),
        }
    }
}

/// Takes a message from the front of what a connection has brought, once it is whole.
fn whole(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let size = usize::from(u16::from_be_bytes(input.get(..2)?.try_into().ok()?));
    let bytes = input.get(2..2 + size)?.to_vec();
    input.drain(..2 + size);
    Some(bytes)
}
