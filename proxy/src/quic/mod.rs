//! QUIC towards rules that check names: judged by the server name in its first packets, and carried by datagrams.
//!
//! ```text
//! pod --TPROXY--> Gate -> Flow, reading -> Hellos -> judge --deny--> CONNECTION_CLOSE and ICMP, from the server's address
//!                              |                        `--allow--> a socket as the pod -> server
//!                              `-> Flow, carrying: both ways, until nothing moves or a new table denies it
//! ```
//!
//! Nothing is opened: the first packets of a connection are protected by keys that everybody can make, and the rest is carried as it is.
//! Each datagram of the client is looked at for packets that could begin another connection ([`hellos`]).
//!
//! A flow is a connection to policy, records and metrics, and counts for the same limits. It has no end that anybody could see, so
//! it ends when nothing has moved for [`IDLE`].

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::connection::Dataplane;
use crate::dns::service::sockets::receiver;
use crate::intercept::{ListenError, both_families};
use gate::Gate;
pub use metrics::QuicMetrics;

mod answers;
mod flow;
#[cfg(any(test, fuzzing))]
mod fuzz;
mod gate;
mod hellos;
mod keys;
mod metrics;
mod packet;
mod rations;
mod refused;
#[cfg(any(test, fuzzing))]
mod sample;

#[cfg(any(test, fuzzing))]
pub use fuzz::quic as fuzz_quic;

/// How long a flow stays open in which nothing moves. Most ends of QUIC give up after 30 s.
const IDLE: Duration = Duration::from_secs(60);
/// The same once the process is ending.
const IDLE_AT_THE_END: Duration = Duration::from_secs(3);
/// How long a ClientHello may take to be whole.
const HELLO_TIME: Duration = Duration::from_secs(2);

/// The sockets of one core. IPv6 is left out where this namespace has none.
#[derive(Debug)]
pub struct Sockets {
    udp: Vec<UdpSocket>,
}

impl Sockets {
    /// Takes those of `held` that this made at this port, in whatever process, and binds what is missing beside the sockets of the other
    /// cores. All of them must be bound before the first runs: one that joins later takes over others' flows. Needs CAP_NET_ADMIN.
    pub fn adopt(port: u16, held: Vec<UdpSocket>) -> Result<Self, ListenError> {
        Ok(Self { udp: both_families(port, held, UdpSocket::local_addr, receiver)? })
    }

    /// The same sockets once more: for a successor.
    pub fn try_clone(&self) -> io::Result<Vec<UdpSocket>> {
        self.udp.iter().map(UdpSocket::try_clone).collect()
    }
}

/// Carries the flows that arrive at one core. From the drain on none begins; ends with those that are open, or when the sockets are a
/// successor's: two processes can't read the datagrams of one flow.
pub async fn run(sockets: Sockets, dataplane: Arc<Dataplane>, metrics: QuicMetrics) -> io::Result<()> {
    let tasks = TaskTracker::new();
    let mut gates = JoinSet::new();
    for socket in sockets.udp {
        let gate = Gate::open(socket, &dataplane, &metrics)?;
        gates.spawn(gate.run(tasks.clone()));
    }
    gates.join_all().await;
    tasks.close();
    tasks.wait().await;
    Ok(())
}
