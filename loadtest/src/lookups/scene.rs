//! Three nodes: Sluice's, dnsdist's, and the name server's.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, bail};
use sluice_testnet::dns::{Authority, Kind, Socket, Zone};
use sluice_testnet::{Child, Net, Programs, Protocol, Service, wait_until};
use tempfile::TempDir;

use super::dnsperf::{self, Dnsperf, Run};
use crate::manifests;

const DNSDIST: &str = "/usr/bin/dnsdist";
const CHRT: &str = "/usr/bin/chrt";
const NSD: &str = "/usr/sbin/nsd";
const ORIGIN: &str = "bench.example";
const TTL_SECONDS: u32 = 300;
const DNS_PORT: u16 = 53;
const SLUICE_NODE: &str = "node-1";
const CLIENTS: [&str; 2] = ["bench/client-1", "bench/client-2"];
const CLIENT_ADDRESSES: [IpAddr; 2] = [v4(10, 1, 0, 1), v4(10, 2, 0, 1)];
const SERVER: IpAddr = v4(10, 3, 0, 53);
/// The first of the addresses that names have: public ones, as rules by name take no others.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(23, 0, 0, 1);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
}

/// How a question gets to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Sluice,
    Dnsdist,
    Direct,
}

impl Way {
    pub(super) const ALL: [Self; 3] = [Self::Sluice, Self::Dnsdist, Self::Direct];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Sluice => "sluice",
            Self::Dnsdist => "dnsdist",
            Self::Direct => "direct",
        }
    }
}

/// What this takes that isn't here.
pub(super) fn missing() -> Vec<&'static str> {
    [("dnsdist", DNSDIST), ("dnsperf", dnsperf::PROGRAM), ("nsd", NSD)]
        .into_iter()
        .filter(|(_, path)| !Path::new(path).exists())
        .map(|(name, _)| name)
        .collect()
}

/// `count` names of the zone, from the one at `first` on.
pub(super) fn names(first: usize, count: usize) -> Vec<String> {
    (first..first + count).map(name).collect()
}

fn name(number: usize) -> String {
    format!("host-{number:06}.{ORIGIN}")
}

/// The network with all that runs on it. What was started first ends last.
#[derive(Debug)]
pub(super) struct Scene {
    dnsdist: Child,
    dnsdist_at: SocketAddr,
    programs: Programs,
    _authority: Authority,
    net: Net,
    _folder: TempDir,
}

impl Scene {
    /// With a zone of so many names, each with an address of its own. `arguments` go to the proxy.
    pub(super) fn start(names: usize, arguments: &[&str], dnsdist_as_batch: bool) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let net = Net::new()?;
        let nodes: Vec<_> =
            [SLUICE_NODE, "node-2", "node-3"].into_iter().map(|name| net.add_node(name, &[])).collect::<Result<_, _>>()?;
        let server = net.add_pod(&nodes[2], "kube-system/dns", &[SERVER])?;
        for ((client, address), node) in CLIENTS.iter().zip(CLIENT_ADDRESSES).zip(&nodes) {
            net.add_pod(node, client, &[address])?;
            // kube-proxy's, so that connections are tracked on both.
            node.set_services(&[Service {
                name: "kube-system/dns".to_owned(),
                protocol: Protocol::Udp,
                address: SocketAddr::new(v4(10, 96, 0, 10), DNS_PORT),
                backends: vec![SocketAddr::new(SERVER, DNS_PORT)],
            }])?;
        }
        let zone = (0..names).fold(Zone::new(ORIGIN).ttl(TTL_SECONDS), |zone, number| {
            let address = u32::from(FIRST_ADDRESS) + u32::try_from(number).unwrap_or(u32::MAX);
            zone.addresses(&name(number), &[IpAddr::V4(address.into())])
        });
        let authority = Authority::start(server.ns(), &[SERVER], [zone])?;

        let files = folder.path().join("manifests");
        std::fs::create_dir_all(&files)?;
        let mut text = manifests::namespace("bench") + &manifests::namespace("kube-system");
        for node in &nodes {
            text += &manifests::node(node.name(), node.addresses());
        }
        text += &manifests::pod("bench", "client-1", "client", SLUICE_NODE, CLIENT_ADDRESSES[0]);
        text += &manifests::pod("bench", "client-2", "client", "node-2", CLIENT_ADDRESSES[1]);
        text += &manifests::resolver("dns", "node-3", SERVER);
        text += &manifests::to_names("bench", "names", "client", &format!("**.{ORIGIN}"));
        std::fs::write(files.join("all.yaml"), text)?;
        // How fast it can be is asked of one pod, which by default may ask 10,000 times a second.
        let arguments = [&["--set", "dns.queriesPerSecondPerPod=1000000"], arguments].concat();
        let programs = Programs::start(&net, folder.path(), &files, &[&nodes[0]], &arguments)?;

        let own = *nodes[1].addresses().iter().find(|address| address.is_ipv4()).context("an address of the node")?;
        let dnsdist_at = SocketAddr::new(own, DNS_PORT);
        let configuration = folder.path().join("dnsdist.conf");
        // Everything else is as it comes: there is no cache unless one is asked for.
        std::fs::write(&configuration, format!("setLocal(\"{dnsdist_at}\")\nnewServer(\"{SERVER}:{DNS_PORT}\")\n"))?;
        let mut command = Command::new(if dnsdist_as_batch { CHRT } else { DNSDIST });
        if dnsdist_as_batch {
            command.args(["--batch", "0", DNSDIST]);
        }
        command.args(["--supervised", "--disable-syslog", "--config"]).arg(&configuration);
        let dnsdist = nodes[1].ns().spawn(command)?;
        let scene = Self { dnsdist, dnsdist_at, programs, _authority: authority, net, _folder: folder };
        for way in Way::ALL {
            scene.await_answer(way)?;
        }
        Ok(scene)
    }

    fn await_answer(&self, way: Way) -> anyhow::Result<()> {
        let (client, server) = self.ends(way)?;
        let pod = self.net.pod(client).context("the client is there")?;
        let ask = || Socket::open(pod.ns(), server)?.ask(&name(0), Kind::A, Duration::from_millis(500));
        let mut last = None;
        let answers = wait_until(Duration::from_secs(10), || {
            let answer = ask();
            let found = answer.as_ref().is_ok_and(|answer| {
                let message = answer.as_ref().and_then(|answer| answer.message());
                message.is_some_and(|message| !message.addresses().is_empty())
            });
            last = Some(format!("{answer:?}"));
            found
        });
        if !answers {
            bail!("no address through {}: {last:?}\n{:?}", way.name(), self.dnsdist);
        }
        Ok(())
    }

    fn ends(&self, way: Way) -> anyhow::Result<(&'static str, SocketAddr)> {
        let [ours, other] = CLIENTS;
        Ok(match way {
            Way::Sluice => (ours, SocketAddr::new(SERVER, DNS_PORT)),
            Way::Dnsdist => (other, self.dnsdist_at),
            Way::Direct => (other, SocketAddr::new(SERVER, DNS_PORT)),
        })
    }

    pub(super) fn ask(&self, way: Way, load: &Dnsperf) -> anyhow::Result<Run> {
        let (client, server) = self.ends(way)?;
        let pod = self.net.pod(client).context("the client is there")?;
        load.run(pod.ns(), server)
    }

    /// The process in the middle.
    pub(super) fn process(&mut self, way: Way) -> anyhow::Result<Option<u32>> {
        Ok(match way {
            Way::Sluice => Some(self.programs.proxy(SLUICE_NODE).context("the proxy runs")?.id()),
            Way::Dnsdist => Some(self.dnsdist.id()),
            Way::Direct => None,
        })
    }

    /// What both hold by now.
    pub(super) fn memory(&mut self) -> anyhow::Result<String> {
        let mut said = Vec::new();
        for way in Way::ALL {
            let Some(process) = self.process(way)? else { continue };
            let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
            let kib: f64 = line.split_whitespace().next().context("a number")?.parse()?;
            said.push(format!("{} {:.0} MiB", way.name(), kib / 1024.0));
        }
        Ok(said.join(", "))
    }
}
