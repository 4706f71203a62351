//! Pods on Linux bridges: flannel, k3s, the plain bridge plugin.
//!
//! Two pods on one bridge never meet the IP hook of table `inet sluice`: the bridge carries their frames from port to port. (With
//! bridge-nf-call-iptables they do, but TPROXY is ignored there and the connection reaches the server unread.) So each pod's IP
//! frames are taken off the bridge where they come in, and are received by the bridge itself, as if they had been sent to the
//! node: from there on they are routed, and judged as on any other node.
//!
//! ```text
//!   pod a                         pod b
//!    eth0                          eth0
//!     |  from a's own address?      |
//!   veth-a --yes--> [cni0 ingress]  veth-b <---- the node's own frames, by the forwarding table
//!     |  no              |           ^
//!   [bridge sluice]      |           |
//!    ARP, ND: on         `-> prerouting: table inet sluice -> routed out by cni0
//!    all else: dropped
//! ```
//!
//! | module | |
//! |---|---|
//! | [`guard`] | what a bridge lets through that no port's filter took off: nearly nothing |
//! | [`pods`] | which bridges are pods', and which are left alone |
//! | [`binding`] | whose port is whose |
//! | [`redirect`], [`classifier`], [`program`], [`ingress`] | taking a pod's frames off its bridge, in two forms |
//! | [`neighbour`] | what a pod could make the node believe of another |
//! | [`ports`] | the ports, and what is in the kernel for each |
//! | [`links`], [`events`] | what the kernel says of interfaces, and when to ask it |
//!
//! A port is closed from its first frame, and opened for its own pod's addresses once the table names these. All of it stays when
//! the process ends, and the next one takes it up as it is. What somebody else removes leaves the port closed until it is found
//! missing: at once by the kernel's own notices, at the latest within [`SWEEP`].
//!
//! On a node without bridges there is one table that no packet meets.

mod binding;
mod classifier;
mod events;
mod guard;
mod ingress;
mod links;
mod neighbour;
mod pods;
mod ports;
mod program;
mod redirect;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;
use sluice_policy::Table;
use sluice_policy::snapshot::NodeFacts;
use sluice_policy::table::Touched;

use super::channel::ChannelError;
use super::{netlink, uplinks};
use binding::Locals;
use events::{Events, Happened};
use guard::Guard;
use links::{Link, Looker};
use pods::Known;
use ports::Ports;

pub use redirect::{Error as RedirectError, Form};

/// How often [`Bridges::tick`] is to be called: how long a port that appears behind its pod's entry in the table stays closed.
pub const TICK: Duration = Duration::from_millis(50);
/// How often the tables are looked at.
const WATCH: Duration = Duration::from_millis(500);
/// How often everything is looked at, whatever the kernel's notices say.
const SWEEP: Duration = Duration::from_secs(10);
/// After each change, ports without a pod are asked at every tick for so long, and then once a second.
const EAGER: Duration = Duration::from_secs(10);
const PATIENT: Duration = Duration::from_secs(1);
/// Looks are so far apart at least, but for those that a table asks for: changes come in bursts, and a pod can make the kernel tell
/// of its link without end.
const BURST: Duration = Duration::from_millis(40);

/// So many failures in a row are put down to interfaces that come and go.
const MOST_EXCUSES: usize = 20;

/// After a look, so many times what it took until the next one, but for those that a table asks for.
const RESTS: u32 = 3;

/// Why the bridges are not as they should be. What isn't opened is closed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask the kernel about the node's interfaces")]
    Look(#[source] netlink::Error),
    #[error("write the kernel's tables bridge sluice and netdev sluice")]
    Tables(#[from] ChannelError),
    #[error("redirect the frames of port {port}")]
    Redirect { port: String, source: RedirectError },
    #[error("write down who has which link-layer address behind port {port}")]
    Neighbours { port: String, source: netlink::Error },
    #[error("`redirect: bpf` is configured and not possible here; `auto` and `classifier` are")]
    NoBpf(#[source] sluice_ebpf_redirect::Error),
    #[error("find the node's uplinks")]
    Uplinks(#[source] std::io::Error),
}

/// How it stands with the ports of pods' bridges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Ports that are open for their pods.
    pub bound: usize,
    /// Ports whose pod isn't known: closed.
    pub unidentified: usize,
}

/// The bridges of one network namespace.
#[derive(Debug)]
pub struct Bridges {
    configured_uplinks: Vec<String>,
    looker: Looker,
    events: Events,
    guard: Guard,
    ports: Ports,
    locals: Locals,
    /// None until the first table.
    node: Option<NodeFacts>,
    links: Vec<Link>,
    /// Interfaces that lead off the node, by name.
    uplinks: BTreeSet<String>,
    /// The node's own addresses, and whose of its interfaces each is.
    own: Vec<(u32, IpAddr)>,
    told: pods::Bridges,
    /// Where local pods are found, as the node's routes said when they were asked.
    ways: FxHashMap<IpAddr, Option<u32>>,
    /// What the kernel has told since the last look.
    heard: Happened,
    /// How many looks in a row failed while interfaces came or went.
    excused: usize,
    /// A look failed, and has to be made again.
    is_due: bool,
    changed: Instant,
    asked: Instant,
    rest: Duration,
    watched: Instant,
    swept: Instant,
}

/// What a look has to begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// The interfaces.
    Links,
    /// The pods.
    Table,
    /// The ports that are nobody's.
    Ports,
}

impl Bridges {
    /// In the calling thread's network namespace, in which every call must be made. Changes nothing: what a former process left
    /// stays until the first [`keep`](Self::keep). `form` is how frames are taken off; [`Form::Bpf`] is an error where it can't be.
    pub fn open(configured_uplinks: &[String], form: Form) -> Result<Self, Error> {
        let now = Instant::now();
        Ok(Self {
            configured_uplinks: configured_uplinks.to_vec(),
            looker: Looker::open().map_err(Error::Look)?,
            events: Events::open().map_err(Error::Look)?,
            guard: Guard::open()?,
            ports: Ports::open(form)?,
            locals: Locals::default(),
            node: None,
            links: Vec::new(),
            uplinks: BTreeSet::new(),
            own: Vec::new(),
            told: pods::Bridges::default(),
            ways: FxHashMap::default(),
            heard: Happened::default(),
            excused: 0,
            is_due: true,
            changed: now,
            asked: now,
            rest: Duration::ZERO,
            watched: now,
            swept: now,
        })
    }

    /// Follows a table that has been put in force. `touched` is what differs from the last one; None: everything.
    pub fn keep(&mut self, table: &Table, touched: Option<&Touched>) -> Result<Standing, Error> {
        let is_first = self.node.is_none();
        let touched = touched.filter(|_| !is_first);
        self.locals.follow(table, touched);
        self.changed = Instant::now();
        if self.node.as_ref() != Some(table.node()) {
            self.node = Some(table.node().clone());
            self.is_due = true;
        } else if touched.is_some_and(|touched| touched.endpoints.is_empty()) {
            return Ok(self.standing());
        }
        let happened = self.events.drain().map_err(Error::Look)?;
        self.heard.add(happened);
        let from = if self.is_due || self.concerns(&self.heard) { From::Links } else { From::Table };
        self.look(from)
    }

    /// A descriptor that can be read from once an interface or a filter has changed: time for a [`tick`](Self::tick).
    pub fn descriptor(&self) -> std::io::Result<OwnedFd> {
        self.events.descriptor()
    }

    /// Looks whether anything has changed. To be called every [`TICK`]; where nothing has, it costs one system call.
    pub fn tick(&mut self) -> Result<Standing, Error> {
        if self.node.is_none() {
            return Ok(Standing::default());
        }
        let happened = self.events.drain().map_err(Error::Look)?;
        let now = Instant::now();
        if now.duration_since(self.asked) < self.rest {
            self.heard.add(happened);
            return Ok(self.standing());
        }
        let sweeps = now.duration_since(self.swept) >= SWEEP;
        self.heard.add(happened);
        if self.is_due || sweeps || self.concerns(&self.heard) {
            if now.duration_since(self.asked) < BURST {
                return Ok(self.standing());
            }
            if sweeps {
                self.swept = now;
                self.heard.much |= self.told.any;
            }
            if self.concerns(&self.heard) {
                self.changed = now;
            }
            return self.look(From::Links);
        }
        let pause = if now.duration_since(self.changed) < EAGER { TICK } else { PATIENT };
        if now.duration_since(self.asked) + TICK / 2 >= pause && self.ports.are_awaited(&self.locals) {
            return self.look(From::Ports);
        }
        let ports = std::mem::take(&mut self.heard.filters);
        let mut done = self.ports.repair(&ports);
        if now.duration_since(self.watched) >= WATCH {
            self.watched = now;
            done = done.and(self.guard());
        }
        self.conclude(done)
    }

    /// Removes all that Sluice put on bridges and their ports, of whatever process. Whether there was anything.
    pub fn cleanup() -> Result<bool, Error> {
        let found = Guard::open()?.remove()?;
        let links = Looker::open().and_then(|mut looker| looker.links()).map_err(Error::Look)?;
        Ok(Ports::open(Form::Classifier)?.remove(&links)? || found)
    }

    /// Writes the tables anew if somebody else took them away.
    pub fn restore(&mut self) -> Result<(), Error> {
        if self.node.is_some() { self.guard() } else { Ok(()) }
    }

    /// The names of the bridges that are nobody's of this node's pods.
    pub fn foreign(&self) -> BTreeSet<String> {
        self.told.foreign.iter().map(|(_, name)| name.clone()).collect()
    }

    /// Whether something failed that hasn't been made again yet.
    pub fn is_due(&self) -> bool {
        self.is_due
    }

    /// How it stands with the ports.
    pub fn standing(&self) -> Standing {
        self.ports.standing()
    }

    /// Whether it is about a bridge, or a port of one.
    fn concerns(&self, happened: &Happened) -> bool {
        let is_known =
            |index: &u32| self.links.iter().any(|link| link.index == *index && (link.is_bridge() || link.master.is_some()));
        happened.much || happened.bridges || happened.links.iter().any(is_known)
    }

    fn look(&mut self, from: From) -> Result<Standing, Error> {
        let begun = Instant::now();
        let looked = self.look_once(from);
        // Pods can make a look long: most of the time is for others.
        self.asked = Instant::now();
        self.rest = begun.elapsed() * RESTS;
        self.conclude(looked)
    }

    /// How it stands after this. Pods come and go while their ports are looked at: what fails for that is no failure. Whatever failed is
    /// made again by the next look.
    fn conclude(&mut self, done: Result<(), Error>) -> Result<Standing, Error> {
        match done {
            Ok(()) => self.excused = 0,
            Err(error) => {
                (self.is_due, self.heard.much) = (true, true);
                if self.excused >= MOST_EXCUSES || !self.has_anything_moved()? {
                    return Err(error);
                }
                self.excused += 1;
            }
        }
        Ok(self.standing())
    }

    /// Whether an interface has come, gone or changed since the interfaces were looked at. Of one that is going the kernel tells in many
    /// words, so none of them must be the last.
    fn has_anything_moved(&mut self) -> Result<bool, Error> {
        let happened = self.events.drain().map_err(Error::Look)?;
        let has_moved = happened.much || happened.bridges || !happened.links.is_empty();
        self.heard.add(happened);
        Ok(has_moved || self.looker.links().map_err(Error::Look)? != self.links)
    }

    fn look_once(&mut self, from: From) -> Result<(), Error> {
        let happened = std::mem::take(&mut self.heard);
        if from == From::Links {
            self.see()?;
        }
        if from != From::Ports && (self.told.any || from == From::Links) {
            self.tell()?;
        }
        self.asked = Instant::now();
        let bridges = &self.told.pods;
        if !self.told.any {
            self.guard()?;
            self.ports.forget(&self.links)?;
            self.is_due = false;
            return Ok(());
        }
        // Before the first port is opened: what is redirected earlier is dropped as another's.
        let opened = self.guard.take_in(bridges).and_then(|()| {
            bridges.iter().for_each(|(_, name)| ports::send_no_redirects(name));
            let masters: BTreeSet<u32> = bridges.iter().map(|(index, _)| *index).collect();
            let kept = self.ports.keep(&mut self.looker, &self.links, &masters, &self.told.exempt, &self.locals);
            let repaired = match happened.much {
                true => self.ports.repair_all(&mut self.looker),
                false => self.ports.repair(&happened.filters),
            };
            kept.and(repaired)
        });
        // Whatever became of the ports: what isn't opened is closed.
        self.guard.close(&self.told.exempt, self.told.any)?;
        opened?;
        self.is_due = false;
        Ok(())
    }

    fn guard(&mut self) -> Result<(), Error> {
        if self.told.any {
            self.guard.take_in(&self.told.pods)?;
        }
        self.guard.close(&self.told.exempt, self.told.any)
    }

    /// Asks for the node's interfaces, and what else they are told apart by.
    fn see(&mut self) -> Result<(), Error> {
        self.links = self.looker.links().map_err(Error::Look)?;
        self.ways.clear();
        let node_ips = self.node.as_ref().map(|node| node.ips.as_slice()).unwrap_or_default();
        self.uplinks = uplinks::find(node_ips, &self.configured_uplinks).map_err(Error::Uplinks)?;
        if self.links.iter().any(Link::is_bridge) {
            self.own = self.looker.addresses().map_err(Error::Look)?;
        }
        Ok(())
    }

    /// Tells pods' bridges from others.
    fn tell(&mut self) -> Result<(), Error> {
        let Some(node) = &self.node else { return Ok(()) };
        let mut ways = BTreeSet::new();
        if self.links.iter().any(Link::is_bridge) {
            let mut known = FxHashMap::default();
            for address in self.locals.all_addresses() {
                let way = match self.ways.get(&address) {
                    Some(Some(way)) => Some(*way),
                    _ => self.looker.link_to(address).map_err(Error::Look)?,
                };
                known.insert(address, way);
                ways.extend(way);
            }
            self.ways = known;
        }
        let known = Known {
            links: &self.links,
            uplinks: &self.uplinks,
            own: &self.own,
            pod_cidrs: &node.pod_cidrs,
            ways: &ways,
            has_pods: !self.locals.is_empty(),
            before: &self.told,
        };
        let told = pods::tell(&known);
        for (_, name) in told.pods.difference(&self.told.pods) {
            tracing::info!(bridge = name, "pods' frames are taken off this bridge and judged");
        }
        for (_, name) in told.unjudged.difference(&self.told.unjudged) {
            tracing::warn!(
                bridge = name,
                "pods of this node are found on a bridge that is an uplink (by `uplinks`, or by the node's address): what they say to each \
                 other there isn't judged. Give them a bridge of their own"
            );
        }
        self.told = told;
        Ok(())
    }
}

/// The links by their numbers.
fn by_index(links: &[Link]) -> BTreeMap<u32, &Link> {
    links.iter().map(|link| (link.index, link)).collect()
}
