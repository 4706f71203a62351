//! The routing rules and routes of a network namespace, over rtnetlink, as far as [`routes`](super::routes) needs them.

use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::SockProtocol;

use super::config::Mark;
use super::netlink::{self, Attributes, Message, Socket, flags, u32_at};
use super::routes::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    const fn number(self) -> u8 {
        match self {
            Self::V4 => 2,
            Self::V6 => 10,
        }
    }
}

/// Rules and routes with this protocol number are Sluice's own. 83 is free in `rtnetlink.h` and in iproute2's `rt_protos`.
const ROUTE_PROTOCOL: u8 = 83;

/// Shows the namespace of the thread that reads it.
pub(super) const SYSCTLS: &str = "/proc/sys/net";

/// `linux/rtnetlink.h`, `linux/fib_rules.h`.
mod rtm {
    pub(super) const NEW_ROUTE: u16 = 24;
    pub(super) const DELETE_ROUTE: u16 = 25;
    pub(super) const GET_ROUTE: u16 = 26;
    pub(super) const NEW_RULE: u16 = 32;
    pub(super) const DELETE_RULE: u16 = 33;
    pub(super) const GET_RULE: u16 = 34;

    /// `struct rtmsg` and `struct fib_rule_hdr`.
    pub(super) const FIXED_BYTES: usize = 12;
    pub(super) const TYPE_LOCAL: u8 = 2;
    pub(super) const SCOPE_HOST: u8 = 254;
    pub(super) const ROUTE_DESTINATION: u16 = 1;
    pub(super) const ROUTE_OUT_INTERFACE: u16 = 4;
    pub(super) const ROUTE_TABLE: u16 = 15;
    pub(super) const ROUTE_MARK: u16 = 16;
    /// In a look-up: say which table answered.
    pub(super) const LOOKUP_TABLE: u32 = 0x1000;

    pub(super) const ACTION_TO_TABLE: u8 = 1;
    pub(super) const RULE_PRIORITY: u16 = 6;
    pub(super) const RULE_MARK: u16 = 10;
    pub(super) const RULE_TABLE: u16 = 15;
    pub(super) const RULE_MASK: u16 = 16;
    pub(super) const RULE_PROTOCOL: u16 = 21;
    /// Attributes that narrow a rule: interfaces, addresses, ports and the rest. `FRA_TUN_ID`, `FRA_FLOW` and the suppressors are
    /// as good as absent.
    pub(super) const RULE_NARROWING: [u16; 9] = [1, 2, 3, 17, 19, 20, 22, 23, 24];
}

/// A routing rule, as far as it matters here.
pub(super) struct Rule {
    pub(super) priority: u32,
    pub(super) mark: Mark,
    pub(super) table: u32,
    protocol: u8,
    /// Looks up a table, for every packet with the mark.
    pub(super) is_plain: bool,
    body: Vec<u8>,
}

impl Rule {
    fn decode(body: &[u8]) -> Option<Self> {
        let fixed = body.first_chunk::<{ rtm::FIXED_BYTES }>()?;
        let &[_, destination_bits, source_bits, dscp, table, _, _, action, ..] = fixed;
        let is_inverted = u32_at(fixed, 8)? & 2 != 0;
        let mut rule = Self {
            priority: 0,
            mark: Mark { value: 0, mask: 0 },
            table: table.into(),
            protocol: 0,
            is_plain: action == rtm::ACTION_TO_TABLE && (destination_bits, source_bits, dscp) == (0, 0, 0) && !is_inverted,
            body: body.to_vec(),
        };
        for (kind, value) in Attributes(&body[rtm::FIXED_BYTES..]) {
            match kind {
                rtm::RULE_PRIORITY => rule.priority = u32_at(value, 0)?,
                rtm::RULE_MARK => rule.mark.value = u32_at(value, 0)?,
                rtm::RULE_MASK => rule.mark.mask = u32_at(value, 0)?,
                rtm::RULE_TABLE => rule.table = u32_at(value, 0)?,
                rtm::RULE_PROTOCOL => rule.protocol = *value.first()?,
                kind if rtm::RULE_NARROWING.contains(&kind) => rule.is_plain = false,
                _ => {}
            }
        }
        Some(rule)
    }

    pub(super) fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}

/// A route, as far as it matters here.
pub(super) struct Route {
    pub(super) table: u32,
    protocol: u8,
    pub(super) is_local_default: bool,
    is_by_loopback: bool,
    body: Vec<u8>,
}

impl Route {
    fn decode(body: &[u8], loopback: u32) -> Option<Self> {
        let &[_, destination_bits, source_bits, _, table, protocol, _, kind, ..] = body.first_chunk::<{ rtm::FIXED_BYTES }>()?;
        let (mut table, mut interface) = (u32::from(table), 0);
        for (kind, value) in Attributes(&body[rtm::FIXED_BYTES..]) {
            match kind {
                rtm::ROUTE_TABLE => table = u32_at(value, 0)?,
                rtm::ROUTE_OUT_INTERFACE => interface = u32_at(value, 0)?,
                _ => {}
            }
        }
        let is_default = (destination_bits, source_bits) == (0, 0);
        let is_by_loopback = interface == loopback;
        let is_local_default = is_default && kind == rtm::TYPE_LOCAL && is_by_loopback;
        Some(Self { table, protocol, is_local_default, is_by_loopback, body: body.to_vec() })
    }

    pub(super) fn is_ours(&self) -> bool {
        self.protocol == ROUTE_PROTOCOL
    }
}

/// The namespace's rules and routes.
pub(super) struct Routing {
    socket: Socket,
    loopback: u32,
}

impl Routing {
    pub(super) fn open() -> Result<Self, Error> {
        let socket = Socket::open(SockProtocol::NetlinkRoute).map_err(Error::Open)?;
        let loopback = nix::net::if_::if_nametoindex("lo").map_err(|_| Error::LoopbackDown)?;
        Ok(Self { socket, loopback })
    }

    /// IPv4, and IPv6 unless it is off for the namespace (`ipv6.disable`, or `disable_ipv6` on lo): then nothing can be delivered
    /// by it.
    pub(super) fn families(&mut self) -> Result<Vec<Family>, Error> {
        let is_off = |p: &str| std::fs::read_to_string(Path::new(SYSCTLS).join(p)).is_ok_and(|v| v.trim() != "0");
        let has_ipv6 = Path::new(SYSCTLS).join("ipv6").exists() && !is_off("ipv6/conf/lo/disable_ipv6");
        Ok(Family::BOTH.into_iter().filter(|f| *f == Family::V4 || has_ipv6).collect())
    }

    pub(super) fn rules(&mut self, family: Family) -> Result<Vec<Rule>, Error> {
        let request = Message::new(rtm::GET_RULE, flags::DUMP, &fixed(family, 0, 0, 0, 0, 0));
        self.socket
            .dump(request, |kind, body| if kind == rtm::NEW_RULE { Rule::decode(body) } else { None })
            .map_err(refused("list the routing rules", family))
    }

    /// Routes of Sluice's, and of any table but the kernel's own three, which hold the node's (perhaps many) routes.
    pub(super) fn routes(&mut self, family: Family) -> Result<Vec<Route>, Error> {
        let loopback = self.loopback;
        let request = Message::new(rtm::GET_ROUTE, flags::DUMP, &fixed(family, 0, 0, 0, 0, 0));
        self.socket
            .dump(request, |kind, body| {
                let route = (kind == rtm::NEW_ROUTE).then(|| Route::decode(body, loopback)).flatten()?;
                (route.is_ours() || !matches!(route.table, 253..=255)).then_some(route)
            })
            .map_err(refused("list the routes", family))
    }

    /// Where a packet with `mark` to an address that nobody has would be routed, and whether that is the local default. One
    /// look-up, however many routes there are. `None`: nowhere.
    pub(super) fn route_of(&mut self, family: Family, mark: Mark) -> Result<Option<Route>, Error> {
        let loopback = self.loopback;
        let (nobodys, bits): (&[u8], u8) = match family {
            Family::V4 => (&[192, 0, 2, 1], 32),
            Family::V6 => (&[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], 128),
        };
        let mut head = fixed(family, 0, 0, 0, 0, rtm::LOOKUP_TABLE);
        head[1] = bits;
        let mut message = Message::new(rtm::GET_ROUTE, 0, &head);
        message.put(rtm::ROUTE_DESTINATION, nobodys);
        message.put(rtm::ROUTE_MARK, &mark.value.to_ne_bytes());
        let found = self.socket.answered(message, |_, body| {
            let mut route = Route::decode(body, loopback)?;
            // The answer is about the one address, whatever the route's own length.
            route.is_local_default = body[7] == rtm::TYPE_LOCAL && route.is_by_loopback;
            Some(route)
        });
        match found {
            Err(e) if matches!(e.refusal(), Some(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EACCES | Errno::EINVAL)) => {
                Ok(None)
            }
            found => found.map_err(refused("look up the route of diverted packets", family)),
        }
    }

    pub(super) fn add_local_default(&mut self, family: Family, table: u32) -> Result<(), Error> {
        let head = fixed(family, 0, ROUTE_PROTOCOL, rtm::SCOPE_HOST, rtm::TYPE_LOCAL, 0);
        let mut message = Message::new(rtm::NEW_ROUTE, flags::CREATE | flags::EXCLUSIVE, &head);
        message.put(rtm::ROUTE_TABLE, &table.to_ne_bytes());
        message.put(rtm::ROUTE_OUT_INTERFACE, &self.loopback.to_ne_bytes());
        match self.socket.acknowledged(message) {
            Err(e) if matches!(e.refusal(), Some(Errno::ENETDOWN | Errno::ENODEV)) => Err(Error::LoopbackDown),
            done => tolerate(done, &[Errno::EEXIST], refused("add the local route", family)),
        }
    }

    pub(super) fn add_rule(&mut self, family: Family, priority: u32, mark: Mark, table: u32) -> Result<(), Error> {
        let head = fixed(family, 0, 0, 0, rtm::ACTION_TO_TABLE, 0);
        let mut message = Message::new(rtm::NEW_RULE, flags::CREATE | flags::EXCLUSIVE, &head);
        message.put(rtm::RULE_PRIORITY, &priority.to_ne_bytes());
        message.put(rtm::RULE_MARK, &mark.value.to_ne_bytes());
        message.put(rtm::RULE_MASK, &mark.mask.to_ne_bytes());
        message.put(rtm::RULE_TABLE, &table.to_ne_bytes());
        message.put(rtm::RULE_PROTOCOL, &[ROUTE_PROTOCOL]);
        let done = self.socket.acknowledged(message);
        tolerate(done, &[Errno::EEXIST], refused("add the routing rule", family))
    }

    pub(super) fn delete_rules<'a>(&mut self, family: Family, rules: impl Iterator<Item = &'a Rule>) -> Result<(), Error> {
        self.delete(rtm::DELETE_RULE, rules.map(|r| &r.body), refused("delete a routing rule", family))
    }

    pub(super) fn delete_routes<'a>(&mut self, family: Family, routes: impl Iterator<Item = &'a Route>) -> Result<(), Error> {
        self.delete(rtm::DELETE_ROUTE, routes.map(|r| &r.body), refused("delete a route", family))
    }

    /// The kernel's own description of a rule or route is what names it best.
    fn delete<'a>(
        &mut self,
        kind: u16,
        bodies: impl Iterator<Item = &'a Vec<u8>>,
        error: impl Fn(netlink::Error) -> Error,
    ) -> Result<(), Error> {
        for body in bodies {
            let done = self.socket.acknowledged(Message::new(kind, 0, body));
            tolerate(done, &[Errno::ENOENT, Errno::ESRCH], &error)?;
        }
        Ok(())
    }
}

/// `struct rtmsg` and `struct fib_rule_hdr` have the same size, and their last byte before the flags says what to do.
fn fixed(family: Family, table: u8, protocol: u8, scope: u8, kind: u8, flags: u32) -> [u8; rtm::FIXED_BYTES] {
    let mut bytes = [0; rtm::FIXED_BYTES];
    bytes[..8].copy_from_slice(&[family.number(), 0, 0, 0, table, protocol, scope, kind]);
    bytes[8..].copy_from_slice(&flags.to_ne_bytes());
    bytes
}

fn refused(action: &'static str, family: Family) -> impl Fn(netlink::Error) -> Error {
    move |source| Error::Netlink { action, family, source }
}

/// Success, where the state that was asked for was there before.
fn tolerate(done: Result<(), netlink::Error>, expected: &[Errno], error: impl Fn(netlink::Error) -> Error) -> Result<(), Error> {
    match done {
        Err(e) if e.refusal().is_some_and(|errno| expected.contains(&errno)) => Ok(()),
        done => done.map_err(error),
    }
}
