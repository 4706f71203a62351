//! Queries by datagram: of each core a thread of their own, which waits for nothing but its sockets.
//!
//! ```text
//! Door -> judged --> refused, at once
//!              `---> Legs -> believed -> learning -> Sender
//! ```
//!
//! It is woken once for a query and once for its answer, and once more if the kernel has to be told of an address. No runtime is between,
//! whose tasks and timers cost as much as all that is done for a query.

use std::cell::RefCell;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrStorage, recvmsg};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::bell::{Bell, Rung, Waiter};
use super::legs::{Came, Legs, Waiting};
use super::sender::Sender;
use super::{Asked, Fate, Judge, NotLearned, Service, Transport, is_diverted, said, schedule};
use crate::dns::{Answer, Malformed, Query, unreadable};
use crate::limits::Place;

/// Datagrams that are taken in a row, before the answers of others have their turn.
const IN_A_ROW: usize = 64;
/// What waits at the socket when this process begins, or while nothing can be learned, came at its own pace, also if it is one pod's. It is taken
/// at half of what one pod may have in flight, for no longer than this.
const LONGEST_BACKLOG: Duration = Duration::from_secs(2);
const LOOK_INTO_BACKLOG_MS: u8 = 1;
const LOOK_FOR_OLD: Duration = Duration::from_secs(2);
/// Queries whose time is over are looked for no sooner than this after the last look.
const LOOK_FOR_LATE: Duration = Duration::from_millis(5);
const LONGEST_MESSAGE: usize = 65_535;
/// Looked at in a row.
const EVENTS: usize = 64;

/// What is ready, in the words of [`Epoll`]: the bell, the clock, a door, the sender of a door, or (from here on) a leg.
const BELL: u64 = 0;
const CLOCK: u64 = 1;
const FIRST_DOOR: u64 = 2;
const FIRST_SENDER: u64 = 1 << 8;
const FIRST_LEG: u64 = 1 << 16;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST_MESSAGE]);
}

/// A datagram with its message.
pub(crate) struct Received {
    pub(crate) client: SocketAddr,
    pub(crate) server: SocketAddr,
    pub(crate) message: Vec<u8>,
}

/// Answers what arrives at these sockets, until what was read when the drain began has its answer. Dropped, it ends at once.
pub(super) async fn run<J: Judge>(service: Arc<Service<J>>, sockets: Vec<UdpSocket>, drain: CancellationToken) -> io::Result<()> {
    /// Ends the thread when nobody waits for it any more.
    struct Guard(Arc<Bell>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.end();
        }
    }

    let bell = Arc::new(Bell::new()?);
    let desk = Desk::open(service, sockets, Arc::clone(&bell))?;
    let (ending, mut ended) = oneshot::channel::<()>();
    // What learns may use the runtime's timers.
    let runtime = Handle::current();
    let name = format!("{}-dns", std::thread::current().name().unwrap_or("worker"));
    std::thread::Builder::new().name(name).spawn(move || {
        let _entered = runtime.enter();
        if let Err(error) = schedule::as_batch() {
            tracing::debug!(%error, "look-ups cost more than they need to");
        }
        desk.run();
        drop(ending);
    })?;
    let guard = Guard(bell);
    tokio::select! {
        () = drain.cancelled() => guard.0.drain(),
        _ = &mut ended => return Err(io::Error::other("the thread for look-ups ended")),
    }
    // It is only ever closed.
    let _ = ended.await;
    Ok(())
}

/// The sockets of one family at one core: where its datagrams arrive, and what their answers leave by.
struct Door {
    socket: UdpSocket,
    sender: Sender,
}

/// The look-ups by datagram of one core.
struct Desk<J> {
    service: Arc<Service<J>>,
    epoll: Epoll,
    bell: Arc<Bell>,
    doors: Vec<Door>,
    /// Whether the doors are waited for.
    is_open: bool,
    is_draining: bool,
    /// Until when what waits at the doors is taken slowly.
    backlog: Option<Instant>,
    legs: Legs,
    learning: Slab<Learning>,
    /// Which of these can go on.
    learned: Vec<usize>,
    /// Is ready when it is time to look for what is late or old: to wait with a time each time costs more.
    clock: TimerFd,
    look_for_late: Instant,
    look_for_old: Instant,
    scratch: Vec<u8>,
}

/// An answer that isn't learned yet.
struct Learning {
    done: Pin<Box<dyn Future<Output = Result<(), NotLearned>> + Send>>,
    taught: Taught,
}

/// An answer with addresses, and who is to get it.
struct Taught {
    /// Shared with who learns it.
    lesson: Arc<(Asked, Answer)>,
    door: usize,
    place: Place,
    response: Vec<u8>,
    came: Instant,
}

impl<J: Judge> Desk<J> {
    fn open(service: Arc<Service<J>>, sockets: Vec<UdpSocket>, bell: Arc<Bell>) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(bell.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
        let mut doors = Vec::new();
        for socket in sockets {
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, FIRST_DOOR + doors.len() as u64))?;
            let sender = Sender::open(socket.local_addr()?.is_ipv4(), &service.next_fragmented, &service.metrics)?;
            epoll.add(&sender, EpollEvent::new(EpollFlags::EPOLLIN, FIRST_SENDER + doors.len() as u64))?;
            doors.push(Door { socket, sender });
        }
        let clock = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&clock, EpollEvent::new(EpollFlags::EPOLLIN, CLOCK))?;
        let now = Instant::now();
        let desk = Self {
            legs: Legs::new(FIRST_LEG, &service.metrics),
            service,
            epoll,
            bell,
            doors,
            is_open: true,
            is_draining: false,
            backlog: Some(now + LONGEST_BACKLOG),
            learning: Slab::new(),
            learned: Vec::new(),
            clock,
            look_for_late: now,
            look_for_old: now + LOOK_FOR_OLD,
            scratch: vec![0; LONGEST_MESSAGE],
        };
        desk.set_clock(now);
        Ok(desk)
    }

    fn run(mut self) {
        let mut events = [EpollEvent::empty(); EVENTS];
        loop {
            // A query that nobody foresaw takes itself along, and not those beside it.
            match catch_unwind(AssertUnwindSafe(|| self.turn(&mut events))) {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return,
                Ok(Err(error)) => return tracing::error!(%error, "the DNS proxy's wait for its sockets failed"),
                Err(_) => tracing::error!("a look-up was given up: see the panic above"),
            }
        }
    }

    /// Waits for what is ready, and does it. `false`: there is no other turn.
    fn turn(&mut self, events: &mut [EpollEvent]) -> io::Result<bool> {
        // First of all, so that those whom a panic left behind go on too.
        while let Some(number) = self.learned.pop() {
            self.go_on_learning(number);
        }
        if self.is_draining && self.is_idle() {
            return Ok(false);
        }
        let timeout = self.open_or_close_doors()?;
        let count = match self.epoll.wait(events, timeout) {
            Err(Errno::EINTR) => 0,
            waited => waited?,
        };
        // Alone, one is taken, and the next wait says whether there is another: to find none costs as much as to wait.
        let in_a_row = if count > 1 { IN_A_ROW } else { 1 };
        for event in &events[..count] {
            match event.data() {
                BELL => {
                    let Rung { learned, drain, end } = self.bell.heard();
                    if end {
                        return Ok(false);
                    }
                    self.is_draining |= drain;
                    self.learned.extend(learned);
                }
                CLOCK => self.look(Instant::now()),
                token @ FIRST_LEG.. => self.leg_ready(place_of(token, FIRST_LEG)),
                token @ FIRST_SENDER.. => self.doors[place_of(token, FIRST_SENDER)].sender.go_on(),
                token => self.take_datagrams(place_of(token, FIRST_DOOR), in_a_row),
            }
        }
        Ok(true)
    }

    /// Whether nobody waits for an answer.
    fn is_idle(&self) -> bool {
        !self.legs.is_waiting() && self.learning.is_empty() && !self.doors.iter().any(|door| door.sender.is_waiting())
    }

    /// Nothing is read while too much of what waited is in flight, or once the drain has begun. Yields how long to wait
    /// for events.
    fn open_or_close_doors(&mut self) -> io::Result<EpollTimeout> {
        if self.service.judge.learns_later() {
            self.backlog = Some(Instant::now() + LONGEST_BACKLOG);
        }
        self.backlog = self.backlog.filter(|end| Instant::now() < *end);
        let is_enough = self.backlog.is_some() && self.service.in_flight() * 2 >= self.service.settings.in_flight_per_pod;
        let is_open = !is_enough && !self.is_draining;
        if is_open != self.is_open {
            self.is_open = is_open;
            let flags = if is_open { EpollFlags::EPOLLIN } else { EpollFlags::empty() };
            for (token, door) in (FIRST_DOOR..).zip(&self.doors) {
                self.epoll.modify(&door.socket, &mut EpollEvent::new(flags, token))?;
            }
        }
        Ok(if is_enough { EpollTimeout::from(LOOK_INTO_BACKLOG_MS) } else { EpollTimeout::NONE })
    }

    fn look(&mut self, now: Instant) {
        if now >= self.look_for_late {
            self.end_late(now);
        }
        if now >= self.look_for_old {
            self.look_for_old = now + LOOK_FOR_OLD;
            self.legs.close_old(now);
            self.doors.iter_mut().for_each(|door| door.sender.close_old(now));
        }
        self.set_clock(now);
    }

    /// To when it is time to look.
    fn set_clock(&self, now: Instant) {
        let next = self.look_for_late.min(self.look_for_old).saturating_duration_since(now);
        // A time of nothing would stop it. Set anew, it is not ready any more.
        let next = Expiration::OneShot(TimeSpec::from(next.max(Duration::from_millis(1))));
        if let Err(error) = self.clock.set(next, TimerSetTimeFlags::empty()) {
            tracing::error!(%error, "the DNS proxy's clock can't be set: late look-ups get no answer");
        }
    }

    fn take_datagrams(&mut self, door: usize, in_a_row: usize) {
        if !self.is_open {
            return;
        }
        for _ in 0..in_a_row {
            match receive(&self.doors[door].socket) {
                Ok(Some(received)) => self.received(received, door),
                Ok(None) => {
                    self.service.metrics.not_diverted.inc();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.backlog = None;
                    return;
                }
                Err(error) => tracing::debug!(%error, "a datagram could not be read"),
            }
        }
    }

    fn received(&mut self, received: Received, door: usize) {
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
                    self.send(door, (server, client), &answer, None);
                }
                return;
            }
        };
        let asked = Asked { client, server, transport: Transport::Udp, query, began: Instant::now() };
        if let Some((answer, fate)) = self.service.denied(&asked) {
            self.send(door, (server, client), &answer, None);
            return self.service.judge.seen(&asked, &fate);
        }
        let Some(place) = self.service.in_flight.enter(client.ip()) else {
            return self.end(&asked, &Fate::TooManyInFlight, door, &[], None);
        };
        let waiting = Waiting { asked, door, place };
        if let Some(Waiting { asked, door, place }) = self.legs.ask(&self.epoll, waiting, &message) {
            self.end(&asked, &Fate::Unreachable, door, &[], Some(place));
        }
    }

    fn leg_ready(&mut self, number: usize) {
        let now = Instant::now();
        match self.legs.ready(number, &mut self.scratch, now) {
            None => {}
            Some(Came::Unreachable(Waiting { asked, door, place })) => {
                self.end(&asked, &Fate::Unreachable, door, &[], Some(place));
            }
            Some(Came::Answered(Waiting { asked, door, place }, response, answer)) => {
                let taught = Taught { lesson: Arc::new((asked, answer)), door, place, response, came: now };
                if taught.lesson.1.addresses.is_empty() {
                    self.learned(taught, Ok(()));
                } else {
                    self.learn(taught);
                }
            }
        }
    }

    fn learn(&mut self, taught: Taught) {
        let (service, lesson) = (Arc::clone(&self.service), Arc::clone(&taught.lesson));
        let mut done = Box::pin(async move { service.judge.learn(&lesson.0, &lesson.1).await });
        // Most are learned at once, and need nobody who would wake them.
        match done.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(learned) => {
                drop(done);
                self.learned(taught, learned);
            }
            Poll::Pending => {
                let due = taught.lesson.0.began + self.service.settings.answer_within;
                let number = self.learning.insert(Learning { done, taught });
                if due < self.look_for_late {
                    self.look_for_late = due;
                    self.set_clock(Instant::now());
                }
                self.go_on_learning(number);
            }
        }
    }

    fn go_on_learning(&mut self, number: usize) {
        // Its time may have been over.
        let Some(Learning { done, .. }) = self.learning.get_mut(number) else { return };
        let waker = Waker::from(Arc::new(Waiter { number, bell: Arc::clone(&self.bell) }));
        if let Poll::Ready(learned) = done.as_mut().poll(&mut Context::from_waker(&waker)) {
            let Learning { done, taught } = self.learning.remove(number);
            drop(done);
            self.learned(taught, learned);
        }
    }

    fn learned(&mut self, taught: Taught, learned: Result<(), NotLearned>) {
        let Taught { lesson, door, place, response, came } = taught;
        let (asked, answer) = Arc::unwrap_or_clone(lesson);
        let fate = Fate::of(&asked, answer, came, learned);
        self.end(&asked, &fate, door, &response, Some(place));
    }

    /// Gives up what has waited for too long.
    fn end_late(&mut self, now: Instant) {
        let settings = self.service.settings;
        let (late, next_leg) = self.legs.late(now, settings.upstream_timeout);
        for number in late {
            if let Some(Waiting { asked, door, place }) = self.legs.give_up(number) {
                self.end(&asked, &Fate::TimedOut, door, &[], Some(place));
            }
        }
        let due = |learning: &Learning| learning.taught.lesson.0.began + settings.answer_within;
        let late: Vec<usize> = self.learning.iter().filter(|(_, it)| due(it) <= now).map(|(number, _)| number).collect();
        for number in late {
            let Learning { done, taught } = self.learning.remove(number);
            // Nobody waits for it any more: it is learned by nobody.
            drop(done);
            self.learned(taught, Err(NotLearned::TooLate));
        }
        let next = self.learning.iter().map(|(_, it)| due(it)).chain(next_leg).min();
        // None that comes later is late before these are.
        let next = next.unwrap_or(now + settings.upstream_timeout.min(settings.answer_within));
        self.look_for_late = next.max(now + LOOK_FOR_LATE);
    }

    /// The answer leaves, and its record is written. `response`: that of the server, unless its fate has an answer of ours.
    fn end(&mut self, asked: &Asked, fate: &Fate, door: usize, response: &[u8], place: Option<Place>) {
        let ours = said(&asked.query, fate);
        self.send(door, (asked.server, asked.client), ours.as_deref().unwrap_or(response), place);
        self.service.judge.seen(asked, fate);
    }

    fn send(&mut self, door: usize, (from, to): (SocketAddr, SocketAddr), message: &[u8], place: Option<Place>) {
        self.doors[door].sender.send(from, to, message, place);
    }
}

fn place_of(token: u64, first: u64) -> usize {
    usize::try_from(token - first).unwrap_or(usize::MAX)
}

/// The next datagram. `None`: its kernel didn't say whom it was for, or it is longer than a datagram can be.
pub(crate) fn receive(socket: &impl AsRawFd) -> io::Result<Option<Received>> {
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
