//! A server that knows zones: nsd, in a namespace.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::Zone;
use super::server::{PORT, await_start, failed, folder, serial, write};
use crate::{Child, Error, Netns};

/// Where Debian has it; a user's PATH may lack the folder.
const PROGRAM: &str = "/usr/sbin/nsd";

/// nsd with the zones of a test, at port 53 by UDP and TCP. Dropped, it ends.
///
/// It keeps the user that it was started as, and writes nothing outside a temporary folder.
#[derive(Debug)]
pub struct Authority {
    ns: Netns,
    addresses: Vec<IpAddr>,
    zones: BTreeMap<String, (Zone, u32)>,
    process: Child,
    folder: TempDir,
}

impl Authority {
    /// Starts it on addresses that `ns` has, and returns when it answers for every zone on each of them.
    pub fn start(ns: &Netns, addresses: &[IpAddr], zones: impl IntoIterator<Item = Zone>) -> Result<Self, Error> {
        let folder = folder(ns, PROGRAM)?;
        let zones: BTreeMap<_, _> = zones.into_iter().map(|zone| (zone.origin().to_owned(), (zone, 1))).collect();
        let configuration = folder.path().join("nsd.conf");
        let written = std::fs::write(&configuration, configure(folder.path(), addresses, zones.keys()))
            .and_then(|()| zones.values().try_for_each(|(zone, serial)| save(folder.path(), zone, *serial, addresses)));
        written.map_err(|error| failed(ns, PROGRAM, error))?;
        let mut command = Command::new(PROGRAM);
        command.arg("-d").arg("-c").arg(configuration);
        let authority = Self { ns: ns.clone(), addresses: addresses.to_vec(), zones, process: ns.spawn(command)?, folder };
        authority.zones.keys().try_for_each(|origin| authority.await_zone(origin))?;
        Ok(authority)
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Changes a zone that it has, and returns when the server answers by it. Resolvers keep what they have in their caches.
    ///
    /// The file is written anew with a higher serial number, and SIGHUP has nsd read it; the server isn't away for a moment.
    pub fn change(&mut self, origin: &str, change: impl FnOnce(Zone) -> Zone) -> Result<(), Error> {
        let unknown = || Error::Unknown { kind: "zone", name: origin.to_owned() };
        let (zone, serial) = self.zones.get_mut(origin).ok_or_else(unknown)?;
        *serial += 1;
        *zone = change(zone.clone());
        let saved = save(self.folder.path(), zone, *serial, &self.addresses);
        saved.map_err(|error| failed(&self.ns, PROGRAM, error))?;
        self.reload()?;
        self.await_zone(origin)
    }

    fn reload(&self) -> Result<(), Error> {
        // The first of nsd's processes alone: a reload starts others.
        let first = i32::try_from(self.process.id()).map_err(|error| failed(&self.ns, PROGRAM, error))?;
        kill(Pid::from_raw(first), Signal::SIGHUP).map_err(|errno| failed(&self.ns, PROGRAM, errno))
    }

    fn await_zone(&self, origin: &str) -> Result<(), Error> {
        let wanted = self.zones.get(origin).map(|(_, serial)| *serial);
        await_start(&self.ns, &self.addresses, origin, |message| serial(message) == wanted, || format!("{:?}", self.process))
    }
}

fn zone_file(origin: &str) -> String {
    format!("{origin}.zone")
}

fn save(folder: &Path, zone: &Zone, serial: u32, addresses: &[IpAddr]) -> std::io::Result<()> {
    write(&folder.join(zone_file(zone.origin())), &zone.file(serial, addresses))
}

fn configure<'a>(folder: &Path, addresses: &[IpAddr], zones: impl Iterator<Item = &'a String>) -> String {
    let folder = folder.display();
    // One address each, and not the wildcard: an answer leaves from the address that was asked.
    let listen: String = addresses.iter().map(|address| format!("    ip-address: {address}\n")).collect();
    let mut text = format!(
        "server:
    username: \"\"
    chroot: \"\"
    zonesdir: \"{folder}\"
    pidfile: \"{folder}/nsd.pid\"
    xfrdfile: \"{folder}/xfrd.state\"
    xfrdir: \"{folder}\"
    zonelistfile: \"{folder}/zone.list\"
    database: \"\"
    server-count: 1
    port: {PORT}
    minimal-responses: yes
    rrl-ratelimit: 0
{listen}remote-control:
    control-enable: no
"
    );
    for origin in zones {
        let _ = write!(text, "zone:\n    name: \"{origin}\"\n    zonefile: \"{}\"\n", zone_file(origin));
    }
    text
}
