//! The interfaces of a network namespace, the way to an address, and the programs at an interface's ingress, over rtnetlink.

use std::collections::BTreeSet;
use std::net::IpAddr;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::super::netlink::{Error, Message, Socket, attribute, flags, u32_at};
use super::super::object::octets;

/// `linux/rtnetlink.h`, `linux/if_link.h`, `linux/pkt_sched.h`, `linux/pkt_cls.h`.
mod rtm {
    pub(super) const NEW_LINK: u16 = 16;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const GET_ROUTE: u16 = 26;
    pub(super) const NEW_FILTER: u16 = 44;
    pub(super) const GET_FILTER: u16 = 46;
    /// `struct ifinfomsg`.
    pub(super) const LINK_BYTES: usize = 16;
    /// `struct rtmsg`.
    pub(super) const ROUTE_BYTES: usize = 12;
    /// `struct tcmsg`.
    pub(super) const FILTER_BYTES: usize = 20;
    pub(super) const LINK_NAME: u16 = 3;
    pub(super) const LINK_INFO: u16 = 18;
    pub(super) const LINK_KIND: u16 = 1;
    pub(super) const ROUTE_DESTINATION: u16 = 1;
    pub(super) const ROUTE_OUT_INTERFACE: u16 = 4;
    /// `RTA_GATEWAY` and `RTA_VIA`.
    pub(super) const ROUTE_GATEWAYS: [u16; 2] = [5, 18];
    pub(super) const TYPE_UNICAST: u8 = 1;
    pub(super) const TYPE_LOCAL: u8 = 2;
    pub(super) const FILTER_KIND: u16 = 1;
    pub(super) const FILTER_OPTIONS: u16 = 2;
    pub(super) const BPF_NAME: u16 = 7;
    /// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)`, which the older `ingress` qdisc answers to as well.
    pub(super) const INGRESS: u32 = 0xffff_fff2;
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    /// `veth`, `bridge`, ...; physical ones have none.
    pub(super) kind: Option<String>,
}

impl Link {
    /// Why no pod is behind it; `None`: it leads to pods, as our rules see it.
    pub(super) fn leads_outside(&self, uplinks: &BTreeSet<String>, outside: &[&str]) -> Option<String> {
        let kind = self.kind.as_deref();
        if uplinks.contains(&self.name) {
            return Some("which leads off the node".to_owned());
        }
        match kind {
            None => Some("which is no virtual interface".to_owned()),
            Some(kind) if outside.contains(&kind) || matches!(kind, "macvlan" | "ipvlan" | "macvtap" | "ipvtap") => {
                Some(format!("of kind {kind}"))
            }
            Some(_) => None,
        }
    }
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// To the node itself.
    Here,
    Nowhere,
    /// Out of the interface of this number: to the address itself, or to a gateway.
    By {
        index: u32,
        on_link: bool,
    },
}

#[derive(Debug)]
pub(super) struct Links {
    socket: Socket,
}

impl Links {
    pub(super) fn open() -> Result<Self, Error> {
        Ok(Self { socket: Socket::open(SockProtocol::NetlinkRoute)? })
    }

    pub(super) fn all(&mut self) -> Result<Vec<Link>, Error> {
        let request = Message::new(rtm::GET_LINK, flags::DUMP, &[0; rtm::LINK_BYTES]);
        self.socket.dump(request, |kind, body| if kind == rtm::NEW_LINK { link(body) } else { None })
    }

    /// The way of a packet without a mark, as the main table has it.
    pub(super) fn route(&mut self, to: IpAddr) -> Result<Reached, Error> {
        let address = octets(to);
        let mut head = [0; rtm::ROUTE_BYTES];
        head[0] = if to.is_ipv4() { 2 } else { 10 };
        head[1] = u8::try_from(address.len() * 8).expect("128 at most");
        let mut message = Message::new(rtm::GET_ROUTE, 0, &head);
        message.put(rtm::ROUTE_DESTINATION, &address);
        let found = self.socket.answered(message, |kind, body| {
            let head = body.first_chunk::<{ rtm::ROUTE_BYTES }>().filter(|_| kind == rtm::NEW_ROUTE)?;
            let attributes = &body[rtm::ROUTE_BYTES..];
            let by = attribute(attributes, rtm::ROUTE_OUT_INTERFACE).and_then(|value| u32_at(value, 0));
            let has_gateway = rtm::ROUTE_GATEWAYS.into_iter().any(|gateway| attribute(attributes, gateway).is_some());
            Some(match (head[7], by) {
                (rtm::TYPE_LOCAL, _) => Reached::Here,
                (rtm::TYPE_UNICAST, Some(index)) => Reached::By { index, on_link: !has_gateway },
                _ => Reached::Nowhere,
            })
        });
        match found {
            Err(error)
                if matches!(error.refusal(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)) =>
            {
                Ok(Reached::Nowhere)
            }
            found => Ok(found?.unwrap_or(Reached::Nowhere)),
        }
    }

    /// The names of the BPF programs at tc ingress of an interface.
    pub(super) fn ingress_programs(&mut self, link: u32) -> Result<Vec<String>, Error> {
        let mut head = [0; rtm::FILTER_BYTES];
        head[4..8].copy_from_slice(&link.to_ne_bytes());
        head[12..16].copy_from_slice(&rtm::INGRESS.to_ne_bytes());
        let request = Message::new(rtm::GET_FILTER, flags::DUMP, &head);
        let programs = self.socket.dump(request, |kind, body| {
            let attributes = body.get(rtm::FILTER_BYTES..).filter(|_| kind == rtm::NEW_FILTER)?;
            let is_bpf = text(attribute(attributes, rtm::FILTER_KIND)?) == "bpf";
            let name = attribute(attribute(attributes, rtm::FILTER_OPTIONS)?, rtm::BPF_NAME)?;
            is_bpf.then(|| text(name))
        });
        match programs {
            // The interface is gone, or has no such qdisc.
            Err(error) if matches!(error.refusal(), Some(Errno::ENODEV | Errno::EINVAL | Errno::ENOENT | Errno::EOPNOTSUPP)) => {
                Ok(Vec::new())
            }
            programs => programs,
        }
    }
}

fn link(body: &[u8]) -> Option<Link> {
    let attributes = body.get(rtm::LINK_BYTES..)?;
    let kind = attribute(attributes, rtm::LINK_INFO).and_then(|info| attribute(info, rtm::LINK_KIND)).map(text);
    Some(Link { index: u32_at(body, 4)?, name: text(attribute(attributes, rtm::LINK_NAME)?), kind })
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned()
}
