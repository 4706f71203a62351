//! Many probes at once: a state of the network costs one wait, and not one per packet that is dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::attempt::{Attempt, Progress};
use crate::netns::on_own_thread;
use crate::{Netns, Protocol};

/// One packet exchange to be tried.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Where the client is.
    pub from: Netns,
    /// The client's address, which its namespace must have; None leaves the choice to the kernel.
    pub source: Option<IpAddr>,
    /// The server's address.
    pub to: IpAddr,
    /// The server's port; without meaning for ICMP.
    pub port: u16,
    /// TCP, UDP, SCTP, or ICMP echo of the address's family.
    pub protocol: Protocol,
}

/// How a probe ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The server answered.
    Connected {
        /// Who: the identity that the server was given. None for ICMP, and for servers that are not ours.
        peer: Option<String>,
        /// The client's address and port as the server saw them.
        seen: Option<SocketAddr>,
    },
    /// The destination said no: RST, port or protocol unreachable, SCTP ABORT. (Or a firewall in its name.)
    Refused,
    /// A router said no: network or host unreachable, administratively prohibited.
    Unreachable(Errno),
    /// The TCP connection came about, and was closed without an answer.
    Reset,
    /// The TCP connection came about, and no answer came in time.
    Silent,
    /// Nothing came back in time.
    Timeout,
    /// The probe could not be sent; such as from an address that the source does not have.
    Error(String),
}

impl Outcome {
    /// Whether the packets got through both ways: an answer, or a refusal by the destination itself.
    pub fn is_through(&self) -> bool {
        matches!(self, Self::Connected { .. } | Self::Refused)
    }

    /// Whether a server answered.
    pub fn is_connected(&self) -> bool {
        matches!(self, Self::Connected { .. })
    }

    /// The identity of the server that answered.
    pub fn peer(&self) -> Option<&str> {
        match self {
            Self::Connected { peer, .. } => peer.as_deref(),
            _ => None,
        }
    }

    /// What an operation that failed says about the probe.
    pub(crate) fn of_error(error: &io::Error) -> Self {
        match error.raw_os_error().map(Errno::from_raw) {
            // The last two: ICMP "protocol unreachable" and ICMPv6 "unknown next header", which only the destination sends.
            Some(Errno::ECONNREFUSED | Errno::ENOPROTOOPT | Errno::EPROTO) => Self::Refused,
            Some(errno @ (Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::EACCES)) => {
                Self::Unreachable(errno)
            }
            Some(Errno::ECONNRESET | Errno::EPIPE) => Self::Reset,
            Some(Errno::ETIMEDOUT) => Self::Timeout,
            _ => Self::Error(error.to_string()),
        }
    }
}

/// At most so many sockets at a time; also bounded by the limit on open files.
const MOST_AT_ONCE: usize = 8_000;
/// Answers that come late, one after the other, prolong the wait up to this many times its length.
const LONGEST_WAITS: u32 = 8;
/// Files that this process needs beside the probes' sockets.
const SPARE_FILES: usize = 256;

/// Runs all probes at once and returns their outcomes in the same order.
///
/// Returns as soon as each has an outcome, else when no answer has come for `wait`: on a busy machine, where answers still
/// trickle in, that is later than `wait` after the start. Datagrams are sent again at one
/// and two thirds of the wait. Source ports are fresh: none was used from the same namespace by the 55,000 probes before.
pub fn probe(probes: &[Probe], wait: Duration) -> Vec<Outcome> {
    let at_once = room_for_sockets().clamp(64, MOST_AT_ONCE);
    let rounds = probes.chunks(at_once);
    on_own_thread(|| rounds.flat_map(|round| probe_round(round, wait)).collect())
}

/// Raises the soft limit on open files to the hard one, and says how many more may be opened.
fn room_for_sockets() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return 0;
    };
    let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
    let limit = if raised { hard } else { soft };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(open + SPARE_FILES)
}

fn probe_round(probes: &[Probe], wait: Duration) -> Vec<Outcome> {
    let mut outcomes: Vec<Option<Outcome>> = vec![None; probes.len()];
    let mut attempts: Vec<Option<Attempt>> = Vec::new();
    attempts.resize_with(probes.len(), || None);
    let epoll = match Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC) {
        Ok(epoll) => epoll,
        Err(errno) => return vec![Outcome::Error(errno.to_string()); probes.len()],
    };

    let mut by_namespace: Vec<usize> = (0..probes.len()).collect();
    by_namespace.sort_by_key(|place| probes[*place].from.key());
    let mut entered: Option<&Netns> = None;
    for place in by_namespace {
        let from = &probes[place].from;
        if !entered.is_some_and(|ns| ns.is(from)) {
            if let Err(error) = from.enter() {
                outcomes[place] = Some(Outcome::Error(error.to_string()));
                continue;
            }
            entered = Some(from);
        }
        match start(&probes[place], &epoll, place) {
            Ok(attempt) => attempts[place] = Some(attempt),
            Err(outcome) => outcomes[place] = Some(outcome),
        }
    }

    let mut open = attempts.iter().flatten().count();
    let started = Instant::now();
    let mut last = started;
    let mut resent = 0;
    let mut events = vec![EpollEvent::empty(); 1024];
    while open > 0 {
        let passed = last.elapsed();
        if passed >= wait || started.elapsed() >= wait * LONGEST_WAITS {
            break;
        }
        if resent < 2 && passed >= wait * (resent + 1) / 3 {
            resent += 1;
            attempts.iter_mut().flatten().for_each(Attempt::send_again);
        }
        let tick = (wait - passed).min(Duration::from_millis(20));
        // Rounded up: a wait of less than a millisecond would spin.
        let tick = u16::try_from(tick.as_millis() + 1).unwrap_or(20);
        let ready = epoll.wait(&mut events, EpollTimeout::from(tick)).unwrap_or(0);
        for event in &events[..ready] {
            let Ok(place) = usize::try_from(event.data()) else {
                continue;
            };
            let Some(attempt) = attempts.get_mut(place).and_then(Option::as_mut) else {
                continue;
            };
            if let Progress::Ended(outcome) = attempt.advance() {
                outcomes[place] = Some(outcome);
                attempts[place] = None;
                open -= 1;
                last = Instant::now();
            }
        }
    }
    let at_deadline = |(outcome, attempt): (Option<Outcome>, Option<Attempt>)| {
        outcome.unwrap_or_else(|| attempt.map_or(Outcome::Timeout, |a| a.at_deadline()))
    };
    outcomes.into_iter().zip(attempts).map(at_deadline).collect()
}

/// Opens and sends `probe` from the namespace of this thread.
fn start(probe: &Probe, epoll: &Epoll, place: usize) -> Result<Attempt, Outcome> {
    let any: IpAddr = match probe.to {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let source = probe.source.unwrap_or(any);
    if source.is_ipv4() != probe.to.is_ipv4() {
        let (to, reason) = (probe.to, "the families differ");
        return Err(Outcome::Error(format!("from {source} to {to}: {reason}")));
    }
    let attempt = Attempt::start(probe, source)?;
    let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLET;
    epoll.add(&attempt.socket, EpollEvent::new(flags, place as u64)).map_err(|errno| Outcome::Error(errno.to_string()))?;
    Ok(attempt)
}
