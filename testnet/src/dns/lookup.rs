//! Looking a name up as programs do, each by its own resolver: glibc's, musl's, and Python's way to glibc's.

use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use nix::errno::Errno;

use super::ResolvConf;
use super::server::failed;
use crate::net::locked;
use crate::{Error, Netns};

/// Seconds after which a client is killed.
const LONGEST: &str = "60";
const C: &str = include_str!("lookup.c");
const PYTHON: &str = include_str!("lookup.py");

/// Who looks up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Client {
    /// A C program with glibc's getaddrinfo: one server after the other, A and AAAA from one port.
    Glibc,
    /// The same program with musl's, linked statically: all servers at once, of whom the first to answer counts. Never by TCP before
    /// musl 1.2.4 (Debian 12 has 1.2.3).
    Musl,
    /// Python's socket.getaddrinfo.
    Python,
}

impl Client {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Glibc, Self::Musl, Self::Python];
}

/// Which addresses are asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Family {
    /// Both.
    #[default]
    Any,
    /// A.
    V4,
    /// AAAA.
    V6,
}

/// A name to be looked up.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// As a program has it: what the search list is tried for, unless there is a dot at its end.
    pub name: String,
    /// Which addresses.
    pub family: Family,
    /// Connects by TCP to this port of the first address right after the answer, and to the next until one takes.
    pub connect: Option<u16>,
    /// So many times, in one process.
    pub rounds: u32,
}

impl Lookup {
    /// One look-up of all addresses.
    pub fn of(name: &str) -> Self {
        Self { name: name.to_owned(), family: Family::Any, connect: None, rounds: 1 }
    }

    /// And a connection to this port right after.
    pub fn and_connect(name: &str, port: u16) -> Self {
        Self { connect: Some(port), ..Self::of(name) }
    }
}

/// What one look-up came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// In the order in which the library gives them.
    pub addresses: Vec<IpAddr>,
    /// Its error, such as `EAI_NONAME`, and what it says of it.
    pub error: Option<(String, String)>,
    /// The connections that were tried; the last of them may have taken.
    pub connects: Vec<(IpAddr, Result<(), Errno>)>,
    /// How long the look-up took, connections aside.
    pub took: Duration,
}

impl Found {
    /// The addresses, sorted, as text.
    pub fn sorted(&self) -> Vec<String> {
        let mut addresses = self.addresses.clone();
        addresses.sort();
        addresses.iter().map(IpAddr::to_string).collect()
    }

    /// The error's name.
    pub fn error(&self) -> Option<&str> {
        self.error.as_ref().map(|(name, _)| name.as_str())
    }

    /// Where it connected to.
    pub fn connected(&self) -> Option<IpAddr> {
        self.connects.iter().find(|(_, outcome)| outcome.is_ok()).map(|(address, _)| *address)
    }
}

impl Client {
    /// Looks up once, in `ns` with these files: what the first round found.
    pub fn look_up(self, ns: &Netns, files: &ResolvConf, lookup: &Lookup) -> Result<Found, Error> {
        self.look_up_all(ns, files, lookup).map(|mut found| found.swap_remove(0))
    }

    /// Looks up as often as is asked, and returns what each round found. At least one.
    pub fn look_up_all(self, ns: &Netns, files: &ResolvConf, lookup: &Lookup) -> Result<Vec<Found>, Error> {
        let mut command = Command::new("timeout");
        command.args(["--signal=KILL", LONGEST]);
        match self {
            Self::Glibc => command.arg(built(ns, "cc", &[])?),
            Self::Musl => command.arg(built(ns, "musl-gcc", &["-static"])?),
            Self::Python => command.args(["python3", "-I", "-S", "-c", PYTHON]),
        };
        let family = match lookup.family {
            Family::Any => "any",
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        };
        let rounds = lookup.rounds.max(1);
        command.args([family, &lookup.connect.unwrap_or(0).to_string(), &rounds.to_string(), &lookup.name]);
        let wrong = |reason: String| failed(ns, &format!("{self:?} on {}", lookup.name), reason);
        let output = ns.output(&mut files.around(&command)).map_err(|error| wrong(error.to_string()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let found = read(&text).filter(|found| output.status.success() && found.len() as u64 == u64::from(rounds));
        found.ok_or_else(|| wrong(format!("{}: {text}{}", output.status, String::from_utf8_lossy(&output.stderr))))
    }
}

/// The rounds that the client wrote; None where it isn't what it should write.
fn read(text: &str) -> Option<Vec<Found>> {
    let mut all = Vec::new();
    let mut found = Found::default();
    for line in text.lines() {
        let (word, rest) = line.split_once(' ')?;
        let (first, second) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "address" => found.addresses.push(first.parse().ok()?),
            "error" => found.error = Some((first.to_owned(), second.to_owned())),
            "connect" => {
                let outcome = match second.parse().ok()? {
                    0 => Ok(()),
                    errno => Err(Errno::from_raw(errno)),
                };
                found.connects.push((first.parse().ok()?, outcome));
            }
            "round" => {
                found.took = Duration::from_micros(first.parse().ok()?);
                all.push(std::mem::take(&mut found));
            }
            _ => return None,
        }
    }
    Some(all)
}

/// The C program as `compiler` makes it; kept below the target folder, under a name that its source decides.
fn built(ns: &Netns, compiler: &str, flags: &[&str]) -> Result<PathBuf, Error> {
    static BUILDING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = locked(&BUILDING);
    let wrong = |error: io::Error| failed(ns, compiler, error);
    let mut hasher = DefaultHasher::new();
    C.hash(&mut hasher);
    let own = std::env::current_exe().map_err(wrong)?;
    // A test lies in `deps/`, other programs above it.
    let above = own.ancestors().skip(1).find(|folder| !folder.ends_with("deps")).unwrap_or(&own);
    let folder = above.join("testnet");
    let program = folder.join(format!("lookup-{compiler}-{:016x}", hasher.finish()));
    if program.exists() {
        return Ok(program);
    }
    fs::create_dir_all(&folder).map_err(wrong)?;
    // Other tests may do the same: each makes its own and renames it.
    let new = folder.join(format!("lookup-{compiler}-{}", std::process::id()));
    let mut compile = Command::new(compiler);
    compile.args(["-O1", "-Wall", "-Werror", "-o"]).arg(&new).args(flags).args(["-x", "c", "-"]);
    let mut process = compile.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(wrong)?;
    if let Some(mut input) = process.stdin.take() {
        input.write_all(C.as_bytes()).map_err(wrong)?;
    }
    let output = process.wait_with_output().map_err(wrong)?;
    if !output.status.success() {
        return Err(failed(ns, compiler, String::from_utf8_lossy(&output.stderr)));
    }
    fs::rename(&new, &program).map_err(wrong)?;
    Ok(program)
}
