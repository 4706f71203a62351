//! Takes pods' IP frames off a bridge, in BPF.
//!
//! Two pods on one bridge never meet the node's IP stack, nor the rules there. The program of this crate is attached to tc
//! ingress of each pod's port: it hands the pod's IP frames to the bridge itself, which receives them like frames to the
//! node. It decides nothing of policy. It does decide what a pod may send at all, port by port:
//!
//! | frame | what becomes of it |
//! |---|---|
//! | from a port that isn't [set](Redirect::set) | dropped |
//! | tagged (VLAN 0 and 802.1ad too), malformed, neither IP nor ARP, not from the pod's MAC address | dropped |
//! | ARP of the pod about itself, or from 0.0.0.0 | stays on the bridge |
//! | ICMPv6 133, 135 and 136 of the pod about itself, hop limit 255; MLD | stays on the bridge |
//! | DHCP to 255.255.255.255, DHCPv6 to ff02::1:2 | stays on the bridge |
//! | ICMPv6 134 and 137; neighbour discovery behind extension headers | dropped |
//! | other multicast and broadcast, an IP packet to one station in a frame to many | dropped |
//! | IPv4 and IPv6 from one of the pod's addresses | received by the bridge |
//! | all else | dropped |
//!
//! What stays on the bridge meets the bridge's own rules: they keep DHCP and router solicitations from other pods. Each drop
//! is counted by reason ([`Dropped`]).
//!
//! # Fail closed
//!
//! Filter and maps outlive the process: the kernel holds them as long as the filter is attached. A successor attaches a program
//! of its own, port by port, in place of the former: no instant is without one. A [`Redirect::set`] that fails leaves the port
//! closed as far as the kernel obeys. What the program can't parse it drops.
//!
//! # Where it can't
//!
//! [`is_possible`] says whether this process may load BPF: in a user namespace it may not. Built on a machine without clang or
//! libbpf, the crate is there and answers [`Error::NotBuilt`]; [`BUILT`] and [`BUILD`] say so too. The kernel must be 5.8 or newer.
//!
//! Interface indices belong to a network namespace: all calls of a [`Redirect`] are to come from threads in the one in which it was
//! opened, and are refused elsewhere.

mod dropped;
#[cfg(with_bpf)]
mod entries;
mod port;
#[cfg(with_bpf)]
mod redirect;
#[cfg(not(with_bpf))]
#[path = "without.rs"]
mod redirect;
#[cfg(with_bpf)]
mod said;
#[cfg(with_bpf)]
mod tc;

use std::net::IpAddr;

pub use dropped::Dropped;
pub use port::Port;
pub use redirect::{Redirect, is_possible};

/// Whether the BPF program is in this build.
pub const BUILT: bool = cfg!(with_bpf);

/// By which compiler the program was built, or why it wasn't.
pub const BUILD: &str = env!("SLUICE_BPF_BUILD");

/// Why the redirection isn't as it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no program in this build.
    #[error("built without BPF: {BUILD}")]
    NotBuilt,
    /// The kernel lets this process load no program.
    #[error(
        "the kernel lets this process load no BPF program: that takes root, or CAP_BPF and CAP_NET_ADMIN, outside of any user namespace"
    )]
    NotPermitted,
    /// The kernel doesn't take the program.
    #[error("load the BPF program {BUILD}: {said}")]
    Load {
        /// What libbpf and the kernel said.
        said: String,
    },
    /// Program and loader are of different builds.
    #[error("the BPF program doesn't fit its loader: {what}")]
    Mismatch {
        /// In what.
        what: String,
    },
    /// What was asked for makes no sense.
    #[error("port {port} (interface index): {what}")]
    Port {
        /// The port's interface index.
        port: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// An address that a pod can't have.
    #[error("port {port} (interface index): {address} {reason}, so no pod sends from it")]
    Address {
        /// The port's interface index.
        port: u32,
        /// The address.
        address: IpAddr,
        /// Why not.
        reason: &'static str,
    },
    /// The calling thread is in another network namespace than the one in which the redirection was opened.
    #[error("called from another network namespace than the redirection was opened in")]
    OtherNamespace,
    /// The network namespace of the calling thread can't be told.
    #[error("find the network namespace of this thread")]
    Namespace(#[source] std::io::Error),
    /// A map could not be read or written.
    #[error("port {port} (interface index): {what}: {said}")]
    Map {
        /// The port's interface index.
        port: u32,
        /// What was to be done.
        what: &'static str,
        /// What libbpf and the kernel said.
        said: String,
    },
    /// The counters could not be read.
    #[error("read the BPF program's counters: {said}")]
    Counters {
        /// What libbpf and the kernel said.
        said: String,
    },
    /// Somebody else's filter has our place.
    #[error("tc ingress of interface {port} (index) holds the BPF program {program} at our priority and handle: remove it")]
    Taken {
        /// The port's interface index.
        port: u32,
        /// The other program's name.
        program: String,
    },
    /// The filter could not be attached, asked for or removed.
    #[error("tc ingress of interface {port} (index): {what}: {said}")]
    Filter {
        /// The port's interface index.
        port: u32,
        /// What was to be done.
        what: &'static str,
        /// What libbpf and the kernel said.
        said: String,
    },
}
