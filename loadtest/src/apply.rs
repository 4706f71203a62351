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
use crate::statistics::Sorted;

/// Pods elsewhere that the node's policies name, from the start.
const PEERS: u32 = 5_000;
/// Policies of the node's pods.
const POLICIES: u32 = 200;
/// Pods of the node.
const LOCAL: u8 = 20;

/// Prints quantiles of the time that pods elsewhere, which policies here name, take to reach the kernel: first as they appear,
/// then as they change their labels.
pub(crate) fn measure(changes: usize) -> anyhow::Result<()> {
    println!(
        "apply: a node of {LOCAL} pods and {POLICIES} policies that name {PEERS} pods elsewhere; {changes} new pods, one at a time, then \
         their labels"
    );
    let folder = tempfile::tempdir()?;
    let files = folder.path().join("manifests");
    fs::create_dir_all(&files)?;
    let net = Net::new()?;
    let node = net.add_node("node-1", &[])?;
    let mut text = manifests::namespace("bench") + &manifests::node("node-1", node.addresses());
    for number in 0..LOCAL {
        let ip = IpAddr::V4(Ipv4Addr::new(10, 1, 0, number + 1));
        net.add_pod(&node, &format!("bench/server-{number}"), &[ip])?;
        text += &manifests::pod("bench", &format!("server-{number}"), &format!("server-{number}"), "node-1", ip);
    }
    for number in 0..POLICIES {
        let (subject, peer) = (format!("server-{}", number % u32::from(LOCAL)), format!("client-{number}"));
        text += &manifests::allow("bench", &format!("policy-{number}"), &subject, &peer);
    }
    for number in 0..PEERS {
        text += &peer(number);
    }
    fs::write(files.join("all.yaml"), text)?;
    let begin = Instant::now();
    let programs = Programs::start(&net, folder.path(), &files, &[&node], &[])?;
    println!("{:>16}   {:.2} s from start to ready", "whole", begin.elapsed().as_secs_f64());

    let announcements = Announcements::listen(node.ns())?;
    for (what, shift) in [("new, ms", 0), ("changed, ms", 1)] {
        let mut milliseconds = Vec::with_capacity(changes);
        for number in (PEERS + 1..).take(changes) {
            let (written, place) = (folder.path().join("new.yaml"), files.join(format!("pod-{number}.yaml")));
            fs::write(&written, peer_of(number, number + shift))?;
            announcements.forget_past()?;
            let begin = Instant::now();
            fs::rename(&written, &place)?;
            announcements.wait().context("a pod's change never reached the kernel")?;
            milliseconds.push(begin.elapsed().as_secs_f64() * 1e3);
            std::thread::sleep(Duration::from_millis(20));
        }
        let sorted = Sorted::new(milliseconds);
        let [half, most, nearly] = [0.5, 0.9, 0.99].map(|share| sorted.quantile(share));
        println!("{what:>16}   p50 {half:.2}  p90 {most:.2}  p99 {nearly:.2}  max {:.2}", sorted.most());
    }
    drop(programs);
    Ok(())
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

fn peer_ip(number: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + number))
}

fn peer(number: u32) -> String {
    peer_of(number, number)
}

/// One of the pods that the policy `policy` names.
fn peer_of(number: u32, policy: u32) -> String {
    manifests::pod("bench", &format!("peer-{number}"), &format!("client-{}", policy % POLICIES), "node-2", peer_ip(number))
}
