//! The ports of pods' bridges: whose each is, and what is in the kernel for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_policy::source::PodRef;

use super::super::netlink;
use super::super::rtnl::SYSCTLS;
use super::binding::{self, Doubt, Locals, Owner};
use super::classifier::Classifier;
use super::links::{Link, Looker, Mac};
use super::neighbour::{Neighbours, Written};
use super::redirect::{self, Form, Port, Redirect};
use super::{Error, Standing, by_index};

/// A port that nobody shows an address behind is named in the log after this: every pod's begins so.
const WORTH_A_WORD: Duration = Duration::from_secs(5);

/// An end that shows more addresses than this is nobody's.
const MOST_SHOWN: usize = 64;

/// All ports that are looked after.
#[derive(Debug)]
pub(super) struct Ports {
    redirect: Redirect,
    neighbours: Neighbours,
    held: BTreeMap<u32, Held>,
    /// Ports that are nobody's.
    closed: BTreeMap<u32, Closed>,
    /// Whose port an interface was last, as long as it exists.
    former: BTreeMap<u32, PodRef>,
    /// The ports have been looked at: what a former process left is taken up or gone.
    has_looked: bool,
}

/// A port that is open for its pod.
#[derive(Debug)]
struct Held {
    link: Link,
    owner: Owner,
    port: Port,
    /// The link-layer address that it had when its port was opened.
    first: Option<Mac>,
}

impl Held {
    /// The link-layer address by which the node reaches the pod. Where its own can't be believed it is one that nobody has, and
    /// the node's frames end at this port: else they would be for whoever has that address, or says so.
    fn written(&self) -> Mac {
        let [a, b, c, d] = self.port.index.to_be_bytes();
        self.port.mac.unwrap_or(Mac([0x02, 0x53, a, b, c, d]))
    }
}

/// A port that is open for nobody.
#[derive(Debug)]
struct Closed {
    link: Link,
    since: Instant,
    /// What the log was told last.
    said: Option<String>,
}

impl Ports {
    pub(super) fn open(form: Form) -> Result<Self, Error> {
        Ok(Self {
            redirect: Redirect::new(form).map_err(Error::NoBpf)?,
            neighbours: Neighbours::open().map_err(Error::Look)?,
            held: BTreeMap::new(),
            closed: BTreeMap::new(),
            former: BTreeMap::new(),
            has_looked: false,
        })
    }

    pub(super) fn standing(&self) -> Standing {
        Standing { bound: self.held.len(), unidentified: self.closed.len() }
    }

    /// There are no bridges any more.
    pub(super) fn forget(&mut self, links: &[Link]) -> Result<(), Error> {
        self.closed.clear();
        let is_there = |index: u32| links.iter().any(|link| link.index == index);
        let mut result = Ok(());
        for (index, held) in std::mem::take(&mut self.held) {
            let done = self.release(&held, is_there(index));
            result = result.and(done);
        }
        result
    }

    /// Whether there is a port without a pod, and a pod without a port.
    pub(super) fn are_awaited(&self, locals: &Locals) -> bool {
        if self.closed.values().all(|closed| closed.link.peer.is_none()) {
            return false;
        }
        let held: BTreeSet<&PodRef> = self.held.values().map(|held| &held.owner.pod).collect();
        locals.pods().any(|pod| !held.contains(pod))
    }

    /// Makes what is in the kernel fit the ports of the bridges `masters` and the pods. Goes on with the others where one fails,
    /// and yields the first error.
    pub(super) fn keep(
        &mut self,
        looker: &mut Looker,
        links: &[Link],
        masters: &BTreeSet<u32>,
        exempt: &BTreeSet<String>,
        locals: &Locals,
    ) -> Result<(), Error> {
        let links = by_index(links);
        let is_port = |link: &Link| link.master.is_some_and(|m| masters.contains(&m)) && !exempt.contains(&link.name);
        let mut result = Ok(());
        let mut note = |done: Result<(), Error>| {
            if result.is_ok() {
                result = done;
            }
        };
        // Who has gone, first: a successor may have the same addresses.
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.held).into_iter().partition(|(index, held)| {
                let is_there = links.get(index).is_some_and(|link| is_port(link) && is_same(link, &held.link));
                is_there && held.owner.holds(locals)
            });
        self.held = kept;
        self.former.retain(|index, _| links.contains_key(index));
        for (index, held) in gone {
            if links.contains_key(&index) {
                self.former.insert(index, held.owner.pod.clone());
            }
            note(self.release(&held, links.contains_key(&index)));
        }
        for index in self.held.keys().copied().collect::<Vec<_>>() {
            note(self.follow(index, links[&index], &links, locals));
        }
        self.closed.retain(|index, closed| links.get(index).is_some_and(|link| is_port(link) && is_same(link, &closed.link)));
        let is_new = |index: &u32| !self.held.contains_key(index) && !self.closed.contains_key(index);
        let new: Vec<&Link> = links.values().copied().filter(|link| is_port(link) && is_new(&link.index)).collect();
        // What a former process may have said is only of interest once, and changes no more.
        let written = match self.has_looked || new.is_empty() {
            true => Ok(Vec::new()),
            false => self.neighbours.written().map_err(Error::Look),
        };
        let (written, read) = written.map_or_else(|error| (Vec::new(), Err(error)), |written| (written, Ok(())));
        note(read);
        for link in &new {
            self.closed.insert(link.index, Closed { link: (*link).clone(), since: Instant::now(), said: None });
            note(self.take_up(looker, link, &links, locals, &written));
        }
        note(self.identify(looker, &links, locals));
        // Not before all are identified: for its pod, a port that a former process opened is open all the while.
        for link in new {
            if self.closed.contains_key(&link.index) {
                note(self.close(link.index, &link.name));
            }
        }
        self.has_looked = true;
        result
    }

    /// A port that is seen for the first time: what a former process said of it holds, if it still fits. That process said it by
    /// its filters, or by what it wrote down of the pod behind the port.
    fn take_up(
        &mut self,
        looker: &mut Looker,
        link: &Link,
        links: &BTreeMap<u32, &Link>,
        locals: &Locals,
        written: &[Written],
    ) -> Result<(), Error> {
        let failed = |source| Error::Redirect { port: link.name.clone(), source };
        self.redirect.prepare(link.index).map_err(failed)?;
        let mut admitted: Vec<_> = self.redirect.admitted(link.index).map_err(failed)?.into_iter().collect();
        if admitted.is_empty() {
            let is_of_it = |written: &&Written| (written.port, Some(written.bridge)) == (link.index, link.master);
            admitted = written.iter().filter(is_of_it).map(|written| written.address).collect();
        }
        let mut holders = locals.holders(&admitted);
        if let (Some(pod), 1) = (holders.keys().next(), holders.len()) {
            self.former.insert(link.index, pod.clone());
        }
        let is_free = |pod: &PodRef| self.held.values().all(|held| held.owner.pod != *pod);
        if let (Some((pod, mut by)), Some(peer), true) = (holders.pop_first(), link.peer, holders.is_empty())
            && is_free(&pod)
        {
            // While no process looked, the address may have gone to another pod.
            let shown = looker.addresses_at(peer).map_err(Error::Look)?;
            by.retain(|address| shown.contains(address));
            if !by.is_empty() {
                return self.bind(looker, link, Owner { pod, by }, links, locals);
            }
        }
        Ok(())
    }

    /// Takes from a port that is nobody's what lets anything through.
    fn close(&mut self, index: u32, name: &str) -> Result<(), Error> {
        let may_admit = self.redirect.may_admit(index);
        let closed = may_admit.and_then(|may_admit| if may_admit { self.redirect.clear(index) } else { Ok(()) });
        closed.map_err(|source| Error::Redirect { port: name.to_owned(), source })
    }

    /// Asks the other ends of the ports that are nobody's.
    fn identify(&mut self, looker: &mut Looker, links: &BTreeMap<u32, &Link>, locals: &Locals) -> Result<(), Error> {
        let mut shown = BTreeMap::new();
        for (index, closed) in &self.closed {
            if let Some(peer) = closed.link.peer {
                // What one end shows, or doesn't, is no other port's matter.
                let addresses = looker.addresses_at(peer).unwrap_or_else(|error| {
                    tracing::debug!(port = closed.link.name, %error, "what is behind this port can't be asked");
                    Vec::new()
                });
                let addresses = if addresses.len() > MOST_SHOWN { &[] } else { addresses.as_slice() };
                shown.insert(*index, locals.holders(addresses));
            }
        }
        let taken = self.held.values().map(|held| held.owner.pod.clone()).collect();
        // A pod that is gone leaves its port to whoever comes: names and addresses are given again.
        let former =
            self.former.iter().filter(|(_, pod)| locals.is_there(pod)).map(|(index, pod)| (*index, pod.clone())).collect();
        let mut result = Ok(());
        for (index, decision) in binding::decide(shown, &taken, &former) {
            match decision {
                Ok(owner) => {
                    let done = self.bind(looker, links[&index], owner, links, locals);
                    result = result.and(done);
                }
                Err(doubt) => self.say(index, &doubt),
            }
        }
        for closed in self.closed.values_mut().filter(|closed| closed.link.peer.is_none()) {
            say(closed, "it is no veth into another namespace, so nothing says whose it is".to_owned());
        }
        result
    }

    fn bind(
        &mut self,
        looker: &mut Looker,
        link: &Link,
        owner: Owner,
        links: &BTreeMap<u32, &Link>,
        locals: &Locals,
    ) -> Result<(), Error> {
        let Some(master) = link.master else { return Ok(()) };
        let mac = match link.peer {
            Some(peer) => looker.mac_at(peer).map_err(Error::Look)?,
            None => None,
        };
        let bridge_mac = links.get(&master).and_then(|bridge| bridge.mac);
        let addresses = locals.addresses(&owner.pod);
        let (mac, done) = self.claimed(mac, link, links);
        let port = Port { index: link.index, name: link.name.clone(), mac, bridge: master, bridge_mac, addresses };
        self.redirect.set(&port).map_err(|source| Error::Redirect { port: port.name.clone(), source })?;
        tracing::debug!(port = port.name, pod = %owner.pod, addresses = ?port.addresses, "a pod's port is open");
        self.closed.remove(&link.index);
        let held = Held { link: link.clone(), owner, first: port.mac, port };
        let written = self.write_down(&held);
        self.held.insert(link.index, held);
        done.and(written)
    }

    /// The link-layer address that the pod behind a port has, unless it is another's. Whoever came to it by changing its own loses
    /// it to one that has it from the start.
    fn claimed(&mut self, mac: Option<Mac>, link: &Link, links: &BTreeMap<u32, &Link>) -> (Option<Mac>, Result<(), Error>) {
        let Some(mac) = mac else { return (None, Ok(())) };
        let is_nodes = links.values().any(|other| (other.is_bridge() || other.master == link.master) && other.mac == Some(mac));
        let mut others = self.held.values().filter(|held| held.link.index != link.index && held.port.mac == Some(mac));
        let is_first = |held: &Held| held.first == Some(mac);
        if mac.0[0] & 1 != 0 || is_nodes || others.clone().any(is_first) {
            tracing::warn!(
                port = link.name,
                "the pod behind this port has another's link-layer address: the node sends it nothing until that changes"
            );
            return (None, Ok(()));
        }
        let Some(thief) = others.next().map(|held| held.link.index) else { return (Some(mac), Ok(())) };
        let Some(mut held) = self.held.remove(&thief) else { return (None, Ok(())) };
        tracing::warn!(
            port = held.port.name,
            "the pod behind this port took another's link-layer address: the node sends it nothing until that changes"
        );
        held.port.mac = None;
        let done = self.redirect.set(&held.port).map_err(|source| Error::Redirect { port: held.port.name.clone(), source });
        let unpinned =
            self.neighbours.unpin(thief, mac).map_err(|source| Error::Neighbours { port: held.port.name.clone(), source });
        let written = self.write_down(&held);
        self.held.insert(thief, held);
        (Some(mac), done.and(unpinned).and(written))
    }

    fn write_down(&mut self, held: &Held) -> Result<(), Error> {
        let mac = held.written();
        let mut done = self.neighbours.pin(held.port.index, mac);
        for address in &held.port.addresses {
            done = done.and(self.neighbours.settle(held.port.bridge, *address, mac));
        }
        done.map_err(|source| Error::Neighbours { port: held.port.name.clone(), source })
    }

    /// A port that is its pod's: what the table says of the pod's addresses, and the link of the bridge.
    fn follow(&mut self, index: u32, link: &Link, links: &BTreeMap<u32, &Link>, locals: &Locals) -> Result<(), Error> {
        let Some(held) = self.held.get_mut(&index) else { return Ok(()) };
        let addresses = locals.addresses(&held.owner.pod);
        held.link = link.clone();
        let bridge_mac = links.get(&held.port.bridge).and_then(|bridge| bridge.mac).or(held.port.bridge_mac);
        if addresses == held.port.addresses && bridge_mac == held.port.bridge_mac {
            return Ok(());
        }
        let left: Vec<_> = held.port.addresses.difference(&addresses).copied().collect();
        (held.port.addresses, held.port.bridge_mac) = (addresses, bridge_mac);
        let (port, mac) = (held.port.clone(), held.written());
        self.redirect.set(&port).map_err(|source| Error::Redirect { port: port.name.clone(), source })?;
        let failed = |source| Error::Neighbours { port: port.name.clone(), source };
        for address in left {
            self.neighbours.unsettle(port.bridge, address).map_err(failed)?;
        }
        for address in &port.addresses {
            self.neighbours.settle(port.bridge, *address, mac).map_err(failed)?;
        }
        Ok(())
    }

    /// A port that is its pod's no more.
    fn release(&mut self, held: &Held, is_there: bool) -> Result<(), Error> {
        let Port { index, bridge, name, addresses, .. } = &held.port;
        let failed = |source| Error::Neighbours { port: name.clone(), source };
        self.redirect.clear(*index).map_err(|source| Error::Redirect { port: name.clone(), source })?;
        if is_there {
            self.neighbours.unpin(*index, held.written()).map_err(failed)?;
        }
        for address in addresses {
            self.neighbours.unsettle(*bridge, *address).map_err(failed)?;
        }
        tracing::debug!(port = name, pod = %held.owner.pod, "a pod's port is closed");
        Ok(())
    }

    /// Puts back what somebody else took from these ports, and takes from those that are nobody's what somebody put there. Goes on with
    /// the others where one fails, and yields the first error.
    pub(super) fn repair(&mut self, ports: &BTreeSet<u32>) -> Result<(), Error> {
        let mut result = Ok(());
        for index in ports {
            let done = if let Some(held) = self.held.get(index) {
                self.redirect.set(&held.port).map_err(|source| Error::Redirect { port: held.port.name.clone(), source })
            } else if let Some(closed) = self.closed.get(index) {
                let name = closed.link.name.clone();
                self.close(*index, &name)
            } else {
                Ok(())
            };
            result = result.and(done);
        }
        result
    }

    /// [`repair`](Self::repair) of all ports, and of what is written down of their pods.
    pub(super) fn repair_all(&mut self, looker: &mut Looker) -> Result<(), Error> {
        let ports = self.held.keys().chain(self.closed.keys()).copied().collect();
        self.repair(&ports)?;
        let links: Vec<Link> = looker.links().map_err(Error::Look)?;
        let links = by_index(&links);
        for index in self.held.keys().copied().collect::<Vec<_>>() {
            let Some(mut held) = self.held.remove(&index) else { continue };
            let now = held.link.peer.map(|peer| looker.mac_at(peer)).transpose().map_err(Error::Look).map(Option::flatten);
            let done = now.and_then(|now| {
                if now.is_some() && now != held.port.mac {
                    let former = held.written();
                    let (mac, done) = self.claimed(now, &held.link, &links);
                    (held.port.mac, held.first) = (mac, held.first.or(mac));
                    let name = || held.port.name.clone();
                    self.redirect.set(&held.port).map_err(|source| Error::Redirect { port: name(), source })?;
                    if held.written() != former {
                        self.neighbours.unpin(index, former).map_err(|source| Error::Neighbours { port: name(), source })?;
                    }
                    done?;
                }
                self.write_down(&held)
            });
            self.held.insert(index, held);
            done?;
        }
        Ok(())
    }

    /// Removes all that was ever put on these interfaces, and written down of what is behind them.
    pub(super) fn remove(&mut self, links: &[Link]) -> Result<bool, Error> {
        let mut found = false;
        let mut classifier = Classifier::open().map_err(Error::Look)?;
        let pinned = self.neighbours.pinned().map_err(Error::Look)?;
        for link in links.iter().filter(|link| !link.is_bridge()) {
            let failed = |source: netlink::Error| Error::Redirect { port: link.name.clone(), source: source.into() };
            if !redirect::remove(&mut classifier, link.index, link.master.is_some()).map_err(failed)? {
                continue;
            }
            found = true;
            for (_, mac) in pinned.iter().filter(|(index, _)| *index == link.index) {
                let failed = |source| Error::Neighbours { port: link.name.clone(), source };
                self.neighbours.unpin(link.index, *mac).map_err(failed)?;
            }
        }
        for (bridge, address, _) in self.neighbours.settled().map_err(Error::Look)? {
            found = true;
            self.neighbours.unsettle(bridge, address).map_err(Error::Look)?;
        }
        Ok(found)
    }

    fn say(&mut self, index: u32, doubt: &Doubt) {
        let Some(closed) = self.closed.get_mut(&index) else { return };
        if *doubt != Doubt::Nobody || closed.since.elapsed() >= WORTH_A_WORD {
            say(closed, doubt.to_string());
        }
    }
}

/// Once, until there is something else to say.
fn say(closed: &mut Closed, why: String) {
    if closed.said.as_ref() != Some(&why) {
        tracing::warn!("port {} of a pods' bridge stays closed: {why}", closed.link.name);
        closed.said = Some(why);
    }
}

/// The same interface as before: a number may be given again.
fn is_same(now: &Link, before: &Link) -> bool {
    (now.index, &now.name, now.peer, now.master) == (before.index, &before.name, before.peer, before.master)
}

/// The node tells no pod of a shorter way to its neighbour: there is none. Needs `conf.all.send_redirects` 0 as well, which is not
/// ours to change; a pod that follows such advice gains and loses nothing.
pub(super) fn send_no_redirects(bridge: &str) {
    let setting = Path::new(SYSCTLS).join("ipv4/conf").join(bridge).join("send_redirects");
    if std::fs::read_to_string(&setting).is_ok_and(|value| value.trim() == "1")
        && let Err(error) = std::fs::write(&setting, "0")
    {
        tracing::debug!(%error, "{} stays 1", setting.display());
    }
}
