//! The DNS proxy of a node: pods' questions are judged, those that are allowed are asked as the pod, and an answer leaves once its
//! addresses are learned.
//!
//! ```text
//! pod --TPROXY--> Sockets -> Query::read -> judge -> refusal, at once
//!                                                `-> the server, as the pod -> believe -> learn -> the same bytes to the pod
//!                                                          nothing in time, or not learned -> SERVFAIL
//! ```
//!
//! What decides is a [`Judge`]. Every query that can be read gets one answer and has one [`Fate`]; silence is for what is no query, and
//! for who left. Queries wait for nobody but their own server and their own learning.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use thiserror::Error;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, DenyWith, ExtendedError, Query, failure, no_such_name, refusal};
use crate::intercept;
use crate::limits::Admission;
pub use metrics::DnsMetrics;
pub use sockets::Sockets;

mod bell;
mod legs;
mod metrics;
pub(crate) mod packet;
mod schedule;
pub(crate) mod sender;
pub(crate) mod sockets;
mod stream;
pub(crate) mod udp;

/// Who decides what becomes of queries, and learns from their answers.
pub trait Judge: Send + Sync + 'static {
    /// What becomes of a query. No I/O.
    fn judge(&self, asked: &Asked) -> Ruling;

    /// The answer's addresses are learned, and in the kernel, when this is `Ok`: only then does the pod get it. Is not called for an
    /// answer without addresses. It is dropped when the pod has waited for [`Settings::answer_within`].
    fn learn(&self, asked: &Asked, answer: &Answer) -> impl Future<Output = Result<(), NotLearned>> + Send;

    /// Whether nothing can be learned just now, but soon again. No more is taken meanwhile than waits without harm.
    fn learns_later(&self) -> bool {
        false
    }

    /// Once for each query, when it is known what became of it: for records and metrics. No I/O.
    fn seen(&self, asked: &Asked, fate: &Fate);
}

/// A query, and between whom.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The pod's address and port.
    pub client: SocketAddr,
    /// Whom it asked: a server's own address and port, after Service translation.
    pub server: SocketAddr,
    pub transport: Transport,
    pub query: Query,
    /// When it was read.
    pub began: Instant,
}

/// What carries a query and its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What policy says of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It goes to the server that was asked.
    Forward,
    /// It is denied; `text` names the policy, for the Extended DNS Error.
    Refuse { with: DenyWith, text: String },
    /// An allowed name with a search suffix behind it: `NXDOMAIN`, with a text of its own.
    NoSuchName,
}

/// Why the addresses of an answer are of no use to the pod.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotLearned {
    #[error("the kernel refused: {0}")]
    Kernel(String),
    /// Bounds of names and addresses.
    #[error("there is no room")]
    NoRoom,
    #[error("it took too long")]
    TooLate,
}

/// What became of a query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server's answer was handed on, after so long a wait for it, and for its addresses to be learned.
    Answered { answer: Answer, upstream: Duration, learned: Duration },
    /// As [`Ruling::Refuse`] said.
    Refused,
    /// As [`Ruling::NoSuchName`] said.
    NoSuchName,
    /// Nothing that could be believed came in time. SERVFAIL.
    TimedOut,
    /// The server's end is closed, or the way there. SERVFAIL.
    Unreachable,
    /// An answer came, and couldn't be learned. SERVFAIL.
    NotLearned { answer: Answer, why: NotLearned },
    /// Of this pod, or of all. SERVFAIL.
    TooManyInFlight,
    /// A query of this connection has the same id, and no answer yet. SERVFAIL.
    IdInUse,
    /// The client closed its connection before there was an answer. Nothing is said.
    Abandoned,
}

/// Bounds and times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How long a server may take.
    pub upstream_timeout: Duration,
    /// From the query on: when the pod gets SERVFAIL although the answer is there, because it isn't learned yet.
    pub answer_within: Duration,
    /// Queries that wait for their server or to be learned.
    pub in_flight: usize,
    /// The same of one pod.
    pub in_flight_per_pod: usize,
    /// Connections of clients, and as many to servers.
    pub connections: usize,
    /// The same of one pod.
    pub connections_per_pod: usize,
    /// Queries of one connection that wait. Its next ones are not read meanwhile.
    pub in_flight_per_connection: usize,
    /// How long a connection stays open on which nothing is asked, or no answer taken.
    pub idle: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            upstream_timeout: Duration::from_secs(4),
            answer_within: Duration::from_millis(4800),
            in_flight: 8192,
            in_flight_per_pod: 512,
            connections: 2048,
            connections_per_pod: 64,
            in_flight_per_connection: 64,
            idle: Duration::from_secs(30),
        }
    }
}

/// What the cores share. Each [runs](Service::run) its own sockets.
#[derive(Debug)]
pub struct Service<J> {
    judge: Arc<J>,
    settings: Settings,
    metrics: DnsMetrics,
    in_flight: Arc<Admission>,
    connections: Arc<Admission>,
    /// The id of the next datagram that is sent in fragments.
    next_fragmented: Arc<AtomicU32>,
}

impl<J: Judge> Service<J> {
    pub fn new(judge: Arc<J>, settings: Settings, metrics: DnsMetrics) -> Arc<Self> {
        Arc::new(Self {
            judge,
            settings,
            metrics,
            in_flight: Admission::new(settings.in_flight, settings.in_flight_per_pod),
            connections: Admission::new(settings.connections, settings.connections_per_pod),
            next_fragmented: Arc::default(),
        })
    }

    /// Queries that wait for their server, or to be learned.
    pub fn in_flight(&self) -> usize {
        self.in_flight.open()
    }

    /// Connections of clients.
    pub fn connections(&self) -> usize {
        self.connections.open()
    }

    /// Answers what arrives at these sockets. From `drain` on no datagram is taken from them, and nobody but who has connected
    /// already; this ends when the queries that were read have their answers, and clients with connections are quiet.
    pub async fn run(self: Arc<Self>, sockets: Sockets, drain: CancellationToken) -> io::Result<()> {
        let Sockets { udp, tcp } = sockets;
        let tasks = TaskTracker::new();
        let mut loops = JoinSet::new();
        let datagrams = udp::run(Arc::clone(&self), udp, drain.clone());
        for listener in tcp {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (service, drain, tasks) = (Arc::clone(&self), drain.clone(), tasks.clone());
            loops.spawn(async move {
                let backoffs = service.metrics.accept_backoffs.clone();
                let each = |stream, client, server| {
                    tasks.spawn(stream::serve(Arc::clone(&service), stream, client, server, drain.clone()));
                };
                intercept::accept_each(&listener, &drain, &backoffs, each).await;
                intercept::close(listener, sockets::BACKLOG, each);
            });
        }
        let streams = async {
            loops.join_all().await;
            tasks.close();
            tasks.wait().await;
            Ok(())
        };
        tokio::try_join!(datagrams, streams).map(drop)
    }

    /// The answer that policy gives by itself, and what became of the query by it. `None`: the query goes to its server.
    fn denied(&self, asked: &Asked) -> Option<(Vec<u8>, Fate)> {
        match self.judge.judge(asked) {
            Ruling::Forward => None,
            Ruling::Refuse { with, text } => Some((refusal(&asked.query, with, Some(&text)), Fate::Refused)),
            Ruling::NoSuchName => Some((no_such_name(&asked.query), Fate::NoSuchName)),
        }
    }

    /// Has a believed answer learned. Yields what became of the query, by which its [answer](said) is known.
    async fn learn(&self, asked: &Asked, answer: Answer) -> Fate {
        let came = Instant::now();
        let learned = if answer.addresses.is_empty() {
            Ok(())
        } else {
            let learning = self.judge.learn(asked, &answer);
            let learned = tokio::time::timeout_at(asked.began + self.settings.answer_within, learning).await;
            learned.unwrap_or(Err(NotLearned::TooLate))
        };
        Fate::of(asked, answer, came, learned)
    }
}

impl Fate {
    /// Of a query whose believed answer came then, and was learned by now, or not.
    fn of(asked: &Asked, answer: Answer, came: Instant, learned: Result<(), NotLearned>) -> Self {
        match learned {
            Ok(()) => Self::Answered { answer, upstream: came - asked.began, learned: came.elapsed() },
            Err(why) => Self::NotLearned { answer, why },
        }
    }
}

/// Whether this came from a pod, on its way to a server. What was sent to the proxy's own address says so by it: an address of loopback,
/// which nothing that was diverted has. To ask IPv4 in an IPv6 address would be to ask that IPv4 address, such as this host's loopback.
pub(crate) fn is_diverted(client: SocketAddr, server: SocketAddr) -> bool {
    let is_anybodys = |ip: IpAddr| ip.to_canonical() == ip && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
    client.is_ipv4() == server.is_ipv4() && is_anybodys(client.ip()) && is_anybodys(server.ip())
}

/// The SERVFAIL for a query that this became of. `None`: it has another answer, or none.
fn said(query: &Query, fate: &Fate) -> Option<Vec<u8>> {
    let (why, text) = match fate {
        Fate::TimedOut => (ExtendedError::NoReachableAuthority, "the server didn't answer in time"),
        Fate::Unreachable => (ExtendedError::NetworkError, "the server can't be reached"),
        Fate::NotLearned { .. } => (ExtendedError::NetworkError, "the answer's addresses could not be opened"),
        Fate::TooManyInFlight => (ExtendedError::NetworkError, "too many queries wait for their answers"),
        Fate::IdInUse => (ExtendedError::NetworkError, "another query of this connection has its id"),
        Fate::Answered { .. } | Fate::Refused | Fate::NoSuchName | Fate::Abandoned => return None,
    };
    Some(failure(query, why, Some(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_ask_and_only_servers_are_asked() {
        let is_diverted = |client: &str, server: &str| {
            is_diverted(SocketAddr::new(client.parse().unwrap(), 40_000), SocketAddr::new(server.parse().unwrap(), 53))
        };
        assert!(is_diverted("10.0.0.9", "10.96.0.10"));
        assert!(is_diverted("10.0.0.9", "169.254.20.10"));
        assert!(is_diverted("fd00::9", "fd00::10"));
        for (client, server) in [
            ("10.0.0.9", "127.0.0.1"),
            ("10.0.0.9", "127.0.0.53"),
            ("10.0.0.9", "0.0.0.0"),
            ("10.0.0.9", "224.0.0.251"),
            ("127.0.0.1", "10.0.0.1"),
            ("fd00::9", "::1"),
            ("fd00::9", "::"),
            ("fd00::9", "::ffff:127.0.0.1"),
            ("fd00::9", "::ffff:10.0.0.1"),
            ("::ffff:10.0.0.9", "fd00::1"),
            ("fd00::9", "ff02::fb"),
        ] {
            assert!(!is_diverted(client, server), "{client} {server}");
        }
    }
}
