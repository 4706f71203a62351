//! A resolver with a cache: unbound, in a namespace, that asks the servers it is told and nobody else.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::server::{PORT, await_start, failed, folder};
use crate::{Child, Error, Netns};

const PROGRAM: &str = "unbound";
/// Where Debian has it; a user's PATH may lack the folder.
const INSTALLED: &str = "/usr/sbin/unbound";

/// What a resolver knows and how it keeps it.
#[derive(Clone, Debug)]
pub struct ResolverOptions {
    /// The zones that it resolves, and who knows them. Every other name isn't there: NXDOMAIN at once.
    pub zones: Vec<(String, Vec<IpAddr>)>,
    /// A record is kept for at most so many seconds.
    pub most_ttl: u32,
    /// A record is kept, and passed on, for at least so many.
    pub least_ttl: u32,
    /// Leaves private addresses out of answers, as a resolver does that minds DNS rebinding.
    pub hides_private: bool,
}

impl Default for ResolverOptions {
    fn default() -> Self {
        Self { zones: Vec::new(), most_ttl: 86_400, least_ttl: 0, hides_private: false }
    }
}

impl ResolverOptions {
    /// All these zones at one server, and what else is usual.
    pub fn at(server: &[IpAddr], zones: &[&str]) -> Self {
        Self { zones: zones.iter().map(|zone| ((*zone).to_owned(), server.to_vec())).collect(), ..Self::default() }
    }
}

/// unbound, at port 53 by UDP and TCP, to whoever asks. It validates nothing. Dropped, it ends.
#[derive(Debug)]
pub struct Resolver {
    ns: Netns,
    addresses: Vec<IpAddr>,
    configuration: PathBuf,
    _process: Child,
    _folder: TempDir,
}

impl Resolver {
    /// Starts it on addresses that `ns` has, and returns when it answers. The servers of its zones needn't run yet.
    pub fn start(ns: &Netns, addresses: &[IpAddr], options: &ResolverOptions) -> Result<Self, Error> {
        let folder = folder(ns, PROGRAM)?;
        // AppArmor, where it is on, knows unbound by its path, and lets it read nothing outside /etc/unbound: a copy is another
        // program.
        let program = folder.path().join(PROGRAM);
        let not_there = |error| failed(ns, PROGRAM, format!("{INSTALLED}: {error}: .ci/setup test installs it"));
        fs::copy(INSTALLED, &program).map_err(not_there)?;
        let configuration = folder.path().join("unbound.conf");
        fs::write(&configuration, configure(folder.path(), addresses, options)).map_err(|error| failed(ns, PROGRAM, error))?;
        let mut command = Command::new(program);
        command.args(["-d", "-p", "-c"]).arg(&configuration);
        let process = ns.spawn(command)?;
        // Nobody has to be asked for a name that isn't there.
        await_start(ns, addresses, "ready.invalid", |_| true, || format!("{process:?}"))?;
        Ok(Self { ns: ns.clone(), addresses: addresses.to_vec(), configuration, _process: process, _folder: folder })
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// Empties its cache, and what it holds of servers that didn't answer.
    pub fn forget(&self) -> Result<(), Error> {
        let configuration = self.configuration.to_string_lossy();
        for words in [["flush_zone", "."], ["flush_infra", "all"]] {
            self.ns.exec("/usr/sbin/unbound-control", &["-c", &configuration, words[0], words[1]])?;
        }
        Ok(())
    }
}

fn configure(folder: &Path, addresses: &[IpAddr], options: &ResolverOptions) -> String {
    let folder = folder.display();
    let ResolverOptions { zones, most_ttl, least_ttl, hides_private } = options;
    let mut text = format!(
        "server:
    directory: \"{folder}\"
    chroot: \"\"
    username: \"\"
    pidfile: \"\"
    use-syslog: no
    logfile: \"\"
    do-daemonize: no
    num-threads: 1
    port: {PORT}
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    module-config: \"iterator\"
    qname-minimisation: no
    do-not-query-localhost: no
    rrset-roundrobin: no
    max-udp-size: 1232
    ede: yes
    cache-max-ttl: {most_ttl}
    cache-min-ttl: {least_ttl}
    local-zone: \".\" static
"
    );
    for address in addresses {
        let _ = writeln!(text, "    interface: {address}");
    }
    if *hides_private {
        for range in ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fd00::/8", "fe80::/10"] {
            let _ = writeln!(text, "    private-address: {range}");
        }
    }
    for (zone, _) in zones {
        let _ = writeln!(text, "    local-zone: \"{zone}.\" transparent");
    }
    let _ = write!(
        text,
        "remote-control:
    control-enable: yes
    control-use-cert: no
    control-interface: \"{folder}/control\"
"
    );
    for (zone, servers) in zones {
        let _ = writeln!(text, "stub-zone:\n    name: \"{zone}.\"");
        for server in servers {
            let _ = writeln!(text, "    stub-addr: {server}");
        }
    }
    text
}
