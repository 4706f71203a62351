//! Policy routing for TPROXY: marked packets are delivered here, whatever their destination.
//!
//! TPROXY in prerouting finds a socket for a packet and marks it; it doesn't change the destination, which is a server's address
//! (for the proxy's own upstream legs: a pod's). Routing comes after prerouting and would forward it. So, for IPv4 and IPv6:
//!
//! ```text
//! ip rule  add priority 100 fwmark VALUE/MASK lookup TABLE protocol 83
//! ip route add local default dev lo table TABLE protocol 83
//! ```
//!
//! | choice | why |
//! |---|---|
//! | the rule's priority | Before 32766 (main), which knows the way to every pod and would forward. Before 512 too, where the AWS CNI routes each pod's address; after 0, where addresses of the node stay its own. |
//! | the mark's mask | Other software keeps its own bits in the same mark. |
//! | protocol 83 | A tag that no routing daemon uses. What carries it is Sluice's: leftovers of another configuration are found and removed by it, and nothing else is touched. |
//! | route before rule, removal in reverse | The rule never points to an empty table. |
//!
//! **If the rule is missing, marked packets are forwarded unread.** Network managers delete rules they don't know
//! (systemd-networkd at each restart, unless told otherwise). So the chain set drops in `forward` what carries the mark, and
//! [`PolicyRouting::is_installed`] is cheap enough to be asked regularly; [`PolicyRouting::install`] repairs.
//!
//! **Sysctls: none is written.** Tried on 6.18 (tests below):
//!
//! | sysctl | |
//! |---|---|
//! | `rp_filter` 0, 1, 2 | All work. The reverse look-up goes without the mark, finds the pod's route and the interface the packet came by. |
//! | `src_valid_mark` 1 (wg-quick sets it) | **Breaks IPv4**, whatever rp_filter says: the reverse look-up goes *with* the mark and ends in our local route, and the packet is dropped as a martian: closed, never open. Reported as an [`Obstacle`]. |
//! | `route_localnet` | Not needed for listeners on 127.0.0.1 and ::1: the packet keeps its destination, only the socket is the listener's. |
//! | `ip_forward` | Not needed for diverted flows: they are delivered locally. |
//! | `ip_nonlocal_bind` | Not needed: IP_TRANSPARENT on the sockets does it. |

use std::io;
use std::path::Path;

use super::config::Mark;
use super::netlink;
pub use super::rtnl::Family;
use super::rtnl::{Route, Routing, Rule, SYSCTLS};

/// See the module's table.
pub const DEFAULT_PRIORITY: u32 = 100;

/// Why routing could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{action} for {family:?}")]
    Netlink { action: &'static str, family: Family, source: netlink::Error },
    #[error("open the routing socket")]
    Open(#[source] netlink::Error),
    #[error("the interface lo is missing or down in this namespace: bring it up, diverted packets are delivered through it")]
    LoopbackDown,
    #[error("routing table {table} already holds {family:?} routes that are not Sluice's: set `routingTable` to a free number")]
    TableTaken { table: u32, family: Family },
    #[error("routing table {0} is the kernel's own (0, 253, 254 and 255 are): set `routingTable` to a free number")]
    ReservedTable(u32),
    #[error("mark {:#x} has bits outside its mask {:#x}, or is empty: set `mark` to bits of its own", .0.value, .0.mask)]
    UnusableMark(Mark),
    #[error("rule priority {0} is not between 1 and 32765, so that packets would be routed before it is asked")]
    UnusablePriority(u32),
}

/// What somebody else has set up on this node that keeps diverted packets from being delivered. None of it opens anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    #[error(
        "net.ipv4.conf.{interface}.src_valid_mark is 1: the kernel drops diverted IPv4 packets as martians. Set it to 0 (wg-quick sets it; \
         with rp_filter 2 it is not needed)"
    )]
    SourceValidMark { interface: String },
    #[error(
        "{family:?} routing rule {priority} takes packets with mark {:#x}/{:#x} to table {table} before Sluice's does: set `mark` to bits \
         of its own",
        mark.value, mark.mask
    )]
    MarkTaken { family: Family, priority: u32, mark: Mark, table: u32 },
    #[error("IPv6 is off in this namespace: IPv6 flows can't be diverted")]
    NoIpv6,
}

/// The rule and the route, of both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PolicyRouting {
    mark: Mark,
    table: u32,
    priority: u32,
}

impl PolicyRouting {
    /// Packets with `mark` go to `table`; see the module for `priority`.
    pub fn new(mark: Mark, table: u32, priority: u32) -> Result<Self, Error> {
        if mark.value == 0 || mark.value & !mark.mask != 0 {
            return Err(Error::UnusableMark(mark));
        }
        if matches!(table, 0 | 253..=255) {
            return Err(Error::ReservedTable(table));
        }
        if !(1..32766).contains(&priority) {
            return Err(Error::UnusablePriority(priority));
        }
        Ok(Self { mark, table, priority })
    }

    /// Makes both families so, whatever was there of an earlier Sluice. Does nothing where it is so already.
    pub fn install(&self) -> Result<(), Error> {
        let mut routing = Routing::open()?;
        for family in routing.families()? {
            let routes = routing.routes(family)?;
            if routes.iter().any(|r| r.table == self.table && !r.is_ours() && !self.is_route(r)) {
                return Err(Error::TableTaken { table: self.table, family });
            }
            // A leftover in the same table would take the new route's place; one in another table goes last, so that at no time
            // there is neither the old nor the new.
            let leftovers = || routes.iter().filter(|r| r.is_ours() && !self.is_route(r));
            routing.delete_routes(family, leftovers().filter(|r| r.table == self.table))?;
            if !routes.iter().any(|r| self.is_route(r)) {
                routing.add_local_default(family, self.table)?;
            }
            let rules = routing.rules(family)?;
            if !rules.iter().any(|r| self.is_rule(r)) {
                routing.add_rule(family, self.priority, self.mark, self.table)?;
            }
            routing.delete_rules(family, rules.iter().filter(|r| r.is_ours() && !self.is_rule(r)))?;
            routing.delete_routes(family, leftovers().filter(|r| r.table != self.table))?;
        }
        Ok(())
    }

    /// Whether rule and route of every family that this namespace has are in place. Costs two look-ups, and reads all routes only
    /// where they lead elsewhere.
    pub fn is_installed(&self) -> Result<bool, Error> {
        let mut routing = Routing::open()?;
        for family in routing.families()? {
            if !routing.rules(family)?.iter().any(|r| self.is_rule(r)) {
                return Ok(false);
            }
            if routing.route_of(family, self.mark)?.is_some_and(|r| self.is_route(&r)) {
                continue;
            }
            // Another rule may come first: then the table itself has to be looked at.
            if !routing.routes(family)?.iter().any(|r| self.is_route(r)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What on this node stands in the way of diverted packets: to be told to whoever runs it.
    pub fn obstacles(&self) -> Result<Vec<Obstacle>, Error> {
        let mut routing = Routing::open()?;
        let families = routing.families()?;
        let mut found = Vec::new();
        if !families.contains(&Family::V6) {
            found.push(Obstacle::NoIpv6);
        }
        for family in families {
            found.extend(routing.rules(family)?.iter().filter(|r| self.is_hijack(r)).map(|r| Obstacle::MarkTaken {
                family,
                priority: r.priority,
                mark: r.mark,
                table: r.table,
            }));
        }
        // Without /proc/sys nothing is known, and a guess would be noise.
        found.extend(source_valid_marks(Path::new(SYSCTLS)).unwrap_or_default());
        Ok(found)
    }

    fn is_rule(&self, rule: &Rule) -> bool {
        rule.is_plain && (rule.mark, rule.table, rule.priority) == (self.mark, self.table, self.priority)
    }

    fn is_route(&self, route: &Route) -> bool {
        route.table == self.table && route.is_local_default
    }

    /// A foreign rule that is asked earlier and matches our mark.
    fn is_hijack(&self, rule: &Rule) -> bool {
        let matches = rule.mark.mask != 0 && self.mark.value & rule.mark.mask == rule.mark.value;
        matches && rule.priority <= self.priority && rule.table != self.table && !rule.is_ours()
    }
}

/// Removes every rule and route of Sluice's from the namespace, of whatever configuration.
pub fn remove() -> Result<(), Error> {
    let mut routing = Routing::open()?;
    for family in routing.families()? {
        let rules = routing.rules(family)?;
        routing.delete_rules(family, rules.iter().filter(|r| r.is_ours()))?;
        let routes = routing.routes(family)?;
        routing.delete_routes(family, routes.iter().filter(|r| r.is_ours()))?;
    }
    Ok(())
}

/// Interfaces (or `all`) whose `src_valid_mark` is 1.
fn source_valid_marks(sysctls: &Path) -> io::Result<Vec<Obstacle>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(sysctls.join("ipv4/conf"))? {
        let entry = entry?;
        let is_set = std::fs::read_to_string(entry.path().join("src_valid_mark")).is_ok_and(|v| v.trim() == "1");
        // `default` is only what interfaces begin with.
        if is_set && entry.file_name() != "default" {
            found.push(Obstacle::SourceValidMark { interface: entry.file_name().to_string_lossy().into_owned() });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests;
