//! Route netlink, as little of it as building a network takes: messages, attributes and acknowledged batches.
//!
//! A network of thirty pods takes some three hundred changes. Each as a run of `ip` would cost a second; as batches of
//! messages on one socket per namespace they cost milliseconds. A socket stays in the namespace in which it was
//! opened, so that any thread can change any namespace through its socket.

use std::io;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

mod bridge;

/// Message kinds and flags, from `linux/rtnetlink.h` and `linux/netlink.h`.
pub(crate) mod kind {
    pub(crate) const ERROR: u16 = 2;
    pub(crate) const NEW_LINK: u16 = 16;
    pub(crate) const DEL_LINK: u16 = 17;
    pub(crate) const GET_LINK: u16 = 18;
    pub(crate) const NEW_ADDRESS: u16 = 20;
    pub(crate) const DEL_ADDRESS: u16 = 21;
    pub(crate) const NEW_ROUTE: u16 = 24;
    pub(crate) const DEL_ROUTE: u16 = 25;
    pub(crate) const GET_ROUTE: u16 = 26;
    pub(crate) const DEL_NEIGHBOUR: u16 = 29;
    pub(crate) const SET_NEIGHBOUR_TABLE: u16 = 67;
}

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const REPLACE: u16 = 0x100;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;

const IFF_UP: u32 = 1;
const IFF_RUNNING: u32 = 0x40;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const IFA_F_NODAD: u32 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_RETRANS_TIME: u16 = 5;
const NDTPA_MCAST_PROBES: u16 = 11;
const NDTPA_PROXY_DELAY: u16 = 13;
const RTNH_F_ONLINK: u32 = 4;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const NESTED: u16 = 0x8000;

/// So many messages go out before their acknowledgements are read: they fit the default receive buffer.
const BATCH: usize = 64;

/// The kernel refused a change.
#[derive(Debug, thiserror::Error)]
#[error("netlink: {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: io::Error,
}

/// Index of an interface in its namespace. Chosen by us at creation, so that nothing needs to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LinkIndex(pub(crate) u32);

/// The loopback interface is always the first.
pub(crate) const LOOPBACK: LinkIndex = LinkIndex(1);

/// One message to the kernel, with what it does in words for the error.
pub(crate) struct Change {
    what: String,
    bytes: Vec<u8>,
    /// Error that means that there was nothing to do.
    tolerated: &'static [Errno],
}

impl Change {
    fn new(what: String, kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(REQUEST | ACK | flags).to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(header);
        Self { what, bytes, tolerated: &[] }
    }

    /// A veth pair: `name` here, `peer` in the namespace behind `peer_ns`.
    pub(crate) fn veth(name: &str, index: LinkIndex, peer: &str, peer_index: LinkIndex, peer_ns: &OwnedFd) -> Self {
        let mut change =
            Self::new(format!("add veth {name} with peer {peer}"), kind::NEW_LINK, CREATE | EXCLUSIVE, &link_header(index, 0));
        change.text(IFLA_IFNAME, name);
        change.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.nested(VETH_INFO_PEER, |end| {
                    end.bytes.extend_from_slice(&link_header(peer_index, 0));
                    end.text(IFLA_IFNAME, peer);
                    end.attribute(IFLA_NET_NS_FD, &peer_ns.as_raw_fd().to_ne_bytes());
                });
            });
        });
        change
    }

    pub(crate) fn link_up(index: LinkIndex) -> Self {
        Self::new(format!("set link {} up", index.0), kind::NEW_LINK, 0, &link_header(index, IFF_UP))
    }

    /// Answers ARP for others at once. The usual random delay, up to 0.8 s, is for shared media; and no setting of the
    /// namespace turns it off, only this one of the interface.
    pub(crate) fn no_proxy_delay(index: LinkIndex) -> Self {
        Self::neighbour_setting(index, "arp_cache", &[(NDTPA_PROXY_DELAY, &0_u64.to_ne_bytes())])
    }

    /// Asks for neighbours four times a second and for ten seconds. By default the kernel gives up after three questions in three
    /// seconds, and a machine under load may lose all of them: the neighbour is there and the sender hears "host unreachable".
    pub(crate) fn ask_patiently(index: LinkIndex) -> [Self; 2] {
        let parameters = [(NDTPA_RETRANS_TIME, &250_u64.to_ne_bytes()[..]), (NDTPA_MCAST_PROBES, &40_u32.to_ne_bytes()[..])];
        ["arp_cache", "ndisc_cache"].map(|table| Self::neighbour_setting(index, table, &parameters))
    }

    fn neighbour_setting(index: LinkIndex, table: &str, parameters: &[(u16, &[u8])]) -> Self {
        let what = format!("neighbour settings of link {} in {table}", index.0);
        // Of any family: the name says which.
        let mut change = Self::new(what, kind::SET_NEIGHBOUR_TABLE, 0, &[0; 4]);
        change.text(NDTA_NAME, table);
        change.nested(NDTA_PARMS, |table| {
            table.attribute(NDTPA_IFINDEX, &index.0.to_ne_bytes());
            for (name, value) in parameters {
                table.attribute(*name, value);
            }
        });
        change
    }

    pub(crate) fn delete_link(index: LinkIndex) -> Self {
        let mut change = Self::new(format!("delete link {}", index.0), kind::DEL_LINK, 0, &link_header(index, 0));
        change.tolerated = &[Errno::ENODEV];
        change
    }

    /// `address` alone, without its neighbours: /32 or /128, usable at once.
    pub(crate) fn add_address(index: LinkIndex, address: IpAddr) -> Self {
        Self::address(index, address, kind::NEW_ADDRESS, CREATE | REPLACE, "add address")
    }

    pub(crate) fn delete_address(index: LinkIndex, address: IpAddr) -> Self {
        let mut change = Self::address(index, address, kind::DEL_ADDRESS, 0, "delete address");
        change.tolerated = &[Errno::EADDRNOTAVAIL];
        change
    }

    fn address(index: LinkIndex, address: IpAddr, kind: u16, flags: u16, verb: &str) -> Self {
        let link_local = match address {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        let scope = if link_local { RT_SCOPE_LINK } else { RT_SCOPE_UNIVERSE };
        let mut header = vec![family(address), prefix_of_host(address), 0, scope];
        header.extend_from_slice(&index.0.to_ne_bytes());
        let mut change = Self::new(format!("{verb} {address} on link {}", index.0), kind, flags, &header);
        change.attribute(IFA_LOCAL, &octets(address));
        change.attribute(IFA_ADDRESS, &octets(address));
        change.attribute(IFA_FLAGS, &IFA_F_NODAD.to_ne_bytes());
        change
    }

    /// `to` (None: everything of the family of `via`) goes out at `index`, by way of `via` or directly.
    pub(crate) fn add_route(route: &Route) -> Self {
        route.change(kind::NEW_ROUTE, CREATE | REPLACE, "add route")
    }

    pub(crate) fn delete_route(route: &Route) -> Self {
        let mut change = route.change(kind::DEL_ROUTE, 0, "delete route");
        change.tolerated = &[Errno::ESRCH, Errno::ENODEV];
        change
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let len = u16::try_from(4 + value.len()).expect("attributes here are short");
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    fn text(&mut self, kind: u16, value: &str) {
        let mut zero_ended = value.as_bytes().to_vec();
        zero_ended.push(0);
        self.attribute(kind, &zero_ended);
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        fill(self);
        let len = u16::try_from(self.bytes.len() - start).expect("attributes here are short");
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finished(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.bytes.len()).expect("messages here are short");
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// A route to one address, or to everything of the gateway's family.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) to: Option<IpAddr>,
    pub(crate) via: Option<IpAddr>,
    pub(crate) out: LinkIndex,
    /// The source address that the kernel chooses for a socket that has none.
    pub(crate) source: Option<IpAddr>,
}

impl Route {
    pub(crate) fn direct(to: IpAddr, out: LinkIndex) -> Self {
        Self { to: Some(to), via: None, out, source: None }
    }

    pub(crate) fn via(to: Option<IpAddr>, via: IpAddr, out: LinkIndex) -> Self {
        Self { to, via: Some(via), out, source: None }
    }

    fn change(&self, kind: u16, flags: u16, verb: &str) -> Change {
        let of_family = self.to.or(self.via).expect("a route has a destination or a gateway");
        let prefix = self.to.map_or(0, prefix_of_host);
        // A gateway behind a point-to-point link is in no prefix of ours: `onlink` says that it is there. The kernel
        // refuses the flag without a gateway, and IPv6 has no use for the narrower scope.
        let (scope, rtm_flags) = match (self.via, of_family) {
            (Some(_), _) => (RT_SCOPE_UNIVERSE, RTNH_F_ONLINK),
            (None, IpAddr::V4(_)) => (RT_SCOPE_LINK, 0),
            (None, IpAddr::V6(_)) => (RT_SCOPE_UNIVERSE, 0),
        };
        let mut header = vec![family(of_family), prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope, RTN_UNICAST];
        header.extend_from_slice(&rtm_flags.to_ne_bytes());
        let what = match (self.to, self.via) {
            (Some(to), Some(via)) => format!("{verb} {to} via {via} dev {}", self.out.0),
            (Some(to), None) => format!("{verb} {to} dev {}", self.out.0),
            (None, _) => format!("{verb} default via {of_family} dev {}", self.out.0),
        };
        let mut change = Change::new(what, kind, flags, &header);
        if let Some(to) = self.to {
            change.attribute(RTA_DST, &octets(to));
        }
        if let Some(via) = self.via {
            change.attribute(RTA_GATEWAY, &octets(via));
        }
        if let Some(source) = self.source {
            change.attribute(RTA_PREFSRC, &octets(source));
        }
        change.attribute(RTA_OIF, &self.out.0.to_ne_bytes());
        change
    }
}

/// A route-netlink socket in one namespace.
#[derive(Debug)]
pub(crate) struct Rtnl {
    socket: OwnedFd,
    /// The sequence number of the next message; held while a batch is under way, so that answers find their question.
    sequence: Mutex<u32>,
}

impl Rtnl {
    /// Opens a socket in the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(10))?;
        Ok(Self { socket, sequence: Mutex::new(1) })
    }

    /// Makes `changes` in their order, and stops at the first that fails (those of its batch that follow are still
    /// tried by the kernel).
    pub(crate) fn apply(&self, changes: Vec<Change>) -> Result<(), NetlinkError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let mut changes = changes.into_iter().peekable();
        while changes.peek().is_some() {
            let first = *sequence;
            let mut subjects = Vec::new();
            let mut bytes = Vec::new();
            for change in changes.by_ref().take(BATCH) {
                subjects.push((change.what.clone(), change.tolerated));
                bytes.extend_from_slice(&change.finished(*sequence));
                *sequence = sequence.wrapping_add(1);
            }
            send(self.socket.as_raw_fd(), &bytes, MsgFlags::empty()).map_err(|errno| failed(&subjects[0].0, errno))?;
            self.await_acks(first, &subjects)?;
        }
        Ok(())
    }

    /// Waits until the link carries packets. Being up is not enough: the end of a veth that came up first notices the other
    /// some time later (net/core/link_watch.c), and until then drops what it is to send without a word.
    pub(crate) fn await_running(&self, index: LinkIndex) -> Result<(), NetlinkError> {
        let what = format!("wait until link {} carries packets", index.0);
        let question = || Change::new(what.clone(), kind::GET_LINK, 0, &link_header(index, 0));
        self.await_answer(&what, question, |answer| {
            let flags = answer.get(8..)?.first_chunk::<4>()?;
            Some(u32::from_ne_bytes(*flags) & IFF_RUNNING != 0)
        })
    }

    /// Waits until packets to an own IPv6 address are taken in. The kernel puts that off to a worker even where there is
    /// no duplicate to be looked for (addrconf_dad_start in net/ipv6/addrconf.c).
    pub(crate) fn await_local(&self, index: LinkIndex, address: Ipv6Addr) -> Result<(), NetlinkError> {
        let what = format!("wait until {address} is taken in on link {}", index.0);
        let address = IpAddr::V6(address);
        let question = || {
            let header = [family(address), prefix_of_host(address), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            let mut question = Change::new(what.clone(), kind::GET_ROUTE, 0, &header);
            question.attribute(RTA_DST, &octets(address));
            question.attribute(RTA_OIF, &index.0.to_ne_bytes());
            question
        };
        self.await_answer(&what, question, |answer| Some(*answer.get(7)? == RTN_LOCAL))
    }

    /// Asks until the answer `holds`. A refusal, or an answer too short to tell, is no.
    fn await_answer(
        &self,
        what: &str,
        question: impl Fn() -> Change,
        holds: impl Fn(&[u8]) -> Option<bool>,
    ) -> Result<(), NetlinkError> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let (kind, answer) = self.ask(question(), what)?;
            if kind != ERROR && holds(&answer) == Some(true) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(failed(what, Errno::ETIMEDOUT));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Kind and body of the one answer to `question`.
    fn ask(&self, mut question: Change, what: &str) -> Result<(u16, Vec<u8>), NetlinkError> {
        let mut sequence = self.sequence.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let asked = *sequence;
        *sequence = sequence.wrapping_add(1);
        // What is asked for is the answer; an acknowledgement would only be in the way.
        question.bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
        let question = question.finished(asked);
        send(self.socket.as_raw_fd(), &question, MsgFlags::empty()).map_err(|errno| failed(what, errno))?;
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            let got = recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(|errno| failed(what, errno))?;
            if let Some((_, kind, sequence, body)) = header(&buffer[..got])
                && sequence == asked
            {
                return Ok((kind, body.to_vec()));
            }
        }
    }

    fn await_acks(&self, first: u32, subjects: &[(String, &'static [Errno])]) -> Result<(), NetlinkError> {
        let mut outcome = Ok(());
        let mut open = subjects.len();
        let mut buffer = vec![0_u8; 32 * 1024];
        while open > 0 {
            let got =
                recv(self.socket.as_raw_fd(), &mut buffer, MsgFlags::empty()).map_err(|errno| failed(&subjects[0].0, errno))?;
            let mut rest = &buffer[..got];
            while let Some((len, kind, sequence, body)) = header(rest) {
                rest = rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
                let place = sequence.wrapping_sub(first) as usize;
                let (ERROR, Some((what, tolerated))) = (kind, subjects.get(place)) else {
                    continue;
                };
                open -= 1;
                let code = body.first_chunk::<4>().map_or(0, |bytes| -i32::from_ne_bytes(*bytes));
                let errno = Errno::from_raw(code);
                if code != 0 && !tolerated.contains(&errno) && outcome.is_ok() {
                    outcome = Err(failed(what, errno));
                }
            }
        }
        outcome
    }
}

use kind::ERROR;

fn failed(what: &str, errno: Errno) -> NetlinkError {
    NetlinkError { what: what.to_owned(), source: errno.into() }
}

/// Length, kind, sequence number and body of the first message in `bytes`.
fn header(bytes: &[u8]) -> Option<(usize, u16, u32, &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk::<4>()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let sequence = u32::from_ne_bytes(*bytes.get(8..)?.first_chunk::<4>()?);
    Some((len, kind, sequence, bytes.get(16..len)?))
}

/// `struct ifinfomsg`, with `flags` both as value and as mask.
fn link_header(index: LinkIndex, flags: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.0.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

fn prefix_of_host(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}
