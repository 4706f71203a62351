//! What others' rules do to connections that go through the proxy.
//!
//! A flow that is handed to the proxy takes another way through the stack than one that is forwarded:
//!
//! ```text
//! forwarded    prerouting ------------------ forward ------------------ postrouting
//! proxied      prerouting -- input -> proxy -> output ------------------ postrouting    (and back)
//! ```
//!
//! | hook of another table | what is found | why |
//! |---|---|---|
//! | `forward` | **evades**: whatever could deny a pod's TCP or UDP packet | A proxied flow is never asked there. |
//! | `postrouting` | **evades** | It passes, but all that it sends is established there: both legs are one entry of the connection tracking. Rules about new connections don't see it. |
//! | `input`, `output` | **cuts**: whatever could deny such a packet | A forwarded flow is never asked there. |
//! | `prerouting`, behind ours | **cuts**: a rule that takes our bit out of the packet's mark | Without it the packet isn't delivered to the proxy, and our own `forward` drops it. |
//! | `prerouting` else; `ingress`, `egress` of a device | nothing | Both ways lead there, with the same packets. |
//! | `forward` of family bridge | **evades** | Frames of pods that are taken off their bridge never come there. |
//!
//! "Could deny" is decided with what all packets of proxied flows have in common ([`packet`]): a rule for ICMP, invalid packets,
//! loopback, broadcast or the node's own addresses is none. Known programs that deny nothing that matters are left out by name
//! ([`known`]).
//!
//! | module | |
//! |---|---|
//! | [`dump`], [`expression`], [`xtables`] | nftables' tables, iptables-nft's among them, as steps |
//! | [`legacy`] | the older iptables |
//! | [`ruleset`] | the steps, as data |
//! | [`packet`], [`bits`] | what is known of a proxied packet |
//! | [`walk`] | which rules could deny it |
//! | [`describe`] | a rule in words |

mod bits;
mod describe;
mod dump;
mod expression;
mod known;
mod legacy;
mod packet;
mod ruleset;
mod walk;
mod xtables;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::sys::socket::SockProtocol;

use super::config::Mark;
use super::harm;
use super::netlink::{Error, Socket};
use super::object::Family;
use packet::{Hook, Packet, Place};
use ruleset::{Chain, Ruleset, TableFamily, TableName};
use walk::{Denial, Walk};

/// So many findings are named; the others are counted.
const NAMED: usize = 20;
/// The older iptables says nothing of changes: it is read so often.
const LEGACY_PERIOD: Duration = Duration::from_secs(30);

/// A change of our own that changed nothing, and was counted, could hide one of somebody else's.
const LONGEST_TRUST: Duration = Duration::from_secs(60);

/// A look that took longer than this is not repeated before it has been idle for some times as long: an engine with many thousand
/// rules changes them all the time.
const LONG_LOOK: Duration = Duration::from_millis(100);
const IDLE_FACTOR: u32 = 20;

/// What a rule of somebody else's does to connections that go through the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// It isn't asked about them.
    Evades,
    /// It stops them.
    Cuts,
}

impl Effect {
    /// The metric's label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Evades => "evades",
            Self::Cuts => "cuts",
        }
    }
}

/// One rule or policy of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub effect: Effect,
    /// Table, chain and rule.
    pub place: String,
    /// What stands there, as far as it can be said.
    pub rule: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let consequence = match self.effect {
            Effect::Evades => "connections that go through the proxy would pass it unasked",
            Effect::Cuts => "it would stop connections that go through the proxy",
        };
        write!(f, "{}: `{}`: {consequence}", self.place, self.rule)
    }
}

/// All that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The first of them.
    pub named: Vec<Finding>,
    /// How many there are, named or not.
    pub evades: usize,
    pub cuts: usize,
}

impl Findings {
    pub fn is_empty(&self) -> bool {
        self.named.is_empty()
    }

    /// How many aren't named.
    pub fn more(&self) -> usize {
        self.evades + self.cuts - self.named.len()
    }

    fn of(mut found: Vec<Finding>) -> Self {
        found.sort_unstable();
        found.dedup();
        let count = |effect| found.iter().filter(|finding| finding.effect == effect).count();
        let (evades, cuts) = (count(Effect::Evades), count(Effect::Cuts));
        found.truncate(NAMED);
        Self { named: found, evades, cuts }
    }
}

/// Looks at the tables of others in one network namespace, again and again.
#[derive(Debug)]
pub struct Lookout {
    socket: Socket,
    mark: Mark,
    /// Where our own chain stands in `prerouting`.
    priority: i32,
    user: u32,
    seen: Option<Seen>,
    findings: Findings,
}

/// The state of the node's rules at the last look.
#[derive(Debug)]
struct Seen {
    generation: u32,
    /// How many changes of it were our own by then.
    own_changes: u32,
    legacy: Vec<TableName>,
    own_addresses: Vec<IpAddr>,
    at: Instant,
    took: Duration,
}

impl Seen {
    fn is_too_soon(&self) -> bool {
        self.took > LONG_LOOK && self.at.elapsed() < self.took * IDLE_FACTOR
    }
}

impl Lookout {
    /// In the calling thread's network namespace. `mark` and `priority` are those of our own rules.
    pub fn open(mark: Mark, priority: i32) -> Result<Self, Error> {
        let socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
        let user = nix::unistd::geteuid().as_raw();
        Ok(Self { socket, mark, priority, user, seen: None, findings: Findings::default() })
    }

    /// Looks again, unless nobody else has changed anything since the last time. `own_changes`: how often this process has changed
    /// the ruleset so far. After an error the former findings stay.
    pub fn look(&mut self, own_changes: u32) -> Result<&Findings, Error> {
        // Before the rules: what changes after this is found by the next look.
        let generation = harm::generation(&mut self.socket)?.unwrap_or_default();
        let legacy = legacy::names();
        let own_addresses = own_addresses();
        let is_known = self.seen.as_ref().is_some_and(|seen| {
            let is_same = seen.generation.wrapping_add(own_changes.wrapping_sub(seen.own_changes)) == generation
                && seen.legacy == legacy
                && seen.own_addresses == own_addresses
                && seen.at.elapsed() < if legacy.is_empty() { LONGEST_TRUST } else { LEGACY_PERIOD };
            is_same || seen.is_too_soon()
        });
        if is_known {
            return Ok(&self.findings);
        }
        let begun = Instant::now();
        let place = Place { own: own_addresses.clone(), user: self.user };
        let ruleset = dump::read(&mut self.socket)?;
        let mut found = self.judge(&ruleset, &place);
        let read = legacy::read(&legacy);
        found.extend(self.judge(&read.ruleset, &place));
        found.extend(read.unreadable.iter().map(|(table, why)| Finding {
            effect: Effect::Evades,
            place: table.to_string(),
            rule: format!("can't be read: {why}"),
        }));
        self.findings = Findings::of(found);
        let (at, took) = (Instant::now(), begun.elapsed());
        self.seen = Some(Seen { generation, own_changes, legacy, own_addresses, at, took });
        Ok(&self.findings)
    }

    fn judge(&self, ruleset: &Ruleset, place: &Place) -> Vec<Finding> {
        let index: HashMap<_, _> =
            ruleset.chains.iter().enumerate().map(|(at, chain)| ((&chain.table, chain.name.as_str()), at)).collect();
        let mut found = Vec::new();
        for (at, chain) in ruleset.chains.iter().enumerate() {
            let Some(base) = chain.base else { continue };
            let Some(asked) = self.asked(chain) else { continue };
            let mut walk = Walk::new(ruleset, &index, place);
            for family in families(chain) {
                for packet in Packet::at(base.hook, *family, self.mark) {
                    walk.follow(at, &packet);
                }
            }
            let denials = match asked {
                Asked::ToDeny(_) => &walk.denials,
                Asked::ToUnmark => &walk.unmarks,
            };
            let effect = match asked {
                Asked::ToDeny(effect) => effect,
                Asked::ToUnmark => Effect::Cuts,
            };
            found.extend(denials.iter().map(|denial| finding(ruleset, at, *denial, effect)));
        }
        found
    }

    fn asked(&self, chain: &Chain) -> Option<Asked> {
        let base = chain.base?;
        match (chain.table.family, base.hook) {
            (TableFamily::Ip | TableFamily::Ip6 | TableFamily::Inet, Hook::Forward | Hook::Postrouting)
            | (TableFamily::Bridge, Hook::Forward) => Some(Asked::ToDeny(Effect::Evades)),
            (TableFamily::Ip | TableFamily::Ip6 | TableFamily::Inet, Hook::Input | Hook::Output) => {
                Some(Asked::ToDeny(Effect::Cuts))
            }
            (TableFamily::Ip | TableFamily::Ip6 | TableFamily::Inet, Hook::Prerouting) if base.priority >= self.priority => {
                Some(Asked::ToUnmark)
            }
            _ => None,
        }
    }
}

/// What a base chain is looked at for.
#[derive(Clone, Copy)]
enum Asked {
    ToDeny(Effect),
    ToUnmark,
}

fn families(chain: &Chain) -> &'static [Family] {
    match chain.table.family {
        TableFamily::Ip => &[Family::V4],
        TableFamily::Ip6 => &[Family::V6],
        _ => &Family::BOTH,
    }
}

fn finding(ruleset: &Ruleset, base: usize, denial: Denial, effect: Effect) -> Finding {
    let from = &ruleset.chains[base];
    let hook = from.base.map_or("", |base| base.hook.as_str());
    match denial {
        Denial::Rule(at, number) => {
            let chain = &ruleset.chains[at];
            let rule = &chain.rules[number];
            let which = rule.handle.map_or_else(|| format!("rule {}", number + 1), |handle| format!("rule handle {handle}"));
            let place = format!("{}, chain {}, {which} (hook {hook})", chain.table, chain.name);
            Finding { effect, place, rule: describe::rule(rule, chain.table.family) }
        }
        Denial::Policy(at) => {
            let chain = &ruleset.chains[at];
            Finding {
                effect,
                place: format!("{}, chain {} (hook {hook})", chain.table, chain.name),
                rule: "policy drop".to_owned(),
            }
        }
        Denial::Unread(at) => {
            let chain = &ruleset.chains[at];
            let rule = "more rules than can be looked through".to_owned();
            Finding { effect, place: format!("{}, chain {} (hook {hook})", chain.table, chain.name), rule }
        }
    }
}

/// The node's own addresses; none if they can't be read, and then a rule for one of them counts.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let mut own: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        // They come and go with every pod's interface, and what stays on a link is never diverted.
        .filter(|own| !matches!(own, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    own.sort_unstable();
    own.dedup();
    own
}
