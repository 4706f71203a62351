//! From a changed file to the kernel's rules: the whole way through watch, world, feed, table and netlink.
//!
//! The clock starts when the file is renamed into place, and stops when the kernel announces a new generation of its rules to a
//! netlink listener in the node's namespace: what the kernel says it holds, not what Sluice says.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};
use sluice_testnet::{Net, Netns, Programs};

use crate::manifests;
use crate::processor::cpu_seconds;
use crate::statistics::Sorted;

/// A cluster as one node sees it.
#[derive(Clone, Copy, Debug)]
struct Size {
    /// Pods of the node.
    local: u32,
    /// Policies of the node's pods, in turn.
    policies: u32,
    /// Pods elsewhere, which the policies name in turn.
    peers: u32,
    /// The policies name all pods of all namespaces instead.
    everyone: bool,
}

/// A busy node.
const BUSY: Size = Size { local: 250, policies: 1_000, peers: 20_000, everyone: false };
/// One policy that names everyone in a large cluster.
const WIDE: Size = Size { local: 1, policies: 1, peers: 100_000, everyone: true };

/// Prints how long the whole table takes to load, and quantiles of the time that pods elsewhere, which policies here name, take to
/// reach the kernel: first as they appear, then as they change their labels.
pub(crate) fn measure(changes: usize) -> anyhow::Result<()> {
    for (name, size) in [("busy", BUSY), ("wide", WIDE)] {
        let Size { local, policies, peers, everyone } = size;
        let whom = if everyone { "all pods, " } else { "in turn " };
        println!(
            "apply, {name}: a node of {local} pods and {policies} policies that name {whom}{peers} pods elsewhere; {changes} new pods, one at a \
             time, then their labels"
        );
        measure_one(size, changes)?;
    }
    Ok(())
}

fn measure_one(size: Size, changes: usize) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let files = folder.path().join("manifests");
    fs::create_dir_all(&files)?;
    let net = Net::new()?;
    let node = net.add_node("node-1", &[])?;
    fs::write(files.join("all.yaml"), size.manifests(node.addresses()))?;
    let begin = Instant::now();
    let mut programs = Programs::start(&net, folder.path(), &files, &[&node], &[])?;
    println!("{:>16}   {:.2} s from start to ready, with reading the files", "first", begin.elapsed().as_secs_f64());

    let table = || node.ns().exec("nft", &["delete", "table", "inet", "sluice"]);
    let mut whole = Vec::new();
    for _ in 0..3 {
        programs.kill_proxy("node-1");
        table().context("remove the kernel's table")?;
        // What was saved on disk is another way to the table than the one that is measured.
        fs::remove_dir_all(programs.state_folder("node-1"))?;
        let before = Memory::now()?;
        let begin = Instant::now();
        programs.start_proxy("node-1")?;
        programs.wait_ready("node-1", Duration::from_secs(60))?;
        let took = begin.elapsed().as_secs_f64();
        let cpu = cpu_seconds(programs.proxy("node-1").context("the proxy runs")?.id())?;
        whole.push((took, cpu, Memory::now()?.kernel_mib() - before.kernel_mib()));
    }
    whole.sort_by(|(a, ..), (b, ..)| a.total_cmp(b));
    let (took, cpu, memory) = whole[1];
    println!(
        "{:>16}   {took:.2} s from the proxy's start to ready, {cpu:.2} s of its CPU, {memory:.0} MiB of the kernel",
        "whole"
    );

    let announcements = Announcements::listen(node.ns())?;
    for (what, shift) in [("new, ms", 0), ("changed, ms", 1)] {
        let mut milliseconds = Vec::with_capacity(changes);
        let before = cpu_seconds(programs.proxy("node-1").context("the proxy runs")?.id())?;
        for number in (size.peers + 1..).take(changes) {
            let (written, place) = (folder.path().join("new.yaml"), files.join(format!("pod-{number}.yaml")));
            fs::write(&written, size.peer_of(number, number + shift))?;
            announcements.forget_past()?;
            let begin = Instant::now();
            fs::rename(&written, &place)?;
            announcements.wait().context("a pod's change never reached the kernel")?;
            milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(Duration::from_millis(20));
        }
        let cpu = cpu_seconds(programs.proxy("node-1").context("the proxy runs")?.id())? - before;
        let sorted = Sorted::new(milliseconds);
        let [half, most, nearly] = [0.5, 0.9, 0.99].map(|share| sorted.quantile(share));
        let each = cpu * 1e3 / changes as f64;
        println!("{what:>16}   p50 {half:.2}  p90 {most:.2}  p99 {nearly:.2}  max {:.2}  CPU {each:.2} each", sorted.most());
        if size.everyone {
            // Whatever its labels, such a pod is named: there is no change to wait for.
            break;
        }
    }
    drop(programs);
    Ok(())
}

/// `/proc/meminfo`, in KiB.
struct Memory(String);

impl Memory {
    fn now() -> anyhow::Result<Self> {
        Ok(Self(fs::read_to_string("/proc/meminfo")?))
    }

    /// What the kernel has taken for itself.
    fn kernel_mib(&self) -> f64 {
        let kib = |name: &str| {
            let line = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        ["Slab", "VmallocUsed", "Percpu"].into_iter().map(kib).sum::<f64>() / 1024.0
    }
}

/// What the kernel announces about nftables in one namespace.
struct Announcements(OwnedFd);

impl Announcements {
    fn listen(ns: &Netns) -> anyhow::Result<Self> {
        /// `NFNLGRP_NFTABLES`, as a bit.
        const GROUP: u32 = 1 << (7 - 1);
        let listen = || -> nix::Result<OwnedFd> {
            let flags = SockFlag::SOCK_CLOEXEC;
            let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkNetFilter)?;
            bind(socket.as_raw_fd(), &NetlinkAddr::new(0, GROUP))?;
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5))?;
            Ok(socket)
        };
        Ok(Self(ns.run(listen)?))
    }

    /// The next announcement, within 5 s.
    fn wait(&self) -> nix::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()).map(drop)
    }

    fn forget_past(&self) -> nix::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

impl Size {
    fn manifests(self, node: &[IpAddr]) -> String {
        let mut text = manifests::namespace("bench") + &manifests::node("node-1", node);
        for number in 0..self.local {
            let name = format!("server-{number}");
            text += &manifests::pod("bench", &name, &name, "node-1", address([10, 1, 0, 0], number));
        }
        for number in 0..self.policies {
            let (name, subject) = (format!("policy-{number}"), format!("server-{}", number % self.local));
            text += &if self.everyone {
                manifests::allow_everyone("bench", &name, &subject)
            } else {
                manifests::allow("bench", &name, &subject, &format!("client-{number}"))
            };
        }
        for number in 0..self.peers {
            text += &self.peer_of(number, number);
        }
        text
    }

    /// One of the pods that the policy `policy` names.
    fn peer_of(self, number: u32, policy: u32) -> String {
        let (name, app) = (format!("peer-{number}"), format!("client-{}", policy % self.policies.max(2)));
        manifests::pod("bench", &name, &app, "node-2", address([10, 100, 0, 0], number))
    }
}

fn address(first: [u8; 4], number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::from(first)) + number + 1))
}
