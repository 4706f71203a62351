//! Service addresses, translated on a node as kube-proxy does in its nftables mode.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::{Command, Stdio};

use crate::{Error, Netns, Protocol};

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `namespace/name`, for the comments in the ruleset.
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// The Service's own address and port, which no interface has.
    pub address: SocketAddr,
    /// The pods behind it, of the same family, in turn; with none, connections are refused.
    pub backends: Vec<SocketAddr>,
}

/// kube-proxy's bit for flows that must come back the same way: a pod that reaches itself through a Service.
const MASQUERADE: &str = "0x4000";

pub(crate) fn apply(ns: &Netns, services: &[Service]) -> Result<(), Error> {
    let rules = ruleset(services);
    let failed = |reason: String| Error::Command { command: "nft -f -".to_owned(), namespace: ns.name().to_owned(), reason };
    let output = ns
        .run(|| {
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            if let Some(mut stdin) = nft.stdin.take() {
                stdin.write_all(rules.as_bytes())?;
            }
            nft.wait_with_output()
        })
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}\n{rules}", said.trim())))
}

/// Both tables, each replaced as a whole.
fn ruleset(services: &[Service]) -> String {
    let mut text = String::new();
    for (family, is_v4) in [("ip", true), ("ip6", false)] {
        let of_family = services.iter().filter(|s| s.address.is_ipv4() == is_v4);
        let of_family: Vec<_> = of_family.enumerate().collect();
        // A table must be there before it can be deleted.
        let _ = writeln!(text, "table {family} kube-proxy\ndelete table {family} kube-proxy");
        if !of_family.is_empty() {
            table(&mut text, family, &of_family);
        }
    }
    text
}

fn table(text: &mut String, family: &str, services: &[(usize, &Service)]) {
    let _ = writeln!(text, "table {family} kube-proxy {{");
    for (number, service) in services {
        backends(text, family, *number, service);
    }
    let _ = writeln!(text, "  chain services {{");
    for (number, service) in services {
        let (ip, port) = (service.address.ip(), service.address.port());
        let protocol = service.protocol.name();
        let verdict = match service.backends.is_empty() {
            true => "reject".to_owned(),
            false => format!("goto service-{number}"),
        };
        let name = &service.name;
        let _ = writeln!(text, "    {family} daddr {ip} {protocol} dport {port} {verdict} comment \"{name}\"");
    }
    let _ = writeln!(
        text,
        "  }}
  chain nat-prerouting {{ type nat hook prerouting priority dstnat; policy accept; jump services; }}
  chain nat-output {{ type nat hook output priority -100; policy accept; jump services; }}
  chain nat-postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    meta mark and {MASQUERADE} == 0 return
    meta mark set meta mark xor {MASQUERADE}
    masquerade
  }}
}}"
    );
}

fn backends(text: &mut String, family: &str, number: usize, service: &Service) {
    let protocol = service.protocol.name();
    for (place, backend) in service.backends.iter().enumerate() {
        let ip = backend.ip();
        let _ = writeln!(
            text,
            "  chain endpoint-{number}-{place} {{
    {family} saddr {ip} meta mark set meta mark or {MASQUERADE}
    meta l4proto {protocol} dnat to {backend}
  }}"
        );
    }
    if service.backends.is_empty() {
        return;
    }
    let choices: Vec<String> =
        (0..service.backends.len()).map(|place| format!("{place} : goto endpoint-{number}-{place}")).collect();
    let _ = writeln!(text, "  chain service-{number} {{ numgen inc mod {} vmap {{ {} }}; }}", choices.len(), choices.join(", "));
}
