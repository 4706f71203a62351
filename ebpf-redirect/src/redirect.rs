//! The loaded program, and what its maps say of each port.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use libbpf_rs::{Map, MapCore, MapFlags, Object, ObjectBuilder, Program};

use crate::entries::{self, ADDRESS, COUNT, PORT};
use crate::said::{Failure, listening};
use crate::tc::{self, Holder};
use crate::{Dropped, Error, Port};

/// The compiled program.
static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/redirect.bpf.o"));

/// Maps by name, with the sizes of key and value that this loader writes.
const MAPS: [(&str, usize, usize); 3] = [("ports", 4, PORT), ("addresses", ADDRESS, 1), ("drops", 4, COUNT)];

/// Device and inode of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Namespace(u64, u64);

impl Namespace {
    fn current() -> Result<Self, Error> {
        let file = fs::metadata("/proc/thread-self/ns/net").map_err(Error::Namespace)?;
        Ok(Self(file.dev(), file.ino()))
    }
}

/// The redirection at the ports of one network namespace. Dropped, it leaves all in force as it is.
#[derive(Debug)]
pub struct Redirect {
    object: Object,
    /// The kernel's number of the program.
    program: u32,
    namespace: Namespace,
    /// What has been written for each port. An address is in here before it is in the kernel and until it isn't.
    written: BTreeMap<u32, BTreeSet<IpAddr>>,
}

/// Whether this process may load the program and the kernel takes it: loads and unloads it. Nothing is attached.
///
/// # Errors
/// Why not.
pub fn is_possible() -> Result<(), Error> {
    load().map(drop)
}

fn load() -> Result<Object, Error> {
    let loaded = listening(|| ObjectBuilder::default().name(tc::NAME)?.open_memory(OBJECT)?.load());
    let object = loaded.map_err(|Failure { errno, said }| match errno {
        Some(libc::EPERM) => Error::NotPermitted,
        _ => Error::Load { said },
    })?;
    for (name, key, value) in MAPS {
        let map = map(&object, name)?;
        let found = (map.key_size() as usize, map.value_size() as usize);
        if found != (key, value) {
            return Err(Error::Mismatch { what: format!("map {name} is of {found:?} bytes, and not of {:?}", (key, value)) });
        }
    }
    if map(&object, "drops")?.max_entries() as usize != Dropped::ALL.len() {
        return Err(Error::Mismatch { what: "map drops counts other reasons".to_owned() });
    }
    Ok(object)
}

fn map<'o>(object: &'o Object, name: &str) -> Result<Map<'o>, Error> {
    let found = object.maps().find(|map| map.name() == name);
    found.ok_or_else(|| Error::Mismatch { what: format!("there is no map {name}") })
}

fn program(object: &Object) -> Result<Program<'_>, Error> {
    let found = object.progs().find(|program| program.name() == tc::NAME);
    found.ok_or_else(|| Error::Mismatch { what: format!("there is no program {}", tc::NAME) })
}

impl Redirect {
    /// Loads the program, for the network namespace of the calling thread. Ports hold what they held until they are [set](Self::set).
    ///
    /// # Errors
    /// [`Error::NotPermitted`] where the kernel lets this process load nothing, [`Error::Load`] where it doesn't take the program.
    pub fn open() -> Result<Self, Error> {
        let namespace = Namespace::current()?;
        let object = load()?;
        let loaded = program(&object)?;
        let program = listening(|| Program::id_from_fd(loaded.as_fd())).map_err(|Failure { said, .. }| Error::Load { said })?;
        Ok(Self { object, program, namespace, written: BTreeMap::new() })
    }

    /// Makes `port` what it says, and returns when that is in force: an address that it had and has no more is closed first.
    /// Where a former process's program is in place, all of it is replaced in one step.
    ///
    /// # Errors
    /// The port is closed then, until a `set` succeeds. It isn't where our program could not be attached: a port without a
    /// filter is left to the bridge's own rules, and one with a former process's to what that process had said. A `port` that
    /// makes no sense changes nothing.
    pub fn set(&mut self, port: &Port) -> Result<(), Error> {
        entries::check(port)?;
        self.at_home()?;
        let done = self.write(port).and_then(|()| self.put(port.index));
        if done.is_err() {
            // The first error is the one to tell; this is what can still be done.
            let _ = self.erase(port.index);
        }
        done
    }

    /// Closes the port: from now on all its frames are dropped, also where a former process had opened it. What was written
    /// for a port whose interface is gone is freed.
    ///
    /// # Errors
    /// [`Error::Taken`] and [`Error::Filter`] as for [`Self::set`]: what this process had opened is closed even then.
    pub fn clear(&mut self, port_index: u32) -> Result<(), Error> {
        self.at_home()?;
        self.erase(port_index)?;
        if tc::exists(port_index) { self.put(port_index) } else { Ok(()) }
    }

    /// Those of `ports` at which this program is in force. At others there is none, somebody else's, or that of a former process.
    ///
    /// # Errors
    /// [`Error::Filter`] where the kernel doesn't say.
    pub fn attached(&self, ports: &[u32]) -> Result<BTreeSet<u32>, Error> {
        self.at_home()?;
        let mut attached = BTreeSet::new();
        for port in ports {
            match tc::holder(*port) {
                Ok(Holder::Ours(id)) if id == self.program => {
                    attached.insert(*port);
                }
                Ok(_) | Err(Error::Taken { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(attached)
    }

    /// How many frames this program has dropped since it was opened, at all its ports. Every reason is in the answer.
    ///
    /// # Errors
    /// [`Error::Counters`] where the kernel doesn't say.
    pub fn drops(&self) -> Result<BTreeMap<Dropped, u64>, Error> {
        let counters = map(&self.object, "drops")?;
        let mut drops = BTreeMap::new();
        for reason in Dropped::ALL {
            let key = (reason as u32).to_ne_bytes();
            let by_cpu = listening(|| counters.lookup_percpu(&key, MapFlags::ANY));
            let by_cpu = by_cpu.map_err(|Failure { said, .. }| Error::Counters { said })?.unwrap_or_default();
            let counts = by_cpu.iter().filter_map(|count| Some(u64::from_ne_bytes(count.as_slice().try_into().ok()?)));
            drops.insert(reason, counts.sum());
        }
        Ok(drops)
    }

    /// Takes the filters of this crate away from `ports`, whichever process put them there, and says from which. Frames stay on
    /// the bridge from then on. Nothing has to be open for it.
    ///
    /// # Errors
    /// The first port at which it failed. The others have been tried.
    pub fn remove_all(ports: &[u32]) -> Result<BTreeSet<u32>, Error> {
        let mut removed = BTreeSet::new();
        let mut first = None;
        for port in ports {
            match tc::holder(*port) {
                Ok(Holder::Ours(_)) => match tc::detach(*port) {
                    Ok(()) => {
                        removed.insert(*port);
                    }
                    Err(error) => first = first.or(Some(error)),
                },
                Ok(Holder::Nobody) | Err(Error::Taken { .. }) => {}
                Err(error) => first = first.or(Some(error)),
            }
        }
        first.map_or(Ok(removed), Err)
    }

    /// Writes what the maps say of a port. Closes before it opens.
    fn write(&mut self, port: &Port) -> Result<(), Error> {
        let written = self.written.entry(port.index).or_default();
        let addresses = map(&self.object, "addresses")?;
        let gone: Vec<IpAddr> = written.difference(&port.addresses).copied().collect();
        for address in gone {
            delete(&addresses, port.index, &entries::address(port.index, address), "close an address")?;
            written.remove(&address);
        }
        let failed = |what| move |Failure { said, .. }: Failure| Error::Map { port: port.index, what, said };
        let ports = map(&self.object, "ports")?;
        listening(|| ports.update(&port.index.to_ne_bytes(), &entries::port(port), MapFlags::ANY))
            .map_err(failed("write the port (at most 4096)"))?;
        for address in &port.addresses {
            written.insert(*address);
            listening(|| addresses.update(&entries::address(port.index, *address), &[1], MapFlags::ANY))
                .map_err(failed("open an address (at most 65536)"))?;
        }
        Ok(())
    }

    /// Takes out of the maps what was written for a port: the port first, which closes it.
    fn erase(&mut self, index: u32) -> Result<(), Error> {
        delete(&map(&self.object, "ports")?, index, &index.to_ne_bytes(), "close the port")?;
        let Some(written) = self.written.get_mut(&index) else { return Ok(()) };
        let addresses = map(&self.object, "addresses")?;
        while let Some(address) = written.first().copied() {
            delete(&addresses, index, &entries::address(index, address), "close an address")?;
            written.remove(&address);
        }
        self.written.remove(&index);
        Ok(())
    }

    /// Attaches the program to a port that doesn't hold it.
    fn put(&self, index: u32) -> Result<(), Error> {
        match tc::holder(index)? {
            Holder::Ours(id) if id == self.program => Ok(()),
            former => tc::attach(index, program(&self.object)?.as_fd(), former),
        }
    }

    fn at_home(&self) -> Result<(), Error> {
        if Namespace::current()? == self.namespace { Ok(()) } else { Err(Error::OtherNamespace) }
    }
}

/// Deletes an entry; that there is none is as good.
fn delete(map: &Map<'_>, port: u32, key: &[u8], what: &'static str) -> Result<(), Error> {
    match listening(|| map.delete(key)) {
        Ok(()) => Ok(()),
        Err(Failure { errno: Some(libc::ENOENT), .. }) => Ok(()),
        Err(Failure { said, .. }) => Err(Error::Map { port, what, said }),
    }
}
