//! Nodes and pods as network namespaces, without root: for tests, the demo and load tests.
//!
//! A [`Net`] is a whole network inside one process. Nothing of it has a name on the host, so nothing of it is ever left
//! there: namespaces are held by file descriptors, and processes die with the one that started them.
//!
//! ```text
//!   pod production/frontend    pod production/backend              pod other/probe
//!   eth0 10.0.1.1 fd00:1::1    eth0 10.0.1.2                       eth0 10.0.2.1
//!     | default via 169.254.1.1  |                                   |
//!     |             and fe80::1  |                                   |
//!   veth-frontend              veth-backend                        veth-probe
//!   +-------------------------------------------+                  +--------------------------+
//!   | node-1        route POD dev veth-POD      |                  | node-2                   |
//!   |               proxy_arp, forwarding       |                  |                          |
//!   | (sluice-proxy, kube-proxy's DNAT)         |                  |                          |
//!   +---- eth0 198.18.0.1 2001:db8:fffe::1 -----+                  +---- eth0 198.18.0.2 -----+
//!           | default via 169.254.2.1                                        |
//!         to-node-1                                                      to-node-2
//!   +------------------------------------------------------------------------------------------+
//!   | fabric        route POD via its NODE; unreachable for what nobody has                    |
//!   +----------------------------------- outside ----------------------------------------------+
//!                                           |
//!                     outside: eth0 203.0.113.10 2001:db8:ffff::10 and what a test adds
//! ```
//!
//! Every address is the caller's choice and a host route (/32, /128): pods need no common prefix. Nothing translates
//! addresses except Services, so both ends see each other's own addresses, also across nodes and from outside.
//!
//! # Use
//!
//! ```no_run
//! # use std::{net::IpAddr, process::Command, time::Duration};
//! use sluice_testnet::{Net, Outcome, Port, Probe, Protocol, Service, capability};
//! # fn ip(text: &str) -> IpAddr { text.parse().unwrap() }
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! if let Err(why) = capability() {
//!     println!("SKIPPED: {why}");
//!     return Ok(());
//! }
//! let net = Net::new()?;                                  // or Net::with(Options { reverse_path, .. })
//! let node = net.add_node("node-1", &[])?;                // no addresses given: it gets some
//! let frontend = net.add_pod(&node, "production/frontend", &[ip("10.0.1.1"), ip("fd00:1::1")])?;
//! let backend = net.add_pod(&node, "production/backend", &[ip("10.0.1.2")])?;
//! // Many at once are faster: net.add_pods(&[(&node, "production/a", &[ip("10.0.1.3")]), ..])?
//! net.add_outside_address(ip("169.254.169.254"))?;        // beside 203.0.113.10 and 2001:db8:ffff::10
//!
//! // Servers answer "IDENTITY CLIENT:PORT LINE". A second call for the same pod replaces the first.
//! net.serve_pod(&backend, &[Port::tcp(8080), Port::udp(53), Port::sctp(132)])?;
//! net.serve(net.outside(), "outside", &[Port::tcp(80)])?;
//! net.serve(node.ns(), "node-1", &[Port::tcp(10250)])?;   // the node itself, hostNetwork pods
//! node.set_services(&[Service {
//!     name: "production/backend".into(),
//!     protocol: Protocol::Tcp,
//!     address: "10.96.0.10:80".parse()?,
//!     backends: vec!["10.0.1.2:8080".parse()?],
//! }])?;
//!
//! // All at once; returns early when all have answered.
//! let tcp = |to, port| Probe { from: frontend.ns().clone(), source: None, to, port, protocol: Protocol::Tcp };
//! let outcomes = net.probe(&[tcp(ip("10.0.1.2"), 8080), tcp(ip("10.96.0.10"), 80)], Duration::from_millis(400));
//! assert_eq!(outcomes[0].peer(), Some("production/backend"));
//! assert!(matches!(outcomes[1], Outcome::Connected { .. }));
//!
//! // Programs and code inside.
//! let proxy = node.ns().spawn(Command::new(sluice_testnet::binary("sluice-proxy")?))?;   // killed when dropped
//! proxy.wait_for_error_line("ready", Duration::from_secs(5))?;
//! let routes = frontend.ns().exec("ip", &["route"])?;                                   // its output, or an error with stderr
//! let bound = node.ns().run(|| std::net::TcpListener::bind("127.0.0.1:15001"))?;
//! # Ok(()) }
//! ```
//!
//! # Bridges
//!
//! [`Layout::Bridge`] joins a node's pods as flannel, k3s and the bridge plugin do: the node's ends of their veths are ports of
//! `cni0`, and pods of one node speak to each other on it, by ARP and neighbour discovery. All else goes by way of the node, the
//! gateway 169.254.1.1 and fe80::1.
//!
//! # Names
//!
//! [`dns`] has name servers and resolvers for the network, a server that answers as a test says, and clients of every kind.
//!
//! # Without root
//!
//! A process with threads cannot enter a user namespace. A program calls [`enter`] first thing in `main`; tests are run
//! as `sluice-testnet run -- cargo test`. As root neither is needed. `sluice-testnet try` shows whether a machine can do it.
//!
//! # What to know when writing tests
//!
//! - A TCP probe sends a line and counts as connected once the answer has come, so a proxy that accepts and then closes is
//!   [`Outcome::Reset`], and one that holds the bytes back is [`Outcome::Silent`].
//! - Where no pod or host has an address, the fabric answers "unreachable" at once; only what is dropped takes the whole wait.
//! - Source ports are never used again within 55,000 probes of a namespace, so no probe rides on the connection-tracking entry
//!   of an earlier one. SCTP is INIT and INIT ACK in raw packets, as most kernels have no SCTP sockets.
//! - A [`Child`]'s environment adds to this process's (`Command::env_clear` is not seen), and its input is empty.

mod attempt;
mod bridge;
mod capability;
mod child;
pub mod dns;
mod echo;
mod enter;
mod icmp;
mod net;
mod netlink;
mod netns;
mod node;
pub mod orders;
mod pod;
pub mod probe;
mod programs;
mod protocol;
mod reply;
mod sctp;
mod service;
mod shaper;
mod wait;

use std::io;
use std::path::PathBuf;

pub(crate) use capability::obstacle;
pub use capability::{WhyNot, capability};
pub use child::Child;
pub use enter::{enter, run};
pub use net::{Layout, Net, Options, ReversePath};
pub use netlink::NetlinkError;
pub use netns::{Netns, bound};
pub use nix::errno::Errno;
pub use nix::sys::signal::Signal;
pub use node::Node;
pub use pod::Pod;
pub use probe::{Outcome, Probe};
pub use programs::Programs;
pub use protocol::{Port, Protocol};
pub use service::Service;
pub use shaper::Shaper;
pub use wait::{binary, wait_until};

/// Why a network could not be made or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Namespaces cannot be made here at all.
    #[error(transparent)]
    WhyNot(#[from] WhyNot),
    /// The namespaces around a program could not be set up.
    #[error("entering a user namespace: {0}")]
    Enter(#[source] io::Error),
    /// One namespace could not be made or opened.
    #[error("network namespace of {name}: {source}")]
    Namespace {
        /// Whose.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A kernel setting could not be written.
    #[error("{}: {source}", path.display())]
    Sysctl {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// An interface, address or route could not be changed.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A server could not be started.
    #[error("server of the test network: {0}")]
    Server(#[source] io::Error),
    /// A program could not be started, failed, or did not say what was waited for.
    #[error("`{command}` in {namespace}: {reason}")]
    Command {
        /// The program and its arguments.
        command: String,
        /// Where it ran.
        namespace: String,
        /// What happened, with its output.
        reason: String,
    },
    /// A program that tests start is not there.
    #[error("{name} is not in {looked}: build it first (`cargo build --workspace`)")]
    NotBuilt {
        /// The program.
        name: String,
        /// Where it was looked for.
        looked: String,
    },
    /// There is a node or pod of that name already.
    #[error("there is a {kind} {name} already")]
    Exists {
        /// "node" or "pod".
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// There is no node or pod of that name.
    #[error("there is no {kind} {name}")]
    Unknown {
        /// "node" or "pod".
        kind: &'static str,
        /// Its name.
        name: String,
    },
}
