//! Queries by datagram.

use std::cell::RefCell;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket as StdSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrStorage, recvmsg};
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::legs::Legs;
use super::sender::Sender;
use super::{Asked, Fate, Judge, Service, Transport, is_diverted, said};
use crate::dns::{Malformed, Query, unreadable};
use crate::limits::Place;

/// Datagrams that are taken in a row, before the answers of others have their turn.
const IN_A_ROW: usize = 64;
/// What waits at the socket when this process begins came at its own pace, also if it is one pod's. It is taken at half of what one pod may
/// have in flight, for no longer than this.
const LONGEST_BACKLOG: Duration = Duration::from_secs(2);
const LOOK_INTO_BACKLOG: Duration = Duration::from_millis(1);
const LOOK_FOR_OLD: Duration = Duration::from_secs(2);
const LONGEST_MESSAGE: usize = 65_535;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST_MESSAGE]);
}

/// Where the datagrams of one family arrive at one core, and what their answers leave by.
#[derive(Debug)]
pub(super) struct Door<J> {
    service: Arc<Service<J>>,
    socket: UdpSocket,
    sender: Arc<Sender>,
    legs: Arc<Legs>,
}

/// A datagram with its message.
pub(crate) struct Received {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) message: Vec<u8>,
}

impl<J: Judge> Door<J> {
    pub(super) fn open(sockets: Vec<StdSocket>, service: &Arc<Service<J>>) -> io::Result<Vec<Self>> {
        let legs = Arc::new(Legs::new(&service.metrics));
        let open = |socket: StdSocket| {
            let is_v4 = socket.local_addr()?.is_ipv4();
            let sender = Arc::new(Sender::open(is_v4, &service.next_fragmented, &service.metrics)?);
            let socket = UdpSocket::from_std(socket)?;
            Ok(Self { service: Arc::clone(service), socket, sender, legs: Arc::clone(&legs) })
        };
        sockets.into_iter().map(open).collect()
    }

    /// Takes datagrams until the drain begins; `tasks` gets those that wait for a server.
    pub(super) async fn run(self, drain: CancellationToken, tasks: TaskTracker) {
        let mut look_for_old = tokio::time::interval(LOOK_FOR_OLD);
        let mut backlog = Some(Instant::now() + LONGEST_BACKLOG);
        loop {
            backlog = backlog.filter(|end| Instant::now() < *end);
            if backlog.is_some()
                && self.service.in_flight() * 2 >= self.service.settings.in_flight_per_pod
                && !drain.is_cancelled()
            {
                tokio::time::sleep(LOOK_INTO_BACKLOG).await;
                continue;
            }
            tokio::select! {
                biased;
                () = drain.cancelled() => return,
                _ = look_for_old.tick() => self.legs.close_old(),
                ready = self.socket.readable() => if let Err(error) = ready {
                    tracing::error!(%error, "the runtime's poll of the DNS proxy's socket failed");
                    return;
                },
            }
            let mut is_drained = false;
            for _ in 0..IN_A_ROW {
                match self.socket.try_io(Interest::READABLE, || receive(&self.socket)) {
                    Ok(Some(received)) => self.received(received, &tasks),
                    Ok(None) => {
                        self.service.metrics.not_diverted.inc();
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        backlog = None;
                        is_drained = true;
                        break;
                    }
                    Err(error) => tracing::debug!(%error, "a datagram could not be read"),
                }
            }
            // Who waits for the next one gives way by that; to give way once more is one more look at what is ready.
            if !is_drained {
                tokio::task::yield_now().await;
            }
        }
    }

    fn received(&self, received: Received, tasks: &TaskTracker) {
        let Received { client, server, message } = received;
        // Port 0 takes no answer.
        if !is_diverted(client, server) || client.port() == 0 {
            self.service.metrics.not_diverted.inc();
            return;
        }
        let query = match Query::read(&message) {
            Ok(query) => query,
            Err(error) => {
                self.service.metrics.malformed.inc();
                // A response, or less than a header, is answered by nobody.
                if let (Malformed::Form(_), Some(answer)) = (error, unreadable(&message)) {
                    self.sender.send_now(server, client, &answer);
                }
                return;
            }
        };
        let asked = Asked { client, server, transport: Transport::Udp, query, began: Instant::now() };
        if let Some((answer, fate)) = self.service.denied(&asked) {
            self.sender.send_now(server, client, &answer);
            return self.service.judge.seen(&asked, &fate);
        }
        let Some(place) = self.service.in_flight.enter(client.ip()) else {
            let fate = Fate::TooManyInFlight;
            if let Some(answer) = said(&asked.query, &fate) {
                self.sender.send_now(server, client, &answer);
            }
            return self.service.judge.seen(&asked, &fate);
        };
        let (service, sender, legs) = (Arc::clone(&self.service), Arc::clone(&self.sender), Arc::clone(&self.legs));
        // Boxed where it is made: it has 2 KiB, which would be copied from place to place.
        tasks.spawn(Box::pin(async move { service.forward(asked, message, &sender, &legs, place).await }));
    }
}

impl<J: Judge> Service<J> {
    /// Carries one allowed query to its server, and what comes of it to the pod.
    async fn forward(&self, asked: Asked, message: Vec<u8>, sender: &Sender, legs: &Legs, place: Place) {
        let deadline = asked.began + self.settings.upstream_timeout;
        let (fate, response) = match legs.ask(&asked, &message, deadline).await {
            Ok((response, answer)) => (self.learn(&asked, answer).await, response),
            Err(fate) => (fate, Vec::new()),
        };
        let response = said(&asked.query, &fate).unwrap_or(response);
        sender.send(asked.server, asked.client, &response).await;
        drop(place);
        self.judge.seen(&asked, &fate);
    }
}

/// The next datagram. `None`: its kernel didn't say whom it was for, or it is longer than a datagram can be.
pub(crate) fn receive(socket: &UdpSocket) -> io::Result<Option<Received>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let mut parts = [IoSliceMut::new(scratch)];
        let mut control = nix::cmsg_space!(libc::sockaddr_in6);
        let got = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_DONTWAIT)?;
        let client = got.address.as_ref().and_then(address);
        let server = got.cmsgs()?.find_map(|message| match message {
            ControlMessageOwned::Ipv4OrigDstAddr(address) => Some(SocketAddrV4::from(SockaddrIn::from(address)).into()),
            ControlMessageOwned::Ipv6OrigDstAddr(address) => {
                // The scope is that of link-local addresses alone.
                Some(
                    SocketAddrV6::new(
                        address.sin6_addr.s6_addr.into(),
                        u16::from_be(address.sin6_port),
                        0,
                        address.sin6_scope_id,
                    )
                    .into(),
                )
            }
            _ => None,
        });
        let (bytes, is_whole) = (got.bytes, !got.flags.contains(MsgFlags::MSG_TRUNC));
        let message = || scratch[..bytes].to_vec();
        Ok(client.zip(server).filter(|_| is_whole).map(|(client, server)| Received { client, server, message: message() }))
    })
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}
