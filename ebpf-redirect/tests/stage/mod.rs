//! A node whose pods hang on a bridge, with rules that count and that let nothing but what the program leaves on the bridge pass.

#![expect(unreachable_pub, reason = "the module belongs to several test programs")]
#![allow(dead_code, reason = "each test program uses a part of it")]

pub mod frame;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use sluice_ebpf_redirect::{BUILD, Error, Port, is_possible};
use sluice_testnet::Netns;
use std::os::fd::{AsRawFd, OwnedFd};

/// How long what is closed is waited for.
pub const SILENCE: Duration = Duration::from_millis(400);

pub const BRIDGE_MAC: [u8; 6] = [2, 0, 0, 0, 1, 1];

pub fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Whether this process is root of all, and not of a user namespace alone.
pub fn is_real_root() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").expect("every process has a map");
    nix::unistd::geteuid().is_root() && map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// `true` where BPF can be loaded; says so where not. As root nothing may be missing.
pub fn possible() -> bool {
    let why = match (sluice_testnet::capability(), is_possible()) {
        (Ok(()), Ok(())) => return true,
        (Err(why), _) => why.to_string(),
        (_, Err(why)) => why.to_string(),
    };
    assert!(!is_real_root(), "as root nothing may be skipped (`.ci/setup test` brings what is missing): {why}");
    println!("SKIPPED: {why} [{BUILD}]");
    false
}

/// A pod, and its port on the node.
pub struct Pod {
    pub ns: Netns,
    pub port: String,
    pub index: u32,
    pub mac: [u8; 6],
    pub addresses: BTreeSet<IpAddr>,
}

/// One node with its bridge `cni0`, 10.0.1.1 and fd00:1::1.
pub struct Stage {
    pub node: Netns,
    pub bridge: u32,
}

/// What passes on the bridge by itself, and what is seen by the IP stack of all that `from` matches. What has been seen on the
/// bridge is marked: multicast goes on from there to the IP stack as well. No connection tracking: fragments stay what they are.
fn rules(from: &str) -> String {
    format!(
        "
table bridge sluice-test {{
  counter bridged {{ }}
  counter slipped {{ }}
  chain prerouting {{
    type filter hook prerouting priority -300; policy drop;
    ether type arp jump bridged
    icmpv6 type {{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }} jump bridged
    icmpv6 type {{ mld-listener-query, mld-listener-report, mld-listener-done, mld2-listener-report }} jump bridged
    udp dport 67 ip daddr 255.255.255.255 jump bridged
    udp dport 547 ip6 daddr ff02::1:2 jump bridged
    meta mark != 1 counter name slipped drop
    accept
  }}
  chain bridged {{
    {from} counter name bridged
    meta mark set 1
  }}
  chain forward {{
    type filter hook forward priority -200; policy drop;
    ether type arp accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
  }}
}}
table inet sluice-test {{
  counter taken {{ }}
  chain prerouting {{
    type filter hook prerouting priority -450;
    iifname \"cni0\" meta mark != 1 {from} counter name taken
  }}
}}
"
    )
}

impl Stage {
    /// `from`: an nft match of the packets that count, all where it is empty.
    pub fn new(from: &str) -> Self {
        let node = Netns::new("node").expect("a namespace");
        let run = |words: &str| node.exec("ip", &words.split(' ').collect::<Vec<_>>()).expect("ip");
        run("link add cni0 address 02:00:00:00:01:01 type bridge");
        run("link set cni0 up");
        run("addr add 10.0.1.1/24 dev cni0");
        run("addr add fd00:1::1/64 dev cni0 nodad");
        for (path, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv6/conf/all/forwarding", "1"),
            ("ipv4/conf/all/send_redirects", "0"),
            ("ipv4/conf/cni0/send_redirects", "0"),
            ("ipv4/conf/all/rp_filter", "1"),
        ] {
            node.sysctl(path, value).expect("a setting");
        }
        node.exec("nft", &[&rules(from)]).expect("rules");
        let bridge = index(&node, "cni0");
        Self { node, bridge }
    }

    /// Whether bridged frames meet the IP hooks, where the kernel has that.
    pub fn bridge_calls(&self, value: &str) {
        for family in ["iptables", "ip6tables"] {
            if let Err(error) = self.node.sysctl(&format!("bridge/bridge-nf-call-{family}"), value) {
                println!("bridge-nf-call-{family} is left as it is: {error}");
            }
        }
    }

    /// A pod with 10.0.1.N and fd00:1::N.
    pub fn pod(&self, number: u8) -> Pod {
        let pod = self.mute(number);
        let addresses = [format!("10.0.1.{number}/24"), format!("fd00:1::{number}/64")];
        for address in &addresses {
            pod.ns.exec("ip", &["addr", "add", address, "dev", "eth0", "nodad"]).expect("an address");
        }
        pod
    }

    /// A pod whose own IP stack is silent: what comes from it was sent by the test.
    pub fn mute(&self, number: u8) -> Pod {
        let ns = Netns::new(&format!("pod {number}")).expect("a namespace");
        let mac = [2, 0, 0, 0, 2, number];
        let port = format!("veth{number}");
        let path = ns.path();
        let path = path.to_str().expect("a path of ASCII");
        let text = frame::mac_text(mac);
        let mut words = vec!["link", "add", &port, "type", "veth", "peer", "name", "eth0", "address", &text, "netns", path];
        self.node.exec("ip", &words).expect("a veth");
        words = vec!["link", "set", &port, "master", "cni0", "up"];
        self.node.exec("ip", &words).expect("a bridge port");
        // The port's own address on the node speaks to nobody.
        self.node.sysctl(&format!("ipv6/conf/{port}/disable_ipv6"), "1").expect("a setting");
        ns.exec("ip", &["link", "set", "eth0", "addrgenmode", "none"]).expect("no link-local address");
        ns.exec("ip", &["link", "set", "eth0", "up"]).expect("a link");
        let index = index(&self.node, &port);
        let addresses = [ip(&format!("10.0.1.{number}")), ip(&format!("fd00:1::{number}"))].into();
        Pod { ns, port, index, mac, addresses }
    }

    pub fn port(&self, pod: &Pod) -> Port {
        Port {
            index: pod.index,
            mac: Some(pod.mac),
            bridge: self.bridge,
            bridge_mac: BRIDGE_MAC,
            addresses: pod.addresses.clone(),
        }
    }

    /// Packets by counter: `bridged`, `slipped`, `taken`.
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let listing = self.node.exec("nft", &["list", "counters"]).expect("counters");
        let mut words = listing.split_whitespace();
        let mut counters = BTreeMap::new();
        let mut name = String::new();
        while let Some(word) = words.next() {
            match word {
                "counter" => name = words.next().expect("a name").to_owned(),
                "packets" => {
                    let count = words.next().and_then(|count| count.parse().ok()).expect("a number");
                    counters.insert(name.clone(), count);
                }
                _ => {}
            }
        }
        counters
    }

    /// What `tc` shows at a port's ingress.
    pub fn filters(&self, pod: &Pod) -> String {
        self.node.exec("tc", &["filter", "show", "dev", &pod.port, "ingress"]).expect("tc")
    }
}

impl Pod {
    /// The first address of each family.
    pub fn address(&self, v6: bool) -> IpAddr {
        *self.addresses.iter().find(|address| address.is_ipv6() == v6).expect("both families")
    }

    /// How many packets it has sent.
    pub fn sent(&self) -> u64 {
        let text = self.ns.exec("ip", &["-s", "-o", "link", "show", "eth0"]).expect("statistics");
        // "TX: bytes packets ..." and then the numbers.
        let (_, behind) = text.split_once("TX:").expect("what was sent");
        let (_, numbers) = behind.split_once('\\').expect("a line of numbers");
        numbers.split_whitespace().nth(1).and_then(|count| count.parse().ok()).expect("a number of packets")
    }

    /// Whether a TCP connection to `to` is accepted.
    pub fn reaches(&self, to: SocketAddr) -> bool {
        self.ns.tcp_connect(None, to, SILENCE).is_ok()
    }

    /// A socket that sends frames as they are.
    pub fn wire(&self) -> Wire {
        self.ns.run(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).expect("a packet socket");
            let mut interfaces = getifaddrs().expect("interfaces");
            let link = interfaces.find_map(|interface| {
                let address = interface.address?;
                let link = address.as_link_addr()?;
                (interface.interface_name == "eth0").then_some(*link)
            });
            bind(socket.as_raw_fd(), &link.expect("eth0")).expect("bound to eth0");
            Wire(socket)
        })
    }
}

/// A pod's side of its wire.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).expect("a frame is sent");
        assert_eq!(sent, frame.len());
    }
}

fn index(ns: &Netns, name: &str) -> u32 {
    ns.run(|| nix::net::if_::if_nametoindex(name)).expect("an interface")
}

/// What an error says, with what caused it.
pub fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}
