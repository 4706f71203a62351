//! One network namespace, held by a file descriptor.
//!
//! A namespace has no name on the host: it lives as long as a descriptor, a thread or a socket is in it, and is gone
//! with the process whatever way that ends.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};

use crate::Error;
use crate::child::Child;
use crate::netlink::{Change, LOOPBACK, LinkIndex, Rtnl};

/// Where the source ports of probes begin: above the ports that test servers commonly take.
const FIRST_PORT: u16 = 10_000;
/// How long a program that is being started may keep what this process has closed.
const COPIES_LIVE: Duration = Duration::from_secs(10);

/// A network namespace. Clones are the same namespace; it is gone when the last of them, and the last process, thread
/// and socket inside, are.
#[derive(Clone, Debug)]
pub struct Netns {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    namespace: OwnedFd,
    rtnl: Rtnl,
    next_port: AtomicU16,
}

/// A kernel setting below `/proc/sys/net`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sysctl<'a> {
    pub(crate) path: &'a str,
    pub(crate) value: &'a str,
    /// Older kernels have some settings for the whole machine only; those are left alone.
    pub(crate) optional: bool,
}

impl<'a> Sysctl<'a> {
    pub(crate) const fn required(path: &'a str, value: &'a str) -> Self {
        Self { path, value, optional: false }
    }

    pub(crate) const fn optional(path: &'a str, value: &'a str) -> Self {
        Self { path, value, optional: true }
    }
}

/// What holds in every namespace: addresses are usable at once, and no ICMP error is left out because there were many.
const EVERYWHERE: [Sysctl<'static>; 5] = [
    Sysctl::required("ipv6/conf/default/accept_dad", "0"),
    Sysctl::optional("ipv4/icmp_ratelimit", "0"),
    Sysctl::optional("ipv4/icmp_msgs_per_sec", "1000000"),
    Sysctl::optional("ipv4/icmp_msgs_burst", "100000"),
    Sysctl::optional("ipv6/icmp/ratelimit", "0"),
];

impl Netns {
    /// Makes an empty namespace with its loopback interface up. `name` is for messages only.
    pub fn new(name: &str) -> Result<Self, Error> {
        Self::with_sysctls(name, &[])
    }

    pub(crate) fn with_sysctls(name: &str, sysctls: &[Sysctl<'_>]) -> Result<Self, Error> {
        let made = on_own_thread(|| -> Result<(OwnedFd, Rtnl), Error> {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::Namespace { name: name.to_owned(), source: errno.into() })?;
            for sysctl in EVERYWHERE.iter().chain(sysctls) {
                write_sysctl(sysctl)?;
            }
            let inside = |source| Error::Namespace { name: name.to_owned(), source };
            let rtnl = Rtnl::open().map_err(inside)?;
            rtnl.apply(vec![Change::link_up(LOOPBACK)])?;
            let namespace = fs::File::open("/proc/thread-self/ns/net").map_err(inside)?;
            Ok((namespace.into(), rtnl))
        });
        let (namespace, rtnl) = made?;
        Ok(Self::of(name, namespace, rtnl))
    }

    /// The namespace behind `path`, such as `/proc/PID/ns/net`.
    pub fn open(name: &str, path: &Path) -> Result<Self, Error> {
        let inside = |source| Error::Namespace { name: name.to_owned(), source };
        let namespace: OwnedFd = fs::File::open(path).map_err(inside)?.into();
        let rtnl = on_own_thread(|| {
            setns(&namespace, CloneFlags::CLONE_NEWNET)?;
            Rtnl::open()
        })
        .map_err(inside)?;
        Ok(Self::of(name, namespace, rtnl))
    }

    fn of(name: &str, namespace: OwnedFd, rtnl: Rtnl) -> Self {
        Self { inner: Arc::new(Inner { name: name.to_owned(), namespace, rtnl, next_port: AtomicU16::new(FIRST_PORT) }) }
    }

    /// The name that messages use.
    pub fn name(&self) -> &str {
        &self.inner.name
    }

    /// A path that opens the namespace while this process holds it: for `nsenter --net=PATH`, as this process and its
    /// children name it.
    pub fn path(&self) -> PathBuf {
        // `/proc/self` is read, and not `std::process::id()` used: under a process namespace with the `/proc` of
        // outside the two differ, and only the first is right.
        let process = fs::read_link("/proc/self").unwrap_or_else(|_| PathBuf::from("self"));
        Path::new("/proc").join(process).join("fd").join(self.inner.namespace.as_raw_fd().to_string())
    }

    /// Runs `work` on a thread of its own inside the namespace, and returns what it returns. Sockets opened there stay
    /// in the namespace. A panic inside goes on outside.
    ///
    /// In `work`, read `/proc/thread-self/net`, not `/proc/net`, which shows the process's namespace.
    ///
    /// # Panics
    /// If the namespace cannot be entered, which means that this process has lost the right to: nothing inside the
    /// test could go on.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        on_own_thread(|| {
            self.enter().unwrap_or_else(|error| panic!("entering the namespace of {}: {error}", self.inner.name));
            work()
        })
    }

    /// Moves the calling thread into the namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        Ok(setns(&self.inner.namespace, CloneFlags::CLONE_NEWNET)?)
    }

    /// Whether both are the same namespace.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.inner, &other.inner)
    }

    /// A number that no other living namespace of this process has.
    pub(crate) fn key(&self) -> usize {
        Arc::as_ptr(&self.inner).addr()
    }

    pub(crate) fn fd(&self) -> &OwnedFd {
        &self.inner.namespace
    }

    pub(crate) fn apply(&self, changes: Vec<Change>) -> Result<(), Error> {
        Ok(self.inner.rtnl.apply(changes)?)
    }

    /// Gives an interface more addresses, and returns when they are in use.
    pub(crate) fn add_addresses(&self, index: LinkIndex, addresses: &[IpAddr]) -> Result<(), Error> {
        self.apply(addresses.iter().map(|address| Change::add_address(index, *address)).collect())?;
        self.await_addresses(index, addresses)
    }

    pub(crate) fn await_addresses(&self, index: LinkIndex, addresses: &[IpAddr]) -> Result<(), Error> {
        for address in addresses {
            if let IpAddr::V6(address) = address {
                self.inner.rtnl.await_local(index, *address)?;
            }
        }
        Ok(())
    }

    pub(crate) fn await_running(&self, index: LinkIndex) -> Result<(), Error> {
        Ok(self.inner.rtnl.await_running(index)?)
    }

    /// Writes a setting of the namespace: `ns.sysctl("ipv4/conf/all/rp_filter", "2")`, below `/proc/sys/net`.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<(), Error> {
        self.run(|| write_sysctl(&Sysctl::required(path, value)))
    }

    /// As [`Netns::sysctl`], also for settings that not every kernel has.
    pub(crate) fn set(&self, sysctl: &Sysctl<'_>) -> Result<(), Error> {
        self.run(|| write_sysctl(sysctl))
    }

    /// A source port that no probe from this namespace has had lately: 55,000 others come before it is used again.
    /// A connection-tracking entry of an earlier flow so never meets a later one.
    pub(crate) fn fresh_port(&self) -> u16 {
        let wrap = |port: u16| Some(port.checked_add(1).unwrap_or(FIRST_PORT));
        self.inner.next_port.fetch_update(Ordering::Relaxed, Ordering::Relaxed, wrap).unwrap_or(FIRST_PORT)
    }

    /// Starts `command` inside; its output is captured, and it is killed when the guard is dropped or this process ends.
    pub fn spawn(&self, command: Command) -> Result<Child, Error> {
        Child::start(self, command)
    }

    /// Runs `command` inside to its end.
    pub fn output(&self, command: &mut Command) -> io::Result<Output> {
        self.run(|| command.output())
    }

    /// Runs `program` inside to its end: its standard output, or an error with what it wrote to standard error.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> Result<String, Error> {
        let failed = |reason: String| Error::Command {
            command: format!("{program} {}", arguments.join(" ")),
            namespace: self.inner.name.clone(),
            reason,
        };
        let output = self.output(Command::new(program).args(arguments)).map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(failed(format!("{}: {}", output.status, said.trim())));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A listening socket inside.
    pub fn tcp_listen(&self, address: SocketAddr) -> io::Result<TcpListener> {
        self.run(|| bound(|| TcpListener::bind(address)))
    }

    /// A datagram socket inside.
    pub fn udp_bind(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        self.run(|| bound(|| UdpSocket::bind(address)))
    }

    /// A connection from inside, from `source` if one is given, with a time-out of the same length on its reads and writes.
    pub fn tcp_connect(&self, source: Option<IpAddr>, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        let socket = self.run(|| Socket::new(Domain::for_address(to), Type::STREAM, None))?;
        if let Some(source) = source {
            socket.bind(&SocketAddr::new(source, 0).into())?;
        }
        socket.connect_timeout(&to.into(), timeout)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.set_write_timeout(Some(timeout))?;
        Ok(socket.into())
    }
}

/// Tries again for a while where an address or a connection's two ends are in use: a socket that was closed just now lives on in
/// a program that another thread is starting, until that program's `exec` closes its copy.
pub fn bound<T>(bind: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let until = Instant::now() + COPIES_LIVE;
    loop {
        match bind() {
            Err(error) if is_taken(&error) && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(5));
            }
            done => return done,
        }
    }
}

fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

fn write_sysctl(sysctl: &Sysctl<'_>) -> Result<(), Error> {
    // `/proc/sys/net` shows the namespace of the thread that opens it.
    let path = Path::new("/proc/sys/net").join(sysctl.path);
    match fs::write(&path, sysctl.value) {
        Err(source) if !sysctl.optional => Err(Error::Sysctl { path, source }),
        _ => Ok(()),
    }
}

/// Runs `work` on a thread that ends with it, so that no other thread is ever in a wrong namespace.
pub(crate) fn on_own_thread<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let outcome = std::thread::scope(|scope| scope.spawn(work).join());
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
