//! A flow that the kernel alone decides, with Sluice and without.
//!
//! Four nodes take turns: **plain** tracks no connections and has no rules at all; **tracked** has what every node with
//! kube-proxy has, a Service's DNAT and so connection tracking; **one** is *tracked* with one policy in force; **many** is
//! *tracked* with a thousand policies that all select the server's pod, of which the last names the client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use sluice_testnet::{Layout, Net, Options, Programs, Protocol, Service};

use crate::load::Server;
use crate::manifests;
use crate::statistics::Sorted;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
const PORT: u16 = 8080;
const TURN: Duration = Duration::from_millis(50);

/// How the two pods are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Joined {
    /// By routed veths.
    Routed,
    /// By a bridge, with bridge-nf-call-iptables 0.
    Bridge0,
    /// By a bridge, with bridge-nf-call-iptables 1.
    Bridge1,
}

impl Joined {
    fn options(self) -> Options {
        let layout = match self {
            Self::Routed => Layout::Routed,
            Self::Bridge0 => Layout::Bridge { call_iptables: false },
            Self::Bridge1 => Layout::Bridge { call_iptables: true },
        };
        Options { layout, ..Options::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Plain,
    Tracked,
    One,
    Many,
}

const KINDS: [Kind; 4] = [Kind::Plain, Kind::Tracked, Kind::One, Kind::Many];

impl Kind {
    fn policies(self) -> u32 {
        match self {
            Self::Plain | Self::Tracked => 0,
            Self::One => 1,
            Self::Many => 1_000,
        }
    }
}

/// One network with a client and a server on one node.
#[derive(Debug)]
struct Bench {
    net: Net,
    server: Server,
    programs: Option<Programs>,
}

impl Bench {
    fn new(kind: Kind, joined: Joined, folder: &Path) -> anyhow::Result<Self> {
        let net = Net::with(joined.options())?;
        let node = net.add_node("node-1", &[])?;
        net.add_pod(&node, "bench/client", &[CLIENT])?;
        let server = net.add_pod(&node, "bench/server", &[SERVER])?;
        let server = Server::start(server.ns(), SERVER, PORT)?;
        if kind != Kind::Plain {
            node.set_services(&[Service {
                name: "bench/server".to_owned(),
                protocol: Protocol::Tcp,
                address: SocketAddr::new(Ipv4Addr::new(10, 96, 0, 10).into(), 80),
                backends: vec![SocketAddr::new(SERVER, PORT)],
            }])?;
        }
        let mut programs = None;
        let policies = kind.policies();
        if policies > 0 {
            let folder = folder.join(format!("{kind:?}"));
            let files = folder.join("manifests");
            std::fs::create_dir_all(&files)?;
            let mut text = manifests::namespace("bench")
                + &manifests::node("node-1", node.addresses())
                + &manifests::pod("bench", "client", &client_of(policies), "node-1", CLIENT)
                + &manifests::pod("bench", "server", "server", "node-1", SERVER);
            for number in 1..=policies {
                text += &manifests::allow("bench", &format!("policy-{number:04}"), "server", &client_of(number));
                if number < policies {
                    let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 100, 0, 0)) + number);
                    text += &manifests::pod("bench", &format!("peer-{number}"), &client_of(number), "node-2", ip.into());
                }
            }
            std::fs::write(files.join("all.yaml"), text)?;
            programs = Some(Programs::start(&net, &folder, &files, &[&node], &[])?);
        }
        Ok(Self { net, server, programs })
    }

    fn turn(&self) -> anyhow::Result<[f64; 2]> {
        let client = self.net.pod("bench/client").context("the client is there")?;
        let (client, server) = (client.ns(), &self.server);
        Ok([server.connections_per_second(client, TURN)?, server.gigabits_per_second(client, TURN)?])
    }
}

/// The label of the pods that policy `number` names.
fn client_of(number: u32) -> String {
    format!("client-{number}")
}

/// Prints the ratios to both peers, turn by turn.
pub(crate) fn measure(turns: usize, joined: Joined) -> anyhow::Result<()> {
    println!("\nL4, {joined:?}: one client, one server on one node; {turns} turns of {TURN:?} each");
    let folder = tempfile::tempdir()?;
    let mut benches = Vec::new();
    for kind in KINDS {
        benches.push(Bench::new(kind, joined, folder.path())?);
    }
    for bench in &benches {
        bench.turn()?;
    }
    let mut figures: [Vec<[f64; 2]>; KINDS.len()] = Default::default();
    for turn in 0..turns {
        // Each turn begins with another, so that none always runs after the same.
        for offset in 0..KINDS.len() {
            let place = (turn + offset) % KINDS.len();
            figures[place].push(benches[place].turn()?);
        }
    }
    for (what, column) in [("connections/s", 0), ("Gbit/s", 1)] {
        println!("\n{what:>16}   {:>10} {:>10} {:>10}", "median", "least", "most");
        let all: Vec<Vec<f64>> = figures.iter().map(|turns| turns.iter().map(|figures| figures[column]).collect()).collect();
        for (kind, values) in KINDS.iter().zip(&all) {
            let sorted = Sorted::new(values.clone());
            let name = format!("{kind:?}").to_lowercase();
            println!("{name:>16}   {:>10.1} {:>10.1} {:>10.1}", sorted.median(), sorted.least(), sorted.most());
        }
        for (ours, peer, name) in
            [(2, 1, "one/tracked"), (2, 0, "one/plain"), (3, 1, "many/tracked"), (3, 0, "many/plain"), (3, 2, "many/one")]
        {
            let ratios = Sorted::new(all[ours].iter().zip(&all[peer]).map(|(ours, theirs)| ours / theirs).collect());
            println!("{name:>16}   {:>10.3} {:>10.3} {:>10.3}", ratios.median(), ratios.least(), ratios.most());
        }
    }
    for bench in benches {
        drop(bench.programs);
        drop(bench.server);
    }
    Ok(())
}
